//! The file `humfs/state`: one page, so that each write is whole.
//!
//! ```text
//! offset  bytes  what (numbers little-endian)
//!      0      8  "humfsst1"
//!      8      8  1 after an unmount in good order; 0 while mounted; 2 while more
//!                changes are under way than there are entries
//!     16     16  the host's boot id, as its 32 hexadecimal digits read
//!     32      8  bytes used
//!     40      8  objects used
//!     48      8  of these bytes, those of objects without a name
//!     56      8  of these objects, those without a name
//!     64  15*256 entries: changes under way
//!
//! an entry
//!      0      1  0 none, 1 create, 2 change, 3 remove, 4 name, 5 unknown place
//!      1      1  length of the path
//!      2      6  0
//!      8      8  number of the object on the host; for one to be made, of
//!                what is in its place until then, or 0
//!     16      8  what it cost before
//!     24    232  the path below data/; empty for the root, and for what has no
//!                name: the number tells them apart
//! ```
//! "Unknown place" is a change whose path does not fit. Should the server die
//! in the middle of one, or of more changes than there are entries, everything
//! is counted anew.
//!
//! # What is written when
//! The file says how things were at some moment: counters, and entries for all
//! that may have changed since. That stays true of a change that has been made,
//! if it is the only one, until a name changes or another object does. So such a
//! change is counted in the file by the write that announces the next one, and if
//! that is to the same object, not even then: a file that is written piece by
//! piece costs one write here, not two for each piece.

use super::{Outcome, Usage};
use crate::host::{self, Fault};
use rustix::io::Errno as Host;
use std::os::fd::OwnedFd;

/// Changes of which the places are known, at once.
const SLOTS: usize = 15;

/// Where a change is written down; None where there was no room.
pub(super) type Slot = Option<usize>;

const MAGIC: &[u8; 8] = b"humfsst1";
const COUNTERS: usize = 32;
const FIRST: usize = 64;
const ENTRY: usize = 256;
const PATH_MAX: usize = 232;
const LEN: usize = FIRST + SLOTS * ENTRY;

/// What is about to happen at a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum EntryKind {
    /// An object appears there.
    Create,
    /// The object there becomes larger or smaller.
    Change,
    /// The last name of the object there goes.
    Remove,
    /// An object without a name gets this one.
    Name,
}

/// One change that is announced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) kind: EntryKind,
    /// Number of the object on the host; for one to be made, of what is in
    /// its place until then, or 0.
    pub(crate) ino: u64,
    /// What it cost before, in bytes.
    pub(crate) before: u64,
    /// Below data/; None where there is none to give.
    pub(crate) path: Option<&'a [u8]>,
}

/// An entry that a predecessor left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Left {
    /// None: somewhere.
    pub(crate) kind: Option<EntryKind>,
    pub(crate) ino: u64,
    pub(crate) before: u64,
    pub(crate) path: Vec<u8>,
}

/// A change that has been made, and that the file still announces.
#[derive(Debug)]
struct Made {
    slot: usize,
    path: Vec<u8>,
    /// Of the object.
    ino: u64,
}

/// The page in memory.
#[derive(Debug)]
pub(crate) struct State {
    file: Option<OwnedFd>,
    page: Box<[u8; LEN]>,
    taken: [bool; SLOTS],
    /// The file has older counters than the page, and other entries up to here.
    behind: Option<usize>,
    /// The last change, if the file announces it and a further one of the same
    /// object need not be announced.
    made: Option<Made>,
    /// Changes under way that are not written down.
    pub(super) uncounted: usize,
    /// No change is written down, only what they came to in the end.
    pub(super) is_late: bool,
    pub(crate) clean: bool,
    pub(crate) boot_id: [u8; 16],
    pub(crate) used: Usage,
    pub(crate) orphans: Usage,
}

