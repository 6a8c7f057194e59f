//! [`Bridge`]: one plugin, shared by any number of kernels.
//!
//! Locks, outermost first; none is held during a plugin call but `key`:
//! ```text
//! Bridge.sessions
//!   Lookups shard | Handles shard | Unopened
//!     NodeTable shard
//! ```

use crate::error::Result;
use crate::export::{Connect, Export, HostMount};
use crate::fs::ExternFs;
use crate::session::Session;
use crate::table::{NodeEntry, NodeTable};
use crate::types::{Change, FileKind, NodeId, NodeKey};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError, Weak};

/// Switches that work for every plugin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BridgeOptions {
    /// Every change is answered with EROFS before the plugin hears of it.
    pub read_only: bool,
}

/// A plugin with its node table. [`Connect::connect`] gives each kernel its own
/// [`Export`] on it.
pub struct Bridge<F: ExternFs> {
    pub(crate) options: BridgeOptions,
    pub(crate) table: Arc<NodeTable<F>>,
    /// Held for the bridge's life, so that the root keeps its number.
    pub(crate) root: Arc<NodeEntry<F>>,
    /// Bytes that all nodes may take which kernels remember, and what they take.
    nodes_max: usize,
    pub(crate) nodes_cost: Arc<AtomicUsize>,
    sessions: Mutex<Vec<Weak<Session<F>>>>,
    kernels: AtomicUsize,
    watchers: AtomicUsize,
    /// [`Connect::expect`].
    guests: AtomicUsize,
    watch_once: Once,
    this: Weak<Bridge<F>>,
}

impl<F: ExternFs> Bridge<F> {
    /// Takes the plugin over.
    ///
    /// # Errors
    /// What the plugin says when asked for its root.
    pub fn new(fs: F, options: BridgeOptions) -> Result<Arc<Bridge<F>>> {
        Bridge::with_memory(fs, options, crate::memory::nodes_max_bytes())
    }

    /// The same, with so many bytes for nodes.
    fn with_memory(fs: F, options: BridgeOptions, nodes_max: usize) -> Result<Arc<Bridge<F>>> {
        let root = fs.root()?;
        let key = fs.key(&root);
        let table = NodeTable::new(fs, key.volume);
        let (root, _) = table.intern(key, root, FileKind::Directory, Some(NodeId::ROOT));
        Ok(Arc::new_cyclic(|this| Bridge {
            options,
            table,
            root,
            nodes_max,
            nodes_cost: Arc::default(),
            sessions: Mutex::default(),
            kernels: AtomicUsize::new(0),
            watchers: AtomicUsize::new(0),
            guests: AtomicUsize::new(0),
            watch_once: Once::new(),
            this: this.clone(),
        }))
    }

    /// The plugin.
    pub fn fs(&self) -> &F {
        &self.table.fs
    }

    /// How many handles a kernel may have at the moment.
    pub(crate) fn share_of_handles(&self, handles_max: usize) -> usize {
        (handles_max / self.places().max(1)).max(1)
    }

    /// Whether a kernel whose nodes take `cost` bytes may remember one more. When all
    /// that there is for nodes is taken, those still may that have not had their part
    /// of it: so one that never forgets is in nobody's way, and one of different size
    /// than the others is not kept small for them. At worst it is twice as much.
    pub(crate) fn has_room_for_node(&self, cost: usize) -> bool {
        self.nodes_cost.load(Ordering::Relaxed) < self.nodes_max || cost < self.nodes_max / self.places().max(1)
    }

    /// Kernels that there are or may be. Who can be told of changes is there
    /// already; of the others at least as many are reckoned with as were announced.
    fn places(&self) -> usize {
        let told = self.watchers.load(Ordering::Relaxed);
        let untold = self.kernels.load(Ordering::Relaxed).saturating_sub(told);
        told + untold.max(self.guests.load(Ordering::Relaxed))
    }

    /// Whether another kernel may change what this one remembers, now or before it
    /// has forgotten it.
    pub(crate) fn is_shared(&self) -> bool {
        self.places() > 1
    }

