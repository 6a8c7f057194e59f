//! [`Header`] and [`Operation`]: a request, parsed once into what cannot be
//! wrong in form. Whether its numbers mean anything is the export's matter.

mod attrs;
mod files;
mod names;
mod xattrs;

use crate::abi::{self, InitFlags, SetAttrValid, size};
use crate::codec::Fields;
use crate::init::InitRequest;
use crate::opcode::{Opcode, XATTR_VALUE};
use externfs::*;
use std::result::Result;

/// `fuse_in_header`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    /// Bytes of the whole request.
    pub(crate) len: u32,
    /// See [`Opcode`].
    pub(crate) opcode: u32,
    /// The kernel's name for the request.
    pub(crate) unique: u64,
    /// The node it is about, 0 for none.
    pub(crate) node: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: u32,
    /// Bytes of the extensions at the end.
    pub(crate) extension_len: usize,
}

impl Header {
    pub(crate) fn parse(bytes: &[u8; abi::REQUEST_HEADER_LEN]) -> Result<Header, Errno> {
        let mut fields = Fields::new(bytes);
        Ok(Header {
            len: fields.u32()?,
            opcode: fields.u32()?,
            unique: fields.u64()?,
            node: fields.u64()?,
            uid: fields.u32()?,
            gid: fields.u32()?,
            pid: fields.u32()?,
            extension_len: usize::from(fields.u16()?) * 8,
        })
    }

    /// On whose behalf it runs, without umask and groups.
    pub(crate) fn caller(&self) -> Caller {
        Caller { uid: GuestUid(self.uid), gid: GuestGid(self.gid), pid: self.pid, umask: 0, supplementary_group: None }
    }
}

/// A component to look up; kernels with NFS export ask for the other two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Component<'a> {
    This,
    Parent,
    Name(Name<'a>),
}

/// A name to be made, with the umask that its maker has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Making<'a> {
    pub(crate) name: Name<'a>,
    pub(crate) mode: Mode,
    pub(crate) umask: u32,
}

/// `fuse_read_in`, for files and listings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ReadArgs {
    pub(crate) handle: HandleId,
    pub(crate) offset: u64,
    pub(crate) size: usize,
}

/// `fuse_write_in`; the data is still in the source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct WriteArgs {
    pub(crate) handle: HandleId,
    pub(crate) offset: u64,
    pub(crate) size: usize,
    pub(crate) flags: WriteFlags,
}

/// `fuse_release_in`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ReleaseArgs {
    pub(crate) handle: HandleId,
    pub(crate) lock_owner: u64,
    pub(crate) flush: bool,
    pub(crate) flock_unlock: bool,
}

/// `fuse_copy_file_range_in`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CopyArgs {
    pub(crate) from: (HandleId, u64),
    pub(crate) to_node: NodeId,
    pub(crate) to: (HandleId, u64),
    pub(crate) length: u64,
}

/// `fuse_ioctl_in` with its data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct IoctlArgs<'a> {
    pub(crate) handle: HandleId,
    pub(crate) flags: u32,
    pub(crate) command: u32,
    pub(crate) data: &'a [u8],
    pub(crate) out_size: u32,
}

