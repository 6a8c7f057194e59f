//! [`Stop`]: ends whoever waits on it.

use rustix::event::EventfdFlags;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A request to end, made once and seen by all. Clones share it.
#[derive(Clone, Debug)]
pub struct Stop {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    raised: AtomicBool,
    event: OwnedFd,
}

impl Stop {
    /// Not raised.
    ///
    /// # Errors
    /// What eventfd(2) answers (EMFILE, ENFILE).
    pub fn new() -> io::Result<Stop> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Stop { shared: Arc::new(Shared { raised: AtomicBool::new(false), event }) })
    }

    /// Raises it for good. Async-signal-safe.
    pub fn raise(&self) {
        self.shared.raised.store(true, Ordering::Release);
        // Fails only when the counter is full, and then it is readable anyway.
        let _ = rustix::io::write(&self.shared.event, &1_u64.to_ne_bytes());
    }

    /// Whether it was raised.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.shared.raised.load(Ordering::Acquire)
    }
}

impl AsFd for Stop {
    /// Readable from the moment it is raised: for poll(2).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }
}
