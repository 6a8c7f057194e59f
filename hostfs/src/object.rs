//! [`Object`]: what a name stood for when it was looked at, held while it
//! changes hands.
//!
//! Whoever may write in a directory can put something else in the place of a
//! name between two calls. chmod(2) would follow a link there, and one who acts
//! as root would do to somebody else's file what was meant for this one. So the
//! object is opened once (`O_PATH`, the last component not followed), compared
//! with what is meant, and changed through the descriptor only.

use crate::jail::fd_path;
use crate::sys;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RawMode, Stat, Timestamps, Uid, XattrFlags};
use rustix::io::{Errno, Result};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// See the [module](self).
#[derive(Debug)]
pub struct Object {
    fd: OwnedFd,
    is_link: bool,
}

impl Object {
    /// What is called `name` in `dir`; a link is held itself. `is_meant` is shown
    /// what the host says of it.
    ///
    /// # Errors
    /// ESTALE if that is not what is meant; what openat(2) says.
    pub fn hold(dir: BorrowedFd<'_>, name: &CStr, is_meant: impl FnOnce(&Stat) -> bool) -> Result<Object> {
        let fd = rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        if !is_meant(&stat) {
            return Err(Errno::STALE);
        }
        Ok(Object { fd, is_link: FileType::from_raw_mode(stat.st_mode) == FileType::Symlink })
    }

    /// As [`Object::hold`], if it is still the object of which `known` was said.
    ///
    /// # Errors
    /// The same.
    pub fn hold_known(dir: BorrowedFd<'_>, name: &CStr, known: &Stat) -> Result<Object> {
        let kind = |stat: &Stat| FileType::from_raw_mode(stat.st_mode);
        Object::hold(dir, name, |now| (now.st_dev, now.st_ino, kind(now)) == (known.st_dev, known.st_ino, kind(known)))
    }

    /// Gives it another name in `dir`, or its first.
    ///
    /// # Errors
    /// What linkat(2) says; EEXIST for a name that is taken.
    pub fn give_name(&self, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        match rustix::fs::linkat(&self.fd, c"", dir, name, AtFlags::EMPTY_PATH) {
            // Before Linux 6.10 that was root's alone.
            Err(Errno::NOENT) => self.give_name_by_path(dir, name),
            answer => answer,
        }
    }

    /// The same by the magic link, which is everybody's.
    fn give_name_by_path(&self, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        rustix::fs::linkat(rustix::fs::CWD, fd_path(self.fd.as_fd()), dir, name, AtFlags::SYMLINK_FOLLOW)
    }

    /// Gives it to another owner and group.
    ///
    /// # Errors
    /// What fchownat(2) says.
    pub fn chown(&self, uid: Uid, gid: Gid) -> Result<()> {
        rustix::fs::chownat(&self.fd, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
    }

    /// Sets its mode. A link has none: EOPNOTSUPP.
    ///
    /// # Errors
    /// What fchmodat2(2) says, or chmod(2) where there is none.
    pub fn chmod(&self, mode: u32) -> Result<()> {
        if self.is_link {
            return Err(Errno::OPNOTSUPP);
        }
        match sys::chmod_at(self.fd.as_fd(), sys::Last::Object, mode) {
            // Before Linux 6.6, or behind a filter that does not know it yet.
            Err(Errno::NOSYS | Errno::PERM) => rustix::fs::chmod(fd_path(self.fd.as_fd()), Mode::from_raw_mode(mode as RawMode)),
            answer => answer,
        }
    }

    /// Sets its times.
    ///
    /// # Errors
    /// What utimensat(2) says.
    pub fn set_times(&self, times: &Timestamps) -> Result<()> {
        match rustix::fs::utimensat(&self.fd, c"", times, AtFlags::EMPTY_PATH) {
            // Kernels before 5.8 know no AT_EMPTY_PATH here. The magic link leads
            // to the object, be that a link, and no further.
            Err(Errno::INVAL | Errno::NOENT) => rustix::fs::utimensat(rustix::fs::CWD, fd_path(self.fd.as_fd()), times, AtFlags::empty()),
            answer => answer,
        }
    }

    /// The names of its extended attributes; none where there can be none.
    ///
    /// # Errors
    /// What listxattr(2) says.
    pub fn xattr_names(&self) -> Result<Vec<CString>> {
        let mut names = vec![0; 1024];
        let count = loop {
            match rustix::fs::listxattr(fd_path(self.fd.as_fd()), &mut names) {
                Ok(count) => break count,
                Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
                Err(Errno::RANGE) if names.len() < 64 << 10 => names.resize(64 << 10, 0),
                Err(other) => return Err(other),
            }
        };
        let names = names.get(..count).unwrap_or_default().split(|&byte| byte == 0);
        Ok(names.filter(|name| !name.is_empty()).filter_map(|name| CString::new(name).ok()).collect())
    }

    /// The value of the attribute `name`.
    ///
    /// # Errors
    /// What getxattr(2) says.
    pub fn xattr(&self, name: &CStr) -> Result<Vec<u8>> {
        let mut value = vec![0; 64 << 10];
        let count = rustix::fs::getxattr(fd_path(self.fd.as_fd()), name, &mut value)?;
        value.truncate(count);
        Ok(value)
    }

    /// Sets the attribute `name`.
    ///
    /// # Errors
    /// What setxattr(2) says.
    pub fn set_xattr(&self, name: &CStr, value: &[u8]) -> Result<()> {
        rustix::fs::setxattr(fd_path(self.fd.as_fd()), name, value, XattrFlags::empty())
    }

    /// Takes the attribute `name` away.
    ///
    /// # Errors
    /// What removexattr(2) says.
    pub fn remove_xattr(&self, name: &CStr) -> Result<()> {
        rustix::fs::removexattr(fd_path(self.fd.as_fd()), name)
    }
}

/// A file that is open already, which nobody can exchange.
impl From<OwnedFd> for Object {
    fn from(fd: OwnedFd) -> Object {
        Object { fd, is_link: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::path::Path;

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).expect("stat").mode() & 0o7777
    }

