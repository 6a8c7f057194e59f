//! The operations of a [`Session`], as frontends call them.

use super::{OpenDir, Session, Use, attr_ttl};
use crate::data::{DataSink, DataSource};
use crate::error::{Errno, Result};
use crate::export::{Entry, Export, Handle, Listing, Memory, Statistics, Watcher};
use crate::fs::{Child, ExternFs};
use crate::interrupt::Interrupt;
use crate::name::Name;
use crate::types::*;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Longest xattr name and value that Linux knows (`XATTR_NAME_MAX`, `XATTR_SIZE_MAX`), in bytes.
const XATTR_NAME_MAX: usize = 255;
const XATTR_SIZE_MAX: usize = 65536;
/// Longest target of a symbolic link in bytes (`PATH_MAX` less its NUL).
const SYMLINK_MAX: usize = 4095;

/// One trace span an operation; costs a load and a branch when nobody traces.
macro_rules! span {
    ($name:literal $(, $field:ident = $value:expr)*) => {
        let _span = tracing::trace_span!($name $(, $field = ?$value)*).entered();
    };
}

impl<F: ExternFs> Export for Session<F> {
    fn features(&self) -> Features {
        self.features
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn cache_policy(&self) -> CachePolicy {
        let policy = self.fs().cache_policy();
        if self.is_in_the_dark() { CachePolicy { writeback: policy.writeback, ..CachePolicy::NONE } } else { policy }
    }

    fn is_read_only(&self) -> bool {
        self.bridge.options.read_only
    }

    fn set_watcher(&self, watcher: Arc<dyn Watcher>) {
        if self.watcher.set(watcher).is_ok() {
            self.bridge.watcher_added();
        }
    }

    fn begin_unopened(&self) -> bool {
        let policy = self.cache_policy();
        // Another kernel's pages would have to be checked, and what one never forgets
        // would be in the other's way. Locks of the plugin's are let go of with FLUSH.
        let is_alone = !self.bridge.is_shared() && policy.exclusive && policy.listings;
        let can = is_alone && !policy.writeback && !self.features.locks && self.fs().begin_unopened();
        self.opens_nothing.store(can, Ordering::Relaxed);
        can
    }

    fn leave_unopened(&self, handle: HandleId) {
        if let Some(open) = self.files.remove(handle) {
            self.unopened_files.put(open.node.id(), open);
        }
    }

    fn reset(&self) {
        self.opens_nothing.store(false, Ordering::Relaxed);
        self.close_unopened();
        self.files.clear();
        self.dirs.clear();
        self.lookups.clear();
    }

    fn lookup(&self, _caller: &Caller, parent: NodeId, name: Name<'_>) -> Result<Entry> {
        span!("lookup", parent = parent, name = name);
        self.check_name(name)?;
        let parent = self.directory(parent)?;
        self.check_nodes()?;
        let (node, attr) = self.fs().lookup(&parent.node, name)?;
        Ok(self.admit(node, attr, Some(&parent), name.as_bytes().len()))
    }

    fn lookup_self(&self, id: NodeId) -> Result<Entry> {
        span!("lookup_self", id = id);
        let node = self.node(id)?;
        let attr = self.fs().attr(&node.node, None)?;
        if id != NodeId::ROOT {
            self.lookups.remember(&node, 0);
        }
        Ok(self.entry(&node, attr, None))
    }

    fn lookup_parent(&self, id: NodeId) -> Result<Entry> {
        span!("lookup_parent", id = id);
        let node = self.directory(id)?;
        self.check_nodes()?;
        let parent = self.fs().parent(&node.node)?;
        let attr = self.fs().attr(&parent, None)?;
        Ok(self.admit(parent, attr, None, 0))
    }

    fn forget(&self, id: NodeId, count: u64) {
        span!("forget", id = id, count = count);
        if self.lookups.forget(id, count) {
            self.unopened_files.close(id);
            self.unopened_dirs.close(id);
        }
    }

    fn get_attr(&self, id: NodeId, handle: Option<HandleId>) -> Result<(Attr, Duration)> {
        span!("get_attr", id = id);
        let node = self.node(id)?;
        let open = self.file_of(&node, handle)?;
        let attr = self.fs().attr(&node.node, open.as_ref().map(|open| &open.file))?;
        self.lookups.told(id);
        Ok((attr, attr_ttl(&self.cache_policy(), &attr)))
    }

    fn set_attr(&self, caller: &Caller, id: NodeId, handle: Option<HandleId>, change: &SetAttr) -> Result<(Attr, Duration)> {
        span!("set_attr", id = id, change = change);
        self.check_writable()?;
        let node = self.node(id)?;
        let open = self.file_of(&node, handle)?;
        let file = open.as_ref().filter(|open| open.flags.write).map(|open| &open.file);
        let attr = self.fs().set_attr(caller, &node.node, file, change)?;
        self.tell_node(id, change.size.is_some());
        Ok((attr, attr_ttl(&self.cache_policy(), &attr)))
    }

    fn read_link(&self, id: NodeId) -> Result<Vec<u8>> {
        span!("read_link", id = id);
        self.fs().read_link(&self.node(id)?.node)
    }

    fn access(&self, caller: &Caller, id: NodeId, wanted: Access) -> Result<()> {
        span!("access", id = id, wanted = wanted);
        let node = self.node(id)?;
        let changes = matches!(node.kind(), FileKind::Regular | FileKind::Directory | FileKind::Symlink);
        if wanted.contains(Access::WRITE) && changes {
            self.check_writable()?;
        }
        self.fs().access(caller, &node.node, wanted)
    }

    fn statfs(&self, id: NodeId) -> Result<StatFs> {
        span!("statfs", id = id);
        self.fs().statfs(&self.node(id)?.node)
    }

    fn sync(&self) -> Result<()> {
        span!("sync");
        self.fs().sync()
    }

    fn get_xattr(&self, id: NodeId, name: &[u8]) -> Result<Vec<u8>> {
        span!("get_xattr", id = id);
        check_xattr_name(name)?;
        self.fs().get_xattr(&self.node(id)?.node, name)
    }

    fn list_xattr(&self, id: NodeId) -> Result<Vec<u8>> {
        span!("list_xattr", id = id);
        self.fs().list_xattr(&self.node(id)?.node)
    }

    fn set_xattr(&self, caller: &Caller, id: NodeId, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()> {
        span!("set_xattr", id = id);
        self.check_writable()?;
        check_xattr_name(name)?;
        if value.len() > XATTR_SIZE_MAX {
            return Err(Errno::E2BIG.into());
        }
        self.fs().set_xattr(caller, &self.node(id)?.node, name, value, flags)?;
        self.tell_node(id, false);
        Ok(())
    }

    fn remove_xattr(&self, caller: &Caller, id: NodeId, name: &[u8]) -> Result<()> {
        span!("remove_xattr", id = id);
        self.check_writable()?;
        check_xattr_name(name)?;
        self.fs().remove_xattr(caller, &self.node(id)?.node, name)?;
        self.tell_node(id, false);
        Ok(())
    }

    fn inode_flags(&self, id: NodeId, handle: Option<HandleId>) -> Result<InodeFlags> {
        span!("inode_flags", id = id);
        let node = self.node(id)?;
        // A directory's handle names a listing, which adds nothing to its node.
        let open = if node.kind() == FileKind::Regular { self.file_of(&node, handle)? } else { None };
        self.fs().inode_flags(&node.node, open.as_ref().map(|open| &open.file))
    }

    fn set_inode_flags(&self, caller: &Caller, id: NodeId, handle: Option<HandleId>, flags: InodeFlags) -> Result<()> {
        span!("set_inode_flags", id = id);
        self.check_writable()?;
        let node = self.node(id)?;
        let open = if node.kind() == FileKind::Regular { self.file_of(&node, handle)? } else { None };
        self.fs().set_inode_flags(caller, &node.node, open.as_ref().map(|open| &open.file), flags)
    }

    fn make(&self, caller: &Caller, parent: NodeId, name: Name<'_>, new: &NewNode<'_>, mode: Mode) -> Result<Entry> {
        span!("make", parent = parent, name = name, new = new);
        let parent = self.writable_directory(parent, name)?;
        if let NewNode::Symlink(target) = new {
            check_symlink_target(target)?;
        }
        self.check_nodes()?;
        let (node, attr) = self.fs().make(caller, &parent.node, name, new, mode)?;
        let entry = self.admit(node, attr, Some(&parent), name.as_bytes().len());
        self.tell_name(parent.id(), name);
        Ok(entry)
    }

    fn link(&self, caller: &Caller, id: NodeId, parent: NodeId, name: Name<'_>) -> Result<Entry> {
        span!("link", id = id, parent = parent, name = name);
        let parent = self.writable_directory(parent, name)?;
        let node = self.node(id)?;
        if node.kind() == FileKind::Directory {
            return Err(Errno::EPERM.into());
        }
        let attr = self.fs().link(caller, &node.node, &parent.node, name)?;
        self.lookups.remember(&node, name.as_bytes().len());
        self.tell_name(parent.id(), name);
        self.tell_node(id, false);
        Ok(self.entry(&node, attr, Some(&parent)))
    }

    fn unlink(&self, caller: &Caller, parent: NodeId, name: Name<'_>) -> Result<()> {
        span!("unlink", parent = parent, name = name);
        self.remove(caller, parent, name, false)
    }

    fn rmdir(&self, caller: &Caller, parent: NodeId, name: Name<'_>) -> Result<()> {
        span!("rmdir", parent = parent, name = name);
        self.remove(caller, parent, name, true)
    }

    fn rename(&self, caller: &Caller, from: (NodeId, Name<'_>), to: (NodeId, Name<'_>), flags: RenameFlags) -> Result<()> {
        span!("rename", from = from, to = to, flags = flags);
        let from_dir = self.writable_directory(from.0, from.1)?;
        let to_dir = self.writable_directory(to.0, to.1)?;
        let moved = self.with_spare_handles(|| self.known_child(&from_dir, from.1))?;
        let replaced = self.with_spare_handles(|| self.known_child(&to_dir, to.1))?;
        self.with_spare_handles(|| {
            let from = Child { name: from.1, node: moved.as_ref().map(|entry| &entry.node) };
            let to = Child { name: to.1, node: replaced.as_ref().map(|entry| &entry.node) };
            self.fs().rename(caller, (&from_dir.node, from), (&to_dir.node, to), flags)
        })?;
        if let Some(moved) = moved {
            self.lookups.named(moved.id(), to.1.as_bytes().len());
        }
        if let Some(replaced) = replaced {
            // It has the other name now, or none.
            self.lookups.named(replaced.id(), from.1.as_bytes().len());
        }
        self.tell_name(from.0, from.1);
        self.tell_name(to.0, to.1);
        Ok(())
    }

    fn open(&self, caller: &Caller, id: NodeId, flags: OpenFlags) -> Result<Handle> {
        span!("open", id = id, flags = flags);
        if flags.write || flags.truncate {
            self.check_writable()?;
        }
        let node = self.regular(id)?;
        self.check_handles()?;
        let opened = self.fs().open(caller, &node.node, flags)?;
        if flags.truncate {
            self.tell_node(id, true);
        }
        Ok(self.insert_file(node, opened, flags))
    }

    fn create(&self, caller: &Caller, parent: NodeId, name: Name<'_>, flags: CreateFlags) -> Result<(Entry, Handle)> {
        span!("create", parent = parent, name = name, flags = flags);
        let parent = self.writable_directory(parent, name)?;
        self.check_handles()?;
        self.check_nodes()?;
        let created = self.with_spare_handles(|| self.fs().create(caller, &parent.node, name, flags))?;
        let answer = self.admit_created(created, &parent, name.as_bytes().len(), flags)?;
        self.tell_name(parent.id(), name);
        Ok(answer)
    }

    fn create_unnamed(&self, caller: &Caller, parent: NodeId, flags: CreateFlags) -> Result<(Entry, Handle)> {
        span!("create_unnamed", parent = parent, flags = flags);
        self.check_writable()?;
        let parent = self.directory(parent)?;
        self.check_handles()?;
        self.check_nodes()?;
        let created = self.with_spare_handles(|| self.fs().create_unnamed(caller, &parent.node, flags))?;
        self.admit_created(created, &parent, 0, flags)
    }

    fn read(&self, handle: HandleId, offset: u64, size: usize, sink: &mut dyn DataSink) -> Result<usize> {
        span!("read", handle = handle, offset = offset, size = size);
        let open = self.file(handle, Use::Read)?;
        check_range(offset, 0)?;
        let size = size.min(sink.room());
        match self.fs().read(&open.file, offset, size, sink) {
            // One that is opened late, with its first READ.
            Err(error) if error.errno() == Errno::EMFILE && self.unopened_node(handle).is_some() => {
                self.close_unopened();
                self.fs().read(&open.file, offset, size, sink)
            }
            answer => answer,
        }
    }

    fn write(&self, handle: HandleId, offset: u64, source: &mut dyn DataSource, flags: WriteFlags) -> Result<usize> {
        span!("write", handle = handle, offset = offset, flags = flags);
        self.check_writable()?;
        let open = self.file(handle, if flags.append { Use::Append } else { Use::Write })?;
        let length = source.remaining();
        check_range(offset, length as u64)?;
        let mut written = self.fs().write(&open.file, offset, source, flags)?;
        self.tell_node(open.node.id(), true);
        // Of pages that it writes back a kernel looks at the errno only
        // (fs/fuse/file.c, fuse_writepage_end): what is left out would be lost.
        while flags.cached && written < length {
            match self.fs().write(&open.file, offset + written as u64, source, flags)? {
                0 => return Err(Errno::EIO.into()),
                more => written += more,
            }
        }
        Ok(written)
    }

    fn flush(&self, handle: HandleId, lock_owner: u64) -> Result<()> {
        span!("flush", handle = handle);
        let open = self.files.get(handle)?;
        if self.features.locks {
            self.fs().release_locks(&open.file, self.own_owner(lock_owner), LockFamily::Posix);
        }
        self.fs().flush(&open.file)
    }

    fn release(&self, handle: HandleId, flock_owner: Option<u64>) {
        span!("release", handle = handle);
        let open = self.files.remove(handle);
        if let (Some(open), Some(owner)) = (open, flock_owner)
            && self.features.locks
        {
            self.fs().release_locks(&open.file, self.own_owner(owner), LockFamily::Flock);
        }
    }

    fn fsync(&self, handle: HandleId, data_only: bool) -> Result<()> {
        span!("fsync", handle = handle, data_only = data_only);
        self.fs().fsync(&self.file(handle, Use::Either)?.file, data_only)
    }

    fn fallocate(&self, handle: HandleId, offset: u64, length: u64, flags: FallocateFlags) -> Result<()> {
        span!("fallocate", handle = handle, offset = offset, length = length, flags = flags);
        self.check_writable()?;
        let open = self.file(handle, Use::Write)?;
        if length == 0 {
            return Err(Errno::EINVAL.into());
        }
        check_range(offset, length)?;
        self.fs().fallocate(&open.file, offset, length, flags)?;
        self.tell_node(open.node.id(), true);
        Ok(())
    }

    fn seek(&self, handle: HandleId, offset: u64, what: SeekFor) -> Result<u64> {
        span!("seek", handle = handle, offset = offset, what = what);
        if offset > i64::MAX as u64 {
            return Err(Errno::ENXIO.into());
        }
        self.fs().seek(&self.file(handle, Use::Either)?.file, offset, what)
    }

    fn copy_range(&self, from: (HandleId, u64), to: (HandleId, u64), length: u64) -> Result<u64> {
        span!("copy_range", from = from, to = to, length = length);
        self.check_writable()?;
        let source = self.file(from.0, Use::Read)?;
        let target = self.file(to.0, Use::Write)?;
        check_range(from.1, length)?;
        check_range(to.1, length)?;
        let copied = self.fs().copy_range((&source.file, from.1), (&target.file, to.1), length)?;
        self.tell_node(target.node.id(), true);
        Ok(copied)
    }

    fn backing(&self, handle: HandleId) -> Option<OwnedFd> {
        let open = self.files.get(handle).ok()?;
        self.fs().backing(&open.file)?.try_clone_to_owned().ok()
    }

    fn get_lock(&self, handle: HandleId, wanted: &Lock) -> Result<Option<Lock>> {
        span!("get_lock", handle = handle, wanted = wanted);
        self.fs().get_lock(&self.files.get(handle)?.file, &self.own_lock(wanted))
    }

    fn set_lock(&self, handle: HandleId, wanted: &Lock, wait: Option<&Interrupt>) -> Result<()> {
        span!("set_lock", handle = handle, wanted = wanted);
        self.fs().set_lock(&self.files.get(handle)?.file, &self.own_lock(wanted), wait)
    }

    fn open_dir(&self, id: NodeId) -> Result<Handle> {
        span!("open_dir", id = id);
        let node = self.directory(id)?;
        self.check_handles()?;
        let dir = self.fs().open_dir(&node.node)?;
        let id = self.dirs.insert(OpenDir { node, dir });
        Ok(Handle { id, cache: FileCache::Drop, keep_listing: self.cache_policy().listings, size: 0 })
    }

    fn read_dir(&self, handle: HandleId, cookie: u64, listing: &mut dyn Listing) -> Result<()> {
        span!("read_dir", handle = handle, cookie = cookie);
        self.list(handle, cookie, |open, entry| {
            let (entry, ok) = self.numbered(&open.node, entry);
            if !ok {
                return true;
            }
            let room = listing.has_room(entry.name.len());
            if room {
                listing.put(&entry, None);
            }
            room
        })
    }

    fn read_dir_plus(&self, handle: HandleId, cookie: u64, listing: &mut dyn Listing) -> Result<()> {
        span!("read_dir_plus", handle = handle, cookie = cookie);
        self.list(handle, cookie, |open, entry| {
            let (entry, ok) = self.numbered(&open.node, entry);
            if !ok {
                return true;
            }
            if !listing.has_room(entry.name.len()) {
                return false;
            }
            // `.` and `..` are no names, so they are never looked up.
            let Ok(name) = Name::new(entry.name) else {
                listing.put(&entry, None);
                return true;
            };
            // Where the listing alone does not say what it is, the kernel is told
            // with the attributes.
            let memory = self.memory_of(entry.ino);
            let is_told = memory == Memory::Fresh && entry.kind.is_some();
            if is_told || !listing.wants(entry.name, memory) || self.check_nodes().is_err() {
                listing.put(&entry, None);
                return true;
            }
            match self.fs().lookup(&open.node.node, name) {
                Ok((node, attr)) => {
                    let known = self.admit(node, attr, Some(&open.node), name.as_bytes().len());
                    // What the attributes say is surer than a record of the
                    // host, which may say nothing or mean another thing.
                    listing.put(&DirEntry { kind: Some(attr.kind), ..entry }, Some(&known));
                }
                // Gone since the host listed it.
                Err(error) if error.errno() == Errno::ENOENT => {}
                Err(_) => listing.put(&entry, None),
            }
            true
        })
    }

    fn fsync_dir(&self, handle: HandleId, data_only: bool) -> Result<()> {
        span!("fsync_dir", handle = handle, data_only = data_only);
        self.fs().fsync_dir(&self.listing(handle)?.dir, data_only)
    }

    fn release_dir(&self, handle: HandleId) {
        span!("release_dir", handle = handle);
        drop(self.dirs.remove(handle));
    }

    fn statistics(&self) -> Statistics {
        Statistics { nodes: self.lookups.len() + 1, handles: self.files.len() + self.dirs.len(), bridge_nodes: self.bridge.table.len() }
    }
}

/// File offsets end at `i64::MAX` (`loff_t`).
fn check_range(offset: u64, length: u64) -> Result<()> {
    match offset.checked_add(length) {
        Some(end) if end <= i64::MAX as u64 => Ok(()),
        _ => Err(Errno::EFBIG.into()),
    }
}

fn check_xattr_name(name: &[u8]) -> Result<()> {
    if name.is_empty() || name.len() > XATTR_NAME_MAX {
        return Err(Errno::ERANGE.into());
    }
    if name.contains(&0) { Err(Errno::EINVAL.into()) } else { Ok(()) }
}

fn check_symlink_target(target: &[u8]) -> Result<()> {
    match target {
        [] => Err(Errno::ENOENT.into()),
        _ if target.len() > SYMLINK_MAX => Err(Errno::ENAMETOOLONG.into()),
        _ if target.contains(&0) => Err(Errno::EINVAL.into()),
        _ => Ok(()),
    }
}
