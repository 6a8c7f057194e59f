//! [`Server`]: a socket that guests connect to, one at a time.

use crate::connection::{self, End};
use crate::endpoint::{REQUEST_QUEUES_MAX, TAG_MAX};
use crate::fence;
use crate::foreign::Undertaker;
use crate::handler::Handlers;
use crate::session;
use crate::statistics::{Counters, Statistics};
use crate::stop::Stop;
use externfs::{Connect, UsageError};
use externfs_wire::LogGate;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest path of a socket, in bytes: `sun_path` with its NUL (unix(7)).
const PATH_MAX: usize = 107;
/// Waiting guests in the listener's queue. One is served at a time.
const BACKLOG: i32 = 16;
/// How long another server may take to find out whether its socket is free.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// How often it is asked.
const LOCK_STEP: Duration = Duration::from_millis(20);
/// Pause after a failed accept (no descriptors left, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Whether a queue is watched actively for a moment after its last request,
/// which spares a busy guest most of its kicks. The moment tunes itself and
/// wastes at most a fifth of one processor for each queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Poll {
    /// Up to 100 microseconds.
    #[default]
    Adaptive,
    /// Never.
    Off,
    /// Up to this many microseconds, at most 10,000.
    Max(u32),
}

impl Poll {
    pub(crate) fn limit(self) -> Duration {
        Duration::from_micros(match self {
            Poll::Adaptive => 100,
            Poll::Off => 0,
            Poll::Max(us) => u64::from(us.min(10_000)),
        })
    }
}

/// How a server presents itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// What a guest mounts by: 1 to 36 bytes without NUL.
    pub tag: String,
    /// Request queues that the configuration space announces: 1 to 64. User
    /// Mode Linux goes by it; QEMU has `num-request-queues=` of its own.
    pub request_queues: u32,
    /// Active watching.
    pub poll: Poll,
}

impl Options {
    /// One request queue, adaptive polling.
    #[must_use]
    pub fn new(tag: impl Into<String>) -> Options {
        Options { tag: tag.into(), request_queues: 1, poll: Poll::default() }
    }

    fn check(&self) -> Result<(), UsageError> {
        let tag = &self.tag;
        if tag.is_empty() || tag.len() > TAG_MAX || tag.contains('\0') {
            return Err(UsageError(format!("tag '{}': use 1 to {TAG_MAX} bytes without NUL", tag.escape_debug())));
        }
        if !(1..=REQUEST_QUEUES_MAX as u32).contains(&self.request_queues) {
            return Err(UsageError(format!("{} request queues: use 1 to {REQUEST_QUEUES_MAX}", self.request_queues)));
        }
        Ok(())
    }
}

/// What a server's guests share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) handlers: Box<Handlers>,
    pub(crate) counters: Arc<Counters>,
    /// Closes what frontends sent and should not have.
    pub(crate) undertaker: Arc<Undertaker>,
    /// What is said about frontends goes through it.
    pub(crate) gate: Arc<LogGate>,
}

/// A vhost-user socket that serves a file system. It outlives its guests:
/// each one that connects gets a fresh export, dropped when it goes.
pub struct Server {
    listener: UnixListener,
    /// Where it was bound, to be removed in the end.
    bound: Option<Bound>,
    shared: Shared,
}

impl Server {
    /// Makes a socket at `path`, for its owner only (mode 0600), removed when
    /// the server is dropped. One that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// One clear line: the path is too long or taken, the tag unusable.
    pub fn bind(path: &Path, options: Options, connect: Arc<dyn Connect>) -> Result<Server, UsageError> {
        let handlers = session::handlers(connect);
        Server::bind_handlers(path, options, handlers)
    }

    /// Serves on a socket that listens already: socket activation, `--fd`.
    ///
    /// # Errors
    /// It is no listening unix stream socket; the tag is unusable.
    pub fn from_listener(listener: OwnedFd, options: Options, connect: Arc<dyn Connect>) -> Result<Server, UsageError> {
        let is_listening = sockopt::socket_domain(&listener) == Ok(AddressFamily::UNIX)
            && sockopt::socket_type(&listener) == Ok(SocketType::STREAM)
            && sockopt::socket_acceptconn(&listener) == Ok(true);
        if !is_listening {
            return Err(UsageError("the given descriptor is no listening unix stream socket".into()));
        }
        Server::new(listener.into(), None, options, session::handlers(connect))
    }

