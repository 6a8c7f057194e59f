//! The way back: files get what their records say, and the records go.

use super::change::take_place;
use super::dates::Dates;
use super::walk::each_below;
use super::{BEFORE, NODES, Pass, RESTORING, Told, words};
use crate::convert::PARTS;
use crate::fs::HumFs;
use crate::host::{self, Fault, fault};
use crate::options::Options;
use crate::record::Record;
use crate::store::{At, Format, Loaded};
use crate::superblock::Superblock;
use crate::tree::{Access, Tree, take_lock};
use externfs::{Attr, ExternFs, FileKind, Result, Timestamp, UsageError};
use hostfs::Inode;
use hostfs::object::Object;
use rustix::fs::{FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno as Host;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

/// Gives everything in the tree at `path` the owner, mode and type that its
/// record says, and takes the records away. Any format will do.
///
/// # Errors
/// One clear line. The next attempt goes on.
pub fn restore(path: &Path, told: Told<'_>) -> std::result::Result<(), UsageError> {
    let shown = path.display();
    let cannot = |error: Host| UsageError(format!("'{shown}': {}", words(error)));
    let mark = host::read_file(rustix::fs::CWD, &c_path(&path.join("humfs/restoring"))?, 16).unwrap_or_default();
    if mark.first() != Some(&b'2') {
        let tree = if mark.is_empty() { Tree::open(path, Access::Write)? } else { Tree::open_marked(path, None)? };
        let failed = |error: externfs::Error| UsageError(format!("'{shown}': {error}"));
        let control = host::child_dir(tree.root(), c"humfs").map_err(cannot)?;
        host::replace_file(control.as_fd(), RESTORING, b"1\n").map_err(cannot)?;
        let nodes = host::ensure_dir(control.as_fd(), NODES).map_err(cannot)?;
        let fs = HumFs::new(tree, Options::default()).map_err(failed)?;
        let dates = Dates::new(control.as_fd()).map_err(cannot)?;
        Restorer { fs: &fs, nodes, dates, told, count: 0, settled: Vec::new(), ahead: Vec::new() }.run()?;
        fs.close().map_err(failed)?;
        host::replace_file(control.as_fd(), RESTORING, b"2\n").map_err(cannot)?;
    }
    clear_away(path).map_err(cannot)
}

fn c_path(path: &Path) -> std::result::Result<CString, UsageError> {
    CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| UsageError("a path cannot have a NUL in it".into()))
}

struct Restorer<'f, 't> {
    fs: &'f HumFs,
    nodes: OwnedFd,
    dates: Dates,
    told: Told<'t>,
    count: u64,
    /// Directories that have been gone through. Their modes may keep even us
    /// out, so they come last.
    settled: Vec<(Arc<Inode>, Option<Record>)>,
    ahead: Vec<(Arc<Inode>, Option<Record>)>,
}

impl Restorer<'_, '_> {
    fn run(mut self) -> std::result::Result<(), UsageError> {
        let shown = self.fs.tree.path().display().to_string();
        let failed = |error: externfs::Error| UsageError(format!("'{shown}/data': {error}"));
        let start = || -> Result<(Arc<Inode>, Option<Record>)> {
            let root = self.fs.root()?.inner.clone();
            let host = self.fs.base.attr(&root, None)?;
            Ok((root, found(self.fs.store.load_root(self.fs.base.root_fd(), &host)?)))
        };
        let root = start().map_err(failed)?;
        self.ahead.push(root);
        while let Some(dir) = self.ahead.pop() {
            self.directory(&dir.0)?;
            self.settled.push(dir);
        }
        while let Some((dir, record)) = self.settled.pop() {
            let settle = || -> Result<()> {
                let fd = self.fs.base.dir_fd(&dir)?;
                self.dates.give_back((*fd).as_fd()).map_err(fault("setting the times of a directory"))?;
                let Some(record) = &record else { return Ok(()) };
                let object = Object::from(host::child((*fd).as_fd(), c".").map_err(fault("opening a directory"))?);
                give_back(&object, record).map_err(fault("giving a directory back"))
            };
            settle().map_err(failed)?;
        }
        Ok(())
    }

