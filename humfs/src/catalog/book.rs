//! [`Book`]: the thread that writes the catalog.

use super::feed::{Feed, Order};
use super::pending::{Fate, Pending};
use super::restless::Restless;
use super::scan::{Listed, failed, scan};
use super::text::Reader;
use super::{DIR, Upkeep, look, marker};
use crate::account::Account;
use crate::fs::HumFs;
use crate::host::{self, damaged, fault};
use crate::locks::DirLocks;
use crate::node::{HumNode, NodeTable};
use crate::options::{Adopt, Label, Options};
use crate::store::MetaStore;
use crate::tree::{Access, Tree};
use externfs::{Errno, Error, ExternFs, FileKind, Result, UsageError};
use externfs_catalog::barrier::{self, Standing};
use externfs_catalog::{Accounts, Batch, Catalog, DATABASE};
use hostfs::HostFs;
use std::collections::HashMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes of /etc/passwd and of /etc/group that are read.
const ACCOUNTS_MAX: usize = 4 << 20;

/// How long one who asks across the socket is kept waiting.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often a log that a reader keeps from being written back is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Rows of one transaction: each may change two pages of the database, and all
/// of them are added to a log that may be nearly as long as it may become.
const ROWS_MOST: usize = 2048;

/// More has changed during a scan than could be kept in memory.
const OVERTAKEN: Errno = Errno::EOVERFLOW;

/// How often making the catalog may fail, and how long it rests between.
const FAILURES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// How long one that could not be kept is left alone at first, and at most: the
/// host may have room by then.
const REST: Duration = Duration::from_secs(2);
const REST_MOST: Duration = Duration::from_secs(320);

/// How often an object is looked for by names that do not lead to it.
const MISSES: u32 = 8;

/// See [`barrier::SOCKET`].
const SOCKET: &CStr = c"socket";

