//! [`HostFs`] and what it is to the core: each method of [`ExternFs`] is here
//! or is one call into the file of its family.

use crate::attr::{Stat, View};
use crate::credentials::{Acting, Server};
use crate::fault::{Fault, fault};
use crate::fdcache::{DirCache, DirFd};
use crate::jail::Jail;
use crate::known::Known;
use crate::label::Label;
use crate::listing::Listing;
use crate::locks::LockTable;
use crate::node::{Inode, OpenFile};
use crate::options::{Cache, Options};
use crate::pins::Pins;
use crate::still::Still;
use crate::watch::Watch;
use externfs::*;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// One host directory. See the [crate](crate).
pub struct HostFs {
    pub(crate) options: Options,
    pub(crate) jail: Jail,
    pub(crate) root: Arc<DirFd>,
    pub(crate) root_key: NodeKey,
    root_node: Arc<Inode>,
    pub(crate) server: Server,
    pub(crate) dirs: DirCache,
    pub(crate) pins: Pins,
    pub(crate) locks: Arc<LockTable>,
    pub(crate) watch: OnceLock<Watch>,
    /// Held while the place of a directory changes.
    moves: Mutex<()>,
    /// Where names hold still; a layer sees to that itself.
    pub(crate) still: Option<Still>,
    /// Of a layer.
    pub(crate) known: Option<Arc<Known>>,
    pub(crate) handles_max: usize,
    /// No permission bits keep us from a file that a kernel may open.
    pub(crate) opens_all: bool,
    /// Descriptions that may hold locks.
    pub(crate) locks_max: usize,
    /// Directories that may be watched.
    pub(crate) watches_max: usize,
}

/// Descriptors that caches may keep. Most are left to the guests' open files.
struct Budget {
    dirs: usize,
    pins: usize,
    watches: usize,
    locks: usize,
    handles: usize,
}

impl Budget {
    fn current() -> Budget {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let limit = limit.map_or(1 << 20, |n| usize::try_from(n).unwrap_or(1 << 20));
        Budget {
            dirs: (limit / 4).clamp(8, 4096),
            pins: (limit / 8).clamp(8, 2048),
            watches: (limit / 8).clamp(8, 4096),
            locks: (limit / 8).clamp(8, 8192),
            handles: (limit / 2).clamp(16, 1 << 16),
        }
    }
}

impl HostFs {
    /// Exports what `jail` holds.
    pub(crate) fn new(jail: Jail, options: Options) -> Fault<HostFs> {
        let root_key = Stat::of_fd(jail.root())?.key();
        let root_node = Inode::new(root_key, FileKind::Directory, None, c"");
        let budget = Budget::current();
        let server = Server::current();
        tracing::debug!(resolver = ?jail.resolver(), creates_as_caller = server.can_switch(), "hostfs opened");
        Ok(HostFs {
            root: Arc::new(DirFd::new(rustix::io::fcntl_dupfd_cloexec(jail.root(), 0)?)),
            root_key,
            root_node: Arc::new(root_node),
            server,
            dirs: DirCache::new(budget.dirs),
            pins: Pins::new(budget.pins),
            locks: Arc::default(),
            watch: OnceLock::new(),
            moves: Mutex::default(),
            still: (options.is_exclusive() && !options.is_layers).then(Still::new),
            known: None,
            handles_max: budget.handles,
            // All that is in a layer's tree is the server's own.
            opens_all: options.is_exclusive() && (options.is_layers || crate::unopened::opens_all()),
            locks_max: budget.locks,
            watches_max: budget.watches,
            options,
            jail,
        })
    }

