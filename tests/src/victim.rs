//! [`Victim`]: a process that works in several threads and reports each piece
//! of work when it is done, until it is killed.

use std::io::Read;
use std::process::{Child, ChildStdout, Command, Stdio};

/// What is reported before the work begins.
const READY: [u8; 8] = [0xff; 8];

/// The victim's call before it begins.
pub fn ready() {
    report_bytes(READY);
}

/// The victim's call when a thread has done its piece with this index.
pub fn report(thread: usize, index: usize) {
    report_bytes(((thread as u64) << 32 | index as u64).to_le_bytes());
}

/// One write(2), so that none is torn.
fn report_bytes(bytes: [u8; 8]) {
    rustix::io::write(rustix::stdio::stdout(), &bytes).expect("reporting");
}

/// The killer's side.
pub struct Victim {
    child: Child,
    reports: ChildStdout,
}

impl Victim {
    /// Starts `command`, and returns when it is ready.
    ///
    /// # Errors
    /// What it said instead.
    pub fn start(command: &mut Command) -> Result<Victim, String> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.map_err(|error| format!("{command:?}: {error}"))?;
        let mut reports = child.stdout.take().expect("a pipe");
        let mut first = [0; 8];
        if reports.read_exact(&mut first).is_ok() && first == READY {
            return Ok(Victim { child, reports });
        }
        let _ = child.kill();
        let end = child.wait_with_output().map_err(|error| error.to_string())?;
        Err(format!("it ended with {}: {}", end.status, String::from_utf8_lossy(&end.stderr).trim()))
    }

    /// Kills it. Returns how many pieces each of `threads` had reported.
    ///
    /// # Errors
    /// What it complained of.
    pub fn kill(mut self, threads: usize) -> Result<Vec<usize>, String> {
        self.child.kill().map_err(|error| format!("kill: {error}"))?;
        let mut rest = Vec::new();
        self.reports.read_to_end(&mut rest).map_err(|error| format!("reading the reports: {error}"))?;
        let end = self.child.wait_with_output().map_err(|error| format!("wait: {error}"))?;
        if !end.stderr.is_empty() {
            return Err(format!("it said: {}", String::from_utf8_lossy(&end.stderr).trim()));
        }
        let mut done = vec![0; threads];
        for report in rest.chunks_exact(8) {
            let report = u64::from_le_bytes(report.try_into().expect("eight bytes"));
            done[(report >> 32) as usize] = (report & 0xffff_ffff) as usize + 1;
        }
        Ok(done)
    }
}
