//! The tables behind the numbers: [`NodeTable`] (which object is which number,
//! one a bridge), [`Lookups`] (what one kernel remembers) and [`Handles`] (what
//! it has open). Lookup counts live here and nowhere else.
//!
//! No lock of this file is held while a plugin is called, except for its `key`,
//! and none while a node is dropped: dropping one takes the node table's lock.

use crate::error::{Errno, Result};
use crate::fs::ExternFs;
use crate::memory::{Tide, name_class, node_bytes};
use crate::types::{FileKind, HandleId, NodeId, NodeKey};
use hashbrown::HashTable;
use slab::Slab;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

const SHARDS: usize = 16;

/// Our tables are consistent after every statement that can panic (none does),
/// so a poisoned lock means a panic elsewhere and the data is fine.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A node with its number, alive while any kernel remembers it or an operation
/// uses it.
pub(crate) struct NodeEntry<F: ExternFs> {
    /// The number and, where no number reaches, the kind.
    id_and_kind: u64,
    pub(crate) node: F::Node,
    table: Weak<NodeTable<F>>,
}

/// The first number that is no plugin's own.
const FOREIGN: u64 = 1 << 63;
/// Where the kind lies in `id_and_kind`.
const KIND_SHIFT: u32 = 60;

impl<F: ExternFs> NodeEntry<F> {
    pub(crate) fn id(&self) -> NodeId {
        NodeId(self.id_and_kind & !(7 << KIND_SHIFT))
    }

    pub(crate) fn kind(&self) -> FileKind {
        let number = self.id_and_kind >> KIND_SHIFT & 7;
        FileKind::ALL.get(number as usize).copied().unwrap_or(FileKind::Regular)
    }
}

impl<F: ExternFs> Drop for NodeEntry<F> {
    fn drop(&mut self) {
        if let Some(table) = self.table.upgrade() {
            table.remove(table.fs.key(&self.node), self);
        }
    }
}

type Slot<F> = (u64, Weak<NodeEntry<F>>);

/// Every known object, found by identity. Numbers are the plugin's own where
/// they are unique, so that a user sees the host's inode numbers; an object on
/// another volume, or one whose number is still in use by a predecessor, gets
/// a number from the upper half, and so does a number of more than 60 bits,
/// which hardly any file system has.
///
/// Every byte here counts a million times, so a node's identity is not kept
/// twice: the plugin, which lives here for that, tells it.
pub(crate) struct NodeTable<F: ExternFs> {
    pub(crate) fs: F,
    /// By `NodeKey::number`: two objects with one number meet in one shard.
    shards: [Mutex<HashTable<Slot<F>>>; SHARDS],
    hasher: hashbrown::DefaultHashBuilder,
    home_volume: u64,
    next_foreign: AtomicU64,
    live: Tide,
}

