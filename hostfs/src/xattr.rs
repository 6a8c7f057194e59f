//! Extended attributes, POSIX ACLs among them.

use crate::HostFs;
use crate::fault::{Fault, fault};
use crate::idmap::OVERFLOW_ID;
use crate::jail::{fd_name, fd_path};
use crate::named;
use crate::node::Inode;
use crate::reach::Held;
use crate::sys;
use externfs::{Errno, GuestGid, GuestUid, Result, XattrFlags};
use rustix::io::Errno as Host;
use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// File capabilities.
const CAPABILITY: &[u8] = b"security.capability";

/// Both ACLs.
const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
const ACLS: [&[u8]; 2] = [ACCESS_ACL, b"system.posix_acl_default"];

/// The longest value or list that the host takes (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const LEN_MAX: usize = 64 << 10;

/// Enough for most, so that the second call is rare.
const LEN_GUESS: usize = 256;

impl HostFs {
    /// See [`externfs::ExternFs::get_xattr`].
    pub(crate) fn xattr_value(&self, node: &Arc<Inode>, name: &[u8]) -> Result<Vec<u8>> {
        if self.options.noxattr {
            return Err(Errno::EOPNOTSUPP.into());
        }
        if self.options.nosuid && name == CAPABILITY {
            return Err(Errno::ENODATA.into());
        }
        let attribute = attribute_name(name)?;
        let by_name = self.by_name(node, |dir, place, _| Ok(Some(whole(|buffer| named::get_xattr(dir, place, &attribute, buffer)))))?;
        let value = match by_name {
            Some(value) => value,
            None => self.get(&self.reach(node)?, &attribute),
        };
        match value {
            Ok(mut value) => {
                self.acl_to_guest(name, &mut value);
                Ok(value)
            }
            // A host file system without ACLs has none set. EOPNOTSUPP would
            // make the guest's kernel fail its permission checks with it.
            Err(Host::OPNOTSUPP) if ACLS.contains(&name) => Err(Errno::ENODATA.into()),
            Err(other) => Err(fault("getxattr")(other)),
        }
    }

    /// See [`externfs::ExternFs::list_xattr`].
    pub(crate) fn xattr_names(&self, node: &Arc<Inode>) -> Result<Vec<u8>> {
        if self.options.noxattr {
            return Ok(Vec::new());
        }
        let held = self.reach(node)?;
        let list = whole(|buffer| match &held {
            Held::Open(file) => rustix::fs::flistxattr(&file.fd, buffer),
            path => rustix::fs::listxattr(proc_path(path), buffer),
        });
        let mut list = match list {
            Err(Host::OPNOTSUPP) => Vec::new(),
            answer => answer.map_err(fault("listxattr"))?,
        };
        if self.options.nosuid {
            let kept = list.split_inclusive(|&b| b == 0).filter(|name| name.strip_suffix(b"\0") != Some(CAPABILITY));
            list = kept.flatten().copied().collect();
        }
        Ok(list)
    }

