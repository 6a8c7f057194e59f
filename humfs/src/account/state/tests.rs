//! The page, and what a successor makes of it.

use super::*;
use std::collections::{BTreeMap, HashSet};

fn attached(dir: &std::path::Path) -> State {
    let mut state = State::fresh([7; 16]);
    state.attach(std::fs::OpenOptions::new().create(true).truncate(false).read(true).write(true).open(dir.join("state")).unwrap().into());
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
    state.close(&slots, &Outcome { added: Usage::one(512), ..Outcome::default() }, None, None).unwrap();
    let (found, left) = reread(dir.path());
    assert_eq!((found.used, left.len()), (Usage::one(512), 0));
}

fn create(path: &[u8]) -> Entry<'_> {
    Entry { kind: EntryKind::Create, ino: 0, before: 0, path: Some(path) }
}

#[test]
fn what_was_made_is_counted_by_the_next_write() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = attached(dir.path());
    let slots = state.open(&[create(b"a")]).unwrap();
    state.close(&slots, &Outcome { added: Usage::one(512), ..Outcome::default() }, None, Some(7)).unwrap();
    let (found, left) = reread(dir.path());
    assert_eq!((found.used, left.len(), state.used), (Usage::default(), 1, Usage::one(512)), "still announced");
    let slots = state.open(&[create(b"b")]).unwrap();
    let (found, left) = reread(dir.path());
    assert_eq!((found.used, left[0].path.as_slice(), left.len()), (Usage::one(512), &b"b"[..], 1));
    state.close(&slots, &Outcome { added: Usage::one(512), ..Outcome::default() }, None, Some(7)).unwrap();
    state.catch_up().unwrap();
    let (found, left) = reread(dir.path());
    assert_eq!((found.used, left.len()), (Usage { bytes: 1024, inodes: 2 }, 0));
}

#[test]
fn a_file_that_is_written_piece_by_piece_is_announced_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = attached(dir.path());
    let slots = state.open(&[create(b"a")]).unwrap();
    state.close(&slots, &Outcome { added: Usage::one(512), ..Outcome::default() }, None, Some(7)).unwrap();
    let before = std::fs::read(dir.path().join("state")).unwrap();
    let grown = Outcome { added: Usage { bytes: 4096, inodes: 0 }, ..Outcome::default() };
    for piece in 0..10 {
        let entry = Entry { kind: EntryKind::Change, ino: 7, before: 512 + piece * 4096, path: Some(b"a") };
        let slots = state.open(&[entry]).unwrap();
        state.close(&slots, &grown, Some(7), None).unwrap();
    }
    assert_eq!(std::fs::read(dir.path().join("state")).unwrap(), before);
    // Another object, a name that changes: then it is written.
    let other = Entry { kind: EntryKind::Change, ino: 8, before: 0, path: Some(b"a") };
    let slots = state.open(&[other]).unwrap();
    assert_eq!(reread(dir.path()).0.used, Usage { bytes: 512 + 10 * 4096, inodes: 1 });
    state.close(&slots, &Outcome::default(), Some(8), None).unwrap();
    state.open(&[]).unwrap();
    assert!(reread(dir.path()).1.is_empty());
}

#[test]
fn a_creation_that_failed_says_nothing_of_what_gets_the_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = attached(dir.path());
    let slots = state.open(&[create(b"a")]).unwrap();
    state.close(&slots, &Outcome::default(), None, None).unwrap();
    assert!(reread(dir.path()).1.is_empty());
}

/// An object of the world that the page is about.
#[derive(Clone, Copy)]
struct Thing {
    ino: u64,
    cost: u64,
    counted: u64,
}

/// A change that has been announced.
struct Going {
    kind: EntryKind,
    path: Vec<u8>,
    slots: Vec<Slot>,
    is_done: bool,
}

