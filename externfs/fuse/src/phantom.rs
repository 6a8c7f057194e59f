//! FORGETs that the kernel sends for entries that gave it nothing to forget.
//!
//! A listing with attributes has names that could not be looked up (a host
//! directory without search permission). The protocol lists those with node
//! number 0 and a number of their own for `d_ino`; fuser 0.18 writes the same
//! number into both, and 0 for `d_ino` makes glibc before 2.37 drop the name.
//! So such a name goes out with its real number and attributes that the kernel
//! refuses: it lists the name, makes no inode, and at once forgets one lookup
//! of that number (`parse_dirplusfile` in fs/fuse/readdir.c). That one must not
//! reach the export, where another name may have counted the same node.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many lookups of which number to leave out of coming FORGETs.
#[derive(Debug, Default)]
pub(crate) struct Phantoms {
    total: AtomicUsize,
    expected: Mutex<HashMap<u64, u64>>,
}

impl Phantoms {
    fn expected(&self) -> MutexGuard<'_, HashMap<u64, u64>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A listing that is about to be sent names `number` without a lookup.
    pub(crate) fn expect(&self, number: u64) {
        *self.expected().entry(number).or_insert(0) += 1;
        self.total.fetch_add(1, Ordering::SeqCst);
    }

    /// How much of a FORGET of `count` lookups is for the export. A true one
    /// that overtakes a phantom pays for it and is repaid when that arrives.
    pub(crate) fn settle(&self, number: u64, count: u64) -> u64 {
        if self.total.load(Ordering::SeqCst) == 0 {
            return count;
        }
        let mut expected = self.expected();
        let Some(waiting) = expected.get_mut(&number) else { return count };
        let left_out = (*waiting).min(count);
        *waiting -= left_out;
        if *waiting == 0 {
            expected.remove(&number);
        }
        self.total.fetch_sub(left_out as usize, Ordering::SeqCst);
        count - left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phantom_is_left_out_once() {
        let phantoms = Phantoms::default();
        assert_eq!(phantoms.settle(5, 3), 3);
        phantoms.expect(5);
        phantoms.expect(5);
        assert_eq!(phantoms.settle(6, 1), 1);
        assert_eq!(phantoms.settle(5, 1), 0);
        assert_eq!(phantoms.settle(5, 4), 3);
        assert_eq!(phantoms.settle(5, 4), 4);
        assert_eq!(phantoms.total.load(Ordering::SeqCst), 0);
    }
}
