//! `externfs chown`.

use crate::cli::Chown;
use crate::failure::Result;
use crate::offline::{self, Accounts, failed};
use externfs::SetAttr;

/// Changes owners.
///
/// # Errors
/// An owner that the tree does not know, a path that is not there.
pub fn run(asked: &Chown) -> Result<()> {
    let paths = super::paths(&asked.paths)?;
    let tree = offline::open(&asked.tree, true)?;
    let (uid, gid) = Accounts::of(&tree).owner(&asked.owner)?;
    super::for_each(&tree, &paths, asked.recursive, &mut |path, node| {
        node.set_attr(&SetAttr { uid, gid, ..SetAttr::default() }).map(drop).map_err(|error| failed(path.as_bytes(), &error))
    })?;
    tree.close()
}