    fn view(&self) -> View<'_> {
        View { ids: &self.options.ids, hide_setid: self.options.nosuid, hide_devices: self.options.nodev }
    }

    /// `stat` for the guest, remembered as told.
    pub(crate) fn tell(&self, node: &Inode, stat: &Stat) -> Result<Attr> {
        let attr = self.shown(stat)?;
        node.told(stat.stamp());
        Ok(attr)
    }

    /// What `name` in `dir` is.
    pub(crate) fn find(&self, dir: BorrowedFd<'_>, name: &CStr) -> Result<Stat> {
        let stat = self.jail.stat(dir, name).map_err(fault("looking up a name"))?;
        // A bind mount of the same device is seen by its being a mount's root.
        if self.options.one_file_system && (stat.volume() != self.root_key.volume || stat.is_mount_root()) {
            return Err(Errno::EXDEV.into());
        }
        Ok(stat)
    }

    /// A fresh node for the object with `stat`, called `name` in `parent`; of a
    /// layer's directory the one that is remembered, which is there from now on.
    pub(crate) fn found(&self, parent: &Arc<Inode>, name: CString, stat: &Stat) -> Result<(Arc<Inode>, Attr)> {
        let node = self.seen(parent, &name, stat)?;
        if !node.is_the_child(parent, &name) {
            self.settle(&node, parent.clone(), name);
        }
        let attr = self.tell(&node, stat)?;
        Ok((node, attr))
    }

    /// The same, but one that is remembered stays where it is remembered: `stat`
    /// may have been overtaken by a rename.
    pub(crate) fn seen(&self, parent: &Arc<Inode>, name: &CStr, stat: &Stat) -> Result<Arc<Inode>> {
        let kind = stat.kind()?;
        let node = Inode::new(stat.key(), kind, Some(parent.clone()), name);
        Ok(match &self.known {
            Some(known) if kind == FileKind::Directory => known.intern(node),
            _ => Arc::new(node),
        })
    }

    /// What `stat` is to a guest.
    pub(crate) fn shown(&self, stat: &Stat) -> Result<Attr> {
        stat.attr(&self.view())
    }

    /// Remembers that `node` is called `name` in `parent` now.
    pub(crate) fn settle(&self, node: &Inode, parent: Arc<Inode>, name: impl Into<Label>) {
        if node.kind() != FileKind::Directory {
            return node.settle(Some(parent), name);
        }
        let _moving = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
        // A look-up that was overtaken by renames of the host may claim that a
        // directory is below itself: such a ring would never be dropped.
        let mut above = Some(parent.clone());
        while let Some(ancestor) = above {
            if ancestor.key() == node.key() {
                return;
            }
            above = ancestor.parent();
        }
        node.settle(Some(parent), name);
    }

    /// Acts as `caller` until the answer is dropped.
    ///
    /// # Errors
    /// EOVERFLOW for an id that the maps do not cover, as idmapped mounts have it.
    pub(crate) fn act_as(&self, caller: &Caller) -> Result<Acting> {
        let (uid, gid) = self.options.ids.identity(caller.uid, caller.gid).ok_or(Errno::EOVERFLOW)?;
        self.server.act_as(uid, gid, caller.umask)
    }

    /// With `sync`, makes the names in `dir` durable.
    pub(crate) fn sync_names(&self, dir: &DirFd) -> Result<()> {
        if self.options.sync {
            let fd = self.with_spare_fds(|| self.jail.reopen_dir(dir.as_fd())).map_err(fault("opening a directory"))?;
            rustix::fs::fsync(fd).map_err(fault("fsync of a directory"))?;
        }
        Ok(())
    }
}

/// For the host: with the NUL at its end.
pub(crate) fn c_name(name: Name<'_>) -> Result<CString> {
    CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL.into())
}

impl ExternFs for HostFs {
    type Node = Arc<Inode>;
    type File = Arc<OpenFile>;
    type Dir = Listing;

    fn root(&self) -> Result<Arc<Inode>> {
        Ok(self.root_node.clone())
    }

    fn key(&self, node: &Arc<Inode>) -> NodeKey {
        node.key()
    }

    fn attr(&self, node: &Arc<Inode>, file: Option<&Arc<OpenFile>>) -> Result<Attr> {
        let stat = match file {
            Some(file) => Stat::of_open(file.fd.as_fd())?,
            None => self.when_still(|| self.stat(node))?,
        };
        self.tell(node, &stat)
    }

    fn lookup(&self, parent: &Arc<Inode>, name: Name<'_>) -> Result<(Arc<Inode>, Attr)> {
        let dir = self.dir(parent)?;
        self.watch_dir(parent, &dir);
        let name = c_name(name)?;
        let stat = self.find(dir.as_fd(), &name)?;
        self.found(parent, name, &stat)
    }

    fn child_key(&self, parent: &Arc<Inode>, name: Name<'_>) -> Result<NodeKey> {
        let dir = self.when_still(|| self.dir(parent))?;
        Ok(self.find(dir.as_fd(), &c_name(name)?)?.key())
    }

    fn found_again(&self, known: &Arc<Inode>, again: Arc<Inode>) {
        // The parent of a directory is the node that is known, and has its place.
        if Arc::ptr_eq(known, &again) {
            return;
        }
        known.told_like(&again);
        let (parent, name, opened) = {
            let mut place = again.place();
            // Taken, not copied: nobody finds the object through `again`.
            (place.parent.take(), std::mem::take(&mut place.name), place.opened())
        };
        if let Some(file) = opened {
            // Somebody has looked up what `create` had just made.
            known.place().set_opened(&file);
        }
        let Some(parent) = parent else { return };
        let is_lost = known.place().pin().is_some();
        if !is_lost && known.is_at(&parent, &name) {
            return;
        }
        let before = {
            let place = known.place();
            place.parent.clone().map(|parent| (parent, place.name.clone()))
        };
        let _still = is_lost.then(|| self.await_moves(&parent));
        // This look-up may have been overtaken by a rename or a removal. The
        // place that is known stays while it is right; it is right to have
        // either if the file has two names.
        let is_there = !is_lost && before.is_some_and(|(parent, name)| self.leads_to(known, &parent, &name));
        if is_there {
            self.learn_name(known, &parent, &name);
        } else if self.leads_to(known, &parent, &name) {
            self.settle(known, parent, name);
        }
    }

