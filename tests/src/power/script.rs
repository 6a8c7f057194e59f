//! What one thread of the load does, step by step, and what may be found of it
//! afterwards.

use crate::op::pattern;
use externfs::FileKind;
use std::collections::BTreeMap;

/// Steps of a thread: more than it ever comes to.
const STEPS: usize = 600;

/// One step. Things are numbered as they are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// With its contents and its attribute.
    Make(u32),
    /// From the first mode to the second.
    Chmod(u32, View),
    /// From the first name to the second.
    Move(u32, View),
    Remove(u32, View),
    /// fsync(2).
    Sync(u32, View),
    /// syncfs(2).
    SyncAll,
}

/// How a thing is at a moment: moved or not, changed in mode or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct View {
    pub(super) moved: bool,
    pub(super) chmodded: bool,
}

/// What a thing is, which its number says.
pub(super) struct Thing {
    pub(super) kind: FileKind,
    pub(super) owner: (u32, u32),
    /// Only the second has setuid.
    pub(super) modes: [u32; 2],
    /// A file's contents, a link's target.
    pub(super) content: Vec<u8>,
    pub(super) xattr: Option<Vec<u8>>,
}

/// splitmix64: numbers that look random and are the same in both processes.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Thing {
    pub(super) fn of(thread: usize, id: u32) -> Thing {
        let bits = mix((thread as u64) << 32 | u64::from(id));
        let kind = match bits % 8 {
            0..4 => FileKind::Regular,
            4 => FileKind::Directory,
            5 => FileKind::Symlink,
            6 => FileKind::CharDevice,
            _ => FileKind::Fifo,
        };
        let mode = if kind == FileKind::Symlink { 0o777 } else { (bits >> 8) as u32 & 0o777 };
        let content = match kind {
            FileKind::Regular => pattern(bits as u8, (bits >> 20) as usize % 20_000),
            FileKind::Symlink => format!("target of {id} of {thread}").into_bytes(),
            _ => Vec::new(),
        };
        let has_xattr = id.is_multiple_of(3) && matches!(kind, FileKind::Regular | FileKind::Directory);
        Thing {
            kind,
            owner: ((bits >> 40) as u32 & 0xffff, (bits >> 48) as u32),
            modes: [mode, mode ^ 0o4111],
            content,
            xattr: has_xattr.then(|| format!("attribute of {id} of {thread}").into_bytes()),
        }
    }

    /// Its name.
    pub(super) fn name(id: u32, view: View) -> String {
        format!("{}{id}", if view.moved { "moved " } else { "made " })
    }
}

/// What thread number `thread` does, to the end.
pub(super) fn script(seed: u64, thread: usize) -> Vec<Step> {
    let mut alive: Vec<(u32, View)> = Vec::new();
    let (mut made, mut steps) = (0, Vec::new());
    // Some loads sync at every turn, some hardly ever.
    let eagerness = [2, 10, 25][mix(seed) as usize % 3];
    for turn in 0..STEPS as u64 {
        let bits = mix(seed.wrapping_add(turn << 8 | thread as u64));
        let (dice, chosen) = (bits % 100, (bits >> 32) as usize);
        let chosen = if alive.is_empty() { None } else { Some(chosen % alive.len()) };
        let step = match (dice, chosen) {
            (dice, _) if dice < eagerness / 4 => Step::SyncAll,
            (dice, Some(chosen)) if dice < eagerness => Step::Sync(alive[chosen].0, alive[chosen].1),
            (25..40, Some(chosen)) if Thing::of(thread, alive[chosen].0).kind != FileKind::Symlink && !alive[chosen].1.chmodded => {
                let (id, before) = alive[chosen];
                alive[chosen].1.chmodded = true;
                Step::Chmod(id, before)
            }
            (40..55, Some(chosen)) if !alive[chosen].1.moved => {
                let (id, before) = alive[chosen];
                alive[chosen].1.moved = true;
                Step::Move(id, before)
            }
            (55..65, Some(chosen)) => {
                let (id, before) = alive.swap_remove(chosen);
                Step::Remove(id, before)
            }
            _ => {
                alive.push((made, View::default()));
                made += 1;
                Step::Make(made - 1)
            }
        };
        steps.push(step);
    }
    steps
}

/// What may be found of a thing.
#[derive(Clone, Debug)]
pub(super) struct Fate {
    /// Since it was last synced, and up to the step that was cut short. None
    /// for not at all.
    pub(super) views: Vec<Option<View>>,
    /// Its contents and its attribute have been synced.
    pub(super) whole: bool,
}

/// What may be found of everything, when `done` steps had been reported.
pub(super) fn fates(steps: &[Step], done: usize) -> BTreeMap<u32, Fate> {
    let mut fates: BTreeMap<u32, Fate> = BTreeMap::new();
    for (index, step) in steps.iter().take(done + 1).enumerate() {
        let mut push = |id: u32, view: Option<View>| {
            let fate = fates.entry(id).or_insert_with(|| Fate { views: vec![None], whole: false });
            fate.views.push(view);
        };
        match *step {
            Step::Make(id) => push(id, Some(View::default())),
            Step::Chmod(id, view) => push(id, Some(View { chmodded: true, ..view })),
            Step::Move(id, view) => push(id, Some(View { moved: true, ..view })),
            Step::Remove(id, _) => push(id, None),
            Step::Sync(id, _) if index < done => fates.get_mut(&id).expect("it was made before").synced(),
            Step::SyncAll if index < done => fates.values_mut().for_each(Fate::synced),
            Step::Sync(..) | Step::SyncAll => {}
        }
    }
    fates
}

impl Fate {
    fn synced(&mut self) {
        self.views.drain(..self.views.len() - 1);
        self.whole = true;
    }
}
