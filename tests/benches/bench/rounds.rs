//! The measuring loop: rounds over rows over targets.
//!
//! Targets are innermost and take turns in beginning, so that what disturbs the
//! machine for some seconds disturbs all of them, and none is always the one
//! that runs after the noisy neighbour.

use crate::fault::{Naming, Result};
use crate::record::{Cell, Line};
use crate::sizes::Sizes;
use crate::work::{Meter, Place, Row, Sample};
use std::fs;
use std::path::{Path, PathBuf};

/// A directory to measure.
pub(crate) struct Subject<'a> {
    /// The column.
    pub(crate) name: &'a str,
    /// The root, with the fixtures.
    pub(crate) root: &'a Path,
    /// Told of the timed parts.
    pub(crate) meter: &'a dyn Meter,
    /// Whether there is a server whose time counts.
    pub(crate) served: bool,
    /// Its process, if it is here and may be ended when it hangs.
    pub(crate) server: Option<u32>,
}

/// What to do on each.
pub(crate) struct Course<'a> {
    /// In this order.
    pub(crate) rows: &'a [&'static Row],
    /// How often.
    pub(crate) rounds: u32,
    /// How much.
    pub(crate) sizes: &'a Sizes,
    /// For unpacking.
    pub(crate) archive: &'a Path,
}

impl Course<'_> {
    /// Runs everything. `next` hears of each target before, `told` of each measurement after.
    pub(crate) fn run(
        &self,
        subjects: &[Subject<'_>],
        next: impl Fn(&Subject<'_>),
        mut told: impl FnMut(u32, &Row, &Subject<'_>, &Result<Sample>),
    ) {
        for round in 0..self.rounds {
            for (index, row) in self.rows.iter().enumerate() {
                let first = (round as usize + index) % subjects.len().max(1);
                let (tail, head) = subjects.split_at(first);
                for subject in head.iter().chain(tail) {
                    next(subject);
                    let result = self.one(row, round, subject);
                    told(round, row, subject, &result);
                }
            }
        }
    }

    fn one(&self, row: &Row, round: u32, subject: &Subject<'_>) -> Result<Sample> {
        // A name that was never used: nobody's cache may know anything about it.
        let scratch: PathBuf = subject.root.join(format!("{}-{round}", row.name));
        fs::create_dir(&scratch).naming(scratch.display())?;
        let place = Place { root: subject.root, scratch: scratch.clone(), sizes: self.sizes, archive: self.archive, meter: subject.meter };
        let sample = (row.run)(&place);
        let sample = sample?;
        fs::remove_dir_all(&scratch).naming(scratch.display())?;
        crate::work::cold::settle(subject.root)?;
        Ok(sample)
    }
}

/// Empty lines for `rows`.
pub(crate) fn lines(rows: &[&'static Row]) -> Vec<Line> {
    rows.iter().map(|row| Line { name: row.name.into(), unit: row.unit.into(), ..Line::default() }).collect()
}

/// Notes one measurement.
pub(crate) fn note(lines: &mut [Line], row: &str, target: &str, served: bool, result: &Result<Sample>) {
    let Some(line) = lines.iter_mut().find(|line| line.name == row) else { return };
    let cell: &mut Cell = line.cells.entry(target.to_owned()).or_default();
    match result {
        Ok(sample) => {
            let each = |nanos: u64| nanos as f64 / 1000.0 / sample.ops.max(1) as f64;
            cell.us.push(each(sample.nanos));
            if served {
                cell.server_us.push(each(sample.cost.nanos));
            }
            cell.requests.extend(sample.cost.requests.map(|requests| requests as f64 / sample.ops.max(1) as f64));
        }
        Err(why) => {
            eprintln!("{row} on {target}: {why}");
            cell.fault = Some(why.to_string());
        }
    }
}
