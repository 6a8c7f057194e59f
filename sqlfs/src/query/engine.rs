//! [`Engine`]: takes questions from any thread and gives them to workers.

use super::channel::{receive, send};
use super::failure::{Failure, Refusal};
use super::frame::{Reply, Request};
use super::keeper::{Keeper, Role};
use super::limits::Limits;
use super::renewal::Renewal;
use super::schema::{Schema, TableKind};
use super::spool::Answer;
use super::worker::{Errand, PATIENCE};
use super::{Allowed, Ask, Catalog, Deed, Source};
use externfs::Errno;
use externfs_catalog::Freshness;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Instant;

/// Bytes of the longest reply, which is a schema.
const LONGEST_REPLY: usize = 64 << 20;

/// See the [module](super).
#[derive(Debug)]
pub struct Engine {
    keeper: Keeper,
    limits: Limits,
    catalogs: Vec<Catalog>,
    renewal: Renewal,
    desk: Mutex<Desk>,
    freed: Condvar,
    held: Arc<AtomicU64>,
    answered: AtomicU64,
    refused: AtomicU64,
    killed: AtomicU64,
}

#[derive(Debug, Default)]
struct Desk {
    readers: Vec<Worker>,
    writers: Vec<Worker>,
    running: usize,
    queued: usize,
}

/// What an engine has done and is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Queries that were answered.
    pub answered: u64,
    /// Queries that were not.
    pub refused: u64,
    /// Workers that had to be killed.
    pub killed: u64,
    /// Queries that run now.
    pub running: usize,
    /// Queries that wait.
    pub queued: usize,
    /// Bytes of the answers that are open.
    pub held: u64,
}

#[derive(Debug)]
struct Worker {
    pid: i32,
    stream: UnixStream,
    /// It has answered before: if it is dead now, the question need not be why.
    used: bool,
}

/// A place among those that run; the next one's when it is dropped.
struct Seat<'e>(&'e Engine);

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.desk().running -= 1;
        self.0.freed.notify_one();
    }
}

/// How a question to one worker ended.
enum End {
    Answered(Reply, Option<OwnedFd>),
    Late,
    /// Of this signal, if any.
    Died(Option<i32>),
}

impl Engine {
    /// Forks the keeper; see the [module](super) when to call it. Whether the
    /// database can be opened is found out by the first query.
    ///
    /// # Errors
    /// The process has several threads; out of descriptors or processes.
    pub fn new(source: Source, allowed: Allowed, limits: Limits) -> io::Result<Engine> {
        let catalogs = source.catalogs().cloned().collect();
        let errand = Errand { source, allowed, limits };
        let keeper = Keeper::start(&errand)?;
        Ok(Engine {
            keeper,
            limits,
            catalogs,
            renewal: Renewal::default(),
            desk: Mutex::default(),
            freed: Condvar::new(),
            held: Arc::default(),
            answered: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            killed: AtomicU64::new(0),
        })
    }

