//! [`Ring`]: one virtqueue while it runs: what is available, what is used,
//! and when the guest has to be told.

use crate::call::Call;
use crate::chain::{ChainReply, ChainSource};
use crate::fence::Spans;
use crate::memory::Memory;
use crate::statistics::Counters;
use externfs_wire::Reply;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use virtio_queue::{Queue, QueueOwnedT, QueueT};

/// Largest queue, in descriptors (the virtio specification's limit).
const QUEUE_SIZE_MAX: u16 = 32768;

/// Where a queue lies, in the frontend's virtual addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RingPlace {
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
}

/// How a queue begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RingStart {
    /// Descriptors: a power of two.
    pub(crate) size: u16,
    pub(crate) place: RingPlace,
    /// Next entry of the available ring to look at.
    pub(crate) next_available: u16,
    /// `VIRTIO_F_RING_EVENT_IDX` was negotiated.
    pub(crate) event_index: bool,
}

/// A request that the guest made available.
pub(crate) struct Chain {
    /// What it is returned by.
    pub(crate) head: u16,
    pub(crate) source: ChainSource,
    pub(crate) reply: ChainReply,
}

struct State {
    queue: Queue,
    memory: Arc<Memory>,
    /// Cleared for good when the guest takes the queue away: from then on its
    /// memory is not ours, whatever still runs.
    open: bool,
}

impl State {
    /// For few accesses to memory: the whole queue waits for them.
    fn if_open<T>(&mut self, write: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if self.open { write() } else { Err(io::Error::new(io::ErrorKind::NotConnected, "its queue was taken away")) }
    }
}

/// A running queue. Its thread takes from it; whoever finishes a request
/// returns it.
pub(crate) struct Ring {
    place: RingPlace,
    counters: Arc<Counters>,
    state: Mutex<State>,
    /// Requests that were taken and are to be handled from the start again.
    put_off: Mutex<Vec<Chain>>,
    /// Tells the guest. Apart from the state: QEMU replaces it at any time.
    call: Mutex<Option<Arc<Call>>>,
    /// The guest was told something and has not shown since that it heard.
    called: AtomicBool,
}

impl Ring {
    /// Begins a queue that tells the guest through `call`: every part of it
    /// lies in guest memory, or it is refused.
    pub(crate) fn start(start: RingStart, call: Option<Arc<Call>>, memory: Arc<Memory>, counters: Arc<Counters>) -> Result<Ring, String> {
        let broken = |error: virtio_queue::Error| error.to_string();
        let mut queue = queue_at(start.size, start.place, &memory)?;
        queue.set_event_idx(start.event_index);
        queue.set_next_avail(start.next_available);
        // Not when its base is set: the frontend says where it lies after that.
        let used = queue.used_idx(memory.guest(), Ordering::Acquire).map_err(broken)?;
        queue.set_next_used(used.0);
        let state = Mutex::new(State { queue, memory, open: true });
        let called = AtomicBool::new(false);
        Ok(Ring { place: start.place, counters, state, put_off: Mutex::default(), call: Mutex::new(call), called })
    }

    /// Plain fields that are right after each statement: a panic elsewhere
    /// leaves nothing half done that the checks of the next access miss.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest's memory has changed around the queue.
    ///
    /// # Errors
    /// The queue does not lie in it; nothing has changed then.
    pub(crate) fn remap(&self, memory: Arc<Memory>) -> Result<(), String> {
        let mut state = self.state();
        queue_at(state.queue.size(), self.place, &memory)?;
        place_queue(&mut state.queue, self.place, &memory)?;
        state.memory = memory;
        Ok(())
    }

    /// Uses another descriptor to tell the guest; None tells it no more.
    ///
    /// What went to the former one may never have arrived: QEMU enables a queue
    /// that goes on after a stop before it says where the interrupts go. The
    /// guest asked to be told of one answer, which is not told twice, so it
    /// would wait for ever. So [`Ring::call`] is due: one interrupt too many does
    /// no harm.
    pub(crate) fn set_call(&self, call: Option<Arc<Call>>) {
        *self.locked_call() = call;
    }

    /// The guest takes it away: nothing is written to its memory from now on.
    /// Returns the next entry of the available ring.
    pub(crate) fn close(&self) -> u16 {
        let mut state = self.state();
        state.open = false;
        state.queue.next_avail()
    }

    /// Next entry of the used ring.
    pub(crate) fn next_used(&self) -> u16 {
        self.state().queue.next_used()
    }

    /// Keeps a request that was not answered for whoever serves the queue next.
    pub(crate) fn put_off(&self, mut chain: Chain) {
        chain.source.rewind();
        chain.reply.rewind();
        self.locked_put_off().push(chain);
    }

    /// What was put off.
    pub(crate) fn take_put_off(&self) -> Vec<Chain> {
        std::mem::take(&mut *self.locked_put_off())
    }

    /// Whether anything was.
    pub(crate) fn has_put_off(&self) -> bool {
        !self.locked_put_off().is_empty()
    }

    fn locked_put_off(&self) -> MutexGuard<'_, Vec<Chain>> {
        self.put_off.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the guest's memory was taken away.
    pub(crate) fn is_memory_lost(&self) -> bool {
        self.state().memory.is_lost()
    }

