//! The first pass: what is there is written down.
//!
//! The names of one file share what its attributes are kept in, be there any or
//! not yet, and nobody knows all of them later: so that is made here too, empty, as
//! the first link(2) of a guest would have made it.

use super::walk::{Dirs, Visitor, walk};
use super::{FOUND, Pass, Site, Told, kind_of};
use crate::host::{self, Fault};
use crate::path;
use crate::record::{Record, Target, Xattrs};
use externfs::{DeviceNumber, FileKind, GuestGid, GuestUid, Mode, UsageError};
use hostfs::object::Object;
use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use rustix::io::Errno as Host;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// In `humfs/`, during this pass: see [`Recorder::linked`].
const LINKED: &CStr = c"linked";

/// What this pass makes beside `humfs/`.
pub(super) const MADE: [&CStr; 4] = [c"file_metadata", c"dir_metadata", c"file_attributes", c"dir_attributes"];

/// Records everything and returns how many bytes it takes on the host, as
/// du(1) counts.
pub(super) fn record(site: &Site<'_>, told: Told<'_>) -> Result<u64, UsageError> {
    let cannot = site.cannot();
    let root = site.root.as_fd();
    let start = || -> Fault<(Dirs, [OwnedFd; 2])> {
        // What an attempt left that was cut short in this pass.
        for part in MADE {
            host::remove_deep(root, part)?;
        }
        for part in [FOUND, LINKED] {
            host::remove_deep(site.control.as_fd(), part)?;
        }
        let mut dirs = Vec::new();
        for part in [c"file_metadata", c"dir_metadata"] {
            let dir = host::ensure_dir(root, part)?;
            site.give(dir.as_fd(), c".")?;
            dirs.push(dir);
        }
        let (Some(mirror_dirs), Some(files)) = (dirs.pop(), dirs.pop()) else { return Err(Host::NOENT) };
        let top = Dirs { data: host::child_dir(root, c"data")?, files, dirs: mirror_dirs };
        let own = |name| host::ensure_dir(site.control.as_fd(), name);
        Ok((top, [own(FOUND)?, own(LINKED)?]))
    };
    let (top, [found, linked]) = start().map_err(&cannot)?;
    let mut recorder = Recorder { site, used: 0, linked, found, count: 0 };
    let shown = format!("{}/data", site.path.display());
    walk(top, &shown, &mut recorder, Pass::Recording, told)?;
    host::remove_deep(site.control.as_fd(), LINKED).map_err(cannot)?;
    Ok(recorder.used)
}

struct Recorder<'s> {
    site: &'s Site<'s>,
    used: u64,
    /// Records of files with several names, by the number of the inode, and what
    /// their attributes are to be kept in, with `.attributes` after it.
    linked: OwnedFd,
    found: OwnedFd,
    count: u64,
}

impl Visitor for Recorder<'_> {
    fn descend(&mut self, above: &Dirs, name: &CStr) -> Fault<Dirs> {
        let make = |dir: &OwnedFd| -> Fault<OwnedFd> {
            rustix::fs::mkdirat(dir, name, host::DIR_MODE)?;
            let made = host::child_dir(dir.as_fd(), name)?;
            self.site.give(made.as_fd(), c".")?;
            Ok(made)
        };
        Ok(Dirs { data: host::child_dir(above.data.as_fd(), name)?, files: make(&above.files)?, dirs: make(&above.dirs)? })
    }

    fn enter(&mut self, dirs: &Dirs, stat: &Stat, names: &[CString], path: &[u8]) -> Fault<()> {
        self.used += stat.st_blocks.unsigned_abs() * 512;
        // The mirrors of what is in there come into the same directory.
        let mut free = c"metadata".to_owned();
        let taken = |name: &CStr| {
            let is_there = names.iter().any(|other| other.as_c_str() == name);
            is_there
                && rustix::fs::statat(&dirs.data, name, AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
        };
        let mut number = 0u64;
        while taken(&free) {
            number += 1;
            free = CString::new(format!("metadata.{number}")).map_err(|_| Host::INVAL)?;
        }
        self.write(dirs.dirs.as_fd(), &free, &of(stat))?;
        self.keep_xattrs(dirs.data.as_fd(), c".", stat, path)
    }

    fn object(&mut self, dirs: &Dirs, name: &CStr, stat: &Stat, path: &[u8]) -> Fault<()> {
        let number = stat.st_ino.to_string();
        if stat.st_nlink > 1 {
            self.share_attributes(&number, path)?;
            match rustix::fs::linkat(&self.linked, &number, &dirs.files, name, AtFlags::empty()) {
                // It is the first of its names.
                Err(Host::NOENT) => {}
                answer => return answer,
            }
        }
        self.used += stat.st_blocks.unsigned_abs() * 512;
        self.write(dirs.files.as_fd(), name, &of(stat))?;
        if stat.st_nlink > 1 {
            rustix::fs::linkat(&dirs.files, name, &self.linked, &number, AtFlags::empty())?;
        }
        self.keep_xattrs(dirs.data.as_fd(), name, stat, path)
    }

    fn leave(&mut self, _dirs: &Dirs, _stat: &Stat) -> Fault<()> {
        Ok(())
    }
}

