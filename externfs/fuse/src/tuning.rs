//! The two knobs that INIT cannot turn: they are files of the mount's backing
//! device, /sys/class/bdi/MAJOR:MINOR, and root's to write.
//!
//! * `read_ahead_kb`: the kernel offers 128 KiB and INIT can only lower it.
//! * `max_ratio` and `strict_limit`: a FUSE mount may hold 1 % of the memory
//!   for dirty pages, which makes a writeback cache crawl.
//!
//! The files are opened with the mount and written after INIT, when a sandbox
//! may already be up and the kernel no longer overrides them.

use std::fs::{File, OpenOptions};
use std::io::Write;

const READ_AHEAD_KIB: u32 = 1024;

/// The open files; those that could not be opened are done without.
#[derive(Debug, Default)]
pub(crate) struct Tuning {
    read_ahead: Option<File>,
    max_ratio: Option<File>,
    strict_limit: Option<File>,
}

fn set(file: &Option<File>, value: u32) {
    if let Some(mut file) = file.as_ref()
        && let Err(error) = file.write_all(value.to_string().as_bytes())
    {
        tracing::debug!("a setting of the mount stays as it is: {error}");
    }
}

impl Tuning {
    pub(crate) fn open(device: &str) -> Tuning {
        let open = |name: &str| OpenOptions::new().write(true).open(format!("/sys/class/bdi/{device}/{name}")).ok();
        Tuning { read_ahead: open("read_ahead_kb"), max_ratio: open("max_ratio"), strict_limit: open("strict_limit") }
    }

    /// After INIT.
    pub(crate) fn apply(self, writeback: bool) {
        set(&self.read_ahead, READ_AHEAD_KIB);
        if writeback {
            set(&self.strict_limit, 0);
            set(&self.max_ratio, 100);
        }
    }
}
