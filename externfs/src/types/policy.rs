//! What a file system says of itself.

use super::FileKind;
use std::time::Duration;

/// What fills the file system. Corresponds to statvfs(3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StatFs {
    /// Unit of the block counts, in bytes. Corresponds to `f_frsize`.
    pub block_size: u32,
    /// Corresponds to `f_blocks`.
    pub blocks: u64,
    /// Corresponds to `f_bfree`.
    pub blocks_free: u64,
    /// Corresponds to `f_bavail`.
    pub blocks_available: u64,
    /// Corresponds to `f_files`.
    pub inodes: u64,
    /// Corresponds to `f_ffree`.
    pub inodes_free: u64,
    /// Longest name in bytes. Corresponds to `f_namemax`.
    pub name_max: u32,
}

/// One name of a directory. `.` and `..` are listed too, each with a `next` of
/// its own; the bridge puts the right numbers in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirEntry<'a> {
    /// The component's bytes, checked by the bridge before a guest sees them.
    pub name: &'a [u8],
    /// The object's number. Corresponds to `d_ino`.
    pub ino: u64,
    /// None where it takes a look at the object to tell; guests then look for
    /// themselves. Corresponds to `d_type`.
    pub kind: Option<FileKind>,
    /// Where a listing goes on after this entry; never 0, and still right when
    /// other names come and go. Corresponds to `d_off`.
    pub next: u64,
}

/// How long and what a guest's kernel may remember: one policy a mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CachePolicy {
    /// Attributes.
    pub attr: Duration,
    /// That a name leads to a node.
    pub entry: Duration,
    /// That a name leads nowhere; zero for not at all.
    pub negative: Duration,
    /// Listings of directories (`FOPEN_CACHE_DIR`).
    pub listings: bool,
    /// Written data stays in the kernel until it writes back.
    pub writeback: bool,
    /// Several kernels on one bridge see each other's changes at once: one
    /// that cannot be notified then remembers nothing, whatever the times
    /// above say. Off where the user has said that nobody else looks.
    pub coherent: bool,
    /// Nothing changes but by requests through the bridge, so a kernel that is
    /// told of those of others keeps data and targets of links however the
    /// times of a file move.
    pub exclusive: bool,
}

impl CachePolicy {
    /// Nothing is remembered: each look is a request.
    pub const NONE: CachePolicy = CachePolicy {
        attr: Duration::ZERO,
        entry: Duration::ZERO,
        negative: Duration::ZERO,
        listings: false,
        writeback: false,
        coherent: true,
        exclusive: false,
    };
}

/// Sizes that a plugin can take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Longest component in bytes, at most [`crate::NAME_LIMIT`].
    pub name_max: usize,
    /// Most open files and listings of all kernels, of which each has an equal
    /// part; ENFILE past it.
    pub handles_max: usize,
    /// Most nodes that one kernel may remember; ENOMEM past it. A quarter of the
    /// memory that there is for the server, for all kernels, is the limit in any case.
    pub nodes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { name_max: 255, handles_max: 1 << 16, nodes_max: usize::MAX }
    }
}

/// What a plugin can do beyond the required; frontends negotiate with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    /// POSIX ACLs travel as `system.posix_acl_*` xattrs and are honoured.
    pub posix_acl: bool,
    /// Locks are kept by the plugin and seen by other users of the files.
    pub locks: bool,
    /// The plugin drops setuid, setgid and capabilities when asked by the
    /// `kill_suid_sgid` fields.
    pub kill_priv: bool,
    /// `create_unnamed` works.
    pub tmpfile: bool,
    /// Directories on other volumes are announced as mount points.
    pub submounts: bool,
}

/// A change that did not come through this frontend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change<K> {
    /// Attributes, and with `data` also the contents, of this node.
    Node {
        /// Which node.
        node: K,
        /// Whether cached pages must go too.
        data: bool,
    },
    /// What this name in this directory leads to.
    Entry {
        /// The directory.
        parent: K,
        /// The component's bytes.
        name: Vec<u8>,
    },
    /// Anything: there was more than could be told apart. A bridge tells its
    /// watchers of each node that their kernel remembers instead.
    Everything,
}
