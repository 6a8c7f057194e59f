//! A rename that leaves a whiteout behind (renameat2(2), for overlay file
//! systems): the one change of names that no store has as a whole.
//!
//! The names change first, then the whiteout is made in the old place, or put
//! in place of what came there by an exchange. An intent in `humfs/changes`
//! says so beforehand, and recovery finishes what has begun:
//!
//! | the old name leads to | the new one to | what is left to do |
//! |---|---|---|
//! | what was moved | | nothing: it has not begun |
//! | what was replaced | what was moved | remove it, make the whiteout |
//! | nothing | what was moved | make the whiteout |
//! | anything else | | nothing: it is there |

use crate::account::{Entry, EntryKind, Outcome};
use crate::birth::born;
use crate::fs::{HumFs, one};
use crate::host::{self, damaged, fault, stat_at};
use crate::intent;
use crate::names::{WHITEOUT, facts, need_of_new};
use crate::node::HumNode;
use crate::record::Record;
use crate::store::{At, Renaming};
use externfs::{Caller, Errno, FileKind, Mode, Result};
use std::os::fd::AsFd;
use std::sync::Arc;

impl HumFs {
    /// Both directories are held.
    pub(crate) fn rename_with_whiteout(
        &self,
        caller: &Caller,
        (parent, old): (&Arc<HumNode>, &At<'_>),
        (new, victim): (&At<'_>, Option<&Arc<HumNode>>),
        how: &Renaming,
    ) -> Result<()> {
        let journal = self.journal.as_ref().ok_or(Errno::EROFS)?;
        if how.replaced.is_some_and(|facts| facts.kind == FileKind::Directory) && !is_empty(new)? {
            return Err(Errno::ENOTEMPTY.into());
        }
        let mut record = born(caller, &parent.state().record, FileKind::CharDevice, Mode::new(0))?;
        record.device = WHITEOUT;
        let (old_path, new_path) = (self.path_of(old).ok_or(Errno::ESTALE)?, self.path_of(new).ok_or(Errno::ESTALE)?);
        // Until the rename, what is moved is in the whiteout's place.
        let entry = Entry { kind: EntryKind::Create, ino: how.moved.ino, before: 0, path: Some(&old_path) };
        let room = self.announce(&[entry], need_of_new(self.store.format(), &record))?;
        let number = |n: u64| n.to_string().into_bytes();
        let fields = [
            b"whiteout".to_vec(),
            number(how.moved.ino),
            number(how.replaced.map_or(0, |facts| facts.ino)),
            number(record.uid.0.into()),
            number(record.gid.0.into()),
            old_path.clone(),
            new_path,
        ];
        let fields: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
        let noted = journal.begin(&intent::join(&fields)).map_err(fault("noting a change"))?;
        // Replacing would lose the victim before the whiteout is there; with
        // an exchange both ends are always taken.
        if let Err(error) = self.store.rename(old, new, &Renaming { exchange: how.replaced.is_some(), ..*how }) {
            journal.end(noted).map_err(fault("crossing out a change"))?;
            return Err(error);
        }
        // Should this fail, the intent stays and the next mount carries it out.
        self.leave_whiteout(old, victim, how, &record)?;
        journal.end(noted).map_err(fault("crossing out a change"))?;
        let host = stat_at(old.dir, old.name).map_err(fault("looking up a name"))?;
        room.made(host.ino, &Outcome { added: one(&host, &record), ..Outcome::default() });
        Ok(())
    }

    fn leave_whiteout(&self, old: &At<'_>, victim: Option<&Arc<HumNode>>, how: &Renaming, record: &Record) -> Result<()> {
        if let Some(replaced) = how.replaced {
            let host = stat_at(old.dir, old.name).map_err(fault("looking up a name"))?;
            self.remove_replaced(old, victim, &host, replaced.ino)?;
        }
        self.store.create(old, record).map(drop)
    }

    /// What an exchange has brought to the old name goes.
    fn remove_replaced(&self, old: &At<'_>, victim: Option<&Arc<HumNode>>, host: &externfs::Attr, ino: u64) -> Result<()> {
        if host.ino != ino {
            return Err(damaged("a name changed behind a rename"));
        }
        let outcome = self.outcome_of_loss(victim, host, old);
        self.store.remove(old, facts(host))?;
        self.account.settle(outcome);
        Ok(())
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
            self.recover_whiteout(&text)?;
            journal.end(noted).map_err(fault("crossing out a change"))?;
        }
        Ok(count)
    }

    fn recover_whiteout(&self, text: &[u8]) -> Result<()> {
        let unreadable = || damaged("an intent in humfs/changes cannot be read: remove it if you know better");
        let fields = intent::split(text);
        let [word, moved, replaced, uid, gid, old, new] = fields.as_slice() else { return Err(unreadable()) };
        let number = |field: &[u8]| std::str::from_utf8(field).ok().and_then(|text| text.parse::<u64>().ok()).ok_or_else(unreadable);
        if word != b"whiteout" {
            return Err(unreadable());
        }
        let (moved, replaced) = (number(moved)?, number(replaced)?);
        let (uid, gid) = (number(uid)? as u32, number(gid)? as u32);
        let mut record = Record::new(FileKind::CharDevice, Mode::new(0), externfs::GuestUid(uid), externfs::GuestGid(gid));
        record.device = WHITEOUT;
        let new_ino = self.with_path(new, |at| Ok(stat_at(at.dir, at.name).ok().map(|host| host.ino)))?.flatten();
        self.with_path(old, |at| {
            let there = stat_at(at.dir, at.name).ok();
            match there {
                Some(host) if replaced != 0 && host.ino == replaced => self.remove_replaced(at, None, &host, replaced)?,
                None if new_ino == Some(moved) => {}
                _ => return Ok(()),
            }
            self.store.create(at, &record).map(drop)
        })?;
        Ok(())
    }
}

/// Whether the directory `at` has no names. An exchange would not ask.
fn is_empty(at: &At<'_>) -> Result<bool> {
    let dir = host::child_dir(at.dir, at.name).map_err(fault("opening a directory"))?;
    Ok(host::names(dir.as_fd()).map_err(fault("reading a directory"))?.is_empty())
}
