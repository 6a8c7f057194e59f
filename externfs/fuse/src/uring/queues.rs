//! [`Queues`]: the threads that serve a mount's rings.
//!
//! Each queue has its threads, of which the kernel wakes the one that answered
//! last, so the others cost nothing. Threads are added
//! * for one whose request waits for a lock, at once: whoever holds the lock
//!   may be of the same queue;
//! * when all of a queue have been at the same requests for some ticks, or
//!   busy for some more, by a foreman, who sleeps unless a queue has nobody
//!   left: a host call may be slow, or depend on this very mount.
//!
//! Threads that were added stay, since the kernel takes no entry back. A request
//! may have come to a queue before its new thread registered, and the kernel
//! gives it to nobody until the queue answers something. So a thread that
//! comes late asks the kernel for nothing, literally (a retrieval of no bytes
//! of a regular file that the kernel has, which is a request of the processor
//! that asks): its answer moves the queue. For a wait the file is the one that
//! is to be locked; for others, that which was last worked on. If that
//! is forgotten already, the queue stands until the next request or answer.

use super::Rings;
use super::entry::Entry;
use super::ring::Ring;
use crate::device::Device;
use externfs::NodeId;
use externfs_wire::{Outcome, Session, notify};
use rustix::io::Errno;
use rustix::thread::CpuSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often the foreman looks.
const TICK: Duration = Duration::from_millis(1);
/// For how many ticks all threads of a queue may be at the same requests before
/// one more is called, for good. A thread that the scheduler holds up looks
/// the same, for one or two.
const STUCK_TICKS: u32 = 2;
/// The same for a queue that is seen full each time, at whatever requests.
const SATURATED_TICKS: u32 = 16;
/// After how many ticks in which no queue was seen full the foreman goes to sleep.
const IDLE_TICKS: u32 = 32;
/// How often a session that ends looks for those who still wait for a lock.
const ENDING: Duration = Duration::from_millis(20);
/// From here on requests that stand for nothing are numbered, each with an
/// even number of its own: an answer is committed by its number. The kernel
/// counts its own from the other end.
const NOTHING: u64 = 1 << 62;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
struct Staff {
    threads: usize,
    /// Those of them whose requests wait for a lock.
    waiting: usize,
}

/// One processor's.
struct Queue {
    number: u16,
    staff: Mutex<Staff>,
    /// Threads that do not wait for a lock.
    present: AtomicUsize,
    /// Those of them that have a request.
    busy: AtomicUsize,
    /// Requests begun.
    begun: AtomicU64,
}

impl Queue {
    fn new(number: u16) -> Queue {
        Queue { number, staff: Mutex::default(), present: AtomicUsize::new(0), busy: AtomicUsize::new(0), begun: AtomicU64::new(0) }
    }

    fn change(&self, change: impl FnOnce(&mut Staff)) {
        let mut staff = lock(&self.staff);
        change(&mut staff);
        self.present.store(staff.threads - staff.waiting, Ordering::SeqCst);
    }

    /// There is something to do, and nobody left to do more.
    fn is_full(&self) -> bool {
        let busy = self.busy.load(Ordering::SeqCst);
        busy > 0 && busy >= self.present.load(Ordering::SeqCst)
    }
}

/// When a thread comes.
enum Start {
    /// Before INIT: says here whether its ring works, and waits for an order.
    Early(mpsc::Sender<io::Result<()>>),
    /// In the place of another, which may be at work on this file.
    Late(Option<NodeId>),
}

/// What INIT came to.
struct Terms {
    session: Arc<Session>,
    payload_len: usize,
}

/// What the threads that were there before INIT are told after it.
#[derive(Clone)]
enum Order {
    Wait,
    Serve(Arc<Terms>),
    GoHome,
}

/// The threads of one mount's rings.
pub(crate) struct Queues {
    device: Arc<Device>,
    all: Vec<Queue>,
    spare: Mutex<Vec<Ring>>,
    /// Threads that a queue has at least and at most, but for waits.
    limits: (usize, usize),
    order: Mutex<Order>,
    ordered: Condvar,
    terms: OnceLock<Arc<Terms>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    foreman: Mutex<()>,
    wake_foreman: Condvar,
    foreman_sleeps: AtomicBool,
    over: AtomicBool,
    /// The regular file that was last worked on; 0: none.
    regular: AtomicU64,
    /// See [`NOTHING`].
    next_nothing: AtomicU64,
}

