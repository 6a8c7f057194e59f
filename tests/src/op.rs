//! [`Op`]: one operation on a tree, as data, so that a random list of them can
//! be run against the reference model and against the real thing, and shrunk
//! when the two disagree.
//!
//! Names come from a small table: operations must meet each other often, or
//! nothing interesting happens.

use proptest::prelude::*;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The components that paths are made of. The hostile ones matter: bytes that
/// are no UTF-8, a newline, the longest legal name and one that is too long.
const COMPONENTS: [&[u8]; 8] = [b"a", b"b", b"c", b"dir", b"\xff\xfe", b"new\nline", &[b'x'; 255], &[b'y'; 256]];

/// What symbolic links point to. Nothing follows them here; the climbing ones
/// are a trap for a server that does.
const TARGETS: [&[u8]; 5] = [b"a", b"../..", b"/etc/passwd", b"dir/b", &[b't'; 1000]];

/// Extended attributes, all of them in the namespace that every user may use.
const XATTRS: [&str; 3] = ["user.one", "user.two", "user.\u{e9}"];

/// A place in the tree: indices into the table of components. Empty is the root.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TreePath(pub Vec<u8>);

impl TreePath {
    /// The components' bytes, from the root down.
    pub fn components(&self) -> impl Iterator<Item = &'static [u8]> + '_ {
        self.0.iter().map(|&index| COMPONENTS[index as usize % COMPONENTS.len()])
    }

    /// The directory and the last component; None for the root.
    #[must_use]
    pub fn split(&self) -> Option<(TreePath, &'static [u8])> {
        let (last, parent) = self.0.split_last()?;
        Some((TreePath(parent.to_vec()), COMPONENTS[*last as usize % COMPONENTS.len()]))
    }

    /// Relative to the root, for the host.
    #[must_use]
    pub fn to_path(&self) -> PathBuf {
        self.components().map(std::ffi::OsStr::from_bytes).collect()
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: Vec<String> = self
            .components()
            .map(|c| if c.len() > 20 { format!("{}*{}", c[0] as char, c.len()) } else { c.escape_ascii().to_string() })
            .collect();
        write!(f, "/{}", text.join("/"))
    }
}

/// A special file to make with mknod(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Special {
    Fifo,
    Socket,
    Char { major: u32, minor: u32 },
    Block { major: u32, minor: u32 },
}

/// How a name is moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum RenameHow {
    Replace,
    NoReplace,
    Exchange,
}

/// One field of utimensat(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum TimeChange {
    Omit,
    Now,
    At { seconds: i64, nanoseconds: u32 },
}

/// What fallocate(2) does to a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum RangeChange {
    Allocate,
    AllocateKeepSize,
    PunchHole,
    Zero,
}

/// When setxattr(2) refuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum XattrHow {
    Any,
    Create,
    Replace,
}

/// One operation. Sizes and offsets are in bytes. `slot` names one of a few
/// files that stay open across operations, so that I/O on unlinked and renamed
/// files is met.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Op {
    Create { path: TreePath, mode: u32, exclusive: bool },
    Mkdir { path: TreePath, mode: u32 },
    Symlink { path: TreePath, target: u8 },
    Mknod { path: TreePath, special: Special, mode: u32 },
    Link { from: TreePath, to: TreePath },
    Unlink { path: TreePath },
    Rmdir { path: TreePath },
    Rename { from: TreePath, to: TreePath, how: RenameHow },
    Truncate { path: TreePath, size: u64 },
    Chmod { path: TreePath, mode: u32 },
    Chown { path: TreePath, uid: Option<u32>, gid: Option<u32> },
    Times { path: TreePath, atime: TimeChange, mtime: TimeChange },
    Write { path: TreePath, offset: u64, len: usize, byte: u8, append: bool },
    Read { path: TreePath, offset: u64, len: usize },
    Range { path: TreePath, change: RangeChange, offset: u64, len: u64 },
    Copy { from: TreePath, from_offset: u64, to: TreePath, to_offset: u64, len: u64 },
    SetXattr { path: TreePath, name: u8, len: usize, byte: u8, how: XattrHow },
    GetXattr { path: TreePath, name: u8 },
    RemoveXattr { path: TreePath, name: u8 },
    List { path: TreePath },
    ReadLink { path: TreePath },
    Stat { path: TreePath },
    Open { slot: u8, path: TreePath, truncate: bool },
    SlotWrite { slot: u8, offset: u64, len: usize, byte: u8 },
    SlotRead { slot: u8, offset: u64, len: usize },
    SlotTruncate { slot: u8, size: u64 },
    SlotStat { slot: u8 },
    Close { slot: u8 },
}

