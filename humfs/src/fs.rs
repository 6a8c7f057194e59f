//! [`HumFs`] and what it is to the core: each method of [`ExternFs`] is here
//! or is one call into the file of its family.

use crate::account::{self, Account, Keeper, Usage};
use crate::beyond::Beyond;
use crate::catalog::{Book, Feed, Parts};
use crate::contents::LimitLook;
use crate::host::{damaged, fault};
use crate::intent::Journal;
use crate::late::Data;
use crate::locks::DirLocks;
use crate::node::{HumDir, HumFile, HumNode, NodeTable};
use crate::options::{Adopt, Options};
use crate::overwrite::Dense;
use crate::record::Record;
use crate::store::{At, Loaded, MetaStore};
use crate::tree::{Access as TreeAccess, Tree};
use crate::unsettled::Unsettled;
use externfs::*;
use hostfs::{HostFs, Inode};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// One humfs tree. See the [crate](crate).
pub struct HumFs {
    pub(crate) tree: Tree,
    pub(crate) base: Arc<HostFs>,
    pub(crate) store: Arc<dyn MetaStore>,
    pub(crate) options: Options,
    pub(crate) adopt: Adopt,
    pub(crate) account: Arc<Account>,
    pub(crate) nodes: Arc<NodeTable>,
    pub(crate) dirs: Arc<DirLocks>,
    /// Changes of several steps that no store knows of; None where nothing changes.
    pub(crate) journal: Option<Journal>,
    pub(crate) unsettled: Mutex<Unsettled>,
    pub(crate) limit_look: LimitLook,
    /// Where files can be written over.
    pub(crate) dense: Dense,
    pub(crate) beyond: Beyond,
    pub(crate) root_key: NodeKey,
    root_node: Arc<HumNode>,
    book: Option<Book>,
    _keeper: Option<Keeper>,
}

/// What is remembered of a tree that we alone change.
const LONG: Duration = Duration::from_secs(24 * 60 * 60);

/// What is remembered beside a writer.
const SHORT: Duration = Duration::from_secs(1);

impl HumFs {
    /// Serves `tree`, after putting in order what a predecessor left half done.
    ///
    /// # Errors
    /// EIO with the reason, for a tree that cannot be served.
    pub fn new(tree: Tree, options: Options) -> Result<HumFs> {
        HumFs::open(tree, options, None)
    }

    /// The same; who queries the catalog asks at `listener`.
    pub(crate) fn open(tree: Tree, options: Options, listener: Option<UnixListener>) -> Result<HumFs> {
        let read_only = tree.access() == TreeAccess::Read;
        let data = rustix::io::fcntl_dupfd_cloexec(tree.data(), 0).map_err(fault("opening data/"))?;
        let base = Arc::new(HostFs::layer(data, read_only)?);
        let store: Arc<dyn MetaStore> = tree.store().map_err(|error| damaged(error.0))?.into();
        let inner = base.root()?;
        let host = base.attr(&inner, None)?;
        let recovered = if read_only { Default::default() } else { store.recover(&inner)? };
        let (account, journal) = crate::open::account_and_journal(&tree, read_only)?;
        let account = Arc::new(account);
        let nodes = NodeTable::new(account.clone(), base.directories());
        let record = match store.load_root(base.root_fd(), &host)? {
            Loaded::Record(record) => record,
            // A tree that nobody has mounted yet.
            Loaded::Absent => crate::birth::root(),
        };
        let cost = account::cost(&host, record.xattrs.bytes());
        let (root_node, _) = nodes.intern(inner, record, cost, false);
        let root_key = root_node.key();
        let dense = Dense::new(base.root_fd());
        let adopt = tree.adopt(options.adopt);
        let beyond = Beyond::of(base.root_fd());
        let mut fs = HumFs {
            tree,
            base,
            store,
            options,
            adopt,
            account,
            nodes,
            dirs: Arc::new(DirLocks::new()),
            journal,
            unsettled: Mutex::default(),
            limit_look: LimitLook::new(),
            dense,
            beyond,
            root_key,
            root_node,
            book: None,
            _keeper: None,
        };
        if !read_only {
            fs.put_in_order(recovered)?;
            fs._keeper = Some(Keeper::new(&fs.account));
            fs.book = Book::open(&fs.tree, &fs.parts(), &fs.options, listener)?;
            if let Some(feed) = fs.feed() {
                fs.nodes.tell(feed.clone());
            }
        }
        Ok(fs)
    }

