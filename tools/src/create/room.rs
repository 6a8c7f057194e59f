//! What it was that ran out while a tree was filled. Whoever fills one gets
//! ENOSPC from three sides: the host's disk, the tree's own limits, and objects
//! that cannot have so many attributes. Each has another remedy, and that of a
//! tree in use, resizing it, is none: nothing opens this one before it is whole.

use crate::failure::Failure;
use crate::offline::Offline;
use crate::transfer::NO_ROOM;
use std::path::Path;

/// Less than this is left of what was used up, in bytes: contents are written as
/// far as there is room.
const LITTLE: u64 = 1 << 20;

/// What is left on one side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Room {
    bytes: u64,
    inodes: u64,
}

/// `failure` to fill `tree`, which lies at `place`, with what to do about it.
pub(super) fn explained(failure: Failure, tree: &Offline, place: &Path) -> Failure {
    let Some(line) = failure.line.strip_suffix(NO_ROOM) else { return failure };
    let host = rustix::fs::statvfs(place).map(|host| Room { bytes: host.f_bavail.saturating_mul(host.f_frsize), inodes: host.f_favail });
    // What a tree tells is never more than the host has.
    let told =
        tree.statfs().map(|told| Room { bytes: told.blocks_available.saturating_mul(told.block_size.into()), inodes: told.inodes_free });
    let remedy = match (host, told) {
        (Ok(host), Ok(told)) => remedy(host, told),
        _ => "",
    };
    Failure { line: format!("{line}{remedy}"), ..failure }
}

fn remedy(host: Room, tree: Room) -> &'static str {
    if host.bytes < LITTLE && host.bytes <= tree.bytes.saturating_add(LITTLE / 16) {
        ": the host's disk is full: make room there, then run the same command again"
    } else if tree.inodes == 0 && host.inodes > 0 {
        ": its --inodes are used up: run the command again with more of them"
    } else if tree.bytes < LITTLE {
        ": its --size is used up: run the command again with a larger one"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_has_its_remedy() {
        let room = |bytes, inodes| Room { bytes, inodes };
        for (host, tree, part) in [
            (room(0, 9), room(0, 9), "disk"),
            (room(8192, 9), room(8192, 9), "disk"),
            (room(1 << 40, 9), room(0, 9), "--size"),
            (room(1 << 40, 9), room(512 << 10, 9), "--size"),
            // The host has little left, the tree nothing at all.
            (room(512 << 10, 9), room(0, 9), "--size"),
            (room(1 << 40, 9), room(1 << 30, 0), "--inodes"),
            // A tree that is small anyway; and a host that does not count them.
            (room(1 << 40, 9), room(512 << 10, 0), "--inodes"),
            (room(1 << 40, 0), room(0, 0), "--size"),
        ] {
            assert!(remedy(host, tree).contains(part), "{host:?} {tree:?}: {}", remedy(host, tree));
        }
        // Too many attributes, most likely.
        assert_eq!(remedy(room(1 << 40, 9), room(1 << 30, 9)), "");
    }
}
