//! [`Vring`]: what a frontend has told about one queue so far, and the queue
//! itself once everything is known.
//!
//! Frontends tell it in different orders and again at any time. A queue runs
//! as soon as it is complete and enabled; it pauses when disabled, keeping its
//! state, and ends when its place or base changes or its base is asked for. Where
//! its memory is taken away, it waits for that.

use crate::call::Call;
use crate::memory::Memory;
use crate::ring::{Chain, Ring, RingPlace, RingStart, is_found};
use crate::stuck::Errand;
use crate::worker::{Guest, Job, Worker};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What a queue needs from its device to run.
pub(crate) struct Surroundings<'a> {
    pub(crate) guest: &'a Arc<Guest>,
    pub(crate) memory: Option<&'a Arc<Memory>>,
    pub(crate) event_index: bool,
}

/// What was taken from a queue and not answered when it ended. QEMU stops all
/// queues to pause a guest, and starts them where they were; a guest that has been
/// reset in between knows nothing of its requests, and has an empty used ring.
struct Left {
    /// How it goes on, if it does.
    start: RingStart,
    used: u16,
    chains: Vec<Chain>,
}

/// One queue, configured piece by piece.
pub(crate) struct Vring {
    index: usize,
    size: Option<u16>,
    place: Option<RingPlace>,
    base: u16,
    kick: Option<Arc<OwnedFd>>,
    call: Option<Arc<Call>>,
    error: Option<Arc<Call>>,
    enabled: bool,
    /// Before `ring`: its thread ends first.
    worker: Option<Worker>,
    ring: Option<Arc<Ring>>,
    /// How `ring` began.
    started: Option<RingStart>,
    left: Option<Left>,
}

impl Vring {
    pub(crate) fn new(index: usize) -> Vring {
        Vring {
            index,
            size: None,
            place: None,
            base: 0,
            kick: None,
            call: None,
            error: None,
            enabled: false,
            worker: None,
            ring: None,
            started: None,
            left: None,
        }
    }

    /// Number of descriptors.
    pub(crate) fn set_size(&mut self, size: u32, around: &Surroundings<'_>) -> Result<(), String> {
        let size = u16::try_from(size).map_err(|_| format!("a queue cannot have {size} descriptors"))?;
        self.retire(around);
        self.size = Some(size);
        Ok(())
    }

    pub(crate) fn set_place(&mut self, place: RingPlace, around: &Surroundings<'_>) {
        // Said again about a running queue, it changes nothing.
        if self.place != Some(place) {
            self.retire(around);
            self.place = Some(place);
        }
    }

    /// Next entry of the available ring.
    pub(crate) fn set_base(&mut self, base: u32, around: &Surroundings<'_>) -> Result<(), String> {
        let base = u16::try_from(base).map_err(|_| format!("{base} is no index of an available ring"))?;
        self.retire(around);
        self.base = base;
        Ok(())
    }

    pub(crate) fn set_call(&mut self, call: Option<Call>, around: &Surroundings<'_>) -> Result<(), String> {
        self.call = call.map(Arc::new);
        let Some(ring) = self.ring.clone() else { return Ok(()) };
        ring.set_call(self.call.clone());
        if self.call.as_ref().is_none_or(|call| call.never_blocks()) {
            ring.call();
            return Ok(());
        }
        // The thread that reads messages has nobody to get it out.
        let errand = Errand::start("virtiofs-call".into(), Arc::clone(&around.guest.stuck), move || ring.call());
        errand.map(drop).map_err(|error| format!("no thread to interrupt the guest: {error}"))
    }

    pub(crate) fn set_error(&mut self, error: Option<Call>) {
        self.error = error.map(Arc::new);
    }

    pub(crate) fn set_kick(&mut self, kick: OwnedFd, around: &Surroundings<'_>) -> Result<(), String> {
        self.worker = None;
        self.kick = Some(Arc::new(kick));
        self.run(around)
    }

