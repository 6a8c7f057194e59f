//! [`Orders`]: what the host wants done inside the guest, and [`Report`]: what
//! came of it.
//!
//! Neither travels on the kernel's command line, where quoting, length and
//! character set all end in tears: a file of NUL-separated `key=value` fields
//! does, in which every argument and variable fits that execve(2) takes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// A share to mount.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ShareOrder {
    /// Its virtio-fs tag.
    pub tag: OsString,
    /// Where, in the guest.
    pub target: PathBuf,
    /// Mounted `ro`.
    pub read_only: bool,
}

/// Everything the init in the guest needs to know.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Orders {
    /// Program and arguments; at least one.
    pub command: Vec<OsString>,
    /// `NAME=value`, complete.
    pub environment: Vec<OsString>,
    /// Where the command starts.
    pub directory: PathBuf,
    /// Which of standard input, output and error are to be a terminal.
    pub terminals: [bool; 3],
    /// Rows and columns of that terminal.
    pub window: (u16, u16),
    /// The root share is mounted `ro`.
    pub root_read_only: bool,
    /// Directories that get an empty tmpfs.
    pub scratch: Vec<PathBuf>,
    /// What is mounted besides the root.
    pub shares: Vec<ShareOrder>,
}

/// Fields of one record.
fn put(bytes: &mut Vec<u8>, key: &str, value: impl AsRef<OsStr>) {
    bytes.extend_from_slice(key.as_bytes());
    bytes.push(b'=');
    bytes.extend_from_slice(value.as_ref().as_bytes());
    bytes.push(0);
}

impl Orders {
    /// As a file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.command.iter().for_each(|v| put(&mut bytes, "arg", v));
        self.environment.iter().for_each(|v| put(&mut bytes, "env", v));
        put(&mut bytes, "cwd", &self.directory);
        let terminals: String = self.terminals.iter().map(|t| if *t { 't' } else { 'p' }).collect();
        put(&mut bytes, "streams", terminals);
        put(&mut bytes, "rows", self.window.0.to_string());
        put(&mut bytes, "columns", self.window.1.to_string());
        put(&mut bytes, "root", if self.root_read_only { "ro" } else { "rw" });
        self.scratch.iter().for_each(|v| put(&mut bytes, "tmpfs", v));
        for share in &self.shares {
            put(&mut bytes, "tag", &share.tag);
            put(&mut bytes, "at", &share.target);
            put(&mut bytes, "mode", if share.read_only { "ro" } else { "rw" });
        }
        bytes
    }

    /// From a file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Orders, String> {
        let mut orders = Orders::default();
        for field in bytes.split(|b| *b == 0).filter(|field| !field.is_empty()) {
            let at = field.iter().position(|b| *b == b'=').ok_or("a field without '='")?;
            let (key, value) = (&field[..at], OsString::from_vec(field[at + 1..].to_vec()));
            orders.take(&String::from_utf8_lossy(key), value)?;
        }
        if orders.command.is_empty() { Err("no command".into()) } else { Ok(orders) }
    }

    fn take(&mut self, key: &str, value: OsString) -> Result<(), String> {
        let number = |value: &OsString| value.to_str().and_then(|v| v.parse().ok()).ok_or_else(|| format!("{key} is no number"));
        let last = self.shares.last_mut();
        match (key, last) {
            ("arg", _) => self.command.push(value),
            ("env", _) => self.environment.push(value),
            ("cwd", _) => self.directory = value.into(),
            ("streams", _) => {
                for (terminal, letter) in self.terminals.iter_mut().zip(value.as_bytes()) {
                    *terminal = *letter == b't';
                }
            }
            ("rows", _) => self.window.0 = number(&value)?,
            ("columns", _) => self.window.1 = number(&value)?,
            ("root", _) => self.root_read_only = value == "ro",
            ("tmpfs", _) => self.scratch.push(value.into()),
            ("tag", _) => self.shares.push(ShareOrder { tag: value, ..ShareOrder::default() }),
            ("at", Some(share)) => share.target = value.into(),
            ("mode", Some(share)) => share.read_only = value == "ro",
            _ => return Err(format!("unknown field '{key}'")),
        }
        Ok(())
    }
}

/// What the guest tells the host, one line each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Report {
    /// All is mounted, the command is about to start.
    Started,
    /// Something that people should know, though it goes on.
    Warning(String),
    /// The command ended with this code; 128+n for signal n.
    Ended(u8),
    /// It could not be started.
    Failed(String),
}

impl Report {
    /// As a line.
    #[must_use]
    pub fn encode(&self) -> String {
        let one_line = |text: &str| text.replace(['\n', '\r'], " ");
        match self {
            Report::Started => "started\n".into(),
            Report::Warning(reason) => format!("warning {}\n", one_line(reason)),
            Report::Ended(code) => format!("ended {code}\n"),
            Report::Failed(reason) => format!("failed {}\n", one_line(reason)),
        }
    }

    /// From a line. None for what a guest that is not ours may have written.
    #[must_use]
    pub fn decode(line: &str) -> Option<Report> {
        // A guest may be hostile: what is shown on a terminal is made harmless.
        let clean = |text: &str| text.chars().filter(|c| !c.is_control()).take(400).collect::<String>();
        match line.split_once(' ').unwrap_or((line, "")) {
            ("started", _) => Some(Report::Started),
            ("warning", reason) => Some(Report::Warning(clean(reason))),
            ("ended", code) => code.parse().ok().map(Report::Ended),
            ("failed", reason) => Some(Report::Failed(clean(reason))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_survive_the_journey() {
        let odd = OsString::from_vec(b"a=b \xff'\"\\\n$".to_vec());
        let orders = Orders {
            command: vec!["sh".into(), "-c".into(), odd.clone(), "".into()],
            environment: vec!["HOME=/root".into(), odd.clone()],
            directory: PathBuf::from(odd.clone()),
            terminals: [true, false, true],
            window: (24, 80),
            root_read_only: true,
            scratch: vec!["/tmp".into()],
            shares: vec![
                ShareOrder { tag: "src".into(), target: "/mnt/src".into(), read_only: true },
                ShareOrder { tag: odd, target: "/mnt/x".into(), read_only: false },
            ],
        };
        assert_eq!(Orders::decode(&orders.encode()), Ok(orders));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [&b""[..], b"\0", b"arg", b"at=/x\0", b"rows=x\0arg=sh\0", b"surprise=1\0"] {
            assert!(Orders::decode(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn reports_survive_and_cannot_draw_on_the_terminal() {
        for report in [Report::Started, Report::Ended(255), Report::Failed("no such file".into()), Report::Warning("w".into())] {
            assert_eq!(Report::decode(report.encode().trim_end()), Some(report));
        }
        assert_eq!(Report::decode("failed \x1b[2Jx"), Some(Report::Failed("[2Jx".into())));
        assert_eq!(Report::decode("ended 256"), None);
        assert_eq!(Report::decode(""), None);
    }
}
