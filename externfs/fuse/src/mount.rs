//! [`FuseMount`]: the mount in the kernel, made before anything is served and
//! before any sandbox is put up.
//!
//! Root mounts by mount(2), everybody else through fusermount3. A dead mount
//! that a killed server left on the mount point (every access to it says
//! ENOTCONN) is detached first, so that the next mount works at once.

use crate::error::MountError;
use crate::helper;
use crate::mountinfo::{self, MountEntry};
use crate::options::{MountOptions, ServeOptions, Transport};
use crate::tuning::Tuning;
use crate::uring::{Rings, UringChoice};
use externfs::HostMount;
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// What `findmnt -t` shows.
const KIND: &str = "fuse.externfs";

/// For so long somebody may have a mount in use who is ending already, or between
/// fork(2) and execve(2).
const MOMENT: Duration = Duration::from_millis(100);

/// Largest READ, in bytes; as large as a WRITE.
const MAX_READ: u32 = 1 << 20;

/// How long a FUSE mount that is in the way may take to answer before it
/// counts as alive but stuck.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an externfs that still answers is looked at again before it counts
/// as alive: one whose supervisor was killed follows it some moments later.
const DYING: Duration = Duration::from_millis(100);

/// How long a dead externfs that we may not detach has to vanish.
const VANISHING: Duration = Duration::from_secs(1);

/// How often a dead mount may lie on top of another.
const STALE_MAX: usize = 16;

/// A mount whose requests nobody answers yet. Dropping it unmounts.
#[derive(Debug)]
pub struct FuseMount {
    device: OwnedFd,
    /// What it is to the tree that it shows, for who serves that.
    about: Option<HostMount>,
    unmounter: Unmounter,
    tuning: Tuning,
    callers_are_root: bool,
    armed: bool,
    rings: Option<io::Result<Rings>>,
}

impl FuseMount {
    /// Makes what serving by these options takes and a sandbox may forbid:
    /// io_uring_setup(2) and io_uring_register(2). To be called in the process
    /// that serves; [`FuseMount::serve`] does it otherwise. What cannot be had
    /// is said there.
    pub fn prepare(&mut self, options: &ServeOptions) {
        if self.rings.is_none() && options.uring != UringChoice::Off && options.transport == Transport::Native {
            self.rings = Some(Rings::new(&self.device, options.uring));
        }
    }

    pub(crate) fn take_rings(&mut self) -> Option<io::Result<Rings>> {
        self.rings.take()
    }

    /// Mounts on `point`, to be shown as `source` in findmnt(8).
    ///
    /// Everything that touches the mount waits until [`FuseMount::serve`] runs.
    ///
    /// # Errors
    /// One clear line each; see [`MountError`].
    pub fn mount(source: &OsStr, point: &Path, options: &MountOptions) -> Result<FuseMount, MountError> {
        let point = clear_place(point)?;
        let covered = hold_covered(&point);
        let device = match mount_as_root(source, &point, options) {
            Ok(Some(device)) => device,
            Ok(None) => mount_by_helper(source, &point, options)?,
            Err(error) => return Err(error),
        };
        let entry = mountinfo::topmost(&point).map_err(MountError::NoProc)?.ok_or_else(|| MountError::NotMounted(point.clone()))?;
        let tuning = Tuning::open(&entry.device);
        Ok(FuseMount {
            device,
            about: entry.numbers().map(|(major, minor)| HostMount { major, minor, covered }),
            unmounter: Unmounter { unique: mountinfo::unique_id(&point), point, device: entry.device, id: entry.id },
            tuning,
            callers_are_root: options.callers_are_root(),
            armed: true,
            rings: None,
        })
    }

    /// Unmounts this very mount, from any thread or process.
    #[must_use]
    pub fn unmounter(&self) -> Unmounter {
        self.unmounter.clone()
    }

    /// What the plugin is to know of this mount ([`externfs::Connect::mounted`]),
    /// once: in the process that serves, before it serves.
    pub fn take_about(&mut self) -> Option<HostMount> {
        self.about.take()
    }

    /// For a process that only watches over the one that serves: lets go of the
    /// device without unmounting. While it held the device, a dead server's
    /// mount would wait for an answer instead of failing.
    #[must_use]
    pub fn into_unmounter(mut self) -> Unmounter {
        self.armed = false;
        self.unmounter.clone()
    }

    /// Whether the kernel leaves it to us who may do what, and all may.
    pub(crate) fn callers_are_root(&self) -> bool {
        self.callers_are_root
    }

    /// The device, for whoever serves; unmounting is then up to them.
    pub(crate) fn into_parts(mut self) -> io::Result<(OwnedFd, Unmounter, Tuning)> {
        let device = self.device.try_clone()?;
        self.armed = false;
        Ok((device, self.unmounter.clone(), std::mem::take(&mut self.tuning)))
    }
}

impl Drop for FuseMount {
    fn drop(&mut self) {
        if self.armed
            && let Err(error) = self.unmounter.unmount(true)
        {
            tracing::warn!("{error}");
        }
    }
}

