//! Changing attributes, extended ones too, and who may.

use crate::account::{self, BLOCK, Entry, EntryKind, Outcome, Usage};
use crate::acl::{self, Acl};
use crate::fs::{HumFs, merged};
use crate::host::{self, fault};
use crate::node::{HumFile, HumNode, NodeState};
use crate::record::{Record, Target};
use crate::store::{At, Format, Hold, Object, Place};
use externfs::{Access, Attr, Caller, Errno, ExternFs, FileKind, GuestUid, Mode, Result, SetAttr, XattrFlags};
use std::os::fd::AsFd;
use std::sync::Arc;

/// `S_ISUID`, `S_ISGID`, `S_IXGRP`.
const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;

/// File capabilities.
const CAPABILITY: &[u8] = b"security.capability";

impl HumFs {
    /// See [`externfs::ExternFs::set_attr`]. The record first, in one step,
    /// then size, then times: whatever is cut short, setuid is gone before the
    /// contents change. Every change but that of the times moves the times, so
    /// they come last.
    pub(crate) fn change_attr(&self, node: &Arc<HumNode>, file: Option<&HumFile>, change: &SetAttr) -> Result<Attr> {
        self.with_place(node, |at| {
            let mut state = node.state();
            let attr = self.change_parts(node, &mut state, at.as_ref(), file, change);
            // What fails may have been done in part.
            match (self.feed(), &attr) {
                (Some(feed), Ok(attr)) => feed.changed(node, Some(attr)),
                (Some(feed), Err(_)) => feed.perhaps_changed(node),
                (None, _) => {}
            }
            attr
        })
    }

    fn change_parts(
        &self,
        node: &Arc<HumNode>,
        state: &mut NodeState,
        at: Option<&At<'_>>,
        file: Option<&HumFile>,
        change: &SetAttr,
    ) -> Result<Attr> {
        let record = changed(&state.record, change)?;
        let mut host = match record {
            Some(record) => self.save(node, state, at, record)?,
            None => None,
        };
        if let Some(size) = change.size {
            host = Some(self.change_size(node, state, at, file, size)?);
        }
        if change.atime.is_some() || change.mtime.is_some() {
            let times = SetAttr { atime: change.atime, mtime: change.mtime, ..SetAttr::default() };
            host = Some(self.change_times(node, at, file, &times)?);
        }
        let host = host.map_or_else(|| self.host_attr(node, file), Ok)?;
        Ok(merged(&host, &state.record))
    }

    /// Saves `record` as that of `node`, whose state the caller holds, and
    /// whose name's directory is held. Returns what the host says of it, unless
    /// that has changed.
    pub(crate) fn save(&self, node: &HumNode, state: &mut NodeState, at: Option<&At<'_>>, record: Record) -> Result<Option<Attr>> {
        let named = at.and_then(|at| self.base.status_of(&node.inner, at.dir, at.name).map(|host| (*at, host)));
        let place = match &named {
            _ if self.is_root(&node.inner) => Place::Root,
            Some((at, _)) => Place::Named(*at),
            // By a name that leads to another object it would become that one's.
            None => {
                self.check_named(state.orphan)?;
                Place::Nameless
            }
        };
        let held;
        let (hold, host) = match named {
            Some((at, host)) => (Hold::Name(at), host),
            None => {
                let (fd, is_open, host) = self.base.hold(&node.inner)?;
                held = fd;
                (Hold::by(held.as_fd(), is_open), host)
            }
        };
        // Attributes take room, and may take a block of the host's.
        let announced = if record.xattrs == state.record.xattrs {
            None
        } else {
            self.nodes.check_weight(&record, state.record.weight())?;
            let grown = record.xattrs.bytes().saturating_sub(state.record.xattrs.bytes()) as u64;
            let need = if grown > 0 { grown.next_multiple_of(512) + BLOCK + room_beside(self.store.format(), &record, grown) } else { 0 };
            let path = at.and_then(|at| self.path_of(at));
            let entry = self.changing(node, state, path.as_deref());
            Some(self.announce(&[entry], Usage { bytes: need, inodes: 0 })?)
        };
        let object = Object { hold, place, host: &host, known: Some(&state.record) };
        let note = match self.store.save(&object, &record) {
            Ok(note) => note,
            Err(error) => {
                // What the store has now is not certain: the next one looks.
                state.record.note.row = 0;
                return Err(error);
            }
        };
        self.nodes.weigh(state.record.weight(), record.weight());
        state.record = Record { note, ..record };
        let is_as_it_was = self.store.keeps_times() && host.ctime <= note.changed;
        let host = is_as_it_was.then_some(host);
        if let Some(announced) = announced {
            let now = host.map_or_else(|| self.host_attr(node, None), Ok)?;
            announced.end(&self.recosted(state, &self.counted(&now, node, None)));
        }
        Ok(host)
    }

