//! [`HostTree`]: the items of a directory or file of the host.

use super::attributes::can_be_had;
use super::{Body, Item, Origin};
use crate::failure::Failure;
use crate::offline::TreePath;
use crate::{Result, shown};
use externfs::{DeviceNumber, FileKind, GuestGid, GuestUid, Mode, Name, Timestamp};
use rustix::fs::{AtFlags, OFlags, SeekFrom, Stat};
use rustix::io::Errno as Host;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The result of a bare system call.
type Fault<T> = std::result::Result<T, Host>;

/// What is told of each object besides its contents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// Everything.
    All,
    /// The permission bits without setuid, setgid and sticky, as cp(1) does.
    Little,
}

/// See the head of this file.
pub struct HostTree {
    source: PathBuf,
    keep: Keep,
    recurse: bool,
    top: Option<(OwnedFd, CString)>,
    stack: Vec<Level>,
    met: HashMap<(u64, u64), TreePath>,
    /// A directory that must not be met: the one that is being filled.
    avoided: Option<(u64, u64)>,
    current: Option<Current>,
}

struct Level {
    dir: Arc<OwnedFd>,
    path: TreePath,
    /// Backwards.
    names: Vec<CString>,
}

struct Current {
    path: TreePath,
    file: OwnedFd,
    size: u64,
    at: u64,
    until: u64,
    has_holes: bool,
}

impl HostTree {
    /// Of `source` and, with `recurse`, of everything below it. A link is
    /// followed where it is the source itself and `follow` says so.
    ///
    /// # Errors
    /// It cannot be found.
    pub fn new(source: &Path, keep: Keep, recurse: bool, follow: bool) -> Result<HostTree> {
        let cannot = |error: Host| Failure::io(source.display(), &error.into());
        // `a/..` and `/` have no last component to look up: then it is `.` in there.
        let split = source.file_name().filter(|_| !follow).zip(source.parent());
        let (dir, name) = match split {
            Some((name, parent)) => (if parent.as_os_str().is_empty() { Path::new(".") } else { parent }, name),
            None => (source, ".".as_ref()),
        };
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY;
        let dir = rustix::fs::open(dir, flags, rustix::fs::Mode::empty()).map_err(cannot)?;
        let name = CString::new(name.as_encoded_bytes()).map_err(|_| cannot(Host::INVAL))?;
        rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(cannot)?;
        let source = source.to_owned();
        Ok(HostTree { source, keep, recurse, top: Some((dir, name)), stack: Vec::new(), met: HashMap::new(), avoided: None, current: None })
    }

