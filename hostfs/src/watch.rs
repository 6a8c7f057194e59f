//! Noticing what others do to the tree (`watch`), by inotify(7).
//!
//! Directories that guests look into are watched, the latest some hundreds or
//! thousands of them. inotify also tells of what we do ourselves. A change of
//! a name that we just made is passed over. One of contents is told as one of
//! attributes only: the guest's kernel then compares times, instead of losing
//! the pages that it has just written.

use crate::HostFs;
use crate::attr::Stat;
use crate::fault::{Fault, fault};
use crate::fdcache::{DirFd, now_ms};
use crate::jail::fd_path;
use crate::node::Inode;
use externfs::{Change, ChangeSink, NodeKey, Result};
use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::fs::inotify::{self, ReadFlags, WatchFlags};
use rustix::io::Errno as Host;
use std::collections::{HashMap, VecDeque};
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::thread::JoinHandle;

/// For how long an event may be the echo of what we did.
const ECHO_MS: u64 = 1000;

/// Echoes expected at most; past it the older half is forgotten, at worst for
/// a needless look by a guest.
const ECHOES_MAX: usize = 1 << 14;

const NAMES: WatchFlags = WatchFlags::CREATE.union(WatchFlags::DELETE).union(WatchFlags::MOVED_FROM).union(WatchFlags::MOVED_TO);

const EVENTS: WatchFlags =
    NAMES.union(WatchFlags::MODIFY).union(WatchFlags::ATTRIB).union(WatchFlags::ONLYDIR).union(WatchFlags::EXCL_UNLINK);

/// A running watch; dropping it ends its thread.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    inotify: OwnedFd,
    /// Written to once, when it is over.
    stop: OwnedFd,
    sink: ChangeSink,
    state: Mutex<State>,
    max: usize,
    /// Said that not everything is watched: there are too many; one is refused.
    said: [Once; 2],
}

#[derive(Default)]
struct State {
    by_number: HashMap<i32, (NodeKey, Arc<DirFd>)>,
    by_key: HashMap<NodeKey, i32>,
    /// Oldest first.
    order: VecDeque<NodeKey>,
    /// What we changed ourselves, and when, in milliseconds.
    own_nodes: HashMap<NodeKey, u64>,
    own_names: HashMap<(NodeKey, Box<[u8]>), Echo>,
}

/// Events to come that tell of our own changes of one name.
#[derive(Clone, Copy)]
struct Echo {
    /// Each change makes one event; one more is somebody else's doing.
    left: u32,
    when_ms: u64,
}

