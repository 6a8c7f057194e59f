//! Locks that the host sees too (`locks=host`).
//!
//! The guest's owners are ours to keep apart, so each owner of a lock on a
//! file gets an open file description of its own: its byte ranges are locked
//! as OFD locks (fcntl(2)) and its flock(2) as such. Closing that description
//! releases what is left, so nothing stays when a guest dies. The host detects
//! no deadlock among OFD locks (EDEADLK); a signal in the guest ends the wait.

use crate::HostFs;
use crate::fault::{Fault, fault};
use crate::node::OpenFile;
use crate::sys;
use externfs::{Errno, Interrupt, Lock, LockFamily, LockKind, NodeKey, Result};
use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno as Host;
use std::collections::HashMap;
use std::ffi::c_int;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// Whose locks on what: a guest's owner, or for flock(2) the open file by its
/// address here. The guest's number for that is an address, too, and another
/// file's soon after this one is closed.
type Holder = (NodeKey, u64, LockFamily);

fn holder_of(file: &OpenFile, owner: u64, family: LockFamily) -> Holder {
    let owner = if family == LockFamily::Flock { std::ptr::from_ref(file) as u64 } else { owner };
    (file.node.key(), owner, family)
}

/// The descriptions that hold locks.
#[derive(Default)]
pub(crate) struct LockTable {
    holders: Mutex<HashMap<Holder, Arc<OwnedFd>>>,
}

impl LockTable {
    fn holders(&self) -> MutexGuard<'_, HashMap<Holder, Arc<OwnedFd>>> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, who: Holder) {
        let closed = self.holders().remove(&who);
        drop(closed);
    }

    /// Releases what `who` holds by this description, and by no later one.
    fn release_if(&self, who: Holder, description: &Weak<OwnedFd>) {
        let mut holders = self.holders();
        let same = holders.get(&who).is_some_and(|held| std::ptr::eq(Arc::as_ptr(held), description.as_ptr()));
        let closed = if same { holders.remove(&who) } else { None };
        drop(holders);
        drop(closed);
    }

    /// A lock was got by `description`. False: it went with what the same owner
    /// gave up meanwhile, and he has another one now.
    fn keep(&self, who: Holder, description: &Arc<OwnedFd>) -> bool {
        Arc::ptr_eq(self.holders().entry(who).or_insert_with(|| description.clone()), description)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.holders().len()
    }
}

/// Owners that took locks through one open file, and by what. When it is
/// closed, so that no descriptor of it is left, what they hold by that goes: by
/// close(2) for those that did close it, and for the rest because their guest is
/// gone. What they have got through another file since, stays.
#[derive(Default)]
pub(crate) struct Lockers(Mutex<Vec<(Holder, Weak<OwnedFd>)>>);

impl Lockers {
    fn add(&self, who: Holder, description: &Arc<OwnedFd>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.iter().any(|(known, by)| *known == who && std::ptr::eq(by.as_ptr(), Arc::as_ptr(description))) {
            all.retain(|(_, by)| by.strong_count() > 0);
            all.push((who, Arc::downgrade(description)));
        }
    }

