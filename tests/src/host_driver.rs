//! [`HostDriver`]: runs operations with system calls on a directory: a plain
//! one, which checks the model itself, or a mount of ours.

use crate::driver::{Driver, Facts, NodeView, Rules, TreeView, Value};
use crate::model::{open_refusal, special_parts};
use crate::op::*;
use externfs::{Errno, FileKind, Timestamp};
use rustix::fs::{self, AtFlags, CWD, FallocateFlags, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// System calls below a directory.
pub struct HostDriver {
    root: PathBuf,
    slots: BTreeMap<u8, OwnedFd>,
    rules: Rules,
}

fn errno(error: io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}

fn kind_of(kind: std::fs::FileType) -> FileKind {
    match kind {
        k if k.is_dir() => FileKind::Directory,
        k if k.is_symlink() => FileKind::Symlink,
        k if k.is_fifo() => FileKind::Fifo,
        k if k.is_socket() => FileKind::Socket,
        k if k.is_char_device() => FileKind::CharDevice,
        k if k.is_block_device() => FileKind::BlockDevice,
        _ => FileKind::Regular,
    }
}

/// The facts of stat(2).
#[must_use]
pub fn facts(meta: &std::fs::Metadata) -> Facts {
    let kind = kind_of(meta.file_type());
    let (major, minor) = (fs::major(meta.rdev()), fs::minor(meta.rdev()));
    Facts {
        kind,
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        nlink: meta.nlink() as u32,
        size: if kind == FileKind::Directory { 0 } else { meta.size() },
        device: if kind.is_device() { (major, minor) } else { (0, 0) },
    }
}

fn timespec(change: TimeChange) -> Timespec {
    match change {
        TimeChange::Omit => Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT },
        TimeChange::Now => Timespec { tv_sec: 0, tv_nsec: fs::UTIME_NOW },
        TimeChange::At { seconds, nanoseconds } => Timespec { tv_sec: seconds, tv_nsec: i64::from(nanoseconds) },
    }
}

fn read_fully(fd: &OwnedFd, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; len];
    let mut done = 0;
    while done < len {
        match io::pread(fd, &mut buffer[done..], offset + done as u64).map_err(errno)? {
            0 => break,
            count => done += count,
        }
    }
    buffer.truncate(done);
    Ok(buffer)
}

fn write_fully(fd: &OwnedFd, offset: u64, data: &[u8]) -> Result<Value, Errno> {
    let mut done = 0;
    while done < data.len() {
        done += io::pwrite(fd, &data[done..], offset + done as u64).map_err(errno)?;
    }
    Ok(Value::Count(done as u64))
}

/// The `user.*` attributes of what lies at `path`, which may be of any kind.
///
/// # Errors
/// What llistxattr(2) and lgetxattr(2) answer.
pub fn user_xattrs(path: &Path) -> Result<BTreeMap<String, Vec<u8>>, Errno> {
    let mut names = vec![0u8; 8192];
    let len = match fs::llistxattr(path, &mut names[..]) {
        Ok(len) => len,
        Err(io::Errno::NOTSUP) => 0,
        Err(error) => return Err(errno(error)),
    };
    let mut found = BTreeMap::new();
    for name in names[..len].split(|&b| b == 0).filter(|name| name.starts_with(b"user.")) {
        let name = String::from_utf8_lossy(name).into_owned();
        let mut value = vec![0u8; 65536];
        let len = fs::lgetxattr(path, &*name, &mut value[..]).map_err(errno)?;
        value.truncate(len);
        found.insert(name, value);
    }
    Ok(found)
}

impl HostDriver {
    /// Below `root`, an empty directory. The process's umask must be 0.
    #[must_use]
    pub fn new(root: &Path) -> HostDriver {
        HostDriver::with_rules(root, Rules::default())
    }

    /// The same for a directory that differs from a local file system.
    #[must_use]
    pub fn with_rules(root: &Path, rules: Rules) -> HostDriver {
        HostDriver { root: root.to_path_buf(), slots: BTreeMap::new(), rules }
    }

