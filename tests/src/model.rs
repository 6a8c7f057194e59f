//! The reference model: what a POSIX file tree does, in memory, as simply as
//! it can be said. Behaviour is what this file says; where Linux differs from
//! POSIX it says what Linux does, with the reason.
//!
//! Everything runs as root with umask 0: permission checks are the kernel's
//! and have a suite of their own.

mod cut;

use crate::driver::{Excerpt, Facts, NodeView, Rules, TreeView, Value};
use crate::op::*;
use crate::stamp::{Clock, Stamp};
use externfs::{Errno, FileKind};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

type Id = usize;
type Answer = Result<Value, Errno>;

/// The longest component that the hosts of the test take.
const NAME_MAX: usize = 255;

#[derive(Clone, Debug)]
struct Node {
    kind: FileKind,
    mode: u32,
    uid: u32,
    gid: u32,
    names: u32,
    device: (u32, u32),
    content: Vec<u8>,
    children: BTreeMap<Vec<u8>, Id>,
    xattrs: BTreeMap<String, Vec<u8>>,
    /// Access, contents, attributes.
    times: [Stamp; 3],
}

impl Node {
    /// Setgid without group execution once meant mandatory locking, and stays.
    fn drop_setid(&mut self) {
        self.mode &= if self.mode & 0o2010 == 0o2010 { !0o6000 } else { !0o4000 };
    }
}

const ATIME: usize = 0;
const MTIME: usize = 1;
const CTIME: usize = 2;

/// The tree and the open files.
#[derive(Clone)]
pub struct Model {
    nodes: Vec<Node>,
    slots: BTreeMap<u8, Id>,
    clock: Clock,
    rules: Rules,
}

impl Model {
    /// An empty directory with the root's attributes taken from life, by a
    /// look that happened after `clock` began.
    #[must_use]
    pub fn new(root: &NodeView, clock: Clock, rules: Rules) -> Model {
        let mut times = root.times.map(Stamp::exact);
        // Looking at it to fill `root` may have moved it.
        times[ATIME].maybe(clock.tick());
        let node = Node {
            kind: FileKind::Directory,
            mode: root.facts.mode,
            uid: root.facts.uid,
            gid: root.facts.gid,
            names: 1,
            device: (0, 0),
            content: Vec::new(),
            children: BTreeMap::new(),
            xattrs: BTreeMap::new(),
            times,
        };
        Model { nodes: vec![node], slots: BTreeMap::new(), clock, rules }
    }

    /// The real operation is about to start.
    pub fn clock_before(&mut self) {
        self.clock.start();
    }

    /// The real operation has ended.
    pub fn clock_after(&mut self) {
        self.clock.end();
    }

    fn walk(&self, path: &TreePath) -> Result<Id, Errno> {
        path.components().try_fold(0, |at, name| self.child(at, name))
    }

    fn child(&self, parent: Id, name: &[u8]) -> Result<Id, Errno> {
        let node = &self.nodes[parent];
        if node.kind != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        node.children.get(name).copied().ok_or(Errno::ENOENT)
    }

    fn place(&self, path: &TreePath) -> Result<(Id, &'static [u8]), Errno> {
        let (parent, name) = path.split().ok_or(Errno::EBUSY)?;
        let id = self.walk(&parent)?;
        if self.nodes[id].kind == FileKind::Directory { Ok((id, name)) } else { Err(Errno::ENOTDIR) }
    }

    /// The place of something new.
    fn vacancy(&self, path: &TreePath) -> Result<(Id, &'static [u8]), Errno> {
        let (parent, name) = self.place(path)?;
        match self.child(parent, name) {
            Ok(_) => Err(Errno::EEXIST),
            Err(errno) if errno == Errno::ENOENT => Ok((parent, name)),
            Err(errno) => Err(errno),
        }
    }

    fn touch(&mut self, id: Id, fields: &[usize]) {
        let tick = self.clock.tick();
        for &field in fields {
            self.nodes[id].times[field] = Stamp::at(tick);
        }
    }

    fn may_touch(&mut self, id: Id, fields: &[usize]) {
        let tick = self.clock.tick();
        for &field in fields {
            self.nodes[id].times[field].maybe(tick);
        }
    }

