//! [`LogGate`]: how many lines a guest may cause in the operator's log.

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

/// One session's allowance.
pub(crate) struct LogGate {
    state: Mutex<State>,
}

/// What to do with a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Log it, and first that so many before it were left out.
    Log { dropped: u64 },
    /// Leave it out.
    Drop,
}

impl LogGate {
    pub(crate) fn new() -> LogGate {
        LogGate { state: Mutex::new(State { start: Instant::now(), lines: 0, dropped: 0 }) }
    }

    pub(crate) fn ask(&self, now: Instant) -> Verdict {
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
