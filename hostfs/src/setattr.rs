//! Changing attributes and inode flags, and who may.

use crate::HostFs;
use crate::attr::Stat;
use crate::fault::{Fault, fault};
use crate::jail::fd_name;
use crate::named;
use crate::node::{Inode, OpenFile};
use crate::reach::Held;
use crate::sys;
use externfs::{Access, Attr, Caller, Errno, FileKind, InodeFlags, Mode, Result, SetAttr, SetTime};
use rustix::fs::{AtFlags, Gid, IFlags, OFlags, RawMode, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid};
use rustix::io::Errno as Host;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

impl HostFs {
    /// See [`externfs::ExternFs::set_attr`]. Owner, mode, size, times, in this
    /// order: a change of owner takes setuid away, so the mode comes after it;
    /// every other change moves the times, so they come last. What precedes a
    /// step that fails has happened: the host has no call for all at once.
    pub(crate) fn change_attr(&self, node: &Arc<Inode>, file: Option<&Arc<OpenFile>>, change: &SetAttr) -> Result<Attr> {
        if file.is_none()
            && let Some(attr) = self.change_by_name(node, change)?
        {
            return Ok(attr);
        }
        let (held, before) = match file {
            Some(file) => (Held::Open(file.clone()), None),
            None => self.when_still(|| self.reach_with_stat(node)).map(|(held, stat)| (held, Some(stat)))?,
        };
        self.own_change(node);
        if change.uid.is_some() || change.gid.is_some() {
            let chown = |uid, gid| rustix::fs::chownat(held.as_fd(), c"", uid, gid, AtFlags::EMPTY_PATH);
            self.change_owner(change, || Stat::of_open(held.as_fd()), chown)?;
        }
        if change.kill_suid_sgid && before.is_none_or(|before| before.has_setid()) {
            self.strip_setid(held.as_fd(), !held.is_open())?;
        }
        if let Some(mode) = change.mode {
            self.change_mode(node.kind(), &held, mode)?;
        }
        if let Some(size) = change.size {
            self.change_size(node, &held, file, size)?;
        }
        if change.atime.is_some() || change.mtime.is_some() {
            self.change_times(&held, change)?;
        }
        if self.options.sync {
            self.sync_attr(node, &held)?;
        }
        self.tell(node, &Stat::of_open(held.as_fd())?)
    }

    /// The same, of what has a name that holds still, without opening it. None
    /// for what cannot be done so; nothing has been then that may not be repeated.
    fn change_by_name(&self, node: &Arc<Inode>, change: &SetAttr) -> Result<Option<Attr>> {
        if change.size.is_some() || self.options.sync {
            return Ok(None);
        }
        self.by_name(node, |dir, name, stat| {
            if change.kill_suid_sgid && stat.has_setid() {
                return Ok(None);
            }
            if change.uid.is_some() || change.gid.is_some() {
                let chown = |uid, gid| rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
                self.change_owner(change, || Stat::of_name(dir, name).map_err(fault("looking at an owner")), chown)?;
            }
            if let Some(mode) = change.mode {
                self.check_mode(node.kind(), mode)?;
                match sys::chmod_at(dir, sys::Last::Itself(name), mode.bits()) {
                    // Before Linux 6.6, or behind a filter that does not know it yet.
                    Err(Host::NOSYS | Host::PERM) => return Ok(None),
                    answer => answer.map_err(fault("chmod"))?,
                }
            }
            if change.atime.is_some() || change.mtime.is_some() {
                named::set_times(dir, name, change).map_err(fault("utimens"))?;
            }
            let after = Stat::of_name(dir, name).map_err(fault("looking at what was changed"))?;
            self.verify(node, &after)?;
            self.tell(node, &after).map(Some)
        })
    }

    /// By way of `chown`; `now` tells how things are.
    fn change_owner(
        &self,
        change: &SetAttr,
        now: impl FnOnce() -> Result<Stat>,
        chown: impl FnOnce(Option<Uid>, Option<Gid>) -> Fault<()>,
    ) -> Result<()> {
        let ids = &self.options.ids;
        if ids.squash.is_some() {
            // As a squashed user of NFS: what changes nothing is fine.
            let stat = now()?;
            let same = change.uid.is_none_or(|uid| uid.0 == stat.uid()) && change.gid.is_none_or(|gid| gid.0 == stat.gid());
            return if same { Ok(()) } else { Err(Errno::EPERM.into()) };
        }
        // An id without a counterpart: what chown(2) says on an idmapped mount.
        let uid = change.uid.map(|uid| ids.uid_to_host(uid).ok_or(Errno::EINVAL)).transpose()?;
        let gid = change.gid.map(|gid| ids.gid_to_host(gid).ok_or(Errno::EINVAL)).transpose()?;
        let (uid, gid) = (uid.map(|uid| Uid::from_raw(uid.0)), gid.map(|gid| Gid::from_raw(gid.0)));
        chown(uid, gid).map_err(fault("chown"))
    }

