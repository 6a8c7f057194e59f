//! [`Book`]: the thread that writes the catalog.

use super::feed::{Fate, Feed, Order, Pending};
use super::scan::{failed, scan};
use super::{DIR, Upkeep, marker};
use crate::account::Account;
use crate::fs::{HumFs, adopted, merged};
use crate::host::{self, damaged, fault};
use crate::locks::DirLocks;
use crate::node::HumNode;
use crate::options::{Adopt, Label, Options};
use crate::record::Record;
use crate::store::{At, Loaded, MetaStore};
use crate::tree::{Access, Tree};
use externfs::{Attr, Errno, Error, ExternFs, FileKind, Result, UsageError};
use externfs_catalog::barrier::{self, Standing};
use externfs_catalog::{Accounts, Batch, Catalog, Extra, Object};
use hostfs::{HostFs, Inode};
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bytes of /etc/passwd and of /etc/group that are read.
const ACCOUNTS_MAX: usize = 4 << 20;

/// How long one who asks across the socket is kept waiting.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often a log that a reader keeps from being written back is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// See [`barrier::SOCKET`].
const SOCKET: &CStr = c"socket";

/// What it needs of the file system.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) base: Arc<HostFs>,
    pub(crate) store: Arc<dyn MetaStore>,
    pub(crate) dirs: Arc<DirLocks>,
    pub(crate) account: Arc<Account>,
    pub(crate) root: Arc<HumNode>,
    pub(crate) adopt: Adopt,
}

/// The catalog's keeper, and how to talk to it.
pub(crate) struct Book {
    pub(crate) feed: Arc<Feed>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread has.
struct Writer {
    feed: Arc<Feed>,
    parts: Parts,
    dir: OwnedFd,
    path: PathBuf,
    label: String,
    catalog: Option<Catalog>,
    /// Of the files that name users and groups: number, size, mtime.
    accounts: Option<[Option<(u64, u64, externfs::Timestamp)>; 2]>,
}

impl Book {
    /// Begins to keep the catalog of `tree`, which `parts` serve. None if none is wanted.
    pub(crate) fn open(tree: &Tree, parts: &Parts, options: &Options, listener: Option<UnixListener>) -> Result<Option<Book>> {
        let wanted = match options.catalog {
            Upkeep::Off => false,
            Upkeep::IfCurrent => tree.had_current_catalog(),
            Upkeep::On => true,
        };
        if !wanted {
            return Ok(None);
        }
        let feed = Arc::new(Feed::new());
        let mut writer = Writer::new(tree, parts, &feed, options.label.as_str().to_owned())?;
        if tree.had_current_catalog() {
            // One that is damaged is made anew.
            writer.catalog = Catalog::open(&writer.path, &writer.label, parts.root.key().number).unwrap_or_default();
        }
        if writer.catalog.is_some() {
            feed.stand(Standing::Current);
        }
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name.into()).spawn(body);
            thread.map_err(|error| Error::because(Errno::EAGAIN, format!("cannot start a thread: {error}")))
        };
        let thread = spawn("catalog", Box::new(move || writer.run()))?;
        if let Some(listener) = listener {
            let feed = feed.clone();
            // It ends with the process.
            spawn("catalog-ask", Box::new(move || answer_all(&listener, &feed)))?;
        }
        Ok(Some(Book { feed, thread: Mutex::new(Some(thread)) }))
    }

    /// Writes what there is to write, and leaves the catalog in order. The tree is.
    pub(crate) fn close(&self) {
        self.end(true);
    }

    fn end(&self, in_order: bool) {
        self.feed.end(in_order);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic has been told by the thread itself.
            let _ = thread.join();
        }
    }
}

impl Drop for Book {
    fn drop(&mut self) {
        self.end(false);
    }
}

/// One at a time: each is over in a moment, or asks for the same.
fn answer_all(listener: &UnixListener, feed: &Feed) {
    for stream in listener.incoming() {
        match stream {
            Ok(stream) => barrier::answer(&stream, || feed.flush(PATIENCE)),
            // Descriptors are short.
            Err(_) => std::thread::sleep(AGAIN),
        }
    }
}

impl Writer {
    fn new(tree: &Tree, parts: &Parts, feed: &Arc<Feed>, label: String) -> Result<Writer> {
        let control = tree.control().ok_or_else(|| damaged("there is no humfs/"))?;
        let dir = host::ensure_dir(control, DIR).map_err(fault("making humfs/catalog"))?;
        let path = std::fs::read_link(host::proc_path(dir.as_fd())).map_err(Error::from)?.join("catalog.db");
        Ok(Writer { feed: feed.clone(), parts: parts.clone(), dir, path, label, catalog: None, accounts: None })
    }

