//! What may be there of an operation whose server died in the middle of it.

use super::{Id, Model};
use crate::op::{Op, TreePath};

/// The host takes written data in pages, and looks for signals between them.
const PAGE: u64 = 4096;

impl Model {
    /// Beside nothing and all of `op`: each as an operation of its own. POSIX
    /// lets a write be short, and has privileges go before contents change;
    /// everything else is one change.
    #[must_use]
    pub fn parts(&self, op: &Op) -> Vec<Op> {
        match op {
            Op::Write { path, offset, len, byte, append } => {
                let size = self.walk(path).map_or(0, |id| self.nodes[id].content.len() as u64);
                let start = if *append { size } else { *offset };
                let part = |len| Op::Write { path: path.clone(), offset: *offset, len, byte: *byte, append: *append };
                page_ends(start, *len as u64).map(|len| part(len as usize)).collect()
            }
            Op::SlotWrite { slot, offset, len, byte } => {
                let part = |len| Op::SlotWrite { slot: *slot, offset: *offset, len, byte: *byte };
                page_ends(*offset, *len as u64).map(|len| part(len as usize)).collect()
            }
            Op::Copy { from, from_offset, to, to_offset, len } => {
                let part = |len| Op::Copy { from: from.clone(), from_offset: *from_offset, to: to.clone(), to_offset: *to_offset, len };
                let ends = page_ends(*to_offset, *len).chain(page_ends(*from_offset, *len)).chain(page_ends(0, *len));
                self.privileges_lost(to).into_iter().chain(ends.map(part)).collect()
            }
            Op::Range { path, .. } => self.privileges_lost(path).into_iter().collect(),
            _ => Vec::new(),
        }
    }

    fn privileges_lost(&self, path: &TreePath) -> Option<Op> {
        let id: Id = self.walk(path).ok()?;
        let mut node = self.nodes[id].clone();
        node.drop_setid();
        (node.mode != self.nodes[id].mode).then(|| Op::Chmod { path: path.clone(), mode: node.mode })
    }
}

/// The lengths at which a range that begins at `start` ends with a page.
fn page_ends(start: u64, len: u64) -> impl Iterator<Item = u64> {
    let first = PAGE - start % PAGE;
    (0..).map(move |page| first + page * PAGE).take_while(move |&end| end < len)
}
