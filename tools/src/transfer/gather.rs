//! [`Gather`]: the items of a tree of ours, in the order of their names.

use super::{Body, Item, Origin};
use crate::failure::{Failure, Result};
use crate::offline::{File, Node, Offline, TreePath, failed};
use externfs::{Error, FileKind, Name, NodeId};
use std::collections::HashMap;

/// See the head of this file.
pub struct Gather {
    /// The directories that are being walked, outermost first.
    stack: Vec<Level>,
    /// The top, until it is told.
    top: Option<Node>,
    recurse: bool,
    /// Where files with several names were first met. They are held, so that
    /// nothing else gets their numbers.
    met: HashMap<NodeId, (TreePath, Node)>,
    current: Option<Current>,
}

struct Level {
    node: Node,
    path: TreePath,
    /// Backwards.
    names: Vec<Vec<u8>>,
}

/// The file whose contents may be asked for.
struct Current {
    node: Node,
    path: TreePath,
    file: Option<File>,
    size: u64,
    at: u64,
    /// Where the extent that is being read ends.
    until: u64,
}

impl Gather {
    /// Of `path` in `tree` and, with `recurse`, of everything below it.
    ///
    /// # Errors
    /// It is not there.
    pub fn new(tree: &Offline, path: &TreePath, recurse: bool) -> Result<Gather> {
        let top = Some(tree.resolve(path)?);
        Ok(Gather { stack: Vec::new(), top, recurse, met: HashMap::new(), current: None })
    }

    /// Remembers where a file with several names was met.
    fn meet(&mut self, node: &Node, path: &TreePath) -> Result<()> {
        // The top is all there is, or a directory.
        let (Some(level), Some((_, name))) = (self.stack.last(), path.split_last()) else { return Ok(()) };
        let again = level.node.find(name).map_err(|error| failed(path.as_bytes(), &error))?;
        // Else the name leads to something else by now.
        if let Some(again) = again.filter(|again| again.id() == node.id()) {
            self.met.insert(again.id(), (path.clone(), again));
        }
        Ok(())
    }

    /// The next node and its path.
    fn advance(&mut self) -> Result<Option<(Node, TreePath)>> {
        if let Some(top) = self.top.take() {
            return Ok(Some((top, TreePath::default())));
        }
        while let Some(level) = self.stack.last_mut() {
            let Some(bytes) = level.names.pop() else {
                self.stack.pop();
                continue;
            };
            let name = Name::new(&bytes).map_err(|errno| failed(level.path.as_bytes(), &errno.into()))?;
            let path = level.path.child(name);
            // One that has gone since it was listed is no error.
            let found = level.node.find(name).map_err(|error| failed(path.as_bytes(), &error))?;
            if let Some(node) = found {
                return Ok(Some((node, path)));
            }
        }
        Ok(None)
    }
}

impl Origin for Gather {
    fn next_item(&mut self) -> Result<Option<Item>> {
        self.current = None;
        let Some((node, path)) = self.advance()? else { return Ok(None) };
        let cannot = |error: Error| failed(path.as_bytes(), &error);
        let attr = *node.attr();
        let body = match attr.kind {
            FileKind::Directory => Body::Directory,
            _ if attr.nlink > 1 && self.met.contains_key(&node.id()) => {
                Body::HardLink(self.met.get(&node.id()).map(|(path, _)| path.clone()).unwrap_or_default())
            }
            FileKind::Regular => Body::Regular(attr.size),
            FileKind::Symlink => Body::Symlink(node.read_link().map_err(cannot)?),
            kind => Body::Special(kind, attr.device),
        };
        let is_link = matches!(body, Body::HardLink(_));
        if attr.nlink > 1 && attr.kind != FileKind::Directory && !is_link {
            self.meet(&node, &path)?;
        }
        let item = Item {
            path: path.clone(),
            mode: attr.mode,
            owner: Some((attr.uid, attr.gid)),
            mtime: Some(attr.mtime),
            // It changes by being looked at, so it is no part of the tree.
            atime: None,
            // A link has those of what it leads to.
            xattrs: if is_link { Vec::new() } else { node.xattrs().map_err(cannot)? },
            body,
        };
        if item.body == Body::Directory && self.recurse {
            let mut names = node.names().map_err(cannot)?;
            names.reverse();
            self.stack.push(Level { node, path, names });
        } else if let Body::Regular(size) = item.body {
            self.current = Some(Current { node, path, file: None, size, at: 0, until: 0 });
        }
        Ok(Some(item))
    }

    fn data(&mut self, buffer: &mut [u8]) -> Result<Option<(u64, usize)>> {
        let Some(current) = &mut self.current else { return Ok(None) };
        let cannot = |error: Error| failed(current.path.as_bytes(), &error);
        if current.file.is_none() {
            if current.size == 0 {
                return Ok(None);
            }
            current.file = Some(current.node.open_to_read().map_err(cannot)?);
        }
        let file = current.file.as_ref().ok_or_else(|| Failure::new("no file"))?;
        if current.at >= current.until {
            // Files without holes, almost all of them, need not be asked.
            let attr = current.node.attr();
            let extent = if attr.blocks * 512 >= current.size {
                (current.at < current.size).then_some((current.at, current.size))
            } else {
                file.next_data(current.at, current.size).map_err(cannot)?
            };
            let Some((from, until)) = extent else { return Ok(None) };
            (current.at, current.until) = (from, until);
        }
        let wanted = usize::try_from(current.until - current.at).unwrap_or(usize::MAX).min(buffer.len());
        let count = file.read(current.at, buffer.get_mut(..wanted).unwrap_or_default()).map_err(cannot)?;
        let at = current.at;
        current.at += count as u64;
        Ok((count > 0).then_some((at, count)))
    }
}
