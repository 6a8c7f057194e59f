//! [`Adapter`]: fuser's callbacks onto an export. Each one converts in, calls,
//! converts out; what takes more than that is in `files`, `listing`, `ioctl`
//! and `negotiate`.
//!
//! Not carried, because fuser 0.18 does not parse it: O_TMPFILE, syncfs, birth
//! times, supplementary groups. Locks are kept by the kernel, within this
//! mount: `POSIX_LOCKS` and `FLOCK_LOCKS` are not requested, since fuser can
//! neither tell the two apart nor pass a signal to a waiting one. Setuid and
//! capabilities are dropped by the kernel itself: `HANDLE_KILLPRIV_V2` is not
//! requested, since fuser does not read what it puts into OPEN and SETATTR.

use crate::convert;
use crate::listing::{Names, NamesWithAttributes};
use crate::options::ServeOptions;
use crate::passthrough::{Backings, PassthroughChoice};
use crate::phantom::Phantoms;
use externfs::{
    Access, CachePolicy, Caller, Entry, Errno, Export, FallocateFlags, Features, GuestGid, GuestUid, HandleId, Mode, Name, NewNode, NodeId,
    RenameFlags, SeekFor, SetAttr, Timestamp, XattrFlags,
};
use fuser::{
    AccessFlags, BackingId, BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, Generation, INodeNo, IoctlFlags, KernelConfig,
    LockOwner, Notifier, OpenFlags, PollEvents, PollFlags, PollNotifier, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow,
};
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

mod files;
mod ioctl;
mod negotiate;

pub(crate) use negotiate::is_refusal;

/// An export behind fuser.
pub(crate) struct Adapter {
    export: Arc<dyn Export>,
    features: Features,
    policy: CachePolicy,
    choice: PassthroughChoice,
    flush_on_close: bool,
    callers_are_root: bool,
    backings: Backings<BackingId>,
    phantoms: Phantoms,
    /// There once the session is.
    notifier: Arc<OnceLock<Notifier>>,
}

impl Adapter {
    pub(crate) fn new(export: Arc<dyn Export>, options: &ServeOptions) -> Adapter {
        Adapter {
            features: export.features(),
            policy: export.cache_policy(),
            choice: options.passthrough,
            flush_on_close: options.flush_on_close,
            callers_are_root: options.callers_are_root,
            backings: Backings::new(),
            phantoms: Phantoms::default(),
            notifier: Arc::default(),
            export,
        }
    }

    /// The kernel is told with `DONT_MASK` to leave the umask to us, because a
    /// directory's default ACL replaces it.
    fn caller(&self, req: &Request, umask: u32) -> Caller {
        let caller = Caller { umask: umask & 0o777, pid: req.pid(), ..Caller::root() };
        if self.callers_are_root { caller } else { Caller { uid: GuestUid(req.uid()), gid: GuestGid(req.gid()), ..caller } }
    }

    /// To be filled with the session's.
    pub(crate) fn notifier(&self) -> Arc<OnceLock<Notifier>> {
        Arc::clone(&self.notifier)
    }

    fn entry(&self, reply: ReplyEntry, mark: u64, entry: &Entry) {
        let attr_ttl = self.backings.attr_ttl(mark, entry.id, entry.attr_ttl);
        reply.entry_with_ttls(&attr_ttl, &entry.entry_ttl, &convert::entry_attr(entry), Generation(entry.generation));
    }

    fn attr(&self, reply: ReplyAttr, mark: u64, id: NodeId, result: externfs::Result<(externfs::Attr, Duration)>, operation: &str) {
        match result {
            Ok((attr, ttl)) => reply.attr(&self.backings.attr_ttl(mark, id, ttl), &convert::file_attr(id.0, &attr)),
            Err(error) => reply.error(refuse(operation, &error)),
        }
    }

    fn find(&self, caller: &Caller, parent: NodeId, name: &OsStr) -> externfs::Result<Entry> {
        match name.as_bytes() {
            b"." => self.export.lookup_self(parent),
            b".." => self.export.lookup_parent(parent),
            bytes => self.export.lookup(caller, parent, Name::new(bytes)?),
        }
    }

    fn forget_one(&self, number: u64, count: u64) {
        let count = self.phantoms.settle(number, count);
        if count > 0 {
            self.export.forget(NodeId(number), count);
        }
    }
}

impl fmt::Debug for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adapter").field("policy", &self.policy).field("backings", &self.backings).finish_non_exhaustive()
    }
}

/// The errno for the kernel; the reason, if there is one, for the log.
fn refuse(operation: &str, error: &externfs::Error) -> fuser::Errno {
    if let Some(reason) = error.reason() {
        tracing::warn!(operation, "{}: {reason}", error.errno());
    }
    // ENOSYS would make the kernel never ask again, for the whole mount.
    convert::errno(if error.errno() == Errno::ENOSYS { Errno::EOPNOTSUPP } else { error.errno() })
}