/// A request's meaning.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Operation<'a> {
    Lookup(Component<'a>),
    Forget(u64),
    /// That many `fuse_forget_one` are still in the source.
    BatchForget(u32),
    GetAttr(Option<HandleId>),
    StatX(Option<HandleId>),
    SetAttr(Option<HandleId>, SetAttr),
    ReadLink,
    Make(Making<'a>, NewNode<'a>),
    Unlink(Name<'a>),
    RmDir(Name<'a>),
    Rename {
        from: Name<'a>,
        to_parent: NodeId,
        to: Name<'a>,
        flags: RenameFlags,
    },
    Link {
        node: NodeId,
        name: Name<'a>,
    },
    Open(OpenFlags),
    Create(Making<'a>, CreateFlags),
    TmpFile {
        umask: u32,
        flags: CreateFlags,
    },
    Read(ReadArgs),
    Write(WriteArgs),
    StatFs,
    Release(ReleaseArgs),
    FSync {
        handle: HandleId,
        data_only: bool,
    },
    Flush {
        handle: HandleId,
        lock_owner: u64,
    },
    SetXattr {
        name: &'a [u8],
        value: &'a [u8],
        flags: XattrFlags,
    },
    GetXattr {
        name: &'a [u8],
        size: usize,
    },
    ListXattr {
        size: usize,
    },
    RemoveXattr {
        name: &'a [u8],
    },
    Init(InitRequest),
    OpenDir,
    ReadDir {
        args: ReadArgs,
        plus: bool,
    },
    ReleaseDir(HandleId),
    FSyncDir {
        handle: HandleId,
        data_only: bool,
    },
    GetLock(HandleId, Lock),
    SetLock {
        handle: HandleId,
        lock: Lock,
        wait: bool,
    },
    Access(Access),
    Interrupt(u64),
    Destroy,
    Ioctl(IoctlArgs<'a>),
    FAllocate {
        handle: HandleId,
        offset: u64,
        length: u64,
        flags: FallocateFlags,
    },
    Seek {
        handle: HandleId,
        offset: u64,
        what: SeekFor,
    },
    Copy {
        args: CopyArgs,
        wide: bool,
    },
    SyncFs,
    NotifyReply,
    /// Answered ENOSYS, so that the kernel never asks again and does by itself
    /// what is right for regular files.
    Never,
}

/// Whether `opcode` is answered ENOSYS whatever its arguments.
///
/// POLL is one of them: only regular files and directories ever get here, the
/// kernel's own answer for those ("always ready") is the right one, and it
/// then spares the requests. BMAP needs a block device; DAX is not offered.
fn is_never(opcode: Opcode) -> bool {
    matches!(opcode, Opcode::BMap | Opcode::Poll | Opcode::SetupMapping | Opcode::RemoveMapping)
}

impl<'a> Operation<'a> {
    /// Parses the arguments that follow the header. `terms` are what INIT
    /// agreed upon.
    pub(crate) fn parse(opcode: Opcode, terms: InitFlags, args: &'a [u8]) -> Result<Operation<'a>, Errno> {
        if is_never(opcode) {
            return Ok(Operation::Never);
        }
        let mut fields = Fields::new(args);
        let operation = match opcode {
            Opcode::Init => return InitRequest::parse(args).map(Operation::Init),
            Opcode::NotifyReply => return Ok(Operation::NotifyReply),
            Opcode::BatchForget => {
                let count = fields.u32()?;
                fields.skip(4)?;
                Operation::BatchForget(count)
            }
            Opcode::Forget => Operation::Forget(fields.u64()?),
            Opcode::Interrupt => Operation::Interrupt(fields.u64()?),
            Opcode::Destroy => Operation::Destroy,
            Opcode::StatFs => Operation::StatFs,
            Opcode::SyncFs => {
                fields.skip(8)?;
                Operation::SyncFs
            }
            _ => parse_attributes(opcode, &mut fields)
                .or_else(|| parse_names(opcode, terms, &mut fields))
                .or_else(|| parse_files(opcode, terms, &mut fields))
                .or_else(|| parse_more_files(opcode, &mut fields))
                .or_else(|| parse_xattrs(opcode, terms, &mut fields))
                .unwrap_or(Err(Errno::ENOSYS))?,
        };
        fields.end()?;
        Ok(operation)
    }
}

impl Operation<'_> {
    /// The same from a kernel that opens nothing: its handles say nothing, and what
    /// it does with one it does with the object, `node`. OPEN and its like are
    /// answered ENOSYS, which tells it so.
    pub(crate) fn unopened(mut self, node: NodeId) -> Self {
        let itself = HandleId::unopened(node);
        match &mut self {
            Operation::Open(_) | Operation::OpenDir | Operation::Flush { .. } => return Operation::Never,
            Operation::GetAttr(handle) | Operation::StatX(handle) | Operation::SetAttr(handle, _) => *handle = None,
            Operation::Read(args) | Operation::ReadDir { args, .. } => args.handle = itself,
            Operation::Write(args) => args.handle = itself,
            // Of a new file, by a kernel that has not tried yet to open anything.
            Operation::Release(args) => (args.handle, args.flush) = (itself, false),
            Operation::ReleaseDir(handle) | Operation::GetLock(handle, _) => *handle = itself,
            Operation::Ioctl(args) => args.handle = itself,
            Operation::Copy { args, .. } => {
                (args.from.0, args.to.0) = (itself, HandleId::unopened(args.to_node));
            }
            Operation::FSync { handle, .. }
            | Operation::FSyncDir { handle, .. }
            | Operation::SetLock { handle, .. }
            | Operation::FAllocate { handle, .. }
            | Operation::Seek { handle, .. } => *handle = itself,
            Operation::Lookup(_)
            | Operation::Forget(_)
            | Operation::BatchForget(_)
            | Operation::ReadLink
            | Operation::Make(..)
            | Operation::Unlink(_)
            | Operation::RmDir(_)
            | Operation::Rename { .. }
            | Operation::Link { .. }
            | Operation::Create(..)
            | Operation::TmpFile { .. }
            | Operation::StatFs
            | Operation::SetXattr { .. }
            | Operation::GetXattr { .. }
            | Operation::ListXattr { .. }
            | Operation::RemoveXattr { .. }
            | Operation::Init(_)
            | Operation::Access(_)
            | Operation::Interrupt(_)
            | Operation::Destroy
            | Operation::SyncFs
            | Operation::NotifyReply
            | Operation::Never => {}
        }
        self
    }
}

/// None: not of this family.
type Parsed<'a> = Option<Result<Operation<'a>, Errno>>;

fn parse_attributes<'a>(opcode: Opcode, fields: &mut Fields<'a>) -> Parsed<'a> {
    Some(match opcode {
        Opcode::GetAttr => attrs::handle_if_flagged(fields).map(Operation::GetAttr),
        Opcode::StatX => attrs::statx(fields),
        Opcode::SetAttr => attrs::set_attr(fields),
        Opcode::ReadLink => Ok(Operation::ReadLink),
        Opcode::Access => attrs::access(fields),
        Opcode::Ioctl => attrs::ioctl(fields),
        _ => return None,
    })
}

fn parse_names<'a>(opcode: Opcode, terms: InitFlags, fields: &mut Fields<'a>) -> Parsed<'a> {
    Some(match opcode {
        Opcode::Lookup => component(fields).map(Operation::Lookup),
        Opcode::Symlink => names::symlink(fields),
        Opcode::MkNod => names::make_node(fields, terms),
        Opcode::MkDir => names::make_dir(fields, terms),
        Opcode::Unlink => name(fields).map(Operation::Unlink),
        Opcode::RmDir => name(fields).map(Operation::RmDir),
        Opcode::Rename | Opcode::Rename2 => names::rename(fields, opcode == Opcode::Rename2),
        Opcode::Link => names::link(fields),
        Opcode::Create => names::create(fields, terms),
        Opcode::TmpFile => names::tmp_file(fields, terms),
        _ => return None,
    })
}