    /// See [`externfs::ExternFs::set_xattr`].
    pub(crate) fn change_xattr(&self, node: &Arc<Inode>, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()> {
        self.check_change(name)?;
        let attribute = attribute_name(name)?;
        let value = self.acl_to_host(name, value)?;
        // What is not in xattr(7) would be EINVAL.
        let known = (flags & !XattrFlags::KILL_SGID).bits();
        let host_flags = rustix::fs::XattrFlags::from_bits_retain(known as u32);
        if known == flags.bits()
            && !self.options.sync
            && let Some(done) =
                self.by_name(node, |dir, place, _| Ok(Some(named::set_xattr(dir, place, &attribute, &value, host_flags))))?
        {
            return done.map_err(fault("setxattr"));
        }
        let held = self.reach(node)?;
        self.own_change(node);
        let done = match &held {
            Held::Open(file) => rustix::fs::fsetxattr(&file.fd, &attribute, &value, host_flags),
            path => XATTR_AT.call(
                || sys::set_xattr_at(self.jail.proc_fd()?.as_fd(), magic_link(path).last(), &attribute, &value, host_flags.bits()),
                || rustix::fs::setxattr(proc_path(path), &attribute, &value, host_flags),
            ),
        };
        done.map_err(fault("setxattr"))?;
        // A kernel asks for it whichever ACL is set; local file systems do it for this one.
        if flags.contains(XattrFlags::KILL_SGID) && name == ACCESS_ACL {
            // The host spares the bit for root; whose ACL this is, is not.
            let mode = crate::attr::Stat::of_open(held.as_fd())?.mode().bits();
            if mode & 0o2000 != 0 {
                self.chmod(held.as_fd(), !held.is_open(), mode & !0o2000).map_err(fault("chmod"))?;
            }
        }
        if self.options.sync { self.sync_attr(node, &held) } else { Ok(()) }
    }

    /// See [`externfs::ExternFs::remove_xattr`].
    pub(crate) fn drop_xattr(&self, node: &Arc<Inode>, name: &[u8]) -> Result<()> {
        self.check_change(name)?;
        let attribute = attribute_name(name)?;
        let held = self.reach(node)?;
        self.own_change(node);
        let done = match &held {
            Held::Open(file) => rustix::fs::fremovexattr(&file.fd, &attribute),
            path => rustix::fs::removexattr(proc_path(path), &attribute),
        };
        done.map_err(fault("removexattr"))?;
        if self.options.sync { self.sync_attr(node, &held) } else { Ok(()) }
    }

    fn get(&self, held: &Held, attribute: &CStr) -> Fault<Vec<u8>> {
        whole(|buffer| match held {
            Held::Open(file) => rustix::fs::fgetxattr(&file.fd, attribute, buffer),
            path => {
                let buffer = RefCell::new(buffer);
                XATTR_AT.call(
                    || sys::get_xattr_at(self.jail.proc_fd()?.as_fd(), magic_link(path).last(), attribute, &mut buffer.borrow_mut()),
                    || rustix::fs::getxattr(proc_path(path), attribute, &mut **buffer.borrow_mut()),
                )
            }
        })
    }

    fn check_change(&self, name: &[u8]) -> Result<()> {
        if self.options.noxattr {
            return Err(Errno::EOPNOTSUPP.into());
        }
        if self.options.nosuid && name == CAPABILITY {
            return Err(Errno::EPERM.into());
        }
        Ok(())
    }

    fn acl_to_guest(&self, name: &[u8], value: &mut [u8]) {
        if ACLS.contains(&name) && !self.options.ids.is_identity() {
            map_acl(value, &mut |tag, id| {
                Some(match tag {
                    AclTag::User => self.options.ids.uid_to_guest(id).0,
                    AclTag::Group => self.options.ids.gid_to_guest(id).0,
                })
            });
        }
    }

    /// # Errors
    /// EINVAL for an id that the maps do not cover.
    fn acl_to_host(&self, name: &[u8], value: &[u8]) -> Result<Vec<u8>> {
        let mut value = value.to_vec();
        if ACLS.contains(&name) && !self.options.ids.is_identity() {
            let all_known = map_acl(&mut value, &mut |tag, id| match tag {
                AclTag::User => self.options.ids.uid_to_host(GuestUid(id)).map(|uid| uid.0),
                AclTag::Group => self.options.ids.gid_to_host(GuestGid(id)).map(|gid| gid.0),
            });
            if !all_known {
                return Err(Errno::EINVAL.into());
            }
        }
        Ok(value)
    }
}

/// Whether the kernel has getxattrat(2) and setxattrat(2).
pub(crate) static XATTR_AT: XattrAt = XattrAt(AtomicBool::new(true));

/// Found out by the first use.
pub(crate) struct XattrAt(AtomicBool);

impl XattrAt {
    /// `call`, or if the kernel or a filter does not know it `other`. A filter
    /// may say EPERM, which may also be the true answer: then `other` says so.
    pub(crate) fn call<T>(&self, call: impl FnOnce() -> Fault<T>, other: impl FnOnce() -> Fault<T>) -> Fault<T> {
        if !self.0.load(Ordering::Relaxed) {
            return other();
        }
        match call() {
            Err(error @ (Host::NOSYS | Host::PERM)) => {
                self.0.fetch_and(error != Host::NOSYS, Ordering::Relaxed);
                other()
            }
            answer => answer,
        }
    }
}

fn attribute_name(name: &[u8]) -> Result<CString> {
    CString::new(name).map_err(|_| Errno::EINVAL.into())
}

/// The magic link of an `O_PATH` descriptor: the calls that take a path follow
/// it to the object itself, and no further if that is a symbolic link.
fn proc_path(held: &Held) -> String {
    fd_path(held.as_fd())
}

/// The same for calls that take a directory: a walk from the root of the mounts
/// is most of what an attribute costs.
struct MagicLink(rustix::path::DecInt);

fn magic_link(held: &Held) -> MagicLink {
    MagicLink(fd_name(held.as_fd()))
}

impl MagicLink {
    fn last(&self) -> sys::Last<'_> {
        sys::Last::Followed(self.0.as_c_str())
    }
}

