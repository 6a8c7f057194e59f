//! Emptying this kernel's caches, and letting writes settle.

use crate::fault::{Naming, Result};
use rustix::fs::{CWD, Mode, OFlags, openat, syncfs};
use std::fs;
use std::path::Path;

/// Writes out what is dirty on the file system of `path`, so that the next row
/// does not pay for it.
pub(crate) fn settle(path: &Path) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, path, flags, Mode::empty()).naming(path.display())?;
    syncfs(directory).naming(format_args!("syncfs {}", path.display()))
}

/// Forgets pages, names and inodes. Those that are dirty stay: settle first.
pub(crate) fn drop_caches(path: &Path) -> Result<()> {
    settle(path)?;
    fs::write("/proc/sys/vm/drop_caches", "3").naming("/proc/sys/vm/drop_caches")
}
