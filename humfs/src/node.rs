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
use externfs::{Errno, Error, FileKind, NodeKey, Result};
use hostfs::{Inode, Known, Listing};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
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
        table.weigh(self.state.get_mut().unwrap_or_else(PoisonError::into_inner).record.weight(), 0);
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
    /// Bytes of the records of all nodes, as [`Record::weight`] has them.
    weight: AtomicUsize,
    /// There are to be no more.
    weight_max: usize,
}

impl NodeTable {
    pub(crate) fn new(account: Arc<Account>, directories: Option<Arc<Known>>) -> Arc<NodeTable> {
        let shards = std::array::from_fn(|_| Mutex::default());
        let weight_max = externfs::nodes_max_bytes();
        Arc::new(NodeTable { shards, account, directories, feed: OnceLock::new(), weight: AtomicUsize::new(0), weight_max })
    }

    /// Whether there is room in memory for `record`, in place of one that weighs
    /// `before`.
    ///
    /// # Errors
    /// ENOMEM if there is not.
    pub(crate) fn check_weight(&self, record: &Record, before: usize) -> Result<()> {
        let more = record.weight().saturating_sub(before);
        if more == 0 || self.weight.load(Ordering::Relaxed).saturating_add(more) <= self.weight_max {
            return Ok(());
        }
        Err(Error::because(Errno::ENOMEM, "the attributes of all files that kernels remember take a quarter of the memory"))
    }

    /// A record that weighs `before` is now one that weighs `now`.
    pub(crate) fn weigh(&self, before: usize, now: usize) {
        if now >= before {
            self.weight.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.weight.fetch_sub(before - now, Ordering::Relaxed);
        }
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
        self.weigh(0, record.weight());
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

#[cfg(test)]
mod tests {
    use crate::fs::HumFs;
    use crate::make::{Plan, lay};
    use crate::options::Options;
    use crate::store::Format;
    use crate::tree::{Access, Tree};
    use externfs::{Caller, Errno, ExternFs, Mode, Name, NewNode, XattrFlags};
    use std::sync::atomic::Ordering;

    fn weight(fs: &HumFs) -> usize {
        fs.nodes.weight.load(Ordering::Relaxed)
    }

    #[test]
    fn what_nodes_remember_of_attributes_has_an_end() {
        let dir = tempfile::tempdir().unwrap();
        lay(dir.path(), &Plan { format: Format::Sqlite, total: 1 << 30, inodes: None, adopt: None }).unwrap();
        let open = || HumFs::new(Tree::open(dir.path(), Access::Write).unwrap(), Options::default()).unwrap();
        let fs = open();
        let (caller, root) = (Caller::root(), fs.root().unwrap());
        let make = |name: &[u8], new| fs.make(&caller, &root, Name::new(name).unwrap(), &new, Mode::new(0o777)).unwrap().0;
        let (file, link) = (make(b"f", NewNode::Regular), make(b"l", NewNode::Symlink(&[b'x'; 4000])));
        let set = |value: &[u8]| fs.set_xattr(&caller, &file, b"user.a", value, XattrFlags::empty());
        assert!((3800..4100).contains(&weight(&fs)), "{}", weight(&fs));
        set(&[1; 60000]).unwrap();
        assert!((63000..66000).contains(&weight(&fs)), "{}", weight(&fs));
        set(b"").unwrap();
        drop(link);
        assert_eq!(weight(&fs), 0);
        set(&[1; 60000]).unwrap();
        fs.close().unwrap();
        drop((file, root, fs));

        let fs = open();
        let root = fs.root().unwrap();
        fs.nodes.weigh(0, fs.nodes.weight_max.saturating_sub(50000));
        let refused = fs.lookup(&root, Name::new(b"f").unwrap()).unwrap_err();
        assert_eq!(refused.errno(), Errno::ENOMEM);
        fs.lookup(&root, Name::new(b"l").unwrap()).unwrap();
    }
}
