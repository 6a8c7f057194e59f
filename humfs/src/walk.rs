//! [`walk`]: every name of a tree, by a few threads: for counting and for
//! checking.
//!
//! Directories that are still to be read, and names that were read and are
//! still to be looked at, lie on one heap; what was found last is done first,
//! so the heap stays small in deep trees and in wide ones. No descriptor is
//! held for what waits. The order in which names are seen is nobody's promise.
//!
//! Others may change the tree meanwhile. What has moved is seen where it was,
//! where it is, twice, or not at all; what they believe of its place stays.

use crate::beyond::Beyond;
use crate::host::{self, Fault, fault};
use crate::store::{At, Loaded, MetaStore};
use externfs::{Attr, Error, ExternFs, FileKind, Result};
use hostfs::{HostFs, Inode};
use rustix::fs::{Mode, OFlags, RawDir};
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Names that one thread looks at before it shares the rest.
const PORTION: usize = 1024;

/// Threads. More than a few only wait for each other in the host's caches.
const THREADS_MAX: usize = 4;

/// Bytes of one read of a directory.
const LISTING: usize = 32 << 10;

/// What is walked.
pub(crate) struct Ground<'a> {
    pub(crate) base: &'a HostFs,
    pub(crate) store: &'a dyn MetaStore,
    pub(crate) root: Arc<Inode>,
    pub(crate) beyond: Beyond,
}

impl<'a> Ground<'a> {
    /// What is below `root` in `base`.
    pub(crate) fn new(base: &'a HostFs, store: &'a dyn MetaStore, root: Arc<Inode>) -> Ground<'a> {
        Ground { base, store, root, beyond: Beyond::of(base.root_fd()) }
    }
}

/// A directory on the way.
pub(crate) struct Folder {
    pub(crate) inode: Arc<Inode>,
    /// For people: below data/, nothing for the root; see [`Folder::path_of`].
    pub(crate) path: Box<[u8]>,
}

/// Paths that are longer are told without their beginning: what is said of ten
/// thousand levels would else be the greater part of a report.
const PATH_SHOWN: usize = libc::PATH_MAX as usize;

impl Folder {
    /// The path of `name` in here; one that is too long begins with `.../`.
    pub(crate) fn path_of(&self, name: &CStr) -> Box<[u8]> {
        let name = name.to_bytes();
        let mut path = Vec::with_capacity(self.path.len() + 1 + name.len());
        if !self.path.is_empty() {
            path.extend(&*self.path);
            path.push(b'/');
        }
        path.extend(name);
        if path.len() > PATH_SHOWN {
            let cut = path.len() - PATH_SHOWN / 2;
            let tail = path.get(cut..).unwrap_or_default();
            let start = tail.iter().position(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
            path = [b".../", tail.get(start..).unwrap_or_default()].concat();
        }
        path.into()
    }
}

/// One name; an object with several is seen under each.
pub(crate) struct Seen<'a> {
    ground: &'a Ground<'a>,
    /// The directory; of the root, that itself.
    pub(crate) folder: &'a Arc<Folder>,
    /// Where; None for the root.
    pub(crate) at: Option<At<'a>>,
    pub(crate) host: &'a Attr,
}

impl Seen<'_> {
    /// Its record.
    pub(crate) fn load(&self) -> Result<Loaded> {
        match &self.at {
            Some(at) => self.ground.store.load(at, self.host),
            None => self.ground.store.load_root(self.ground.base.root_fd(), self.host),
        }
    }

    /// What the host says, with those blocks only that count.
    pub(crate) fn counted(&self) -> Attr {
        self.at.as_ref().map_or(*self.host, |at| self.ground.beyond.without_at(self.host, at.dir, at.name))
    }

    /// See [`MetaStore::identity`].
    pub(crate) fn identity(&self) -> u64 {
        self.at.as_ref().map_or(0, |at| self.ground.store.identity(at).unwrap_or(0))
    }

    /// See [`MetaStore::is_unwritten`].
    pub(crate) fn is_unwritten(&self) -> bool {
        self.ground.store.is_unwritten(self.at.as_ref(), self.host).unwrap_or(false)
    }

    /// See [`MetaStore::stranger`].
    pub(crate) fn stranger(&self) -> Option<String> {
        self.at.as_ref().and_then(|at| self.ground.store.stranger(at, self.host).ok().flatten())
    }

    /// Whether the host has `attribute` of it.
    pub(crate) fn has_attribute(&self, attribute: &CStr) -> bool {
        let (dir, name) = self.at.as_ref().map_or((self.root_fd(), c"."), |at| (at.dir, at.name));
        let carries = matches!(self.host.kind, FileKind::Regular | FileKind::Directory);
        carries && hostfs::named::get_xattr(dir, name, attribute, &mut []).is_ok()
    }

    /// The root of the data tree.
    pub(crate) fn root_fd(&self) -> BorrowedFd<'_> {
        self.ground.base.root_fd()
    }

    /// Device and number on the host.
    pub(crate) fn key(&self) -> (u64, u64) {
        (self.folder.inode.host_key().volume, self.host.ino)
    }

    /// As [`Folder::path_of`].
    pub(crate) fn path(&self) -> Box<[u8]> {
        self.at.as_ref().map_or_else(Box::default, |at| self.folder.path_of(at.name))
    }
}

