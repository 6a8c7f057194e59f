//! Whole conversations: a server, a frontend and a driver of our own, in one
//! process. The frontend speaks as User Mode Linux does, as QEMU does, or as
//! neither ever would.

mod behaviour;
mod driver;
mod fake;
mod frontend;
mod handshake;
mod hostile;
mod life;
mod log;
mod random;
mod session;
mod stubborn;

use crate::server::{Options, Poll, Server};
use crate::stop::Stop;
use fake::Fake;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A server on a socket of its own, over the fake handler; stopped and joined
/// when dropped.
struct Host {
    server: Arc<Server>,
    fake: Arc<Fake>,
    path: PathBuf,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

impl Host {
    fn new() -> Host {
        Host::with(Options { poll: Poll::Off, ..Options::new("share") })
    }

    fn with(options: Options) -> Host {
        Host::run(options, |server, stop| server.run(stop).unwrap())
    }

    /// `run` is called on the server's thread.
    fn run(options: Options, run: impl FnOnce(&Server, &Stop) + Send + 'static) -> Host {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sock");
        let fake = Arc::new(Fake::default());
        let server = Arc::new(Server::bind_handlers(&path, options, fake::handlers(&fake)).unwrap());
        let stop = Stop::new().unwrap();
        let thread = {
            let (server, stop) = (Arc::clone(&server), stop.clone());
            thread::spawn(move || run(&server, &stop))
        };
        Host { server, fake, path, stop, thread: Some(thread), _directory: directory }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.raise();
        let ended = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            assert!(ended.is_some_and(|ended| ended.is_ok()), "the server's thread panicked");
        }
    }
}

/// Waits for something that happens on another thread.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "in vain: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
