//! Renames, and what becomes of those that were cut short.
//!
//! Where a rename replaces something, exchanges two names or moves a
//! directory, no order of single steps leaves each object with its record at
//! every moment. So what is about to happen is written down first. Then the
//! two places are swapped in each metadata tree, one call each, and in the data
//! tree last: that is the point of no return. Should it fail, the others are
//! swapped back.
//!
//! Recovery looks whether the object has moved, and swaps the places in each
//! metadata tree unless they are as that says already. It knows by the numbers
//! of what was there before, so it can be cut short as well.

use super::ShadowStore;
use super::mirror::Mirror;
use crate::host::{damaged, fault};
use crate::intent;
use crate::path;
use crate::store::{At, Facts, Recovered, Renaming};
use externfs::{Errno, Error, FileKind, Result};
use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno as Host;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The first field of an intent.
const RENAME: &[u8] = b"rename";

/// As [`RENAME`], where nothing is replaced.
const EXCHANGE: &[u8] = b"exchange";

/// An intent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Intended {
    pub(super) exchange: bool,
    /// The number of the object that goes from `from` to `to`.
    pub(super) moved: u64,
    pub(super) from: Vec<u8>,
    pub(super) to: Vec<u8>,
    /// What the mirrors had under the two names before, in the order of
    /// [`ShadowStore::mirrors`]; 0 for nothing.
    pub(super) numbers: Vec<(u64, u64)>,
}

impl Intended {
    pub(super) fn to_text(&self) -> Vec<u8> {
        let word = if self.exchange { EXCHANGE } else { RENAME };
        let moved = self.moved.to_string().into_bytes();
        let mut fields = vec![word.to_vec(), moved, self.from.clone(), self.to.clone()];
        fields.extend(self.numbers.iter().map(|(from, to)| format!("{from} {to}").into_bytes()));
        intent::join(&fields.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    pub(super) fn parse(text: &[u8]) -> Option<Intended> {
        let fields = intent::split(text);
        let (head, rest) = fields.split_first_chunk::<4>()?;
        let [word, moved, from, to] = head;
        let exchange = match word.as_slice() {
            RENAME => false,
            EXCHANGE => true,
            _ => return None,
        };
        let pair = |field: &Vec<u8>| {
            let (from, to) = std::str::from_utf8(field).ok()?.split_once(' ')?;
            Some((from.parse().ok()?, to.parse().ok()?))
        };
        let moved = std::str::from_utf8(moved).ok()?.parse().ok()?;
        let numbers = rest.iter().map(pair).collect::<Option<Vec<_>>>()?;
        Some(Intended { exchange, moved, from: from.clone(), to: to.clone(), numbers })
    }
}

/// What one mirror has to do.
struct Leg<'s> {
    mirror: &'s Mirror,
    from: Arc<OwnedFd>,
    to: Arc<OwnedFd>,
    /// What is there now.
    numbers: (u64, u64),
}

impl Leg<'_> {
    fn swap(&self, from: &At<'_>, to: &At<'_>) -> Result<()> {
        self.mirror.swap((self.from.as_fd(), from.name), (self.to.as_fd(), to.name), self.numbers)
    }

    fn swap_back(&self, from: &At<'_>, to: &At<'_>) -> Result<()> {
        self.mirror.swap((self.from.as_fd(), from.name), (self.to.as_fd(), to.name), (self.numbers.1, self.numbers.0))
    }
}

fn host_rename(from: &At<'_>, to: &At<'_>, how: &Renaming) -> Result<()> {
    let mut flags = RenameFlags::empty();
    flags.set(RenameFlags::EXCHANGE, how.exchange);
    flags.set(RenameFlags::NOREPLACE, how.no_replace);
    rustix::fs::renameat_with(from.dir, from.name, to.dir, to.name, flags).map_err(fault("renaming"))
}

/// Whether the host does nothing, or refuses.
fn moves_nothing(how: &Renaming) -> bool {
    let is_dir = |facts: Facts| facts.kind == FileKind::Directory;
    match how.replaced {
        None => how.exchange,
        Some(replaced) if replaced.ino == how.moved.ino => true,
        Some(replaced) => how.no_replace || (!how.exchange && is_dir(replaced) != is_dir(how.moved)),
    }
}

