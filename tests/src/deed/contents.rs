//! Deeds that change what is in a file.

use super::*;
use crate::export_driver::MemorySource;
use crate::op::pattern;

const ROOT: NodeId = NodeId::ROOT;

fn empty(g: &Guest) -> Answer {
    file(g, ROOT, "old", 0o644, b"").map(drop)
}

fn full(g: &Guest) -> Answer {
    file(g, ROOT, "old", 0o644, &pattern(1, 20_000)).map(drop)
}

/// Whoever runs it acts as its owner.
fn setuid(g: &Guest) -> Answer {
    let old = file(g, ROOT, "old", 0o644, &pattern(2, 9_000))?;
    own(g, old, 0o6755, 500, 501)?;
    xattr(g, old, b"security.capability", CAPABILITY)
}

/// `cap_net_raw+ep` as setcap(8) stores it: version 2, effective.
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// What goes before the contents of a privileged file may change.
fn lose_privileges(g: &Guest) -> Answer {
    let old = find(g, "old")?;
    g.set(old, SetAttr { mode: Some(Mode::new(0o755)), ..SetAttr::default() })?;
    done(g.export.remove_xattr(&g.caller, old, b"security.capability"))
}

fn write(g: &Guest, offset: u64, data: Vec<u8>, flags: WriteFlags) -> std::result::Result<Act, Errno> {
    let handle = g.open(find(g, "old")?, BOTH)?;
    act(move |g| {
        let written = g.export.write(handle, offset, &mut MemorySource(&data), flags).map_err(|error| error.errno())?;
        if written == data.len() { Ok(()) } else { Err(Errno::EIO) }
    })
}

/// As far as the end of a page, where a kill may end the host's write: one that came
/// while another thread was about its own.
fn write_now(g: &Guest, offset: u64, data: &[u8]) -> Answer {
    write(g, offset, data.to_vec(), WriteFlags::default())?(g)
}

fn truncate(g: &Guest, size: u64, by_handle: bool) -> std::result::Result<Act, Errno> {
    let old = find(g, "old")?;
    let handle = if by_handle { Some(g.open(old, BOTH)?) } else { None };
    act(move |g| {
        let change = SetAttr { size: Some(size), kill_suid_sgid: true, ..SetAttr::default() };
        done(g.export.set_attr(&somebody(), old, handle, &change))
    })
}

fn open_truncating(g: &Guest) -> std::result::Result<Act, Errno> {
    let old = find(g, "old")?;
    act(move |g| g.open(old, OpenFlags { truncate: true, kill_suid_sgid: true, ..BOTH }).map(drop))
}

fn allocate(g: &Guest, offset: u64, length: u64, flags: FallocateFlags) -> std::result::Result<Act, Errno> {
    let handle = g.open(find(g, "old")?, BOTH)?;
    act(move |g| done(g.export.fallocate(handle, offset, length, flags)))
}

fn copy(g: &Guest) -> std::result::Result<Act, Errno> {
    let source = g.open(find(g, "kept")?, crate::guest::READ)?;
    let target = g.open(find(g, "old")?, BOTH)?;
    act(move |g| done(g.export.copy_range((source, 0), (target, 5), 14)))
}

fn synced(g: &Guest) -> std::result::Result<Act, Errno> {
    let handle = g.open(find(g, "old")?, BOTH)?;
    g.write(handle, 3, b"to be synced")?;
    act(move |g| done(g.export.fsync(handle, false)))
}

const KILL: WriteFlags = WriteFlags { append: false, sync: false, cached: false, kill_suid_sgid: true };

pub(super) const DEEDS: &[Deed] = &[
    Deed::new("write-first", empty, |g| write(g, 0, pattern(3, 5_000), WriteFlags::default()))
        .between(|g| write_now(g, 0, &pattern(3, 5_000)[..4_096])),
    Deed::new("write-over", full, |g| write(g, 4_000, pattern(3, 4_000), WriteFlags::default()))
        .between(|g| write_now(g, 4_000, &pattern(3, 4_000)[..96])),
    Deed::new("write-append", full, |g| write(g, 0, pattern(3, 4_000), WriteFlags { append: true, ..WriteFlags::default() }))
        .between(|g| write_now(g, 20_000, &pattern(3, 4_000)[..480])),
    Deed::new("write-synced", full, |g| write(g, 100, pattern(3, 500), WriteFlags { sync: true, ..WriteFlags::default() })),
    Deed::new("write-far", full, |g| write(g, 9_000_000, pattern(3, 10), WriteFlags::default())),
    Deed::new("write-setuid", setuid, |g| write(g, 10, pattern(3, 500), KILL)).between(lose_privileges),
    Deed::new("truncate-down", full, |g| truncate(g, 7_000, false)),
    Deed::new("truncate-up", full, |g| truncate(g, 70_000, false)),
    Deed::new("ftruncate", full, |g| truncate(g, 0, true)),
    Deed::new("truncate-setuid", setuid, |g| truncate(g, 100, false)).between(lose_privileges),
    Deed::new("open-truncating", full, open_truncating),
    Deed::new("open-truncating-setuid", setuid, open_truncating).between(lose_privileges),
    Deed::new("allocate", full, |g| allocate(g, 10_000, 100_000, FallocateFlags::empty())),
    Deed::new("allocate-keeping-size", full, |g| allocate(g, 10_000, 100_000, FallocateFlags::KEEP_SIZE)),
    Deed::new("punch-hole", full, |g| allocate(g, 4_000, 9_000, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE)),
    Deed::new("allocate-setuid", setuid, |g| allocate(g, 0, 20_000, FallocateFlags::empty())).between(lose_privileges),
    Deed::new("copy-range", full, copy),
    Deed::new("copy-range-setuid", setuid, copy).between(lose_privileges),
    Deed::new("fsync", full, synced),
    Deed::new("syncfs", full, |g| {
        let other = find(g, "old")?;
        g.set(other, SetAttr { mode: Some(Mode::new(0o604)), ..SetAttr::default() })?;
        act(|g| done(g.export.sync()))
    }),
];
