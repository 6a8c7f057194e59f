//! [`Refusal`]: why there is no answer, for the one who asked and for `errors`.

use externfs::Errno;
use rusqlite::ffi;
use std::fmt;

/// A query that was not answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// EINVAL for wrong SQL; EACCES for what is not allowed; ETIME, EFBIG for
    /// limits; EAGAIN when too many ask; EIO when the database is at fault.
    pub errno: Errno,
    /// What SQLite or we say, in one line.
    pub message: String,
    /// Where in the statement, in bytes, where SQLite knows it.
    pub offset: Option<usize>,
    /// Which limit was met.
    pub limit: Option<String>,
}

impl Refusal {
    /// Without a place in the statement.
    #[must_use]
    pub fn new(errno: Errno, message: impl Into<String>) -> Refusal {
        Refusal { errno, message: message.into(), offset: None, limit: None }
    }

    /// By the limit called `limit`.
    #[must_use]
    pub fn limit(errno: Errno, limit: &str, message: impl Into<String>) -> Refusal {
        Refusal { limit: Some(limit.to_owned()), ..Refusal::new(errno, message) }
    }

    /// The worker's clock, or the one that kills it.
    pub(crate) fn time(limit: std::time::Duration) -> Refusal {
        Refusal::limit(Errno::ETIME, "time", format!("stopped: it may run for {} ms", limit.as_millis()))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        if let Some(offset) = self.offset {
            write!(f, " (at byte {offset})")?;
        }
        match &self.limit {
            Some(limit) => write!(f, " [limit: {limit}]"),
            None => Ok(()),
        }
    }
}

impl From<&Refusal> for externfs::Error {
    /// Without a reason: a guest's mistake is no business of the operator's,
    /// who could be flooded with them.
    fn from(refusal: &Refusal) -> externfs::Error {
        externfs::Error::new(refusal.errno)
    }
}

/// A refusal within the worker; `sick` when another worker, which opens the
/// database anew, may do better: the confined one can open nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Failure {
    pub(crate) refusal: Refusal,
    pub(crate) sick: bool,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        Failure { refusal, sick: false }
    }
}

impl Failure {
    /// What SQLite's error means. What the authorizer refused and whether the
    /// time was over is known better by those who know it.
    pub(crate) fn of(error: &rusqlite::Error) -> Failure {
        match error {
            rusqlite::Error::SqlInputError { error, msg, offset, .. } => {
                let mut failure = Failure::of_code(*error, msg);
                failure.refusal.offset = usize::try_from(*offset).ok();
                failure
            }
            rusqlite::Error::SqliteFailure(error, message) => {
                let said = message.clone().unwrap_or_else(|| error.to_string());
                Failure::of_code(*error, &said)
            }
            rusqlite::Error::MultipleStatement => {
                Refusal::new(Errno::EACCES, "one statement at a time: leave out what follows the ';'").into()
            }
            rusqlite::Error::Empty => Refusal::new(Errno::EINVAL, "there is no statement").into(),
            rusqlite::Error::NulError(_) => Refusal::new(Errno::EINVAL, "a statement has no NUL bytes").into(),
            other => Refusal::new(Errno::EINVAL, other.to_string()).into(),
        }
    }

    fn of_code(error: ffi::Error, message: &str) -> Failure {
        let plain = |errno| Failure::from(Refusal::new(errno, message));
        let sick = || Failure { refusal: Refusal::new(Errno::EIO, message), sick: true };
        match error.extended_code & 0xff {
            ffi::SQLITE_AUTH => plain(Errno::EACCES),
            ffi::SQLITE_NOMEM => Refusal::limit(Errno::EFBIG, "heap", "it takes more memory than it may").into(),
            ffi::SQLITE_TOOBIG => Refusal::limit(Errno::EFBIG, "length", message).into(),
            ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED => plain(Errno::EAGAIN),
            ffi::SQLITE_CONSTRAINT => Refusal::new(constraint(error.extended_code), message).into(),
            ffi::SQLITE_FULL => plain(Errno::ENOSPC),
            ffi::SQLITE_PERM => plain(Errno::EACCES),
            ffi::SQLITE_CANTOPEN
            | ffi::SQLITE_IOERR
            | ffi::SQLITE_READONLY
            | ffi::SQLITE_PROTOCOL
            | ffi::SQLITE_CORRUPT
            | ffi::SQLITE_NOTADB => sick(),
            _ if message.starts_with("malformed database schema") => sick(),
            _ => match parser_limit(message) {
                Some(limit) => Refusal::limit(Errno::EFBIG, limit, message).into(),
                None => plain(Errno::EINVAL),
            },
        }
    }
}

/// SQLite tells of these limits in words only.
fn parser_limit(message: &str) -> Option<&'static str> {
    let words = [
        ("Expression tree is too large", "expression depth"),
        ("parser stack overflow", "expression depth"),
        ("Recursion limit", "expression depth"),
        ("too many terms in compound SELECT", "compound terms"),
        ("too many columns", "columns"),
        ("too many terms in", "columns"),
        ("LIKE or GLOB pattern too complex", "pattern"),
        ("too many arguments on function", "function arguments"),
        ("at most ", "tables of a join"),
        ("too many SQL variables", "arguments"),
        ("variable number must be between", "arguments"),
        ("query string too long", "sql"),
    ];
    words.iter().find(|(words, _)| message.starts_with(words)).map(|(_, limit)| *limit)
}

/// errno(3) has no word for a constraint; these come nearest.
fn constraint(extended: i32) -> Errno {
    match extended {
        ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_ROWID => Errno::EEXIST,
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => Errno::EBUSY,
        _ => Errno::EINVAL,
    }
}
