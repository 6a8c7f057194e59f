//! [`Files`]: a directory and the names of many files in it, ready to be used
//! without building strings while the clock runs.

use crate::fault::{Naming, Result};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, unlinkat};
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Names in an open directory. Operations go relative to the directory's
/// descriptor, so that a row measures the operation and not the way there.
pub(crate) struct Files {
    directory: OwnedFd,
    /// The names, in order of creation.
    pub(crate) names: Vec<CString>,
}

/// What a 4 KiB file holds.
pub(crate) const BLOCK: [u8; 4096] = [0x5a; 4096];

const NEW: OFlags = OFlags::CREATE.union(OFlags::EXCL).union(OFlags::WRONLY).union(OFlags::CLOEXEC);

/// `count` names that begin with `prefix`.
pub(crate) fn names(prefix: &str, count: u32) -> Result<Vec<CString>> {
    (0..count).map(|n| CString::new(format!("{prefix}{n:06}")).naming("a name")).collect()
}

impl Files {
    /// Names for files that do not exist yet.
    pub(crate) fn absent(directory: &Path, prefix: &str, count: u32) -> Result<Files> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, directory, flags, Mode::empty()).naming(directory.display())?;
        Ok(Files { directory, names: names(prefix, count)? })
    }

    /// Files that do, each with one block.
    pub(crate) fn present(directory: &Path, prefix: &str, count: u32) -> Result<Files> {
        let files = Files::absent(directory, prefix, count)?;
        files.create(&BLOCK)?;
        Ok(files)
    }

    /// The directory.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// How many, as a number of operations.
    pub(crate) fn count(&self) -> u64 {
        self.names.len() as u64
    }

    /// Does `call` to each name in turn.
    ///
    /// # Errors
    /// The first one, naming the file.
    pub(crate) fn each<T>(&self, mut call: impl FnMut(BorrowedFd<'_>, &CString) -> rustix::io::Result<T>) -> Result<()> {
        for name in &self.names {
            call(self.fd(), name).naming(name.to_string_lossy())?;
        }
        Ok(())
    }

    /// Creates them all with `data`.
    pub(crate) fn create(&self, data: &[u8]) -> Result<()> {
        self.each(|directory, name| create(directory, name, data))
    }

    /// Removes them all.
    pub(crate) fn unlink(&self) -> Result<()> {
        self.each(|directory, name| unlinkat(directory, name, AtFlags::empty()))
    }
}

/// Creates one file, writes `data` if there is any, closes it.
pub(crate) fn create(directory: BorrowedFd<'_>, name: &CString, data: &[u8]) -> rustix::io::Result<()> {
    let file = openat(directory, name, NEW, Mode::from_raw_mode(0o644))?;
    if !data.is_empty() {
        rustix::io::write(file, data)?;
    }
    Ok(())
}
