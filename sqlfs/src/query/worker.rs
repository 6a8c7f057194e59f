//! The worker: opens the database, shuts itself in, answers until nobody asks.

use super::channel::{receive, send};
use super::confine::{self, Needs};
use super::failure::{Failure, Refusal};
use super::frame::{Reply, Request};
use super::limits::Limits;
use super::session::Session;
use super::{Allowed, Source};
use externfs::Errno;
use rustix::fs::{MemfdFlags, SealFlags};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// What a worker is for.
#[derive(Clone, Debug)]
pub(crate) struct Errand {
    pub(crate) source: Source,
    pub(crate) allowed: Allowed,
    pub(crate) limits: Limits,
}

impl Errand {
    /// Bytes of the longest request: a statement and its arguments, one of
    /// which may be as large as an answer.
    pub(crate) fn longest_request(limits: &Limits) -> usize {
        limits.bytes as usize + limits.sql + (1 << 20)
    }
}

/// Serves `stream`; returns an exit code.
pub(crate) fn work(stream: &UnixStream, errand: &Errand, writes: bool) -> i32 {
    let mut session = match begin(errand, writes) {
        Ok(session) => session,
        Err(failure) => {
            let _ = send(stream, &Reply::Refused(failure).to_bytes(), None);
            return 1;
        }
    };
    if send(stream, &Reply::Ready.to_bytes(), None).is_err() {
        return 1;
    }
    let most = Errand::longest_request(&errand.limits);
    while let Ok(Some((bytes, _))) = receive(stream, most, None) {
        let Some(request) = Request::from_bytes(&bytes) else { return 1 };
        let (reply, file) = answer(&mut session, &request, &errand.limits);
        if send(stream, &reply.to_bytes(), file.as_ref().map(AsFd::as_fd)).is_err() {
            return 1;
        }
        let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        if used.tv_sec as u64 >= confine::LIFE_SECONDS / 2 {
            return 0;
        }
    }
    0
}

fn begin(errand: &Errand, writes: bool) -> Result<Session, Failure> {
    let mut session = Session::open(errand, writes)?;
    let limits = &errand.limits;
    // SQLite makes a journal beside what a link leads to.
    let real = std::fs::canonicalize(&errand.source.path).unwrap_or_else(|_| errand.source.path.clone());
    let directory = real.parent().filter(|_| writes);
    let needs = Needs {
        seconds: confine::LIFE_SECONDS.max(limits.time.as_secs().saturating_mul(4)),
        // SQLite's heap; a table, which is kept whole; a request; the rest.
        memory: limits.heap + 4 * limits.bytes + (64 << 20),
        file: (!writes).then_some(limits.bytes + (1 << 20)),
        directory,
        owner: rustix::fs::stat(&errand.source.path).ok().filter(|_| !writes).map(|there| (there.st_uid, there.st_gid)),
    };
    confine::enter(&needs).map_err(|reason| Refusal::new(Errno::EIO, format!("a worker cannot be confined: {reason}")))?;
    session.forget_what_is_out_of_sight();
    Ok(session)
}

fn answer(session: &mut Session, request: &Request, limits: &Limits) -> (Reply, Option<File>) {
    let done = match request {
        Request::Query(ask) => spool().and_then(|mut file| {
            let rows = session.query(ask, &mut file, limits)?;
            seal(&file).map_err(|error| broken(&error))?;
            Ok((Reply::Rows { rows }, Some(file)))
        }),
        Request::Schema => session.schema().map(|schema| (Reply::Schema(schema), None)),
        Request::Change(deed) => session.change(deed).map(|(rows, last)| (Reply::Changed { rows, last }, None)),
    };
    done.unwrap_or_else(|failure| (Reply::Refused(failure), None))
}

fn broken(error: &io::Error) -> Failure {
    Refusal::new(Errno::EIO, format!("the answer cannot be kept: {error}")).into()
}

fn spool() -> Result<File, Failure> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    rustix::fs::memfd_create("answer", flags).map(File::from).map_err(|error| broken(&error.into()))
}

/// Nobody changes it under those who read.
fn seal(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fcntl_add_seals(file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL)?)
}

/// How long opening a database may take, which may have a journal to look at
/// and a large schema to read.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
