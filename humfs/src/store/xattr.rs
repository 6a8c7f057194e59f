//! The `xattr` format: the record is one extended attribute of the object in
//! the data tree, so whatever happens to the object happens to both.
//!
//! * Making something gives it the record before its name: a regular file is
//!   made without one and linked in, a directory is made in `humfs/stage` and
//!   renamed in.
//! * rename, link, unlink and exchange are the host's one call.
//! * A symbolic link cannot carry the attribute, nor can a FIFO, so everything
//!   that is no directory is a regular file. A link's target is in the record,
//!   or in the file where the record has no room for it.
//! * Who may write the attribute could forge it. The guest cannot: its own
//!   attributes are inside the record. Other users of the host cannot: the
//!   tree is 0700, and is refused otherwise.

use super::{At, Facts, Format, Hold, Loaded, MetaStore, Object, Recovered, Renaming};
use crate::host::{self, Fault, damaged, fault};
use crate::record::{BLOCK_VERSION, Note, Record, Target, Unreadable};
use crate::tree::{Access, Tree};
use externfs::{Attr, Errno, FileKind, Result};
use hostfs::Inode;
use rustix::fs::{AtFlags, RenameFlags, XattrFlags};
use rustix::io::Errno as Host;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The attribute's name on the host.
pub const ATTRIBUTE: &CStr = c"user.humfs";

/// A longer target goes into the file: the host has about 4 KiB for all
/// attributes of an object together.
const TARGET_INLINE_MAX: usize = 1024;

/// The longest value that any host takes (`XATTR_SIZE_MAX`).
const VALUE_MAX: usize = 64 << 10;

/// See the [module](self).
#[derive(Debug)]
pub struct XattrStore {
    /// `humfs/stage`: directories before they are whole. None in a tree that
    /// is only read.
    stage: Option<OwnedFd>,
    next: AtomicU64,
}

impl XattrStore {
    /// Of `tree`.
    ///
    /// # Errors
    /// What the host says.
    pub fn open(tree: &Tree) -> Result<XattrStore> {
        let stage = match tree.access() {
            Access::Write => Some(tree.control_dir(c"stage").map_err(fault("opening humfs/stage"))?),
            Access::Read => None,
        };
        Ok(XattrStore { stage, next: AtomicU64::new(0) })
    }

    fn stage(&self) -> Result<BorrowedFd<'_>> {
        self.stage.as_ref().map(AsFd::as_fd).ok_or(Errno::EROFS.into())
    }

    fn create_dir(&self, at: &At<'_>, record: &Record) -> Result<OwnedFd> {
        let stage = self.stage()?;
        let staged = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        rustix::fs::mkdirat(stage, &staged, host::DIR_MODE).map_err(fault("making a directory"))?;
        let made = (|| {
            let name = std::ffi::CString::new(staged.as_str()).map_err(|_| Host::INVAL)?;
            let fd = host::child_dir(stage, &name)?;
            put(Hold::Path(fd.as_fd()), &record.to_block(Target::Block))?;
            host::rename_new(stage, &name, at.dir, at.name)?;
            Ok(fd)
        })();
        made.map_err(|error| {
            // Should this fail too, the next mount sweeps it.
            let _ = rustix::fs::unlinkat(stage, &staged, AtFlags::REMOVEDIR);
            fault("making a directory")(error)
        })
    }

    /// A regular file with `record`, still without a name.
    fn prepare(dir: BorrowedFd<'_>, record: &Record) -> Result<OwnedFd> {
        let fd = host::unnamed(dir).map_err(fault("creating a file"))?;
        let in_contents = record.target.as_deref().filter(|target| target.len() > TARGET_INLINE_MAX);
        if let Some(target) = in_contents {
            host::write_all(fd.as_fd(), target).map_err(fault("writing the target of a link"))?;
            // The record is durable with the host's journal, contents are not.
            rustix::fs::fdatasync(&fd).map_err(fault("fdatasync"))?;
        }
        let target = if in_contents.is_some() { Target::Contents } else { Target::Block };
        put(Hold::Open(fd.as_fd()), &record.to_block(target)).map_err(fault("writing a record"))?;
        Ok(fd)
    }
}

/// Sets the attribute.
fn put(hold: Hold<'_>, block: &[u8]) -> Fault<()> {
    match hold {
        Hold::Open(fd) => rustix::fs::fsetxattr(fd, ATTRIBUTE, block, XattrFlags::empty()),
        Hold::Path(fd) => rustix::fs::setxattr(host::proc_path(fd), ATTRIBUTE, block, XattrFlags::empty()),
        Hold::Name(at) => hostfs::named::set_xattr(at.dir, at.name, ATTRIBUTE, block, XattrFlags::empty()),
    }
}

/// The whole value; `call` answers ERANGE where the buffer is too short.
fn whole(mut call: impl FnMut(&mut [u8]) -> Fault<usize>) -> Fault<Vec<u8>> {
    for len in [256, VALUE_MAX] {
        let mut buffer = vec![0; len];
        match call(&mut buffer) {
            Err(Host::RANGE) => {}
            Ok(len) => {
                buffer.truncate(len);
                return Ok(buffer);
            }
            Err(other) => return Err(other),
        }
    }
    Err(Host::RANGE)
}

/// The value of the attribute of `at`.
fn read(at: &At<'_>) -> Fault<Vec<u8>> {
    whole(|buffer| hostfs::named::get_xattr(at.dir, at.name, ATTRIBUTE, buffer))
}

