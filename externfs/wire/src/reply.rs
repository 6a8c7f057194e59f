//! The answers' structures, field by field as the kernel declares them.

use crate::abi::{self, OpenReply};
use crate::codec::Payload;
use crate::transport::REPLY_HEADER_LEN;
use externfs::{Attr, DeviceNumber, Entry, Errno, FileCache, Handle, Lock, LockKind, StatFs, Timestamp};
use std::time::Duration;

/// `fuse_out_header`. `payload_len` are the bytes behind it; a reply has never
/// room for more than 32 bits can tell.
pub(crate) fn header(unique: u64, error: Option<Errno>, payload_len: usize) -> [u8; REPLY_HEADER_LEN] {
    let len = u32::try_from(REPLY_HEADER_LEN + payload_len).unwrap_or(u32::MAX);
    let mut header = [0; REPLY_HEADER_LEN];
    header[..4].copy_from_slice(&len.to_ne_bytes());
    header[4..8].copy_from_slice(&error.map_or(0, |errno| -errno.raw()).to_ne_bytes());
    header[8..].copy_from_slice(&unique.to_ne_bytes());
    header
}

/// `new_encode_dev` of the kernel's include/linux/kdev_t.h.
///
/// # Errors
/// EOVERFLOW, as stat(2) says it, when 12 bits of major or 20 of minor are too few.
pub(crate) fn device(device: DeviceNumber) -> Result<u32, Errno> {
    let DeviceNumber { major, minor } = device;
    if major >= 1 << 12 || minor >= 1 << 20 {
        return Err(Errno::EOVERFLOW);
    }
    Ok((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
}

/// `fuse_attr`: 88 bytes.
fn put_attr(payload: &mut Payload, attr: &Attr, flags: u32) -> Result<(), Errno> {
    let device = device(attr.device)?;
    payload
        .u64(attr.ino)
        .u64(attr.size)
        .u64(attr.blocks)
        .i64(attr.atime.seconds)
        .i64(attr.mtime.seconds)
        .i64(attr.ctime.seconds)
        .u32(attr.atime.nanoseconds)
        .u32(attr.mtime.nanoseconds)
        .u32(attr.ctime.nanoseconds)
        .u32(attr.kind.mode_bits() | attr.mode.bits())
        .u32(attr.nlink)
        .u32(attr.uid.0)
        .u32(attr.gid.0)
        .u32(device)
        .u32(attr.block_size)
        .u32(flags);
    Ok(())
}

/// `fuse_attr_out`.
pub(crate) fn attr(attr: &Attr, ttl: Duration) -> Result<Payload, Errno> {
    let mut payload = Payload::new();
    payload.u64(ttl.as_secs()).u32(ttl.subsec_nanos()).u32(0);
    put_attr(&mut payload, attr, 0)?;
    Ok(payload)
}

/// `fuse_entry_out`.
pub(crate) fn entry(entry: &Entry) -> Result<Payload, Errno> {
    let flags = if entry.submount { abi::ATTR_SUBMOUNT } else { 0 };
    let mut payload = Payload::new();
    payload
        .u64(entry.id.0)
        .u64(entry.generation)
        .u64(entry.entry_ttl.as_secs())
        .u64(entry.attr_ttl.as_secs())
        .u32(entry.entry_ttl.subsec_nanos())
        .u32(entry.attr_ttl.subsec_nanos());
    put_attr(&mut payload, &entry.attr, flags)?;
    Ok(payload)
}

/// A `fuse_entry_out` without a node: the kernel may remember for `ttl` that
/// the name leads nowhere.
pub(crate) fn no_entry(ttl: Duration) -> Payload {
    Payload::of(|payload| payload.u64(0).u64(0).u64(ttl.as_secs()).u64(0).u32(ttl.subsec_nanos()).u32(0).pad_to(abi::size::ENTRY_OUT))
}

/// `fuse_open_out`, behind what `payload` holds already.
pub(crate) fn put_open(mut payload: Payload, handle: &Handle, flags: OpenReply, backing: u32) -> Payload {
    payload.u64(handle.id.0).u32(flags.bits()).u32(backing);
    payload
}

/// What the kernel may do with an open file of this kind of caching.
pub(crate) fn file_flags(cache: FileCache) -> OpenReply {
    match cache {
        // Writes of several threads may overlap in time: the host file orders them.
        FileCache::Bypass => OpenReply::DIRECT_IO | OpenReply::PARALLEL_DIRECT_WRITES,
        FileCache::Drop => OpenReply::empty(),
        FileCache::Keep => OpenReply::KEEP_CACHE,
    }
}

/// The same for a listing: kept pages need both bits, or OPENDIR drops them.
pub(crate) fn dir_flags(handle: &Handle) -> OpenReply {
    if handle.keep_listing { OpenReply::CACHE_DIR | OpenReply::KEEP_CACHE } else { OpenReply::empty() }
}

/// `fuse_write_out`.
pub(crate) fn written(count: u32) -> Payload {
    Payload::of(|payload| payload.u32(count).u32(0))
}

/// `fuse_getxattr_out`.
pub(crate) fn xattr_size(size: u32) -> Payload {
    Payload::of(|payload| payload.u32(size).u32(0))
}

/// `fuse_lseek_out` and `fuse_copy_file_range_out`.
pub(crate) fn offset(offset: u64) -> Payload {
    Payload::of(|payload| payload.u64(offset))
}

/// `fuse_statfs_out`.
pub(crate) fn statfs(stat: &StatFs) -> Payload {
    Payload::of(|payload| {
        payload
            .u64(stat.blocks)
            .u64(stat.blocks_free)
            .u64(stat.blocks_available)
            .u64(stat.inodes)
            .u64(stat.inodes_free)
            .u32(stat.block_size)
            .u32(stat.name_max)
            .u32(stat.block_size)
            .pad_to(80)
    })
}

/// `fuse_lk_out`. None: nothing stands in the way of `wanted`.
pub(crate) fn lock(found: Option<&Lock>, wanted: &Lock) -> Payload {
    let kind = match found.map_or(LockKind::Unlock, |lock| lock.kind) {
        LockKind::Read => libc::F_RDLCK,
        LockKind::Write => libc::F_WRLCK,
        LockKind::Unlock => libc::F_UNLCK,
    };
    let lock = found.unwrap_or(wanted);
    // The kernel refuses an end past OFFSET_MAX, which means "to the end".
    let end = lock.end.min(i64::MAX as u64);
    Payload::of(|payload| payload.u64(lock.start).u64(end).u32(kind as u32).u32(lock.pid))
}

fn put_statx_time(payload: &mut Payload, time: Timestamp) {
    payload.i64(time.seconds).u32(time.nanoseconds).u32(0);
}

/// `fuse_statx_out`.
pub(crate) fn statx(attr: &Attr, ttl: Duration) -> Payload {
    let birth = if attr.btime.is_some() { libc::STATX_BTIME } else { 0 };
    let mut payload = Payload::new();
    payload
        .u64(ttl.as_secs())
        .u32(ttl.subsec_nanos())
        .u32(0)
        .pad_to(32)
        .u32(libc::STATX_BASIC_STATS | birth)
        .u32(attr.block_size)
        .u64(0)
        .u32(attr.nlink)
        .u32(attr.uid.0)
        .u32(attr.gid.0)
        .u16((attr.kind.mode_bits() | attr.mode.bits()) as u16)
        .u16(0)
        .u64(attr.ino)
        .u64(attr.size)
        .u64(attr.blocks)
        .u64(0);
    for time in [attr.atime, attr.btime.unwrap_or_default(), attr.ctime, attr.mtime] {
        put_statx_time(&mut payload, time);
    }
    // The device that the object lies on is the guest's to say.
    payload.u32(attr.device.major).u32(attr.device.minor).u32(0).u32(0).pad_to(288);
    payload
}

/// `fuse_ioctl_out` with what the command answers.
pub(crate) fn ioctl(data: &[u8]) -> Payload {
    Payload::of(|payload| payload.i32(0).u32(0).u32(0).u32(0).put(data))
}
