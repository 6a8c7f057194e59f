//! [`Own`]: the mount that shows this very tree, where it is met within it.
//!
//! Whoever asks that mount for anything waits for an answer that only this
//! process gives: with all its threads at it, for ever. And whoever holds a
//! descriptor in it keeps it from being unmounted. So it is recognised by the
//! number of its device, which the kernel tells without asking us, and is never
//! entered, nor opened. What is found in its place is the directory that it
//! covers, if it was mounted within the tree; it was opened before. Of the
//! mount's other places in the tree (bind mounts) nobody knows what they cover:
//! ELOOP, as the kernel has it for a directory within itself.
//!
//! The covered directory is held by a descriptor, and must not become a way out
//! of the tree: it counts only as long as its name leads to the mount and it lies
//! where it lay, and only if it was reached through the root's own mount (a
//! read-only bind of a tree that is mounted elsewhere, too, is another one).
//!
//! This must not cost a look-up anything. On a file system that is known to keep
//! all attributes itself, asking without synchronisation is the same as asking:
//! what lies on the root's own device is answered by that one call.

use super::COMPONENT;
use crate::attr::Stat;
use crate::fault::Fault;
use externfs::NodeKey;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Magic numbers of ext2 to ext4, XFS, btrfs, F2FS and tmpfs (linux/magic.h), which ask
/// nobody else.
const LOCAL: [u64; 5] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x0102_1994];

/// What is known of it.
pub(super) struct Own {
    volume: u64,
    /// Whoever has this device asks nobody.
    local: Option<u64>,
    covered: Option<Covered>,
}

/// A directory that the mount hides.
struct Covered {
    /// The directory that holds it, and its name there.
    above: NodeKey,
    name: CString,
    key: NodeKey,
    fd: OwnedFd,
}

impl Own {
    /// What the mount `major`:`minor` is to the tree below `root`, if it covers
    /// nothing there.
    ///
    /// # Errors
    /// What the host says of `root`.
    pub(super) fn new(root: BorrowedFd<'_>, (major, minor): (u32, u32)) -> Fault<Own> {
        let is_local = LOCAL.contains(&(rustix::fs::fstatfs(root)?.f_type as u64));
        let local = is_local.then_some(Stat::of_fd(root)?.volume());
        Ok(Own { volume: Stat::volume_of(major, minor), local, covered: None })
    }

    /// The same, where it covers the directory `fd` called `name`.
    pub(super) fn over(self, fd: OwnedFd, name: CString) -> Own {
        let look = || -> Fault<(NodeKey, NodeKey)> {
            if self.is_at(fd.as_fd(), c"..")? {
                return Err(Errno::LOOP);
            }
            let above = rustix::fs::openat(&fd, c"..", COMPONENT | OFlags::DIRECTORY, Mode::empty())?;
            Ok((Stat::of_fd(above.as_fd())?.key(), Stat::of_fd(fd.as_fd())?.key()))
        };
        let keys = look();
        Own { covered: keys.ok().map(|(above, key)| Covered { above, name, key, fd }), ..self }
    }

    /// The status of `name` in `dir`.
    ///
    /// # Errors
    /// For the mount itself EXDEV with `one_file_system`, and ELOOP where it is not
    /// known what it covers.
    pub(super) fn stat(&self, dir: BorrowedFd<'_>, name: &CStr, one_file_system: bool) -> Fault<Stat> {
        let known = Stat::known_of_name(dir, name)?;
        match known.volume() {
            volume if volume == self.volume && one_file_system => Err(Errno::XDEV),
            volume if volume == self.volume => Stat::of_fd(self.covered(dir, name)?),
            volume if Some(volume) == self.local => Ok(known),
            _ => Stat::of_name(dir, name),
        }
    }

    /// Whether `name` in `dir` is in the mount.
    pub(super) fn is_at(&self, dir: BorrowedFd<'_>, name: &CStr) -> Fault<bool> {
        Ok(Stat::known_of_name(dir, name)?.volume() == self.volume)
    }

    /// What the mount hides as `name` in `dir`, which leads to it.
    ///
    /// # Errors
    /// ELOOP where that is not known.
    pub(super) fn covered(&self, dir: BorrowedFd<'_>, name: &CStr) -> Fault<BorrowedFd<'_>> {
        let covered = self.covered.as_ref().filter(|covered| *covered.name == *name).ok_or(Errno::LOOP)?;
        // The place decides, not the mount, which may have been bound elsewhere too.
        let is_here = Stat::of_fd(dir)?.key() == covered.above && covered.is_in_place()?;
        if is_here { Ok(covered.fd.as_fd()) } else { Err(Errno::LOOP) }
    }

    /// What is covered, if it is the object `key` called `name` in `dir`, which is
    /// `above`: that name leads to the mount.
    pub(super) fn held(&self, key: NodeKey, (dir, above): (BorrowedFd<'_>, NodeKey), name: &CStr) -> Option<BorrowedFd<'_>> {
        let covered = self.covered.as_ref()?;
        let is_it = covered.key == key && covered.above == above && *covered.name == *name;
        let is_there = || Ok::<_, Errno>(self.is_at(dir, name)? && covered.is_in_place()?);
        (is_it && is_there().unwrap_or(false)).then(|| covered.fd.as_fd())
    }
}

impl Covered {
    /// Whether it is where it was covered.
    fn is_in_place(&self) -> Fault<bool> {
        Ok(Stat::known_of_name(self.fd.as_fd(), c"..")?.key() == self.above)
    }
}
