//! [`Feed`]: what has changed and is not in the catalog yet.

use super::pending::{Fate, Loss, Pending, number};
use crate::node::HumNode;
use externfs::{Attr, FileKind};
use externfs_catalog::barrier::Standing;
use externfs_catalog::{Link, Op};
use hostfs::Inode;
use std::ffi::{CStr, CString};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// So many changes are written at once without waiting for the second to be over.
const MUCH: usize = 8192;

/// Changes that gather while nothing can be written; beyond that they are
/// thrown away and the tree is scanned anew.
const TOO_MUCH: usize = 1 << 20;

/// How long a change may take to be seen by SQL, when nobody asks.
const LAG: Duration = Duration::from_secs(1);

/// The book is asked, and answers, by numbers.
#[derive(Debug)]
struct State {
    pending: Pending,
    since: Option<Instant>,
    asked: u64,
    done: u64,
    /// A scan is going on: what need not be scanned is to be remembered.
    scanning: bool,
    standing: Standing,
    /// Files whose text is not in the catalog yet.
    waiting: u64,
    closing: bool,
    /// What has been changed is on the disk.
    in_order: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Feed {
    state: Mutex<State>,
    /// Which [`Pending`] is being filled, from 1 on. What a node is awaited in
    /// is one of these: of an older one the book has taken hold, or it was thrown
    /// away. Changed under the lock.
    generation: AtomicU64,
    /// Directories that have moved: while there are none, whatever was found
    /// somewhere is there still.
    moves: AtomicU64,
    /// For the book: there is something to do.
    work: Condvar,
    /// For those who asked it.
    answered: Condvar,
}

/// Why the book is woken.
pub(super) struct Order {
    pub(super) pending: Pending,
    pub(super) answers: u64,
    /// Somebody wants to know.
    pub(super) is_asked: bool,
    pub(super) closing: bool,
}

/// What has got another name, and its node if there is one.
type Moved<'a> = (Link, Option<&'a Arc<HumNode>>);