impl<F: ExternFs> NodeTable<F> {
    /// For a tree whose root lies on `home_volume`.
    pub(crate) fn new(fs: F, home_volume: u64) -> Arc<NodeTable<F>> {
        Arc::new(NodeTable {
            fs,
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: hashbrown::DefaultHashBuilder::default(),
            home_volume,
            next_foreign: AtomicU64::new(FOREIGN),
            live: Tide::default(),
        })
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, HashTable<Slot<F>>> {
        // The upper bits: the table itself uses the lower ones.
        locked(&self.shards[(hash >> 40) as usize % SHARDS])
    }

    /// How many nodes any kernel remembers.
    pub(crate) fn len(&self) -> usize {
        self.live.now()
    }

    /// The entry with this identity, if there is one.
    pub(crate) fn find(&self, key: NodeKey) -> Option<Arc<NodeEntry<F>>> {
        let hash = self.hasher.hash_one(key.number);
        // Entries that turn out to be others must be dropped after the lock.
        let mut others = Vec::new();
        let shard = self.shard(hash);
        let found = self.search(&shard, hash, key, &mut others);
        drop(shard);
        found
    }

    fn search(
        &self,
        shard: &HashTable<Slot<F>>,
        hash: u64,
        key: NodeKey,
        others: &mut Vec<Arc<NodeEntry<F>>>,
    ) -> Option<Arc<NodeEntry<F>>> {
        for (number, weak) in shard.iter_hash(hash) {
            if *number != key.number {
                continue;
            }
            if let Some(entry) = weak.upgrade() {
                if self.fs.key(&entry.node) == key {
                    return Some(entry);
                }
                others.push(entry);
            }
        }
        None
    }

    /// The entry for `node`, made if its identity is new. The second value is
    /// the node handed in when another with that identity was there already.
    pub(crate) fn intern(
        self: &Arc<Self>,
        key: NodeKey,
        node: F::Node,
        kind: FileKind,
        fixed: Option<NodeId>,
    ) -> (Arc<NodeEntry<F>>, Option<F::Node>) {
        let hash = self.hasher.hash_one(key.number);
        let mut others = Vec::new();
        let mut shard = self.shard(hash);
        if let Some(entry) = self.search(&shard, hash, key, &mut others) {
            drop(shard);
            return (entry, Some(node));
        }
        let in_range = key.number > NodeId::ROOT.0 && key.number < 1 << KIND_SHIFT;
        let own_number = key.volume == self.home_volume && in_range && others.iter().all(|other| other.id().0 != key.number);
        let id = fixed
            .unwrap_or_else(|| if own_number { NodeId(key.number) } else { NodeId(self.next_foreign.fetch_add(1, Ordering::Relaxed)) });
        let entry = Arc::new(NodeEntry { id_and_kind: id.0 | (kind as u64) << KIND_SHIFT, node, table: Arc::downgrade(self) });
        shard.insert_unique(hash, (key.number, Arc::downgrade(&entry)), |slot| self.hasher.hash_one(slot.0));
        drop(shard);
        self.live.rise();
        (entry, None)
    }

    fn remove(&self, key: NodeKey, entry: *const NodeEntry<F>) {
        let hash = self.hasher.hash_one(key.number);
        let mut shard = self.shard(hash);
        let slot = shard.find_entry(hash, |slot| std::ptr::eq(slot.1.as_ptr(), entry));
        let found = slot.map(|slot| slot.remove()).is_ok();
        // A million forgotten nodes give their memory back.
        if shard.capacity() > 1024 && shard.len() < shard.capacity() / 8 {
            let room = shard.len() * 2;
            shard.shrink_to(room, |slot| self.hasher.hash_one(slot.0));
        }
        drop(shard);
        if found {
            self.live.fall();
        }
    }
}

/// What one kernel knows of a node.
struct Known<F: ExternFs> {
    entry: Arc<NodeEntry<F>>,
    /// How often it has looked it up. More than fit are never forgotten, which
    /// costs a node's memory, while one too few would cost the kernel the node.
    /// Above that the class of the longest name that it was met by.
    lookups_and_name: u32,
    /// When it was last told the attributes, on the table's clock.
    told_ms: u32,
}

/// Bits of `lookups_and_name` that are the lookups'.
const LOOKUPS_BITS: u32 = 28;
const LOOKUPS_MAX: u32 = (1 << LOOKUPS_BITS) - 1;

impl<F: ExternFs> Known<F> {
    fn lookups(&self) -> u32 {
        self.lookups_and_name & LOOKUPS_MAX
    }

    fn set_lookups(&mut self, lookups: u32) {
        self.lookups_and_name = self.lookups_and_name & !LOOKUPS_MAX | lookups.min(LOOKUPS_MAX);
    }

    /// Bytes of memory, about.
    fn cost(&self) -> usize {
        node_bytes(self.lookups_and_name >> LOOKUPS_BITS)
    }

