//! [`Unsettled`]: files that were written and not written out, to which the
//! host may still add blocks for its own book-keeping: room is kept free for
//! these, and they are counted once more when they are on the disk.
//!
//! ext4 and xfs list a file's extents in its inode while they are few and then
//! in blocks, which appear when data is written out. One block lists hundreds,
//! so one is kept for each file; and a little for each write that lies apart
//! from the one before it, since that may be an extent of its own.
//!
//! Every one is remembered, however many there are, since a block that nobody
//! counted would stay uncounted. What has reached the disk by itself is
//! dropped again as others are added, oldest first, so there are not many more
//! than the host has in memory to be written.

use crate::account::BLOCK;
use crate::node::HumNode;
use externfs::NodeKey;
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

/// Until there are more nobody asks the host which are on its disk.
const FILES_EASY: usize = 1024;

/// For each file added beyond them, so many of the oldest are looked at.
const LOOKS: usize = 2;

/// Twice and a half what ext4 needs for an extent (12 bytes): its lists are
/// not always full.
const EXTENT: u64 = 32;

/// Bytes on the host that never make more extents than an inode lists: ext4
/// has room for four, xfs for three at least.
const LISTED_IN_INODE: u64 = 3 * BLOCK;

/// One file.
pub(crate) struct Written {
    pub(crate) node: Arc<HumNode>,
    /// Bytes that are kept free for it.
    pub(crate) kept: u64,
    /// Where it was last written.
    last: Range<u64>,
}

/// See the [module](self).
#[derive(Default)]
pub(crate) struct Unsettled {
    files: HashMap<NodeKey, Written>,
    /// Oldest first; each file once, and some that are settled.
    order: VecDeque<NodeKey>,
}

impl Unsettled {
    /// `node`, which has `allocated` bytes on the host, was written in `range`.
    /// Returns how much more is to be kept free.
    pub(crate) fn written(&mut self, node: &Arc<HumNode>, allocated: u64, range: Range<u64>) -> u64 {
        let key = node.key();
        if let Some(known) = self.files.get_mut(&key) {
            let touches = range.start <= known.last.end && known.last.start <= range.end;
            let more = if touches { 0 } else { EXTENT };
            known.last = range;
            known.kept += more;
            return more;
        }
        if allocated <= LISTED_IN_INODE {
            return 0;
        }
        self.put(Written { node: node.clone(), kept: BLOCK, last: range });
        BLOCK
    }

    fn put(&mut self, written: Written) {
        let key = written.node.key();
        self.order.push_back(key);
        self.files.insert(key, written);
    }

    /// Takes out the oldest, when there are so many that it is worth a look
    /// whether they are on the disk by now.
    pub(crate) fn take_oldest(&mut self) -> Vec<Written> {
        let mut oldest = Vec::new();
        while self.files.len() > FILES_EASY && oldest.len() < LOOKS {
            let Some(key) = self.order.pop_front() else { break };
            oldest.extend(self.files.remove(&key));
        }
        oldest
    }

    /// Puts back one that is not on the disk. Returns what need not be kept
    /// because the file has been written, and put in, meanwhile.
    pub(crate) fn put_back(&mut self, written: Written) -> u64 {
        if self.files.contains_key(&written.node.key()) {
            return written.kept;
        }
        self.put(written);
        0
    }

    /// The file with this identity is gone. Returns what need not be kept for
    /// it any more.
    pub(crate) fn forget(&mut self, key: NodeKey) -> u64 {
        self.files.remove(&key).map_or(0, |gone| gone.kept)
    }

    /// All of them, and what is kept for them together.
    pub(crate) fn take(&mut self) -> (Vec<Arc<HumNode>>, u64) {
        self.order.clear();
        let all = std::mem::take(&mut self.files);
        let kept = all.values().map(|written| written.kept).sum();
        (all.into_values().map(|written| written.node).collect(), kept)
    }
}
