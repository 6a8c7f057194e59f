//! [`Options`]: what `-o` can say.

use crate::query::Limits;
use externfs::{MountOption, UsageError};
use std::path::PathBuf;
use std::time::Duration;

/// Each option as written, and one line of help.
pub(crate) const OPTIONS: &[(&str, &str)] = &[
    ("ro", "queries/ and query cannot be written either"),
    ("rw|write", "rows can be changed: tables/T/rows/KEY/COLUMN is written, mkdir inserts, rm -r deletes"),
    ("uid=UID[:UID...]", "who may query besides root; an ordinary user who mounts for himself gives his own"),
    ("also=TREE[:TREE...]", "of a humfs tree: the catalogs of these trees as well, whose views are called by their labels"),
    ("queries=DIR", "begin with the *.sql files of DIR in queries/; what is changed there stays in memory"),
    ("time=MS", "milliseconds that a query may run (1000)"),
    ("rows=N", "rows that an answer may have (1000000)"),
    ("bytes=MIB", "MiB that an answer may have (64)"),
    ("heap=MIB", "MiB of memory that a query may take (64)"),
    ("length=KIB", "KiB that one value within a query may have (128)"),
    ("running=N", "queries at a time (2)"),
    ("queue=N", "queries that wait; more are told to try again (4)"),
];

/// All of it, checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Options {
    pub(crate) read_only: bool,
    pub(crate) writes: bool,
    pub(crate) uids: Vec<u32>,
    pub(crate) also: Vec<PathBuf>,
    pub(crate) queries: Option<PathBuf>,
    pub(crate) limits: Limits,
}

impl Default for Options {
    fn default() -> Options {
        // A frontend has eight threads, and those who wait take one each. Two
        // stay for everybody else.
        let limits = Limits { queued: 4, ..Limits::default() };
        Options { read_only: false, writes: false, uids: Vec::new(), also: Vec::new(), queries: None, limits }
    }
}

impl Options {
    /// Checks each.
    ///
    /// # Errors
    /// A line that names the option and what it may be.
    pub(crate) fn parse(list: &[MountOption]) -> Result<Options, UsageError> {
        let mut options = Options::default();
        for option in list {
            options.take(&option.key, option.value.as_deref()).ok_or_else(|| refuse(option))?;
        }
        Ok(options)
    }

    fn take(&mut self, key: &str, value: Option<&str>) -> Option<()> {
        let number = || value.and_then(|text| text.parse::<u64>().ok()).filter(|number| (1..=most(key)).contains(number));
        let limits = &mut self.limits;
        match (key, value) {
            ("ro", None) => (self.read_only, self.writes) = (true, false),
            ("rw" | "write", None) => (self.read_only, self.writes) = (false, true),
            ("uid", Some(list)) => self.uids = list.split(':').map(|uid| uid.parse().ok()).collect::<Option<_>>()?,
            ("also", Some(list)) if list.split(':').all(|tree| !tree.is_empty()) => {
                self.also = list.split(':').map(PathBuf::from).collect()
            }
            ("queries", Some(dir)) if !dir.is_empty() => self.queries = Some(dir.into()),
            ("time", _) => limits.time = Duration::from_millis(number()?),
            ("rows", _) => limits.rows = number()?,
            ("bytes", _) => limits.bytes = number()? << 20,
            ("heap", _) => limits.heap = number()? << 20,
            ("length", _) => limits.length = number()? << 10,
            ("running", _) => limits.running = number()? as usize,
            ("queue", _) => limits.queued = number()? as usize,
            _ => return None,
        }
        Some(())
    }
}

/// The largest number that an option takes; 0 for one that takes none.
fn most(key: &str) -> u64 {
    match key {
        "time" => 3_600_000,
        "rows" => u64::MAX,
        // A frame between processes has a length of 32 bits.
        "bytes" => 1 << 10,
        "heap" | "length" => 1 << 20,
        "running" => 64,
        "queue" => 1000,
        _ => 0,
    }
}

fn refuse(option: &MountOption) -> UsageError {
    let given = option.value.as_ref().map_or_else(|| option.key.clone(), |value| format!("{}={value}", option.key));
    let given = given.escape_debug();
    let is_meant = |usage: &&(&str, &str)| usage.0.split('|').any(|one| one.split('=').next() == Some(&option.key));
    UsageError(match OPTIONS.iter().find(is_meant) {
        Some((usage, _)) => {
            let range = match most(&option.key) {
                0 => String::new(),
                u64::MAX => ", with a number from 1 on".into(),
                most => format!(", with a number from 1 to {most}"),
            };
            format!("option '{given}' of sqlfs is to be written {usage}{range}")
        }
        None => {
            let all: Vec<_> = OPTIONS.iter().map(|(usage, _)| *usage).collect();
            format!("sqlfs has no option '{given}': there are {}", all.join(", "))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options, UsageError> {
        let list: Vec<_> = text
            .split(',')
            .map(|item| match item.split_once('=') {
                Some((key, value)) => MountOption { key: key.into(), value: Some(value.into()) },
                None => MountOption { key: item.into(), value: None },
            })
            .collect();
        Options::parse(&list)
    }

    #[test]
    fn options_are_understood() {
        let options = parse("rw,uid=1000:5,time=50,rows=7,bytes=1,heap=2,length=3,running=4,queue=5,queries=/q").unwrap();
        let Limits { time, rows, bytes, heap, length, running, queued, .. } = options.limits;
        assert_eq!((options.uids, options.writes, options.queries), (vec![1000, 5], true, Some("/q".into())));
        assert_eq!((time, rows, bytes, heap), (Duration::from_millis(50), 7, 1 << 20, 2 << 20));
        assert_eq!((length, running, queued), (3 << 10, 4, 5));
        assert!(parse("rw,ro").unwrap().read_only);
        assert!(!parse("ro,write").unwrap().read_only);
        assert!(!Options::default().writes);
    }

    #[test]
    fn a_mistake_is_named_with_its_remedy() {
        for (given, says) in [
            ("uid=root", "is to be written uid=UID[:UID...]"),
            ("time=0", "time=MS, with a number from 1 to 3600000"),
            ("rows=-1", "rows=N, with a number from 1 on"),
            ("time", "time=MS"),
            ("bytes=5000", "bytes=MIB"),
            ("ro=1", "'ro=1' of sqlfs is to be written ro"),
            ("also=a::b", "also=TREE[:TREE...]"),
            ("frob", "no option 'frob': there are ro, "),
        ] {
            let error = parse(given).expect_err(given).0;
            assert!(error.contains(says), "{error}");
        }
    }
}
