//! [`Pin`]: an `O_PATH` descriptor of an object whose name is gone, so that
//! whoever has it open can go on asking. [`Pins`] bounds how many there are;
//! the oldest goes first, and its inode answers ESTALE from then on. Where a
//! kernel opens nothing ([`externfs::ExternFs::begin_unopened`]) a file may be in use for
//! as long as it is remembered: then that of a file without any other name stays, and
//! there is an end to how many can be removed that somebody remembers.

use crate::node::Inode;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Holds one object.
pub(crate) struct Pin {
    pub(crate) fd: OwnedFd,
    count: Arc<AtomicUsize>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All pins of an export.
pub(crate) struct Pins {
    max: usize,
    count: Arc<AtomicUsize>,
    /// Files that are kept whatever happens, and how many may be; 0 while no kernel
    /// does without opening.
    kept: Arc<AtomicUsize>,
    kept_max: AtomicUsize,
    /// Pinned inodes, oldest first; some may have let go of theirs already.
    queue: Mutex<VecDeque<Weak<Inode>>>,
}

/// Pins that had to go. Dropping them may be what removes a large file, so it is
/// done where nobody waits.
#[must_use]
#[derive(Default)]
pub(crate) struct Evicted {
    _pins: Vec<Let>,
    /// Inodes that were looked at and stay; somebody else may have let go of them.
    _passed: Vec<Arc<Inode>>,
}

/// A pin, the directory that the inode was in, and the inode.
type Let = (Arc<Pin>, Option<Arc<Inode>>, Arc<Inode>);

impl Pins {
    pub(crate) fn new(max: usize) -> Pins {
        Pins { max: max.max(1), count: Arc::default(), kept: Arc::default(), kept_max: AtomicUsize::new(0), queue: Mutex::default() }
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed) + self.kept.load(Ordering::Relaxed)
    }

    /// From now on files are kept, so many at most.
    pub(crate) fn keep_files(&self, max: usize) {
        self.kept_max.store(max, Ordering::Relaxed);
    }

    /// Whether files are kept.
    pub(crate) fn keeps_files(&self) -> bool {
        self.kept_max.load(Ordering::Relaxed) > 0
    }

    /// Whether `pin` is one that is kept.
    fn is_kept(&self, pin: &Pin) -> bool {
        Arc::ptr_eq(&pin.count, &self.kept)
    }

    /// Whether `node` is held by one that is kept.
    pub(crate) fn keeps(&self, node: &Inode) -> bool {
        node.place().pin().is_some_and(|pin| self.is_kept(pin))
    }

    /// As [`Pins::pin`], for good.
    ///
    /// # Errors
    /// The descriptor, if there are as many as may be.
    pub(crate) fn keep(&self, node: &Arc<Inode>, fd: OwnedFd) -> Result<(), OwnedFd> {
        if self.kept.fetch_add(1, Ordering::Relaxed) >= self.kept_max.load(Ordering::Relaxed) {
            self.kept.fetch_sub(1, Ordering::Relaxed);
            return Err(fd);
        }
        let pin = Arc::new(Pin { fd, count: self.kept.clone() });
        let before = node.place().set_pin(Some(pin));
        drop(before);
        Ok(())
    }

    /// Holds `node` through `fd`, and takes its name away: it no longer leads
    /// there.
    pub(crate) fn pin(&self, node: &Arc<Inode>, fd: OwnedFd) -> Evicted {
        self.count.fetch_add(1, Ordering::Relaxed);
        let pin = Arc::new(Pin { fd, count: self.count.clone() });
        let before = node.place().set_pin(Some(pin));
        drop(before);
        let (mut evicted, mut passed) = (Vec::new(), Vec::new());
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push_back(Arc::downgrade(node));
        while self.count.load(Ordering::Relaxed) - evicted.len() > self.max {
            let Some(oldest) = queue.pop_front() else { break };
            let Some(oldest) = oldest.upgrade() else { continue };
            let mut place = oldest.place();
            if place.pin().is_some_and(|pin| self.is_kept(pin)) {
                drop(place);
                passed.push(oldest);
                continue;
            }
            if let Some(pin) = place.set_pin(None) {
                // Its name leads to something else by now, or to nothing.
                let parent = place.parent.take();
                drop(place);
                evicted.push((pin, parent, oldest));
            }
        }
        // Each entry costs the memory of its inode, so dead ones must not pile up.
        if queue.len() > 2 * self.max {
            queue.retain(|weak| weak.upgrade().is_some_and(|node| node.place().pin().is_some()));
        }
        Evicted { _pins: evicted, _passed: passed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use externfs::{FileKind, NodeKey};

    fn inode(number: u64) -> Arc<Inode> {
        let key = NodeKey { volume: 1, number, generation: 0 };
        Arc::new(Inode::new(key, FileKind::Regular, None, c"n"))
    }

    fn fd() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn the_oldest_pin_goes_first() {
        let pins = Pins::new(2);
        let nodes: Vec<_> = (0..3).map(inode).collect();
        for node in &nodes {
            let _ = pins.pin(node, fd());
        }
        let held: Vec<_> = nodes.iter().map(|n| n.place().pin().is_some()).collect();
        assert_eq!((held, pins.count()), (vec![false, true, true], 2));
    }

    #[test]
    fn a_kept_pin_stays_and_there_is_an_end_to_them() {
        let pins = Pins::new(1);
        assert!(!pins.keeps_files());
        pins.keep_files(2);
        let nodes: Vec<_> = (0..5).map(inode).collect();
        let kept = nodes[..3].iter().map(|node| pins.keep(node, fd()).is_ok()).collect::<Vec<_>>();
        assert_eq!((kept, pins.count()), (vec![true, true, false], 2));
        for node in &nodes[3..] {
            let _ = pins.pin(node, fd());
        }
        let held: Vec<_> = nodes.iter().map(|n| n.place().pin().is_some()).collect();
        assert_eq!(held, [true, true, false, false, true]);
        drop(nodes);
        assert_eq!(pins.count(), 0);
    }

    #[test]
    fn a_forgotten_inode_frees_its_pin_and_the_queue_does_not_grow() {
        let pins = Pins::new(4);
        for number in 0..1000 {
            let _ = pins.pin(&inode(number), fd());
        }
        assert_eq!(pins.count(), 0);
        assert!(pins.queue.lock().unwrap().len() <= 8);
    }
}