/// Who is told. An error ends the walk.
pub(crate) trait Visit: Sync {
    /// A name; a directory's before what is in it.
    fn see(&self, seen: &Seen<'_>) -> Result<()>;

    /// All names in a directory, before any of them is seen.
    fn list(&self, _ground: &Ground<'_>, _folder: &Folder, _names: &Names) -> Result<()> {
        Ok(())
    }

    /// Whether what is in a directory is to be seen.
    fn enters(&self, _dir: &Inode) -> bool {
        true
    }

    /// A directory that cannot be read, or a name in it that cannot be looked at.
    fn fail(&self, _folder: &Folder, _name: Option<&CStr>, error: Error) -> Result<()> {
        Err(error)
    }
}

/// Names one after the other, each with its NUL: a directory may have millions.
#[derive(Default)]
pub(crate) struct Names(Vec<u8>);

impl Names {
    pub(crate) fn push(&mut self, name: &CStr) {
        self.0.extend(name.to_bytes_with_nul());
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &CStr> {
        let mut rest = self.0.as_slice();
        std::iter::from_fn(move || {
            let name = CStr::from_bytes_until_nul(rest).ok()?;
            rest = rest.get(name.to_bytes_with_nul().len()..)?;
            Some(name)
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn portions(&self) -> Vec<Names> {
        let mut portions = Vec::new();
        let mut portion = Names::default();
        for (index, name) in self.iter().enumerate() {
            portion.push(name);
            if index % PORTION == PORTION - 1 {
                portions.push(std::mem::take(&mut portion));
            }
        }
        portions.push(portion);
        portions
    }
}

/// Something to be done.
enum Job {
    Read(Arc<Folder>),
    See(Arc<Folder>, Names),
}

#[derive(Default)]
struct Heap {
    jobs: Vec<Job>,
    /// Threads that may still add some.
    busy: usize,
    failed: Option<Error>,
}

struct Walk<'a, V> {
    ground: &'a Ground<'a>,
    visit: &'a V,
    heap: Mutex<Heap>,
    more: Condvar,
}

/// Tells `visit` of everything in `ground`.
pub(crate) fn walk(ground: &Ground<'_>, visit: &impl Visit) -> Result<()> {
    let folder = Arc::new(Folder { inode: ground.root.clone(), path: Box::default() });
    let host = ground.base.attr(&ground.root, None)?;
    visit.see(&Seen { ground, folder: &folder, at: None, host: &host })?;
    walk_below(ground, visit)
}

/// Tells `visit` of everything in `ground` but its root. All errors are those of
/// `visit`: it is told what cannot be looked at.
pub(crate) fn walk_below(ground: &Ground<'_>, visit: &impl Visit) -> Result<()> {
    let folder = Arc::new(Folder { inode: ground.root.clone(), path: Box::default() });
    let walk = Walk { ground, visit, heap: Mutex::new(Heap { jobs: vec![Job::Read(folder)], ..Heap::default() }), more: Condvar::new() };
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get().min(THREADS_MAX));
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // Where there can be no more threads, this one does it alone.
            let _ = std::thread::Builder::new().spawn_scoped(scope, || walk.work());
        }
        walk.work();
    });
    let heap = walk.heap.into_inner().unwrap_or_else(PoisonError::into_inner);
    heap.failed.map_or(Ok(()), Err)
}

