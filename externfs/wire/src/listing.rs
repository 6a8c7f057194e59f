//! [`Dirents`]: the answer to READDIR and READDIRPLUS, as it fills.

use crate::abi::size;
use crate::habit::{Bring, Given};
use crate::ops::Call;
use crate::reply;
use externfs::{DirEntry, Entry, Listing, Memory, NodeId};
use std::cell::Cell;

/// Records are aligned to 8 bytes (`FUSE_REC_ALIGN`).
fn aligned(len: usize) -> usize {
    len.next_multiple_of(8)
}

/// A listing of at most `limit` bytes.
pub(crate) struct Dirents<'a> {
    call: &'a Call<'a>,
    bytes: Vec<u8>,
    limit: usize,
    /// None for READDIR.
    bring: Option<Bring>,
    given: Given,
    /// The nodes whose lookup count went up for an entry.
    taken: Vec<NodeId>,
    /// There was an entry, but not even one fits.
    too_small: Cell<bool>,
}

impl<'a> Dirents<'a> {
    pub(crate) fn new(call: &'a Call<'a>, limit: usize, expected: usize, bring: Option<Bring>) -> Dirents<'a> {
        let bytes = Vec::with_capacity(expected);
        Dirents { call, bytes, limit, bring, given: Given::default(), taken: Vec::new(), too_small: Cell::new(false) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// An empty answer would mean the end of the directory.
    pub(crate) fn is_too_small(&self) -> bool {
        self.too_small.get()
    }

    /// The records, the nodes that they count as looked up, and what became of
    /// the names that the kernel did not know.
    pub(crate) fn finish(self) -> (Vec<u8>, Vec<NodeId>, Given) {
        (self.bytes, self.taken, self.given)
    }

    fn record_len(&self, name_len: usize) -> usize {
        let fixed = if self.bring.is_some() { size::ENTRY_OUT + size::DIRENT } else { size::DIRENT };
        aligned(fixed.saturating_add(name_len).min(usize::MAX - 7))
    }

    /// `fuse_entry_out` of a READDIRPLUS record. Zeroes say that the kernel is
    /// to look the name up when it needs it.
    fn put_entry(&mut self, known: Option<&Entry>) {
        let Some(known) = known else { return self.bytes.extend_from_slice(&[0; size::ENTRY_OUT]) };
        match reply::entry(&self.call.told(known)) {
            Ok(payload) => {
                self.bytes.extend_from_slice(payload.as_bytes());
                self.taken.push(known.id);
            }
            // An attribute that the protocol cannot express: the LOOKUP says so.
            Err(_) => {
                self.call.export.forget(known.id, 1);
                self.bytes.extend_from_slice(&[0; size::ENTRY_OUT]);
            }
        }
    }
}

impl Listing for Dirents<'_> {
    fn has_room(&self, name_len: usize) -> bool {
        let fits = self.record_len(name_len) <= self.limit - self.bytes.len();
        self.too_small.set(!fits && self.bytes.is_empty());
        fits
    }

    fn wants(&mut self, name: &[u8], memory: Memory) -> bool {
        self.bring.is_some_and(|bring| self.given.wants(bring, name, memory))
    }

    fn put(&mut self, entry: &DirEntry<'_>, known: Option<&Entry>) {
        let end = self.bytes.len() + self.record_len(entry.name.len());
        if end > self.limit {
            // Against the contract; what was counted for it must not leak.
            if let Some(known) = known {
                self.call.export.forget(known.id, 1);
            }
            return;
        }
        if let Some(bring) = self.bring {
            if bring == Bring::Names {
                self.given.bare += 1;
            }
            self.put_entry(known);
        }
        let kind = entry.kind.map_or(0, |kind| u32::from(kind.dirent_type()));
        self.bytes.extend_from_slice(&entry.ino.to_ne_bytes());
        self.bytes.extend_from_slice(&entry.next.to_ne_bytes());
        self.bytes.extend_from_slice(&(entry.name.len() as u32).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(entry.name);
        self.bytes.resize(end, 0);
    }
}