    fn parent(&self, node: &Arc<Inode>) -> Result<Arc<Inode>> {
        if node.key() == self.root_key {
            return Ok(self.root_node.clone());
        }
        let place = node.place();
        let parent = place.parent.clone().filter(|_| place.pin().is_none());
        parent.ok_or(Errno::ESTALE.into())
    }

    fn open_dir(&self, node: &Arc<Inode>) -> Result<Listing> {
        let dir = self.when_still(|| self.dir(node))?;
        self.watch_dir(node, &dir);
        let fd = self.with_spare_fds(|| self.jail.reopen_dir(dir.as_fd())).map_err(fault("opening a directory"))?;
        Ok(Listing::new(fd))
    }

    fn read_dir(&self, dir: &Listing, cookie: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        dir.read(cookie, emit)
    }

    fn fsync_dir(&self, dir: &Listing, data_only: bool) -> Result<()> {
        let done = if data_only { rustix::fs::fdatasync(&dir.fd) } else { rustix::fs::fsync(&dir.fd) };
        done.map_err(fault("fsync of a directory"))
    }

    fn features(&self) -> Features {
        Features {
            posix_acl: !self.options.noxattr,
            locks: self.options.host_locks,
            kill_priv: true,
            tmpfile: !self.options.read_only,
            submounts: !self.options.one_file_system,
        }
    }

    fn limits(&self) -> Limits {
        Limits { name_max: 255, handles_max: self.handles_max, nodes_max: usize::MAX }
    }

    fn cache_policy(&self) -> CachePolicy {
        let cache = self.options.cache;
        CachePolicy {
            attr: cache.ttl(),
            entry: cache.ttl(),
            // A name that the host makes is to be seen at once: programs wait
            // for files to appear.
            // Which names a kernel knows to be absent nobody else knows, so after more
            // changes than can be told apart it cannot be told of them.
            negative: if self.options.watch { cache.ttl().min(Cache::Auto.ttl()) } else { cache.ttl() },
            listings: cache == Cache::Always,
            writeback: false,
            // Who says that nobody else changes anything means other guests too.
            coherent: cache != Cache::Always,
            exclusive: self.options.is_exclusive(),
        }
    }

    fn begin_unopened(&self) -> bool {
        self.begin_without_opens()
    }

    fn mounted(&self, mount: Option<HostMount>) {
        let Some(mount) = mount else { return self.jail.forget_own() };
        if let Err(errno) = self.jail.keep_out_of(mount) {
            tracing::warn!("a mount of the tree within itself will not be recognised: {errno}");
        }
    }

    fn watch(&self, sink: ChangeSink) -> Result<()> {
        self.start_watching(sink)
    }

    fn read_link(&self, node: &Arc<Inode>) -> Result<Vec<u8>> {
        self.read_link_of(node)
    }

    fn statfs(&self, node: &Arc<Inode>) -> Result<StatFs> {
        self.statfs_at(node)
    }

    fn access(&self, caller: &Caller, node: &Arc<Inode>, wanted: Access) -> Result<()> {
        self.check_access(caller, node, wanted)
    }

    fn sync(&self) -> Result<()> {
        let fd = self.with_spare_fds(|| self.jail.reopen_dir(self.jail.root())).map_err(fault("opening the root"))?;
        rustix::fs::syncfs(fd).map_err(fault("syncfs"))
    }

    fn make(&self, caller: &Caller, parent: &Arc<Inode>, name: Name<'_>, new: &NewNode<'_>, mode: Mode) -> Result<(Arc<Inode>, Attr)> {
        self.make_node(caller, parent, name, new, mode)
    }

    fn create(
        &self,
        caller: &Caller,
        parent: &Arc<Inode>,
        name: Name<'_>,
        flags: CreateFlags,
    ) -> Result<Created<Arc<Inode>, Arc<OpenFile>>> {
        self.create_file(caller, parent, name, flags)
    }

    fn create_unnamed(&self, caller: &Caller, parent: &Arc<Inode>, flags: CreateFlags) -> Result<Created<Arc<Inode>, Arc<OpenFile>>> {
        self.create_tmpfile(caller, parent, flags)
    }

