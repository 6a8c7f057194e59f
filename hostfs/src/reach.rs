//! From an [`Inode`] to something a system call can take: the surest thing
//! there is, verified to be the same object.

use crate::HostFs;
use crate::attr::Stat;
use crate::fault::{Fault, fault, stale};
use crate::fdcache::DirFd;
use crate::label::Label;
use crate::node::{Inode, OpenFile};
use crate::pins::{Evicted, Pin};
use externfs::{Errno, Error, FileKind, Result};
use rustix::fs::OFlags;
use rustix::io::Errno as Host;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A descriptor of the object, by whoever keeps it.
pub(crate) enum Held {
    /// Open for I/O.
    Open(Arc<OpenFile>),
    /// `O_PATH`, for this operation only.
    Own(OwnedFd),
    /// `O_PATH`.
    Pin(Arc<Pin>),
    /// `O_PATH`.
    Dir(Arc<DirFd>),
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Held::Open(file) => file.fd.as_fd(),
            Held::Own(fd) => fd.as_fd(),
            Held::Pin(pin) => pin.fd.as_fd(),
            Held::Dir(dir) => dir.as_fd(),
        }
    }
}

impl Held {
    /// Whether calls that refuse `O_PATH` take it.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Held::Open(_))
    }
}

/// How an inode can be reached.
pub(crate) enum Spot {
    /// Surely.
    Held(Held),
    /// By a name that may lead to something else by now.
    Named { dir: Arc<DirFd>, parent: Arc<Inode>, name: Label },
}

impl HostFs {
    /// Runs `open`; if the process is out of descriptors, closes the spare
    /// ones and tries once more.
    pub(crate) fn with_spare_fds<T>(&self, mut open: impl FnMut() -> Fault<T>) -> Fault<T> {
        match open() {
            Err(Host::MFILE) => {
                self.dirs.clear();
                open()
            }
            answer => answer,
        }
    }

    /// The descriptor of a directory, from the cache or through the
    /// directories above it.
    ///
    /// # Errors
    /// ENOTDIR for a node that is none; ESTALE if it is no longer in the jail.
    pub(crate) fn dir(&self, node: &Arc<Inode>) -> Result<Arc<DirFd>> {
        if node.kind() != FileKind::Directory {
            return Err(Errno::ENOTDIR.into());
        }
        if node.key() == self.root_key {
            return Ok(self.root.clone());
        }
        let cached = self.dirs.get(node.key());
        if let Some(dir) = cached.as_ref().filter(|dir| self.trusts(dir)) {
            return Ok(dir.clone());
        }
        self.dir_from_above(node).or_else(|error| match cached {
            // The name no longer leads to it, but we still hold it: moved by
            // the host within the jail it goes on, moved out it is lost.
            Some(dir) if error.errno() == Errno::ESTALE && self.jail.contains(dir.as_fd()).unwrap_or(false) => {
                dir.trust();
                Ok(dir)
            }
            _ => {
                self.dirs.remove(node.key());
                Err(error)
            }
        })
    }

    /// Walks down to `node` from the nearest directory above it that is surely
    /// in the jail. A loop, not recursion: trees are deep, stacks are not.
    fn dir_from_above(&self, node: &Arc<Inode>) -> Result<Arc<DirFd>> {
        /// A longer chain is a loop that racing renames of the host made.
        const LEVELS: usize = 1 << 16;
        let mut below: Vec<(Arc<Inode>, Label)> = Vec::new();
        let mut at = node.clone();
        let mut dir = loop {
            if at.key() == self.root_key {
                break self.root.clone();
            }
            if let Some(dir) = self.dirs.get(at.key()).filter(|dir| self.trusts(dir)) {
                break dir;
            }
            let (parent, name) = {
                let place = at.place();
                if let Some(pin) = place.pin() {
                    // Removed: it takes no new names, but tells what it was.
                    let fd = rustix::io::fcntl_dupfd_cloexec(&pin.fd, 0).map_err(fault("holding a removed directory"))?;
                    break Arc::new(DirFd::new(fd));
                }
                (place.parent.clone(), place.name.clone())
            };
            let parent = parent.ok_or(Errno::ESTALE)?;
            below.push((std::mem::replace(&mut at, parent), name));
            if below.len() > LEVELS {
                return Err(Error::because(Errno::ESTALE, "directories above form a loop"));
            }
        };
        while let Some((node, name)) = below.pop() {
            dir = self.step_down(&dir, &node, &name)?;
        }
        Ok(dir)
    }

