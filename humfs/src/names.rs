//! Names that come, go and move.

use crate::account::{self, Announced, BLOCK, DIRECTORY_COST, Entry, EntryKind, INODE_COST, Outcome, Usage};
use crate::attrs::room_beside;
use crate::birth::born;
use crate::catalog::Loss;
use crate::fs::{HumFs, at, c_name, inner_child, merged, one};
use crate::host::{fault, stat_at};
use crate::late::Data;
use crate::locks::Linking;
use crate::node::{HumFile, HumNode};
use crate::record::Record;
use crate::store::{At, Facts, Format, Hold, Object, Place, Renaming};
use externfs::{
    Attr, Caller, Child, CreateFlags, Created, DeviceNumber, Errno, FileCache, FileKind, Mode, Name, NewNode, Opened, RenameFlags, Result,
};
use externfs_catalog::Link;
use hostfs::Inode;
use hostfs::layer::NewFile;
use std::os::fd::AsFd;
use std::sync::Arc;

type Node = Arc<HumNode>;
type File = Created<Node, HumFile>;

/// What the host says of an object, and its node if there is one.
type There = (Attr, Option<Node>);

/// Of a rename: the directory, what was there if it is known, its place, and
/// what the host says of it.
type End<'a> = (&'a Node, Option<&'a Node>, &'a At<'a>, &'a Attr);

impl HumFs {
    /// See [`externfs::ExternFs::make`].
    pub(crate) fn make_node(&self, caller: &Caller, parent: &Node, name: Name<'_>, new: &NewNode<'_>, mode: Mode) -> Result<(Node, Attr)> {
        let mut record = self.record_of_new(caller, parent, new, mode)?;
        let name = c_name(name)?;
        let dir = self.base.dir_fd(&parent.inner)?;
        let _changing = self.change_names(&parent.inner, &parent.inner, false)?;
        let at = at(parent, dir.as_fd(), &name);
        check_vacant(parent, &at)?;
        let path = self.path_of(&at);
        let entry = Entry { kind: EntryKind::Create, ino: 0, before: 0, path: path.as_deref() };
        let announced = self.announce(&[entry], need_of_new(self.store.format(), &record))?;
        let (fd, note) = self.store.create(&at, &record)?;
        record.note = note;
        let (inner, host) = self.base.enroll(&parent.inner, &name)?;
        drop(fd);
        let used = one(&self.beyond.without_at(&host, at.dir, at.name), &record);
        let attr = merged(&host, &record);
        let (node, _) = self.nodes.intern(inner, record, used.bytes, false);
        announced.made(host.ino, &Outcome { added: used, ..Outcome::default() });
        if let Some(feed) = self.feed() {
            feed.made(parent, name.to_bytes(), &node, &attr);
        }
        Ok((node, attr))
    }

    fn record_of_new(&self, caller: &Caller, parent: &HumNode, new: &NewNode<'_>, mode: Mode) -> Result<Record> {
        let (kind, device) = match *new {
            NewNode::Directory => (FileKind::Directory, None),
            NewNode::Symlink(_) => (FileKind::Symlink, None),
            NewNode::Regular => (FileKind::Regular, None),
            NewNode::Fifo => (FileKind::Fifo, None),
            NewNode::Socket => (FileKind::Socket, None),
            NewNode::BlockDevice(device) => (FileKind::BlockDevice, Some(device)),
            NewNode::CharDevice(device) => (FileKind::CharDevice, Some(device)),
        };
        let mut record = born(caller, &parent.state().record, kind, mode)?;
        record.device = device.unwrap_or_default();
        if let NewNode::Symlink(target) = new {
            record.target = Some((*target).into());
        }
        Ok(record)
    }

