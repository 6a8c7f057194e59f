//! Looking at an object that the catalog is to be told of.

use super::book::Parts;
use crate::fs::{adopted, merged};
use crate::host;
use crate::node::HumNode;
use crate::record::Record;
use crate::store::{At, Loaded};
use externfs::{Attr, ExternFs, FileKind};
use externfs_catalog::{Extra, Object};
use hostfs::Inode;
use std::ffi::{CStr, CString};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// From now on changes of `node`, which was told of in `generation`, are to be
/// told again, unless they have been. Whether its contents may have changed.
pub(super) fn take_up(node: &HumNode, generation: u64) -> bool {
    let is_last_word = node.awaited.compare_exchange(generation, 0, Ordering::AcqRel, Ordering::Acquire).is_ok();
    !is_last_word || node.is_written.swap(false, Ordering::AcqRel)
}

/// What is to be said of a node, which is `told` if that is certain; None for
/// one that is gone, of which something else tells.
pub(super) fn known(parts: &Parts, node: &Arc<HumNode>, told: Option<&Attr>) -> Option<Object> {
    let told = told.copied();
    let host = match told {
        Some(_) => None,
        None => Some(parts.base.attr(&node.inner, None).ok()?),
    };
    let (record, orphan) = {
        let state = node.state();
        (state.record.clone(), state.orphan)
    };
    if orphan {
        return None;
    }
    let attr = told.or_else(|| host.map(|host| merged(&host, &record)))?;
    // The target was told when the link was made; reading it would move its atime.
    Some(Object { attr, extra: Some(entry(&record, || None)) })
}

/// What is to be said of object `ino`, if it is called `name` in `parent`; of a
/// link whose target is not in its record, `target` says it.
pub(super) fn named(
    parts: &Parts,
    ino: u64,
    (parent, name): (&Arc<Inode>, &CStr),
    target: impl FnOnce(&Arc<Inode>) -> Option<Vec<u8>>,
) -> Option<Object> {
    let _looking = parts.dirs.look(parent);
    if !is_in_place(parts, parent) {
        return None;
    }
    let (inode, host) = parts.base.enroll(parent, name).ok()?;
    if host.ino != ino {
        return None;
    }
    let dir = parts.base.dir_fd(parent).ok()?;
    let record = match parts.store.load(&At { parent, dir: (*dir).as_fd(), name }, &host).ok()? {
        Loaded::Record(record) => record,
        Loaded::Absent => adopted(parts.adopt, &host).ok()?,
    };
    Some(Object { attr: merged(&host, &record), extra: Some(entry(&record, || target(&inode))) })
}

/// A link's target. Reading it moves the atime, as it does for anybody who reads
/// it; of one that was made a moment ago it is known.
pub(super) fn target(parts: &Parts, inode: &Arc<Inode>) -> Option<Vec<u8>> {
    let made = parts.nodes.get(inode.host_key()).and_then(|node| node.state().record.target.clone());
    made.map_or_else(|| parts.base.read_link(inode).ok(), |target| Some(target.into_vec()))
}

/// The same, if it is at `path`, which begins at the root.
pub(super) fn at_path(parts: &Parts, ino: u64, path: &[u8]) -> Option<Object> {
    let (dir, name) = place_at(parts, path)?;
    named(parts, ino, (&dir, &name), |inode| target(parts, inode))
}

/// Object `ino`, if it is at `path`, which begins at the root.
pub(super) fn inode_at(parts: &Parts, ino: u64, path: &[u8]) -> Option<Arc<Inode>> {
    let (dir, name) = place_at(parts, path)?;
    let (inode, host) = enroll(parts, &dir, &name)?;
    (host.ino == ino).then_some(inode)
}

/// The directory that `path` leads to, without its last component, and that.
fn place_at(parts: &Parts, path: &[u8]) -> Option<(Arc<Inode>, CString)> {
    let cut = path.iter().rposition(|&byte| byte == b'/')?;
    let (dir, name) = path.split_at_checked(cut + 1)?;
    Some((follow(parts, dir)?, CString::new(name).ok()?))
}

/// The directory `ino`, if it is at `path`, which begins at the root and ends
/// with a slash.
pub(super) fn dir_at(parts: &Parts, ino: u64, path: &[u8]) -> Option<Arc<Inode>> {
    follow(parts, path).filter(|dir| dir.host_key().number == ino)
}

fn follow(parts: &Parts, path: &[u8]) -> Option<Arc<Inode>> {
    let mut dir = parts.root.inner.clone();
    for name in path.strip_prefix(b"/")?.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
        let (inode, host) = enroll(parts, &dir, &CString::new(name).ok()?)?;
        if host.kind != FileKind::Directory {
            return None;
        }
        dir = inode;
    }
    Some(dir)
}

/// Holds `dir` meanwhile: one that is being moved would be put back in its place.
pub(super) fn enroll(parts: &Parts, dir: &Arc<Inode>, name: &CStr) -> Option<(Arc<Inode>, Attr)> {
    let _looking = parts.dirs.look(dir);
    parts.base.enroll(dir, name).ok()
}

/// Whether `dir`, which the caller holds, is where we believe it is: what a guest
/// does not know is not told when something above it moves, and most stores find
/// records by their paths.
pub(super) fn is_in_place(parts: &Parts, dir: &Arc<Inode>) -> bool {
    let mut at = dir.clone();
    while at.host_key() != parts.root.key() {
        let Some((above, name)) = at.whereabouts() else { return false };
        let Ok(fd) = parts.base.dir_fd(&above) else { return false };
        if host::stat_at((*fd).as_fd(), &name).ok().is_none_or(|host| host.ino != at.host_key().number) {
            return false;
        }
        at = above;
    }
    true
}

/// What a record says that stat(2) does not; `target` for a link whose target
/// is not in there.
pub(super) fn entry(record: &Record, target: impl FnOnce() -> Option<Vec<u8>>) -> Extra {
    let target = match (&record.kind, &record.target) {
        (FileKind::Symlink, Some(target)) => Some(target.clone()),
        (FileKind::Symlink, None) => target().map(Into::into),
        _ => None,
    };
    let xattrs = record.xattrs.iter().map(|(name, value)| (name.into(), value.into())).collect();
    Extra { target, xattrs }
}
