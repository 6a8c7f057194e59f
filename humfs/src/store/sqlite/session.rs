//! [`Session`]: the database while it is open, with its log, and the batch of
//! changes that is not committed yet.
//!
//! A change is first written into the log, then the host's step is done, then
//! the rows are written. The rows are committed in batches: whoever opens the
//! database carries out what is in the log and not in the database.
//!
//! A removal on the host may be undone by a power failure for as long as the
//! host's journal is not committed, while the log or the database are on the disk
//! already. The object is there again then, and its record must be, too. So rows
//! of an inode that has lost its last name are kept, with 0 names, until the disk
//! has what is in the database, and deleted in a later batch.

use super::change::{Change, Step};
use super::database::{self, refused};
use super::log::{Log, Outcome, Status, Ticket};
use super::recovery::{self, Past};
use super::rows::{self, ROOT};
use crate::host::{self, damaged, fault};
use crate::store::Recovered;
use crate::tree::Access;
use externfs::{Errno, Error, Result, Timestamp};
use hostfs::Inode;
use rusqlite::Connection;
use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Directories whose numbers are remembered.
const NUMBERS_MAX: usize = 1 << 16;

/// Changes in a batch. More would make the commit a pause that is felt.
pub(super) const BATCH: usize = 1000;

/// The places that a session works in.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) control: OwnedFd,
    pub(super) data: OwnedFd,
    /// The root's number on the host.
    pub(super) root: u64,
    /// When the root was made there, if the host knows. No copy can have the same.
    pub(super) root_born: Option<Timestamp>,
    /// Read when it still can be: a server in its sandbox cannot.
    pub(super) boot: Option<String>,
    pub(super) access: Access,
    /// Whether a database that is missing has been lost, and not just not made.
    pub(super) is_expected: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Session {
    conn: Connection,
    /// None if we only look.
    log: Option<Log>,
    next_ino: i64,
    batch: usize,
    /// Inodes that have lost their last name.
    abandoned: Vec<i64>,
    /// There may be more of these, left by a predecessor.
    is_littered: bool,
    /// Up to this record the database goes, as it says itself.
    committed: u64,
    /// Up to this record all is in the database for good.
    pub(super) durable: u64,
    /// By the host's inode number: the key's generation and our number.
    numbers: HashMap<u64, (u64, i64)>,
    /// The database says that the data tree is being changed.
    is_marked: bool,
    /// Rows of a change are missing that is in the log.
    is_broken: bool,
    /// SQLite's locks do not survive a fork.
    process: u32,
}

impl Session {
    /// Opens the database and carries out what is left in the log, but for the
    /// records `in_flight`: theirs is who brings them to an end. Looks at the
    /// whole data tree if need be and `may_walk`.
    pub(super) fn open(site: &Site, may_walk: bool, in_flight: &BTreeSet<u64>) -> Result<(Session, Recovered)> {
        let control = site.control.as_fd();
        let found = database::exists(control)?;
        if !found && (site.is_expected || site.access == Access::Read) {
            return Err(database::missing());
        }
        if site.access == Access::Read {
            return Ok((Session::over(database::open_to_read(control)?, None), Recovered::default()));
        }
        if !found {
            database::create(control)?;
        }
        let conn = database::open(control)?;
        let (tag, seq) = (database::tag(&conn)?, database::seq(&conn)?);
        let (log, entries) = Log::open(control, tag, seq)?;
        let mut session = Session::over(conn, Some(log));
        session.committed = seq;
        session.next_ino = database::get(&session.conn, "next_ino")?;
        let past = Past::read(&session.conn, site, may_walk)?;
        (session.is_marked, session.is_littered) = (past.is_marked, !past.is_clean);
        let recovered = recovery::recover(&mut session, site, &past, &entries, in_flight)?;
        Ok((session, recovered))
    }

    fn over(conn: Connection, log: Option<Log>) -> Session {
        let numbers = HashMap::new();
        let process = std::process::id();
        Session {
            conn,
            log,
            next_ino: ROOT + 1,
            batch: 0,
            abandoned: Vec::new(),
            is_littered: false,
            committed: 0,
            durable: 0,
            numbers,
            is_marked: false,
            is_broken: false,
            process,
        }
    }

    pub(super) fn conn(&self) -> &Connection {
        &self.conn
    }

    pub(super) fn log(&self) -> Result<&Log> {
        self.log.as_ref().ok_or(Errno::EROFS.into())
    }