    /// Refuses to go into the directory `dir`.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn avoid(&mut self, dir: &Path) -> Result<()> {
        let stat = rustix::fs::stat(dir).map_err(|error| Failure::io(dir.display(), &error.into()))?;
        self.avoided = Some((stat.st_dev, stat.st_ino));
        Ok(())
    }

    fn shown(&self, path: &TreePath) -> String {
        let source = self.source.display();
        if path.is_root() { source.to_string() } else { format!("{source}{}", shown::path(path.as_bytes())) }
    }

    fn item_of(&mut self, dir: BorrowedFd<'_>, name: &CStr, path: TreePath) -> Result<Option<Item>> {
        match self.look(dir, name, &path) {
            Ok(item) => Ok(Some(item)),
            // It has gone since it was listed.
            Err(Host::NOENT) if !path.is_root() => Ok(None),
            Err(Host::ISDIR) => Err(Failure::new(format!("{} is a directory: -r copies it", self.shown(&path)))),
            Err(Host::DEADLK) => {
                let shown = self.shown(&path);
                Err(Failure::new(format!("{shown} is the tree itself, which cannot be filled from a directory that it is in")))
            }
            Err(other) => Err(Failure::io(self.shown(&path), &other.into())),
        }
    }

    /// The item for `name` in `dir`.
    ///
    /// # Errors
    /// What the host says; ISDIR for a directory that is not wanted, DEADLK
    /// for the one that must not be met.
    fn look(&mut self, dir: BorrowedFd<'_>, name: &CStr, path: &TreePath) -> Fault<Item> {
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileKind::from_mode(stat.st_mode).ok_or(Host::INVAL)?;
        let key = (stat.st_dev, stat.st_ino);
        if kind != FileKind::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.met.get(&key) {
                return Ok(self.item(path, Body::HardLink(first.clone()), &stat, Vec::new()));
            }
            self.met.insert(key, path.clone());
        }
        let all = self.keep == Keep::All;
        let mut xattrs = Vec::new();
        let body = match kind {
            FileKind::Regular => {
                let file = open(dir, name, OFlags::NOFOLLOW)?;
                if all {
                    xattrs = xattrs_of_open(&file)?;
                }
                let size = stat.st_size.unsigned_abs();
                let has_holes = stat.st_blocks.unsigned_abs() * 512 < size;
                self.current = Some(Current { path: path.clone(), file, size, at: 0, until: 0, has_holes });
                Body::Regular(size)
            }
            FileKind::Directory if self.avoided == Some(key) => return Err(Host::DEADLK),
            FileKind::Directory if !self.recurse => return Err(Host::ISDIR),
            FileKind::Directory => {
                let dir = open(dir, name, OFlags::NOFOLLOW | OFlags::DIRECTORY)?;
                if all {
                    xattrs = xattrs_of_open(&dir)?;
                }
                let names = names(&dir)?;
                self.stack.push(Level { dir: Arc::new(dir), path: path.clone(), names });
                Body::Directory
            }
            FileKind::Symlink => Body::Symlink(rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes()),
            kind => Body::Special(kind, device_of(kind, &stat)),
        };
        if all && !matches!(kind, FileKind::Regular | FileKind::Directory) {
            let place = [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), name.to_bytes()].concat();
            let get = |name: &CStr, buffer: &mut [u8]| rustix::fs::lgetxattr(&place[..], name, buffer);
            xattrs = read_xattrs(|buffer| rustix::fs::llistxattr(&place[..], buffer), get)?;
        }
        Ok(self.item(path, body, &stat, xattrs))
    }

    fn item(&self, path: &TreePath, body: Body, stat: &Stat, xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Item {
        let all = self.keep == Keep::All;
        let time = |seconds: i64, nanoseconds: u64| all.then_some(Timestamp { seconds, nanoseconds: nanoseconds as u32 });
        Item {
            path: path.clone(),
            body,
            mode: Mode::new(if all { stat.st_mode } else { stat.st_mode & 0o777 }),
            owner: all.then_some((GuestUid(stat.st_uid), GuestGid(stat.st_gid))),
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            atime: time(stat.st_atime, stat.st_atime_nsec),
            xattrs,
        }
    }
}

impl Origin for HostTree {
    fn next_item(&mut self) -> Result<Option<Item>> {
        self.current = None;
        if let Some((dir, name)) = self.top.take() {
            return self.item_of(dir.as_fd(), &name, TreePath::default());
        }
        while let Some(level) = self.stack.last_mut() {
            let Some(name) = level.names.pop() else {
                self.stack.pop();
                continue;
            };
            let Ok(component) = Name::new(name.to_bytes()) else { continue };
            let (dir, path) = (level.dir.clone(), level.path.child(component));
            if let Some(item) = self.item_of((*dir).as_fd(), &name, path)? {
                return Ok(Some(item));
            }
        }
        Ok(None)
    }

    fn data(&mut self, buffer: &mut [u8]) -> Result<Option<(u64, usize)>> {
        let Some(current) = &mut self.current else { return Ok(None) };
        match current.read(buffer) {
            Ok(piece) => Ok(piece),
            Err(error) => {
                let path = current.path.clone();
                Err(Failure::io(self.shown(&path), &error.into()))
            }
        }
    }
}

