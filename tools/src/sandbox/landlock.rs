//! Landlock: the exported tree is all that can be opened.
//!
//! What was opened before (the root of the jail, sockets, the log) goes on
//! working; so does opening a descriptor again through /proc/self/fd, which is
//! judged by the file that it leads to.

use super::Needs;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus, Scope,
};
use std::os::fd::AsFd;

/// The newest of which every right is known; older kernels enforce what they have.
const KNOWN: ABI = ABI::V6;

/// Restricts this thread and those it will start.
pub(super) fn restrict(needs: &Needs<'_>) -> Result<(), String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let everything = AccessFs::from_all(KNOWN);
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(everything)
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(KNOWN)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(KNOWN)))
        .and_then(Ruleset::create)
        .map_err(|e| text(&e))?;
    let access = if needs.read_only { AccessFs::from_read(KNOWN) } else { everything };
    let tree = needs.tree.map(|grounds| grounds.tree().map(|tree| (tree, access))).transpose()?;
    let own = needs.tree.and_then(|grounds| grounds.own.as_ref()).map(|own| (own.as_fd(), everything));
    let device = needs.fuse_device.then(|| PathFd::new("/dev/fuse")).transpose().map_err(|e| text(&e))?;
    let to_device: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let device = device.as_ref().map(|device| (device.as_fd(), to_device));
    for (opened, access) in tree.into_iter().chain(own).chain(device) {
        ruleset = ruleset.add_rule(PathBeneath::new(opened, access)).map_err(|e| text(&e))?;
    }
    let status = ruleset.restrict_self().map_err(|e| text(&e))?;
    match status.ruleset {
        RulesetStatus::FullyEnforced => Ok(()),
        // Which right an older kernel lacks (truncation, ioctl, signals) is a
        // detail: opening is restricted since the first version.
        RulesetStatus::PartiallyEnforced => {
            tracing::debug!("this kernel's Landlock is older than we know how to use");
            Ok(())
        }
        RulesetStatus::NotEnforced => Err("this kernel has none (CONFIG_SECURITY_LANDLOCK, lsm=landlock)".into()),
    }
}
