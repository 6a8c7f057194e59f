//! The workloads: what each row of the tables does.
//!
//! A row gets a [`Place`]: a target's root, which holds the fixtures that
//! [`fixture::make`] laid down before the target was started, and an empty
//! directory of its own. It prepares what it needs, then times one closure with
//! [`Place::time`]. Preparation goes through the target, so that its caches and
//! the kernel's are in the state that a user's would be in.

pub(crate) mod cold;
mod data;
mod directory;
pub(crate) mod files;
pub(crate) mod fixture;
mod map;
mod name;
mod threads;
mod tree;

use crate::fault::{Naming, Result};
use crate::sizes::Sizes;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Operations done, in the row's unit.
    pub(crate) ops: u64,
    /// Wall-clock time.
    pub(crate) nanos: u64,
    /// What it cost the target's server.
    pub(crate) cost: Cost,
}

/// What a server did during a timed part.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Cost {
    /// Processor time.
    pub(crate) nanos: u64,
    /// Requests that it got, if they were counted.
    pub(crate) requests: Option<u64>,
}

/// Told where the timed part begins and ends.
pub(crate) trait Meter {
    /// The timed part begins now.
    fn begin(&self);
    /// It ended; answers the server's cost since [`Meter::begin`].
    fn end(&self) -> Cost;
}

/// Where a row works.
pub(crate) struct Place<'a> {
    /// The target's root, with the fixtures.
    pub(crate) root: &'a Path,
    /// An empty directory below it, for this row and round only.
    pub(crate) scratch: PathBuf,
    /// How much to do.
    pub(crate) sizes: &'a Sizes,
    /// The archive that `tree_copy_in` unpacks; not on the target.
    pub(crate) archive: &'a Path,
    /// Told of the timed part.
    pub(crate) meter: &'a dyn Meter,
}

impl Place<'_> {
    /// Times `work`, which does `ops` operations.
    ///
    /// # Errors
    /// Those of `work`.
    pub(crate) fn time(&self, ops: impl Into<u64>, work: impl FnOnce() -> Result<()>) -> Result<Sample> {
        self.meter.begin();
        let start = Instant::now();
        let done = work();
        let nanos = u64::try_from(start.elapsed().as_nanos()).naming("a row that took centuries")?;
        let cost = self.meter.end();
        done.map(|()| Sample { ops: ops.into(), nanos, cost })
    }
}

/// One line of the tables.
pub(crate) struct Row {
    /// As the user types it after `--only`.
    pub(crate) name: &'static str,
    /// What one operation is.
    pub(crate) unit: &'static str,
    /// Whether guests run it too.
    pub(crate) guest: bool,
    /// Prepares and measures.
    pub(crate) run: fn(&Place<'_>) -> Result<Sample>,
}

const fn host(name: &'static str, unit: &'static str, run: fn(&Place<'_>) -> Result<Sample>) -> Row {
    Row { name, unit, guest: false, run }
}

const fn both(name: &'static str, unit: &'static str, run: fn(&Place<'_>) -> Result<Sample>) -> Row {
    Row { name, unit, guest: true, run }
}

/// Every row, in the order of the tables.
pub(crate) const ROWS: &[Row] = &[
    both("create_4k", "file", name::create_4k),
    both("create_empty", "file", name::create_empty),
    both("stat_warm", "call", name::stat_warm),
    both("stat_sync", "call", name::stat_sync),
    host("stat_missing", "call", name::stat_missing),
    both("stat_cold", "call", name::stat_cold),
    both("open_read_close", "file", name::open_read_close),
    host("append_close", "file", name::append_close),
    host("chmod", "call", name::chmod),
    host("chown", "call", name::chown),
    host("utimens", "call", name::utimens),
    host("setxattr", "call", name::setxattr),
    host("getxattr", "call", name::getxattr),
    both("rename_same_dir", "call", name::rename_same_dir),
    host("link", "call", name::link),
    both("unlink", "call", name::unlink),
    host("mkdir", "call", directory::mkdir),
    host("rmdir", "call", directory::rmdir),
    both("readdir_10000", "entry", directory::readdir),
    both("ls_l_10000", "entry", directory::ls_l),
    both("ls_l_10000_cold", "entry", directory::ls_l_cold),
    both("seq_write", "MiB", data::seq_write),
    host("seq_write_fsync", "MiB", data::seq_write_fsync),
    both("seq_read_warm", "MiB", data::seq_read_warm),
    both("seq_read_cold", "MiB", data::seq_read_cold),
    both("rand_read_4k", "call", data::rand_read_4k),
    host("rand_write_4k", "call", data::rand_write_4k),
    host("mmap_read", "page", data::mmap_read),
    host("mt2_create_unlink", "pair", threads::create_unlink),
    host("mt2_stat_sync", "call", threads::stat_sync),
    host("tree_copy_in", "file", tree::copy_in),
    host("tree_find_ls", "file", tree::find_ls),
    both("tree_grep_r", "file", tree::grep_r),
    both("tree_rm_rf", "file", tree::rm_rf),
];
