//! [`Jail`]: the only place where a name becomes a descriptor.
//!
//! Everything a guest names is a single component, looked up in a directory
//! whose descriptor was itself opened here, starting from the exported
//! directory. So there is no path to climb out of; what remains to refuse is a
//! component that is not what it seems: a symbolic link (never followed, also
//! not when a process of the host swaps it in at the last moment), a magic
//! link of procfs, and with `one-file-system` a mount point.
//!
//! Nor is the mount entered that shows this very tree ([`own`]).
//!
//! Two resolvers do this, and the same tests run on both: openat2(2), where the
//! kernel refuses (Linux 5.6), and a manual one for kernels and sandboxes that
//! lack it. Descriptors made here are `O_PATH`: they open nothing, so a FIFO
//! or a device does not notice. A regular file is opened for real through
//! [`Jail::reopen`], which goes by descriptor and not by name.

mod manual;
mod openat2;
mod own;

use crate::attr::Stat;
use crate::fault::Fault;
use crate::sys;
use externfs::{HostMount, NodeKey};
use own::Own;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// For every descriptor of one component.
const COMPONENT: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// For every real open. What is opened is known to be a regular file or a
/// directory, so only a lease of the host can make it wait, as it should.
const REAL: OFlags = OFlags::CLOEXEC.union(OFlags::NOCTTY).union(OFlags::NOFOLLOW);

/// Who refuses what must not be followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Resolver {
    /// The kernel, by the `RESOLVE_` flags of openat2(2).
    Openat2,
    /// We, component by component.
    Manual,
}

/// `/proc/self/fd` as the process with this mark sees it.
struct ProcFd {
    process: u64,
    dir: std::sync::Arc<OwnedFd>,
}

/// An exported directory. See the [module](self).
pub(crate) struct Jail {
    root: OwnedFd,
    resolver: Resolver,
    one_file_system: bool,
    proc: Mutex<ProcFd>,
    /// None where nothing is mounted.
    own: RwLock<Option<Arc<Own>>>,
}

impl Jail {
    /// Jails to what `root` stands for. `wanted` None takes openat2 where it
    /// works.
    ///
    /// # Errors
    /// ENOSYS or EPERM if openat2 was wanted and does not work; ENOENT if
    /// there is no `/proc/self/fd`.
    pub(crate) fn new(root: OwnedFd, wanted: Option<Resolver>, one_file_system: bool) -> Fault<Jail> {
        let resolver = match wanted {
            Some(Resolver::Manual) => Resolver::Manual,
            Some(Resolver::Openat2) => openat2::probe(root.as_fd()).map(|()| Resolver::Openat2)?,
            None => match openat2::probe(root.as_fd()) {
                Ok(()) => Resolver::Openat2,
                // Old kernels say ENOSYS; seccomp filters of containers EPERM.
                Err(Errno::NOSYS | Errno::PERM) => Resolver::Manual,
                Err(other) => return Err(other),
            },
        };
        Ok(Jail { root, resolver, one_file_system, proc: Mutex::new(ProcFd::open()?), own: RwLock::default() })
    }

