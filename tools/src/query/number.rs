//! [`Numbers`]: what objects are known by in a catalog, which has room for one
//! file system's inode numbers. Those of others that are mounted below it get new ones.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// A mount of a file system: its mount and its device, since a mount may have
/// several file systems (btrfs), and a file system several mounts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Volume {
    pub(super) mount: u64,
    pub(super) device: (u32, u32),
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Numbers {
    pub(super) home: Volume,
    others: Mutex<Others>,
}

#[derive(Debug)]
struct Others {
    next: u64,
    /// Objects with several names, which are met again.
    linked: HashMap<(Volume, u64), u64>,
}

impl Numbers {
    /// Of a scan that begins in `home`.
    pub(super) fn new(home: Volume) -> Numbers {
        // From above, where no file system of a host has any.
        Numbers { home, others: Mutex::new(Others { next: i64::MAX as u64, linked: HashMap::new() }) }
    }

    /// For the object `ino` of `volume`, which `is_linked` by several names.
    pub(super) fn number(&self, volume: Volume, ino: u64, is_linked: bool) -> u64 {
        if volume == self.home {
            return ino;
        }
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = others.linked.get(&(volume, ino)) {
            return *known;
        }
        let number = others.next;
        others.next -= 1;
        if is_linked {
            others.linked.insert((volume, ino), number);
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_other_file_systems_do_not_collide() {
        let home = Volume { mount: 1, device: (8, 1) };
        let (other, third) = (Volume { mount: 2, ..home }, Volume { mount: 1, device: (8, 2) });
        let numbers = Numbers::new(home);
        assert_eq!(numbers.number(home, 7, true), 7);
        let linked = numbers.number(other, 7, true);
        assert_eq!(numbers.number(other, 7, true), linked);
        let all = [7, linked, numbers.number(third, 7, true), numbers.number(other, 8, false), numbers.number(other, 8, false)];
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), all.len(), "{all:?}");
        assert!(all.iter().all(|number| i64::try_from(*number).is_ok()));
    }
}