    /// `node`, which is called `name` in `above`.
    fn step_down(&self, above: &DirFd, node: &Inode, name: &CStr) -> Result<Arc<DirFd>> {
        if let Some(dir) = self.dirs.get(node.key()) {
            let found = self.jail.stat(above.as_fd(), name).map_err(stale)?;
            if found.key() != node.key() {
                return Err(Errno::ESTALE.into());
            }
            dir.trust();
            return Ok(dir);
        }
        let fd = self.with_spare_fds(|| self.jail.child_dir(above.as_fd(), name)).map_err(stale)?;
        if Stat::of_open(fd.as_fd())?.key() != node.key() {
            return Err(Errno::ESTALE.into());
        }
        let dir = Arc::new(DirFd::new(fd));
        self.dirs.put(node.key(), dir.clone());
        Ok(dir)
    }

    /// The surest way to `node`.
    pub(crate) fn spot(&self, node: &Arc<Inode>) -> Result<Spot> {
        if node.kind() == FileKind::Directory
            && let Some(dir) = self.trusted_dir(node)
        {
            return Ok(Spot::Held(Held::Dir(dir)));
        }
        let (parent, name) = {
            let place = node.place();
            if let Some(file) = place.opened() {
                drop(place);
                return Ok(Spot::Held(Held::Open(file)));
            }
            if let Some(pin) = place.pin() {
                return Ok(Spot::Held(Held::Pin(pin.clone())));
            }
            (place.parent.clone(), place.name.clone())
        };
        match parent {
            Some(parent) => {
                let dir = self.dir(&parent)?;
                let covered = || self.jail.covered(node.key(), (dir.as_fd(), parent.key()), &name);
                // By its name our own mount would be reached.
                let Some(fd) = self.with_spare_fds(|| covered().transpose()).transpose() else {
                    return Ok(Spot::Named { dir, parent, name });
                };
                Ok(Spot::Held(Held::Own(fd.map_err(fault("holding a directory"))?)))
            }
            None => Err(Errno::ESTALE.into()),
        }
    }

    fn trusted_dir(&self, node: &Inode) -> Option<Arc<DirFd>> {
        if node.key() == self.root_key {
            return Some(self.root.clone());
        }
        self.dirs.get(node.key()).filter(|dir| self.trusts(dir))
    }

    /// Whether `dir` surely is in the jail still. Where nobody else changes
    /// anything, it is.
    fn trusts(&self, dir: &DirFd) -> bool {
        self.options.is_exclusive() || dir.is_trusted()
    }

    /// A descriptor of `node`, which is surely that object.
    pub(crate) fn reach(&self, node: &Arc<Inode>) -> Result<Held> {
        match self.spot(node)? {
            Spot::Held(held) => Ok(held),
            Spot::Named { dir, name, .. } => self.hold_named(node, &dir, &name).map(|(held, _)| held),
        }
    }

    /// As [`HostFs::reach`], with its status.
    pub(crate) fn reach_with_stat(&self, node: &Arc<Inode>) -> Result<(Held, Stat)> {
        match self.spot(node)? {
            Spot::Held(held) => {
                let stat = Stat::of_open(held.as_fd())?;
                Ok((held, stat))
            }
            Spot::Named { dir, name, .. } => self.hold_named(node, &dir, &name),
        }
    }

    /// A descriptor of what is called `name` in `dir`, if that is `node`.
    fn hold_named(&self, node: &Arc<Inode>, dir: &DirFd, name: &CStr) -> Result<(Held, Stat)> {
        let opened = self.with_spare_fds(|| self.jail.child(dir.as_fd(), name));
        let verified = opened.map_err(stale).and_then(|fd| {
            let stat = Stat::of_open(fd.as_fd())?;
            self.verify(node, &stat)?;
            Ok((Held::Own(fd), stat))
        });
        verified.or_else(|error| self.despite_rename(node, error))
    }

    /// The status of `node`, without a descriptor if possible.
    pub(crate) fn stat(&self, node: &Arc<Inode>) -> Result<Stat> {
        let (dir, name) = match self.spot(node)? {
            Spot::Held(held) => return Stat::of_open(held.as_fd()),
            Spot::Named { dir, name, .. } => (dir, name),
        };
        let found = self.jail.stat(dir.as_fd(), &name).map_err(stale);
        let verified = found.and_then(|stat| self.verify(node, &stat).map(|()| stat));
        verified.or_else(|error| self.despite_rename(node, error).map(|(_, stat)| stat))
    }

    /// A directory that the host has moved within the jail is still known by
    /// the descriptor that we kept, if we did.
    fn despite_rename(&self, node: &Arc<Inode>, error: Error) -> Result<(Held, Stat)> {
        if error.errno() != Errno::ESTALE || node.kind() != FileKind::Directory {
            return Err(error);
        }
        let dir = self.dir(node)?;
        let stat = Stat::of_open(dir.as_fd())?;
        Ok((Held::Dir(dir), stat))
    }

