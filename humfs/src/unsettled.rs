//! [`Unsettled`]: files that were written and not written out, to which the
//! host may still add blocks for its own book-keeping: room is kept free for
//! these.
//!
//! ext4 and xfs list a file's extents in its inode while they are few and then
//! in blocks, which appear when data is written out. One block lists hundreds,
//! so one is kept for each file; and a little for each write that lies apart
//! from the one before it, since that may be an extent of its own.

use crate::account::BLOCK;
use crate::node::HumNode;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Files that are remembered; the guess for the others is that nothing comes.
const FILES_MAX: usize = 1024;

/// Twice and a half what ext4 needs for an extent (12 bytes): its lists are
/// not always full.
const EXTENT: u64 = 32;

/// One file.
struct Written {
    node: Arc<HumNode>,
    /// Bytes that are kept free for it.
    kept: u64,
    /// Where it was last written.
    last: Range<u64>,
}

/// See the [module](self).
#[derive(Default)]
pub(crate) struct Unsettled(HashMap<u64, Written>);

impl Unsettled {
    /// `node` was written in `range`. Returns how much more is to be kept free.
    pub(crate) fn written(&mut self, node: &Arc<HumNode>, range: Range<u64>) -> u64 {
        let number = node.key().number;
        if let Some(known) = self.0.get_mut(&number) {
            let touches = range.start <= known.last.end && known.last.start <= range.end;
            let more = if touches { 0 } else { EXTENT };
            known.last = range;
            known.kept += more;
            return more;
        }
        if self.0.len() >= FILES_MAX {
            return 0;
        }
        self.0.insert(number, Written { node: node.clone(), kept: BLOCK, last: range });
        BLOCK
    }

    /// The file with this number is gone. Returns what need not be kept for it
    /// any more.
    pub(crate) fn forget(&mut self, number: u64) -> u64 {
        self.0.remove(&number).map_or(0, |gone| gone.kept)
    }

    /// All of them, and what is kept for them together.
    pub(crate) fn take(&mut self) -> (Vec<Arc<HumNode>>, u64) {
        let all = std::mem::take(&mut self.0);
        let kept = all.values().map(|written| written.kept).sum();
        (all.into_values().map(|written| written.node).collect(), kept)
    }
}