    /// The entry for a change of what `node` costs.
    pub(crate) fn changing<'p>(&self, node: &HumNode, state: &NodeState, path: Option<&'p [u8]>) -> Entry<'p> {
        // The root is nobody's child, and a nameless object goes with us.
        let path = if self.is_root(&node.inner) || state.orphan { Some(&b""[..]) } else { path };
        Entry { kind: EntryKind::Change, ino: node.key().number, before: state.cost, path }
    }

    /// Takes note of what the object behind `state` costs now, by [`HumFs::counted`].
    pub(crate) fn recosted(&self, state: &mut NodeState, host: &Attr) -> Outcome {
        let (before, after) = (state.cost, account::cost(host, state.record.xattrs.bytes()));
        state.cost = after;
        let bytes = |bytes: u64| Usage { bytes, inodes: 0 };
        let (added, removed) = (bytes(after.saturating_sub(before)), bytes(before.saturating_sub(after)));
        if state.orphan {
            Outcome { added, removed, orphaned: added, homed: removed }
        } else {
            Outcome { added, removed, ..Outcome::default() }
        }
    }

    fn change_times(&self, node: &Arc<HumNode>, at: Option<&At<'_>>, file: Option<&HumFile>, times: &SetAttr) -> Result<Attr> {
        let stays = |at: &At<'_>| self.base.status_of(&node.inner, at.dir, at.name);
        if let (Some(at), None) = (at, file)
            && stays(at).is_some()
        {
            hostfs::named::set_times(at.dir, at.name, times).map_err(fault("utimens"))?;
            if let Some(host) = stays(at) {
                return Ok(host);
            }
        }
        self.base.set_attr(&Caller::root(), &node.inner, file.and_then(|file| file.data.opened()), times)
    }

    fn change_size(
        &self,
        node: &Arc<HumNode>,
        state: &mut NodeState,
        at: Option<&At<'_>>,
        file: Option<&HumFile>,
        size: u64,
    ) -> Result<Attr> {
        match state.record.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Errno::EISDIR.into()),
            _ => return Err(Errno::EINVAL.into()),
        }
        let path = at.and_then(|at| self.path_of(at));
        let entry = self.changing(node, state, path.as_deref());
        // Growing makes a hole, but for what the host has put there already;
        // cutting inside a block may write that block.
        let room = if self.beyond.happens() { self.with_data(node, |data| self.beyond.taken_over(data, size))? } else { 0 };
        let announced = self.announce(&[entry], Usage { bytes: room, inodes: 0 })?;
        let sized = SetAttr { size: Some(size), ..SetAttr::default() };
        let _holes = self.dense.forget(node);
        let host = self.base.set_attr(&Caller::root(), &node.inner, file.and_then(|file| file.data.opened()), &sized)?;
        announced.end(&self.recosted(state, &self.counted(&host, node, file)));
        Ok(host)
    }

    /// Takes setuid, setgid (where the group may execute) and capabilities
    /// away before the contents change. `all` false: capabilities only, which
    /// every write costs, whoever writes.
    pub(crate) fn drop_privileges(&self, node: &Arc<HumNode>, all: bool) -> Result<()> {
        let affected = |record: &Record| (all && stripped(record.mode) != record.mode) || record.xattrs.get(CAPABILITY).is_some();
        if !affected(&node.state().record) {
            return Ok(());
        }
        self.with_place(node, |at| {
            let mut state = node.state();
            let mut record = state.record.clone();
            if all {
                record.mode = stripped(record.mode);
            }
            record.xattrs.remove(CAPABILITY);
            // The write itself may fail, and not be told.
            if record == state.record { Ok(()) } else { self.save_and_tell(node, &mut state, at.as_ref(), record) }
        })
    }

    /// See [`externfs::ExternFs::set_xattr`].
    pub(crate) fn change_xattr(&self, node: &Arc<HumNode>, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()> {
        check_xattr_name(name)?;
        self.with_place(node, |at| {
            let mut state = node.state();
            let there = state.record.xattrs.get(name).is_some();
            if flags.contains(XattrFlags::CREATE) && there {
                return Err(Errno::EEXIST.into());
            }
            if flags.contains(XattrFlags::REPLACE) && !there {
                return Err(Errno::ENODATA.into());
            }
            let mut record = state.record.clone();
            match name {
                acl::ACCESS => set_access_acl(&mut record, value)?,
                acl::DEFAULT => set_default_acl(&mut record, value)?,
                _ => record.xattrs.set(name, value),
            }
            check_fits(&record, &state.record)?;
            // The kernel asks for it whichever ACL is set.
            if flags.contains(XattrFlags::KILL_SGID) && name == acl::ACCESS {
                record.mode = Mode::new(record.mode.bits() & !SETGID);
            }
            self.save_and_tell(node, &mut state, at.as_ref(), record)
        })
    }

    /// See [`externfs::ExternFs::remove_xattr`].
    pub(crate) fn drop_xattr(&self, node: &Arc<HumNode>, name: &[u8]) -> Result<()> {
        self.with_place(node, |at| {
            let mut state = node.state();
            let mut record = state.record.clone();
            if !record.xattrs.remove(name) {
                // That there is no ACL is what removing one wants.
                let is_acl = name == acl::ACCESS || name == acl::DEFAULT;
                return if is_acl { Ok(()) } else { Err(Errno::ENODATA.into()) };
            }
            self.save_and_tell(node, &mut state, at.as_ref(), record)
        })
    }

    fn save_and_tell(&self, node: &Arc<HumNode>, state: &mut NodeState, at: Option<&At<'_>>, record: Record) -> Result<()> {
        self.save(node, state, at, record)?;
        if let Some(feed) = self.feed() {
            feed.changed(node, None);
        }
        Ok(())
    }

    /// See [`externfs::ExternFs::access`]. By the mode bits and the one
    /// supplementary group that we know of; a kernel that checks by itself
    /// knows all groups and the ACL, and does not ask.
    pub(crate) fn check_access(&self, caller: &Caller, node: &HumNode, wanted: Access) -> Result<()> {
        let state = node.state();
        let record = &state.record;
        if self.is_read_only() && wanted.contains(Access::WRITE) && !record.kind.is_device() {
            return Err(Errno::EROFS.into());
        }
        let mode = record.mode.bits();
        let granted = match caller.uid {
            GuestUid(0) if mode & 0o111 != 0 || record.kind == FileKind::Directory => 7,
            GuestUid(0) => 6,
            uid if uid == record.uid => mode >> 6 & 7,
            _ if caller.gid == record.gid || caller.supplementary_group == Some(record.gid) => mode >> 3 & 7,
            _ => mode & 7,
        };
        if wanted.bits() & !granted == 0 { Ok(()) } else { Err(Errno::EACCES.into()) }
    }
}

