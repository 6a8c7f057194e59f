//! [`Planter`]: items into a tree of ours.
//!
//! A directory gets its attributes when it is full, which is known at the end
//! only: filling it would move its times, and what is made in it would inherit its
//! ACL and group. Until then they are kept, which is little: but an archive can have
//! 16 MiB of them for each directory. So beyond [`PENDING_MAX`] bytes all but the
//! times is set at once, and whatever is made later is freed of what it inherits.

use super::attributes::{ACLS, LeftOut};
use super::dates::{Later, times};
use super::{BUFFER, Body, Item, Origin, Told};
use crate::failure::{Failure, Result};
use crate::offline::{File, Node, Offline, TreePath, failed};
use crate::shown;
use externfs::{Caller, Errno, Error, FileKind, GuestGid, GuestUid, Mode, Name, NewNode, SetAttr};

/// What an object is called until it is whole. Nothing that a guest would
/// have; what a killed command left is replaced by the next.
const UNFINISHED: &[u8] = b".externfs.unfinished";

/// How much of directories' attributes may wait for the end, in bytes.
const PENDING_MAX: usize = 16 << 20;

/// What an attribute takes besides name and value, about, in bytes.
const ATTRIBUTE_COST: usize = 80;

/// Mode bits that a write may take away, so that they are set after it.
const SPECIAL: u32 = 0o7000;

/// How the line ends that tells of ENOSPC. Who knows more says that instead.
pub(crate) const NO_ROOM: &str = ": neither the host's disk nor the tree's size may be used up ('externfs resize')";

/// See the head of this file.
pub struct Planter {
    tree: Offline,
    /// Where the top of what comes belongs.
    at: TreePath,
    /// Every object gets its name when it is whole. Not needed in a tree that
    /// nobody uses before the end.
    staged: bool,
    /// The directory that was last used, and those above it: names with nodes.
    /// The first is the root's.
    open: Vec<(Vec<u8>, Node)>,
    later: Vec<Later>,
    /// What the attributes in `later` take, and how much that may be.
    pending: usize,
    pending_max: usize,
    /// Directories of which the times alone wait.
    dated: Vec<(TreePath, SetAttr)>,
    left_out: LeftOut,
    buffer: Vec<u8>,
}

impl Planter {
    /// Into `tree`, with the top of what comes at `at`.
    ///
    /// # Errors
    /// The root cannot be read.
    pub fn new(tree: &Offline, at: TreePath, staged: bool) -> Result<Planter> {
        let root = tree.root().map_err(|error| failed("", &error))?;
        let (tree, open) = (tree.clone(), vec![(Vec::new(), root)]);
        let (later, dated, left_out) = (Vec::new(), Vec::new(), LeftOut::default());
        Ok(Planter { tree, at, staged, open, later, pending: 0, pending_max: PENDING_MAX, dated, left_out, buffer: vec![0; BUFFER] })
    }

    /// Puts everything that `origin` tells where it belongs.
    ///
    /// # Errors
    /// One line about the first thing that cannot be done.
    pub fn plant(&mut self, origin: &mut dyn Origin, told: Told<'_>) -> Result<()> {
        while let Some(mut item) = origin.next_item()? {
            item.path = self.at.join(&item.path);
            // A second name has the attributes of the first, whatever is said of it.
            if !matches!(item.body, Body::HardLink(_)) {
                self.left_out.sift(&mut item);
            }
            match item.body {
                Body::Directory => self.directory(item)?,
                _ => self.object(&mut item, origin, told)?,
            }
            told(0);
        }
        Ok(())
    }

    /// Gives directories the attributes that filling them would have changed, and
    /// tells what was left out.
    ///
    /// # Errors
    /// As for [`Planter::plant`].
    pub fn finish(mut self) -> Result<LeftOut> {
        for (path, times) in std::mem::take(&mut self.dated) {
            self.date(&path, &times)?;
        }
        for later in std::mem::take(&mut self.later) {
            self.settle(&later)?;
            self.date(&later.path, &times(later.mtime, later.atime))?;
        }
        Ok(self.left_out)
    }

    /// All that waits but the times; the memory that it took is free again.
    fn settle_early(&mut self) -> Result<()> {
        self.pending = 0;
        for later in std::mem::take(&mut self.later) {
            self.settle(&later)?;
            let times = times(later.mtime, later.atime);
            self.dated.push((later.path, times));
        }
        Ok(())
    }

