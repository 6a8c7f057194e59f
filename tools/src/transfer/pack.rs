//! [`pack`]: items into an archive.

use super::{BUFFER, Body, Item, Origin, Told};
use crate::archive::{Member, What, Writer};
use crate::failure::{Failure, Result};
use externfs::{FileKind, GuestGid, GuestUid, Timestamp};
use std::io::{self, Write};

/// Writes everything that `origin` tells into an archive, and ends it.
///
/// # Errors
/// Those of the origin, and of the target.
pub fn pack<W: Write>(origin: &mut dyn Origin, target: W, name: &str, told: Told<'_>) -> Result<W> {
    let cannot = |error: io::Error| Failure::io(name, &error);
    let mut writer = Writer::new(target);
    let mut buffer = vec![0; BUFFER];
    while let Some(item) = origin.next_item()? {
        let member = member(&item);
        writer.begin(&member).map_err(cannot)?;
        if let Body::Regular(size) = item.body {
            let mut at = 0;
            while let Some((offset, count)) = origin.data(&mut buffer)? {
                // The size in the header cannot be changed any more.
                let count = count.min(usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX));
                writer.zeros(offset.min(size) - at).map_err(cannot)?;
                writer.data(buffer.get(..count).unwrap_or_default()).map_err(cannot)?;
                at = offset.min(size) + count as u64;
                told(count as u64);
            }
            writer.zeros(size - at).map_err(cannot)?;
        }
        writer.end().map_err(cannot)?;
        told(0);
    }
    writer.finish().map_err(cannot)
}

fn member(item: &Item) -> Member {
    let (what, size) = match &item.body {
        Body::Regular(size) => (What::Regular, *size),
        Body::Directory => (What::Directory, 0),
        Body::Symlink(target) => (What::Symlink(target.clone()), 0),
        Body::HardLink(target) => (What::HardLink([b"./", target.as_bytes()].concat()), 0),
        Body::Special(FileKind::Fifo, _) => (What::Fifo, 0),
        Body::Special(FileKind::Socket, _) => (What::Socket, 0),
        Body::Special(kind, device) => (What::Device(*kind, *device), 0),
    };
    let mut path = [b"./", item.path.as_bytes()].concat();
    if what == What::Directory && !item.path.is_root() {
        path.push(b'/');
    }
    let (GuestUid(uid), GuestGid(gid)) = item.owner.unwrap_or((GuestUid(0), GuestGid(0)));
    Member {
        path,
        what,
        mode: item.mode.bits(),
        uid,
        gid,
        mtime: item.mtime.unwrap_or_else(Timestamp::now),
        atime: item.atime,
        size,
        xattrs: item.xattrs.clone(),
    }
}
