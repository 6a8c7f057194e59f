//! A tree, a store over it, and objects by path.

use super::super::ShadowStore;
use crate::record::Record;
use crate::store::{At, Facts, Format, Loaded, MetaStore, Object, Place, Recovered, Renaming};
use crate::tree::{Access, Tree};
use externfs::{Attr, Errno, ExternFs, FileKind, GuestGid, GuestUid, Mode, Name, Result};
use hostfs::{HostFs, Inode};
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) const BOTH: [Format; 2] = [Format::ShadowFs, Format::ShadowLink];

pub(super) struct Rig {
    pub(super) dir: tempfile::TempDir,
    pub(super) store: ShadowStore,
    pub(super) fs: HostFs,
    pub(super) format: Format,
    /// Its lock.
    _tree: Tree,
}

/// A record with an owner and mode that tell it from others.
pub(super) fn record(kind: FileKind, mode: u32, uid: u32) -> Record {
    let mut record = Record::new(kind, Mode::new(mode), GuestUid(uid), GuestGid(uid + 1));
    if kind == FileKind::Symlink {
        record.target = Some(b"over/there".as_slice().into());
    }
    record
}

pub(super) fn file(uid: u32) -> Record {
    record(FileKind::Regular, 0o640, uid)
}

pub(super) fn directory(uid: u32) -> Record {
    record(FileKind::Directory, 0o750, uid)
}

pub(super) fn with_xattr(mut record: Record, value: &str) -> Record {
    record.xattrs.set(b"user.x", value.as_bytes());
    record
}

fn open(path: &Path, format: Format) -> (Tree, ShadowStore, HostFs) {
    let tree = Tree::open(path, Access::Write).unwrap();
    let store = ShadowStore::open(&tree, format).unwrap();
    let data = rustix::io::fcntl_dupfd_cloexec(tree.data(), 0).unwrap();
    (tree, store, HostFs::layer(data, false).unwrap())
}

impl Rig {
    pub(super) fn new(format: Format) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["data", "file_metadata", "dir_metadata"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        std::fs::write(at("dir_metadata/metadata"), "493 0 0\n").unwrap();
        std::fs::write(at("superblock"), format!("version 2\nmetadata {}\nused 1\ntotal 1000000\n", format.name())).unwrap();
        let (tree, store, fs) = open(dir.path(), format);
        Rig { store, fs, format, _tree: tree, dir }
    }

    /// As after the death of the server.
    pub(super) fn again(self) -> (Rig, Recovered) {
        let Rig { dir, store, fs, format, _tree } = self;
        drop((store, fs, _tree));
        let (tree, store, fs) = open(dir.path(), format);
        let recovered = store.recover(&fs.root().unwrap()).unwrap();
        (Rig { dir, store, fs, format, _tree: tree }, recovered)
    }

    /// On the host.
    pub(super) fn host(&self, path: impl AsRef<[u8]>) -> PathBuf {
        self.dir.path().join(OsStr::from_bytes(path.as_ref()))
    }

