//! Processes, and what they ask of the C library: the crate's one place for
//! `unsafe`.
//!
//! A server is a forked child, not a thread: it can then give up rights that
//! its parent keeps. Forks happen only while the process has one thread, so
//! that no lock of another thread is left held in the child.
#![allow(unsafe_code)]

use crate::failure::{Failure, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::WaitStatus;
use nix::unistd::{ForkResult, Pid};
use std::io::{IoSlice, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Forks; the child runs `body` and exits with the code it returns, 101 if it
/// panics. Returns the child's id to the parent.
///
/// # Errors
/// The process has several threads, or fork(2) fails.
pub fn fork(body: impl FnOnce() -> i32) -> Result<Pid> {
    // A thread that has answered may take a moment to be gone.
    let mut patience = 100;
    while threads() != 1 {
        if patience == 0 {
            return Err(Failure::new(format!("cannot fork: {} threads are running", threads())));
        }
        patience -= 1;
        std::thread::sleep(Duration::from_millis(1));
    }
    // Else both processes would write what is buffered now.
    let _ = std::io::stdout().flush();
    // SAFETY: the process has this one thread, checked above, so the child's
    // memory holds no lock that nobody will release; it may do what it likes.
    match unsafe { nix::unistd::fork() } {
        Ok(ForkResult::Parent { child }) => Ok(child),
        Ok(ForkResult::Child) => {
            let code = catch_unwind(AssertUnwindSafe(body)).unwrap_or(101);
            let _ = std::io::stdout().flush();
            // SAFETY: ends the child without running the parent's exit
            // handlers or the destructors of the parent's guards above us.
            unsafe { libc::_exit(code) }
        }
        Err(errno) => Err(Failure::new(format!("cannot fork: {}", errno.desc()))),
    }
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

/// Lets the kernel kill this process when its parent dies; ends at once if the
/// parent, which was `parent`, is dead already.
pub fn die_with(parent: Pid) {
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    if nix::unistd::getppid() != parent {
        std::process::exit(1);
    }
}

/// Makes `command` the leader of a new session; with `terminal`, its standard
/// input, output or error is a terminal, which becomes the session's.
pub(crate) fn lead_session(command: &mut Command, terminal: Option<i32>) {
    // SAFETY: between fork and exec only two system calls are made; neither
    // allocates nor takes a lock. The descriptor number is the child's own
    // standard stream, set up by then.
    unsafe {
        command.pre_exec(move || {
            rustix::process::setsid()?;
            if let Some(number) = terminal {
                let stream = std::os::fd::BorrowedFd::borrow_raw(number);
                rustix::process::ioctl_tiocsctty(stream)?;
            }
            Ok(())
        });
    }
}

/// Has `command`, which leads a process group, write "group NUMBER" and a line
/// end to `pipe` before it becomes another program. Whoever reads the pipe hears
/// of it before its end, however this process ends meanwhile: until it has
/// written, the child holds the pipe open.
pub(crate) fn announce_group(command: &mut Command, pipe: OwnedFd) {
    // SAFETY: between fork and exec the closure makes two system calls
    // and formats a number on its stack; it neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(move || {
            let number = rustix::path::DecInt::new(rustix::process::getpgrp().as_raw_nonzero().get());
            // So few bytes are written whole, or not at all: nobody reads.
            rustix::io::writev(&pipe, &[IoSlice::new(b"group "), IoSlice::new(number.as_bytes()), IoSlice::new(b"\n")])?;
            Ok(())
        });
    }
}

/// Blocks the signals that a supervisor handles in its loop and returns where
/// they can be read from. Children inherit the blocking, programs started
/// through [`Command`] do not.
///
/// # Errors
/// signalfd(2) fails.
pub fn catch_signals(signals: &[Signal]) -> Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in signals {
        set.add(*signal);
    }
    set.thread_block().map_err(|errno| Failure::new(format!("cannot block signals: {}", errno.desc())))?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|errno| Failure::new(format!("cannot receive signals: {}", errno.desc())))
}

/// How long the same request to end, from the same process, is no second one.
const ECHO: Duration = Duration::from_secs(1);

/// The last request to end: its signal, who sent it, and when.
static LAST_REQUEST: Mutex<Option<(Signal, u32, Instant)>> = Mutex::new(None);

/// The next signal that has arrived, if any.
///
/// timeout(1) sends its signal to the process that it has started and then to the
/// whole group, so it arrives twice. A second request means force to all who
/// listen here; this one would be none, and is left out. What a terminal sends
/// comes from no process: two of these are two.
#[must_use]
pub fn next_signal(signals: &SignalFd) -> Option<Signal> {
    loop {
        let info = signals.read_signal().ok()??;
        let signal = Signal::try_from(info.ssi_signo as i32).ok()?;
        let mut last = LAST_REQUEST.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_echo(signal, info.ssi_pid, Instant::now(), &mut last) {
            return Some(signal);
        }
    }
}

