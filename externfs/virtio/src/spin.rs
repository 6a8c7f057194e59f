//! [`Spin`]: how long to watch a queue actively after its last request.
//!
//! Waking a sleeping thread costs the guest a system call and both sides a
//! scheduler's round, tens of microseconds, more than most requests take. So
//! after the last request the queue's thread goes on looking for a moment.
//! That is a gain where a processor is free, and a loss where the guest waits
//! for the very processor that we watch on; no single period tells which. So
//! both ways are tried now and then for a few rounds each, and the one that
//! takes less time for a request is kept until the next trial. For a request,
//! not for a round: who sleeps finds several at once, and interrupts the guest
//! once for them all, which makes sleeping better for sequential reads.
//!
//! While watching is the better way, how long adapts too: it grows when a
//! request comes soon after a sleep began and shrinks when none did. Whatever
//! the guest does, time wasted is limited to a share of the whole.

use std::time::Duration;

/// Never watched shorter than this, or not at all: below it, only luck hits.
const SHORTEST: Duration = Duration::from_micros(5);
/// Period over which time wasted is accounted.
const PERIOD: Duration = Duration::from_millis(100);
/// Share of a period that may be wasted, as a divisor.
const WASTE_DIVISOR: u32 = 5;
/// A round from one idle moment to the next that takes longer counts as this
/// long: the rest is the guest's own business.
const BUSY_ROUND: Duration = Duration::from_millis(1);
/// Rounds at the start of each half of a trial that are not counted: the
/// window has to find its size first.
const TRIAL_SKIP: u32 = 4;
/// Rounds of each half of a trial that count.
const TRIAL_ROUNDS: u32 = 32;
/// Rounds between trials: doubled each time that a trial changes nothing.
const KEEP_ROUNDS: (u32, u32) = (256, 4096);

/// What a round is done for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Measuring how fast requests come in when we sleep.
    TrySleeping,
    /// The same when we watch.
    TryWatching,
    /// Using what was better.
    Keep,
}

/// What one half of a trial came to.
#[derive(Clone, Copy, Default)]
struct Sum {
    time: Duration,
    requests: u64,
}

impl Sum {
    fn add(&mut self, round: Duration, requests: u64) {
        self.time += round;
        self.requests += requests;
    }

    /// Whether a request takes less than `percent` of the time that `other` takes.
    fn beats(&self, other: &Sum, percent: u128) -> bool {
        let ours = self.time.as_nanos() * u128::from(other.requests) * 100;
        let theirs = other.time.as_nanos() * u128::from(self.requests) * percent;
        ours < theirs
    }
}

/// The tuner of one queue. Time is given to it as what has passed since some
/// fixed moment, so that tests need no clock.
pub(crate) struct Spin {
    limit: Duration,
    window: Duration,
    period_start: Duration,
    wasted: Duration,
    stage: Stage,
    /// Rounds that this stage has seen.
    rounds: u32,
    /// Rounds that the next `Keep` lasts.
    keep: u32,
    /// Watching was better in the last trial.
    watches: bool,
    last_idle: Option<Duration>,
    /// The counted rounds when sleeping, and when watching.
    sleeping: Sum,
    watching: Sum,
}

impl Spin {
    /// Watches at most `limit` at a time; zero for never.
    pub(crate) fn new(limit: Duration) -> Spin {
        Spin {
            limit,
            window: Duration::ZERO,
            period_start: Duration::ZERO,
            wasted: Duration::ZERO,
            stage: Stage::TrySleeping,
            rounds: 0,
            keep: KEEP_ROUNDS.0,
            watches: false,
            last_idle: None,
            sleeping: Sum::default(),
            watching: Sum::default(),
        }
    }

    /// The queue is empty at `now`, after `requests` since it was the last
    /// time: how long to watch it.
    pub(crate) fn window(&mut self, now: Duration, requests: u64) -> Duration {
        if self.limit.is_zero() {
            return Duration::ZERO;
        }
        let round = self.last_idle.replace(now).map(|last| now.saturating_sub(last));
        if let Some(round) = round {
            self.count(round.min(BUSY_ROUND), requests);
        }
        if now.saturating_sub(self.period_start) >= PERIOD {
            self.period_start = now;
            self.wasted = Duration::ZERO;
        }
        let may_waste = (PERIOD / WASTE_DIVISOR).saturating_sub(self.wasted) >= self.window;
        if self.is_watching() && may_waste { self.window } else { Duration::ZERO }
    }

    fn is_watching(&self) -> bool {
        match self.stage {
            Stage::TrySleeping => false,
            Stage::TryWatching => true,
            Stage::Keep => self.watches,
        }
    }