/// A world in which things are made, changed, moved and removed, several at once.
struct World {
    dir: tempfile::TempDir,
    state: State,
    things: BTreeMap<Vec<u8>, Thing>,
    going: Vec<Going>,
    next: u64,
    random: u64,
}

impl World {
    fn draw(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % below as u64) as usize
    }

    fn is_busy(&self, path: &[u8]) -> bool {
        self.going.iter().any(|going| going.path == path)
    }

    fn path(&mut self) -> Vec<u8> {
        format!("p{}", self.draw(6)).into_bytes()
    }

    fn begin(&mut self) {
        let path = self.path();
        let thing = self.things.get(&path).copied();
        let kind = match (thing, self.draw(3)) {
            (None, _) if !self.is_busy(&path) => EntryKind::Create,
            (Some(_), 0) if !self.is_busy(&path) => EntryKind::Remove,
            // Two may write to one file.
            (Some(_), _) if self.going.iter().all(|going| going.path != path || going.kind == EntryKind::Change) => EntryKind::Change,
            _ => return,
        };
        let (ino, before) = thing.map_or((0, 0), |thing| (thing.ino, thing.counted));
        let slots = self.state.open(&[Entry { kind, ino, before, path: Some(&path) }]).unwrap();
        self.going.push(Going { kind, path, slots, is_done: false });
    }

    fn advance(&mut self) {
        if self.going.is_empty() {
            return;
        }
        let index = self.draw(self.going.len());
        if !self.going[index].is_done {
            if self.draw(6) == 0 {
                // It fails.
                let Going { kind, path, slots, .. } = self.going.swap_remove(index);
                let object = (kind == EntryKind::Change).then(|| self.things[&path].ino);
                self.state.close(&slots, &Outcome::default(), object, None).unwrap();
                return;
            }
            self.going[index].is_done = true;
            let (kind, path) = (self.going[index].kind, self.going[index].path.clone());
            let blocks = self.draw(5) as u64 * 4096;
            match kind {
                EntryKind::Create => {
                    self.next += 1;
                    self.things.insert(path, Thing { ino: self.next, cost: 512, counted: 0 });
                }
                EntryKind::Remove => drop(self.things.remove(&path)),
                _ => self.things.get_mut(&path).unwrap().cost = 512 + blocks,
            }
            return;
        }
        let Going { kind, path, slots, .. } = self.going.swap_remove(index);
        let mut outcome = Outcome::default();
        let mut object = None;
        match self.things.get_mut(&path) {
            Some(thing) => {
                object = (kind == EntryKind::Change).then_some(thing.ino);
                outcome.added.bytes = thing.cost.saturating_sub(thing.counted);
                outcome.removed.bytes = thing.counted.saturating_sub(thing.cost);
                outcome.added.inodes = u64::from(kind == EntryKind::Create);
                thing.counted = thing.cost;
            }
            // Nobody changes what is being removed, so its cost was counted.
            None => outcome.removed = Usage::one(self.removed_cost(&slots)),
        }
        let made = (kind == EntryKind::Create).then(|| self.things[&path].ino);
        self.state.close(&slots, &outcome, object, made).unwrap();
    }

    fn removed_cost(&self, slots: &[Slot]) -> u64 {
        slots[0].map_or(0, |slot| self.state.number(FIRST + slot * ENTRY + 16))
    }

    fn rename(&mut self) {
        let (from, to) = (self.path(), self.path());
        if self.is_busy(&from) || self.is_busy(&to) || self.things.contains_key(&to) {
            return;
        }
        if let Some(thing) = self.things.remove(&from) {
            self.state.catch_up().unwrap();
            self.things.insert(to, thing);
        }
    }

    /// What a successor would count, if the server died now.
    fn settled(&self) -> Usage {
        let (state, left) = reread(self.dir.path());
        let mut used = state.used;
        let mut changed = HashSet::new();
        for entry in left {
            let here = self.things.get(&entry.path);
            match (entry.kind.expect("more changes than entries"), here) {
                (EntryKind::Create, Some(thing)) if thing.ino != entry.ino => used.add(Usage::one(thing.cost)),
                (EntryKind::Create, _) => {}
                (EntryKind::Change, Some(thing)) => {
                    assert_eq!(thing.ino, entry.ino, "it cannot be traced");
                    if changed.insert(thing.ino) {
                        used.bytes = used.bytes + thing.cost - entry.before;
                    }
                }
                (EntryKind::Change, None) => panic!("it cannot be traced"),
                (EntryKind::Remove, Some(thing)) if thing.ino == entry.ino => {}
                (EntryKind::Remove, _) => used.sub(Usage::one(entry.before)),
                (EntryKind::Name, _) => unreachable!(),
            }
        }
        used
    }
}

