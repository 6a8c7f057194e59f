//! The second pass: files change hands.

use super::dates::Dates;
use super::record::guests_xattrs;
use super::walk::{Dirs, Visitor, walk};
use super::{NODES, Pass, Site, Told, kind_of};
use crate::host::{self, Fault};
use externfs::{FileKind, UsageError};
use hostfs::object::Object;
use rustix::fs::{AtFlags, OFlags, Stat, Timespec, Timestamps};
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

    fn enter(&mut self, _dirs: &Dirs, _stat: &Stat, _names: &[CString], _path: &[u8]) -> Fault<()> {
        Ok(())
    }

    fn object(&mut self, dirs: &Dirs, name: &CStr, stat: &Stat, _path: &[u8]) -> Fault<()> {
        let kind = kind_of(stat)?;
        match kind {
            FileKind::Regular | FileKind::Directory | FileKind::Symlink => self.settle(dirs.data.as_fd(), name, kind, stat),
            _ => self.replace(dirs, name, stat),
        }
    }

    /// Not before: its new owner could put anything in it that is given to him next.
    fn leave(&mut self, dirs: &Dirs, stat: &Stat) -> Fault<()> {
        self.settle(dirs.data.as_fd(), c".", FileKind::Directory, stat)?;
        self.dates.give_back(dirs.data.as_fd())
    }
}

impl Changer<'_> {
    /// Owner, attributes, mode: an ACL would let others in, and would take the
    /// group's bits of a mode for its own. Whoever owns `dir` may exchange what is
    /// in it, so only what `stat` was said of is changed.
    fn settle(&self, dir: BorrowedFd<'_>, name: &CStr, kind: FileKind, stat: &Stat) -> Fault<()> {
        let object = Object::hold_known(dir, name, stat)?;
        object.chown(self.site.uid, self.site.gid)?;
        for attribute in guests_xattrs(&object)? {
            match object.remove_xattr(&attribute) {
                // Chown has taken it.
                Ok(()) | Err(Host::NODATA) => {}
                Err(other) => return Err(other),
            }
        }
        if kind == FileKind::Symlink {
            return Ok(());
        }
        let floor = if kind == FileKind::Directory { host::DIR_MODE } else { host::FILE_MODE };
        object.chmod(stat.st_mode & CEILING | floor.bits())
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

#[cfg(test)]
mod tests {
    use super::super::Request;
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn a_link_put_in_its_place_is_not_followed() {
        let place = tempfile::tempdir().expect("a directory");
        let (data, outside) = (place.path().join("data"), place.path().join("outside"));
        std::fs::create_dir(&data).expect("mkdir");
        for path in [&data.join("f"), &outside] {
            std::fs::write(path, "").expect("a file");
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
        }
        std::fs::set_permissions(&outside, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        let owner = outside.metadata().expect("stat");
        let site = Site::open(place.path(), &Request { uid: owner.uid(), gid: owner.gid(), total: 1 << 20 }).expect("open");
        let dir = host::child_dir(site.root.as_fd(), c"data").expect("open");
        let stat = rustix::fs::statat(&dir, c"f", AtFlags::SYMLINK_NOFOLLOW).expect("stat");
        let nodes = host::ensure_dir(site.control.as_fd(), NODES).expect("mkdir");
        let dates = Dates::new(site.control.as_fd()).expect("dates");
        std::fs::remove_file(data.join("f")).expect("unlink");
        symlink(&outside, data.join("f")).expect("a link");
        let done = Changer { site: &site, nodes, dates }.settle(dir.as_fd(), c"f", FileKind::Regular, &stat);
        assert_eq!(done, Err(Host::STALE));
        assert_eq!(outside.metadata().expect("stat").mode() & 0o7777, 0o600);
    }
}
