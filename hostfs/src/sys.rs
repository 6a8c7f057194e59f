//! The system calls that no safe wrapper offers. All of this crate's `unsafe`
//! is here, one call a function, nothing decided.
//!
//! [`process_mark`] is the exception: what it knows lies in memory that only
//! `unsafe` can get.
#![allow(unsafe_code)]

use rustix::io::Errno;
use std::ffi::{CStr, c_int, c_long, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

type Result<T> = std::result::Result<T, Errno>;

/// The errno of the libc call that just failed.
fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

fn check(answer: c_long) -> Result<usize> {
    usize::try_from(answer).map_err(|_| last_errno())
}

/// Sets the calling thread's file-system uid; `u32::MAX` only asks. Returns
/// the one before. There is no error: who wants to know asks again.
pub(crate) fn set_fs_uid(uid: u32) -> u32 {
    // SAFETY: takes and returns plain numbers; affects this thread only, since
    // glibc and musl pass it straight to the kernel.
    unsafe { libc::syscall(libc::SYS_setfsuid, c_long::from(uid)) as u32 }
}

/// As [`set_fs_uid`], for the group.
pub(crate) fn set_fs_gid(gid: u32) -> u32 {
    // SAFETY: as for `set_fs_uid`.
    unsafe { libc::syscall(libc::SYS_setfsgid, c_long::from(gid)) as u32 }
}

/// Gives the calling thread a umask (and working directory) of its own.
pub(crate) fn unshare_fs() -> Result<()> {
    // SAFETY: CLONE_FS takes nothing away that Rust code relies on: the thread
    // keeps a copy of root, working directory and umask.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }
}

/// Fills `buffer` with directory records and returns their length; 0 is the
/// end of the listing.
pub(crate) fn get_dents(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most `len` bytes to a buffer that we own.
    check(unsafe { libc::syscall(libc::SYS_getdents64, fd.as_raw_fd(), buffer.as_mut_ptr(), buffer.len()) })
}

/// fchmodat2(2), Linux 6.6: chmod of `name` in `dir`.
pub(crate) fn chmod_at(dir: BorrowedFd<'_>, name: Last<'_>, mode: u32) -> Result<()> {
    const SYS_FCHMODAT2: c_long = 452;
    let (name, flags) = name.as_path();
    // SAFETY: the path ends in NUL; the rest are numbers.
    check(unsafe { libc::syscall(SYS_FCHMODAT2, dir.as_raw_fd(), name.as_ptr(), mode, flags) }).map(drop)
}

/// `struct xattr_args` of linux/xattr.h.
#[repr(C)]
struct XattrArgs {
    value: u64,
    size: u32,
    flags: u32,
}

/// A component of a path, and what is done if it is a link.
#[derive(Clone, Copy)]
pub(crate) enum Last<'a> {
    /// None: what the descriptor itself stands for, `O_PATH` or not.
    Object,
    /// It is not followed.
    Itself(&'a CStr),
    /// It is; for the magic links of `/proc/self/fd`, which lead to what a
    /// descriptor stands for and no further.
    Followed(&'a CStr),
}

impl Last<'_> {
    /// As the kernel takes it, with flags.
    fn as_path(&self) -> (&CStr, c_int) {
        match *self {
            Last::Object => (c"", libc::AT_EMPTY_PATH),
            Last::Itself(name) => (name, libc::AT_SYMLINK_NOFOLLOW),
            Last::Followed(name) => (name, 0),
        }
    }
}

/// getxattrat(2), Linux 6.13, of `name` in `dir`. Returns the value's length; an
/// empty `value` only asks for it.
pub(crate) fn get_xattr_at(dir: BorrowedFd<'_>, name: Last<'_>, attribute: &CStr, value: &mut [u8]) -> Result<usize> {
    const SYS_GETXATTRAT: c_long = 464;
    let args = XattrArgs {
        value: if value.is_empty() { 0 } else { value.as_mut_ptr() as u64 },
        size: u32::try_from(value.len()).map_err(|_| Errno::INVAL)?,
        flags: 0,
    };
    // SAFETY: `args` names a buffer that is ours to write for the call's duration.
    unsafe { xattr_at(SYS_GETXATTRAT, dir, name, attribute, &args) }
}

/// setxattrat(2), Linux 6.13, of `name` in `dir`. `flags` as for setxattr(2).
pub(crate) fn set_xattr_at(dir: BorrowedFd<'_>, name: Last<'_>, attribute: &CStr, value: &[u8], flags: u32) -> Result<()> {
    const SYS_SETXATTRAT: c_long = 463;
    let args = XattrArgs { value: value.as_ptr() as u64, size: u32::try_from(value.len()).map_err(|_| Errno::INVAL)?, flags };
    // SAFETY: the call only reads the bytes that `args` names.
    unsafe { xattr_at(SYS_SETXATTRAT, dir, name, attribute, &args) }.map(drop)
}

/// # Safety
/// `number` is one of the calls above, and `args` names memory that it may use.
unsafe fn xattr_at(number: c_long, dir: BorrowedFd<'_>, name: Last<'_>, attribute: &CStr, args: &XattrArgs) -> Result<usize> {
    let (name, flags) = name.as_path();
    // SAFETY: both strings end in NUL, `args` lives through the call, and the
    // caller vouches for the memory that it names.
    check(unsafe {
        libc::syscall(
            number,
            dir.as_raw_fd(),
            name.as_ptr(),
            flags,
            attribute.as_ptr(),
            std::ptr::from_ref(args).cast::<c_void>(),
            size_of::<XattrArgs>(),
        )
    })
}

/// One of `F_OFD_GETLK`, `F_OFD_SETLK` and `F_OFD_SETLKW` of fcntl(2).
pub(crate) fn ofd_lock(fd: BorrowedFd<'_>, command: c_int, lock: &mut libc::flock) -> Result<()> {
    // SAFETY: `lock` is a valid struct flock for the call's duration.
    check(c_long::from(unsafe { libc::fcntl(fd.as_raw_fd(), command, &raw mut *lock) })).map(drop)
}

/// Closes `fd` and tells what close(2) said; dropping it would not.
pub(crate) fn close(fd: OwnedFd) -> Result<()> {
    // SAFETY: the descriptor is ours and given up here.
    check(c_long::from(unsafe { libc::close(fd.into_raw_fd()) })).map(drop)
}

/// The signal that ends a blocking lock call: its default is to be ignored, so
/// one that arrives too late does nothing.
const WAKE_SIGNAL: c_int = libc::SIGURG;

extern "C" fn do_nothing(_signal: c_int) {}

/// Makes [`wake_thread`] interrupt system calls of the calling thread. The
/// handler does nothing, and no `SA_RESTART` lets the call go on.
pub(crate) fn accept_wakes() -> Result<()> {
    // SAFETY: the sigaction is wholly initialised (zero is valid for each
    // field), its handler touches nothing, and unblocking a signal is sound.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = do_nothing as extern "C" fn(c_int) as usize;
        check(c_long::from(libc::sigaction(WAKE_SIGNAL, &raw const action, std::ptr::null_mut())))?;
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, WAKE_SIGNAL);
        match libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) {
            0 => Ok(()),
            number => Err(Errno::from_raw_os_error(number)),
        }
    }
}

