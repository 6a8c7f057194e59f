//! The kernel's numbers into the core's vocabulary and back, by way of fuser's
//! types. Nothing here calls an export.

use externfs::{
    Attr, CreateFlags, DeviceNumber, Entry, Errno, FileCache, FileKind, GuestGid, GuestUid, Handle, Mode, NewNode, OpenFlags, SetTime,
    Timestamp, WriteFlags,
};
use fuser::{FileAttr, FileType, FopenFlags, INodeNo, TimeOrNow};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An errno for fuser.
pub(crate) fn errno(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.raw())
}

/// `new_encode_dev` of the kernel's include/linux/kdev_t.h: 12 bits of major,
/// 20 of minor. FUSE carries no larger ones.
pub(crate) fn encode_device(device: DeviceNumber) -> u32 {
    (device.minor & 0xff) | ((device.major & 0xfff) << 8) | ((device.minor & 0xf_ff00) << 12)
}

/// The inverse of [`encode_device`].
pub(crate) fn decode_device(encoded: u32) -> DeviceNumber {
    DeviceNumber { major: (encoded >> 8) & 0xfff, minor: (encoded & 0xff) | ((encoded >> 12) & 0xf_ff00) }
}

/// For fuser, which turns it into the same seconds and nanoseconds again. What
/// `SystemTime` cannot hold becomes the epoch.
pub(crate) fn system_time(time: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let base = if time.seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    base.and_then(|base| base.checked_add(Duration::from_nanos(u64::from(time.nanoseconds)))).unwrap_or(UNIX_EPOCH)
}

/// What the kernel sent, from what fuser 0.18 makes of it: before 1970 it goes
/// back by seconds *and* nanoseconds (its `system_time_from_time`), although
/// the nanoseconds count forward. A test on a real mount holds us to it.
pub(crate) fn timestamp(time: SystemTime) -> Timestamp {
    let (seconds, part) = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after),
        Err(before) => (0i64.saturating_sub_unsigned(before.duration().as_secs()), before.duration()),
    };
    Timestamp { seconds, nanoseconds: part.subsec_nanos() }
}

/// A time of SETATTR.
pub(crate) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(timestamp(time)),
    }
}

/// A type of file.
pub(crate) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::BlockDevice => FileType::BlockDevice,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
    }
}

/// Attributes as fuser wants them. `id` is what the kernel will call the node:
/// fuser takes the node's number for its `st_ino`.
pub(crate) fn file_attr(id: u64, attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(id),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.mode.bits() as u16,
        nlink: attr.nlink,
        uid: attr.uid.0,
        gid: attr.gid.0,
        rdev: encode_device(attr.device),
        blksize: attr.block_size,
        flags: 0,
    }
}

/// Attributes of an entry.
pub(crate) fn entry_attr(entry: &Entry) -> FileAttr {
    file_attr(entry.id.0, &entry.attr)
}

/// The entry that says "no such name" and may be remembered: number 0.
pub(crate) fn no_entry_attr() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

/// Attributes that the kernel will not believe (`fuse_invalid_attr` of
/// fs/fuse/dir.c refuses such a size) but whose number and type it lists.
pub(crate) fn listed_only_attr(number: u64, kind: FileKind) -> FileAttr {
    FileAttr { ino: INodeNo(number), size: u64::MAX, kind: file_type(kind), ..no_entry_attr() }
}

/// `FMODE_EXEC` of the kernel, which fs/fuse/file.c leaves in the open flags.
const FMODE_EXEC: i32 = 0x20;

/// Flags of open(2), as the kernel sends them.
pub(crate) fn open_flags(flags: i32) -> OpenFlags {
    let access = flags & libc::O_ACCMODE;
    OpenFlags {
        read: access != libc::O_WRONLY,
        write: access != libc::O_RDONLY,
        append: flags & libc::O_APPEND != 0,
        truncate: flags & libc::O_TRUNC != 0,
        sync: flags & libc::O_DSYNC != 0,
        direct: flags & libc::O_DIRECT != 0,
        noatime: flags & libc::O_NOATIME != 0,
        exec: flags & FMODE_EXEC != 0,
        kill_suid_sgid: false,
    }
}

/// Flags and mode of CREATE.
pub(crate) fn create_flags(mode: u32, flags: i32) -> CreateFlags {
    CreateFlags { mode: Mode::new(mode), exclusive: flags & libc::O_EXCL != 0, open: open_flags(flags) }
}

/// How a write is done: the file's flags at this moment, and the request's own.
pub(crate) fn write_flags(request: fuser::WriteFlags, file: i32) -> WriteFlags {
    let cached = request.contains(fuser::WriteFlags::FUSE_WRITE_CACHE);
    WriteFlags {
        // A page that is written back has its place already.
        append: !cached && file & libc::O_APPEND != 0,
        sync: file & libc::O_DSYNC != 0,
        cached,
        kill_suid_sgid: request.contains(fuser::WriteFlags::FUSE_WRITE_KILL_SUIDGID),
    }
}

