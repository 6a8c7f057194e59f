//! The resolver of openat2(2): the kernel refuses.

use crate::fault::Fault;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};

/// A single component cannot be absolute nor climb, so `BENEATH` costs nothing
/// and holds should a caller ever pass more.
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_SYMLINKS);

/// Whether it is there and permitted.
pub(super) fn probe(dir: BorrowedFd<'_>) -> Fault<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(dir, c".", flags, Mode::empty(), RESOLVE).map(drop)
}

pub(super) fn component(dir: BorrowedFd<'_>, name: &CStr, flags: OFlags, one_file_system: bool) -> Fault<OwnedFd> {
    let resolve = if one_file_system { RESOLVE | ResolveFlags::NO_XDEV } else { RESOLVE };
    loop {
        match rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve) {
            // openat2(2): a rename or mount elsewhere got in the way; try again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            answer => return answer,
        }
    }
}
