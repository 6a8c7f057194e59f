//! The FUSE frontend for the host: an [`externfs::Export`] mounted on a
//! directory, by root or by an ordinary user.
//!
//! 1. [`FuseMount::mount`] makes the mount in the kernel;
//! 2. the process may give up its privileges and put up a sandbox;
//! 3. [`FuseMount::serve`] answers the kernel until somebody unmounts.
//!
//! Before 2, [`FuseMount::prepare`] makes what a sandbox forbids.
//!
//! Two transports speak the protocol ([`Transport`]): our own code, which also
//! serves guests, and the crate fuser, against which it is compared.
//!
//! Permissions are checked by the kernel (`default_permissions`). Advisory
//! locks are kept by the kernel too and hold within one mount, unless the
//! plugin keeps them and the transport is ours: then other users of the same
//! host files see them.
//!
//! Locks of this crate, outermost first; none is held during a call of the
//! export:
//! ```text
//! passthrough::Backings.tables   (held during the ioctl that registers a file)
//! phantom::Phantoms.expected
//! watch::WatchQueue.notes
//! uring::Queues.foreman, .threads, .spare, .order; Queue.staff   (each alone, for a few instructions)
//! serve::Shared.progress
//! ```

mod adapter;
mod buffer;
mod convert;
mod crew;
mod device;
mod error;
mod helper;
mod kernel;
mod listing;
mod mount;
mod mountinfo;
mod native;
mod options;
mod order;
mod passthrough;
mod phantom;
mod serve;
mod tuning;
mod uring;
mod watch;

pub use error::MountError;
pub use mount::{FuseMount, Unmounter, clear, unmount};
pub use options::{MOUNT_OPPOSITES, MOUNT_OPTIONS, MountOptions, SERVE_OPTIONS, ServeOptions, Transport};
pub use passthrough::PassthroughChoice;
pub use serve::{ExitReason, ServeError, StopHandle};
pub use uring::UringChoice;
