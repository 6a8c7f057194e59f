//! A signal that ends a thread's system call and does nothing else.

use std::ffi::c_int;
use std::{io, mem, ptr};

/// Ignored where nobody has asked for it. Others of this process that use it so
/// install a handler that does nothing either.
const WAKE_SIGNAL: c_int = libc::SIGURG;

extern "C" fn do_nothing(_: c_int) {}

/// Has the signal handled, once for the process, before a sandbox forbids it.
pub(super) fn install() -> io::Result<()> {
    // SAFETY: the sigaction is wholly initialised (zero is valid for each field,
    // and no SA_RESTART lets a call go on), and its handler touches nothing.
    let result = unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = do_nothing as extern "C" fn(c_int) as usize;
        libc::sigaction(WAKE_SIGNAL, &raw const action, ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets the signal reach the calling thread, whatever it inherited.
pub(crate) fn accept_wakes() {
    // SAFETY: the set is initialised before its use, and unblocking a signal
    // that is handled is sound.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, WAKE_SIGNAL);
        // Fails for arguments that are none.
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut());
    }
}

/// Sends it to a thread of this process, by its number for the kernel.
pub(crate) fn wake_thread(thread: i32) {
    // SAFETY: plain numbers; tgkill reaches threads of our own process only,
    // and the handler does nothing. A thread that is gone is ESRCH.
    unsafe {
        libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, WAKE_SIGNAL);
    }
}
