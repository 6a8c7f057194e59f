//! What an operation takes and gives besides nodes and names.

use super::{Attr, DeviceNumber, GuestGid, GuestUid, Mode};

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
