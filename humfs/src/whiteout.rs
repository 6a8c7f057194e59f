//! A rename that leaves a whiteout behind (renameat2(2), for overlay file
//! systems): the one change of names that no store has as a whole.
//!
//! The names change first, then the whiteout is made in the old place, or put
//! in place of what came there by an exchange. An intent in `humfs/changes`
//! says so beforehand, and recovery finishes what a process that died has begun:
//!
//! | the old name leads to | the new one to | what is left to do |
//! |---|---|---|
//! | what was moved | | nothing: it has not begun |
//! | what was replaced | what was moved | remove it, make the whiteout |
//! | nothing | what was moved | make the whiteout |
//! | anything else | | nothing: it is there |
//!
//! A process that lives takes back what fails half-way, and crosses the intent
//! out: guests go on to change these names. Only a removal cannot be taken back.
//! So if what was replaced is gone and the whiteout fails, the rename stays, and
//! EIO says that not all is as it was. If taking back fails too, the intent
//! stays, and no name changes any more until the next mount has carried it out.

mod intended;
#[cfg(test)]
mod tests;

use crate::account::{Entry, EntryKind, Outcome};
use crate::birth::born;
use crate::fs::{HumFs, one};
use crate::host::{self, damaged, fault, stat_at};
use crate::intent::{Intent, Journal};
use crate::locks::Changing;
use crate::names::{WHITEOUT, facts, need_of_new};
use crate::node::HumNode;
use crate::record::Record;
use crate::store::{At, Renaming};
use externfs::{Attr, Caller, Errno, Error, FileKind, Mode, Result};
use hostfs::Inode;
use intended::{Intended, Who};
use rustix::io::Errno as Host;
use std::os::fd::AsFd;
use std::sync::Arc;

