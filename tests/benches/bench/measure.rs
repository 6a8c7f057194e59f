//! The measuring loop: rounds over steps over targets.

use crate::steps::{STEPS, Step, Work};
use crate::targets::Target;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Instant;

/// How much to measure.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) files: usize,
    pub(crate) mebibytes: usize,
    pub(crate) pinned: bool,
    pub(crate) only: Vec<String>,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan { rounds: 5, files: 1000, mebibytes: 64, pinned: false, only: Vec::new() }
    }
}

/// What one step took on one target, a value a round, in microseconds an
/// operation.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Cell {
    /// As the client's clock saw it.
    pub(crate) wall_us: Vec<f64>,
    /// The server's CPU time; empty where there is no server.
    pub(crate) server_us: Vec<f64>,
}

/// Everything measured, with what is needed to judge it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    /// Kernel, load, date, pinning.
    pub(crate) notes: BTreeMap<String, String>,
    /// In order; the first is what the others are compared with.
    pub(crate) targets: Vec<String>,
    /// Which targets are peers, which ours.
    pub(crate) ours: Vec<String>,
    /// In order.
    pub(crate) steps: Vec<String>,
    /// By step, then target.
    pub(crate) cells: BTreeMap<String, BTreeMap<String, Cell>>,
}

/// The middle of a few values.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => sorted.get(middle).copied(),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

fn load() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').next().unwrap_or("?").to_owned()
}

fn notes(plan: &Plan) -> BTreeMap<String, String> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    [
        ("kernel", kernel.trim().to_owned()),
        ("load before", load()),
        ("scheduling", if plan.pinned { "client and server on one CPU" } else { "default" }.to_owned()),
        ("rounds", plan.rounds.to_string()),
        ("files", plan.files.to_string()),
        ("MiB", plan.mebibytes.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

fn pin(targets: &[Target]) -> Result<(), String> {
    let mut cpus = CpuSet::new();
    cpus.set(0);
    sched_setaffinity(None, &cpus).map_err(|e| format!("cannot pin to CPU 0: {e}"))?;
    for task in targets.iter().filter_map(|target| target.server).flat_map(tasks) {
        let pid = Pid::from_raw(task as i32);
        sched_setaffinity(pid, &cpus).map_err(|e| format!("cannot pin the server's thread {task}: {e}"))?;
    }
    Ok(())
}

fn tasks(process: u32) -> Vec<u32> {
    let listing = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    listing.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// CPU time of a process in nanoseconds. The scheduler's own count: that of
/// `stat` comes in ticks of ten milliseconds.
fn cpu_ns(process: u32) -> u64 {
    let one = |task: u32| {
        let text = std::fs::read_to_string(format!("/proc/{process}/task/{task}/schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    tasks(process).into_iter().filter_map(one).sum()
}

/// Runs the plan.
pub(crate) fn measure(targets: &[Target], plan: &Plan) -> Result<Results, String> {
    let mut results = Results {
        notes: notes(plan),
        targets: targets.iter().map(|t| t.name.clone()).collect(),
        ours: targets.iter().filter(|t| t.ours).map(|t| t.name.clone()).collect(),
        ..Results::default()
    };
    if plan.pinned {
        pin(targets)?;
    }
    let wanted = |step: &Step| plan.only.is_empty() || plan.only.iter().any(|text| step.name.contains(text.as_str()));
    results.steps = STEPS.iter().filter(|step| wanted(step)).map(|step| step.name.to_owned()).collect();
    for round in 0..plan.rounds {
        let works: Vec<Work> = targets.iter().map(|t| Work::new(&t.path, plan)).collect::<Result<_, _>>()?;
        for step in STEPS {
            for (target, work) in targets.iter().zip(&works) {
                // Steps build on each other's files, so all run; only those
                // that were asked for are told.
                let cell = one(step, target, work).map_err(|e| format!("{} on {}: {e}", step.name, target.name))?;
                if let Some((wall, server)) = cell.filter(|_| wanted(step)) {
                    let into = results.cells.entry(step.name.to_owned()).or_default().entry(target.name.clone()).or_default();
                    into.wall_us.push(wall);
                    into.server_us.extend(server);
                }
            }
        }
        eprintln!("round {} of {} done, load {}", round + 1, plan.rounds, load());
    }
    results.notes.insert("load after".to_owned(), load());
    Ok(results)
}

/// Wall and server time of one operation in microseconds.
type Times = (f64, Option<f64>);

fn one(step: &Step, target: &Target, work: &Work) -> std::io::Result<Option<Times>> {
    if let Some(prepare) = step.prepare {
        prepare(work)?;
    }
    let cpu_before = target.server.map(cpu_ns);
    let begun = Instant::now();
    let operations = (step.run)(work)?;
    let wall = begun.elapsed().as_secs_f64() * 1e6;
    let cpu_after = target.server.map(cpu_ns);
    if operations == 0 {
        return Ok(None);
    }
    let server = cpu_before.zip(cpu_after).map(|(a, b)| b.saturating_sub(a) as f64 / 1e3 / operations as f64);
    Ok(Some((wall / operations as f64, server)))
}