impl State {
    /// Whether the event that just came for `name` is our own doing.
    fn is_echo(&mut self, parent: NodeKey, name: &CStr) -> bool {
        let key = (parent, name.to_bytes().into());
        let Some(echo) = self.own_names.get_mut(&key) else { return false };
        echo.left -= 1;
        let recent = is_recent(Some(echo.when_ms));
        if echo.left == 0 {
            self.own_names.remove(&key);
        }
        recent
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches `dir` from now on.
    fn add(&self, key: NodeKey, dir: &Arc<DirFd>) {
        let mut state = self.state();
        if state.by_key.contains_key(&key) {
            return;
        }
        let mut is_full = state.by_key.len() >= self.max;
        while state.by_key.len() >= self.max {
            self.drop_oldest(&mut state);
        }
        let path = fd_path(dir.as_fd());
        let mut answer = inotify::add_watch(&self.inotify, &path, EVENTS);
        if answer == Err(Host::NOSPC) {
            // The user's limit is lower than ours.
            is_full = true;
            self.drop_oldest(&mut state);
            answer = inotify::add_watch(&self.inotify, &path, EVENTS);
        }
        // A directory that cannot be watched is one more that times out.
        if let Ok(number) = answer {
            state.by_number.insert(number, (key, dir.clone()));
            state.by_key.insert(key, number);
            state.order.push_back(key);
        }
        let watched = state.by_key.len();
        // A full log would keep everybody.
        drop(state);
        self.say_what_is_not(is_full.then_some(watched), answer.err());
    }

    /// There guests go by what they remember until it ends, which nobody would
    /// notice otherwise.
    fn say_what_is_not(&self, full: Option<usize>, refused: Option<Host>) {
        const SO: &str = "in others a change is seen when what guests remember ends (cache=)";
        let [of_full, of_refused] = &self.said;
        if let Some(watched) = full {
            of_full
                .call_once(|| tracing::warn!("watch: guests look into more than {watched} directories, and the latest are watched: {SO}"));
        }
        if let Some(error) = refused {
            of_refused.call_once(|| tracing::warn!("watch: a directory cannot be watched ({error}): {SO}"));
        }
    }

    fn drop_oldest(&self, state: &mut State) {
        let Some(key) = state.order.pop_front() else { return };
        if let Some(number) = state.by_key.remove(&key) {
            state.by_number.remove(&number);
            // It may be gone already, with its directory.
            let _ = inotify::remove_watch(&self.inotify, number);
        }
    }

    /// Reads events until told to stop.
    fn run(&self) {
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        loop {
            let mut ready = [PollFd::new(&self.inotify, PollFlags::IN), PollFd::new(&self.stop, PollFlags::IN)];
            if rustix::event::poll(&mut ready, None).is_err_and(|error| error != Host::INTR) {
                return;
            }
            if !ready[1].revents().is_empty() {
                return;
            }
            let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
            while let Ok(event) = events.next() {
                self.tell(event.wd(), event.events(), event.file_name());
            }
        }
    }

    fn tell(&self, number: i32, events: ReadFlags, name: Option<&CStr>) {
        if events.contains(ReadFlags::QUEUE_OVERFLOW) {
            tracing::warn!("too many changes on the host at once: guests look again at all they know");
            return (self.sink)(Change::Everything);
        }
        let watched = self.state().by_number.get(&number).cloned();
        let Some((parent, dir)) = watched else { return };
        if events.contains(ReadFlags::IGNORED) {
            let mut state = self.state();
            state.by_number.remove(&number);
            state.by_key.remove(&parent);
            state.order.retain(|key| *key != parent);
            return;
        }
        let Some(name) = name else {
            return (self.sink)(Change::Node { node: parent, data: false });
        };
        if events.bits() & NAMES.bits() != 0 {
            if !self.state().is_echo(parent, name) {
                (self.sink)(Change::Entry { parent, name: name.to_bytes().to_vec() });
            }
            return;
        }
        // Who it is, the kernel knows without asking a server, which may be us.
        let Ok(stat) = Stat::known_of_name(dir.as_fd(), name) else { return };
        let echo = self.state().own_nodes.get(&stat.key()).copied();
        let data = events.contains(ReadFlags::MODIFY) && !is_recent(echo);
        (self.sink)(Change::Node { node: stat.key(), data });
    }
}

fn is_recent(when_ms: Option<u64>) -> bool {
    when_ms.is_some_and(|when| now_ms().saturating_sub(when) < ECHO_MS)
}

/// Keeps a table of echoes from growing.
fn forget_old<K: std::hash::Hash + Eq, V: Copy>(echoes: &mut HashMap<K, V>, when_ms: impl Fn(V) -> u64) {
    if echoes.len() >= ECHOES_MAX {
        echoes.retain(|_, echo| is_recent(Some(when_ms(*echo))));
    }
    if echoes.len() >= ECHOES_MAX {
        echoes.clear();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // An eventfd takes 8 bytes at once; it cannot be full.
        let _ = rustix::io::write(&self.shared.stop, &1u64.to_ne_bytes());
        // The thread itself may hold the last reference to the file system
        // for a moment; it cannot wait for itself.
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

fn start(sink: ChangeSink, max: usize) -> Fault<Watch> {
    let shared = Arc::new(Shared {
        inotify: inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?,
        stop: rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?,
        sink,
        state: Mutex::default(),
        max,
        said: [const { Once::new() }; 2],
    });
    let runs = shared.clone();
    let thread = std::thread::Builder::new().name("hostfs-watch".into()).spawn(move || runs.run());
    let thread = thread.map_err(|error| Host::from_io_error(&error).unwrap_or(Host::AGAIN))?;
    Ok(Watch { shared, thread: Some(thread) })
}

impl HostFs {
    /// See [`externfs::ExternFs::watch`].
    pub(crate) fn start_watching(&self, sink: ChangeSink) -> Result<()> {
        if self.options.watch && self.watch.get().is_none() {
            let watch = start(sink, self.watches_max).map_err(fault("starting to watch"))?;
            watch.shared.add(self.root_key, &self.root);
            // A second one loses and is dropped, which ends it.
            let _ = self.watch.set(watch);
        }
        Ok(())
    }

    /// A guest looks into this directory.
    pub(crate) fn watch_dir(&self, node: &Inode, dir: &Arc<DirFd>) {
        if let Some(watch) = self.watch.get() {
            watch.shared.add(node.key(), dir);
        }
    }

    /// We are about to change `node`.
    pub(crate) fn own_change(&self, node: &Inode) {
        if let Some(watch) = self.watch.get() {
            let mut state = watch.shared.state();
            forget_old(&mut state.own_nodes, |when_ms| when_ms);
            state.own_nodes.insert(node.key(), now_ms());
        }
    }

    /// We are about to change what `name` in `parent` leads to, which makes
    /// `events` events. The guard takes that back unless it is told that the
    /// change happened.
    pub(crate) fn own_name(&self, parent: &Inode, name: &CStr, events: u32) -> Option<OwnName<'_>> {
        let shared = &self.watch.get()?.shared;
        let key = (parent.key(), name.to_bytes().into());
        let mut state = shared.state();
        if !state.by_key.contains_key(&key.0) {
            return None;
        }
        forget_old(&mut state.own_names, |echo| echo.when_ms);
        let echo = state.own_names.entry(key.clone()).or_insert(Echo { left: 0, when_ms: 0 });
        // Expected events that never came must not swallow later ones.
        let before = if is_recent(Some(echo.when_ms)) { echo.left } else { 0 };
        *echo = Echo { left: before.saturating_add(events), when_ms: now_ms() };
        Some(OwnName { shared, key, events })
    }
}

/// A change of a name that is being made.
pub(crate) struct OwnName<'a> {
    shared: &'a Shared,
    key: (NodeKey, Box<[u8]>),
    events: u32,
}

impl OwnName<'_> {
    /// The host has done it: the events will come.
    pub(crate) fn happened(own: Option<OwnName<'_>>) {
        if let Some(mut own) = own {
            own.events = 0;
        }
    }
}

impl Drop for OwnName<'_> {
    fn drop(&mut self) {
        if self.events == 0 {
            return;
        }
        let mut state = self.shared.state();
        if let Some(echo) = state.own_names.get_mut(&self.key) {
            echo.left = echo.left.saturating_sub(self.events);
            if echo.left == 0 {
                state.own_names.remove(&self.key);
            }
        }
    }
}