    /// Whether `name` in `parent` is `node` right now.
    pub(crate) fn leads_to(&self, node: &Inode, parent: &Arc<Inode>, name: &CStr) -> bool {
        let Ok(dir) = self.dir(parent) else { return false };
        self.jail.stat(dir.as_fd(), name).is_ok_and(|stat| stat.key() == node.key())
    }

    /// ESTALE unless `stat` is that of `node`.
    pub(crate) fn verify(&self, node: &Inode, stat: &Stat) -> Result<()> {
        let same = stat.key() == node.key() && stat.kind()? == node.kind();
        if same { Ok(()) } else { Err(Errno::ESTALE.into()) }
    }

    /// Holds `node` if `name` in `parent` is all that leads to it; called
    /// before that name goes. None if it is not; else what had to go for it, and
    /// it can be undone should the name stay.
    ///
    /// # Errors
    /// Where kernels open nothing, that a file cannot be held: EMFILE, ENFILE.
    pub(crate) fn pin_before_removal(&self, node: &Arc<Inode>, parent: &Arc<Inode>, dir: &DirFd, name: &CStr) -> Result<Option<Evicted>> {
        let keep = self.pins.keeps_files() && node.kind() == FileKind::Regular;
        // Where it must not be lost, a place that was noted wrongly does not count.
        if !node.is_at(parent, name) && !keep {
            return Ok(None);
        }
        let held = self.with_spare_fds(|| self.jail.child(dir.as_fd(), name));
        let fd = match held {
            Ok(fd) => fd,
            Err(host @ (Host::MFILE | Host::NFILE | Host::NOMEM)) if keep => return Err(fault("holding a file that is removed")(host)),
            // The removal is still right; the node is stale.
            Err(_) => return Ok(None),
        };
        let Some(stat) = Stat::of_fd(fd.as_fd()).ok().filter(|stat| stat.key() == node.key()) else { return Ok(None) };
        if keep && stat.nlink() <= 1 {
            if self.pins.keeps(node) {
                return Ok(None);
            }
            let is_held = node.place().pin().is_some();
            self.pins.keep(node, self.held_open(node, fd)).map_err(|_| Errno::ENFILE)?;
            // What was held before goes on being held should the name stay.
            return Ok((!is_held).then(Evicted::default));
        }
        if !keep {
            return Ok(Some(self.pins.pin(node, fd)));
        }
        // It has other names. While they are known it need not be held; if they are
        // not, and too many are held, it may have to be looked up by one of them.
        if !node.is_at(parent, name) || self.goes_by_another(node, (parent, name)) || self.pins.keeps(node) {
            return Ok(None);
        }
        Ok(Some(match self.pins.keep(node, fd) {
            Ok(()) => Evicted::default(),
            Err(fd) => self.pins.pin(node, fd),
        }))
    }

    /// Has `node`, whose noted name `gone` goes, noted by another that it is known to
    /// have. False if there is none.
    fn goes_by_another(&self, node: &Arc<Inode>, gone: (&Arc<Inode>, &CStr)) -> bool {
        while let Some((parent, name)) = node.take_other() {
            let is_gone = *name == *gone.1 && parent.key() == gone.0.key();
            if !is_gone && self.leads_to(node, &parent, &name) {
                self.settle(node, parent, name);
                // Until it is surely gone.
                node.also_at(gone.0, gone.1);
                return true;
            }
        }
        false
    }

    /// What keeps `node` in being after its last name. On a file system that was
    /// chosen that is `fd`, an `O_PATH` descriptor; others, which hang below, may
    /// belong to a server that removes what nobody has open.
    fn held_open(&self, node: &Inode, fd: OwnedFd) -> OwnedFd {
        if node.key().volume == self.root_key.volume {
            return fd;
        }
        self.open_for_real(fd.as_fd(), OFlags::RDONLY).unwrap_or(fd)
    }

    /// Holds `node`, a file that was made without a name and is open as `file`, where
    /// kernels open nothing.
    ///
    /// # Errors
    /// EMFILE, ENFILE.
    pub(crate) fn keep_unnamed(&self, node: &Arc<Inode>, file: BorrowedFd<'_>) -> Result<()> {
        if !self.pins.keeps_files() {
            return Ok(());
        }
        let held = self.with_spare_fds(|| self.jail.reopen_unchecked(file, OFlags::PATH));
        let held = held.map_err(fault("holding a file without a name"))?;
        self.pins.keep(node, held).map_err(|_| Errno::ENFILE.into())
    }
}