    pub(crate) fn bind_handlers(path: &Path, options: Options, handlers: Box<Handlers>) -> Result<Server, UsageError> {
        options.check()?;
        let (listener, bound) = Bound::new(path)?;
        Server::new(listener, Some(bound), options, handlers)
    }

    fn new(listener: UnixListener, bound: Option<Bound>, options: Options, handlers: Box<Handlers>) -> Result<Server, UsageError> {
        options.check()?;
        let failed = |what: &str, error: io::Error| UsageError(format!("{what}: {error}"));
        listener.set_nonblocking(true).map_err(|error| failed("the socket", error))?;
        fence::install().map_err(|error| failed("a handler for SIGBUS", error))?;
        Ok(Server {
            listener,
            bound,
            shared: Shared { options, handlers, counters: Arc::default(), gate: Arc::default(), undertaker: Arc::default() },
        })
    }

    /// Serves one guest after the other until `stop` is raised.
    ///
    /// # Errors
    /// What poll(2) on the socket answers.
    pub fn run(&self, stop: &Stop) -> io::Result<()> {
        while !stop.is_raised() {
            let mut fds = [PollFd::new(stop, PollFlags::IN), PollFd::new(&self.listener, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            if fds[1].revents().is_empty() {
                continue;
            }
            match self.listener.accept() {
                Ok((socket, _)) => self.serve(socket, stop),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    tracing::warn!("{self}: no guest can connect: {error}");
                    pause(stop);
                }
            }
        }
        Ok(())
    }

    fn serve(&self, socket: UnixStream, stop: &Stop) {
        self.shared.counters.connections.add(1);
        self.notice(format_args!("a guest connected"));
        let end = catch_unwind(AssertUnwindSafe(|| connection::serve(&socket, &self.listener, &self.shared, stop)));
        match end {
            Ok(End::Closed | End::Stopped) => self.notice(format_args!("the guest is gone")),
            Ok(End::Died(process)) => self.notice(format_args!("the guest's process {process} ended")),
            Ok(End::Because(reason)) => self.shared.gate.pass(|| tracing::warn!("{self}: the guest's connection ended: {reason}")),
            Err(_) => tracing::error!("{self}: a panic ended the guest's connection; this is a defect, please report it"),
        }
    }

    /// Takes nothing of the allowance where nobody reads it.
    fn notice(&self, line: fmt::Arguments<'_>) {
        if tracing::enabled!(tracing::Level::INFO) {
            self.shared.gate.pass(|| tracing::info!("{self}: {line}"));
        }
    }

    /// What it did so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.shared.counters.read()
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.bound {
            Some(bound) => bound.path.display().fmt(f),
            None => f.write_str(&self.shared.options.tag),
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

fn pause(stop: &Stop) {
    let limit = rustix::event::Timespec { tv_sec: 0, tv_nsec: ACCEPT_PAUSE.as_nanos() as i64 };
    // However it ends, the accept is tried again.
    let _ = poll(&mut [PollFd::new(stop, PollFlags::IN)], Some(&limit));
}

/// A socket's name in the file system, removed when dropped.
struct Bound {
    path: PathBuf,
    /// Device and inode: only our own name is removed.
    identity: (u64, u64),
}

impl Bound {
    fn new(path: &Path) -> Result<(UnixListener, Bound), UsageError> {
        let shown = path.display();
        if path.as_os_str().len() > PATH_MAX {
            let length = path.as_os_str().len();
            return Err(UsageError(format!("socket {shown}: {length} bytes are too long, use at most {PATH_MAX}")));
        }
        let failed = |error: io::Error| UsageError(format!("socket {shown}: {error}"));
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let directory = rustix::fs::open(directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| UsageError(format!("socket {shown}: its directory: {}", io::Error::from(error))))?;
        // Two servers that both find a dead socket must not remove each
        // other's new one.
        lock(&directory, LOCK_PATIENCE).map_err(|error| match error {
            Errno::WOULDBLOCK => {
                UsageError(format!("socket {shown}: another process holds a lock on its directory, choose one of your own"))
            }
            other => failed(other.into()),
        })?;
        let address = SocketAddrUnix::new(path.as_os_str().as_bytes()).map_err(|error| failed(error.into()))?;
        remove_if_dead(path, &address)?;
        let socket = stream_socket(SocketFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        // The name gets the mode that the socket has, less the umask: nobody else
        // gets in first, and nothing is changed by a name that may be a link.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(|error| failed(error.into()))?;
        rustix::net::bind(&socket, &address).map_err(|error| failed(error.into()))?;
        let stat = rustix::fs::lstat(path).map_err(|error| failed(error.into()))?;
        let bound = Bound { path: path.to_owned(), identity: (stat.st_dev, stat.st_ino) };
        rustix::net::listen(&socket, BACKLOG).map_err(|error| failed(error.into()))?;
        Ok((socket.into(), bound))
    }
}

/// Locks the directory, which anybody who can read it can do as well, and for ever.
fn lock(directory: &OwnedFd, patience: Duration) -> Result<(), Errno> {
    let begun = Instant::now();
    loop {
        match rustix::fs::flock(directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if begun.elapsed() < patience => std::thread::sleep(LOCK_STEP),
            Err(Errno::INTR) => {}
            answer => return answer,
        }
    }
}

fn stream_socket(flags: SocketFlags) -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn remove_if_dead(path: &Path, address: &SocketAddrUnix) -> Result<(), UsageError> {
    let shown = path.display();
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(UsageError(format!("socket {shown}: {error}"))),
    };
    if !metadata.file_type().is_socket() {
        return Err(UsageError(format!("socket {shown}: exists and is no socket, choose another path")));
    }
    // One whose queue is full answers EAGAIN. To wait would be to wait for whoever
    // has filled it.
    let asked = stream_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).and_then(|socket| rustix::net::connect(&socket, address));
    match asked {
        Err(Errno::CONNREFUSED) => fs::remove_file(path).map_err(|error| UsageError(format!("socket {shown}: {error}"))),
        Err(Errno::NOENT) => Ok(()),
        _ => Err(UsageError(format!("socket {shown}: in use by another process, choose another path or stop that one"))),
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.identity);
        if is_ours {
            // Nobody is left to tell, and a dead socket is replaced next time.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl AsFd for Server {
    /// The listening socket, for a sandbox that wants to know it.
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::mpsc::channel;

    /// What becomes of a socket at `path`, which must not take long.
    fn bound(path: &Path) -> Result<(UnixListener, Bound), String> {
        let (done, answer) = channel();
        let path = path.to_owned();
        std::thread::spawn(move || drop(done.send(Bound::new(&path).map_err(|error| error.0))));
        answer.recv_timeout(Duration::from_secs(20)).expect("an answer")
    }

    #[test]
    fn a_directory_that_somebody_has_locked_is_not_waited_for() {
        let place = tempfile::tempdir().expect("a directory");
        let theirs = fs::File::open(place.path()).expect("open");
        rustix::fs::flock(&theirs, FlockOperation::LockShared).expect("flock");
        let line = bound(&place.path().join("s")).map(drop).expect_err("locked");
        assert!(line.contains("holds a lock on its directory") && !line.contains('\n'), "{line}");
        drop(theirs);
        bound(&place.path().join("s")).expect("free again");
    }

    #[test]
    fn a_socket_whose_queue_is_full_is_in_use() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("s");
        let address = SocketAddrUnix::new(path.as_os_str().as_bytes()).expect("an address");
        let theirs = stream_socket(SocketFlags::CLOEXEC).expect("a socket");
        rustix::net::bind(&theirs, &address).expect("bind");
        rustix::net::listen(&theirs, 0).expect("listen");
        let mut guests = Vec::new();
        loop {
            let guest = stream_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).expect("a socket");
            match rustix::net::connect(&guest, &address) {
                Ok(()) => guests.push(guest),
                Err(error) => break assert_eq!(error, Errno::AGAIN),
            }
        }
        let line = bound(&path).map(drop).expect_err("in use");
        assert!(line.contains("in use by another process"), "{line}");
        drop(theirs);
        let (_listener, ours) = bound(&path).expect("a dead one is replaced");
        assert_eq!(fs::symlink_metadata(&ours.path).expect("stat").permissions().mode() & 0o777, 0o600);
    }
}
