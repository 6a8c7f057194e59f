//! [`Errno`], the guest's word for what went wrong, and [`Error`], which adds
//! the operator's.
//!
//! A guest sees only a number. The operator wants to know why, so an [`Error`]
//! may carry a reason; frontends log it once and never send it to the guest,
//! because a reason may name host paths.

use std::fmt;

/// An error number, spelled as in errno(3).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

macro_rules! errnos {
    ($($name:ident $text:literal;)*) => {
        #[allow(missing_docs)]
        impl Errno {
            $(pub const $name: Errno = Errno(libc::$name);)*

            /// The symbol of errno(3), or "errno" for a number this table lacks.
            #[must_use]
            pub fn symbol(self) -> &'static str {
                match self.0 { $(libc::$name => stringify!($name),)* _ => "errno" }
            }

            /// One short phrase for people, after errno(3).
            #[must_use]
            pub fn phrase(self) -> &'static str {
                match self.0 { $(libc::$name => $text,)* _ => "unknown error" }
            }
        }
    };
}

errnos! {
    E2BIG "argument too long";
    EACCES "permission denied";
    EAGAIN "try again";
    EBADF "bad file handle";
    EBUSY "in use";
    EDEADLK "deadlock";
    EDQUOT "quota exceeded";
    EEXIST "exists already";
    EFAULT "bad address";
    EFBIG "too large";
    EINTR "interrupted";
    EINVAL "invalid argument";
    EIO "input/output error";
    EISDIR "is a directory";
    ELOOP "too many symbolic links";
    EMFILE "too many open files";
    EMLINK "too many links";
    ENAMETOOLONG "name too long";
    ENFILE "too many open files in the system";
    ENODATA "no such attribute";
    ENODEV "no such device";
    ENOENT "no such file or directory";
    ENOLCK "no locks available";
    ENOMEM "out of memory";
    ENOSPC "no space left";
    ENOSYS "not implemented";
    ENOTCONN "not connected";
    ENOTDIR "not a directory";
    ENOTEMPTY "directory not empty";
    ENOTTY "no such ioctl";
    ENXIO "no such device or address";
    EOPNOTSUPP "not supported";
    EOVERFLOW "value too large";
    EPERM "operation not permitted";
    EPROTO "protocol error";
    ERANGE "out of range";
    EROFS "read-only file system";
    ESTALE "stale file handle";
    ETIME "timer expired";
    ETXTBSY "text file busy";
    EXDEV "cross-device link";
}

impl Errno {
    /// The errno with this number. Numbers that are not positive become EIO:
    /// a plugin that has no errno must not be able to answer "success".
    #[must_use]
    pub fn from_raw(number: i32) -> Errno {
        if number > 0 && number < 4096 { Errno(number) } else { Errno::EIO }
    }

    /// The positive number of errno(3).
    #[must_use]
    pub fn raw(self) -> i32 {
        self.0
    }

    /// The calling thread's errno after a failed libc call.
    #[must_use]
    pub fn last() -> Errno {
        Errno::from_raw(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.symbol(), self.0)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.phrase(), self.symbol())
    }
}

/// What a plugin answers when it cannot do an operation.
#[derive(Clone, PartialEq, Eq)]
pub struct Error {
    errno: Errno,
    reason: Option<Box<str>>,
}

/// The result of every plugin and export operation.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An ordinary refusal that needs no line in the log (ENOENT, EACCES ...).
    #[must_use]
    pub fn new(errno: Errno) -> Error {
        Error { errno, reason: None }
    }

    /// A failure that the operator should hear of, once.
    #[must_use]
    pub fn because(errno: Errno, reason: impl Into<String>) -> Error {
        Error { errno, reason: Some(reason.into().into_boxed_str()) }
    }

    /// What the guest is told.
    #[must_use]
    pub fn errno(&self) -> Errno {
        self.errno
    }

    /// What the log is told, if anything.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Error {
        Error::new(errno)
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        match error.raw_os_error() {
            Some(number) => Error::new(Errno::from_raw(number)),
            None => Error::because(Errno::EIO, error.to_string()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Some(reason) => write!(f, "{}: {reason}", self.errno),
            None => fmt::Display::fmt(&self.errno, f),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_can_never_mean_success() {
        for number in [0, -1, -5, i32::MIN, 4096, i32::MAX] {
            assert_eq!(Errno::from_raw(number), Errno::EIO, "{number}");
        }
        assert_eq!(Errno::from_raw(libc::ENOENT), Errno::ENOENT);
    }

    #[test]
    fn the_reason_is_for_the_log_only() {
        let error = Error::because(Errno::EIO, "record of /srv/x is torn");
        assert_eq!(error.errno(), Errno::EIO);
        assert_eq!(error.to_string(), "input/output error (EIO): record of /srv/x is torn");
        assert_eq!(Error::new(Errno::ENOENT).reason(), None);
    }
}
