//! [`Report`]: everything a run measured, as it goes to the JSON file and to the
//! table, with what is needed to judge it later.

use crate::fault::{Naming, Result};
use crate::sizes::Sizes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// What a column is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Role {
    /// What the others are divided by, and no peer.
    Native,
    /// The same again: what differs from [`Role::Native`] is noise.
    Control,
    /// Under test. The first such column is the one that the verdict is about.
    Ours,
    /// To be beaten.
    Peer,
}

/// A column.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Column {
    /// Short.
    pub(crate) name: String,
    /// Its place in the comparison.
    pub(crate) role: Role,
    /// How it was started, or what it is.
    pub(crate) how: String,
}

/// One row on one target, a value a round.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Cell {
    /// Microseconds an operation, by the client's clock.
    pub(crate) us: Vec<f64>,
    /// Microseconds of the server's processor time an operation.
    pub(crate) server_us: Vec<f64>,
    /// Requests to the server an operation, if counted.
    #[serde(default)]
    pub(crate) requests: Vec<f64>,
    /// Why there are no values.
    pub(crate) fault: Option<String>,
}

/// One row.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Line {
    /// As after `--only`.
    pub(crate) name: String,
    /// What an operation is.
    pub(crate) unit: String,
    /// By column name.
    pub(crate) cells: BTreeMap<String, Cell>,
}

/// All rows under one scheduling.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Pass {
    /// `default`, `pinned`, or the guest's kind.
    pub(crate) name: String,
    /// In words.
    pub(crate) scheduling: String,
    /// In the order of the tables.
    pub(crate) lines: Vec<Line>,
}

/// A run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// When it began, UTC.
    pub(crate) date: String,
    /// The host's kernel.
    pub(crate) kernel: String,
    /// The host's processors.
    pub(crate) cpus: usize,
    /// Load average of the last minute: before, then after each pass.
    pub(crate) load: Vec<String>,
    /// What lay below.
    pub(crate) storage: String,
    /// How often each row ran on each target.
    pub(crate) rounds: u32,
    /// How much a row did.
    pub(crate) sizes: Sizes,
    /// In the order of the tables; ratios are to the first.
    pub(crate) columns: Vec<Column>,
    /// One table each.
    pub(crate) passes: Vec<Pass>,
}

/// The load average of the last minute.
pub(crate) fn load() -> String {
    fs::read_to_string("/proc/loadavg").ok().and_then(|text| text.split(' ').next().map(str::to_owned)).unwrap_or_else(|| "?".into())
}

impl Report {
    /// With nothing measured yet.
    pub(crate) fn new(storage: String, rounds: u32, sizes: Sizes) -> Report {
        let date = Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]).output();
        Report {
            date: date.map(|done| String::from_utf8_lossy(&done.stdout).trim().to_owned()).unwrap_or_default(),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            load: vec![load()],
            storage,
            rounds,
            sizes,
            columns: Vec::new(),
            passes: Vec::new(),
        }
    }

    /// Reads what [`Report::save`] wrote.
    pub(crate) fn load(path: &Path) -> Result<Report> {
        let text = fs::read_to_string(path).naming(path.display())?;
        serde_json::from_str(&text).naming(format_args!("{} is no file of ours", path.display()))
    }

    /// Writes it as JSON.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).naming("JSON")?;
        fs::write(path, text).naming(path.display())
    }
}

impl Line {
    /// The middle of a cell's ratios to `base`, round by round: what was slow for
    /// both in a round cancels. With it their spread, (max - min) / median.
    pub(crate) fn ratio(&self, base: &str, target: &str) -> Option<(f64, f64)> {
        let (base, target) = (self.cells.get(base)?, self.cells.get(target)?);
        let ratios: Vec<f64> = base.us.iter().zip(&target.us).map(|(base, target)| base / target).collect();
        let middle = median(&ratios)?;
        let (low, high) = ratios.iter().fold((f64::MAX, f64::MIN), |(low, high), &r| (low.min(r), high.max(r)));
        Some((middle, (high - low) / middle))
    }

    /// Microseconds an operation.
    pub(crate) fn us(&self, target: &str) -> Option<f64> {
        median(&self.cells.get(target)?.us)
    }

    /// Microseconds of the server an operation.
    pub(crate) fn server_us(&self, target: &str) -> Option<f64> {
        median(&self.cells.get(target)?.server_us)
    }

    /// Requests an operation.
    pub(crate) fn requests(&self, target: &str) -> Option<f64> {
        median(&self.cells.get(target)?.requests)
    }
}

/// The middle of a few values.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    match sorted.len() % 2 {
        1 => Some(upper),
        _ => sorted.get(sorted.len() / 2 - 1).map(|lower| (lower + upper) / 2.0),
    }
}
