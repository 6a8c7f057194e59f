//! [`Account`]: how much of the tree's limit is used, kept exactly, also when
//! the server is killed.
//!
//! What an object costs is in FORMAT.md ("The account"): its blocks on the
//! host, a fixed sum for an inode and for a directory, and its extended
//! attributes. A change that may cost something announces itself before it is
//! made and says afterwards what it came to. Both are written to
//! `humfs/state`, in one write(2) each at most, so a successor finds the counters
//! as of some moment, and the place of each change since: it looks
//! there and settles the difference. No change is synced: a file written is a
//! file kept when a process dies. After a power failure, which a new boot id
//! shows, the objects are counted anew; only that the counters are somebody's is
//! synced, once a mount.

pub(crate) mod state;

pub(crate) use state::{Entry, EntryKind, State};

use crate::host::Fault;
use externfs::{Errno, Result};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes that each object costs beside its blocks: its inode and its record.
pub const INODE_COST: u64 = 512;

/// Bytes that a directory costs, however many names it holds.
pub const DIRECTORY_COST: u64 = 4096;

/// The host's unit of allocation that reservations assume, in bytes.
pub(crate) const BLOCK: u64 = 4096;

/// What an object with these properties costs, in bytes.
#[must_use]
pub fn cost(host: &externfs::Attr, xattr_bytes: usize) -> u64 {
    let blocks = if host.kind == externfs::FileKind::Directory { DIRECTORY_COST } else { host.blocks.saturating_mul(512) };
    blocks + INODE_COST + (xattr_bytes as u64).next_multiple_of(512)
}

/// Totals.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Bytes.
    pub bytes: u64,
    /// Objects, the root included.
    pub inodes: u64,
}

impl Usage {
    /// One object that costs `bytes`.
    #[must_use]
    pub fn one(bytes: u64) -> Usage {
        Usage { bytes, inodes: 1 }
    }

    pub(crate) fn add(&mut self, other: Usage) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.inodes = self.inodes.saturating_add(other.inodes);
    }

    pub(crate) fn sub(&mut self, other: Usage) {
        self.bytes = self.bytes.saturating_sub(other.bytes);
        self.inodes = self.inodes.saturating_sub(other.inodes);
    }
}

/// What the tree may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes.
    pub bytes: u64,
    /// Objects; `u64::MAX` for as many as the host takes.
    pub inodes: u64,
}

/// How long who finds no room waits for what has just lost its last name. The
/// guest's word that nobody has it open comes after the removal, and separately.
const PARTING: Duration = Duration::from_millis(200);

/// Who has waited in vain has shown that somebody holds what has no name; so
/// long nobody waits for it again.
const HELD: Duration = Duration::from_secs(1);

/// See the [module](self).
#[derive(Debug)]
pub struct Account {
    inner: Mutex<Inner>,
    /// Told when there may be more room.
    freed: Condvar,
    /// Told when the file begins to be behind.
    behind: Condvar,
}

#[derive(Debug)]
struct Inner {
    state: State,
    limits: Limits,
    /// Announced and not yet settled.
    reserved: Usage,
    /// Kept free for blocks that the host takes later for what is written now.
    slack: u64,
    /// How often that alone was in the way of somebody.
    squeezed: u64,
    /// When somebody last waited in vain for what has no name.
    held: Option<Instant>,
    /// [`Keeper`] has been told that the file is behind.
    is_awaited: bool,
    /// It is to end.
    is_over: bool,
}

/// A change that has been announced. Dropping it without an end says that
/// nothing came of it.
#[must_use]
pub(crate) struct Announced<'a> {
    account: &'a Account,
    slots: Vec<state::Slot>,
    /// The number of the object that is changed, if it was there before.
    object: Option<u64>,
    reserved: Usage,
}

/// What a change came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Outcome {
    /// What is there now and was not.
    pub(crate) added: Usage,
    /// What was there and is not any more.
    pub(crate) removed: Usage,
    /// Of what is there, what has no name any more.
    pub(crate) orphaned: Usage,
    /// Of what had no name, what has one or is gone.
    pub(crate) homed: Usage,
}

impl Account {
    /// From what `file` (`humfs/state`) says.
    pub(crate) fn new(file: OwnedFd, state: State, limits: Limits) -> Account {
        let mut state = state;
        state.attach(file);
        Account::unattached(state, limits)
    }

