//! [`Call`]: what the guest is interrupted through.

use crate::foreign;
use crate::stuck::Stuck;
use rustix::fs::FileType;
use rustix::net::SendFlags;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A descriptor that interrupts the guest.
#[derive(Debug)]
pub(crate) struct Call {
    fd: OwnedFd,
    is_socket: bool,
    stuck: Arc<Stuck>,
}

impl Call {
    /// QEMU gives an eventfd, User Mode Linux one end of a stream socket,
    /// because it needs SIGIO.
    pub(crate) fn new(fd: OwnedFd, stuck: &Arc<Stuck>) -> Result<Call, String> {
        let kind = event_kind(&fd)?;
        Ok(Call { fd, is_socket: kind == FileType::Socket, stuck: Arc::clone(stuck) })
    }

    /// Whether the guest may miss one ([`crate::worker`]).
    pub(crate) fn may_be_overslept(&self) -> bool {
        self.is_socket
    }

    /// Whether [`Call::send`] returns at once, whatever the frontend does.
    pub(crate) fn never_blocks(&self) -> bool {
        self.is_socket
    }

    /// Full means that the guest has interrupts waiting, closed that it is
    /// gone, which its connection will tell: neither is ours to mind.
    pub(crate) fn send(&self) {
        let one = 1_u64.to_ne_bytes();
        let _ = match self.is_socket {
            true => rustix::net::send(&self.fd, &one, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            false => self.stuck.inside(|| rustix::io::write(&self.fd, &one)),
        };
    }
}

/// Checks a descriptor that is waited on or written to for signalling, and
/// makes it non-blocking: whatever it is, it must not hold a thread. That much
/// the frontend can undo; see [`crate::stuck`].
pub(crate) fn event_kind(fd: &OwnedFd) -> Result<FileType, String> {
    let failed = |error| format!("its file descriptor: {error}");
    // Not by fstat(2): a FIFO has an inode of who knows what file system.
    let (kind, _) = foreign::look(fd).map_err(failed)?;
    // An eventfd has no type at all.
    if !matches!(kind, FileType::Socket | FileType::Fifo | FileType::Unknown) {
        return Err(format!("its file descriptor is no eventfd, pipe or socket but a {kind:?}"));
    }
    let flags = rustix::fs::fcntl_getfl(fd).map_err(failed)?;
    rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK).map_err(failed)?;
    Ok(kind)
}
