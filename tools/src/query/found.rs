//! [`Found`]: an object of the host, as a catalog has it.

use super::number::Volume;
use externfs::{Attr, DeviceNumber, FileKind, GuestGid, GuestUid, Mode, Timestamp};
use externfs_catalog::{Extra, Xattr};
use rustix::fs::{AtFlags, Statx, StatxFlags, StatxTimestamp};
use rustix::io::{Errno, Result};
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Bytes of the names or of the value of extended attributes, as Linux limits them.
const XATTR_MAX: usize = 64 << 10;

/// What one who looks at many objects needs again and again.
pub(super) struct Tools {
    path: Vec<u8>,
    /// How much of `path` names the directory.
    base: usize,
    names: Vec<u8>,
    value: Vec<u8>,
}

/// See the [module](self).
pub(super) struct Found {
    pub(super) attr: Attr,
    pub(super) volume: Volume,
}

impl Found {
    /// What `name` in `dir` is; with the empty name, `dir` itself.
    pub(super) fn look(dir: BorrowedFd<'_>, name: &CStr) -> Result<Found> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::EMPTY_PATH;
        let stat = rustix::fs::statx(dir, name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID)?;
        let attr = attr(&stat).ok_or(Errno::IO)?;
        let has_mount = stat.stx_mask & StatxFlags::MNT_ID.bits() != 0;
        let volume = Volume { mount: if has_mount { stat.stx_mnt_id } else { 0 }, device: (stat.stx_dev_major, stat.stx_dev_minor) };
        Ok(Found { attr, volume })
    }
}

fn attr(stat: &Statx) -> Option<Attr> {
    let mode = u32::from(stat.stx_mode);
    let kind = FileKind::from_mode(mode)?;
    let device = DeviceNumber { major: stat.stx_rdev_major, minor: stat.stx_rdev_minor };
    Some(Attr {
        ino: stat.stx_ino,
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        block_size: stat.stx_blksize,
        kind,
        mode: Mode::new(mode & 0o7777),
        nlink: stat.stx_nlink,
        uid: GuestUid(stat.stx_uid),
        gid: GuestGid(stat.stx_gid),
        device: if kind.is_device() { device } else { DeviceNumber::default() },
        atime: timestamp(&stat.stx_atime),
        mtime: timestamp(&stat.stx_mtime),
        ctime: timestamp(&stat.stx_ctime),
        btime: (stat.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| timestamp(&stat.stx_btime)),
    })
}

fn timestamp(time: &StatxTimestamp) -> Timestamp {
    Timestamp { seconds: time.tv_sec, nanoseconds: time.tv_nsec }
}

impl Tools {
    pub(super) fn new() -> Tools {
        Tools { path: Vec::new(), base: 0, names: vec![0; XATTR_MAX], value: vec![0; XATTR_MAX] }
    }

    /// The names that follow are in `dir`. Attributes are read by path, without
    /// opening what may be a device or a FIFO; and there is no such call that
    /// takes a directory.
    pub(super) fn enter(&mut self, dir: BorrowedFd<'_>) {
        self.path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
        self.base = self.path.len();
    }

    /// What stat(2) does not tell of `name`, as far as it can be had.
    pub(super) fn extra(&mut self, dir: BorrowedFd<'_>, name: &CStr, kind: FileKind) -> Extra {
        let target = match kind {
            FileKind::Symlink => rustix::fs::readlinkat(dir, name, Vec::new()).ok().map(|target| target.into_bytes().into()),
            _ => None,
        };
        self.path.truncate(self.base);
        self.path.extend_from_slice(name.to_bytes());
        Extra { target, xattrs: self.xattrs().unwrap_or_default() }
    }

    fn xattrs(&mut self) -> Result<Vec<Xattr>> {
        let length = rustix::fs::llistxattr(&*self.path, &mut *self.names)?;
        let names = self.names.get(..length).unwrap_or_default();
        let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        let mut all = Vec::new();
        for name in names {
            // One that is gone by now, or that is not shown to us.
            let Ok(length) = rustix::fs::lgetxattr(&*self.path, name, &mut *self.value) else { continue };
            all.push((name.into(), self.value.get(..length).unwrap_or_default().into()));
        }
        Ok(all)
    }
}
