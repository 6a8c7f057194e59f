//! [`Habit`]: whether those who list directories go on to look at what they
//! found, so that the listing should bring the attributes.
//!
//! The kernel has a rule of its own (`READDIRPLUS_AUTO`): attributes for the
//! first piece of a directory, and for the next only if somebody looked a name
//! up meanwhile. find, du, tar and rm read a directory to its end before they
//! look at anything, so all but the first 200 names of a large directory are
//! looked up one by one. Attributes with every piece instead make names alone
//! seven times as dear.
//!
//! So it is learned. Attributes are given at first, until one directory says
//! otherwise: for nothing they cost a tenth of what a lookup does. Whether they
//! are used cannot be seen, the kernel has them; so one name of each piece stays
//! without, and whether that one is looked up tells. After names alone, who comes
//! to look names up in that directory shows that attributes are wanted again.
//!
//! | seen | then |
//! |---|---|
//! | an eighth of the names is looked up, or 200; or one that was left out | attributes, until two directories in a row say otherwise |
//! | four other large directories were listed since, or this one twice more, without that | this one says otherwise |
//! | so many names of one directory were given with attributes and none of those left out was looked up, as find reads before it looks | names alone for the rest of it |
//!
//! A directory counts from its second piece on: a small one has none.

use externfs::{Memory, NodeId};
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Directories that are watched at a time.
const WATCHED_MAX: usize = 4;
/// Directories in a row that have to show no interest.
const CONFIDENCE: u8 = 2;
/// The part of the names that has to be looked up, as a divisor, and how many
/// are enough of any number.
const PART: u32 = 8;
const ENOUGH: u32 = 200;
/// Names that get attributes before there is a sign that they are of use: while
/// nothing is known, and when it was so lately. fts(3) reads 100,000 at a time.
const UNPROVED_MAX: (u64, u64) = (1 << 14, 1 << 17);
/// Names left out that are remembered: the first, which is looked at first, and
/// the latest.
const LEFT_OUT_MAX: usize = 8;

/// What a piece of a listing is to bring for its names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bring {
    /// Attributes.
    All,
    /// Attributes, but not for the first name that the kernel does not know.
    AllButOne,
    /// Names alone.
    Names,
}

/// What a later piece of a listing brought.
#[derive(Default)]
pub(crate) struct Given {
    /// Names alone, where nothing else was brought; the kernel may know some.
    pub(crate) bare: u32,
    /// Names with attributes.
    full: u64,
    /// The one left out among these.
    left_out: Option<Box<[u8]>>,
}

impl Given {
    /// Whether this name is to get attributes. Of one whose attributes the kernel
    /// has it is asked where the listing does not tell its type.
    pub(crate) fn wants(&mut self, bring: Bring, name: &[u8], memory: Memory) -> bool {
        match (bring, memory) {
            (Bring::All, _) => true,
            (Bring::Names, _) | (Bring::AllButOne, Memory::Fresh) => false,
            (Bring::AllButOne, Memory::None) if self.left_out.is_none() => {
                self.left_out = Some(name.into());
                false
            }
            (Bring::AllButOne, Memory::None | Memory::Old) => {
                self.full += 1;
                true
            }
        }
    }
}

/// What is known of one kernel's listings. Cheap where no large directory is
/// listed: a LOOKUP reads one flag.
#[derive(Default)]
pub(crate) struct Habit {
    /// Whether anything is watched; written under the lock.
    watching: AtomicBool,
    state: Mutex<State>,
}

struct State {
    /// Attributes are brought while it is not 0.
    confidence: u8,
    /// The oldest first.
    watched: VecDeque<Watched>,
}

impl Default for State {
    fn default() -> State {
        State { confidence: 1, watched: VecDeque::new() }
    }
}

impl State {
    fn of(&mut self, directory: NodeId) -> Option<&mut Watched> {
        self.watched.iter_mut().find(|watched| watched.node == directory)
    }

    /// A directory is watched no longer, or from the beginning.
    fn conclude(&mut self, watched: &Watched) {
        let was_asked = watched.bare > 0 || !watched.left_out.is_empty();
        if was_asked && !watched.wanted {
            self.confidence = self.confidence.saturating_sub(1);
        }
    }
}

