//! How much each workload does.

use serde::{Deserialize, Serialize};

/// Amounts, the same for every target of a run, and recorded with its results:
/// two runs compare only when these agree.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Sizes {
    /// Files of a metadata workload.
    pub(crate) files: u32,
    /// Repetitions of what the kernel may answer alone, which is too short to time once.
    pub(crate) passes: u32,
    /// Entries of the large directory.
    pub(crate) entries: u32,
    /// MiB of the data file.
    pub(crate) mib: u32,
    /// Random reads or writes.
    pub(crate) random: u32,
    /// Files of the tree.
    pub(crate) tree: u32,
}

impl Sizes {
    /// For figures to keep.
    pub(crate) const FULL: Sizes = Sizes { files: 1000, passes: 5, entries: 10_000, mib: 64, random: 5000, tree: 2000 };
    /// For a look during development: every row, fewer operations.
    pub(crate) const QUICK: Sizes = Sizes { files: 300, passes: 3, entries: 10_000, mib: 32, random: 2000, tree: 500 };
    /// For an emulated processor, ten to thirty times slower.
    pub(crate) const GUEST: Sizes = Sizes { files: 500, passes: 3, entries: 10_000, mib: 64, random: 3000, tree: 500 };
    /// The same in a hurry.
    pub(crate) const GUEST_QUICK: Sizes = Sizes { files: 150, passes: 2, entries: 2000, mib: 16, random: 1000, tree: 200 };
}