/// What `record`, of which so many bytes are attributes that are new, may take on
/// the host beside the block that every record may: where it is an attribute itself,
/// and the host takes one that is large, that has blocks of its own.
pub(crate) fn room_beside(format: Format, record: &Record, fresh: u64) -> u64 {
    let is_large = || record.to_block(Target::Block).len() as u64 > BLOCK / 2;
    if format == Format::Xattr && is_large() { fresh.next_multiple_of(BLOCK) + BLOCK } else { 0 }
}

/// `mode` after a write: without setuid, and without setgid where that is not
/// just mandatory locking's sign.
fn stripped(mode: Mode) -> Mode {
    let mut bits = mode.bits() & !SETUID;
    if bits & GROUP_EXECUTE != 0 {
        bits &= !SETGID;
    }
    Mode::new(bits)
}

/// `record` after the part of `change` that is a record's; None if that is nothing.
fn changed(record: &Record, change: &SetAttr) -> Result<Option<Record>> {
    let chown = change.uid.is_some() || change.gid.is_some();
    if !chown && change.mode.is_none() && !change.kill_suid_sgid {
        return Ok(None);
    }
    let mut new = record.clone();
    new.uid = change.uid.unwrap_or(new.uid);
    new.gid = change.gid.unwrap_or(new.gid);
    if new.uid.0 == u32::MAX || new.gid.0 == u32::MAX {
        return Err(Errno::EINVAL.into());
    }
    // chown(2): the new owner has not asked for the old one's rights.
    if (chown || change.kill_suid_sgid) && !matches!(new.kind, FileKind::Directory | FileKind::Symlink) {
        new.mode = stripped(new.mode);
        new.xattrs.remove(CAPABILITY);
    }
    if let Some(mode) = change.mode {
        if new.kind == FileKind::Symlink {
            return Err(Errno::EOPNOTSUPP.into());
        }
        new.mode = mode;
        if let Some(value) = new.xattrs.get(acl::ACCESS) {
            let mut acl = Acl::parse(value).map_err(|_| host::damaged("an ACL cannot be read"))?;
            acl.chmod(mode.bits());
            new.xattrs.set(acl::ACCESS, &acl.to_bytes());
        }
    }
    // A chown to the same owner is a change too: it moves the ctime.
    Ok((chown || change.mode.is_some() || new != *record).then_some(new))
}