impl State {
    /// Of a tree that was never mounted.
    pub(crate) fn fresh(boot_id: [u8; 16]) -> State {
        State {
            file: None,
            page: Box::new([0; LEN]),
            taken: [false; SLOTS],
            behind: None,
            made: None,
            uncounted: 0,
            is_late: false,
            clean: false,
            boot_id,
            used: Usage::default(),
            orphans: Usage::default(),
        }
    }

    /// When nothing but the sum is known.
    pub(crate) fn with_used(bytes: u64) -> State {
        State { used: Usage { bytes, inodes: 1 }, ..State::fresh([0; 16]) }
    }

    /// What is used by what has a name: all of it, once nobody serves the tree.
    pub(crate) fn named(&self) -> Usage {
        let mut named = self.used;
        named.sub(self.orphans);
        named
    }

    /// Whether the host has surely not gone down since this was written.
    pub(crate) fn is_of_this_boot(&self) -> bool {
        self.boot_id != [0; 16] && self.boot_id == boot_id()
    }

    /// What a predecessor left; None for no such file, or not one of ours.
    pub(crate) fn parse(bytes: &[u8]) -> Option<(State, Vec<Left>)> {
        if bytes.len() < LEN || !bytes.starts_with(MAGIC) {
            return None;
        }
        let number = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
        let mut state = State::fresh(bytes.get(16..32)?.try_into().ok()?);
        state.clean = number(8)? == 1;
        state.used = Usage { bytes: number(32)?, inodes: number(40)? };
        state.orphans = Usage { bytes: number(48)?, inodes: number(56)? };
        let mut left = Vec::new();
        if number(8)? == 2 {
            left.push(Left { kind: None, ino: 0, before: 0, path: Vec::new() });
        }
        for slot in 0..SLOTS {
            let at = FIRST + slot * ENTRY;
            let entry = bytes.get(at..at + ENTRY)?;
            let kind = match *entry.first()? {
                0 => continue,
                1 => Some(EntryKind::Create),
                2 => Some(EntryKind::Change),
                3 => Some(EntryKind::Remove),
                4 => Some(EntryKind::Name),
                _ => None,
            };
            let path = entry.get(24..24 + usize::from(*entry.get(1)?)).unwrap_or_default().to_vec();
            left.push(Left { kind, ino: number(at + 8)?, before: number(at + 16)?, path });
        }
        Some((state, left))
    }

    /// From now on every change is written to `file`.
    pub(super) fn attach(&mut self, file: OwnedFd) {
        self.file = Some(file);
    }

