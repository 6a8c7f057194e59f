//! [`ExportDriver`]: runs operations through an [`Export`], as a kernel would:
//! walks by lookup, forgets what it looked up, and keeps what it has open.

use crate::driver::{Driver, Facts, NodeView, Rules, TreeView, Value};
use crate::model::{open_refusal, special_parts};
use crate::op::*;
use externfs::*;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

/// A sink in memory.
pub struct MemorySink {
    /// What has arrived.
    pub data: Vec<u8>,
    limit: usize,
}

impl MemorySink {
    /// With room for `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> MemorySink {
        MemorySink { data: Vec::new(), limit }
    }
}

impl DataSink for MemorySink {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > self.room() {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::INVAL.raw_os_error()));
        }
        self.data.extend_from_slice(bytes);
        Ok(())
    }

    fn fill_from(&mut self, file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<usize> {
        let start = self.data.len();
        self.data.resize(start + len.min(self.room()), 0);
        let mut done = start;
        while done < self.data.len() {
            match rustix::io::pread(file, &mut self.data[done..], offset + (done - start) as u64)? {
                0 => break,
                count => done += count,
            }
        }
        self.data.truncate(done);
        Ok(done - start)
    }

    fn room(&self) -> usize {
        self.limit - self.data.len()
    }
}

/// A source in memory.
pub struct MemorySource<'a>(pub &'a [u8]);

impl DataSource for MemorySource<'_> {
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(self.0.len());
        buffer[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }

    fn drain_to(&mut self, file: BorrowedFd<'_>, place: WritePlace, len: usize, _sync: bool) -> io::Result<usize> {
        let wanted = &self.0[..len.min(self.0.len())];
        let count = match place {
            WritePlace::At(offset) => rustix::io::pwrite(file, wanted, offset)?,
            WritePlace::End => {
                let pieces = [io::IoSlice::new(wanted)];
                rustix::io::pwritev2(file, &pieces, 0, rustix::io::ReadWriteFlags::APPEND)?
            }
        };
        self.0 = &self.0[count..];
        Ok(count)
    }

    fn remaining(&self) -> usize {
        self.0.len()
    }
}

/// Collects a listing; `room` entries fit into one answer, so that resuming is
/// exercised with every directory.
struct Names {
    room: usize,
    got: Vec<(Vec<u8>, u64, Option<NodeId>)>,
}

impl Listing for Names {
    fn has_room(&self, _name_len: usize) -> bool {
        self.got.len() < self.room
    }

    fn put(&mut self, entry: &DirEntry<'_>, known: Option<&Entry>) {
        self.got.push((entry.name.to_vec(), entry.next, known.map(|k| k.id)));
    }
}

/// A kernel of sorts. Dropping it gives back all that it holds.
pub struct ExportDriver {
    export: Arc<dyn Export>,
    caller: Caller,
    slots: BTreeMap<u8, (NodeId, HandleId)>,
    /// The tree may lie below the export's root: where it starts.
    root: NodeId,
}

type Answer = std::result::Result<Value, Errno>;

fn errno(error: Error) -> Errno {
    error.errno()
}

impl ExportDriver {
    /// As guest root, umask 0, on the export's root.
    #[must_use]
    pub fn new(export: Arc<dyn Export>) -> ExportDriver {
        ExportDriver::below(export, NodeId::ROOT)
    }

    /// The same, in the directory `root`, which a kernel must remember for as
    /// long as this is used.
    #[must_use]
    pub fn below(export: Arc<dyn Export>, root: NodeId) -> ExportDriver {
        ExportDriver { export, caller: Caller::root(), slots: BTreeMap::new(), root }
    }

    fn with<T>(&self, path: &TreePath, use_it: impl FnOnce(&ExportDriver, &Entry) -> Result<T>) -> std::result::Result<T, Errno> {
        let mut at = self.export.lookup_self(self.root).map_err(errno)?;
        for component in path.components() {
            // A kernel looks at the type before it asks for anything more.
            let next = match at.attr.kind {
                FileKind::Directory => {
                    Name::new(component).map_err(Error::from).and_then(|name| self.export.lookup(&self.caller, at.id, name))
                }
                _ => Err(Errno::ENOTDIR.into()),
            };
            self.export.forget(at.id, 1);
            at = next.map_err(errno)?;
        }
        let result = use_it(self, &at).map_err(errno);
        self.export.forget(at.id, 1);
        result
    }

