//! Names that come, go and move.

use crate::HostFs;
use crate::attr::Stat;
use crate::contents::open_flags;
use crate::fault::fault;
use crate::fdcache::DirFd;
use crate::fs::c_name;
use crate::layer::Spot;
use crate::node::{Inode, OpenFile};
use crate::pins::Evicted;
use crate::watch::OwnName;
use externfs::{Attr, Caller, Child, CreateFlags, Created, Errno, FileKind, Mode, Name, NewNode, Opened, RenameFlags, Result};
use rustix::fs::{AtFlags, FileType, OFlags, RawMode};
use rustix::io::Errno as Host;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

type Node = Arc<Inode>;
type File = Created<Node, Arc<OpenFile>>;

/// Attempts to create a name that others make and remove at the same time.
const ATTEMPTS: usize = 8;

impl HostFs {
    /// See [`externfs::ExternFs::make`].
    pub(crate) fn make_node(&self, caller: &Caller, parent: &Node, name: Name<'_>, new: &NewNode<'_>, mode: Mode) -> Result<(Node, Attr)> {
        let (kind, device) = match *new {
            NewNode::Directory | NewNode::Symlink(_) => (FileType::Directory, 0),
            NewNode::Regular => (FileType::RegularFile, 0),
            NewNode::Fifo => (FileType::Fifo, 0),
            NewNode::Socket => (FileType::Socket, 0),
            NewNode::CharDevice(d) => (FileType::CharacterDevice, rustix::fs::makedev(d.major, d.minor)),
            NewNode::BlockDevice(d) => (FileType::BlockDevice, rustix::fs::makedev(d.major, d.minor)),
        };
        let is_device = matches!(new, NewNode::CharDevice(_) | NewNode::BlockDevice(_));
        if self.options.nodev && is_device {
            return Err(Errno::EPERM.into());
        }
        let host_mode = self.new_mode(mode, matches!(new, NewNode::Directory))?;
        let dir = self.dir(parent)?;
        let name = c_name(name)?;
        let own = self.own_name(parent, &name, 1);
        let acting = self.act_as(caller)?;
        let made = match new {
            NewNode::Directory => rustix::fs::mkdirat(&*dir, &name, host_mode),
            NewNode::Symlink(target) => rustix::fs::symlinkat(*target, &*dir, &name),
            _ => rustix::fs::mknodat(&*dir, &name, kind, host_mode, device),
        };
        drop(acting);
        made.map_err(fault("making a name"))?;
        OwnName::happened(own);
        self.sync_names(&dir)?;
        let stat = self.find(dir.as_fd(), &name)?;
        self.found(parent, name, &stat)
    }

    /// The mode to create with.
    ///
    /// # Errors
    /// EPERM for setuid and setgid with `nosuid`; on a directory setgid only
    /// says whose its children are.
    fn new_mode(&self, mode: Mode, directory: bool) -> Result<rustix::fs::Mode> {
        if self.options.nosuid && !directory && mode.bits() & 0o6000 != 0 {
            return Err(Errno::EPERM.into());
        }
        Ok(rustix::fs::Mode::from_raw_mode(mode.bits() as RawMode))
    }

