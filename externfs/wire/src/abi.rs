//! Numbers of the FUSE protocol as the kernel's `include/uapi/linux/fuse.h`
//! fixes them, ABI 7.45 (Linux 6.18).

use bitflags::bitflags;

/// Major version of the protocol (`FUSE_KERNEL_VERSION`).
pub const MAJOR: u32 = 7;
/// The newest minor version that this crate speaks.
pub const MINOR: u32 = 45;
/// The oldest minor version that it serves (Linux 5.4).
pub const MINOR_OLDEST: u32 = 31;

/// Bytes of `fuse_in_header`.
pub const REQUEST_HEADER_LEN: usize = 40;
/// Bytes that a request may have besides the data of a WRITE: a transport
/// that reads whole messages needs a buffer of `max_write` and this many. The
/// kernel wants room for its header and `fuse_write_in` (80 bytes) and at
/// least `FUSE_MIN_READ_BUFFER` (8192) in all; a SETXATTR of the largest value
/// needs 64 KiB, which every `max_write` here leaves room for.
pub const REQUEST_OVERHEAD: usize = 4096;

bitflags! {
    /// What kernel and server agree upon in INIT (`flags` and, shifted up 32
    /// bits, `flags2`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct InitFlags: u64 {
        /// Several READs of one file at once.
        const ASYNC_READ = 1 << 0;
        /// fcntl(2) locks are the server's.
        const POSIX_LOCKS = 1 << 1;
        /// Never used by any kernel.
        const FILE_OPS = 1 << 2;
        /// OPEN truncates by itself.
        const ATOMIC_O_TRUNC = 1 << 3;
        /// LOOKUP of `.` and `..` for NFS handles.
        const EXPORT_SUPPORT = 1 << 4;
        /// WRITEs of more than a page.
        const BIG_WRITES = 1 << 5;
        /// The umask is the server's to apply.
        const DONT_MASK = 1 << 6;
        /// splice(2) to the device.
        const SPLICE_WRITE = 1 << 7;
        /// Pages moved by splice(2).
        const SPLICE_MOVE = 1 << 8;
        /// splice(2) from the device.
        const SPLICE_READ = 1 << 9;
        /// flock(2) locks are the server's.
        const FLOCK_LOCKS = 1 << 10;
        /// IOCTL of directories.
        const HAS_IOCTL_DIR = 1 << 11;
        /// A changed size or mtime drops cached pages.
        const AUTO_INVAL_DATA = 1 << 12;
        /// READDIRPLUS.
        const DO_READDIRPLUS = 1 << 13;
        /// READDIRPLUS where it seems to pay.
        const READDIRPLUS_AUTO = 1 << 14;
        /// Asynchronous direct I/O.
        const ASYNC_DIO = 1 << 15;
        /// Written data stays in the kernel for a while.
        const WRITEBACK_CACHE = 1 << 16;
        /// ENOSYS to OPEN means that none is needed.
        const NO_OPEN_SUPPORT = 1 << 17;
        /// LOOKUP and READDIR of one directory at once.
        const PARALLEL_DIROPS = 1 << 18;
        /// The server drops setuid and setgid on its own.
        const HANDLE_KILLPRIV = 1 << 19;
        /// ACLs of acl(5).
        const POSIX_ACL = 1 << 20;
        /// ECONNABORTED after an abort.
        const ABORT_ERROR = 1 << 21;
        /// Requests of more than 32 pages.
        const MAX_PAGES = 1 << 22;
        /// Targets of links stay in the kernel.
        const CACHE_SYMLINKS = 1 << 23;
        /// ENOSYS to OPENDIR means that none is needed.
        const NO_OPENDIR_SUPPORT = 1 << 24;
        /// Only a notification drops cached pages.
        const EXPLICIT_INVAL_DATA = 1 << 25;
        /// DAX mappings.
        const MAP_ALIGNMENT = 1 << 26;
        /// Directories announced as mount points.
        const SUBMOUNTS = 1 << 27;
        /// The server drops setuid and setgid when told.
        const HANDLE_KILLPRIV_V2 = 1 << 28;
        /// The longer `fuse_setxattr_in`.
        const SETXATTR_EXT = 1 << 29;
        /// `flags2` is there.
        const INIT_EXT = 1 << 30;
        /// Security labels with what is made.
        const SECURITY_CTX = 1 << 32;
        /// DAX by file.
        const HAS_INODE_DAX = 1 << 33;
        /// The maker's membership of the directory's group.
        const CREATE_SUPP_GROUP = 1 << 34;
        /// Names can be expired, not only dropped.
        const HAS_EXPIRE_ONLY = 1 << 35;
        /// Shared mappings of uncached files.
        const DIRECT_IO_ALLOW_MMAP = 1 << 36;
        /// Backing files.
        const PASSTHROUGH = 1 << 37;
        /// No NFS export.
        const NO_EXPORT_SUPPORT = 1 << 38;
        /// Requests can be sent again.
        const HAS_RESEND = 1 << 39;
        /// Id-mapped mounts.
        const ALLOW_IDMAP = 1 << 40;
        /// Requests over io_uring.
        const OVER_IO_URING = 1 << 41;
        /// Requests time out.
        const REQUEST_TIMEOUT = 1 << 42;
        /// What a newer kernel offers is kept for the log.
        const _ = !0;
    }

    /// `fuse_setattr_in.valid`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) struct SetAttrValid: u32 {
        const MODE = 1 << 0;
        const UID = 1 << 1;
        const GID = 1 << 2;
        const SIZE = 1 << 3;
        const ATIME = 1 << 4;
        const MTIME = 1 << 5;
        const FH = 1 << 6;
        const ATIME_NOW = 1 << 7;
        const MTIME_NOW = 1 << 8;
        const LOCKOWNER = 1 << 9;
        const CTIME = 1 << 10;
        const KILL_SUIDGID = 1 << 11;
        const _ = !0;
    }

    /// `fuse_open_out.open_flags`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) struct OpenReply: u32 {
        const DIRECT_IO = 1 << 0;
        const KEEP_CACHE = 1 << 1;
        const CACHE_DIR = 1 << 3;
        const NOFLUSH = 1 << 5;
        const PARALLEL_DIRECT_WRITES = 1 << 6;
        const PASSTHROUGH = 1 << 7;
    }
}