    /// What the catalog's keeper needs.
    pub(crate) fn parts(&self) -> Parts {
        Parts {
            base: self.base.clone(),
            store: self.store.clone(),
            dirs: self.dirs.clone(),
            account: self.account.clone(),
            nodes: self.nodes.clone(),
            root: self.root_node.clone(),
            adopt: self.adopt,
        }
    }

    /// Who is told of changes, if anybody is.
    pub(crate) fn feed(&self) -> Option<&Arc<Feed>> {
        self.book.as_ref().map(|book| &book.feed)
    }

    /// The catalog's keeper.
    pub(crate) fn book(&self) -> Option<&Book> {
        self.book.as_ref()
    }

    /// Who keeps count.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// The tree that is served.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.tree.access() == TreeAccess::Read
    }

    pub(crate) fn is_root(&self, inode: &Inode) -> bool {
        inode.host_key() == self.root_key
    }

    /// The path of `at` for an intent or the state file.
    pub(crate) fn path_of(&self, at: &At<'_>) -> Option<Vec<u8>> {
        crate::path::of(at, |inode| self.is_root(inode))
    }

    /// The node of `inner`, which was just found as `at` and is `host`. The
    /// caller holds the directory.
    pub(crate) fn found(&self, inner: Arc<Inode>, host: &Attr, at: &At<'_>) -> Result<Arc<HumNode>> {
        let mut host = *host;
        loop {
            let missing = match self.nodes.look(inner.host_key()) {
                Ok(known) => return self.known_again(known, inner, &host, at),
                Err(missing) => missing,
            };
            let record = self.load(at, &host)?;
            self.nodes.check_weight(&record, 0)?;
            let cost = account::cost(&self.beyond.without_at(&host, at.dir, at.name), record.xattrs.bytes());
            if let Some(node) = self.nodes.intern_loaded(missing, inner.clone(), record, cost) {
                if !Arc::ptr_eq(&node.inner, &inner) {
                    self.base.found_again(&node.inner, inner);
                }
                return Ok(node);
            }
            // Others have known it meanwhile, and perhaps changed it.
            host = self.base.status_of(&inner, at.dir, at.name).ok_or(Errno::ESTALE)?;
        }
    }

    fn known_again(&self, known: Arc<HumNode>, inner: Arc<Inode>, host: &Attr, at: &At<'_>) -> Result<Arc<HumNode>> {
        if !Arc::ptr_eq(&known.inner, &inner) {
            let before = known.inner.whereabouts();
            self.base.found_again(&known.inner, inner);
            if host.nlink > 1 && host.kind != FileKind::Directory {
                self.learn_alias(&known, before, at);
            }
        }
        if self.is_read_only() {
            self.reload(&known, host, at)?;
        }
        Ok(known)
    }

    /// The record of what is called `at`, or what stands for one.
    pub(crate) fn load(&self, at: &At<'_>, host: &Attr) -> Result<Record> {
        match self.store.load(at, host)? {
            Loaded::Record(record) => Ok(record),
            Loaded::Absent => adopted(self.adopt, host),
        }
    }

    /// Beside a writer, what is in memory may be old.
    fn reload(&self, node: &HumNode, host: &Attr, at: &At<'_>) -> Result<()> {
        let record = self.load(at, host)?;
        let mut state = node.state();
        self.nodes.check_weight(&record, state.record.weight())?;
        self.nodes.weigh(state.record.weight(), record.weight());
        state.record = record;
        Ok(())
    }

    /// Calls `act` with one of the node's names, whose directory is held; None
    /// if it has none. A name may change until the directory is held, so it is
    /// looked at again then.
    pub(crate) fn with_place<T>(&self, node: &HumNode, act: impl FnOnce(Option<At<'_>>) -> Result<T>) -> Result<T> {
        if self.is_root(&node.inner) {
            return act(None);
        }
        loop {
            let Some((parent, name)) = node.inner.whereabouts() else {
                if self.take_alias(node) {
                    continue;
                }
                return act(None);
            };
            let looking = self.dirs.look(&parent);
            if node.inner.whereabouts().is_none_or(|(now, called)| now.host_key() != parent.host_key() || called != name) {
                continue;
            }
            let Ok(dir) = self.base.dir_fd(&parent) else {
                drop(looking);
                if self.take_alias(node) {
                    continue;
                }
                return act(None);
            };
            return act(Some(At { parent: &parent, dir: dir.as_fd(), name: &name }));
        }
    }

    pub(crate) fn host_attr(&self, node: &HumNode, file: Option<&HumFile>) -> Result<Attr> {
        self.base.attr(&node.inner, file.and_then(|file| file.data.opened()))
    }

    /// `host`, what the host says of `node`, with those blocks only that count.
    pub(crate) fn counted(&self, host: &Attr, node: &HumNode, file: Option<&HumFile>) -> Attr {
        if !self.beyond.may_be(host) {
            return *host;
        }
        if let Some(opened) = file.and_then(|file| file.data.opened()) {
            return self.beyond.without(host, opened.data_fd());
        }
        self.with_data(node, |file| self.beyond.without(host, file)).unwrap_or(*host)
    }

    /// Calls `act` with the host's file behind `node`, opened for that. Not through a
    /// descriptor of the guest's, whose errors are its own.
    pub(crate) fn with_data<T>(&self, node: &HumNode, act: impl FnOnce(BorrowedFd<'_>) -> T) -> Result<T> {
        let (held, ..) = self.base.hold(&node.inner)?;
        Ok(act(self.base.open_data(held.as_fd(), rustix::fs::OFlags::RDONLY)?.as_fd()))
    }

    fn attr_of(&self, node: &HumNode, file: Option<&HumFile>) -> Result<Attr> {
        let host = self.in_place(node, || self.host_attr(node, file))?;
        if self.is_read_only() && !self.is_root(&node.inner) {
            self.with_place(node, |at| at.map_or(Ok(()), |at| self.reload(node, &host, &at)))?;
        }
        Ok(merged(&host, &node.state().record))
    }

    pub(crate) fn unsettled(&self) -> std::sync::MutexGuard<'_, Unsettled> {
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `host` as the guest sees it with `record`.
pub(crate) fn merged(host: &Attr, record: &Record) -> Attr {
    let mut attr = *host;
    (attr.kind, attr.mode, attr.uid, attr.gid) = (record.kind, record.mode, record.uid, record.gid);
    let changed = record.note.changed;
    // One that is yet to come is from a time when the clock was ahead.
    if changed > attr.ctime && changed <= Timestamp::now() {
        attr.ctime = changed;
    }
    attr.device = if record.kind.is_device() { record.device } else { DeviceNumber::default() };
    match record.kind {
        FileKind::Symlink => {
            if let Some(target) = &record.target {
                attr.size = target.len() as u64;
            }
        }
        FileKind::Regular | FileKind::Directory => {}
        // What stands for it on the host has no size worth telling.
        _ => (attr.size, attr.blocks) = (0, 0),
    }
    attr
}

/// The record of an object that has none.
pub(crate) fn adopted(policy: Adopt, host: &Attr) -> Result<Record> {
    let (uid, gid) = match policy {
        Adopt::Root => (GuestUid(0), GuestGid(0)),
        Adopt::OwnerMap => (host.uid, host.gid),
        Adopt::Refuse => return Err(damaged(format!("inode {} of the data tree has no record, and adopt=refuse", host.ino))),
    };
    // setuid of a stranger's making is never honoured.
    let mode = if host.kind == FileKind::Symlink { 0o777 } else { host.mode.bits() & 0o777 };
    let mut record = Record::new(host.kind, Mode::new(mode), uid, gid);
    record.device = host.device;
    Ok(record)
}

/// For the host: with the NUL at its end.
pub(crate) fn c_name(name: Name<'_>) -> Result<CString> {
    CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL.into())
}

/// `name` in the directory behind `dir`.
pub(crate) fn at<'a>(parent: &'a Arc<HumNode>, dir: BorrowedFd<'a>, name: &'a CStr) -> At<'a> {
    At { parent: &parent.inner, dir, name }
}

