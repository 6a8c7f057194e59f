//! [`Picture`]: all that a guest can see of a tree, taken through an export,
//! for telling whether two trees are the same to it.
//!
//! Not in it: inode numbers, which say only what has the same one; times of
//! the present, which no two runs share; the sizes of directories.

use crate::guest::Guest;
use externfs::{Attr, Connect, Errno, FileKind, Name, NodeId, Timestamp};
use std::collections::BTreeMap;
use std::fmt;

/// Times outside of this were set by somebody: 2000 to 2090.
const PRESENT: std::ops::Range<i64> = 946_684_800..3_786_912_000;

/// One object, by one of its names.
#[derive(Clone, PartialEq, Eq)]
pub struct Sight {
    /// Its type.
    pub kind: FileKind,
    /// All twelve bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Major and minor number.
    pub device: (u32, u32),
    /// Corresponds to `st_nlink`.
    pub nlink: u32,
    /// The first name of the same object.
    pub first_name: String,
    /// Access and modification, where they were set to none of the present.
    pub times: [Option<Timestamp>; 2],
    /// Every attribute that is listed.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// A file's contents or a link's target.
    pub content: Vec<u8>,
}

impl fmt::Debug for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sight { kind, mode, owner, device, nlink, first_name, times, xattrs, content } = self;
        write!(f, "{kind:?} {mode:04o} {owner:?} device {device:?} links {nlink} ('{first_name}') times {times:?} attributes {{")?;
        for (name, value) in xattrs {
            write!(f, " {name}: {}", Bytes(value))?;
        }
        write!(f, " }} content {}", Bytes(content))
    }
}

/// Bytes for a message: how many, how they begin, and a sum of them all.
struct Bytes<'a>(&'a [u8]);

impl fmt::Display for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = self.0.iter().fold(0u32, |sum, &byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
        write!(f, "{} bytes \"{}\" sum {sum:08x}", self.0.len(), self.0[..self.0.len().min(16)].escape_ascii())
    }
}

/// See the [module](self).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Picture {
    /// By path, components escaped and separated by slashes; the root's is empty.
    pub nodes: BTreeMap<String, Sight>,
    /// What statfs(2) says is in use: bytes and inodes.
    pub used: (u64, u64),
}

impl Picture {
    /// Of the tree that a kernel gets from `connect`.
    ///
    /// # Errors
    /// What cannot be looked at.
    pub fn take(connect: &dyn Connect) -> Result<Picture, String> {
        let guest = Guest::new(connect);
        let mut nodes = BTreeMap::new();
        let used = used(&guest);
        let seen = look_below(&guest, NodeId::ROOT, "", &mut BTreeMap::new(), &mut nodes);
        guest.finish();
        seen?;
        Ok(Picture { nodes, used: used.map_err(|errno| format!("statfs: {errno}"))? })
    }

    /// The first difference from `other`, in words; None if there is none.
    #[must_use]
    pub fn difference(&self, other: &Picture) -> Option<String> {
        self.nodes_differ(other).or_else(|| {
            let ((bytes, inodes), (other_bytes, other_inodes)) = (self.used, other.used);
            let differ = self.used != other.used;
            differ.then(|| format!("in use are {bytes} bytes and {inodes} inodes, not {other_bytes} and {other_inodes}"))
        })
    }

    /// The same, whatever is in use.
    #[must_use]
    pub fn nodes_differ(&self, other: &Picture) -> Option<String> {
        if let Some(path) = self.nodes.keys().find(|path| !other.nodes.contains_key(*path)) {
            return Some(format!("'{path}' is there: {:?}", self.nodes[path]));
        }
        let differs = |(path, want): (&String, &Sight)| match self.nodes.get(path) {
            None => Some(format!("'{path}' is missing: {want:?}")),
            Some(seen) if seen != want => Some(format!("'{path}' is {seen:?}, not {want:?}")),
            Some(_) => None,
        };
        other.nodes.iter().find_map(differs)
    }
}

fn used(guest: &Guest) -> Result<(u64, u64), Errno> {
    let told = guest.export.statfs(NodeId::ROOT).map_err(|error| error.errno())?;
    Ok(((told.blocks - told.blocks_free) * u64::from(told.block_size), told.inodes - told.inodes_free))
}

fn look_below(
    guest: &Guest,
    id: NodeId,
    path: &str,
    names: &mut BTreeMap<u64, String>,
    nodes: &mut BTreeMap<String, Sight>,
) -> Result<(), String> {
    let wrong = |what: &'static str| move |errno: Errno| format!("'{path}': {what}: {errno}");
    let attr = guest.attr(id).map_err(wrong("getattr"))?;
    let first_name = names.entry(attr.ino).or_insert_with(|| path.to_owned()).clone();
    let sight = sight(guest, id, &attr, first_name).map_err(|(what, errno)| wrong(what)(errno))?;
    nodes.insert(path.to_owned(), sight);
    if attr.kind != FileKind::Directory {
        return Ok(());
    }
    let handle = guest.open_dir(id).map_err(wrong("opendir"))?;
    let listing = guest.some_names(handle, 0, 0, false).map_err(wrong("readdir"))?;
    let mut found: Vec<Vec<u8>> = listing.entries.into_iter().map(|(name, ..)| name).collect();
    found.retain(|name| name != b"." && name != b"..");
    found.sort();
    for name in found {
        let shown = format!("{path}/{}", name.escape_ascii());
        let component = Name::new(&name).map_err(|errno| format!("'{shown}': {errno}"))?;
        let looked_up = guest.export.lookup(&guest.caller, id, component).map_err(|error| format!("'{shown}': lookup: {error}"))?;
        let child = guest.keep(Ok(looked_up)).map_err(|errno| format!("'{shown}': {errno}"))?;
        look_below(guest, child.id, &shown, names, nodes)?;
    }
    Ok(())
}

fn sight(guest: &Guest, id: NodeId, attr: &Attr, first_name: String) -> Result<Sight, (&'static str, Errno)> {
    let set = |time: Timestamp| (!PRESENT.contains(&time.seconds)).then_some(time);
    let mut xattrs = BTreeMap::new();
    let names = guest.export.list_xattr(id).map_err(|error| ("listxattr", error.errno()))?;
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let value = guest.export.get_xattr(id, name).map_err(|error| ("getxattr", error.errno()))?;
        xattrs.insert(name.escape_ascii().to_string(), value);
    }
    let content = match attr.kind {
        FileKind::Regular => contents(guest, id, attr.size).map_err(|errno| ("read", errno))?,
        FileKind::Symlink => guest.export.read_link(id).map_err(|error| ("readlink", error.errno()))?,
        _ => Vec::new(),
    };
    Ok(Sight {
        kind: attr.kind,
        mode: attr.mode.bits(),
        owner: (attr.uid.0, attr.gid.0),
        device: (attr.device.major, attr.device.minor),
        nlink: attr.nlink,
        first_name,
        times: [attr.atime, attr.mtime].map(set),
        xattrs,
        content,
    })
}

/// The whole of a file, whose size is no lie.
fn contents(guest: &Guest, id: NodeId, size: u64) -> Result<Vec<u8>, Errno> {
    let handle = guest.open(id, crate::guest::READ)?;
    let data = guest.read(handle, 0, usize::try_from(size).unwrap_or(usize::MAX) + 1);
    guest.close(handle);
    let data = data?;
    if data.len() as u64 == size { Ok(data) } else { Err(Errno::EIO) }
}
