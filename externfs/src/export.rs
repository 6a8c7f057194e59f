//! [`Export`]: what frontends call. Object-safe, ids in and values out.
//!
//! One `Export` is one kernel's view: its lookup counts and its open handles.
//! Dropping it forgets everything that kernel held, so a guest that dies or
//! reconnects leaves nothing behind. [`crate::Bridge::connect`] makes one for
//! each frontend; all of them share the bridge's nodes.

use crate::data::{DataSink, DataSource};
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::name::Name;
use crate::types::*;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// A node that the kernel now remembers: its lookup count went up by one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its number.
    pub id: NodeId,
    /// With `id`, unique for the life of the bridge.
    pub generation: u64,
    /// Its attributes.
    pub attr: Attr,
    /// How long the attributes may be remembered.
    pub attr_ttl: Duration,
    /// How long the name may be remembered.
    pub entry_ttl: Duration,
    /// It lies on another file system than its parent and is to be announced
    /// as a mount point.
    pub submount: bool,
}

/// A file or listing that the kernel now has open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handle {
    /// Its number.
    pub id: HandleId,
    /// What the kernel may keep of a file's data.
    pub cache: FileCache,
    /// Whether the kernel may keep a listing.
    pub keep_listing: bool,
    /// Bytes that the file had when it was opened: a hint.
    pub size: u64,
}

/// What a kernel still has of an object that is listed, as far as its number tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Memory {
    /// Nothing that it believes: it asks before it tells anybody.
    None,
    /// Attributes that it believes for a moment yet.
    Old,
    /// Attributes that it need not be told again.
    Fresh,
}

/// Where a listing goes. The bridge asks for room before it takes a reference
/// for an entry, so none leaks when a buffer is full.
pub trait Listing {
    /// Whether an entry with a name of this many bytes still fits.
    fn has_room(&self, name_len: usize) -> bool;

    /// Whether a listing with attributes is to bring them for this name, which
    /// fits. Of one whose attributes the kernel has it is asked only where the
    /// listing does not tell its type.
    fn wants(&mut self, name: &[u8], memory: Memory) -> bool {
        let _ = (name, memory);
        true
    }

    /// Takes an entry. `known` is there in a listing with attributes, except
    /// for `.`, `..` and names that were not wanted or could not be looked up.
    /// It is only called after `has_room` said yes for the same length.
    fn put(&mut self, entry: &DirEntry<'_>, known: Option<&Entry>);
}

/// Told of changes that its kernel did not make.
pub trait Watcher: Send + Sync {
    /// Must not block on the export: it is called in the middle of operations.
    fn changed(&self, change: Change<NodeId>);
}

/// One kernel's view of a plugin. The operations are those of
/// [`crate::ExternFs`]; what is documented there is not said again.
#[allow(missing_docs)]
pub trait Export: Send + Sync {
    // ----- negotiation
    fn features(&self) -> Features;
    fn limits(&self) -> Limits;
    fn cache_policy(&self) -> CachePolicy;
    fn is_read_only(&self) -> bool;
    /// From now on `watcher` hears of changes made by others, and the answers'
    /// time-outs count on it. At most once per export.
    fn set_watcher(&self, watcher: Arc<dyn Watcher>);
    /// This kernel would do without opening files and listings (FUSE's "zero-message
    /// opens"). If it may, it reads and writes [`HandleId::unopened`] from now on, until
    /// the next `reset`, and what is open on its behalf is ours to decide. Only where
    /// the plugin can do without, and neither the host nor another kernel changes the
    /// tree: what such a kernel has cached it does not check when it opens.
    fn begin_unopened(&self) -> bool;
    /// The kernel uses `handle`, a new file's, no more, and the file unopened instead.
    fn leave_unopened(&self, handle: HandleId);
    /// Drops every handle and count, as after a guest's reboot.
    fn reset(&self);