    fn change_mode(&self, kind: FileKind, held: &Held, mode: Mode) -> Result<()> {
        self.check_mode(kind, mode)?;
        self.chmod(held.as_fd(), !held.is_open(), mode.bits()).map_err(fault("chmod"))
    }

    /// Whether it may have that mode.
    fn check_mode(&self, kind: FileKind, mode: Mode) -> Result<()> {
        if kind == FileKind::Symlink {
            return Err(Errno::EOPNOTSUPP.into());
        }
        if self.options.nosuid && kind != FileKind::Directory && mode.bits() & 0o6000 != 0 {
            return Err(Errno::EPERM.into());
        }
        Ok(())
    }

    /// chmod of what `fd` stands for; `is_path` if it is an `O_PATH` one, which
    /// fchmod(2) refuses.
    pub(crate) fn chmod(&self, fd: BorrowedFd<'_>, is_path: bool, mode: u32) -> Fault<()> {
        let bits = rustix::fs::Mode::from_raw_mode(mode as RawMode);
        if !is_path {
            return rustix::fs::fchmod(fd, bits);
        }
        match sys::chmod_at(fd, sys::Last::Object, mode) {
            // Before Linux 6.6, or behind a filter that does not know it yet.
            Err(Host::NOSYS | Host::PERM) => rustix::fs::chmodat(&*self.jail.proc_fd()?, fd_name(fd).as_c_str(), bits, AtFlags::empty()),
            answer => answer,
        }
    }

