//! The FUSE protocol (ABI 7.31 to 7.45): decode a request, call an export,
//! encode the answer, over any byte transport.
//!
//! * A transport makes one [`Session`] for each kernel, hands each request to
//!   [`Session::handle`] as a [`externfs::DataSource`], and gets the answer
//!   through a [`Reply`]; see `transport.rs` for that contract.
//! * [`buffer`] has both ends for a transport that moves whole messages
//!   (/dev/fuse); a virtqueue brings its own.
//! * [`notify`] encodes what a server tells the kernel unasked.
//!
//! A request is checked in form here and in meaning by the export: lengths,
//! NULs, flags and names here; ids, kinds and limits there. Nothing is
//! allocated for a number that a guest sent before that number was bounded.

mod answer;
mod codec;
mod gate;
mod habit;
mod init;
mod listing;
mod opcode;
mod ops;
mod passthrough;
mod reply;
mod request;
mod session;
mod transport;
mod waiting;

pub mod abi;
pub mod buffer;
pub mod notify;

pub use gate::LogGate;
pub use init::{Config, Negotiated, TransportKind};
pub use opcode::{Counts, Opcode};
pub use passthrough::{NewlyOpen, Passthrough, Serving};
pub use session::Session;
pub use transport::{Later, Outcome, REPLY_HEADER_LEN, Reply};

#[cfg(test)]
mod tests;