    /// The directory of the operator's choice; links on the way are his.
    pub(crate) fn open_root(path: &Path) -> Fault<OwnedFd> {
        rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub(crate) fn resolver(&self) -> Resolver {
        self.resolver
    }

    /// From now on `mount` is not entered.
    ///
    /// # Errors
    /// What the host says of the root.
    pub(crate) fn keep_out_of(&self, mount: HostMount) -> Fault<()> {
        let own = Own::new(self.root(), (mount.major, mount.minor))?;
        // First: the way up from what it covers may lead into it.
        self.set_own(Some(own));
        let Some((covered, name)) = mount.covered else { return Ok(()) };
        // What is not within is nothing to be shown.
        if self.is_below_root(covered.as_fd()).unwrap_or(false) {
            let own = Own::new(self.root(), (mount.major, mount.minor))?;
            self.set_own(Some(own.over(covered, name)));
        }
        Ok(())
    }

    /// The mount is gone, and its device's number is another's.
    pub(crate) fn forget_own(&self) {
        self.set_own(None);
    }

    fn set_own(&self, own: Option<Own>) {
        *self.own.write().unwrap_or_else(PoisonError::into_inner) = own.map(Arc::new);
    }

    fn own(&self) -> Option<Arc<Own>> {
        self.own.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether `dir` is below the root, and was reached by way of the mount that
    /// the root was reached by, and of what is mounted in that.
    fn is_below_root(&self, dir: BorrowedFd<'_>) -> Fault<bool> {
        let found = self.climb(dir)?;
        Ok(Stat::of_fd(dir)?.key() != Stat::of_fd(self.root())?.key()
            && found.is_some_and(|at| {
                let id = |fd: BorrowedFd<'_>| Stat::of_fd(fd).ok().and_then(|stat| stat.mount_id());
                id(at.as_fd()).is_some_and(|there| id(self.root()) == Some(there))
            }))
    }

    /// A descriptor of the object `key` that is called `name` in `dir`, which is
    /// `above`, if our own mount covers it: that name leads to the mount.
    pub(crate) fn covered(&self, key: NodeKey, at: (BorrowedFd<'_>, NodeKey), name: &CStr) -> Option<Fault<OwnedFd>> {
        let own = self.own()?;
        let covered = own.held(key, at, name)?;
        Some(rustix::io::fcntl_dupfd_cloexec(covered, 0))
    }

    /// The status of `name` in `dir`.
    ///
    /// # Errors
    /// For our own mount EXDEV with `one-file-system`, and ELOOP where it is not
    /// known what it covers.
    pub(crate) fn stat(&self, dir: BorrowedFd<'_>, name: &CStr) -> Fault<Stat> {
        match self.own() {
            None => Stat::of_name(dir, name),
            Some(own) => own.stat(dir, name, self.one_file_system),
        }
    }

    /// What `name` in `dir` is, as an `O_PATH` descriptor: a link's is the
    /// link itself.
    ///
    /// # Errors
    /// EXDEV for a mount point with `one-file-system`.
    pub(crate) fn child(&self, dir: BorrowedFd<'_>, name: &CStr) -> Fault<OwnedFd> {
        self.component(dir, name, COMPONENT)
    }

    /// As [`Jail::child`], of directories only.
    ///
    /// # Errors
    /// ENOTDIR, or ELOOP for a link.
    pub(crate) fn child_dir(&self, dir: BorrowedFd<'_>, name: &CStr) -> Fault<OwnedFd> {
        self.component(dir, name, COMPONENT | OFlags::DIRECTORY)
    }

    fn component(&self, dir: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Fault<OwnedFd> {
        check_component(name.to_bytes())?;
        let one_file_system = self.one_file_system;
        match (self.resolver, self.own()) {
            (Resolver::Openat2, None) => openat2::component(dir, name, flags, one_file_system),
            // Only where the way leads to another mount it may be that one.
            (Resolver::Openat2, Some(own)) => match openat2::component(dir, name, flags, true) {
                Err(Errno::XDEV) if !one_file_system && own.is_at(dir, name)? => {
                    rustix::io::fcntl_dupfd_cloexec(own.covered(dir, name)?, 0)
                }
                Err(Errno::XDEV) if !one_file_system => openat2::component(dir, name, flags, false),
                answer => answer,
            },
            (Resolver::Manual, Some(own)) if own.is_at(dir, name)? => match one_file_system {
                true => Err(Errno::XDEV),
                false => rustix::io::fcntl_dupfd_cloexec(own.covered(dir, name)?, 0),
            },
            (Resolver::Manual, _) => manual::component(dir, name, flags, one_file_system),
        }
    }

    /// The directory at the end of `path`, component by component from the
    /// root; `subdir=` is the one path that this plugin ever walks.
    ///
    /// # Errors
    /// EXDEV for `..` and for an absolute path, ELOOP or ENOTDIR for a link.
    pub(crate) fn walk(&self, path: &[u8]) -> Fault<OwnedFd> {
        if path.starts_with(b"/") {
            return Err(Errno::XDEV);
        }
        let mut at = rustix::io::fcntl_dupfd_cloexec(&self.root, 0)?;
        for component in path.split(|&b| b == b'/') {
            match component {
                b"" | b"." => {}
                b".." => return Err(Errno::XDEV),
                name => at = self.child_dir(at.as_fd(), &CString::new(name).map_err(|_| Errno::INVAL)?)?,
            }
        }
        Ok(at)
    }

    /// Makes and opens the regular file `name`. `O_EXCL` never follows a link
    /// and never opens what is there.
    pub(crate) fn create_new(&self, dir: BorrowedFd<'_>, name: &CStr, flags: OFlags, mode: Mode) -> Fault<OwnedFd> {
        check_component(name.to_bytes())?;
        rustix::fs::openat(dir, name, flags | OFlags::CREATE | OFlags::EXCL | REAL, mode)
    }

    /// Opens `name` in `dir` for real, whatever it is by now: for the caller to
    /// look at. Links are not followed, and a FIFO does not wait.
    pub(crate) fn open_unchecked(&self, dir: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Fault<OwnedFd> {
        check_component(name.to_bytes())?;
        rustix::fs::openat(dir, name, flags | OFlags::NONBLOCK | REAL, Mode::empty())
    }

    /// Opens for real what the `O_PATH` descriptor `fd` stands for. The caller
    /// has looked at it and knows that it is a regular file or a directory:
    /// the magic link leads to that very object whatever names do meanwhile.
    pub(crate) fn reopen_unchecked(&self, fd: BorrowedFd<'_>, flags: OFlags) -> Fault<OwnedFd> {
        // Not `O_NOFOLLOW`: this one magic link is ours and is to be followed.
        let flags = (flags | REAL).difference(OFlags::NOFOLLOW);
        rustix::fs::openat(&*self.proc_fd()?, fd_name(fd).as_c_str(), flags, Mode::empty())
    }

    /// Opens the directory behind an `O_PATH` descriptor for reading. Not by
    /// its `.`: that would need search permission, which listing does not.
    pub(crate) fn reopen_dir(&self, dir: BorrowedFd<'_>) -> Fault<OwnedFd> {
        self.reopen_unchecked(dir, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// `/proc/self/fd`, for calls that take a directory and a name.
    pub(crate) fn proc_fd(&self) -> Fault<std::sync::Arc<OwnedFd>> {
        let mut proc = self.proc.lock().unwrap_or_else(PoisonError::into_inner);
        // After a fork our descriptors are listed elsewhere: the numbers in
        // the old place are the parent's and may stand for anything.
        if proc.process != sys::process_mark() {
            *proc = ProcFd::open()?;
        }
        Ok(proc.dir.clone())
    }

    /// Whether `dir` is the root or below it, found by climbing. For a
    /// directory that is no longer where it was: has the host moved it within
    /// the jail, or out of it?
    pub(crate) fn contains(&self, dir: BorrowedFd<'_>) -> Fault<bool> {
        Ok(self.climb(dir)?.is_some())
    }

    /// The root as it is found on the way up from `dir`; None if it is not.
    fn climb(&self, dir: BorrowedFd<'_>) -> Fault<Option<OwnedFd>> {
        /// More levels than that is a loop or an attack.
        const LEVELS: usize = 1 << 16;
        let root = Stat::of_fd(self.root())?.key();
        let own = self.own();
        let up = |from: BorrowedFd<'_>| rustix::fs::openat(from, c"..", COMPONENT | OFlags::DIRECTORY, Mode::empty());
        let mut key = Stat::of_fd(dir)?.key();
        let mut at = rustix::io::fcntl_dupfd_cloexec(dir, 0)?;
        for _ in 0..LEVELS {
            if key == root {
                return Ok(Some(at));
            }
            // Our own mount lies over what is above: the way on is hidden, and what
            // cannot be told to be within counts as outside.
            if own.as_ref().is_some_and(|own| own.is_at(at.as_fd(), c"..").unwrap_or(true)) {
                return Ok(None);
            }
            at = up(at.as_fd())?;
            let above = Stat::of_fd(at.as_fd())?.key();
            if above == key {
                return Ok(None);
            }
            key = above;
        }
        Ok(None)
    }

    /// Another name for what has one; a link is named itself.
    pub(crate) fn link_name(&self, from: (BorrowedFd<'_>, &CStr), dir: BorrowedFd<'_>, name: &CStr) -> Fault<()> {
        check_component(from.1.to_bytes())?;
        check_component(name.to_bytes())?;
        rustix::fs::linkat(from.0, from.1, dir, name, AtFlags::empty())
    }

    /// Another name for what `fd` stands for, also if it has none.
    pub(crate) fn link(&self, fd: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &CStr) -> Fault<()> {
        check_component(name.to_bytes())?;
        // AT_EMPTY_PATH would need CAP_DAC_READ_SEARCH; the magic link does not.
        rustix::fs::linkat(&*self.proc_fd()?, fd_name(fd).as_c_str(), dir, name, AtFlags::SYMLINK_FOLLOW)
    }
}

impl ProcFd {
    fn open() -> Fault<ProcFd> {
        let process = sys::process_mark();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(CWD, c"/proc/self/fd", flags, Mode::empty())?;
        Ok(ProcFd { process, dir: dir.into() })
    }
}

/// The whole path of a descriptor in `/proc`, for calls that take nothing else.
pub(crate) fn fd_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// The name of a descriptor in `/proc/self/fd`.
pub(crate) fn fd_name(fd: BorrowedFd<'_>) -> rustix::path::DecInt {
    rustix::path::DecInt::new(fd.as_raw_fd())
}

/// The bridge passes only checked names; this is the second line of defence,
/// since everything rests on it.
pub(crate) fn check_component(name: &[u8]) -> Fault<()> {
    match name {
        b"" | b"." | b".." => Err(Errno::INVAL),
        _ if name.contains(&b'/') => Err(Errno::INVAL),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