impl Queues {
    /// Starts the threads, which wait for [`Queues::serve`]. To be called
    /// before INIT is answered: the kernel is to be promised nothing that
    /// cannot be had. `most`: threads of a queue.
    pub(crate) fn muster(rings: Rings, device: Arc<Device>, most: usize) -> io::Result<Arc<Queues>> {
        let Rings { processors, all: mut spare } = rings;
        let least = super::THREADS.min(most).max(1);
        let numbers = (0..processors).map(|number| u16::try_from(number).unwrap_or(u16::MAX));
        let mut first = spare.split_off(spare.len() - (processors * least).min(spare.len()));
        let queues = Arc::new(Queues {
            device,
            all: numbers.map(Queue::new).collect(),
            spare: Mutex::new(spare),
            limits: (least, most.max(least)),
            order: Mutex::new(Order::Wait),
            ordered: Condvar::new(),
            terms: OnceLock::new(),
            threads: Mutex::default(),
            foreman: Mutex::default(),
            wake_foreman: Condvar::new(),
            foreman_sleeps: AtomicBool::new(true),
            over: AtomicBool::new(false),
            regular: AtomicU64::new(0),
            next_nothing: AtomicU64::new(NOTHING),
        });
        let result = queues.start(&mut first, least);
        if result.is_err() {
            queues.dismiss();
        }
        result.map(|()| queues)
    }

    fn start(self: &Arc<Queues>, rings: &mut Vec<Ring>, least: usize) -> io::Result<()> {
        let (ready, are_ready) = mpsc::channel();
        for place in 0..self.all.len() * least {
            let ring = rings.pop().ok_or(Errno::NOMEM)?;
            self.spawn(place % self.all.len(), ring, Start::Early(ready.clone()))?;
        }
        let queues = self.clone();
        let foreman = thread::Builder::new().name("fuse-ring-foreman".into()).spawn(move || queues.oversee())?;
        lock(&self.threads).push(foreman);
        drop(ready);
        are_ready.iter().collect()
    }

    fn spawn(self: &Arc<Queues>, place: usize, ring: Ring, start: Start) -> io::Result<()> {
        let Some(queue) = self.all.get(place) else { return Ok(()) };
        queue.change(|staff| staff.threads += 1);
        let queues = self.clone();
        let body = move || {
            let mut worker = Worker { place, ring, queues };
            if let Err(error) = worker.run(start) {
                tracing::debug!("a ring of processor {place} is out of use: {error}");
            }
            worker.queues.all.get(place).into_iter().for_each(|queue| queue.change(|staff| staff.threads -= 1));
        };
        match thread::Builder::new().name(format!("fuse-ring-{place}")).spawn(body) {
            Ok(thread) => {
                lock(&self.threads).push(thread);
                Ok(())
            }
            Err(error) => {
                queue.change(|staff| staff.threads -= 1);
                Err(error)
            }
        }
    }

    /// INIT has agreed: gives the kernel an entry for each thread.
    pub(crate) fn serve(&self, session: Arc<Session>, payload_len: usize) {
        let terms = self.terms.get_or_init(|| Arc::new(Terms { session, payload_len }));
        self.tell(Order::Serve(terms.clone()));
    }

    /// INIT has not agreed.
    pub(crate) fn dismiss(&self) {
        self.tell(Order::GoHome);
        self.end();
    }

    fn tell(&self, order: Order) {
        *lock(&self.order) = order;
        self.ordered.notify_all();
    }

    fn await_order(&self) -> Order {
        let order = lock(&self.order);
        self.ordered.wait_while(order, |order| matches!(order, Order::Wait)).unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The kernel has ended the connection, so no ring waits any more: sees all
    /// threads home, those that wait for a lock too.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.wake();
        let mut threads = std::mem::take(&mut *lock(&self.threads));
        while !threads.iter().all(JoinHandle::is_finished) {
            if let Some(terms) = self.terms.get() {
                terms.session.interrupt_all();
            }
            thread::sleep(ENDING.min(TICK * 2));
            threads.append(&mut lock(&self.threads));
        }
        for thread in threads {
            // They catch panics.
            let _ = thread.join();
        }
    }