/// A directory whose listing went beyond its first piece.
struct Watched {
    node: NodeId,
    /// Times that it was listed from the start since.
    listed_again: u32,
    /// Names given without attributes, and the lookups since: a bit for each name,
    /// by its hash, and how many these are.
    bare: u32,
    seen: [u64; 16],
    looked_up: u32,
    /// Names given with attributes since the last sign.
    unproved: u64,
    left_out: VecDeque<Box<[u8]>>,
    /// There was a sign.
    wanted: bool,
}

impl Watched {
    fn new(node: NodeId) -> Watched {
        Watched { node, listed_again: 0, bare: 0, seen: [0; 16], looked_up: 0, unproved: 0, left_out: VecDeque::new(), wanted: false }
    }

    /// Takes a lookup down: whether it is a sign.
    fn looked_up(&mut self, name: &[u8]) -> bool {
        if self.bare > 0 {
            let mut hasher = DefaultHasher::new();
            hasher.write(name);
            let hash = hasher.finish() as usize;
            if let Some(bits) = self.seen.get_mut(hash / 64 % 16) {
                // The same name over and over is one.
                self.looked_up += u32::from(*bits & (1 << (hash % 64)) == 0);
                *bits |= 1 << (hash % 64);
            }
        }
        let is_part = self.bare > 0 && self.looked_up >= (self.bare / PART).clamp(1, ENOUGH);
        let is_sign = is_part || self.left_out.iter().any(|left_out| **left_out == *name);
        if is_sign {
            *self = Watched { wanted: true, ..Watched::new(self.node) };
        }
        is_sign
    }
}

