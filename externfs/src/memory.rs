//! What a bridge tells the process of its memory, since the allocator belongs to the
//! process, and a bridge cannot know what the process wants of it; and how much of
//! it kernels may have remembered.

use std::path::Path;
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
pub(crate) const NODE_BYTES: usize = 200;

/// Longest name that lies within a node, as far as plugins here go.
const SHORT_NAME: usize = 22;

/// How long a name is, as far as memory goes: 0 to 15.
pub(crate) fn name_class(len: usize) -> u32 {
    len.saturating_sub(SHORT_NAME).div_ceil(16).min(15) as u32
}

/// Bytes that a node with a name of this class takes: the rest of the name, and what
/// the allocator takes for it to be apart.
pub(crate) fn node_bytes(class: u32) -> usize {
    if class == 0 { NODE_BYTES } else { NODE_BYTES + SHORT_NAME + 16 + 16 * class as usize }
}

/// Looks how much memory there is, once for the process. A server that goes into a
/// sandbox without /proc before it makes its bridge does this first.
pub fn measure_memory() {
    let _ = nodes_max_bytes();
}

/// Bytes that all nodes may take which kernels remember: a quarter of the memory that
/// there is for this process. A kernel needs a kilobyte of its own for a node, so
/// honest ones on the same machine never come near that in our bytes. One that never
/// forgets would take all there is.
#[must_use]
pub fn nodes_max_bytes() -> usize {
    static MAX: OnceLock<usize> = OnceLock::new();
    *MAX.get_or_init(|| {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let host = total_of(&read("/proc/meminfo"));
        let group = limit_of_group(Path::new("/sys/fs/cgroup"), &read("/proc/self/cgroup"));
        let least = host.into_iter().chain(group).min();
        least.map_or(usize::MAX, |bytes| usize::try_from(bytes / 4).unwrap_or(usize::MAX))
    })
}

/// Bytes, from proc_meminfo(5).
fn total_of(meminfo: &str) -> Option<u64> {
    let kibibytes = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes?.checked_mul(1024)
}

/// The lowest `memory.max` of the process's cgroup (version 2) and those around it;
/// `own` is /proc/self/cgroup.
fn limit_of_group(root: &Path, own: &str) -> Option<u64> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let around = Path::new(path).ancestors();
    around.filter_map(|group| std::fs::read_to_string(root.join(group).join("memory.max")).ok()?.trim().parse().ok()).min()
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
        let most = nodes_max_bytes() / NODE_BYTES;
        assert!((1 << 16..usize::MAX / NODE_BYTES).contains(&most), "{most}");
    }

    #[test]
    fn the_lowest_limit_around_counts() {
        assert_eq!(total_of("MemTotal:       24684084 kB\nMemFree: 1 kB\n"), Some(24_684_084 << 10));
        assert_eq!(total_of(""), None);
        let root = std::env::temp_dir().join(format!("externfs-cgroup-{}", std::process::id()));
        let set = |group: &str, max: &str| {
            let dir = root.join(group);
            std::fs::create_dir_all(&dir).expect("a directory");
            std::fs::write(dir.join("memory.max"), max).expect("a limit");
        };
        set("a/b", "max\n");
        let limit = |own: &str| limit_of_group(&root, own);
        assert_eq!(limit("1:memory:/x\n0::/a/b\n"), None);
        set("a", "4096\n");
        set("a/b", "8192\n");
        assert_eq!(limit("0::/a/b\n"), Some(4096));
        set("a/b", "1024\n");
        assert_eq!(limit("0::/a/b\n"), Some(1024));
        set("", "512\n");
        assert_eq!((limit("0::/\n"), limit("0::/a/b\n"), limit("0::/gone\n"), limit("")), (Some(512), Some(512), Some(512), None));
        std::fs::remove_dir_all(&root).expect("removed");
    }

    #[test]
    fn long_names_cost_what_they_take() {
        assert_eq!([0, 1, SHORT_NAME].map(|len| node_bytes(name_class(len))), [NODE_BYTES; 3]);
        for len in SHORT_NAME + 1..=crate::NAME_LIMIT.min(255) {
            // With its NUL, as malloc(3) rounds it with a header of its own.
            let apart = (len + 1 + 8).next_multiple_of(16);
            let cost = node_bytes(name_class(len)) - NODE_BYTES;
            assert!((apart..apart + 40).contains(&cost), "{len}: {apart} {cost}");
        }
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
