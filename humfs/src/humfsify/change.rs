//! The second pass: files change hands.

use super::dates::Dates;
use super::record::{place, xattr_names};
use super::walk::{Dirs, Visitor, walk};
use super::{NODES, Pass, Site, Told, kind_of};
use crate::host::{self, Fault};
use externfs::{FileKind, UsageError};
use rustix::fs::{AtFlags, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno as Host;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Everybody else's bits that may stay: reading and searching.
const CEILING: u32 = 0o755;

/// Changes everything. What is changed already stays as it is.
pub(super) fn change(site: &Site<'_>, told: Told<'_>) -> Result<(), UsageError> {
    let cannot = site.cannot();
    let root = site.root.as_fd();
    let top = || -> Fault<(Dirs, OwnedFd, Dates)> {
        let part = |name| host::child_dir(root, name);
        let dirs = Dirs { data: part(c"data")?, files: part(c"file_metadata")?, dirs: part(c"dir_metadata")? };
        Ok((dirs, host::ensure_dir(site.control.as_fd(), NODES)?, Dates::new(site.control.as_fd())?))
    };
    let (top, nodes, dates) = top().map_err(&cannot)?;
    let shown = format!("{}/data", site.path.display());
    walk(top, &shown, &mut Changer { site, nodes, dates }, Pass::Changing, told)
}

struct Changer<'s> {
    site: &'s Site<'s>,
    /// For what takes the place of devices.
    nodes: OwnedFd,
    dates: Dates,
}

impl Visitor for Changer<'_> {
    fn descend(&mut self, above: &Dirs, name: &CStr) -> Fault<Dirs> {
        let below = |dir: &OwnedFd| host::child_dir(dir.as_fd(), name);
        Ok(Dirs { data: below(&above.data)?, files: below(&above.files)?, dirs: below(&above.dirs)? })
    }

    fn enter(&mut self, dirs: &Dirs, stat: &Stat, _names: &[CString], _path: &[u8]) -> Fault<()> {
        self.settle(dirs.data.as_fd(), c".", FileKind::Directory, stat)
    }

    fn object(&mut self, dirs: &Dirs, name: &CStr, stat: &Stat, _path: &[u8]) -> Fault<()> {
        let kind = kind_of(stat)?;
        match kind {
            FileKind::Regular | FileKind::Directory | FileKind::Symlink => self.settle(dirs.data.as_fd(), name, kind, stat),
            _ => self.replace(dirs, name, stat),
        }
    }

    fn leave(&mut self, dirs: &Dirs, _stat: &Stat) -> Fault<()> {
        self.dates.give_back(dirs.data.as_fd())
    }
}

impl Changer<'_> {
    /// Owner, attributes, mode: an ACL would let others in, and would take the
    /// group's bits of a mode for its own.
    fn settle(&self, dir: BorrowedFd<'_>, name: &CStr, kind: FileKind, stat: &Stat) -> Fault<()> {
        rustix::fs::chownat(dir, name, Some(self.site.uid), Some(self.site.gid), AtFlags::SYMLINK_NOFOLLOW)?;
        let place = place(dir, name);
        for attribute in xattr_names(&place)? {
            match rustix::fs::lremovexattr(&place[..], &attribute) {
                // Chown has taken it.
                Ok(()) | Err(Host::NODATA) => {}
                Err(other) => return Err(other),
            }
        }
        if kind == FileKind::Symlink {
            return Ok(());
        }
        let floor = if kind == FileKind::Directory { host::DIR_MODE } else { host::FILE_MODE };
        let mode = Mode::from_raw_mode(stat.st_mode & CEILING) | floor;
        rustix::fs::chmodat(dir, name, mode, AtFlags::empty())
    }

    /// Puts an empty regular file in the place of a node.
    fn replace(&self, dirs: &Dirs, name: &CStr, stat: &Stat) -> Fault<()> {
        let staged = CString::new(stat.st_ino.to_string()).map_err(|_| Host::INVAL)?;
        match host::open_file(self.nodes.as_fd(), &staged, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY) {
            Ok(_) | Err(Host::EXIST) => {}
            Err(other) => return Err(other),
        }
        self.site.give(self.nodes.as_fd(), &staged)?;
        rustix::fs::utimensat(&self.nodes, &staged, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?;
        self.dates.keep(dirs.data.as_fd())?;
        take_place(&self.nodes, &staged, &dirs.data, name, stat.st_nlink > 1)
    }
}

/// Renames what is staged over `name`; with `linked` others will want it too,
/// and it stays.
pub(super) fn take_place(nodes: &OwnedFd, staged: &CStr, dir: &OwnedFd, name: &CStr, linked: bool) -> Fault<()> {
    if !linked {
        return rustix::fs::renameat(nodes, staged, dir, name);
    }
    host::remove_file(nodes.as_fd(), c"next")?;
    rustix::fs::linkat(nodes, staged, nodes, c"next", AtFlags::empty())?;
    rustix::fs::renameat(nodes, c"next", dir, name)
}

/// The times of `stat`, to be set.
fn times(stat: &Stat) -> Timestamps {
    let at = |seconds, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds as i64 };
    Timestamps { last_access: at(stat.st_atime, stat.st_atime_nsec), last_modification: at(stat.st_mtime, stat.st_mtime_nsec) }
}
