//! [`Vigil`]: waiting for a guest to end, passing on what must be passed on.

use super::frames::Frame;
use super::guest::CONSOLE_MARK;
use super::orders::Report;
use super::terminal::{self, Saved};
use crate::process;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// What the vigil listens to.
pub(crate) const SIGNALS: [Signal; 6] =
    [Signal::SIGCHLD, Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGWINCH];

/// How long a command has to end after a signal, and a guest to switch itself
/// off after its command.
const GRACE: Duration = Duration::from_secs(5);
/// How much of the guest's console is kept.
const LOG_MAX: usize = 64 * 1024;
/// How many of its lines are shown when it ends without a word.
const LOG_SHOWN: usize = 12;

/// How it ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The command, with this code.
    Ended(i32),
    /// The guest's init, for this reason.
    Failed(String),
    /// By a signal to us.
    Interrupted(Signal),
    /// A server died.
    ServerLost(String),
    /// The guest, without a report: the end of its console.
    Silent(Vec<String>),
}

/// Everything to be watched.
pub(crate) struct Vigil<'a> {
    pub(crate) guest: Pid,
    pub(crate) servers: &'a [(Pid, String)],
    pub(crate) signals: SignalFd,
    pub(crate) log: PipeReader,
    pub(crate) reports: PipeReader,
    pub(crate) commands: PipeWriter,
    pub(crate) terminal: Option<&'a Saved>,
    pub(crate) verbose: bool,
}

/// What is known so far.
#[derive(Default)]
struct State {
    console: Vec<u8>,
    reported: Vec<u8>,
    started: bool,
    outcome: Option<Outcome>,
    guest_ended: bool,
    interrupted: Option<Signal>,
    deadline: Option<Instant>,
}