    /// See [`externfs::ExternFs::create`].
    pub(crate) fn create_file(&self, caller: &Caller, parent: &Node, name: Name<'_>, flags: CreateFlags) -> Result<File> {
        let mut record = born(caller, &parent.state().record, FileKind::Regular, flags.mode)?;
        let name = c_name(name)?;
        let dir = self.base.dir_fd(&parent.inner)?;
        let _changing = self.change_names(&parent.inner, &parent.inner, false)?;
        let at = at(parent, dir.as_fd(), &name);
        check_vacant(parent, &at).map_err(|error| match error.errno() {
            // Nobody has looked whether the caller may open what is there.
            Errno::EEXIST if !flags.exclusive => Errno::ESTALE.into(),
            _ => error,
        })?;
        let path = self.path_of(&at);
        let entry = Entry { kind: EntryKind::Create, ino: 0, before: 0, path: path.as_deref() };
        let announced = self.announce(&[entry], need_of_new(self.store.format(), &record))?;
        let (fd, note) = self.store.create(&at, &record)?;
        record.note = note;
        let created = self.base.enroll_file(Some((&parent.inner, &name)), fd, flags.open.write)?;
        let used = one(&created.attr, &record);
        let file = self.admit_new(created, record, used, false);
        announced.made(file.node.key().number, &Outcome { added: used, ..Outcome::default() });
        if let Some(feed) = self.feed() {
            feed.made(parent, name.to_bytes(), &file.node, &file.attr);
        }
        Ok(file)
    }

    fn admit_new(&self, created: NewFile, record: Record, used: Usage, orphan: bool) -> File {
        let attr = merged(&created.attr, &record);
        let (node, _) = self.nodes.intern(created.node, record, used.bytes, orphan);
        let file = HumFile { data: Data::Open(created.opened.file), node: node.clone() };
        Created { node, attr, opened: Opened { file, cache: FileCache::Keep, size: 0 } }
    }

    /// See [`externfs::ExternFs::create_unnamed`]. `flags.exclusive`, which
    /// forbids a name for ever, is the guest's kernel's to enforce.
    pub(crate) fn create_tmpfile(&self, caller: &Caller, parent: &Node, flags: CreateFlags) -> Result<File> {
        let record = born(caller, &parent.state().record, FileKind::Regular, flags.mode)?;
        let dir = self.base.dir_fd(&parent.inner)?;
        let announced = self.announce(&[], need_of_new(self.store.format(), &record))?;
        let fd = self.store.create_unnamed(dir.as_fd(), &record)?;
        let created = self.base.enroll_file(None, fd, flags.open.write)?;
        let used = one(&created.attr, &record);
        let file = self.admit_new(created, record, used, true);
        announced.end(&Outcome { added: used, orphaned: used, ..Outcome::default() });
        Ok(file)
    }

