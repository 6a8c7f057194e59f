//! [`Stage`]: `humfs/stage`, where a new record lies until it is whole and can
//! take the place of the old one in one step.

use crate::host::{self, Fault};
use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno as Host;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Stage {
    dir: OwnedFd,
    next: AtomicU64,
}

impl Stage {
    pub(super) fn new(dir: OwnedFd) -> Stage {
        Stage { dir, next: AtomicU64::new(0) }
    }

    /// Puts a symbolic link to `text` at `name` in `dir`, over what is there
    /// unless that is a directory: EISDIR.
    pub(super) fn put_link(&self, text: &[u8], dir: BorrowedFd<'_>, name: &CStr) -> Fault<()> {
        let staged = self.fresh_name()?;
        rustix::fs::symlinkat(text, &self.dir, &*staged)?;
        self.place(&staged, dir, name)
    }

    /// Puts a regular file with `bytes` there likewise.
    pub(super) fn put_file(&self, bytes: &[u8], dir: BorrowedFd<'_>, name: &CStr) -> Fault<()> {
        let (staged, _) = self.write(bytes)?;
        self.place(&staged, dir, name)
    }

    /// As [`Stage::put_file`], over what may be durable since long: the bytes
    /// are too before they take its place.
    pub(super) fn put_durable_file(&self, bytes: &[u8], dir: BorrowedFd<'_>, name: &CStr) -> Fault<()> {
        let (staged, fd) = self.write(bytes)?;
        if let Err(error) = rustix::fs::fdatasync(&fd) {
            self.drop(&staged);
            return Err(error);
        }
        self.place(&staged, dir, name)
    }

    fn write(&self, bytes: &[u8]) -> Fault<(CString, OwnedFd)> {
        let staged = self.fresh_name()?;
        let fd = host::open_file(self.dir.as_fd(), &staged, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY)?;
        host::write_all(fd.as_fd(), bytes).inspect_err(|_| self.drop(&staged))?;
        Ok((staged, fd))
    }

    fn place(&self, staged: &CStr, dir: BorrowedFd<'_>, name: &CStr) -> Fault<()> {
        rustix::fs::renameat(&self.dir, staged, dir, name).inspect_err(|_| self.drop(staged))
    }

    /// Should this fail, the next mount sweeps it.
    fn drop(&self, staged: &CStr) {
        let _ = rustix::fs::unlinkat(&self.dir, staged, AtFlags::empty());
    }

    /// The stage may be shared with the store of another format, hence the letter.
    fn fresh_name(&self) -> Fault<CString> {
        CString::new(format!("r{}", self.next.fetch_add(1, Ordering::Relaxed))).map_err(|_| Host::INVAL)
    }

    /// Takes away what a predecessor left; says how much that was.
    pub(super) fn sweep(&self) -> Fault<usize> {
        let left = host::names(self.dir.as_fd())?;
        for (name, _) in &left {
            host::remove_tree(self.dir.as_fd(), name)?;
        }
        Ok(left.len())
    }
}
