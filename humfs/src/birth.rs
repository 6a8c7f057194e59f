//! What a new object begins with: owner, group, mode and ACLs.

use crate::acl::{self, Acl};
use crate::record::Record;
use externfs::{Caller, Errno, FileKind, GuestGid, GuestUid, Mode, Result};

/// `S_ISGID`.
const SETGID: u32 = 0o2000;

/// The record of what `caller` makes with `mode` in a directory with the
/// record `parent`, as inode(7), umask(2) and acl(5) have it: the caller's,
/// but of the directory's group where that is setgid; without the bits of the
/// umask, or with the directory's default ACL in its place.
///
/// # Errors
/// EOVERFLOW for a caller that has no number in the guest; EIO for a default
/// ACL that cannot be read.
pub(crate) fn born(caller: &Caller, parent: &Record, kind: FileKind, mode: Mode) -> Result<Record> {
    if caller.uid.0 == u32::MAX || caller.gid.0 == u32::MAX {
        return Err(Errno::EOVERFLOW.into());
    }
    let setgid = parent.mode.bits() & SETGID != 0;
    let gid = if setgid { parent.gid } else { caller.gid };
    if kind == FileKind::Symlink {
        return Ok(Record::new(kind, Mode::new(0o777), caller.uid, gid));
    }
    let mut bits = mode.bits();
    if setgid && kind == FileKind::Directory {
        bits |= SETGID;
    }
    let mut record = Record::new(kind, Mode::new(bits), caller.uid, gid);
    let Some(default) = parent.xattrs.get(acl::DEFAULT) else {
        record.mode = Mode::new(bits & !(caller.umask & 0o777));
        return Ok(record);
    };
    let default_acl = Acl::parse(default).map_err(|_| crate::host::damaged("a default ACL cannot be read"))?;
    let access = default_acl.inherit(bits);
    record.mode = Mode::new(bits & !0o777 | access.mode());
    if !access.is_minimal() {
        record.xattrs.set(acl::ACCESS, &access.to_bytes());
    }
    if kind == FileKind::Directory {
        record.xattrs.set(acl::DEFAULT, default);
    }
    Ok(record)
}

/// The record of a root that has none yet, as mkfs(8) makes roots. The mode of
/// data/ on the host says nothing of it: that is ours, and keeps others out.
pub(crate) fn root() -> Record {
    Record::new(FileKind::Directory, Mode::new(0o755), GuestUid(0), GuestGid(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(umask: u32) -> Caller {
        Caller { uid: GuestUid(1000), gid: GuestGid(100), umask, ..Caller::root() }
    }

    fn parent(mode: u32) -> Record {
        Record::new(FileKind::Directory, Mode::new(mode), GuestUid(0), GuestGid(50))
    }

    #[test]
    fn owner_group_and_umask() {
        let file = born(&caller(0o027), &parent(0o755), FileKind::Regular, Mode::new(0o6666)).unwrap();
        assert_eq!((file.uid.0, file.gid.0, file.mode.bits()), (1000, 100, 0o6640));
        let dir = born(&caller(0o022), &parent(0o2777), FileKind::Directory, Mode::new(0o777)).unwrap();
        assert_eq!((dir.gid.0, dir.mode.bits()), (50, 0o2755));
        let link = born(&caller(0o077), &parent(0o2777), FileKind::Symlink, Mode::new(0)).unwrap();
        assert_eq!((link.gid.0, link.mode.bits()), (50, 0o777));
    }

    #[test]
    fn a_default_acl_takes_the_place_of_the_umask() {
        // u::rwx u:7:rwx g::r-x m::rwx o::---
        let mut default = vec![2, 0, 0, 0];
        for (tag, perm, id) in [(1u16, 7u16, u32::MAX), (2, 7, 7), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 0, u32::MAX)] {
            default.extend(tag.to_le_bytes());
            default.extend(perm.to_le_bytes());
            default.extend(id.to_le_bytes());
        }
        let mut parent = parent(0o755);
        parent.xattrs.set(acl::DEFAULT, &default);
        let file = born(&caller(0o777), &parent, FileKind::Regular, Mode::new(0o664)).unwrap();
        assert_eq!(file.mode.bits(), 0o660);
        assert!(file.xattrs.get(acl::ACCESS).is_some() && file.xattrs.get(acl::DEFAULT).is_none());
        let dir = born(&caller(0o777), &parent, FileKind::Directory, Mode::new(0o777)).unwrap();
        assert_eq!(dir.xattrs.get(acl::DEFAULT), Some(default.as_slice()));
    }
}
