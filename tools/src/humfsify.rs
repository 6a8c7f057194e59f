//! `humfsify`: the classic command, as a program of its own.

use crate::cli::parse_size;
use crate::failure::Result;
use crate::hostuser::HostUser;
use crate::progress::Progress;
use crate::{logging, process};
use clap::{CommandFactory, FromArgMatches, Parser, ValueHint};
use humfs::humfsify::{self, Pass, Request};
use std::ffi::OsString;
use std::path::PathBuf;

/// Turn a directory tree into a humfs tree, in place, and back
#[derive(Parser, Clone, Debug)]
#[command(name = "humfsify", version, after_help = HELP)]
struct Arguments {
    /// The host's user who is to own the files, by name or number
    #[arg(value_name = "USER", required_unless_present = "restore")]
    user: Option<String>,
    /// The group, by name or number
    #[arg(value_name = "GROUP", required_unless_present = "restore")]
    group: Option<String>,
    /// How much the tree may hold, in bytes or with K, M, G or T
    #[arg(value_name = "SIZE", value_parser = parse_size, required_unless_present = "restore")]
    size: Option<u64>,
    /// Give the files back the owners and modes that their records say, and remove the records
    #[arg(short = 'r', long, conflicts_with_all = ["user", "group", "size"])]
    restore: bool,
    /// The directory that holds 'data'
    #[arg(short = 'C', long, value_name = "TREE", default_value = ".", value_hint = ValueHint::DirPath)]
    directory: PathBuf,
}

const HELP: &str = "\
The files are in TREE/data. Their owners, modes, device numbers and attributes are recorded beside it, in the shadow_fs format; then everything
becomes USER's, and 'externfs mount humfs TREE' shows it as it was. What is cut short is completed by the same command again. A tree that is
converted already is refused.

Examples:
  cd /srv/guest && humfsify jdike jdike 4G
  humfsify -C /srv/guest 1000 1000 20G
  humfsify -C /srv/guest -r";

/// The definition of the command line, for its man page.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the command line `arguments`, the program's name first.
///
/// # Errors
/// One line for people.
pub fn run(arguments: &[OsString]) -> Result<u8> {
    let matches = command().get_matches_from(arguments);
    let asked = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    logging::start(0);
    process::raise_file_limit();
    let mut progress: Option<(Pass, Progress)> = None;
    let told = &mut |pass, _count| {
        if progress.as_ref().is_none_or(|(shown, _)| *shown != pass) {
            let length = progress.take().map(|(_, done)| done.items());
            progress = Some((pass, Progress::of_items(length)));
        }
        if let Some((_, progress)) = &mut progress {
            progress.told(0);
        }
    };
    if let (Some(user), Some(group), Some(total)) = (&asked.user, &asked.group, asked.size) {
        let owner = HostUser::find(user, Some(group))?;
        humfsify::convert(&asked.directory, &Request { uid: owner.uid.as_raw(), gid: owner.gid.as_raw(), total }, told)?;
    } else {
        humfsify::restore(&asked.directory, told)?;
    }
    Ok(0)
}
