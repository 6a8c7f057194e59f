//! [`Habit`]: whether those who list directories go on to look at what they
//! found, so that the listing should bring the attributes.
//!
//! The kernel has a rule of its own (`READDIRPLUS_AUTO`): attributes for the
//! first piece of a directory, and for the next only if somebody looked a name
//! up meanwhile. Nearly every program reads a directory to its end before it
//! looks at anything (find, ls, du, tar, rm: all by fts(3) or scandir(3)), so
//! all but the first 200 names of a large directory are looked up one by one.
//! Attributes with every piece instead make names alone seven times as dear.
//!
//! So it is learned. Attributes are given at first, until one directory says
//! otherwise: for nothing they cost a tenth of what a lookup does. Whether they
//! are used cannot be seen, the kernel has them; so one name of each piece stays
//! without, and whether that one is looked up tells. After names alone, who comes
//! to look names up in that directory shows that attributes are wanted again.
//!
//! | seen | then |
//! |---|---|
//! | an eighth of the names is looked up; or the one that was left out | attributes, until two directories in a row say otherwise |
//! | four other directories were listed since, without that | this one says otherwise |
//! | 16,384 names of one directory were given with attributes and none of those left out was looked up | names alone for the rest of it |

use externfs::NodeId;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Directories that are watched at a time.
const WATCHED_MAX: usize = 4;
/// Directories in a row that have to show no interest.
const CONFIDENCE: u8 = 2;
/// The part of the names that has to be looked up, as a divisor.
const PART: u64 = 8;
/// Names that get attributes before there is a sign that they are of use.
const UNPROVED_MAX: u64 = 1 << 14;

/// What a piece of a listing is to bring for its names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bring {
    /// Attributes.
    All,
    /// Attributes, but not for the first name.
    AllButOne,
    /// Names alone.
    Names,
}

/// What a piece of a listing brought for the names that the kernel did not know.
#[derive(Default)]
pub(crate) struct Given {
    /// Names alone, where nothing else was brought; some of them may be known.
    pub(crate) bare: u64,
    /// With attributes.
    full: u64,
    /// The one left out.
    left_out: Option<Box<[u8]>>,
}