fn answer(reply: ReplyEmpty, operation: &str, result: externfs::Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(refuse(operation, &error)),
    }
}

fn xattr(reply: ReplyXattr, operation: &str, size: u32, result: externfs::Result<Vec<u8>>) {
    match result {
        Err(error) => reply.error(refuse(operation, &error)),
        Ok(value) => match u32::try_from(value.len()) {
            Err(_) => reply.error(convert::errno(Errno::E2BIG)),
            Ok(len) if size == 0 => reply.size(len),
            Ok(len) if len > size => reply.error(convert::errno(Errno::ERANGE)),
            Ok(_) => reply.data(&value),
        },
    }
}

fn name(bytes: &OsStr) -> externfs::Result<Name<'_>> {
    Ok(Name::new(bytes.as_bytes())?)
}

fn node(ino: INodeNo) -> NodeId {
    NodeId(ino.0)
}

fn handle(fh: FileHandle) -> HandleId {
    HandleId(fh.0)
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.negotiate(config)
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mark = self.backings.mark();
        match self.find(&self.caller(req, 0), node(parent), name) {
            Ok(entry) => self.entry(reply, mark, &entry),
            Err(error) if error.errno() == Errno::ENOENT && error.reason().is_none() && !self.policy.negative.is_zero() => {
                reply.entry_with_ttls(&Duration::ZERO, &self.policy.negative, &convert::no_entry_attr(), Generation(0));
            }
            Err(error) => reply.error(refuse("lookup", &error)),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.forget_one(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let mark = self.backings.mark();
        let result = self.export.get_attr(node(ino), fh.map(handle));
        self.attr(reply, mark, node(ino), result, "getattr");
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mark = self.backings.mark();
        let (uid, gid) = convert::owner(uid, gid);
        let change = SetAttr {
            mode: mode.map(Mode::new),
            uid,
            gid,
            size,
            atime: atime.map(convert::set_time),
            mtime: mtime.map(convert::set_time),
            ctime: ctime.map(|time| -> Timestamp { convert::timestamp(time) }),
            kill_suid_sgid: false,
        };
        let result = self.export.set_attr(&self.caller(req, 0), node(ino), fh.map(handle), &change);
        self.attr(reply, mark, node(ino), result, "setattr");
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.export.read_link(node(ino)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(refuse("readlink", &error)),
        }
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        match convert::new_node(mode, rdev) {
            Ok(new) => self.make(&self.caller(req, umask), (parent, name), &new, Mode::new(mode), reply),
            Err(errno) => reply.error(convert::errno(errno)),
        }
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        self.make(&self.caller(req, umask), (parent, name), &NewNode::Directory, Mode::new(mode), reply);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEmpty) {
        let result = name(child).and_then(|child| self.export.unlink(&self.caller(req, 0), node(parent), child));
        answer(reply, "unlink", result);
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEmpty) {
        let result = name(child).and_then(|child| self.export.rmdir(&self.caller(req, 0), node(parent), child));
        answer(reply, "rmdir", result);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, link_name: &OsStr, target: &Path, reply: ReplyEntry) {
        let new = NewNode::Symlink(target.as_os_str().as_bytes());
        // The mode of a link, as lstat(2) shows it; nobody looks at it.
        self.make(&self.caller(req, 0), (parent, link_name), &new, Mode::new(0o777), reply);
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        from: &OsStr,
        newparent: INodeNo,
        to: &OsStr,
        flags: fuser::RenameFlags,
        reply: ReplyEmpty,
    ) {
        let Some(flags) = RenameFlags::from_bits(flags.bits()) else {
            return reply.error(convert::errno(Errno::EINVAL));
        };
        let names = name(from).and_then(|from| Ok((from, name(to)?)));
        let result =
            names.and_then(|(from, to)| self.export.rename(&self.caller(req, 0), (node(parent), from), (node(newparent), to), flags));
        answer(reply, "rename", result);
    }

    fn link(&self, req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let mark = self.backings.mark();
        let result = name(newname).and_then(|name| self.export.link(&self.caller(req, 0), node(ino), node(newparent), name));
        match result {
            Ok(entry) => self.entry(reply, mark, &entry),
            Err(error) => reply.error(refuse("link", &error)),
        }
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.open_file(&self.caller(req, 0), node(ino), flags.0, reply);
    }

    fn create(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, flags: i32, reply: ReplyCreate) {
        self.create_file(&self.caller(req, umask), (node(parent), name), convert::create_flags(mode, flags), reply);
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.read_file(handle(fh), offset, size, reply);
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: fuser::WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.write_file(handle(fh), offset, data, convert::write_flags(write_flags, flags.0), reply);
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, lock_owner: LockOwner, reply: ReplyEmpty) {
        answer(reply, "flush", self.export.flush(handle(fh), lock_owner.0));
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.backings.release(handle(fh));
        self.export.release(handle(fh), lock_owner.map(|owner| owner.0));
        reply.ok();
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        answer(reply, "fsync", self.export.fsync(handle(fh), datasync));
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.export.open_dir(node(ino)) {
            Ok(opened) => reply.opened(FileHandle(opened.id.0), convert::listing_flags(&opened)),
            Err(error) => reply.error(refuse("opendir", &error)),
        }
    }

    fn readdir(&self, req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        let mut names = Names::new(reply);
        match self.list(&self.caller(req, 0), node(ino), handle(fh), offset, &mut names) {
            Ok(()) => names.reply.ok(),
            Err(error) => names.reply.error(refuse("readdir", &error)),
        }
    }

    fn readdirplus(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        let mut names = NamesWithAttributes {
            reply,
            full: false,
            give_back: None,
            phantoms: &self.phantoms,
            backings: &self.backings,
            mark: self.backings.mark(),
        };
        let result = self.export.read_dir_plus(handle(fh), offset, &mut names);
        if let Some(id) = names.give_back.take() {
            self.export.forget(id, 1);
        }
        match result {
            Ok(()) => names.reply.ok(),
            Err(error) => names.reply.error(refuse("readdirplus", &error)),
        }
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.export.release_dir(handle(fh));
        reply.ok();
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        answer(reply, "fsyncdir", self.export.fsync_dir(handle(fh), datasync));
    }

    fn statfs(&self, _req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        match self.export.statfs(node(ino)) {
            Ok(s) => {
                reply.statfs(s.blocks, s.blocks_free, s.blocks_available, s.inodes, s.inodes_free, s.block_size, s.name_max, s.block_size)
            }
            Err(error) => reply.error(refuse("statfs", &error)),
        }
    }

    fn setxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, value: &[u8], flags: i32, _position: u32, reply: ReplyEmpty) {
        let flags = XattrFlags::from_bits_truncate(flags) & (XattrFlags::CREATE | XattrFlags::REPLACE);
        answer(reply, "setxattr", self.export.set_xattr(&self.caller(req, 0), node(ino), name.as_bytes(), value, flags));
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        xattr(reply, "getxattr", size, self.export.get_xattr(node(ino), name.as_bytes()));
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        xattr(reply, "listxattr", size, self.export.list_xattr(node(ino)));
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, "removexattr", self.export.remove_xattr(&self.caller(req, 0), node(ino), name.as_bytes()));
    }

    fn access(&self, req: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let wanted = Access::from_bits_truncate(mask.bits() as u32);
        answer(reply, "access", self.export.access(&self.caller(req, 0), node(ino), wanted));
    }

    fn bmap(&self, _req: &Request, _ino: INodeNo, _blocksize: u32, _idx: u64, reply: ReplyBmap) {
        // There is no block device below; the kernel then stops asking.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        flags: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        out_size: u32,
        reply: ReplyIoctl,
    ) {
        let request = ioctl::Request { id: node(ino), handle: handle(fh), flags, command: cmd, input: in_data, room: out_size };
        match self.control(&self.caller(req, 0), &request) {
            Ok(output) => reply.ioctl(0, &output),
            Err(error) => reply.error(refuse("ioctl", &error)),
        }
    }

    fn poll(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        // A regular file is always ready: the kernel answers so by itself from
        // now on.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fallocate(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, length: u64, mode: i32, reply: ReplyEmpty) {
        match FallocateFlags::from_bits(mode) {
            Some(flags) => answer(reply, "fallocate", self.export.fallocate(handle(fh), offset, length, flags)),
            None => reply.error(convert::errno(Errno::EOPNOTSUPP)),
        }
    }

    fn lseek(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let what = match whence {
            libc::SEEK_DATA => SeekFor::Data,
            libc::SEEK_HOLE => SeekFor::Hole,
            _ => return reply.error(convert::errno(Errno::EINVAL)),
        };
        let Ok(offset) = u64::try_from(offset) else {
            return reply.error(convert::errno(Errno::ENXIO));
        };
        match self.export.seek(handle(fh), offset, what) {
            Ok(found) => reply.offset(i64::try_from(found).unwrap_or(i64::MAX)),
            // The plugin knows no holes: the kernel then finds data everywhere.
            Err(error) if error.errno() == Errno::EOPNOTSUPP => reply.error(fuser::Errno::ENOSYS),
            Err(error) => reply.error(refuse("lseek", &error)),
        }
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        if !flags.is_empty() {
            return reply.error(convert::errno(Errno::EINVAL));
        }
        // The answer has 32 bits; callers go on from where a copy ended.
        let len = len.min(u64::from(!0xfff_u32));
        match self.export.copy_range((handle(fh_in), offset_in), (handle(fh_out), offset_out), len) {
            Ok(copied) => reply.written(u32::try_from(copied).unwrap_or(u32::MAX)),
            Err(error) => reply.error(refuse("copy_file_range", &error)),
        }
    }
}
