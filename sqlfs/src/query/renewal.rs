//! [`Renewal`]: a catalog is brought up to date before a query. Whoever serves the tree
//! does that when he is asked; asking takes connect(2), which a confined
//! server may not, so the *messenger* does it, a child of the keeper.

use super::channel::{receive, send};
use super::keeper::{Keeper, Role, Started};
use super::limits::Limits;
use super::worker::Errand;
use externfs_catalog::Freshness;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a messenger may take beyond the patience it has with others.
const GRACE: Duration = Duration::from_millis(500);

/// Bytes of its longest word.
const LONGEST: usize = 4096;

/// How long whoever serves the tree is waited for.
fn patience(limits: &Limits) -> Duration {
    limits.time * 2
}

/// The messenger: one word in, one word out, until nobody asks. Returns an exit code.
pub(crate) fn carry(stream: &UnixStream, errand: &Errand) -> i32 {
    let dirs: Vec<_> = errand.source.catalogs().filter_map(|catalog| catalog.dir.as_deref()).collect();
    while let Ok(Some(_)) = receive(stream, LONGEST, None) {
        let Some(worst) = seek_all(&dirs, patience(&errand.limits)) else { return 1 };
        if send(stream, worst.to_line().as_bytes(), None).is_err() {
            return 1;
        }
    }
    0
}

/// Together they take as long as the slowest.
fn seek_all(dirs: &[&Path], patience: Duration) -> Option<Freshness> {
    if let [dir] = dirs {
        return Some(Freshness::seek(dir, patience));
    }
    std::thread::scope(|scope| {
        let seekers: Vec<_> = dirs.iter().map(|dir| scope.spawn(|| Freshness::seek(dir, patience))).collect();
        let found = seekers.into_iter().map(|seeker| seeker.join().unwrap_or_else(|_| Freshness::Behind("who asked has died".into())));
        found.reduce(Freshness::or_worse)
    })
}

/// See the [module](self). Those who ask while somebody else is at it share
/// the next answer: what they have seen may be younger than the one under way.
#[derive(Debug, Default)]
pub(crate) struct Renewal {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    begun: u64,
    ended: u64,
    last: Option<Freshness>,
    messenger: Option<Started>,
}

impl Renewal {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the last answer was.
    pub(crate) fn last(&self) -> Option<Freshness> {
        self.state().last.clone()
    }

    /// An answer of a renewal that began after this call did.
    pub(crate) fn ask(&self, keeper: &Keeper, limits: &Limits) -> Freshness {
        let mut state = self.state();
        let wanted = state.begun + 1;
        while state.ended < wanted {
            if state.begun > state.ended {
                state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.begun += 1;
            let messenger = state.messenger.take();
            drop(state);
            let (messenger, answer) = send_out(keeper, messenger, limits);
            state = self.state();
            (state.messenger, state.last, state.ended) = (messenger, Some(answer), state.begun);
            self.ended.notify_all();
        }
        state.last.clone().unwrap_or(Freshness::Missing)
    }
}

/// Asks once; the messenger comes back if he is well.
fn send_out(keeper: &Keeper, messenger: Option<Started>, limits: &Limits) -> (Option<Started>, Freshness) {
    let was_there = messenger.is_some();
    let messenger = match messenger.map_or_else(|| keeper.start_child(Role::Messenger), Ok) {
        Ok(messenger) => messenger,
        Err(error) => return (None, Freshness::Behind(format!("nobody can be sent to ask: {error}"))),
    };
    match talk(&messenger.stream, limits) {
        Ok(answer) => (Some(messenger), answer),
        Err(error) => {
            // What it died of, if it did, is of no use to anybody.
            let _ = keeper.end(messenger.pid);
            // It may have died while it had nothing to do.
            if was_there && error.kind() != io::ErrorKind::TimedOut {
                return send_out(keeper, None, limits);
            }
            (None, Freshness::Behind(format!("whoever serves the tree does not answer: {error}")))
        }
    }
}

fn talk(stream: &UnixStream, limits: &Limits) -> io::Result<Freshness> {
    send(stream, b"?", None)?;
    let deadline = Instant::now() + patience(limits) + GRACE;
    let (line, _) = receive(stream, LONGEST, Some(deadline))?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let answer = std::str::from_utf8(&line).ok().and_then(Freshness::parse);
    answer.ok_or_else(|| io::ErrorKind::InvalidData.into())
}
