//! [`Flusher`]: a thread that commits what has gathered, a second after the
//! first change, and moves it on into the database file. So waiting for the
//! disk is nobody's business who is being waited for, and whoever looks at the
//! database from outside is a second behind at most.
//!
//! It starts with the first change, since a server forks after opening a tree
//! and threads do not survive that.

use super::shared::Shared;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

const DELAY: Duration = Duration::from_secs(1);

/// See the [module](self). Dropping it ends the thread.
#[derive(Debug, Default)]
pub(super) struct Flusher {
    signal: Arc<Signal>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Signal {
    wish: Mutex<Wish>,
    changed: Condvar,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Wish {
    #[default]
    Nothing,
    Flush,
    Stop,
}

impl Flusher {
    /// There is something to flush.
    pub(super) fn wake(&self, shared: &Arc<Shared>) {
        self.signal.say(Wish::Flush);
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let (signal, shared) = (self.signal.clone(), Arc::downgrade(shared));
            // Without a thread, batches end when they are full.
            let started = std::thread::Builder::new().name("humfs-flush".into()).spawn(move || signal.serve(&shared));
            *thread = started.inspect_err(|error| tracing::warn!("no thread for humfs/metadata.db: {error}")).ok();
        }
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        self.signal.say(Wish::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Signal {
    fn say(&self, wish: Wish) {
        let mut now = self.wish.lock().unwrap_or_else(PoisonError::into_inner);
        if *now != Wish::Stop {
            *now = wish;
        }
        self.changed.notify_all();
    }

    fn serve(&self, shared: &Weak<Shared>) {
        let mut connection = None;
        loop {
            let wish = self.wish.lock().unwrap_or_else(PoisonError::into_inner);
            let wish = self.changed.wait_while(wish, |wish| *wish == Wish::Nothing).unwrap_or_else(PoisonError::into_inner);
            let waited = self.changed.wait_timeout_while(wish, DELAY, |wish| *wish != Wish::Stop);
            let (mut wish, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if *wish == Wish::Stop {
                return;
            }
            *wish = Wish::Nothing;
            drop(wish);
            let Some(shared) = shared.upgrade() else { return };
            shared.flush(&mut connection);
        }
    }
}
