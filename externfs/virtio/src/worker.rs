//! [`Worker`]: the thread of one queue. It takes a request, has it answered,
//! and takes the next; when none is left it watches for a moment
//! ([`Spin`]), then sleeps until the guest kicks.

use crate::call::Call;
use crate::handler::Handler;
use crate::later::{Laters, Waiting};
use crate::ring::{Chain, Ring};
use crate::spin::Spin;
use crate::statistics::Counters;
use crate::stop::Stop;
use crate::stuck::{Errand, Stuck};
use externfs_wire::{LogGate, Outcome};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A pause of this length while watching means that the scheduler gave the
/// processor to somebody else.
const PREEMPTED: Duration = Duration::from_micros(50);

/// When an interrupt through a socket is repeated. User Mode Linux looks for
/// work and then waits for a signal, without keeping signals out in between
/// (`os_idle_sleep`): one that comes just then is handled, and the process that
/// it woke sleeps on until the next timer tick, 10 ms later. Quick answers hit
/// that moment often: it was 1 in 30 for reads, and most of their time.
pub(crate) const REPEAT_CALL: Duration = Duration::from_micros(150);

/// What the queues of one guest share.
pub(crate) struct Guest {
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) laters: Arc<Laters>,
    /// Longest active watching; zero for none.
    pub(crate) spin_limit: Duration,
    /// Its lines in the log go through it.
    pub(crate) gate: Arc<LogGate>,
    /// Its threads that a descriptor of the frontend may keep.
    pub(crate) stuck: Arc<Stuck>,
    /// Raised when the guest cannot be served any longer.
    pub(crate) end: Stop,
    /// Why.
    pub(crate) reason: Mutex<Option<String>>,
}

impl Guest {
    /// Ends the guest's connection.
    pub(crate) fn give_up(&self, reason: String) {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        self.end.raise();
    }
}

/// What a worker works on.
pub(crate) struct Job {
    pub(crate) index: usize,
    pub(crate) ring: Arc<Ring>,
    /// Non-blocking; readable when the guest has made requests available.
    pub(crate) kick: Arc<OwnedFd>,
    /// Told when the queue breaks.
    pub(crate) error: Option<Arc<Call>>,
    pub(crate) guest: Arc<Guest>,
}

/// A queue's thread. Dropping it stops and joins it.
pub(crate) struct Worker {
    stop: Stop,
    /// Dropped when the stop is raised.
    _errand: Errand,
}

impl Worker {
    pub(crate) fn start(job: Job) -> io::Result<Worker> {
        let stop = Stop::new()?;
        let shift = Shift { spin: Spin::new(job.guest.spin_limit), epoch: Instant::now(), stop: stop.clone(), job };
        let name = format!("virtiofs-q{}", shift.job.index);
        // It catches its panics itself.
        let stuck = Arc::clone(&shift.job.guest.stuck);
        Ok(Worker { stop, _errand: Errand::start(name, stuck, move || shift.run())? })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.raise();
    }
}

struct Shift {
    job: Job,
    stop: Stop,
    spin: Spin,
    /// Where the tuner's time begins.
    epoch: Instant,
}

enum Watched {
    Request,
    Nothing(Duration),
}

