//! [`Inode`]: one object of the host that a guest remembers. It costs no
//! descriptor: it knows its directory and its name there.
//!
//! A name is only a hint, since the host may change it at any time. Whoever
//! goes by it compares what it finds with [`Inode::key`]. Two things are surer
//! than the name and are tried first: a file that the guest has open, and the
//! pin that is taken before the name is removed.

use crate::locks::{LockTable, Lockers};
use crate::pins::Pin;
use externfs::{FileKind, NodeKey};
use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// One object of the host. What a guest calls an inode.
pub struct Inode {
    key: NodeKey,
    kind: FileKind,
    /// [`crate::attr::Stat::stamp`] as last told to a kernel.
    stamp: AtomicU64,
    place: Mutex<Place>,
}

/// Where an inode is found.
pub(crate) struct Place {
    /// None for the root and for files without a name.
    pub(crate) parent: Option<Arc<Inode>>,
    pub(crate) name: Box<CStr>,
    /// Holds the object while no name is known to lead to it.
    pub(crate) pin: Option<Arc<Pin>>,
    /// The file opened last, while it is open.
    pub(crate) opened: Weak<OpenFile>,
}

impl Inode {
    pub(crate) fn new(key: NodeKey, kind: FileKind, parent: Option<Arc<Inode>>, name: Box<CStr>) -> Inode {
        let place = Place { parent, name, pin: None, opened: Weak::new() };
        Inode { key, kind, stamp: AtomicU64::new(0), place: Mutex::new(place) }
    }

    /// Its identity on the host.
    pub(crate) fn key(&self) -> NodeKey {
        self.key
    }

    pub(crate) fn kind(&self) -> FileKind {
        self.kind
    }

    pub(crate) fn place(&self) -> MutexGuard<'_, Place> {
        // Each change of a place is a few plain stores: whole even after a panic.
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A kernel has been told attributes with this stamp.
    pub(crate) fn told(&self, stamp: u64) {
        self.stamp.store(stamp, Ordering::Relaxed);
    }

    pub(crate) fn last_told(&self) -> u64 {
        self.stamp.load(Ordering::Relaxed)
    }

    /// Moves it to `name` in `parent`; what held it in the meantime goes.
    pub(crate) fn settle(&self, parent: Option<Arc<Inode>>, name: Box<CStr>) {
        let mut place = self.place();
        let before = (std::mem::replace(&mut place.parent, parent), place.pin.take());
        place.name = name;
        // Dropping these may close a descriptor or drop a chain of directories.
        drop(place);
        drop(before);
    }

    /// Whether it is remembered under `name` in `parent`.
    pub(crate) fn is_at(&self, parent: &Inode, name: &CStr) -> bool {
        let place = self.place();
        *place.name == *name && place.parent.as_ref().is_some_and(|p| p.key == parent.key)
    }

    /// The directory that it was last seen in.
    pub(crate) fn parent(&self) -> Option<Arc<Inode>> {
        self.place().parent.clone()
    }
}

impl Drop for Inode {
    /// Lets go of the chain of directories above without recursion: a tree may
    /// be thousands of levels deep, a stack not.
    fn drop(&mut self) {
        let take = |place: &mut Mutex<Place>| place.get_mut().unwrap_or_else(PoisonError::into_inner).parent.take();
        let mut next = take(&mut self.place);
        while let Some(parent) = next {
            // Somebody else's too: then it stays, and so does all above it.
            let Some(mut parent) = Arc::into_inner(parent) else { break };
            next = take(&mut parent.place);
        }
    }
}

impl std::fmt::Debug for Inode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inode").field("key", &self.key).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// An open regular file of the host.
pub struct OpenFile {
    pub(crate) fd: OwnedFd,
    pub(crate) node: Arc<Inode>,
    pub(crate) writable: bool,
    /// Whose locks came through this file; they go with it.
    pub(crate) lockers: Lockers,
    locks: Arc<LockTable>,
}

impl OpenFile {
    /// Makes it known to its inode, which from now on is reached through it.
    pub(crate) fn register(fd: OwnedFd, node: Arc<Inode>, writable: bool, locks: &Arc<LockTable>) -> Arc<OpenFile> {
        let file = Arc::new(OpenFile { fd, node, writable, lockers: Lockers::default(), locks: locks.clone() });
        let before = std::mem::replace(&mut file.node.place().opened, Arc::downgrade(&file));
        drop(before);
        file
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.lockers.release(&self.locks, self.node.key);
        // A dead weak reference would keep this file's memory for as long as
        // the inode is remembered.
        let mut place = self.node.place();
        if place.opened.strong_count() == 0 {
            place.opened = Weak::new();
        }
    }
}

impl std::fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenFile").field("fd", &self.fd).field("node", &self.node.key).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inode(number: u64, parent: Option<Arc<Inode>>) -> Arc<Inode> {
        let key = NodeKey { volume: 1, number, generation: 0 };
        Arc::new(Inode::new(key, FileKind::Directory, parent, c"n".into()))
    }

    #[test]
    fn a_deep_chain_is_dropped_without_recursion() {
        let mut deepest = inode(0, None);
        for number in 1..1_000_000 {
            deepest = inode(number, Some(deepest));
        }
        std::thread::Builder::new().stack_size(64 << 10).spawn(move || drop(deepest)).unwrap().join().unwrap();
    }

    #[test]
    fn a_chain_that_others_share_stays() {
        let root = inode(0, None);
        let middle = inode(1, Some(root.clone()));
        let (left, right) = (inode(2, Some(middle.clone())), inode(3, Some(middle)));
        drop(left);
        assert_eq!(right.parent().unwrap().parent().unwrap().key(), root.key());
        drop(right);
        assert_eq!(Arc::strong_count(&root), 1);
    }

    #[test]
    fn an_inode_is_small() {
        // With the reference counts and a short name this stays under 150 bytes.
        assert!(size_of::<Inode>() <= 96, "{}", size_of::<Inode>());
    }
}
