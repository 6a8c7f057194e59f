//! [`Unpack`]: the items of an archive.

use super::{Body, Item, Origin};
use crate::archive::{Member, Reader, What};
use crate::failure::{Failure, Result};
use crate::offline::TreePath;
use crate::shown;
use externfs::{DeviceNumber, FileKind, GuestGid, GuestUid, Mode};
use std::io::Read;

/// See the head of this file.
pub struct Unpack<R> {
    reader: Reader<R>,
    /// The archive's name, for messages.
    name: String,
}

impl<R: Read> Unpack<R> {
    /// Of the archive called `name`, whose bytes `source` gives.
    pub fn new(source: R, name: impl Into<String>) -> Unpack<R> {
        Unpack { reader: Reader::new(source), name: name.into() }
    }

    fn path(&self, written: &[u8]) -> Result<TreePath> {
        let refused = |why: &str| Failure::new(format!("{}: the member '{}' {why}", self.name, shown::text(written)));
        if written.starts_with(b"/") {
            return Err(refused("has an absolute path: make the archive with 'tar -C DIR -c .'"));
        }
        TreePath::parse(written).map_err(|_| refused("leads out of the tree, or has a name that none can have"))
    }

    fn item(&self, member: Member) -> Result<Item> {
        let body = match member.what {
            What::Regular => Body::Regular(member.size),
            What::Directory => Body::Directory,
            What::Symlink(target) => Body::Symlink(target),
            What::HardLink(target) => Body::HardLink(self.path(&target)?),
            What::Device(kind, device) => Body::Special(kind, device),
            What::Fifo => Body::Special(FileKind::Fifo, DeviceNumber::default()),
            What::Socket => Body::Special(FileKind::Socket, DeviceNumber::default()),
        };
        let path = self.path(&member.path)?;
        if path.is_root() && body != Body::Directory {
            return Err(Failure::new(format!("{}: the member '{}' would replace the root", self.name, shown::text(&member.path))));
        }
        Ok(Item {
            path,
            body,
            mode: Mode::new(member.mode),
            owner: Some((GuestUid(member.uid), GuestGid(member.gid))),
            mtime: Some(member.mtime),
            atime: member.atime,
            xattrs: member.xattrs,
        })
    }
}

impl<R: Read> Origin for Unpack<R> {
    fn next_item(&mut self) -> Result<Option<Item>> {
        let member = self.reader.next_member().map_err(|error| Failure::io(&self.name, &error))?;
        member.map(|member| self.item(member)).transpose()
    }

    fn data(&mut self, buffer: &mut [u8]) -> Result<Option<(u64, usize)>> {
        self.reader.data(buffer).map_err(|error| Failure::io(&self.name, &error))
    }
}
