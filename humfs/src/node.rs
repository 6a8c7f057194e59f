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

#[derive(Default)]
struct Shard {
    nodes: HashMap<NodeKey, Weak<HumNode>>,
    /// How many have been dropped.
    dropped: u64,
}

/// That there was no node, at some moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Missing {
    dropped: u64,
    /// One that is being dropped: whatever it has changed is done.
    going: Option<usize>,
}

/// Every node, by identity.
pub(crate) struct NodeTable {
    shards: [Mutex<Shard>; SHARDS],
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

    fn shard(&self, key: NodeKey) -> MutexGuard<'_, Shard> {
        let spread = key.number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
        self.shards[spread as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node with this identity, if there is one.
    pub(crate) fn get(&self, key: NodeKey) -> Option<Arc<HumNode>> {
        self.look(key).ok()
    }

    /// The same; what is loaded after this, if there is none, can be told from what
    /// others have changed meanwhile.
    pub(crate) fn look(&self, key: NodeKey) -> std::result::Result<Arc<HumNode>, Missing> {
        let shard = self.shard(key);
        let known = shard.nodes.get(&key);
        known.and_then(Weak::upgrade).ok_or_else(|| shard.missing(key))
    }

    /// The node for `inner`, made with `record` if there is none yet. The
    /// second value is true if it was made.
    pub(crate) fn intern(self: &Arc<Self>, inner: Arc<Inode>, record: Record, cost: u64, orphan: bool) -> (Arc<HumNode>, bool) {
        let fresh = self.fresh(inner, record, cost, orphan);
        let shard = self.shard(fresh.key());
        self.put(shard, fresh)
    }

    /// The same with what was loaded when the node was `missing`; None if one has
    /// come and gone since then, which may have changed that.
    pub(crate) fn intern_loaded(self: &Arc<Self>, missing: Missing, inner: Arc<Inode>, record: Record, cost: u64) -> Option<Arc<HumNode>> {
        let fresh = self.fresh(inner, record, cost, false);
        let key = fresh.key();
        let shard = self.shard(key);
        let known = shard.nodes.get(&key).and_then(Weak::upgrade);
        if known.is_some() || shard.missing(key) != missing {
            // The end of the fresh one looks at the shard too.
            drop(shard);
            return known;
        }
        Some(self.put(shard, fresh).0)
    }

    fn fresh(self: &Arc<Self>, inner: Arc<Inode>, record: Record, cost: u64, orphan: bool) -> HumNode {
        self.weigh(0, record.weight());
        HumNode {
            inner,
            state: Mutex::new(NodeState { record, cost, orphan, aliases: Aliases::default(), reader: Weak::new() }),
            table: Arc::downgrade(self),
            awaited: AtomicU64::new(0),
            is_written: AtomicBool::new(false),
            dense: DenseTo::default(),
        }
    }

    fn put(&self, mut shard: MutexGuard<'_, Shard>, node: HumNode) -> (Arc<HumNode>, bool) {
        let key = node.key();
        if let Some(known) = shard.nodes.get(&key).and_then(Weak::upgrade) {
            drop(shard);
            // It was never in the table, and counts for nothing.
            node.state().orphan = false;
            return (known, false);
        }
        let node = Arc::new(node);
        shard.nodes.insert(key, Arc::downgrade(&node));
        drop(shard);
        (node, true)
    }

    fn remove(&self, key: NodeKey, node: *const HumNode) {
        let mut shard = self.shard(key);
        let Shard { nodes, dropped } = &mut *shard;
        *dropped += 1;
        if nodes.get(&key).is_some_and(|known| std::ptr::eq(known.as_ptr(), node)) {
            nodes.remove(&key);
        }
        if nodes.capacity() > 1024 && nodes.len() < nodes.capacity() / 8 {
            let room = nodes.len() * 2;
            nodes.shrink_to(room);
        }
    }
}

impl Shard {
    /// Of a node that is not there.
    fn missing(&self, key: NodeKey) -> Missing {
        Missing { dropped: self.dropped, going: self.nodes.get(&key).map(|going| going.as_ptr() as usize) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::{Limits, State};
    use crate::fs::HumFs;
    use crate::make::{Plan, lay};
    use crate::options::Options;
    use crate::store::Format;
    use crate::tree::{Access, Tree};
    use externfs::{Caller, Errno, ExternFs, GuestGid, GuestUid, Mode, Name, NewNode, XattrFlags};
    use hostfs::HostFs;

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

    #[test]
    fn what_was_loaded_before_a_node_came_and_went_does_not_count() {
        let place = tempfile::tempdir().unwrap();
        let base = HostFs::layer(std::fs::File::open(place.path()).unwrap().into(), false).unwrap();
        let account = Account::unattached(State::fresh([0; 16]), Limits { bytes: 0, inodes: 0 });
        let table = NodeTable::new(Arc::new(account), None);
        let inner = base.root().unwrap();
        let key = inner.host_key();
        let record = |mode| Record::new(FileKind::Directory, Mode::new(mode), GuestUid(0), GuestGid(0));
        let mode = |node: &HumNode| node.state().record.mode.bits();
        let early = table.look(key).unwrap_err();
        // Another one loads it, changes it and forgets it.
        let (node, _) = table.intern(inner.clone(), record(0o755), 0, false);
        node.state().record = record(0o700);
        // One that is there is right.
        let same = table.intern_loaded(early, inner.clone(), record(0o755), 0).unwrap();
        assert!(Arc::ptr_eq(&same, &node) && mode(&same) == 0o700);
        drop((node, same));
        assert!(table.intern_loaded(early, inner.clone(), record(0o755), 0).is_none());
        let late = table.look(key).unwrap_err();
        let node = table.intern_loaded(late, inner, record(0o700), 0).unwrap();
        assert_eq!(mode(&node), 0o700);
    }
}
