//! Serving a mount until it is unmounted or told to stop.

use crate::adapter::{Adapter, is_refusal};
use crate::mount::{FuseMount, Unmounter};
use crate::native::Native;
use crate::options::{ServeOptions, Transport};
use crate::uring::{Rings, UringChoice};
use crate::watch::{Notify, WatchQueue};
use externfs::Export;
use fuser::{Config, INodeNo, Notifier, Session, SessionACL};
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Threads of our own transport: they rest until requests block.
pub(crate) const NATIVE_THREADS: usize = 8;
/// Threads of fuser, which all wait for requests.
const FUSER_THREADS: usize = 2;

/// How long open files may keep a stopped session alive.
const GRACE: Duration = Duration::from_secs(2);

/// Why serving ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExitReason {
    /// Somebody unmounted it.
    Unmounted,
    /// [`StopHandle::stop`] was called, and the mount is gone.
    Stopped,
    /// [`StopHandle::stop`] was called, but files are still open there or this
    /// process may not unmount: requests go on being served until it exits.
    StoppedInUse,
}

/// Why serving could not begin or broke off.
#[derive(Debug)]
pub enum ServeError {
    /// What was asked for cannot be had: a line with the remedy.
    Refused(String),
    /// The kernel and we did not come to terms.
    Handshake(io::Error),
    /// The session broke.
    Session(io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeError::Refused(line) => f.write_str(line),
            ServeError::Handshake(error) => write!(f, "the kernel's FUSE does not accept us: {error}"),
            ServeError::Session(error) => write!(f, "serving broke off: {error}"),
        }
    }
}

impl std::error::Error for ServeError {}

#[derive(Default)]
struct Progress {
    stop: bool,
    /// The session's own end.
    ended: Option<io::Result<()>>,
}

#[derive(Default)]
struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
}

impl Shared {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self, result: io::Result<()>) {
        self.progress().ended = Some(result);
        self.changed.notify_all();
    }

    /// Until the session ends or is to stop.
    fn wait(&self) -> MutexGuard<'_, Progress> {
        let busy = |progress: &mut Progress| !progress.stop && progress.ended.is_none();
        self.changed.wait_while(self.progress(), busy).unwrap_or_else(PoisonError::into_inner)
    }

    /// Until the session ends or `limit` is over.
    fn wait_for_end(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut progress = self.progress();
        while progress.ended.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            progress = self.changed.wait_timeout(progress, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

/// Ends serving, from another thread.
#[derive(Clone, Default)]
pub struct StopHandle(Arc<Shared>);

impl StopHandle {
    /// For one session.
    #[must_use]
    pub fn new() -> StopHandle {
        StopHandle::default()
    }

    /// Unmounts and makes [`FuseMount::serve`] return. Returns at once; again
    /// does nothing. Takes a lock, so it is for a thread that waits for
    /// signals, not for a signal handler.
    pub fn stop(&self) {
        self.0.progress().stop = true;
        self.0.changed.notify_all();
    }
}

impl fmt::Debug for StopHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StopHandle").field("stop", &self.0.progress().stop).finish()
    }
}

impl Notify for Notifier {
    fn inval_inode(&self, node: u64, data: bool) -> io::Result<()> {
        // A negative offset leaves the pages alone.
        self.inval_inode(INodeNo(node), if data { 0 } else { -1 }, 0)
    }

    fn inval_entry(&self, parent: u64, name: &[u8]) -> io::Result<()> {
        self.inval_entry(INodeNo(parent), OsStr::from_bytes(name))
    }
}