    /// Whether there is another kernel at the moment.
    pub(crate) fn has_company(&self) -> bool {
        self.kernels.load(Ordering::Relaxed) > 1
    }

    fn sessions(&self) -> Vec<Arc<Session<F>>> {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.iter().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn session_ended(&self) {
        self.kernels.fetch_sub(1, Ordering::Relaxed);
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|session| session.strong_count() > 0);
    }

    /// A kernel can be notified from now on.
    pub(crate) fn watcher_added(&self) {
        self.watchers.fetch_add(1, Ordering::Relaxed);
        self.watch_once.call_once(|| {
            let bridge = self.this.clone();
            let sink = Arc::new(move |change: Change<NodeKey>| {
                if let Some(bridge) = bridge.upgrade() {
                    bridge.changed_outside(change);
                }
            });
            if let Err(error) = self.table.fs.watch(sink) {
                tracing::warn!("changes made behind the mount will not be noticed: {error}");
            }
        });
    }

    pub(crate) fn watcher_gone(&self) {
        self.watchers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Tells every kernel that knows the node, except the one that made the change.
    pub(crate) fn tell(&self, change: &Change<NodeId>, author: Option<u64>) {
        if self.watchers.load(Ordering::Relaxed) == 0 || (author.is_some() && !self.has_company()) {
            return;
        }
        for session in self.sessions() {
            if Some(session.number()) != author {
                session.told(change);
            }
        }
    }

    fn changed_outside(&self, change: Change<NodeKey>) {
        let change = match change {
            Change::Node { node, data } => self.table.find(node).map(|entry| Change::Node { node: entry.id(), data }),
            Change::Entry { parent, name } => self.table.find(parent).map(|entry| Change::Entry { parent: entry.id(), name }),
            Change::Everything => Some(Change::Everything),
        };
        if let Some(change) = change {
            self.tell(&change, None);
        }
    }
}

impl<F: ExternFs> Connect for Bridge<F> {
    fn connect(&self) -> Result<Arc<dyn Export>> {
        // A bridge is only ever made inside an Arc, and `self` keeps it alive.
        let bridge = self.this.upgrade().ok_or(crate::Errno::ESTALE)?;
        let session = Arc::new(Session::new(bridge));
        self.kernels.fetch_add(1, Ordering::Relaxed);
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&session));
        Ok(session)
    }

    fn expect(&self, guests: usize) {
        self.guests.store(guests, Ordering::Relaxed);
    }

    fn mounted(&self, mount: Option<HostMount>) {
        self.fs().mounted(mount);
    }

    fn close(&self) -> Result<()> {
        self.fs().close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::LinesFs;
    use crate::memory::NODE_BYTES;
    use crate::{Caller, Errno, Name};

    #[test]
    fn who_never_forgets_leaves_others_their_part() {
        let fs = LinesFs::new("line\n".repeat(99).as_bytes());
        let bridge = Bridge::with_memory(fs, BridgeOptions::default(), 12 * NODE_BYTES).expect("a bridge");
        bridge.expect(3);
        let kernels = [0; 3].map(|_| bridge.connect().expect("connects"));
        let takes = |kernel: &Arc<dyn Export>| {
            let look = |line: &usize| {
                let name = line.to_string();
                kernel.lookup(&Caller::root(), NodeId::ROOT, Name::new(name.as_bytes()).expect("a name"))
            };
            let refused = (1..99).map(|line| look(&line)).find_map(std::result::Result::err).expect("an end");
            assert_eq!(refused.errno(), Errno::ENOMEM);
            kernel.statistics().nodes - 1
        };
        assert_eq!(takes(&kernels[0]), 12, "all that there is, while nobody else wants it");
        assert_eq!([takes(&kernels[1]), takes(&kernels[2])], [4, 4], "their part");
        let [first, second, _] = kernels;
        drop(first);
        assert_eq!(takes(&second), 8, "what the first had, the third's apart");
        second.reset();
        assert_eq!((takes(&second), bridge.nodes_cost.load(Ordering::Relaxed)), (8, 12 * NODE_BYTES));
    }
}
