//! [`Owner`]: the host's user whom a tree is made for.

use crate::failure::{Failure, Result};
use crate::hostuser::HostUser;
use nix::unistd::Uid;
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
    /// The directory cannot be made.
    pub(super) fn take_over(self, tree: &Path) -> Result<()> {
        let cannot = |error: std::io::Error| Failure::io(format!("cannot give '{}' to user {}", tree.display(), self.0.uid), &error);
        let made = match std::fs::create_dir(tree) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => false,
            other => other.map(|()| true).map_err(cannot)?,
        };
        // Somebody's full directory must not change hands by a mistake.
        if made || std::fs::read_dir(tree).map_err(cannot)?.next().is_none() {
            std::os::unix::fs::chown(tree, Some(self.0.uid.as_raw()), Some(self.0.gid.as_raw())).map_err(cannot)?;
        }
        self.0.enter()
    }
}
