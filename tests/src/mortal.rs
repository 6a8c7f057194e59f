//! A program that dies at its N-th step: killed where a system call begins or
//! ends, so that whatever it changes in steps is seen at each of them.
//!
//! The program says when steps begin to count:
//! ```text
//! submit()    first of all, before there is a second thread
//! mark()      what is about to happen counts
//! mark()      it has happened
//! ```
//! A step is one stop of ptrace(2) at the entry or the exit of a system call
//! of any thread. Both count, since a program can change a shared mapping
//! between two calls. Whoever is killed at the entry never makes the call.

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{self, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::io::Read;
use std::process::{Command, Stdio};

/// When a program dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// At this step of its first thread, counted from 1.
    Step(usize),
    /// At this step of its other threads together.
    Other(usize),
    /// Where it says that it is done.
    Done,
    /// By itself.
    Never,
}

/// How it ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// Killed, at this call and on this side of it.
    Killed(String),
    /// It has said that it is done.
    Done(Steps),
    /// It ended before it was done, and said this.
    Failed(String),
}

/// How many steps there are to die at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Steps {
    /// Of the first thread: the same in each run, mostly.
    pub own: usize,
    /// Of all the others: as many as they come to meanwhile.
    pub others: usize,
}

/// Of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// It is about to be made.
    Before,
    /// It has been made.
    After,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Side::Before => "before",
            Side::After => "after",
        }
    }
}

/// Calls that change something, or make it durable.
const CHANGING: [&str; 25] = [
    "copy_file_range",
    "fallocate",
    "fchmod",
    "fchmodat",
    "fchownat",
    "fdatasync",
    "fsetxattr",
    "fsync",
    "ftruncate",
    "linkat",
    "mkdirat",
    "munmap",
    "pwrite64",
    "pwritev2",
    "rename",
    "renameat",
    "renameat2",
    "setxattr",
    "setxattrat",
    "symlinkat",
    "syncfs",
    "unlink",
    "unlinkat",
    "utimensat",
    "write",
];

/// The steps among `calls`, counted from 1, on these sides of a call that
/// changes something. The others find what their neighbours find.
#[must_use]
pub fn changing(calls: &[String], sides: &[Side]) -> Vec<usize> {
    let changes =
        |call: &str| sides.iter().any(|side| call.strip_prefix(side.name()).is_some_and(|name| CHANGING.contains(&name.trim_start())));
    calls.iter().enumerate().filter(|(_, call)| changes(call)).map(|(index, _)| index + 1).collect()
}

/// The program's first call: from now on its parent watches it.
///
/// # Panics
/// When the system lets nobody be traced.
pub fn submit() {
    ptrace::traceme().expect("ptrace(PTRACE_TRACEME)");
    mark();
}

/// The program's call where counting begins, and where it ends.
pub fn mark() {
    signal::raise(Signal::SIGSTOP).expect("raise");
}

/// Runs `command`, a program that keeps to the rules above, to its end.
///
/// # Panics
/// When it cannot be started or watched.
pub fn live(command: &mut Command, fate: Fate) -> End {
    run(command, fate, false).0
}

/// The call at each step of its first thread.
///
/// # Errors
/// That it failed, and what it said.
///
/// # Panics
/// As [`live`].
pub fn calls(command: &mut Command) -> Result<Vec<String>, String> {
    match run(command, Fate::Never, true) {
        (End::Done(_), calls) => Ok(calls),
        (end, _) => Err(format!("{end:?}")),
    }
}

fn run(command: &mut Command, fate: Fate, record: bool) -> (End, Vec<String>) {
    // Only the thread that made a process may trace it, and only a thread
    // without other children can wait for any of its threads.
    std::thread::scope(|scope| scope.spawn(|| Tracer::run(command, fate, record)).join().expect("the tracer"))
}

struct Tracer {
    leader: Pid,
    fate: Fate,
    marks: usize,
    steps: Steps,
    /// There is more than one thread. The others are to be seen at their calls
    /// from the first mark on, so they have to be stopped at calls by then.
    crowd: bool,
    /// The threads that are between a call's entry and its exit.
    inside: BTreeSet<Pid>,
    killed_at: Option<String>,
    /// The calls so far, if they are wanted.
    calls: Option<Vec<String>>,
}