/// Knows one mount, wherever it is by now, and unmounts it and no other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unmounter {
    point: PathBuf,
    /// `major:minor`, so that a later mount in the same place is left alone.
    device: String,
    /// So that another mount of the same file system is.
    id: u64,
    /// The kernel gives both numbers again at once; this one never
    /// (Linux 6.8).
    unique: Option<u64>,
}

impl Unmounter {
    /// Where it was mounted.
    #[must_use]
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Whether it still is, anywhere.
    #[must_use]
    pub fn is_mounted(&self) -> bool {
        self.find().is_ok_and(|found| found.is_some())
    }

    /// Where it is now, and whether it is what one sees there. A mount moves when
    /// a directory above it is renamed.
    fn find(&self) -> Result<Option<(PathBuf, bool)>, MountError> {
        let all = mountinfo::read().map_err(MountError::NoProc)?;
        let Some(here) = all.iter().find(|entry| entry.id == self.id && entry.device == self.device) else { return Ok(None) };
        let is_on_top = all.iter().rfind(|entry| entry.point == here.point).is_some_and(|top| top.id == self.id);
        let is_ours = !is_on_top || self.is_at(&here.point);
        Ok(is_ours.then(|| (here.point.clone(), is_on_top)))
    }

    /// Whether what is on top at `point` with our numbers is ours.
    fn is_at(&self, point: &Path) -> bool {
        match (self.unique, mountinfo::unique_id(point)) {
            (Some(ours), Some(there)) => ours == there,
            _ => true,
        }
    }

    /// Unmounts it. With `lazy` it is taken out of sight at once and goes when
    /// its last user does. Nothing to do is success.
    ///
    /// # Errors
    /// [`MountError::Busy`] when it is in use, unless `lazy`.
    pub fn unmount(&self, lazy: bool) -> Result<(), MountError> {
        match self.find()? {
            None => Ok(()),
            Some((point, true)) => detach(&point, lazy),
            // Somebody mounted over it.
            Some((point, false)) => Err(MountError::Busy(point)),
        }
    }

    /// Unmounts it, at once if nobody uses it and lazily otherwise.
    ///
    /// # Errors
    /// What keeps it from that.
    pub fn unmount_now(&self) -> Result<(), MountError> {
        let end = Instant::now() + MOMENT;
        loop {
            match self.unmount(false) {
                Err(MountError::Busy(_)) if Instant::now() < end => thread::sleep(MOMENT / 10),
                Err(MountError::Busy(_)) => return self.unmount(true),
                other => return other,
            }
        }
    }
}

/// Unmounts the externfs that is mounted on `point`, whoever serves it, dead or
/// alive.
///
/// # Errors
/// [`MountError::NotMounted`] when there is none, else as [`Unmounter::unmount`].
pub fn unmount(point: &Path, lazy: bool) -> Result<(), MountError> {
    let place = absolute(point)?;
    let mut entry = mountinfo::topmost(&place).map_err(MountError::NoProc)?;
    if entry.is_none()
        && let Ok(real) = fs::canonicalize(&place)
    {
        entry = mountinfo::topmost(&real).map_err(MountError::NoProc)?;
    }
    match entry {
        Some(MountEntry { point, kind, .. }) if kind == KIND => detach(&point, lazy),
        _ => Err(MountError::NotMounted(point.to_owned())),
    }
}

fn detach(point: &Path, lazy: bool) -> Result<(), MountError> {
    let flags = UnmountFlags::NOFOLLOW | if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match rustix::mount::unmount(point, flags) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(MountError::Busy(point.to_owned())),
        Err(Errno::PERM) => helper::unmount(point, lazy),
        // Not mounted any more: another one was faster.
        Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(error) => Err(MountError::Unusable(point.to_owned(), error.into())),
    }
}

