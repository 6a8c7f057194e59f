//! [`Unopened`]: what is open on behalf of a kernel that opens nothing itself
//! ([`crate::Export::begin_unopened`]): the files and listings that it used last. They
//! close when others take their place, or when the kernel forgets the node.

use crate::types::NodeId;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

struct Slot<T> {
    node: NodeId,
    what: Arc<T>,
}

/// A few open things by node, the one used last first.
pub(crate) struct Unopened<T> {
    slots: Mutex<Vec<Slot<T>>>,
    /// As many as there are slots: most kernels open what they use, and need not
    /// take the lock with each FORGET to find none.
    len: AtomicUsize,
    max: usize,
}

impl<T> Unopened<T> {
    /// At most `max` of them.
    pub(crate) fn new(max: usize) -> Unopened<T> {
        Unopened { slots: Mutex::default(), len: AtomicUsize::new(0), max }
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Slot<T>>> {
        // Each change is one call of Vec's: whole even after a panic.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is open of `node` and `fits`.
    pub(crate) fn get(&self, node: NodeId, fits: impl Fn(&T) -> bool) -> Option<Arc<T>> {
        let mut slots = self.slots();
        let place = slots.iter().position(|slot| slot.node == node && fits(&slot.what))?;
        slots.get_mut(..=place)?.rotate_right(1);
        slots.first().map(|slot| slot.what.clone())
    }

    /// Keeps `what`, which was opened for `node`; another may close for it.
    pub(crate) fn put(&self, node: NodeId, what: Arc<T>) {
        let mut slots = self.slots();
        let last = if slots.len() >= self.max { slots.pop() } else { None };
        slots.insert(0, Slot { node, what });
        self.len.store(slots.len(), Ordering::Relaxed);
        drop(slots);
        drop(last);
    }

    /// Closes what is open of `node`.
    pub(crate) fn close(&self, node: NodeId) {
        if self.len.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut slots = self.slots();
        let gone: Vec<_> = slots.extract_if(.., |slot| slot.node == node).collect();
        self.len.store(slots.len(), Ordering::Relaxed);
        // To close the last that holds a file may take long.
        drop(slots);
        drop(gone);
    }

    /// Closes everything.
    pub(crate) fn clear(&self) {
        let gone = std::mem::take(&mut *self.slots());
        self.len.store(0, Ordering::Relaxed);
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(of: &Unopened<u32>) -> Vec<(u64, u32)> {
        of.slots().iter().map(|slot| (slot.node.0, *slot.what)).collect()
    }

    #[test]
    fn what_was_not_used_for_longest_closes_first() {
        let files = Unopened::new(3);
        for number in 1..=3 {
            files.put(NodeId(number), Arc::new(number as u32));
        }
        assert_eq!(files.get(NodeId(1), |_| true).as_deref(), Some(&1));
        files.put(NodeId(4), Arc::new(4));
        assert_eq!(open(&files), [(4, 4), (1, 1), (3, 3)]);
        assert!(files.get(NodeId(2), |_| true).is_none());
    }

    #[test]
    fn a_node_may_have_several_and_loses_all() {
        let files = Unopened::new(8);
        for (node, what) in [(1, 10), (2, 20), (1, 11)] {
            files.put(NodeId(node), Arc::new(what));
        }
        assert_eq!(files.get(NodeId(1), |what| *what == 10).as_deref(), Some(&10));
        assert!(files.get(NodeId(1), |what| *what == 20).is_none());
        files.close(NodeId(1));
        assert_eq!(open(&files), [(2, 20)]);
        files.clear();
        assert_eq!(files.len.load(Ordering::Relaxed), 0);
        files.close(NodeId(2));
    }
}
