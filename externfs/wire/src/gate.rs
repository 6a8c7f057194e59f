//! [`LogGate`]: how many lines a guest may cause in the operator's log.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines in one [`WINDOW`]: a failing disk is well described by them, and a
/// guest that fails on purpose cannot fill the host's.
const LINES: u32 = 50;
const WINDOW: Duration = Duration::from_secs(10);

struct State {
    start: Instant,
    lines: u32,
    dropped: u64,
}

/// An allowance of lines, for one session, or for all that come through one
/// door: whoever can begin anew as often as he likes has no use for another.
pub struct LogGate {
    state: Mutex<State>,
}

/// What to do with a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// Log it, and first that so many before it were left out.
    Log { dropped: u64 },
    /// Leave it out.
    Drop,
}

impl LogGate {
    /// Nothing used of it yet.
    #[must_use]
    pub fn new() -> LogGate {
        LogGate { state: Mutex::new(State { start: Instant::now(), lines: 0, dropped: 0 }) }
    }

    /// Has `log` write a line, unless there were too many of late. The next
    /// one that is written says how many were not.
    pub fn pass(&self, log: impl FnOnce()) {
        let Verdict::Log { dropped } = self.ask(Instant::now()) else { return };
        if dropped > 0 {
            tracing::warn!("{dropped} lines before this one were not logged, so many were there");
        }
        log();
    }

    fn ask(&self, now: Instant) -> Verdict {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(state.start) >= WINDOW {
            state.start = now;
            state.lines = 0;
        }
        if state.lines >= LINES {
            state.dropped += 1;
            return Verdict::Drop;
        }
        state.lines += 1;
        Verdict::Log { dropped: std::mem::take(&mut state.dropped) }
    }
}

impl Default for LogGate {
    fn default() -> LogGate {
        LogGate::new()
    }
}

impl fmt::Debug for LogGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogGate").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let gate = LogGate::new();
        let start = Instant::now();
        for _ in 0..LINES {
            assert_eq!(gate.ask(start), Verdict::Log { dropped: 0 });
        }
        for _ in 0..7 {
            assert_eq!(gate.ask(start), Verdict::Drop);
        }
        assert_eq!(gate.ask(start + 2 * WINDOW), Verdict::Log { dropped: 7 });
        assert_eq!(gate.ask(start + 2 * WINDOW), Verdict::Log { dropped: 0 });
    }
}
