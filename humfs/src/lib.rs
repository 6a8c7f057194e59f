//! The humfs plugin: a guest's files in a host tree that one ordinary user
//! owns.
//!
//! File data lies in an ordinary directory tree; owner, mode, type, device
//! numbers and extended attributes of each file are kept apart, in one of four
//! formats ([`store::Format`]). Guest root is really root in there; the host's
//! user needs no privilege. FORMAT.md says every byte.

pub mod intent;
pub mod record;
pub mod store;
pub mod superblock;
pub mod tree;

mod host;
mod path;
