//! Tar archives, read and written as bytes; nothing on the host is touched.
//!
//! The formats: POSIX ustar with PAX extended headers, and GNU's (long names,
//! base-256 numbers, sparse files of the old kind and of PAX 0.0, 0.1, 1.0).
//! The `tar` crate was tried first and does not do: it splits PAX records at
//! line feeds, which binary attributes such as `security.capability` may
//! contain, and knows PAX's sparse files not at all.
//!
//! What we write is PAX, and the same tree is always the same bytes.
//!
//! Keywords beside POSIX's: `SCHILY.xattr.NAME` (the raw value),
//! `SCHILY.acl.access` and `.default` (read only: written as attributes),
//! `SCHILY.devmajor` and `SCHILY.devminor` (where a header's field is too
//! short), and `EXTERNFS.type=socket`, for which tar has no letter: others see
//! an empty file.

mod acl;
mod compressed;
mod header;
mod pax;
mod reader;
mod sparse;
mod writer;

pub use compressed::{Counter, decompressed};
pub use reader::Reader;
pub use writer::Writer;

use externfs::{DeviceNumber, FileKind, Timestamp};
use std::io;

/// The unit of everything in a tar archive, in bytes.
const BLOCK: usize = 512;

/// The keyword for types that tar has no letter for.
const TYPE_KEYWORD: &[u8] = b"EXTERNFS.type";

/// What a member is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// A file with contents.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link with this target.
    Symlink(Vec<u8>),
    /// Another name of what this path names, as the archive writes it.
    HardLink(Vec<u8>),
    /// A block or character device.
    Device(FileKind, DeviceNumber),
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
}

/// One member of an archive, without its contents.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// As the archive writes it: `./usr/bin/`.
    pub path: Vec<u8>,
    /// Its type.
    pub what: What,
    /// The twelve permission bits.
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// When the contents last changed.
    pub mtime: Timestamp,
    /// When they were last read, if the archive says.
    pub atime: Option<Timestamp>,
    /// Bytes, holes included.
    pub size: u64,
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An archive that is not as it should be.
fn broken(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

#[cfg(test)]
mod tests;
