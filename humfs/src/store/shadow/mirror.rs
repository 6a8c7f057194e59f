//! [`Mirror`]: a tree beside the data tree that has a directory for each of
//! its directories, under the same names.
//!
//! The way into it is found like the way into the data tree: from a directory
//! up to the root, or to one that is known, and down again, one component at a
//! time, links refused. Descriptors of the mirrors used last are kept. They
//! stay right when a directory moves, since its mirrors move too.

use super::own;
use crate::host::{self, damaged, fault};
use crate::path;
use externfs::{Errno, Error, NodeKey, Result};
use hostfs::Inode;
use lru::LruCache;
use rustix::fs::{AtFlags, DirEntry, FileType, RenameFlags};
use rustix::io::Errno as Host;
use std::ffi::{CStr, CString};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

/// A longer chain of directories is a loop.
const LEVELS: usize = 1 << 16;

/// What in a mirror is no directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Holds {
    /// The record of the object with the same name.
    Files,
    /// The record of the directory that it lies in.
    Dirs,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Mirror {
    root: Arc<OwnedFd>,
    /// Device and number of the data tree's root.
    data_root: NodeKey,
    holds: Holds,
    cache: Mutex<LruCache<(u64, u64), Known>>,
    /// Where directories' own records lie: held for reading while one is
    /// looked for and used by its name, for writing while one gets another.
    names: RwLock<()>,
}

/// What is known of a directory's mirror.
#[derive(Debug)]
struct Known {
    /// Of the directory: its number may have been another's before.
    generation: u64,
    /// None: there is no mirror.
    dir: Option<Arc<OwnedFd>>,
}

impl Mirror {
    pub(super) fn new(root: OwnedFd, data_root: NodeKey, holds: Holds, capacity: NonZeroUsize) -> Mirror {
        let cache = Mutex::new(LruCache::new(capacity));
        Mirror { root: Arc::new(root), data_root, holds, cache, names: RwLock::default() }
    }

    pub(super) fn root(&self) -> &Arc<OwnedFd> {
        &self.root
    }

    pub(super) fn holds_dirs(&self) -> bool {
        self.holds == Holds::Dirs
    }

    /// The mirror of the directory `node`, if it has one.
    pub(super) fn find(&self, node: &Arc<Inode>) -> Result<Option<Arc<OwnedFd>>> {
        self.walk(node, false)
    }

    /// As [`Mirror::find`], made if need be.
    pub(super) fn make(&self, node: &Arc<Inode>) -> Result<Arc<OwnedFd>> {
        self.walk(node, true)?.ok_or(Errno::ENOENT.into())
    }

    pub(super) fn walk(&self, node: &Arc<Inode>, make: bool) -> Result<Option<Arc<OwnedFd>>> {
        let mut below: Vec<(NodeKey, CString)> = Vec::new();
        let mut at = node.clone();
        let mut dir = loop {
            let key = at.host_key();
            if key == self.data_root {
                break self.root.clone();
            }
            match self.known(key) {
                Some(Some(dir)) => break dir,
                Some(None) if !make => {
                    // Else each level of a deep tree would climb to here again.
                    self.remember(node.host_key(), None);
                    return Ok(None);
                }
                _ => {}
            }
            // A directory that was removed takes no more names.
            let (parent, name) = at.whereabouts().ok_or(Errno::ENOENT)?;
            below.push((key, name));
            if below.len() > LEVELS {
                return Err(Error::because(Errno::ESTALE, "directories above form a loop"));
            }
            at = parent;
        };
        while let Some((key, name)) = below.pop() {
            let found = self.child(dir.as_fd(), &name, make)?.map(Arc::new);
            self.remember(key, found.clone());
            match found {
                Some(next) => dir = next,
                None => {
                    self.remember(node.host_key(), None);
                    return Ok(None);
                }
            }
        }
        Ok(Some(dir))
    }

    /// The directory `name` in `above`, which is in this tree.
    pub(super) fn child(&self, above: BorrowedFd<'_>, name: &CStr, make: bool) -> Result<Option<OwnedFd>> {
        for _ in 0..8 {
            match host::child_dir(above, name) {
                Ok(dir) => return Ok(Some(dir)),
                Err(Host::NOENT | Host::NOTDIR | Host::LOOP) if !make => return Ok(None),
                Err(Host::NOENT) => match rustix::fs::mkdirat(above, name, host::DIR_MODE) {
                    Ok(()) | Err(Host::EXIST) => {}
                    Err(other) => return Err(fault("making a metadata directory")(other)),
                },
                Err(Host::NOTDIR | Host::LOOP) => self.vacate(above, name)?,
                Err(other) => return Err(fault("opening a metadata directory")(other)),
            }
        }
        Err(damaged(format!("the metadata directory '{}' comes and goes", path::shown(name))))
    }

    /// Makes the directory `name` in `above`, empty whatever was left there.
    pub(super) fn make_empty(&self, above: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        for _ in 0..8 {
            match rustix::fs::mkdirat(above, name, host::DIR_MODE) {
                Err(Host::EXIST) => self.vacate(above, name)?,
                answer => return answer.map_err(fault("making a metadata directory")),
            }
        }
        Err(damaged(format!("the metadata directory '{}' comes and goes", path::shown(name))))
    }

