//! Deeds that change what is known of a file.

use super::*;

const ROOT: NodeId = NodeId::ROOT;

fn one_file(g: &Guest) -> Answer {
    let old = file(g, ROOT, "old", 0o644, b"attributes")?;
    xattr(g, old, b"user.first", b"of three")?;
    xattr(g, old, b"trusted.second", &[7; 300])
}

fn linked_file(g: &Guest) -> Answer {
    one_file(g)?;
    let attic = find(g, "attic")?;
    link(g, find(g, "old")?, attic, "second")
}

/// Which has no attributes yet.
fn bare_linked_file(g: &Guest) -> Answer {
    let old = file(g, ROOT, "old", 0o644, b"attributes")?;
    link(g, old, find(g, "attic")?, "second")
}

/// Whose attributes have been changed since it has two names.
fn changed_linked_file(g: &Guest) -> Answer {
    linked_file(g)?;
    let old = find(g, "old")?;
    xattr(g, old, b"user.first", b"once more")?;
    xattr(g, old, b"user.third", &[3; 90])
}

/// The same, with one name again.
fn unlinked_file(g: &Guest) -> Answer {
    changed_linked_file(g)?;
    g.unlink(find(g, "attic")?, "second")
}

fn setuid(g: &Guest) -> Answer {
    one_file(g)?;
    own(g, find(g, "old")?, 0o6755, 500, 501)
}

fn symlink(g: &Guest) -> Answer {
    g.make(ROOT, "old", &NewNode::Symlink(b"a/target"), 0o777).map(drop)
}

fn device(g: &Guest) -> Answer {
    g.make(ROOT, "old", &NewNode::BlockDevice(DeviceNumber { major: 8, minor: 1 }), 0o660).map(drop)
}

fn dir(g: &Guest) -> Answer {
    let old = directory(g, ROOT, "old", 0o755)?;
    file(g, old, "within", 0o600, b"within").map(drop)
}

fn set(g: &Guest, path: &str, change: SetAttr) -> std::result::Result<Act, Errno> {
    let id = find(g, path)?;
    act(move |g| g.set(id, change).map(drop))
}

fn chmod(mode: u32) -> SetAttr {
    SetAttr { mode: Some(Mode::new(mode)), ..SetAttr::default() }
}

fn chown(uid: u32, gid: u32) -> SetAttr {
    SetAttr { uid: Some(GuestUid(uid)), gid: Some(GuestGid(gid)), kill_suid_sgid: true, ..SetAttr::default() }
}

/// Long ago or far ahead: then looking does not move it.
fn at(second: i64) -> Option<SetTime> {
    Some(SetTime::At(Timestamp { seconds: second, nanoseconds: 123_456_789 }))
}

fn put(g: &Guest, path: &str, key: &'static [u8], value: &'static [u8]) -> std::result::Result<Act, Errno> {
    let id = find(g, path)?;
    act(move |g| xattr(g, id, key, value))
}

fn take(g: &Guest, key: &'static [u8]) -> std::result::Result<Act, Errno> {
    let id = find(g, "old")?;
    act(move |g| done(g.export.remove_xattr(&g.caller, id, key)))
}

/// An ACL as the kernel stores it: version 2; tag, permissions, id of each
/// entry: acl(5) and the kernel's include/uapi/linux/posix_acl_xattr.h.
const ACL: &[u8] = &[
    2, 0, 0, 0, // version
    1, 0, 6, 0, 0xff, 0xff, 0xff, 0xff, // user::rw-
    2, 0, 7, 0, 0xe8, 3, 0, 0, // user:1000:rwx
    4, 0, 4, 0, 0xff, 0xff, 0xff, 0xff, // group::r--
    16, 0, 7, 0, 0xff, 0xff, 0xff, 0xff, // mask::rwx
    32, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, // other::---
];

const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Created in a directory with a default ACL.
fn dir_with_default(g: &Guest) -> Answer {
    dir(g)?;
    xattr(g, find(g, "old")?, b"system.posix_acl_default", ACL)
}

