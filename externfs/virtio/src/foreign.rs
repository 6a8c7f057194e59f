//! [`Foreign`]: a descriptor as it came from a frontend.
//!
//! It may be of a file that the frontend serves itself (FUSE). Then fstat(2),
//! fstatfs(2), an access to its mapping and even close(2) wait for an answer,
//! which no signal ends: to look what it is, or to throw it away, would hold
//! the thread that reads messages for ever. So the kernel is asked only what it
//! knows by itself, and what cannot be told to be harmless by that is refused
//! and closed on a thread that nobody waits for ([`Undertaker`]).
//!
//! Harmless are eventfds and the like, pipes, unix sockets (others linger when
//! closed), shared memory and huge pages (which alone have seals), and files of
//! a file system on a block device, which takes an administrator to mount.
//! Btrfs and ZFS have no such device to their name, as FUSE and NFS have none:
//! a file there is refused, and memory belongs in memfds or /dev/shm anyway.
//! What lies below overlayfs nobody knows.

use rustix::fs::{AtFlags, FileType, StatxFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, sockopt};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Most descriptors that wait for their end before no more are taken.
const UNBURIED_MAX: usize = 64;

/// What is known of a descriptor without asking whoever serves it: its type,
/// and whether its file system is one of a block device.
pub(crate) fn look(fd: impl AsFd) -> Result<(FileType, bool), Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    // Nothing is asked for; the type comes along from what is remembered.
    let known = rustix::fs::statx(fd, c"", flags, StatxFlags::empty())?;
    Ok((FileType::from_raw_mode(known.stx_mode.into()), known.stx_dev_major != 0))
}

fn is_harmless(fd: &OwnedFd) -> bool {
    match look(fd) {
        Ok((FileType::Fifo | FileType::Unknown, _)) => true,
        Ok((FileType::Socket, _)) => sockopt::socket_domain(fd) == Ok(AddressFamily::UNIX),
        Ok((FileType::RegularFile, is_on_disk)) => is_on_disk || rustix::fs::fcntl_get_seals(fd).is_ok(),
        _ => false,
    }
}

/// Not looked at yet. Whatever becomes of it, it is closed without a wait.
#[derive(Debug)]
pub(crate) struct Foreign {
    fd: Option<OwnedFd>,
    undertaker: Arc<Undertaker>,
}

impl Foreign {
    pub(crate) fn new(fd: OwnedFd, undertaker: &Arc<Undertaker>) -> Foreign {
        Foreign { fd: Some(fd), undertaker: Arc::clone(undertaker) }
    }

    /// A descriptor that may be asked what it is, and dropped anywhere.
    ///
    /// # Errors
    /// It is not known to be one: the reason for the log.
    pub(crate) fn accept(mut self) -> Result<OwnedFd, String> {
        let refused = || "its file descriptor may keep us waiting; memory is to be shared, or a file in /dev/shm".to_string();
        self.fd.take_if(|fd| is_harmless(fd)).ok_or_else(refused)
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if let Some(fd) = self.fd.take()
            && !is_harmless(&fd)
        {
            self.undertaker.bury(fd);
        }
    }
}

/// Closes what may wait for ever, on a thread that ends when it can.
#[derive(Default, Debug)]
pub(crate) struct Undertaker {
    unburied: Arc<AtomicUsize>,
    thread: Mutex<Option<Sender<OwnedFd>>>,
}

impl Undertaker {
    /// Whether there is more to close than a frontend may leave behind.
    pub(crate) fn is_full(&self) -> bool {
        self.unburied.load(Ordering::Relaxed) >= UNBURIED_MAX
    }

    fn bury(&self, fd: OwnedFd) {
        self.unburied.fetch_add(1, Ordering::Relaxed);
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            *thread = Undertaker::start(Arc::clone(&self.unburied));
        }
        let unsent = match thread.as_ref() {
            Some(thread) => thread.send(fd).err().map(|unsent| unsent.0),
            None => Some(fd),
        };
        // Without a thread it stays open, and counts.
        std::mem::forget(unsent);
    }

    fn start(unburied: Arc<AtomicUsize>) -> Option<Sender<OwnedFd>> {
        let (sender, receiver): (_, Receiver<OwnedFd>) = channel();
        let run = move || {
            for fd in receiver {
                drop(fd);
                unburied.fetch_sub(1, Ordering::Relaxed);
            }
        };
        thread::Builder::new().name("virtiofs-close".into()).spawn(run).ok().map(|_| sender)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
    use rustix::fs::{MemfdFlags, memfd_create};
    use rustix::net::{SocketFlags, SocketType, socket_with, socketpair};
    use std::fs::File;

    fn accept(fd: impl Into<OwnedFd>) -> bool {
        Foreign::new(fd.into(), &Arc::default()).accept().is_ok()
    }

    #[test]
    fn what_frontends_send_is_harmless() {
        assert!(accept(eventfd(0, EventfdFlags::CLOEXEC).unwrap()));
        assert!(accept(std::io::pipe().unwrap().1));
        assert!(accept(socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap().0));
        assert!(accept(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap()));
        match tempfile::tempfile_in("/dev/shm") {
            Ok(file) => assert!(accept(file)),
            Err(error) => eprintln!("SKIPPED: no /dev/shm: {error}"),
        }
    }

    #[test]
    fn what_may_wait_is_closed_elsewhere() {
        assert!(!accept(File::open("/proc/self/status").unwrap()));
        assert!(!accept(File::open("/dev/zero").unwrap()));
        assert!(!accept(socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap()));
        let undertaker = Arc::<Undertaker>::default();
        for _ in 0..3 * UNBURIED_MAX {
            drop(Foreign::new(File::open("/dev/zero").unwrap().into(), &undertaker));
        }
        while undertaker.unburied.load(Ordering::Relaxed) > 0 {
            thread::yield_now();
        }
        assert!(!undertaker.is_full());
    }
}