impl Vigil<'_> {
    /// Waits to the end and leaves no process of the guest behind.
    pub(crate) fn keep(mut self) -> Outcome {
        let mut state = State::default();
        while !state.guest_ended {
            self.wait(&mut state);
            if state.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                break;
            }
        }
        // Its helpers outlive it when it is killed; they are in its group.
        let _ = killpg(self.guest, Signal::SIGKILL);
        let group = Pid::from_raw(-self.guest.as_raw());
        while waitpid(group, None).is_ok() {}
        self.drain(&mut state);
        if let Some(terminal) = self.terminal.filter(|_| state.started) {
            terminal.restore();
        }
        match (state.outcome, state.interrupted) {
            (Some(outcome), _) => outcome,
            (None, Some(signal)) => Outcome::Interrupted(signal),
            (None, None) => last_words(&state.console),
        }
    }

    fn wait(&mut self, state: &mut State) {
        let timeout = match state.deadline {
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        };
        let mut fds = [self.signals.as_fd(), self.log.as_fd(), self.reports.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let _ = poll(&mut fds, timeout);
        let [signals, log, reports] = fds.map(|fd| fd.any() == Some(true));
        if log {
            self.read_console(state);
        }
        if reports {
            self.read_reports(state);
        }
        if signals {
            while let Some(signal) = process::next_signal(&self.signals) {
                self.handle(signal, state);
            }
        }
    }

    /// What was written before the end is read after it.
    fn drain(&mut self, state: &mut State) {
        loop {
            let mut fds = [self.log.as_fd(), self.reports.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            let _ = poll(&mut fds, PollTimeout::ZERO);
            let [log, reports] = fds.map(|fd| fd.revents().is_some_and(|events| events.contains(PollFlags::POLLIN)));
            if log {
                self.read_console(state);
            }
            if reports {
                self.read_reports(state);
            }
            if !log && !reports {
                return;
            }
        }
    }

    fn read_console(&mut self, state: &mut State) {
        let mut buffer = [0; 4096];
        let length = self.log.read(&mut buffer).unwrap_or(0);
        if length == 0 {
            // All writers are gone: so is the guest, and SIGCHLD says it, or
            // its helpers hold on. A closed pipe must not be polled again.
            state.guest_ended = true;
        }
        let bytes = buffer.get(..length).unwrap_or_default();
        state.console.extend_from_slice(bytes);
        if let Some(excess) = state.console.len().checked_sub(LOG_MAX) {
            state.console.drain(..excess);
        }
        if self.verbose {
            let _ = std::io::stderr().write_all(bytes);
        }
    }

    fn read_reports(&mut self, state: &mut State) {
        let mut buffer = [0; 4096];
        let length = self.reports.read(&mut buffer).unwrap_or(0);
        state.reported.extend_from_slice(buffer.get(..length).unwrap_or_default());
        if length == 0 || state.reported.len() > LOG_MAX {
            // Only the control server holds the other end.
            state.outcome.get_or_insert(Outcome::ServerLost("the guest's streams".into()));
            state.deadline.get_or_insert_with(Instant::now);
        }
        while let Some(end) = state.reported.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = state.reported.drain(..=end).collect();
            match Report::decode(String::from_utf8_lossy(&line).trim_end_matches('\n')) {
                Some(Report::Started) => {
                    state.started = true;
                    if let Some(terminal) = self.terminal {
                        terminal.make_raw();
                    }
                }
                Some(Report::Warning(reason)) => {
                    let end = if state.started && self.terminal.is_some() { "\r\n" } else { "\n" };
                    eprint!("externfs: {reason}{end}");
                }
                Some(Report::Ended(code)) => {
                    state.outcome.get_or_insert(Outcome::Ended(i32::from(code)));
                    self.send(&Frame::Farewell);
                    state.deadline = Some(Instant::now() + GRACE);
                }
                Some(Report::Failed(reason)) => {
                    state.outcome.get_or_insert(Outcome::Failed(reason));
                    state.deadline = Some(Instant::now() + GRACE);
                }
                None => {}
            }
        }
    }

    fn handle(&mut self, signal: Signal, state: &mut State) {
        match signal {
            Signal::SIGCHLD => self.reap(state),
            Signal::SIGWINCH => {
                if let Some(terminal) = terminal::open() {
                    let (rows, columns) = terminal::window(&terminal);
                    self.send(&Frame::Window(rows, columns));
                }
            }
            _ if state.started && state.interrupted.is_none() => {
                state.interrupted = Some(signal);
                state.deadline = Some(Instant::now() + GRACE);
                self.send(&Frame::Signal(signal as u8));
            }
            _ => {
                state.interrupted.get_or_insert(signal);
                state.deadline = Some(Instant::now());
            }
        }
    }

    fn send(&mut self, frame: &Frame) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        let _ = self.commands.write_all(&bytes);
    }

    fn reap(&self, state: &mut State) {
        // One by one: a helper of the guest's that became ours is not news.
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(status) => {
                    let Some(pid) = status.pid().filter(|_| process::exit_code(status).is_some()) else { continue };
                    if pid == self.guest {
                        state.guest_ended = true;
                    } else if let Some((_, name)) = self.servers.iter().find(|(server, _)| *server == pid) {
                        state.outcome.get_or_insert_with(|| Outcome::ServerLost(name.clone()));
                        state.deadline.get_or_insert_with(Instant::now);
                    }
                }
            }
        }
    }
}

/// What the guest's init or kernel said last.
fn last_words(console: &[u8]) -> Outcome {
    let text = String::from_utf8_lossy(console);
    let clean = |line: &str| line.chars().filter(|c| !c.is_control()).collect::<String>();
    let lines: Vec<String> = text.lines().map(clean).filter(|line| !line.is_empty()).collect();
    let after = |mark: &str| lines.iter().find_map(|line| line.split_once(mark).map(|(_, reason)| reason.to_owned()));
    match (after(CONSOLE_MARK), after("Kernel panic - not syncing: ")) {
        (Some(reason), _) => Outcome::Failed(reason),
        (None, Some(reason)) => Outcome::Failed(format!("its kernel panicked: {reason}; -v shows more, --mem gives it more memory")),
        (None, None) => Outcome::Silent(lines.into_iter().rev().take(LOG_SHOWN).rev().collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_found_on_the_console() {
        let console = b"Checking...\r\nexternfs-init: cannot mount share x\r\nreboot: System halted\r\n";
        assert!(matches!(last_words(console), Outcome::Failed(reason) if reason == "cannot mount share x"));
        let console = b"<0>Kernel panic - not syncing: Out of memory\n<4> [<6000c891>] ? cgroup\n";
        assert!(matches!(last_words(console), Outcome::Failed(reason) if reason.contains("Out of memory")));
        let Outcome::Silent(lines) = last_words(b"a\n\n\x1b[2Jpanic\n") else { panic!("no mark") };
        assert_eq!(lines, ["a", "[2Jpanic"]);
    }
}
