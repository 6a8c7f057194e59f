//! [`HumNode`]: one object that a guest remembers, with its record; and the
//! table through which every lookup of the same object finds the same one.
//!
//! There must be one only: the record is changed in memory under its lock and
//! then saved, so a second copy would undo the first one's changes.

use crate::account::{Account, Outcome, Usage};
use crate::aliases::Aliases;
use crate::catalog::Feed;
use crate::late::{Data, Reader};
use crate::overwrite::DenseTo;
use crate::record::Record;
use externfs::{FileKind, NodeKey};
use hostfs::{Inode, Known, Listing};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

const SHARDS: usize = 16;

/// One object.
pub struct HumNode {
    /// Where its data is.
    pub(crate) inner: Arc<Inode>,
    state: Mutex<NodeState>,
    table: Weak<NodeTable>,
    /// The catalog is about to be told of it, and to ask it: the generation of what
    /// it is told then; 0 if it is not.
    pub(crate) awaited: AtomicU64,
    /// Its contents have changed since the catalog was told.
    pub(crate) is_written: AtomicBool,
    /// Up to where it is written already.
    pub(crate) dense: DenseTo,
}

/// What changes of it.
#[derive(Debug)]
pub(crate) struct NodeState {
    pub(crate) record: Record,
    /// What the account counts for it, in bytes.
    pub(crate) cost: u64,
    /// Its last name is gone, or it never had one: it goes when this does.
    pub(crate) orphan: bool,
    /// Names beside the one that `inner` goes by.
    pub(crate) aliases: Aliases,
    /// Those who have it open for reading only.
    pub(crate) reader: Weak<Reader>,
}

impl HumNode {
    pub(crate) fn state(&self) -> MutexGuard<'_, NodeState> {
        // A change is made on a copy and put in whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn key(&self) -> NodeKey {
        self.inner.host_key()
    }
}

impl Drop for HumNode {
    fn drop(&mut self) {
        let Some(table) = self.table.upgrade() else { return };
        table.remove(self.key(), self);
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if *self.awaited.get_mut() != 0
            && !state.orphan
            && let Some(feed) = table.feed.get()
        {
            let place = self.inner.whereabouts().or_else(|| state.aliases.last());
            feed.forgotten(self, place);
        }
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if state.orphan {
            let gone = Usage::one(state.cost);
            table.account.settle(Outcome { removed: gone, homed: gone, ..Outcome::default() });
        }
        if let Some(directories) = table.directories.as_ref().filter(|_| self.inner.host_kind() == FileKind::Directory) {
            directories.let_go(&self.inner);
        }
    }
}

impl std::fmt::Debug for HumNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HumNode").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// An open file.
#[derive(Debug)]
pub struct HumFile {
    // Before the node: an orphan's cost is freed when nothing holds it.
    pub(crate) data: Data,
    pub(crate) node: Arc<HumNode>,
}

impl Drop for HumFile {
    /// What only points to a reader that is gone would keep its memory for as
    /// long as the node is remembered.
    fn drop(&mut self) {
        if let Data::Late(reader) = &self.data {
            let mut state = self.node.state();
            if Arc::strong_count(reader) == 1 {
                state.reader = Weak::new();
            }
        }
    }
}

/// An open directory.
pub struct HumDir {
    pub(crate) inner: OnceLock<Listing>,
    /// Whose record is synced with it.
    pub(crate) node: Arc<HumNode>,
}

/// Every node, by identity.
pub(crate) struct NodeTable {
    shards: [Mutex<HashMap<NodeKey, Weak<HumNode>>>; SHARDS],
    account: Arc<Account>,
    /// Those of the host that are remembered.
    directories: Option<Arc<Known>>,
    /// Set once, before anything is served.
    feed: OnceLock<Arc<Feed>>,
}

impl NodeTable {
    pub(crate) fn new(account: Arc<Account>, directories: Option<Arc<Known>>) -> Arc<NodeTable> {
        Arc::new(NodeTable { shards: std::array::from_fn(|_| Mutex::default()), account, directories, feed: OnceLock::new() })
    }

    /// From now on `feed` is told of nodes that are dropped before it has asked.
    pub(crate) fn tell(&self, feed: Arc<Feed>) {
        let _ = self.feed.set(feed);
    }

    fn shard(&self, key: NodeKey) -> MutexGuard<'_, HashMap<NodeKey, Weak<HumNode>>> {
        let spread = key.number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
        self.shards[spread as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node with this identity, if there is one.
    pub(crate) fn get(&self, key: NodeKey) -> Option<Arc<HumNode>> {
        self.shard(key).get(&key).and_then(Weak::upgrade)
    }

    /// The node for `inner`, made with `record` if there is none yet. The
    /// second value is true if it was made.
    pub(crate) fn intern(self: &Arc<Self>, inner: Arc<Inode>, record: Record, cost: u64, orphan: bool) -> (Arc<HumNode>, bool) {
        let key = inner.host_key();
        let node = HumNode {
            inner,
            state: Mutex::new(NodeState { record, cost, orphan, aliases: Aliases::default(), reader: Weak::new() }),
            table: Arc::downgrade(self),
            awaited: AtomicU64::new(0),
            is_written: AtomicBool::new(false),
            dense: DenseTo::default(),
        };
        let mut shard = self.shard(key);
        if let Some(known) = shard.get(&key).and_then(Weak::upgrade) {
            drop(shard);
            // It was never in the table, and counts for nothing.
            node.state().orphan = false;
            return (known, false);
        }
        let node = Arc::new(node);
        shard.insert(key, Arc::downgrade(&node));
        drop(shard);
        (node, true)
    }

    fn remove(&self, key: NodeKey, node: *const HumNode) {
        let mut shard = self.shard(key);
        if shard.get(&key).is_some_and(|known| std::ptr::eq(known.as_ptr(), node)) {
            shard.remove(&key);
        }
        if shard.capacity() > 1024 && shard.len() < shard.capacity() / 8 {
            let room = shard.len() * 2;
            shard.shrink_to(room);
        }
    }
}
