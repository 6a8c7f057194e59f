//! The `sqlite` format: records are rows of one database, `humfs/metadata.db`,
//! found by the name of their object, so that the file goes along with a copy
//! of the tree.
//!
//! # Order
//! A change is written into a log beside the database (`log.rs`), then the
//! host's step is done, then the rows are written; transactions are committed
//! in batches. Whoever opens the database for writing carries out what the log
//! has beyond it. Only for changes that were under way when the writer died it
//! has to look at the data tree, whether the host's step was done: then the
//! rows follow, else the change never was. So nothing is ever taken back.
//!
//! * A host's step that fails leaves a record in the log that says so.
//! * SQLite that fails (a full disk, say) is closed; opening it again is the
//!   same as after a death, but for changes that are under way in other threads:
//!   each of them brings its own to an end.
//! * The log is what makes records durable: [`MetaStore::sync_record`] waits
//!   for it alone, and a part of it is written over only when the database has
//!   it for good.
//! * After a crash of the host, which may lose either side's latest changes,
//!   the whole tree is walked once (`reconcile.rs`). A removal that the host has
//!   lost finds its record there: records are deleted only when the host's journal
//!   has the removal (`session.rs`).
//!
//! # Processes
//! SQLite's locks do not survive a fork. [`SqliteStore::open`] and
//! [`MetaStore::recover`] leave the database closed, so that a server may fork
//! after them. The first other call opens it for good.
//!
//! Readers beside a writer see the last batch, which is a second old at most.
//!
//! # Locks
//! ```text
//! Shared::state       for each change twice, without waiting for the disk
//!   Signal::wish      for a moment
//!   Flusher::thread   while the thread starts
//! ```

mod change;
mod database;
mod flusher;
mod inspect;
mod log;
mod plan;
mod reconcile;
mod recovery;
mod rows;
mod session;
mod shared;
#[cfg(test)]
mod tests;

use super::{At, Facts, Format, Loaded, MetaStore, Object, Place, Recovered, Renaming};
use crate::host::{self, damaged, fault};
use crate::record::{Note, Record};
use crate::tree::{Access, Tree};
use change::Change;
use externfs::{Attr, FileKind, Result, Timestamp};
use flusher::Flusher;
use hostfs::Inode;
use log::Outcome;
use rustix::fs::{AtFlags, FileType, OFlags, RenameFlags, StatxFlags};
use session::{Session, Site};
use shared::{Shared, State};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

/// See the [module](self).
#[derive(Debug)]
pub struct SqliteStore {
    flusher: Flusher,
    shared: Arc<Shared>,
}

impl SqliteStore {
    /// Of `tree`.
    ///
    /// # Errors
    /// The database is damaged, missing, or not humfs's.
    pub fn open(tree: &Tree) -> Result<SqliteStore> {
        let control = tree.control().ok_or_else(|| damaged("humfs/ is missing: put it back from a backup"))?;
        let dup = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map_err(externfs::Error::from);
        let root = hostfs::layer::status(tree.data(), c".").map_err(fault("looking at data/"))?;
        // In a tree without files there is nothing that a database could have known.
        let is_expected = tree.superblock().format == Format::Sqlite
            && !database::exists(control)?
            && !host::names(tree.data()).map_err(fault("reading data/"))?.is_empty();
        let site = Site {
            control: dup(control)?,
            data: dup(tree.data())?,
            root: root.ino,
            root_born: root.btime,
            boot: database::boot(),
            access: tree.access(),
            is_expected,
        };
        if site.access == Access::Read {
            recovery::settle_first(&site)?;
        }
        match (database::exists(control)?, site.access) {
            // That it is damaged is to be known now, not at the first use.
            (true, _) => drop(database::open_to_read(control)?),
            (false, Access::Write) if !is_expected => {}
            (false, _) => return Err(database::missing()),
        }
        Ok(SqliteStore { flusher: Flusher::default(), shared: Arc::new(Shared { site, state: Mutex::default() }) })
    }

