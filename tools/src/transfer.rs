//! Trees on their way: from a host directory or an archive into a tree of
//! ours, and out again.
//!
//! An [`Origin`] tells one [`Item`] after the other, directories before what
//! is in them, and gives the contents of the last one it told. A [`Planter`]
//! puts items into a tree, [`HostWriter`] into a host directory, and
//! [`pack`] into an archive.

mod ahead;
mod attributes;
mod dates;
mod gather;
mod host_tree;
mod host_writer;
mod pack;
mod planter;
mod unpack;

pub use ahead::Ahead;
pub use attributes::LeftOut;
pub use gather::Gather;
pub use host_tree::{HostTree, Keep};
pub use host_writer::HostWriter;
pub use pack::pack;
pub(crate) use planter::NO_ROOM;
pub use planter::Planter;
pub use unpack::Unpack;

use crate::failure::Result;
use crate::offline::TreePath;
use externfs::{DeviceNumber, FileKind, GuestGid, GuestUid, Mode, Timestamp};

/// How much is moved at once, in bytes.
const BUFFER: usize = 256 << 10;

/// What an item is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// A file of this many bytes.
    Regular(u64),
    /// A directory.
    Directory,
    /// A symbolic link with this target.
    Symlink(Vec<u8>),
    /// Another name of an item that came before.
    HardLink(TreePath),
    /// A device, FIFO or socket; 0:0 unless a device.
    Special(FileKind, DeviceNumber),
}

/// One object on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// Where it belongs; the root stands for the top of what is moved.
    pub path: TreePath,
    /// What it is.
    pub body: Body,
    /// Permission bits.
    pub mode: Mode,
    /// The owner; None for whoever makes it.
    pub owner: Option<(GuestUid, GuestGid)>,
    /// When its contents last changed; None for now.
    pub mtime: Option<Timestamp>,
    /// When they were last read; None for the same as `mtime`.
    pub atime: Option<Timestamp>,
    /// Extended attributes. Those that no guest can have may be without their values.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Where items come from.
pub trait Origin {
    /// The next one; None at the end.
    ///
    /// # Errors
    /// One line.
    fn next_item(&mut self) -> Result<Option<Item>>;

    /// The next piece of the contents of the last item, a regular file: its
    /// offset and how many bytes of `buffer` it fills; None at the end. What
    /// is in no piece is a hole.
    ///
    /// # Errors
    /// One line.
    fn data(&mut self, buffer: &mut [u8]) -> Result<Option<(u64, usize)>>;
}

/// How far a transfer is; called for each item and each piece of contents.
pub type Told<'t> = &'t mut dyn FnMut(u64);
