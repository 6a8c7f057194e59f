//! What runs inside a guest of the suite: its first process, which runs what
//! the host asks for, and the rows, each a check on one directory.
//!
//! ```text
//! /init                           the first process (externfs_tests::machine starts it)
//! externfs-guest-check rows DIR   every row below DIR, a line each; 1 if one failed
//! externfs-guest-check ...        the second processes that some rows need
//! ```
//! One program serves User Mode Linux, QEMU and `externfs boot`, so that all
//! of them are held to the same rows.

mod agent;
mod helper;
mod place;
mod rows;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        agent::main();
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["rows", dir, filters @ ..] => rows::run(Path::new(dir), filters),
        ["list"] => rows::list(),
        [helper, rest @ ..] => helper::run(helper, rest),
        [] => usage(),
    }
}

/// Tells how it is called.
fn usage() -> ExitCode {
    eprintln!("usage: externfs-guest-check rows DIR [--unprivileged] [NAME...] | list");
    ExitCode::from(2)
}
