//! An export that writes down what it is asked and counts what it gives.

use externfs::*;
use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(super) struct Fake {
    pub(super) calls: Mutex<Vec<String>>,
    /// Lookup counts of nodes.
    pub(super) nodes: Mutex<HashMap<u64, i64>>,
    /// Open files and listings.
    pub(super) handles: Mutex<HashSet<u64>>,
    pub(super) next: AtomicU64,
    /// The kernel is honest: it forgets no more than it was given.
    pub(super) honest: bool,
    pub(super) features: Features,
    pub(super) policy: CachePolicy,
    /// Every operation answers this.
    pub(super) error: Option<Error>,
    pub(super) attr: Attr,
    pub(super) submount: bool,
    pub(super) cache: FileCache,
    pub(super) keep_listing: bool,
    pub(super) xattr: Vec<u8>,
    pub(super) link: Vec<u8>,
    /// Somebody else has every lock.
    pub(super) lock_taken: bool,
    /// Locks that were got and not released.
    pub(super) locks: Mutex<i64>,
    pub(super) unopened: bool,
    pub(super) names: Vec<String>,
    /// The listing fails behind its last name.
    pub(super) listing_error: bool,
}

pub(super) fn attr() -> Attr {
    Attr {
        ino: 0x11,
        size: 0x22,
        blocks: 0x33,
        block_size: 4096,
        kind: FileKind::Regular,
        mode: Mode::new(0o4755),
        nlink: 0x44,
        uid: GuestUid(0x55),
        gid: GuestGid(0x66),
        device: DeviceNumber::default(),
        atime: Timestamp { seconds: -1, nanoseconds: 1 },
        mtime: Timestamp { seconds: 2, nanoseconds: 20 },
        ctime: Timestamp { seconds: 3, nanoseconds: 30 },
        btime: Some(Timestamp { seconds: 4, nanoseconds: 40 }),
    }
}

pub(super) const ATTR_TTL: Duration = Duration::new(5, 6);
pub(super) const ENTRY_TTL: Duration = Duration::new(7, 8);

impl Default for Fake {
    fn default() -> Fake {
        Fake {
            calls: Mutex::default(),
            nodes: Mutex::default(),
            handles: Mutex::default(),
            next: AtomicU64::new(0x100),
            honest: true,
            features: Features { posix_acl: true, locks: true, kill_priv: true, tmpfile: true, submounts: true },
            policy: CachePolicy { attr: ATTR_TTL, entry: ENTRY_TTL, ..CachePolicy::NONE },
            error: None,
            attr: attr(),
            submount: false,
            cache: FileCache::Drop,
            keep_listing: false,
            xattr: b"value".to_vec(),
            link: b"target".to_vec(),
            lock_taken: false,
            locks: Mutex::default(),
            unopened: false,
            names: vec![".".into(), "..".into(), "one".into(), "four".into()],
            listing_error: false,
        }
    }
}

impl Fake {
    fn say(&self, call: String) -> Result<()> {
        self.calls.lock().unwrap().push(call);
        self.error.clone().map_or(Ok(()), Err)
    }

    fn give_node(&self) -> Entry {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        *self.nodes.lock().unwrap().entry(id).or_default() += 1;
        Entry { id: NodeId(id), generation: 9, attr: self.attr, attr_ttl: ATTR_TTL, entry_ttl: ENTRY_TTL, submount: self.submount }
    }

    fn give_handle(&self) -> Handle {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.handles.lock().unwrap().insert(id);
        Handle { id: HandleId(id), cache: self.cache, keep_listing: self.keep_listing, size: 77 }
    }

    /// Lookup counts and handles that somebody holds.
    pub(super) fn held(&self) -> (i64, usize) {
        (self.nodes.lock().unwrap().values().sum(), self.handles.lock().unwrap().len())
    }