/// How many slots there are.
pub const SLOTS: u8 = 3;

/// The bytes of a symbolic link's target.
#[must_use]
pub fn target(index: u8) -> &'static [u8] {
    TARGETS[index as usize % TARGETS.len()]
}

/// The name of an extended attribute.
#[must_use]
pub fn xattr_name(index: u8) -> &'static str {
    XATTRS[index as usize % XATTRS.len()]
}

/// What a write of `len` bytes carries: never constant, so that misplaced
/// blocks show.
#[must_use]
pub fn pattern(byte: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| byte.wrapping_add((i % 251) as u8)).collect()
}

fn path() -> impl Strategy<Value = TreePath> {
    // Mostly ordinary names near the top: there the operations meet.
    let component = prop_oneof![12 => 0u8..4, 2 => 4u8..7, 1 => Just(7u8)];
    prop::collection::vec(component, 1..4).prop_map(TreePath)
}

fn mode() -> impl Strategy<Value = u32> {
    prop_oneof![4 => Just(0o644u32), 4 => Just(0o755), 1 => Just(0o2775), 1 => Just(0o4755), 3 => 0u32..0o10000]
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![4 => Just(0u64), 3 => 0u64..5000, 1 => 4090u64..4100, 1 => 0u64..200_000]
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 1usize..100, 2 => 4000usize..4200, 1 => 1usize..140_000]
}

fn time() -> impl Strategy<Value = TimeChange> {
    prop_oneof![
        Just(TimeChange::Omit),
        Just(TimeChange::Now),
        (0i64..4_000_000_000, 0u32..1_000_000_000).prop_map(|(seconds, nanoseconds)| TimeChange::At { seconds, nanoseconds }),
        (-1_000_000_000i64..0, 0u32..1_000_000_000).prop_map(|(seconds, nanoseconds)| TimeChange::At { seconds, nanoseconds }),
    ]
}

fn special() -> impl Strategy<Value = Special> {
    prop_oneof![
        Just(Special::Fifo),
        Just(Special::Socket),
        (0u32..300, 0u32..70_000).prop_map(|(major, minor)| Special::Char { major, minor }),
        (0u32..300, 0u32..70_000).prop_map(|(major, minor)| Special::Block { major, minor }),
    ]
}

fn naming_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (path(), mode(), any::<bool>()).prop_map(|(path, mode, exclusive)| Op::Create { path, mode, exclusive }),
        6 => (path(), mode()).prop_map(|(path, mode)| Op::Mkdir { path, mode }),
        2 => (path(), any::<u8>()).prop_map(|(path, target)| Op::Symlink { path, target }),
        2 => (path(), special(), mode()).prop_map(|(path, special, mode)| Op::Mknod { path, special, mode }),
        4 => (path(), path()).prop_map(|(from, to)| Op::Link { from, to }),
        3 => path().prop_map(|path| Op::Unlink { path }),
        2 => path().prop_map(|path| Op::Rmdir { path }),
        6 => (path(), path(), prop_oneof![Just(RenameHow::Replace), Just(RenameHow::NoReplace), Just(RenameHow::Exchange)])
            .prop_map(|(from, to, how)| Op::Rename { from, to, how }),
    ]
}

