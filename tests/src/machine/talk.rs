//! What host and guest say to each other on the serial line: a line of JSON
//! each, marked, since a kernel may talk in between.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

const MARK: &str = "@guest ";

/// A script to run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ask {
    /// Told back with the answer.
    pub number: u64,
    /// For the guest's shell.
    pub script: String,
    /// When to end it.
    pub limit_ms: u64,
}

/// What the guest says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// It has booted and listens.
    Ready,
    /// A script has ended.
    Ended {
        /// Of the [`Ask`].
        number: u64,
        /// As a shell tells it; 124 if it took too long.
        code: i32,
        /// What it said.
        output: String,
    },
}

fn encode<T: Serialize>(value: &T) -> String {
    // Of strings and numbers alone: there is nothing that JSON cannot hold.
    let text = serde_json::to_string(value).expect("plain data");
    format!("\n{MARK}{text}\n")
}

fn hear<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    let text = std::str::from_utf8(line).ok()?;
    let (_, text) = text.split_once(MARK)?;
    serde_json::from_str(text.trim_end()).ok()
}

impl Ask {
    /// For the line.
    #[must_use]
    pub fn encode(&self) -> String {
        encode(self)
    }

    /// From a line; none if it is another's.
    #[must_use]
    pub fn hear(line: &[u8]) -> Option<Ask> {
        hear(line)
    }
}

impl Answer {
    /// For the line.
    #[must_use]
    pub fn encode(&self) -> String {
        encode(self)
    }

    /// From a line; none if it is another's.
    #[must_use]
    pub fn hear(line: &[u8]) -> Option<Answer> {
        hear(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard() {
        let ask = Ask { number: 7, script: "echo 'a\nb' \"\u{fc}\"".into(), limit_ms: 1 };
        let line = ask.encode();
        assert_eq!(line.matches('\n').count(), 2, "one line: {line:?}");
        assert_eq!(Ask::hear(line.trim().as_bytes()), Some(ask));
        let answer = Answer::Ended { number: 7, code: 128, output: "\r\n\u{1b}@guest ".into() };
        let noisy = format!("[  0.1] kernel: {}", answer.encode().trim());
        assert_eq!(Answer::hear(noisy.as_bytes()), Some(answer));
        assert_eq!(Answer::hear(b"@guest {\"Other\":1}"), None);
        assert_eq!(Answer::hear(b"\xff"), None);
    }
}