    /// Makes room for a directory called `name` in `above`.
    pub(super) fn vacate(&self, above: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        if self.holds == Holds::Dirs {
            let _moving = self.names.write().unwrap_or_else(PoisonError::into_inner);
            if own::step_aside(above, name).map_err(fault("moving a directory's record out of the way"))? {
                return Ok(());
            }
        }
        self.purge(above, name)
    }

    /// Takes away what is kept of an object called `name` in `above`.
    pub(super) fn purge(&self, above: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        let failed = fault("removing a record");
        if self.holds == Holds::Files {
            match rustix::fs::unlinkat(above, name, AtFlags::empty()) {
                Err(Host::ISDIR | Host::PERM) => {}
                Err(Host::NOENT) => return Ok(()),
                answer => return answer.map_err(failed),
            }
        } else if let Ok(dir) = host::child_dir(above, name) {
            // Usually all that is in there.
            let _ = rustix::fs::unlinkat(&dir, own::USUAL, AtFlags::empty());
        }
        match rustix::fs::unlinkat(above, name, AtFlags::REMOVEDIR) {
            // What is no directory is the record of the one above.
            Ok(()) | Err(Host::NOENT | Host::NOTDIR) => Ok(()),
            Err(Host::NOTEMPTY | Host::EXIST) => host::remove_tree(above, name).map_err(failed),
            Err(other) => Err(failed(other)),
        }
    }

    /// The number of what is kept of an object called `name` in `above`; 0 for
    /// nothing, which no host file has.
    pub(super) fn number(&self, above: BorrowedFd<'_>, name: &CStr) -> Result<u64> {
        match rustix::fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if self.holds == Holds::Dirs && stat.st_mode & libc::S_IFMT != libc::S_IFDIR => Ok(0),
            Ok(stat) => Ok(stat.st_ino),
            Err(Host::NOENT) => Ok(0),
            Err(other) => Err(fault("looking for a record")(other)),
        }
    }

    /// Whether an entry of a directory in here is kept for the object of that
    /// name; else it is the record of that directory.
    pub(super) fn keeps(&self, dir: BorrowedFd<'_>, entry: &DirEntry) -> Result<bool> {
        match (self.holds, entry.file_type()) {
            (Holds::Files, _) => Ok(true),
            (Holds::Dirs, FileType::Unknown) => Ok(self.number(dir, entry.file_name())? != 0),
            (Holds::Dirs, kind) => Ok(kind == FileType::Directory),
        }
    }

    /// Lets what is kept under `from` and under `to` change places; either may
    /// have nothing, see [`Mirror::number`]. One call of the host, and its own
    /// opposite.
    pub(super) fn swap(&self, from: (BorrowedFd<'_>, &CStr), to: (BorrowedFd<'_>, &CStr), numbers: (u64, u64)) -> Result<()> {
        let (from, to) = match numbers {
            (0, 0) => return Ok(()),
            (0, _) => (to, from),
            (_, 0) => (from, to),
            _ => {
                let exchange = RenameFlags::EXCHANGE;
                return rustix::fs::renameat_with(from.0, from.1, to.0, to.1, exchange).map_err(fault("exchanging records"));
            }
        };
        match host::rename_new(from.0, from.1, to.0, to.1) {
            Err(Host::EXIST) => {
                self.vacate(to.0, to.1)?;
                host::rename_new(from.0, from.1, to.0, to.1).map_err(fault("moving a record"))
            }
            answer => answer.map_err(fault("moving a record")),
        }
    }

    /// Holds the names of directories' own records as they are.
    pub(super) fn hold_names(&self) -> RwLockReadGuard<'_, ()> {
        self.names.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what is known of a directory that is no longer there.
    pub(super) fn forget(&self, volume: u64, number: u64) {
        let forgotten = self.cache().pop(&(volume, number));
        drop(forgotten);
    }

    /// Closes all that nobody is using: for when descriptors run out.
    pub(super) fn clear(&self) {
        self.cache().clear();
    }

    fn known(&self, key: NodeKey) -> Option<Option<Arc<OwnedFd>>> {
        let mut cache = self.cache();
        let known = cache.get(&(key.volume, key.number))?;
        (known.generation == key.generation).then(|| known.dir.clone())
    }

    fn remember(&self, key: NodeKey, dir: Option<Arc<OwnedFd>>) {
        // The one that gives way is closed when the lock is free: close(2) may sleep.
        let evicted = self.cache().push((key.volume, key.number), Known { generation: key.generation, dir });
        drop(evicted);
    }

    fn cache(&self) -> MutexGuard<'_, LruCache<(u64, u64), Known>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn cached(&self) -> usize {
        self.cache().iter().filter(|(_, known)| known.dir.is_some()).count()
    }
}

/// The two mirrors that together have one record for each object.
#[derive(Debug)]
pub(super) struct Pair {
    /// A record for each object that is no directory.
    pub(super) files: Mirror,
    /// A record in each directory, for that.
    pub(super) dirs: Mirror,
}
