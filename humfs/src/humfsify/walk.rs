//! [`walk`]: everything in `data/`, beside the mirrors of its directories.

use super::{Pass, Told, words};
use crate::host::{self, Fault};
use externfs::UsageError;
use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno as Host;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A directory of `data/` and its mirrors, as `O_PATH` descriptors.
pub(super) struct Dirs {
    pub(super) data: OwnedFd,
    pub(super) files: OwnedFd,
    pub(super) dirs: OwnedFd,
}

/// What is done on the way.
pub(super) trait Visitor {
    /// The mirrors of the directory `name` in `above`.
    fn descend(&mut self, above: &Dirs, name: &CStr) -> Fault<Dirs>;

    /// A directory, before what is in it. `names` is all of that.
    fn enter(&mut self, dirs: &Dirs, stat: &Stat, names: &[CString], path: &[u8]) -> Fault<()>;

    /// Something that is no directory.
    fn object(&mut self, dirs: &Dirs, name: &CStr, stat: &Stat, path: &[u8]) -> Fault<()>;

    /// A directory, after what is in it.
    fn leave(&mut self, dirs: &Dirs, stat: &Stat) -> Fault<()>;
}

struct Level {
    dirs: Dirs,
    stat: Stat,
    names: Vec<CString>,
    /// How much of the path is this directory's.
    path: usize,
}

/// Goes through everything below `top`. `shown` is how messages call that.
///
/// # Errors
/// The first thing that fails, by its path.
pub(super) fn walk(top: Dirs, shown: &str, visitor: &mut dyn Visitor, pass: Pass, told: Told<'_>) -> Result<(), UsageError> {
    let mut path: Vec<u8> = Vec::new();
    let failed = |error: Host, path: &[u8]| {
        let path = String::from_utf8_lossy(path).escape_debug().to_string();
        let name = if path.is_empty() { shown.to_owned() } else { format!("{shown}/{path}") };
        match error {
            Host::XDEV => UsageError(format!("'{name}' is another file system: unmount it first")),
            other => UsageError(format!("'{name}': {}", words(other))),
        }
    };
    let (mut stack, mut count) = (Vec::new(), 1u64);
    stack.push(open(top, visitor, &path).map_err(|error| failed(error, &path))?);
    let device = stack.first().map(|level: &Level| level.stat.st_dev);
    while let Some(level) = stack.last_mut() {
        path.truncate(level.path);
        let Some(name) = level.names.pop() else {
            visitor.leave(&level.dirs, &level.stat).map_err(|error| failed(error, &path))?;
            stack.pop();
            continue;
        };
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend(name.to_bytes());
        let mut step = || -> Fault<Option<Dirs>> {
            let stat = rustix::fs::statat(&level.dirs.data, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            if Some(stat.st_dev) != device {
                return Err(Host::XDEV);
            }
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                return visitor.descend(&level.dirs, &name).map(Some);
            }
            visitor.object(&level.dirs, &name, &stat, &path).map(|()| None)
        };
        let below = step().map_err(|error| failed(error, &path))?;
        if let Some(dirs) = below {
            let opened = open(dirs, visitor, &path).map_err(|error| failed(error, &path))?;
            stack.push(opened);
        }
        count += 1;
        told(pass, count);
    }
    Ok(())
}

fn open(dirs: Dirs, visitor: &mut dyn Visitor, path: &[u8]) -> Fault<Level> {
    let stat = rustix::fs::statat(&dirs.data, c"", AtFlags::EMPTY_PATH)?;
    let mut names: Vec<CString> = host::names(dirs.data.as_fd())?.into_iter().map(|(name, _)| name).collect();
    names.sort_unstable_by(|a, b| b.cmp(a));
    visitor.enter(&dirs, &stat, &names, path)?;
    Ok(Level { dirs, stat, names, path: path.len() })
}

/// Calls `act` with everything below `top`, which needs no mirrors, a
/// directory before what is in it.
pub(super) fn each_below(top: &OwnedFd, act: &mut dyn FnMut(BorrowedFd<'_>, &CStr) -> Fault<()>) -> Fault<()> {
    let open = |dir: OwnedFd| -> Fault<(OwnedFd, Vec<CString>)> {
        let names = host::names(dir.as_fd())?.into_iter().map(|(name, _)| name).collect();
        Ok((dir, names))
    };
    let mut stack = vec![open(rustix::io::fcntl_dupfd_cloexec(top, 0)?)?];
    while let Some((dir, names)) = stack.last_mut() {
        let Some(name) = names.pop() else {
            stack.pop();
            continue;
        };
        act(dir.as_fd(), &name)?;
        match host::child_dir(dir.as_fd(), &name) {
            Ok(below) => stack.push(open(below)?),
            Err(Host::NOTDIR | Host::LOOP) => {}
            Err(other) => return Err(other),
        }
    }
    Ok(())
}
