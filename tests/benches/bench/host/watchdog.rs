//! [`Watchdog`]: ends a server that does not answer.
//!
//! A client that waits for a hung FUSE server cannot be helped from its own
//! thread; when the server is killed, it gets ENOTCONN and the run goes on with
//! the other columns.

use rustix::process::{Pid, Signal, kill_process_group};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Far longer than any row takes, even on a machine that is busy with others.
const PATIENCE: Duration = Duration::from_secs(120);

/// Which server answers whom until when.
#[derive(Default)]
struct Watched {
    current: Option<(u32, Instant)>,
    over: bool,
}

/// One thread that sleeps while all is well.
pub(super) struct Watchdog {
    shared: Arc<(Mutex<Watched>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

fn locked(watched: &Mutex<Watched>) -> MutexGuard<'_, Watched> {
    watched.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watchdog {
    pub(super) fn new() -> Watchdog {
        let shared = Arc::<(Mutex<Watched>, Condvar)>::default();
        let theirs = shared.clone();
        Watchdog { shared, thread: Some(thread::spawn(move || watch(&theirs))) }
    }

    /// The leader of a server's process group is about to be used; none ends the watch.
    pub(super) fn watch(&self, server: Option<u32>) {
        locked(&self.shared.0).current = server.map(|pid| (pid, Instant::now() + PATIENCE));
        self.shared.1.notify_one();
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        locked(&self.shared.0).over = true;
        self.shared.1.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn watch(shared: &(Mutex<Watched>, Condvar)) {
    let mut watched = locked(&shared.0);
    while !watched.over {
        let wait = match watched.current {
            Some((pid, end)) if end <= Instant::now() => {
                eprintln!("process {pid} has not answered for {} s and is ended", PATIENCE.as_secs());
                if let Some(group) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                    // Gone is what it should be.
                    let _ = kill_process_group(group, Signal::KILL);
                }
                watched.current = None;
                PATIENCE
            }
            Some((_, end)) => end.saturating_duration_since(Instant::now()),
            None => PATIENCE,
        };
        watched = shared.1.wait_timeout(watched, wait).unwrap_or_else(PoisonError::into_inner).0;
    }
}
