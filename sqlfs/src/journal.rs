//! [`Journal`]: what went wrong lately, for `errors`. An errno says little.

use crate::query::Refusal;
use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// How many are remembered, of all users together.
const REMEMBERED: usize = 200;
/// Bytes of a statement that are shown.
const SHOWN: usize = 500;

#[derive(Debug)]
struct Line {
    seconds: u64,
    /// None where the kernel does not say who asked: in listings.
    uid: Option<u32>,
    text: String,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Journal(Mutex<VecDeque<Line>>);

impl Journal {
    /// Remembers that `what`, asked by `uid`, was refused.
    pub(crate) fn note(&self, uid: Option<u32>, what: &str, refusal: &Refusal) {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let shown: String = what.chars().take(SHOWN).collect();
        let cut = if shown.len() < what.len() { "..." } else { "" };
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = write!(text, "{}: {}", refusal.errno.symbol(), one_line(&refusal.to_string()));
        let _ = write!(text, ": {}{cut}", one_line(&shown));
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == REMEMBERED {
            lines.pop_front();
        }
        lines.push_back(Line { seconds, uid, text });
    }

    /// The lines that `uid` may see, oldest first.
    pub(crate) fn show(&self, uid: u32) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = lines.iter().filter(|line| uid == 0 || line.uid.is_none_or(|owner| owner == uid));
        own.map(|line| format!("{} {}\n", utc(line.seconds), line.text)).collect()
    }
}

/// Nothing that could forge a line or speak to a terminal.
fn one_line(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// As in RFC 3339.
fn utc(seconds: u64) -> String {
    let time = externfs::Timestamp { seconds: seconds as i64, nanoseconds: 0 };
    format!("{}Z", time.date().replace(' ', "T"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use externfs::Errno;

    #[test]
    fn dates_are_right() {
        for (seconds, shown) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_210_096, "2024-02-29T12:34:56Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
        ] {
            assert_eq!(utc(seconds), shown);
        }
    }

    #[test]
    fn everybody_sees_his_own() {
        let journal = Journal::default();
        journal.note(Some(1000), "select \x1b[2J\nforged", &Refusal::new(Errno::EINVAL, "near \"x\""));
        journal.note(None, "rows", &Refusal::limit(Errno::EFBIG, "rows", "too many"));
        assert_eq!(journal.show(0).lines().count(), 2);
        assert_eq!(journal.show(1000).lines().count(), 2);
        let seen = journal.show(1001);
        assert!(seen.lines().count() == 1 && seen.ends_with("Z EFBIG: too many [limit: rows]: rows\n"), "{seen}");
        assert!(journal.show(0).contains("select \\u{1b}[2J\\nforged"));
        for _ in 0..REMEMBERED {
            journal.note(Some(5), &"x".repeat(9000), &Refusal::new(Errno::EINVAL, "y"));
        }
        assert_eq!(journal.show(0).lines().count(), REMEMBERED);
    }
}
