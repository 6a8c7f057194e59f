//! [`Name`]: one checked path component.
//!
//! There is no other way to make one, so a plugin that receives a `Name` knows
//! that it cannot climb (`..`), cannot name its own directory (`.`), cannot
//! hide a second component (`/`) and cannot be cut short (NUL).

use crate::error::Errno;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

/// The longest component that the FUSE protocol carries, in bytes
/// (`FUSE_NAME_MAX` of the kernel's fs/fuse/fuse_i.h was 1024 for years; a
/// plugin states its own, smaller limit in [`crate::Limits::name_max`]).
pub const NAME_LIMIT: usize = 1024;

/// One path component: 1 to [`NAME_LIMIT`] bytes, without `/` and NUL, and
/// neither `.` nor `..`. Not necessarily UTF-8.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// Checks `bytes`.
    ///
    /// # Errors
    /// ENAMETOOLONG over [`NAME_LIMIT`] bytes; ENOENT when empty, as
    /// path_resolution(7) has it; EINVAL for everything else that no component
    /// can be. A kernel sends none of the latter, so nobody honest sees EINVAL.
    pub fn new(bytes: &'a [u8]) -> Result<Name<'a>, Errno> {
        match bytes {
            [] => Err(Errno::ENOENT),
            b"." | b".." => Err(Errno::EINVAL),
            _ if bytes.len() > NAME_LIMIT => Err(Errno::ENAMETOOLONG),
            _ if bytes.iter().any(|&b| b == b'/' || b == 0) => Err(Errno::EINVAL),
            _ => Ok(Name(bytes)),
        }
    }

    /// The bytes as the guest sent them.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The same bytes for the standard library.
    #[must_use]
    pub fn as_os_str(self) -> &'a OsStr {
        OsStr::from_bytes(self.0)
    }
}

impl fmt::Debug for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_os_str(), f)
    }
}

impl fmt::Display for Name<'_> {
    /// Escapes what could forge a log line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_component() {
        for good in [&b"a"[..], b"...", b". ", b"-rf", b"\xff\xfe", b"a\nb", b"metadata", &[b'x'; 1024]] {
            assert_eq!(Name::new(good).map(Name::as_bytes), Ok(good));
        }
        for (bad, errno) in [
            (&b""[..], Errno::ENOENT),
            (b".", Errno::EINVAL),
            (b"..", Errno::EINVAL),
            (b"a/b", Errno::EINVAL),
            (b"/", Errno::EINVAL),
            (b"../x", Errno::EINVAL),
            (b"a\0", Errno::EINVAL),
            (&[b'x'; 1025], Errno::ENAMETOOLONG),
        ] {
            assert_eq!(Name::new(bad), Err(errno), "{bad:?}");
        }
    }

    #[test]
    fn display_cannot_forge_a_log_line() {
        assert_eq!(Name::new(b"a\nERROR \x1b[2J").map(|n| n.to_string()), Ok("a\\nERROR \\x1b[2J".into()));
    }
}