    /// Before anything else is known of it.
    pub(crate) fn start_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
    }

    pub(crate) fn set_enabled(&mut self, enabled: bool, around: &Surroundings<'_>) -> Result<(), String> {
        self.enabled = enabled;
        if !enabled {
            self.worker = None;
        }
        self.run(around)
    }

    /// The guest's memory has changed. A queue that is not in it any more ends
    /// here and goes on when it is there again: QEMU changes a region by taking
    /// it away and adding it anew.
    pub(crate) fn set_memory(&mut self, around: &Surroundings<'_>) -> Result<(), String> {
        let (Some(size), Some(place), Some(memory)) = (self.size, self.place, around.memory) else {
            self.retire(around);
            return Ok(());
        };
        match &self.ring {
            Some(ring) => {
                if let Err(reason) = ring.remap(Arc::clone(memory)) {
                    tracing::debug!("queue {} waits for its memory: {reason}", self.index);
                    self.retire(around);
                }
                Ok(())
            }
            None if is_found(size, place, memory) => self.run(around),
            None => Ok(()),
        }
    }

    /// Lets it run if it can and does not yet.
    pub(crate) fn run(&mut self, around: &Surroundings<'_>) -> Result<(), String> {
        let (Some(kick), Some(size), Some(place), Some(memory)) = (&self.kick, self.size, self.place, around.memory) else {
            return Ok(());
        };
        if !self.enabled || self.worker.is_some() {
            return Ok(());
        }
        let ring = match &self.ring {
            Some(ring) => Arc::clone(ring),
            None => {
                let start = RingStart { size, place, next_available: self.base, event_index: around.event_index };
                let ring = Ring::start(start, self.call.clone(), Arc::clone(memory), Arc::clone(&around.guest.counters))?;
                let left = self.left.take().filter(|left| left.start == start && left.used == ring.next_used());
                left.into_iter().flat_map(|left| left.chains).for_each(|chain| ring.put_off(chain));
                self.started = Some(start);
                Arc::new(ring)
            }
        };
        let job = Job {
            index: self.index,
            ring: Arc::clone(&ring),
            kick: Arc::clone(kick),
            error: self.error.clone(),
            guest: Arc::clone(around.guest),
        };
        self.ring = Some(ring);
        self.worker = Some(Worker::start(job).map_err(|error| format!("no thread for queue {}: {error}", self.index))?);
        Ok(())
    }

    /// Ends it for good, with its kick descriptor: QEMU's way to stop a
    /// queue. Returns the next entry of the available ring.
    pub(crate) fn stop(&mut self) -> u16 {
        self.worker = None;
        self.kick = None;
        self.close();
        self.base
    }

    /// Its thread ends, its requests in progress are done; what waits on other
    /// threads still may answer until [`Vring::stop`].
    pub(crate) fn pause(&mut self) {
        self.worker = None;
    }

    /// Has it look after what was put off while another queue ended.
    pub(crate) fn resume(&mut self, around: &Surroundings<'_>) -> Result<(), String> {
        if self.worker.is_none() || !self.ring.as_ref().is_some_and(|ring| ring.has_put_off()) {
            return Ok(());
        }
        self.worker = None;
        self.run(around)
    }

    /// Ends it where it goes on elsewhere, or not at all. What waits is interrupted
    /// first: it answers, or is asked for again when the queue goes on there.
    fn retire(&mut self, around: &Surroundings<'_>) {
        if self.ring.is_some() {
            self.pause();
            around.guest.settle();
            self.close();
        }
    }

    fn close(&mut self) {
        self.worker = None;
        if let Some(ring) = self.ring.take() {
            self.base = ring.close();
            let start = self.started.map(|start| RingStart { next_available: self.base, ..start });
            let chains = ring.take_put_off();
            self.left = start.filter(|_| !chains.is_empty()).map(|start| Left { start, used: ring.next_used(), chains });
        }
    }
}

impl Drop for Vring {
    fn drop(&mut self) {
        self.close();
    }
}