    /// What a query may take.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What it has done and is doing.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let (running, queued) = {
            let desk = self.desk();
            (desk.running, desk.queued)
        };
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Counts {
            answered: read(&self.answered),
            refused: read(&self.refused),
            killed: read(&self.killed),
            held: read(&self.held),
            running,
            queued,
        }
    }

    /// The catalogs that it queries, if it is one, or several.
    #[must_use]
    pub fn catalogs(&self) -> &[Catalog] {
        &self.catalogs
    }

    /// How the catalogs were found before the last query.
    #[must_use]
    pub fn freshness(&self) -> Option<Freshness> {
        self.renewal.last()
    }

    /// Runs a query to its end, over a catalog that has caught up with its tree
    /// as far as that can be had.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn run(&self, ask: Ask) -> Result<Answer, Refusal> {
        self.counted(|| {
            if ask.sql.len() > self.limits.sql {
                let message = format!("the statement has {} bytes of {} at most", ask.sql.len(), self.limits.sql);
                return Err(Refusal::limit(Errno::EFBIG, "sql", message));
            }
            if self.held.load(Ordering::Relaxed) >= self.limits.held {
                return Err(Refusal::limit(Errno::EAGAIN, "held", "the answers that are open are too large together: close some"));
            }
            let seat = self.sit()?;
            self.renew()?;
            match self.ask(&seat, &Request::Query(ask), false)? {
                (Reply::Rows { rows }, Some(file)) => {
                    let kept = Answer::new(File::from(file), rows, self.limits.bytes, &self.held);
                    kept.map_err(|error| Refusal::new(Errno::EIO, format!("the answer cannot be read: {error}")))
                }
                _ => Err(nonsense()),
            }
        })
    }

    /// The catalog must have in it what has been done until now.
    fn renew(&self) -> Result<(), Refusal> {
        if self.catalogs.iter().all(|catalog| catalog.dir.is_none()) {
            return Ok(());
        }
        match self.renewal.ask(&self.keeper, &self.limits) {
            Freshness::Current | Freshness::Reading(_) | Freshness::AtRest | Freshness::Behind(_) | Freshness::Abandoned => Ok(()),
            part @ (Freshness::Building(..) | Freshness::Missing) => Err(Refusal::new(Errno::EAGAIN, part.to_string())),
        }
    }

    /// The tables that are open, as they are now; of a catalog, its views.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn schema(&self) -> Result<Schema, Refusal> {
        match self.ask(&self.sit()?, &Request::Schema, false)? {
            (Reply::Schema(mut schema), _) => {
                if !self.catalogs.is_empty() {
                    schema.tables.retain(|table| table.kind == TableKind::View);
                }
                Ok(schema)
            }
            _ => Err(nonsense()),
        }
    }

    /// Changes rows; how many, and the rowid of the last one inserted.
    ///
    /// # Errors
    /// A constraint, or the database cannot be written.
    pub fn change(&self, deed: Deed) -> Result<(u64, i64), Refusal> {
        self.counted(|| match self.ask(&self.sit()?, &Request::Change(deed), true)? {
            (Reply::Changed { rows, last }, _) => Ok((rows, last)),
            _ => Err(nonsense()),
        })
    }

    fn counted<T>(&self, work: impl FnOnce() -> Result<T, Refusal>) -> Result<T, Refusal> {
        let done = work();
        let number = if done.is_ok() { &self.answered } else { &self.refused };
        number.fetch_add(1, Ordering::Relaxed);
        done
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        // Numbers and workers: right even after a panic elsewhere.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place among those that run.
    fn sit(&self) -> Result<Seat<'_>, Refusal> {
        let mut desk = self.desk();
        if desk.running >= self.limits.running {
            self.queue(&mut desk)?;
            while desk.running >= self.limits.running {
                desk = self.freed.wait(desk).unwrap_or_else(PoisonError::into_inner);
            }
            desk.queued -= 1;
        }
        desk.running += 1;
        Ok(Seat(self))
    }

    fn queue(&self, desk: &mut Desk) -> Result<(), Refusal> {
        if desk.queued >= self.limits.queued {
            return Err(Refusal::limit(Errno::EAGAIN, "queue", "too many queries wait already: try again"));
        }
        desk.queued += 1;
        Ok(())
    }

    /// Takes `lock`. Whoever has it may be running a query, so to wait for it is
    /// to wait for a query, and counts as that: threads are as few.
    pub(crate) fn take<'m, T>(&self, lock: &'m Mutex<T>) -> Result<MutexGuard<'m, T>, Refusal> {
        match lock.try_lock() {
            Ok(guard) => return Ok(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => {}
        }
        if let Err(refusal) = self.queue(&mut self.desk()) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(refusal);
        }
        let guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.desk().queued -= 1;
        Ok(guard)
    }

    fn ask(&self, _: &Seat<'_>, request: &Request, writes: bool) -> Result<(Reply, Option<OwnedFd>), Refusal> {
        let bytes = request.to_bytes();
        let mut again = true;
        loop {
            let worker = match self.idle(writes) {
                Some(worker) => worker,
                None => self.start(writes)?,
            };
            let used = worker.used;
            match self.put(worker, &bytes, writes) {
                End::Answered(Reply::Refused(Failure { refusal, sick }), _) => {
                    if !(sick && again && used) {
                        return Err(refusal);
                    }
                }
                End::Answered(reply, file) => return Ok((reply, file)),
                End::Late => return Err(Refusal::time(self.limits.time)),
                // It may have died while it had nothing to do.
                End::Died(None | Some(libc::SIGKILL)) if again && used => {}
                End::Died(signal) => return Err(death(signal)),
            }
            again = false;
        }
    }

    fn idle(&self, writes: bool) -> Option<Worker> {
        let mut desk = self.desk();
        if writes { desk.writers.pop() } else { desk.readers.pop() }
    }

    fn start(&self, writes: bool) -> Result<Worker, Refusal> {
        let failed = |error: io::Error| Refusal::new(Errno::EIO, format!("no worker: {error}"));
        let started = self.keeper.start_child(if writes { Role::Writer } else { Role::Reader }).map_err(failed)?;
        let worker = Worker { pid: started.pid, stream: started.stream, used: false };
        match self.hear(&worker, Instant::now() + PATIENCE) {
            End::Answered(Reply::Ready, _) => Ok(worker),
            End::Answered(Reply::Refused(failure), _) => {
                self.end(&worker);
                Err(failure.refusal)
            }
            End::Answered(..) | End::Died(_) => {
                self.end(&worker);
                Err(Refusal::new(Errno::EIO, "a worker died before it was ready"))
            }
            End::Late => Err(Refusal::limit(Errno::ETIME, "time", "the database could not be opened in time")),
        }
    }

    /// Asks one worker, and keeps it for the next question if it is well.
    fn put(&self, mut worker: Worker, bytes: &[u8], writes: bool) -> End {
        let deadline = Instant::now() + self.limits.time * 2;
        let end = match send(&worker.stream, bytes, None) {
            Ok(()) => self.hear(&worker, deadline),
            Err(_) => End::Died(self.end(&worker)),
        };
        match &end {
            End::Answered(Reply::Refused(Failure { sick: true, .. }), _) => drop(self.end(&worker)),
            End::Answered(..) => {
                worker.used = true;
                let mut desk = self.desk();
                if writes { &mut desk.writers } else { &mut desk.readers }.push(worker);
            }
            End::Late | End::Died(_) => {}
        }
        end
    }

    fn hear(&self, worker: &Worker, deadline: Instant) -> End {
        match receive(&worker.stream, LONGEST_REPLY, Some(deadline)) {
            Ok(Some((bytes, file))) => match Reply::from_bytes(&bytes) {
                Some(reply) => End::Answered(reply, file),
                None => End::Died(self.end(worker)),
            },
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                self.killed.fetch_add(1, Ordering::Relaxed);
                self.end(worker);
                End::Late
            }
            Ok(None) | Err(_) => End::Died(self.end(worker)),
        }
    }

    fn end(&self, worker: &Worker) -> Option<i32> {
        self.keeper.end(worker.pid).unwrap_or_else(|error| {
            tracing::error!("{error}");
            None
        })
    }
}

fn nonsense() -> Refusal {
    Refusal::new(Errno::EIO, "a worker answered something else than it was asked")
}

/// What a worker dies of are the limits that SQLite does not know.
fn death(signal: Option<i32>) -> Refusal {
    match signal {
        Some(libc::SIGABRT) => Refusal::limit(Errno::EFBIG, "heap", "it takes more memory than it may"),
        Some(libc::SIGXFSZ) => Refusal::limit(Errno::EFBIG, "bytes", "the answer is larger than it may be: ask for less of it"),
        Some(libc::SIGXCPU) => Refusal::limit(Errno::ETIME, "time", "stopped: it has used up the worker's processor time"),
        Some(signal) => Refusal::new(Errno::EIO, format!("the worker was killed by signal {signal}")),
        None => Refusal::new(Errno::EIO, "the worker is gone"),
    }
}