    /// See [`externfs::ExternFs::create`].
    pub(crate) fn create_file(&self, caller: &Caller, parent: &Node, name: Name<'_>, flags: CreateFlags) -> Result<File> {
        let dir = self.dir(parent)?;
        let name = c_name(name)?;
        let mode = self.new_mode(flags.mode, false)?;
        // There is nothing to truncate, and truncation may be forbidden.
        let how = open_flags(flags.open) - OFlags::TRUNC;
        let own = self.own_name(parent, &name, 1);
        let acting = self.act_as(caller)?;
        let mut created = self.with_spare_fds(|| self.jail.create_new(dir.as_fd(), &name, how, mode));
        for _ in 0..ATTEMPTS {
            // Gone again: a name that others make and remove, a lock file, say.
            if created.as_ref().err() != Some(&Host::EXIST) || flags.exclusive || self.jail.stat(dir.as_fd(), &name).is_ok() {
                break;
            }
            created = self.with_spare_fds(|| self.jail.create_new(dir.as_fd(), &name, how, mode));
        }
        drop(acting);
        let fd = created.map_err(|errno| match errno {
            // Nobody has looked whether the caller may open what is there.
            Host::EXIST if !flags.exclusive => Errno::ESTALE.into(),
            errno => fault("creating a file")(errno),
        })?;
        OwnName::happened(own);
        if self.options.sync {
            rustix::fs::fsync(&fd).map_err(fault("fsync"))?;
            self.sync_names(&dir)?;
        }
        let stat = Stat::of_open(fd.as_fd())?;
        let (node, attr) = self.found(parent, name, &stat)?;
        let file = OpenFile::register(fd, node.clone(), flags.open.write, &self.locks);
        Ok(Created { node, attr, opened: Opened { file, cache: self.cache_for_new(flags.open), size: 0 } })
    }

    /// See [`externfs::ExternFs::create_unnamed`].
    pub(crate) fn create_tmpfile(&self, caller: &Caller, parent: &Node, flags: CreateFlags) -> Result<File> {
        let mode = self.new_mode(flags.mode, false)?;
        let dir = self.dir(parent)?;
        let mut how = (open_flags(flags.open) - OFlags::TRUNC) | OFlags::TMPFILE | OFlags::CLOEXEC;
        if flags.exclusive {
            how |= OFlags::EXCL;
        }
        let acting = self.act_as(caller)?;
        let created = self.with_spare_fds(|| rustix::fs::openat(&*dir, c".", how, mode));
        drop(acting);
        let fd = created.map_err(fault("creating a file without a name"))?;
        let stat = Stat::of_open(fd.as_fd())?;
        let node = Arc::new(Inode::new(stat.key(), stat.kind()?, None, c""));
        self.keep_unnamed(&node, fd.as_fd())?;
        let attr = self.tell(&node, &stat)?;
        let file = OpenFile::register(fd, node.clone(), flags.open.write, &self.locks);
        Ok(Created { node, attr, opened: Opened { file, cache: self.cache_for_new(flags.open), size: 0 } })
    }

    /// See [`externfs::ExternFs::link`].
    pub(crate) fn link_node(&self, node: &Node, parent: &Node, name: Name<'_>) -> Result<Attr> {
        if let Some(attr) = self.link_by_name(node, parent, name)? {
            return Ok(attr);
        }
        self.linking(node, parent, name, |held, dir, name| self.jail.link(held, dir, name).map_err(fault("linking a file")))
    }

    /// The same by a name that holds still; None if there is none.
    fn link_by_name(&self, node: &Node, parent: &Node, name: Name<'_>) -> Result<Option<Attr>> {
        if self.still.is_none() {
            return Ok(None);
        }
        let to = self.dir(parent)?;
        let name = c_name(name)?;
        let linked = self.by_name(node, |dir, place, _| {
            self.jail.link_name((dir, place), to.as_fd(), &name).map_err(fault("linking a file"))?;
            let stat = Stat::of_name(dir, place).map_err(fault("looking at what was linked"))?;
            self.verify(node, &stat)?;
            self.tell(node, &stat).map(Some)
        })?;
        if linked.is_some() {
            self.learn_name(node, parent, &name);
            self.sync_names(&to)?;
        }
        Ok(linked)
    }

    /// `node` goes by `name` in `parent` too: of use where it may not be lost.
    pub(crate) fn learn_name(&self, node: &Node, parent: &Node, name: &CStr) {
        if self.pins.keeps_files() && node.kind() == FileKind::Regular {
            node.also_at(parent, name);
        }
    }