    #[test]
    fn a_file_without_a_name_gets_one() {
        let place = tempfile::tempdir().expect("a directory");
        let dir = OwnedFd::from(std::fs::File::open(place.path()).expect("opened"));
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::openat(&dir, c".", flags, Mode::RUSR) else {
            eprintln!("SKIPPED: needs O_TMPFILE in {}", place.path().display());
            return;
        };
        let object = Object::from(file);
        object.give_name(dir.as_fd(), c"a").expect("named");
        object.give_name_by_path(dir.as_fd(), c"b").expect("named again");
        for name in [c"a", c"b"] {
            assert_eq!(object.give_name(dir.as_fd(), name), Err(Errno::EXIST));
            assert_eq!(object.give_name_by_path(dir.as_fd(), name), Err(Errno::EXIST));
        }
        let links = |name: &str| place.path().join(name).metadata().expect("stat").nlink();
        assert_eq!((links("a"), links("b")), (2, 2));
    }

    #[test]
    fn what_takes_the_name_meanwhile_is_left_alone() {
        let place = tempfile::tempdir().expect("a directory");
        let (name, aside, outside) = (place.path().join("f"), place.path().join("aside"), place.path().join("outside"));
        for path in [&name, &outside] {
            std::fs::write(path, "").expect("a file");
            rustix::fs::chmod(path, Mode::from_raw_mode(0o640)).expect("chmod");
        }
        let dir = rustix::fs::open(place.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).expect("open");
        let known = rustix::fs::statat(&dir, c"f", AtFlags::SYMLINK_NOFOLLOW).expect("stat");
        let object = Object::hold_known(dir.as_fd(), c"f", &known).expect("it is there");
        std::fs::rename(&name, &aside).expect("rename");
        symlink(&outside, &name).expect("a link");
        object.chmod(0o4711).expect("chmod");
        object.set_xattr(c"user.a", b"1").expect("setxattr");
        assert_eq!((mode(&aside), mode(&outside)), (0o4711, 0o640));
        assert_eq!(
            (object.xattr_names().expect("list"), object.xattr(c"user.a").expect("get")),
            (vec![c"user.a".to_owned()], b"1".to_vec())
        );
        object.remove_xattr(c"user.a").expect("removexattr");

        assert_eq!(Object::hold_known(dir.as_fd(), c"f", &known).expect_err("another"), Errno::STALE);
        std::fs::remove_file(&name).expect("unlink");
        std::fs::hard_link(&outside, &name).expect("link");
        assert_eq!(Object::hold_known(dir.as_fd(), c"f", &known).expect_err("another"), Errno::STALE);
    }

    #[test]
    fn a_link_is_held_itself() {
        let place = tempfile::tempdir().expect("a directory");
        let outside = place.path().join("outside");
        std::fs::write(&outside, "").expect("a file");
        symlink(&outside, place.path().join("l")).expect("a link");
        let before = outside.metadata().expect("stat");
        let dir = rustix::fs::open(place.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).expect("open");
        let link = Object::hold(dir.as_fd(), c"l", |_| true).expect("it is there");
        assert_eq!(link.chmod(0o777), Err(Errno::OPNOTSUPP));
        let at = rustix::fs::Timespec { tv_sec: 5, tv_nsec: 6 };
        link.set_times(&Timestamps { last_access: at, last_modification: at }).expect("utimensat");
        assert_eq!(std::fs::symlink_metadata(place.path().join("l")).expect("stat").mtime(), 5);
        link.chown(Uid::from_raw(before.uid()), Gid::from_raw(before.gid())).expect("chown");
        // user.* is for files and directories only, so an error says that the link was asked.
        assert!(link.set_xattr(c"user.a", b"1").is_err());
        let after = outside.metadata().expect("stat");
        assert_eq!((before.mode(), before.mtime(), before.ctime_nsec()), (after.mode(), after.mtime(), after.ctime_nsec()));
    }
}