    /// Owner, mode and attributes of a directory.
    fn settle(&mut self, later: &Later) -> Result<()> {
        self.enter(&later.path)?;
        let Some((_, node)) = self.open.last_mut() else { return Ok(()) };
        let (uid, gid) = later.owner.unzip();
        node.set_attr(&SetAttr { uid, gid, mode: Some(later.mode), ..SetAttr::default() }).map_err(cannot(&later.path))?;
        set_xattrs(node, &later.path, &later.xattrs)
    }

    fn date(&mut self, path: &TreePath, times: &SetAttr) -> Result<()> {
        if *times == SetAttr::default() {
            return Ok(());
        }
        self.enter(path)?;
        let Some((_, node)) = self.open.last_mut() else { return Ok(()) };
        node.set_attr(times).map(drop).map_err(cannot(path))
    }

    /// Whether what is made now may inherit something from a directory that came
    /// before it.
    fn inherits(&self) -> bool {
        !self.dated.is_empty()
    }

    /// Makes the directory `path` the last one that is open, and makes those
    /// on the way that an archive has left out.
    fn enter(&mut self, path: &TreePath) -> Result<()> {
        let same = path.names().zip(self.open.iter().skip(1)).take_while(|(name, (open, _))| name.as_bytes() == &open[..]).count();
        self.open.truncate(same + 1);
        let mut walked = TreePath::default();
        for (index, name) in path.names().enumerate() {
            walked.push(name);
            if index < same {
                continue;
            }
            let inherits = self.inherits();
            let Some((_, parent)) = self.open.last() else { break };
            let found = parent.find(name).map_err(cannot(&walked))?;
            let node = match found {
                None => make_directory(parent, name, Mode::new(0o755), inherits).map_err(cannot(&walked))?,
                Some(node) => node,
            };
            check_directory(&node, &walked)?;
            self.open.push((name.as_bytes().to_vec(), node));
        }
        Ok(())
    }

    fn directory(&mut self, item: Item) -> Result<()> {
        let mut made = false;
        if let Some((parent, name)) = item.path.split_last() {
            self.enter(&parent)?;
            let inherits = self.inherits();
            let Some((_, parent)) = self.open.last() else { return Ok(()) };
            // One that gets an owner is closed to others until then. Else it has its
            // mode at once: who is stopped here and begins again finds it made.
            let mode = if item.owner.is_some() { 0o700 } else { item.mode.bits() & 0o777 };
            let node = match make_directory(parent, name, Mode::new(mode), inherits) {
                Ok(node) => {
                    made = true;
                    node
                }
                Err(error) if error.errno() == Errno::EEXIST => parent.lookup(name).map_err(cannot(&item.path))?,
                Err(error) => return Err(cannot(&item.path)(error)),
            };
            check_directory(&node, &item.path)?;
            let name = name.as_bytes().to_vec();
            self.open.push((name, node));
        }
        // One that was there keeps what it has, unless it is to be like the source.
        if made || item.owner.is_some() {
            self.pending += item.xattrs.iter().map(|(name, value)| name.len() + value.len() + ATTRIBUTE_COST).sum::<usize>();
            self.later.push(Later::of(&item));
            if self.pending > self.pending_max {
                self.settle_early()?;
            }
        }
        Ok(())
    }

    /// Everything that is no directory.
    fn object(&mut self, item: &mut Item, origin: &mut dyn Origin, told: Told<'_>) -> Result<()> {
        let path = item.path.clone();
        let cannot = cannot(&path);
        let (above, name) = path.split_last().ok_or_else(|| Failure::new("/: the root can only be a directory"))?;
        self.enter(&above)?;
        let Some((_, parent)) = self.open.last() else { return Ok(()) };
        let link = self.link_target(item)?;
        let made = if self.staged { Err(Errno::EEXIST.into()) } else { make(parent, name, item, link.as_ref()) };
        let (made, at) = match made {
            Err(error) if error.errno() == Errno::EEXIST => {
                let Some(made) = make_beside(parent, name, item, link.as_ref())? else { return Ok(()) };
                (made, Name::new(UNFINISHED).map_err(|errno| cannot(errno.into()))?)
            }
            other => (other.map_err(&cannot)?, name),
        };
        let (mut node, file) = made;
        if self.inherits() && !matches!(item.body, Body::HardLink(_) | Body::Symlink(_)) {
            shed_acls(&node).map_err(&cannot)?;
        }
        let filled = fill(&mut node, file, item, &mut self.buffer, origin, told);
        let named = filled.and_then(|()| if at == name { Ok(()) } else { parent.rename(at, name).map_err(&cannot) });
        if named.is_err() {
            // The first failure is the one to tell.
            let _ = parent.unlink(at);
        }
        named
    }