    /// Writes `entries` down and returns their slots.
    pub(super) fn open(&mut self, entries: &[Entry<'_>]) -> Fault<Vec<Slot>> {
        if self.is_late {
            return Ok(Vec::new());
        }
        if let Some(slot) = self.again(entries) {
            return Ok(vec![Some(slot)]);
        }
        if entries.is_empty() {
            return self.catch_up().map(|()| Vec::new());
        }
        let mut slots = Vec::with_capacity(entries.len());
        for entry in entries {
            let slot = self.taken.iter().position(|taken| !taken);
            slots.push(slot);
            let written = match slot {
                Some(slot) => {
                    self.taken[slot] = true;
                    self.fill(slot, entry);
                    self.write_entry(slot)
                }
                None => {
                    self.uncounted += 1;
                    self.write_mark()
                }
            };
            if let Err(error) = written {
                self.release(&slots);
                return Err(error);
            }
        }
        Ok(slots)
    }

    /// The slot of the change that was made last, if `entries` are a further one
    /// of the same object: what the file says covers both.
    fn again(&mut self, entries: &[Entry<'_>]) -> Option<usize> {
        let [entry @ Entry { kind: EntryKind::Change, path: Some(path), .. }] = entries else { return None };
        let is_same = |made: &mut Made| made.path == *path && made.ino == entry.ino;
        let Made { slot, .. } = self.made.take_if(is_same)?;
        self.taken[slot] = true;
        // As it is from the next write on, which has the counters of now.
        self.fill(slot, entry);
        Some(slot)
    }

    /// Writes what the file has not yet: from now on it announces nothing that
    /// has been made. To be called before names change of which nothing else is
    /// announced.
    pub(super) fn catch_up(&mut self) -> Fault<()> {
        match self.behind {
            Some(end) => self.write_on(COUNTERS, end),
            None => Ok(()),
        }
    }

    /// Whether the file has yet to be told of something that was made.
    pub(super) fn is_behind(&self) -> bool {
        self.behind.is_some()
    }

    fn write_entry(&mut self, slot: usize) -> Fault<()> {
        let (from, to) = (FIRST + slot * ENTRY, FIRST + (slot + 1) * ENTRY);
        if self.behind.is_some() { self.write_on(COUNTERS, to) } else { self.write(from, to) }
    }

    /// Writes from `from` on, the counters at least, up to `end`, and further if
    /// the file has other entries there.
    fn write_on(&mut self, from: usize, end: usize) -> Fault<()> {
        let end = end.max(self.behind.unwrap_or(0));
        self.made = None;
        self.behind = Some(end);
        self.write(from, end)?;
        self.behind = None;
        Ok(())
    }

    /// Whether the file needs no word of the change in `slots` having been made;
    /// `made` is the number of what appeared. Takes note of it then.
    fn may_be_late(&mut self, slots: &[Slot], made: Option<u64>) -> bool {
        let &[Some(slot)] = slots else { return false };
        let is_alone = self.uncounted == 0 && self.taken.iter().filter(|taken| **taken).count() == 1;
        let at = FIRST + slot * ENTRY;
        let (kind, len) = (self.page[at], usize::from(self.page[at + 1]));
        let ino = match kind {
            // One that failed would count whatever gets the name next.
            1 => made,
            2 | 3 => Some(self.number(at + 8)),
            // Of 4 a successor would count what has a name already, of 5 all.
            _ => None,
        };
        let Some(ino) = ino.filter(|_| is_alone && len > 0) else { return false };
        let path = self.page.get(at + 24..at + 24 + len).unwrap_or_default().to_vec();
        self.made = (kind != 3).then_some(Made { slot, path, ino });
        self.behind = Some(self.behind.unwrap_or(0).max(at + ENTRY));
        true
    }

    /// Takes `slots` back, in memory.
    fn release(&mut self, slots: &[Slot]) {
        for slot in slots {
            match *slot {
                Some(slot) => {
                    self.taken[slot] = false;
                    self.page[FIRST + slot * ENTRY] = 0;
                }
                None => self.uncounted -= 1,
            }
        }
    }

    pub(super) fn write_mark(&mut self) -> Fault<()> {
        self.put_mark();
        self.write(8, 16)
    }

    fn put_mark(&mut self) {
        let unknown = self.uncounted > 0 || (self.is_late && !self.clean);
        let mark: u64 = if unknown { 2 } else { self.clean.into() };
        self.page[8..16].copy_from_slice(&mark.to_le_bytes());
    }

    fn fill(&mut self, slot: usize, entry: &Entry<'_>) {
        let page = &mut self.page[FIRST + slot * ENTRY..][..ENTRY];
        let path = entry.path.filter(|path| path.len() <= PATH_MAX);
        page[0] = match (path, entry.kind) {
            (None, _) => 5,
            (_, EntryKind::Create) => 1,
            (_, EntryKind::Change) => 2,
            (_, EntryKind::Remove) => 3,
            (_, EntryKind::Name) => 4,
        };
        let path = path.unwrap_or_default();
        page[1] = path.len() as u8;
        page[8..16].copy_from_slice(&entry.ino.to_le_bytes());
        page[16..24].copy_from_slice(&entry.before.to_le_bytes());
        page[24..24 + path.len()].copy_from_slice(path);
    }

    fn number(&self, at: usize) -> u64 {
        self.page.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
    }

    /// Counts `outcome` and frees `slots`, in one write at most. It is what has
    /// become of the `object` with this number, if that was there before, and of
    /// the one that was `made`, if that has appeared.
    pub(super) fn close(&mut self, slots: &[Slot], outcome: &Outcome, object: Option<u64>, made: Option<u64>) -> Fault<()> {
        self.used.add(outcome.added);
        self.used.sub(outcome.removed);
        self.orphans.add(outcome.orphaned);
        self.orphans.sub(outcome.homed);
        self.put_counters();
        let is_late = !self.is_late && self.may_be_late(slots, made);
        self.release(slots);
        if is_late {
            return Ok(());
        }
        // What had no name is gone: a successor takes that off by itself, so
        // the next write is early enough.
        let parted = Outcome { removed: outcome.removed, homed: outcome.removed, ..Outcome::default() };
        if self.is_late || (slots.is_empty() && *outcome == parted) {
            return Ok(());
        }
        // Others who change the same object have begun with what it cost then.
        let moved = object.and_then(|ino| self.rebase(ino, outcome));
        let last = slots.iter().flatten().copied().chain(moved).max();
        let end = last.map_or(FIRST, |last| FIRST + (last + 1) * ENTRY);
        if slots.contains(&None) {
            self.put_mark();
            return self.write_on(8, end);
        }
        self.write_on(COUNTERS, end)
    }

    /// Tells the entries of an object what has just been counted of it. Returns
    /// the last of them.
    fn rebase(&mut self, ino: u64, outcome: &Outcome) -> Option<usize> {
        let mut last = None;
        for slot in (0..SLOTS).filter(|slot| self.taken[*slot]) {
            let at = FIRST + slot * ENTRY;
            if self.page[at] != 0 && self.number(at + 8) == ino {
                let before = self.number(at + 16).saturating_add(outcome.added.bytes).saturating_sub(outcome.removed.bytes);
                self.page[at + 16..at + 24].copy_from_slice(&before.to_le_bytes());
                last = Some(slot);
            }
        }
        last
    }

    fn put_counters(&mut self) {
        let numbers = [self.used.bytes, self.used.inodes, self.orphans.bytes, self.orphans.inodes];
        for (index, number) in numbers.into_iter().enumerate() {
            self.page[COUNTERS + index * 8..][..8].copy_from_slice(&number.to_le_bytes());
        }
    }

    /// The whole page.
    pub(super) fn write_all(&mut self) -> Fault<()> {
        self.page[..8].copy_from_slice(MAGIC);
        self.put_mark();
        self.page[16..32].copy_from_slice(&self.boot_id);
        self.put_counters();
        self.made = None;
        self.write(0, LEN)?;
        self.behind = None;
        Ok(())
    }

    /// What was written is durable.
    pub(super) fn sync(&self) -> Fault<()> {
        self.file.as_ref().map_or(Ok(()), rustix::fs::fdatasync)
    }

    fn write(&self, from: usize, to: usize) -> Fault<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let bytes = self.page.get(from..to).unwrap_or_default();
        loop {
            match rustix::io::pwrite(file, bytes, from as u64) {
                Ok(count) if count == bytes.len() => return Ok(()),
                Ok(_) => return Err(Host::NOSPC),
                Err(Host::INTR) => {}
                Err(other) => return Err(other),
            }
        }
    }
}

/// The host's boot id in 16 bytes; zeroes where it is hidden.
pub(crate) fn boot_id() -> [u8; 16] {
    let digits: Vec<u8> = host::boot_id().unwrap_or_default().chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    id
}

/// Reads the file, if it is there.
pub(crate) fn read(control: std::os::fd::BorrowedFd<'_>) -> Fault<Option<(State, Vec<Left>)>> {
    match host::read_file(control, c"state", LEN) {
        Ok(bytes) => Ok(State::parse(&bytes)),
        Err(Host::NOENT) => Ok(None),
        Err(other) => Err(other),
    }
}

/// Opens the file for writing.
pub(crate) fn open(control: std::os::fd::BorrowedFd<'_>) -> Fault<OwnedFd> {
    host::open_file(control, c"state", rustix::fs::OFlags::CREATE | rustix::fs::OFlags::RDWR)
}

#[cfg(test)]
mod tests;