    // ----- lookup counts
    fn lookup(&self, caller: &Caller, parent: NodeId, name: Name<'_>) -> Result<Entry>;
    /// The entry of a node that is still known (`lookup` of `.`).
    fn lookup_self(&self, id: NodeId) -> Result<Entry>;
    /// The entry of its directory (`lookup` of `..`).
    fn lookup_parent(&self, id: NodeId) -> Result<Entry>;
    /// Takes `count` lookups back. Unknown ids and too large counts are
    /// clamped: a guest can only forget what is its own.
    fn forget(&self, id: NodeId, count: u64);

    // ----- attributes
    fn get_attr(&self, id: NodeId, handle: Option<HandleId>) -> Result<(Attr, Duration)>;
    fn set_attr(&self, caller: &Caller, id: NodeId, handle: Option<HandleId>, change: &SetAttr) -> Result<(Attr, Duration)>;
    fn read_link(&self, id: NodeId) -> Result<Vec<u8>>;
    fn access(&self, caller: &Caller, id: NodeId, wanted: Access) -> Result<()>;
    fn statfs(&self, id: NodeId) -> Result<StatFs>;
    fn sync(&self) -> Result<()>;
    fn get_xattr(&self, id: NodeId, name: &[u8]) -> Result<Vec<u8>>;
    fn list_xattr(&self, id: NodeId) -> Result<Vec<u8>>;
    fn set_xattr(&self, caller: &Caller, id: NodeId, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()>;
    fn remove_xattr(&self, caller: &Caller, id: NodeId, name: &[u8]) -> Result<()>;
    fn inode_flags(&self, id: NodeId, handle: Option<HandleId>) -> Result<InodeFlags>;
    fn set_inode_flags(&self, caller: &Caller, id: NodeId, handle: Option<HandleId>, flags: InodeFlags) -> Result<()>;

    // ----- names
    fn make(&self, caller: &Caller, parent: NodeId, name: Name<'_>, new: &NewNode<'_>, mode: Mode) -> Result<Entry>;
    fn link(&self, caller: &Caller, id: NodeId, parent: NodeId, name: Name<'_>) -> Result<Entry>;
    fn unlink(&self, caller: &Caller, parent: NodeId, name: Name<'_>) -> Result<()>;
    fn rmdir(&self, caller: &Caller, parent: NodeId, name: Name<'_>) -> Result<()>;
    fn rename(&self, caller: &Caller, from: (NodeId, Name<'_>), to: (NodeId, Name<'_>), flags: RenameFlags) -> Result<()>;

    // ----- files
    fn open(&self, caller: &Caller, id: NodeId, flags: OpenFlags) -> Result<Handle>;
    fn create(&self, caller: &Caller, parent: NodeId, name: Name<'_>, flags: CreateFlags) -> Result<(Entry, Handle)>;
    fn create_unnamed(&self, caller: &Caller, parent: NodeId, flags: CreateFlags) -> Result<(Entry, Handle)>;
    fn read(&self, handle: HandleId, offset: u64, size: usize, sink: &mut dyn DataSink) -> Result<usize>;
    fn write(&self, handle: HandleId, offset: u64, source: &mut dyn DataSource, flags: WriteFlags) -> Result<usize>;
    fn flush(&self, handle: HandleId, lock_owner: u64) -> Result<()>;
    /// Closes a file. `flock_owner` is there if it may hold a flock.
    fn release(&self, handle: HandleId, flock_owner: Option<u64>);
    fn fsync(&self, handle: HandleId, data_only: bool) -> Result<()>;
    fn fallocate(&self, handle: HandleId, offset: u64, length: u64, flags: FallocateFlags) -> Result<()>;
    fn seek(&self, handle: HandleId, offset: u64, what: SeekFor) -> Result<u64>;
    fn copy_range(&self, from: (HandleId, u64), to: (HandleId, u64), length: u64) -> Result<u64>;
    /// A duplicate of the host file behind an open file, for FUSE passthrough.
    fn backing(&self, handle: HandleId) -> Option<OwnedFd>;
    fn get_lock(&self, handle: HandleId, wanted: &Lock) -> Result<Option<Lock>>;
    fn set_lock(&self, handle: HandleId, wanted: &Lock, wait: Option<&Interrupt>) -> Result<()>;

    // ----- listings
    fn open_dir(&self, id: NodeId) -> Result<Handle>;
    fn read_dir(&self, handle: HandleId, cookie: u64, listing: &mut dyn Listing) -> Result<()>;
    /// As `read_dir`, with each entry looked up.
    fn read_dir_plus(&self, handle: HandleId, cookie: u64, listing: &mut dyn Listing) -> Result<()>;
    fn fsync_dir(&self, handle: HandleId, data_only: bool) -> Result<()>;
    fn release_dir(&self, handle: HandleId);

    // ----- for tests and statistics
    fn statistics(&self) -> Statistics;
}

/// What an export holds at the moment; all zero but the root when idle.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Nodes that this kernel remembers, the root included.
    pub nodes: usize,
    /// Files and listings that it has open; not those that are open on its behalf.
    pub handles: usize,
    /// Nodes that any kernel on the same bridge remembers.
    pub bridge_nodes: usize,
}

/// A mount on this host that shows an export.
#[derive(Debug)]
pub struct HostMount {
    /// The number of its device, first part.
    pub major: u32,
    /// The second.
    pub minor: u32,
    /// The directory that it covers (`O_PATH`), and its name in the one above.
    pub covered: Option<(OwnedFd, CString)>,
}

/// Makes an [`Export`] for each new frontend or guest, over one bridge.
pub trait Connect: Send + Sync {
    /// A fresh view: nothing but the root is known in it.
    fn connect(&self) -> Result<Arc<dyn Export>>;

    /// So many kernels that cannot be told of changes may be there at the same time.
    /// Where that is more than one, each counts as sharing the tree from its first
    /// answer on: what a kernel was promised while it was alone cannot be taken
    /// back when another comes. Said by whoever serves, before guests may come; who
    /// says nothing has one guest, or all of them before the first request. What
    /// wraps another must pass it on.
    fn expect(&self, guests: usize) {
        let _ = guests;
    }

    /// What is served here shows in `mount`, on the very host that the source is on:
    /// the mount may be met within the source, and must not be asked for anything,
    /// since its answers come from here. Said before anything is served, and None as
    /// soon as it is unmounted: its device's number is another's then. What wraps
    /// another must pass it on.
    fn mounted(&self, mount: Option<HostMount>) {
        let _ = mount;
    }

    /// No more frontends will come and the last one is gone: the plugin puts
    /// its things in order. A server that dies without it loses no change.
    fn close(&self) -> Result<()> {
        Ok(())
    }
}