    /// Takes a round into account, and goes on to the next stage.
    fn count(&mut self, round: Duration, requests: u64) {
        self.rounds += 1;
        let counts = self.rounds > TRIAL_SKIP;
        let is_over = self.rounds >= TRIAL_SKIP + TRIAL_ROUNDS;
        match self.stage {
            Stage::TrySleeping => {
                if counts {
                    self.sleeping.add(round, requests);
                }
                if is_over {
                    self.enter(Stage::TryWatching);
                }
            }
            Stage::TryWatching => {
                if counts {
                    self.watching.add(round, requests);
                }
                // No need to see a clear loss to its end.
                let is_lost = self.watching.time > self.sleeping.time && !self.watching.beats(&self.sleeping, 100);
                if is_over || is_lost {
                    self.decide();
                }
            }
            Stage::Keep if self.rounds >= self.keep => {
                self.sleeping = Sum::default();
                self.watching = Sum::default();
                self.enter(Stage::TrySleeping);
            }
            Stage::Keep => {}
        }
    }

    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        self.rounds = 0;
    }

    /// Watching has to be better by a twentieth: it burns a processor.
    fn decide(&mut self) {
        let watches = self.watching.beats(&self.sleeping, 95);
        self.keep = if watches == self.watches { (self.keep * 2).min(KEEP_ROUNDS.1) } else { KEEP_ROUNDS.0 };
        self.watches = watches;
        self.enter(Stage::Keep);
    }

    /// A request arrived `gap` after the last one was done, while watching.
    /// The window follows what is needed, with room for twice as much.
    pub(crate) fn hit(&mut self, gap: Duration) {
        self.window = (gap * 2).clamp(self.window.min(self.limit), self.limit);
    }

    /// Watched `watched` in vain, and slept: the request came `gap` after the
    /// last one was done.
    pub(crate) fn slept(&mut self, watched: Duration, gap: Duration) {
        self.wasted += watched;
        if !self.is_watching() {
            return;
        }
        if gap <= self.limit {
            self.window = (gap * 2).max(self.window).max(SHORTEST).min(self.limit);
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

    /// What a second with a guest came to.
    #[derive(Debug, Default)]
    struct Second {
        rounds: u64,
        hits: u64,
        wasted: Duration,
    }

    /// A second with a guest: it says how long its next request takes to
    /// arrive when it was watched for a time that was not enough, or not
    /// watched; and when it is watched until then.
    fn second(spin: &mut Spin, mut gap: impl FnMut(u64, Duration) -> (Duration, Duration)) -> Second {
        let mut now = spin.last_idle.unwrap_or_default();
        let end = now + us(1_000_000);
        let mut seen = Second::default();
        while now < end {
            now += us(5);
            let window = spin.window(now, 1);
            let (watched_gap, slept_gap) = gap(seen.rounds, window);
            if watched_gap <= window {
                spin.hit(watched_gap);
                seen.hits += 1;
                now += watched_gap;
            } else {
                spin.slept(window, slept_gap);
                seen.wasted += window;
                now += slept_gap;
            }
            seen.rounds += 1;
        }
        seen
    }

    #[test]
    fn a_busy_guest_with_a_processor_of_its_own_is_watched() {
        let seen = second(&mut Spin::new(LIMIT), |_, _| (us(20), us(60)));
        assert!(seen.hits * 10 > seen.rounds * 9, "{seen:?}");
        // Sleeping gives 15,400 rounds, watching 40,000.
        assert!(seen.rounds > 36_000, "{seen:?}");
    }

    #[test]
    fn a_guest_that_waits_for_our_processor_is_not() {
        // It runs when we sleep.
        let seen = second(&mut Spin::new(LIMIT), |_, window| (us(1_000_000), window + us(30)));
        assert!(seen.wasted < us(30_000), "{seen:?}");
        // Sleeping at once gives 28,600 rounds.
        assert!(seen.rounds > 27_500, "{seen:?}");
    }

    #[test]
    fn a_guest_that_changes_is_followed() {
        let mut spin = Spin::new(LIMIT);
        for _ in 0..2 {
            let contended = second(&mut spin, |_, window| (us(1_000_000), window + us(30)));
            assert!(contended.wasted < us(60_000), "{contended:?}");
            let free = second(&mut spin, |_, _| (us(20), us(60)));
            assert!(free.hits * 2 > free.rounds, "{free:?}");
        }
    }

    #[test]
    fn an_idle_guest_is_given_up() {
        let mut spin = Spin::new(LIMIT);
        second(&mut spin, |_, _| (us(20), us(60)));
        let idle = second(&mut spin, |_, _| (us(20_000), us(20_000)));
        assert!(idle.wasted < us(400), "{idle:?}");
    }

    #[test]
    fn waste_is_bounded_whatever_the_guest_does() {
        // The worst that a guest can do: be fast while it is tried, then come
        // just when we have given up.
        let mut spin = Spin::new(LIMIT);
        second(&mut spin, |_, _| (us(20), us(60)));
        let seen = second(&mut spin, |round, window| if round % 2 == 0 { (us(1), us(1)) } else { (window + us(1), window + us(1)) });
        assert!(seen.wasted <= us(220_000), "{seen:?}");
        assert!(seen.wasted > us(10_000), "the guest was not nasty enough: {seen:?}");
    }

    #[test]
    fn switched_off_it_never_watches() {
        let seen = second(&mut Spin::new(us(0)), |_, _| (us(0), us(10)));
        assert_eq!(seen.wasted, us(0));
        let mut spin = Spin::new(us(0));
        spin.hit(us(3));
        assert_eq!(spin.window(us(3), 1), us(0));
    }

    #[test]
    fn requests_that_come_in_batches_are_left_to_gather() {
        // 30 microseconds each when watched, four in 100 when not.
        let mut spin = Spin::new(LIMIT);
        let (mut now, mut hits, mut requests) = (us(0), 0, 1);
        for _ in 0..20_000 {
            let is_hit = spin.window(now, requests) >= us(30);
            if is_hit {
                spin.hit(us(30));
            } else {
                spin.slept(us(0), us(100));
            }
            hits += u64::from(is_hit);
            requests = if is_hit { 1 } else { 4 };
            now += if is_hit { us(30) } else { us(100) };
        }
        assert!((1..1500).contains(&hits), "{hits}");
    }

    #[test]
    fn it_yields_to_others() {
        let mut spin = Spin::new(LIMIT);
        spin.stage = Stage::TryWatching;
        spin.slept(us(0), us(20));
        assert_eq!(spin.window(us(30), 1), us(40));
        spin.preempted(us(40));
        assert_eq!(spin.window(us(60), 1), us(0));
    }
}