pub(super) const DEEDS: &[Deed] = &[
    Deed::new("chmod", one_file, |g| set(g, "old", chmod(0o400))),
    Deed::new("chmod-setuid", one_file, |g| set(g, "old", chmod(0o6711))),
    Deed::new("chmod-linked", linked_file, |g| set(g, "attic/second", chmod(0o4600))),
    Deed::new("chmod-dir", dir, |g| set(g, "old", chmod(0o3770))),
    Deed::new("setxattr-root", nothing, |_| act(|g| xattr(g, ROOT, b"user.mark", &[5; 700]))),
    Deed::new("chmod-root", nothing, |_| act(|g| g.set(ROOT, chmod(0o711)).map(drop))),
    Deed::new("chmod-open-unlinked", one_file, |g| {
        let id = find(g, "old")?;
        let handle = g.open(id, BOTH)?;
        g.unlink(ROOT, "old")?;
        act(move |g| done(g.export.set_attr(&g.caller, id, Some(handle), &chmod(0o4777))))
    }),
    Deed::new("chown", one_file, |g| set(g, "old", chown(4_294_967_294, 70_000))),
    Deed::new("chown-setuid", setuid, |g| set(g, "old", chown(1, 2))),
    Deed::new("chown-symlink", symlink, |g| set(g, "old", chown(11, 12))),
    Deed::new("chown-device", device, |g| set(g, "old", chown(11, 12))),
    Deed::new("chown-dir", dir, |g| set(g, "old", chown(13, 14))),
    Deed::new("chmod-and-chown", one_file, |g| {
        set(g, "old", SetAttr { mode: Some(Mode::new(0o4750)), kill_suid_sgid: false, ..chown(5, 6) })
    }),
    Deed::new("utimens", one_file, |g| set(g, "old", SetAttr { atime: at(4_000_000_000), mtime: at(-5), ..SetAttr::default() })),
    Deed::new("utimens-symlink", symlink, |g| set(g, "old", SetAttr { atime: at(4_000_000_003), mtime: at(4), ..SetAttr::default() })),
    Deed::new("setxattr", one_file, |g| put(g, "old", b"user.new", b"value")),
    Deed::new("setxattr-replacing", one_file, |g| put(g, "old", b"trusted.second", b"shorter")),
    Deed::new("setxattr-large", one_file, |g| put(g, "old", b"user.large", &[b'v'; 3000])),
    Deed::new("setxattr-linked", linked_file, |g| put(g, "attic/second", b"user.new", b"for both")),
    Deed::new("setxattr-first-linked", bare_linked_file, |g| put(g, "attic/second", b"user.new", b"for both")),
    Deed::new("setxattr-first-large-linked", bare_linked_file, |g| put(g, "attic/second", b"user.new", &[b'v'; 3000])),
    Deed::new("setxattr-changed-linked", changed_linked_file, |g| put(g, "attic/second", b"user.new", b"for both")),
    Deed::new("setxattr-large-linked", changed_linked_file, |g| put(g, "old", b"user.large", &[b'v'; 3000])),
    Deed::new("setxattr-unlinked", unlinked_file, |g| put(g, "old", b"user.new", b"for one")),
    Deed::new("removexattr-linked", changed_linked_file, |g| take(g, b"user.third")),
    Deed::new("chmod-changed-linked", changed_linked_file, |g| set(g, "attic/second", chmod(0o4600))),
    Deed::new("chown-changed-linked", changed_linked_file, |g| set(g, "attic/second", chown(12, 13))),
    Deed::new("setxattr-dir", dir, |g| put(g, "old", b"user.new", b"of a directory")),
    Deed::new("setxattr-symlink", symlink, |g| put(g, "old", b"trusted.new", b"of a link")),
    Deed::new("setxattr-device", device, |g| put(g, "old", b"security.new", b"of a device")),
    Deed::new("setxattr-capability", one_file, |g| put(g, "old", b"security.capability", CAPABILITY)),
    Deed::new("setxattr-acl", one_file, |g| put(g, "old", b"system.posix_acl_access", ACL)),
    Deed::new("setxattr-default-acl", dir, |g| put(g, "old", b"system.posix_acl_default", ACL)),
    Deed::new("removexattr", one_file, |g| take(g, b"trusted.second")),
    Deed::new(
        "removexattr-acl",
        |g| {
            one_file(g)?;
            xattr(g, find(g, "old")?, b"system.posix_acl_access", ACL)
        },
        |g| take(g, b"system.posix_acl_access"),
    ),
    Deed::new("create-below-default-acl", dir_with_default, |g| {
        let old = find(g, "old")?;
        act(move |g| create(g, old, "new", creation(0o664, true)))
    }),
    Deed::new("mkdir-below-default-acl", dir_with_default, |g| {
        let old = find(g, "old")?;
        act(move |g| g.make(old, "new", &NewNode::Directory, 0o775).map(drop))
    }),
];