fn parse_files<'a>(opcode: Opcode, terms: InitFlags, fields: &mut Fields<'a>) -> Parsed<'a> {
    Some(match opcode {
        Opcode::Open => files::open(fields, terms),
        Opcode::OpenDir => fields.skip(8).map(|()| Operation::OpenDir),
        Opcode::Read => files::read_args(fields).map(Operation::Read),
        Opcode::Write => files::write_args(fields).map(Operation::Write),
        Opcode::ReadDir => files::read_args(fields).map(|args| Operation::ReadDir { args, plus: false }),
        Opcode::ReadDirPlus => files::read_args(fields).map(|args| Operation::ReadDir { args, plus: true }),
        Opcode::Release => files::release(fields).map(Operation::Release),
        Opcode::ReleaseDir => files::release(fields).map(|args| Operation::ReleaseDir(args.handle)),
        Opcode::FSync => files::fsync(fields).map(|(handle, data_only)| Operation::FSync { handle, data_only }),
        Opcode::FSyncDir => files::fsync(fields).map(|(handle, data_only)| Operation::FSyncDir { handle, data_only }),
        Opcode::Flush => files::flush(fields),
        _ => return None,
    })
}

fn parse_more_files<'a>(opcode: Opcode, fields: &mut Fields<'a>) -> Parsed<'a> {
    Some(match opcode {
        Opcode::FAllocate => files::fallocate(fields),
        Opcode::LSeek => files::seek(fields),
        Opcode::CopyFileRange => files::copy(fields).map(|args| Operation::Copy { args, wide: false }),
        Opcode::CopyFileRange64 => files::copy(fields).map(|args| Operation::Copy { args, wide: true }),
        Opcode::GetLk => files::lock(fields).map(|(handle, lock)| Operation::GetLock(handle, lock)),
        Opcode::SetLk => files::lock(fields).map(|(handle, lock)| Operation::SetLock { handle, lock, wait: false }),
        Opcode::SetLkW => files::lock(fields).map(|(handle, lock)| Operation::SetLock { handle, lock, wait: true }),
        _ => return None,
    })
}