    /// For looking only: nothing is written.
    pub(crate) fn unattached(state: State, limits: Limits) -> Account {
        let inner =
            Inner { state, limits, reserved: Usage::default(), slack: 0, squeezed: 0, held: None, is_awaited: false, is_over: false };
        Account { inner: Mutex::new(inner), freed: Condvar::new(), behind: Condvar::new() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every change of the counters is whole before anything can panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is used.
    #[must_use]
    pub fn used(&self) -> Usage {
        self.inner().state.used
    }

    /// What may be used.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.inner().limits
    }

    /// Sets the limits. Less than is used is allowed: nothing can be added then.
    pub fn set_limits(&self, limits: Limits) {
        self.inner().limits = limits;
    }

    /// Room that is neither used nor spoken for.
    #[must_use]
    pub fn free(&self) -> Usage {
        self.inner().free()
    }

    /// Announces a change at `entries` that may take up to `need`.
    ///
    /// # Errors
    /// ENOSPC when there is no room for `need`; what the host says.
    pub(crate) fn announce(&self, entries: &[Entry<'_>], need: Usage) -> Result<Announced<'_>> {
        let mut inner = self.inner();
        if !inner.has_room(need) {
            inner = self.wait_for_parting(inner, need);
        }
        if !inner.has_room(need) {
            if inner.would_have_slack(need) {
                inner.squeezed += 1;
            }
            return Err(Errno::ENOSPC.into());
        }
        let slots = inner.state.open(entries).map_err(crate::host::fault("writing humfs/state"))?;
        inner.reserved.add(need);
        let object = entries.iter().find(|entry| entry.kind == EntryKind::Change).map(|entry| entry.ino);
        Ok(Announced { account: self, slots, object, reserved: need })
    }

    /// Waits a moment for room, if what has no name could make enough by going.
    fn wait_for_parting<'a>(&self, inner: MutexGuard<'a, Inner>, need: Usage) -> MutexGuard<'a, Inner> {
        let is_held = inner.held.is_some_and(|since| since.elapsed() < HELD);
        if is_held || !inner.would_have_room(need) {
            return inner;
        }
        let waited = self.freed.wait_timeout_while(inner, PARTING, |inner| !inner.has_room(need));
        let (mut inner, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            inner.held = Some(Instant::now());
        }
        inner
    }

    fn close(&self, inner: &mut Inner, slots: &[state::Slot], outcome: &Outcome, object: Option<u64>, made: Option<u64>) {
        // The change has happened: a counter that cannot be written is no
        // reason to fail it, and a successor would settle it.
        if let Err(error) = inner.state.close(slots, outcome, object, made) {
            tracing::warn!("writing humfs/state: {error}");
        }
        if outcome.orphaned.inodes > 0 {
            inner.held = None;
        }
        if outcome.removed != Usage::default() {
            self.freed.notify_all();
        }
        if inner.state.is_behind() && !std::mem::replace(&mut inner.is_awaited, true) {
            self.behind.notify_one();
        }
    }

    /// To be called before names change of which nothing is announced: the file
    /// may still say of what was made last where it is.
    pub(crate) fn catch_up(&self) -> Result<()> {
        self.inner().state.catch_up().map_err(crate::host::fault("writing humfs/state"))
    }

    /// Settles something that needs no announcement: what is found or freed in
    /// memory only.
    pub(crate) fn settle(&self, outcome: Outcome) {
        self.close(&mut self.inner(), &[], &outcome, None, None);
    }

    /// Settles what a look at the object with the number `ino` has shown.
    pub(crate) fn settle_object(&self, ino: u64, outcome: &Outcome) {
        self.close(&mut self.inner(), &[], outcome, Some(ino), None);
    }

    /// What is kept free for the host.
    pub(crate) fn slack(&self) -> u64 {
        self.inner().slack
    }

    /// Grows whenever somebody is refused who would have room but for what is kept
    /// free for the host.
    pub(crate) fn squeezed(&self) -> u64 {
        self.inner().squeezed
    }

    /// Changes what is kept free for the host.
    pub(crate) fn keep_slack(&self, change: impl FnOnce(u64) -> u64) {
        let mut inner = self.inner();
        inner.slack = change(inner.slack);
    }

    /// Replaces what is used by what was counted.
    pub(crate) fn recounted(&self, used: Usage) -> Fault<()> {
        let mut inner = self.inner();
        inner.state.uncounted = 0;
        inner.state.used = used;
        // What had no name is not among what was counted.
        inner.state.orphans = Usage::default();
        inner.state.write_all()
    }

    /// Has a successor count anew, should there be no [`Account::recounted`]
    /// any more: the changes under way no longer say what has happened.
    pub(crate) fn distrust(&self) -> Fault<()> {
        let mut inner = self.inner();
        inner.state.uncounted += 1;
        inner.state.write_mark()
    }

    /// What is used, and of that what has no name, as a predecessor left it.
    pub(crate) fn counted(&self) -> (Usage, Usage) {
        let inner = self.inner();
        (inner.state.used, inner.state.orphans)
    }

    /// From now on the counters are ours. After a power failure nobody may take a
    /// predecessor's word for them, that they are right; so ours is durable before
    /// the first change, which the host may write out before this file.
    pub(crate) fn started(&self) -> Fault<()> {
        let mut inner = self.inner();
        inner.state.clean = false;
        inner.state.boot_id = state::boot_id();
        inner.state.orphans = Usage::default();
        inner.state.write_all()?;
        inner.state.sync()
    }

    /// From now on nothing is written down before the tree is left in order:
    /// whoever comes after one that is not counts all objects.
    pub(crate) fn write_at_the_end(&self) -> Fault<()> {
        let mut inner = self.inner();
        inner.state.is_late = true;
        inner.state.write_mark()
    }

    /// Says in the file that nothing is in flight and the counters are right.
    pub(crate) fn mark_clean(&self, clean: bool) -> Fault<()> {
        let mut inner = self.inner();
        inner.state.clean = clean;
        inner.state.write_all()
    }
}

/// Has the file catch up while nobody changes anything, in a thread of its own: who
/// looks at the tree of a server that was killed in idleness finds it in order.
pub(crate) struct Keeper {
    account: Arc<Account>,
    thread: Option<JoinHandle<()>>,
}

/// How long the file may be behind.
const BEHIND: Duration = Duration::from_secs(1);

impl Keeper {
    pub(crate) fn new(account: &Arc<Account>) -> Keeper {
        let kept = account.clone();
        let started = std::thread::Builder::new().name("humfs-count".into()).spawn(move || kept.keep_up());
        // Without it a successor has one more change to settle.
        let thread = started.inspect_err(|error| tracing::warn!("no thread for humfs/state: {error}")).ok();
        Keeper { account: account.clone(), thread }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.account.inner().is_over = true;
        self.account.behind.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Account {
    fn keep_up(&self) {
        let mut inner = self.inner();
        while !inner.is_over {
            if !inner.is_awaited {
                inner = self.behind.wait(inner).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let waited = self.behind.wait_timeout_while(inner, BEHIND, |inner| !inner.is_over);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
            inner.is_awaited = false;
            if let Err(error) = inner.state.catch_up() {
                tracing::warn!("writing humfs/state: {error}");
            }
        }
    }
}

impl Inner {
    fn has_room(&self, need: Usage) -> bool {
        let free = self.free();
        need.bytes <= free.bytes && need.inodes <= free.inodes
    }

    /// If nothing were kept free for the host.
    fn would_have_slack(&self, need: Usage) -> bool {
        let taken = self.state.used.bytes.saturating_add(self.reserved.bytes);
        need.bytes <= self.limits.bytes.saturating_sub(taken) && need.inodes <= self.free().inodes
    }

    /// If all that has no name were gone.
    fn would_have_room(&self, need: Usage) -> bool {
        let (free, parting) = (self.free(), self.state.orphans);
        need.bytes <= free.bytes.saturating_add(parting.bytes) && need.inodes <= free.inodes.saturating_add(parting.inodes)
    }

    fn free(&self) -> Usage {
        let spoken_for = self.state.used.bytes.saturating_add(self.reserved.bytes).saturating_add(self.slack);
        Usage {
            bytes: self.limits.bytes.saturating_sub(spoken_for),
            inodes: self.limits.inodes.saturating_sub(self.state.used.inodes.saturating_add(self.reserved.inodes)),
        }
    }
}

impl Announced<'_> {
    /// It came to this.
    pub(crate) fn end(mut self, outcome: &Outcome) {
        self.close(outcome, None);
    }

    /// It has made the object with the number `ino`, and came to this.
    pub(crate) fn made(mut self, ino: u64, outcome: &Outcome) {
        self.close(outcome, Some(ino));
    }

    fn close(&mut self, outcome: &Outcome, made: Option<u64>) {
        let mut inner = self.account.inner();
        inner.reserved.sub(self.reserved);
        self.reserved = Usage::default();
        self.account.close(&mut inner, &std::mem::take(&mut self.slots), outcome, self.object, made);
    }
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        if !self.slots.is_empty() || self.reserved != Usage::default() {
            self.close(&Outcome::default(), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There is nothing to be synced in /dev/null, which says so.
    #[test]
    fn that_the_counters_are_in_use_is_durable() {
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
        let account = Account::new(null.into(), State::fresh([0; 16]), Limits { bytes: 0, inodes: 0 });
        account.mark_clean(true).unwrap();
        assert_eq!(account.started(), Err(rustix::io::Errno::INVAL));
    }
}
