//! [`Failure`]: why the command ends with something other than success.

use externfs::UsageError;
use std::fmt;

/// The result of everything that a subcommand does.
pub type Result<T> = std::result::Result<T, Failure>;

/// One line for people, and the exit code that goes with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// What is wrong and, where there is one, the remedy. One line.
    pub line: String,
    /// 1: it did not work; 2: it was asked for wrongly.
    pub code: u8,
}

impl Failure {
    /// It was asked for rightly and did not work.
    #[must_use]
    pub fn new(line: impl Into<String>) -> Failure {
        Failure { line: line.into(), code: 1 }
    }

    /// It was asked for wrongly: no second try with the same words can work.
    #[must_use]
    pub fn usage(line: impl Into<String>) -> Failure {
        Failure { line: line.into(), code: 2 }
    }

    /// `what` failed with `error`.
    #[must_use]
    pub fn io(what: impl fmt::Display, error: &std::io::Error) -> Failure {
        Failure::new(format!("{what}: {}", phrase(error)))
    }
}

/// What went wrong, without the number that std adds in parentheses.
pub(crate) fn phrase(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => externfs::Errno::from_raw(number).phrase().replace("unknown error", &error.to_string()),
        None => error.to_string(),
    }
}

impl From<UsageError> for Failure {
    fn from(error: UsageError) -> Failure {
        Failure::new(error.0)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl std::error::Error for Failure {}