/// The same child for hostfs.
pub(crate) fn inner_child<'a>(child: &Child<'a, Arc<HumNode>>) -> Child<'a, Arc<Inode>> {
    Child { name: child.name, node: child.node.map(|node| &node.inner) }
}

impl ExternFs for HumFs {
    type Node = Arc<HumNode>;
    type File = HumFile;
    type Dir = HumDir;

    fn root(&self) -> Result<Arc<HumNode>> {
        Ok(self.root_node.clone())
    }

    fn key(&self, node: &Arc<HumNode>) -> NodeKey {
        node.key()
    }

    fn attr(&self, node: &Arc<HumNode>, file: Option<&HumFile>) -> Result<Attr> {
        self.attr_of(node, file)
    }

    fn lookup(&self, parent: &Arc<HumNode>, name: Name<'_>) -> Result<(Arc<HumNode>, Attr)> {
        let name = c_name(name)?;
        let dir = self.base.dir_fd(&parent.inner)?;
        let _looking = self.dirs.look(&parent.inner);
        let (inner, host) = self.base.enroll(&parent.inner, &name)?;
        let node = self.found(inner, &host, &at(parent, dir.as_fd(), &name))?;
        let attr = merged(&host, &node.state().record);
        Ok((node, attr))
    }

    fn child_key(&self, parent: &Arc<HumNode>, name: Name<'_>) -> Result<NodeKey> {
        self.base.child_key(&parent.inner, name)
    }