impl Recorder<'_> {
    fn write(&self, dir: BorrowedFd<'_>, name: &CStr, record: &Record) -> Fault<()> {
        let file = host::open_file(dir, name, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY)?;
        host::write_all(file.as_fd(), record.to_line(false).as_bytes())?;
        rustix::fs::fchown(&file, Some(self.site.uid), Some(self.site.gid))
    }

    /// Gives the file with this number, which has a further name at `path`, a place
    /// for attributes there.
    fn share_attributes(&self, number: &str, path: &[u8]) -> Fault<()> {
        let root = self.site.root.as_fd();
        host::ensure_dir(root, c"dir_attributes").and_then(|dir| self.site.give(dir.as_fd(), c"."))?;
        let (above, name) = path::split(path).ok_or(Host::INVAL)?;
        let mut dir = host::ensure_dir(root, c"file_attributes")?;
        self.site.give(dir.as_fd(), c".")?;
        for component in &above {
            dir = host::ensure_dir(dir.as_fd(), component)?;
            self.site.give(dir.as_fd(), c".")?;
        }
        let shared = CString::new(format!("{number}.attributes")).map_err(|_| Host::INVAL)?;
        let file = host::open_file(self.linked.as_fd(), &shared, OFlags::CREATE | OFlags::WRONLY)?;
        rustix::fs::fchown(&file, Some(self.site.uid), Some(self.site.gid))?;
        rustix::fs::linkat(&self.linked, &shared, &dir, &name, AtFlags::empty())
    }

    /// Chown takes capabilities away, so they are put aside here.
    fn keep_xattrs(&mut self, dir: BorrowedFd<'_>, name: &CStr, stat: &Stat, path: &[u8]) -> Fault<()> {
        let xattrs = xattrs(dir, name, stat)?;
        if xattrs.is_empty() {
            return Ok(());
        }
        let block = Record { xattrs, ..of(stat) }.to_block(Target::Block);
        self.count += 1;
        let file = CString::new(self.count.to_string()).map_err(|_| Host::INVAL)?;
        let file = host::open_file(self.found.as_fd(), &file, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY)?;
        host::write_all(file.as_fd(), &[path, b"\0", &block].concat())
    }
}

/// The record of what is on the host as it is there.
pub(super) fn of(stat: &Stat) -> Record {
    let kind = kind_of(stat).unwrap_or(FileKind::Regular);
    let mut record = Record::new(kind, Mode::new(stat.st_mode), GuestUid(stat.st_uid), GuestGid(stat.st_gid));
    if kind.is_device() {
        record.device = DeviceNumber { major: rustix::fs::major(stat.st_rdev), minor: rustix::fs::minor(stat.st_rdev) };
    }
    record
}

/// Whether an attribute of the host is one that the guest should have: not
/// the labels of the host's own security.
pub(super) fn is_guests(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name.starts_with(b"trusted.") || name.starts_with(b"system.posix_acl_") || name == b"security.capability"
}

/// The names of the attributes of `object` that are the guest's.
pub(super) fn guests_xattrs(object: &Object) -> Fault<Vec<CString>> {
    Ok(object.xattr_names()?.into_iter().filter(|name| is_guests(name.to_bytes())).collect())
}

fn xattrs(dir: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Fault<Xattrs> {
    let object = Object::hold_known(dir, name, stat)?;
    let mut xattrs = Xattrs::default();
    for attribute in guests_xattrs(&object)? {
        xattrs.set(attribute.to_bytes(), &object.xattr(&attribute)?);
    }
    Ok(xattrs)
}

#[cfg(test)]
mod tests {
    use super::super::{Request, convert};
    use crate::fs::HumFs;
    use crate::node::HumNode;
    use crate::options::Options;
    use crate::tree::{Access, Tree};
    use externfs::{Caller, ExternFs, Name, XattrFlags};
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;
    use std::sync::Arc;

    fn open(tree: &Path) -> HumFs {
        HumFs::new(Tree::open(tree, Access::Write).expect("a tree"), Options::default()).expect("it is served")
    }

    fn find(fs: &HumFs, path: &str) -> Arc<HumNode> {
        let root = fs.root().expect("the root");
        path.split('/').fold(root, |at, name| fs.lookup(&at, Name::new(name.as_bytes()).expect("a name")).expect("a file").0)
    }

    #[test]
    fn the_names_of_one_file_share_its_attributes() {
        let place = tempfile::tempdir().expect("a directory");
        let at = |name: &str| place.path().join(name);
        std::fs::create_dir_all(at("data/d/e")).expect("mkdir");
        for (first, second) in [("with", "d/e/with"), ("without", "d/without")] {
            std::fs::write(at("data").join(first), "").expect("a file");
            std::fs::hard_link(at("data").join(first), at("data").join(second)).expect("a link");
        }
        rustix::fs::setxattr(at("data/with"), "user.a", b"found", rustix::fs::XattrFlags::empty()).expect("setxattr");
        let owner = place.path().metadata().expect("stat");
        let request = Request { uid: owner.uid(), gid: owner.gid(), total: 1 << 30 };
        convert(place.path(), &request, &mut |_, _| {}).expect("a conversion");
        let fs = open(place.path());
        assert_eq!(fs.get_xattr(&find(&fs, "d/e/with"), b"user.a").expect("getxattr"), b"found");
        fs.set_xattr(&Caller::root(), &find(&fs, "without"), b"user.b", b"set", XattrFlags::empty()).expect("setxattr");
        fs.close().expect("it is closed");
        drop(fs);
        let fs = open(place.path());
        assert_eq!(fs.get_xattr(&find(&fs, "with"), b"user.a").expect("getxattr"), b"found");
        assert_eq!(fs.get_xattr(&find(&fs, "d/without"), b"user.b").expect("getxattr"), b"set");
    }
}