    pub(crate) fn release(&mut self, table: &LockTable) {
        for (who, description) in self.0.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            table.release_if(who, &description);
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl HostFs {
    /// See [`externfs::ExternFs::get_lock`].
    pub(crate) fn conflicting_lock(&self, file: &OpenFile, wanted: &Lock) -> Result<Option<Lock>> {
        if wanted.family == LockFamily::Flock {
            // flock(2) cannot be asked, on any system.
            return Err(Errno::EINVAL.into());
        }
        // Who has none so far is not remembered for having asked.
        let known = self.locks.holders().get(&holder_of(file, wanted.owner, wanted.family)).cloned();
        let fd = match known {
            Some(fd) => fd,
            None => Arc::new(self.description(file, wanted.family)?),
        };
        let mut lock = to_host(wanted)?;
        sys::ofd_lock(fd.as_fd(), libc::F_OFD_GETLK, &mut lock).map_err(fault("fcntl"))?;
        Ok(to_guest(&lock))
    }

    /// See [`externfs::ExternFs::set_lock`].
    pub(crate) fn change_lock(&self, file: &OpenFile, wanted: &Lock, wait: Option<&Interrupt>) -> Result<()> {
        let whole = wanted.start == 0 && wanted.end >= i64::MAX as u64;
        if wanted.kind == LockKind::Unlock && (whole || wanted.family == LockFamily::Flock) {
            self.release_all(file, wanted.owner, wanted.family);
            return Ok(());
        }
        let who = holder_of(file, wanted.owner, wanted.family);
        loop {
            let fd = self.holder(file, who)?;
            self.change_lock_of(&fd, wanted, wait)?;
            // While it waited, the owner may have given up all that he had.
            if wanted.kind == LockKind::Unlock || self.locks.keep(who, &fd) {
                file.lockers.add(who, &fd);
                return Ok(());
            }
        }
    }

    /// Releases all that `owner` holds on the file.
    pub(crate) fn release_all(&self, file: &OpenFile, owner: u64, family: LockFamily) {
        self.locks.release(holder_of(file, owner, family));
    }

    fn change_lock_of(&self, fd: &OwnedFd, wanted: &Lock, wait: Option<&Interrupt>) -> Result<()> {
        let lock = to_host(wanted)?;
        let attempt = |blocking: bool| match wanted.family {
            LockFamily::Posix => {
                let command = if blocking { libc::F_OFD_SETLKW } else { libc::F_OFD_SETLK };
                sys::ofd_lock(fd.as_fd(), command, &mut lock.clone())
            }
            LockFamily::Flock => flock(fd.as_fd(), wanted.kind, blocking),
        };
        match (attempt(false), wait) {
            (Err(Host::AGAIN | Host::ACCESS), Some(interrupt)) => wait_for(interrupt, || attempt(true)),
            (Err(Host::AGAIN | Host::ACCESS), None) => Err(Errno::EAGAIN.into()),
            (answer, _) => answer.map_err(fault("locking a file")),
        }
    }

    /// The description that holds the owner's locks.
    ///
    /// # Errors
    /// ENOLCK when guests hold as many as descriptors can be spared for.
    fn holder(&self, file: &OpenFile, who: Holder) -> Result<Arc<OwnedFd>> {
        {
            let holders = self.locks.holders();
            if let Some(fd) = holders.get(&who) {
                return Ok(fd.clone());
            }
            if holders.len() >= self.locks_max {
                return Err(Errno::ENOLCK.into());
            }
        }
        let fresh = Arc::new(self.description(file, who.2)?);
        // Another thread of the same owner may have been faster.
        let fd = self.locks.holders().entry(who).or_insert_with(|| fresh.clone()).clone();
        // From now on it goes with the file, whether it gets a lock or not.
        file.lockers.add(who, &fd);
        Ok(fd)
    }

    /// An open file description for locks alone.
    fn description(&self, file: &OpenFile, family: LockFamily) -> Result<OwnedFd> {
        // A write lock of fcntl(2) needs a descriptor that could write, and the
        // owner may have several with other access: take the most that there is.
        // flock(2) needs none, and nobody can run a program that somebody has open
        // for writing.
        let writes = file.writable || (family == LockFamily::Posix && !self.options.read_only);
        if writes && let Ok(fd) = self.with_spare_fds(|| self.jail.reopen_unchecked(file.fd.as_fd(), OFlags::RDWR)) {
            return Ok(fd);
        }
        self.open_for_real(file.fd.as_fd(), if file.writable { OFlags::WRONLY } else { OFlags::RDONLY })
    }
}

fn flock(fd: BorrowedFd<'_>, kind: LockKind, blocking: bool) -> Fault<()> {
    rustix::fs::flock(
        fd,
        match (kind, blocking) {
            (LockKind::Read, true) => FlockOperation::LockShared,
            (LockKind::Read, false) => FlockOperation::NonBlockingLockShared,
            (LockKind::Write, true) => FlockOperation::LockExclusive,
            (LockKind::Write, false) => FlockOperation::NonBlockingLockExclusive,
            (LockKind::Unlock, _) => FlockOperation::Unlock,
        },
    )
}

/// # Errors
/// EINVAL for a range that does not begin in any file, or ends before it begins.
fn to_host(lock: &Lock) -> Result<libc::flock> {
    let start = i64::try_from(lock.start).map_err(|_| Errno::EINVAL)?;
    let len = match i64::try_from(lock.end) {
        // To the end of the file, wherever it moves.
        Err(_) | Ok(i64::MAX) => 0,
        Ok(end) if end < start => return Err(Errno::EINVAL.into()),
        Ok(end) => end - start + 1,
    };
    let kind: c_int = match lock.kind {
        LockKind::Read => libc::F_RDLCK,
        LockKind::Write => libc::F_WRLCK,
        LockKind::Unlock => libc::F_UNLCK,
    };
    Ok(libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: start, l_len: len, l_pid: 0 })
}

/// The lock in the way; None if nothing is.
fn to_guest(lock: &libc::flock) -> Option<Lock> {
    let kind = match c_int::from(lock.l_type) {
        libc::F_UNLCK => return None,
        libc::F_WRLCK => LockKind::Write,
        _ => LockKind::Read,
    };
    let start = u64::try_from(lock.l_start).unwrap_or(0);
    let end = match u64::try_from(lock.l_len) {
        Ok(0) | Err(_) => u64::MAX,
        Ok(len) => start.saturating_add(len - 1),
    };
    // OFD locks have no process (-1), and a process of the host means nothing
    // in a guest anyway.
    Some(Lock { family: LockFamily::Posix, kind, owner: 0, start, end, pid: 0 })
}

/// A thread that is blocked in a system call and how to get it out.
struct Waker {
    thread: i32,
    has_left: Mutex<bool>,
}

impl Waker {
    fn has_left(&self) -> MutexGuard<'_, bool> {
        self.has_left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the signal unless the thread has left; false then.
    fn wake(&self) -> bool {
        // Under the lock, so that the thread cannot have gone on to other
        // work, or ended, when the signal arrives.
        let has_left = self.has_left();
        if !*has_left {
            sys::wake_thread(self.thread);
        }
        !*has_left
    }

    /// Sends it until the thread has left: one that comes between the
    /// thread's last look and its system call is lost.
    fn keep_waking(self: Arc<Waker>) {
        let first = self.clone();
        let again = std::thread::Builder::new().name("hostfs-wake".into()).spawn(move || {
            while self.wake() {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        if again.is_err() {
            // No thread to be had: once is nearly always enough.
            first.wake();
        }
    }
}

/// Blocks in `attempt` until it succeeds, fails, or is interrupted.
fn wait_for(interrupt: &Interrupt, attempt: impl Fn() -> Fault<()>) -> Result<()> {
    sys::accept_wakes().map_err(fault("sigaction"))?;
    let waker = Arc::new(Waker { thread: sys::thread_id(), has_left: Mutex::new(false) });
    let wake = waker.clone();
    interrupt.set_wake(move || wake.clone().keep_waking());
    let answer = loop {
        if interrupt.is_raised() {
            break Err(Host::INTR);
        }
        match attempt() {
            Err(Host::INTR) => {}
            answer => break answer,
        }
    };
    *waker.has_left() = true;
    interrupt.clear_wake();
    answer.map_err(fault("waiting for a lock"))
}
