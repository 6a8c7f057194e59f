//! [`Awaited`]: new records that are durable when the directory of their object
//! is synced, since a guest has no other means: it cannot open a link or a device
//! to sync it, and takes a directory for made when the one above is synced.
//!
//! Making one costs no sync. What has been made is remembered by its number, with
//! the mirror directory where it lies, and synced when the guest asks for it. A
//! record that moves is remembered where it goes; where that is not known, it is
//! looked for in each directory that is synced. When there are too many to be
//! remembered, or to be synced one by one, the host's file system is synced.

use super::mirror::Mirror;
use super::{ShadowStore, own, records};
use crate::host::{self, fault};
use externfs::Result;
use hostfs::Inode;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most that are remembered.
const MOST: usize = 4 << 10;

/// Most that are synced one by one.
const FEW: usize = 16;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Awaited(Mutex<Known>);

/// Records' files and mirrors of directories, by their numbers.
#[derive(Debug, Default)]
struct Known {
    records: HashMap<u64, One>,
    /// Counts what was made.
    made: u64,
    /// When all that was made until then was forgotten, and what is durable.
    forgotten: u64,
    durable: u64,
}

#[derive(Clone, Copy, Debug)]
struct One {
    /// A number may have been another's before.
    made: u64,
    /// The number of the mirror directory, if it is known.
    lies: Option<u64>,
}

impl Awaited {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `number` was made in `dir`.
    pub(super) fn made(&self, number: u64, dir: u64) {
        let mut known = self.known();
        if known.records.len() >= MOST {
            known.records.clear();
            known.forgotten = known.made;
        }
        known.made += 1;
        let made = known.made;
        known.records.insert(number, One { made, lies: Some(dir) });
    }

    /// `number` lies in `dir` now; None: in more than one, or somewhere.
    pub(super) fn moved(&self, number: u64, dir: Option<u64>) {
        if let Some(one) = self.known().records.get_mut(&number) {
            one.lies = dir;
        }
    }

    /// Whether there is any.
    pub(super) fn has_any(&self) -> bool {
        !self.known().records.is_empty()
    }

    pub(super) fn has(&self, number: u64) -> bool {
        self.known().records.contains_key(&number)
    }

    fn may_be_in(&self, dir: u64) -> bool {
        self.known().records.values().any(|one| one.lies.is_none_or(|lies| lies == dir))
    }

    /// It is durable.
    pub(super) fn synced(&self, number: u64) {
        self.known().records.remove(&number);
    }

    fn has_forgotten(&self) -> bool {
        let known = self.known();
        known.forgotten > known.durable
    }

    /// What a sync of everything that begins now makes durable.
    fn coming(&self) -> u64 {
        self.known().made
    }

    /// That sync has succeeded.
    fn has_come(&self, coming: u64) {
        let mut known = self.known();
        known.durable = known.durable.max(coming);
        known.records.retain(|_, one| one.made > coming);
    }
}

impl ShadowStore {
    /// Makes all that is awaited durable. Others who sync a directory meanwhile
    /// must not take it for done, so it is awaited until it is.
    pub(super) fn sync_all_awaited(&self) -> Result<()> {
        let Some(writing) = &self.writing else { return Ok(()) };
        if !writing.awaited.has_any() && !writing.awaited.has_forgotten() {
            return Ok(());
        }
        let coming = writing.awaited.coming();
        let opened = host::open_listing(self.tree.as_fd()).map_err(fault("opening the tree"))?;
        rustix::fs::syncfs(opened).map_err(fault("syncfs of records"))?;
        writing.awaited.has_come(coming);
        Ok(())
    }

    /// Makes what is awaited in the directory `dir` durable; false if everything is
    /// to be synced instead.
    pub(super) fn sync_awaited_in(&self, dir: &Arc<Inode>) -> Result<bool> {
        let Some(writing) = &self.writing else { return Ok(true) };
        if writing.awaited.has_forgotten() {
            return Ok(false);
        }
        if !writing.awaited.has_any() {
            return Ok(true);
        }
        let mut found = Vec::new();
        for mirror in [&self.lines.files, &self.lines.dirs] {
            if let Some(here) = mirror.find(dir)? {
                found.extend(awaited_in(&writing.awaited, here.as_fd())?.into_iter().map(|name| (mirror, here.clone(), name)));
            }
        }
        if found.len() > FEW {
            return Ok(false);
        }
        for (mirror, here, name) in found {
            if let Some((record, number)) = sync_kept(mirror, &here, &name)? {
                record.into_iter().for_each(|record| writing.fresh.sync(record));
                writing.awaited.synced(number);
            }
        }
        Ok(true)
    }