    fn run(mut self) {
        let outcome = self.keep();
        match (outcome, self.catalog.take()) {
            (Ok(()), Some(catalog)) => {
                if let Err(error) = close(catalog, self.dir.as_fd(), self.feed.is_in_order()) {
                    tracing::warn!("the catalog is not left in order, and will be made anew: {error}");
                }
            }
            // It was told to end in the middle of a scan.
            (Ok(()), None) => {}
            (Err(error), _) => tracing::warn!("the catalog is not kept any more: {error}"),
        }
        // Nobody answers there any more.
        let _ = host::remove_file(self.dir.as_fd(), SOCKET);
        self.feed.fail("the tree is not served any more".into());
    }

    fn keep(&mut self) -> Result<()> {
        if self.catalog.is_none() {
            self.build(&|_, _| {})?;
        }
        loop {
            let order = self.feed.wait();
            if let Err(error) = self.carry_out(&order) {
                self.feed.fail(error.to_string());
                return Err(error);
            }
            self.feed.answer(order.answers);
            if order.closing || self.catalog.is_none() {
                return Ok(());
            }
        }
    }

    fn carry_out(&mut self, order: &Order) -> Result<()> {
        if order.pending.overflown {
            return self.build(&|_, _| {});
        }
        self.write(&order.pending)?;
        self.name_accounts()?;
        while !self.catalog_mut()?.tidy_log().map_err(|error| failed(&error))? {
            // Changes gather in memory meanwhile.
            if self.feed.is_ending() {
                break;
            }
            std::thread::sleep(AGAIN);
        }
        Ok(())
    }

    fn catalog_mut(&mut self) -> Result<&mut Catalog> {
        self.catalog.as_mut().ok_or_else(|| damaged("there is no catalog"))
    }

