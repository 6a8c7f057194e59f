//! [`Crew`]: how many worker threads read requests.
//!
//! One thread that serves everything is the fastest while requests are short:
//! the kernel wakes readers in turn, and each other thread has a cold cache
//! (measured: 5.1 us of server time for a GETATTR with one reader, 6.4 with
//! two). It is the worst when a request blocks, in a slow disk or a dead
//! network. So there is one reader, and a foreman who looks at the workers
//! once a tick while there is work. He calls one more when
//! * none waits for requests and one has been at the same request for a whole
//!   tick, or
//! * none was seen waiting for several ticks: there is work for two.
//!
//! Two never wait at once: who would be the second goes to rest, whether it has
//! answered a request or was called just now. The foreman can call for nothing
//! (a worker that the scheduler holds up looks like one at a long request), and
//! a second reader would then stay for as long as no request comes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often the foreman looks.
const TICK: Duration = Duration::from_millis(1);
/// For how many ticks nobody may be seen waiting before one more is called.
const SATURATED_TICKS: u32 = 16;
/// After how many ticks without a request the foreman goes to sleep.
const IDLE_TICKS: u32 = 32;

#[derive(Default)]
struct Rest {
    /// Workers that rest.
    resting: usize,
    /// How many of them are called back.
    called: usize,
    over: bool,
}

/// The workers of one mount. What one of them does is between
/// [`Crew::stand_by`] and [`Crew::working`], waits for a request to come, and
/// from there to the next `stand_by`, answers it.
pub(crate) struct Crew {
    rest: Mutex<Rest>,
    wake: Condvar,
    /// A worker waits for a request.
    reader: AtomicBool,
    /// Requests begun.
    begun: AtomicU64,
    asleep: AtomicBool,
    foreman: Mutex<()>,
    wake_foreman: Condvar,
}

impl Crew {
    pub(crate) fn new() -> Crew {
        Crew {
            rest: Mutex::default(),
            wake: Condvar::new(),
            reader: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            asleep: AtomicBool::new(false),
            foreman: Mutex::default(),
            wake_foreman: Condvar::new(),
        }
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rests until called. False when it is over.
    fn rest_until_called(&self) -> bool {
        let mut rest = self.rest();
        rest.resting += 1;
        while rest.called == 0 && !rest.over {
            rest = self.wake.wait(rest).unwrap_or_else(PoisonError::into_inner);
        }
        rest.resting -= 1;
        rest.called = rest.called.saturating_sub(1);
        !rest.over
    }

    /// Returns true when the caller is the one to wait for a request, and
    /// until then lets it rest; false when it is over.
    pub(crate) fn stand_by(&self) -> bool {
        while self.reader.swap(true, Ordering::SeqCst) {
            if !self.rest_until_called() {
                return false;
            }
        }
        true
    }

    /// It has a request.
    pub(crate) fn working(&self) {
        self.reader.store(false, Ordering::SeqCst);
        self.begun.fetch_add(1, Ordering::SeqCst);
        if self.asleep.swap(false, Ordering::SeqCst) {
            let _turn = self.foreman.lock().unwrap_or_else(PoisonError::into_inner);
            self.wake_foreman.notify_one();
        }
    }

    fn call_one(&self) {
        let mut rest = self.rest();
        if rest.resting > rest.called {
            rest.called += 1;
            self.wake.notify_one();
        }
    }

    /// All go home.
    pub(crate) fn end(&self) {
        self.rest().over = true;
        self.wake.notify_all();
        let _turn = self.foreman.lock().unwrap_or_else(PoisonError::into_inner);
        self.wake_foreman.notify_one();
    }

    /// The foreman's work, until [`Crew::end`].
    pub(crate) fn oversee(&self) {
        let (mut before, mut busy, mut idle) = (0, 0, 0);
        while !self.rest().over {
            let begun = self.begun.load(Ordering::SeqCst);
            let nobody_waits = !self.reader.load(Ordering::SeqCst);
            busy = if nobody_waits { busy + 1 } else { 0 };
            idle = if nobody_waits || begun != before { 0 } else { idle + 1 };
            if nobody_waits && (begun == before || busy >= SATURATED_TICKS) {
                self.call_one();
                busy = 0;
            }
            before = begun;
            let turn = self.foreman.lock().unwrap_or_else(PoisonError::into_inner);
            if idle < IDLE_TICKS {
                drop(self.wake_foreman.wait_timeout(turn, TICK));
                continue;
            }
            idle = 0;
            self.asleep.store(true, Ordering::SeqCst);
            // A request that came before the store saw nobody to wake.
            if self.begun.load(Ordering::SeqCst) == before && !self.rest().over {
                drop(self.wake_foreman.wait(turn));
            }
            self.asleep.store(false, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;
    use std::thread;

    /// A crew of three whose requests are how long each takes.
    fn with_crew(test: impl FnOnce(&Crew, mpsc::Sender<Duration>, &AtomicUsize)) {
        let crew = Crew::new();
        let answered = AtomicUsize::new(0);
        let (send, receive) = mpsc::channel::<Duration>();
        let receive = Mutex::new(receive);
        thread::scope(|scope| {
            for _ in 0..3 {
                let (crew, receive, answered) = (&crew, &receive, &answered);
                scope.spawn(move || {
                    while crew.stand_by() {
                        let request = receive.lock().unwrap().recv();
                        crew.working();
                        let Ok(request) = request else { return crew.end() };
                        thread::sleep(request);
                        answered.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            scope.spawn(|| crew.oversee());
            test(&crew, send, &answered);
        });
    }

    fn until(what: &str, holds: impl Fn() -> bool) {
        for _ in 0..5000 {
            if holds() {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
        panic!("not within 5 s: {what}");
    }

    #[test]
    fn one_serves_short_requests_and_others_rest() {
        with_crew(|crew, send, answered| {
            until("two rest", || crew.rest().resting == 2);
            for _ in 0..100 {
                send.send(Duration::ZERO).unwrap();
                thread::sleep(Duration::from_micros(200));
            }
            until("all answered", || answered.load(Ordering::SeqCst) == 100);
            until("two rest again", || crew.rest().resting == 2);
        });
    }

    #[test]
    fn one_called_for_nothing_rests_again() {
        with_crew(|crew, send, answered| {
            until("two rest", || crew.rest().resting == 2);
            for _ in 0..20 {
                crew.call_one();
                until("the call is heard", || crew.rest().called == 0);
                until("two rest again", || crew.rest().resting == 2);
            }
            send.send(Duration::ZERO).unwrap();
            until("answered", || answered.load(Ordering::SeqCst) == 1);
        });
    }

    #[test]
    fn a_blocked_request_does_not_hold_others_up() {
        with_crew(|crew, send, answered| {
            until("two rest", || crew.rest().resting == 2);
            // Long enough for the foreman to have gone to sleep.
            thread::sleep(TICK * (IDLE_TICKS + 20));
            send.send(Duration::from_secs(2)).unwrap();
            thread::sleep(Duration::from_millis(5));
            for _ in 0..10 {
                send.send(Duration::ZERO).unwrap();
            }
            until("the short ones answered", || answered.load(Ordering::SeqCst) == 10);
            until("the long one too", || answered.load(Ordering::SeqCst) == 11);
            until("two rest again", || crew.rest().resting == 2);
        });
    }
}