/// The path without `.`, `..` and links except in its last component, which may
/// be a dead mount that nothing may touch.
fn absolute(point: &Path) -> Result<PathBuf, MountError> {
    let (Some(parent), Some(name)) = (point.parent(), point.file_name()) else {
        return fs::canonicalize(point).map_err(|error| place_error(point, error));
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let parent = fs::canonicalize(parent).map_err(|error| place_error(point, error))?;
    Ok(parent.join(name))
}

fn place_error(point: &Path, error: io::Error) -> MountError {
    match error.raw_os_error() {
        Some(libc::ENOENT) => MountError::NoSuchDirectory(point.to_owned()),
        Some(libc::ENOTDIR) => MountError::NotADirectory(point.to_owned()),
        _ => MountError::Unusable(point.to_owned(), error),
    }
}

/// Takes dead mounts away from `point` and returns its real path.
/// [`FuseMount::mount`] does it as well; who wants to mount over his source needs
/// it before that is opened.
///
/// # Errors
/// It is no directory, or in use.
pub fn clear(point: &Path) -> Result<PathBuf, MountError> {
    clear_place(point)
}

/// The real path of a directory to mount on, cleared of dead mounts.
fn clear_place(point: &Path) -> Result<PathBuf, MountError> {
    let mut place = absolute(point)?;
    let mut patience = Patience::new();
    while patience.steps < STALE_MAX {
        if let Some(entry) = mountinfo::topmost(&place).map_err(MountError::NoProc)?
            && entry.is_fuse()
        {
            clear_mount(&place, entry, &mut patience)?;
            continue;
        }
        let about = fs::symlink_metadata(&place).map_err(|error| place_error(point, error))?;
        if about.is_symlink() {
            patience.steps += 1;
            place = fs::canonicalize(&place).map_err(|error| place_error(point, error))?;
            continue;
        }
        if !about.is_dir() {
            return Err(MountError::NotADirectory(place));
        }
        return Ok(place);
    }
    Err(MountError::Unusable(place, io::Error::from_raw_os_error(libc::ELOOP)))
}

/// What of the time for clearing a place is used up.
struct Patience {
    begun: Instant,
    /// Links followed, and mounts that went or were sent away.
    steps: usize,
}

impl Patience {
    fn new() -> Patience {
        Patience { begun: Instant::now(), steps: 0 }
    }

    /// Waits a moment; false when `limit` has passed since the beginning.
    fn wait(&self, limit: Duration) -> bool {
        let left = self.begun.elapsed() < limit;
        if left {
            thread::sleep(Duration::from_millis(5));
        }
        left
    }
}

/// Takes `entry` away from `place` if it is dead. Returns when there may be
/// something else on top, or when it is worth another look.
fn clear_mount(place: &Path, entry: MountEntry, patience: &mut Patience) -> Result<(), MountError> {
    let is_ours = entry.kind == KIND;
    if !is_dead(place) {
        let now = mountinfo::topmost(place).map_err(MountError::NoProc)?;
        if now.is_none_or(|now| now.id != entry.id) {
            // A supervisor was faster, and what answered was what lies below.
            patience.steps += 1;
            return Ok(());
        }
        if is_ours && patience.wait(DYING) {
            return Ok(());
        }
        let source = entry.source.to_string_lossy().into_owned();
        return Err(MountError::InUse { point: place.to_owned(), kind: entry.kind, source });
    }
    match detach(place, true) {
        Ok(()) => {
            tracing::warn!("a dead mount ({}) lay on {}: detached", entry.kind, place.display());
            patience.steps += 1;
            Ok(())
        }
        // Not ours to detach, but its supervisor may be about to.
        Err(_) if is_ours && patience.wait(VANISHING) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether the server of the FUSE mount at `point` is gone. statfs(2) is never
/// answered from the kernel's cache, as stat(2) is. A mount that does not
/// answer at all lives; the thread that asks is left behind.
fn is_dead(point: &Path) -> bool {
    let (sender, receiver) = mpsc::channel();
    let owned = point.to_owned();
    let asked = thread::Builder::new().name("probe".into()).spawn(move || {
        let answer = rustix::fs::statfs(&owned);
        // Nobody listens any more once the time is up.
        let _ = sender.send(matches!(answer, Err(Errno::NOTCONN | Errno::CONNABORTED)));
    });
    asked.is_ok() && receiver.recv_timeout(PROBE_TIMEOUT).unwrap_or(false)
}

/// What is about to be mounted over, and its name: afterwards no name leads there.
/// It may well lie in what is to be served.
fn hold_covered(point: &Path) -> Option<(OwnedFd, CString)> {
    let name = CString::new(point.file_name()?.as_bytes()).ok()?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Some((rustix::fs::openat(CWD, point, flags, Mode::empty()).ok()?, name))
}

fn open_device() -> Result<OwnedFd, MountError> {
    let opened = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    opened.map_err(|error| MountError::of_device(error.into()))
}

/// By mount(2). None when that is not for us.
fn mount_as_root(source: &OsStr, point: &Path, options: &MountOptions) -> Result<Option<OwnedFd>, MountError> {
    let device = open_device()?;
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions,max_read={MAX_READ}",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let data = CString::new(data).map_err(|_| MountError::BadOption("a mount option contains a NUL".into()))?;
    match rustix::mount::mount(source, point, KIND, options.flags(), data.as_c_str()) {
        Ok(()) => Ok(Some(device)),
        // Root of a container that may not mount.
        Err(Errno::PERM) => Ok(None),
        Err(Errno::NODEV) => Err(MountError::NoDevice),
        Err(error) => Err(MountError::Refused(point.to_owned(), error.into())),
    }
}

fn mount_by_helper(source: &OsStr, point: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    if rustix::fs::accessat(CWD, point, Access::WRITE_OK, AtFlags::EACCESS).is_err() {
        return Err(MountError::NotYours(point.to_owned()));
    }
    if options.suid || options.dev {
        return Err(MountError::BadOption("suid and dev are for root: leave them out".into()));
    }
    let mut words: Vec<String> = options.words().into_iter().map(String::from).collect();
    if !options.callers_are_root() {
        words.push("default_permissions".to_owned());
    }
    words.extend(["subtype=externfs".to_owned(), format!("max_read={MAX_READ}")]);
    helper::mount(&OsString::from(source), point, &words)
}
