//! The first process of a guest: mounts what every Linux has, loads the
//! modules that the host has packed, and runs what the host asks for.

use crate::place::{Problem, Verdict, done};
use externfs_tests::machine::talk::{Answer, Ask};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Where a script's output goes until it has ended: not on a share.
const OUTPUT: &str = "/run/output";
/// More is of no use to anybody, and slow on a serial line.
const OUTPUT_MAX: usize = 1 << 18;
/// How a shell's `timeout` ends.
const TOO_LONG: i32 = 124;

/// Does it all; does not return.
pub(crate) fn main() -> ! {
    let outcome = start().and_then(|line| listen(&line));
    let why = match outcome {
        Err(Problem::Failed(why) | Problem::Skipped(why)) => why,
        Ok(()) => "the host has hung up".to_owned(),
    };
    eprintln!("externfs-guest-check: {why}");
    loop {
        // The host ends us; a first process that ends is a panic.
        let _ = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn mounted(kind: &str, at: &str, data: &std::ffi::CStr) -> Verdict {
    done(format_args!("mounting {kind} on {at}"), mount(kind, at, kind, MountFlags::empty(), Some(data)))
}

fn start() -> Verdict<File> {
    for (kind, at) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp"), ("tmpfs", "/run")] {
        mounted(kind, at, c"")?;
    }
    let mut modules: Vec<_> = done("/modules", fs::read_dir("/modules"))?.flatten().map(|entry| entry.path()).collect();
    modules.sort();
    for module in modules {
        load(&module)?;
    }
    let installed = Command::new("/bin/busybox").args(["--install", "-s", "/bin"]).status();
    done("busybox --install", installed)?;
    let line = std::env::var("agent").unwrap_or_else(|_| "/dev/ttyS0".to_owned());
    let opened = rustix::fs::open(&line, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty());
    let opened = done(&line, opened)?;
    let mut settings = done(&line, tcgetattr(&opened))?;
    // No echo, no editing, no line ends changed.
    settings.make_raw();
    done(&line, tcsetattr(&opened, OptionalActions::Now, &settings))?;
    Ok(File::from(opened))
}

fn load(module: &Path) -> Verdict {
    let file = done(module.display(), File::open(module))?;
    done(format_args!("loading {}", module.display()), rustix::system::finit_module(&file, c"", 0))
}

fn listen(line: &File) -> Verdict {
    let mut answers = line;
    let mut say = |answer: &Answer| done("answering", answers.write_all(answer.encode().as_bytes()));
    say(&Answer::Ready)?;
    for heard in BufReader::new(line).split(b'\n') {
        let Some(ask) = Ask::hear(&done("listening", heard)?) else { continue };
        let code = run(&ask);
        say(&Answer::Ended { number: ask.number, code, output: output() })?;
    }
    Ok(())
}

/// Runs a script to its end, or ends it.
fn run(ask: &Ask) -> i32 {
    let log = || File::options().append(true).create(true).open(OUTPUT);
    let started = File::create(OUTPUT).and_then(|_| {
        Command::new("/bin/sh")
            .args(["-c", &ask.script])
            .env("PATH", "/bin")
            .env("HOME", "/root")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log()?)
            .stderr(log()?)
            .process_group(0)
            .spawn()
    });
    let mut child = match started {
        Ok(child) => child,
        Err(error) => {
            let _ = fs::write(OUTPUT, error.to_string());
            return 126;
        }
    };
    let end = Instant::now() + Duration::from_millis(ask.limit_ms);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return code(status),
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
            _ => break,
        }
    }
    describe_processes();
    if let Some(group) = Pid::from_raw(child.id() as i32) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    // Not waited for: what hangs in the kernel does not end, and the host wants to know.
    TOO_LONG
}

/// Appends what every program is doing: one that hangs in a system call shows where.
fn describe_processes() {
    let Ok(mut log) = File::options().append(true).open(OUTPUT) else { return };
    for process in fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path()) {
        let read = |name: &str| fs::read_to_string(process.join(name)).unwrap_or_default();
        let command = read("cmdline").replace('\0', " ");
        if command.is_empty() {
            continue;
        }
        let state = read("status").lines().find(|line| line.starts_with("State:")).unwrap_or_default().to_owned();
        let stack = read("stack").replace('\n', "; ");
        let _ = writeln!(log, "{}: {command}: {state}: {stack}", process.display());
    }
}

fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

/// The end of what the script said.
fn output() -> String {
    let bytes = fs::read(OUTPUT).unwrap_or_default();
    let end = bytes.get(bytes.len().saturating_sub(OUTPUT_MAX)..).unwrap_or_default();
    String::from_utf8_lossy(end).into_owned()
}
