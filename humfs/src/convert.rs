//! From one metadata format to another, with nothing lost on the way.
//!
//! The new tree is built in `humfs/convert`, a humfs tree of its own in which
//! every file is another name of the old one's inode: no data is copied, and
//! the old tree stays whole until the new one is complete and has been
//! compared with it. Then the parts change places:
//!
//! | `humfs/switching` says | what is done | a cut is mended by |
//! |---|---|---|
//! | (not there) | the new tree is built | the next attempt, which goes on; anybody else who writes to the tree, who takes `humfs/convert` away |
//! | `1 FORMAT` | the old parts move to `humfs/old` | the next writer: it goes on from there |
//! | `2 FORMAT` | the new parts move into their places, the superblock is edited | the same |
//! | `3 FORMAT` | the rest is cleared away | the same |
//!
//! Each step is a rename that is done or not, and tells which by what is there.
//! An attempt goes on with what an earlier one made only as far as the old tree is
//! what it was: a writer has taken the new one away (`abandon`), and where the
//! host has changed what there is, it is built anew.
//!
//! The superblock stays the tree's own, and only its format and its count change:
//! `externfs resize` needs nobody's lock, and may come while the new tree is built.
//!
//! Records of the `xattr` format are attributes of the files themselves, which both
//! trees have. Where they are none of the tree's, since it has another format now
//! or a conversion to this one was given up, they are taken off before a name goes
//! that led to them. That may free blocks, so the objects are counted afterwards.
//!
//! Directories, and links where one format has them as files, are new inodes;
//! their times are set to what they were. A file's ctime moves.

use crate::fs::HumFs;
use crate::host::{self, Fault, damaged, fault};
use crate::node::HumNode;
use crate::options::Options;
use crate::record::Record;
use crate::store::xattr::ATTRIBUTE;
use crate::store::{At, Format, Hold, Object, Place};
use crate::superblock::Superblock;
use crate::tree::{Access, Tree, edit_superblock};
use externfs::{Attr, Caller, Error, ExternFs, FileKind, Result, SetAttr, SetTime, UsageError};
use hostfs::Inode;
use rustix::io::Errno as Host;
use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

/// What lies in TREE and belongs to a format.
pub(crate) const PARTS: [&CStr; 5] = [c"data", c"file_metadata", c"dir_metadata", c"file_attributes", c"dir_attributes"];

/// What lies in `humfs/` and belongs to a format: a database, what SQLite and
/// the store keep beside it.
const CONTROL_PARTS: [&CStr; 5] = [c"metadata.db", c"metadata.db-wal", c"metadata.db-shm", c"metadata.log.0", c"metadata.log.1"];

/// Where the new tree is built, in `humfs/`.
const BUILDING: &CStr = c"convert";

/// Where it goes when nobody wants it any more. Half of one is nothing to go on with.
const DROPPED: &CStr = c"dropped";

/// Where files have second names while they are there.
pub(crate) const SECOND_NAMES: [&CStr; 3] = [BUILDING, DROPPED, c"old"];

/// The mark of a switch that has begun.
pub(crate) const SWITCHING: &CStr = c"switching";

