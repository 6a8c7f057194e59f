//! The humfs plugin: a guest's files in a host tree that one ordinary user
//! owns.
//!
//! File data lies in an ordinary directory tree; owner, mode, type, device
//! numbers and extended attributes of each file are kept apart, in one of four
//! formats ([`store::Format`]). Guest root is really root in there; the host's
//! user needs no privilege. FORMAT.md says every byte.

//!
//! # Locks
//! In the order in which they may be held together; what is not indented under
//! another is never held with it.
//! ```text
//! Later.0                     while a tree is opened
//! DirLocks::moves             during each change of names and each save
//!   DirLocks::shards            in the order of their index
//!     HumNode::state              during a change of its record, host calls included
//!       a store's own
//!         Account::inner            during a write to humfs/state
//!       Dense::locks              while a file's size changes
//!       catalog::Feed
//!         NodeTable::shards
//! Scan::sink                  while the catalog is made; nothing is held with it
//! NodeTable::shards
//! HumFs::unsettled
//! Dense::locks                during a write over what is there, and while holes are made
//! ```

pub mod account;
pub mod catalog;
pub mod check;
pub mod convert;
pub mod explain;
pub mod humfsify;
pub mod intent;
pub mod make;
pub mod record;
pub mod store;
pub mod superblock;
pub mod tree;

mod acl;
mod aliases;
mod attrs;
mod beyond;
mod birth;
mod contents;
mod extents;
mod fs;
mod host;
mod late;
mod locks;
mod names;
mod node;
mod open;
mod options;
mod overwrite;
mod path;
mod plugin;
mod unsettled;
mod walk;
mod whiteout;

pub use fs::HumFs;
pub use node::{HumDir, HumFile, HumNode};
pub use options::{Adopt, Label, Options};
pub use plugin::{HumFsPlugin, open};
