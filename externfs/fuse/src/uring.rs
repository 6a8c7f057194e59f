//! FUSE over io_uring (Linux 6.14): requests come and answers go through a queue
//! for each processor, so that who asks is served by a thread on the same
//! processor.
//!
//! The kernel's terms (Documentation/filesystems/fuse-io-uring, fs/fuse/dev_uring.c):
//! * a server that agrees to it in INIT must register an entry (memory for one
//!   request) in the queue of every possible processor; until then all
//!   requests wait, unless a registration fails: then /dev/fuse serves on;
//! * FORGET, INTERRUPT and notifications stay with /dev/fuse;
//! * a request is copied into an entry by the thread that handed it over last,
//!   and only while that thread waits on its ring. If it is inside a host call,
//!   the request waits for it, although other entries may be free;
//! * a request that finds no free entry waits for the next answer of its
//!   queue. A registration does not fetch it.
//!
//! So each thread has a ring of its own with one entry: whoever is busy has
//! nothing to offer, and a queue stands still only if all its threads do. A
//! thread that a request blocks is replaced ([`queues`]). No ring can be
//! made inside the sandbox, so a stock of them is made before ([`Rings`]).

mod entry;
mod queues;
mod ring;
mod worker;

pub(crate) use queues::Queues;

use externfs_wire::Negotiated;
use ring::Ring;
use rustix::process::{Resource, getrlimit};
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::str::FromStr;

/// The option `uring=`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum UringChoice {
    /// Where the kernel offers it, the plugin keeps no locks, and nobody else
    /// changes the tree.
    Auto,
    /// Or else do not serve at all.
    On,
    /// Never.
    #[default]
    Off,
}

impl FromStr for UringChoice {
    type Err = String;

    fn from_str(word: &str) -> Result<UringChoice, String> {
        match word {
            "auto" => Ok(UringChoice::Auto),
            "on" => Ok(UringChoice::On),
            "off" => Ok(UringChoice::Off),
            _ => Err(format!("uring={word}: it is auto, on or off")),
        }
    }
}

/// Threads of a queue to begin with: one that may be blocked, and one for what
/// the other may depend on. One alone was measured to be a twentieth faster
/// where a RELEASE that nobody waits for overlaps with the next request, and
/// equal elsewhere; four and eight are as two.
const THREADS: usize = 2;
/// Rings for threads that take the place of others that are blocked, and one a
/// processor at least.
const SPARE: usize = 16;
/// The same where locks may wait: each wait takes one.
const SPARE_FOR_LOCKS: usize = 128;
/// `FUSE_MIN_READ_BUFFER`.
const PAYLOAD_MIN: usize = 8192;
/// Processors past which there would be too many threads.
const PROCESSORS_MAX: usize = 256;

/// Rings for the queues of one mount, made while the process may make some.
pub(crate) struct Rings {
    /// Queues, one for each possible processor.
    processors: usize,
    all: Vec<Ring>,
}

impl fmt::Debug for Rings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rings").field("processors", &self.processors).field("rings", &self.all.len()).finish()
    }
}

impl Rings {
    /// For this device of a mount.
    ///
    /// # Errors
    /// The kernel has no such rings, or this process may not make them.
    pub(crate) fn new(device: &impl AsFd, choice: UringChoice) -> io::Result<Rings> {
        if std::fs::read("/sys/module/fuse/parameters/enable_uring").is_ok_and(|word| word.starts_with(b"N")) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "fuse.enable_uring is off"));
        }
        let processors = count(&std::fs::read_to_string("/sys/devices/system/cpu/possible")?)
            .filter(|count| *count <= PROCESSORS_MAX)
            .ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, format!("not with more than {PROCESSORS_MAX} processors")))?;
        let spare = if choice == UringChoice::On { SPARE_FOR_LOCKS } else { SPARE }.max(processors);
        let wanted = processors * THREADS + spare;
        // Rings that just fit would leave no descriptor to serve with.
        if getrlimit(Resource::Nofile).current.is_some_and(|limit| limit < 2 * wanted as u64) {
            return Err(io::Error::other(format!("{wanted} rings are more than half of the descriptors that RLIMIT_NOFILE allows")));
        }
        let all = (0..wanted).map(|_| Ring::new(device)).collect::<io::Result<Vec<Ring>>>()?;
        Ok(Rings { processors, all })
    }
}

/// What an entry must have room for: the kernel refuses less.
pub(crate) fn payload_len(agreed: &Negotiated) -> usize {
    let pages = usize::from(agreed.max_pages) * entry::page_size();
    pages.max(agreed.max_write as usize).max(PAYLOAD_MIN)
}

/// What stands in the way of `uring=on`.
pub(crate) fn obstacle(reason: &str) -> String {
    let remedy = "Linux 6.14 has it after 'echo Y > /sys/module/fuse/parameters/enable_uring'; or use uring=auto";
    format!("uring=on: there is no FUSE over io_uring here ({reason}): {remedy}")
}

/// How many processors a list like `0-3,8` has.
fn count(list: &str) -> Option<usize> {
    let mut count = 0;
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        count += last.checked_sub(first)? + 1;
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_has_three_words() {
        assert_eq!("on".parse(), Ok(UringChoice::On));
        assert_eq!("auto".parse(), Ok(UringChoice::Auto));
        assert!("yes".parse::<UringChoice>().unwrap_err().contains("auto, on or off"));
    }

    #[test]
    fn processors_are_counted() {
        for (list, expected) in [("0\n", Some(1)), ("0-1\n", Some(2)), ("0-3,8", Some(5)), ("", None), ("3-1", None), ("x", None)] {
            assert_eq!(count(list), expected, "{list}");
        }
    }

    #[test]
    fn the_obstacle_names_the_remedy() {
        let line = obstacle("x");
        assert!(line.contains("echo Y > /sys/module/fuse/parameters/enable_uring") && !line.contains('\n'));
    }
}
