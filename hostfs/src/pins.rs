//! [`Pin`]: an `O_PATH` descriptor of an object whose name is gone, so that
//! whoever has it open can go on asking. [`Pins`] bounds how many there are;
//! the oldest goes first, and its inode answers ESTALE from then on.

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
    /// Pinned inodes, oldest first; some may have let go of theirs already.
    queue: Mutex<VecDeque<Weak<Inode>>>,
}

/// Pins that had to go. Dropping them may be what removes a large file, so it is
/// done where nobody waits.
#[must_use]
#[derive(Default)]
pub(crate) struct Evicted {
    _pins: Vec<Let>,
}

/// A pin, the directory that the inode was in, and the inode.
type Let = (Arc<Pin>, Option<Arc<Inode>>, Arc<Inode>);

impl Pins {
    pub(crate) fn new(max: usize) -> Pins {
        Pins { max: max.max(1), count: Arc::default(), queue: Mutex::default() }
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Holds `node` through `fd`, and takes its name away: it no longer leads
    /// there.
    pub(crate) fn pin(&self, node: &Arc<Inode>, fd: OwnedFd) -> Evicted {
        self.count.fetch_add(1, Ordering::Relaxed);
        let pin = Arc::new(Pin { fd, count: self.count.clone() });
        let before = node.place().set_pin(Some(pin));
        drop(before);
        let mut evicted = Vec::new();
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push_back(Arc::downgrade(node));
        while self.count.load(Ordering::Relaxed) - evicted.len() > self.max {
            let Some(oldest) = queue.pop_front() else { break };
            let Some(oldest) = oldest.upgrade() else { continue };
            let mut place = oldest.place();
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
        Evicted { _pins: evicted }
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
    fn a_forgotten_inode_frees_its_pin_and_the_queue_does_not_grow() {
        let pins = Pins::new(4);
        for number in 0..1000 {
            let _ = pins.pin(&inode(number), fd());
        }
        assert_eq!(pins.count(), 0);
        assert!(pins.queue.lock().unwrap().len() <= 8);
    }
}