    /// The whole path, with every directory on the way checked not to be a
    /// link: this suite follows none.
    fn place(&self, path: &TreePath) -> Result<PathBuf, Errno> {
        let mut at = self.root.clone();
        let components: Vec<_> = path.components().collect();
        for (index, component) in components.iter().enumerate() {
            at.push(std::ffi::OsStr::from_bytes(component));
            if index + 1 < components.len() && self.kind(&at)? != FileKind::Directory {
                return Err(Errno::ENOTDIR);
            }
        }
        Ok(at)
    }

    fn kind(&self, path: &Path) -> Result<FileKind, Errno> {
        std::fs::symlink_metadata(path).map(|meta| kind_of(meta.file_type())).map_err(|e| externfs::Error::from(e).errno())
    }

    fn open(&self, path: &TreePath, flags: OFlags) -> Result<OwnedFd, Errno> {
        let place = self.place(path)?;
        if let Some(refusal) = open_refusal(self.kind(&place)?) {
            return Err(refusal);
        }
        fs::open(&place, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()).map_err(errno)
    }

    fn slot(&self, slot: u8) -> Result<&OwnedFd, Errno> {
        self.slots.get(&slot).ok_or(Errno::EBADF)
    }

    fn create(&self, path: &TreePath, mode: u32, exclusive: bool) -> Result<Value, Errno> {
        let place = self.place(path)?;
        let there = self.kind(&place);
        if !exclusive && let Some(refusal) = there.ok().and_then(open_refusal) {
            return Err(refusal);
        }
        let mut flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        flags.set(OFlags::EXCL, exclusive);
        fs::open(&place, flags, Mode::from_bits_truncate(mode)).map(|_| Value::Done).map_err(errno)
    }

    fn rename(&self, from: &TreePath, to: &TreePath, how: RenameHow) -> Result<Value, Errno> {
        let flags = match how {
            RenameHow::Replace => RenameFlags::empty(),
            RenameHow::NoReplace => RenameFlags::NOREPLACE,
            RenameHow::Exchange => RenameFlags::EXCHANGE,
        };
        let (from, to) = (self.place(from)?, self.place(to)?);
        fs::renameat_with(CWD, &from, CWD, &to, flags).map(|()| Value::Done).map_err(errno)
    }

