//! [`Dates`]: the times of directories in which something is replaced, which
//! that would change. They are put aside before the first replacement, so
//! that they survive a cut.
//!
//! `humfs/dates/N`, where N is the directory's number: `ATIME MTIME`, each as
//! seconds, a dot and nine digits.

use crate::host::{self, Fault};
use rustix::fs::{AtFlags, Timespec, Timestamps};
use rustix::io::Errno as Host;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// See the [module](self).
pub(super) struct Dates(OwnedFd);

impl Dates {
    pub(super) fn new(control: BorrowedFd<'_>) -> Fault<Dates> {
        host::ensure_dir(control, c"dates").map(Dates)
    }

    /// Something in `dir` is about to be replaced.
    pub(super) fn keep(&self, dir: BorrowedFd<'_>) -> Fault<()> {
        let stat = rustix::fs::statat(dir, c"", AtFlags::EMPTY_PATH)?;
        let name = CString::new(stat.st_ino.to_string()).map_err(|_| Host::INVAL)?;
        if host::child(self.0.as_fd(), &name).is_ok() {
            return Ok(());
        }
        let text = format!("{}.{:09} {}.{:09}", stat.st_atime, stat.st_atime_nsec, stat.st_mtime, stat.st_mtime_nsec);
        host::replace_file(self.0.as_fd(), &name, text.as_bytes())
    }

    /// Everything in `dir` is in its place.
    pub(super) fn give_back(&self, dir: BorrowedFd<'_>) -> Fault<()> {
        let stat = rustix::fs::statat(dir, c"", AtFlags::EMPTY_PATH)?;
        let name = CString::new(stat.st_ino.to_string()).map_err(|_| Host::INVAL)?;
        let text = match host::read_file(self.0.as_fd(), &name, 128) {
            Err(Host::NOENT) => return Ok(()),
            answer => answer?,
        };
        let times = parse(&text).ok_or(Host::INVAL)?;
        rustix::fs::utimensat(dir, c".", &times, AtFlags::empty())
    }
}

fn parse(text: &[u8]) -> Option<Timestamps> {
    let (atime, mtime) = std::str::from_utf8(text).ok()?.split_once(' ')?;
    let time = |text: &str| -> Option<Timespec> {
        let (seconds, nanoseconds) = text.split_once('.')?;
        Some(Timespec { tv_sec: seconds.parse().ok()?, tv_nsec: nanoseconds.parse().ok()? })
    };
    Some(Timestamps { last_access: time(atime)?, last_modification: time(mtime)? })
}