impl Feed {
    pub(super) fn new() -> Feed {
        let state = State {
            pending: Pending { generation: 1, ..Pending::default() },
            since: None,
            asked: 0,
            done: 0,
            scanning: false,
            standing: Standing::Building(0, 0),
            waiting: 0,
            closing: false,
            in_order: false,
        };
        Feed {
            state: Mutex::new(state),
            generation: AtomicU64::new(1),
            moves: AtomicU64::new(0),
            work: Condvar::new(),
            answered: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, change: impl FnOnce(&mut Pending, bool)) {
        let mut state = self.state();
        if matches!(state.standing, Standing::Failed(_)) {
            return;
        }
        let scanning = state.scanning;
        let before = state.pending.len();
        change(&mut state.pending, scanning);
        let is_first = state.since.is_none();
        if is_first {
            state.since = Some(Instant::now());
        }
        let length = state.pending.len();
        let thrown_away = (length > TOO_MUCH).then(|| {
            let thrown_away = self.take(&mut state);
            state.pending.overflown = true;
            state.since = Some(Instant::now());
            thrown_away
        });
        drop(state);
        // A node may go with it, which tells so.
        drop(thrown_away);
        if is_first || (before < MUCH && length >= MUCH) {
            self.work.notify_one();
        }
    }

    /// What has gathered; from now on something else does.
    fn take(&self, state: &mut State) -> Pending {
        state.since = None;
        let generation = state.pending.generation + 1;
        self.generation.store(generation, Ordering::Release);
        std::mem::replace(&mut state.pending, Pending { generation, ..Pending::default() })
    }

    /// `node`, which is `attr`, was made as `name` in `parent`.
    pub(crate) fn made(&self, parent: &Arc<HumNode>, name: &[u8], node: &Arc<HumNode>, attr: &Attr) {
        // Nobody else has changed it yet.
        self.named(Op::Create, (parent, name), node, Some(attr));
    }

    /// `node` was given a further name.
    pub(crate) fn linked(&self, parent: &Arc<HumNode>, name: &[u8], node: &Arc<HumNode>) {
        self.named(Op::Link, (parent, name), node, None);
    }

    fn named(&self, op: Op, (parent, name): (&Arc<HumNode>, &[u8]), node: &Arc<HumNode>, attr: Option<&Attr>) {
        self.put(|pending, scanning| {
            let link = Link { ino: number(node), is_dir: node.inner.host_kind() == FileKind::Directory };
            pending.names.insert((number(parent), name.into()), Some(link));
            pending.note(op, link.ino, Some((number(parent), name)));
            if scanning && link.is_dir {
                pending.made_dirs.push(link.ino);
            }
            pending.ask(node, attr);
            pending.ask(parent, None);
        });
    }

    /// A name is gone.
    pub(crate) fn removed(&self, loss: Loss<'_>) {
        self.put(|pending, _| {
            let name = loss.name.to_bytes();
            pending.names.insert((number(loss.parent), name.into()), None);
            pending.note(Op::Remove, loss.host.ino, Some((number(loss.parent), name)));
            pending.lose(loss);
            pending.ask(loss.parent, None);
        });
    }

    /// `old` leads to what was moved no more; `new` does, and led to `replaced`.
    /// `stays` is what came to the old name in its place.
    pub(crate) fn renamed(
        &self,
        old: (&Arc<HumNode>, &CStr),
        new: (&Arc<HumNode>, &CStr),
        moved: Moved<'_>,
        (stays, replaced): (Option<Moved<'_>>, Option<Loss<'_>>),
    ) {
        if moved.0.is_dir || stays.is_some_and(|(link, _)| link.is_dir) {
            self.moves.fetch_add(1, Ordering::AcqRel);
        }
        self.put(|pending, _| {
            if let Some(loss) = replaced {
                pending.lose(loss);
            }
            pending.names.insert((number(old.0), old.1.to_bytes().into()), stays.map(|(link, _)| link));
            pending.names.insert((number(new.0), new.1.to_bytes().into()), Some(moved.0));
            pending.note(Op::Rename, moved.0.ino, Some((number(new.0), new.1.to_bytes())));
            for ((link, node), place) in [(Some(moved), new), (stays, old)].into_iter().filter_map(|(it, place)| Some((it?, place))) {
                let Some(node) = node else {
                    pending.objects.insert(link.ino, Fate::Forgotten(place.0.inner.clone(), place.1.to_owned(), None));
                    continue;
                };
                pending.ask(node, None);
            }
            pending.ask(old.0, None);
            pending.ask(new.0, None);
        });
    }

    /// Nobody has looked up yet what `name` in `parent` leads to now.
    pub(crate) fn appeared(&self, parent: &Arc<HumNode>, name: &CStr, link: Link) {
        self.put(|pending, _| {
            pending.names.insert((number(parent), name.to_bytes().into()), Some(link));
            pending.objects.insert(link.ino, Fate::Forgotten(parent.inner.clone(), name.to_owned(), None));
        });
    }

    /// Something about `node` has changed, which is `attr` now.
    pub(crate) fn changed(&self, node: &Arc<HumNode>, attr: Option<&Attr>) {
        // Of what several names lead to, and of a directory, something else may
        // have changed since then.
        let attr = attr.filter(|attr| attr.nlink == 1 && attr.kind != FileKind::Directory);
        self.put(|pending, _| {
            pending.note(Op::Attributes, number(node), None);
            pending.ask_again(node, attr);
        });
    }

    /// The contents of `node` have changed.
    pub(crate) fn written(&self, node: &Arc<HumNode>) {
        // Once for each time that it is written down.
        let is_awaited = node.awaited.load(Ordering::Acquire) == self.generation.load(Ordering::Acquire);
        if is_awaited && node.is_written.swap(true, Ordering::AcqRel) {
            return;
        }
        self.put(|pending, _| {
            node.is_written.store(true, Ordering::Release);
            pending.note(Op::Write, number(node), None);
            pending.ask_again(node, None);
        });
    }

    /// Something about `node` may have changed, although that failed.
    pub(crate) fn perhaps_changed(&self, node: &Arc<HumNode>) {
        self.put(|pending, _| pending.ask_again(node, None));
    }

    /// `node`, which the book was about to ask, is being dropped. It may be at `place`.
    pub(crate) fn forgotten(&self, node: &HumNode, place: Option<(Arc<Inode>, CString)>) {
        let target = node.state().record.target.clone();
        self.put(|pending, _| {
            match pending.objects.get(&number(node)) {
                Some(Fate::Gone) => return,
                // Somebody is asked who came after it.
                Some(Fate::Known(other, _)) if !std::ptr::eq(other.as_ptr(), node) => return,
                _ => {}
            }
            let fate = place.map_or(Fate::Astray(0), |(parent, name)| Fate::Forgotten(parent, name, target));
            pending.objects.insert(number(node), fate);
        });
    }

    /// Number `ino` was not found for the `times`th time.
    pub(super) fn missed(&self, ino: u64, times: u32) {
        self.put(|pending, _| {
            pending.objects.entry(ino).or_insert(Fate::Astray(times));
        });
    }

    /// Waits until everything that was told before is in the catalog, or for as
    /// long as `patience`.
    pub(crate) fn flush(&self, patience: Duration) -> Standing {
        let end = Instant::now() + patience;
        let mut state = self.state();
        state.asked += 1;
        let own = state.asked;
        self.work.notify_one();
        while state.done < own && state.standing == Standing::Current {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Standing::Failed("it takes too long to catch up".into());
            }
            state = self.answered.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        match &state.standing {
            Standing::Current if state.waiting > 0 => Standing::Reading(state.waiting),
            standing => standing.clone(),
        }
    }

    /// Tells the book to write what there is and end; `in_order`: what was
    /// changed in the tree is on the disk.
    pub(super) fn end(&self, in_order: bool) {
        let mut state = self.state();
        state.closing = true;
        state.in_order |= in_order;
        drop(state);
        self.work.notify_one();
    }

    /// Whether the tree is left in order.
    pub(super) fn is_in_order(&self) -> bool {
        self.state().in_order
    }

    /// What the book is to do next.
    /// `waiting` files are still to be read, the first after `due`.
    pub(super) fn wait(&self, waiting: u64, due: Option<Duration>) -> Order {
        let due = due.map(|due| Instant::now() + due);
        let mut state = self.state();
        state.waiting = waiting;
        loop {
            let is_due = state.since.is_some_and(|since| since.elapsed() >= LAG) || state.pending.len() >= MUCH;
            let is_time_to_read = due.is_some_and(|due| Instant::now() >= due);
            if state.closing || state.asked > state.done || is_time_to_read || (is_due && !state.pending.is_empty()) {
                let (answers, is_asked, closing) = (state.asked, state.asked > state.done, state.closing);
                return Order { pending: self.take(&mut state), answers, is_asked, closing };
            }
            let left = state.since.map(|since| LAG.saturating_sub(since.elapsed()).max(Duration::from_millis(1)));
            let until_due = due.map(|due| due.saturating_duration_since(Instant::now()));
            let left = left.into_iter().chain(until_due).min();
            state = match left {
                Some(left) => self.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Waits until somebody wants the book to end, or for so long; whether somebody does.
    pub(super) fn ends_within(&self, time: Duration) -> bool {
        let waited = self.work.wait_timeout_while(self.state(), time, |state| !state.closing);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.closing
    }

    /// Whether somebody wants the book to end.
    pub(super) fn is_ending(&self) -> bool {
        self.state().closing
    }

    /// A scan begins: what is told from now on is not in it, or also.
    pub(super) fn begin_scan(&self) {
        let mut state = self.state();
        state.scanning = true;
        state.pending.overflown = false;
        state.standing = Standing::Building(0, 0);
    }

    /// How many directories have moved; this stays while the caller holds any
    /// directory.
    pub(super) fn moves(&self) -> u64 {
        self.moves.load(Ordering::Acquire)
    }

    /// What has gathered during a scan.
    pub(super) fn gathered(&self) -> Pending {
        let mut state = self.state();
        self.take(&mut state)
    }

    /// The scan is over, and the catalog agrees with what was told.
    pub(super) fn end_scan(&self) {
        let mut state = self.state();
        state.scanning = false;
        state.standing = Standing::Current;
        self.answered.notify_all();
    }

    /// How far it is, for those who ask.
    pub(super) fn stand(&self, standing: Standing) {
        self.state().standing = standing;
        self.answered.notify_all();
    }

    /// Everything that was asked for up to `asked` is done.
    pub(super) fn answer(&self, asked: u64) {
        let mut state = self.state();
        state.done = state.done.max(asked);
        self.answered.notify_all();
    }

    /// Nothing more is written, for this reason; the first one counts.
    pub(super) fn fail(&self, why: String) {
        let mut state = self.state();
        if !matches!(state.standing, Standing::Failed(_)) {
            state.standing = Standing::Failed(why);
        }
        state.done = state.asked;
        let pending = self.take(&mut state);
        drop(state);
        drop(pending);
        self.answered.notify_all();
    }
}
