//! Carrying out what a predecessor wrote into the log and did not commit, and
//! finding out whether the host's step of the last changes was done.

use super::change::{Change, Doubt};
use super::database;
use super::log::{Entry, Log, Outcome, Status};
use super::reconcile;
use super::session::{Session, Site};
use crate::host::{self, damaged, fault};
use crate::path;
use crate::store::Recovered;
use crate::tree::Access;
use externfs::{Result, Timestamp};
use rusqlite::Connection;
use rustix::fs::{AtFlags, FlockOperation, OFlags, StatxFlags};
use rustix::io::Errno as Host;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What has happened since the database was last written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Past {
    /// The database was left in order.
    pub(super) is_clean: bool,
    /// The database says that the tree has been in use since this boot.
    pub(super) is_marked: bool,
    /// The host went down while the tree was in use: the newest records may be
    /// missing where the data tree's changes are not, and the reverse.
    has_crashed: bool,
    /// The tree is a copy: the host's inode numbers mean nothing.
    pub(super) is_copied: bool,
    /// The database has not seen this tree yet, or not all that tells it from
    /// others.
    is_new: bool,
}

/// What of the root is in the database beside its number.
fn birth(site: &Site) -> Option<String> {
    site.root_born.map(|born| format!("{}.{:09}", born.seconds, born.nanoseconds))
}

impl Past {
    pub(super) fn read(conn: &Connection, site: &Site, may_walk: bool) -> Result<Past> {
        let is_clean = database::get::<i64>(conn, "clean")? != 0;
        let boot: Option<String> = database::look::<Option<String>>(conn, "boot_id")?.flatten();
        let root: Option<i64> = database::look(conn, "root_ino")?;
        let known: Option<String> = database::look(conn, "root_btime")?;
        let born = birth(site);
        let is_same_boot = boot.is_some() && boot == site.boot;
        // A copy may have got the same number, but not at the same time.
        let is_other = root.is_some_and(|root| root as u64 != site.root) || known.is_some() && born.is_some() && known != born;
        Ok(Past {
            is_clean,
            is_marked: !is_clean && is_same_boot,
            has_crashed: !is_clean && !is_same_boot && may_walk,
            is_copied: is_other,
            is_new: is_other || root.is_none() || known.is_none() && born.is_some(),
        })
    }
}

/// Whether the next writer has something to carry out first.
pub(super) fn pending(site: &Site) -> Result<Option<&'static str>> {
    let control = site.control.as_fd();
    if !database::exists(control)? {
        return Ok(None);
    }
    let conn = database::open_to_read(control)?;
    let (tag, seq) = (database::tag(&conn)?, database::seq(&conn)?);
    let past = Past::read(&conn, site, true)?;
    if past.has_crashed {
        return Ok(Some("the host went down while the tree was in use"));
    }
    Ok((!Log::is_settled(control, tag, seq)?).then_some("the server died before the database had all changes"))
}

/// A log that a dead writer left is for the next writer. If we can be that
/// for a moment, a reader sees all; beside a live one it sees what is committed.
pub(super) fn settle_first(site: &Site) -> Result<()> {
    let control = site.control.as_fd();
    if !database::exists(control)? {
        return Ok(());
    }
    let conn = database::open_to_read(control)?;
    let (tag, seq) = (database::tag(&conn)?, database::seq(&conn)?);
    let past = Past::read(&conn, site, true)?;
    drop(conn);
    if Log::is_settled(control, tag, seq)? && !past.has_crashed {
        return Ok(());
    }
    let lock = match host::open_file(control, c"lock", OFlags::RDWR) {
        Ok(lock) => lock,
        Err(_) => return Err(damaged("it was not left in order and cannot be written: mount the tree once where it can be")),
    };
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(());
    }
    let dup = |fd: &OwnedFd| fd.try_clone().map_err(externfs::Error::from);
    let (control, data) = (dup(&site.control)?, dup(&site.data)?);
    let writer = Site {
        control,
        data,
        root: site.root,
        root_born: site.root_born,
        boot: site.boot.clone(),
        access: Access::Write,
        is_expected: true,
    };
    let (mut session, _) = Session::open(&writer, true, &BTreeSet::new())?;
    session.commit(None).map(drop)
}

