//! [`Waiting`]: the requests that wait for a lock, and how INTERRUPT and the
//! end of a session reach them.

use externfs::{Errno, Interrupt};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Waits at once; ENOLCK past it. Each costs its transport a thread.
const WAITING_MAX: usize = 1024;

/// Interrupts that may be ahead of their requests. Only those that another
/// thread is just decoding can be, so a few suffice; the oldest go first.
const EARLY_MAX: usize = 64;

/// Why a wait ends before it gets what it waits for.
#[derive(Default)]
struct Wait {
    interrupt: Interrupt,
    /// Raised by the transport, and not by a signal of the guest's.
    put_off: AtomicBool,
}

#[derive(Default)]
struct State {
    waiting: Vec<(u64, Arc<Wait>)>,
    early: VecDeque<u64>,
    closed: bool,
}

/// See the [module](self). Its lock is held for a few instructions only; no
/// interrupt is raised under it.
#[derive(Default)]
pub(crate) struct Waiting {
    state: Mutex<State>,
}

impl Waiting {
    fn state(&self) -> MutexGuard<'_, State> {
        // Two lists without a bond between them: right even after a panic elsewhere.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request `unique` is going to wait.
    ///
    /// # Errors
    /// EINTR when it was interrupted before it came here.
    pub(crate) fn enter(self: &Arc<Waiting>, unique: u64) -> Result<Ticket, Errno> {
        let mut state = self.state();
        if let Some(place) = state.early.iter().position(|&early| early == unique) {
            state.early.remove(place);
            return Err(Errno::EINTR);
        }
        if state.closed {
            return Err(Errno::EINTR);
        }
        if state.waiting.len() >= WAITING_MAX {
            return Err(Errno::ENOLCK);
        }
        let wait = Arc::<Wait>::default();
        state.waiting.push((unique, wait.clone()));
        Ok(Ticket { all: self.clone(), wait })
    }

    /// INTERRUPT of the request `unique`.
    pub(crate) fn interrupt(&self, unique: u64) {
        let mut state = self.state();
        let found: Vec<_> = state.waiting.iter().filter(|(waiting, _)| *waiting == unique).map(|(_, wait)| wait.clone()).collect();
        if found.is_empty() {
            if state.early.len() == EARLY_MAX {
                state.early.pop_front();
            }
            state.early.push_back(unique);
        }
        drop(state);
        found.iter().for_each(|wait| wait.interrupt.raise());
    }

    /// Ends every wait; `closed`: and all that may still come.
    pub(crate) fn end_all(&self, closed: bool) {
        let mut state = self.state();
        state.closed |= closed;
        state.early.clear();
        drop(state);
        self.all().iter().for_each(|wait| wait.interrupt.raise());
    }

    /// Ends every wait that there is, to be asked for again.
    pub(crate) fn put_off_all(&self) {
        for wait in self.all() {
            // Who was interrupted before is told that.
            wait.put_off.store(!wait.interrupt.is_raised(), Ordering::SeqCst);
            wait.interrupt.raise();
        }
    }

    fn all(&self) -> Vec<Arc<Wait>> {
        self.state().waiting.iter().map(|(_, wait)| wait.clone()).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.state().waiting.len()
    }
}

/// One wait; over when dropped.
pub(crate) struct Ticket {
    all: Arc<Waiting>,
    wait: Arc<Wait>,
}

impl Ticket {
    pub(crate) fn interrupt(&self) -> &Interrupt {
        &self.wait.interrupt
    }

    /// Whether nobody in the guest has interrupted it.
    pub(crate) fn is_put_off(&self) -> bool {
        self.wait.put_off.load(Ordering::SeqCst)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.all.state().waiting.retain(|(_, wait)| !Arc::ptr_eq(wait, &self.wait));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_finds_its_request_before_and_after() {
        let waiting = Arc::new(Waiting::default());
        let ticket = waiting.enter(8).unwrap();
        let other = waiting.enter(10).unwrap();
        waiting.interrupt(8);
        assert!(ticket.interrupt().is_raised() && !other.interrupt().is_raised());
        waiting.interrupt(12);
        assert_eq!(waiting.enter(12).err(), Some(Errno::EINTR));
        assert!(waiting.enter(12).is_ok(), "an interrupt counts once");
        drop((ticket, other));
        assert_eq!(waiting.len(), 0);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let waiting = Arc::new(Waiting::default());
        (0..1000).for_each(|unique| waiting.interrupt(unique));
        assert_eq!(waiting.state().early.len(), EARLY_MAX);
        assert_eq!(waiting.enter(999).err(), Some(Errno::EINTR));
        let tickets: Vec<_> = (2000..2000 + WAITING_MAX as u64).map(|unique| waiting.enter(unique).unwrap()).collect();
        assert_eq!(waiting.enter(5000).err(), Some(Errno::ENOLCK));
        waiting.end_all(true);
        assert!(tickets.iter().all(|ticket| ticket.interrupt().is_raised()));
        drop(tickets);
        assert_eq!(waiting.enter(5000).err(), Some(Errno::EINTR), "the session is over");
    }
}
