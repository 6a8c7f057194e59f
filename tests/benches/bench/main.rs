//! Benchmarks: our mounts and guests against the native file system and against
//! peers, interleaved so that a noisy machine is noisy for all alike. How to run
//! and read them: tests/benches/README.md.

mod catalog;
mod clock;
mod fault;
mod guest;
mod host;
mod record;
mod rounds;
mod sizes;
mod table;
mod work;

use clap::{Args, Parser, Subcommand};
use externfs_tests::ordinary;
use fault::{Result, fault};
use host::Scheduling;
use record::Report;
use sizes::Sizes;
use std::path::PathBuf;
use std::process::ExitCode;
use work::{ROWS, Row};

#[derive(Parser)]
#[command(about = "Benchmarks of externfs", after_help = "Run as: cargo bench -p externfs-tests -- host --quick")]
struct Line {
    #[command(subcommand)]
    command: Command,
    /// Cargo adds it.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Mounts on this host: native, ours, bindfs, fuse-overlayfs
    Host {
        #[command(flatten)]
        common: Common,
        /// Columns to run, separated by commas; all by default
        #[arg(long, value_delimiter = ',')]
        targets: Vec<String>,
        /// One more column of ours, mounted with these options; may be repeated
        #[arg(long = "try", value_name = "NAME=OPTIONS")]
        more: Vec<String>,
        /// Count requests an operation too; tracing them slows each a little
        #[arg(long)]
        requests: bool,
        /// Schedulings to run, separated by commas
        #[arg(long, value_delimiter = ',', default_value = "default,pinned")]
        scheduling: Vec<Scheduling>,
        /// Where the loop image lies
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Guests: QEMU against virtiofsd, User Mode Linux against its in-kernel hostfs
    Guest {
        #[command(flatten)]
        common: Common,
        /// Kinds to run, separated by commas
        #[arg(long, value_delimiter = ',', default_value = "qemu,uml")]
        kinds: Vec<guest::Kind>,
        /// The peer; by default from PATH or target/tools/bin
        #[arg(long, value_name = "PATH")]
        virtiofsd: Option<PathBuf>,
        /// A kernel for QEMU as tests/guest/fetch-kernel leaves one in a directory; by default the guest suite's
        #[arg(long, value_name = "DIR")]
        kernel: Option<PathBuf>,
    },
    /// Directories that are there already; ratios are to the first
    On {
        #[command(flatten)]
        common: Common,
        /// Where the first is native, names that begin with `ours` are ours, and others are peers
        #[arg(required = true, value_name = "NAME=DIR")]
        places: Vec<String>,
        /// Schedulings of the client to run, separated by commas
        #[arg(long, value_delimiter = ',', default_value = "default")]
        scheduling: Vec<Scheduling>,
    },
    /// The catalog of a humfs tree: what it costs, and what it answers
    Catalog {
        /// Rounds of changes, with and without it in each
        #[arg(long, default_value_t = 7)]
        rounds: u32,
        /// Files that are changed in a round
        #[arg(long, default_value_t = 3000)]
        changes: usize,
        /// Files of the tree that is queried
        #[arg(long, default_value_t = 100_000)]
        files: usize,
    },
    /// What changed between two files written with --json
    Compare {
        /// The earlier
        old: PathBuf,
        /// The later
        new: PathBuf,
    },
}

#[derive(Args)]
struct Common {
    /// Rounds, each of which visits every target with every row [default: 5, quick 3]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Fewer operations and rounds
    #[arg(long)]
    quick: bool,
    /// Also write every value to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Rows to run, separated by commas; `*` at the end stands for any rest
    #[arg(long, value_delimiter = ',', value_name = "ROW")]
    only: Vec<String>,
}

impl Common {
    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 3 } else { 5 })
    }

    /// The rows chosen among those for which `fit`.
    fn rows(&self, fit: fn(&Row) -> bool) -> Result<Vec<&'static Row>> {
        let matches = |row: &Row, wanted: &String| match wanted.strip_suffix('*') {
            Some(start) => row.name.starts_with(start),
            None => row.name == wanted,
        };
        let known = || ROWS.iter().filter(|row| fit(row));
        if let Some(unknown) = self.only.iter().find(|wanted| !known().any(|row| matches(row, wanted))) {
            return fault(format!("no row {unknown}; there are {}", known().map(|row| row.name).collect::<Vec<_>>().join(", ")));
        }
        Ok(known().filter(|row| self.only.is_empty() || self.only.iter().any(|wanted| matches(row, wanted))).collect())
    }

    fn finish(&self, report: &Report) -> Result<()> {
        table::print(report);
        self.json.as_deref().map_or(Ok(()), |path| report.save(path))
    }
}

fn choice(common: &Common, passes: Vec<Scheduling>) -> Result<host::Choice> {
    Ok(host::Choice {
        rounds: common.rounds(),
        sizes: if common.quick { Sizes::QUICK } else { Sizes::FULL },
        rows: common.rows(|_| true)?,
        targets: Vec::new(),
        more: Vec::new(),
        count: false,
        passes,
        dir: std::env::temp_dir(),
    })
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Host { common, targets, more, requests, scheduling, dir } => {
            let chosen = host::Choice {
                targets,
                more,
                count: requests,
                dir: dir.unwrap_or_else(std::env::temp_dir),
                ..choice(&common, scheduling)?
            };
            // What took minutes is kept, whatever happens to the next pass.
            let save = |report: &Report| common.json.as_deref().map_or(Ok(()), |path| report.save(path));
            common.finish(&host::run(&chosen, save)?)
        }
        Command::On { common, places, scheduling } => common.finish(&host::on(&places, &choice(&common, scheduling)?)?),
        Command::Guest { common, kinds, virtiofsd, kernel } => {
            let choice = guest::Choice {
                rounds: common.rounds(),
                sizes: if common.quick { Sizes::GUEST_QUICK } else { Sizes::GUEST },
                rows: common.rows(|row| row.guest)?,
                virtiofsd,
                kernel,
            };
            for kind in kinds {
                let report = guest::run(kind, &choice)?;
                // One file a kind: the columns differ.
                let json = common.json.as_deref().map(|path| path.with_extension(format!("{}.json", kind.name())));
                table::print(&report);
                json.map_or(Ok(()), |path| report.save(&path))?;
            }
            Ok(())
        }
        Command::Catalog { rounds, changes, files } => catalog::run(&catalog::Choice { rounds, files: (changes, files) }),
        Command::Compare { old, new } => table::compare(&old, &new),
    }
}

fn main() -> ExitCode {
    // In a guest this very program is the first process.
    if std::process::id() == 1 {
        guest::init::main();
    }
    let line = Line::parse();
    let measure = || match run(line.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("bench: {why}");
            ExitCode::FAILURE
        }
    };
    // Some columns are an ordinary user's mounts.
    if std::env::args().nth(1).is_some_and(|word| word == "host" || word == "catalog") {
        ordinary::in_own_mounts(measure)
    } else {
        measure()
    }
}