    fn link(&self, _caller: &Caller, node: &Arc<Inode>, parent: &Arc<Inode>, name: Name<'_>) -> Result<Attr> {
        self.link_node(node, parent, name)
    }

    fn remove(&self, _caller: &Caller, parent: &Arc<Inode>, child: Child<'_, Arc<Inode>>, directory: bool) -> Result<()> {
        self.remove_name(parent, &child, directory)
    }

    fn rename(
        &self,
        caller: &Caller,
        from: (&Arc<Inode>, Child<'_, Arc<Inode>>),
        to: (&Arc<Inode>, Child<'_, Arc<Inode>>),
        flags: RenameFlags,
    ) -> Result<()> {
        self.rename_names(caller, (from.0, &from.1), (to.0, &to.1), flags)
    }

    fn set_attr(&self, _caller: &Caller, node: &Arc<Inode>, file: Option<&Arc<OpenFile>>, change: &SetAttr) -> Result<Attr> {
        self.change_attr(node, file, change)
    }

    fn open(&self, _caller: &Caller, node: &Arc<Inode>, flags: OpenFlags) -> Result<Opened<Arc<OpenFile>>> {
        self.open_file(node, flags)
    }

    fn backing<'f>(&self, file: &'f Arc<OpenFile>) -> Option<BorrowedFd<'f>> {
        // These options look at each write, and a passthrough write is not seen.
        let must_see = self.options.append || self.options.sync;
        (!must_see).then(|| file.fd.as_fd())
    }

    fn read(&self, file: &Arc<OpenFile>, offset: u64, size: usize, sink: &mut dyn DataSink) -> Result<usize> {
        Ok(sink.fill_from(file.fd.as_fd(), offset, size)?)
    }

    fn write(&self, file: &Arc<OpenFile>, offset: u64, source: &mut dyn DataSource, flags: WriteFlags) -> Result<usize> {
        self.write_file(file, offset, source, flags)
    }

    fn flush(&self, file: &Arc<OpenFile>) -> Result<()> {
        self.flush_file(file)
    }

    fn fsync(&self, file: &Arc<OpenFile>, data_only: bool) -> Result<()> {
        let done = if data_only { rustix::fs::fdatasync(&file.fd) } else { rustix::fs::fsync(&file.fd) };
        done.map_err(fault("fsync"))
    }

    fn fallocate(&self, file: &Arc<OpenFile>, offset: u64, length: u64, flags: FallocateFlags) -> Result<()> {
        self.allocate(file, offset, length, flags)
    }

    fn seek(&self, file: &Arc<OpenFile>, offset: u64, what: SeekFor) -> Result<u64> {
        let from = match what {
            SeekFor::Data => rustix::fs::SeekFrom::Data(offset),
            SeekFor::Hole => rustix::fs::SeekFrom::Hole(offset),
        };
        rustix::fs::seek(&file.fd, from).map_err(fault("lseek"))
    }

    fn copy_range(&self, from: (&Arc<OpenFile>, u64), to: (&Arc<OpenFile>, u64), length: u64) -> Result<u64> {
        self.copy_between(from, to, length)
    }

    fn get_xattr(&self, node: &Arc<Inode>, name: &[u8]) -> Result<Vec<u8>> {
        self.xattr_value(node, name)
    }

    fn list_xattr(&self, node: &Arc<Inode>) -> Result<Vec<u8>> {
        self.xattr_names(node)
    }

    fn set_xattr(&self, _caller: &Caller, node: &Arc<Inode>, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()> {
        self.change_xattr(node, name, value, flags)
    }

    fn remove_xattr(&self, _caller: &Caller, node: &Arc<Inode>, name: &[u8]) -> Result<()> {
        self.drop_xattr(node, name)
    }

    fn inode_flags(&self, node: &Arc<Inode>, file: Option<&Arc<OpenFile>>) -> Result<InodeFlags> {
        self.flags_of(node, file)
    }

    fn set_inode_flags(&self, _caller: &Caller, node: &Arc<Inode>, file: Option<&Arc<OpenFile>>, flags: InodeFlags) -> Result<()> {
        self.change_flags(node, file, flags)
    }

    fn get_lock(&self, file: &Arc<OpenFile>, wanted: &Lock) -> Result<Option<Lock>> {
        self.conflicting_lock(file, wanted)
    }

    fn set_lock(&self, file: &Arc<OpenFile>, wanted: &Lock, wait: Option<&Interrupt>) -> Result<()> {
        self.change_lock(file, wanted, wait)
    }

    fn release_locks(&self, file: &Arc<OpenFile>, owner: u64, family: LockFamily) {
        self.release_all(file, owner, family);
    }
}

impl std::fmt::Debug for HostFs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostFs").field("options", &self.options).finish_non_exhaustive()
    }
}
