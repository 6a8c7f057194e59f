//! What goes into a guest, [`Plan`], and what comes out, [`Told`]: JSON, a line
//! each on the console.

use crate::fault::{Naming, Result};
use crate::sizes::Sizes;
use serde::{Deserialize, Serialize};
use std::fs;

/// Where the plan lies in the guest.
pub(super) const PATH: &str = "/plan.json";
/// Where the archive of the tree lies in the guest.
pub(super) const TREE: &str = "/tree.tar";
/// How a line of ours begins; the kernel talks on the same console.
const MARK: &str = "@bench ";

/// One mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Share {
    /// The column, and the last part of the mount point.
    pub(super) name: String,
    /// File system type.
    pub(super) kind: String,
    /// First argument of mount(2).
    pub(super) source: String,
    /// Its last.
    pub(super) data: String,
}

/// What the guest is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    /// In order of loading.
    pub(super) modules: Vec<String>,
    /// In the order of the tables.
    pub(super) shares: Vec<Share>,
    /// By name.
    pub(super) rows: Vec<String>,
    pub(super) rounds: u32,
    pub(super) sizes: Sizes,
}

impl Plan {
    pub(super) fn encode(&self) -> Result<String> {
        serde_json::to_string(self).naming("the plan")
    }

    /// In the guest.
    pub(super) fn read() -> Result<Plan> {
        serde_json::from_str(&fs::read_to_string(PATH).naming(PATH)?).naming(PATH)
    }
}

/// What the guest says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Told {
    /// A round begins.
    Round { round: u32 },
    /// A timed part begins.
    Begin { share: String },
    /// It ended.
    End { share: String },
    /// What it took.
    Row { row: String, share: String, ops: u64, nanos: u64 },
    /// It did not work.
    Failed { row: String, share: String, why: String },
    /// Nothing works.
    Stuck { why: String },
    /// All rounds are over.
    Done,
}

impl Told {
    /// In the guest.
    pub(super) fn say(&self) {
        if let Ok(text) = serde_json::to_string(self) {
            println!("{MARK}{text}");
        }
    }

    /// On the host; none for what is not of ours.
    pub(super) fn hear(line: &str) -> Option<Told> {
        let (_, text) = line.split_once(MARK)?;
        serde_json::from_str(text.trim()).ok()
    }
}