    fn found_again(&self, known: &Arc<HumNode>, again: Arc<HumNode>) {
        if !Arc::ptr_eq(known, &again) {
            self.base.found_again(&known.inner, again.inner.clone());
        }
    }

    fn parent(&self, node: &Arc<HumNode>) -> Result<Arc<HumNode>> {
        let inner = self.base.parent(&node.inner)?;
        if self.is_root(&inner) {
            return Ok(self.root_node.clone());
        }
        // A directory above one that is known may itself have been forgotten.
        let host = self.base.attr(&inner, None)?;
        let (above, name) = inner.whereabouts().ok_or(Errno::ESTALE)?;
        let dir = self.base.dir_fd(&above)?;
        let _looking = self.dirs.look(&above);
        self.found(inner, &host, &At { parent: &above, dir: dir.as_fd(), name: &name })
    }

    fn open_dir(&self, node: &Arc<HumNode>) -> Result<HumDir> {
        self.open_listing(node)
    }

    fn read_dir(&self, dir: &HumDir, cookie: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        self.read_listing(dir, cookie, &mut |entry| {
            // A regular file of the host may stand for something else.
            let kind = entry.kind.filter(|kind| *kind != FileKind::Regular);
            emit(&DirEntry { kind, ..*entry })
        })
    }

    fn fsync_dir(&self, dir: &HumDir, _data_only: bool) -> Result<()> {
        // As for files: names without owners are no use.
        let few = {
            let _looking = self.dirs.look(&dir.node.inner);
            // One that was removed has no names.
            dir.node.state().orphan || self.store.sync_names(&dir.node.inner)?
        };
        if !few {
            self.sync_all()?;
        }
        self.sync_listing(dir)?;
        self.sync_record(&dir.node)
    }

    fn features(&self) -> Features {
        Features { posix_acl: true, locks: false, kill_priv: true, tmpfile: !self.is_read_only(), submounts: false }
    }

    fn limits(&self) -> Limits {
        self.base.limits()
    }

    fn cache_policy(&self) -> CachePolicy {
        // Nobody else writes the tree, so what is remembered stays right; with
        // somebody else writing it, it is right for a second.
        let ttl = if self.is_read_only() { SHORT } else { LONG };
        let exclusive = !self.is_read_only();
        CachePolicy { attr: ttl, entry: ttl, negative: ttl, listings: exclusive, writeback: false, coherent: true, exclusive }
    }

    fn begin_unopened(&self) -> bool {
        !self.is_read_only() && self.base.begin_unopened()
    }

    fn read_link(&self, node: &Arc<HumNode>) -> Result<Vec<u8>> {
        let kept = {
            let state = node.state();
            if state.record.kind != FileKind::Symlink {
                return Err(Errno::EINVAL.into());
            }
            state.record.target.clone()
        };
        match kept {
            Some(target) => Ok(target.into_vec()),
            None => self.base.read_link(&node.inner),
        }
    }

    fn statfs(&self, _node: &Arc<HumNode>) -> Result<StatFs> {
        self.told_size()
    }

    fn access(&self, caller: &Caller, node: &Arc<HumNode>, wanted: Access) -> Result<()> {
        self.check_access(caller, node, wanted)
    }

    fn sync(&self) -> Result<()> {
        self.sync_all()
    }

    fn mounted(&self, mount: Option<HostMount>) {
        self.base.mounted(mount);
    }

    fn close(&self) -> Result<()> {
        self.leave_in_order()
    }

    fn make(&self, caller: &Caller, parent: &Arc<HumNode>, name: Name<'_>, new: &NewNode<'_>, mode: Mode) -> Result<(Arc<HumNode>, Attr)> {
        self.with_room(|| self.make_node(caller, parent, name, new, mode))
    }

