//! fork(2), leaving everything behind, and sharing the processor: the crate's one
//! place for `unsafe`.
#![allow(unsafe_code)]

use rustix::process::Pid;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Forks; the child runs `body` and exits with the code it returns. Returns
/// the child's id to the parent.
///
/// # Errors
/// The process has several threads, or fork(2) fails.
pub(crate) fn fork(body: impl FnOnce() -> i32) -> io::Result<Pid> {
    // A thread that has answered may take a moment to be gone.
    let mut patience = 100;
    while threads() != 1 {
        if patience == 0 {
            return Err(io::Error::other(format!("{} threads are running", threads())));
        }
        patience -= 1;
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    // SAFETY: the process has this one thread, checked above, so the child's
    // memory holds no lock that nobody will release; it may do what it likes.
    match unsafe { libc::fork() } {
        0 => {
            let code = catch_unwind(AssertUnwindSafe(body)).unwrap_or(101);
            // SAFETY: ends the child without the parent's exit handlers and
            // without the destructors of what the parent's frames hold.
            unsafe { libc::_exit(code) }
        }
        child => Pid::from_raw(child).filter(|_| child > 0).ok_or_else(io::Error::last_os_error),
    }
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

/// Closes every descriptor but `kept` and the standard streams.
pub(crate) fn close_all_but(kept: BorrowedFd<'_>) {
    let listing = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers: Vec<RawFd> = listing.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > 2 && *number != kept.as_raw_fd()) {
        // SAFETY: called in a child that never returns to the frames that
        // own these, nor runs their destructors; `fork` sees to that. The
        // listing's own descriptor is closed already, hence the test.
        unsafe {
            if libc::fcntl(number, libc::F_GETFD) >= 0 {
                drop(OwnedFd::from_raw_fd(number));
            }
        }
    }
}

/// What a worker may compute before somebody else's turn, in nanoseconds: as long
/// as Linux lets one be.
const SLICE: u64 = 100_000_000;

/// `SCHED_FLAG_KEEP_POLICY` of the kernel's include/uapi/linux/sched.h.
const KEEP_POLICY: u64 = 0x08;

/// Asks for long turns. It computes as much as before, and since Linux 6.12
/// whoever wakes up and asks for shorter ones, as everybody does who does not say
/// otherwise, need not wait for the end of one: a query that takes all that it may
/// get is not in the way of the files, nor of those who use them. Older kernels
/// leave it as it is.
pub(crate) fn give_way() {
    let Ok(nice) = rustix::process::getpriority_process(None) else { return };
    let wish = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        // What somebody else has decided of it stays; one with a real-time policy is
        // refused.
        sched_flags: KEEP_POLICY,
        sched_nice: nice,
        sched_priority: 0,
        sched_runtime: SLICE,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads `size` bytes of a structure that is ours; 0 is this thread.
    let _ = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wish, 0) };
}
