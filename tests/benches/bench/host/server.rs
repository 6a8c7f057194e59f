//! [`Server`]: a process that serves something and ends with its guard.

use crate::fault::{Naming, Result, fault};
use externfs_tests::fixture::unmount;
use rustix::process::{Pid, Signal, kill_process_group};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest that a server may take to come up or to end.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// The child, in a process group of its own so that its children end with it.
pub(crate) struct Server {
    child: Child,
    log: PathBuf,
    mounted: Option<PathBuf>,
}

impl Server {
    /// Starts `command`, with its output in `log`, and waits until `ready`.
    ///
    /// # Errors
    /// What it said, if it ends or is not ready in time.
    pub(crate) fn start(command: &mut Command, log: PathBuf, ready: impl Fn() -> bool) -> Result<Server> {
        let out = File::create(&log).naming(log.display())?;
        let err = out.try_clone().naming(log.display())?;
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        let child = command.spawn().naming(command.get_program().display())?;
        let mut server = Server { child, log, mounted: None };
        let end = Instant::now() + PATIENCE;
        while !ready() {
            let ended = server.child.try_wait().naming("wait")?;
            if ended.is_some() || Instant::now() > end {
                return fault(format!("{} is not ready: {}", command.get_program().display(), server.said()));
            }
            std::thread::sleep(POLL);
        }
        Ok(server)
    }

    /// Makes the guard unmount `point` first.
    pub(crate) fn mounted_on(mut self, point: &Path) -> Server {
        self.mounted = Some(point.to_owned());
        self
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The end of what it said.
    pub(crate) fn said(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let mut lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.reverse();
        lines.join(" | ")
    }

    fn ends_within(&mut self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        while Instant::now() < end {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            std::thread::sleep(POLL);
        }
        false
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may be gone, which is what we want.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(point) = &self.mounted {
            unmount(point);
            if self.ends_within(PATIENCE) {
                return;
            }
            eprintln!("process {} stays after its unmount: {}", self.child.id(), self.said());
        }
        self.signal(Signal::TERM);
        if !self.ends_within(PATIENCE) {
            self.signal(Signal::KILL);
        }
        // The group once more: a child may have outlived its parent.
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}
