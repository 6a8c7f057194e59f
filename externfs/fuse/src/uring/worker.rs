//! [`Worker`]: one thread of a queue, with its ring and its entry.

use super::entry::Entry;
use super::queues::{Order, Queues};
use super::ring::Ring;
use externfs::NodeId;
use externfs_wire::{Outcome, Session};
use rustix::io::Errno;
use rustix::thread::CpuSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};

/// When a thread comes.
pub(super) enum Start {
    /// Before INIT: says here whether its ring works, and waits for an order.
    Early(mpsc::Sender<io::Result<()>>),
    /// In the place of another, which may be at work on this file: says here
    /// when the kernel has its entry.
    Late(Option<NodeId>, mpsc::Sender<()>),
}

/// One thread with its ring.
pub(super) struct Worker {
    /// Of its queue.
    place: usize,
    ring: Ring,
    queues: Arc<Queues>,
}

impl Worker {
    pub(super) fn new(place: usize, ring: Ring, queues: Arc<Queues>) -> Worker {
        Worker { place, ring, queues }
    }

    /// Its life.
    pub(super) fn run(&mut self, start: Start) -> io::Result<()> {
        let enabled = self.ring.enable();
        match start {
            Start::Early(ready) => {
                let is_enabled = enabled.is_ok();
                let _ = ready.send(enabled);
                drop(ready);
                let Order::Serve(terms) = self.queues.await_order() else { return Ok(()) };
                if !is_enabled {
                    return Ok(());
                }
                let mut entry = match Entry::new(terms.payload_len) {
                    Ok(entry) => entry,
                    Err(error) => return self.ring.renounce().and(Err(error)),
                };
                self.settle();
                if let Err(error) = self.ring.register(self.number(), &mut entry) {
                    return self.ring.renounce().and(Err(error));
                }
                self.serve(&terms.session, &mut entry)
            }
            Start::Late(node, registered) => {
                enabled?;
                let terms = self.queues.terms().ok_or(Errno::INVAL)?;
                let mut entry = Entry::new(terms.payload_len)?;
                self.settle();
                self.ring.register(self.number(), &mut entry)?;
                let _ = registered.send(());
                drop(registered);
                self.ask_for_nothing(node);
                self.serve(&terms.session, &mut entry)
            }
        }
    }

    /// The kernel's number of its queue.
    fn number(&self) -> u16 {
        u16::try_from(self.place).unwrap_or(u16::MAX)
    }

    /// Goes to its processor, if this process may use it.
    fn settle(&self) {
        if rustix::thread::sched_getaffinity(None).is_ok_and(|set| set.is_set(self.place)) {
            let _ = rustix::thread::sched_setaffinity(None, &only(self.place));
        }
    }

    /// Serves until the kernel ends the connection.
    fn serve(&mut self, session: &Session, entry: &mut Entry) -> io::Result<()> {
        let number = self.number();
        loop {
            let outcome = self.ring.wait()?;
            entry.returned();
            match outcome {
                Ok(()) => {}
                // Unmounted or aborted.
                Err(Errno::NOTCONN | Errno::CONNABORTED | Errno::CANCELED) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
            let id = entry.commit_id();
            self.answer(session, entry);
            self.ring.commit(number, id, entry)?;
        }
    }

    /// Answers the request in `entry`, so that it can be committed.
    fn answer(&self, session: &Session, entry: &mut Entry) {
        let (unique, node) = (entry.unique(), entry.regular_node());
        self.queues.begin(self.place, node);
        if let Err(errno) = self.handle(session, entry, node) {
            entry.answer(errno, unique);
        }
        self.queues.done(self.place);
    }

    /// Err: what to answer, since nobody has.
    fn handle(&self, session: &Session, entry: &mut Entry, node: Option<NodeId>) -> Result<(), i32> {
        let (mut request, mut reply) = entry.parts().map_err(|error| {
            tracing::error!("a request that cannot be answered: {error}");
            libc::EIO
        })?;
        let outcome = catch_unwind(AssertUnwindSafe(|| session.handle(&mut request, &mut reply)));
        let errno = match outcome {
            Ok(Outcome::Replied) => libc::EIO,
            // The kernel wants its entry back all the same.
            Ok(Outcome::Silent) => 0,
            Ok(Outcome::Later(job)) => {
                if !self.queues.begin_wait(self.place, node) {
                    // The job tells the session by being dropped.
                    return Err(libc::ENOLCK);
                }
                // This thread may block: it has nothing else to offer.
                let _ = catch_unwind(AssertUnwindSafe(|| job(&mut reply)));
                self.queues.end_wait(self.place);
                libc::EIO
            }
            // The kernel does not send such; if it does, one request is lost.
            Ok(Outcome::Broken(reason)) => {
                tracing::error!("a request that cannot be answered: {reason}");
                libc::EIO
            }
            // The panic has been reported; whoever waits shall not wait for ever.
            Err(_) => libc::EIO,
        };
        if reply.is_finished() { Ok(()) } else { Err(errno) }
    }

    /// Moves the queue; see [`super::queues`].
    fn ask_for_nothing(&self, node: Option<NodeId>) {
        // A thread may have been kept off its processor, which it needs for a moment.
        let before = rustix::thread::sched_getaffinity(None);
        let moved = rustix::thread::sched_setaffinity(None, &only(self.place));
        if moved.is_err() || !self.queues.ask_for_nothing(node) {
            tracing::debug!("the queue of processor {} was not moved", self.place);
        }
        if let Ok(before) = before {
            let _ = rustix::thread::sched_setaffinity(None, &before);
        }
    }
}

fn only(processor: usize) -> CpuSet {
    let mut set = CpuSet::new();
    if processor < CpuSet::MAX_CPU {
        set.set(processor);
    }
    set
}
