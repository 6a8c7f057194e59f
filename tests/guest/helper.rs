//! Second processes: a lock's holder, another writer, something to execute.

use crate::place::{Verdict, done, failed, holds};
use rustix::fs::{FlockOperation, fcntl_lock, flock};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::ops::{Deref, DerefMut};
use std::process::{Child, Command, ExitCode, Stdio};

/// What a helper says when it is where it should be.
const READY: &str = "ready";

/// Killed when dropped.
pub(crate) struct Helper(Child);

impl Deref for Helper {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Helper {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// This program once more.
pub(crate) fn start(arguments: &[&str]) -> Verdict<Helper> {
    let child = Command::new("/proc/self/exe").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    done("starting a helper", child.map(Helper))
}

/// The same, once it has said that it is ready.
pub(crate) fn start_ready(arguments: &[&str]) -> Verdict<Helper> {
    let mut helper = start(arguments)?;
    wait_ready(&mut helper)?;
    Ok(helper)
}

/// Waits until it says so.
pub(crate) fn wait_ready(child: &mut Child) -> Verdict {
    let Some(stdout) = child.stdout.as_mut() else { return failed("a helper without output") };
    let mut line = String::new();
    done("listening to a helper", BufReader::new(stdout).read_line(&mut line))?;
    holds(format_args!("a helper said {line:?}"), line.trim_end() == READY)
}

/// The helpers' side.
pub(crate) fn run(helper: &str, rest: &[&str]) -> ExitCode {
    let outcome = match (helper, rest) {
        ("hold", [kind, mode, path]) => hold(kind, mode, path),
        ("append", [path, letter, count]) => append(path, letter, count.parse().unwrap_or(0)),
        ("echo", words) => echo(words),
        ("sleep", []) => say_ready_and_wait(),
        _ => return crate::usage(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{helper}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn echo(words: &[&str]) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{}", words.join(" "))
}

/// Until standard input ends.
fn say_ready_and_wait() -> std::io::Result<()> {
    println!("{READY}");
    std::io::stdin().read_to_end(&mut Vec::new()).map(drop)
}

fn hold(kind: &str, mode: &str, path: &str) -> std::io::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let operation = if mode == "shared" { FlockOperation::LockShared } else { FlockOperation::LockExclusive };
    match kind {
        "flock" => flock(&file, operation)?,
        _ => fcntl_lock(&file, operation)?,
    }
    say_ready_and_wait()
}

fn append(path: &str, letter: &str, count: usize) -> std::io::Result<()> {
    let mut file = File::options().append(true).open(path)?;
    (0..count).try_for_each(|number| file.write_all(format!("{letter}{number}\n").as_bytes()))
}