    /// It has a name of this class; the bytes that it takes more.
    fn named(&mut self, class: u32) -> usize {
        let before = self.cost();
        let class = class.max(self.lookups_and_name >> LOOKUPS_BITS);
        self.lookups_and_name = class << LOOKUPS_BITS | self.lookups();
        self.cost() - before
    }
}

/// What one kernel remembers, with its lookup counts.
pub(crate) struct Lookups<F: ExternFs> {
    shards: [Mutex<HashTable<Known<F>>>; SHARDS],
    count: AtomicUsize,
    /// Bytes that all of it takes, and what all kernels' does.
    cost: AtomicUsize,
    cost_of_all: Arc<AtomicUsize>,
    hasher: hashbrown::DefaultHashBuilder,
    begun: Instant,
}

impl<F: ExternFs> Lookups<F> {
    pub(crate) fn new(cost_of_all: Arc<AtomicUsize>) -> Lookups<F> {
        Lookups {
            shards: std::array::from_fn(|_| Mutex::default()),
            count: AtomicUsize::new(0),
            cost: AtomicUsize::new(0),
            cost_of_all,
            hasher: hashbrown::DefaultHashBuilder::default(),
            begun: Instant::now(),
        }
    }

    /// Wraps after seven weeks; then something looks told that was not, once,
    /// and costs the kernel a request.
    fn now_ms(&self) -> u32 {
        self.begun.elapsed().as_millis() as u32
    }

