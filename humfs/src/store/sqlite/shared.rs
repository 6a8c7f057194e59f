//! [`Shared`]: what the callers' threads and the flusher share: the session
//! and what is under way.

use super::change::Change;
use super::database;
use super::log::{Outcome, Ticket};
use super::session::{Session, Site};
use crate::store::Recovered;
use externfs::Result;
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A log of SQLite's with more pages is brought to an end, even if somebody
/// has to wait.
const WAL_PAGES: i64 = 16 << 10;

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
        let committed = {
            let mut state = self.lock();
            state.is_awaited = false;
            state.commit()
        };
        let Some(seq) = committed else { return };
        match self.move_on(connection) {
            Ok(pages) => {
                let mut state = self.lock();
                let Some(session) = &mut state.session else { return };
                session.durable = session.durable.max(seq);
                if pages > WAL_PAGES
                    && let Err(error) = state.end_wal()
                {
                    tracing::warn!("{error}");
                }
            }
            Err(error) => {
                *connection = None;
                tracing::warn!("{error}");
            }
        }
    }

    /// Makes what is committed durable and moves as much as readers let into
    /// the database file. Returns how many pages SQLite's log has.
    pub(super) fn move_on(&self, connection: &mut Option<Connection>) -> Result<i64> {
        let control = self.site.control.as_fd();
        database::sync(control)?;
        let conn = match connection {
            Some(conn) => conn,
            None => connection.insert(database::open(control)?),
        };
        database::checkpoint(conn, "PASSIVE")
    }
}

impl State {
    pub(super) fn session(&mut self, site: &Site) -> Result<&mut Session> {
        match &mut self.session {
            Some(session) => Ok(session),
            none => {
                let (session, recovered) = Session::open(site)?;
                self.recovered.completed += recovered.completed;
                self.recovered.undone += recovered.undone;
                Ok(none.insert(session))
            }
        }
    }

    /// The host's step of `change` is done.
    pub(super) fn settle(&mut self, site: &Site, ticket: Ticket, change: &Change, outcome: &Outcome) -> Result<()> {
        let session = self.session(site)?;
        if change.doubt.is_some()
            && let Err(error) = session.log()?.done(ticket, *outcome)
        {
            // Then a successor looks at the data tree and finds out.
            tracing::warn!("writing humfs/metadata.log: {error}");
        }
        if let Err(error) = session.apply(change, outcome) {
            // It is in the log, and so is all that this batch has lost.
            tracing::warn!("{error}; opening the database again");
            self.session = None;
            self.session(site)?;
        }
        Ok(())
    }

    /// The host's step failed.
    pub(super) fn give_up(&mut self, ticket: Ticket) {
        if let Some(log) = self.session.as_ref().and_then(|session| session.log().ok())
            && let Err(error) = log.failed(ticket)
        {
            tracing::warn!("writing humfs/metadata.log: {error}");
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

    /// Brings SQLite's log to its end, for which nobody may write.
    pub(super) fn end_wal(&mut self) -> Result<()> {
        let (Some(seq), Some(session)) = (self.commit(), &mut self.session) else { return Ok(()) };
        if database::checkpoint(session.conn(), "TRUNCATE")? > 0 {
            tracing::warn!("somebody reads humfs/metadata.db for so long that humfs/metadata.db-wal grows");
        } else {
            session.durable = session.durable.max(seq);
        }
        Ok(())
    }
}
