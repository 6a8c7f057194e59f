//! [`Unsettled`]: files that were written and not written out, to which the
//! host may still add blocks for its own book-keeping: room is kept free for
//! these, and they are counted once more when they are on the disk.
//!
//! ext4 and xfs list a file's extents in its inode while they are few and then
//! in blocks, and these in others, which appear when data is written out. One
//! block lists hundreds, and one more extent may split a block in each level: so a
//! block for each level that there may be is kept for each file that is larger
//! than a few blocks; and a little for each write that lies apart from the one
//! before it, since that may be an extent of its own. There are no more extents
//! than blocks, so what is kept has an end however often they are written.
//!
//! None is forgotten because there are many: a block that nobody counted would
//! stay uncounted. From some number on each write has the oldest looked at.
//! Those that have reached the disk are counted and dropped; and where there are
//! far too many, the host is told to begin with the others, so that there are
//! soon fewer.

use crate::account::BLOCK;
use crate::node::HumNode;
use externfs::NodeKey;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// Until there are more nobody asks the host which are on its disk.
const FILES_EASY: usize = 1024;

/// From so many on the host is not left to begin in its own time.
const FILES_MANY: usize = 8192;

/// So many of the oldest are looked at at a time.
const LOOKS: usize = 2;

/// Twice and a half what ext4 needs for an extent (12 bytes): its lists are
/// not always full.
const EXTENT: u64 = 32;

/// Extents that a block of the host's lists at least, by that.
const LISTED: u64 = BLOCK / EXTENT;

/// Blocks of the host's that never make more extents than an inode lists: ext4
/// has room for four, xfs for three at least.
const LISTED_IN_INODE: u64 = 3;

/// One file.
pub(crate) struct Written {
    pub(crate) node: Arc<HumNode>,
    /// Bytes that are kept free for it.
    pub(crate) kept: u64,
    /// The most that it may need, the last time that it was looked at.
    most: u64,
    /// Where it was last written.
    last: Range<u64>,
    /// Its place in `order`.
    number: u64,
}

/// See the [module](self).
#[derive(Default)]
pub(crate) struct Unsettled {
    files: HashMap<NodeKey, Written>,
    /// Oldest first.
    order: BTreeMap<u64, NodeKey>,
    next: u64,
}

impl Unsettled {
    /// `node`, which has so many bytes in blocks of `block` on the host, was
    /// written in `range`. Returns how much more is to be kept free.
    pub(crate) fn written(&mut self, node: &Arc<HumNode>, (bytes, block): (u64, u64), range: Range<u64>) -> u64 {
        let key = node.key();
        let blocks = bytes / block.max(1);
        let (least, most) = (lists(bytes), lists(bytes) + EXTENT * blocks);
        if let Some(known) = self.files.get_mut(&key) {
            let touches = range.start <= known.last.end && known.last.start <= range.end;
            let wanted = known.kept + if touches { 0 } else { EXTENT };
            let more = wanted.clamp(least, most).saturating_sub(known.kept);
            (known.last, known.most) = (range, most);
            known.kept += more;
            return more;
        }
        if blocks <= LISTED_IN_INODE {
            return 0;
        }
        self.put(Written { node: node.clone(), kept: least, most, last: range, number: 0 });
        least
    }

    fn put(&mut self, mut written: Written) {
        let key = written.node.key();
        written.number = self.next;
        self.order.insert(self.next, key);
        self.next += 1;
        self.files.insert(key, written);
    }

    /// Takes out the file with this identity.
    pub(crate) fn remove(&mut self, key: NodeKey) -> Option<Written> {
        let gone = self.files.remove(&key)?;
        self.order.remove(&gone.number);
        Some(gone)
    }

    /// Takes out the oldest, if there are so many that it is worth a look
    /// whether they are on the disk by now.
    pub(crate) fn take_oldest(&mut self) -> Vec<Written> {
        let mut oldest = Vec::new();
        while self.files.len() > FILES_EASY && oldest.len() < LOOKS {
            let Some((_, key)) = self.order.pop_first() else { break };
            oldest.extend(self.files.remove(&key));
        }
        oldest
    }

    /// Whether there are so many that waiting for the host is too much.
    pub(crate) fn is_crowded(&self) -> bool {
        self.files.len() > FILES_MANY
    }

    /// Puts back one that is not on the disk. Returns what need not be kept
    /// because the file has been written, and put in, meanwhile.
    pub(crate) fn put_back(&mut self, written: Written) -> u64 {
        let Some(known) = self.files.get_mut(&written.node.key()) else {
            self.put(written);
            return 0;
        };
        let more = written.kept.min(known.most.saturating_sub(known.kept));
        known.kept += more;
        written.kept - more
    }

    /// The file with this identity is gone. Returns what need not be kept for
    /// it any more.
    pub(crate) fn forget(&mut self, key: NodeKey) -> u64 {
        self.remove(key).map_or(0, |gone| gone.kept)
    }

    /// All of them.
    pub(crate) fn take(&mut self) -> Vec<Written> {
        self.order.clear();
        self.files.drain().map(|(_, written)| written).collect()
    }
}

/// Bytes of blocks that one more extent may take in the lists of a file that has
/// so many bytes. Whoever writes has announced as many.
pub(crate) fn lists(bytes: u64) -> u64 {
    let (mut levels, mut listed) = (1, LISTED * BLOCK);
    while listed < bytes {
        levels += 1;
        listed = listed.saturating_mul(LISTED);
    }
    levels * BLOCK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_kept_for_each_level_of_lists() {
        let levels = |blocks: u64| lists(blocks * BLOCK) / BLOCK;
        assert_eq!([0, 128, 129, 16384, 16385].map(levels), [1, 1, 2, 2, 3]);
        assert!(lists(u64::MAX) < 16 * BLOCK);
    }
}