    /// Carries a change out: `plan` says what, `host` does the host's step if
    /// there is one.
    fn change<T>(
        &self,
        plan: impl FnOnce(&mut Session, &Site) -> Result<Change>,
        host: impl FnOnce() -> Result<(T, Outcome)>,
    ) -> Result<T> {
        let mut state = self.shared.lock();
        let planned = state.write_down(&self.shared.site, plan);
        let (change, ticket) = match planned {
            Ok((change, Some(ticket))) => (change, ticket),
            Ok((_, None)) => {
                drop(state);
                return host().map(|(value, _)| value);
            }
            Err(error) => {
                self.end_of_change(&mut state);
                return Err(error);
            }
        };
        state.in_flight.insert(ticket.seq);
        drop(state);
        let done = host();
        let mut state = self.shared.lock();
        let settled = match &done {
            Ok((_, outcome)) => state.settle(&self.shared.site, ticket, &change, outcome),
            Err(_) => {
                state.give_up(&self.shared.site, ticket);
                Ok(())
            }
        };
        // Settling may have failed before it came to that.
        state.in_flight.remove(&ticket.seq);
        self.end_of_change(&mut state);
        settled.and(done.map(|(value, _)| value))
    }

    /// A change that is nobody's but the database's.
    fn change_rows(&self, plan: impl FnOnce(&mut Session, &Site) -> Result<Change>) -> Result<()> {
        let mut state = self.shared.lock();
        let changed = match state.write_down(&self.shared.site, plan) {
            Ok((change, Some(ticket))) => state.settle(&self.shared.site, ticket, &change, &Outcome::default()),
            other => other.map(drop),
        };
        self.end_of_change(&mut state);
        changed
    }

    /// Changes the row of the record `known` to what `record` says. False if there
    /// is none to change: the caller looks for it by its name then.
    fn change_row(&self, known: &Record, record: &Record, time: Timestamp) -> Result<bool> {
        if known.note.row == 0 {
            return Ok(false);
        }
        let mut state = self.shared.lock();
        let plan = |session: &mut Session, _: &Site| Ok(plan::own(session, known, record, time)?.unwrap_or_default());
        let changed = match state.write_down(&self.shared.site, plan) {
            Ok((change, Some(ticket))) => {
                let settled = state.settle(&self.shared.site, ticket, &change, &Outcome::default());
                settled.map(|()| state.has_changed_a_row())
            }
            other => other.map(|_| false),
        };
        self.end_of_change(&mut state);
        changed
    }

    /// After each change.
    fn end_of_change(&self, state: &mut State) {
        let Some(session) = &state.session else { return };
        let (is_full, is_overdue) = (session.is_full(), session.is_overdue());
        if is_full {
            state.commit();
        }
        // The flusher cannot keep up, or there is none.
        if is_overdue && let Err(error) = state.end_wal(&self.shared.site) {
            tracing::warn!("{error}");
        }
        if !std::mem::replace(&mut state.is_awaited, true) {
            self.flusher.wake(&self.shared);
        }
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!("{error}; what is missing is in the log");
        }
    }
}

/// The time of a change of `object` that begins now: later than its last one, and
/// earlier than that of the next one that the host makes. The host's times are
/// those of its last tick, unless the object already has that and was looked at
/// since; so this is of the tick before, or just later than the last one. After a
/// time when the clock was ahead it is the present, as on a disk.
fn time_of_change(object: &Object<'_>) -> Timestamp {
    let known = object.known.map(|known| known.note.changed).unwrap_or_default();
    let (tick, before) = host::last_ticks();
    let next = host::just_after(object.host.ctime.max(known));
    if next > Timestamp::now() { tick } else { next.max(before) }
}

/// What statx(2) says of an object that has just been made.
fn outcome(fd: BorrowedFd<'_>) -> Result<Outcome> {
    let wanted = StatxFlags::INO | StatxFlags::BTIME | StatxFlags::CTIME;
    let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, wanted).map_err(fault("looking at what was made"))?;
    Ok(Outcome::of(&stat))
}

