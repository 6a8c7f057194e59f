//! The vocabulary that plugins and frontends share. No protocol's numbers
//! here: a frontend converts them in and out.

use crate::error::Errno;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A user id as the guest sees it. Only a named map turns it into a host's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct GuestUid(pub u32);

/// A group id as the guest sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct GuestGid(pub u32);

/// Number of a node for one frontend; never 0. The root's is [`NodeId::ROOT`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The exported directory itself (`FUSE_ROOT_ID`).
    pub const ROOT: NodeId = NodeId(1);
}

/// Number of an open file or listing for one frontend.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HandleId(pub u64);

/// What makes two lookups the same object: a plugin's claim of identity.
///
/// For host files: device, inode number, birth time in nanoseconds, so that
/// hard links are one node and the reuse of an inode number is noticed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NodeKey {
    /// The file system within the export; a change of it marks a submount.
    pub volume: u64,
    /// The object's number there. Corresponds to `st_ino`.
    pub number: u64,
    /// Tells two objects apart that had the same number one after the other.
    pub generation: u64,
}

/// The seven types of file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub enum FileKind {
    Regular,
    Directory,
    Symlink,
    BlockDevice,
    CharDevice,
    Fifo,
    Socket,
}

impl FileKind {
    /// All of them, in the order of their discriminants (`as u8`), for those
    /// who keep a kind in three bits.
    pub const ALL: [FileKind; 7] = [
        FileKind::Regular,
        FileKind::Directory,
        FileKind::Symlink,
        FileKind::BlockDevice,
        FileKind::CharDevice,
        FileKind::Fifo,
        FileKind::Socket,
    ];

    /// The kind in the `S_IFMT` bits of `mode`; None when they name none.
    #[must_use]
    pub fn from_mode(mode: u32) -> Option<FileKind> {
        Some(match mode & libc::S_IFMT {
            libc::S_IFREG => FileKind::Regular,
            libc::S_IFDIR => FileKind::Directory,
            libc::S_IFLNK => FileKind::Symlink,
            libc::S_IFBLK => FileKind::BlockDevice,
            libc::S_IFCHR => FileKind::CharDevice,
            libc::S_IFIFO => FileKind::Fifo,
            libc::S_IFSOCK => FileKind::Socket,
            _ => return None,
        })
    }

    /// The `S_IFMT` bits.
    #[must_use]
    pub fn mode_bits(self) -> u32 {
        match self {
            FileKind::Regular => libc::S_IFREG,
            FileKind::Directory => libc::S_IFDIR,
            FileKind::Symlink => libc::S_IFLNK,
            FileKind::BlockDevice => libc::S_IFBLK,
            FileKind::CharDevice => libc::S_IFCHR,
            FileKind::Fifo => libc::S_IFIFO,
            FileKind::Socket => libc::S_IFSOCK,
        }
    }

    /// The kind in a `d_type` of readdir(3); None for `DT_UNKNOWN`.
    #[must_use]
    pub fn from_dirent_type(d_type: u8) -> Option<FileKind> {
        FileKind::from_mode(u32::from(d_type) << 12)
    }

    /// The `d_type` of readdir(3).
    #[must_use]
    pub fn dirent_type(self) -> u8 {
        (self.mode_bits() >> 12) as u8
    }

    /// Whether mknod(2) makes it with a device number.
    #[must_use]
    pub fn is_device(self) -> bool {
        matches!(self, FileKind::BlockDevice | FileKind::CharDevice)
    }
}

/// Permission bits with setuid, setgid and sticky: 12 bits, nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mode(u16);

impl Mode {
    /// The low 12 bits of `bits`; a type in the upper ones is dropped.
    #[must_use]
    pub fn new(bits: u32) -> Mode {
        Mode((bits & 0o7777) as u16)
    }

    /// The 12 bits.
    #[must_use]
    pub fn bits(self) -> u32 {
        u32::from(self.0)
    }
}

impl fmt::Debug for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// A device number, whole.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[allow(missing_docs)]
pub struct DeviceNumber {
    pub major: u32,
    pub minor: u32,
}

/// A point in time, to the nanosecond, before or after 1970.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Timestamp {
    /// Seconds since the epoch.
    pub seconds: i64,
    /// Nanoseconds within the second: 0 to 999,999,999.
    pub nanoseconds: u32,
}

impl Timestamp {
    /// The present.
    #[must_use]
    pub fn now() -> Timestamp {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp { seconds: now.as_secs() as i64, nanoseconds: now.subsec_nanos() }
    }

    /// Checks a guest's numbers.
    ///
    /// # Errors
    /// EINVAL for a second or more of nanoseconds, as utimensat(2) says.
    pub fn new(seconds: i64, nanoseconds: u32) -> Result<Timestamp, Errno> {
        if nanoseconds < 1_000_000_000 { Ok(Timestamp { seconds, nanoseconds }) } else { Err(Errno::EINVAL) }
    }

