//! Listings into fuser's reply buffers.
//!
//! fuser does not say how large the kernel's buffer is, only that an entry did
//! not fit. So room is promised until that happens; the entry that did not fit
//! is listed again by the next request, and the lookup that a listing with
//! attributes took for it is given back.

use crate::convert::{entry_attr, file_type, listed_only_attr, no_entry_attr};
use crate::passthrough::Backings;
use crate::phantom::Phantoms;
use externfs::{DirEntry, Entry, FileKind, Listing, NodeId};
use fuser::{BackingId, FileAttr, Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

fn is_dot(name: &[u8]) -> bool {
    matches!(name, b"." | b"..")
}

/// READDIR.
pub(crate) struct Names {
    pub(crate) reply: ReplyDirectory,
    pub(crate) full: bool,
    /// An entry whose type the host did not tell; fuser must have one, so it
    /// ends the reply until it is looked up.
    pub(crate) untyped: Option<Untyped>,
}

/// A name whose type is not known yet.
pub(crate) struct Untyped {
    pub(crate) name: Vec<u8>,
    pub(crate) number: u64,
    pub(crate) next: u64,
}

impl Names {
    pub(crate) fn new(reply: ReplyDirectory) -> Names {
        Names { reply, full: false, untyped: None }
    }

    pub(crate) fn add(&mut self, number: u64, next: u64, kind: FileKind, name: &[u8]) {
        self.full |= self.reply.add(INodeNo(number), next, file_type(kind), OsStr::from_bytes(name));
    }
}

impl Listing for Names {
    fn has_room(&self, _name_len: usize) -> bool {
        !self.full && self.untyped.is_none()
    }

    fn put(&mut self, entry: &DirEntry<'_>, _known: Option<&Entry>) {
        match entry.kind {
            _ if is_dot(entry.name) => self.add(entry.ino, entry.next, FileKind::Directory, entry.name),
            Some(kind) => self.add(entry.ino, entry.next, kind, entry.name),
            None => self.untyped = Some(Untyped { name: entry.name.to_vec(), number: entry.ino, next: entry.next }),
        }
    }
}

/// READDIRPLUS.
pub(crate) struct NamesWithAttributes<'a> {
    pub(crate) reply: ReplyDirectoryPlus,
    pub(crate) full: bool,
    /// A node whose lookup the kernel will not hear of.
    pub(crate) give_back: Option<NodeId>,
    pub(crate) phantoms: &'a Phantoms,
    pub(crate) backings: &'a Backings<BackingId>,
    pub(crate) mark: u64,
}

impl NamesWithAttributes<'_> {
    fn add(&mut self, entry: &DirEntry<'_>, ttl: Duration, attr: &FileAttr, generation: u64) -> bool {
        self.full = self.reply.add(attr.ino, entry.next, OsStr::from_bytes(entry.name), &ttl, attr, Generation(generation));
        !self.full
    }

    fn put_known(&mut self, entry: &DirEntry<'_>, known: &Entry) {
        // One life for both is all that fuser carries.
        let ttl = self.backings.attr_ttl(self.mark, known.id, known.attr_ttl).min(known.entry_ttl);
        if !self.add(entry, ttl, &entry_attr(known), known.generation) {
            self.give_back = Some(known.id);
        }
    }
}

impl Listing for NamesWithAttributes<'_> {
    fn has_room(&self, _name_len: usize) -> bool {
        !self.full
    }

    fn put(&mut self, entry: &DirEntry<'_>, known: Option<&Entry>) {
        if is_dot(entry.name) {
            // The kernel takes only number and type of these two.
            let attr = FileAttr { ino: INodeNo(entry.ino), kind: fuser::FileType::Directory, ..no_entry_attr() };
            self.add(entry, Duration::ZERO, &attr, 0);
        } else if let Some(known) = known {
            self.put_known(entry, known);
        } else {
            // Before it is sent: the FORGET may come while we still are here.
            let attr = listed_only_attr(entry.ino, entry.kind.unwrap_or(FileKind::Regular));
            if self.add(entry, Duration::ZERO, &attr, 0) {
                self.phantoms.expect(entry.ino);
            }
        }
    }
}
