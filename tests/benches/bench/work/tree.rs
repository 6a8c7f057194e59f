//! Rows about a tree of small files, run with the programs that people use.

use super::fixture::{NEEDLE, TREE};
use super::{Place, Sample};
use crate::fault::{Naming, Result, fault};
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs a program to its end with nothing to read, and nowhere to write but our stderr.
pub(super) fn run(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().naming(format_args!("{command:?}"))?;
    if status.success() { Ok(()) } else { fault(format!("{command:?}: {status}")) }
}

fn unpack(place: &Place<'_>) -> Result<()> {
    run(Command::new("tar").arg("-xf").arg(place.archive).arg("-C").arg(&place.scratch))
}

pub(super) fn copy_in(place: &Place<'_>) -> Result<Sample> {
    place.time(place.sizes.tree, || unpack(place))
}

fn find(tree: &Path) -> Result<()> {
    run(Command::new("find").arg(tree).arg("-ls"))
}

pub(super) fn find_ls(place: &Place<'_>) -> Result<Sample> {
    let tree = place.root.join(TREE);
    find(&tree)?;
    place.time(place.sizes.tree * 2, || find(&tree).and_then(|()| find(&tree)))
}

pub(super) fn grep_r(place: &Place<'_>) -> Result<Sample> {
    let tree = place.root.join(TREE);
    // -c, since GNU grep stops at the first match when its output is /dev/null.
    let grep = || run(Command::new("grep").args(["-r", "-c", "-F", "-e", NEEDLE]).arg(&tree));
    grep()?;
    place.time(place.sizes.tree * 2, || grep().and_then(|()| grep()))
}

pub(super) fn rm_rf(place: &Place<'_>) -> Result<Sample> {
    unpack(place)?;
    let tree = place.scratch.join(TREE);
    place.time(place.sizes.tree, || run(Command::new("rm").arg("-rf").arg(&tree)))
}
