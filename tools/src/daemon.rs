//! Going into the background, and telling the foreground when to return.
//!
//! A server is a child process. It says through a pipe that it is ready, or in
//! one line why it is not; the command that started it waits for that.

use crate::failure::{Failure, Result};
use crate::logging::Elsewhere;
use crate::process;
use nix::unistd::Pid;
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::path::Path;

/// The child's end.
#[derive(Debug)]
pub struct Ready(PipeWriter);

/// The parent's end.
#[derive(Debug)]
pub struct Waiting(PipeReader);

/// A pair of ends.
///
/// # Errors
/// Out of descriptors.
pub fn ready_pipe() -> Result<(Ready, Waiting)> {
    let (reader, writer) = std::io::pipe().map_err(|e| Failure::io("cannot make a pipe", &e))?;
    Ok((Ready(writer), Waiting(reader)))
}

impl Ready {
    /// The parent may return.
    pub fn tell(mut self, outcome: std::result::Result<(), &Failure>) {
        let message = match outcome {
            Ok(()) => "ready".to_owned(),
            Err(failure) => format!("{} {}", failure.code, failure.line),
        };
        // A parent that is gone needs no answer.
        let _ = self.0.write_all(message.as_bytes());
    }
}

impl Waiting {
    /// Waits for the child's word. Every other copy of the child's end in this
    /// process must be closed by now.
    ///
    /// # Errors
    /// The child's failure, or that it ended without a word.
    pub fn wait(mut self) -> Result<()> {
        let mut message = String::new();
        let _ = self.0.read_to_string(&mut message);
        match message.split_once(' ') {
            None if message == "ready" => Ok(()),
            Some((code, line)) if !line.is_empty() => Err(Failure { line: line.into(), code: code.parse().unwrap_or(1) }),
            _ => Err(Failure::new("the server ended before it was ready: see its log (-f shows it)")),
        }
    }
}

/// Forks a server that runs `body`; `body` gets the means to say that it is
/// ready. Returns when the server has said so, or with its failure.
///
/// # Errors
/// The server's own, or those of fork.
pub fn start(body: impl FnOnce(Ready) -> i32) -> Result<Pid> {
    let (ready, waiting) = ready_pipe()?;
    let mut ready = Some(ready);
    let pid = process::fork(|| {
        let Some(ready) = ready.take() else { return 1 };
        body(ready)
    })?;
    drop(ready);
    waiting.wait().map(|()| pid)
}

/// Detaches this process from the terminal: a session of its own, and `/` as
/// its directory.
///
/// # Errors
/// It leads a process group, which nothing that was forked does.
pub fn detach() -> Result<()> {
    let failed = |errno: nix::Error| Failure::new(format!("cannot go into the background: {}", errno.desc()));
    nix::unistd::setsid().map_err(failed)?;
    nix::unistd::chdir("/").map_err(failed)
}

/// What a server needs to fall silent, opened while that is still allowed.
#[derive(Debug)]
pub struct Background {
    null: File,
    log: Elsewhere,
}

impl Background {
    /// With logs in `log_file`, or in the system's log.
    ///
    /// # Errors
    /// There is no /dev/null; the log file cannot be opened.
    pub fn open(log_file: Option<&Path>) -> Result<Background> {
        let null = File::options().read(true).write(true).open("/dev/null");
        let null = null.map_err(|e| Failure::io("cannot open /dev/null", &e))?;
        Ok(Background { null, log: Elsewhere::open(log_file)? })
    }

    /// From now on nothing is said on the standard streams: whoever waits for
    /// their end (a pipe's reader) must not wait for us.
    pub fn enter(self) {
        let _ = rustix::stdio::dup2_stdin(&self.null);
        let _ = rustix::stdio::dup2_stdout(&self.null);
        let _ = rustix::stdio::dup2_stderr(&self.null);
        self.log.switch();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_arrives_or_its_absence_does() {
        let failure = Failure::usage("no such plugin");
        for (word, expected) in [(Ok(()), Ok(())), (Err(&failure), Err(failure.clone()))] {
            let (ready, waiting) = ready_pipe().expect("pipe");
            ready.tell(word);
            assert_eq!(waiting.wait(), expected);
        }
        let (ready, waiting) = ready_pipe().expect("pipe");
        drop(ready);
        assert!(waiting.wait().is_err());
    }
}
