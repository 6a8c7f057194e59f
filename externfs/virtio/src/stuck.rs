//! [`Stuck`]: gets threads out of descriptors that the frontend keeps them in.
//!
//! What a queue is kicked and interrupts through is made non-blocking. But that
//! is a flag of the open file description, which is the frontend's as well: it
//! may clear the flag and fill an eventfd, or empty it, between our last look
//! and our system call, which then blocks until the frontend likes. There is
//! no other way to ask for a call that does not block (eventfd(2) takes no
//! RWF_NOWAIT to write), and nothing to open anew.
//!
//! So who touches such a descriptor does it [`Stuck::inside`], and who waits
//! for threads that may be in there sends them a signal until they have come
//! out. One that comes between a thread's entry and its system call is lost,
//! hence the repetition. It harms nobody who was in there rightly: only what
//! blocks is ended, and an interrupt that finds the counter full is one that
//! the guest has already.

use crate::fence;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How long a thread may take to end by itself, and then for each signal.
pub(crate) const WAKE_AFTER: Duration = Duration::from_millis(10);

thread_local! {
    /// The kernel's number of this thread, asked once: it is needed twice a request.
    static ME: i32 = rustix::thread::gettid().as_raw_nonzero().get();
}

/// One guest's threads that are in a system call on such a descriptor.
#[derive(Default, Debug)]
pub(crate) struct Stuck(Mutex<Vec<i32>>);

impl Stuck {
    fn threads(&self) -> MutexGuard<'_, Vec<i32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a system call that others may end. It must not panic.
    pub(crate) fn inside<T>(&self, call: impl FnOnce() -> T) -> T {
        let me = ME.with(|me| *me);
        self.threads().push(me);
        let answer = call();
        self.threads().retain(|thread| *thread != me);
        answer
    }

    /// Ends the system calls of all threads inside, if they block.
    pub(crate) fn wake(&self) {
        // Under the lock: no signal reaches a thread that has left.
        for thread in self.threads().iter() {
            fence::wake_thread(*thread);
        }
    }
}

/// A thread that is waited for when this is dropped.
pub(crate) struct Errand {
    stuck: Arc<Stuck>,
    /// Never sent to: closed when the thread ends.
    ended: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Errand {
    /// # Errors
    /// No thread can be made.
    pub(crate) fn start(name: String, stuck: Arc<Stuck>, run: impl FnOnce() + Send + 'static) -> io::Result<Errand> {
        let (running, ended) = channel::<()>();
        let run = move || {
            let _running = running;
            fence::accept_wakes();
            run();
        };
        let thread = thread::Builder::new().name(name).spawn(run)?;
        Ok(Errand { stuck, ended, thread: Some(thread) })
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        while self.ended.recv_timeout(WAKE_AFTER) == Err(RecvTimeoutError::Timeout) {
            self.stuck.wake();
        }
        if let Some(thread) = self.thread.take() {
            // What may panic there is caught there.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
    use std::time::Instant;

    #[test]
    fn a_thread_that_blocks_is_got_out() {
        fence::install().unwrap();
        let stuck = Arc::new(Stuck::default());
        let (sender, answers) = channel();
        let inside = Arc::clone(&stuck);
        let run = move || {
            // Nobody ever writes to it.
            let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
            for _ in 0..3 {
                sender.send(inside.inside(|| rustix::io::read(&event, &mut [0; 8]))).unwrap();
            }
        };
        let start = Instant::now();
        drop(Errand::start("stuck".into(), Arc::clone(&stuck), run).unwrap());
        assert!(start.elapsed() < Duration::from_secs(5));
        assert!((0..3).all(|_| answers.recv().unwrap() == Err(rustix::io::Errno::INTR)));
        assert!(stuck.threads().is_empty());
    }
}
