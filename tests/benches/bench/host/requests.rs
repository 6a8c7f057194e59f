//! [`RequestCount`]: how many requests a FUSE mount sends its server.
//!
//! The one figure that no neighbour disturbs. It comes from the kernel's
//! tracepoint `fuse_request_send` in a trace instance per mount: a ring buffer
//! whose events are counted and never read. FORGET is not traced there.

use crate::fault::{Naming, Result};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const INSTANCES: &str = "/sys/kernel/tracing/instances";
/// Overwritten events are counted as well as kept ones, so a small buffer will do.
const BUFFER_KB: &str = "64";

/// A trace instance that ends with its guard.
pub(crate) struct RequestCount {
    dir: PathBuf,
}

impl RequestCount {
    /// For the mount at `point`, under a name of its own.
    ///
    /// # Errors
    /// No tracefs at its usual place, or a kernel without the tracepoint (6.9 has it).
    pub(crate) fn new(name: &str, point: &Path) -> Result<RequestCount> {
        let dir = Path::new(INSTANCES).join(format!("externfs-bench-{}-{name}", std::process::id()));
        fs::create_dir(&dir).naming(dir.display())?;
        let count = RequestCount { dir };
        // Mounts of FUSE have major number 0, so this is the kernel's dev_t too.
        let device = fs::metadata(point).naming(point.display())?.dev();
        count.write("buffer_size_kb", BUFFER_KB)?;
        count.write("events/fuse/fuse_request_send/filter", &format!("connection == {device}"))?;
        count.write("events/fuse/fuse_request_send/enable", "1")?;
        Ok(count)
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.dir.join(file);
        fs::write(&path, text).naming(path.display())
    }

    /// Requests so far, kept or overwritten. Only differences mean something.
    pub(crate) fn so_far(&self) -> u64 {
        let Ok(cpus) = fs::read_dir(self.dir.join("per_cpu")) else { return 0 };
        let texts = cpus.flatten().filter_map(|cpu| fs::read_to_string(cpu.path().join("stats")).ok());
        texts.map(|text| field(&text, "entries:") + field(&text, "overrun:")).sum()
    }
}

impl Drop for RequestCount {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.dir) {
            eprintln!("{} stays: {error}", self.dir.display());
        }
    }
}

fn field(text: &str, name: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0)
}