    fn directory(&mut self, dir: &Arc<Inode>) -> std::result::Result<(), UsageError> {
        let shown = format!("{}/data", self.fs.tree.path().display());
        let failed = |error: externfs::Error| UsageError(format!("'{shown}': {error}"));
        let fd = self.fs.base.dir_fd(dir).map_err(failed)?;
        let names = host::names((*fd).as_fd()).map_err(|error| failed(fault("reading a directory")(error)))?;
        for (name, _) in names {
            let at = At { parent: dir, dir: (*fd).as_fd(), name: &name };
            self.object(&at).map_err(|error| {
                let path = self.fs.path_of(&at).unwrap_or_default();
                UsageError(format!("'{shown}/{}': {error}", path.escape_ascii()))
            })?;
            self.count += 1;
            (self.told)(Pass::Restoring, self.count);
        }
        Ok(())
    }

    fn object(&mut self, at: &At<'_>) -> Result<()> {
        let host = host::stat_at(at.dir, at.name).map_err(fault("looking up a name"))?;
        let record = found(self.fs.store.load(at, &host)?);
        if host.kind == FileKind::Directory {
            self.ahead.push((self.fs.base.enroll(at.parent, at.name)?.0, record));
            return Ok(());
        }
        // The host made it behind our back: it has what it has.
        let Some(record) = record else { return Ok(()) };
        let done = if record.kind == host.kind {
            hold(at.dir, at.name, &host).and_then(|object| give_back(&object, &record))
        } else {
            self.replace(at, &host, &record)
        };
        done.map_err(|error| match error {
            Host::PERM => {
                externfs::Error::because(externfs::Errno::EPERM, "to give a file to another user, or to make a device, takes root")
            }
            other => fault("giving a file back")(other),
        })
    }

    /// Puts the real thing in the place of the file that stands for it.
    fn replace(&self, at: &At<'_>, host: &Attr, record: &Record) -> Fault<()> {
        let staged = CString::new(host.ino.to_string()).map_err(|_| Host::INVAL)?;
        let device = rustix::fs::makedev(record.device.major, record.device.minor);
        let made = if record.kind == FileKind::Symlink {
            rustix::fs::symlinkat(record.target.as_deref().ok_or(Host::INVAL)?, &self.nodes, &staged)
        } else {
            rustix::fs::mknodat(&self.nodes, &staged, FileType::from_raw_mode(record.kind.mode_bits()), Mode::empty(), device)
        };
        match made {
            Ok(()) | Err(Host::EXIST) => {}
            Err(other) => return Err(other),
        }
        let is_same = |stat: &Stat| !record.kind.is_device() || stat.st_rdev == device;
        let is_meant = |stat: &Stat| FileKind::from_mode(stat.st_mode) == Some(record.kind) && is_same(stat);
        let object = Object::hold(self.nodes.as_fd(), &staged, is_meant)?;
        give_back(&object, record)?;
        object.set_times(&times(host))?;
        self.dates.keep(at.dir)?;
        let dir = rustix::io::fcntl_dupfd_cloexec(at.dir, 0)?;
        take_place(&self.nodes, &staged, &dir, at.name, host.nlink > 1)
    }
}

fn found(loaded: Loaded) -> Option<Record> {
    match loaded {
        Loaded::Record(record) => Some(record),
        Loaded::Absent => None,
    }
}

/// What `host` was said of: the tree's owner may have put something else in its
/// place.
fn hold(dir: BorrowedFd<'_>, name: &CStr, host: &Attr) -> Fault<Object> {
    Object::hold(dir, name, |stat| stat.st_ino == host.ino && FileKind::from_mode(stat.st_mode) == Some(host.kind))
}