    fn hash(&self, id: NodeId) -> u64 {
        self.hasher.hash_one(id.0)
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, HashTable<Known<F>>> {
        locked(&self.shards[(hash >> 40) as usize % SHARDS])
    }

    /// # Errors
    /// ESTALE for a number that the kernel does not hold.
    pub(crate) fn get(&self, id: NodeId) -> Result<Arc<NodeEntry<F>>> {
        let hash = self.hash(id);
        match self.shard(hash).find(hash, |known| known.entry.id() == id) {
            Some(known) => Ok(known.entry.clone()),
            None => Err(Errno::ESTALE.into()),
        }
    }

    /// All that it remembers.
    pub(crate) fn ids(&self) -> Vec<NodeId> {
        let shards = self.shards.iter();
        shards.flat_map(|shard| locked(shard).iter().map(|known| known.entry.id()).collect::<Vec<_>>()).collect()
    }

    pub(crate) fn contains(&self, id: NodeId) -> bool {
        let hash = self.hash(id);
        self.shard(hash).find(hash, |known| known.entry.id() == id).is_some()
    }

    fn costs_more(&self, bytes: usize) {
        if bytes > 0 {
            self.cost.fetch_add(bytes, Ordering::Relaxed);
            self.cost_of_all.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn costs_less(&self, bytes: usize) {
        self.cost.fetch_sub(bytes, Ordering::Relaxed);
        self.cost_of_all.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// One lookup more, by a name of `name_len` bytes, which tells the attributes too.
    pub(crate) fn remember(&self, entry: &Arc<NodeEntry<F>>, name_len: usize) {
        let class = name_class(name_len);
        let (hash, told_ms) = (self.hash(entry.id()), self.now_ms());
        let mut shard = self.shard(hash);
        match shard.find_mut(hash, |known| known.entry.id() == entry.id()) {
            Some(known) => {
                known.set_lookups(known.lookups() + 1);
                known.told_ms = told_ms;
                self.costs_more(known.named(class));
            }
            None => {
                let known = Known { entry: entry.clone(), lookups_and_name: class << LOOKUPS_BITS | 1, told_ms };
                self.costs_more(known.cost());
                shard.insert_unique(hash, known, |known| self.hash(known.entry.id()));
                self.count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// It has a name of `name_len` bytes from now on.
    pub(crate) fn named(&self, id: NodeId, name_len: usize) {
        let hash = self.hash(id);
        if let Some(known) = self.shard(hash).find_mut(hash, |known| known.entry.id() == id) {
            self.costs_more(known.named(name_class(name_len)));
        }
    }

    /// The kernel is being told the attributes again.
    pub(crate) fn told(&self, id: NodeId) {
        let (hash, now) = (self.hash(id), self.now_ms());
        if let Some(known) = self.shard(hash).find_mut(hash, |known| known.entry.id() == id) {
            known.told_ms = now;
        }
    }

    /// How long ago that was; None of one that it does not know.
    pub(crate) fn age(&self, id: NodeId) -> Option<Duration> {
        let hash = self.hash(id);
        let told_ms = self.shard(hash).find(hash, |known| known.entry.id() == id)?.told_ms;
        Some(Duration::from_millis(u64::from(self.now_ms().wrapping_sub(told_ms))))
    }

    /// `count` lookups fewer, but never below none. Says whether it is not known any
    /// longer.
    pub(crate) fn forget(&self, id: NodeId, count: u64) -> bool {
        let hash = self.hash(id);
        let mut shard = self.shard(hash);
        let Ok(mut slot) = shard.find_entry(hash, |known| known.entry.id() == id) else { return true };
        let known = slot.get_mut();
        if known.lookups() == LOOKUPS_MAX {
            return false;
        }
        known.set_lookups(known.lookups().saturating_sub(u32::try_from(count).unwrap_or(u32::MAX)));
        if known.lookups() > 0 {
            return false;
        }
        let (gone, _) = slot.remove();
        self.costs_less(gone.cost());
        self.count.fetch_sub(1, Ordering::Relaxed);
        if shard.capacity() > 1024 && shard.len() < shard.capacity() / 8 {
            let room = shard.len() * 2;
            shard.shrink_to(room, |known| self.hash(known.entry.id()));
        }
        drop(shard);
        drop(gone);
        true
    }

    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            let gone = std::mem::take(&mut *locked(shard));
            self.count.fetch_sub(gone.len(), Ordering::Relaxed);
            self.costs_less(gone.iter().map(Known::cost).sum());
            drop(gone);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Bytes that what it remembers takes here, about.
    pub(crate) fn cost(&self) -> usize {
        self.cost.load(Ordering::Relaxed)
    }
}

impl<F: ExternFs> Drop for Lookups<F> {
    fn drop(&mut self) {
        self.clear();
    }
}

struct Held<T> {
    generation: u32,
    what: Arc<T>,
}

/// What fits into a [`HandleId`] below the mark of those that nobody has opened.
const GENERATION_MASK: u32 = (1 << 30) - 1;

/// Open files or listings by number. A number is never given twice in a row,
/// so a guest that uses one after its release gets EBADF, not a stranger.
pub(crate) struct Handles<T> {
    shards: [Mutex<Slab<Held<T>>>; SHARDS],
    next: AtomicUsize,
    open: AtomicUsize,
}

impl<T> Handles<T> {
    pub(crate) fn new() -> Handles<T> {
        Handles { shards: std::array::from_fn(|_| Mutex::default()), next: AtomicUsize::new(0), open: AtomicUsize::new(0) }
    }

    fn split(handle: HandleId) -> (usize, usize, u32) {
        let low = handle.0 as u32 as usize;
        (low % SHARDS, low / SHARDS, (handle.0 >> 32) as u32)
    }

    pub(crate) fn insert(&self, what: T) -> HandleId {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let shard = turn % SHARDS;
        let generation = (turn / SHARDS) as u32 & GENERATION_MASK;
        let index = locked(&self.shards[shard]).insert(Held { generation, what: Arc::new(what) });
        self.open.fetch_add(1, Ordering::Relaxed);
        HandleId(u64::from(generation) << 32 | (index * SHARDS + shard) as u64)
    }

    /// # Errors
    /// EBADF for a number that is not open.
    pub(crate) fn get(&self, handle: HandleId) -> Result<Arc<T>> {
        let (shard, index, generation) = Self::split(handle);
        match locked(&self.shards[shard]).get(index) {
            Some(held) if held.generation == generation => Ok(held.what.clone()),
            _ => Err(Errno::EBADF.into()),
        }
    }

    pub(crate) fn remove(&self, handle: HandleId) -> Option<Arc<T>> {
        let (shard, index, generation) = Self::split(handle);
        let mut slab = locked(&self.shards[shard]);
        if slab.get(index).is_none_or(|held| held.generation != generation) {
            return None;
        }
        let held = slab.remove(index);
        drop(slab);
        self.open.fetch_sub(1, Ordering::Relaxed);
        Some(held.what)
    }

    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            let gone = std::mem::take(&mut *locked(shard));
            self.open.fetch_sub(gone.len(), Ordering::Relaxed);
            drop(gone);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}
