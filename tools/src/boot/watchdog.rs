//! The watchdog: a small process that cleans up after `externfs boot` if that
//! is killed in a way that it cannot answer. It holds one end of a pipe; when
//! the other closes without a farewell, the guest is killed, the terminal
//! restored, the temporary directory removed.

use super::terminal::Saved;
use crate::failure::{Failure, Result};
use crate::process;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::path::Path;
use std::process::Command;

/// The end held by `externfs boot`.
#[derive(Debug)]
pub(crate) struct Watchdog {
    pid: Pid,
    pipe: PipeWriter,
}

impl Watchdog {
    /// Starts one that will remove `directory` and restore `terminal`.
    pub(crate) fn start(directory: &Path, terminal: Option<&Saved>) -> Result<Watchdog> {
        let (reader, writer) = std::io::pipe().map_err(|e| Failure::io("cannot make a pipe", &e))?;
        let mut ends = Some((reader, writer));
        let pid = process::fork(|| {
            let Some((reader, writer)) = ends.take() else { return 1 };
            drop(writer);
            watch(reader, directory, terminal);
            0
        })?;
        let (_, pipe) = ends.take().ok_or_else(|| Failure::new("the watchdog did not start"))?;
        Ok(Watchdog { pid, pipe })
    }

    /// The process group that `command` will lead is to be killed too. It says
    /// so itself: were we killed right after starting it, nobody else could.
    ///
    /// # Errors
    /// Out of descriptors.
    pub(crate) fn guard(&self, command: &mut Command) -> Result<()> {
        let pipe = self.pipe.try_clone().map_err(|e| Failure::io("cannot duplicate a pipe", &e))?;
        process::announce_group(command, pipe.into());
        Ok(())
    }

    /// All is cleaned up.
    pub(crate) fn dismiss(mut self) {
        let _ = writeln!(self.pipe, "farewell");
        drop(self.pipe);
        let _ = nix::sys::wait::waitpid(self.pid, None);
    }
}

fn watch(pipe: PipeReader, directory: &Path, terminal: Option<&Saved>) {
    // Out of reach of what hits the whole group or session, the background's
    // SIGTTOU included. SIGKILL still works.
    let _ = nix::unistd::setsid();
    let _ = SigSet::all().thread_block();
    let mut group = None;
    for line in BufReader::new(pipe).lines().map_while(std::result::Result::ok) {
        match line.split_once(' ') {
            Some(("group", leader)) => group = leader.parse().ok().map(Pid::from_raw),
            _ if line == "farewell" => return,
            _ => {}
        }
    }
    if let Some(group) = group {
        let _ = killpg(group, Signal::SIGKILL);
    }
    if let Some(terminal) = terminal {
        terminal.restore();
    }
    let _ = std::fs::remove_dir_all(directory);
}
