//! [`DataSink`] and [`DataSource`]: file data on its way between a plugin and
//! a frontend, copied as seldom as the two allow.
//!
//! A plugin that keeps its data in memory hands bytes over; one that keeps it
//! in host files hands over a descriptor and an offset, and the frontend moves
//! the data itself: into a reply buffer for /dev/fuse, straight into guest
//! memory for virtio-fs.

use std::io;
use std::os::fd::BorrowedFd;

/// Where the data of a READ goes. It has room for the size that was asked for.
pub trait DataSink {
    /// Appends `bytes`.
    ///
    /// # Errors
    /// EINVAL-like `io::Error` when they do not fit into what was asked for;
    /// an error of the transport otherwise.
    fn put(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Appends up to `len` bytes read from `file` at `offset` (bytes) and
    /// returns how many; fewer only at the end of the file (preadv(2)).
    ///
    /// # Errors
    /// What preadv(2) answers, also after some bytes, or an error of the transport.
    fn fill_from(&mut self, file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<usize>;

    /// How many more bytes fit.
    fn room(&self) -> usize;
}

/// Where a write lands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WritePlace {
    /// At this byte offset (pwritev(2)).
    At(u64),
    /// At the end of the file, atomically (`RWF_APPEND` of pwritev2(2)).
    End,
}

/// Where the data of a WRITE comes from.
pub trait DataSource {
    /// Copies the next bytes into `buffer` and returns how many: less than the
    /// buffer's length only when the source is exhausted.
    ///
    /// # Errors
    /// An error of the transport.
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes up to `len` of the next bytes to `file` and returns how many
    /// arrived. With `sync` the data is durable on return (`RWF_DSYNC`).
    ///
    /// # Errors
    /// What pwritev2(2) answers, or an error of the transport.
    fn drain_to(&mut self, file: BorrowedFd<'_>, place: WritePlace, len: usize, sync: bool) -> io::Result<usize>;

    /// How many bytes are left.
    fn remaining(&self) -> usize;
}