    /// See [`externfs::ExternFs::link`].
    pub(crate) fn link_node(&self, node: &Node, parent: &Node, name: Name<'_>) -> Result<Attr> {
        let _changing = loop {
            if node.inner.whereabouts().is_none() && !node.state().orphan && !self.take_alias(node) {
                self.check_named(false)?;
            }
            // Its present name's directory and the new one's are both looked at
            // by stores; the whole way up must hold still.
            let place = || node.inner.whereabouts().map(|(above, name)| (above.host_key(), above, name));
            let before = place();
            let old = before.as_ref().map_or(&parent.inner, |(_, above, _)| above);
            let changing = self.change_names(&parent.inner, old, false)?;
            let same = match (place(), &before) {
                (Some((now, _, called)), Some((then, _, name))) => now == *then && called == *name,
                (now, then) => now.is_none() && then.is_none(),
            };
            if same {
                break changing;
            }
        };
        let _linking = self.dirs.links([Some(node.key().number), None]);
        let mut state = node.state();
        let (announced, homed) = if state.orphan {
            let c_name = c_name(name)?;
            let dir = self.base.dir_fd(&parent.inner)?;
            let path = self.path_of(&at(parent, dir.as_fd(), &c_name));
            let entry = Entry { kind: EntryKind::Name, ino: node.key().number, before: state.cost, path: path.as_deref() };
            (Some(self.announce(&[entry], Usage::default())?), Usage::one(state.cost))
        } else {
            (None, Usage::default())
        };
        self.account.catch_up()?;
        let host = self.host_attr(node, None)?;
        let whereabouts = node.inner.whereabouts();
        let host = self.base.link_by(&node.inner, &parent.inner, name, |held, (dir, name)| {
            let known = whereabouts.as_ref().and_then(|(above, called)| Some((self.base.dir_fd(above).ok()?, above, called)));
            // By a name that leads to another object it would share that one's record.
            let known = known.filter(|(fd, _, called)| self.base.status_of(&node.inner, fd.as_fd(), called).is_some());
            if known.is_none() {
                self.check_named(state.orphan)?;
            }
            let place = match &known {
                Some((fd, above, called)) => Place::Named(At { parent: above, dir: fd.as_fd(), name: called }),
                None => Place::Nameless,
            };
            let object = Object { hold: Hold::Path(held), place, host: &host, known: Some(&state.record) };
            self.store.link(&object, &At { parent: &parent.inner, dir, name }, &state.record)
        })?;
        let was_nameless = std::mem::replace(&mut state.orphan, false);
        state.aliases.learn(&parent.inner, &c_name(name)?);
        if let Some(announced) = announced {
            announced.end(&Outcome { homed, ..Outcome::default() });
        }
        let attr = merged(&host, &state.record);
        drop(state);
        if was_nameless && host.size > 0 {
            self.note_written(node, &host, 0..host.size);
        }
        if let Some(feed) = self.feed() {
            feed.linked(parent, name.as_bytes(), node);
        }
        Ok(attr)
    }

    /// See [`externfs::ExternFs::remove`].
    pub(crate) fn remove_name(&self, parent: &Node, child: &Child<'_, Node>, directory: bool) -> Result<()> {
        let _changing = self.change_names(&parent.inner, &parent.inner, directory)?;
        let (_linking, host, node) = self.there_alone(parent, child)?;
        match (directory, host.kind == FileKind::Directory) {
            (true, false) => return Err(Errno::ENOTDIR.into()),
            (false, true) => return Err(Errno::EISDIR.into()),
            _ => {}
        }
        let child = Child { name: child.name, node: node.as_ref() };
        self.base.remove_by(&parent.inner, &inner_child(&child), directory, |(dir, name)| {
            let at = At { parent: &parent.inner, dir, name };
            let victim = Victim::new(self, child.node, &host, &at);
            if let Some(node) = victim.node {
                self.hold_reader(node)?;
            }
            let path = self.path_of(&at);
            let announced = victim.announce(self, path.as_deref())?;
            self.store.remove(&at, facts(&host))?;
            announced.end(&victim.gone(self));
            if let Some(node) = victim.node {
                node.state().aliases.unlearn(at.parent, at.name);
            }
            if let Some(feed) = self.feed() {
                feed.removed(Loss { parent, name, host: &host, node: victim.node });
            }
            Ok(())
        })
    }

    /// What `name` in `parent`, which is held, leads to now, and its node if there
    /// is one. What a kernel believes may be older, if there are several.
    fn there(&self, parent: &Node, name: Name<'_>) -> Result<(Attr, Option<Node>)> {
        let dir = self.base.dir_fd(&parent.inner)?;
        let host = stat_at(dir.as_fd(), &c_name(name)?).map_err(fault("looking up a name"))?;
        let key = hostfs::layer::key_of(parent.key().volume, &host);
        Ok((host, self.nodes.get(key)))
    }

    /// The same, with the object held against others who change its names.
    fn there_alone(&self, parent: &Node, child: &Child<'_, Node>) -> Result<(Linking<'_>, Attr, Option<Node>)> {
        let mut believed = child.node.map(|node| node.key().number);
        loop {
            let linking = self.dirs.links([believed, None]);
            let (host, node) = self.there(parent, child.name)?;
            if linking.has(host.ino) {
                return Ok((linking, host, node));
            }
            believed = Some(host.ino);
        }
    }