    /// [`HostFs::link_node`] by way of `link`.
    pub(crate) fn linking(
        &self,
        node: &Node,
        parent: &Node,
        name: Name<'_>,
        link: impl FnOnce(BorrowedFd<'_>, BorrowedFd<'_>, &CStr) -> Result<()>,
    ) -> Result<Attr> {
        let dir = self.dir(parent)?;
        let name = c_name(name)?;
        let held = self.reach(node)?;
        let own = self.own_name(parent, &name, 1);
        self.own_change(node);
        link(held.as_fd(), dir.as_fd(), &name)?;
        OwnName::happened(own);
        self.sync_names(&dir)?;
        let is_lost = {
            let place = node.place();
            place.pin().is_some() || place.parent.is_none()
        };
        if is_lost {
            self.settle(node, parent.clone(), name);
        } else {
            self.learn_name(node, parent, &name);
        }
        self.tell(node, &Stat::of_open(held.as_fd())?)
    }

    /// See [`externfs::ExternFs::remove`].
    pub(crate) fn remove_name(&self, parent: &Node, child: &Child<'_, Node>, directory: bool) -> Result<()> {
        let flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        self.removing(parent, child, directory, |dir, name| rustix::fs::unlinkat(dir, name, flags).map_err(fault("removing a name")))
    }

