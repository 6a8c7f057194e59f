//! `humfs/catalog/current`, the word of the last writer that the catalog agrees
//! with the tree.
//!
//! Every writer takes it away before he changes anything, durably: else a power
//! failure could bring it back. It is put back after everything else is on the disk.

use super::DIR;
use crate::host::{self, Fault};
use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno as Host;
use std::os::fd::{AsFd, BorrowedFd};

const MARKER: &std::ffi::CStr = c"current";

/// Takes it away; whether it was there.
pub(crate) fn take(control: BorrowedFd<'_>) -> Fault<bool> {
    let dir = match host::child_dir(control, DIR) {
        Ok(dir) => dir,
        // Where there is something else, nobody has left a word either.
        Err(Host::NOENT | Host::NOTDIR | Host::LOOP) => return Ok(false),
        Err(other) => return Err(other),
    };
    match rustix::fs::unlinkat(&dir, MARKER, AtFlags::empty()) {
        Ok(()) => rustix::fs::fsync(host::open_listing(dir.as_fd())?).map(|()| true),
        Err(Host::NOENT) => Ok(false),
        Err(other) => Err(other),
    }
}

/// Puts it back.
pub(super) fn put(dir: BorrowedFd<'_>) -> Fault<()> {
    host::open_file(dir, MARKER, OFlags::CREATE | OFlags::WRONLY)?;
    rustix::fs::fsync(host::open_listing(dir)?)
}