/// Takes a thread off the list when it is done with a job, also by a panic:
/// else the others would wait for ever.
struct Turn<'w, 'a, V>(&'w Walk<'a, V>);

impl<V> Drop for Turn<'_, '_, V> {
    fn drop(&mut self) {
        self.0.heap().busy -= 1;
        self.0.more.notify_all();
    }
}

impl<'a, V: Visit> Walk<'a, V> {
    fn work(&self) {
        while let Some((job, _turn)) = self.next() {
            let done = match job {
                Job::Read(folder) => self.read(&folder),
                Job::See(folder, names) => self.see_all(&folder, &names),
            };
            let mut heap = self.heap();
            match done {
                Ok(found) => heap.jobs.extend(found),
                Err(error) => heap.failed = Some(error),
            }
        }
    }

    fn next(&self) -> Option<(Job, Turn<'_, 'a, V>)> {
        let mut heap = self.heap();
        loop {
            if heap.failed.is_some() {
                return None;
            }
            if let Some(job) = heap.jobs.pop() {
                heap.busy += 1;
                return Some((job, Turn(self)));
            }
            if heap.busy == 0 {
                return None;
            }
            heap = self.more.wait(heap).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn read(&self, folder: &Arc<Folder>) -> Result<Vec<Job>> {
        let names = match self.ground.base.dir_fd(&folder.inode).and_then(|dir| names(dir.as_fd()).map_err(fault("reading a directory"))) {
            Ok(names) => names,
            Err(error) => return self.visit.fail(folder, None, error).map(|()| Vec::new()),
        };
        self.visit.list(self.ground, folder, &names)?;
        Ok(names.portions().into_iter().filter(|names| !names.is_empty()).map(|names| Job::See(folder.clone(), names)).collect())
    }

    fn see_all(&self, folder: &Arc<Folder>, names: &Names) -> Result<Vec<Job>> {
        let dir = match self.ground.base.dir_fd(&folder.inode) {
            Ok(dir) => dir,
            Err(error) => return self.visit.fail(folder, None, error).map(|()| Vec::new()),
        };
        let mut below = Vec::new();
        for name in names.iter() {
            if let Some(inode) = self.see(folder, &At { parent: &folder.inode, dir: (*dir).as_fd(), name })? {
                below.push(Job::Read(Arc::new(Folder { inode, path: folder.path_of(name) })));
            }
        }
        Ok(below)
    }

    /// The node, for a directory.
    fn see(&self, folder: &Arc<Folder>, at: &At<'_>) -> Result<Option<Arc<Inode>>> {
        let host = match host::stat_at(at.dir, at.name) {
            Ok(host) => host,
            // Gone since it was listed: somebody else is at work.
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(other) => return self.visit.fail(folder, Some(at.name), fault("looking up a name")(other)).map(|()| None),
        };
        self.visit.see(&Seen { ground: self.ground, folder, at: Some(*at), host: &host })?;
        if host.kind != FileKind::Directory {
            return Ok(None);
        }
        match self.ground.base.notice(at.parent, at.name) {
            Ok((inode, _)) => Ok((inode.host_kind() == FileKind::Directory && self.visit.enters(&inode)).then_some(inode)),
            Err(error) => self.visit.fail(folder, Some(at.name), error).map(|()| None),
        }
    }
}

impl<V> Walk<'_, V> {
    fn heap(&self) -> MutexGuard<'_, Heap> {
        self.heap.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The names in a directory, without the dots.
fn names(dir: BorrowedFd<'_>) -> Fault<Names> {
    let mut buffer = Vec::with_capacity(LISTING);
    let mut listing = RawDir::new(open_quietly(dir)?, buffer.spare_capacity_mut());
    let mut names = Names::default();
    while let Some(entry) = listing.next() {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            names.push(entry.file_name());
        }
    }
    Ok(names)
}

/// Opens a directory for reading its names; its atime, which guests see, does
/// not move where the host lets us.
fn open_quietly(dir: BorrowedFd<'_>) -> Fault<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOATIME;
    match rustix::fs::openat(dir, c".", flags, Mode::empty()) {
        Err(rustix::io::Errno::PERM) => host::open_listing(dir),
        answer => answer,
    }
}