    fn change(&mut self, op: &Op) -> Result<Value, Errno> {
        match op {
            Op::Create { path, mode, exclusive } => return self.create(path, *mode, *exclusive),
            Op::Mkdir { path, mode } => fs::mkdir(self.place(path)?, Mode::from_bits_truncate(*mode)),
            Op::Symlink { path, target: index } => fs::symlink(target(*index), self.place(path)?),
            Op::Mknod { path, special, mode } => {
                let (kind, (major, minor)) = special_parts(*special);
                let kind = fs::FileType::from_raw_mode(kind.mode_bits());
                fs::mknodat(CWD, self.place(path)?, kind, Mode::from_bits_truncate(*mode), fs::makedev(major, minor))
            }
            Op::Link { from, to } => {
                let from = self.place(from)?;
                self.kind(&from)?;
                fs::linkat(CWD, &from, CWD, self.place(to)?, AtFlags::empty())
            }
            Op::Unlink { path } => fs::unlink(self.place(path)?),
            Op::Rmdir { path } => fs::rmdir(self.place(path)?),
            Op::Rename { from, to, how } => return self.rename(from, to, *how),
            Op::Chmod { path, mode } => {
                let place = self.place(path)?;
                if self.kind(&place)? == FileKind::Symlink {
                    return Err(Errno::EOPNOTSUPP);
                }
                fs::chmod(place, Mode::from_bits_truncate(*mode))
            }
            Op::Chown { path, uid, gid } => {
                let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
                fs::chownat(CWD, self.place(path)?, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            }
            Op::Times { path, atime, mtime } => {
                // Linux does not even look when there is nothing to do.
                self.kind(&self.place(path)?)?;
                let times = Timestamps { last_access: timespec(*atime), last_modification: timespec(*mtime) };
                fs::utimensat(CWD, self.place(path)?, &times, AtFlags::SYMLINK_NOFOLLOW)
            }
            Op::SetXattr { path, name, len, byte, how } => {
                let flags = match how {
                    XattrHow::Any => XattrFlags::empty(),
                    XattrHow::Create => XattrFlags::CREATE,
                    XattrHow::Replace => XattrFlags::REPLACE,
                };
                fs::lsetxattr(self.place(path)?, xattr_name(*name), &pattern(*byte, *len), flags)
            }
            Op::RemoveXattr { path, name } => fs::lremovexattr(self.place(path)?, xattr_name(*name)),
            other => return self.use_contents(other),
        }
        .map(|()| Value::Done)
        .map_err(errno)
    }

    fn use_contents(&mut self, op: &Op) -> Result<Value, Errno> {
        match op {
            Op::Truncate { path, size } => {
                let fd = self.open(path, OFlags::WRONLY)?;
                fs::ftruncate(fd, *size).map(|()| Value::Done).map_err(errno)
            }
            Op::Write { path, offset, len, byte, append } => {
                let mut flags = OFlags::WRONLY;
                flags.set(OFlags::APPEND, *append);
                write_fully(&self.open(path, flags)?, *offset, &pattern(*byte, *len))
            }
            Op::Read { path, offset, len } => read_fully(&self.open(path, OFlags::RDONLY)?, *offset, *len).map(Value::Bytes),
            Op::Range { path, change, offset, len } => {
                let flags = match change {
                    RangeChange::Allocate => FallocateFlags::empty(),
                    RangeChange::AllocateKeepSize => FallocateFlags::KEEP_SIZE,
                    RangeChange::PunchHole => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                    RangeChange::Zero => FallocateFlags::ZERO_RANGE,
                };
                fs::fallocate(self.open(path, OFlags::RDWR)?, flags, *offset, *len).map(|()| Value::Done).map_err(errno)
            }
            Op::Copy { from, from_offset, to, to_offset, len } => {
                let (source, target) = (self.open(from, OFlags::RDONLY)?, self.open(to, OFlags::WRONLY)?);
                copy(&source, *from_offset, &target, *to_offset, *len)
            }
            Op::Open { slot, path, truncate } => {
                let mut flags = OFlags::RDWR;
                flags.set(OFlags::TRUNC, *truncate);
                let fd = self.open(path, flags)?;
                self.slots.insert(*slot, fd);
                Ok(Value::Done)
            }
            Op::SlotWrite { slot, offset, len, byte } => write_fully(self.slot(*slot)?, *offset, &pattern(*byte, *len)),
            Op::SlotRead { slot, offset, len } => read_fully(self.slot(*slot)?, *offset, *len).map(Value::Bytes),
            Op::SlotTruncate { slot, size } => fs::ftruncate(self.slot(*slot)?, *size).map(|()| Value::Done).map_err(errno),
            Op::SlotStat { slot } => {
                let file = std::fs::File::from(self.slot(*slot)?.try_clone().map_err(|e| externfs::Error::from(e).errno())?);
                file.metadata().map(|meta| Value::Facts(facts(&meta))).map_err(|e| externfs::Error::from(e).errno())
            }
            Op::Close { slot } => self.slots.remove(slot).map(|_| Value::Done).ok_or(Errno::EBADF),
            other => self.look(other),
        }
    }

    fn look(&self, op: &Op) -> Result<Value, Errno> {
        match op {
            Op::GetXattr { path, name } => {
                let mut value = vec![0u8; 65536];
                let len = fs::lgetxattr(self.place(path)?, xattr_name(*name), &mut value[..]).map_err(errno)?;
                value.truncate(len);
                Ok(Value::Bytes(value))
            }
            Op::List { path } => {
                let place = self.place(path)?;
                if self.kind(&place)? != FileKind::Directory {
                    return Err(Errno::ENOTDIR);
                }
                let entries = std::fs::read_dir(place).map_err(|e| externfs::Error::from(e).errno())?;
                let names: Result<_, _> = entries.map(|entry| entry.map(|e| e.file_name().into_vec())).collect();
                names.map(Value::Names).map_err(|e| externfs::Error::from(e).errno())
            }
            Op::ReadLink { path } => {
                let target = fs::readlink(self.place(path)?, Vec::new()).map_err(errno)?;
                Ok(Value::Bytes(target.into_bytes()))
            }
            Op::Stat { path } => {
                let meta = std::fs::symlink_metadata(self.place(path)?).map_err(|e| externfs::Error::from(e).errno())?;
                Ok(Value::Facts(facts(&meta)))
            }
            other => unreachable!("{other:?} is handled above"),
        }
    }
}

fn copy(source: &OwnedFd, from: u64, target: &OwnedFd, to: u64, len: u64) -> Result<Value, Errno> {
    let (mut from_at, mut to_at) = (from, to);
    while from_at < from + len {
        let left = (from + len - from_at) as usize;
        match fs::copy_file_range(source, Some(&mut from_at), target, Some(&mut to_at), left).map_err(errno)? {
            0 => break,
            _ => continue,
        }
    }
    Ok(Value::Count(from_at - from))
}

impl Driver for HostDriver {
    fn rules(&self) -> Rules {
        self.rules
    }

