//! Mounts on this host, against the native file system and against peers.

pub(crate) mod image;
pub(crate) mod server;
mod target;
mod watchdog;

use crate::clock::ServerClock;
use crate::fault::{Fault, Naming, Result, fault};
use crate::record::{Column, Pass, Report, Role, load};
use crate::rounds::{Course, Subject, lines, note};
use crate::sizes::Sizes;
use crate::work::{Row, fixture};
use externfs_tests::requests::Requests;
use image::Image;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::path::{Path, PathBuf};
use target::{SPECS, Spec, Target};
use watchdog::Watchdog;

/// What the user chose.
pub(crate) struct Choice {
    /// Rounds.
    pub(crate) rounds: u32,
    /// Amounts.
    pub(crate) sizes: Sizes,
    /// Rows.
    pub(crate) rows: Vec<&'static Row>,
    /// Columns by name; empty for all.
    pub(crate) targets: Vec<String>,
    /// Further columns of ours, NAME=OPTIONS.
    pub(crate) more: Vec<String>,
    /// Whether to count requests.
    pub(crate) count: bool,
    /// Schedulings by name.
    pub(crate) passes: Vec<Scheduling>,
    /// Where the image file lies.
    pub(crate) dir: PathBuf,
}

/// Where client and server run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Scheduling {
    /// As the kernel likes.
    Default,
    /// Both on one processor: no luck of placement, so the steadier way to judge code.
    Pinned,
}

/// A processor set that ends with its guard. Children inherit it, with all
/// their threads, which is why it is set before any server starts.
struct Affinity(CpuSet);

impl Affinity {
    fn set(scheduling: Scheduling) -> Result<Affinity> {
        let before = sched_getaffinity(None).naming("sched_getaffinity")?;
        if scheduling == Scheduling::Pinned {
            let first = (0..CpuSet::MAX_CPU).find(|&cpu| before.is_set(cpu)).unwrap_or(0);
            let mut one = CpuSet::new();
            one.set(first);
            sched_setaffinity(None, &one).naming("sched_setaffinity")?;
        }
        Ok(Affinity(before))
    }
}

impl Drop for Affinity {
    fn drop(&mut self) {
        if let Err(errno) = sched_setaffinity(None, &self.0) {
            eprintln!("cannot go back to all processors: {errno}");
        }
    }
}

impl Scheduling {
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Scheduling::Default => ("default", "scheduled as the kernel likes"),
            Scheduling::Pinned => ("pinned", "client and server on one CPU"),
        }
    }
}

/// Runs the host's tables; `done` gets the report as it grows, pass by pass.
pub(crate) fn run(choice: &Choice, done: impl Fn(&Report) -> Result<()>) -> Result<Report> {
    if !rustix::process::geteuid().is_root() {
        return fault("the host benchmarks need root (loop device, mounts, drop_caches): run them with sudo");
    }
    let image = Image::new(&choice.dir)?;
    let archive = image.room().join("tree.tar");
    fixture::pack_tree(&archive, image.room(), choice.sizes.tree)?;
    let specs = specs(&choice.targets, &choice.more)?;
    let mut report = Report::new(image.words().to_owned(), choice.rounds, choice.sizes);
    for spec in &specs {
        let tree = spec.lay_out(&image)?;
        if !spec.is_filled_through() {
            fixture::make(&tree, &choice.sizes, &archive)?;
        }
    }
    for &scheduling in &choice.passes {
        let _affinity = Affinity::set(scheduling)?;
        let mut targets = Vec::new();
        for spec in &specs {
            let Some(target) = start(spec, &image) else { continue };
            if spec.is_filled_through() && !target.root.join(fixture::DATA).exists() {
                fixture::make(&target.root, &choice.sizes, &archive)?;
            }
            targets.push(target);
        }
        report.columns = targets.iter().map(|t| t.column.clone()).collect();
        report.passes.push(pass(choice, scheduling.words(), &targets, &archive));
        report.load.push(load());
        done(&report)?;
    }
    Ok(report)
}

