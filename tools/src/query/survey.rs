//! All that is in a tree that nobody serves and that cannot be written, told in
//! batches: what whoever serves it would have told its catalog.

use crate::failure::Result;
use crate::offline::{Node, Offline, failed};
use externfs::{FileKind, Name};
use externfs_catalog::{Batch, Extra, Link, Object};

/// Objects of a batch.
const BATCH: usize = 5000;

/// A directory that is being read.
struct Open {
    node: Node,
    /// Those that are still to be told.
    names: Vec<Vec<u8>>,
}

/// Tells everything in `tree` to `take`, with how many objects that makes.
///
/// # Errors
/// What cannot be read; those of `take`.
pub(super) fn run(tree: &Offline, take: &mut dyn FnMut(&Batch, u64) -> Result<()>) -> Result<()> {
    let why = |error: externfs::Error| failed("", &error);
    let mut batch = Batch::default();
    let mut count = 0;
    let root = tree.root().map_err(why)?;
    batch.objects.push((root.attr().ino, Some(object(&root).map_err(why)?)));
    let mut way = vec![Open { names: root.names().map_err(why)?, node: root }];
    while let Some(open) = way.last_mut() {
        let Some(name) = open.names.pop() else {
            way.pop();
            continue;
        };
        let why = |error: externfs::Error| failed(&name, &error);
        let node = Name::new(&name).map_err(|errno| errno.into()).and_then(|name| open.node.lookup(name)).map_err(why)?;
        let (ino, is_dir) = (node.attr().ino, node.attr().kind == FileKind::Directory);
        batch.objects.push((ino, Some(object(&node).map_err(why)?)));
        batch.names.push((open.node.attr().ino, name.as_slice().into(), Some(Link { ino, is_dir })));
        if batch.objects.len() >= BATCH {
            count += batch.objects.len() as u64;
            take(&std::mem::take(&mut batch), count)?;
        }
        if is_dir {
            way.push(Open { names: node.names().map_err(why)?, node });
        }
    }
    count += batch.objects.len() as u64;
    take(&batch, count)
}

fn object(node: &Node) -> externfs::Result<Object> {
    let target = if node.attr().kind == FileKind::Symlink { Some(node.read_link()?.into()) } else { None };
    let xattrs = node.xattrs()?.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    Ok(Object { attr: *node.attr(), extra: Some(Extra { target, xattrs }) })
}
