//! [`Passthrough`]: which open files the kernel serves from the host file
//! itself (FUSE passthrough, Linux 6.9). The protocol carries the decision; a
//! /dev/fuse transport takes it, because registering a file is an ioctl of its
//! device.
//!
//! The kernel's rules (fs/fuse/iomode.c): an inode is cached or backed, never
//! both at once, and all its backed opens share one id. A mapped write goes to
//! the host file's pages, of which the kernel tells nobody; so attributes of a
//! node that is backed and open for writing should not be remembered.

use externfs::{Export, FileCache, HandleId, NodeId};
use std::time::Duration;

/// How the kernel is told to serve an open file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Serving {
    /// Through us, with the caching that the plugin said.
    Plain,
    /// Through us, without the page cache: the node is backed for others.
    Direct,
    /// From the host file with this id (`FUSE_DEV_IOC_BACKING_OPEN`).
    Backed(u32),
}

/// A file that was just opened or created.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewlyOpen {
    /// Whose.
    pub node: NodeId,
    /// The open file; [`Export::backing`] knows what is behind it.
    pub handle: HandleId,
    /// It was opened for reading and writing, so that a process may write
    /// to it through a mapping.
    pub maps: bool,
    /// It was made by this very request.
    pub created: bool,
    /// Bytes that it has.
    pub size: u64,
    /// What the plugin said of it.
    pub cache: FileCache,
}

/// Decides which open files are backed. Called from many threads.
pub trait Passthrough: Send + Sync {
    /// How `file` is to be served. It is called once for each open file, after
    /// the kernel agreed to passthrough.
    fn opened(&self, export: &dyn Export, file: NewlyOpen) -> Serving;

    /// The file is closed, or the kernel never heard that it was open; it may
    /// be one that [`Passthrough::opened`] was never told of.
    fn released(&self, handle: HandleId);

    /// Taken before attributes are read; given to [`Passthrough::attr_ttl`].
    fn mark(&self) -> u64;

    /// How long attributes of `node`, read since `mark`, may be remembered
    /// where the plugin allows `ttl`.
    fn attr_ttl(&self, mark: u64, node: NodeId, ttl: Duration) -> Duration;
}
