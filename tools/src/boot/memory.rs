//! Whether a guest can have the memory that it is to get.
//!
//! User Mode Linux keeps it in a file without blocks, so it begins whatever was
//! asked for. The kernel's own table of it, a sixty-fourth, is written at once: where
//! that has no room the guest never gets further, without a word; and where all of
//! it has none, it is killed as soon as it uses the rest.

use crate::failure::{Failure, Result};
use std::path::Path;

/// How many times the host's memory nobody means.
const ABSURD: u64 = 10;

/// The part of it that the guest's kernel takes for its table.
const TABLE: u64 = 64;

/// Where the file is, if that is a tmpfs; and where it is else.
const PLACES: [&str; 2] = ["/dev/shm", "/tmp"];

/// What the host has, in KiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Host {
    memory: u64,
    /// In the place where the guest's is kept.
    free: u64,
}

/// A number with K, M or G, in KiB.
pub(crate) fn kib(text: &str) -> Option<u64> {
    let shift = match text.bytes().last()? {
        b'k' | b'K' => 0,
        b'm' | b'M' => 10,
        b'g' | b'G' => 20,
        _ => return None,
    };
    let number: u64 = text.get(..text.len() - 1)?.parse().ok()?;
    Some(number.saturating_mul(1 << shift))
}

/// Refuses what cannot come to anything, and warns of what may end badly.
///
/// # Errors
/// One line, with the most that makes sense.
pub(super) fn check(asked: &str) -> Result<()> {
    let Some(wanted) = kib(asked) else { return Ok(()) };
    let place = place();
    let (Ok(room), Some(memory)) = (rustix::fs::statvfs(place), host_memory()) else { return Ok(()) };
    let host = Host { memory, free: room.f_bavail.saturating_mul(room.f_frsize) >> 10 };
    let free = format!("a guest's memory is kept in {place}, where {} MiB are free", host.free >> 10);
    match judge(wanted, host) {
        Verdict::Good => {}
        Verdict::Absurd => {
            let line = format!("--mem {asked} is more than {ABSURD} times the memory of this machine, {} MiB", host.memory >> 10);
            return Err(Failure::new(format!("{line}: give the guest less; {free}")));
        }
        Verdict::Hopeless => return Err(Failure::new(format!("--mem {asked} cannot be had: {free}: give it less, or make room there"))),
        Verdict::Risky => tracing::warn!("--mem {asked}: {free}: the guest is killed when it uses more; give it less, or make room there"),
    }
    Ok(())
}

/// What becomes of a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Good,
    /// It runs until it uses what is not there.
    Risky,
    /// It does not come so far.
    Hopeless,
    Absurd,
}

fn judge(wanted: u64, host: Host) -> Verdict {
    if wanted / ABSURD > host.memory {
        Verdict::Absurd
    } else if wanted / TABLE > host.free {
        Verdict::Hopeless
    } else if wanted > host.free {
        Verdict::Risky
    } else {
        Verdict::Good
    }
}

/// As the guest's kernel looks for it, with nothing said in its environment.
fn place() -> &'static str {
    let [preferred, other] = PLACES;
    let is_tmpfs =
        nix::sys::statfs::statfs(Path::new(preferred)).is_ok_and(|there| there.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC);
    if is_tmpfs { preferred } else { other }
}

/// All memory, in KiB.
fn host_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_gets_what_there_is() {
        let gib = |number: u64| number << 20;
        let host = Host { memory: gib(8), free: gib(4) };
        for (wanted, verdict) in [
            (gib(1), Verdict::Good),
            (gib(4), Verdict::Good),
            (gib(5), Verdict::Risky),
            (gib(80), Verdict::Risky),
            (gib(90), Verdict::Absurd),
            (u64::MAX, Verdict::Absurd),
        ] {
            assert_eq!(judge(wanted, host), verdict, "{wanted}");
        }
        // What containers have, with the usual memory; and nothing at all.
        assert_eq!(judge(gib(1) / 2, Host { free: gib(1) / 16, ..host }), Verdict::Risky);
        assert_eq!(judge(gib(8), Host { free: gib(1) / 16, ..host }), Verdict::Hopeless);
        assert_eq!(judge(gib(1) / 2, Host { free: 0, ..host }), Verdict::Hopeless);
        assert!(host_memory().is_some_and(|memory| memory > 64 << 10));
    }
}