    /// Whether the rows of changes are lost that are in the log: SQLite ends a
    /// transaction by itself when it cannot go on.
    pub(super) fn has_lost_rows(&self) -> bool {
        self.is_broken || (self.batch > 0 && self.conn.is_autocommit())
    }

    /// Begins a batch if none is begun.
    pub(super) fn begin(&mut self) -> Result<()> {
        if self.log.is_none() {
            return Err(Errno::EROFS.into());
        }
        if !self.conn.is_autocommit() {
            return Ok(());
        }
        if self.process != std::process::id() {
            return Err(damaged("humfs/metadata.db was opened by another process, and a fork takes no locks along"));
        }
        let begin = || self.conn.prepare_cached("BEGIN IMMEDIATE")?.execute(());
        begin().map(drop).map_err(refused("beginning a transaction"))
    }

    /// Says in the database, durably, that the data tree is being changed:
    /// should the host go down, the two may disagree.
    pub(super) fn mark(&mut self, site: &Site, in_flight: Option<u64>) -> Result<()> {
        if self.is_marked {
            return Ok(());
        }
        self.begin()?;
        database::set(&self.conn, "clean", 0)?;
        database::set(&self.conn, "boot_id", &site.boot)?;
        self.commit(in_flight)?;
        database::sync(site.control.as_fd())?;
        self.is_marked = true;
        Ok(())
    }

    /// Writes `change` into the log. Without a step of the host's it is done.
    pub(super) fn write_down(&mut self, change: &Change) -> Result<Ticket> {
        self.begin()?;
        let status = if change.doubt.is_some() { Status::Unknown } else { Status::Done };
        let durable = self.durable;
        let log = self.log.as_mut().ok_or_else(|| Error::from(Errno::EROFS))?;
        log.append(&change.encode(), status, durable).map_err(fault("writing humfs/metadata.log"))
    }

    /// Writes the rows of `change`. The batch in which it was written down may
    /// have been committed during the host's step.
    pub(super) fn apply(&mut self, change: &Change, outcome: &Outcome) -> Result<()> {
        let begun = self.begin();
        let applied = begun.and_then(|()| {
            change.steps.iter().try_for_each(|step| match step {
                // Without a step of the host's there is nothing that could be undone.
                Step::Drop { ino, below } if change.doubt.is_some() => {
                    self.abandoned.extend(rows::abandon(&self.conn, *ino, *below)?);
                    Ok(())
                }
                step => rows::apply(&self.conn, step, outcome),
            })
        });
        self.batch += 1;
        self.is_broken |= applied.is_err();
        applied
    }

    /// Gives away what is to be erased, and whether a predecessor left more.
    pub(super) fn take_abandoned(&mut self) -> (Vec<i64>, bool) {
        (std::mem::take(&mut self.abandoned), std::mem::take(&mut self.is_littered))
    }

    /// What was taken away was not erased.
    pub(super) fn litter(&mut self) {
        self.is_littered = true;
    }

    /// Deletes what has lost its last name for good.
    pub(super) fn erase(&mut self, abandoned: &[i64]) -> Result<()> {
        self.begin()?;
        let erased = abandoned.iter().try_for_each(|ino| rows::erase(&self.conn, *ino));
        self.batch += abandoned.len();
        self.is_broken |= erased.is_err();
        erased
    }

    /// The numbers that `change` gives are taken, whether or not it was done.
    pub(super) fn take_numbers(&mut self, change: &Change) {
        for step in &change.steps {
            if let Step::Name { ino, .. } = step {
                self.next_ino = self.next_ino.max(ino.saturating_add(1));
            }
        }
    }

    /// A change without a step of the host's, from beginning to end.
    fn change(&mut self, steps: Vec<Step>) -> Result<()> {
        let change = Change::of(steps);
        self.write_down(&change)?;
        self.apply(&change, &Outcome::default())
    }

    /// Whether the batch is large enough to be committed.
    pub(super) fn is_full(&self) -> bool {
        self.batch >= BATCH
    }

    /// Whether the log is so long that the database must become durable now.
    pub(super) fn is_overdue(&self) -> bool {
        self.log.as_ref().is_some_and(Log::is_full)
    }

