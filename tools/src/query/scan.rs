//! [`Scan`]: all that is in a directory of the host, told in batches.
//!
//! Nothing is followed: each name is looked at in its directory's descriptor, and only
//! a directory that is still one is opened. Where another file system is mounted,
//! the mount's root is told and not entered, unless that is wanted. What
//! changes meanwhile is told as it was before or after.

use super::found::{Found, Tools};
use super::number::{Numbers, Volume};
use crate::failure::{Failure, Result};
use crate::shown;
use externfs::FileKind;
use externfs_catalog::{Batch, Link, Object};
use rustix::fs::{Mode, OFlags, RawDir};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Objects of a batch.
const BATCH: usize = 5000;

/// Batches that wait for the writer.
const AHEAD: usize = 4;

/// Threads that look; one more writes.
const WALKERS: usize = 4;

/// Bytes of a directory that are read at a time.
const LISTING: usize = 32 << 10;

const OPEN: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// See the [module](self).
pub(super) struct Scan {
    root: Arc<OwnedFd>,
    found: Found,
    all_filesystems: bool,
}

/// Directories that could not be read.
#[derive(Debug, Default)]
pub(super) struct Unread {
    count: u64,
    /// The first of them, and why.
    first: Option<String>,
}

/// A directory that is to be read.
struct Task {
    parent: Arc<OwnedFd>,
    /// Empty for the root.
    name: CString,
    number: u64,
}

/// What the walkers share.
struct Walk<'s> {
    scan: &'s Scan,
    numbers: Numbers,
    /// The catalog's own directory.
    avoid: Option<(Volume, u64)>,
    desk: Mutex<Desk>,
    more: Condvar,
    unread: Mutex<Unread>,
}

#[derive(Default)]
struct Desk {
    /// The last is taken first: so few directories are open at a time.
    waiting: Vec<Task>,
    busy: usize,
    is_given_up: bool,
}

/// A walker that has a task; when it goes, the task is done.
struct Busy<'w, 's>(&'w Walk<'s>);

impl Drop for Busy<'_, '_> {
    fn drop(&mut self) {
        self.0.desk().busy -= 1;
        self.0.more.notify_all();
    }
}

