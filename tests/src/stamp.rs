//! [`Stamp`]: what the model knows of a time: set to a value, or moved during
//! a certain operation. [`Clock`] knows when each operation ran.
//!
//! Kernels stamp with a coarse clock, or a fine one where somebody looked just
//! before (multigrain timestamps), so an operation's stamp lies between the
//! coarse time at its start and the fine time at its end.

use externfs::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// Index of an operation.
pub type Tick = usize;

#[derive(Clone, Copy, Debug)]
enum Base {
    Exact(Timestamp),
    During(Tick),
}

/// One time of one node.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    base: Base,
    /// The first operation since then that was free to move it.
    maybe: Option<Tick>,
}

impl Stamp {
    /// Set by utimensat(2), or found at the start.
    #[must_use]
    pub fn exact(time: Timestamp) -> Stamp {
        Stamp { base: Base::Exact(time), maybe: None }
    }

    /// Moved by this operation.
    #[must_use]
    pub fn at(tick: Tick) -> Stamp {
        Stamp { base: Base::During(tick), maybe: None }
    }

    /// This operation may have moved it.
    pub fn maybe(&mut self, tick: Tick) {
        self.maybe.get_or_insert(tick);
    }
}

/// When each operation ran.
#[derive(Clone, Default)]
pub struct Clock {
    spans: Vec<(Timestamp, Timestamp)>,
}

fn read(clock: ClockId) -> Timestamp {
    let now = clock_gettime(clock);
    Timestamp { seconds: now.tv_sec, nanoseconds: now.tv_nsec as u32 }
}

impl Clock {
    /// Nothing has run.
    #[must_use]
    pub fn new() -> Clock {
        let mut clock = Clock::default();
        clock.start();
        clock.end();
        clock
    }

    /// An operation starts.
    pub fn start(&mut self) {
        let now = read(ClockId::RealtimeCoarse);
        self.spans.push((now, now));
    }

    /// It has ended.
    pub fn end(&mut self) {
        if let Some(last) = self.spans.last_mut() {
            last.1 = read(ClockId::Realtime);
        }
    }

    /// The operation that ran last.
    #[must_use]
    pub fn tick(&self) -> Tick {
        self.spans.len().saturating_sub(1)
    }

    /// Whether `seen` agrees with `stamp`.
    ///
    /// # Errors
    /// How it does not.
    pub fn check(&self, stamp: &Stamp, seen: Timestamp) -> Result<(), String> {
        // It may have moved in any of them, the last of which was just now.
        let moved = stamp.maybe.is_some_and(|tick| seen >= self.spans[tick].0 && seen <= read(ClockId::Realtime));
        let (text, fits) = match stamp.base {
            Base::Exact(time) => (format!("{time:?}"), seen == time),
            Base::During(tick) => {
                let (from, to) = self.spans[tick];
                (format!("within {from:?} and {to:?}"), seen >= from && seen <= to)
            }
        };
        if fits || moved { Ok(()) } else { Err(format!("is {seen:?}, should be {text}")) }
    }
}