proptest::proptest! {
    #[test]
    fn a_successor_counts_right_whenever_the_server_dies(seed in 1u64..) {
        let dir = tempfile::tempdir().unwrap();
        let state = attached(dir.path());
        let mut world = World { dir, state, things: BTreeMap::new(), going: Vec::new(), next: 100, random: seed };
        for step in 0..400 {
            match world.draw(8) {
                0..3 if world.going.len() < 4 => world.begin(),
                7 => world.rename(),
                _ => world.advance(),
            }
            let bytes = world.things.values().map(|thing| thing.cost).sum();
            let actual = Usage { bytes, inodes: world.things.len() as u64 };
            proptest::prop_assert_eq!(world.settled(), actual, "step {}", step);
        }
    }
}

#[test]
fn more_changes_than_entries_are_counted_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = attached(dir.path());
    let entries = [Entry { kind: EntryKind::Create, ino: 0, before: 0, path: Some(b"a") }; SLOTS + 1];
    let slots = state.open(&entries).unwrap();
    assert!(reread(dir.path()).1.iter().any(|left| left.kind.is_none()));
    state.close(&slots, &Outcome::default(), None, None).unwrap();
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
    state.close(&first, &grown(4096), Some(7), None).unwrap();
    let befores = || reread(dir.path()).1.iter().map(|left| (left.ino, left.before)).collect::<Vec<_>>();
    assert_eq!(befores(), [(7, 5096), (8, 1000)]);
    state.close(&[], &Outcome { removed: Usage { bytes: 96, inodes: 0 }, ..Outcome::default() }, Some(7), None).unwrap();
    assert_eq!(befores(), [(7, 5000), (8, 1000)]);
    assert_eq!(reread(dir.path()).0.used.bytes, 4000);
    state.close(&second, &Outcome::default(), Some(7), None).unwrap();
    assert!(befores().is_empty());
}

/// What has no name is gone with whoever had it open, whether that was
/// written or not.
#[test]
fn an_object_that_parts_is_written_with_the_next_change() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = attached(dir.path());
    let one = Usage::one(512);
    state.close(&[], &Outcome { added: one, orphaned: one, ..Outcome::default() }, None, None).unwrap();
    state.close(&[], &Outcome { removed: one, homed: one, ..Outcome::default() }, None, None).unwrap();
    let (found, _) = reread(dir.path());
    assert_eq!((found.used, found.orphans, state.used), (one, one, Usage::default()));
    assert_eq!(found.named(), Usage::default());
    state.close(&[], &Outcome { added: Usage::one(100), ..Outcome::default() }, None, None).unwrap();
    assert_eq!((reread(dir.path()).0.used, reread(dir.path()).0.orphans), (Usage::one(100), Usage::default()));
}

#[test]
fn late_counters_are_unknown_until_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = attached(dir.path());
    state.is_late = true;
    state.write_mark().unwrap();
    let slots = state.open(&[Entry { kind: EntryKind::Create, ino: 0, before: 0, path: Some(b"a") }]).unwrap();
    state.close(&slots, &Outcome { added: Usage::one(512), ..Outcome::default() }, None, None).unwrap();
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
