//! [`Shared`]: what the callers' threads and the flusher share: the session
//! and what is under way.

use super::change::Change;
use super::database::{self, Checkpoint};
use super::log::{Outcome, Ticket};
use super::rows;
use super::session::{Session, Site};
use crate::host::fault;
use crate::store::Recovered;
use crate::tree::Access;
use externfs::{Errno, Result};
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A log of SQLite's with more pages is brought to an end, even if changes
/// have to wait.
const WAL_PAGES: i64 = 16 << 10;

/// So many inodes are erased at once. Changes wait as long.
const ERASED: usize = 200;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) site: Site,
    pub(super) state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// None before the first use, and after a failure of SQLite.
    pub(super) session: Option<Session>,
    /// Records of changes whose host's step is under way.
    pub(super) in_flight: BTreeSet<u64>,
    /// What opening the database has found.
    pub(super) recovered: Recovered,
    /// The flusher knows that there is something to do.
    pub(super) is_awaited: bool,
    /// The database was open before.
    pub(super) is_known: bool,
    /// Somebody who keeps SQLite's log from its end was complained of.
    pub(super) has_complained: bool,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // What a panic leaves half done is in the log.
        self.state.lock().unwrap_or_else(|poisoned| {
            let mut state = PoisonError::into_inner(poisoned);
            state.session = None;
            state
        })
    }

    /// Commits what has gathered and brings it into the database file.
    /// `connection` is the caller's own, kept from one time to the next.
    pub(super) fn flush(&self, connection: &mut Option<Connection>) {
        let (seq, (mut abandoned, is_littered)) = {
            let mut state = self.lock();
            state.is_awaited = false;
            let Some(seq) = state.commit() else { return };
            (seq, state.session.as_mut().map(Session::take_abandoned).unwrap_or_default())
        };
        match self.move_on(connection, is_littered) {
            Ok((checkpoint, left)) => {
                abandoned.extend(left);
                self.reached(seq, checkpoint);
                self.erase(&abandoned);
            }
            Err(error) => {
                *connection = None;
                tracing::warn!("{error}");
                self.lock().session.iter_mut().for_each(Session::litter);
            }
        }
    }

    /// Makes what is committed durable and moves as much as readers let into
    /// the database file. Returns what a predecessor has not erased, too.
    fn move_on(&self, connection: &mut Option<Connection>, is_littered: bool) -> Result<(Checkpoint, Vec<i64>)> {
        let control = self.site.control.as_fd();
        let conn = match connection {
            Some(conn) => conn,
            None => connection.insert(database::open(control)?),
        };
        let left = if is_littered { rows::abandoned(conn)? } else { Vec::new() };
        database::sync(control)?;
        Ok((database::checkpoint(conn)?, left))
    }

    /// The disk has all up to record `seq`.
    fn reached(&self, seq: u64, checkpoint: Checkpoint) {
        let mut state = self.lock();
        let Some(session) = &mut state.session else { return };
        session.durable = session.durable.max(seq);
        if checkpoint.pages > WAL_PAGES
            && let Err(error) = state.end_wal(&self.site)
        {
            tracing::warn!("{error}");
        }
    }

    /// Deletes what the host cannot bring back any more. Should that fail, the
    /// next session finds what is left.
    fn erase(&self, abandoned: &[i64]) {
        for (part, rows) in abandoned.chunks(ERASED).enumerate() {
            if part > 0 {
                // Whoever waits for the lock is to get it.
                std::thread::sleep(Duration::from_millis(1));
            }
            let mut state = self.lock();
            let Some(session) = &mut state.session else { return };
            if let Err(error) = session.erase(rows) {
                tracing::warn!("{error}");
                state.session = None;
                return;
            }
            if session.is_full() || (part + 1) * ERASED >= abandoned.len() {
                state.commit();
            }
        }
    }
}

impl State {
    pub(super) fn session(&mut self, site: &Site) -> Result<&mut Session> {
        if self.session.as_ref().is_some_and(Session::has_lost_rows) {
            self.session = None;
        }
        match &mut self.session {
            Some(session) => Ok(session),
            none => {
                let (session, recovered) = Session::open(site, !self.is_known, &self.in_flight)?;
                self.is_known = true;
                self.recovered.completed += recovered.completed;
                self.recovered.undone += recovered.undone;
                Ok(none.insert(session))
            }
        }
    }

    /// Writes down what `plan` says, if it is anything.
    pub(super) fn write_down(
        &mut self,
        site: &Site,
        plan: impl FnOnce(&mut Session, &Site) -> Result<Change>,
    ) -> Result<(Change, Option<Ticket>)> {
        if site.access == Access::Read {
            return Err(Errno::EROFS.into());
        }
        let in_flight = self.in_flight.first().copied();
        let session = self.session(site)?;
        let change = plan(session, site)?;
        if change.steps.is_empty() {
            return Ok((change, None));
        }
        if change.doubt.is_some() {
            session.mark(site, in_flight)?;
        }
        let ticket = session.write_down(&change)?;
        Ok((change, Some(ticket)))
    }

    /// The host's step of `change` is done. From the moment that the log says so
    /// it is for whoever opens the database again to write its rows, too.
    pub(super) fn settle(&mut self, site: &Site, ticket: Ticket, change: &Change, outcome: &Outcome) -> Result<()> {
        let log = self.session(site)?.log()?;
        if change.doubt.is_some()
            && let Err(error) = log.done(ticket, *outcome)
        {
            // Then a successor looks at the data tree and finds out.
            tracing::warn!("writing humfs/metadata.log: {error}");
        }
        self.in_flight.remove(&ticket.seq);
        if let Err(error) = self.session(site)?.apply(change, outcome) {
            // It is in the log, and so is all that this batch has lost.
            tracing::warn!("{error}; opening the database again");
            self.session = None;
            self.session(site)?;
        }
        Ok(())
    }

    /// Whether the last step of the change that was settled last found its row.
    pub(super) fn has_changed_a_row(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.conn().changes() == 1)
    }

    /// The host's step failed.
    pub(super) fn give_up(&mut self, site: &Site, ticket: Ticket) {
        // The database may have failed meanwhile, and the log goes with it.
        let log = self.session(site).and_then(|session| session.log());
        let told = log.and_then(|log| log.failed(ticket).map_err(fault("writing humfs/metadata.log")));
        if let Err(error) = told {
            tracing::warn!("{error}");
        }
    }

    /// Commits the batch; returns up to which record. A failure is nobody's
    /// whose change is in the log.
    pub(super) fn commit(&mut self) -> Option<u64> {
        let in_flight = self.in_flight.first().copied();
        let committed = self.session.as_mut()?.commit(in_flight);
        committed
            .inspect_err(|error| {
                tracing::warn!("{error}; changes wait in the log");
                self.session = None;
            })
            .ok()
    }

    /// Brings SQLite's log to its end, while nobody writes.
    pub(super) fn end_wal(&mut self, site: &Site) -> Result<()> {
        let (Some(seq), Some(session)) = (self.commit(), &mut self.session) else { return Ok(()) };
        database::sync(site.control.as_fd())?;
        session.durable = session.durable.max(seq);
        let Checkpoint { pages, moved } = database::checkpoint(session.conn())?;
        if moved < pages && !std::mem::replace(&mut self.has_complained, true) {
            tracing::warn!("somebody reads humfs/metadata.db for so long that humfs/metadata.db-wal grows");
        }
        Ok(())
    }
}
