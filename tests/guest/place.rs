//! [`Place`]: the directory that a row works in, and the words it judges with.

use rustix::fs::{CWD, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fmt::{Debug, Display};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Why a row did not pass.
#[derive(Debug)]
pub(crate) enum Problem {
    /// What was expected and what was seen.
    Failed(String),
    /// What is missing here.
    Skipped(String),
}

/// What comes of a row, or of a step of it.
pub(crate) type Verdict<T = ()> = Result<T, Problem>;

/// An end with this text.
pub(crate) fn failed<T>(what: impl Display) -> Verdict<T> {
    Err(Problem::Failed(what.to_string()))
}

/// An end without a verdict.
pub(crate) fn skipped<T>(why: impl Display) -> Verdict<T> {
    Err(Problem::Skipped(why.to_string()))
}

/// The step must succeed.
pub(crate) fn done<T, E: Display>(what: impl Display, answer: Result<T, E>) -> Verdict<T> {
    answer.map_err(|error| Problem::Failed(format!("{what}: {error}")))
}

/// The step must fail with `wanted`.
pub(crate) fn refused<T>(what: impl Display, answer: rustix::io::Result<T>, wanted: Errno) -> Verdict {
    match answer {
        Ok(_) => failed(format_args!("{what}: succeeded, expected {wanted:?}")),
        Err(seen) if seen == wanted => Ok(()),
        Err(seen) => failed(format_args!("{what}: {seen:?}, expected {wanted:?}")),
    }
}

/// Two facts must agree.
pub(crate) fn same<T: PartialEq + Debug>(what: impl Display, seen: T, wanted: T) -> Verdict {
    if seen == wanted { Ok(()) } else { failed(format_args!("{what}: {seen:?}, expected {wanted:?}")) }
}

/// Something must hold.
pub(crate) fn holds(what: impl Display, condition: bool) -> Verdict {
    if condition { Ok(()) } else { failed(what) }
}

/// Something done to a file.
pub(crate) type Change = fn(&Path) -> std::io::Result<()>;

/// The directory of one row, fresh and empty.
pub(crate) struct Place {
    /// Its own.
    pub(crate) dir: PathBuf,
    /// The share: `from-host` and `for-host` are there.
    pub(crate) share: PathBuf,
}

impl Place {
    /// A path in it.
    pub(crate) fn at(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.dir.join(name.as_ref())
    }

    /// A path with a name of any bytes.
    pub(crate) fn at_bytes(&self, name: &[u8]) -> PathBuf {
        self.dir.join(OsStr::from_bytes(name))
    }

    /// A closed file with these contents, mode 0644.
    pub(crate) fn file(&self, name: &str, data: impl AsRef<[u8]>) -> Verdict<PathBuf> {
        let path = self.at(name);
        done(format_args!("write {name}"), std::fs::write(&path, data))?;
        Ok(path)
    }

    /// A directory, mode 0755.
    pub(crate) fn directory(&self, name: &str) -> Verdict<PathBuf> {
        let path = self.at(name);
        done(format_args!("mkdir {name}"), std::fs::create_dir(&path))?;
        Ok(path)
    }

    /// The file's contents must be these.
    pub(crate) fn contains(&self, name: &str, wanted: impl AsRef<[u8]>) -> Verdict {
        let seen = done(format_args!("read {name}"), std::fs::read(self.at(name)))?;
        let wanted = wanted.as_ref();
        if seen == wanted {
            return Ok(());
        }
        let differs = seen.iter().zip(wanted).position(|(a, b)| a != b).unwrap_or(seen.len().min(wanted.len()));
        failed(format_args!("{name}: {} bytes, expected {}, differing from byte {differs}", seen.len(), wanted.len()))
    }
}

/// `open`, with errno.
pub(crate) fn open(path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o644))
}

/// `lstat` that must succeed.
pub(crate) fn look(path: &Path) -> Verdict<Stat> {
    done(format_args!("lstat {}", path.display()), rustix::fs::lstat(path))
}

/// The twelve mode bits.
pub(crate) fn mode_of(path: &Path) -> Verdict<u32> {
    Ok(look(path)?.st_mode & 0o7777)
}

/// `chmod` that must succeed.
pub(crate) fn set_mode(path: &Path, mode: u32) -> Verdict {
    done(format_args!("chmod {mode:o} {}", path.display()), rustix::fs::chmod(path, Mode::from_raw_mode(mode)))
}

/// `lchown` that must succeed.
pub(crate) fn set_owner(path: &Path, uid: u32, gid: u32) -> Verdict {
    done(format_args!("chown {uid}:{gid} {}", path.display()), change_owner(path, uid, gid))
}

/// `lchown`, with errno.
pub(crate) fn change_owner(path: &Path, uid: u32, gid: u32) -> rustix::io::Result<()> {
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    rustix::fs::chownat(CWD, path, uid, gid, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
}

/// Someone in the guest who is not root.
pub(crate) struct User {
    /// User id.
    pub(crate) uid: u32,
    /// Primary group.
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: &'static [u32],
}

/// Has nothing to do with anything.
pub(crate) const ALICE: User = User { uid: 1001, gid: 1001, groups: &[] };
/// In the group 2000 as well.
pub(crate) const BOB: User = User { uid: 1002, gid: 1002, groups: &[2000] };

impl User {
    /// Runs `body` as this user, on a thread of its own: the kernel keeps
    /// credentials for each thread.
    pub(crate) fn acts<T: Send>(&self, body: impl FnOnce() -> Verdict<T> + Send) -> Verdict<T> {
        let become_user = || {
            let groups: Vec<Gid> = self.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
            rustix::thread::set_thread_groups(&groups)?;
            rustix::thread::set_thread_gid(Gid::from_raw(self.gid))?;
            rustix::thread::set_thread_uid(Uid::from_raw(self.uid))
        };
        let thread = std::thread::scope(|scope| {
            let run = scope.spawn(|| {
                done("becoming an ordinary user", become_user())?;
                body()
            });
            run.join()
        });
        thread.unwrap_or_else(|_| failed("panicked"))
    }
}
