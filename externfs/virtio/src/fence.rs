//! The only place of this crate with `unsafe` code: raw guest memory, and the
//! signals: the one that
//! comes when it is taken away, and the one that ends a system call.

#![allow(unsafe_code)]

mod sigbus;
mod socket;
mod spans;
mod wake;

pub(crate) use sigbus::Guard;
pub(crate) use socket::peer_process;
pub(crate) use spans::Spans;
pub(crate) use wake::{accept_wakes, wake_thread};

/// Has the signals handled that this crate needs. Must be called before guest
/// memory is touched, and before a sandbox forbids sigaction(2).
pub(crate) fn install() -> std::io::Result<()> {
    sigbus::install()?;
    wake::install()
}
