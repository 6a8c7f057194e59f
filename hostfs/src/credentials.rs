//! Creating on somebody's behalf.
//!
//! A server that runs as root makes each object as its caller: the system call
//! that makes it runs with the caller's file-system uid and gid, so the host
//! itself decides owner, group (a setgid directory gives its own on) and
//! quota, and there is no moment at which the object belongs to somebody else.
//! Its capabilities stay, because who may create here was decided by the
//! guest's kernel, which knows the caller's supplementary groups; we do not.
//! A server without CAP_SETUID and CAP_SETGID makes everything as itself.
//!
//! File-system ids and capabilities belong to a thread, and so does the umask
//! once `unshare(CLONE_FS)` was called on it: no lock, and no other thread
//! sees the change.

use crate::fault::fault;
use crate::idmap::{HostGid, HostUid};
use crate::sys;
use externfs::{Errno, Error, Result};
use rustix::fs::Mode;
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::cell::Cell;
use std::marker::PhantomData;

thread_local! {
    /// The umask of this thread, once it has one of its own.
    static UMASK: Cell<Option<u32>> = const { Cell::new(None) };
}

/// What the server itself is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Server {
    uid: u32,
    gid: u32,
    can_switch: bool,
}

impl Server {
    /// As the calling thread is right now.
    pub(crate) fn current() -> Server {
        let needed = CapabilitySet::SETUID | CapabilitySet::SETGID;
        let can_switch = rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(needed));
        Server { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw(), can_switch }
    }

    /// Whether objects are made as their callers.
    pub(crate) fn can_switch(&self) -> bool {
        self.can_switch
    }

    /// From now on everything is made as the server itself.
    pub(crate) fn stay(&mut self) {
        self.can_switch = false;
    }

    /// Makes the calling thread create as `uid` and `gid` with `umask`, until
    /// the answer is dropped.
    ///
    /// # Errors
    /// EPERM if the kernel does not let us become that user: nothing is ever
    /// made as root instead.
    pub(crate) fn act_as(&self, uid: HostUid, gid: HostGid, umask: u32) -> Result<Acting> {
        set_umask(umask & 0o777)?;
        let acting = Acting { server: *self, switched: None, not_send: PhantomData };
        if !self.can_switch || (uid.0, gid.0) == (self.uid, self.gid) {
            return Ok(acting);
        }
        let capabilities = rustix::thread::capabilities(None).map_err(fault("capget"))?;
        let acting = Acting { switched: Some(capabilities), ..acting };
        sys::set_fs_gid(gid.0);
        sys::set_fs_uid(uid.0);
        if (sys::set_fs_uid(u32::MAX), sys::set_fs_gid(u32::MAX)) != (uid.0, gid.0) {
            let reason = format!("the kernel does not let this server act as {}:{}", uid.0, gid.0);
            return Err(Error::because(Errno::EPERM, reason));
        }
        // Leaving uid 0 took CAP_DAC_OVERRIDE and its like out of the
        // effective set (capabilities(7)); they are still permitted.
        rustix::thread::set_capabilities(None, capabilities).map_err(fault("capset"))?;
        Ok(acting)
    }
}

/// The thread acts as somebody; dropping this ends it. Must not leave its thread.
pub(crate) struct Acting {
    server: Server,
    /// The thread's capabilities before.
    switched: Option<CapabilitySets>,
    not_send: PhantomData<*const ()>,
}

impl Drop for Acting {
    fn drop(&mut self) {
        if let Some(capabilities) = self.switched {
            // Back to our own effective ids is always allowed, and back at uid
            // 0 the kernel puts the file-system capabilities in force again.
            sys::set_fs_uid(self.server.uid);
            sys::set_fs_gid(self.server.gid);
            if self.server.uid != 0 {
                // Who has them as somebody else loses them with each step away from
                // uid 0 (capabilities(7)). They are permitted still.
                let _ = rustix::thread::set_capabilities(None, capabilities);
            }
        }
    }
}

/// Gives this thread `umask`, so that the host applies it where it belongs:
/// not in a directory with a default ACL.
fn set_umask(umask: u32) -> Result<()> {
    UMASK.with(|current| {
        if current.get() == Some(umask) {
            return Ok(());
        }
        if current.get().is_none() {
            sys::unshare_fs().map_err(fault("unshare(CLONE_FS), for a umask of this thread's own"))?;
        }
        rustix::process::umask(Mode::from_raw_mode(umask));
        current.set(Some(umask));
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn made_as(uid: u32, gid: u32, umask: u32) -> std::fs::Metadata {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made");
        let acting = Server::current().act_as(HostUid(uid), HostGid(gid), umask).unwrap();
        std::fs::create_dir(&path).unwrap();
        drop(acting);
        std::fs::metadata(path).unwrap()
    }

    #[test]
    fn objects_are_made_as_the_caller_and_then_we_are_ourselves_again() {
        if !Server::current().can_switch() {
            println!("skipped: needs CAP_SETUID and CAP_SETGID");
            return;
        }
        let before = rustix::thread::capabilities(None).unwrap().effective;
        // The temporary directory is root's and 0700: the caller alone could
        // not write there, the guest's kernel has allowed it.
        let made = made_as(1000, 1001, 0o027);
        assert_eq!((made.uid(), made.gid(), made.mode() & 0o7777), (1000, 1001, 0o750));
        let made = made_as(0, 0, 0);
        assert_eq!((made.uid(), made.gid(), made.mode() & 0o7777), (0, 0, 0o777));
        assert_eq!((sys::set_fs_uid(u32::MAX), sys::set_fs_gid(u32::MAX)), (0, 0));
        assert_eq!(rustix::thread::capabilities(None).unwrap().effective, before);
    }

    #[test]
    fn the_umask_stays_within_its_thread() {
        set_umask(0o077).unwrap();
        let other = std::thread::spawn(|| {
            set_umask(0o002).unwrap();
            rustix::process::umask(Mode::from_raw_mode(0o002)).as_raw_mode()
        });
        assert_eq!(other.join().unwrap(), 0o002);
        assert_eq!(rustix::process::umask(Mode::from_raw_mode(0o077)).as_raw_mode(), 0o077);
    }

    #[test]
    fn who_may_not_switch_makes_nothing_as_root() {
        // A thread's capabilities are its own: this one gives CAP_SETUID up
        // behind the back of a `Server` that counts on it.
        let server = Server::current();
        if !server.can_switch() {
            println!("skipped: needs CAP_SETUID and CAP_SETGID");
            return;
        }
        let refused = std::thread::spawn(move || {
            let mut sets = rustix::thread::capabilities(None).unwrap();
            sets.effective -= CapabilitySet::SETUID;
            rustix::thread::set_capabilities(None, sets).unwrap();
            let refused = server.act_as(HostUid(1000), HostGid(1000), 0).err().map(|error| error.errno());
            (refused, sys::set_fs_gid(u32::MAX))
        });
        assert_eq!(refused.join().unwrap(), (Some(Errno::EPERM), 0));
    }
}