    fn regular(&self, path: &TreePath) -> Result<Id, Errno> {
        let id = self.walk(path)?;
        open_refusal(self.nodes[id].kind).map_or(Ok(id), Err)
    }

    /// Runs one operation.
    pub fn apply(&mut self, op: &Op) -> Answer {
        match op {
            Op::Create { path, mode, exclusive } => self.create(path, *mode, *exclusive),
            Op::Mkdir { path, mode } => self.add(path, FileKind::Directory, *mode, (0, 0), Vec::new()),
            Op::Symlink { path, target: index } => self.add(path, FileKind::Symlink, 0o777, (0, 0), target(*index).to_vec()),
            Op::Mknod { path, special, mode } => {
                let (kind, device) = special_parts(*special);
                self.add(path, kind, *mode, device, Vec::new())
            }
            Op::Link { from, to } => self.link(from, to),
            Op::Unlink { path } => self.unlink(path),
            Op::Rmdir { path } => self.rmdir(path),
            Op::Rename { from, to, how } => self.rename(from, to, *how),
            Op::Truncate { path, size } => self.regular(path).map(|id| self.truncate(id, *size)),
            Op::Chmod { path, mode } => self.chmod(path, *mode),
            Op::Chown { path, uid, gid } => self.chown(path, *uid, *gid),
            Op::Times { path, atime, mtime } => self.set_times(path, *atime, *mtime),
            Op::Write { path, offset, len, byte, append } => {
                let id = self.regular(path)?;
                let offset = if *append { self.nodes[id].content.len() as u64 } else { *offset };
                Ok(self.write(id, offset, &pattern(*byte, *len)))
            }
            Op::Read { path, offset, len } => self.regular(path).map(|id| self.read(id, *offset, *len)),
            Op::Range { path, change, offset, len } => self.regular(path).map(|id| self.range(id, *change, *offset, *len)),
            Op::Copy { from, from_offset, to, to_offset, len } => self.copy((from, *from_offset), (to, *to_offset), *len),
            Op::SetXattr { path, name, len, byte, how } => self.set_xattr(path, xattr_name(*name), pattern(*byte, *len), *how),
            Op::GetXattr { path, name } => {
                let id = self.walk(path)?;
                self.nodes[id].xattrs.get(xattr_name(*name)).map(|v| Value::Bytes(v.clone())).ok_or(Errno::ENODATA)
            }
            Op::RemoveXattr { path, name } => self.remove_xattr(path, xattr_name(*name)),
            Op::List { path } => self.list(path),
            Op::ReadLink { path } => self.read_link(path),
            Op::Stat { path } => self.walk(path).map(|id| Value::Facts(self.facts(id))),
            Op::Open { slot, path, truncate } => self.open(*slot, path, *truncate),
            Op::SlotWrite { slot, offset, len, byte } => self.slot(*slot).map(|id| self.write(id, *offset, &pattern(*byte, *len))),
            Op::SlotRead { slot, offset, len } => self.slot(*slot).map(|id| self.read(id, *offset, *len)),
            Op::SlotTruncate { slot, size } => self.slot(*slot).map(|id| self.truncate(id, *size)),
            Op::SlotStat { slot } => self.slot(*slot).map(|id| Value::Facts(self.facts(id))),
            Op::Close { slot } => self.slots.remove(slot).map(|_| Value::Done).ok_or(Errno::EBADF),
        }
    }

    fn slot(&self, slot: u8) -> Result<Id, Errno> {
        self.slots.get(&slot).copied().ok_or(Errno::EBADF)
    }

    // ----- names

    fn create(&mut self, path: &TreePath, mode: u32, exclusive: bool) -> Answer {
        let (parent, name) = self.place(path)?;
        match self.child(parent, name) {
            Ok(_) if exclusive => Err(Errno::EEXIST),
            Ok(id) => open_refusal(self.nodes[id].kind).map_or(Ok(Value::Done), Err),
            Err(_) => self.add(path, FileKind::Regular, mode, (0, 0), Vec::new()),
        }
    }