impl Tracer {
    fn run(command: &mut Command, fate: Fate, record: bool) -> (End, Vec<String>) {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // Waited for by number, as all its threads are.
        #[allow(clippy::zombie_processes)]
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let leader = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        let calls = record.then(Vec::new);
        let mut tracer =
            Tracer { leader, fate, marks: 0, steps: Steps::default(), crowd: false, inside: BTreeSet::new(), killed_at: None, calls };
        let status = tracer.trace();
        let mut said = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            let _ = stderr.read_to_string(&mut said);
        }
        let end = match tracer.killed_at {
            Some(_) if fate == Fate::Done => End::Done(tracer.steps),
            Some(call) => End::Killed(call),
            None if tracer.marks == 3 && matches!(status, WaitStatus::Exited(_, 0)) => End::Done(tracer.steps),
            None => End::Failed(format!("{status:?} after {} marks and {:?}: {}", tracer.marks, tracer.steps, said.trim())),
        };
        (end, tracer.calls.unwrap_or_default())
    }

    /// Until there is nobody left; returns the leader's end.
    fn trace(&mut self) -> WaitStatus {
        let mut end = None;
        loop {
            let status = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)) {
                Ok(status) => status,
                Err(Errno::EINTR) => continue,
                Err(error) => return end.unwrap_or_else(|| panic!("waitpid: {error}")),
            };
            match status {
                WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) if pid == self.leader => end = Some(status),
                WaitStatus::Stopped(pid, Signal::SIGSTOP) => self.stopped(pid),
                WaitStatus::Stopped(pid, signal) => self.resume(pid, Some(signal)),
                WaitStatus::PtraceSyscall(pid) => self.step(pid),
                WaitStatus::PtraceEvent(pid, ..) => {
                    self.crowd = true;
                    // Its clone(2) began before calls were looked at.
                    self.inside.insert(pid);
                    self.resume(pid, None);
                }
                _ => {}
            }
        }
    }

    /// A mark, or a thread's birth.
    fn stopped(&mut self, pid: Pid) {
        if pid != self.leader {
            self.crowd = true;
            return self.resume(pid, None);
        }
        self.marks += 1;
        if self.marks == 1 {
            use ptrace::Options;
            let options = Options::PTRACE_O_EXITKILL | Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE;
            ptrace::setoptions(pid, options).expect("ptrace(PTRACE_SETOPTIONS)");
        }
        if self.marks == 3 && self.fate == Fate::Done {
            return self.kill("done".into());
        }
        self.resume(pid, None);
    }

    fn step(&mut self, pid: Pid) {
        let enters = self.inside.insert(pid);
        if !enters {
            self.inside.remove(&pid);
        }
        if self.marks == 2 && self.killed_at.is_none() {
            let own = pid == self.leader;
            *if own { &mut self.steps.own } else { &mut self.steps.others } += 1;
            let named = || format!("{} {}", if enters { Side::Before } else { Side::After }.name(), call_of(pid));
            if let Some(calls) = self.calls.as_mut().filter(|_| own) {
                calls.push(named());
            }
            let fatal = if own { Fate::Step(self.steps.own) } else { Fate::Other(self.steps.others) };
            if self.fate == fatal {
                return self.kill(named());
            }
        }
        self.resume(pid, None);
    }

    fn kill(&mut self, call: String) {
        self.killed_at = Some(call);
        signal::kill(self.leader, Signal::SIGKILL).expect("kill");
    }

    fn resume(&self, pid: Pid, signal: Option<Signal>) {
        let result = if self.marks == 2 || self.crowd { ptrace::syscall(pid, signal) } else { ptrace::cont(pid, signal) };
        match result {
            // It has just been killed.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => panic!("resuming {pid}: {error}"),
        }
    }
}

/// The call at which a thread is stopped, from /proc/PID/syscall: its number,
/// then six arguments, the stack and the instruction pointer in hexadecimal.
fn call_of(pid: Pid) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    let number = text.split_whitespace().next().and_then(|word| word.parse::<i64>().ok());
    number.map_or_else(|| format!("call '{}'", text.trim()), name_of)
}

/// The names of the calls that matter here.
fn name_of(number: i64) -> String {
    macro_rules! known {
        ($($name:ident = $call:ident),* $(,)?) => {
            match number {
                $(libc::$call => stringify!($name).to_owned(),)*
                // Newer than the crate's table.
                463 => "setxattrat".to_owned(),
                464 => "getxattrat".to_owned(),
                other => format!("call {other}"),
            }
        };
    }
    known![
        openat = SYS_openat,
        openat2 = SYS_openat2,
        close = SYS_close,
        read = SYS_read,
        pread64 = SYS_pread64,
        write = SYS_write,
        pwrite64 = SYS_pwrite64,
        pwritev2 = SYS_pwritev2,
        statx = SYS_statx,
        linkat = SYS_linkat,
        unlinkat = SYS_unlinkat,
        unlink = SYS_unlink,
        mkdirat = SYS_mkdirat,
        symlinkat = SYS_symlinkat,
        readlinkat = SYS_readlinkat,
        rename = SYS_rename,
        renameat = SYS_renameat,
        renameat2 = SYS_renameat2,
        setxattr = SYS_setxattr,
        fsetxattr = SYS_fsetxattr,
        getxattr = SYS_getxattr,
        fgetxattr = SYS_fgetxattr,
        fchownat = SYS_fchownat,
        fchmod = SYS_fchmod,
        fchmodat = SYS_fchmodat,
        utimensat = SYS_utimensat,
        ftruncate = SYS_ftruncate,
        fallocate = SYS_fallocate,
        copy_file_range = SYS_copy_file_range,
        fsync = SYS_fsync,
        fdatasync = SYS_fdatasync,
        syncfs = SYS_syncfs,
        getdents64 = SYS_getdents64,
        fcntl = SYS_fcntl,
        fstat = SYS_fstat,
        mmap = SYS_mmap,
        munmap = SYS_munmap,
        futex = SYS_futex,
        tgkill = SYS_tgkill,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_never_marks_has_failed() {
        let end = live(Command::new("sh").args(["-c", "echo alas >&2; exit 3"]), Fate::Step(1));
        assert!(matches!(&end, End::Failed(why) if why.contains("alas") && why.contains("Exited") && why.contains('3')), "{end:?}");
    }
}