    /// [`HumFs::there_alone`] of both ends of a rename, of which the second may be
    /// nothing.
    fn both_alone<'f>(
        &'f self,
        from: (&Node, &Child<'_, Node>),
        to: (&Node, &Child<'_, Node>),
    ) -> Result<(Linking<'f>, There, Option<There>)> {
        let mut believed = [from.1.node, to.1.node].map(|node| node.map(|node| node.key().number));
        loop {
            let linking = self.dirs.links(believed);
            let moved = self.there(from.0, from.1.name)?;
            let there = match self.there(to.0, to.1.name) {
                Ok(there) => Some(there),
                Err(error) if error.errno() == Errno::ENOENT => None,
                Err(error) => return Err(error),
            };
            let numbers = [Some(moved.0.ino), there.as_ref().map(|there| there.0.ino)];
            if numbers.into_iter().flatten().all(|number| linking.has(number)) {
                return Ok((linking, moved, there));
            }
            believed = numbers;
        }
    }

    /// See [`externfs::ExternFs::rename`].
    pub(crate) fn rename_names(
        &self,
        caller: &Caller,
        from: (&Node, &Child<'_, Node>),
        to: (&Node, &Child<'_, Node>),
        flags: RenameFlags,
    ) -> Result<()> {
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        if exchange && flags.intersects(RenameFlags::NOREPLACE | RenameFlags::WHITEOUT) {
            return Err(Errno::EINVAL.into());
        }
        // What moves is not known before the directories are held; that a
        // directory might is enough to hold everything.
        let is_dir = |child: &Child<'_, Node>| child.node.is_none_or(|node| node.inner.host_kind() == FileKind::Directory);
        let alone = is_dir(from.1) || ((exchange || to.1.node.is_some()) && is_dir(to.1));
        let _changing = self.change_names(&from.0.inner, &to.0.inner, alone)?;
        let (_linking, (moved, from_node), there) = self.both_alone(from, to)?;
        let (there, to_node) = there.map_or((None, None), |(host, node)| (Some(host), node));
        let moves = [Some(&moved), there.as_ref().filter(|_| exchange)];
        if !alone && moves.into_iter().flatten().any(|host| host.kind == FileKind::Directory) {
            // Replaced behind our back since it was looked up.
            return Err(Errno::ESTALE.into());
        }
        let from = (from.0, Child { name: from.1.name, node: from_node.as_ref() });
        let to = (to.0, Child { name: to.1.name, node: to_node.as_ref() });
        let (inner_from, inner_to) = (inner_child(&from.1), inner_child(&to.1));
        let (from_dir, to_dir) = (&from.0.inner, &to.0.inner);
        let mut amiss = None;
        self.base.rename_by((from_dir, &inner_from), (to_dir, &inner_to), flags, |old, new| {
            let old = At { parent: from_dir, dir: old.0, name: old.1 };
            let new = At { parent: to_dir, dir: new.0, name: new.1 };
            if there.is_some() && flags.contains(RenameFlags::NOREPLACE) {
                return Err(Errno::EEXIST.into());
            }
            check_no_loop((from_dir, &moved), (to_dir, there.as_ref()), exchange)?;
            if there.as_ref().is_some_and(|host| host.ino == moved.ino) && !exchange {
                // Two names of one file: rename(2) does nothing then.
                return Ok(());
            }
            check_replaceable(&moved, there.as_ref(), exchange)?;
            if let Some(node) = to.1.node.filter(|_| !exchange) {
                self.hold_reader(node)?;
            }
            let how = Renaming {
                exchange,
                no_replace: flags.contains(RenameFlags::NOREPLACE),
                moved: facts(&moved),
                replaced: there.as_ref().map(facts),
            };
            if flags.contains(RenameFlags::WHITEOUT) {
                self.account.catch_up()?;
                amiss = self.rename_with_whiteout(caller, (from.0, &old, &moved), (&new, to.1.node, there.as_ref()), &how)?;
            } else {
                self.rename_plainly(&old, &new, to.1.node, there.as_ref(), &how)?;
            }
            self.follow(&moved, &old, &new);
            if let Some(there) = there.as_ref().filter(|_| exchange) {
                self.follow(there, &new, &old);
            }
            self.tell_renamed((from.0, from.1.node, &old, &moved), (to.0, to.1.node, &new, there.as_ref()), flags);
            Ok(())
        })?;
        amiss.map_or(Ok(()), Err)
    }

    /// Tells the catalog of what was moved, of what was at the new name before,
    /// and of what is at the old one now.
    fn tell_renamed(&self, from: End<'_>, to: (&Node, Option<&Node>, &At<'_>, Option<&Attr>), flags: RenameFlags) {
        let Some(feed) = self.feed() else { return };
        let link = |host: &Attr| Link { ino: host.ino, is_dir: host.kind == FileKind::Directory };
        let moved = (link(from.3), from.1);
        let there = to.3.map(|host| (host, to.1));
        let (stays, replaced) = match there {
            Some((host, node)) if flags.contains(RenameFlags::EXCHANGE) => (Some((link(host), node)), None),
            Some((host, node)) => (None, Some(Loss { parent: to.0, name: to.2.name, host, node })),
            None => (None, None),
        };
        feed.renamed((from.0, from.2.name), (to.0, to.2.name), moved, (stays, replaced));
        if flags.contains(RenameFlags::WHITEOUT)
            && let Ok(host) = stat_at(from.2.dir, from.2.name)
        {
            feed.appeared(from.0, from.2.name, link(&host));
        }
    }

    /// The rename itself, with the account's part where something goes.
    pub(crate) fn rename_plainly(
        &self,
        old: &At<'_>,
        new: &At<'_>,
        victim: Option<&Node>,
        there: Option<&Attr>,
        how: &Renaming,
    ) -> Result<()> {
        let Some(there) = there.filter(|_| !how.exchange) else {
            self.account.catch_up()?;
            return self.store.rename(old, new, how);
        };
        let victim = Victim::new(self, victim, there, new);
        let path = self.path_of(new);
        let announced = victim.announce(self, path.as_deref())?;
        self.store.rename(old, new, how)?;
        announced.end(&victim.gone(self));
        Ok(())
    }
}

/// EEXIST now, not from the host: what is announced to appear counts for a
/// successor if it is there, so nothing may be there before. ENOENT for a
/// directory that was removed, which hosts and stores call different things.
fn check_vacant(parent: &Node, at: &At<'_>) -> Result<()> {
    if parent.state().orphan {
        return Err(Errno::ENOENT.into());
    }
    if stat_at(at.dir, at.name).is_ok() { Err(Errno::EEXIST.into()) } else { Ok(()) }
}

/// Nothing can be put below itself, nor in place of what it is below: as
/// `do_renameat2` of the kernel's fs/namei.c has it.
fn check_no_loop((from, moved): (&Arc<Inode>, &Attr), (to, there): (&Arc<Inode>, Option<&Attr>), exchange: bool) -> Result<()> {
    if moved.kind == FileKind::Directory && is_at_or_below(to, moved.ino) {
        return Err(Errno::EINVAL.into());
    }
    match there {
        Some(there) if there.kind == FileKind::Directory && is_at_or_below(from, there.ino) => {
            Err(if exchange { Errno::EINVAL } else { Errno::ENOTEMPTY }.into())
        }
        _ => Ok(()),
    }
}

fn is_at_or_below(dir: &Arc<Inode>, ino: u64) -> bool {
    let mut at = dir.clone();
    while at.host_key().number != ino {
        let Some((above, _)) = at.whereabouts() else { return false };
        at = above;
    }
    true
}

/// rename(2)'s rules for what may replace what; the host's own would be said
/// too late for stores that have begun by then.
fn check_replaceable(moved: &Attr, there: Option<&Attr>, exchange: bool) -> Result<()> {
    let Some(there) = there else {
        return if exchange { Err(Errno::ENOENT.into()) } else { Ok(()) };
    };
    match (moved.kind == FileKind::Directory, there.kind == FileKind::Directory) {
        _ if exchange => Ok(()),
        (true, false) => Err(Errno::ENOTDIR.into()),
        (false, true) => Err(Errno::EISDIR.into()),
        _ => Ok(()),
    }
}

/// What a store is told of an object.
pub(crate) fn facts(host: &Attr) -> Facts {
    Facts { ino: host.ino, kind: host.kind, nlink: host.nlink }
}

/// Room that a new object may take.
pub(crate) fn need_of_new(format: Format, record: &Record) -> Usage {
    let mut bytes = INODE_COST;
    bytes += match record.kind {
        FileKind::Directory => DIRECTORY_COST,
        // A long target takes a block.
        FileKind::Symlink => BLOCK,
        _ => 0,
    };
    if record.has_xattrs() {
        // The host may keep them in a block beside the inode.
        let fresh = record.xattrs.bytes() as u64;
        bytes += fresh.next_multiple_of(512) + BLOCK + room_beside(format, record, fresh);
    }
    Usage::one(bytes)
}

/// An object that is about to lose a name.
struct Victim<'a> {
    node: Option<&'a Node>,
    ino: u64,
    cost: u64,
    /// That is its last name.
    last: bool,
}

impl<'a> Victim<'a> {
    fn new(fs: &HumFs, node: Option<&'a Node>, host: &Attr, at: &At<'_>) -> Victim<'a> {
        let node = node.filter(|node| node.key().number == host.ino);
        let last = host.kind == FileKind::Directory || host.nlink <= 1;
        let cost = match node {
            Some(node) => node.state().cost,
            // What cannot be read can still be removed.
            None => {
                let counted = fs.beyond.without_at(host, at.dir, at.name);
                account::cost(&counted, fs.load(at, host).map_or(0, |record| record.xattrs.bytes()))
            }
        };
        Victim { node, ino: host.ino, cost, last }
    }