/// Converts the tree at `path` to `format`; one of version 1 is upgraded first.
/// `progress` is told of each object. Returns how many there were.
///
/// # Errors
/// One clear line. The tree is what it was, or is switched by its next writer.
pub fn convert(path: &Path, format: Format, progress: &mut dyn FnMut(u64)) -> std::result::Result<u64, UsageError> {
    let shown = path.display();
    if crate::tree::version(path) == Some(1) {
        let upgraded = crate::store::shadow::version1::upgrade(path)?;
        if format == Format::ShadowFs {
            return Ok(upgraded);
        }
    }
    let tree = Tree::open_to_convert(path)?;
    if tree.superblock().format == format {
        return Err(UsageError(format!("'{shown}' has its records in {} already", format.name())));
    }
    let failed = |error: Error| UsageError(format!("converting '{shown}': {error}"));
    let root = rustix::io::fcntl_dupfd_cloexec(tree.root(), 0).map_err(|error| failed(fault("opening the tree")(error)))?;
    let old = HumFs::new(tree, Options::default()).map_err(failed)?;
    // New attributes of a file may take a block, which counts in the old tree too.
    old.account.distrust().map_err(|error| failed(fault("writing humfs/state")(error)))?;
    let (new, count) = match build(&old, format, progress)? {
        Some(built) => built,
        None => build(&old, format, progress)?.ok_or_else(|| failed(damaged("the tree changes meanwhile")))?,
    };
    let used = new.recount().map_err(failed)?;
    new.account.recounted(used).map_err(|error| failed(fault("writing humfs/state")(error)))?;
    // Both are durable before the first part moves. The old one is held, with
    // its lock, until the last has.
    new.leave_in_order().map_err(failed)?;
    old.leave_in_order().map_err(failed)?;
    let frees = old.store.format() == Format::Xattr;
    if frees {
        new.account.distrust().map_err(|error| failed(fault("writing humfs/state")(error)))?;
    }
    drop(new);
    let done = mark(root.as_fd(), 1, format).and_then(|()| finish(root.as_fd()));
    done.map_err(|error| failed(fault("putting the new tree in place")(error)))?;
    drop(old);
    if frees {
        count_anew(path).map_err(failed)?;
    }
    Ok(count)
}

/// Counts the objects of a tree whose state says that nobody knows.
fn count_anew(path: &Path) -> Result<()> {
    // If somebody else is quicker, he does.
    let Ok(tree) = Tree::open(path, Access::Write) else { return Ok(()) };
    HumFs::new(tree, Options::default())?.leave_in_order()
}