/// Most attributes of one object, and most bytes of their names and values: a
/// record's count has 16 bits, and an archive of the tree is to be readable.
const XATTRS_MAX: (usize, usize) = (u16::MAX as usize, 8 << 20);

/// # Errors
/// ENOSPC (setxattr(2)) where there are more attributes than an object can have.
fn check_fits(record: &Record, before: &Record) -> Result<()> {
    let (count, bytes) = (record.xattrs.len(), record.xattrs.bytes());
    let grows = count > before.xattrs.len() || bytes > before.xattrs.bytes();
    if grows && (count > XATTRS_MAX.0 || bytes > XATTRS_MAX.1) { Err(Errno::ENOSPC.into()) } else { Ok(()) }
}

/// xattr(7): the namespaces that there are. Whose each is, the guest's kernel
/// knows.
fn check_xattr_name(name: &[u8]) -> Result<()> {
    const NAMESPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
    if name == acl::ACCESS || name == acl::DEFAULT {
        return Ok(());
    }
    match NAMESPACES.iter().find_map(|namespace| name.strip_prefix(*namespace)) {
        Some([]) => Err(Errno::EINVAL.into()),
        Some(_) => Ok(()),
        None => Err(Errno::EOPNOTSUPP.into()),
    }
}

/// setfacl(1): the mode follows, and an ACL that says no more than the mode
/// is not kept.
fn set_access_acl(record: &mut Record, value: &[u8]) -> Result<()> {
    if record.kind == FileKind::Symlink {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let acl = Acl::parse(value)?;
    record.mode = Mode::new(record.mode.bits() & !0o777 | acl.mode());
    if acl.is_minimal() {
        record.xattrs.remove(acl::ACCESS);
    } else {
        record.xattrs.set(acl::ACCESS, &acl.to_bytes());
    }
    Ok(())
}

fn set_default_acl(record: &mut Record, value: &[u8]) -> Result<()> {
    if record.kind != FileKind::Directory {
        return Err(Errno::EACCES.into());
    }
    let acl = Acl::parse(value)?;
    record.xattrs.set(acl::DEFAULT, &acl.to_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use externfs::GuestGid;

    #[test]
    fn a_default_acl_leaves_the_directory_its_setgid() {
        use crate::make::{Plan, lay};
        use crate::tree::{Access, Tree};
        // user::rwx user:1000:rwx group::r-x mask::rwx other::---
        let mut acl = 2u32.to_le_bytes().to_vec();
        for (tag, bits, id) in [(1u16, 7u16, u32::MAX), (2, 7, 1000), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 0, u32::MAX)] {
            acl.extend([tag.to_le_bytes(), bits.to_le_bytes()].concat());
            acl.extend(id.to_le_bytes());
        }
        let dir = tempfile::tempdir().unwrap();
        lay(dir.path(), &Plan { format: crate::store::Format::Sqlite, total: 1 << 30, inodes: None, adopt: None }).unwrap();
        let fs = HumFs::new(Tree::open(dir.path(), Access::Write).unwrap(), crate::options::Options::default()).unwrap();
        let root = fs.root().unwrap();
        let shared = SetAttr { mode: Some(Mode::new(0o2775)), ..SetAttr::default() };
        fs.set_attr(&Caller::root(), &root, None, &shared).unwrap();
        let set = |name| {
            fs.set_xattr(&Caller::root(), &root, name, &acl, XattrFlags::KILL_SGID).unwrap();
            fs.attr(&root, None).unwrap().mode.bits()
        };
        assert_eq!(set(acl::DEFAULT), 0o2775);
        assert_eq!(set(acl::ACCESS), 0o770);
    }

    #[test]
    fn attributes_have_an_end_and_can_be_made_fewer_past_it() {
        let with = |count: usize, length: usize| {
            let mut record = Record::new(FileKind::Regular, Mode::new(0o644), GuestUid(0), GuestGid(0));
            (0..count).for_each(|number| record.xattrs.set(format!("user.{number:05}").as_bytes(), &vec![0; length]));
            record
        };
        let (few, much) = (with(100, 65536), with(130, 65536));
        assert!(check_fits(&few, &with(99, 65536)).is_ok());
        assert_eq!(check_fits(&much, &with(129, 65536)).map_err(|error| error.errno()), Err(Errno::ENOSPC));
        assert!(check_fits(&with(129, 65536), &much).is_ok(), "a tree of before");
        let many = with(65_536, 0);
        assert_eq!(check_fits(&many, &with(65_535, 0)).map_err(|error| error.errno()), Err(Errno::ENOSPC));
    }
}
