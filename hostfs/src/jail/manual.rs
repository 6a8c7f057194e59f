//! The resolver for hosts without openat2(2): one component at a time, with
//! `O_NOFOLLOW`, and a look at what came back.

use crate::attr::Stat;
use crate::fault::Fault;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub(super) fn component(dir: BorrowedFd<'_>, name: &CStr, flags: OFlags, one_file_system: bool) -> Fault<OwnedFd> {
    // `O_PATH | O_NOFOLLOW` gives a link's own descriptor, also for a magic
    // link; with `O_DIRECTORY` that is refused as ENOTDIR.
    let fd = rustix::fs::openat(dir, name, flags | OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
    if one_file_system {
        let found = Stat::of_fd(fd.as_fd())?;
        // A bind mount of the same device shows only as a mount's root; hosts
        // before Linux 5.8 do not tell, and let it pass.
        if found.is_mount_root() || found.volume() != Stat::of_fd(dir)?.volume() {
            return Err(Errno::XDEV);
        }
    }
    Ok(fd)
}