    /// Nanoseconds since the epoch, wrapping: for identity, not for arithmetic.
    #[must_use]
    pub fn to_nanoseconds_wrapping(self) -> i64 {
        self.seconds.wrapping_mul(1_000_000_000).wrapping_add(i64::from(self.nanoseconds))
    }
}

/// What stat(2) and statx(2) tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attr {
    /// Corresponds to `st_ino`.
    pub ino: u64,
    /// Bytes. Corresponds to `st_size`.
    pub size: u64,
    /// Units of 512 bytes. Corresponds to `st_blocks`.
    pub blocks: u64,
    /// Preferred I/O size in bytes. Corresponds to `st_blksize`.
    pub block_size: u32,
    /// Corresponds to the type bits of `st_mode`.
    pub kind: FileKind,
    /// Corresponds to the permission bits of `st_mode`.
    pub mode: Mode,
    /// Corresponds to `st_nlink`.
    pub nlink: u32,
    /// Corresponds to `st_uid`.
    pub uid: GuestUid,
    /// Corresponds to `st_gid`.
    pub gid: GuestGid,
    /// 0:0 unless the kind is a device. Corresponds to `st_rdev`.
    pub device: DeviceNumber,
    /// Corresponds to `st_atim`.
    pub atime: Timestamp,
    /// Corresponds to `st_mtim`.
    pub mtime: Timestamp,
    /// Corresponds to `st_ctim`.
    pub ctime: Timestamp,
    /// None where the host records none. Corresponds to `stx_btime`.
    pub btime: Option<Timestamp>,
}

/// A time to set: utimensat(2) without `UTIME_OMIT`, which is None.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// The server's present (`UTIME_NOW`).
    Now,
    /// This very time.
    At(Timestamp),
}

/// The fields to change; None leaves one alone. All or nothing where the
/// plugin can; each plugin's contract says where it cannot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SetAttr {
    /// chmod(2).
    pub mode: Option<Mode>,
    /// chown(2).
    pub uid: Option<GuestUid>,
    /// chown(2).
    pub gid: Option<GuestGid>,
    /// truncate(2), in bytes.
    pub size: Option<u64>,
    /// utimensat(2).
    pub atime: Option<SetTime>,
    /// utimensat(2).
    pub mtime: Option<SetTime>,
    /// Sent by kernels that keep times themselves (writeback caches); a host
    /// cannot set it, so plugins over host files ignore it.
    pub ctime: Option<Timestamp>,
    /// Drop setuid, and setgid where group-executable, as part of the change:
    /// the kernel leaves it to us (`FATTR_KILL_SUIDGID`).
    pub kill_suid_sgid: bool,
}

/// What to create: mkdir(2), symlink(2), mknod(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NewNode<'a> {
    /// A directory.
    Directory,
    /// A symbolic link with this target: 1 to 4095 bytes without NUL.
    Symlink(&'a [u8]),
    /// An empty regular file, not opened.
    Regular,
    /// A FIFO.
    Fifo,
    /// A socket's name.
    Socket,
    /// A block device node.
    BlockDevice(DeviceNumber),
    /// A character device node.
    CharDevice(DeviceNumber),
}

/// On whose behalf an operation runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    /// Effective (file-system) user id.
    pub uid: GuestUid,
    /// Effective (file-system) group id.
    pub gid: GuestGid,
    /// Process id where the frontend knows it, else 0.
    pub pid: u32,
    /// Bits that a new object's mode loses, unless its directory has a default
    /// ACL: acl(5).
    pub umask: u32,
    /// One supplementary group that matters for the object to be created,
    /// where the protocol tells it (`FUSE_CREATE_SUPP_GROUP` sends the
    /// directory's group if the caller belongs to it).
    pub supplementary_group: Option<GuestGid>,
}

impl Caller {
    /// Guest root, umask 0.
    #[must_use]
    pub fn root() -> Caller {
        Caller { uid: GuestUid(0), gid: GuestGid(0), pid: 0, umask: 0, supplementary_group: None }
    }
}

/// How a file is opened. What the guest's kernel does itself (`O_CREAT`
/// decisions, `O_NOFOLLOW`, `O_CLOEXEC`) is gone by now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenFlags {
    /// `O_RDONLY` or `O_RDWR`.
    pub read: bool,
    /// `O_WRONLY` or `O_RDWR`.
    pub write: bool,
    /// `O_APPEND`; each write says it again, since fcntl(2) can change it.
    pub append: bool,
    /// `O_TRUNC`, where the kernel leaves it to us.
    pub truncate: bool,
    /// `O_SYNC` or `O_DSYNC`.
    pub sync: bool,
    /// `O_DIRECT`.
    pub direct: bool,
    /// `O_NOATIME`.
    pub noatime: bool,
    /// Opened by execve(2): read only, whatever the mode says.
    pub exec: bool,
    /// Drop setuid and setgid with the truncation (`FUSE_OPEN_KILL_SUIDGID`).
    pub kill_suid_sgid: bool,
}

