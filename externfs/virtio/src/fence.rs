//! The only place of this crate with `unsafe` code: raw guest memory, and the
//! signal that comes when it is taken away.

#![allow(unsafe_code)]

mod sigbus;
mod socket;
mod spans;

pub(crate) use sigbus::{Guard, install};
pub(crate) use socket::peer_process;
pub(crate) use spans::Spans;