impl Current {
    fn read(&mut self, buffer: &mut [u8]) -> Fault<Option<(u64, usize)>> {
        if self.at >= self.until {
            if self.at >= self.size {
                return Ok(None);
            }
            self.until = self.size;
            if self.has_holes {
                match rustix::fs::seek(&self.file, SeekFrom::Data(self.at)) {
                    Ok(start) => {
                        self.at = start;
                        self.until = rustix::fs::seek(&self.file, SeekFrom::Hole(start))?.min(self.size);
                    }
                    Err(Host::NXIO) => return Ok(None),
                    // It cannot say: then all is data.
                    Err(Host::INVAL) => self.has_holes = false,
                    Err(other) => return Err(other),
                }
                if self.at >= self.until {
                    return Ok(None);
                }
            }
        }
        let wanted = usize::try_from(self.until - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let count = rustix::io::retry_on_intr(|| rustix::io::pread(&self.file, buffer.get_mut(..wanted).unwrap_or_default(), self.at))?;
        let at = self.at;
        self.at += count as u64;
        Ok((count > 0).then_some((at, count)))
    }
}

fn open(dir: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Fault<OwnedFd> {
    // A FIFO that has just taken a file's place must not hold us up.
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    rustix::fs::openat(dir, name, flags, rustix::fs::Mode::empty())
}

/// The names in a directory, the last first.
fn names(dir: &OwnedFd) -> Fault<Vec<CString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(names)
}

fn device_of(kind: FileKind, stat: &Stat) -> DeviceNumber {
    if kind.is_device() {
        DeviceNumber { major: rustix::fs::major(stat.st_rdev), minor: rustix::fs::minor(stat.st_rdev) }
    } else {
        DeviceNumber::default()
    }
}

/// A label of the host's own policy, which means nothing in a guest.
const HOST_LABEL: &[u8] = b"security.selinux";

fn xattrs_of_open(file: &OwnedFd) -> Fault<Vec<(Vec<u8>, Vec<u8>)>> {
    let get = |name: &CStr, buffer: &mut [u8]| rustix::fs::fgetxattr(file, name, buffer);
    read_xattrs(|buffer| rustix::fs::flistxattr(file, buffer), get)
}

/// All attributes, by a call that lists them and one that reads one.
fn read_xattrs(list: impl Fn(&mut [u8]) -> Fault<usize>, get: impl Fn(&CStr, &mut [u8]) -> Fault<usize>) -> Fault<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = [0; 1024];
    let names = match list(&mut names) {
        Ok(0) | Err(Host::OPNOTSUPP) => return Ok(Vec::new()),
        Ok(count) => names.get(..count).unwrap_or_default().to_vec(),
        Err(Host::RANGE) => {
            let mut names = vec![0; 64 << 10];
            let count = list(&mut names)?;
            names.truncate(count);
            names
        }
        Err(other) => return Err(other),
    };
    let mut all = Vec::new();
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty() && *name != HOST_LABEL) {
        if !can_be_had(name) {
            // Only to be counted; not each file system can give the value.
            all.push((name.to_vec(), Vec::new()));
            continue;
        }
        let Ok(c_name) = CString::new(name) else { continue };
        let mut value = vec![0; 64 << 10];
        match get(&c_name, &mut value) {
            Ok(count) => {
                value.truncate(count);
                all.push((name.to_vec(), value));
            }
            Err(Host::NODATA | Host::OPNOTSUPP) => {}
            Err(other) => return Err(other),
        }
    }
    all.sort_unstable();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_of_the_host_alone_are_not_read() {
        let list = |buffer: &mut [u8]| {
            let names = b"system.cifs_acl\0user.a\0security.selinux\0btrfs.compression\0user.gone\0";
            buffer[..names.len()].copy_from_slice(names);
            Ok(names.len())
        };
        let get = |name: &CStr, buffer: &mut [u8]| match name.to_bytes() {
            b"user.a" => {
                buffer[..2].copy_from_slice(b"is");
                Ok(2)
            }
            b"user.gone" => Err(Host::NODATA),
            _ => Err(Host::IO),
        };
        let pair = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        let expected = vec![pair("btrfs.compression", ""), pair("system.cifs_acl", ""), pair("user.a", "is")];
        assert_eq!(read_xattrs(list, get), Ok(expected));
    }
}