impl Habit {
    /// What a piece of `directory`'s listing that begins at `cookie` is to bring.
    pub(crate) fn of(&self, directory: NodeId, cookie: u64) -> Bring {
        if cookie == 0 && !self.watching.load(Ordering::Relaxed) {
            return Bring::All;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (confidence, watched) = (state.confidence, state.of(directory));
        if cookie != 0 {
            let most = if confidence >= CONFIDENCE { UNPROVED_MAX.1 } else { UNPROVED_MAX.0 };
            let is_unproved = watched.is_some_and(|watched| watched.unproved >= most);
            return if confidence == 0 || is_unproved { Bring::Names } else { Bring::AllButOne };
        }
        // Once may be another who takes a short look.
        if let Some(watched) = watched {
            watched.listed_again += 1;
            if watched.listed_again > 1 {
                let last = std::mem::replace(watched, Watched::new(directory));
                state.conclude(&last);
            }
        }
        Bring::All
    }

    /// What a piece came to that was to bring less than all. The last one of each
    /// listing holds nothing.
    pub(crate) fn gave(&self, directory: NodeId, given: Given) {
        let Given { bare, full, left_out } = given;
        if bare == 0 && full == 0 && left_out.is_none() {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.of(directory).is_none() {
            if state.watched.len() >= WATCHED_MAX
                && let Some(oldest) = state.watched.pop_front()
            {
                state.conclude(&oldest);
            }
            state.watched.push_back(Watched::new(directory));
            self.watching.store(true, Ordering::Relaxed);
        }
        let Some(watched) = state.of(directory) else { return };
        watched.bare = watched.bare.saturating_add(bare);
        watched.unproved += full;
        if let Some(name) = left_out {
            if watched.left_out.len() >= LEFT_OUT_MAX {
                watched.left_out.remove(1);
            }
            watched.left_out.push_back(name);
        }
    }

    /// A name was looked up, and is there.
    pub(crate) fn looked_up(&self, directory: NodeId, name: &[u8]) {
        if !self.watching.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.of(directory).is_some_and(|watched| watched.looked_up(name)) {
            state.confidence = CONFIDENCE;
        }
    }

    /// The conversation ended: node numbers mean something else from now on.
    pub(crate) fn reset(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State::default();
        self.watching.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: u64 = 200;
    const BARE: u32 = PIECE as u32;

    /// A kernel reads on until it is told nothing more.
    fn list_end(habit: &Habit, node: NodeId) {
        habit.of(node, u64::MAX);
        habit.gave(node, Given::default());
    }

    /// Lists a directory of five pieces as the bridge would; afterwards looks
    /// up what the kernel does not know, if it is wanted. How many lookups.
    fn list(habit: &Habit, node: u64, wanted: bool) -> u64 {
        let node = NodeId(node);
        let mut unknown = Vec::new();
        for piece in 0..5 {
            let names: Vec<String> = (0..PIECE).map(|number| format!("{piece}-{number}")).collect();
            let bring = habit.of(node, piece * PIECE);
            let bare = if bring == Bring::Names { BARE } else { 0 };
            let mut given = Given { bare, ..Given::default() };
            unknown.extend(names.into_iter().filter(|name| !given.wants(bring, name.as_bytes(), Memory::None)));
            habit.gave(node, given);
        }
        list_end(habit, node);
        unknown.iter().filter(|_| wanted).for_each(|name| habit.looked_up(node, name.as_bytes()));
        unknown.len() as u64
    }

    /// One who has seen enough directories of whose names alone were wanted.
    fn for_names() -> Habit {
        let habit = Habit::default();
        for number in 1..=DEAR_MAX {
            list(&habit, u64::MAX - number as u64, false);
        }
        habit
    }

    /// Directories that may get attributes for nothing.
    const DEAR_MAX: usize = WATCHED_MAX + CONFIDENCE as usize;

    #[test]
    fn who_wants_attributes_gets_them_from_the_first_directory_on() {
        let habit = Habit::default();
        for node in (1..100).chain([1]) {
            assert_eq!(list(&habit, node, true), 4, "one name of each piece");
        }
    }

    #[test]
    fn who_wants_names_gets_names() {
        let habit = for_names();
        for node in 1..100 {
            assert_eq!(list(&habit, node, false), 4 * PIECE);
        }
    }

    #[test]
    fn a_habit_that_changes_is_followed() {
        let habit = for_names();
        for round in 0..3 {
            let first = 1000 * round;
            assert_eq!(list(&habit, first, true), 4 * PIECE, "one directory teaches it");
            assert_eq!(list(&habit, first + 1, true), 4);
            // The directories of before have to be forgotten first.
            let dear = (0..100).filter(|number| list(&habit, first + 2 + number, false) == 4).count();
            assert!((1..=DEAR_MAX).contains(&dear), "{dear} directories with attributes for nothing");
        }
    }

    #[test]
    fn a_few_names_of_many_are_no_sign() {
        let habit = for_names();
        list(&habit, 1, false);
        for number in 0..4 * BARE / PART / 2 {
            habit.looked_up(NodeId(1), format!("1-{number}").as_bytes());
            // One that is looked at all the time.
            (0..9).for_each(|_| habit.looked_up(NodeId(1), b"1-0"));
        }
        assert_eq!(habit.of(NodeId(2), PIECE), Bring::Names);
        habit.looked_up(NodeId(2), b"elsewhere");
        assert_eq!(habit.of(NodeId(2), PIECE), Bring::Names);
        (0..4 * BARE / PART).for_each(|number| habit.looked_up(NodeId(1), format!("2-{number}").as_bytes()));
        assert_eq!(habit.of(NodeId(2), PIECE), Bring::AllButOne);
    }

    #[test]
    fn one_huge_directory_does_not_get_attributes_without_end() {
        let (habit, huge) = (Habit::default(), NodeId(2));
        let list_on = |from: u64| {
            let mut dear = 0;
            while habit.of(huge, from + dear + 1) == Bring::AllButOne && dear < 1_000_000 {
                let mut given = Given::default();
                assert!(!given.wants(Bring::AllButOne, format!("left out {}", from + dear).as_bytes(), Memory::None));
                dear += (0..PIECE).filter(|_| given.wants(Bring::AllButOne, b"another", Memory::None)).count() as u64;
                habit.gave(huge, given);
            }
            dear
        };
        let dear = list_on(0);
        assert!((UNPROVED_MAX.0..UNPROVED_MAX.0 + PIECE).contains(&dear), "{dear}");
        // It was of use after all: who reads 100,000 names and looks at them gets
        // them all the next time, whichever he begins with.
        habit.looked_up(huge, b"left out 0");
        let again = list_on(dear);
        assert!((UNPROVED_MAX.1..UNPROVED_MAX.1 + PIECE).contains(&again), "{again}");
        habit.looked_up(huge, format!("left out {}", dear + again - PIECE).as_bytes());
        assert_eq!(list_on(dear + again), again);
    }

    #[test]
    fn a_walk_through_small_directories_does_not_hide_the_large_one_above() {
        let habit = Habit::default();
        for node in [1000, 2000, 3000] {
            let dir = NodeId(node);
            let mut left_out = Vec::new();
            for piece in 0..5 {
                let bring = habit.of(dir, piece * PIECE);
                let mut given = Given::default();
                let names = (0..PIECE).map(|number| format!("{piece}-{number}"));
                left_out.extend(names.filter(|name| !given.wants(bring, name.as_bytes(), Memory::None)));
                habit.gave(dir, given);
            }
            list_end(&habit, dir);
            assert_eq!(left_out.len(), 4, "{node}");
            // 999 subdirectories, which are small, each listed as it is come to.
            for small in 1..1000 {
                assert_eq!(habit.of(NodeId(node + small), 0), Bring::All);
                list_end(&habit, NodeId(node + small));
            }
            habit.looked_up(dir, left_out[0].as_bytes());
        }
    }

    #[test]
    fn one_who_takes_a_short_look_says_nothing_of_another() {
        let habit = Habit::default();
        for node in 1..20 {
            let bring = habit.of(NodeId(node), PIECE);
            let mut given = Given::default();
            assert!(!given.wants(bring, b"left out", Memory::None), "{node}");
            assert!(given.wants(bring, b"another", Memory::None), "{node}");
            habit.gave(NodeId(node), given);
            habit.of(NodeId(node), 0);
            habit.looked_up(NodeId(node), b"left out");
        }
    }

    #[test]
    fn only_a_name_that_the_kernel_does_not_know_is_left_out() {
        let mut given = Given::default();
        assert!(given.wants(Bring::AllButOne, b"a", Memory::Old), "else it is no sign that nobody looks it up");
        assert!(!given.wants(Bring::AllButOne, b"b", Memory::Fresh));
        assert!(given.left_out.is_none());
        assert!(!given.wants(Bring::AllButOne, b"c", Memory::None));
        assert!(given.wants(Bring::AllButOne, b"d", Memory::None));
        assert_eq!((given.left_out.as_deref(), given.full), (Some(b"c".as_slice()), 2));
        assert!(given.wants(Bring::All, b"e", Memory::Fresh));
    }

    #[test]
    fn one_directory_that_is_listed_over_and_over_is_followed_too() {
        let habit = Habit::default();
        list(&habit, 1, true);
        assert_eq!(list(&habit, 1, true), 4);
        let dear = (0..100).filter(|_| list(&habit, 1, false) == 4).count();
        assert!((2..=2 * usize::from(CONFIDENCE) + 1).contains(&dear), "{dear} listings with attributes for nothing");
    }

    #[test]
    fn what_the_kernel_knows_says_nothing() {
        let habit = Habit::default();
        list(&habit, 1, true);
        for node in 2..100 {
            // Every name is known: nothing is asked, and nothing looked up.
            (0..5).for_each(|piece| {
                habit.of(NodeId(node), piece * PIECE);
                habit.gave(NodeId(node), Given::default());
            });
        }
        assert_eq!(list(&habit, 100, true), 4);
    }

    #[test]
    fn it_is_forgotten_with_the_conversation() {
        let habit = for_names();
        assert_eq!(habit.of(NodeId(1), 5), Bring::Names);
        habit.reset();
        assert_eq!(habit.of(NodeId(1), 5), Bring::AllButOne);
        assert_eq!(habit.of(NodeId(1), 0), Bring::All);
    }
}