/// Owner, then mode, then attributes: each takes away from those after it.
fn give_back(object: &Object, record: &Record) -> Fault<()> {
    object.chown(Uid::from_raw(record.uid.0), Gid::from_raw(record.gid.0))?;
    if record.kind != FileKind::Symlink {
        object.chmod(record.mode.bits())?;
    }
    for (attribute, value) in record.xattrs.iter() {
        let attribute = CString::new(attribute).map_err(|_| Host::INVAL)?;
        object.set_xattr(&attribute, value)?;
    }
    Ok(())
}

/// The times of `host`, to be set.
fn times(host: &Attr) -> Timestamps {
    let at = |at: Timestamp| Timespec { tv_sec: at.seconds, tv_nsec: at.nanoseconds.into() };
    Timestamps { last_access: at(host.atime), last_modification: at(host.mtime) }
}

/// Takes everything away that made it a tree; the mark goes last.
fn clear_away(path: &Path) -> Fault<()> {
    let root = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let control = host::child_dir(root.as_fd(), c"humfs")?;
    let lock = take_lock(control.as_fd(), path).map_err(|_| Host::BUSY)?;
    let text = host::read_file(root.as_fd(), c"superblock", 4096).unwrap_or_default();
    if Superblock::parse(&text).is_ok_and(|superblock| superblock.format == Format::Xattr) {
        strip(&host::child_dir(root.as_fd(), c"data")?)?;
    }
    rustix::fs::syncfs(&root)?;
    host::remove_file(root.as_fd(), c"superblock")?;
    for part in PARTS.into_iter().filter(|part| *part != c"data") {
        host::remove_deep(root.as_fd(), part)?;
    }
    if let Ok(line) = host::read_file(control.as_fd(), BEFORE, 64)
        && let Ok(before) = Record::from_line(&line, FileKind::Directory)
    {
        rustix::fs::fchown(&root, Some(Uid::from_raw(before.uid.0)), Some(Gid::from_raw(before.gid.0)))?;
        rustix::fs::fchmod(&root, Mode::from_raw_mode(before.mode.bits()))?;
    }
    for (name, _) in host::names(control.as_fd())? {
        if *name != *RESTORING {
            host::remove_deep(control.as_fd(), &name)?;
        }
    }
    drop(lock);
    host::remove_deep(root.as_fd(), c"humfs")
}

/// Takes the records of the `xattr` format from everything in `data`.
fn strip(data: &OwnedFd) -> Fault<()> {
    strip_one(data.as_fd(), c".")?;
    each_below(data, &mut strip_one)
}

fn strip_one(dir: BorrowedFd<'_>, name: &CStr) -> Fault<()> {
    host::remove_attribute(dir, name, crate::store::xattr::ATTRIBUTE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use externfs::{GuestGid, GuestUid};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn a_link_put_in_its_place_gets_nothing() {
        let place = tempfile::tempdir().expect("a directory");
        let (file, outside) = (place.path().join("f"), place.path().join("outside"));
        for path in [&file, &outside] {
            std::fs::write(path, "").expect("a file");
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o640)).expect("chmod");
        }
        let root = rustix::fs::open(place.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).expect("open");
        let host = host::stat_at(root.as_fd(), c"f").expect("stat");
        std::fs::remove_file(&file).expect("unlink");
        symlink(&outside, &file).expect("a link");
        let owner = outside.metadata().expect("stat");
        let mode = externfs::Mode::new(0o666);
        let record = Record::new(FileKind::Regular, mode, GuestUid(owner.uid()), GuestGid(owner.gid()));
        let done = hold(root.as_fd(), c"f", &host).and_then(|object| give_back(&object, &record));
        assert_eq!(done, Err(Host::STALE));
        assert_eq!(outside.metadata().expect("stat").mode() & 0o7777, 0o640);
    }
}
