//! `externfs resize`.

use crate::cli::Resize;
use crate::failure::Result;

/// Changes the limit of a tree, mounted or not.
///
/// # Errors
/// The library's line.
pub fn run(asked: &Resize) -> Result<()> {
    crate::hostuser::act_as_owner_of(&asked.tree)?;
    Ok(humfs::tree::resize(&asked.tree, asked.size)?)
}