/// Makes what stands for an object with `record`; nothing if it fails.
fn make(at: &At<'_>, record: &Record) -> Result<(OwnedFd, Outcome)> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
    let failed = || fault("creating a file");
    let (opened, undo) = match record.kind {
        FileKind::Regular => (Some(host::open_file(at.dir, at.name, flags).map_err(failed())?), AtFlags::empty()),
        FileKind::Directory => {
            rustix::fs::mkdirat(at.dir, at.name, host::DIR_MODE).map_err(failed())?;
            (None, AtFlags::REMOVEDIR)
        }
        FileKind::Symlink => {
            rustix::fs::symlinkat(record.target.as_deref().unwrap_or_default(), at.dir, at.name).map_err(failed())?;
            (None, AtFlags::empty())
        }
        _ => {
            rustix::fs::mknodat(at.dir, at.name, FileType::RegularFile, host::FILE_MODE, 0).map_err(failed())?;
            (None, AtFlags::empty())
        }
    };
    let made = match opened {
        Some(fd) => Ok(fd),
        None => host::child(at.dir, at.name).map_err(failed()),
    };
    made.and_then(|fd| outcome(fd.as_fd()).map(|outcome| (fd, outcome))).inspect_err(|_| {
        // We may be out of descriptors.
        let _ = rustix::fs::unlinkat(at.dir, at.name, undo);
    })
}

/// For a host's step that makes nothing.
fn nothing_made(done: Result<()>) -> Result<((), Outcome)> {
    done.map(|()| ((), Outcome::default()))
}

impl MetaStore for SqliteStore {
    fn format(&self) -> Format {
        Format::Sqlite
    }

    fn load(&self, at: &At<'_>, host: &Attr) -> Result<Loaded> {
        let mut state = self.shared.lock();
        let session = state.session(&self.shared.site)?;
        let record = match session.number(at.parent, &self.shared.site)? {
            Some(parent) => rows::record(session.conn(), parent, at.name.to_bytes(), host)?,
            None => None,
        };
        // A record of another type is that of an object that is gone.
        let record = match record.filter(|record| rows::fits(record.kind, host.kind)) {
            None => {
                let ino = plan::other_name(session, host)?;
                let record = ino.map(|ino| rows::record_of(session.conn(), ino, host)).transpose()?.flatten();
                // This name has yet to be recorded: whoever saves has to look.
                record.map(|record| Record { note: Note { row: 0, ..record.note }, ..record })
            }
            some => some,
        };
        Ok(record.map_or(Loaded::Absent, Loaded::Record))
    }

    fn load_root(&self, _root: BorrowedFd<'_>, host: &Attr) -> Result<Loaded> {
        let mut state = self.shared.lock();
        let record = rows::record_of(state.session(&self.shared.site)?.conn(), rows::ROOT, host)?;
        Ok(record.map_or(Loaded::Absent, Loaded::Record))
    }

    fn save(&self, object: &Object<'_>, record: &Record) -> Result<Note> {
        let changed = time_of_change(object);
        if object.host.ctime > changed {
            // The host's clock was ahead.
            object.hold.touch_ctime().map_err(fault("moving the ctime of a file"))?;
        }
        if matches!(object.place, Place::Nameless) {
            return Ok(Note { changed, row: 0 });
        }
        if let Some(known) = object.known
            && self.change_row(known, record, changed)?
        {
            return Ok(Note { changed, row: known.note.row });
        }
        let mut row = 0;
        self.change_rows(|session, site| {
            let change;
            (row, change) = plan::save(session, site, object, record, changed)?;
            Ok(change)
        })?;
        Ok(Note { changed, row })
    }

    fn keeps_times(&self) -> bool {
        true
    }

    fn create(&self, at: &At<'_>, record: &Record) -> Result<(OwnedFd, Note)> {
        let mut row = 0;
        let plan = |session: &mut Session, site: &Site| {
            let change;
            (row, change) = plan::create(session, site, at, record)?;
            Ok(change)
        };
        let fd = self.change(plan, || make(at, record))?;
        Ok((fd, Note { row, ..Note::default() }))
    }