impl HumFs {
    /// Holds two directories, which may be one, to change names in them; `alone`
    /// if one of these may be a directory's and goes or moves.
    ///
    /// # Errors
    /// EIO while there is an intent that would not survive it.
    pub(crate) fn change_names(&self, one: &Inode, two: &Inode, alone: bool) -> Result<Changing<'_>> {
        let changing = self.dirs.change_two(one, two, alone);
        // Whoever got stuck had the directories that matter.
        if self.journal.as_ref().is_some_and(Journal::is_stuck) {
            return Err(damaged("a rename stuck half-way; the next mount completes it"));
        }
        Ok(changing)
    }

    /// Both directories are held. An error in the answer is to be told, and the
    /// names have changed for all that; a plain one says that they have not.
    pub(crate) fn rename_with_whiteout(
        &self,
        caller: &Caller,
        (parent, old, moved): (&Arc<HumNode>, &At<'_>, &Attr),
        (new, victim, there): (&At<'_>, Option<&Arc<HumNode>>, Option<&Attr>),
        how: &Renaming,
    ) -> Result<Option<Error>> {
        let journal = self.journal.as_ref().ok_or(Errno::EROFS)?;
        if there.is_some_and(|host| host.kind == FileKind::Directory) && !is_empty(new)? {
            return Err(Errno::ENOTEMPTY.into());
        }
        let mut record = born(caller, &parent.state().record, FileKind::CharDevice, Mode::new(0))?;
        record.device = WHITEOUT;
        let (old_path, new_path) = (self.path_of(old).ok_or(Errno::ESTALE)?, self.path_of(new).ok_or(Errno::ESTALE)?);
        // Until the rename, what is moved is in the whiteout's place.
        let entry = Entry { kind: EntryKind::Create, ino: how.moved.ino, before: 0, path: Some(&old_path) };
        let need = need_of_new(self.store.format(), &record);
        let room = self.announce(&[entry], need)?;
        let intended = Intended {
            moved: Who::of(moved),
            replaced: there.map(Who::of),
            owner: (record.uid, record.gid),
            old: old_path.clone(),
            new: new_path,
        };
        let noted = journal.begin(&intended.to_text()).map_err(fault("noting a change"))?;
        // Replacing would lose the victim before the whiteout is there; with
        // an exchange both ends are always taken.
        if let Err(error) = self.store.rename(old, new, &Renaming { exchange: there.is_some(), ..*how }) {
            cross_out(journal, noted);
            return Err(error);
        }
        if let Err(error) = self.leave_whiteout(old, victim, intended.replaced, &record) {
            return self.take_back((journal, noted), (old, new), (&intended, how), error);
        }
        cross_out(journal, noted);
        let outcome = |added| Outcome { added, ..Outcome::default() };
        match stat_at(old.dir, old.name) {
            Ok(host) => room.made(host.ino, &outcome(one(&host, &record))),
            Err(_) => room.end(&outcome(need)),
        }
        Ok(None)
    }

    fn leave_whiteout(&self, old: &At<'_>, victim: Option<&Arc<HumNode>>, replaced: Option<Who>, record: &Record) -> Result<()> {
        if let Some(replaced) = replaced {
            let host = stat_at(old.dir, old.name).map_err(fault("looking up a name"))?;
            self.remove_replaced(old, victim, &host, replaced)?;
        }
        self.store.create(old, record).map(drop)
    }

    /// What an exchange has brought to the old name goes.
    fn remove_replaced(&self, old: &At<'_>, victim: Option<&Arc<HumNode>>, host: &Attr, replaced: Who) -> Result<()> {
        if !replaced.is(host) {
            return Err(damaged("a name changed behind a rename"));
        }
        let outcome = self.lose(victim, host, old, || self.store.remove(old, facts(host)))?;
        self.account.settle(outcome);
        Ok(())
    }

    /// The names have changed and there is no whiteout, because of `error`: puts
    /// them back as far as that can be done. As [`HumFs::rename_with_whiteout`].
    fn take_back(
        &self,
        (journal, noted): (&Journal, Intent),
        (old, new): (&At<'_>, &At<'_>),
        (intended, how): (&Intended, &Renaming),
        error: Error,
    ) -> Result<Option<Error>> {
        let back = |exchange| self.store.rename(new, old, &Renaming { exchange, no_replace: !exchange, ..*how });
        let taken_back = match (stat_at(old.dir, old.name), intended.replaced) {
            (Ok(host), Some(replaced)) if replaced.is(&host) => back(true),
            (Err(Host::NOENT), None) => back(false),
            (Err(Host::NOENT), Some(_)) => {
                cross_out(journal, noted);
                return Ok(Some(damaged(format!("a rename has replaced what it should, and left no whiteout: {error}"))));
            }
            _ => Err(damaged("a name changed behind a rename")),
        };
        let Err(why) = taken_back else {
            cross_out(journal, noted);
            return Err(error);
        };
        journal.stick();
        Ok(Some(damaged(format!("a whiteout: {error}; taking the rename back: {why}; the next mount completes it"))))
    }

    /// Finishes what a predecessor began. Returns how many there were.
    pub(crate) fn recover_whiteouts(&self) -> Result<usize> {
        let Some(journal) = &self.journal else { return Ok(0) };
        let left = journal.left_over().map_err(fault("reading humfs/changes"))?;
        let count = left.len();
        if count > 0 {
            // With the intents goes what tells that the counters are to be
            // counted anew.
            self.account.distrust().map_err(fault("writing humfs/state"))?;
        }
        for (noted, text) in left {
            let unreadable = || damaged("an intent in humfs/changes cannot be read: remove it if you know better");
            self.recover_whiteout(&Intended::parse(&text).ok_or_else(unreadable)?)?;
            journal.end(noted).map_err(fault("crossing out a change"))?;
        }
        Ok(count)
    }

    fn recover_whiteout(&self, intended: &Intended) -> Result<()> {
        let mut record = Record::new(FileKind::CharDevice, Mode::new(0), intended.owner.0, intended.owner.1);
        record.device = WHITEOUT;
        let new = self.with_path(&intended.new, |at| Ok(stat_at(at.dir, at.name).ok()))?.flatten();
        if !new.is_some_and(|host| intended.moved.is(&host)) {
            return Ok(());
        }
        self.with_path(&intended.old, |at| {
            match (stat_at(at.dir, at.name), intended.replaced) {
                (Ok(host), Some(replaced)) if replaced.is(&host) => self.remove_replaced(at, None, &host, replaced)?,
                (Err(Host::NOENT), _) => {}
                _ => return Ok(()),
            }
            self.store.create(at, &record).map(drop)
        })?;
        Ok(())
    }
}

/// The change is complete, or it never was: whatever becomes of the intent, that
/// is what there is to be told.
fn cross_out(journal: &Journal, noted: Intent) {
    if let Err(host) = journal.end(noted) {
        journal.stick();
        tracing::error!("crossing out a rename with a whiteout: {host}; no name can be changed before the next mount");
    }
}

/// Whether the directory `at` has no names. An exchange would not ask.
fn is_empty(at: &At<'_>) -> Result<bool> {
    let dir = host::child_dir(at.dir, at.name).map_err(fault("opening a directory"))?;
    Ok(host::names(dir.as_fd()).map_err(fault("reading a directory"))?.is_empty())
}
