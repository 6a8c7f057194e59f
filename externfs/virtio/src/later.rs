//! [`Laters`]: requests that wait for something (a lock), each on a thread of
//! its own so that its queue goes on.

use crate::chain::{ChainReply, ChainSource};
use crate::fence;
use crate::ring::{Chain, Ring};
use crate::statistics::Counters;
use crate::stuck::{Stuck, WAKE_AFTER};
use crate::worker::REPEAT_CALL;
use externfs::DataSink;
use externfs_wire::{Later, REPLY_HEADER_LEN, Reply};
use std::io;
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Most requests of one guest that wait at a time. A pool with a queue behind
/// it would not do: the request that lets the others go on could be queued
/// behind them for ever.
const WAITING_MAX: usize = 256;
/// They wait in a system call: little stack is used.
const STACK_BYTES: usize = 256 << 10;

/// A request that waits, and everything needed to answer it.
pub(crate) struct Waiting {
    pub(crate) ring: Arc<Ring>,
    pub(crate) head: u16,
    pub(crate) source: ChainSource,
    pub(crate) reply: ChainReply,
    pub(crate) later: Later,
}

/// The waiting requests of one guest.
#[derive(Default)]
pub(crate) struct Laters {
    waiting: Mutex<usize>,
    less: Condvar,
}

impl Laters {
    fn waiting(&self) -> MutexGuard<'_, usize> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs it on a thread of its own; with too many waiting already, or no
    /// thread to be had, the guest is answered ENOLCK.
    ///
    /// # Errors
    /// The queue is broken: the reason for the log.
    pub(crate) fn start(self: &Arc<Self>, work: Waiting, counters: &Counters) -> Result<(), String> {
        counters.later.add(1);
        let full = {
            let mut waiting = self.waiting();
            *waiting += 1;
            *waiting > WAITING_MAX
        };
        // The work goes through a channel, so that it is still here when no
        // thread can be made.
        let (sender, receiver) = sync_channel(1);
        let ready = if full { Err(io::ErrorKind::WouldBlock.into()) } else { self.thread(receiver) };
        match ready {
            Ok(()) => sender.send(work).map_err(|_| "the thread for a waiting request died".into()),
            Err(_) => {
                self.done();
                refuse(work)
            }
        }
    }

    fn thread(self: &Arc<Self>, work: Receiver<Waiting>) -> io::Result<()> {
        let laters = Arc::clone(self);
        let run = move || {
            fence::accept_wakes();
            if let Ok(work) = work.recv() {
                finish(work);
            }
            laters.done();
        };
        thread::Builder::new().name("virtiofs-wait".into()).stack_size(STACK_BYTES).spawn(run).map(drop)
    }

    fn done(&self) {
        *self.waiting() -= 1;
        self.less.notify_all();
    }

    /// Waits until none is left or `limit` has passed. Those that are `stuck`
    /// meanwhile are got out.
    pub(crate) fn wait(&self, limit: Duration, stuck: &Stuck) -> bool {
        let end = Instant::now() + limit;
        let mut waiting = self.waiting();
        while *waiting > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let outcome = self.less.wait_timeout(waiting, left.min(WAKE_AFTER)).unwrap_or_else(PoisonError::into_inner);
            waiting = outcome.0;
            if outcome.1.timed_out() {
                drop(waiting);
                stuck.wake();
                waiting = self.waiting();
            }
        }
        true
    }
}

fn finish(work: Waiting) {
    let Waiting { ring, head, source, reply, later } = work;
    let mut late = LateReply { ring, head, reply, is_answered: false, is_returned: false };
    if catch_unwind(AssertUnwindSafe(|| later(&mut late))).is_err() {
        // The guest's caller waits for ever, which is what its lock did too;
        // the panic itself is on the log.
        return;
    }
    let LateReply { ring, reply, is_answered, is_returned, .. } = late;
    if !is_answered {
        return ring.put_off(Chain { head, source, reply });
    }
    if is_returned && ring.may_be_overslept() {
        // The queue's own thread may be asleep, and does not know of this one.
        thread::sleep(REPEAT_CALL);
        if ring.may_be_overslept() {
            ring.call_again();
        }
    }
    if !is_returned && let Err(reason) = ring.push(head, 0) {
        // Of a queue that goes on, its thread will find out.
        tracing::debug!("the answer to a waiting request is lost: {reason}");
    }
}

/// Room for the answer to a request that waits. Its memory may be the guest's
/// again by the time that there is one: what is not taken from it any more is
/// an error, so that a lock is not kept for nobody.
struct LateReply {
    ring: Arc<Ring>,
    head: u16,
    reply: ChainReply,
    /// There was an answer, whether or not it was taken.
    is_answered: bool,
    is_returned: bool,
}

impl DataSink for LateReply {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.ring.write(|| self.reply.put(bytes))
    }

    /// Nobody reads a file who waited, and the queue would wait for the file.
    fn fill_from(&mut self, _file: BorrowedFd<'_>, _offset: u64, _len: usize) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn room(&self) -> usize {
        self.reply.room()
    }
}

impl Reply for LateReply {
    fn rewind(&mut self) {
        self.reply.rewind();
    }

    fn finish(&mut self, header: [u8; REPLY_HEADER_LEN]) -> io::Result<()> {
        self.is_answered = true;
        let LateReply { ring, head, reply, is_returned, .. } = self;
        ring.push_written(*head, || reply.finish(header).map(|()| reply.len()))?;
        *is_returned = true;
        Ok(())
    }
}

/// Answers ENOLCK, by hand: the protocol has given the request away.
fn refuse(mut work: Waiting) -> Result<(), String> {
    // fuse_in_header: len, opcode, unique (8 bytes at 8).
    let mut start = [0; 16];
    work.source.peek_start(&mut start);
    let mut header = [0; REPLY_HEADER_LEN];
    // fuse_out_header: len, error, unique.
    header[..4].copy_from_slice(&(REPLY_HEADER_LEN as u32).to_ne_bytes());
    header[4..8].copy_from_slice(&(-libc::ENOLCK).to_ne_bytes());
    header[8..].copy_from_slice(&start[8..]);
    work.reply.rewind();
    work.reply.finish(header).map_err(|error| error.to_string())?;
    work.ring.push(work.head, work.reply.len())
}