/// The record in `block`; `contents` reads the file's, if that is where the
/// target is.
fn decode(block: Fault<Vec<u8>>, host: &Attr, contents: impl FnOnce() -> Fault<Vec<u8>>) -> Result<Loaded> {
    let block = match block {
        Ok(block) => block,
        Err(Host::NODATA) => return Ok(Loaded::Absent),
        Err(other) => return Err(fault("reading a record")(other)),
    };
    let (mut record, target) = Record::from_block(&block).map_err(|why| damaged(format!("inode {} of the data tree: {why}", host.ino)))?;
    if (record.kind == FileKind::Directory) != (host.kind == FileKind::Directory) {
        return Err(damaged(format!("inode {} of the data tree: {}", host.ino, Unreadable::OtherType)));
    }
    if target == Target::Contents {
        record.target = Some(contents().map_err(fault("reading the target of a link"))?.into());
    }
    Ok(Loaded::Record(record))
}

impl MetaStore for XattrStore {
    fn format(&self) -> Format {
        Format::Xattr
    }

    fn load(&self, at: &At<'_>, host: &Attr) -> Result<Loaded> {
        if !matches!(host.kind, FileKind::Regular | FileKind::Directory) {
            // Only the host makes such things here, and they carry nothing.
            return Ok(Loaded::Absent);
        }
        decode(read(at), host, || host::read_file(at.dir, at.name, libc::PATH_MAX as usize))
    }

    fn load_root(&self, root: BorrowedFd<'_>, host: &Attr) -> Result<Loaded> {
        let block = whole(|buffer| rustix::fs::getxattr(host::proc_path(root), ATTRIBUTE, buffer));
        decode(block, host, || Err(Host::INVAL))
    }

    fn save(&self, object: &Object<'_>, record: &Record) -> Result<Note> {
        let in_contents = record.target.as_ref().is_some_and(|target| target.len() > TARGET_INLINE_MAX);
        let target = if in_contents { Target::Contents } else { Target::Block };
        put(object.hold, &record.to_block(target)).map_err(fault("writing a record"))?;
        if object.known == Some(record) {
            // Some hosts leave the ctime when an attribute gets the value that it has.
            object.hold.touch_ctime().map_err(fault("moving the ctime of a file"))?;
        }
        Ok(Note::default())
    }

    fn create(&self, at: &At<'_>, record: &Record) -> Result<(OwnedFd, Note)> {
        if record.kind == FileKind::Directory {
            return self.create_dir(at, record).map(Note::none_for);
        }
        let fd = XattrStore::prepare(at.dir, record)?;
        host::link_fd(fd.as_fd(), at.dir, at.name).map_err(fault("creating a file"))?;
        Ok(Note::none_for(fd))
    }

    fn create_unnamed(&self, dir: BorrowedFd<'_>, record: &Record) -> Result<OwnedFd> {
        XattrStore::prepare(dir, record)
    }

    fn link(&self, object: &Object<'_>, to: &At<'_>, _record: &Record) -> Result<()> {
        object.hold.link(to).map_err(fault("linking a file"))
    }

    fn remove(&self, at: &At<'_>, victim: Facts) -> Result<()> {
        let flags = if victim.kind == FileKind::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(at.dir, at.name, flags).map_err(fault("removing a name"))
    }

    fn rename(&self, from: &At<'_>, to: &At<'_>, how: &Renaming) -> Result<()> {
        let mut flags = RenameFlags::empty();
        flags.set(RenameFlags::EXCHANGE, how.exchange);
        flags.set(RenameFlags::NOREPLACE, how.no_replace);
        rustix::fs::renameat_with(from.dir, from.name, to.dir, to.name, flags).map_err(fault("renaming"))
    }

    fn sync_record(&self, object: &Object<'_>) -> Result<()> {
        match object.hold {
            Hold::Open(fd) => rustix::fs::fsync(fd).map_err(fault("fsync")),
            Hold::Path(_) | Hold::Name(_) => Ok(()),
        }
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn recover(&self, _root: &Arc<Inode>) -> Result<Recovered> {
        let mut recovered = Recovered::default();
        let stage = self.stage()?;
        for (name, _) in host::names(stage).map_err(fault("reading humfs/stage"))? {
            host::remove_tree(stage, &name).map_err(fault("sweeping humfs/stage"))?;
            recovered.undone += 1;
        }
        Ok(recovered)
    }

    fn recorded_names(&self, _dir: &Arc<Inode>, _emit: &mut dyn FnMut(&CStr)) -> Result<()> {
        Ok(())
    }

    fn discard(&self, _at: &At<'_>) -> Result<()> {
        Err(Errno::ENOENT.into())
    }

    fn describe(&self, root: BorrowedFd<'_>, at: Option<&At<'_>>) -> String {
        let block = at.map_or_else(|| whole(|buffer| rustix::fs::getxattr(host::proc_path(root), ATTRIBUTE, buffer)), read);
        let what = match block {
            Ok(block) => match Record::from_block(&block) {
                Ok(_) => format!("{} bytes, block version {}, checksum right", block.len(), BLOCK_VERSION),
                Err(why) => format!("{} bytes: {why}", block.len()),
            },
            Err(Host::NODATA) => "not set".into(),
            Err(error) => format!("cannot be read: {error}"),
        };
        format!("the attribute {}: {what}", ATTRIBUTE.to_string_lossy())
    }
}
