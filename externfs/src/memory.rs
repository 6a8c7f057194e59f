//! What a bridge tells the process of its memory: the allocator belongs to the
//! process, and a bridge cannot know what the process wants of it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Fewer nodes than that are not worth telling.
const FEW: usize = 4096;

static LISTENER: OnceLock<fn()> = OnceLock::new();

/// Has `listener` called whenever half of the nodes that some bridge remembered
/// have been forgotten, and half of the rest, as long as there are thousands: a
/// kernel short of memory has asked for that, and so may the host be.
///
/// It is called in the middle of an operation, so it must not take long. Only
/// the first one counts.
pub fn when_much_is_forgotten(listener: fn()) {
    let _ = LISTENER.set(listener);
}

/// Bytes that a node takes, a plugin's part included: about what is measured.
const NODE_BYTES: u64 = 200;

/// How many nodes one kernel may have remembered. It needs a kilobyte of memory of
/// its own for each, so an honest one on the same machine never comes near a
/// quarter of that in our bytes. One that never forgets would take all there is.
pub(crate) fn nodes_max() -> usize {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    total.map_or(usize::MAX, |kibibytes| usize::try_from(kibibytes * 1024 / 4 / NODE_BYTES).unwrap_or(usize::MAX))
}

/// Counts, and notices when much is gone.
#[derive(Default)]
pub(crate) struct Tide {
    now: AtomicUsize,
    /// The highest since the listener was last called.
    high: AtomicUsize,
}

impl Tide {
    pub(crate) fn rise(&self) {
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.high.fetch_max(now, Ordering::Relaxed);
    }

    pub(crate) fn fall(&self) {
        if self.is_low()
            && let Some(listener) = LISTENER.get()
        {
            listener();
        }
    }

    fn is_low(&self) -> bool {
        let now = self.now.fetch_sub(1, Ordering::Relaxed) - 1;
        let high = self.high.load(Ordering::Relaxed);
        // Of two threads that see it, one tells.
        high >= FEW && now <= high / 2 && self.high.compare_exchange(high, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    pub(crate) fn now(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lows(tide: &Tide, count: usize) -> usize {
        (0..count).filter(|_| tide.is_low()).count()
    }

    #[test]
    fn this_machine_has_room_for_some() {
        let most = nodes_max();
        assert!((1 << 18..usize::MAX).contains(&most), "{most}");
    }

    #[test]
    fn each_halving_is_noticed_until_few_are_left() {
        let tide = Tide::default();
        for _ in 0..4 * FEW {
            tide.rise();
        }
        assert_eq!(lows(&tide, 2 * FEW - 1), 0);
        assert_eq!(lows(&tide, 1), 1);
        assert_eq!(lows(&tide, 2 * FEW), 2);
        assert_eq!(tide.now(), 0);
    }

    #[test]
    fn comings_and_goings_of_few_are_not() {
        let tide = Tide::default();
        for _ in 0..1000 {
            (0..FEW / 2).for_each(|_| tide.rise());
            assert_eq!(lows(&tide, FEW / 2), 0);
        }
    }
}
