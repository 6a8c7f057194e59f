//! Benchmarks: our mounts against the native file system and against peers,
//! interleaved so that a noisy machine is noisy for all alike.
//!
//! ```text
//! cargo bench -p externfs-tests -- host                 # everything on the host
//! cargo bench -p externfs-tests -- guest                # UML and QEMU guests
//! cargo bench -p externfs-tests -- on NAME=DIR ...      # any directories; the first is what the others are compared with
//! cargo bench -p externfs-tests -- compare OLD NEW      # two files written with --json
//! ```
//! Options: `--rounds N`, `--files N`, `--mib N`, `--pinned` (client and server
//! on one CPU: the steadier way to judge code), `--only TEXT` (steps whose name
//! contains it), `--json FILE`, `--dir DIR` (where the trees lie: a journalled
//! ext4, or figures mean little).

mod guests;
mod map;
mod measure;
mod report;
mod steps;
mod targets;

use measure::{Plan, measure};
use std::path::PathBuf;
use std::process::ExitCode;
use targets::Target;

/// What the command line says.
#[derive(Clone, Debug)]
struct Arguments {
    words: Vec<String>,
    plan: Plan,
    json: Option<PathBuf>,
    dir: PathBuf,
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut parsed = Arguments { words: Vec::new(), plan: Plan::default(), json: None, dir: std::env::temp_dir() };
    let mut rest = arguments;
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or(format!("{argument} needs a value"));
        let number = |text: String| text.parse::<usize>().map_err(|_| format!("{text} is no number"));
        match argument.as_str() {
            // Cargo adds it.
            "--bench" => {}
            "--pinned" => parsed.plan.pinned = true,
            "--rounds" => parsed.plan.rounds = number(value()?)?.max(1),
            "--files" => parsed.plan.files = number(value()?)?.max(10),
            "--mib" => parsed.plan.mebibytes = number(value()?)?.max(1),
            "--only" => parsed.plan.only.push(value()?),
            "--json" => parsed.json = Some(value()?.into()),
            "--dir" => parsed.dir = value()?.into(),
            other if other.starts_with('-') => return Err(format!("unknown option {other}; see the head of tests/benches/bench/main.rs")),
            word => parsed.words.push(word.to_owned()),
        }
    }
    Ok(parsed)
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let words: Vec<&str> = arguments.words.iter().map(String::as_str).collect();
    let results = match words.as_slice() {
        ["compare", old, new] => return report::compare(old.as_ref(), new.as_ref()),
        [] | ["host"] => measure(&targets::host(&arguments.dir)?, &arguments.plan)?,
        ["guest"] => return guests::run(&arguments.dir, &arguments.plan, arguments.json.as_deref()),
        ["on", places @ ..] if !places.is_empty() => {
            let targets = places.iter().map(|place| Target::named(place)).collect::<Result<Vec<_>, _>>()?;
            measure(&targets, &arguments.plan)?
        }
        _ => return Err(format!("cannot understand {words:?}; see the head of tests/benches/bench/main.rs")),
    };
    report::print(&results);
    arguments.json.as_deref().map_or(Ok(()), |path| report::save(&results, path))
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)).and_then(|arguments| run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("bench: {why}");
            ExitCode::FAILURE
        }
    }
}