fn parse_xattrs<'a>(opcode: Opcode, terms: InitFlags, fields: &mut Fields<'a>) -> Parsed<'a> {
    Some(match opcode {
        Opcode::SetXattr => xattrs::set_xattr(fields, terms),
        Opcode::GetXattr => xattrs::get_xattr(fields),
        Opcode::ListXattr => xattrs::size_field(fields).map(|size| Operation::ListXattr { size }),
        Opcode::RemoveXattr => xattrs::xattr_name(fields).map(|name| Operation::RemoveXattr { name }),
        _ => return None,
    })
}

// ----- fields that recur ------------------------------------------------------

/// # Errors
/// EBADF for a number that is none of a handle that was opened.
fn handle(fields: &mut Fields<'_>) -> Result<HandleId, Errno> {
    let handle = HandleId(fields.u64()?);
    if handle.node().is_none() { Ok(handle) } else { Err(Errno::EBADF) }
}

fn name<'a>(fields: &mut Fields<'a>) -> Result<Name<'a>, Errno> {
    Name::new(fields.text()?)
}

fn component<'a>(fields: &mut Fields<'a>) -> Result<Component<'a>, Errno> {
    match fields.text()? {
        b"." => Ok(Component::This),
        b".." => Ok(Component::Parent),
        bytes => Name::new(bytes).map(Component::Name),
    }
}

/// The umask, unless the kernel has applied it itself: then the mode has lost
/// bits that a default ACL would keep, and nothing is left to do.
fn umask(fields: &mut Fields<'_>, terms: InitFlags) -> Result<u32, Errno> {
    let umask = fields.u32()? & 0o777;
    Ok(if terms.contains(InitFlags::DONT_MASK) { umask } else { 0 })
}

fn time(seconds: u64, nanoseconds: u32) -> Result<Timestamp, Errno> {
    Timestamp::new(seconds as i64, nanoseconds)
}

// ----- extensions ---------------------------------------------------------------

/// The one supplementary group among a request's extensions
/// (`FUSE_CREATE_SUPP_GROUP`). Other extensions are stepped over.
pub(crate) fn supplementary_group(extensions: &[u8]) -> Result<Option<GuestGid>, Errno> {
    let mut fields = Fields::new(extensions);
    let mut group = None;
    while !fields.rest().is_empty() {
        let len = fields.u32()? as usize;
        let kind = fields.u32()?;
        let mut body = Fields::new(fields.bytes(len.checked_sub(size::EXT_HEADER).ok_or(Errno::EINVAL)?)?);
        if kind == abi::EXT_GROUPS && body.u32()? > 0 {
            group = Some(GuestGid(body.u32()?));
        }
    }
    Ok(group)
}