    /// Makes it anew from the tree. Without an error and without a catalog it
    /// was told to end.
    fn build(&mut self, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<()> {
        self.catalog = None;
        self.accounts = None;
        self.feed.begin_scan();
        let root = &self.parts.root;
        let mut catalog = Catalog::create(&self.path, &self.label, root.key().number).map_err(|error| failed(&error))?;
        let mut from = vec![root.clone()];
        while !from.is_empty() {
            for node in &from {
                match scan(&self.parts, &node.inner, &mut catalog, Some(&self.feed), progress) {
                    Err(_) if self.feed.is_ending() => return Ok(()),
                    answer => answer?,
                }
            }
            from = self.feed.end_scan();
        }
        let mut pending = Pending::default();
        pending.objects.insert(root.key().number, Fate::Known(Arc::downgrade(root), None));
        self.catalog = Some(catalog);
        self.write(&pending)?;
        self.name_accounts()?;
        self.catalog_mut()?.complete().map_err(|error| failed(&error))?;
        self.feed.stand(Standing::Current);
        Ok(())
    }

    fn write(&mut self, pending: &Pending) -> Result<()> {
        let mut batch = Batch { changes: pending.changes.clone(), ..Batch::default() };
        batch.names = pending.names.iter().map(|((parent, name), link)| (*parent, name.clone(), *link)).collect();
        for (&ino, fate) in &pending.objects {
            match fate {
                Fate::Gone => batch.objects.push((ino, None)),
                Fate::Lost(names) => batch.lost.push((ino, *names)),
                Fate::Known(node, attr) => {
                    batch.objects.extend(self.known(node.upgrade(), attr.as_deref()).map(|object| (ino, Some(object))))
                }
                Fate::Forgotten(parent, name) => batch.objects.extend(self.forgotten(ino, parent, name).map(|object| (ino, Some(object)))),
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.catalog_mut()?.apply(&batch).map_err(|error| failed(&error))
    }

    /// What is to be said of a node; None for one that is gone, of which something
    /// else tells.
    fn known(&self, node: Option<Arc<HumNode>>, attr: Option<&Attr>) -> Option<Object> {
        let node = node?;
        // From now on its changes are to be told again.
        node.is_awaited.store(false, Ordering::Release);
        let was_written = node.is_written.swap(false, Ordering::AcqRel);
        let told = attr.filter(|_| !was_written).copied();
        let host = match told {
            Some(_) => None,
            None => Some(self.parts.base.attr(&node.inner, None).ok()?),
        };
        let (record, orphan) = {
            let state = node.state();
            (state.record.clone(), state.orphan)
        };
        if orphan {
            return None;
        }
        let attr = told.or_else(|| host.map(|host| merged(&host, &record)))?;
        // The target was told when the link was made; reading it would move its atime.
        Some(Object { attr, extra: Some(entry(&record, || None)) })
    }

    /// What is to be said of the object that was called `name` in `parent`.
    fn forgotten(&self, ino: u64, parent: &Arc<Inode>, name: &CStr) -> Option<Object> {
        let _looking = self.parts.dirs.look(parent);
        let (inode, host) = self.parts.base.enroll(parent, name).ok()?;
        if host.ino != ino {
            return None;
        }
        let dir = self.parts.base.dir_fd(parent).ok()?;
        let record = match self.parts.store.load(&At { parent, dir: (*dir).as_fd(), name }, &host).ok()? {
            Loaded::Record(record) => record,
            Loaded::Absent => adopted(self.parts.adopt, &host).ok()?,
        };
        let target = || self.parts.base.read_link(&inode).ok();
        Some(Object { attr: merged(&host, &record), extra: Some(entry(&record, target)) })
    }

    /// Reads the names of users and groups, if their files are others than before.
    fn name_accounts(&mut self) -> Result<()> {
        let etc = self.parts.base.enroll(&self.parts.root.inner, c"etc");
        let etc = etc.ok().filter(|(_, host)| host.kind == FileKind::Directory).map(|(inode, _)| inode);
        let dir = etc.and_then(|etc| self.parts.base.dir_fd(&etc).ok());
        let look = |name: &CStr| {
            let host = host::stat_at((**dir.as_ref()?).as_fd(), name).ok()?;
            (host.kind == FileKind::Regular).then_some((host.ino, host.size, host.mtime))
        };
        let now = [look(c"passwd"), look(c"group")];
        if self.accounts == Some(now) {
            return Ok(());
        }
        let read = |name: &CStr| dir.as_ref().and_then(|dir| host::read_file((**dir).as_fd(), name, ACCOUNTS_MAX).ok()).unwrap_or_default();
        let accounts = Accounts { passwd: read(c"passwd"), group: read(c"group") };
        self.catalog_mut()?.name_accounts(&accounts).map_err(|error| failed(&error))?;
        self.accounts = Some(now);
        Ok(())
    }
}

/// Leaves a catalog that agrees with the tree; it is to be believed if the
/// tree is left in order as well.
fn close(catalog: Catalog, dir: BorrowedFd<'_>, in_order: bool) -> Result<()> {
    catalog.close().map_err(|error| failed(&error))?;
    if in_order { marker::put(dir).map_err(fault("writing humfs/catalog/current")) } else { Ok(()) }
}

/// What a record says that stat(2) does not; `target` for a link whose target
/// is not in there.
pub(super) fn entry(record: &Record, target: impl FnOnce() -> Option<Vec<u8>>) -> Extra {
    let target = match (&record.kind, &record.target) {
        (FileKind::Symlink, Some(target)) => Some(target.clone()),
        (FileKind::Symlink, None) => target().map(Into::into),
        _ => None,
    };
    let xattrs = record.xattrs.iter().map(|(name, value)| (name.into(), value.into())).collect();
    Extra { target, xattrs }
}

/// Makes the catalog of the tree at `path` anew; `progress` is told how many
/// names have been seen, and about how many there are.
///
/// # Errors
/// One clear line: the tree is in use, or not ours.
pub fn rebuild(path: &Path, label: &Label, progress: &(dyn Fn(u64, u64) + Sync)) -> std::result::Result<(), UsageError> {
    let cannot = |error: Error| UsageError(format!("cannot make the catalog of '{}': {error}", path.display()));
    let tree = Tree::open(path, Access::Write)?;
    let fs = HumFs::new(tree, Options::default()).map_err(cannot)?;
    let feed = Arc::new(Feed::new());
    let mut writer = Writer::new(fs.tree(), &fs.parts(), &feed, label.as_str().to_owned()).map_err(cannot)?;
    writer.build(progress).map_err(cannot)?;
    fs.close().map_err(cannot)?;
    let catalog = writer.catalog.take().ok_or_else(|| damaged("there is no catalog")).map_err(cannot)?;
    close(catalog, writer.dir.as_fd(), true).map_err(cannot)
}