fn attribute_op() -> impl Strategy<Value = Op> {
    let how = prop_oneof![Just(XattrHow::Any), Just(XattrHow::Create), Just(XattrHow::Replace)];
    prop_oneof![
        (path(), 0u64..100_000).prop_map(|(path, size)| Op::Truncate { path, size }),
        (path(), mode()).prop_map(|(path, mode)| Op::Chmod { path, mode }),
        (path(), prop::option::of(0u32..70_000), prop::option::of(0u32..70_000)).prop_map(|(path, uid, gid)| {
            // chown(2) of nothing at all is a matter of taste between kernels.
            Op::Chown { path, uid: uid.or(gid.is_none().then_some(7)), gid }
        }),
        (path(), time(), time()).prop_map(|(path, atime, mtime)| Op::Times { path, atime, mtime }),
        (path(), any::<u8>(), 0usize..200, any::<u8>(), how).prop_map(|(path, name, len, byte, how)| Op::SetXattr {
            path,
            name,
            len,
            byte,
            how
        }),
        (path(), any::<u8>()).prop_map(|(path, name)| Op::GetXattr { path, name }),
        (path(), any::<u8>()).prop_map(|(path, name)| Op::RemoveXattr { path, name }),
    ]
}

fn content_op() -> impl Strategy<Value = Op> {
    let change = prop_oneof![
        Just(RangeChange::Allocate),
        Just(RangeChange::AllocateKeepSize),
        Just(RangeChange::PunchHole),
        Just(RangeChange::Zero)
    ];
    prop_oneof![
        3 => (path(), offset(), length(), any::<u8>(), any::<bool>())
            .prop_map(|(path, offset, len, byte, append)| Op::Write { path, offset, len, byte, append }),
        2 => (path(), offset(), length()).prop_map(|(path, offset, len)| Op::Read { path, offset, len }),
        1 => (path(), change, offset(), length())
            .prop_map(|(path, change, offset, len)| Op::Range { path, change, offset, len: len as u64 }),
        1 => (path(), offset(), path(), offset(), length())
            .prop_map(|(from, from_offset, to, to_offset, len)| Op::Copy { from, from_offset, to, to_offset, len: len as u64 }),
    ]
}

fn slot_op() -> impl Strategy<Value = Op> {
    let slot = 0u8..SLOTS;
    prop_oneof![
        4 => (slot.clone(), path(), any::<bool>()).prop_map(|(slot, path, truncate)| Op::Open { slot, path, truncate }),
        2 => (slot.clone(), offset(), length(), any::<u8>()).prop_map(|(slot, offset, len, byte)| Op::SlotWrite { slot, offset, len, byte }),
        2 => (slot.clone(), offset(), length()).prop_map(|(slot, offset, len)| Op::SlotRead { slot, offset, len }),
        1 => (slot.clone(), 0u64..100_000).prop_map(|(slot, size)| Op::SlotTruncate { slot, size }),
        1 => slot.clone().prop_map(|slot| Op::SlotStat { slot }),
        1 => slot.prop_map(|slot| Op::Close { slot }),
    ]
}

fn looking_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        prop::collection::vec(0u8..4, 0..3).prop_map(|parts| Op::List { path: TreePath(parts) }),
        path().prop_map(|path| Op::ReadLink { path }),
        path().prop_map(|path| Op::Stat { path }),
    ]
}

/// Any operation.
fn op() -> impl Strategy<Value = Op> {
    prop_oneof![6 => naming_op(), 3 => attribute_op(), 3 => content_op(), 3 => slot_op(), 2 => looking_op()]
}

/// Lists of up to `most` operations.
pub fn ops(most: usize) -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(), 1..most)
}

/// Lists of `count` operations.
pub fn exactly(count: usize) -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(), count)
}