impl Given {
    /// Whether this name, which the kernel does not know, is to get attributes.
    pub(crate) fn wants(&mut self, bring: Bring, name: &[u8]) -> bool {
        match bring {
            Bring::All => true,
            Bring::Names => false,
            Bring::AllButOne if self.left_out.is_none() => {
                self.left_out = Some(name.into());
                false
            }
            Bring::AllButOne => {
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
    /// A directory is watched no longer.
    fn conclude(&mut self, watched: &Watched) {
        let was_asked = watched.bare > 0 || watched.left_out.is_some();
        if was_asked && !watched.wanted {
            self.confidence = self.confidence.saturating_sub(1);
        }
    }
}

/// A directory whose listing went beyond its first piece.
struct Watched {
    node: NodeId,
    /// Names given without attributes, and how many lookups came since.
    bare: u64,
    looked_up: u64,
    /// Names given with attributes since the last sign.
    unproved: u64,
    /// The latest name that was left out among such.
    left_out: Option<Box<[u8]>>,
    /// There was a sign.
    wanted: bool,
}

impl Watched {
    fn new(node: NodeId) -> Watched {
        Watched { node, bare: 0, looked_up: 0, unproved: 0, left_out: None, wanted: false }
    }

    /// Takes a lookup down: whether it is a sign.
    fn looked_up(&mut self, name: &[u8]) -> bool {
        self.looked_up += 1;
        let is_left_out = self.left_out.as_deref() == Some(name);
        let is_sign = is_left_out || (self.bare > 0 && self.looked_up.saturating_mul(PART) >= self.bare);
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
        let at = state.watched.iter().position(|watched| watched.node == directory);
        if cookie == 0 {
            // Listed again: what there was to see of the last time has been seen.
            if let Some(last) = at.and_then(|at| state.watched.remove(at)) {
                state.conclude(&last);
            }
            return Bring::All;
        }
        let is_unproved = at.and_then(|at| state.watched.get(at)).is_some_and(|watched| watched.unproved >= UNPROVED_MAX);
        if at.is_none() {
            if state.watched.len() >= WATCHED_MAX
                && let Some(oldest) = state.watched.pop_front()
            {
                state.conclude(&oldest);
            }
            state.watched.push_back(Watched::new(directory));
            self.watching.store(true, Ordering::Relaxed);
        }
        if state.confidence == 0 || is_unproved { Bring::Names } else { Bring::AllButOne }
    }

    /// What a piece came to.
    pub(crate) fn gave(&self, directory: NodeId, given: Given) {
        if given.bare == 0 && given.full == 0 && given.left_out.is_none() {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Gone already if others have listed much meanwhile.
        let Some(watched) = state.watched.iter_mut().find(|watched| watched.node == directory) else { return };
        watched.bare += given.bare;
        watched.unproved += given.full;
        watched.left_out = given.left_out.or(watched.left_out.take());
    }

    /// A name was looked up, and is there.
    pub(crate) fn looked_up(&self, directory: NodeId, name: &[u8]) {
        if !self.watching.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let watched = state.watched.iter_mut().find(|watched| watched.node == directory);
        if watched.is_some_and(|watched| watched.looked_up(name)) {
            state.confidence = CONFIDENCE;
        }
    }

    /// The conversation ended: node numbers mean something else from now on.
    pub(crate) fn reset(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
        self.watching.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: u64 = 200;

    /// Lists a directory of five pieces as the bridge would; afterwards looks
    /// up what the kernel does not know, if it is wanted. How many lookups.
    fn list(habit: &Habit, node: u64, wanted: bool) -> u64 {
        let node = NodeId(node);
        let mut unknown = Vec::new();
        for piece in 0..5 {
            let names: Vec<String> = (0..PIECE).map(|number| format!("{piece}-{number}")).collect();
            let bring = habit.of(node, piece * PIECE);
            let bare = if bring == Bring::Names { PIECE } else { 0 };
            let mut given = Given { bare, ..Given::default() };
            unknown.extend(names.into_iter().filter(|name| !given.wants(bring, name.as_bytes())));
            habit.gave(node, given);
        }
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
        for number in 0..4 * PIECE / PART - 1 {
            habit.looked_up(NodeId(1), format!("1-{number}").as_bytes());
        }
        assert_eq!(habit.of(NodeId(2), PIECE), Bring::Names);
        habit.looked_up(NodeId(2), b"elsewhere");
        assert_eq!(habit.of(NodeId(2), PIECE), Bring::Names);
        habit.looked_up(NodeId(1), b"one more");
        assert_eq!(habit.of(NodeId(2), PIECE), Bring::AllButOne);
    }

    #[test]
    fn one_huge_directory_does_not_get_attributes_without_end() {
        let habit = Habit::default();
        list(&habit, 1, true);
        let huge = NodeId(2);
        let list_on = |from: u64| {
            let mut dear = 0;
            while habit.of(huge, from + dear + 1) == Bring::AllButOne && dear < 1_000_000 {
                let mut given = Given::default();
                assert!(!given.wants(Bring::AllButOne, b"left out"));
                dear += (0..PIECE).filter(|_| given.wants(Bring::AllButOne, b"another")).count() as u64;
                habit.gave(huge, given);
            }
            dear
        };
        let dear = list_on(0);
        assert!((UNPROVED_MAX..UNPROVED_MAX + PIECE).contains(&dear), "{dear}");
        // It was of use after all: find(1) looks at 10,000 names and reads on.
        habit.looked_up(huge, b"left out");
        assert_eq!(list_on(dear), dear);
    }

    #[test]
    fn one_directory_that_is_listed_over_and_over_is_followed_too() {
        let habit = Habit::default();
        list(&habit, 1, true);
        assert_eq!(list(&habit, 1, true), 4);
        let dear = (0..100).filter(|_| list(&habit, 1, false) == 4).count();
        assert_eq!(dear, usize::from(CONFIDENCE), "listings with attributes for nothing");
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
