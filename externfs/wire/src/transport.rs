//! What a transport (a virtqueue, /dev/fuse, a test's buffer) gives to the
//! protocol and gets back from it.
//!
//! A request is read front to back through [`DataSource`]: the protocol takes
//! the header and the arguments, copying them once, so that a guest that
//! changes them meanwhile gains nothing; a WRITE's data stays where it is and
//! goes from there to the file. A reply's payload is appended through
//! [`DataSink`], beginning behind the 16 bytes of its header, which
//! comes last, when length and error are known.

use externfs::DataSink;
use std::io;

/// Bytes of a `fuse_out_header`.
pub const REPLY_HEADER_LEN: usize = 16;

/// Room for one reply.
pub trait Reply: DataSink + Send {
    /// Drops the payload that was put so far: the operation failed after all.
    fn rewind(&mut self);

    /// Sends the payload behind `header`. The header's length field counts
    /// both. Called once.
    ///
    /// # Errors
    /// The transport is gone or refuses.
    fn finish(&mut self, header: [u8; REPLY_HEADER_LEN]) -> io::Result<()>;
}

/// An operation that waits for something (a lock): it runs on a thread that
/// may block, and answers there; not at all where [`crate::Session::interrupt_all`]
/// has ended the wait.
pub type Later = Box<dyn FnOnce(&mut dyn Reply) + Send>;

/// What became of a request.
#[must_use]
pub enum Outcome {
    /// `Reply::finish` has been called.
    Replied,
    /// The protocol knows no answer to this one (FORGET, INTERRUPT).
    Silent,
    /// To be run with the same reply on a thread that may block.
    Later(Later),
    /// The peer broke the protocol so badly that no answer can be addressed
    /// (shorter than a header, wrong length): the reason for the log.
    Broken(String),
}