    fn apply(&mut self, op: &Op) -> Result<Value, Errno> {
        self.change(op)
    }

    fn view(&mut self) -> Result<TreeView, String> {
        tree_view(&self.root)
    }
}

/// Looks at everything below `root`, without following a link.
///
/// # Errors
/// What failed, and where.
pub fn tree_view(root: &Path) -> Result<TreeView, String> {
    let mut seen = TreeView::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(relative) = todo.pop() {
        let fail = |what: &str, error: &dyn std::fmt::Display| format!("{what} of {relative:?}: {error}");
        let path = below(root, &relative);
        let view = node_view(&path).map_err(|e| fail("stat", &e))?;
        if view.facts.kind == FileKind::Directory {
            for entry in std::fs::read_dir(&path).map_err(|e| fail("list", &e))? {
                todo.push(relative.join(entry.map_err(|e| fail("list", &e))?.file_name()));
            }
        }
        seen.insert(relative, view);
    }
    // Contents come last: reading one name of a file moves the access time
    // that is seen through another.
    for (relative, view) in &mut seen {
        fill(&below(root, relative), view).map_err(|e| format!("contents of {relative:?}: {e}"))?;
    }
    Ok(seen)
}

fn below(root: &Path, relative: &Path) -> PathBuf {
    // Joining an empty path would add a slash.
    if relative.as_os_str().is_empty() { root.to_path_buf() } else { root.join(relative) }
}

fn node_view(path: &Path) -> std::io::Result<NodeView> {
    let meta = std::fs::symlink_metadata(path)?;
    let time = |seconds, nanoseconds: i64| Timestamp { seconds, nanoseconds: nanoseconds as u32 };
    Ok(NodeView {
        facts: facts(&meta),
        identity: meta.ino(),
        content: Vec::new(),
        xattrs: BTreeMap::new(),
        times: [time(meta.atime(), meta.atime_nsec()), time(meta.mtime(), meta.mtime_nsec()), time(meta.ctime(), meta.ctime_nsec())],
    })
}

fn fill(path: &Path, view: &mut NodeView) -> Result<(), externfs::Error> {
    view.content = match view.facts.kind {
        FileKind::Regular => std::fs::read(path)?,
        FileKind::Symlink => std::fs::read_link(path)?.into_os_string().into_vec(),
        _ => Vec::new(),
    };
    view.xattrs = user_xattrs(path)?;
    Ok(())
}