    fn change_size(&self, node: &Arc<Inode>, held: &Held, file: Option<&Arc<OpenFile>>, size: u64) -> Result<()> {
        match node.kind() {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Errno::EISDIR.into()),
            _ => return Err(Errno::EINVAL.into()),
        }
        if self.options.append {
            return self.grow(held, file, size);
        }
        if let Some(file) = file.filter(|file| file.writable) {
            return rustix::fs::ftruncate(&file.fd, size).map_err(fault("truncate"));
        }
        let fd = self.open_for_real(held.as_fd(), OFlags::WRONLY)?;
        rustix::fs::ftruncate(fd, size).map_err(fault("truncate"))
    }

    /// What `append` allows of truncation. Another may be appending: never with a
    /// call that can make the file smaller.
    fn grow(&self, held: &Held, file: Option<&Arc<OpenFile>>, size: u64) -> Result<()> {
        let now = Stat::of_open(held.as_fd())?.size();
        let Some(last) = size.checked_sub(1).filter(|_| size > now) else {
            return if size == now { Ok(()) } else { Err(Errno::EPERM.into()) };
        };
        let one_byte = |fd: BorrowedFd<'_>| match rustix::fs::fallocate(fd, rustix::fs::FallocateFlags::empty(), last, 1) {
            // A zero where others may have written meanwhile would be worse.
            Err(Host::OPNOTSUPP | Host::NOSYS) if Stat::of_fd(fd)?.size() <= last => rustix::io::pwrite(fd, &[0], last).map(drop),
            answer => answer,
        };
        match file.filter(|file| file.writable) {
            Some(file) => one_byte(file.fd.as_fd()),
            None => one_byte(self.open_for_real(held.as_fd(), OFlags::WRONLY)?.as_fd()),
        }
        .map_err(fault("growing a file"))
    }

    fn change_times(&self, held: &Held, change: &SetAttr) -> Result<()> {
        let times = timestamps(change);
        if held.is_open() {
            return rustix::fs::futimens(held.as_fd(), &times).map_err(fault("utimens"));
        }
        let done = match rustix::fs::utimensat(held.as_fd(), c"", &times, AtFlags::EMPTY_PATH) {
            // Kernels before 5.8 know no AT_EMPTY_PATH here.
            Err(Host::INVAL | Host::NOENT) => {
                let proc = self.jail.proc_fd().map_err(fault("opening /proc/self/fd"))?;
                rustix::fs::utimensat(&*proc, fd_name(held.as_fd()).as_c_str(), &times, AtFlags::empty())
            }
            answer => answer,
        };
        done.map_err(fault("utimens"))
    }

    /// What fsync(2) can reach is synced; a link or a FIFO cannot be opened.
    pub(crate) fn sync_attr(&self, node: &Inode, held: &Held) -> Result<()> {
        let fd = match node.kind() {
            _ if held.is_open() => return rustix::fs::fsync(held.as_fd()).map_err(fault("fsync")),
            FileKind::Regular => self.open_for_real(held.as_fd(), OFlags::RDONLY)?,
            FileKind::Directory => self.jail.reopen_dir(held.as_fd()).map_err(fault("opening a directory"))?,
            _ => return Ok(()),
        };
        rustix::fs::fsync(fd).map_err(fault("fsync"))
    }

    /// Runs `call` on a descriptor that ioctl(2) takes.
    fn with_ioctl_fd<T>(&self, node: &Arc<Inode>, file: Option<&Arc<OpenFile>>, call: impl Fn(BorrowedFd<'_>) -> Fault<T>) -> Result<T> {
        let answer = match (file, node.kind()) {
            (Some(file), _) => call(file.fd.as_fd()),
            (None, FileKind::Regular) => {
                let held = self.when_still(|| self.reach(node))?;
                call(self.open_for_real(held.as_fd(), OFlags::RDONLY)?.as_fd())
            }
            (None, FileKind::Directory) => {
                let dir = self.dir(node)?;
                call(self.jail.reopen_dir(dir.as_fd()).map_err(fault("opening a directory"))?.as_fd())
            }
            // Anything else would have to be opened, which we never do.
            _ => return Err(Errno::ENOTTY.into()),
        };
        answer.map_err(fault("ioctl of inode flags"))
    }

    /// See [`externfs::ExternFs::inode_flags`].
    pub(crate) fn flags_of(&self, node: &Arc<Inode>, file: Option<&Arc<OpenFile>>) -> Result<InodeFlags> {
        let flags = self.with_ioctl_fd(node, file, |fd| rustix::fs::ioctl_getflags(fd))?;
        Ok(InodeFlags::from_bits_retain(flags.bits()))
    }

    /// See [`externfs::ExternFs::set_inode_flags`].
    pub(crate) fn change_flags(&self, node: &Arc<Inode>, file: Option<&Arc<OpenFile>>, flags: InodeFlags) -> Result<()> {
        self.own_change(node);
        let flags = IFlags::from_bits_retain(flags.bits());
        self.with_ioctl_fd(node, file, |fd| rustix::fs::ioctl_setflags(fd, flags))
    }

    /// See [`externfs::ExternFs::access`]. By the mode bits and the one
    /// supplementary group that we know of; a kernel that checks by itself
    /// knows all groups and the ACL, and does not ask.
    pub(crate) fn check_access(&self, caller: &Caller, node: &Arc<Inode>, wanted: Access) -> Result<()> {
        let stat = self.stat(node)?;
        if self.options.read_only && wanted.contains(Access::WRITE) && !node.kind().is_device() {
            return Err(Errno::EROFS.into());
        }
        let mode = stat.mode().bits();
        let (uid, gid) = (self.options.ids.uid_to_guest(stat.uid()), self.options.ids.gid_to_guest(stat.gid()));
        let granted = match caller.uid {
            externfs::GuestUid(0) if mode & 0o111 != 0 || node.kind() == FileKind::Directory => 7,
            externfs::GuestUid(0) => 6,
            caller if caller == uid => mode >> 6 & 7,
            _ if caller.gid == gid || caller.supplementary_group == Some(gid) => mode >> 3 & 7,
            _ => mode & 7,
        };
        if wanted.bits() & !granted == 0 { Ok(()) } else { Err(Errno::EACCES.into()) }
    }
}

/// The times of `change` as utimensat(2) takes them.
pub(crate) fn timestamps(change: &SetAttr) -> Timestamps {
    Timestamps { last_access: timespec(change.atime), last_modification: timespec(change.mtime) }
}

fn timespec(time: Option<SetTime>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(SetTime::At(time)) => Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() },
    }
}
