//! [`HostWriter`]: items into a directory of the host.
//!
//! Names come from a guest. Each is used as one component, relative to a
//! directory that was opened without following links; what has a name already
//! is replaced, not written through, and only by what is whole: everything but a
//! directory is made beside it and renamed. A file has no name until then where
//! the file system can do that, so that one who is killed leaves nothing of it.

use super::dates::Later;
use super::{BUFFER, Body, Item, Origin, Told};
use crate::Result;
use crate::failure::Failure;
use crate::offline::TreePath;
use externfs::{FileKind, Mode, Timestamp};
use hostfs::object::Object;
use rustix::fs::{AtFlags, FileType, Mode as HostMode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno as Host;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The result of a bare system call.
type Fault<T> = std::result::Result<T, Host>;

/// See the head of this file.
pub struct HostWriter {
    /// Where the top of what comes belongs, for messages.
    target: PathBuf,
    dir: OwnedFd,
    name: CString,
    preserve: bool,
    umask: u32,
    /// The directories that were last used, outermost first.
    open: Vec<(Vec<u8>, OwnedFd)>,
    later: Vec<Later>,
    /// Whether files may be without a name while they are written; for tests.
    nameless: bool,
}

impl HostWriter {
    /// Puts the top of what comes at `target`; `preserve` keeps owners, all
    /// mode bits, times and attributes as far as the user may set them.
    ///
    /// # Errors
    /// The directory that `target` is in cannot be opened.
    pub fn new(target: &Path, preserve: bool) -> Result<HostWriter> {
        let cannot = |error: Host| Failure::io(target.display(), &error.into());
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else { return Err(cannot(Host::INVAL)) };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(parent, flags, HostMode::empty()).map_err(cannot)?;
        // There is no asking for it without setting it.
        let umask = rustix::process::umask(HostMode::empty());
        rustix::process::umask(umask);
        let name = CString::new(name.as_bytes()).map_err(|_| cannot(Host::INVAL))?;
        let (target, umask) = (target.to_owned(), umask.bits());
        Ok(HostWriter { target, dir, name, preserve, umask, open: Vec::new(), later: Vec::new(), nameless: true })
    }

    /// Puts everything that `origin` tells where it belongs.
    ///
    /// # Errors
    /// One line about the first thing that cannot be done.
    pub fn write(mut self, origin: &mut dyn Origin, told: Told<'_>) -> Result<()> {
        let mut buffer = vec![0; BUFFER];
        while let Some(item) = origin.next_item()? {
            match &item.body {
                Body::Directory => self.directory(&item)?,
                Body::Regular(size) => self.file(&item, *size, &mut buffer, origin, told)?,
                _ => self.other(&item)?,
            }
            told(0);
        }
        for later in std::mem::take(&mut self.later).into_iter().rev() {
            let dir = self.walk(&later.path)?;
            self.settle(&Object::from(dir), &later, FileKind::Directory)?;
        }
        Ok(())
    }

    fn shown(&self, path: &TreePath) -> String {
        if path.is_root() {
            return self.target.display().to_string();
        }
        self.target.join(OsStr::from_bytes(path.as_bytes())).display().to_string()
    }

    fn cannot(&self, path: &TreePath) -> impl Fn(Host) -> Failure + use<> {
        let shown = self.shown(path);
        move |error| match error {
            Host::PERM => Failure::new(format!("{shown}: only root may make or change that here")),
            other => Failure::io(&shown, &other.into()),
        }
    }

    /// The directory that holds `path`, and its name there.
    fn place(&mut self, path: &TreePath) -> Result<(OwnedFd, CString)> {
        let cannot = self.cannot(path);
        let Some((above, name)) = path.split_last() else {
            let dir = rustix::io::fcntl_dupfd_cloexec(&self.dir, 0).map_err(cannot)?;
            return Ok((dir, self.name.clone()));
        };
        let dir = self.walk(&above)?;
        Ok((dir, CString::new(name.as_bytes()).map_err(|_| cannot(Host::INVAL))?))
    }

    /// Opens the directory `path`, which was made before.
    fn walk(&mut self, path: &TreePath) -> Result<OwnedFd> {
        let cannot = self.cannot(path);
        let names: Vec<&[u8]> = std::iter::once(&b""[..]).chain(path.names().map(|name| name.as_bytes())).collect();
        let same = names.iter().zip(&self.open).take_while(|(name, (open, _))| *name == open).count();
        self.open.truncate(same);
        for name in names.get(same..).unwrap_or_default() {
            let component = if name.is_empty() { self.name.clone() } else { CString::new(*name).map_err(|_| cannot(Host::INVAL))? };
            let above = self.open.last().map_or(self.dir.as_fd(), |(_, dir)| dir.as_fd());
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let dir = rustix::fs::openat(above, &component, flags, HostMode::empty()).map_err(&cannot)?;
            self.open.push((name.to_vec(), dir));
        }
        let last = self.open.last().map_or(self.dir.as_fd(), |(_, dir)| dir.as_fd());
        rustix::io::fcntl_dupfd_cloexec(last, 0).map_err(&cannot)
    }

    fn directory(&mut self, item: &Item) -> Result<()> {
        let (dir, name) = self.place(&item.path)?;
        // As in the planter: whoever is stopped here and begins again finds it made.
        let others = if self.preserve { 0 } else { item.mode.bits() & 0o077 & !self.umask };
        match rustix::fs::mkdirat(&dir, &name, HostMode::RWXU | HostMode::from_raw_mode(others)) {
            Ok(()) => self.later.push(Later::of(item)),
            // It keeps what it has, unless it is to be like the source.
            Err(Host::EXIST) if self.preserve => self.later.push(Later::of(item)),
            Err(Host::EXIST) => {}
            Err(error) => return Err(self.cannot(&item.path)(error)),
        }
        self.walk(&item.path).map(drop)
    }

    /// Puts `item` beside what has its name, which stays until `make` has made
    /// the new one whole.
    fn beside(&mut self, item: &Item, make: impl FnOnce(&HostWriter, (BorrowedFd<'_>, &CStr)) -> Result<()>) -> Result<()> {
        let (dir, name) = self.place(&item.path)?;
        let beside = beside()?;
        let done = make(self, (dir.as_fd(), &beside)).and_then(|()| {
            let renamed = rustix::fs::renameat(&dir, &beside, &dir, &name);
            renamed.map_err(self.cannot(&item.path))
        });
        // Where both are names of one file, rename(2) leaves both.
        if done.is_err() || matches!(item.body, Body::HardLink(_)) {
            // Perhaps it was not made. What is wrong is told by `done`.
            let _ = rustix::fs::unlinkat(&dir, &beside, AtFlags::empty());
        }
        done
    }

    fn file(&mut self, item: &Item, size: u64, buffer: &mut [u8], origin: &mut dyn Origin, told: Told<'_>) -> Result<()> {
        let cannot = self.cannot(&item.path);
        let (dir, name) = self.place(&item.path)?;
        let mut fill = |writer: &HostWriter, file: OwnedFd| writer.fill(file, (item, size), buffer, origin, told);
        let Some(file) = self.nameless(dir.as_fd()) else {
            return self.beside(item, |writer, (dir, name)| {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(dir, name, flags, HostMode::RUSR | HostMode::WUSR).map_err(cannot)?;
                fill(writer, file).map(drop)
            });
        };
        let file = fill(self, file)?;
        match file.give_name(dir.as_fd(), &name) {
            Ok(()) => Ok(()),
            Err(Host::EXIST) => self.beside(item, |_, (dir, name)| file.give_name(dir, name).map_err(cannot)),
            Err(error) => Err(cannot(error)),
        }
    }

    /// A file in `dir` that is gone with whoever writes it, until it has a name.
    /// None where there is no such thing: what is wrong besides shows then.
    fn nameless(&self, dir: BorrowedFd<'_>) -> Option<OwnedFd> {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        self.nameless.then(|| rustix::fs::openat(dir, c".", flags, HostMode::RUSR | HostMode::WUSR).ok()).flatten()
    }

    /// Contents and attributes.
    fn fill(
        &self,
        file: OwnedFd,
        (item, size): (&Item, u64),
        buffer: &mut [u8],
        origin: &mut dyn Origin,
        told: Told<'_>,
    ) -> Result<Object> {
        let cannot = self.cannot(&item.path);
        while let Some((offset, count)) = origin.data(buffer)? {
            let mut done = 0;
            while let Some(rest @ [_, ..]) = buffer.get(done..count) {
                done += rustix::io::retry_on_intr(|| rustix::io::pwrite(&file, rest, offset + done as u64)).map_err(&cannot)?;
            }
            told(count as u64);
        }
        rustix::fs::ftruncate(&file, size).map_err(&cannot)?;
        let object = Object::from(file);
        self.settle(&object, &Later::of(item), FileKind::Regular)?;
        Ok(object)
    }

    /// What is neither a directory nor has contents.
    fn other(&mut self, item: &Item) -> Result<()> {
        let cannot = self.cannot(&item.path);
        match &item.body {
            Body::HardLink(target) => {
                let (from, old) = self.place(target)?;
                self.beside(item, |_, (dir, name)| rustix::fs::linkat(&from, &old, dir, name, AtFlags::empty()).map_err(cannot))
            }
            Body::Symlink(target) => self.beside(item, |writer, (dir, name)| {
                rustix::fs::symlinkat(&target[..], dir, name).map_err(cannot)?;
                writer.settle_made((dir, name), item, FileKind::Symlink)
            }),
            Body::Special(kind, device) => self.beside(item, |writer, (dir, name)| {
                let number = rustix::fs::makedev(device.major, device.minor);
                let (file_type, mode) = (FileType::from_raw_mode(kind.mode_bits()), HostMode::RUSR | HostMode::WUSR);
                rustix::fs::mknodat(dir, name, file_type, mode, number).map_err(cannot)?;
                writer.settle_made((dir, name), item, *kind)
            }),
            Body::Regular(_) | Body::Directory => Ok(()),
        }
    }

    /// As [`HostWriter::settle`], of what was made by its name.
    fn settle_made(&self, (dir, name): (BorrowedFd<'_>, &CStr), item: &Item, kind: FileKind) -> Result<()> {
        // Whoever may write there could have put something else in its place.
        let object = Object::hold(dir, name, |stat| is_ours(stat, kind)).map_err(self.cannot(&item.path))?;
        self.settle(&object, &Later::of(item), kind)
    }

    /// Owner, mode, attributes and times of what is there now.
    fn settle(&self, object: &Object, wanted: &Later, kind: FileKind) -> Result<()> {
        let cannot = self.cannot(&wanted.path);
        // As cp -p has it: what only root may do is left out for others.
        let leave = |error: Host| -> Fault<()> { if rustix::process::geteuid().is_root() { Err(error) } else { Ok(()) } };
        let mut mode = wanted.mode.bits();
        if self.preserve {
            if let Some((uid, gid)) = wanted.owner {
                let (uid, gid) = (rustix::fs::Uid::from_raw(uid.0), rustix::fs::Gid::from_raw(gid.0));
                if let Err(error) = object.chown(uid, gid) {
                    leave(error).map_err(&cannot)?;
                    // It would be somebody else's setuid.
                    mode &= 0o1777;
                }
            }
        } else {
            mode &= 0o777 & !self.umask;
            // Whoever made it in the tree chose which device of this host it is.
            if matches!(kind, FileKind::BlockDevice | FileKind::CharDevice) {
                mode &= 0o600;
            }
        }
        if kind != FileKind::Symlink {
            object.chmod(Mode::new(mode).bits()).map_err(&cannot)?;
        }
        if !self.preserve {
            return Ok(());
        }
        for (attribute, value) in &wanted.xattrs {
            let attribute = CString::new(&attribute[..]).map_err(|_| cannot(Host::INVAL))?;
            if let Err(error) = object.set_xattr(&attribute, value) {
                leave(error).map_err(&cannot)?;
            }
        }
        let Some(mtime) = wanted.mtime else { return Ok(()) };
        let times = Timestamps { last_access: timespec(wanted.atime.unwrap_or(mtime)), last_modification: timespec(mtime) };
        object.set_times(&times).map_err(cannot)
    }
}

/// Whether `stat` can be of what we have just made: a file of another's that was
/// linked there has another name. What owner it has is up to the file system.
fn is_ours(stat: &Stat, kind: FileKind) -> bool {
    FileKind::from_mode(stat.st_mode) == Some(kind) && stat.st_nlink <= 1
}

/// A name that nothing has.
fn beside() -> Result<CString> {
    let now = Timestamp::now();
    let name = format!(".externfs-{}-{:x}.{:x}", std::process::id(), now.seconds, now.nanoseconds);
    CString::new(name).map_err(|_| Failure::new("no name for a temporary file"))
}

fn timespec(at: Timestamp) -> Timespec {
    Timespec { tv_sec: at.seconds, tv_nsec: i64::from(at.nanoseconds) }
}

#[cfg(test)]
mod tests;
