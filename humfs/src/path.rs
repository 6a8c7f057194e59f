//! Paths of objects below the root of the data tree, for intents and messages.
//! No file is ever opened by one.

use crate::store::At;
use hostfs::Inode;
use std::ffi::{CStr, CString};
use std::sync::Arc;

/// The components from the root down to the directory `dir`. None if it is no
/// longer in the tree.
pub(crate) fn components(dir: &Arc<Inode>, is_root: impl Fn(&Inode) -> bool) -> Option<Vec<CString>> {
    /// A longer chain is a loop.
    const LEVELS: usize = 1 << 16;
    let mut upwards = Vec::new();
    let mut at = dir.clone();
    while !is_root(&at) {
        let (parent, name) = at.whereabouts()?;
        upwards.push(name);
        at = parent;
        if upwards.len() > LEVELS {
            return None;
        }
    }
    upwards.reverse();
    Some(upwards)
}

/// The path of `at` without a leading slash: `a/b/name`.
pub(crate) fn of(at: &At<'_>, is_root: impl Fn(&Inode) -> bool) -> Option<Vec<u8>> {
    let mut path = Vec::new();
    for component in components(at.parent, is_root)? {
        path.extend(component.to_bytes());
        path.push(b'/');
    }
    path.extend(at.name.to_bytes());
    Some(path)
}

/// The components of a path made by [`of`]; nothing for what could climb.
pub(crate) fn parse(path: &[u8]) -> Option<Vec<CString>> {
    let mut names = Vec::new();
    for name in path.split(|&b| b == b'/') {
        if matches!(name, b"" | b"." | b"..") {
            return None;
        }
        names.push(CString::new(name).ok()?);
    }
    Some(names)
}

/// The parent's components and the last one.
pub(crate) fn split(path: &[u8]) -> Option<(Vec<CString>, CString)> {
    let mut names = parse(path)?;
    let last = names.pop()?;
    Some((names, last))
}

/// Walks `names` from `from`, one component at a time, links refused.
pub(crate) fn walk(from: std::os::fd::BorrowedFd<'_>, names: &[CString]) -> crate::host::Fault<std::os::fd::OwnedFd> {
    use std::os::fd::AsFd;
    let mut at = rustix::io::fcntl_dupfd_cloexec(from, 0)?;
    for name in names {
        at = crate::host::child_dir(at.as_fd(), name)?;
    }
    Ok(at)
}

/// For people: with control characters and what is no UTF-8 escaped.
pub(crate) fn shown(name: &CStr) -> String {
    name.to_bytes().escape_ascii().to_string()
}