/// `fuse_getattr_in.getattr_flags`: the handle is there.
pub(crate) const GETATTR_FH: u32 = 1 << 0;
/// `fuse_open_in.open_flags`: drop setuid and setgid with the truncation.
pub(crate) const OPEN_KILL_SUIDGID: u32 = 1 << 0;
/// `fuse_write_in.write_flags`.
pub(crate) const WRITE_CACHE: u32 = 1 << 0;
/// `fuse_write_in.write_flags`.
pub(crate) const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// `fuse_release_in.release_flags`.
pub(crate) const RELEASE_FLUSH: u32 = 1 << 0;
/// `fuse_release_in.release_flags`.
pub(crate) const RELEASE_FLOCK_UNLOCK: u32 = 1 << 1;
/// `fuse_fsync_in.fsync_flags`.
pub(crate) const FSYNC_DATA_ONLY: u32 = 1 << 0;
/// `fuse_setxattr_in.setxattr_flags`.
pub(crate) const SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;
/// `fuse_lk_in.lk_flags`.
pub(crate) const LK_FLOCK: u32 = 1 << 0;
/// `fuse_ioctl_in.flags`: CUSE only, with memory layouts of the caller's.
pub(crate) const IOCTL_UNRESTRICTED: u32 = 1 << 1;
/// `fuse_ioctl_in.flags`: the handle is a directory's.
pub(crate) const IOCTL_DIR: u32 = 1 << 4;
/// `fuse_attr.flags`.
pub(crate) const ATTR_SUBMOUNT: u32 = 1 << 0;
/// `fuse_ext_header.type`: `fuse_supp_groups`.
pub(crate) const EXT_GROUPS: u32 = 32;
/// `__FMODE_EXEC` of the kernel's include/linux/fs.h, which OPEN passes on.
pub(crate) const OPEN_EXEC: u32 = 0x20;
/// `fuse_in_header.unique` of an INTERRUPT on /dev/fuse is its request's with this bit.
pub const UNIQUE_INTERRUPT: u64 = 1;

/// What follows the `fuse_in_header` in front of names and data, in bytes.
pub(crate) mod size {
    pub(crate) const FORGET_ONE: usize = 16;
    pub(crate) const BATCH_FORGET: usize = 8;
    pub(crate) const WRITE: usize = 40;
    pub(crate) const ENTRY_OUT: usize = 128;
    pub(crate) const DIRENT: usize = 24;
    pub(crate) const EXT_HEADER: usize = 8;
}

/// Codes of the messages that go to the kernel unasked.
pub(crate) mod notify {
    pub(crate) const INVAL_INODE: i32 = 2;
    pub(crate) const INVAL_ENTRY: i32 = 3;
    pub(crate) const STORE: i32 = 4;
    pub(crate) const RETRIEVE: i32 = 5;
    pub(crate) const DELETE: i32 = 6;
    pub(crate) const RESEND: i32 = 7;
    pub(crate) const INC_EPOCH: i32 = 8;
    pub(crate) const PRUNE: i32 = 9;
    pub(crate) const EXPIRE_ONLY: u32 = 1 << 0;
}