impl ShadowStore {
    pub(super) fn rename_object(&self, from: &At<'_>, to: &At<'_>, how: &Renaming) -> Result<()> {
        self.writing()?;
        if moves_nothing(how) {
            return host_rename(from, to, how);
        }
        if how.replaced.is_none() && how.moved.kind != FileKind::Directory && self.carry_all(from, to)? {
            return self.rename_carried(from, to, how);
        }
        self.rename_by_intent(from, to, how)
    }

    /// Gives the records of `from` the name `to` as well; false if the host
    /// refuses.
    fn carry_all(&self, from: &At<'_>, to: &At<'_>) -> Result<bool> {
        for pair in self.pairs() {
            let carried = self.carry(pair, from, to);
            if !matches!(carried, Ok(Ok(_))) {
                self.drop_records(to, false);
                return carried.map(|_| false);
            }
        }
        Ok(true)
    }

    fn rename_carried(&self, from: &At<'_>, to: &At<'_>, how: &Renaming) -> Result<()> {
        let renamed = host_rename(from, to, how);
        self.drop_records(if renamed.is_ok() { from } else { to }, false);
        renamed
    }

    fn rename_by_intent(&self, from: &At<'_>, to: &At<'_>, how: &Renaming) -> Result<()> {
        let writing = self.writing()?;
        let (intended, legs) = self.plan(from, to, how)?;
        if legs.is_empty() {
            return host_rename(from, to, how);
        }
        let intent = writing.journal.begin(&intended.to_text()).map_err(fault("writing down a rename"))?;
        let mut swapped = 0;
        let records = legs.iter().try_for_each(|leg| leg.swap(from, to).map(|()| swapped += 1));
        let renamed = records.and_then(|()| host_rename(from, to, how));
        for leg in &legs {
            self.note_place(leg.numbers.0, renamed.is_ok().then_some(&*leg.to));
            self.note_place(leg.numbers.1, renamed.is_ok().then_some(&*leg.from));
        }
        if renamed.is_err() {
            let back = legs.iter().take(swapped).rev().try_for_each(|leg| leg.swap_back(from, to));
            back.map_err(|error| writing.stick(&format!("taking back a rename: {error}")))?;
        } else if !how.exchange {
            self.drop_replaced(&legs, from);
            if let Some(gone) = how.replaced.filter(|gone| gone.kind == FileKind::Directory) {
                self.forget(to, gone);
            }
        }
        // Carried out again after other changes, it would do harm.
        writing.journal.end(intent).map_err(|host| writing.stick(&format!("crossing out a rename: {host}")))?;
        renamed
    }

    /// Takes away the records of what was replaced, and of nobody.
    fn drop_replaced(&self, legs: &[Leg<'_>], from: &At<'_>) {
        for leg in legs.iter().filter(|leg| leg.numbers.1 != 0) {
            if let Err(error) = leg.mirror.purge(leg.from.as_fd(), from.name) {
                tracing::warn!(%error, name = path::shown(from.name), "a record is left over");
            }
        }
    }

    /// What there is to do in each mirror.
    fn plan(&self, from: &At<'_>, to: &At<'_>, how: &Renaming) -> Result<(Intended, Vec<Leg<'_>>)> {
        let path = |at: &At<'_>| path::of(at, |node| self.is_root(node)).ok_or(Error::new(Errno::ENOENT));
        let mut legs = Vec::new();
        let mut numbers = Vec::new();
        let is_dir = |facts: Facts| facts.kind == FileKind::Directory;
        let has_dirs = is_dir(how.moved) || how.replaced.is_some_and(is_dir);
        for mirror in self.mirrors() {
            if mirror.holds_dirs() && !has_dirs {
                numbers.push((0, 0));
                continue;
            }
            let number = |dir: &Option<Arc<OwnedFd>>, at: &At<'_>| match dir {
                Some(dir) => mirror.number(dir.as_fd(), at.name),
                None => Ok(0),
            };
            let (from_dir, to_dir) = (mirror.find(from.parent)?, mirror.find(to.parent)?);
            let both = (number(&from_dir, from)?, number(&to_dir, to)?);
            numbers.push(both);
            if both == (0, 0) {
                continue;
            }
            let made = |dir: Option<Arc<OwnedFd>>, at: &At<'_>| dir.map_or_else(|| mirror.make(at.parent), Ok);
            legs.push(Leg { mirror, from: made(from_dir, from)?, to: made(to_dir, to)?, numbers: both });
        }
        let intended = Intended { exchange: how.exchange, moved: how.moved.ino, from: path(from)?, to: path(to)?, numbers };
        Ok((intended, legs))
    }

