//! [`Device`]: an open /dev/fuse, with the ioctls that neither the standard
//! library nor rustix has. `unsafe` is here and in [`crate::uring`].
#![allow(unsafe_code)]

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

/// `_IOR(229, 0, uint32_t)`: makes a fresh /dev/fuse one more queue of a mount.
const FUSE_DEV_IOC_CLONE: libc::c_ulong = 0x8004_e500;
/// `_IOW(229, 1, struct fuse_backing_map)`: returns an id.
const FUSE_DEV_IOC_BACKING_OPEN: libc::c_ulong = 0x4010_e501;
/// `_IOW(229, 2, uint32_t)`.
const FUSE_DEV_IOC_BACKING_CLOSE: libc::c_ulong = 0x4004_e502;

/// `struct fuse_backing_map` of include/uapi/linux/fuse.h.
#[repr(C)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

/// The connection of one mount.
#[derive(Debug)]
pub(crate) struct Device(OwnedFd);

impl Device {
    pub(crate) fn new(device: OwnedFd) -> Device {
        Device(device)
    }

    /// Another queue of the same mount.
    pub(crate) fn try_clone(&self) -> io::Result<Device> {
        let fresh = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let source = self.0.as_raw_fd() as u32;
        // SAFETY: the ioctl reads one u32 through the pointer, which is that of
        // a live local; both descriptors are open for the call.
        check(unsafe { libc::ioctl(fresh.as_raw_fd(), FUSE_DEV_IOC_CLONE, &raw const source) })?;
        Ok(Device(fresh))
    }

    /// Reads one request; 0 when there is none left to come.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match rustix::io::read(&self.0, &mut *buffer) {
                Ok(len) => return Ok(len),
                // ENOENT: interrupted before we took it.
                Err(Errno::NOENT | Errno::INTR | Errno::AGAIN) => {}
                // Unmounted; or aborted, with ABORT_ERROR.
                Err(Errno::NODEV | Errno::CONNABORTED) => return Ok(0),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends an answer or a notification. The kernel takes all of it or none.
    pub(crate) fn write(&self, message: &[u8]) -> io::Result<()> {
        rustix::io::write(&self.0, message)?;
        Ok(())
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A host file that the kernel has been given; taken back when dropped.
#[derive(Debug)]
pub(crate) struct Backing {
    /// The kernel closes all ids with the connection.
    device: Weak<Device>,
    id: u32,
}

impl Backing {
    /// Registers `file`. The kernel writes to it with the rights that this
    /// thread has now, so it must not have CAP_FSETID: with that, and
    /// HANDLE_KILLPRIV_V2, a backed write by anybody would leave setuid where
    /// it is (the FUSE side drops nothing, and says nothing to us). Without, the
    /// host's file system drops it. So does a write by root, which would keep
    /// it natively: the safe side.
    pub(crate) fn open(device: &Arc<Device>, file: BorrowedFd<'_>) -> io::Result<Backing> {
        let map = BackingMap { fd: file.as_raw_fd(), flags: 0, padding: 0 };
        let open = || {
            // SAFETY: the ioctl reads one fuse_backing_map, whose layout
            // BackingMap has, through the pointer of a live local; both
            // descriptors are open.
            check(unsafe { libc::ioctl(device.0.as_raw_fd(), FUSE_DEV_IOC_BACKING_OPEN, &raw const map) })
        };
        let id = without_fsetid(open)??;
        Ok(Backing { device: Arc::downgrade(device), id: id.cast_unsigned() })
    }

    /// What an answer calls it.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        let Some(device) = self.device.upgrade() else { return };
        // SAFETY: the ioctl reads one u32 through the pointer of a live field;
        // the descriptor is open, since `device` is held.
        if let Err(error) = check(unsafe { libc::ioctl(device.0.as_raw_fd(), FUSE_DEV_IOC_BACKING_CLOSE, &raw const self.id) }) {
            tracing::debug!("backing file {} not closed: {error}", self.id);
        }
    }
}

/// Runs `act` on this thread without CAP_FSETID.
fn without_fsetid<T>(act: impl FnOnce() -> T) -> io::Result<T> {
    let before = rustix::thread::capabilities(None)?;
    if !before.effective.contains(CapabilitySet::FSETID) {
        return Ok(act());
    }
    let mut less = before;
    less.effective -= CapabilitySet::FSETID;
    rustix::thread::set_capabilities(None, less)?;
    let result = act();
    // Raising what is permitted cannot fail; if it does, setgid bits that a
    // guest sets may get lost, which is no danger.
    if let Err(error) = rustix::thread::set_capabilities(None, before) {
        tracing::error!("CAP_FSETID could not be taken back: {error}");
    }
    Ok(result)
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capability_is_away_for_a_moment_only() {
        let effective = || rustix::thread::capabilities(None).unwrap().effective;
        let before = effective();
        let during = without_fsetid(effective).unwrap();
        assert_eq!(during, before - CapabilitySet::FSETID);
        assert_eq!(effective(), before);
    }
}
