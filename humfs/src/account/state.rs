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

/// The page in memory.
#[derive(Debug)]
pub(crate) struct State {
    file: Option<OwnedFd>,
    page: Box<[u8; LEN]>,
    taken: [bool; SLOTS],
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
        let mut slots = Vec::with_capacity(entries.len());
        for entry in entries {
            let slot = self.taken.iter().position(|taken| !taken);
            slots.push(slot);
            let written = match slot {
                Some(slot) => {
                    self.taken[slot] = true;
                    self.fill(slot, entry);
                    self.write(FIRST + slot * ENTRY, FIRST + (slot + 1) * ENTRY)
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
    /// become of the `object` with this number, if that was there before.
    pub(super) fn close(&mut self, slots: &[Slot], outcome: &Outcome, object: Option<u64>) -> Fault<()> {
        self.used.add(outcome.added);
        self.used.sub(outcome.removed);
        self.orphans.add(outcome.orphaned);
        self.orphans.sub(outcome.homed);
        self.put_counters();
        self.release(slots);
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
            return self.write(8, end);
        }
        self.write(COUNTERS, end)
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
        self.write(0, LEN)
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
mod tests {
    use super::*;

    fn attached(dir: &std::path::Path) -> State {
        let mut state = State::fresh([7; 16]);
        state.attach(
            std::fs::OpenOptions::new().create(true).truncate(false).read(true).write(true).open(dir.join("state")).unwrap().into(),
        );
        state.write_all().unwrap();
        state
    }

    fn reread(dir: &std::path::Path) -> (State, Vec<Left>) {
        State::parse(&std::fs::read(dir.join("state")).unwrap()).unwrap()
    }

    #[test]
    fn a_successor_finds_counters_and_what_was_under_way() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = attached(dir.path());
        let long = vec![b'x'; 300];
        let entries = [
            Entry { kind: EntryKind::Create, ino: 0, before: 0, path: Some(b"a/b") },
            Entry { kind: EntryKind::Remove, ino: 12, before: 4608, path: Some(b"c") },
            Entry { kind: EntryKind::Change, ino: 13, before: 1, path: Some(&long) },
        ];
        let slots = state.open(&entries).unwrap();
        let (found, left) = reread(dir.path());
        assert_eq!((found.used, found.boot_id), (Usage::default(), [7; 16]));
        assert_eq!(left[0], Left { kind: Some(EntryKind::Create), ino: 0, before: 0, path: b"a/b".to_vec() });
        assert_eq!(left[1], Left { kind: Some(EntryKind::Remove), ino: 12, before: 4608, path: b"c".to_vec() });
        assert_eq!((left[2].kind, left.len()), (None, 3));
        state.close(&slots, &Outcome { added: Usage::one(512), ..Outcome::default() }, None).unwrap();
        let (found, left) = reread(dir.path());
        assert_eq!((found.used, left.len()), (Usage::one(512), 0));
    }

    #[test]
    fn more_changes_than_entries_are_counted_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = attached(dir.path());
        let entries = [Entry { kind: EntryKind::Create, ino: 0, before: 0, path: Some(b"a") }; SLOTS + 1];
        let slots = state.open(&entries).unwrap();
        assert!(reread(dir.path()).1.iter().any(|left| left.kind.is_none()));
        state.close(&slots, &Outcome::default(), None).unwrap();
        assert!(reread(dir.path()).1.is_empty());
    }

    /// Two write to one file, and both have begun when the first is done.
    #[test]
    fn what_is_counted_is_not_counted_again_by_another() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = attached(dir.path());
        let entry = |ino| Entry { kind: EntryKind::Change, ino, before: 1000, path: Some(b"a") };
        let (first, second) = (state.open(&[entry(7)]).unwrap(), state.open(&[entry(7), entry(8)]).unwrap());
        let grown = |bytes| Outcome { added: Usage { bytes, inodes: 0 }, ..Outcome::default() };
        state.close(&first, &grown(4096), Some(7)).unwrap();
        let befores = || reread(dir.path()).1.iter().map(|left| (left.ino, left.before)).collect::<Vec<_>>();
        assert_eq!(befores(), [(7, 5096), (8, 1000)]);
        state.close(&[], &Outcome { removed: Usage { bytes: 96, inodes: 0 }, ..Outcome::default() }, Some(7)).unwrap();
        assert_eq!(befores(), [(7, 5000), (8, 1000)]);
        assert_eq!(reread(dir.path()).0.used.bytes, 4000);
        state.close(&second, &Outcome::default(), Some(7)).unwrap();
        assert!(befores().is_empty());
    }

    /// What has no name is gone with whoever had it open, whether that was
    /// written or not.
    #[test]
    fn an_object_that_parts_is_written_with_the_next_change() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = attached(dir.path());
        let one = Usage::one(512);
        state.close(&[], &Outcome { added: one, orphaned: one, ..Outcome::default() }, None).unwrap();
        state.close(&[], &Outcome { removed: one, homed: one, ..Outcome::default() }, None).unwrap();
        let (found, _) = reread(dir.path());
        assert_eq!((found.used, found.orphans, state.used), (one, one, Usage::default()));
        assert_eq!(found.named(), Usage::default());
        state.close(&[], &Outcome { added: Usage::one(100), ..Outcome::default() }, None).unwrap();
        assert_eq!((reread(dir.path()).0.used, reread(dir.path()).0.orphans), (Usage::one(100), Usage::default()));
    }

    #[test]
    fn late_counters_are_unknown_until_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = attached(dir.path());
        state.is_late = true;
        state.write_mark().unwrap();
        let slots = state.open(&[Entry { kind: EntryKind::Create, ino: 0, before: 0, path: Some(b"a") }]).unwrap();
        state.close(&slots, &Outcome { added: Usage::one(512), ..Outcome::default() }, None).unwrap();
        let (found, left) = reread(dir.path());
        assert!(found.used == Usage::default() && left.iter().any(|left| left.kind.is_none()), "{found:?} {left:?}");
        state.clean = true;
        state.write_all().unwrap();
        let (found, left) = reread(dir.path());
        assert_eq!((found.used, found.clean, left.len()), (Usage::one(512), true, 0));
    }

    #[test]
    fn the_page_is_whole() {
        const { assert!(LEN <= 4096) };
        assert!(State::parse(&[0; LEN]).is_none());
        assert!(State::parse(b"humfsst1").is_none());
    }

    #[test]
    fn the_boot_id_is_read() {
        assert_ne!(boot_id(), [0; 16]);
    }
}
