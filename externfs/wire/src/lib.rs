//! The FUSE protocol: decode a request, call an export, encode the reply, over any byte transport.

mod transport;

pub use transport::{Later, Outcome, REPLY_HEADER_LEN, Reply};
