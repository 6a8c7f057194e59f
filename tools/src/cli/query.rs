//! The command that asks a tree in SQL.

use super::known::Known;
use clap::{Args, ValueHint};
use sqlfs::query::Format;
use std::ffi::OsString;

/// Arguments of `query`.
#[derive(Args, Clone, Debug)]
#[command(after_help = QUERY_HELP)]
pub struct Query {
    /// A humfs tree, mounted or not; or hostfs:DIR for any directory
    #[arg(value_name = "TREE|hostfs:DIR", value_hint = ValueHint::DirPath)]
    pub tree: OsString,
    /// One statement that only reads, if there is no --repl
    #[arg(value_name = "SQL", conflicts_with = "repl")]
    pub sql: Option<String>,
    /// What the answer looks like: table, csv, tsv, json, jsonl, nul or text [default: table on a terminal, else text]
    #[arg(long, value_name = "FORMAT", value_parser = FORMATS, hide_possible_values = true)]
    pub format: Option<Format>,
    /// The plan instead of the answer, with a warning for each table that is read whole
    #[arg(long, conflicts_with = "repl")]
    pub explain: bool,
    /// Ask one question after another, with a history and completion; .help tells more
    #[arg(long)]
    pub repl: bool,
    /// How long a statement may run
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub time: u64,
    /// How many rows an answer may have, which may then be 1 GiB instead of 64 MiB [default: 1000000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub rows: Option<u64>,
    /// With hostfs:DIR, go into other file systems that are mounted below DIR too
    #[arg(long)]
    pub all_filesystems: bool,
}

const QUERY_HELP: &str = "\
Views: root_fs has a row for each name, root_inodes for each object, then root_xattrs, root_usage and root_changes. sqlfs/MAPPING.md has their columns. \
A tree that is mounted is asked through whoever serves it, and has in it what was done until now. Of a directory a catalog is made first, in $TMPDIR, and \
removed again; links are not followed. An answer is whole or refused, never cut.

Examples:
  externfs query /srv/guest \"select name from root_fs where setuid = 1\"
  externfs query /srv/guest \"select name, bytes from root_usage where kind = 'user'\"
  externfs query hostfs:/home \"select name, size from root_fs order by size desc limit 20\"
  externfs query hostfs:. \"select '.'||raw from root_fs where uid=5\" --format nul | xargs -0 ls -d
  externfs query --repl /srv/guest";

const FORMATS: Known<Format> = Known { words: || vec!["table", "csv", "tsv", "json", "jsonl", "nul", "text"], parse: parse_format };

/// The format called `name`.
///
/// # Errors
/// Those there are.
pub(crate) fn parse_format(name: &str) -> Result<Format, String> {
    let format = if name == "text" { Some(Format::Text) } else { Format::parse(name) };
    format.ok_or_else(|| "there are table, csv, tsv, json, jsonl, nul and text".into())
}