    /// What a record's file holds: text, or the target of a link with an LF.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        let path = self.host(path);
        match std::fs::read_link(&path) {
            Ok(target) => Some(format!("{}\n", target.display())),
            Err(_) => std::fs::read_to_string(&path).ok(),
        }
    }

    pub(super) fn dir(&self, path: &[u8]) -> Arc<Inode> {
        let mut node = self.fs.root().unwrap();
        for part in path.split(|&b| b == b'/').filter(|part| !part.is_empty()) {
            node = self.fs.lookup(&node, Name::new(part).unwrap()).unwrap().0;
        }
        node
    }

    pub(super) fn at<T>(&self, path: impl AsRef<[u8]>, call: impl FnOnce(&At<'_>) -> T) -> T {
        let path = path.as_ref();
        let cut = path.iter().rposition(|&b| b == b'/');
        let parent = self.dir(cut.map_or(&[], |cut| &path[..cut]));
        let dir = self.fs.dir_fd(&parent).unwrap();
        let name = CString::new(cut.map_or(path, |cut| &path[cut + 1..])).unwrap();
        call(&At { parent: &parent, dir: dir.as_fd(), name: &name })
    }

    pub(super) fn attr(&self, path: impl AsRef<[u8]>) -> Option<Attr> {
        self.at(path, |at| self.fs.lookup(at.parent, Name::new(at.name.to_bytes()).unwrap()).ok().map(|(_, attr)| attr))
    }

    /// Of an open file without a name.
    pub(super) fn attr_of(&self, fd: &OwnedFd) -> Attr {
        let fd = fd.try_clone().unwrap();
        self.fs.enroll_file(None, fd, true).unwrap().attr
    }

    pub(super) fn facts(&self, path: impl AsRef<[u8]>) -> Option<Facts> {
        self.attr(path).map(|attr| Facts { ino: attr.ino, kind: attr.kind, nlink: attr.nlink })
    }

    pub(super) fn object<T>(&self, path: impl AsRef<[u8]>, call: impl FnOnce(&Object<'_>) -> T) -> T {
        let attr = self.attr(&path).expect("there is an object");
        self.at(path, |at| {
            let fd = crate::host::child(at.dir, at.name).unwrap();
            call(&Object { hold: crate::store::Hold::Path(fd.as_fd()), place: Place::Named(*at), host: &attr, known: None })
        })
    }

    pub(super) fn create(&self, path: impl AsRef<[u8]>, record: &Record) -> Result<OwnedFd> {
        self.at(path, |at| self.store.create(at, record).map(|(fd, _)| fd))
    }

    /// The record of an object; None if it has none. Panics if there is no
    /// object.
    pub(super) fn load(&self, path: impl AsRef<[u8]>) -> Result<Option<Record>> {
        let attr = self.attr(&path).expect("there is an object");
        match self.at(path, |at| self.store.load(at, &attr))? {
            Loaded::Record(record) => Ok(Some(record)),
            Loaded::Absent => Ok(None),
        }
    }

    /// The record's owner, for objects that must have one; None if there is no
    /// object.
    pub(super) fn owner(&self, path: impl AsRef<[u8]>) -> Option<u32> {
        self.attr(&path)?;
        Some(self.load(&path).unwrap().expect("a record").uid.0)
    }

    pub(super) fn save(&self, path: impl AsRef<[u8]>, record: &Record) -> Result<()> {
        self.object(path, |object| self.store.save(object, record).map(drop))
    }

    pub(super) fn link(&self, from: &str, to: &str) -> Result<()> {
        let record = self.load(from).unwrap().unwrap_or_else(|| file(77));
        self.object(from, |object| self.at(to, |to| self.store.link(object, to, &record)))
    }

    pub(super) fn remove(&self, path: impl AsRef<[u8]>) -> Result<()> {
        let victim = self.facts(&path).expect("there is an object");
        self.at(path, |at| self.store.remove(at, victim))
    }

    fn renaming(&self, from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Renaming {
        Renaming { exchange: false, no_replace: false, moved: self.facts(from).expect("there is an object"), replaced: self.facts(to) }
    }

    pub(super) fn rename_as(&self, from: impl AsRef<[u8]>, to: impl AsRef<[u8]>, how: &Renaming) -> Result<()> {
        self.at(from, |from| self.at(to, |to| self.store.rename(from, to, how)))
    }

    pub(super) fn rename(&self, from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Result<()> {
        let how = self.renaming(&from, &to);
        self.rename_as(from, to, &how)
    }

    pub(super) fn exchange(&self, from: &str, to: &str) -> Result<()> {
        self.rename_as(from, to, &Renaming { exchange: true, ..self.renaming(from, to) })
    }

    /// Everything below the tree but `humfs/`, data excepted, as sorted paths.
    pub(super) fn metadata(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut todo: Vec<PathBuf> =
            ["file_metadata", "dir_metadata", "file_attributes", "dir_attributes"].iter().map(|name| self.host(name)).collect();
        while let Some(dir) = todo.pop() {
            for entry in std::fs::read_dir(&dir).into_iter().flatten() {
                let entry = entry.unwrap();
                let shown = entry.path().strip_prefix(self.dir.path()).unwrap().to_string_lossy().into_owned();
                if entry.file_type().unwrap().is_dir() {
                    todo.push(entry.path());
                    found.push(shown + "/");
                } else {
                    found.push(shown);
                }
            }
        }
        found.sort();
        found
    }

    /// Nothing is in flight.
    pub(super) fn is_quiet(&self) -> bool {
        ["intents", "stage"].iter().all(|name| std::fs::read_dir(self.host(format!("humfs/{name}"))).unwrap().count() == 0)
    }
}

/// The errno of what must have failed.
pub(super) fn errno<T>(result: Result<T>) -> Errno {
    match result {
        Ok(_) => panic!("succeeded"),
        Err(error) => error.errno(),
    }
}
