//! Stopping a file system as a power cut does. The one place for `unsafe` in
//! this library.
#![allow(unsafe_code)]

use rustix::ioctl::{Setter, ioctl, opcode};
use std::fs::File;
use std::path::Path;

/// `FS_IOC_SHUTDOWN` of the kernel's include/uapi/linux/fs.h: ext4, xfs, f2fs.
const SHUTDOWN: rustix::ioctl::Opcode = opcode::read::<u32>(b'X', 125);

/// Nothing more is written, not even the journal (`FS_SHUTDOWN_FLAGS_NOLOGFLUSH`).
const AT_ONCE: u32 = 2;

/// From now on nothing that the file system at `path` holds in memory reaches
/// its device, and every change is refused with EIO.
///
/// # Panics
/// When the file system cannot do it.
pub fn cut_power(path: &Path) {
    let root = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    // SAFETY: the kernel reads one u32 through the pointer (ext4_ioctl_shutdown
    // and its like), although the number says that it writes one; the setter
    // passes a pointer to one.
    let done = unsafe { ioctl(&root, Setter::<SHUTDOWN, u32>::new(AT_ONCE)) };
    done.unwrap_or_else(|error| panic!("FS_IOC_SHUTDOWN: {error}"));
}
