//! [`Record`]: what humfs keeps of an object besides its data, and the two
//! ways of writing one down. Pure: no file is touched here.
//!
//! * The **line** is the classic text of `shadow_fs` and `shadow_link`:
//!   `mode uid gid` or `mode uid gid TYPE major minor`, in decimal. It has no
//!   room for extended attributes.
//! * The **block** is the binary form of the `xattr` format, with everything
//!   and a checksum. FORMAT.md gives every byte.

mod block;
mod line;
mod xattrs;

pub use block::{BLOCK_VERSION, Target};
pub use line::LINE_MAX;
pub use xattrs::Xattrs;

use externfs::{DeviceNumber, FileKind, GuestGid, GuestUid, Mode, Timestamp};

/// So much of a record's attributes and target is part of what a node is said to
/// take.
const WEIGHTLESS: usize = 128;

/// What an attribute takes beside its name and value.
const ATTRIBUTE_WEIGHT: usize = 64;

/// Why a record cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unreadable {
    /// Nothing is there. A record that was being written when the power failed
    /// looks like this.
    #[error("the record is empty")]
    Empty,
    /// It is not what the format says.
    #[error("the record is malformed: {0}")]
    Malformed(&'static str),
    /// Its checksum says that some of it is not what was written.
    #[error("the record's checksum is wrong")]
    Checksum,
    /// It cannot be that of what the data tree holds.
    #[error("the record is one of another type")]
    OtherType,
    /// Written by a later humfs.
    #[error("the record has version {0}, which this program does not know")]
    Version(u8),
}

/// Owner, mode, type and attributes of one object, as the guest sees them.
/// Sizes and times are those of the object in the data tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// The type that the guest sees; the object in the data tree may be a
    /// regular file that only stands for it.
    pub kind: FileKind,
    /// All twelve permission bits.
    pub mode: Mode,
    /// The owner.
    pub uid: GuestUid,
    /// The group.
    pub gid: GuestGid,
    /// 0:0 unless a device.
    pub device: DeviceNumber,
    /// The target of a symbolic link whose object in the data tree is none.
    pub target: Option<Box<[u8]>>,
    /// Extended attributes, ACLs among them.
    pub xattrs: Xattrs,
    /// What its store notes down besides.
    pub note: Note,
}

/// What a store knows of an object besides what the guest has made of it. It
/// is no part of the record: two records are the same whatever it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Note {
    /// When the record was last changed, in formats that keep the time
    /// themselves (`MetaStore::keeps_times`); else the epoch. The guest's ctime
    /// is this or the host's, whichever is later.
    pub changed: Timestamp,
    /// Where the store will find the record again; 0 if it has to look.
    pub row: i64,
}

impl Note {
    /// `made` by a store that notes nothing down.
    pub(crate) fn none_for<T>(made: T) -> (T, Note) {
        (made, Note::default())
    }
}

impl PartialEq for Note {
    fn eq(&self, _: &Note) -> bool {
        true
    }
}

impl Eq for Note {}

impl Record {
    /// Of an object without attributes, device number or target.
    #[must_use]
    pub fn new(kind: FileKind, mode: Mode, uid: GuestUid, gid: GuestGid) -> Record {
        let (xattrs, note) = (Xattrs::default(), Note::default());
        Record { kind, mode, uid, gid, device: DeviceNumber::default(), target: None, xattrs, note }
    }

    /// Bytes that it takes in memory beside its own size, where that is more than
    /// most records': attributes and a target have no size worth bounding else.
    pub(crate) fn weight(&self) -> usize {
        let target = self.target.as_ref().map_or(0, |target| target.len());
        let attributes = self.xattrs.bytes() + self.xattrs.len() * ATTRIBUTE_WEIGHT;
        (target + attributes).saturating_sub(WEIGHTLESS)
    }

    /// Whether a line can say all of it but the extended attributes.
    #[must_use]
    pub fn has_xattrs(&self) -> bool {
        !self.xattrs.is_empty()
    }
}