    pub(super) fn recover_all(&self) -> Result<Recovered> {
        let writing = self.writing()?;
        let mut recovered = Recovered::default();
        for (intent, text) in writing.journal.left_over().map_err(fault("reading humfs/intents"))? {
            let intended = Intended::parse(&text)
                .ok_or_else(|| damaged(format!("humfs/intents holds what this program does not know: {}", text.escape_ascii())))?;
            if self.settle(&intended)? {
                recovered.completed += 1;
            } else {
                recovered.undone += 1;
            }
            writing.journal.end(intent).map_err(fault("crossing out an intent"))?;
        }
        recovered.undone += writing.stage.sweep().map_err(fault("sweeping humfs/stage"))?;
        Ok(recovered)
    }

    /// Completes a rename that was cut short, or takes it back; true for the
    /// former.
    fn settle(&self, intended: &Intended) -> Result<bool> {
        let unknown = || damaged("an intent in humfs/intents names no path");
        let from = path::split(&intended.from).ok_or_else(unknown)?;
        let to = path::split(&intended.to).ok_or_else(unknown)?;
        let has_moved = number_at(self.data.as_fd(), &to)? == Some(intended.moved);
        let is_free = number_at(self.data.as_fd(), &from)?.is_none();
        for (mirror, &before) in self.mirrors().zip(&intended.numbers) {
            if before == (0, 0) {
                continue;
            }
            let (Some(from_dir), Some(to_dir)) = (dir_at(mirror.root().as_fd(), &from.0)?, dir_at(mirror.root().as_fd(), &to.0)?) else {
                continue;
            };
            let spots = ((from_dir.as_fd(), &*from.1), (to_dir.as_fd(), &*to.1));
            let after = (mirror.number(spots.0.0, spots.0.1)?, mirror.number(spots.1.0, spots.1.1)?);
            if is_swapped(before, after) != has_moved {
                mirror.swap(spots.0, spots.1, after)?;
            }
            if has_moved && is_free && !intended.exchange {
                mirror.purge(spots.0.0, spots.0.1)?;
            }
        }
        Ok(has_moved)
    }
}

/// Whether the two places of a mirror have been swapped, by what was there
/// `before` and is there now.
fn is_swapped(before: (u64, u64), now: (u64, u64)) -> bool {
    match before {
        (0, to) => now.0 == to,
        (from, _) => now.1 == from,
    }
}

/// The directory at `names` below `root`; None if there is none.
fn dir_at(root: BorrowedFd<'_>, names: &[CString]) -> Result<Option<OwnedFd>> {
    match path::walk(root, names) {
        Ok(dir) => Ok(Some(dir)),
        Err(Host::NOENT | Host::NOTDIR | Host::LOOP) => Ok(None),
        Err(other) => Err(fault("following the path of an intent")(other)),
    }
}

/// The number of the object at a path below `root`; None if there is none.
fn number_at(root: BorrowedFd<'_>, (above, name): &(Vec<CString>, CString)) -> Result<Option<u64>> {
    let Some(dir) = dir_at(root, above)? else { return Ok(None) };
    match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat.st_ino)),
        Err(Host::NOENT) => Ok(None),
        Err(other) => Err(fault("following the path of an intent")(other)),
    }
}