impl Scan {
    /// Of `directory`.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn of(directory: &Path, all_filesystems: bool) -> Result<Scan> {
        let cannot = |error: Errno| Failure::io(format!("cannot read '{}'", directory.display()), &error.into());
        let root = rustix::fs::open(directory, OPEN, Mode::empty()).map_err(cannot)?;
        let found = Found::look(root.as_fd(), c"").map_err(cannot)?;
        Ok(Scan { root: Arc::new(root), found, all_filesystems })
    }

    /// The root's number.
    pub(super) fn root(&self) -> u64 {
        self.found.attr.ino
    }

    /// Tells everything but what is in `avoid` to `take`, with how many objects that
    /// makes.
    ///
    /// # Errors
    /// Those of `take`.
    pub(super) fn run<E>(
        &self,
        avoid: &Path,
        take: &mut dyn FnMut(&Batch, u64) -> std::result::Result<(), E>,
    ) -> std::result::Result<Unread, E> {
        let avoid = rustix::fs::open(avoid, OPEN, Mode::empty()).and_then(|fd| Found::look(fd.as_fd(), c"")).ok();
        let walk = Walk {
            scan: self,
            numbers: Numbers::new(self.found.volume),
            avoid: avoid.map(|found| (found.volume, found.attr.ino)),
            desk: Mutex::default(),
            more: Condvar::new(),
            unread: Mutex::default(),
        };
        walk.desk().waiting.push(Task { parent: self.root.clone(), name: CString::default(), number: self.root() });
        let (sender, receiver) = sync_channel(AHEAD);
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(WALKERS);
        let taken = std::thread::scope(|scope| {
            for _ in 0..threads {
                let (walk, sender) = (&walk, sender.clone());
                scope.spawn(move || Walker { walk, sender, batch: Batch::default(), tools: Tools::new() }.run());
            }
            drop(sender);
            let mut count = 0;
            for batch in receiver {
                count += batch.objects.len() as u64;
                // The walkers find nobody who takes what they have, and end.
                take(&batch, count)?;
            }
            Ok(())
        });
        taken.map(|()| walk.unread.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Walk<'_> {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next directory; None when there will be none any more.
    fn next(&self) -> Option<(Task, Busy<'_, '_>)> {
        let mut desk = self.desk();
        loop {
            if desk.is_given_up {
                return None;
            }
            if let Some(task) = desk.waiting.pop() {
                desk.busy += 1;
                return Some((task, Busy(self)));
            }
            if desk.busy == 0 {
                return None;
            }
            desk = self.more.wait(desk).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn add(&self, task: Task) {
        self.desk().waiting.push(task);
        self.more.notify_one();
    }

    fn give_up(&self) {
        self.desk().is_given_up = true;
        self.more.notify_all();
    }

    fn could_not_read(&self, dir: BorrowedFd<'_>, name: &CStr, error: Errno) {
        let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        unread.count += 1;
        if unread.first.is_none() {
            let above = std::fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd())).unwrap_or_default();
            let path = [above.as_os_str().as_encoded_bytes(), b"/", name.to_bytes()].concat();
            unread.first = Some(format!("{}: {}", shown::text(&path), externfs::Errno::from_raw(error.raw_os_error()).phrase()));
        }
    }
}

struct Walker<'w, 's> {
    walk: &'w Walk<'s>,
    sender: SyncSender<Batch>,
    batch: Batch,
    tools: Tools,
}

impl Walker<'_, '_> {
    fn run(mut self) {
        let mut listing = vec![MaybeUninit::uninit(); LISTING];
        while let Some((task, busy)) = self.walk.next() {
            if let Err(error) = self.read(&task, &mut listing)
                && error != Errno::NOENT
            {
                self.walk.could_not_read(task.parent.as_fd(), &task.name, error);
            }
            drop(busy);
        }
        self.send();
    }

    fn send(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        if !batch.is_empty() && self.sender.send(batch).is_err() {
            self.walk.give_up();
        }
    }

    /// Tells what is in a directory.
    fn read(&mut self, task: &Task, listing: &mut [MaybeUninit<u8>]) -> rustix::io::Result<()> {
        let dir = if task.name.is_empty() {
            let root = &self.walk.scan.found;
            self.tools.enter(task.parent.as_fd());
            let extra = Some(self.tools.extra(task.parent.as_fd(), c".", FileKind::Directory));
            self.batch.objects.push((task.number, Some(Object { attr: root.attr, extra })));
            rustix::fs::openat(&task.parent, c".", OPEN, Mode::empty())?
        } else {
            rustix::fs::openat(&task.parent, &*task.name, OPEN, Mode::empty())?
        };
        let dir = Arc::new(dir);
        self.tools.enter(dir.as_fd());
        let mut entries = RawDir::new(&*dir, listing);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") {
                self.tell(&dir, task.number, name);
            }
            if self.batch.objects.len() >= BATCH {
                self.send();
            }
        }
        Ok(())
    }

    fn tell(&mut self, dir: &Arc<OwnedFd>, above: u64, name: &CStr) {
        // One that is gone by now.
        let Ok(found) = Found::look(dir.as_fd(), name) else { return };
        let Found { mut attr, volume } = found;
        if self.walk.avoid == Some((volume, attr.ino)) {
            return;
        }
        let is_dir = attr.kind == FileKind::Directory;
        attr.ino = self.walk.numbers.number(volume, attr.ino, !is_dir && attr.nlink > 1);
        let extra = Some(self.tools.extra(dir.as_fd(), name, attr.kind));
        self.batch.objects.push((attr.ino, Some(Object { attr, extra })));
        self.batch.names.push((above, name.to_bytes().into(), Some(Link { ino: attr.ino, is_dir })));
        if is_dir && (self.walk.scan.all_filesystems || volume == self.walk.numbers.home) {
            self.walk.add(Task { parent: dir.clone(), name: name.into(), number: attr.ino });
        }
    }
}

/// Tells people what is missing in the answer.
pub(super) fn tell(unread: &Unread) {
    if let Some(first) = &unread.first {
        let others = if unread.count > 1 { format!(" and {} other directories", unread.count - 1) } else { String::new() };
        eprintln!("externfs: warning: cannot read {first}{others}: what is in there is not in the answer");
    }
}
