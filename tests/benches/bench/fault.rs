//! [`Fault`]: one line that says what went wrong, and with what.

use std::fmt;

/// Why a benchmark cannot go on.
#[derive(Debug)]
pub(crate) struct Fault(pub(crate) String);

/// What everything here returns.
pub(crate) type Result<T> = std::result::Result<T, Fault>;

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A fault out of a line of text.
pub(crate) fn fault<T>(text: impl Into<String>) -> Result<T> {
    Err(Fault(text.into()))
}

/// Names the thing that an error is about.
pub(crate) trait Naming<T> {
    /// Prefixes the error with what was being done.
    fn naming(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Naming<T> for std::result::Result<T, E> {
    fn naming(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|e| Fault(format!("{what}: {e}")))
    }
}
