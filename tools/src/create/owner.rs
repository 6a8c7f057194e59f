//! [`Owner`]: the host's user whom a tree is made for.

use crate::failure::{Failure, Result};
use caps::{CapSet, Capability};
use nix::unistd::{Gid, Group, Uid, User};
use std::path::Path;

/// A user and a group of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Owner {
    uid: Uid,
    gid: Gid,
}

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
        let unknown = |what: &str, name: &str| Failure::new(format!("this host has no {what} '{}'", name.escape_debug()));
        let entry = match user.parse() {
            Ok(uid) => User::from_uid(Uid::from_raw(uid)).ok().flatten(),
            Err(_) => Some(User::from_name(user).ok().flatten().ok_or_else(|| unknown("user", user))?),
        };
        let uid =
            entry.as_ref().map_or_else(|| user.parse().map(Uid::from_raw), |entry| Ok(entry.uid)).map_err(|_| unknown("user", user))?;
        let gid = match group {
            None => {
                entry.map(|entry| entry.gid).ok_or_else(|| Failure::new(format!("user {uid} has no group of its own: say {uid}:GROUP")))?
            }
            Some(group) => match group.parse() {
                Ok(gid) => Gid::from_raw(gid),
                Err(_) => Group::from_name(group).ok().flatten().ok_or_else(|| unknown("group", group))?.gid,
            },
        };
        Ok(Owner { uid, gid })
    }

    /// Gives the directory `tree` to the owner, made if need be, and becomes
    /// that user, so that everything in it is the owner's from the start. What
    /// stays is the right to read the source.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub(super) fn take_over(self, tree: &Path) -> Result<()> {
        let cannot = |error: std::io::Error| Failure::io(format!("cannot give '{}' to user {}", tree.display(), self.uid), &error);
        let made = match std::fs::create_dir(tree) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => false,
            other => other.map(|()| true).map_err(cannot)?,
        };
        // Somebody's full directory must not change hands by a mistake.
        if made || std::fs::read_dir(tree).map_err(cannot)?.next().is_none() {
            std::os::unix::fs::chown(tree, Some(self.uid.as_raw()), Some(self.gid.as_raw())).map_err(cannot)?;
        }
        self.become_it().map_err(cannot)
    }

    fn become_it(self) -> std::io::Result<()> {
        let other = |error: caps::errors::CapsError| std::io::Error::other(error.to_string());
        rustix::thread::set_keep_capabilities(true)?;
        nix::unistd::setgroups(&[])?;
        nix::unistd::setresgid(self.gid, self.gid, self.gid)?;
        nix::unistd::setresuid(self.uid, self.uid, self.uid)?;
        rustix::thread::set_keep_capabilities(false)?;
        // SYS_ADMIN, for trusted.* attributes of the source.
        let kept = [Capability::CAP_DAC_READ_SEARCH, Capability::CAP_SYS_ADMIN].into_iter();
        let permitted = caps::read(None, CapSet::Permitted).map_err(other)?;
        let kept: caps::CapsHashSet = kept.filter(|capability| permitted.contains(capability)).collect();
        caps::set(None, CapSet::Effective, &kept).map_err(other)?;
        caps::set(None, CapSet::Permitted, &kept).map_err(other)
    }
}
