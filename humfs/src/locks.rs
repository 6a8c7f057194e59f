//! Who waits for whom: what [`crate::store`] has been promised.
//!
//! A directory is locked by a shard of its number: shared by whoever reads or
//! saves a record of a name in it, exclusive by whoever changes names. Moving
//! a directory excludes everything else that goes by names, since stores reach
//! their own directories by the way up to the root.
//!
//! An object may have names in several directories. Whoever gives it one or
//! takes one away holds the object too ([`DirLocks::links`]), or two who take
//! away the last two names would each believe that the other one stays.

use hostfs::Inode;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

const SHARDS: usize = 64;

/// The locks of a tree.
pub(crate) struct DirLocks {
    /// Outermost: exclusive while a directory moves.
    moves: RwLock<()>,
    shards: [RwLock<()>; SHARDS],
    /// Innermost: objects whose names change.
    links: [Mutex<()>; SHARDS],
}

/// Names of one directory may be looked at.
pub(crate) struct Looking<'a> {
    _moves: RwLockReadGuard<'a, ()>,
    _dir: RwLockReadGuard<'a, ()>,
}

/// Names of one or two directories may be changed.
pub(crate) struct Changing<'a> {
    _moves: Option<RwLockReadGuard<'a, ()>>,
    _alone: Option<RwLockWriteGuard<'a, ()>>,
    _first: RwLockWriteGuard<'a, ()>,
    _second: Option<RwLockWriteGuard<'a, ()>>,
}

/// One or two objects of which nobody else changes names.
pub(crate) struct Linking<'a> {
    shards: [Option<usize>; 2],
    _guards: [Option<MutexGuard<'a, ()>>; 2],
}

impl Linking<'_> {
    /// Whether the object with this number is one of them.
    pub(crate) fn has(&self, number: u64) -> bool {
        self.shards.contains(&Some(shard_of(number)))
    }
}

fn shard_of(number: u64) -> usize {
    (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize % SHARDS
}

fn shard(dir: &Inode) -> usize {
    shard_of(dir.host_key().number)
}

impl DirLocks {
    pub(crate) fn new() -> DirLocks {
        DirLocks {
            moves: RwLock::default(),
            shards: std::array::from_fn(|_| RwLock::default()),
            links: std::array::from_fn(|_| Mutex::default()),
        }
    }

    pub(crate) fn look(&self, dir: &Inode) -> Looking<'_> {
        Looking {
            _moves: self.moves.read().unwrap_or_else(PoisonError::into_inner),
            _dir: self.shards[shard(dir)].read().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// For a rename; `alone` if it moves a directory.
    pub(crate) fn change_two(&self, one: &Inode, two: &Inode, alone: bool) -> Changing<'_> {
        let (shared, alone) = if alone {
            (None, Some(self.moves.write().unwrap_or_else(PoisonError::into_inner)))
        } else {
            (Some(self.moves.read().unwrap_or_else(PoisonError::into_inner)), None)
        };
        // In order of their index, so that two renames cannot wait for each other.
        let (low, high) = (shard(one).min(shard(two)), shard(one).max(shard(two)));
        let first = self.shards[low].write().unwrap_or_else(PoisonError::into_inner);
        let second = (high != low).then(|| self.shards[high].write().unwrap_or_else(PoisonError::into_inner));
        Changing { _moves: shared, _alone: alone, _first: first, _second: second }
    }

    /// Of the objects with these numbers on the host. The directories are held.
    pub(crate) fn links(&self, numbers: [Option<u64>; 2]) -> Linking<'_> {
        let [one, two] = numbers.map(|number| number.map(shard_of));
        let lock = |shard: usize| self.links[shard].lock().unwrap_or_else(PoisonError::into_inner);
        let (low, high) = match (one, two) {
            (Some(one), Some(two)) => (Some(one.min(two)), Some(one.max(two)).filter(|_| one != two)),
            (one, two) => (one.or(two), None),
        };
        let first = low.map(lock);
        Linking { shards: [low, high], _guards: [first, high.map(lock)] }
    }
}