/// What creating a file takes besides its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CreateFlags {
    /// Permission bits before the caller's umask.
    pub mode: Mode,
    /// `O_EXCL`: EEXIST when the name is taken.
    pub exclusive: bool,
    /// How the new file is opened.
    pub open: OpenFlags,
}

/// What the guest's kernel may keep of an open file's data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileCache {
    /// Nothing: every read and write comes to us (`FOPEN_DIRECT_IO`).
    Bypass,
    /// New pages; what it had from before this open is dropped.
    Drop,
    /// Its old pages too: the file has not changed since the kernel was last
    /// told its attributes (`FOPEN_KEEP_CACHE`).
    Keep,
}

/// A freshly opened file.
#[derive(Debug)]
pub struct Opened<F> {
    /// Closed by dropping it.
    pub file: F,
    /// Whether cached pages may stay.
    pub cache: FileCache,
    /// Bytes that it had when it was opened, after any truncation: a hint for
    /// how it is best served.
    pub size: u64,
}

/// A freshly created and opened file.
#[derive(Debug)]
pub struct Created<N, F> {
    /// The new file's place.
    pub node: N,
    /// Its attributes, read after its creation.
    pub attr: Attr,
    /// The open file.
    pub opened: Opened<F>,
}

/// How a write is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WriteFlags {
    /// At the end, whatever the offset says (`O_APPEND` at the time of the write).
    pub append: bool,
    /// Durable before the answer (`O_SYNC`, `O_DSYNC` at the time of the write).
    pub sync: bool,
    /// Written back from the kernel's page cache, by nobody in particular.
    pub cached: bool,
    /// Drop setuid, setgid and capabilities first.
    pub kill_suid_sgid: bool,
}

bitflags::bitflags! {
    /// Flags of renameat2(2).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct RenameFlags: u32 {
        /// EEXIST instead of replacing.
        const NOREPLACE = libc::RENAME_NOREPLACE;
        /// The two names change places.
        const EXCHANGE = libc::RENAME_EXCHANGE;
        /// Leave a whiteout (char device 0:0) behind, for overlay file systems.
        const WHITEOUT = libc::RENAME_WHITEOUT;
    }

    /// Flags of fallocate(2). Every mode that the host has goes through.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct FallocateFlags: i32 {
        /// Leave the size alone.
        const KEEP_SIZE = libc::FALLOC_FL_KEEP_SIZE;
        /// Deallocate; needs `KEEP_SIZE`.
        const PUNCH_HOLE = libc::FALLOC_FL_PUNCH_HOLE;
        /// Remove the range, moving what follows.
        const COLLAPSE_RANGE = libc::FALLOC_FL_COLLAPSE_RANGE;
        /// Zero the range.
        const ZERO_RANGE = libc::FALLOC_FL_ZERO_RANGE;
        /// Insert a hole, moving what follows.
        const INSERT_RANGE = libc::FALLOC_FL_INSERT_RANGE;
        /// Unshare shared extents.
        const UNSHARE_RANGE = libc::FALLOC_FL_UNSHARE_RANGE;
        /// Write zeroes to the device, where the host kernel has it (6.17).
        const WRITE_ZEROES = 0x80;
    }

    /// Flags of setxattr(2).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct XattrFlags: i32 {
        /// EEXIST if it is there.
        const CREATE = libc::XATTR_CREATE;
        /// ENODATA if it is not.
        const REPLACE = libc::XATTR_REPLACE;
        /// An ACL is set whose change may cost the file its setgid bit
        /// (`FUSE_SETXATTR_ACL_KILL_SGID`).
        const KILL_SGID = 1 << 16;
    }

    /// Permissions asked for by access(2).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Access: u32 {
        /// `R_OK`.
        const READ = 4;
        /// `W_OK`.
        const WRITE = 2;
        /// `X_OK`.
        const EXECUTE = 1;
    }

    /// Inode flags of ioctl_iflags(2), as `FS_IOC_GETFLAGS` gives them.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct InodeFlags: u32 {
        /// `FS_SYNC_FL`.
        const SYNC = 0x8;
        /// `FS_IMMUTABLE_FL`: needs CAP_LINUX_IMMUTABLE to change.
        const IMMUTABLE = 0x10;
        /// `FS_APPEND_FL`: needs CAP_LINUX_IMMUTABLE to change.
        const APPEND = 0x20;
        /// `FS_NODUMP_FL`.
        const NODUMP = 0x40;
        /// `FS_NOATIME_FL`.
        const NOATIME = 0x80;
        /// All others, carried as they are.
        const _ = !0;
    }
}

