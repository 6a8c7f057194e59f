//! [`Inode`]: one object of the host that a guest remembers. It costs no
//! descriptor: it knows its directory and its name there.
//!
//! A name is only a hint, since the host may change it at any time. Whoever
//! goes by it compares what it finds with [`Inode::key`]. Two things are surer
//! than the name and are tried first: a file that the guest has open, and the
//! pin that is taken before the name is removed.

use crate::label::Label;
use crate::locks::{LockTable, Lockers};
use crate::pins::Pin;
use externfs::{FileKind, NodeKey};
use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// One object of the host. What a guest calls an inode.
pub struct Inode {
    number: u64,
    generation: u64,
    /// What [`crate::attr::Stat::volume`] says fits.
    volume: u32,
    /// A digest of [`crate::attr::Stat::stamp`] as last told to a kernel, and
    /// above it the kind.
    stamp_and_kind: AtomicU32,
    place: Mutex<Place>,
}

/// Bits of `stamp_and_kind` that are the stamp's: all but what seven kinds take.
const STAMP_BITS: u32 = 29;
const STAMP_MASK: u32 = (1 << STAMP_BITS) - 1;

/// Where an inode is found.
pub(crate) struct Place {
    /// None for the root and for files without a name.
    pub(crate) parent: Option<Arc<Inode>>,
    pub(crate) name: Label,
    /// What few have: apart, since a million inodes may be remembered.
    rare: Option<Box<Rare>>,
}

/// What is surer than a name.
#[derive(Default)]
struct Rare {
    /// Holds the object while no name is known to lead to it.
    pin: Option<Arc<Pin>>,
    /// The file opened last, while it is open.
    opened: Weak<OpenFile>,
    /// Names that it has, or had, beside the one that is noted, the latest last.
    others: Vec<(Arc<Inode>, Label)>,
}

/// Most names beside the one that is noted.
const OTHERS_MAX: usize = 8;

impl Place {
    pub(crate) fn pin(&self) -> Option<&Arc<Pin>> {
        self.rare.as_ref()?.pin.as_ref()
    }

    /// Returns the one before, to be dropped when the lock is free.
    #[must_use]
    pub(crate) fn set_pin(&mut self, pin: Option<Arc<Pin>>) -> Option<Arc<Pin>> {
        if pin.is_none() && self.rare.is_none() {
            return None;
        }
        let before = std::mem::replace(&mut self.rare.get_or_insert_default().pin, pin);
        self.tidy();
        before
    }

    pub(crate) fn opened(&self) -> Option<Arc<OpenFile>> {
        self.rare.as_ref()?.opened.upgrade()
    }

    pub(crate) fn set_opened(&mut self, file: &Arc<OpenFile>) {
        self.rare.get_or_insert_default().opened = Arc::downgrade(file);
    }

    /// The name in `parent` is one of its, or is not any more. Returns what was noted
    /// of it, to be dropped when the lock is free.
    #[must_use]
    fn set_other(&mut self, parent: &Arc<Inode>, name: &CStr, is: bool) -> Vec<(Arc<Inode>, Label)> {
        let is_noted = *self.name == *name && self.parent.as_ref().is_some_and(|p| p.key() == parent.key());
        if self.rare.is_none() && (!is || is_noted) {
            return Vec::new();
        }
        let others = &mut self.rare.get_or_insert_default().others;
        let is_it = |other: &mut (Arc<Inode>, Label)| *other.1 == *name && other.0.key() == parent.key();
        let mut gone: Vec<_> = others.extract_if(.., is_it).collect();
        if is && !is_noted {
            if others.len() >= OTHERS_MAX {
                gone.push(others.remove(0));
            }
            others.push((parent.clone(), name.into()));
        }
        self.tidy();
        gone
    }

    /// Frees what is no longer needed. A dead weak reference would keep its
    /// file's memory for as long as the inode is remembered.
    fn tidy(&mut self) {
        if let Some(rare) = &mut self.rare
            && rare.opened.strong_count() == 0
        {
            rare.opened = Weak::new();
            if rare.pin.is_none() && rare.others.is_empty() {
                self.rare = None;
            }
        }
    }
}

impl Inode {
    pub(crate) fn new(key: NodeKey, kind: FileKind, parent: Option<Arc<Inode>>, name: impl Into<Label>) -> Inode {
        let place = Place { parent, name: name.into(), rare: None };
        Inode {
            number: key.number,
            generation: key.generation,
            volume: key.volume as u32,
            stamp_and_kind: AtomicU32::new((kind as u32) << STAMP_BITS),
            place: Mutex::new(place),
        }
    }

    /// Its identity on the host.
    pub(crate) fn key(&self) -> NodeKey {
        NodeKey { volume: u64::from(self.volume), number: self.number, generation: self.generation }
    }

