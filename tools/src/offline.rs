//! A small client over [`Export`], for changing a tree that nobody has
//! mounted.
//!
//! Everything goes through the same bridge that a guest's requests go
//! through, as guest root: so it works on every plugin and every format, and
//! is as safe against being killed as a mount is. No host path is ever
//! opened for what is inside a tree.
//!
//! Links are never followed. A path that leads through one is refused, with
//! the link's target in the message: what it would lead to in the guest
//! depends on the guest's mounts.

pub(crate) mod accounts;
mod data;
mod node;
mod open;
mod path;

pub use accounts::Accounts;
pub use node::{File, Node};
pub use open::{open, source_of};
pub use path::TreePath;

use crate::failure::{Failure, Result};
use crate::shown;
use externfs::{Caller, Connect, Errno, Error, Export, FileKind, NodeId};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// One view of a tree, as guest root.
#[derive(Clone)]
pub struct Offline {
    export: Arc<dyn Export>,
    caller: Caller,
    closer: Arc<Closer>,
}

/// Puts the tree in order when the last of a view is gone, unless that was
/// done before. It loses nothing when it is not: the next one who opens the
/// tree does it then.
struct Closer {
    connect: Arc<dyn Connect>,
    closed: AtomicBool,
}

impl Drop for Closer {
    fn drop(&mut self) {
        if !self.closed.load(Ordering::Relaxed) {
            let _ = self.connect.close();
        }
    }
}

impl Offline {
    /// A view of what `connect` leads to.
    ///
    /// # Errors
    /// The tree cannot be opened.
    pub fn new(connect: Arc<dyn Connect>) -> Result<Offline> {
        let export = connect.connect().map_err(|error| Failure::new(format!("cannot open the tree: {}", why(&error))))?;
        Ok(Offline { export, caller: Caller::root(), closer: Arc::new(Closer { connect, closed: AtomicBool::new(false) }) })
    }

    /// Puts the tree in order at the end of a change.
    ///
    /// # Errors
    /// EIO. The change has happened all the same.
    pub fn close(self) -> Result<()> {
        self.closer.closed.store(true, Ordering::Relaxed);
        self.closer.connect.close().map_err(|error| Failure::new(format!("the tree is not left in order: {}", why(&error))))
    }

    /// The tree's root.
    ///
    /// # Errors
    /// EIO if its record cannot be read.
    pub fn root(&self) -> externfs::Result<Node> {
        let (attr, _) = self.export.get_attr(NodeId::ROOT, None)?;
        Ok(Node::root(self.clone(), attr))
    }

    /// What is called `path`. Of a link that is the link.
    ///
    /// # Errors
    /// A line with the first component that is not there or cannot be passed.
    pub fn resolve(&self, path: &TreePath) -> Result<Node> {
        let mut at = self.root().map_err(|error| failed("", &error))?;
        let mut walked: Vec<u8> = Vec::new();
        for name in path.names() {
            check_passable(&at, &walked)?;
            if !walked.is_empty() {
                walked.push(b'/');
            }
            walked.extend(name.as_bytes());
            at = at.lookup(name).map_err(|error| failed(&walked, &error))?;
        }
        Ok(at)
    }

    /// The directory that `path` is in, and its last component.
    ///
    /// # Errors
    /// As for [`Offline::resolve`]; the root has no name.
    pub fn resolve_parent<'p>(&self, path: &'p TreePath) -> Result<(Node, externfs::Name<'p>)> {
        let (parent, name) = path.split_last().ok_or_else(|| Failure::new("/: it is the root of the tree, and has no name"))?;
        let node = self.resolve(&parent)?;
        check_passable(&node, parent.as_bytes())?;
        Ok((node, name))
    }

    /// What is free and what is used.
    ///
    /// # Errors
    /// EIO.
    pub fn statfs(&self) -> externfs::Result<externfs::StatFs> {
        self.export.statfs(NodeId::ROOT)
    }

    /// Makes everything durable.
    ///
    /// # Errors
    /// EIO.
    pub fn sync(&self) -> externfs::Result<()> {
        self.export.sync()
    }

    /// What is held at the moment, for tests.
    #[must_use]
    pub fn statistics(&self) -> externfs::Statistics {
        self.export.statistics()
    }
}

/// Refuses to go on below what is no directory.
fn check_passable(node: &Node, path: &[u8]) -> Result<()> {
    let shown = shown::path(path);
    match node.attr().kind {
        FileKind::Directory => Ok(()),
        FileKind::Symlink => {
            let target = node.read_link().map(|target| shown::text(&target)).unwrap_or_default();
            Err(Failure::new(format!("{shown}: it is a symbolic link, which is not followed: name what it leads to, {target}")))
        }
        _ => Err(Failure::new(format!("{shown}: {}", Errno::ENOTDIR.phrase()))),
    }
}

/// The line for `error` at `path`.
#[must_use]
pub fn failed(path: impl AsRef<[u8]>, error: &Error) -> Failure {
    Failure::new(format!("{}: {}", shown::path(path.as_ref()), why(error)))
}

/// What went wrong, with the reason if the plugin gave one.
#[must_use]
pub fn why(error: &Error) -> String {
    let errno = error.errno();
    let phrase = if errno.symbol() == "errno" {
        crate::failure::phrase(&std::io::Error::from_raw_os_error(errno.raw()))
    } else {
        errno.phrase().to_owned()
    };
    match error.reason() {
        Some(reason) => format!("{phrase}: {reason}"),
        None => phrase,
    }
}

#[cfg(test)]
mod tests;