    /// [`HostFs::remove_name`] by way of `remove`.
    pub(crate) fn removing(
        &self,
        parent: &Node,
        child: &Child<'_, Node>,
        directory: bool,
        remove: impl FnOnce(BorrowedFd<'_>, &CStr) -> Result<()>,
    ) -> Result<()> {
        if self.options.append {
            return Err(Errno::EPERM.into());
        }
        let dir = self.dir(parent)?;
        let name = c_name(child.name)?;
        let moving = self.move_names(parent, parent);
        let victim = self.hold_victim(parent, &dir, &name, child.node)?;
        let own = self.own_name(parent, &name, 1);
        if let Some(node) = child.node {
            self.own_change(node);
        }
        if let Err(error) = remove(dir.as_fd(), &name) {
            victim.stays();
            return Err(error);
        }
        OwnName::happened(own);
        if let Some(node) = child.node {
            node.no_longer_at(parent, &name);
        }
        if let Some(node) = child.node.filter(|_| directory) {
            self.dirs.remove(node.key());
        }
        drop(moving);
        drop(victim);
        self.sync_names(&dir)
    }

    /// Holds what is about to lose `name`; where kernels open nothing, fails if it
    /// cannot. To be dropped when no lock is held:
    /// the last that holds a file removes it, which takes long for a large one.
    fn hold_victim<'n>(&self, parent: &Node, dir: &DirFd, name: &CStr, victim: Option<&'n Node>) -> Result<Victim<'n>> {
        Ok(match victim {
            Some(node) => {
                let evicted = self.pin_before_removal(node, parent, dir, name)?;
                Victim { pinned: evicted.is_some().then_some(node), _evicted: evicted.unwrap_or_default(), _unknown: None }
            }
            // No guest knows it (any more). It matters where others wait for us only.
            None => Victim { _unknown: self.still.as_ref().and_then(|_| self.jail.child(dir.as_fd(), name).ok()), ..Victim::default() },
        })
    }

    /// See [`externfs::ExternFs::rename`].
    pub(crate) fn rename_names(
        &self,
        caller: &Caller,
        from: (&Node, &Child<'_, Node>),
        to: (&Node, &Child<'_, Node>),
        flags: RenameFlags,
    ) -> Result<()> {
        let host_flags = self.rename_flags(flags);
        self.renaming(from, to, flags, |from, to| {
            let acting = if flags.contains(RenameFlags::WHITEOUT) { Some(self.act_as(caller)?) } else { None };
            let renamed = rustix::fs::renameat_with(from.0, from.1, to.0, to.1, host_flags);
            drop(acting);
            renamed.map_err(|host| {
                let refused = self.options.append && host == Host::EXIST && !flags.contains(RenameFlags::NOREPLACE);
                if refused { Errno::EPERM.into() } else { fault("renaming")(host) }
            })
        })
    }

    /// [`HostFs::rename_names`] by way of `rename`.
    pub(crate) fn renaming(
        &self,
        from: (&Node, &Child<'_, Node>),
        to: (&Node, &Child<'_, Node>),
        flags: RenameFlags,
        rename: impl FnOnce(Spot<'_>, Spot<'_>) -> Result<()>,
    ) -> Result<()> {
        let (from_dir, to_dir) = (self.dir(from.0)?, self.dir(to.0)?);
        let (from_name, to_name) = (c_name(from.1.name)?, c_name(to.1.name)?);
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let moving = self.move_names(from.0, to.0);
        let (moved, victim) = (from.1.node, to.1.node);
        // Two names of one file: rename(2) does nothing then.
        let same = moved.zip(victim).is_some_and(|(a, b)| a.key() == b.key());
        let held = if exchange || same { Victim::default() } else { self.hold_victim(to.0, &to_dir, &to_name, victim)? };
        // An exchange is told as two moves; a rename to itself not at all.
        let events = if exchange { 2 } else { 1 };
        let own = (self.own_name(from.0, &from_name, events), self.own_name(to.0, &to_name, events));
        for node in [moved, victim].into_iter().flatten() {
            self.own_change(node);
        }
        if let Err(error) = rename((from_dir.as_fd(), &from_name), (to_dir.as_fd(), &to_name)) {
            held.stays();
            return Err(error);
        }
        if !same {
            OwnName::happened(own.0);
            OwnName::happened(own.1);
            if let Some(node) = moved {
                self.move_place(node, from.0, &from_name, to.0, &to_name);
            }
            match victim {
                Some(node) if exchange => self.move_place(node, to.0, &to_name, from.0, &from_name),
                Some(node) => node.no_longer_at(to.0, &to_name),
                None => {}
            }
        }
        if let Some(node) = victim.filter(|node| !exchange && !same && node.kind() == FileKind::Directory) {
            self.dirs.remove(node.key());
        }
        drop(moving);
        drop(held);
        self.sync_names(&from_dir)?;
        self.sync_names(&to_dir)
    }

    /// With `append` nothing may be replaced, and the host sees to it.
    fn rename_flags(&self, flags: RenameFlags) -> rustix::fs::RenameFlags {
        let mut host = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
        if self.options.append && !flags.contains(RenameFlags::EXCHANGE) {
            host |= rustix::fs::RenameFlags::NOREPLACE;
        }
        host
    }

    /// `node` has moved, unless it is remembered under another of its names,
    /// which is still right. One that had lost its name has one again.
    fn move_place(&self, node: &Node, from: &Node, from_name: &CStr, to: &Node, to_name: &CString) {
        let is_lost = {
            let place = node.place();
            place.pin().is_some() || place.parent.is_none()
        };
        node.no_longer_at(from, from_name);
        if is_lost || node.is_at(from, from_name) {
            self.settle(node, to.clone(), to_name.as_c_str());
        } else {
            self.learn_name(node, to, to_name);
        }
    }

    /// See [`externfs::ExternFs::read_link`].
    pub(crate) fn read_link_of(&self, node: &Node) -> Result<Vec<u8>> {
        if node.kind() != FileKind::Symlink {
            return Err(Errno::EINVAL.into());
        }
        let read = |dir: BorrowedFd<'_>, name: &CStr| rustix::fs::readlinkat(dir, name, Vec::with_capacity(128));
        let target = match self.by_name(node, |dir, name, _| Ok(Some(read(dir, name))))? {
            Some(target) => target,
            None => read(self.reach(node)?.as_fd(), c""),
        };
        target.map(CString::into_bytes).map_err(fault("reading a link"))
    }
}

/// What is about to lose its name, held.
#[derive(Default)]
struct Victim<'n> {
    pinned: Option<&'n Node>,
    _evicted: Evicted,
    _unknown: Option<OwnedFd>,
}

impl Victim<'_> {
    /// The name stayed after all: forget the pin.
    fn stays(self) {
        let pin = self.pinned.and_then(|node| node.place().set_pin(None));
        drop(pin);
    }
}
