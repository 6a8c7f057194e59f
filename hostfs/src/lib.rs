//! The hostfs plugin: one host directory, jailed.
//!
//! What a guest does to a file happens to the host's file, as far as the
//! server's own rights go; nothing outside the directory can be reached,
//! whatever the guest sends and whatever other processes of the host do to the
//! tree meanwhile.
//!
//! * A server that runs as root makes objects as the guest's caller; any other
//!   makes them as itself, and the host refuses what that user may not do.
//! * FIFOs, sockets and devices of the host are shown, made and removed, and
//!   never opened.
//! * A remembered file costs some 130 bytes and no descriptor. Descriptors go to
//!   open files and to a bounded cache of directories.
//!
//! # Locks
//! In the order in which they may be held together; what is not indented under
//! another is never held with it. Each is held for a few instructions, except
//! where said.
//! ```text
//! HostFs::still          with `exclusive`: around the calls that go by a name or take it away
//!   (all below)
//! Listing::ahead          during a read of that listing, getdents64(2) included
//!   (whatever the bridge's emit function takes)
//! HostFs::moves           while a directory's place changes
//!   Inode::place
//! Pins::queue
//!   Inode::place
//! DirCache::shards
//! Jail::proc              around opening /proc/self/fd again after a fork
//! OpenFile::lockers
//!   LockTable::holders
//! Waker::has_left         around sending a signal
//! Watch::state            around adding or removing a watch
//! ```

mod attr;
mod contents;
mod credentials;
mod fault;
mod fdcache;
mod fs;
mod idmap;
mod jail;
mod known;
mod label;
pub mod layer;
mod listing;
mod locks;
pub mod named;
mod names;
mod node;
pub mod object;
mod options;
mod pins;
mod plugin;
mod reach;
mod setattr;
mod still;
mod sys;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod unopened;
mod watch;
mod xattr;

pub use fs::HostFs;
pub use known::Known;
pub use listing::Listing;
pub use node::{Inode, OpenFile};
pub use plugin::HostFsPlugin;
