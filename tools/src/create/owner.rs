//! [`Owner`]: the host's user whom a tree is made for.

use crate::failure::{Failure, Result};
use crate::hostuser::HostUser;
use nix::unistd::Uid;
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// See the [module](self).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Owner(HostUser);

impl Owner {
    /// Whom `USER` or `USER:GROUP` names, by name or number.
    ///
    /// # Errors
    /// Nobody; or the caller may not make trees for others.
    pub(super) fn find(text: &str) -> Result<Owner> {
        if !Uid::effective().is_root() {
            return Err(Failure::new("--owner gives the tree to another user, which only root may do: leave it out to own it yourself"));
        }
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        HostUser::find(user, group).map(Owner)
    }

    /// Gives the directory `tree` to the owner, made if need be, and becomes
    /// that user, so that everything in it is the owner's from the start. What
    /// stays is the right to read the source.
    ///
    /// # Errors
    /// The directory cannot be made, or is not one to be given away.
    pub(super) fn take_over(self, tree: &Path) -> Result<Given> {
        // A slash at the end would have a link followed.
        let name = tree.components().as_path();
        let cannot =
            |error: rustix::io::Errno| Failure::io(format!("cannot give '{}' to user {}", tree.display(), self.0.uid), &error.into());
        match rustix::fs::mkdir(name, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(other) => return Err(cannot(other)),
        }
        // The directory above may be the user's, who can put another thing there at
        // any time: what was opened is looked at, and given away.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory =
            rustix::fs::open(name, flags, Mode::empty()).map_err(|error| refusal(tree, name).unwrap_or_else(|| cannot(error)))?;
        // Somebody's full directory must not change hands by a mistake.
        if is_empty(&directory).map_err(cannot)? {
            let there = rustix::fs::fstat(&directory).map_err(cannot)?;
            if there.st_uid != 0 && there.st_uid != self.0.uid.as_raw() {
                return Err(Failure::new(format!(
                    "'{}' belongs to user {}: remove it, and it is made for user {}",
                    tree.display(),
                    there.st_uid,
                    self.0.uid
                )));
            }
            let (uid, gid) = (self.0.uid.as_raw(), self.0.gid.as_raw());
            rustix::fs::fchown(&directory, Some(rustix::fs::Uid::from_raw(uid)), Some(rustix::fs::Gid::from_raw(gid))).map_err(cannot)?;
        }
        self.0.enter()?;
        Ok(Given(directory))
    }
}

/// Why `tree`, which is there, is not opened, if that can be said better than by an errno.
fn refusal(tree: &Path, name: &Path) -> Option<Failure> {
    let shown = tree.display();
    let kind = name.symlink_metadata().ok()?.file_type();
    if kind.is_symlink() {
        return Some(Failure::new(format!(
            "'{shown}' is a symbolic link, which --owner does not follow: name the directory that it leads to"
        )));
    }
    (!kind.is_dir()).then(|| Failure::new(format!("'{shown}' is not a directory: give one that is empty, or a name that is free")))
}

fn is_empty(directory: &OwnedFd) -> rustix::io::Result<bool> {
    for entry in rustix::fs::Dir::read_from(directory)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The directory that an [`Owner`] was given.
#[derive(Debug)]
pub(super) struct Given(OwnedFd);

impl Given {
    /// Whether `opened`, at the same path later, is that directory. What is read with
    /// root's right goes into no other.
    ///
    /// # Errors
    /// It is another one.
    pub(super) fn check(&self, opened: BorrowedFd<'_>, tree: &Path) -> Result<()> {
        let key = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
        let cannot = |error: rustix::io::Errno| Failure::io(tree.display(), &error.into());
        if key(self.0.as_fd()).map_err(cannot)? == key(opened).map_err(cannot)? {
            return Ok(());
        }
        Err(Failure::new(format!("'{}' has become another directory meanwhile: remove it and try again", tree.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_directory_in_the_place_of_the_given_one_is_noticed() {
        let place = tempfile::tempdir().expect("a directory");
        let tree = place.path().join("tree");
        let open = || {
            std::fs::create_dir(&tree).expect("made");
            OwnedFd::from(std::fs::File::open(&tree).expect("opened"))
        };
        let given = Given(open());
        assert_eq!(given.check(given.0.as_fd(), &tree), Ok(()));
        std::fs::rename(&tree, place.path().join("away")).expect("renamed");
        assert!(given.check(open().as_fd(), &tree).is_err_and(|why| why.line.contains("another directory")));
    }
}