    fn add(&mut self, path: &TreePath, kind: FileKind, mode: u32, device: (u32, u32), content: Vec<u8>) -> Answer {
        let (parent, name) = self.vacancy(path)?;
        let setgid = self.nodes[parent].mode & 0o2000 != 0;
        let gid = if setgid { self.nodes[parent].gid } else { 0 };
        // A directory passes its own setgid bit on; inode_init_owner() in fs/inode.c.
        let mode = if setgid && kind == FileKind::Directory { mode | 0o2000 } else { mode };
        // mkdir(2) takes no setuid and setgid bits: vfs_mkdir() keeps rwx and sticky.
        let mode = if kind == FileKind::Directory { mode & (0o1777 | if setgid { 0o2000 } else { 0 }) } else { mode };
        let now = Stamp::at(self.clock.tick());
        let node = Node {
            kind,
            mode,
            uid: 0,
            gid,
            names: 1,
            device,
            content,
            children: BTreeMap::new(),
            xattrs: BTreeMap::new(),
            times: [now; 3],
        };
        self.nodes.push(node);
        let id = self.nodes.len() - 1;
        self.nodes[parent].children.insert(name.to_vec(), id);
        self.touch(parent, &[MTIME, CTIME]);
        Ok(Value::Done)
    }

    fn link(&mut self, from: &TreePath, to: &TreePath) -> Answer {
        let id = self.walk(from)?;
        let (parent, name) = self.vacancy(to)?;
        if self.nodes[id].kind == FileKind::Directory {
            return Err(Errno::EPERM);
        }
        self.nodes[id].names += 1;
        self.nodes[parent].children.insert(name.to_vec(), id);
        self.touch(id, &[CTIME]);
        self.touch(parent, &[MTIME, CTIME]);
        Ok(Value::Done)
    }

    fn unlink(&mut self, path: &TreePath) -> Answer {
        let (parent, name) = self.place(path)?;
        let id = self.child(parent, name)?;
        if self.nodes[id].kind == FileKind::Directory {
            return Err(Errno::EISDIR);
        }
        self.drop_name(parent, name, id);
        Ok(Value::Done)
    }

    fn rmdir(&mut self, path: &TreePath) -> Answer {
        let (parent, name) = self.place(path)?;
        let id = self.child(parent, name)?;
        if self.nodes[id].kind != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        if !self.nodes[id].children.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.drop_name(parent, name, id);
        Ok(Value::Done)
    }

    fn drop_name(&mut self, parent: Id, name: &[u8], id: Id) {
        self.nodes[parent].children.remove(name);
        self.nodes[id].names -= 1;
        self.touch(id, &[CTIME]);
        self.touch(parent, &[MTIME, CTIME]);
    }

    fn holds(&self, ancestor: Id, wanted: Id) -> bool {
        ancestor == wanted || self.nodes[ancestor].children.values().any(|&child| self.holds(child, wanted))
    }