    /// The next request, if there is one.
    ///
    /// # Errors
    /// The guest broke the queue's rules: the reason for the log.
    pub(crate) fn pop(&self) -> Result<Option<Chain>, String> {
        let mut state = self.state();
        if !state.open {
            return Ok(None);
        }
        let memory = Arc::clone(&state.memory);
        let mut available = state.queue.iter(memory.guest()).map_err(|error| error.to_string())?;
        let Some(descriptors) = available.next() else {
            return Ok(None);
        };
        drop(state);
        self.called.store(false, Ordering::Relaxed);
        let head = descriptors.head_index();
        let mut readable = Spans::new(Arc::clone(&memory));
        let mut writable = Spans::new(Arc::clone(&memory));
        let mut writing = false;
        // The iterator ends without a word where a chain is wrong; the last
        // descriptor that it gave then still names a next one.
        let mut unfinished = true;
        for descriptor in descriptors {
            if descriptor.is_write_only() {
                writing = true;
            } else if writing {
                return Err(format!("chain {head} has a readable descriptor behind a writable one"));
            }
            let side = if writing { &mut writable } else { &mut readable };
            side.push(descriptor.addr(), descriptor.len() as usize).map_err(|reason| format!("chain {head}: {reason}"))?;
            unfinished = descriptor.has_next();
        }
        if unfinished {
            return Err(format!("chain {head} loops, leaves its table or cannot be read"));
        }
        Ok(Some(Chain { head, source: ChainSource::new(readable), reply: ChainReply::new(writable) }))
    }

    /// Whether a request is available, at the price of one look.
    pub(crate) fn has_next(&self) -> bool {
        let state = self.state();
        let next = state.queue.next_avail();
        state.queue.avail_idx(state.memory.guest(), Ordering::Relaxed).is_ok_and(|index| index.0 != next)
    }

    /// Returns a request with an answer of `len` bytes, and tells the guest
    /// if it wants to know.
    pub(crate) fn push(&self, head: u16, len: u32) -> Result<(), String> {
        self.push_written(head, || Ok(len)).map_err(|error| error.to_string())
    }

    /// Has an answer written, and returns its request with as many bytes.
    ///
    /// # Errors
    /// The queue is closed, and nothing was written; or what writing answers.
    pub(crate) fn push_written(&self, head: u16, write: impl FnOnce() -> io::Result<u32>) -> io::Result<()> {
        let mut state = self.state();
        let len = state.if_open(write)?;
        let State { queue, memory, .. } = &mut *state;
        let told = queue.add_used(memory.guest(), head, len).and_then(|()| queue.needs_notification(memory.guest()));
        drop(state);
        if told.map_err(io::Error::other)? {
            self.call();
        }
        Ok(())
    }

    /// Writes to memory that belongs to a request.
    ///
    /// # Errors
    /// As [`Ring::push_written`].
    pub(crate) fn write(&self, write: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.state().if_open(write)
    }

    /// Tells the guest that there is something to look at.
    pub(crate) fn call(&self) {
        if let Some(call) = self.current_call() {
            self.counters.calls.add(1);
            call.send();
            self.called.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the guest was told something in a way that it may oversleep, and
    /// has made no request since.
    pub(crate) fn may_be_overslept(&self) -> bool {
        self.called.load(Ordering::Relaxed) && self.current_call().is_some_and(|call| call.may_be_overslept())
    }

    /// Tells the guest once more, whether it wants to know or not.
    pub(crate) fn call_again(&self) {
        if let Some(call) = self.current_call() {
            self.counters.repeated_calls.add(1);
            call.send();
            self.called.store(false, Ordering::Relaxed);
        }
    }

    /// Whoever sends holds no lock: the frontend may keep it.
    fn current_call(&self) -> Option<Arc<Call>> {
        self.locked_call().clone()
    }

    fn locked_call(&self) -> MutexGuard<'_, Option<Arc<Call>>> {
        self.call.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the guest for a kick with its next request. True when one is there
    /// already, which will have none.
    pub(crate) fn enable_kicks(&self) -> Result<bool, String> {
        let mut state = self.state();
        let State { queue, memory, open } = &mut *state;
        if !*open {
            return Ok(false);
        }
        queue.enable_notification(memory.guest()).map_err(|error| error.to_string())
    }

    /// Tells the guest that we look by ourselves.
    pub(crate) fn disable_kicks(&self) -> Result<(), String> {
        let mut state = self.state();
        let State { queue, memory, open } = &mut *state;
        if !*open {
            return Ok(());
        }
        queue.disable_notification(memory.guest()).map_err(|error| error.to_string())
    }
}

/// Whether a queue is wholly in this memory.
pub(crate) fn is_found(size: u16, place: RingPlace, memory: &Memory) -> bool {
    queue_at(size, place, memory).is_ok()
}

/// A queue at its beginning.
fn queue_at(size: u16, place: RingPlace, memory: &Memory) -> Result<Queue, String> {
    let mut queue = Queue::new(QUEUE_SIZE_MAX).map_err(|error| error.to_string())?;
    queue.try_set_size(size).map_err(|_| format!("a queue cannot have {size} descriptors"))?;
    place_queue(&mut queue, place, memory)?;
    Ok(queue)
}

/// Sets addresses one by one: of a queue that fails half of them are new.
fn place_queue(queue: &mut Queue, place: RingPlace, memory: &Memory) -> Result<(), String> {
    let find = |what: &str, address: u64| {
        memory.guest_address(address).ok_or_else(|| format!("the {what} at {address:#x} is not in guest memory"))
    };
    let wrong = |error: virtio_queue::Error| error.to_string();
    queue.try_set_desc_table_address(find("descriptor table", place.descriptors)?).map_err(wrong)?;
    queue.try_set_avail_ring_address(find("available ring", place.available)?).map_err(wrong)?;
    queue.try_set_used_ring_address(find("used ring", place.used)?).map_err(wrong)?;
    queue.set_ready(true);
    if queue.is_valid(memory.guest()) { Ok(()) } else { Err("a ring is not all in guest memory".into()) }
}