/// Makes the rows agree with the log and the data tree. Of changes `in_flight`
/// nothing can be said yet: their host's step is under way in another thread.
pub(super) fn recover(session: &mut Session, site: &Site, past: &Past, entries: &[Entry], in_flight: &BTreeSet<u64>) -> Result<Recovered> {
    let mut recovered = Recovered::default();
    if entries.is_empty() && !past.is_new && !past.has_crashed {
        return Ok(recovered);
    }
    session.begin()?;
    if past.is_new {
        database::set(session.conn(), "root_ino", site.root as i64)?;
        if let Some(born) = birth(site) {
            database::set(session.conn(), "root_btime", born)?;
        }
    }
    for entry in entries {
        let change = decode(entry)?;
        session.take_numbers(&change);
        if !in_flight.contains(&entry.ticket.seq) {
            replay(session, site, past, (entry, &change), &mut recovered)?;
        }
    }
    if past.is_copied {
        // Those in the log as well.
        reconcile::forget_numbers(session.conn())?;
    }
    if past.has_crashed {
        reconcile::reconcile(session, site)?;
        // Not once more, should we die.
        session.mark(site, None)?;
    }
    Ok(recovered)
}

fn decode(entry: &Entry) -> Result<Change> {
    let malformed = || damaged(format!("humfs/metadata.log: record {} is malformed", entry.ticket.seq));
    Change::decode(&entry.change).ok_or_else(malformed)
}

fn replay(session: &mut Session, site: &Site, past: &Past, (entry, change): (&Entry, &Change), recovered: &mut Recovered) -> Result<()> {
    let mut outcome = entry.outcome;
    let is_done = match (entry.status, &change.doubt) {
        // The host may have lost it in a crash all the same. Names are put right
        // then by who walks the tree, and until then no record is deleted.
        (Status::Done, _) | (Status::Unknown, None) => true,
        (Status::Failed, _) => false,
        (Status::Unknown, Some(doubt)) => {
            let there = look(site.data.as_fd(), doubt)?;
            // After a crash of the host that something was made may be missing
            // from the log while later changes of it are there.
            let is_done = is_done(doubt, there, past) || (past.has_crashed && doubt.appears && doubt.hino == 0);
            outcome = there.unwrap_or_default();
            let count = if is_done { &mut recovered.completed } else { &mut recovered.undone };
            *count += 1;
            // Should we die as well, our successor cannot find out any more.
            let log = session.log()?;
            if is_done { log.done(entry.ticket, outcome) } else { log.failed(entry.ticket) }
                .map_err(fault("writing humfs/metadata.log"))?;
            is_done
        }
    };
    if is_done {
        session.apply(change, &outcome)?;
    }
    Ok(())
}

fn is_done(doubt: &Doubt, there: Option<Outcome>, past: &Past) -> bool {
    let is_there = there.is_some_and(|there| doubt.hino == 0 || past.is_copied || there.hino == doubt.hino);
    is_there == doubt.appears
}

/// What is at the place that the host's step was about.
fn look(data: BorrowedFd<'_>, doubt: &Doubt) -> Result<Option<Outcome>> {
    let (dirs, name) = path::split(&doubt.path).ok_or_else(|| damaged("humfs/metadata.log: a path in it is none"))?;
    let stat = path::walk(data, &dirs).and_then(|dir| {
        let wanted = StatxFlags::INO | StatxFlags::BTIME | StatxFlags::CTIME;
        rustix::fs::statx(&dir, &name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, wanted)
    });
    match stat {
        Ok(stat) => Ok(Some(Outcome::of(&stat))),
        Err(Host::NOENT | Host::NOTDIR | Host::LOOP) => Ok(None),
        Err(other) => Err(fault("looking at what was in flight")(other)),
    }
}

impl Outcome {
    /// Of an object that has just been made.
    pub(super) fn of(stat: &rustix::fs::Statx) -> Outcome {
        let is_born = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        let time = if is_born { stat.stx_btime } else { stat.stx_ctime };
        Outcome { hino: stat.stx_ino, time: Timestamp { seconds: time.tv_sec, nanoseconds: time.tv_nsec } }
    }
}