/// All that `call` has to say, whose answer fits or is ERANGE.
fn whole(mut call: impl FnMut(&mut [u8]) -> Fault<usize>) -> Fault<Vec<u8>> {
    for len in [LEN_GUESS, LEN_MAX] {
        let mut buffer = vec![0; len];
        match call(&mut buffer) {
            Err(Host::RANGE) => {}
            Ok(len) => {
                buffer.truncate(len);
                buffer.shrink_to_fit();
                return Ok(buffer);
            }
            Err(other) => return Err(other),
        }
    }
    Err(Host::RANGE)
}

/// Whose entry of an ACL it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum AclTag {
    User,
    Group,
}

/// Applies `map` to each named user and group of an ACL as xattrs carry it
/// (`struct posix_acl_xattr_header` and `_entry`, little-endian): 4 bytes of
/// version, then tag, permissions (2 bytes each) and id (4). Returns whether
/// all were mapped; what is no ACL is left for the host to refuse.
fn map_acl(acl: &mut [u8], map: &mut dyn FnMut(AclTag, u32) -> Option<u32>) -> bool {
    /// `ACL_USER` and `ACL_GROUP`: the entries whose id means something.
    const USER: u16 = 0x02;
    const GROUP: u16 = 0x08;
    let Some(entries) = acl.get_mut(4..) else { return true };
    let mut all_known = true;
    for entry in entries.chunks_exact_mut(8) {
        let Some((&mut [a, b, _, _], id)) = entry.split_first_chunk_mut::<4>() else { continue };
        let tag = match u16::from_le_bytes([a, b]) {
            USER => AclTag::User,
            GROUP => AclTag::Group,
            _ => continue,
        };
        let Some(id) = id.first_chunk_mut::<4>() else { continue };
        let mapped = map(tag, u32::from_le_bytes(*id));
        all_known &= mapped.is_some();
        *id = mapped.unwrap_or(OVERFLOW_ID).to_le_bytes();
    }
    all_known
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u32)]) -> Vec<u8> {
        let mut bytes = 2u32.to_le_bytes().to_vec();
        for (tag, id) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(6u16.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn only_named_users_and_groups_of_an_acl_are_mapped() {
        let mut given = acl(&[(1, u32::MAX), (2, 5), (4, u32::MAX), (8, 6), (16, u32::MAX), (32, u32::MAX)]);
        let all = map_acl(&mut given, &mut |tag, id| Some(id + if tag == AclTag::User { 100 } else { 200 }));
        assert!(all);
        assert_eq!(given, acl(&[(1, u32::MAX), (2, 105), (4, u32::MAX), (8, 206), (16, u32::MAX), (32, u32::MAX)]));
        assert!(!map_acl(&mut given, &mut |_, _| None));
    }

    #[test]
    fn what_is_no_acl_does_no_harm() {
        for len in 0..24 {
            let mut bytes = vec![2; len];
            map_acl(&mut bytes, &mut |_, id| Some(id));
            assert_eq!(bytes, vec![2; len]);
        }
    }
}