    pub(crate) fn kind(&self) -> FileKind {
        let number = self.stamp_and_kind.load(Ordering::Relaxed) >> STAMP_BITS;
        FileKind::ALL.get(number as usize).copied().unwrap_or(FileKind::Regular)
    }

    pub(crate) fn place(&self) -> MutexGuard<'_, Place> {
        // Each change of a place is a few plain stores: whole even after a panic.
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A kernel has been told attributes with this stamp.
    pub(crate) fn told(&self, stamp: u64) {
        self.set_digest(digest(stamp));
    }

    /// Whether a kernel was last told just these attributes.
    pub(crate) fn was_told(&self, stamp: u64) -> bool {
        self.digest() == digest(stamp)
    }

    /// Takes over what was told of the same object under another node.
    pub(crate) fn told_like(&self, other: &Inode) {
        self.set_digest(other.digest());
    }

    fn digest(&self) -> u32 {
        self.stamp_and_kind.load(Ordering::Relaxed) & STAMP_MASK
    }

    fn set_digest(&self, digest: u32) {
        // The kind never changes, so nobody's store is overwritten with another's.
        self.stamp_and_kind.store((self.kind() as u32) << STAMP_BITS | digest, Ordering::Relaxed);
    }

    /// Moves it to `name` in `parent`; what held it in the meantime goes.
    pub(crate) fn settle(&self, parent: Option<Arc<Inode>>, name: impl Into<Label>) {
        let mut place = self.place();
        let before = (std::mem::replace(&mut place.parent, parent), place.set_pin(None));
        place.name = name.into();
        // Dropping these may close a descriptor or drop a chain of directories.
        drop(place);
        drop(before);
    }

    /// It also goes by `name` in `parent` now.
    pub(crate) fn also_at(&self, parent: &Arc<Inode>, name: &CStr) {
        let before = self.place().set_other(parent, name, true);
        drop(before);
    }

    /// It does so no longer.
    pub(crate) fn no_longer_at(&self, parent: &Arc<Inode>, name: &CStr) {
        let before = self.place().set_other(parent, name, false);
        drop(before);
    }

    /// One of the names beside the one that is noted, which may be wrong by now. It is
    /// forgotten.
    pub(crate) fn take_other(&self) -> Option<(Arc<Inode>, Label)> {
        let mut place = self.place();
        let other = place.rare.as_mut()?.others.pop();
        place.tidy();
        other
    }

    /// Whether it is remembered under `name` in `parent`.
    pub(crate) fn is_at(&self, parent: &Inode, name: &CStr) -> bool {
        let place = self.place();
        *place.name == *name && place.parent.as_ref().is_some_and(|p| p.key() == parent.key())
    }

    /// The same, by this very inode of the directory.
    pub(crate) fn is_the_child(&self, parent: &Arc<Inode>, name: &CStr) -> bool {
        let place = self.place();
        *place.name == *name && place.pin().is_none() && place.parent.as_ref().is_some_and(|p| Arc::ptr_eq(p, parent))
    }

    /// The directory that it was last seen in.
    pub(crate) fn parent(&self) -> Option<Arc<Inode>> {
        self.place().parent.clone()
    }
}

/// Less than half of it is enough to notice a change, and fits beside the kind.
fn digest(stamp: u64) -> u32 {
    (stamp ^ (stamp >> STAMP_BITS) ^ (stamp >> (2 * STAMP_BITS))) as u32 & STAMP_MASK
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
        f.debug_struct("Inode").field("key", &self.key()).field("kind", &self.kind()).finish_non_exhaustive()
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
        file.node.place().set_opened(&file);
        file
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.lockers.release(&self.locks);
        self.node.place().tidy();
    }
}

impl std::fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenFile").field("fd", &self.fd).field("node", &self.node.key()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inode(number: u64, parent: Option<Arc<Inode>>) -> Arc<Inode> {
        let key = NodeKey { volume: 1, number, generation: 0 };
        Arc::new(Inode::new(key, FileKind::Directory, parent, c"n"))
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
        // With the reference counts it fills one of the allocator's sizes, and a
        // name of usual length is within.
        assert!(size_of::<Inode>() <= 72, "{}", size_of::<Inode>());
    }

    #[test]
    fn what_was_told_does_not_touch_the_kind() {
        for kind in FileKind::ALL {
            let key = NodeKey { volume: u64::from(u32::MAX), number: u64::MAX, generation: u64::MAX };
            let node = Inode::new(key, kind, None, c"n");
            node.told(u64::MAX);
            assert_eq!((node.kind(), node.key(), node.was_told(u64::MAX), node.was_told(0)), (kind, key, true, false));
        }
    }
}