    /// The record called `name` in `dir` has got this place too.
    pub(super) fn note_link(&self, dir: BorrowedFd<'_>, name: &CStr) {
        let Some(writing) = self.writing.as_ref().filter(|writing| writing.awaited.has_any()) else { return };
        if let Ok(stat) = rustix::fs::statat(dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
            writing.awaited.moved(stat.st_ino, None);
        }
    }

    /// What has this number lies in `dir` from now on; None: somewhere.
    pub(super) fn note_place(&self, number: u64, dir: Option<&OwnedFd>) {
        if let Some(writing) = self.writing.as_ref().filter(|writing| writing.awaited.has(number)) {
            writing.awaited.moved(number, dir.and_then(|dir| number_of(dir.as_fd()).ok()));
        }
    }
}

/// The number of what `fd` stands for.
pub(super) fn number_of(fd: BorrowedFd<'_>) -> host::Fault<u64> {
    rustix::fs::fstat(fd).map(|stat| stat.st_ino)
}

/// The names in the mirror directory `here` of what is awaited.
fn awaited_in(awaited: &Awaited, here: BorrowedFd<'_>) -> Result<Vec<CString>> {
    let failed = fault("listing records");
    if !awaited.may_be_in(number_of(here).map_err(&failed)?) {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(host::open_listing(here).map_err(&failed)?).map_err(&failed)? {
        let entry = entry.map_err(&failed)?;
        if entry.file_name() != c"." && entry.file_name() != c".." && awaited.has(entry.ino()) {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// Syncs what `mirror` keeps under `name` in `here`, and returns the number of the
/// record, if there is one, and that by which it is awaited. What has gone meanwhile
/// is no longer this directory's.
fn sync_kept(mirror: &Mirror, here: &OwnedFd, name: &CStr) -> Result<Option<(Option<u64>, u64)>> {
    if !mirror.holds_dirs() {
        return Ok(records::sync(here.as_fd(), name)?.map(|number| (Some(number), number)));
    }
    let Some(below) = mirror.child(here.as_fd(), name, false)? else { return Ok(None) };
    let _held = mirror.hold_names();
    let record = match own::find(below.as_fd())? {
        Some(own) => records::sync(below.as_fd(), &own)?,
        None => None,
    };
    number_of(below.as_fd()).map(|number| Some((record, number))).map_err(fault("looking at a record"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_awaited_is_known_until_it_is_durable() {
        let awaited = Awaited::default();
        awaited.made(1, 10);
        awaited.made(2, 10);
        awaited.made(3, 20);
        let may_be = || [10, 20, 30].map(|dir| awaited.may_be_in(dir));
        assert_eq!(may_be(), [true, true, false]);
        awaited.moved(3, Some(30));
        awaited.moved(4, Some(40));
        assert_eq!((may_be(), awaited.has(4)), ([true, false, true], false));
        awaited.moved(3, None);
        assert_eq!(may_be(), [true; 3]);
        awaited.synced(3);
        let coming = awaited.coming();
        awaited.made(5, 20);
        assert!(awaited.has(1));
        // Its file is gone, and another has got the number.
        awaited.made(2, 20);
        awaited.has_come(coming);
        assert_eq!([1, 2, 5].map(|number| awaited.has(number)), [false, true, true]);
    }

    #[test]
    fn that_some_were_forgotten_is_known_until_all_are_durable() {
        let awaited = Awaited::default();
        let before = awaited.coming();
        (0..=MOST as u64).for_each(|number| awaited.made(number, 7));
        assert!(awaited.has_forgotten() && !awaited.has(0));
        awaited.has_come(before);
        assert!(awaited.has_forgotten(), "that sync began too early");
        awaited.has_come(awaited.coming());
        assert!(!awaited.has_forgotten() && !awaited.has_any());
    }
}
