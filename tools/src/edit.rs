//! `externfs ls|stat|chown|chmod|mknod|ln|cp-in|cp-out`: looking at a tree and
//! changing it without mounting it, as guest root.

pub mod copy;
pub mod list;
pub mod make;
pub mod mode;
pub mod owner;
pub mod status;

use crate::failure::{Failure, Result};
use crate::offline::{Node, Offline, TreePath, failed};
use externfs::FileKind;
use std::ffi::OsString;
use std::io::Write;

/// The paths of a command line, all checked before anything is done.
pub(crate) fn paths(arguments: &[OsString]) -> Result<Vec<TreePath>> {
    arguments.iter().map(|argument| TreePath::from_argument(argument)).collect()
}

/// Calls `act` with each of `paths` and, if `recurse`, with all below.
fn for_each(tree: &Offline, paths: &[TreePath], recurse: bool, act: &mut dyn FnMut(&TreePath, &mut Node) -> Result<()>) -> Result<()> {
    for path in paths {
        let mut ahead = vec![(path.clone(), tree.resolve(path)?)];
        while let Some((path, mut node)) = ahead.pop() {
            act(&path, &mut node)?;
            if !recurse || node.attr().kind != FileKind::Directory {
                continue;
            }
            let names = node.names().map_err(|error| failed(path.as_bytes(), &error))?;
            for bytes in names.iter().rev() {
                let name = externfs::Name::new(bytes).map_err(|errno| failed(path.as_bytes(), &errno.into()))?;
                let child = path.child(name);
                if let Some(node) = node.find(name).map_err(|error| failed(child.as_bytes(), &error))? {
                    ahead.push((child, node));
                }
            }
        }
    }
    Ok(())
}

/// Prints `bytes`. That nobody reads them to their end is no failure.
pub(crate) fn print(bytes: &[u8]) -> Result<()> {
    match std::io::stdout().write_all(bytes) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::io("cannot write to standard output", &error)),
        _ => Ok(()),
    }
}