/// What it needs of the file system.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) base: Arc<HostFs>,
    pub(crate) store: Arc<dyn MetaStore>,
    pub(crate) dirs: Arc<DirLocks>,
    pub(crate) account: Arc<Account>,
    pub(crate) nodes: Arc<NodeTable>,
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
    restless: Restless,
    /// Reads what files say, if that is wanted.
    reader: Option<Reader>,
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
        let mut writer = match Writer::new(tree, parts, &feed, options.label.as_str().to_owned()) {
            Ok(writer) => writer,
            Err(error) => {
                tracing::warn!("no catalog is kept: {error}");
                return Ok(None);
            }
        };
        writer.reader = options.content.clone().map(Reader::new);
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
        let path = std::fs::read_link(host::proc_path(dir.as_fd())).map_err(Error::from)?.join(DATABASE);
        Ok(Writer {
            feed: feed.clone(),
            parts: parts.clone(),
            dir,
            path,
            label,
            catalog: None,
            restless: Restless::default(),
            reader: None,
            accounts: None,
        })
    }

    fn run(mut self) {
        let (mut told, mut rest, mut begun) = (String::new(), REST, Instant::now());
        while let Err(error) = self.keep() {
            let why = error.to_string();
            if begun.elapsed() > REST_MOST {
                // It was kept for a while: this is another story.
                (told, rest) = (String::new(), REST);
            }
            if why != told {
                tracing::warn!("the catalog is not kept: {why}; it is made anew when that is over");
            }
            // Whoever asks meanwhile is told so.
            self.feed.fail(why.clone());
            self.rest();
            if self.feed.ends_within(rest) {
                break;
            }
            rest = (rest * 2).min(REST_MOST);
            (told, begun) = (why, Instant::now());
        }
        // None if it was told to end in the middle of a scan, or failed.
        if let Some(catalog) = self.catalog.take()
            && let Err(error) = close(catalog, self.dir.as_fd(), self.feed.is_in_order())
        {
            tracing::warn!("the catalog is not left in order, and will be made anew: {error}");
        }
        // Nobody answers there any more.
        let _ = host::remove_file(self.dir.as_fd(), SOCKET);
        self.feed.fail("the tree is not served any more".into());
    }

    /// Has nothing of what it had: the next scan finds it. Nor has the host of a
    /// database that is not whole; one that is can still be asked.
    fn rest(&mut self) {
        self.catalog = None;
        if !externfs_catalog::facts(&self.path).is_ok_and(|facts| facts.is_some_and(|facts| facts.is_complete)) {
            // What cannot be removed is replaced by the next.
            let _ = externfs_catalog::remove(&self.path);
        }
        self.restless = Restless::default();
        if let Some(reader) = &mut self.reader {
            reader.start_over();
        }
    }

    fn keep(&mut self) -> Result<()> {
        if self.catalog.is_none() {
            self.build(&|_, _| {})?;
        }
        self.want_texts()?;
        loop {
            let (waiting, due) = self.reader.as_ref().map_or((0, None), |reader| (reader.waiting(), reader.due()));
            let Order { pending, answers, is_asked, closing } = self.feed.wait(waiting, due);
            self.carry_out(pending, is_asked, closing)?;
            self.feed.answer(answers);
            if closing || self.catalog.is_none() {
                return Ok(());
            }
        }
    }

    fn carry_out(&mut self, pending: Pending, is_asked: bool, closing: bool) -> Result<()> {
        if pending.overflown {
            self.build(&|_, _| {})?;
            if let Some(reader) = &mut self.reader {
                reader.start_over();
            }
            return self.want_texts();
        }
        let changes = if self.reader.is_some() { pending.changes.clone() } else { Vec::new() };
        self.write(pending)?;
        if is_asked || closing {
            self.look_again()?;
        }
        self.name_accounts()?;
        if let Some(reader) = self.reader.as_mut().filter(|_| !closing) {
            reader.note(&changes);
            let catalog = self.catalog.as_mut().ok_or_else(|| damaged("there is no catalog"))?;
            if reader.due().is_some_and(|due| due.is_zero()) {
                reader.read_some(&self.parts, catalog).map_err(|error| failed(&error))?;
            }
        }
        Ok(())
    }

    /// Tells the catalog which files are to be read.
    fn want_texts(&mut self) -> Result<()> {
        let Some(catalog) = self.catalog.as_mut() else { return Ok(()) };
        catalog.want_texts(self.reader.as_ref().map(Reader::wanted)).map_err(|error| failed(&error))
    }

    /// At what may have changed without a word.
    fn look_again(&mut self) -> Result<()> {
        let catalog = self.catalog.as_mut().ok_or_else(|| damaged("there is no catalog"))?;
        // One that cannot be looked up is left as it is.
        let objects = self.restless.look(&self.parts, |ino| catalog.paths_of(ino).unwrap_or_default());
        apply(catalog, Batch { objects, ..Batch::default() }, Some(&self.feed))
    }

    fn catalog_mut(&mut self) -> Result<&mut Catalog> {
        self.catalog.as_mut().ok_or_else(|| damaged("there is no catalog"))
    }

    /// Makes it anew from the tree. Without an error and without a catalog it
    /// was told to end.
    fn build(&mut self, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<()> {
        let mut failures = 0;
        loop {
            match self.build_once(progress) {
                Err(error) if error.errno() == OVERTAKEN => {}
                // A reader of root's who looks at the database as it appears makes
                // files beside it, which are ours a moment later only.
                Err(_) if failures < FAILURES && !self.feed.is_ending() => {
                    failures += 1;
                    std::thread::sleep(PAUSE);
                }
                answer => return answer,
            }
        }
    }

    fn build_once(&mut self, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<()> {
        self.catalog = None;
        self.accounts = None;
        self.feed.begin_scan();
        // What a server that was killed has written takes its last blocks now.
        let _ = self.parts.base.sync();
        let root = self.parts.root.clone();
        let mut catalog = Catalog::create(&self.path, &self.label, root.key().number).map_err(|error| failed(&error))?;
        let listed = Listed::default();
        match scan(&self.parts, &root.inner, &mut catalog, &listed, (Some(&self.feed), progress)) {
            Err(_) if self.feed.is_ending() => return Ok(()),
            answer => answer?,
        }
        self.catalog = Some(catalog);
        if !self.catch_up(&listed, progress)? {
            self.catalog = None;
            return Ok(());
        }
        let mut pending = Pending::default();
        pending.objects.insert(root.key().number, Fate::Known(Arc::downgrade(&root), None));
        self.write(pending)?;
        self.name_accounts()?;
        self.catalog_mut()?.complete().map_err(|error| failed(&error))?;
        self.feed.end_scan();
        Ok(())
    }

    /// Writes what was told during the scan, and scans the directories that it
    /// has missed because they moved meanwhile. Each is read once, so this ends,
    /// whatever moves. False if it was told to end.
    fn catch_up(&mut self, listed: &Listed, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<bool> {
        let mut misses: HashMap<u64, u32> = HashMap::new();
        loop {
            let pending = self.feed.gathered();
            if pending.overflown {
                return Err(Error::because(OVERTAKEN, "the tree changed faster than it could be scanned"));
            }
            listed.add(&pending.made_dirs);
            self.write(pending)?;
            let mut left = self.catalog_mut()?.dirs().map_err(|error| failed(&error))?;
            left.retain(|(ino, _)| listed.lacks(*ino));
            if left.is_empty() {
                return Ok(true);
            }
            for (ino, path) in left {
                // What was below another one has been read with that.
                if !listed.lacks(ino) {
                    continue;
                }
                let dir = path.and_then(|path| look::dir_at(&self.parts, ino, &path));
                let catalog = self.catalog.as_mut().ok_or_else(|| damaged("there is no catalog"))?;
                let scanned = dir.map_or(Ok(()), |dir| scan(&self.parts, &dir, catalog, listed, (Some(&self.feed), progress)));
                if self.feed.is_ending() {
                    return Ok(false);
                }
                // What was to be written is lost, though it counts as listed.
                scanned?;
                let missed = misses.entry(ino).or_default();
                *missed += u32::from(listed.lacks(ino));
                if *missed > MISSES {
                    // Nor can guests.
                    listed.add(&[ino]);
                }
            }
        }
    }

    fn write(&mut self, pending: Pending) -> Result<()> {
        let mut batch = Batch { changes: pending.changes, ..Batch::default() };
        batch.names = pending.names.into_iter().map(|((parent, name), link)| (parent, name, link)).collect();
        let mut astray = Vec::new();
        for (ino, fate) in pending.objects {
            let object = match fate {
                Fate::Gone => {
                    batch.objects.push((ino, None));
                    continue;
                }
                Fate::Known(node, attr) => {
                    let Some(node) = node.upgrade() else { continue };
                    let was_written = look::take_up(&node, pending.generation);
                    if was_written {
                        self.restless.written(&node);
                    }
                    look::known(&self.parts, &node, attr.as_deref().filter(|_| !was_written))
                }
                Fate::Forgotten(parent, name, target) => {
                    let found = look::named(&self.parts, ino, (&parent, &name), |_| target.map(<[u8]>::into_vec));
                    astray.extend(found.is_none().then_some((ino, 0)));
                    found
                }
                Fate::Astray(times) => {
                    astray.push((ino, times));
                    None
                }
            };
            batch.objects.extend(object.map(|object| (ino, Some(object))));
        }
        // As the database has them: neighbours are on the same pages.
        batch.objects.sort_unstable_by_key(|(ino, _)| *ino);
        batch.names.sort_unstable_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
        let feed = self.feed.clone();
        apply(self.catalog_mut()?, batch, Some(&feed))?;
        let found = self.find(&astray)?;
        apply(self.catalog_mut()?, found, Some(&feed))
    }

    /// Looks at objects by the names that the catalog has of them by now.
    fn find(&mut self, astray: &[(u64, u32)]) -> Result<Batch> {
        let mut batch = Batch::default();
        for &(ino, times) in astray {
            let paths = self.catalog_mut()?.paths_of(ino).map_err(|error| failed(&error))?;
            match paths.iter().find_map(|path| look::at_path(&self.parts, ino, path)) {
                Some(object) => batch.objects.push((ino, Some(object))),
                // Something on the way may be moving at this moment.
                None if !paths.is_empty() && times < MISSES => self.feed.missed(ino, times + 1),
                None => {}
            }
        }
        Ok(batch)
    }

    /// Reads the names of users and groups, if their files are others than before.
    fn name_accounts(&mut self) -> Result<()> {
        let etc = look::enroll(&self.parts, &self.parts.root.inner, c"etc");
        let etc = etc.filter(|(_, host)| host.kind == FileKind::Directory).map(|(inode, _)| inode);
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

/// Writes `batch`, in parts so small that the log can be written back between
/// them. While a reader keeps it from that, changes gather in memory.
pub(super) fn apply(catalog: &mut Catalog, batch: Batch, feed: Option<&Feed>) -> Result<()> {
    for part in batch.split(ROWS_MOST) {
        catalog.apply(&part).map_err(|error| failed(&error))?;
        while !catalog.tidy_log().map_err(|error| failed(&error))? {
            if feed.is_some_and(Feed::is_ending) {
                return Err(Error::because(Errno::EBUSY, "a reader that does not end keeps its log from being written back"));
            }
            std::thread::sleep(AGAIN);
        }
    }
    Ok(())
}

/// Leaves a catalog that agrees with the tree; it is to be believed if the
/// tree is left in order as well.
fn close(catalog: Catalog, dir: BorrowedFd<'_>, in_order: bool) -> Result<()> {
    catalog.close().map_err(|error| failed(&error))?;
    if in_order { marker::put(dir).map_err(fault("writing humfs/catalog/current")) } else { Ok(()) }
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

#[cfg(test)]
mod tests;