impl Shift {
    fn run(mut self) {
        let result = catch_unwind(AssertUnwindSafe(|| self.work()));
        let Job { index, ring, guest, error, .. } = &self.job;
        match result {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) if ring.is_memory_lost() => {
                guest.give_up("its memory was taken away while in use (was its file truncated?)".into());
            }
            Ok(Err(reason)) => {
                guest.gate.pass(|| tracing::warn!("queue {index} is stopped: {reason}"));
                guest.counters.broken_queues.add(1);
                if let Some(error) = error {
                    error.send();
                }
            }
            Err(_) => guest.give_up(format!("a panic while serving queue {index}; this is a defect, please report it")),
        }
    }

    /// # Errors
    /// The queue is broken: the reason for the log.
    fn work(&mut self) -> Result<(), String> {
        for chain in self.job.ring.take_put_off() {
            self.serve(chain)?;
        }
        loop {
            let mut requests = 0;
            while let Some(chain) = self.job.ring.pop()? {
                self.serve(chain)?;
                requests += 1;
                if self.stop.is_raised() {
                    return Ok(());
                }
            }
            if self.job.ring.is_memory_lost() {
                return Err(String::new());
            }
            let idle_since = Instant::now();
            let watched = match self.watch(idle_since, requests) {
                Watched::Request => continue,
                Watched::Nothing(watched) => watched,
            };
            // What arrives between the last look and this has no kick.
            let slept = if self.job.ring.enable_kicks()? { Ok(()) } else { self.sleep(watched) };
            if slept.is_err() || self.stop.is_raised() {
                return slept;
            }
            self.job.ring.disable_kicks()?;
            self.spin.slept(watched, idle_since.elapsed());
        }
    }

    fn serve(&self, chain: Chain) -> Result<(), String> {
        let Job { ring, guest, .. } = &self.job;
        let Chain { head, mut source, mut reply } = chain;
        guest.counters.requests.add(1);
        match guest.handler.handle(&mut source, &mut reply) {
            Outcome::Replied => ring.push(head, reply.len()),
            Outcome::Silent => ring.push(head, 0),
            Outcome::Later(later) => {
                let work = Waiting { ring: Arc::clone(ring), head, source, reply, later };
                guest.laters.start(work, &guest.counters)
            }
            Outcome::Broken(reason) => Err(reason),
        }
    }

    /// Looks for the next request for as long as it is likely to pay.
    fn watch(&mut self, idle_since: Instant, requests: u64) -> Watched {
        let counters = &self.job.guest.counters;
        let window = self.spin.window(idle_since.duration_since(self.epoch), requests);
        if window.is_zero() {
            return Watched::Nothing(Duration::ZERO);
        }
        counters.spins.add(1);
        let mut last = Duration::ZERO;
        loop {
            if self.job.ring.has_next() {
                counters.spin_hits.add(1);
                self.spin.hit(last);
                return Watched::Request;
            }
            let now = idle_since.elapsed();
            let preempted = now - last > PREEMPTED;
            if preempted {
                self.spin.preempted(now);
            }
            if preempted || now >= window || self.stop.is_raised() {
                counters.spin_wasted_us.add(now.as_micros() as u64);
                return Watched::Nothing(if preempted { Duration::ZERO } else { now });
            }
            last = now;
            std::hint::spin_loop();
        }
    }

    /// Until the guest kicks or we are to stop. We have `watched` before.
    fn sleep(&self, watched: Duration) -> Result<(), String> {
        let Job { ring, kick, guest, .. } = &self.job;
        let mut fds = [PollFd::new(kick, PollFlags::IN), PollFd::new(&self.stop, PollFlags::IN)];
        let mut wait = |limit: Option<&Timespec>| match poll(&mut fds, limit) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(true),
            Err(error) => Err(format!("poll: {error}")),
        };
        if ring.may_be_overslept() {
            let left = Timespec { tv_sec: 0, tv_nsec: REPEAT_CALL.saturating_sub(watched).as_nanos() as i64 };
            if !wait(Some(&left))? {
                ring.call_again();
                wait(None)?;
            }
        } else {
            wait(None)?;
        }
        let kicked = fds[0].revents();
        if kicked.is_empty() {
            return Ok(());
        }
        let mut count = [0; 8];
        match guest.stuck.inside(|| rustix::io::read(kick, &mut count)) {
            Ok(0) => Err("the guest closed its kick descriptor".into()),
            Ok(_) => {
                guest.counters.kicks.add(1);
                Ok(())
            }
            Err(Errno::AGAIN | Errno::INTR) if kicked.intersects(PollFlags::IN) => Ok(()),
            Err(error) => Err(format!("its kick descriptor failed: {error}")),
        }
    }
}