    fn link_target(&self, item: &Item) -> Result<Option<Node>> {
        let Body::HardLink(target) = &item.body else { return Ok(None) };
        let target = self.at.join(target);
        let node = self.tree.resolve(&target).map_err(|failure| {
            Failure::new(format!("{}: it is a hard link to something that is not there: {failure}", shown::path(item.path.as_bytes())))
        })?;
        Ok(Some(node))
    }
}

/// Makes a directory of root's, which keeps nothing of what it may have inherited.
fn make_directory(parent: &Node, name: Name<'_>, mode: Mode, inherits: bool) -> externfs::Result<Node> {
    let mut node = parent.make(name, &NewNode::Directory, mode)?;
    if inherits {
        shed_acls(&node)?;
        node.set_attr(&SetAttr { uid: Some(GuestUid(0)), gid: Some(GuestGid(0)), mode: Some(mode), ..SetAttr::default() })?;
    }
    Ok(node)
}

fn shed_acls(node: &Node) -> externfs::Result<()> {
    for name in ACLS {
        match node.remove_xattr(name) {
            Err(error) if !matches!(error.errno(), Errno::ENODATA | Errno::EOPNOTSUPP) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Makes the object itself, empty.
fn make(parent: &Node, name: Name<'_>, item: &Item, link: Option<&Node>) -> externfs::Result<(Node, Option<File>)> {
    let mode = Mode::new(item.mode.bits() & !SPECIAL);
    let new = match (&item.body, link) {
        (Body::HardLink(_), Some(target)) => return parent.link(target, name).map(|node| (node, None)),
        (Body::HardLink(_), None) => return Err(Errno::ENOENT.into()),
        (Body::Regular(_), _) => {
            let create = |caller: &Caller| parent.create_as(caller, name, mode).map(|(node, file)| (node, Some(file)));
            return as_owner(item, create);
        }
        (Body::Directory, _) => NewNode::Directory,
        (Body::Symlink(target), _) => NewNode::Symlink(target),
        (Body::Special(FileKind::BlockDevice, device), _) => NewNode::BlockDevice(*device),
        (Body::Special(FileKind::CharDevice, device), _) => NewNode::CharDevice(*device),
        (Body::Special(FileKind::Fifo, _), _) => NewNode::Fifo,
        (Body::Special(..), _) => NewNode::Socket,
    };
    as_owner(item, |caller| parent.make_as(caller, name, &new, mode).map(|node| (node, None)))
}

/// Does it as the item's owner, which saves a chown, where that one may; else
/// as root.
fn as_owner<T>(item: &Item, make: impl Fn(&Caller) -> externfs::Result<T>) -> externfs::Result<T> {
    let Some((uid, gid)) = item.owner else { return make(&Caller::root()) };
    match make(&Caller { uid, gid, ..Caller::root() }) {
        Err(error) if matches!(error.errno(), Errno::EACCES | Errno::EPERM) => make(&Caller::root()),
        answer => answer,
    }
}

/// Makes the object beside what has its name, which it is going to replace;
/// what the item leaves open is taken over from that. None if nothing is to
/// be done.
fn make_beside(parent: &Node, name: Name<'_>, item: &mut Item, link: Option<&Node>) -> Result<Option<(Node, Option<File>)>> {
    let path = item.path.clone();
    let cannot = cannot(&path);
    if let Some(old) = parent.find(name).map_err(&cannot)? {
        let attr = old.attr();
        if attr.kind == FileKind::Directory {
            return Err(cannot(Errno::EISDIR.into()));
        }
        if link.is_some_and(|link| link.id() == old.id()) {
            return Ok(None);
        }
        if item.owner.is_none() && matches!(item.body, Body::Regular(_)) && attr.kind == FileKind::Regular {
            (item.owner, item.mode) = (Some((attr.uid, attr.gid)), attr.mode);
            item.xattrs = old.xattrs().map_err(&cannot)?;
        }
    }
    let unfinished = Name::new(UNFINISHED).map_err(|errno| cannot(errno.into()))?;
    let made = match make(parent, unfinished, item, link) {
        Err(error) if error.errno() == Errno::EEXIST => {
            parent.unlink(unfinished).map_err(&cannot)?;
            make(parent, unfinished, item, link)
        }
        other => other,
    };
    made.map(Some).map_err(&cannot)
}

/// Contents, then owner and mode, then attributes, then times: each would be
/// changed by what comes before it.
fn fill(node: &mut Node, file: Option<File>, item: &Item, buffer: &mut [u8], origin: &mut dyn Origin, told: Told<'_>) -> Result<()> {
    let cannot = cannot(&item.path);
    if let (Body::Regular(size), Some(file)) = (&item.body, &file) {
        let mut end = 0;
        while let Some((offset, count)) = origin.data(buffer)? {
            file.write_all(offset, buffer.get(..count).unwrap_or_default()).map_err(&cannot)?;
            end = offset + count as u64;
            told(count as u64);
        }
        if end < *size {
            node.set_attr_of(Some(file), &SetAttr { size: Some(*size), ..SetAttr::default() }).map_err(&cannot)?;
        }
    }
    if matches!(item.body, Body::HardLink(_)) {
        return Ok(());
    }
    let wanted = attributes(node, item);
    let times = times(item.mtime, item.atime);
    if item.xattrs.is_empty() {
        change(node, file.as_ref(), &SetAttr { mtime: times.mtime, atime: times.atime, ..wanted }).map_err(&cannot)?;
    } else {
        change(node, file.as_ref(), &wanted).map_err(&cannot)?;
        set_xattrs(node, &item.path, &item.xattrs)?;
        change(node, file.as_ref(), &times).map_err(&cannot)?;
    }
    Ok(())
}

/// Owner and mode as far as they are not right already.
fn attributes(node: &Node, item: &Item) -> SetAttr {
    let (attr, mut change) = (node.attr(), SetAttr::default());
    let (uid, gid) = item.owner.unwrap_or((GuestUid(0), GuestGid(0)));
    if (attr.uid, attr.gid) != (uid, gid) {
        (change.uid, change.gid) = (Some(uid), Some(gid));
    }
    // A link has none.
    if attr.kind != FileKind::Symlink && (attr.mode != item.mode || change.uid.is_some()) {
        change.mode = Some(item.mode);
    }
    change
}

fn change(node: &mut Node, file: Option<&File>, change: &SetAttr) -> externfs::Result<()> {
    if *change == SetAttr::default() {
        return Ok(());
    }
    let attr = node.set_attr_of(file, change)?;
    match change.mode {
        // The owner's change may have cost it its setuid bit.
        Some(mode) if attr.mode != mode => node.set_attr_of(file, &SetAttr { mode: Some(mode), ..SetAttr::default() }).map(drop),
        _ => Ok(()),
    }
}

fn set_xattrs(node: &Node, path: &TreePath, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
    for (name, value) in xattrs {
        node.set_xattr(name, value).map_err(|error| {
            let failure = failed(path.as_bytes(), &error);
            Failure::new(format!("{failure}: setting the attribute {}", shown::text(name)))
        })?;
    }
    Ok(())
}

fn check_directory(node: &Node, path: &TreePath) -> Result<()> {
    let path = shown::path(path.as_bytes());
    match node.attr().kind {
        FileKind::Directory => Ok(()),
        FileKind::Symlink => Err(Failure::new(format!("{path}: it is a symbolic link in the tree, and nothing is put through one"))),
        _ => Err(Failure::new(format!("{path}: it is in the tree already, and no directory"))),
    }
}

fn cannot(path: &TreePath) -> impl Fn(Error) -> Failure {
    move |error| {
        let failure = failed(path.as_bytes(), &error);
        match error.errno() {
            Errno::ENOSPC => Failure::new(format!("{failure}{NO_ROOM}")),
            _ => failure,
        }
    }
}

#[cfg(test)]
mod tests;