    /// The order of the checks is that of `do_renameat2` in fs/namei.c.
    fn rename(&mut self, from: &TreePath, to: &TreePath, how: RenameHow) -> Answer {
        let (old_parent, old_name) = self.place(from)?;
        let (new_parent, new_name) = self.place(to)?;
        let source = self.child(old_parent, old_name)?;
        let target = match self.child(new_parent, new_name) {
            Ok(id) => Some(id),
            Err(errno) if errno == Errno::ENOENT => None,
            Err(errno) => return Err(errno),
        };
        match (how, target) {
            (RenameHow::NoReplace, Some(_)) => return Err(Errno::EEXIST),
            (RenameHow::Exchange, None) => return Err(Errno::ENOENT),
            _ => {}
        }
        if old_parent != new_parent && self.holds(source, new_parent) {
            return Err(Errno::EINVAL);
        }
        if target.is_some_and(|t| old_parent != new_parent && self.holds(t, old_parent)) {
            return Err(if how == RenameHow::Exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
        if target == Some(source) {
            return Ok(Value::Done);
        }
        if how == RenameHow::Exchange {
            let target = target.ok_or(Errno::ENOENT)?;
            self.nodes[old_parent].children.insert(old_name.to_vec(), target);
            self.touch(target, &[CTIME]);
        } else {
            if let Some(target) = target {
                self.check_replaceable(source, target)?;
                self.drop_name(new_parent, new_name, target);
            }
            self.nodes[old_parent].children.remove(old_name);
        }
        self.nodes[new_parent].children.insert(new_name.to_vec(), source);
        self.touch(source, &[CTIME]);
        self.touch(old_parent, &[MTIME, CTIME]);
        self.touch(new_parent, &[MTIME, CTIME]);
        Ok(Value::Done)
    }

    fn check_replaceable(&self, source: Id, target: Id) -> Result<(), Errno> {
        let directories = [source, target].map(|id| self.nodes[id].kind == FileKind::Directory);
        match directories {
            [true, false] => Err(Errno::ENOTDIR),
            [false, true] => Err(Errno::EISDIR),
            [true, true] if !self.nodes[target].children.is_empty() => Err(Errno::ENOTEMPTY),
            _ => Ok(()),
        }
    }

    // ----- attributes

    fn chmod(&mut self, path: &TreePath, mode: u32) -> Answer {
        let id = self.walk(path)?;
        if self.nodes[id].kind == FileKind::Symlink {
            return Err(Errno::EOPNOTSUPP);
        }
        self.nodes[id].mode = mode;
        self.touch(id, &[CTIME]);
        Ok(Value::Done)
    }

    fn chown(&mut self, path: &TreePath, uid: Option<u32>, gid: Option<u32>) -> Answer {
        let id = self.walk(path)?;
        let node = &mut self.nodes[id];
        node.uid = uid.unwrap_or(node.uid);
        node.gid = gid.unwrap_or(node.gid);
        // Linux drops them even for root: chown(2).
        if node.kind != FileKind::Directory && node.kind != FileKind::Symlink {
            node.drop_setid();
        }
        self.touch(id, &[CTIME]);
        Ok(Value::Done)
    }

    fn set_times(&mut self, path: &TreePath, atime: TimeChange, mtime: TimeChange) -> Answer {
        let id = self.walk(path)?;
        let tick = self.clock.tick();
        for (field, change) in [(ATIME, atime), (MTIME, mtime)] {
            match change {
                TimeChange::Omit => {}
                TimeChange::Now => self.nodes[id].times[field] = Stamp::at(tick),
                TimeChange::At { seconds, nanoseconds } => {
                    self.nodes[id].times[field] = Stamp::exact(externfs::Timestamp { seconds, nanoseconds });
                }
            }
        }
        // With two UTIME_OMIT nothing is changed at all: utimensat(2).
        if atime != TimeChange::Omit || mtime != TimeChange::Omit {
            self.touch(id, &[CTIME]);
        }
        Ok(Value::Done)
    }

    fn check_xattr(&self, id: Id) -> Result<(), Errno> {
        // user.* lives on files and directories alone: xattr(7).
        let able = matches!(self.nodes[id].kind, FileKind::Regular | FileKind::Directory);
        if able { Ok(()) } else { Err(Errno::EPERM) }
    }

    fn set_xattr(&mut self, path: &TreePath, name: &str, value: Vec<u8>, how: XattrHow) -> Answer {
        let id = self.walk(path)?;
        self.check_xattr(id)?;
        match (how, self.nodes[id].xattrs.contains_key(name)) {
            (XattrHow::Create, true) => return Err(Errno::EEXIST),
            (XattrHow::Replace, false) => return Err(Errno::ENODATA),
            _ => {}
        }
        self.nodes[id].xattrs.insert(name.to_owned(), value);
        self.may_touch(id, &[CTIME]);
        Ok(Value::Done)
    }

    fn remove_xattr(&mut self, path: &TreePath, name: &str) -> Answer {
        let id = self.walk(path)?;
        self.check_xattr(id)?;
        self.nodes[id].xattrs.remove(name).ok_or(Errno::ENODATA)?;
        self.may_touch(id, &[CTIME]);
        Ok(Value::Done)
    }

    // ----- contents

    fn truncate(&mut self, id: Id, size: u64) -> Value {
        let changed = self.nodes[id].content.len() as u64 != size;
        self.nodes[id].content.resize(size as usize, 0);
        if changed {
            self.touch(id, &[MTIME, CTIME])
        } else {
            self.may_touch(id, &[MTIME, CTIME])
        }
        Value::Done
    }

    fn write(&mut self, id: Id, offset: u64, data: &[u8]) -> Value {
        let (start, end) = (offset as usize, offset as usize + data.len());
        let content = &mut self.nodes[id].content;
        if content.len() < end {
            content.resize(end, 0);
        }
        content[start..end].copy_from_slice(data);
        self.touch(id, &[MTIME, CTIME]);
        Value::Count(data.len() as u64)
    }

    fn read(&mut self, id: Id, offset: u64, len: usize) -> Value {
        self.may_touch(id, &[ATIME]);
        Value::Bytes(self.slice(id, offset, len as u64).to_vec())
    }

    fn slice(&self, id: Id, offset: u64, len: u64) -> &[u8] {
        let content = &self.nodes[id].content;
        let start = (offset as usize).min(content.len());
        &content[start..(start + len as usize).min(content.len())]
    }

    fn range(&mut self, id: Id, change: RangeChange, offset: u64, len: u64) -> Value {
        let end = (offset + len) as usize;
        let content = &mut self.nodes[id].content;
        let grows = matches!(change, RangeChange::Allocate | RangeChange::Zero);
        if grows && content.len() < end {
            content.resize(end, 0);
        }
        if matches!(change, RangeChange::PunchHole | RangeChange::Zero) {
            let end = end.min(content.len());
            content[(offset as usize).min(end)..end].fill(0);
        }
        self.range_begins(id);
        self.may_touch(id, &[MTIME, CTIME]);
        Value::Done
    }

    fn range_begins(&mut self, id: Id) {
        let before = self.nodes[id].mode;
        if self.rules.range_drops_setid {
            self.nodes[id].drop_setid();
        }
        if self.nodes[id].mode != before {
            self.may_touch(id, &[CTIME]);
        }
    }

    fn copy(&mut self, from: (&TreePath, u64), to: (&TreePath, u64), len: u64) -> Answer {
        let source = self.regular(from.0)?;
        let target = self.regular(to.0)?;
        let data = self.slice(source, from.1, len).to_vec();
        let count = data.len() as u64;
        if source == target && to.1 + count > from.1 && to.1 < from.1 + count {
            return Err(Errno::EINVAL);
        }
        self.may_touch(source, &[ATIME]);
        self.range_begins(target);
        if count > 0 {
            self.write(target, to.1, &data);
        }
        Ok(Value::Count(count))
    }

    fn open(&mut self, slot: u8, path: &TreePath, truncate: bool) -> Answer {
        let id = self.regular(path)?;
        if truncate {
            self.truncate(id, 0);
        }
        self.slots.insert(slot, id);
        Ok(Value::Done)
    }

    // ----- looking

    fn list(&mut self, path: &TreePath) -> Answer {
        let id = self.walk(path)?;
        if self.nodes[id].kind != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        self.may_touch(id, &[ATIME]);
        Ok(Value::Names(self.nodes[id].children.keys().cloned().collect::<BTreeSet<_>>()))
    }

    fn read_link(&mut self, path: &TreePath) -> Answer {
        let id = self.walk(path)?;
        if self.nodes[id].kind != FileKind::Symlink {
            return Err(Errno::EINVAL);
        }
        self.may_touch(id, &[ATIME]);
        Ok(Value::Bytes(self.nodes[id].content.clone()))
    }

    fn facts(&self, id: Id) -> Facts {
        let node = &self.nodes[id];
        let directories = node.children.values().filter(|&&c| self.nodes[c].kind == FileKind::Directory).count();
        let is_directory = node.kind == FileKind::Directory;
        Facts {
            kind: node.kind,
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            nlink: if is_directory { 2 + directories as u32 } else { node.names },
            size: if is_directory { 0 } else { node.content.len() as u64 },
            device: node.device,
        }
    }

    // ----- comparing

    /// Compares a whole tree.
    ///
    /// # Errors
    /// The first difference, in words.
    pub fn check(&mut self, view: &TreeView) -> Result<(), String> {
        let expected = self.check_timeless(view)?;
        for (path, &id) in &expected {
            self.check_times(id, &view[path]).map_err(|why| format!("{path:?}: {why}"))?;
        }
        // Looking reads contents and lists directories.
        for &id in expected.values() {
            self.may_touch(id, &[ATIME]);
        }
        Ok(())
    }

    /// Compares all of a tree but the times, and returns what is where.
    ///
    /// # Errors
    /// The first difference, in words.
    pub fn check_timeless(&self, view: &TreeView) -> Result<BTreeMap<PathBuf, usize>, String> {
        let mut expected = BTreeMap::new();
        self.collect(0, PathBuf::new(), &mut expected);
        if let Some(path) = view.keys().find(|path| !expected.contains_key(*path)) {
            return Err(format!("{path:?} is there and should not be"));
        }
        let mut identities: BTreeMap<Id, u64> = BTreeMap::new();
        let mut owners: BTreeMap<u64, Id> = BTreeMap::new();
        for (path, &id) in &expected {
            let seen = view.get(path).ok_or_else(|| format!("{path:?} is missing"))?;
            self.check_node(id, seen).map_err(|why| format!("{path:?}: {why}"))?;
            if *identities.entry(id).or_insert(seen.identity) != seen.identity {
                return Err(format!("{path:?}: two names of one file have different inode numbers"));
            }
            if *owners.entry(seen.identity).or_insert(id) != id {
                return Err(format!("{path:?}: inode number {} is another object's too", seen.identity));
            }
        }
        Ok(expected)
    }

    fn collect(&self, id: Id, path: PathBuf, into: &mut BTreeMap<PathBuf, Id>) {
        for (name, &child) in &self.nodes[id].children {
            let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(name.as_slice());
            self.collect(child, path.join(name), into);
        }
        into.insert(path, id);
    }

    fn check_node(&self, id: Id, seen: &NodeView) -> Result<(), String> {
        let node = &self.nodes[id];
        let want = self.facts(id);
        if seen.facts != want {
            return Err(format!("is {:?}\n  model  {want:?}", seen.facts));
        }
        if node.kind != FileKind::Directory && seen.content != node.content {
            return Err(content_difference(&seen.content, &node.content));
        }
        if seen.xattrs != node.xattrs {
            return Err(format!("attributes are {:?}, should be {:?}", seen.xattrs, node.xattrs));
        }
        Ok(())
    }

    fn check_times(&self, id: Id, seen: &NodeView) -> Result<(), String> {
        for (field, name) in [(ATIME, "atime"), (MTIME, "mtime"), (CTIME, "ctime")] {
            self.clock.check(&self.nodes[id].times[field], seen.times[field]).map_err(|why| format!("{name} {why}"))?;
        }
        Ok(())
    }
}

fn content_difference(seen: &[u8], want: &[u8]) -> String {
    let at = seen.iter().zip(want).position(|(a, b)| a != b).unwrap_or(seen.len().min(want.len()));
    format!(
        "contents differ at byte {at}: {} bytes, there {:?}; should be {} bytes, there {:?}",
        seen.len(),
        Excerpt(&seen[at..]),
        want.len(),
        Excerpt(&want[at..])
    )
}

/// What opening something else than a regular file answers here. No driver
/// tries: what a FIFO or a device does on open is not the file system's affair.
#[must_use]
pub fn open_refusal(kind: FileKind) -> Option<Errno> {
    match kind {
        FileKind::Regular => None,
        FileKind::Directory => Some(Errno::EISDIR),
        _ => Some(Errno::EINVAL),
    }
}

/// Kind and device number of a special file.
#[must_use]
pub fn special_parts(special: Special) -> (FileKind, (u32, u32)) {
    match special {
        Special::Fifo => (FileKind::Fifo, (0, 0)),
        Special::Socket => (FileKind::Socket, (0, 0)),
        Special::Char { major, minor } => (FileKind::CharDevice, (major, minor)),
        Special::Block { major, minor } => (FileKind::BlockDevice, (major, minor)),
    }
}