/// What an open file tells the kernel. `quiet_close` leaves FLUSH out.
pub(crate) fn file_flags(handle: &Handle, quiet_close: bool) -> FopenFlags {
    let mut flags = match handle.cache {
        FileCache::Bypass => FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES,
        FileCache::Drop => FopenFlags::empty(),
        FileCache::Keep => FopenFlags::FOPEN_KEEP_CACHE,
    };
    flags.set(FopenFlags::FOPEN_NOFLUSH, quiet_close);
    flags
}

/// What an open listing tells the kernel.
pub(crate) fn listing_flags(handle: &Handle) -> FopenFlags {
    match handle.keep_listing {
        // Without KEEP_CACHE each opendir(3) would drop what the last one kept.
        true => FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE,
        false => FopenFlags::empty(),
    }
}

/// What MKNOD makes.
///
/// # Errors
/// EINVAL for a type that mknod(2) does not make.
pub(crate) fn new_node(mode: u32, device: u32) -> Result<NewNode<'static>, Errno> {
    Ok(match FileKind::from_mode(mode) {
        Some(FileKind::Regular) => NewNode::Regular,
        Some(FileKind::Fifo) => NewNode::Fifo,
        Some(FileKind::Socket) => NewNode::Socket,
        Some(FileKind::BlockDevice) => NewNode::BlockDevice(decode_device(device)),
        Some(FileKind::CharDevice) => NewNode::CharDevice(decode_device(device)),
        Some(FileKind::Directory | FileKind::Symlink) | None => return Err(Errno::EINVAL),
    })
}

/// An owner or group to set: the kernel's "leave it" never arrives here.
pub(crate) fn owner(uid: Option<u32>, gid: Option<u32>) -> (Option<GuestUid>, Option<GuestGid>) {
    (uid.map(GuestUid), gid.map(GuestGid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_survive_both_ways() {
        for (major, minor) in [(0, 0), (1, 3), (8, 255), (8, 256), (254, 0xf_ffff), (0xfff, 0xf_ffff)] {
            let device = DeviceNumber { major, minor };
            assert_eq!(decode_device(encode_device(device)), device);
        }
        // As stat(1) shows /dev/null and a minor above 255: kdev_t.h.
        assert_eq!(encode_device(DeviceNumber { major: 1, minor: 3 }), 0x103);
        assert_eq!(encode_device(DeviceNumber { major: 8, minor: 0x1_2345 }), 0x1230_0845);
    }

    #[test]
    fn times_before_1970_count_nanoseconds_forward() {
        let time = system_time(Timestamp { seconds: -2, nanoseconds: 800_000_000 });
        assert_eq!(UNIX_EPOCH.duration_since(time).unwrap(), Duration::from_millis(1200));
        for seconds in [i64::MIN, i64::MAX] {
            let _no_panic = system_time(Timestamp { seconds, nanoseconds: 999_999_999 });
        }
    }

    #[test]
    fn pages_written_back_keep_their_place() {
        let cache = fuser::WriteFlags::FUSE_WRITE_CACHE;
        assert!(!write_flags(cache, libc::O_APPEND).append);
        assert!(write_flags(fuser::WriteFlags::empty(), libc::O_APPEND | libc::O_WRONLY).append);
        assert!(write_flags(fuser::WriteFlags::empty(), libc::O_SYNC).sync);
        assert!(write_flags(fuser::WriteFlags::empty(), libc::O_DSYNC).sync);
    }

    #[test]
    fn open_flags_are_told_apart() {
        let flags = open_flags(libc::O_RDWR | libc::O_TRUNC | libc::O_APPEND | FMODE_EXEC);
        assert!(flags.read && flags.write && flags.truncate && flags.append && flags.exec);
        assert!(!flags.sync && !flags.direct && !flags.noatime && !flags.kill_suid_sgid);
        assert!(!open_flags(libc::O_WRONLY).read);
        assert!(!open_flags(libc::O_RDONLY).write);
    }

    #[test]
    fn mknod_makes_no_directories() {
        assert_eq!(new_node(libc::S_IFDIR | 0o755, 0), Err(Errno::EINVAL));
        assert_eq!(new_node(libc::S_IFLNK, 0), Err(Errno::EINVAL));
        assert_eq!(new_node(0, 0), Err(Errno::EINVAL));
        assert_eq!(new_node(libc::S_IFIFO, 0), Ok(NewNode::Fifo));
        assert_eq!(new_node(libc::S_IFCHR, 0x103), Ok(NewNode::CharDevice(DeviceNumber { major: 1, minor: 3 })));
    }
}