    fn create(&self, caller: &Caller, parent: &Arc<HumNode>, name: Name<'_>, flags: CreateFlags) -> Result<Created<Arc<HumNode>, HumFile>> {
        self.with_room(|| self.create_file(caller, parent, name, flags))
    }

    fn create_unnamed(&self, caller: &Caller, parent: &Arc<HumNode>, flags: CreateFlags) -> Result<Created<Arc<HumNode>, HumFile>> {
        self.with_room(|| self.create_tmpfile(caller, parent, flags))
    }

    fn link(&self, _caller: &Caller, node: &Arc<HumNode>, parent: &Arc<HumNode>, name: Name<'_>) -> Result<Attr> {
        self.link_node(node, parent, name)
    }

    fn remove(&self, _caller: &Caller, parent: &Arc<HumNode>, child: Child<'_, Arc<HumNode>>, directory: bool) -> Result<()> {
        self.remove_name(parent, &child, directory)
    }

    fn rename(
        &self,
        caller: &Caller,
        from: (&Arc<HumNode>, Child<'_, Arc<HumNode>>),
        to: (&Arc<HumNode>, Child<'_, Arc<HumNode>>),
        flags: RenameFlags,
    ) -> Result<()> {
        self.with_room(|| self.rename_names(caller, (from.0, &from.1), (to.0, &to.1), flags))
    }

    fn set_attr(&self, _caller: &Caller, node: &Arc<HumNode>, file: Option<&HumFile>, change: &SetAttr) -> Result<Attr> {
        self.change_attr(node, file, change)
    }

    fn open(&self, caller: &Caller, node: &Arc<HumNode>, flags: OpenFlags) -> Result<Opened<HumFile>> {
        self.open_file(caller, node, flags)
    }

    fn backing<'f>(&self, file: &'f HumFile) -> Option<BorrowedFd<'f>> {
        // Writes must be seen: they cost room, and take setuid away. And an inode
        // is backed for all or for none: beside a reader that is, who writes could
        // not map the file (fs/fuse/file.c, fuse_file_mmap).
        match &file.data {
            Data::Open(opened) if self.is_read_only() => Some(opened.data_fd()),
            _ => None,
        }
    }

    fn read(&self, file: &HumFile, offset: u64, size: usize, sink: &mut dyn DataSink) -> Result<usize> {
        self.base.read(self.data(file)?, offset, size, sink)
    }

    fn write(&self, file: &HumFile, offset: u64, source: &mut dyn DataSource, flags: WriteFlags) -> Result<usize> {
        self.write_file(file, offset, source, flags)
    }

    fn fsync(&self, file: &HumFile, _data_only: bool) -> Result<()> {
        // The host's fdatasync(2) may leave a record out that came with the
        // data: the guest would find its bytes and not its owner.
        self.sync_file(file)
    }

    fn fallocate(&self, file: &HumFile, offset: u64, length: u64, flags: FallocateFlags) -> Result<()> {
        self.allocate(file, offset, length, flags)
    }

    fn seek(&self, file: &HumFile, offset: u64, what: SeekFor) -> Result<u64> {
        self.base.seek(self.data(file)?, offset, what)
    }

    fn copy_range(&self, from: (&HumFile, u64), to: (&HumFile, u64), length: u64) -> Result<u64> {
        self.copy_between(from, to, length)
    }

    fn get_xattr(&self, node: &Arc<HumNode>, name: &[u8]) -> Result<Vec<u8>> {
        node.state().record.xattrs.get(name).map(<[u8]>::to_vec).ok_or(Errno::ENODATA.into())
    }

    fn list_xattr(&self, node: &Arc<HumNode>) -> Result<Vec<u8>> {
        let mut list = Vec::new();
        for (name, _) in node.state().record.xattrs.iter() {
            list.extend(name);
            list.push(0);
        }
        Ok(list)
    }

    fn set_xattr(&self, _caller: &Caller, node: &Arc<HumNode>, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()> {
        self.with_room(|| self.change_xattr(node, name, value, flags))
    }

    fn remove_xattr(&self, _caller: &Caller, node: &Arc<HumNode>, name: &[u8]) -> Result<()> {
        self.drop_xattr(node, name)
    }
}

impl std::fmt::Debug for HumFs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HumFs").field("tree", &self.tree).finish_non_exhaustive()
    }
}

/// What is there at the moment, for the limit.
pub(crate) fn one(host: &Attr, record: &Record) -> Usage {
    Usage::one(account::cost(host, record.xattrs.bytes()))
}