/// The chosen columns, and those that the user made up.
fn specs(wanted: &[String], more: &[String]) -> Result<Vec<Spec>> {
    if let Some(unknown) = wanted.iter().find(|name| SPECS.iter().all(|spec| spec.name != name.as_str())) {
        let known: Vec<&str> = SPECS.iter().map(|spec| spec.name.as_ref()).collect();
        return fault(format!("unknown target {unknown}; known are {}", known.join(", ")));
    }
    let chosen = SPECS.iter().filter(|spec| wanted.is_empty() || wanted.iter().any(|name| spec.name == name.as_str())).cloned().map(Ok);
    chosen.chain(more.iter().map(|text| Spec::parse(text))).collect()
}

/// Brings a column up; what is not installed is left out, aloud.
fn start(spec: &Spec, image: &Image) -> Option<Target> {
    spec.start(image).map_err(|why| eprintln!("left out: {}: {why}", spec.name)).ok()
}

fn clock(target: &Target, count: bool) -> ServerClock {
    let pid = target.server_pid();
    let counted = pid.filter(|_| count).map(|_| Requests::of(&target.root, &target.column.name));
    let requests = counted.and_then(|counted| counted.map_err(|why| eprintln!("requests not counted: {why}")).ok());
    ServerClock::new(pid).counting(requests)
}

fn pass(choice: &Choice, (name, words): (&str, &str), targets: &[Target], archive: &Path) -> Pass {
    let clocks: Vec<ServerClock> = targets.iter().map(|target| clock(target, choice.count)).collect();
    let subjects: Vec<Subject<'_>> = targets
        .iter()
        .zip(&clocks)
        .map(|(target, clock)| Subject {
            name: &target.column.name,
            root: &target.root,
            meter: clock,
            served: target.server_pid().is_some(),
            server: target.server_pid(),
        })
        .collect();
    let mut pass = Pass { name: name.into(), scheduling: words.into(), lines: lines(&choice.rows) };
    let course = Course { rows: &choice.rows, rounds: choice.rounds, sizes: &choice.sizes, archive };
    let mut last = u32::MAX;
    let watchdog = Watchdog::new();
    course.run(
        &subjects,
        |subject| watchdog.watch(subject.server),
        |round, row, subject, result| {
            if round != last {
                last = round;
                eprintln!("{name}: round {} of {}, load {}", round + 1, choice.rounds, load());
            }
            note(&mut pass.lines, row.name, subject.name, subject.served, result);
        },
    );
    pass
}

/// Measures directories that somebody else takes care of: `NAME=DIR`.
pub(crate) fn on(places: &[String], choice: &Choice) -> Result<Report> {
    let mut targets = Vec::new();
    for (index, place) in places.iter().enumerate() {
        let (name, dir) = place.split_once('=').ok_or_else(|| Fault(format!("{place}: NAME=DIR is wanted")))?;
        let role = if index == 0 {
            Role::Native
        } else if name.starts_with("ours") {
            Role::Ours
        } else {
            Role::Peer
        };
        let column = Column { name: name.into(), role, how: dir.into() };
        targets.push(Target::elsewhere(column, Path::new(dir))?);
    }
    let room = tempfile::tempdir().naming("a temporary directory")?;
    let archive = room.path().join("tree.tar");
    fixture::pack_tree(&archive, room.path(), choice.sizes.tree)?;
    for target in &targets {
        fixture::make(&target.root, &choice.sizes, &archive)?;
    }
    let mut report = Report::new("directories as given".into(), choice.rounds, choice.sizes);
    report.columns = targets.iter().map(|target| target.column.clone()).collect();
    for &scheduling in &choice.passes {
        let _affinity = Affinity::set(scheduling)?;
        report.passes.push(pass(choice, scheduling.words(), &targets, &archive));
        report.load.push(load());
    }
    Ok(report)
}
