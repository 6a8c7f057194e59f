//! Calls on a name in a directory, for whoever keeps names from changing meanwhile, as
//! hostfs itself may (`still.rs`) and a [layer](crate::layer) does: a third of what opening the object first takes. No
//! link is followed, and the name is a single component.

use crate::HostFs;
use crate::attr::Stat;
use crate::jail::fd_path;
use crate::node::Inode;
use crate::setattr::timestamps;
use crate::sys;
use crate::xattr::XATTR_AT;
use externfs::{Attr, SetAttr};
use rustix::fs::{AtFlags, XattrFlags};
use rustix::io::Errno;
use std::ffi::CStr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

impl HostFs {
    /// What the host says of `name` in `dir`, if that is `node`.
    pub fn status_of(&self, node: &Arc<Inode>, dir: BorrowedFd<'_>, name: &CStr) -> Option<Attr> {
        let stat = Stat::of_name(dir, name).ok()?;
        if stat.key() == node.key() { self.tell(node, &stat).ok() } else { None }
    }
}

/// Sets the times of `name` in `dir` as `change` says.
///
/// # Errors
/// What utimensat(2) says.
pub fn set_times(dir: BorrowedFd<'_>, name: &CStr, change: &SetAttr) -> Result<(), Errno> {
    rustix::fs::utimensat(dir, name, &timestamps(change), AtFlags::SYMLINK_NOFOLLOW)
}

/// Moves the ctime of `name` in `dir`: a chown to nobody else.
///
/// # Errors
/// What fchownat(2) says.
pub fn touch_ctime(dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    rustix::fs::chownat(dir, name, None, None, AtFlags::SYMLINK_NOFOLLOW)
}

/// The value of an attribute of `name` in `dir`, into `buffer`; returns its length.
///
/// # Errors
/// What getxattr(2) says; ERANGE if it is longer than `buffer`.
pub fn get_xattr(dir: BorrowedFd<'_>, name: &CStr, attribute: &CStr, buffer: &mut [u8]) -> Result<usize, Errno> {
    let buffer = std::cell::RefCell::new(buffer);
    XATTR_AT.call(
        || sys::get_xattr_at(dir, sys::Last::Itself(name), attribute, &mut buffer.borrow_mut()),
        || rustix::fs::lgetxattr(path_below(dir, name), attribute, &mut **buffer.borrow_mut()),
    )
}

/// Sets an attribute of `name` in `dir`; `flags` as for setxattr(2).
///
/// # Errors
/// What setxattr(2) says.
pub fn set_xattr(dir: BorrowedFd<'_>, name: &CStr, attribute: &CStr, value: &[u8], flags: XattrFlags) -> Result<(), Errno> {
    XATTR_AT.call(
        || sys::set_xattr_at(dir, sys::Last::Itself(name), attribute, value, flags.bits()),
        || rustix::fs::lsetxattr(path_below(dir, name), attribute, value, flags),
    )
}

/// One component below a descriptor, as a path for calls that take nothing else.
fn path_below(dir: BorrowedFd<'_>, name: &CStr) -> Vec<u8> {
    let mut path = fd_path(dir).into_bytes();
    path.push(b'/');
    path.extend(name.to_bytes());
    path
}
