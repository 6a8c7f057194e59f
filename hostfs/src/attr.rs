//! statx(2) and what becomes of it: identity, kind and [`Attr`].

use crate::fault::{Fault, fault};
use externfs::{Attr, DeviceNumber, Errno, Error, FileKind, Mode, NodeKey, Result, Timestamp};
use rustix::fs::{AtFlags, Statx, StatxAttributes, StatxFlags, StatxTimestamp};
use std::ffi::CStr;
use std::os::fd::BorrowedFd;

/// What we ask for. The mount id costs nothing and is not used, so not asked.
const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// Status of a host object.
pub(crate) struct Stat(Statx);

/// What tells an object born at `btime` from others with its number.
pub(crate) fn generation(btime: Option<Timestamp>) -> u64 {
    btime.map_or(0, |born| born.to_nanoseconds_wrapping() as u64)
}

impl Stat {
    /// Of `name` in `dir`; a link there is not followed, an automount not
    /// triggered.
    pub(crate) fn of_name(dir: BorrowedFd<'_>, name: &CStr) -> Fault<Stat> {
        rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, WANTED).map(Stat)
    }

    /// As [`Stat::of_name`], by what this kernel knows itself: nobody who serves a
    /// file system is asked.
    pub(crate) fn known_of_name(dir: BorrowedFd<'_>, name: &CStr) -> Fault<Stat> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        rustix::fs::statx(dir, name, flags, WANTED).map(Stat)
    }

    /// Of an open descriptor, `O_PATH` or not.
    pub(crate) fn of_fd(fd: BorrowedFd<'_>) -> Fault<Stat> {
        rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, WANTED).map(Stat)
    }

    /// As [`Stat::of_fd`], with the failure worded for the log.
    pub(crate) fn of_open(fd: BorrowedFd<'_>) -> Result<Stat> {
        Stat::of_fd(fd).map_err(fault("statx of an open file"))
    }

    /// The device that holds it, as the kernel numbers it itself (`MKDEV`,
    /// include/linux/kdev_t.h): 12 and 20 bits, so that 32 hold it.
    pub(crate) fn volume(&self) -> u64 {
        Stat::volume_of(self.0.stx_dev_major, self.0.stx_dev_minor)
    }

    /// [`Stat::volume`] of the device with these numbers.
    pub(crate) fn volume_of(major: u32, minor: u32) -> u64 {
        u64::from(major << 20 | minor)
    }

    /// The mount through which it was reached, where the kernel tells (Linux 5.8).
    pub(crate) fn mount_id(&self) -> Option<u64> {
        (self.0.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(self.0.stx_mnt_id)
    }

    /// Device, inode number, birth time: a reused number shows as another
    /// birth time wherever the host records one.
    pub(crate) fn key(&self) -> NodeKey {
        NodeKey { volume: self.volume(), number: self.0.stx_ino, generation: generation(self.btime()) }
    }

    /// # Errors
    /// EIO for a type that stat(2) does not know.
    pub(crate) fn kind(&self) -> Result<FileKind> {
        FileKind::from_mode(u32::from(self.0.stx_mode))
            .ok_or_else(|| Error::because(Errno::EIO, format!("file type of mode {:o} is unknown", self.0.stx_mode)))
    }

    pub(crate) fn mode(&self) -> Mode {
        Mode::new(u32::from(self.0.stx_mode))
    }

    /// Whether it is setuid or setgid.
    pub(crate) fn has_setid(&self) -> bool {
        self.0.stx_mode & 0o6000 != 0
    }

    pub(crate) fn nlink(&self) -> u32 {
        self.0.stx_nlink
    }

    pub(crate) fn size(&self) -> u64 {
        self.0.stx_size
    }

    pub(crate) fn uid(&self) -> u32 {
        self.0.stx_uid
    }

    pub(crate) fn gid(&self) -> u32 {
        self.0.stx_gid
    }

    /// Whether something is mounted right here (Linux 5.8; false before).
    pub(crate) fn is_mount_root(&self) -> bool {
        self.0.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
    }

    /// A number that changes when the contents may have.
    pub(crate) fn stamp(&self) -> u64 {
        let mut sum = self.0.stx_size;
        for time in [&self.0.stx_mtime, &self.0.stx_ctime] {
            for part in [time.tv_sec as u64, u64::from(time.tv_nsec)] {
                // One step of FNV-1a on whole words: cheap, and each part counts.
                sum = (sum ^ part).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
            }
        }
        sum
    }

    fn btime(&self) -> Option<Timestamp> {
        (self.0.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| timestamp(&self.0.stx_btime))
    }

    /// For the guest, with owners as `ids` gives them.
    pub(crate) fn attr(&self, view: &View<'_>) -> Result<Attr> {
        let kind = self.kind()?;
        let mut mode = self.mode().bits();
        if view.hide_setid && kind != FileKind::Directory {
            mode &= !0o6000;
        }
        let device = if view.hide_devices {
            DeviceNumber::default()
        } else {
            DeviceNumber { major: self.0.stx_rdev_major, minor: self.0.stx_rdev_minor }
        };
        Ok(Attr {
            ino: self.0.stx_ino,
            size: self.0.stx_size,
            blocks: self.0.stx_blocks,
            block_size: self.0.stx_blksize,
            kind,
            mode: Mode::new(mode),
            nlink: self.0.stx_nlink,
            uid: view.ids.uid_to_guest(self.0.stx_uid),
            gid: view.ids.gid_to_guest(self.0.stx_gid),
            device: if kind.is_device() { device } else { DeviceNumber::default() },
            atime: timestamp(&self.0.stx_atime),
            mtime: timestamp(&self.0.stx_mtime),
            ctime: timestamp(&self.0.stx_ctime),
            btime: self.btime(),
        })
    }
}

/// How the guest is to see attributes.
pub(crate) struct View<'a> {
    pub(crate) ids: &'a crate::idmap::IdMap,
    /// `nosuid`.
    pub(crate) hide_setid: bool,
    /// `nodev`.
    pub(crate) hide_devices: bool,
}

fn timestamp(time: &StatxTimestamp) -> Timestamp {
    Timestamp { seconds: time.tv_sec, nanoseconds: time.tv_nsec }
}
