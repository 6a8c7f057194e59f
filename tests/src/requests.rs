//! [`Requests`]: what a FUSE mount asks of its server, and how often.
//!
//! The one figure that no neighbour disturbs. It comes from the kernel's
//! tracepoint `fuse_request_send` in a trace instance per mount. FORGET is not
//! traced there.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const INSTANCES: &str = "/sys/kernel/tracing/instances";
/// Enough for a thousand events; when they are only counted, overwritten ones count
/// as well.
const BUFFER_KB: &str = "64";

/// A trace instance that ends with its guard.
pub struct Requests {
    dir: PathBuf,
}

fn named(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

impl Requests {
    /// Of the mount at `point`, under a name of its own.
    ///
    /// # Errors
    /// No tracefs at its usual place, or a kernel without the tracepoint (6.9 has it).
    pub fn of(point: &Path, name: &str) -> io::Result<Requests> {
        let dir = Path::new(INSTANCES).join(format!("externfs-{}-{name}", std::process::id()));
        fs::create_dir(&dir).map_err(named(&dir))?;
        let requests = Requests { dir };
        // Mounts of FUSE have major number 0, so this is the kernel's dev_t too.
        let device = fs::metadata(point).map_err(named(point))?.dev();
        requests.write("buffer_size_kb", BUFFER_KB)?;
        requests.write("events/fuse/fuse_request_send/filter", &format!("connection == {device}"))?;
        requests.write("events/fuse/fuse_request_send/enable", "1")?;
        Ok(requests)
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        let path = self.dir.join(file);
        fs::write(&path, text).map_err(named(&path))
    }

    /// How many so far, kept or overwritten. Only differences mean something.
    #[must_use]
    pub fn so_far(&self) -> u64 {
        let Ok(cpus) = fs::read_dir(self.dir.join("per_cpu")) else { return 0 };
        let texts = cpus.flatten().filter_map(|cpu| fs::read_to_string(cpu.path().join("stats")).ok());
        texts.map(|text| field(&text, "entries:") + field(&text, "overrun:")).sum()
    }

    /// The names of those since the last call, in their order, as the protocol
    /// has them (`LOOKUP`).
    ///
    /// # Errors
    /// What the kernel says of its trace.
    pub fn take(&self) -> io::Result<Vec<String>> {
        let path = self.dir.join("trace");
        let text = fs::read_to_string(&path).map_err(named(&path))?;
        // Emptied by being opened for writing.
        self.write("trace", "")?;
        Ok(text.lines().filter_map(|line| Some(line.split_once("(FUSE_")?.1.split_once(')')?.0.to_owned())).collect())
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.dir) {
            eprintln!("{} stays: {error}", self.dir.display());
        }
    }
}

fn field(text: &str, name: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0)
}
