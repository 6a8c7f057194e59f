//! [`Spin`]: how long to watch a queue actively after its last request.
//!
//! Waking a sleeping thread costs the guest a system call and both sides a
//! scheduler's round, tens of microseconds, more than most requests take. So
//! after the last request the queue's thread goes on looking for a moment. How
//! long pays depends on the guest, so the moment tunes itself: it grows when a
//! request comes soon after a sleep began, shrinks when one did not come, and
//! time spent in vain is limited to a share of the whole.

use std::time::Duration;

/// Never watched shorter than this, or not at all: below it, only luck hits.
const SHORTEST: Duration = Duration::from_micros(5);
/// Period over which time wasted is accounted.
const PERIOD: Duration = Duration::from_millis(100);
/// Share of a period that may be wasted, as a divisor.
const WASTE_DIVISOR: u32 = 5;

/// The tuner of one queue. Time is given to it as what has passed since some
/// fixed moment, so that tests need no clock.
pub(crate) struct Spin {
    limit: Duration,
    window: Duration,
    period_start: Duration,
    wasted: Duration,
}

impl Spin {
    /// Watches at most `limit` at a time; zero for never.
    pub(crate) fn new(limit: Duration) -> Spin {
        Spin { limit, window: Duration::ZERO, period_start: Duration::ZERO, wasted: Duration::ZERO }
    }

    /// How long to watch now.
    pub(crate) fn window(&mut self, now: Duration) -> Duration {
        if now.saturating_sub(self.period_start) >= PERIOD {
            self.period_start = now;
            self.wasted = Duration::ZERO;
        }
        let left = (PERIOD / WASTE_DIVISOR).saturating_sub(self.wasted);
        if left < self.window { Duration::ZERO } else { self.window }
    }

    /// A request arrived `gap` after the last one was done, while watching.
    /// The window follows what is needed, with room for twice as much.
    pub(crate) fn hit(&mut self, gap: Duration) {
        let needed = (gap * 2).clamp(SHORTEST, self.limit.max(SHORTEST));
        if needed > self.window {
            self.window = needed.min(self.limit);
        }
    }

    /// Watched `watched` in vain, and slept: the request came `gap` after the
    /// last one was done.
    pub(crate) fn slept(&mut self, watched: Duration, gap: Duration) {
        self.wasted += watched;
        if gap <= self.limit {
            self.window = (gap * 2).max(self.window).clamp(SHORTEST.min(self.limit), self.limit);
        } else {
            self.shrink();
        }
    }

    /// The scheduler took the processor away while watching: others need it.
    pub(crate) fn preempted(&mut self, watched: Duration) {
        self.wasted += watched;
        self.window = Duration::ZERO;
    }

    fn shrink(&mut self) {
        self.window /= 2;
        if self.window < SHORTEST {
            self.window = Duration::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(100);

    fn us(count: u64) -> Duration {
        Duration::from_micros(count)
    }

    #[test]
    fn it_begins_asleep_and_wakes_for_a_busy_guest() {
        let mut spin = Spin::new(LIMIT);
        assert_eq!(spin.window(us(0)), us(0));
        spin.slept(us(0), us(30));
        assert_eq!(spin.window(us(30)), us(60));
        spin.hit(us(55));
        assert_eq!(spin.window(us(90)), LIMIT);
    }

    #[test]
    fn it_gives_up_on_an_idle_guest() {
        let mut spin = Spin::new(LIMIT);
        spin.slept(us(0), us(80));
        let mut wasted = us(0);
        let mut now = us(0);
        for _ in 0..100 {
            now += us(1000);
            let window = spin.window(now);
            wasted += window;
            spin.slept(window, us(1000));
        }
        assert_eq!(spin.window(now), us(0));
        assert!(wasted < us(400), "{wasted:?}");
    }

    #[test]
    fn waste_is_bounded_whatever_the_guest_does() {
        let mut spin = Spin::new(LIMIT);
        let (mut now, mut wasted) = (us(0), us(0));
        while now < us(1_000_000) {
            // The worst that a guest can do: soon once, so that the window
            // grows, then just too late.
            spin.slept(us(0), us(99));
            let window = spin.window(now);
            spin.slept(window, us(101));
            wasted += window;
            now += us(101);
        }
        assert!(wasted <= us(220_000), "{wasted:?}");
        assert!(wasted >= us(150_000), "the bound was never reached: {wasted:?}");
    }

    #[test]
    fn switched_off_it_never_watches() {
        let mut spin = Spin::new(us(0));
        for gap in [0, 1, 10] {
            spin.slept(us(0), us(gap));
            spin.hit(us(gap));
            assert_eq!(spin.window(us(gap)), us(0));
        }
    }

    #[test]
    fn it_yields_to_others() {
        let mut spin = Spin::new(LIMIT);
        spin.slept(us(0), us(20));
        spin.preempted(us(40));
        assert_eq!(spin.window(us(60)), us(0));
    }
}