/// The calling thread's number, for [`wake_thread`].
pub(crate) fn thread_id() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// Sends the wake signal to a thread of this process.
pub(crate) fn wake_thread(thread: i32) {
    // SAFETY: plain numbers; tgkill reaches threads of our own process only,
    // and the signal's handler does nothing. A thread that is gone is ESRCH.
    unsafe {
        libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, WAKE_SIGNAL);
    }
}

/// A number that differs in this process from what it was in those that it was
/// forked from: whoever keeps something that ends with a fork keeps this beside
/// it and compares. As getpid(2), but without the system call.
pub(crate) fn process_mark() -> u64 {
    static PAGE: OnceLock<Option<&'static AtomicU64>> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let Some(mark) = *PAGE.get_or_init(page_wiped_on_fork) else {
        return u64::from(std::process::id());
    };
    match mark.load(Ordering::Relaxed) {
        0 => {
            // A child has its parent's count, so what it takes was nobody's above it.
            let fresh = NEXT.fetch_add(1, Ordering::Relaxed);
            mark.compare_exchange(0, fresh, Ordering::Relaxed, Ordering::Relaxed).map_or_else(|other| other, |_| fresh)
        }
        known => known,
    }
}

/// Memory that is zero again in a child (Linux 4.14).
fn page_wiped_on_fork() -> Option<&'static AtomicU64> {
    const LEN: usize = size_of::<AtomicU64>();
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: asks for new memory, wherever the kernel likes; it gives whole
    // zeroed pages, and their alignment is more than enough.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), LEN, access, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
    if page == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the mapping is ours alone, and the advice is about forks only.
    if unsafe { libc::madvise(page, LEN, libc::MADV_WIPEONFORK) } != 0 {
        // SAFETY: nobody knows of the mapping yet.
        unsafe { libc::munmap(page, LEN) };
        return None;
    }
    // SAFETY: the mapping is never taken away, zero is a valid value, and all
    // access is atomic.
    Some(unsafe { &*page.cast::<AtomicU64>() })
}

/// Runs `body` in a forked child and returns its answer.
#[cfg(test)]
pub(crate) fn in_child(body: impl FnOnce() -> bool) -> bool {
    // SAFETY: other threads of the tests may hold locks that nobody in the child
    // will release, so `body` keeps to system calls and locks of its own.
    match unsafe { libc::fork() } {
        0 => {
            let code = c_int::from(!body());
            // SAFETY: ends the child without the parent's exit handlers.
            unsafe { libc::_exit(code) }
        }
        child => {
            let mut status = 0;
            // SAFETY: waits for the child that was just made, into a live local.
            let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
            waited == child && status == 0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_has_another_mark_and_so_has_its_child() {
        let own = process_mark();
        assert!(own != 0 && process_mark() == own);
        let differ = in_child(|| {
            let child = process_mark();
            child != own && process_mark() == child && in_child(|| ![own, child].contains(&process_mark()))
        });
        assert!(differ);
        assert_eq!(process_mark(), own);
    }
}