    fn list(&self, cookie: u64, listing: &mut dyn Listing, plus: bool) -> Result<()> {
        for (place, name) in self.names.iter().enumerate().skip(cookie as usize) {
            if !listing.has_room(name.len()) {
                return Ok(());
            }
            let entry = DirEntry { name: name.as_bytes(), ino: 0x20 + place as u64, kind: Some(FileKind::Regular), next: place as u64 + 1 };
            let known = (plus && !name.starts_with('.') && listing.wants(name.as_bytes(), Memory::None)).then(|| self.give_node());
            listing.put(&entry, known.as_ref());
        }
        if self.listing_error { Err(Errno::EIO.into()) } else { Ok(()) }
    }
}

impl Export for Fake {
    fn features(&self) -> Features {
        self.features
    }
    fn limits(&self) -> Limits {
        Limits::default()
    }
    fn cache_policy(&self) -> CachePolicy {
        self.policy
    }
    fn is_read_only(&self) -> bool {
        false
    }
    fn set_watcher(&self, _watcher: Arc<dyn Watcher>) {}
    fn begin_unopened(&self) -> bool {
        self.unopened
    }
    fn leave_unopened(&self, handle: HandleId) {
        self.calls.lock().unwrap().push(format!("leave_unopened {}", self.handles.lock().unwrap().remove(&handle.0)));
    }
    fn reset(&self) {
        self.calls.lock().unwrap().push("reset".into());
        self.nodes.lock().unwrap().clear();
        self.handles.lock().unwrap().clear();
    }
    fn lookup(&self, caller: &Caller, parent: NodeId, name: Name<'_>) -> Result<Entry> {
        self.say(format!("lookup {} {parent:?} {name}", caller.uid.0)).map(|()| self.give_node())
    }
    fn lookup_self(&self, id: NodeId) -> Result<Entry> {
        self.say(format!("lookup_self {id:?}")).map(|()| self.give_node())
    }
    fn lookup_parent(&self, id: NodeId) -> Result<Entry> {
        self.say(format!("lookup_parent {id:?}")).map(|()| self.give_node())
    }
    fn forget(&self, id: NodeId, count: u64) {
        if let Some(held) = self.nodes.lock().unwrap().get_mut(&id.0) {
            assert!(!self.honest || *held >= count as i64, "forgotten more often than given");
            *held -= (count as i64).clamp(0, *held);
        } else {
            self.calls.lock().unwrap().push(format!("forget {id:?} {count}"));
        }
    }
    fn get_attr(&self, id: NodeId, handle: Option<HandleId>) -> Result<(Attr, Duration)> {
        self.say(format!("get_attr {id:?} {handle:?}")).map(|()| (self.attr, ATTR_TTL))
    }
    fn set_attr(&self, caller: &Caller, id: NodeId, handle: Option<HandleId>, change: &SetAttr) -> Result<(Attr, Duration)> {
        self.say(format!("set_attr {} {id:?} {handle:?} {change:?}", caller.uid.0)).map(|()| (self.attr, ATTR_TTL))
    }
    fn read_link(&self, id: NodeId) -> Result<Vec<u8>> {
        self.say(format!("read_link {id:?}")).map(|()| self.link.clone())
    }
    fn access(&self, caller: &Caller, id: NodeId, wanted: Access) -> Result<()> {
        self.say(format!("access {} {id:?} {wanted:?}", caller.uid.0))
    }
    fn statfs(&self, id: NodeId) -> Result<StatFs> {
        let stat = StatFs { block_size: 512, blocks: 1, blocks_free: 2, blocks_available: 3, inodes: 4, inodes_free: 5, name_max: 255 };
        self.say(format!("statfs {id:?}")).map(|()| stat)
    }
    fn sync(&self) -> Result<()> {
        self.say("sync".into())
    }
    fn get_xattr(&self, id: NodeId, name: &[u8]) -> Result<Vec<u8>> {
        self.say(format!("get_xattr {id:?} {}", name.escape_ascii())).map(|()| self.xattr.clone())
    }
    fn list_xattr(&self, id: NodeId) -> Result<Vec<u8>> {
        self.say(format!("list_xattr {id:?}")).map(|()| self.xattr.clone())
    }
    fn set_xattr(&self, _caller: &Caller, id: NodeId, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()> {
        self.say(format!("set_xattr {id:?} {} {} {flags:?}", name.escape_ascii(), value.escape_ascii()))
    }
    fn remove_xattr(&self, _caller: &Caller, id: NodeId, name: &[u8]) -> Result<()> {
        self.say(format!("remove_xattr {id:?} {}", name.escape_ascii()))
    }
    fn inode_flags(&self, id: NodeId, handle: Option<HandleId>) -> Result<InodeFlags> {
        self.say(format!("inode_flags {id:?} {handle:?}")).map(|()| InodeFlags::APPEND | InodeFlags::from_bits_retain(0x8_0000))
    }
    fn set_inode_flags(&self, _caller: &Caller, id: NodeId, handle: Option<HandleId>, flags: InodeFlags) -> Result<()> {
        self.say(format!("set_inode_flags {id:?} {handle:?} {:#x}", flags.bits()))
    }
    fn make(&self, caller: &Caller, parent: NodeId, name: Name<'_>, new: &NewNode<'_>, mode: Mode) -> Result<Entry> {
        let Caller { umask, supplementary_group, .. } = caller;
        self.say(format!("make {parent:?} {name} {new:?} {mode:?} umask {umask:o} {supplementary_group:?}")).map(|()| self.give_node())
    }
    fn link(&self, _caller: &Caller, id: NodeId, parent: NodeId, name: Name<'_>) -> Result<Entry> {
        self.say(format!("link {id:?} {parent:?} {name}")).map(|()| self.give_node())
    }
    fn unlink(&self, _caller: &Caller, parent: NodeId, name: Name<'_>) -> Result<()> {
        self.say(format!("unlink {parent:?} {name}"))
    }
    fn rmdir(&self, _caller: &Caller, parent: NodeId, name: Name<'_>) -> Result<()> {
        self.say(format!("rmdir {parent:?} {name}"))
    }
    fn rename(&self, _caller: &Caller, from: (NodeId, Name<'_>), to: (NodeId, Name<'_>), flags: RenameFlags) -> Result<()> {
        self.say(format!("rename {from:?} {to:?} {:#x}", flags.bits()))
    }
    fn open(&self, _caller: &Caller, id: NodeId, flags: OpenFlags) -> Result<Handle> {
        self.say(format!("open {id:?} {flags:?}")).map(|()| self.give_handle())
    }
    fn create(&self, caller: &Caller, parent: NodeId, name: Name<'_>, flags: CreateFlags) -> Result<(Entry, Handle)> {
        self.say(format!("create {parent:?} {name} {flags:?} umask {:o}", caller.umask)).map(|()| (self.give_node(), self.give_handle()))
    }
    fn create_unnamed(&self, caller: &Caller, parent: NodeId, flags: CreateFlags) -> Result<(Entry, Handle)> {
        self.say(format!("create_unnamed {parent:?} {flags:?} umask {:o}", caller.umask)).map(|()| (self.give_node(), self.give_handle()))
    }
    fn read(&self, handle: HandleId, offset: u64, size: usize, sink: &mut dyn DataSink) -> Result<usize> {
        self.calls.lock().unwrap().push(format!("read {handle:?} {offset} {size}"));
        sink.put(b"some ")?;
        // An error in the middle must leave nothing of it.
        self.error.clone().map_or(Ok(()), Err)?;
        sink.put(b"data")?;
        Ok(9)
    }
    fn write(&self, handle: HandleId, offset: u64, source: &mut dyn DataSource, flags: WriteFlags) -> Result<usize> {
        let mut data = vec![0; source.remaining()];
        let count = source.take(&mut data)?;
        self.say(format!("write {handle:?} {offset} {} {flags:?}", data.escape_ascii())).map(|()| count)
    }
    fn flush(&self, handle: HandleId, lock_owner: u64) -> Result<()> {
        self.say(format!("flush {handle:?} {lock_owner}"))
    }
    fn release(&self, handle: HandleId, flock_owner: Option<u64>) {
        if !self.handles.lock().unwrap().remove(&handle.0) {
            self.calls.lock().unwrap().push(format!("release {handle:?} {flock_owner:?}"));
        }
    }
    fn fsync(&self, handle: HandleId, data_only: bool) -> Result<()> {
        self.say(format!("fsync {handle:?} {data_only}"))
    }
    fn fallocate(&self, handle: HandleId, offset: u64, length: u64, flags: FallocateFlags) -> Result<()> {
        self.say(format!("fallocate {handle:?} {offset} {length} {:#x}", flags.bits()))
    }
    fn seek(&self, handle: HandleId, offset: u64, what: SeekFor) -> Result<u64> {
        self.say(format!("seek {handle:?} {offset} {what:?}")).map(|()| offset + 1)
    }
    fn copy_range(&self, from: (HandleId, u64), to: (HandleId, u64), length: u64) -> Result<u64> {
        self.say(format!("copy_range {from:?} {to:?} {length}")).map(|()| length)
    }
    fn backing(&self, _handle: HandleId) -> Option<OwnedFd> {
        None
    }
    fn get_lock(&self, handle: HandleId, wanted: &Lock) -> Result<Option<Lock>> {
        self.say(format!("get_lock {handle:?} {wanted:?}"))?;
        Ok(self.lock_taken.then_some(Lock { kind: LockKind::Write, start: 5, end: u64::MAX, pid: 77, owner: 0, family: wanted.family }))
    }
    fn set_lock(&self, handle: HandleId, wanted: &Lock, wait: Option<&Interrupt>) -> Result<()> {
        self.say(format!("set_lock {handle:?} {:?} {:?} {}", wanted.family, wanted.kind, if wait.is_some() { "wait" } else { "try" }))?;
        if wanted.kind == LockKind::Unlock {
            *self.locks.lock().unwrap() -= 1;
            return Ok(());
        }
        match wait {
            None if self.lock_taken => return Err(Errno::EAGAIN.into()),
            Some(interrupt) if self.lock_taken && !self.names.is_empty() => {
                let (wake, woken) = std::sync::mpsc::channel();
                interrupt.set_wake(move || wake.send(()).unwrap_or_default());
                let raised = woken.recv_timeout(Duration::from_secs(20)).is_ok();
                interrupt.clear_wake();
                return Err(if raised { Errno::EINTR } else { Errno::EDEADLK }.into());
            }
            _ => {}
        }
        *self.locks.lock().unwrap() += 1;
        Ok(())
    }
    fn open_dir(&self, id: NodeId) -> Result<Handle> {
        self.say(format!("open_dir {id:?}")).map(|()| self.give_handle())
    }
    fn read_dir(&self, handle: HandleId, cookie: u64, listing: &mut dyn Listing) -> Result<()> {
        self.say(format!("read_dir {handle:?} {cookie}"))?;
        self.list(cookie, listing, false)
    }
    fn read_dir_plus(&self, handle: HandleId, cookie: u64, listing: &mut dyn Listing) -> Result<()> {
        self.say(format!("read_dir_plus {handle:?} {cookie}"))?;
        self.list(cookie, listing, true)
    }
    fn fsync_dir(&self, handle: HandleId, data_only: bool) -> Result<()> {
        self.say(format!("fsync_dir {handle:?} {data_only}"))
    }
    fn release_dir(&self, handle: HandleId) {
        if !self.handles.lock().unwrap().remove(&handle.0) {
            self.calls.lock().unwrap().push(format!("release_dir {handle:?}"));
        }
    }
    fn statistics(&self) -> Statistics {
        Statistics::default()
    }
}