    /// Commits the batch; `in_flight` is the first record whose rows are not
    /// written yet. Returns up to which record the database now goes.
    pub(super) fn commit(&mut self, in_flight: Option<u64>) -> Result<u64> {
        let last = self.log()?.last();
        let seq = in_flight.map_or(last, |first| first.saturating_sub(1).min(last));
        if self.has_lost_rows() {
            return Err(damaged("humfs/metadata.db: SQLite has given up a transaction"));
        }
        if !self.conn.is_autocommit() {
            database::set(&self.conn, "seq", seq as i64)?;
            database::set(&self.conn, "next_ino", self.next_ino)?;
            let commit = || self.conn.prepare_cached("COMMIT")?.execute(());
            commit().map_err(refused("committing a transaction"))?;
            (self.batch, self.committed) = (0, seq);
        }
        // Without a batch it stays where it was, though the log may have gone
        // on: a change that failed on the host has no rows.
        Ok(self.committed)
    }

    /// Closes the database: it and the data tree agree and are durable.
    pub(super) fn close(mut self, site: &Site) -> Result<()> {
        if self.log.is_none() {
            return Ok(());
        }
        self.commit(None)?;
        if !self.is_marked {
            // No name was changed: whatever is lost, the two agree.
            return Ok(());
        }
        let data = host::open_listing(site.data.as_fd()).map_err(fault("opening data/"))?;
        rustix::fs::syncfs(&data).map_err(fault("syncfs"))?;
        let (abandoned, is_littered) = self.take_abandoned();
        self.erase(&if is_littered { rows::abandoned(&self.conn)? } else { abandoned })?;
        database::set(&self.conn, "clean", 1)?;
        self.commit(None)?;
        database::sync(site.control.as_fd())?;
        if let Some(log) = &mut self.log {
            log.clear().map_err(fault("emptying humfs/metadata.log"))?;
        }
        Ok(())
    }

    /// A number for a new inode.
    pub(super) fn new_number(&mut self) -> Result<i64> {
        let ino = self.next_ino;
        self.next_ino = ino.checked_add(1).ok_or_else(|| damaged("humfs/metadata.db: super: next_ino is too large"))?;
        Ok(ino)
    }

    /// The number of the directory `dir`; None if it has none.
    pub(super) fn number(&mut self, dir: &Arc<Inode>, site: &Site) -> Result<Option<i64>> {
        self.number_or(dir, site, |_, _, _| Ok(None))
    }

    /// The number of the directory `dir`, which gets one if it has none.
    pub(super) fn ensure_number(&mut self, dir: &Arc<Inode>, site: &Site) -> Result<i64> {
        let number = self.number_or(dir, site, |session, parent, name| {
            let ino = session.new_number()?;
            session.change(vec![Step::Name { parent, name: name.to_vec(), ino }])?;
            Ok(Some(ino))
        });
        number?.ok_or_else(|| Errno::ESTALE.into())
    }

    fn number_or(
        &mut self,
        dir: &Arc<Inode>,
        site: &Site,
        mut missing: impl FnMut(&mut Session, i64, &[u8]) -> Result<Option<i64>>,
    ) -> Result<Option<i64>> {
        // Up to the first that is known, then down again.
        let (mut ahead, mut at) = (Vec::new(), dir.clone());
        let mut number = loop {
            let key = at.host_key();
            if key.number == site.root {
                break ROOT;
            }
            match self.numbers.get(&key.number) {
                Some((generation, number)) if *generation == key.generation => break *number,
                _ => {}
            }
            let Some((parent, name)) = at.whereabouts() else { return Err(Errno::ESTALE.into()) };
            ahead.push((key, name));
            at = parent;
        };
        while let Some((key, name)) = ahead.pop() {
            let found = match rows::number(&self.conn, number, name.to_bytes())? {
                Some(found) => Some(found),
                None => missing(self, number, name.to_bytes())?,
            };
            let Some(found) = found else { return Ok(None) };
            if self.numbers.len() >= NUMBERS_MAX {
                self.numbers.clear();
            }
            self.numbers.insert(key.number, (key.generation, found));
            number = found;
        }
        Ok(Some(number))
    }

    /// The directory with the host's number `hino` is gone.
    pub(super) fn forget(&mut self, hino: u64) {
        self.numbers.remove(&hino);
    }
}

#[cfg(test)]
impl Session {
    pub(super) fn write_nonsense(&mut self) {
        let log = self.log.as_mut().unwrap();
        log.append(&[9, 9, 9], Status::Done, 0).unwrap();
    }
}
