//! Capabilities: what a root server needs to store what guests ask for.

use super::Needs;
use caps::{CapSet, Capability, CapsHashSet};

/// Creating, changing and reading on behalf of any user, and nothing that
/// reaches beyond files. CAP_LEASE, CAP_SYS_RESOURCE and the rest stay out.
const NEEDED: [Capability; 10] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_SETUID,
    Capability::CAP_SETGID,
    Capability::CAP_MKNOD,
    Capability::CAP_SETFCAP,
    Capability::CAP_LINUX_IMMUTABLE,
];

/// Keeps of the capabilities that the process has those that it needs.
pub(super) fn trim(needs: &Needs<'_>) -> Result<(), String> {
    let held = caps::read(None, CapSet::Permitted).map_err(|e| e.to_string())?;
    if held.is_empty() {
        return Ok(());
    }
    let mut kept: CapsHashSet = CapsHashSet::new();
    if needs.tree.is_some() {
        kept.extend(NEEDED.iter().filter(|capability| held.contains(capability)));
    }
    if needs.administration && held.contains(&Capability::CAP_SYS_ADMIN) {
        kept.insert(Capability::CAP_SYS_ADMIN);
    }
    // The bounding set first: dropping from it takes CAP_SETPCAP.
    if held.contains(&Capability::CAP_SETPCAP) {
        let bounding = caps::read(None, CapSet::Bounding).map_err(|e| e.to_string())?;
        for capability in bounding.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *capability).map_err(|e| e.to_string())?;
        }
    }
    // Ambient capabilities go with the inheritable ones.
    caps::clear(None, CapSet::Inheritable).map_err(|e| e.to_string())?;
    caps::set(None, CapSet::Effective, &kept).map_err(|e| e.to_string())?;
    caps::set(None, CapSet::Permitted, &kept).map_err(|e| e.to_string())
}
