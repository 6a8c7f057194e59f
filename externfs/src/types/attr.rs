//! What an object is, and how that is changed.

use super::{GuestGid, GuestUid};
use crate::error::Errno;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

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

    /// `2026-01-31 23:59:58`, in UTC: a guest's time zone is not ours to know.
    #[must_use]
    pub fn date(self) -> String {
        let (days, second) = (self.seconds.div_euclid(86_400), self.seconds.rem_euclid(86_400));
        // Howard Hinnant's civil_from_days: a year begins in March, 400 of them are an era.
        let shifted = i128::from(days) + 719_468;
        let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + i128::from(month <= 2);
        format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
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
