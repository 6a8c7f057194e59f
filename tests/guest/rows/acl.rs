//! POSIX access control lists, in the bytes that setxattr(2) takes.

use crate::place::{ALICE, BOB, Place, Verdict, done, mode_of, open, refused, same, set_mode, skipped};
use rustix::fs::{OFlags, XattrFlags};
use rustix::io::Errno;
use std::fs;
use std::path::Path;

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
/// `ACL_UNDEFINED_ID`: for entries that name nobody.
const NOBODY: u32 = u32::MAX;

/// Version 2, then tag, permissions and id of each entry, as
/// include/uapi/linux/posix_acl_xattr.h of the kernel has it.
fn encode(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

/// Owner rw, `uid` with `permissions`, nobody else anything, mask rwx.
fn for_one(uid: u32, permissions: u16) -> Vec<u8> {
    encode(&[(1, 6, NOBODY), (2, permissions, uid), (4, 0, NOBODY), (0x10, 7, NOBODY), (0x20, 0, NOBODY)])
}

fn set(path: &Path, name: &str, list: &[u8]) -> Verdict {
    match rustix::fs::setxattr(path, name, list, XattrFlags::empty()) {
        Err(Errno::OPNOTSUPP) => skipped("the host's file system or this server has no access control lists"),
        other => done(name, other),
    }
}

pub(super) fn access_lists_decide(place: &Place) -> Verdict {
    let file = place.file("file", "for alice")?;
    set_mode(&file, 0o600)?;
    set(&file, ACCESS, &for_one(ALICE.uid, 4))?;
    // The mask shows as the group's bits.
    same("mode", mode_of(&file)?, 0o670)?;
    ALICE.acts(|| {
        done("read by whom it names", fs::read(&file))?;
        refused("write by whom it lets read", open(&file, OFlags::WRONLY), Errno::ACCESS)
    })?;
    BOB.acts(|| refused("read by another", open(&file, OFlags::RDONLY), Errno::ACCESS))?;
    set_mode(&file, 0o600)?;
    ALICE.acts(|| refused("read past the mask", open(&file, OFlags::RDONLY), Errno::ACCESS))?;
    done("remove the list", rustix::fs::removexattr(&file, ACCESS))
}

pub(super) fn default_lists_are_inherited(place: &Place) -> Verdict {
    let dir = place.directory("dir")?;
    set(&dir, DEFAULT, &for_one(ALICE.uid, 7))?;
    set_mode(&dir, 0o755)?;
    done("create", fs::write(dir.join("file"), "x"))?;
    ALICE.acts(|| done("read by whom the default names", fs::read(dir.join("file"))).map(drop))?;
    BOB.acts(|| refused("read by another", open(&dir.join("file"), OFlags::RDONLY), Errno::ACCESS))?;
    // 0666 of open(2), cut by the list and not by the umask.
    same("mode of the new file", mode_of(&dir.join("file"))?, 0o660)?;
    done("mkdir", fs::create_dir(dir.join("sub")))?;
    let mut seen = [0; 256];
    let size = done("the new directory's default", rustix::fs::getxattr(dir.join("sub"), DEFAULT, &mut seen[..]))?;
    same("inherited default", &seen[..size], for_one(ALICE.uid, 7).as_slice())
}