    fn create_unnamed(&self, dir: BorrowedFd<'_>, _record: &Record) -> Result<OwnedFd> {
        host::unnamed(dir).map_err(fault("creating a file"))
    }

    fn link(&self, object: &Object<'_>, to: &At<'_>, record: &Record) -> Result<()> {
        self.change(
            |session, site| plan::link(session, site, object, to, record),
            || nothing_made(object.hold.link(to).map_err(fault("linking a file"))),
        )
    }

    fn remove(&self, at: &At<'_>, victim: Facts) -> Result<()> {
        let flags = if victim.kind == FileKind::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        self.change(
            |session, site| plan::remove(session, site, at, victim),
            || nothing_made(rustix::fs::unlinkat(at.dir, at.name, flags).map_err(fault("removing a name"))),
        )
    }

    fn rename(&self, from: &At<'_>, to: &At<'_>, how: &Renaming) -> Result<()> {
        let mut flags = RenameFlags::empty();
        flags.set(RenameFlags::EXCHANGE, how.exchange);
        flags.set(RenameFlags::NOREPLACE, how.no_replace);
        self.change(
            |session, site| plan::rename(session, site, (from, to), how),
            || nothing_made(rustix::fs::renameat_with(from.dir, from.name, to.dir, to.name, flags).map_err(fault("renaming"))),
        )
    }

    fn sync_record(&self, object: &Object<'_>) -> Result<()> {
        if matches!(object.place, Place::Nameless) || self.shared.site.access == Access::Read {
            return Ok(());
        }
        // Nobody else is to wait for the disk.
        let files = self.shared.lock().session(&self.shared.site)?.log()?.files();
        files.iter().try_for_each(|file| rustix::fs::fdatasync(file).map_err(fault("fdatasync of humfs/metadata.log")))
    }

    fn sync(&self) -> Result<()> {
        // The log is one of the files that the caller is about to sync; this
        // is for those who look at the database.
        if self.shared.site.access == Access::Write {
            self.shared.lock().commit();
        }
        Ok(())
    }

    fn close(&self) -> Result<()> {
        self.flusher.stop();
        let session = self.shared.lock().session.take();
        session.map_or(Ok(()), |session| session.close(&self.shared.site))
    }

    fn recover(&self, _root: &Arc<Inode>) -> Result<Recovered> {
        let mut state = self.shared.lock();
        state.session(&self.shared.site)?;
        let in_flight = state.in_flight.first().copied();
        if let Some(mut session) = state.session.take() {
            session.commit(in_flight)?;
        }
        Ok(std::mem::take(&mut state.recovered))
    }

    fn recorded_names(&self, dir: &Arc<Inode>, emit: &mut dyn FnMut(&CStr)) -> Result<()> {
        let names = {
            let mut state = self.shared.lock();
            let session = state.session(&self.shared.site)?;
            match session.number(dir, &self.shared.site)? {
                Some(number) => rows::names(session.conn(), number)?,
                None => Vec::new(),
            }
        };
        for (name, _) in names {
            let name = CString::new(name).map_err(|_| damaged("humfs/metadata.db: a name contains NUL"))?;
            emit(&name);
        }
        Ok(())
    }

    fn discard(&self, at: &At<'_>) -> Result<()> {
        self.change_rows(|session, site| plan::discard(session, site, at))
    }

    fn pending(&self) -> Result<Option<&'static str>> {
        recovery::pending(&self.shared.site)
    }

    fn read_ahead(&self) -> Result<()> {
        self.begin_reading()
    }

    fn identity(&self, at: &At<'_>) -> Result<u64> {
        self.number_of(at)
    }

    fn stranger(&self, at: &At<'_>, host: &Attr) -> Result<Option<String>> {
        self.replaced(at, host)
    }

    fn verify(&self, emit: &mut dyn FnMut(String, bool)) -> Result<()> {
        self.verify_tables(emit)
    }

    fn tidy(&self) -> Result<()> {
        self.tidy_tables()
    }

    fn describe(&self, _root: BorrowedFd<'_>, at: Option<&At<'_>>) -> String {
        self.describe_row(at)
    }
}