    /// One more thread for a queue, if there is a ring. `node`: of a file that
    /// the kernel is sure to have.
    fn add(self: &Arc<Queues>, place: usize, node: Option<NodeId>) -> bool {
        let Some(ring) = lock(&self.spare).pop() else { return false };
        match self.spawn(place, ring, Start::Late(node)) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!("no more threads for requests: {error}");
                false
            }
        }
    }

    /// A thread is going to wait for a lock. False: it must not, since nobody
    /// would be left.
    fn begin_wait(self: &Arc<Queues>, place: usize, node: Option<NodeId>) -> bool {
        let Some(queue) = self.all.get(place) else { return false };
        queue.change(|staff| staff.waiting += 1);
        queue.busy.fetch_sub(1, Ordering::SeqCst);
        let is_served = queue.present.load(Ordering::SeqCst) >= self.limits.0 || self.add(place, node);
        if !is_served && queue.present.load(Ordering::SeqCst) == 0 {
            self.end_wait(place);
            return false;
        }
        true
    }

    fn end_wait(&self, place: usize) {
        let Some(queue) = self.all.get(place) else { return };
        queue.busy.fetch_add(1, Ordering::SeqCst);
        queue.change(|staff| staff.waiting -= 1);
    }

    fn wake(&self) {
        let _turn = lock(&self.foreman);
        self.foreman_sleeps.store(false, Ordering::SeqCst);
        self.wake_foreman.notify_one();
    }

    /// The foreman's work.
    fn oversee(self: &Arc<Queues>) {
        let mut seen = vec![Seen::default(); self.all.len()];
        let mut idle = 0;
        while !self.over.load(Ordering::SeqCst) {
            let mut is_calm = true;
            for (place, (queue, seen)) in self.all.iter().zip(&mut seen).enumerate() {
                is_calm &= !queue.is_full();
                if seen.look(queue) && queue.present.load(Ordering::SeqCst) < self.limits.1 {
                    self.add(place, None);
                }
            }
            idle = if is_calm { idle + 1 } else { 0 };
            let turn = lock(&self.foreman);
            if idle < IDLE_TICKS {
                drop(self.wake_foreman.wait_timeout(turn, TICK));
                continue;
            }
            idle = 0;
            self.foreman_sleeps.store(true, Ordering::SeqCst);
            // A request that came before the store saw nobody to wake.
            if !self.all.iter().any(Queue::is_full) && !self.over.load(Ordering::SeqCst) {
                let sleeps = |_: &mut ()| self.foreman_sleeps.load(Ordering::SeqCst);
                drop(self.wake_foreman.wait_while(turn, sleeps));
            }
            self.foreman_sleeps.store(false, Ordering::SeqCst);
        }
    }
}

/// What the foreman remembers of a queue.
#[derive(Clone, Default)]
struct Seen {
    begun: u64,
    /// For how many ticks all its threads have been at the same requests.
    stuck: u32,
    /// For how many ticks it has been full.
    full: u32,
}

impl Seen {
    /// Whether the queue needs one more thread.
    fn look(&mut self, queue: &Queue) -> bool {
        let begun = queue.begun.load(Ordering::SeqCst);
        let is_full = queue.is_full();
        self.full = if is_full { self.full + 1 } else { 0 };
        self.stuck = if is_full && begun == self.begun { self.stuck + 1 } else { 0 };
        self.begun = begun;
        let is_needed = self.stuck >= STUCK_TICKS || self.full >= SATURATED_TICKS;
        if is_needed {
            (self.stuck, self.full) = (0, 0);
        }
        is_needed
    }
}

/// One thread with its ring.
struct Worker {
    place: usize,
    ring: Ring,
    queues: Arc<Queues>,
}

impl Worker {
    fn run(&mut self, start: Start) -> io::Result<()> {
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
                self.ring.register(self.number(), &mut entry)?;
                self.serve(&terms.session, &mut entry)
            }
            Start::Late(node) => {
                enabled?;
                let terms = self.queues.terms.get().cloned().ok_or(Errno::INVAL)?;
                let mut entry = Entry::new(terms.payload_len)?;
                self.settle();
                self.ring.register(self.number(), &mut entry)?;
                self.ask_for_nothing(node);
                self.serve(&terms.session, &mut entry)
            }
        }
    }

    fn number(&self) -> u16 {
        self.queues.all.get(self.place).map_or(0, |queue| queue.number)
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
        let Some(queue) = self.queues.all.get(self.place) else { return };
        queue.begun.fetch_add(1, Ordering::SeqCst);
        queue.busy.fetch_add(1, Ordering::SeqCst);
        if queue.is_full() && self.queues.foreman_sleeps.load(Ordering::SeqCst) {
            self.queues.wake();
        }
        if let Some(node) = entry.regular_node() {
            self.queues.regular.store(node.0, Ordering::Relaxed);
        }
        let unique = entry.unique();
        if let Err(errno) = self.handle(session, entry) {
            entry.answer(errno, unique);
        }
        queue.busy.fetch_sub(1, Ordering::SeqCst);
    }

    /// Err: what to answer, since nobody has.
    fn handle(&self, session: &Session, entry: &mut Entry) -> Result<(), i32> {
        let node = entry.regular_node();
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

    /// Moves the queue; see the [module](self).
    fn ask_for_nothing(&self, node: Option<NodeId>) {
        let last = Some(NodeId(self.queues.regular.load(Ordering::Relaxed))).filter(|node| node.0 != 0);
        // A thread may have been kept off its processor, which it needs for a moment.
        let before = rustix::thread::sched_getaffinity(None);
        let moved = rustix::thread::sched_setaffinity(None, &only(self.place));
        let number = || self.queues.next_nothing.fetch_add(2, Ordering::Relaxed);
        let ask = |node| self.queues.device.write(&notify::retrieve_nothing(node, number()));
        let is_asked = moved.is_ok() && node.into_iter().chain(last).any(|node| ask(node).is_ok());
        if !is_asked {
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
