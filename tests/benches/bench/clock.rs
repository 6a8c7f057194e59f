//! [`ServerClock`]: the processor time of a server and of everything it started.

use crate::work::{Cost, Meter};
use externfs_tests::requests::Requests;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use std::cell::{Cell, RefCell};
use std::fs;

/// Reads the kernel's nanosecond clocks of processes: `stat` of proc(5) counts
/// in ticks of 10 ms, and per-thread counters forget threads that ended.
pub(crate) struct ServerClock {
    root: Option<u32>,
    family: RefCell<Vec<u32>>,
    requests: Option<Requests>,
    begun: Cell<Cost>,
}

impl ServerClock {
    /// For the process `root`; for none, a clock that stands still.
    pub(crate) fn new(root: Option<u32>) -> ServerClock {
        ServerClock { root, family: RefCell::default(), requests: None, begun: Cell::default() }
    }

    /// Counts requests as well.
    pub(crate) fn counting(self, requests: Option<Requests>) -> ServerClock {
        ServerClock { requests, ..self }
    }

    fn now(&self) -> Cost {
        let nanos = self.family.borrow().iter().map(|&pid| cpu_nanos(pid)).sum();
        Cost { nanos, requests: self.requests.as_ref().map(Requests::so_far) }
    }
}

impl Meter for ServerClock {
    fn begin(&self) {
        *self.family.borrow_mut() = self.root.map(family).unwrap_or_default();
        self.begun.set(self.now());
    }

    fn end(&self) -> Cost {
        let (now, begun) = (self.now(), self.begun.get());
        let requests = now.requests.zip(begun.requests).map(|(now, begun)| now.saturating_sub(begun));
        Cost { nanos: now.nanos.saturating_sub(begun.nanos), requests }
    }
}

/// Processor time that a process has used, all its threads included; 0 for one that is gone.
fn cpu_nanos(pid: u32) -> u64 {
    let clock = i32::try_from(pid).ok().and_then(|pid| clock_getcpuclockid(Pid::from_raw(pid)).ok());
    let time = clock.and_then(|clock| clock_gettime(clock).ok());
    time.map_or(0, |time| time.tv_sec().unsigned_abs() * 1_000_000_000 + time.tv_nsec().unsigned_abs())
}

/// A process and its descendants.
fn family(root: u32) -> Vec<u32> {
    let parents = parents();
    let mut family = vec![root];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(child, _)| child));
        next += 1;
    }
    family
}

/// Every process with its parent.
fn parents() -> Vec<(u32, u32)> {
    let Ok(listing) = fs::read_dir("/proc") else { return Vec::new() };
    let parent = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is a name in parentheses that may hold anything.
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let pids = listing.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| parent(pid).map(|parent| (pid, parent))).collect()
}