/// What lseek(2) looks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SeekFor {
    /// `SEEK_DATA`.
    Data,
    /// `SEEK_HOLE`.
    Hole,
}

/// The two families of advisory lock, which never see each other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LockFamily {
    /// flock(2): whole files, owned by the open file.
    Flock,
    /// fcntl(2): byte ranges, owned by a process or open file.
    Posix,
}

/// What a lock request wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockKind {
    /// Shared.
    Read,
    /// Exclusive.
    Write,
    /// None: release.
    Unlock,
}

/// An advisory lock, asked for or found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lock {
    /// Which family.
    pub family: LockFamily,
    /// What kind.
    pub kind: LockKind,
    /// The guest's name for who holds it.
    pub owner: u64,
    /// First byte.
    pub start: u64,
    /// Last byte, inclusive; `u64::MAX` or anything past `i64::MAX` is the end
    /// of the file, wherever that moves.
    pub end: u64,
    /// The holder's process id where known, else 0.
    pub pid: u32,
}

/// What fills the file system. Corresponds to statvfs(3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StatFs {
    /// Unit of the block counts, in bytes. Corresponds to `f_frsize`.
    pub block_size: u32,
    /// Corresponds to `f_blocks`.
    pub blocks: u64,
    /// Corresponds to `f_bfree`.
    pub blocks_free: u64,
    /// Corresponds to `f_bavail`.
    pub blocks_available: u64,
    /// Corresponds to `f_files`.
    pub inodes: u64,
    /// Corresponds to `f_ffree`.
    pub inodes_free: u64,
    /// Longest name in bytes. Corresponds to `f_namemax`.
    pub name_max: u32,
}

/// One name of a directory. `.` and `..` are listed too, each with a `next` of
/// its own; the bridge puts the right numbers in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirEntry<'a> {
    /// The component's bytes, checked by the bridge before a guest sees them.
    pub name: &'a [u8],
    /// The object's number. Corresponds to `d_ino`.
    pub ino: u64,
    /// None where it takes a look at the object to tell; guests then look for
    /// themselves. Corresponds to `d_type`.
    pub kind: Option<FileKind>,
    /// Where a listing goes on after this entry; never 0, and still right when
    /// other names come and go. Corresponds to `d_off`.
    pub next: u64,
}

/// How long and what a guest's kernel may remember: one policy a mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CachePolicy {
    /// Attributes.
    pub attr: Duration,
    /// That a name leads to a node.
    pub entry: Duration,
    /// That a name leads nowhere; zero for not at all.
    pub negative: Duration,
    /// Listings of directories (`FOPEN_CACHE_DIR`).
    pub listings: bool,
    /// Written data stays in the kernel until it writes back.
    pub writeback: bool,
    /// Several kernels on one bridge see each other's changes at once: one
    /// that cannot be notified then remembers nothing, whatever the times
    /// above say. Off where the user has said that nobody else looks.
    pub coherent: bool,
    /// Nothing changes but by requests through the bridge, so a kernel that is
    /// told of those of others keeps data and targets of links however the
    /// times of a file move.
    pub exclusive: bool,
}

impl CachePolicy {
    /// Nothing is remembered: each look is a request.
    pub const NONE: CachePolicy = CachePolicy {
        attr: Duration::ZERO,
        entry: Duration::ZERO,
        negative: Duration::ZERO,
        listings: false,
        writeback: false,
        coherent: true,
        exclusive: false,
    };
}

/// Sizes that a plugin can take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Longest component in bytes, at most [`crate::NAME_LIMIT`].
    pub name_max: usize,
    /// Most open files and listings of one frontend; ENFILE past it.
    pub handles_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { name_max: 255, handles_max: 1 << 16 }
    }
}

/// What a plugin can do beyond the required; frontends negotiate with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    /// POSIX ACLs travel as `system.posix_acl_*` xattrs and are honoured.
    pub posix_acl: bool,
    /// Locks are kept by the plugin and seen by other users of the files.
    pub locks: bool,
    /// The plugin drops setuid, setgid and capabilities when asked by the
    /// `kill_suid_sgid` fields.
    pub kill_priv: bool,
    /// `create_unnamed` works.
    pub tmpfile: bool,
    /// Directories on other volumes are announced as mount points.
    pub submounts: bool,
}

/// A change that did not come through this frontend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change<K> {
    /// Attributes, and with `data` also the contents, of this node.
    Node {
        /// Which node.
        node: K,
        /// Whether cached pages must go too.
        data: bool,
    },
    /// What this name in this directory leads to.
    Entry {
        /// The directory.
        parent: K,
        /// The component's bytes.
        name: Vec<u8>,
    },
}
