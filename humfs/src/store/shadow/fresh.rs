//! [`Fresh`]: the records that no sync has seen yet, by the numbers of their
//! files. A power failure may take them as a whole, so they may be rewritten
//! in whatever way is quick; the others must be there before and after.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most that are remembered. Whoever is forgotten is rewritten with care.
const MOST: usize = 16 << 10;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Fresh(Mutex<HashSet<u64>>);

impl Fresh {
    fn numbers(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file with this number was made just now.
    pub(super) fn made(&self, number: u64) {
        let mut numbers = self.numbers();
        if numbers.len() >= MOST {
            numbers.clear();
        }
        numbers.insert(number);
    }

    /// Whether no sync has seen it, for sure.
    pub(super) fn has(&self, number: u64) -> bool {
        self.numbers().contains(&number)
    }

    /// It is being synced.
    pub(super) fn sync(&self, number: u64) {
        self.numbers().remove(&number);
    }

    /// All are being synced.
    pub(super) fn sync_all(&self) {
        self.numbers().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_synced_or_forgotten_is_not_fresh() {
        let fresh = Fresh::default();
        fresh.made(1);
        fresh.made(2);
        fresh.sync(1);
        assert_eq!([1, 2].map(|number| fresh.has(number)), [false, true]);
        fresh.sync_all();
        assert!(!fresh.has(2));
        (0..=MOST as u64).for_each(|number| fresh.made(number));
        assert_eq!([0, MOST as u64].map(|number| fresh.has(number)), [false, true]);
    }
}