impl FuseMount {
    /// Serves `export` on this mount; returns when it is unmounted or `stop` is
    /// used. `ready` is called once, when the mount can be used.
    ///
    /// Works inside a sandbox that allows reading and writing descriptors that
    /// are open already (exceptions: [`ServeOptions::clone_fd`] opens
    /// /dev/fuse; passthrough needs ioctl(2) and CAP_SYS_ADMIN; for rings see
    /// [`FuseMount::prepare`]). A stopped
    /// server that may not unmount any more leaves that to its supervisor.
    ///
    /// # Errors
    /// [`ServeError`]. The mount is gone then, as far as we may unmount it.
    pub fn serve(
        mut self,
        export: Arc<dyn Export>,
        options: &ServeOptions,
        stop: &StopHandle,
        ready: impl FnOnce(),
    ) -> Result<ExitReason, ServeError> {
        let options = &ServeOptions { callers_are_root: self.callers_are_root(), ..*options };
        self.prepare(options);
        let rings = self.take_rings();
        let (device, unmounter, tuning) = self.into_parts().map_err(ServeError::Handshake)?;
        let guard = UnmountOnDrop(&unmounter);
        let writeback = export.cache_policy().writeback;
        let begun = Begun::new(device, &export, options, rings)?;
        tuning.apply(writeback);
        let (queue, notifying) = begun.watch().map_err(ServeError::Session)?;
        export.set_watcher(queue.clone());
        drop(export);
        let (shared, options) = (Arc::clone(&stop.0), *options);
        let serving = thread::Builder::new().name("fuse-session".into()).spawn(move || shared.ended(begun.run(&options)));
        serving.map_err(ServeError::Session)?;
        ready();
        let reason = conclude(&stop.0, &unmounter);
        queue.close();
        if !matches!(reason, Ok(ExitReason::StoppedInUse)) {
            // It may be inside a notification that only a living session ends.
            let _ = notifying.join();
        }
        drop(guard);
        reason
    }
}

/// A session that has answered INIT.
enum Begun {
    Native(Native),
    Fuser(Box<Session<Adapter>>),
}

impl Begun {
    fn new(
        device: OwnedFd,
        export: &Arc<dyn Export>,
        options: &ServeOptions,
        rings: Option<io::Result<Rings>>,
    ) -> Result<Begun, ServeError> {
        if options.transport == Transport::Native {
            return Native::begin(device, Arc::clone(export), options, rings).map(Begun::Native);
        }
        if options.uring == UringChoice::On {
            return Err(ServeError::Refused("uring=on: only our own transport has it; drop transport=fuser".to_owned()));
        }
        let adapter = Adapter::new(Arc::clone(export), options);
        let notifier = adapter.notifier();
        let mut config = Config::default();
        config.n_threads = Some(options.threads.unwrap_or(FUSER_THREADS).max(1));
        config.clone_fd = options.clone_fd;
        // Who may come in is the kernel's business: it knows allow_other.
        let session = Session::from_fd(adapter, device, SessionACL::All, config).map_err(|error| match is_refusal(&error) {
            true => ServeError::Refused(error.to_string()),
            false => ServeError::Handshake(error),
        })?;
        // Only we fill it.
        let _ = notifier.set(session.notifier());
        Ok(Begun::Fuser(Box::new(session)))
    }

    fn watch(&self) -> io::Result<(Arc<WatchQueue>, JoinHandle<()>)> {
        match self {
            Begun::Native(native) => WatchQueue::start(native.notifier()),
            Begun::Fuser(session) => WatchQueue::start(session.notifier()),
        }
    }

    fn run(self, options: &ServeOptions) -> io::Result<()> {
        match self {
            Begun::Native(native) => native.run(options.threads.unwrap_or(NATIVE_THREADS), options.clone_fd),
            Begun::Fuser(session) => session.run(),
        }
    }
}

/// A session that never began, or broke, leaves no dead mount.
struct UnmountOnDrop<'a>(&'a Unmounter);

impl Drop for UnmountOnDrop<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.unmount(true) {
            tracing::debug!("left to the supervisor: {error}");
        }
    }
}

fn conclude(shared: &Shared, unmounter: &Unmounter) -> Result<ExitReason, ServeError> {
    if let Some(ended) = shared.wait().ended.take() {
        return ended.map(|()| ExitReason::Unmounted).map_err(ServeError::Session);
    }
    if let Err(error) = unmounter.unmount_now() {
        tracing::debug!("left to the supervisor: {error}");
        return Ok(ExitReason::StoppedInUse);
    }
    if !shared.wait_for_end(GRACE) {
        return Ok(ExitReason::StoppedInUse);
    }
    match shared.progress().ended.take() {
        Some(Err(error)) => Err(ServeError::Session(error)),
        _ => Ok(ExitReason::Stopped),
    }
}