/// Whether that is `last` once more; else it is the last from now on.
fn is_echo(signal: Signal, sender: u32, now: Instant, last: &mut Option<(Signal, u32, Instant)>) -> bool {
    if sender == 0 || !matches!(signal, Signal::SIGTERM | Signal::SIGINT | Signal::SIGHUP | Signal::SIGQUIT) {
        return false;
    }
    if last.is_some_and(|(earlier, from, at)| (earlier, from) == (signal, sender) && now.duration_since(at) < ECHO) {
        return true;
    }
    *last = Some((signal, sender, now));
    false
}

/// Does `act` and exits as soon as a signal says so that usually ends a process:
/// for what should not be left behind. To be called before there are threads.
///
/// # Errors
/// Signals cannot be received, or no thread be started.
pub fn when_told_to_end(act: impl Fn() + Send + 'static) -> Result<()> {
    let signals = catch_signals(&[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP])?;
    let wait = move || {
        let mut poll = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        loop {
            let _ = nix::poll::poll(&mut poll, PollTimeout::NONE);
            if let Some(signal) = next_signal(&signals) {
                act();
                std::process::exit(128 + signal as i32);
            }
        }
    };
    let thread = std::thread::Builder::new().name("signals".into()).spawn(wait);
    thread.map(drop).map_err(|error| Failure::io("cannot start a thread", &error))
}

/// Asks `child` to end (SIGTERM) and makes it if it does not within `patience`.
pub fn end_gently(child: Pid, patience: Duration) {
    use nix::sys::signal::kill;
    use nix::sys::wait::{WaitPidFlag, waitpid};
    if !patience.is_zero() {
        let _ = kill(child, Signal::SIGTERM);
    }
    let begun = Instant::now();
    while begun.elapsed() < patience {
        match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
            Ok(status) if exit_code(status).is_none() => std::thread::sleep(Duration::from_millis(2)),
            _ => return,
        }
    }
    let _ = kill(child, Signal::SIGKILL);
    let _ = waitpid(child, None);
}

/// The exit code by which a shell would tell of `status`; None if the process
/// has not ended.
#[must_use]
pub fn exit_code(status: WaitStatus) -> Option<i32> {
    match status {
        WaitStatus::Exited(_, code) => Some(code),
        WaitStatus::Signaled(_, signal, _) => Some(128 + signal as i32),
        _ => None,
    }
}

/// How long freed memory waits to be given back: what a kernel forgets comes in
/// many messages.
#[cfg(target_env = "gnu")]
const TRIM_DELAY: Duration = Duration::from_secs(1);

/// Keeps the memory of this process, which is to become a server, near what it
/// needs. Called before it has other threads, and inside its sandbox.
///
/// glibc gives each thread an arena of its own, and what one thread frees no
/// other gets: each walk of a large tree took more. With one arena memory stays
/// level. It keeps what is free in its midst unless told to give it back, which
/// a thread does that sleeps until much has been forgotten.
pub fn keep_memory_small() {
    #[cfg(target_env = "gnu")]
    {
        let (wake, woken) = std::sync::mpsc::sync_channel(1);
        if WAKE_TRIMMER.set(wake).is_err() {
            return;
        }
        // SAFETY: sets a number in the allocator, under its own lock.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
        let trim = move || {
            while woken.recv().is_ok() {
                std::thread::sleep(TRIM_DELAY);
                let _ = woken.try_recv();
                // SAFETY: gives free pages back, under the allocator's lock.
                unsafe { libc::malloc_trim(0) };
            }
        };
        match std::thread::Builder::new().name("memory".into()).spawn(trim) {
            Ok(_) => externfs::when_much_is_forgotten(|| {
                // Full: it is awake already.
                WAKE_TRIMMER.get().map(|wake| wake.try_send(()));
            }),
            Err(error) => tracing::warn!("memory that is freed will be kept: cannot start a thread: {error}"),
        }
    }
}

#[cfg(target_env = "gnu")]
static WAKE_TRIMMER: std::sync::OnceLock<std::sync::mpsc::SyncSender<()>> = std::sync::OnceLock::new();

/// Raises the soft limit of open files to the hard one: each file that a
/// guest has open is one here.
pub fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(errno) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!("cannot raise the limit of open files from {soft} to {hard}: {}", errno.desc());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_that_comes_twice_is_one() {
        let (term, begun) = (Signal::SIGTERM, Instant::now());
        let mut last = None;
        let mut echo = |signal, sender, after| is_echo(signal, sender, begun + Duration::from_millis(after), &mut last);
        assert!(!echo(term, 7, 0) && echo(term, 7, 5) && echo(term, 7, 999));
        // Later, from another, or another signal: somebody means it.
        assert!(!echo(term, 7, 1000) && !echo(term, 8, 1001) && !echo(Signal::SIGINT, 8, 1002));
        // Twice at a terminal; and what asks for nothing.
        assert!(!echo(Signal::SIGINT, 0, 2000) && !echo(Signal::SIGINT, 0, 2001));
        assert!(!echo(Signal::SIGCHLD, 7, 3000) && !echo(Signal::SIGCHLD, 7, 3000));
    }
}
