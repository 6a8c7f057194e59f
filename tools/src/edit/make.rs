//! `externfs mknod` and `externfs ln`.

use crate::cli::{Ln, Mknod};
use crate::failure::{Failure, Result};
use crate::offline::{self, Accounts, TreePath, failed};
use externfs::{DeviceNumber, Error, Mode, NewNode, SetAttr};
use std::os::unix::ffi::OsStrExt;

/// Makes a device node, FIFO or socket.
///
/// # Errors
/// A device without numbers, a path that is taken.
pub fn node(asked: &Mknod) -> Result<()> {
    let path = TreePath::from_argument(&asked.path)?;
    let device = asked.major.zip(asked.minor).map(|(major, minor)| DeviceNumber { major, minor });
    let new = match (asked.kind.as_str(), device) {
        ("b", Some(device)) => NewNode::BlockDevice(device),
        ("c", Some(device)) => NewNode::CharDevice(device),
        ("b" | "c", None) => return Err(Failure::usage("a device has a MAJOR and a MINOR number: externfs mknod TREE /dev/null c 1 3")),
        (_, Some(_)) => return Err(Failure::usage("only devices have numbers: leave MAJOR and MINOR out")),
        ("p", None) => NewNode::Fifo,
        (_, None) => NewNode::Socket,
    };
    let tree = offline::open(&asked.tree, true)?;
    // What can be wrong is found before anything is made.
    let (uid, gid) = match &asked.owner {
        Some(owner) => Accounts::of(&tree).owner(owner)?,
        None => (None, None),
    };
    let (parent, name) = tree.resolve_parent(&path)?;
    let cannot = |error: Error| failed(path.as_bytes(), &error);
    let mut made = parent.make(name, &new, Mode::new(asked.mode)).map_err(cannot)?;
    if uid.is_some() || gid.is_some() {
        let mode = Some(Mode::new(asked.mode));
        made.set_attr(&SetAttr { uid, gid, mode, ..SetAttr::default() }).map_err(cannot)?;
    }
    drop((made, parent));
    tree.close()
}

/// Makes a link.
///
/// # Errors
/// A target that is not there, a path that is taken.
pub fn link(asked: &Ln) -> Result<()> {
    let path = TreePath::from_argument(&asked.path)?;
    let cannot = |error: Error| failed(path.as_bytes(), &error);
    let target = if asked.symbolic { None } else { Some(TreePath::from_argument(&asked.target)?) };
    let tree = offline::open(&asked.tree, true)?;
    let (parent, name) = tree.resolve_parent(&path)?;
    match target {
        None => drop(parent.make(name, &NewNode::Symlink(asked.target.as_bytes()), Mode::new(0o777)).map_err(cannot)?),
        Some(target) => {
            let node = tree.resolve(&target)?;
            if node.attr().kind == externfs::FileKind::Directory {
                let shown = crate::shown::path(target.as_bytes());
                return Err(Failure::new(format!(
                    "{shown}: it is a directory, which has no second name: 'externfs ln -s' makes a symbolic link"
                )));
            }
            drop(parent.link(&node, name).map_err(cannot)?);
        }
    }
    drop(parent);
    tree.close()
}
