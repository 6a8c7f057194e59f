//! `externfs convert`.

use crate::cli::Convert;
use crate::failure::Result;
use crate::process;
use crate::progress::Progress;

/// Moves the records of a tree into another format.
///
/// # Errors
/// The library's line.
pub fn run(asked: &Convert) -> Result<()> {
    process::raise_file_limit();
    crate::hostuser::act_as_owner_of(&asked.tree)?;
    let mut progress = Progress::of_items(None);
    let count = humfs::convert::convert(&asked.tree, asked.metadata, &mut |_| progress.told(0))?;
    progress.finish();
    tracing::info!("{}: {count} objects converted to {}", asked.tree.display(), asked.metadata.name());
    Ok(())
}