    fn at<T>(&self, path: &TreePath, use_it: impl FnOnce(&ExportDriver, NodeId, Name<'_>) -> Result<T>) -> std::result::Result<T, Errno> {
        let (parent, name) = path.split().ok_or(Errno::EBUSY)?;
        self.with(&parent, |this, entry| {
            // A kernel looks at the type before it asks for anything more.
            if entry.attr.kind != FileKind::Directory {
                return Err(Errno::ENOTDIR.into());
            }
            use_it(this, entry.id, Name::new(name)?)
        })
    }

    fn open<T>(
        &self,
        path: &TreePath,
        flags: OpenFlags,
        use_it: impl FnOnce(&ExportDriver, HandleId) -> Result<T>,
    ) -> std::result::Result<T, Errno> {
        self.with(path, |this, entry| {
            if let Some(refusal) = open_refusal(entry.attr.kind) {
                return Err(refusal.into());
            }
            let handle = this.export.open(&this.caller, entry.id, flags)?;
            let result = use_it(this, handle.id);
            this.close(handle.id)?;
            result
        })
    }

    fn close(&self, handle: HandleId) -> Result<()> {
        let flushed = self.export.flush(handle, 1);
        self.export.release(handle, None);
        flushed
    }

    fn slot(&self, slot: u8) -> std::result::Result<(NodeId, HandleId), Errno> {
        self.slots.get(&slot).copied().ok_or(Errno::EBADF)
    }

    fn create(&self, path: &TreePath, mode: u32, exclusive: bool) -> Answer {
        self.at(path, |this, parent, name| {
            let open = OpenFlags { read: true, write: true, ..OpenFlags::default() };
            // A kernel that knows what is there opens that.
            if let Ok(there) = this.export.lookup(&this.caller, parent, name) {
                let opened = match open_refusal(there.attr.kind) {
                    _ if exclusive => Ok(None),
                    Some(refusal) => Err(refusal.into()),
                    None => this.export.open(&this.caller, there.id, open).map(Some),
                };
                this.export.forget(there.id, 1);
                if let Some(handle) = opened? {
                    this.close(handle.id)?;
                    return Ok(Value::Done);
                }
            }
            let flags = CreateFlags { mode: Mode::new(mode), exclusive, open };
            let (entry, handle) = this.export.create(&this.caller, parent, name, flags)?;
            this.export.forget(entry.id, 1);
            this.close(handle.id)?;
            Ok(Value::Done)
        })
    }

    fn make(&self, path: &TreePath, new: &NewNode<'_>, mode: u32) -> Answer {
        self.at(path, |this, parent, name| {
            let entry = this.export.make(&this.caller, parent, name, new, Mode::new(mode))?;
            this.export.forget(entry.id, 1);
            Ok(Value::Done)
        })
    }

    fn link(&self, from: &TreePath, to: &TreePath) -> Answer {
        self.with(from, |this, source| {
            let made = this.at(to, |this, parent, name| match this.check_there(parent, name) {
                Ok(()) => Err(Errno::EEXIST.into()),
                Err(_) => this.export.link(&this.caller, source.id, parent, name),
            })?;
            this.export.forget(made.id, 1);
            Ok(Value::Done)
        })
    }

    fn rename(&self, from: &TreePath, to: &TreePath, how: RenameHow) -> Answer {
        let flags = match how {
            RenameHow::Replace => RenameFlags::empty(),
            RenameHow::NoReplace => RenameFlags::NOREPLACE,
            RenameHow::Exchange => RenameFlags::EXCHANGE,
        };
        self.at(from, |this, old, old_name| {
            this.at(to, |this, new, new_name| {
                this.check_there(old, old_name)?;
                this.export.rename(&this.caller, (old, old_name), (new, new_name), flags)
            })
            .map_err(Error::from)
        })
        .map(|()| Value::Done)
    }

    /// A kernel has looked a name up before it asks for its removal.
    fn check_there(&self, parent: NodeId, name: Name<'_>) -> Result<()> {
        self.export.lookup(&self.caller, parent, name).map(|entry| self.export.forget(entry.id, 1))
    }

    fn remove(&self, path: &TreePath, remove: impl FnOnce(&ExportDriver, NodeId, Name<'_>) -> Result<()>) -> Answer {
        self.at(path, |this, parent, name| {
            this.check_there(parent, name)?;
            remove(this, parent, name).map(|()| Value::Done)
        })
    }

    fn set_attr(&self, path: &TreePath, change: &SetAttr) -> Answer {
        self.with(path, |this, entry| this.export.set_attr(&this.caller, entry.id, None, change)).map(|_| Value::Done)
    }

    fn write(&self, handle: HandleId, offset: u64, data: &[u8], append: bool) -> Result<Value> {
        let mut source = MemorySource(data);
        let flags = WriteFlags { append, ..WriteFlags::default() };
        self.export.write(handle, offset, &mut source, flags).map(|count| Value::Count(count as u64))
    }

    fn read(&self, handle: HandleId, offset: u64, len: usize) -> Result<Value> {
        let mut sink = MemorySink::new(len);
        let count = self.export.read(handle, offset, len, &mut sink)?;
        if count == sink.data.len() { Ok(Value::Bytes(sink.data)) } else { Err(Error::because(Errno::EIO, "read lied about its count")) }
    }

    fn change(&mut self, op: &Op) -> Answer {
        match op {
            Op::Create { path, mode, exclusive } => self.create(path, *mode, *exclusive),
            // vfs_mkdir() in fs/namei.c keeps rwx and sticky.
            Op::Mkdir { path, mode } => self.make(path, &NewNode::Directory, mode & 0o1777),
            Op::Symlink { path, target: index } => self.make(path, &NewNode::Symlink(target(*index)), 0o777),
            Op::Mknod { path, special, mode } => {
                let (kind, (major, minor)) = special_parts(*special);
                let device = DeviceNumber { major, minor };
                let new = match kind {
                    FileKind::Fifo => NewNode::Fifo,
                    FileKind::Socket => NewNode::Socket,
                    FileKind::CharDevice => NewNode::CharDevice(device),
                    _ => NewNode::BlockDevice(device),
                };
                self.make(path, &new, *mode)
            }
            Op::Link { from, to } => self.link(from, to),
            Op::Unlink { path } => self.remove(path, |t, parent, name| t.export.unlink(&t.caller, parent, name)),
            Op::Rmdir { path } => self.remove(path, |t, parent, name| t.export.rmdir(&t.caller, parent, name)),
            Op::Rename { from, to, how } => self.rename(from, to, *how),
            Op::Chmod { path, mode } => self.chmod(path, *mode),
            Op::Chown { path, uid, gid } => {
                let change = SetAttr { uid: uid.map(GuestUid), gid: gid.map(GuestGid), ..SetAttr::default() };
                self.set_attr(path, &change)
            }
            Op::Times { path, atime, mtime } => {
                let change = SetAttr { atime: set_time(*atime), mtime: set_time(*mtime), ..SetAttr::default() };
                // utimensat(2) with nothing to do does not reach the file system.
                let idle = change == SetAttr::default();
                if idle { self.with(path, |_, _| Ok(Value::Done)) } else { self.set_attr(path, &change) }
            }
            Op::SetXattr { path, name, len, byte, how } => {
                let flags = match how {
                    XattrHow::Any => XattrFlags::empty(),
                    XattrHow::Create => XattrFlags::CREATE,
                    XattrHow::Replace => XattrFlags::REPLACE,
                };
                let value = pattern(*byte, *len);
                self.with(path, |t, e| {
                    check_user_xattr(e)?;
                    t.export.set_xattr(&t.caller, e.id, xattr_name(*name).as_bytes(), &value, flags)
                })
                .map(|()| Value::Done)
            }
            Op::RemoveXattr { path, name } => self
                .with(path, |t, e| {
                    check_user_xattr(e)?;
                    t.export.remove_xattr(&t.caller, e.id, xattr_name(*name).as_bytes())
                })
                .map(|()| Value::Done),
            other => self.use_contents(other),
        }
    }

    fn chmod(&self, path: &TreePath, mode: u32) -> Answer {
        let kind = self.with(path, |_, entry| Ok(entry.attr.kind))?;
        if kind == FileKind::Symlink {
            return Err(Errno::EOPNOTSUPP);
        }
        self.set_attr(path, &SetAttr { mode: Some(Mode::new(mode)), ..SetAttr::default() })
    }

    fn use_contents(&mut self, op: &Op) -> Answer {
        let reading = OpenFlags { read: true, ..OpenFlags::default() };
        let writing = OpenFlags { write: true, ..OpenFlags::default() };
        match op {
            Op::Truncate { path, size } => {
                if let Some(refusal) = self.with(path, |_, entry| Ok(open_refusal(entry.attr.kind)))? {
                    return Err(refusal);
                }
                self.set_attr(path, &SetAttr { size: Some(*size), ..SetAttr::default() })
            }
            Op::Write { path, offset, len, byte, append } => {
                let flags = OpenFlags { append: *append, ..writing };
                self.open(path, flags, |t, handle| t.write(handle, *offset, &pattern(*byte, *len), *append))
            }
            Op::Read { path, offset, len } => self.open(path, reading, |t, handle| t.read(handle, *offset, *len)),
            Op::Range { path, change, offset, len } => {
                let flags = match change {
                    RangeChange::Allocate => FallocateFlags::empty(),
                    RangeChange::AllocateKeepSize => FallocateFlags::KEEP_SIZE,
                    RangeChange::PunchHole => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                    RangeChange::Zero => FallocateFlags::ZERO_RANGE,
                };
                let both = OpenFlags { read: true, ..writing };
                self.open(path, both, |t, handle| t.export.fallocate(handle, *offset, *len, flags)).map(|()| Value::Done)
            }
            Op::Copy { from, from_offset, to, to_offset, len } => {
                let (source, target) = (self.regular(from)?, self.regular(to)?);
                // The kernel refuses to copy a range onto itself, and does not ask. It
                // copies no further than the source reaches before.
                let count = source.attr.size.saturating_sub(*from_offset).min(*len);
                if source.id == target.id && to_offset + count > *from_offset && *to_offset < from_offset + count {
                    return Err(Errno::EINVAL);
                }
                self.open(from, reading, |t, source| {
                    t.open(to, writing, |t, target| t.copy((source, *from_offset), (target, *to_offset), (*len, count)))
                        .map_err(Error::from)
                })
            }
            Op::Open { slot, path, truncate } => self.open_slot(*slot, path, *truncate),
            Op::SlotWrite { slot, offset, len, byte } => {
                let (_, handle) = self.slot(*slot)?;
                self.write(handle, *offset, &pattern(*byte, *len), false).map_err(errno)
            }
            Op::SlotRead { slot, offset, len } => self.slot(*slot).and_then(|(_, handle)| self.read(handle, *offset, *len).map_err(errno)),
            Op::SlotTruncate { slot, size } => {
                let (node, handle) = self.slot(*slot)?;
                let change = SetAttr { size: Some(*size), ..SetAttr::default() };
                self.export.set_attr(&self.caller, node, Some(handle), &change).map(|_| Value::Done).map_err(errno)
            }
            Op::SlotStat { slot } => {
                let (node, handle) = self.slot(*slot)?;
                self.export.get_attr(node, Some(handle)).map(|(attr, _)| Value::Facts(facts(&attr))).map_err(errno)
            }
            Op::Close { slot } => self.slots.remove(slot).map(|held| self.drop_slot(held)).ok_or(Errno::EBADF),
            other => self.look(other),
        }
    }

    fn regular(&self, path: &TreePath) -> std::result::Result<Entry, Errno> {
        let entry = self.with(path, |_, entry| Ok(*entry))?;
        open_refusal(entry.attr.kind).map_or(Ok(entry), Err)
    }

    fn open_slot(&mut self, slot: u8, path: &TreePath, truncate: bool) -> Answer {
        let held = self.with(path, |t, entry| {
            if let Some(refusal) = open_refusal(entry.attr.kind) {
                return Err(refusal.into());
            }
            let flags = OpenFlags { read: true, write: true, truncate, ..OpenFlags::default() };
            let handle = t.export.open(&t.caller, entry.id, flags)?;
            // An open file keeps its inode in a kernel's memory.
            let kept = t.export.lookup_self(entry.id)?;
            Ok((kept.id, handle.id))
        })?;
        if let Some(old) = self.slots.insert(slot, held) {
            self.drop_slot(old);
        }
        Ok(Value::Done)
    }

    fn drop_slot(&self, (node, handle): (NodeId, HandleId)) -> Value {
        self.export.release(handle, None);
        self.export.forget(node, 1);
        Value::Done
    }

    /// Asks for `len` bytes, of which there are `count`.
    fn copy(&self, from: (HandleId, u64), to: (HandleId, u64), (len, count): (u64, u64)) -> Result<Value> {
        let mut done = 0;
        while done < len {
            match self.export.copy_range((from.0, from.1 + done), (to.0, to.1 + done), len - done)? {
                0 => break,
                more => done += more,
            }
            if done >= count {
                break;
            }
        }
        Ok(Value::Count(done))
    }

    fn look(&self, op: &Op) -> Answer {
        match op {
            Op::GetXattr { path, name } => self.with(path, |t, e| t.export.get_xattr(e.id, xattr_name(*name).as_bytes())).map(Value::Bytes),
            Op::List { path } => self.with(path, |t, entry| t.list(entry)).map(Value::Names),
            Op::ReadLink { path } => self.with(path, |t, entry| t.export.read_link(entry.id)).map(Value::Bytes),
            Op::Stat { path } => self.with(path, |_, entry| Ok(Value::Facts(facts(&entry.attr)))),
            other => unreachable!("{other:?} is handled above"),
        }
    }

    /// Lists twice, with and without attributes, in answers of three entries.
    fn list(&self, entry: &Entry) -> Result<BTreeSet<Vec<u8>>> {
        if entry.attr.kind != FileKind::Directory {
            return Err(Errno::ENOTDIR.into());
        }
        let handle = self.export.open_dir(entry.id)?;
        let plain = self.list_all(handle.id, false);
        let plus = self.list_all(handle.id, true);
        self.export.release_dir(handle.id);
        let (plain, plus) = (plain?, plus?);
        if plain != plus {
            return Err(Error::because(Errno::EIO, format!("readdir {plain:?} and readdirplus {plus:?} differ")));
        }
        let unique: BTreeSet<_> = plain.iter().filter(|name| *name != b"." && *name != b"..").cloned().collect();
        if unique.len() + 2 != plain.len() {
            return Err(Error::because(Errno::EIO, format!("names listed twice, or dots missing: {plain:?}")));
        }
        Ok(unique)
    }

    fn list_all(&self, handle: HandleId, plus: bool) -> Result<Vec<Vec<u8>>> {
        let (mut all, mut cookie) = (Vec::new(), 0);
        loop {
            let mut names = Names { room: 3, got: Vec::new() };
            if plus {
                self.export.read_dir_plus(handle, cookie, &mut names)?;
            } else {
                self.export.read_dir(handle, cookie, &mut names)?;
            }
            for id in names.got.iter().filter_map(|(_, _, id)| *id) {
                self.export.forget(id, 1);
            }
            let Some((_, next, _)) = names.got.last() else { return Ok(all) };
            cookie = *next;
            all.extend(names.got.into_iter().map(|(name, _, _)| name));
        }
    }

    fn view_below(&self, entry: &Entry, path: PathBuf, seen: &mut TreeView) -> Result<()> {
        let attr = &entry.attr;
        let mut view = NodeView {
            facts: facts(attr),
            identity: attr.ino,
            content: Vec::new(),
            xattrs: BTreeMap::new(),
            times: [attr.atime, attr.mtime, attr.ctime],
        };
        if matches!(attr.kind, FileKind::Regular | FileKind::Directory) {
            for name in self.export.list_xattr(entry.id)?.split(|&b| b == 0).filter(|n| n.starts_with(b"user.")) {
                view.xattrs.insert(String::from_utf8_lossy(name).into_owned(), self.export.get_xattr(entry.id, name)?);
            }
        }
        if attr.kind == FileKind::Directory {
            for name in self.list(entry)? {
                let child = self.export.lookup(&self.caller, entry.id, Name::new(&name)?)?;
                let result = self.view_below(&child, path.join(std::ffi::OsStr::from_bytes(&name)), seen);
                self.export.forget(child.id, 1);
                result?;
            }
        }
        seen.insert(path, view);
        Ok(())
    }

    /// Contents come last: reading one name moves the access time of others.
    fn fill(&self, entry: &Entry, path: PathBuf, seen: &mut TreeView) -> Result<()> {
        let content = match entry.attr.kind {
            FileKind::Regular => self.contents(entry)?,
            FileKind::Symlink => self.export.read_link(entry.id)?,
            FileKind::Directory => {
                for name in self.list(entry)? {
                    let child = self.export.lookup(&self.caller, entry.id, Name::new(&name)?)?;
                    let result = self.fill(&child, path.join(std::ffi::OsStr::from_bytes(&name)), seen);
                    self.export.forget(child.id, 1);
                    result?;
                }
                return Ok(());
            }
            _ => return Ok(()),
        };
        if let Some(view) = seen.get_mut(&path) {
            view.content = content;
        }
        Ok(())
    }

    fn contents(&self, entry: &Entry) -> Result<Vec<u8>> {
        let handle = self.export.open(&self.caller, entry.id, OpenFlags { read: true, ..OpenFlags::default() })?;
        let got = self.read(handle.id, 0, entry.attr.size as usize + 1);
        self.export.release(handle.id, None);
        match got? {
            Value::Bytes(bytes) => Ok(bytes),
            other => Err(Error::because(Errno::EIO, format!("{other:?} is no data"))),
        }
    }
}

/// xattr_permission() in fs/xattr.c: `user.*` is for files and directories.
fn check_user_xattr(entry: &Entry) -> Result<()> {
    let able = matches!(entry.attr.kind, FileKind::Regular | FileKind::Directory);
    if able { Ok(()) } else { Err(Errno::EPERM.into()) }
}

/// The facts of an attribute record.
#[must_use]
pub fn facts(attr: &Attr) -> Facts {
    Facts {
        kind: attr.kind,
        mode: attr.mode.bits(),
        uid: attr.uid.0,
        gid: attr.gid.0,
        nlink: attr.nlink,
        size: if attr.kind == FileKind::Directory { 0 } else { attr.size },
        device: (attr.device.major, attr.device.minor),
    }
}

fn set_time(change: TimeChange) -> Option<SetTime> {
    match change {
        TimeChange::Omit => None,
        TimeChange::Now => Some(SetTime::Now),
        TimeChange::At { seconds, nanoseconds } => Some(SetTime::At(Timestamp { seconds, nanoseconds })),
    }
}

impl Driver for ExportDriver {
    fn rules(&self) -> Rules {
        Rules { range_drops_setid: true }
    }

    fn apply(&mut self, op: &Op) -> Answer {
        self.change(op)
    }

    fn view(&mut self) -> std::result::Result<TreeView, String> {
        let mut seen = TreeView::new();
        let root = self.export.lookup_self(self.root).map_err(|e| format!("looking at the root: {e}"))?;
        let result = self.view_below(&root, PathBuf::new(), &mut seen).and_then(|()| self.fill(&root, PathBuf::new(), &mut seen));
        self.export.forget(root.id, 1);
        result.map(|()| seen).map_err(|e| format!("looking at the tree: {e}"))
    }
}

impl Drop for ExportDriver {
    fn drop(&mut self) {
        for held in std::mem::take(&mut self.slots).into_values() {
            self.drop_slot(held);
        }
    }
}

/// The leak check: what an idle export must hold.
///
/// # Errors
/// What it holds instead.
pub fn check_idle(export: &dyn Export) -> std::result::Result<(), String> {
    let held = export.statistics();
    if held.nodes == 1 && held.handles == 0 { Ok(()) } else { Err(format!("the idle export still holds {held:?}")) }
}