/// Builds the new tree, out of what an earlier attempt has left if that is of the
/// same format. None if that was not all of the old tree: it has been taken away.
fn build(old: &HumFs, format: Format, progress: &mut dyn FnMut(u64)) -> std::result::Result<Option<(HumFs, u64)>, UsageError> {
    let shown = old.tree.path().display();
    let failed = |error: Error| UsageError(format!("converting '{shown}': {error}"));
    let control = old.tree.control().ok_or_else(|| failed(damaged("there is no humfs/")))?;
    if format_of(control) != Some(format) {
        abandon(control, old.tree.superblock().format).map_err(|error| failed(fault("removing humfs/convert")(error)))?;
    }
    let inside = old.tree.control_dir(BUILDING).map_err(|error| failed(fault("making humfs/convert")(error)))?;
    let superblock = Superblock { format, ..old.tree.superblock() };
    crate::make::lay_in(inside.as_fd(), &superblock).map_err(|error| failed(fault("laying the new tree")(error)))?;
    let place = old.tree.path().join("humfs/convert");
    let new = HumFs::new(Tree::open(&place, Access::Write)?, Options::default()).map_err(failed)?;
    let mut copy = Copy { old, new: &new, linked: HashMap::new(), count: 0, is_stale: false, progress };
    match copy.run() {
        Ok(count) => Ok(Some((new, count))),
        Err(_) if copy.is_stale => {
            drop(new);
            abandon(control, old.tree.superblock().format).map_err(|error| failed(fault("removing humfs/convert")(error)))?;
            Ok(None)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Of the tree that is being built; None where there is none.
fn format_of(control: BorrowedFd<'_>) -> Option<Format> {
    let new = host::child_dir(control, BUILDING).ok()?;
    let text = host::read_file(new.as_fd(), c"superblock", 4096).ok()?;
    Superblock::parse(&text).ok().map(|superblock| superblock.format)
}

/// Takes a new tree away that was not finished, and nothing else: it holds second
/// names. Returns whether there was one. Cut short, it leaves nothing that looks
/// like the tree, whose format is `own`. Whoever calls has the writer's lock.
///
/// # Errors
/// What the host says.
pub(crate) fn abandon(control: BorrowedFd<'_>, own: Format) -> Fault<bool> {
    // While parts change places, they are the only ones.
    if host::child(control, SWITCHING).is_ok() {
        return Ok(false);
    }
    clear(control, DROPPED, own)?;
    match host::rename_new(control, BUILDING, control, DROPPED) {
        Err(Host::NOENT) => return Ok(false),
        answer => answer?,
    }
    clear(control, DROPPED, own)?;
    Ok(true)
}

/// Removes `part`, second names of a tree whose format is `own`, with the records
/// on its files that are another's.
fn clear(control: BorrowedFd<'_>, part: &CStr, own: Format) -> Fault<()> {
    if own != Format::Xattr
        && let Ok(inside) = host::child_dir(control, part)
    {
        host::remove_deep_after(inside.as_fd(), c"data", &mut |dir, name| host::remove_attribute(dir, name, ATTRIBUTE))?;
    }
    host::remove_deep(control, part)
}

fn mark(root: BorrowedFd<'_>, phase: u8, format: Format) -> Fault<()> {
    let control = host::child_dir(root, c"humfs")?;
    host::replace_file(control.as_fd(), SWITCHING, format!("{phase} {}\n", format.name()).as_bytes())?;
    rustix::fs::fsync(host::open_listing(control.as_fd())?)
}

/// Goes on with a switch that was begun, if one was. Whoever calls has the
/// writer's lock.
///
/// # Errors
/// What the host says; a mark that cannot be read is EINVAL.
pub(crate) fn finish(root: BorrowedFd<'_>) -> Fault<()> {
    let control = match host::child_dir(root, c"humfs") {
        Err(Host::NOENT) => return Ok(()),
        answer => answer?,
    };
    let text = match host::read_file(control.as_fd(), SWITCHING, 64) {
        Err(Host::NOENT) => return Ok(()),
        answer => String::from_utf8_lossy(&answer?).into_owned(),
    };
    let (phase, format) = text.trim().split_once(' ').ok_or(Host::INVAL)?;
    let format = Format::parse(format).ok_or(Host::INVAL)?;
    let old = host::ensure_dir(control.as_fd(), c"old")?;
    if phase == "1" {
        take(root, &PARTS, old.as_fd())?;
        take(control.as_fd(), &CONTROL_PARTS, old.as_fd())?;
        mark(root, 2, format)?;
    }
    if matches!(phase, "1" | "2") {
        let new = host::child_dir(control.as_fd(), BUILDING)?;
        let new_control = host::child_dir(new.as_fd(), c"humfs")?;
        take(new.as_fd(), &PARTS, root)?;
        take(new_control.as_fd(), &CONTROL_PARTS, control.as_fd())?;
        let text = host::read_file(new.as_fd(), c"superblock", 4096)?;
        let built = Superblock::parse(&text).map_err(|_| Host::INVAL)?;
        // The limit stays the tree's own: somebody may have changed it while the
        // new tree was built.
        edit_superblock(root, control.as_fd(), |superblock| {
            (superblock.format, superblock.used) = (built.format, built.used);
        })?;
        let state = host::read_file(new_control.as_fd(), c"state", 4096)?;
        host::replace_file(control.as_fd(), c"state", &state)?;
        mark(root, 3, format)?;
    }
    host::remove_deep(control.as_fd(), BUILDING)?;
    clear(control.as_fd(), c"old", format)?;
    rustix::fs::unlinkat(&control, SWITCHING, rustix::fs::AtFlags::empty())
}

/// Moves those of `parts` that are still there.
fn take(from: BorrowedFd<'_>, parts: &[&CStr], to: BorrowedFd<'_>) -> Fault<()> {
    for part in parts {
        match host::rename_new(from, part, to, part) {
            Ok(()) | Err(Host::NOENT) => {}
            Err(other) => return Err(other),
        }
    }
    Ok(())
}

/// The building of the new tree.
struct Copy<'a> {
    old: &'a HumFs,
    new: &'a HumFs,
    /// Where files with several names have their first in the new tree.
    linked: HashMap<u64, (Arc<Inode>, CString)>,
    count: u64,
    /// The new tree has what the old one has not: it is none of this attempt's.
    is_stale: bool,
    progress: &'a mut dyn FnMut(u64),
}

type Pair = (Arc<HumNode>, Arc<HumNode>);

impl Copy<'_> {
    fn run(&mut self) -> Result<u64> {
        let roots: Pair = (self.old.root()?, self.new.root()?);
        self.record_root(&roots)?;
        let host = self.old.host_attr(&roots.0, None)?;
        // Deepest last, so that times of directories can be set backwards.
        let mut dirs: Vec<(Pair, Attr)> = vec![(roots, host)];
        let mut next = 0;
        while let Some(((old, new), _)) = dirs.get(next).cloned() {
            next += 1;
            self.directory(&old, &new, &mut dirs)?;
        }
        for ((_, new), host) in dirs.iter().rev() {
            self.set_times(host, new)?;
        }
        for ((old, new), _) in &dirs {
            self.compare(old, new)?;
        }
        Ok(self.count)
    }

    /// Reads every record of the new directory back.
    fn compare(&self, old: &Arc<HumNode>, new: &Arc<HumNode>) -> Result<()> {
        let dir = self.new.base.dir_fd(&new.inner)?;
        for name in names(self.old, old)? {
            let (host, record) = self.original(old, &name)?;
            let at = At { parent: &new.inner, dir: dir.as_fd(), name: &name };
            let there = host::stat_at(at.dir, &name).map_err(fault("looking up a name"))?;
            if !self.is_done(&there, &at, &host, &record)? {
                return Err(damaged(format!("the new record of '{}' is not what the old one says", crate::path::shown(&name))));
            }
        }
        Ok(())
    }

    /// What the host says of an object of the old tree, and its record, with
    /// the target if it is a link.
    fn original(&self, old: &Arc<HumNode>, name: &CStr) -> Result<(Attr, Record)> {
        let (node, _) = self.old.lookup(old, externfs::Name::new(name.to_bytes())?)?;
        let mut record = node.state().record.clone();
        if record.kind == FileKind::Symlink {
            record.target = Some(self.old.read_link(&node)?.into());
        }
        Ok((self.old.host_attr(&node, None)?, record))
    }

    fn record_root(&mut self, (old, new): &Pair) -> Result<()> {
        let record = old.state().record.clone();
        let mut state = new.state();
        self.new.save(new, &mut state, None, record).map(drop)
    }

    fn directory(&mut self, old: &Arc<HumNode>, new: &Arc<HumNode>, dirs: &mut Vec<(Pair, Attr)>) -> Result<()> {
        let there = names(self.old, old)?;
        let known: HashSet<&CString> = there.iter().collect();
        if names(self.new, new)?.iter().any(|name| !known.contains(name)) {
            return Err(self.stale());
        }
        for name in &there {
            self.count += 1;
            (self.progress)(self.count);
            self.name(old, new, name, dirs)?;
        }
        Ok(())
    }

    fn name(&mut self, old: &Arc<HumNode>, new: &Arc<HumNode>, name: &CStr, dirs: &mut Vec<(Pair, Attr)>) -> Result<()> {
        let checked = externfs::Name::new(name.to_bytes())?;
        let (host, record) = self.original(old, name)?;
        let (node, _) = self.old.lookup(old, checked)?;
        let dir = self.new.base.dir_fd(&new.inner)?;
        let at = At { parent: &new.inner, dir: dir.as_fd(), name };
        let made = match host::stat_at(at.dir, name) {
            Ok(there) => self.take_up(&there, &at, &host, &record)?,
            Err(_) => false,
        };
        if !made {
            self.transfer(&node, &host, &record, &at)?;
        }
        if host.nlink > 1 && host.kind != FileKind::Directory {
            self.linked.entry(host.ino).or_insert_with(|| (new.inner.clone(), name.to_owned()));
        }
        if record.kind == FileKind::Directory {
            let (made, _) = self.new.lookup(new, checked)?;
            dirs.push(((node, made), host));
        }
        Ok(())
    }

    /// Whether an earlier attempt has made `at`, as which `there` is; what is wrong
    /// with it is taken away or set right.
    fn take_up(&mut self, there: &Attr, at: &At<'_>, host: &Attr, record: &Record) -> Result<bool> {
        if self.is_done(there, at, host, record)? {
            return Ok(true);
        }
        match (there.kind == FileKind::Directory, record.kind == FileKind::Directory) {
            // A power failure has taken the record, or the host's mode has changed.
            (true, true) => {
                let held = host::child_dir(at.dir, at.name).map_err(fault("opening a directory"))?;
                let object = Object { hold: Hold::Path(held.as_fd()), place: Place::Named(*at), host: there, known: None };
                self.new.store.reset(&object, record).map(|()| true)
            }
            (false, false) => self.new.store.remove(at, crate::names::facts(there)).map(|()| false),
            _ => Err(self.stale()),
        }
    }

    fn stale(&mut self) -> Error {
        self.is_stale = true;
        damaged("the new tree has what the old one has not")
    }

    /// Whether `there` in the new tree is what `host` in the old one is to become.
    fn is_done(&self, there: &Attr, at: &At<'_>, host: &Attr, record: &Record) -> Result<bool> {
        let same_inode = !self.shares_inode(host, record) || there.ino == host.ino;
        if !same_inode {
            return Ok(false);
        }
        let Ok(mut found) = self.new.load(at, there) else { return Ok(false) };
        if found.kind == FileKind::Symlink && found.target.is_none() {
            let target = rustix::fs::readlinkat(at.dir, at.name, Vec::new()).map_err(fault("reading a link"))?;
            found.target = Some(target.into_bytes().into());
        }
        Ok(found == *record)
    }

    /// Whether the new tree can have the old one's inode.
    fn shares_inode(&self, host: &Attr, record: &Record) -> bool {
        let natively = |fs: &HumFs| fs.store.format().has_native_links();
        match record.kind {
            FileKind::Directory => false,
            FileKind::Symlink => natively(self.old) == natively(self.new),
            _ => host.kind == FileKind::Regular,
        }
    }

    fn transfer(&self, node: &Arc<HumNode>, host: &Attr, record: &Record, at: &At<'_>) -> Result<()> {
        if !self.shares_inode(host, record) {
            if record.kind != FileKind::Directory
                && let Some((parent, first)) = self.linked.get(&host.ino)
            {
                let (inner, there) = self.new.base.enroll(parent, first)?;
                let (held, is_open, _) = self.new.base.hold(&inner)?;
                return self.link(Hold::by(held.as_fd(), is_open), &there, Some((parent, first)), record, at);
            }
            self.new.store.create(at, record)?;
            if record.kind != FileKind::Directory {
                let (made, _) = self.new.base.enroll(at.parent, at.name)?;
                return self.new.base.set_attr(&Caller::root(), &made, None, &times(host)).map(drop);
            }
            return Ok(());
        }
        let (held, is_open, _) = self.old.base.hold(&node.inner)?;
        let first = self.linked.get(&host.ino);
        if first.is_none() {
            let object = Object { hold: Hold::by(held.as_fd(), is_open), place: Place::Nameless, host, known: None };
            self.new.store.save(&object, record)?;
        }
        self.link(Hold::by(held.as_fd(), is_open), host, first.map(|(parent, name)| (parent, name)), record, at)
    }

    fn link(&self, hold: Hold<'_>, host: &Attr, first: Option<(&Arc<Inode>, &CString)>, record: &Record, at: &At<'_>) -> Result<()> {
        let dir = first.map(|(parent, _)| self.new.base.dir_fd(parent)).transpose()?;
        let place = match (&dir, first) {
            (Some(dir), Some((parent, name))) => Place::Named(At { parent, dir: dir.as_fd(), name }),
            _ => Place::Nameless,
        };
        self.new.store.link(&Object { hold, place, host, known: None }, at, record)
    }

    fn set_times(&self, host: &Attr, new: &HumNode) -> Result<()> {
        self.new.base.set_attr(&Caller::root(), &new.inner, None, &times(host)).map(drop)
    }
}

/// All names in a directory, without the dots.
fn names(fs: &HumFs, dir: &Arc<HumNode>) -> Result<Vec<CString>> {
    let mut names = Vec::new();
    let listing = fs.open_dir(dir)?;
    fs.read_dir(&listing, 0, &mut |entry| {
        if entry.name != b"." && entry.name != b".." {
            names.extend(CString::new(entry.name));
        }
        true
    })?;
    Ok(names)
}

fn times(host: &Attr) -> SetAttr {
    SetAttr { atime: Some(SetTime::At(host.atime)), mtime: Some(SetTime::At(host.mtime)), ..SetAttr::default() }
}
