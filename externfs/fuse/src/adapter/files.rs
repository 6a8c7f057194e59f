//! Opening, reading, writing and listing: what needs more than a conversion.

use super::{Adapter, refuse};
use crate::buffer::with_read_buffer;
use crate::convert;
use crate::listing::Names;
use crate::passthrough::{Asked, Claim};
use externfs::{Caller, CreateFlags, FileCache, Handle, HandleId, Mode, Name, NewNode, NodeId, OpenFlags, WriteFlags};
use externfs_wire::buffer::SliceSource;
use fuser::{BackingId, FileHandle, FopenFlags, Generation, INodeNo, ReplyCreate, ReplyData, ReplyEntry, ReplyOpen, ReplyWrite};
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

impl Adapter {
    pub(super) fn make(&self, caller: &Caller, place: (INodeNo, &OsStr), new: &NewNode<'_>, mode: Mode, reply: ReplyEntry) {
        let mark = self.backings.mark();
        let made = super::name(place.1).and_then(|name| self.export.make(caller, super::node(place.0), name, new, mode));
        match made {
            Ok(entry) => self.entry(reply, mark, &entry),
            Err(error) => reply.error(refuse("make", &error)),
        }
    }

    /// How the kernel is to serve a freshly opened file, and its flags.
    fn serve_as(
        &self,
        (id, created): (NodeId, bool),
        opened: &Handle,
        how: OpenFlags,
        register: impl FnOnce(OwnedFd) -> io::Result<BackingId>,
    ) -> (Claim<BackingId>, FopenFlags) {
        // A file that was not written has nothing to say at close(2).
        let flags = convert::file_flags(opened, !(how.write && self.flush_on_close));
        if !self.backings.is_enabled() {
            return (Claim::Plain, flags);
        }
        let asked =
            Asked { maps: how.read && how.write, bypass: opened.cache == FileCache::Bypass, pays: self.choice.pays(created, opened.size) };
        let claim = self.backings.claim((id, opened.id), asked, || self.export.backing(opened.id), register);
        let flags = match &claim {
            Claim::Plain => flags,
            Claim::Direct => flags | FopenFlags::FOPEN_DIRECT_IO,
            // The host's page cache serves it: none of the kernel's own.
            Claim::Backed { .. } => flags & FopenFlags::FOPEN_NOFLUSH,
        };
        (claim, flags)
    }

    /// Makes the kernel forget attributes of a node that it is opening.
    ///
    /// Called while OPEN is unanswered, which notifications must not be in
    /// general: this one touches no pages and waits for no lock, since the
    /// open in progress keeps the inode alive (`fuse_reverse_inval_inode` with
    /// a negative offset).
    fn withdraw_attributes(&self, id: NodeId) {
        if let Some(notifier) = self.notifier.get()
            && let Err(error) = notifier.inval_inode(INodeNo(id.0), -1, 0)
        {
            tracing::debug!("attributes of node {} not withdrawn: {error}", id.0);
        }
    }

    pub(super) fn open_file(&self, caller: &Caller, id: NodeId, flags: i32, reply: ReplyOpen) {
        let flags = convert::open_flags(flags);
        let opened = match self.export.open(caller, id, flags) {
            Ok(opened) => opened,
            Err(error) => return reply.error(refuse("open", &error)),
        };
        let fh = FileHandle(opened.id.0);
        match self.serve_as((id, false), &opened, flags, |file| reply.open_backing(file)) {
            (Claim::Backed { backing, withdraw_attributes }, flags) => {
                if withdraw_attributes && !self.policy.attr.is_zero() {
                    self.withdraw_attributes(id);
                }
                reply.opened_passthrough(fh, flags, &backing);
            }
            (_, flags) => reply.opened(fh, flags),
        }
    }

    pub(super) fn create_file(&self, caller: &Caller, place: (NodeId, &OsStr), flags: CreateFlags, reply: ReplyCreate) {
        let created = super::name(place.1).and_then(|name| self.export.create(caller, place.0, name, flags));
        let (entry, opened) = match created {
            Ok(created) => created,
            Err(error) => return reply.error(refuse("create", &error)),
        };
        let (claim, open_flags) = self.serve_as((entry.id, true), &opened, flags.open, |file| reply.open_backing(file));
        let (attr, generation, fh) = (convert::entry_attr(&entry), Generation(entry.generation), FileHandle(opened.id.0));
        // One life for name and attributes is all that fuser carries.
        let ttl = entry.attr_ttl.min(entry.entry_ttl);
        match claim {
            Claim::Backed { backing, withdraw_attributes } => {
                let ttl = if withdraw_attributes { Duration::ZERO } else { ttl };
                reply.created_passthrough(&ttl, &attr, generation, fh, open_flags, &backing);
            }
            _ => reply.created(&ttl, &attr, generation, fh, open_flags),
        }
    }

    pub(super) fn read_file(&self, handle: HandleId, offset: u64, size: u32, reply: ReplyData) {
        with_read_buffer(
            size as usize,
            |sink| self.export.read(handle, offset, size as usize, sink),
            |result| match result {
                Ok(bytes) => reply.data(bytes),
                Err(error) => reply.error(refuse("read", &error)),
            },
        );
    }

    pub(super) fn write_file(&self, handle: HandleId, offset: u64, data: &[u8], flags: WriteFlags, reply: ReplyWrite) {
        match self.export.write(handle, offset, &mut SliceSource::new(data), flags) {
            Ok(written) => reply.written(u32::try_from(written).unwrap_or(u32::MAX)),
            Err(error) => reply.error(refuse("write", &error)),
        }
    }

    /// READDIR, with the types that the host does not tell looked up.
    pub(super) fn list(
        &self,
        caller: &Caller,
        directory: NodeId,
        handle: HandleId,
        mut cookie: u64,
        names: &mut Names,
    ) -> externfs::Result<()> {
        loop {
            self.export.read_dir(handle, cookie, names)?;
            let Some(entry) = names.untyped.take() else { return Ok(()) };
            cookie = entry.next;
            match self.export.lookup(caller, directory, Name::new(&entry.name)?) {
                Ok(found) => {
                    self.export.forget(found.id, 1);
                    names.add(entry.number, entry.next, found.attr.kind, &entry.name);
                }
                // Gone meanwhile, or not for us: then it is not listed, since
                // fuser cannot say "unknown".
                Err(error) => tracing::debug!("type of {} unknown: {error}", entry.name.escape_ascii()),
            }
            if names.full {
                return Ok(());
            }
        }
    }
}
