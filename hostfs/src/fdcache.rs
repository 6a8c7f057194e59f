//! [`DirCache`]: the `O_PATH` descriptors of the directories used last. They
//! are a budget: whatever a guest remembers, no more than `capacity` are kept.

use externfs::NodeKey;
use lru::LruCache;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Locks are held for a look-up; more shards than threads would gain nothing.
const SHARDS: usize = 8;

/// A directory of the jail.
pub(crate) struct DirFd {
    fd: OwnedFd,
    /// When it was last seen to be in the jail, in [`now_ms`].
    seen_ms: AtomicU64,
}

/// For how long a directory counts as still being where it was seen. The host
/// may move it out of the export; this is how long a guest can go on using it.
const TRUST_MS: u64 = 1000;

impl DirFd {
    /// Seen to be in the jail right now.
    pub(crate) fn new(fd: OwnedFd) -> DirFd {
        DirFd { fd, seen_ms: AtomicU64::new(now_ms()) }
    }

    pub(crate) fn is_trusted(&self) -> bool {
        now_ms().saturating_sub(self.seen_ms.load(Ordering::Relaxed)) < TRUST_MS
    }

    /// It has been seen again.
    pub(crate) fn trust(&self) {
        self.seen_ms.store(now_ms(), Ordering::Relaxed);
    }

    /// As if it had not been seen for long.
    #[cfg(test)]
    pub(crate) fn distrust(&self) {
        self.seen_ms.store(0, Ordering::Relaxed);
    }
}

impl AsFd for DirFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Milliseconds of the monotonic clock, ahead by an hour so that 0 is long ago
/// even right after boot. The coarse clock is read without a system call.
pub(crate) fn now_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    3_600_000 + now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// Directories by identity.
pub(crate) struct DirCache {
    shards: [Mutex<LruCache<NodeKey, Arc<DirFd>>>; SHARDS],
}

impl DirCache {
    /// Keeps about `capacity`: no more, and at least one a shard.
    pub(crate) fn new(capacity: usize) -> DirCache {
        let each = NonZeroUsize::new(capacity / SHARDS).unwrap_or(NonZeroUsize::MIN);
        DirCache { shards: std::array::from_fn(|_| Mutex::new(LruCache::new(each))) }
    }

    fn shard(&self, key: NodeKey) -> MutexGuard<'_, LruCache<NodeKey, Arc<DirFd>>> {
        // Inode numbers of directories are often multiples of a power of two.
        let spread = key.number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
        let shard = &self.shards[spread as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, key: NodeKey) -> Option<Arc<DirFd>> {
        self.shard(key).get(&key).cloned()
    }

    pub(crate) fn put(&self, key: NodeKey, dir: Arc<DirFd>) {
        // The evicted one is closed after the lock is free: close(2) may sleep.
        let evicted = self.shard(key).push(key, dir);
        drop(evicted);
    }

    pub(crate) fn remove(&self, key: NodeKey) {
        let removed = self.shard(key).pop(&key);
        drop(removed);
    }

    /// Closes all that nobody is using: for when descriptors run out.
    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            let mut all = shard.lock().unwrap_or_else(PoisonError::into_inner);
            all.clear();
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().unwrap().len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_its_capacity() {
        let cache = DirCache::new(64);
        for number in 0..1000 {
            let fd = std::fs::File::open("/").unwrap().into();
            cache.put(NodeKey { volume: 0, number, generation: 0 }, Arc::new(DirFd::new(fd)));
            assert!(cache.len() <= 64);
        }
        assert!(cache.len() > 32, "the shards are used evenly: {}", cache.len());
        cache.clear();
        assert_eq!(cache.len(), 0);
    }

    #[test]
    fn trust_ends() {
        let dir = DirFd::new(std::fs::File::open("/").unwrap().into());
        assert!(dir.is_trusted());
        dir.distrust();
        assert!(!dir.is_trusted());
        dir.trust();
        assert!(dir.is_trusted());
    }
}
