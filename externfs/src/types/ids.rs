//! Who and which: users, nodes, handles.

/// A user id as the guest sees it. Only a named map turns it into a host's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct GuestUid(pub u32);

/// A group id as the guest sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct GuestGid(pub u32);

/// Number of a node for one frontend; never 0. The root's is [`NodeId::ROOT`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The exported directory itself (`FUSE_ROOT_ID`).
    pub const ROOT: NodeId = NodeId(1);
}

/// Number of an open file or listing for one frontend.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HandleId(pub u64);

/// Set in handles that nobody has opened, and in no other; no node's number has it.
const UNOPENED: u64 = 1 << 62;

impl HandleId {
    /// What a kernel that opens nothing reads and writes: the object itself.
    /// See [`crate::Export::begin_unopened`].
    #[must_use]
    pub fn unopened(node: NodeId) -> HandleId {
        HandleId(node.0 | UNOPENED)
    }

    /// The object that it stands for, if nobody has opened it.
    #[must_use]
    pub fn node(self) -> Option<NodeId> {
        (self.0 & UNOPENED != 0).then_some(NodeId(self.0 & !UNOPENED))
    }
}

/// What makes two lookups the same object: a plugin's claim of identity.
///
/// For host files: device, inode number, birth time in nanoseconds, so that
/// hard links are one node and the reuse of an inode number is noticed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NodeKey {
    /// The file system within the export; a change of it marks a submount.
    pub volume: u64,
    /// The object's number there. Corresponds to `st_ino`.
    pub number: u64,
    /// Tells two objects apart that had the same number one after the other.
    pub generation: u64,
}
