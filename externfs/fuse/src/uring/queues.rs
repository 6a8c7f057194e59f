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
use super::ring::Ring;
use super::worker::{Start, Worker};
use crate::device::Device;
use externfs::NodeId;
use externfs_wire::{Session, notify};
use rustix::io::Errno;
use std::io;
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
const ENDING: Duration = Duration::from_millis(2);
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
    staff: Mutex<Staff>,
    /// Threads that do not wait for a lock.
    present: AtomicUsize,
    /// Those of them that have a request.
    busy: AtomicUsize,
    /// Requests begun.
    begun: AtomicU64,
}

impl Queue {
    fn new() -> Queue {
        Queue { staff: Mutex::default(), present: AtomicUsize::new(0), busy: AtomicUsize::new(0), begun: AtomicU64::new(0) }
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

/// What INIT came to.
pub(super) struct Terms {
    pub(super) session: Arc<Session>,
    pub(super) payload_len: usize,
}

/// What the threads that were there before INIT are told after it.
#[derive(Clone)]
pub(super) enum Order {
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
        let mut first = spare.split_off(spare.len() - (processors * least).min(spare.len()));
        let queues = Arc::new(Queues {
            device,
            all: (0..processors).map(|_| Queue::new()).collect(),
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
        // Whoever waits for it is to find it gone when it is.
        let awaited = if let Start::Late(_, registered) = &start { Some(registered.clone()) } else { None };
        let body = move || {
            if let Err(error) = Worker::new(place, ring, queues.clone()).run(start) {
                tracing::debug!("a ring of processor {place} is out of use: {error}");
            }
            queues.all.get(place).into_iter().for_each(|queue| queue.change(|staff| staff.threads -= 1));
            drop(awaited);
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

    pub(super) fn await_order(&self) -> Order {
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
            thread::sleep(ENDING);
            threads.append(&mut lock(&self.threads));
        }
        for thread in threads {
            // They catch panics.
            let _ = thread.join();
        }
    }

    /// One more thread for a queue, if there is a ring and the kernel takes an
    /// entry for it. `node`: of a file that the kernel is sure to have.
    fn add(self: &Arc<Queues>, place: usize, node: Option<NodeId>) -> bool {
        let Some(ring) = lock(&self.spare).pop() else { return false };
        let (registered, is_registered) = mpsc::channel();
        match self.spawn(place, ring, Start::Late(node, registered)) {
            Ok(()) => is_registered.recv().is_ok(),
            Err(error) => {
                tracing::warn!("no more threads for requests: {error}");
                false
            }
        }
    }

    /// A thread is going to wait for a lock. False: it must not, since nobody
    /// would be left.
    pub(super) fn begin_wait(self: &Arc<Queues>, place: usize, node: Option<NodeId>) -> bool {
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

    pub(super) fn end_wait(&self, place: usize) {
        let Some(queue) = self.all.get(place) else { return };
        queue.busy.fetch_add(1, Ordering::SeqCst);
        queue.change(|staff| staff.waiting -= 1);
    }

    /// What INIT came to; None before it.
    pub(super) fn terms(&self) -> Option<Arc<Terms>> {
        self.terms.get().cloned()
    }

    /// A thread has a request, which is about this regular file.
    pub(super) fn begin(&self, place: usize, node: Option<NodeId>) {
        if let Some(node) = node {
            self.regular.store(node.0, Ordering::Relaxed);
        }
        let Some(queue) = self.all.get(place) else { return };
        queue.begun.fetch_add(1, Ordering::SeqCst);
        queue.busy.fetch_add(1, Ordering::SeqCst);
        if queue.is_full() && self.foreman_sleeps.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    /// It has answered.
    pub(super) fn done(&self, place: usize) {
        let Some(queue) = self.all.get(place) else { return };
        queue.busy.fetch_sub(1, Ordering::SeqCst);
    }

    /// Asks for nothing, of this file or of the one that was last worked on, on
    /// the processor that this thread is on. False: no such request comes.
    pub(super) fn ask_for_nothing(&self, node: Option<NodeId>) -> bool {
        let last = Some(NodeId(self.regular.load(Ordering::Relaxed))).filter(|node| node.0 != 0);
        let number = || self.next_nothing.fetch_add(2, Ordering::Relaxed);
        node.into_iter().chain(last).any(|node| self.device.write(&notify::retrieve_nothing(node, number())).is_ok())
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
