//! Who is at the other end of a socket.

use std::os::fd::{AsFd, AsRawFd};

/// The process that connected, None where it lives in a process namespace
/// that we do not see. rustix has this call too, but its process ids cannot
/// be 0, which is what the kernel then answers.
pub(crate) fn peer_process(socket: impl AsFd) -> Option<i32> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the buffer is a ucred and `length` says its size; both live
    // until the call returns.
    let result = unsafe {
        libc::getsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut credentials).cast(), &raw mut length)
    };
    (result == 0 && credentials.pid > 0).then_some(credentials.pid)
}
