//! What we have made changes hands.
//!
//! Whoever owns a directory can put something else in it, a second name of
//! anybody's file, say; and we act as root. So a directory is given away after
//! what is in it, and through the descriptor that it was looked at by. What is
//! neither ours nor the new owner's is refused, and so is a file of ours that has
//! a name elsewhere too: such a name is not of our making.

use super::Site;
use super::walk::each_below;
use crate::host::{self, Fault};
use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno as Host;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How many names were seen of what has several, by its number.
type Names = HashMap<(u64, u64), usize>;

fn key(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

impl Site<'_> {
    /// Gives what is called `name` in `dir` to the new owner.
    pub(super) fn give(&self, dir: BorrowedFd<'_>, name: &CStr) -> Fault<()> {
        self.give_held(host::child(dir, name)?.as_fd(), &Names::new())
    }

    /// Gives away all of `parts`, directories.
    pub(super) fn give_all(&self, parts: Vec<OwnedFd>) -> Fault<()> {
        let mut names = Names::new();
        for part in &parts {
            each_below(part, &mut |dir, name| {
                let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if stat.st_nlink > 1 && !is_dir(&stat) {
                    *names.entry(key(&stat)).or_default() += 1;
                }
                Ok(())
            })?;
        }
        parts.into_iter().try_for_each(|part| self.give_deep(part, &names))
    }

    fn give_deep(&self, top: OwnedFd, names: &Names) -> Fault<()> {
        let open = |dir: OwnedFd| -> Fault<(OwnedFd, Vec<CString>)> {
            let names = host::names(dir.as_fd())?.into_iter().map(|(name, _)| name).collect();
            Ok((dir, names))
        };
        let mut stack = vec![open(top)?];
        while let Some((dir, left)) = stack.last_mut() {
            let Some(name) = left.pop() else {
                self.give_held(dir.as_fd(), names)?;
                stack.pop();
                continue;
            };
            let held = host::child(dir.as_fd(), &name)?;
            if is_dir(&rustix::fs::fstat(&held)?) {
                stack.push(open(held)?);
            } else {
                self.give_held(held.as_fd(), names)?;
            }
        }
        Ok(())
    }

    /// Gives away what `held` stands for (`O_PATH`), of which `names` were seen.
    pub(super) fn give_held(&self, held: BorrowedFd<'_>, names: &Names) -> Fault<()> {
        let stat = rustix::fs::fstat(held)?;
        let seen = names.get(&key(&stat)).copied().unwrap_or(1);
        let is_all_here = is_dir(&stat) || usize::try_from(stat.st_nlink).is_ok_and(|links| links <= seen);
        let is_ours = stat.st_uid == rustix::process::geteuid().as_raw() && is_all_here;
        if !is_ours && stat.st_uid != self.uid.as_raw() {
            return Err(Host::STALE);
        }
        rustix::fs::chownat(held, c"", Some(self.uid), Some(self.gid), AtFlags::EMPTY_PATH)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Request;
    use super::*;
    use std::os::unix::fs::{MetadataExt, chown};

    const NEW: u32 = 1000;

    #[test]
    fn what_others_have_put_there_is_not_given_away() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: to give files away takes root");
            return;
        }
        let place = tempfile::tempdir().expect("a directory");
        let at = |name: &str| place.path().join(name);
        std::fs::create_dir_all(at("data")).expect("mkdir");
        std::fs::write(at("outside"), "").expect("a file");
        let site = Site::open(place.path(), &Request { uid: NEW, gid: NEW, total: 1 << 20 }).expect("open");
        std::fs::create_dir_all(at("humfs/a/b")).expect("mkdir");
        // Two names of one, both of them there.
        std::fs::write(at("humfs/a/one"), "").expect("a file");
        std::fs::hard_link(at("humfs/a/one"), at("humfs/two")).expect("a link");
        let owner = |name: &str| at(name).symlink_metadata().expect("stat").uid();
        let give = || site.give_all(vec![host::child_dir(site.root.as_fd(), c"humfs").expect("open")]);
        let planted = at("humfs/a/b/planted");
        std::fs::hard_link(at("outside"), &planted).expect("a link");
        assert_eq!((give(), site.give(site.root.as_fd(), c"outside")), (Err(Host::STALE), Err(Host::STALE)));
        // It could be put there still, if the directories were given already.
        assert_eq!(["outside", "humfs", "humfs/a", "humfs/a/b"].map(owner), [0; 4]);
        std::fs::remove_file(&planted).expect("unlink");
        std::fs::write(&planted, "").expect("a file");
        chown(&planted, Some(7), Some(7)).expect("chown");
        assert_eq!((give(), owner("humfs")), (Err(Host::STALE), 0));
        std::fs::remove_file(&planted).expect("unlink");
        std::os::unix::fs::symlink(at("outside"), &planted).expect("a link");
        assert_eq!((give(), give()), (Ok(()), Ok(())));
        let all = ["outside", "humfs", "humfs/a", "humfs/a/b", "humfs/a/one", "humfs/two", "humfs/a/b/planted"];
        assert_eq!(all.map(owner), [0, NEW, NEW, NEW, NEW, NEW, NEW]);
    }
}
