//! [`HostUser`]: a user of the host, by name or number.

use crate::failure::{Failure, Result, phrase};
use crate::process;
use caps::{CapSet, Capability};
use nix::unistd::{Gid, Group, Uid, User};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A user with a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostUser {
    /// The user.
    pub uid: Uid,
    /// The group.
    pub gid: Gid,
}

impl HostUser {
    /// Whom `user` and `group` name; without a group, the user's own.
    ///
    /// # Errors
    /// Nobody.
    pub fn find(user: &str, group: Option<&str>) -> Result<HostUser> {
        let unknown = |what: &str, name: &str| Failure::new(format!("this host has no {what} '{}'", name.escape_debug()));
        let number = |text: &str| text.parse::<u32>().ok().filter(|id| *id != u32::MAX);
        let entry = match number(user) {
            Some(uid) => User::from_uid(Uid::from_raw(uid)).ok().flatten(),
            None => Some(User::from_name(user).ok().flatten().ok_or_else(|| unknown("user", user))?),
        };
        let uid = entry.as_ref().map(|entry| entry.uid).or_else(|| number(user).map(Uid::from_raw)).ok_or_else(|| unknown("user", user))?;
        let gid = match group {
            None => entry
                .map(|entry| entry.gid)
                .ok_or_else(|| Failure::new(format!("user {uid} is not in this host's list: say {uid}:GROUP")))?,
            Some(group) => match number(group) {
                Some(gid) => Gid::from_raw(gid),
                None => Group::from_name(group).ok().flatten().ok_or_else(|| unknown("group", group))?.gid,
            },
        };
        Ok(HostUser { uid, gid })
    }

    /// Does something as this user, as far as files are concerned. For a process
    /// of one thread.
    ///
    /// # Errors
    /// Groups cannot be changed.
    pub fn lend<T>(self, work: impl FnOnce() -> T) -> Result<T> {
        let cannot = |error: nix::Error| Failure::new(format!("cannot act as user {}: {error}", self.uid));
        let groups = nix::unistd::getgroups().map_err(cannot)?;
        nix::unistd::setgroups(&[]).map_err(cannot)?;
        let (gid, uid) = (nix::unistd::setfsgid(self.gid), nix::unistd::setfsuid(self.uid));
        let done = work();
        // Root's rights over files come back with this.
        nix::unistd::setfsuid(uid);
        nix::unistd::setfsgid(gid);
        nix::unistd::setgroups(&groups).map_err(cannot)?;
        Ok(done)
    }

    /// Becomes this user for good, keeping nothing of root's but the right to
    /// read, and that to see `trusted.*` attributes of what is read.
    ///
    /// # Errors
    /// What the host says.
    pub fn enter(self) -> Result<()> {
        self.enter_with(&[Capability::CAP_DAC_READ_SEARCH, Capability::CAP_SYS_ADMIN])
    }

    /// Becomes this user to serve, keeping nothing of root's, or CAP_SYS_ADMIN only
    /// for its `administration`. The process goes on to end with its parent, which
    /// the kernel forgets at a change of users.
    ///
    /// # Errors
    /// What the host says.
    pub fn enter_to_serve(self, administration: bool) -> Result<()> {
        let parent = nix::unistd::getppid();
        self.enter_with(if administration { &[Capability::CAP_SYS_ADMIN] } else { &[] })?;
        process::die_with(parent);
        Ok(())
    }

    fn enter_with(self, kept: &[Capability]) -> Result<()> {
        let cannot = |why: String| Failure::new(format!("cannot become user {}: {why}", self.uid));
        self.switch().map_err(|error| cannot(phrase(&error)))?;
        let refused = |error: caps::errors::CapsError| cannot(error.to_string());
        let permitted = caps::read(None, CapSet::Permitted).map_err(refused)?;
        let kept: caps::CapsHashSet = kept.iter().copied().filter(|capability| permitted.contains(capability)).collect();
        caps::set(None, CapSet::Effective, &kept).map_err(refused)?;
        caps::set(None, CapSet::Permitted, &kept).map_err(refused)
    }

    fn switch(self) -> std::io::Result<()> {
        let HostUser { uid, gid } = self;
        rustix::thread::set_keep_capabilities(true)?;
        nix::unistd::setgroups(&[])?;
        nix::unistd::setresgid(gid, gid, gid)?;
        nix::unistd::setresuid(uid, uid, uid)?;
        rustix::thread::set_keep_capabilities(false)?;
        Ok(())
    }
}

/// If root changes a tree that is another user's, it does so as that user:
/// files of root's in it would be in the way of the user's own server. What
/// stays is the right to read everything.
///
/// # Errors
/// What the host says.
pub fn act_as_owner_of(tree: &Path) -> Result<()> {
    let Ok(there) = tree.metadata() else { return Ok(()) };
    if !Uid::effective().is_root() || there.uid() == 0 {
        return Ok(());
    }
    HostUser { uid: Uid::from_raw(there.uid()), gid: Gid::from_raw(there.gid()) }.enter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_names_and_numbers() {
        let root = HostUser { uid: Uid::from_raw(0), gid: Gid::from_raw(0) };
        for (user, group) in [("root", Some("root")), ("0", Some("0")), ("root", None), ("0", None)] {
            assert_eq!(HostUser::find(user, group), Ok(root), "{user} {group:?}");
        }
        assert_eq!(HostUser::find("4000000", Some("7")).map(|it| it.uid.as_raw()), Ok(4_000_000));
        for (user, group) in [
            ("no such user", Some("0")),
            ("0", Some("no such group")),
            ("4000000", None),
            ("-1", Some("0")),
            ("4294967295", Some("0")),
            ("", None),
        ] {
            assert!(HostUser::find(user, group).is_err(), "{user} {group:?}");
        }
    }
}