    /// Announces the loss, with what it costs at this moment.
    fn announce<'f>(&self, fs: &'f HumFs, path: Option<&[u8]>) -> Result<Announced<'f>> {
        let state = self.node.map(|node| node.state());
        let before = state.as_ref().map_or(self.cost, |state| state.cost);
        let entry = self.last.then_some(Entry { kind: EntryKind::Remove, ino: self.ino, before, path });
        fs.announce(entry.as_slice(), Usage::default())
    }

    /// The name is gone.
    fn gone(&self, fs: &HumFs) -> Outcome {
        if !self.last {
            return Outcome::default();
        }
        match self.node {
            // It stays while somebody has it open, and pays until then.
            Some(node) => {
                let cost = {
                    let mut state = node.state();
                    state.orphan = true;
                    state.cost
                };
                fs.forget_unsettled(node);
                // Who has come since it was held has a pin to open it by.
                let _ = fs.hold_reader(node);
                Outcome { orphaned: Usage::one(cost), ..Outcome::default() }
            }
            None => Outcome { removed: Usage::one(self.cost), ..Outcome::default() },
        }
    }
}

impl HumFs {
    /// Has `remove` take the name `at` of the object `host` away, and says what
    /// that came to.
    pub(crate) fn lose(&self, node: Option<&Node>, host: &Attr, at: &At<'_>, remove: impl FnOnce() -> Result<()>) -> Result<Outcome> {
        let victim = Victim::new(self, node, host, at);
        remove()?;
        Ok(victim.gone(self))
    }
}

/// The device number of a whiteout (overlayfs.rst of the kernel).
pub(crate) const WHITEOUT: DeviceNumber = DeviceNumber { major: 0, minor: 0 };
