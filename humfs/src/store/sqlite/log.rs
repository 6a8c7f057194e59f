//! [`Log`]: changes that the database has not yet committed. One write to a
//! file, without waiting for the disk, is what a change costs to survive the
//! death of the process; a transaction of SQLite's costs five times as much.
//!
//! There are two files, `metadata.log.0` and `metadata.log.1`. One grows; when
//! it is long and all that is in the other is in the database for good, the
//! other is begun anew. A file is read from its start for as long as checksums
//! are right and numbers follow each other: what an earlier round left behind
//! the end has lower numbers, and a log beside another database than its own
//! has other checksums.
//!
//! ```text
//! offset  bytes  what (numbers little-endian)
//!      0      4  length of the change
//!      4      4  CRC-32 (IEEE) of: the database's tag (8), this length, the
//!                record's number, the change
//!      8      8  number of the record
//!     16      8  inode number on the host of what was made
//!     24     12  when it was made: seconds (8), nanoseconds (4)
//!     36      1  0: the host's step may be done or not; 1: done; 2: failed
//!     37      3  0
//!     40         the change
//! ```
//! What is at 16 to 36 is written when the host's step is over.

use crate::host::{self, Fault, fault};
use externfs::{Result, Timestamp};
use rustix::fs::OFlags;
use rustix::io::Errno as Host;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

const NAMES: [&CStr; 2] = [c"metadata.log.0", c"metadata.log.1"];

/// A file that is longer is left for the other if that may be begun anew.
const LONG: u64 = 1 << 20;

/// No file grows longer. It only gets near if the database cannot be written.
const MAX: u64 = 64 << 20;

/// Numbers of records are lower. Nobody gets there who counts from 1.
pub(super) const SEQ_END: u64 = 1 << 62;

const HEAD: usize = 40;
const OUTCOME: usize = 16;
const STATUS: usize = 36;

const DONE: u8 = 1;
const FAILED: u8 = 2;

/// How the host's step went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Status {
    Unknown,
    Done,
    Failed,
}

/// What the host's step made, if it made something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Outcome {
    pub(super) hino: u64,
    pub(super) time: Timestamp,
}

/// A record's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ticket {
    pub(super) seq: u64,
    file: usize,
    offset: u64,
}

/// A record as it is found.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) ticket: Ticket,
    pub(super) status: Status,
    pub(super) outcome: Outcome,
    pub(super) change: Vec<u8>,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Log {
    files: [File; 2],
    active: usize,
    next: u64,
    tag: u64,
}

#[derive(Debug)]
struct File {
    fd: Arc<OwnedFd>,
    len: u64,
    /// Number of the last record in it.
    last: u64,
}

impl Log {
    /// Opens or makes the files, and returns what is in them after record
    /// number `after`, in order.
    pub(super) fn open(control: BorrowedFd<'_>, tag: u64, after: u64) -> Result<(Log, Vec<Entry>)> {
        let (first, mut entries) = File::open(control, 0, tag)?;
        let (second, more) = File::open(control, 1, tag)?;
        let active = usize::from(second.last > first.last);
        let next = first.last.max(second.last).max(after) + 1;
        entries.extend(more);
        entries.sort_unstable_by_key(|entry| entry.ticket.seq);
        entries.retain(|entry| entry.ticket.seq > after);
        // After a power failure a record may be missing: what follows it was
        // never promised, and makes no sense without it.
        let whole = entries.iter().zip(after + 1..).take_while(|(entry, seq)| entry.ticket.seq == *seq).count();
        if whole < entries.len() {
            tracing::warn!("humfs/metadata.log: {} records follow a gap and are left out", entries.len() - whole);
        }
        entries.truncate(whole);
        let mut log = Log { files: [first, second], active, next, tag };
        if log.active_file().last + 1 != next {
            log.active_file_mut().len = 0;
        }
        Ok((log, entries))
    }

    /// The files of the log in `control` hold nothing that the database, at
    /// record `after`, does not.
    pub(super) fn is_settled(control: BorrowedFd<'_>, tag: u64, after: u64) -> Result<bool> {
        for name in NAMES {
            let run = match host::open_file(control, name, OFlags::RDONLY) {
                Ok(fd) => read(fd.as_fd(), 0, tag).map_err(fault("reading humfs/metadata.log"))?.1,
                Err(Host::NOENT) => continue,
                Err(other) => return Err(fault("opening humfs/metadata.log")(other)),
            };
            if run.iter().any(|entry| entry.ticket.seq == after + 1) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn active_file(&self) -> &File {
        let [first, second] = &self.files;
        if self.active == 0 { first } else { second }
    }

    fn active_file_mut(&mut self) -> &mut File {
        let [first, second] = &mut self.files;
        if self.active == 0 { first } else { second }
    }

    fn fd_of(&self, ticket: Ticket) -> BorrowedFd<'_> {
        let [first, second] = &self.files;
        if ticket.file == 0 { first.fd.as_fd() } else { second.fd.as_fd() }
    }

    /// Number of the record that was written last.
    pub(super) fn last(&self) -> u64 {
        self.next - 1
    }

    /// Writes `change` down. `status` is [`Status::Done`] if no step of the
    /// host's goes with it. All up to record `durable` is in the database for
    /// good.
    pub(super) fn append(&mut self, change: &[u8], status: Status, durable: u64) -> Fault<Ticket> {
        self.choose(durable);
        let (seq, tag, file) = (self.next, self.tag, self.active);
        let len = u32::try_from(change.len()).map_err(|_| Host::NOSPC)?;
        let target = self.active_file_mut();
        let offset = target.len;
        let end = offset + HEAD as u64 + u64::from(len);
        if end > MAX {
            return Err(Host::NOSPC);
        }
        let mut bytes = Vec::with_capacity(HEAD + change.len());
        bytes.extend(len.to_le_bytes());
        bytes.extend(sum(tag, len, seq, change).to_le_bytes());
        bytes.extend(seq.to_le_bytes());
        bytes.extend([0; HEAD - OUTCOME]);
        if let Some(byte) = bytes.get_mut(STATUS) {
            *byte = if status == Status::Done { DONE } else { 0 };
        }
        bytes.extend(change);
        write_at(target.fd.as_fd(), &bytes, offset)?;
        (target.len, target.last) = (end, seq);
        self.next += 1;
        Ok(Ticket { seq, file, offset })
    }

    /// Goes over to a file that may be begun anew if the present one is long.
    fn choose(&mut self, durable: u64) {
        if self.active_file().len < LONG {
            return;
        }
        for choice in [self.active, 1 - self.active] {
            self.active = choice;
            if self.active_file().last <= durable {
                self.active_file_mut().len = 0;
                return;
            }
        }
        self.active = 1 - self.active;
    }

    /// Whether so much has gathered that the database should be made durable now.
    pub(super) fn is_full(&self) -> bool {
        self.active_file().len > MAX / 4
    }

    /// The host's step of a record is done.
    pub(super) fn done(&self, ticket: Ticket, outcome: Outcome) -> Fault<()> {
        let mut bytes = Vec::with_capacity(STATUS + 1 - OUTCOME);
        bytes.extend(outcome.hino.to_le_bytes());
        bytes.extend(outcome.time.seconds.to_le_bytes());
        bytes.extend(outcome.time.nanoseconds.to_le_bytes());
        bytes.push(DONE);
        write_at(self.fd_of(ticket), &bytes, ticket.offset + OUTCOME as u64)
    }

    /// The host's step of a record failed: the record means nothing.
    pub(super) fn failed(&self, ticket: Ticket) -> Fault<()> {
        write_at(self.fd_of(ticket), &[FAILED], ticket.offset + STATUS as u64)
    }

    /// What must be synced for all records to be durable.
    pub(super) fn files(&self) -> [Arc<OwnedFd>; 2] {
        let [first, second] = &self.files;
        [first.fd.clone(), second.fd.clone()]
    }

    /// Empties the files: all is in the database for good.
    pub(super) fn clear(&mut self) -> Fault<()> {
        for file in &mut self.files {
            rustix::fs::ftruncate(&file.fd, 0)?;
            (file.len, file.last) = (0, 0);
        }
        Ok(())
    }
}

impl File {
    fn open(control: BorrowedFd<'_>, index: usize, tag: u64) -> Result<(File, Vec<Entry>)> {
        let name = if index == 0 { NAMES[0] } else { NAMES[1] };
        let opened = match host::open_file(control, name, OFlags::RDWR) {
            Err(Host::NOENT) => create(control, name),
            opened => opened,
        };
        let fd = opened.map_err(fault("opening humfs/metadata.log"))?;
        let (len, entries) = read(fd.as_fd(), index, tag).map_err(fault("reading humfs/metadata.log"))?;
        let last = entries.last().map_or(0, |entry| entry.ticket.seq);
        Ok((File { fd: Arc::new(fd), len, last }, entries))
    }
}

/// Makes a file whose contents can be synced from then on: its name is durable.
fn create(control: BorrowedFd<'_>, name: &CStr) -> Fault<OwnedFd> {
    let fd = host::open_file(control, name, OFlags::CREATE | OFlags::RDWR)?;
    rustix::fs::fsync(host::open_listing(control)?)?;
    Ok(fd)
}

/// All records from the start of a file, and where they end.
fn read(fd: BorrowedFd<'_>, file: usize, tag: u64) -> Fault<(u64, Vec<Entry>)> {
    let size = rustix::fs::fstat(fd)?.st_size as u64;
    let bytes = host::read_fd(fd, size.min(MAX) as usize)?;
    let (mut rest, mut offset, mut entries) = (&bytes[..], 0u64, Vec::<Entry>::new());
    while let Some((ticket_seq, status, outcome, change, after)) = parse(rest, tag) {
        if entries.last().is_some_and(|before| before.ticket.seq.checked_add(1) != Some(ticket_seq)) {
            break;
        }
        let ticket = Ticket { seq: ticket_seq, file, offset };
        entries.push(Entry { ticket, status, outcome, change: change.to_vec() });
        offset += (HEAD + change.len()) as u64;
        rest = after;
    }
    Ok((offset, entries))
}

type Parsed<'a> = (u64, Status, Outcome, &'a [u8], &'a [u8]);

/// The first record in `bytes`, and what follows it.
fn parse(bytes: &[u8], tag: u64) -> Option<Parsed<'_>> {
    let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
    let word = |at: usize| head.get(at..)?.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes));
    let long = |at: usize| head.get(at..)?.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
    let (len, seq) = (word(0)?, long(8)?);
    let (change, after) = rest.split_at_checked(len as usize)?;
    if sum(tag, len, seq, change) != word(4)? || seq >= SEQ_END {
        return None;
    }
    let status = match *head.get(STATUS)? {
        DONE => Status::Done,
        FAILED => Status::Failed,
        _ => Status::Unknown,
    };
    let outcome = Outcome { hino: long(OUTCOME)?, time: Timestamp { seconds: long(24)? as i64, nanoseconds: word(32)? } };
    Some((seq, status, outcome, change, after))
}

fn sum(tag: u64, len: u32, seq: u64, change: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&tag.to_le_bytes());
    hasher.update(&len.to_le_bytes());
    hasher.update(&seq.to_le_bytes());
    hasher.update(change);
    hasher.finalize()
}

fn write_at(fd: BorrowedFd<'_>, mut bytes: &[u8], mut offset: u64) -> Fault<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(fd, bytes, offset) {
            Ok(0) => return Err(Host::IO),
            Ok(count) => {
                bytes = bytes.get(count..).unwrap_or_default();
                offset += count as u64;
            }
            Err(Host::INTR) => {}
            Err(other) => return Err(other),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: u64 = 0x1234_5678_9abc_def0;

    fn open(dir: &std::path::Path, after: u64) -> (Log, Vec<Entry>) {
        Log::open(std::fs::File::open(dir).unwrap().as_fd(), TAG, after).unwrap()
    }

    fn found(dir: &std::path::Path, after: u64) -> Vec<(u64, Status, Vec<u8>)> {
        open(dir, after).1.into_iter().map(|entry| (entry.ticket.seq, entry.status, entry.change)).collect()
    }

    #[test]
    fn a_successor_finds_what_was_written_and_how_it_went() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, none) = open(dir.path(), 0);
        assert!(none.is_empty());
        let made = log.append(b"made", Status::Unknown, 0).unwrap();
        let outcome = Outcome { hino: 77, time: Timestamp { seconds: -5, nanoseconds: 6 } };
        log.done(made, outcome).unwrap();
        let failed = log.append(b"failed", Status::Unknown, 0).unwrap();
        log.failed(failed).unwrap();
        log.append(b"in between", Status::Unknown, 0).unwrap();
        log.append(b"", Status::Done, 0).unwrap();
        let (_, entries) = open(dir.path(), 0);
        assert_eq!(entries[0].outcome, outcome);
        let all = [
            (1, Status::Done, b"made".to_vec()),
            (2, Status::Failed, b"failed".to_vec()),
            (3, Status::Unknown, b"in between".to_vec()),
            (4, Status::Done, b"".to_vec()),
        ];
        assert_eq!(found(dir.path(), 0), all);
        assert_eq!(found(dir.path(), 2), all[2..]);
        assert!(found(dir.path(), 4).is_empty());
    }

    #[test]
    fn a_torn_record_is_the_end_and_is_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = open(dir.path(), 0);
        log.append(b"whole", Status::Done, 0).unwrap();
        log.append(b"torn", Status::Done, 0).unwrap();
        let path = dir.path().join("metadata.log.0");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.pop();
        std::fs::write(&path, &bytes).unwrap();
        let (mut log, entries) = open(dir.path(), 0);
        assert_eq!(entries.len(), 1);
        log.append(b"another", Status::Done, 0).unwrap();
        assert_eq!(found(dir.path(), 0)[1], (2, Status::Done, b"another".to_vec()));
    }

    #[test]
    fn files_are_begun_anew_and_nothing_is_lost_or_found_twice() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = open(dir.path(), 0);
        let change = vec![7; 10_000];
        // The database follows at some distance.
        let mut durable = 0;
        for seq in 1..=2_000u64 {
            log.append(&change, Status::Done, durable).unwrap();
            if seq % 70 == 0 {
                durable = seq - 30;
                let numbers: Vec<u64> = open(dir.path(), durable).1.iter().map(|entry| entry.ticket.seq).collect();
                assert_eq!(numbers, (durable + 1..=seq).collect::<Vec<_>>());
            }
        }
        for name in ["metadata.log.0", "metadata.log.1"] {
            assert!(std::fs::metadata(dir.path().join(name)).unwrap().len() < 2 << 20);
        }
    }

    #[test]
    fn what_follows_a_gap_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = open(dir.path(), 0);
        for _ in 0..5 {
            log.append(b"change", Status::Done, 0).unwrap();
        }
        // The database was put back to an older state than the log begins at.
        std::fs::write(dir.path().join("metadata.log.1"), b"").unwrap();
        let (mut log, entries) = open(dir.path(), 7);
        assert!(entries.is_empty());
        assert_eq!(log.append(b"new", Status::Done, 0).unwrap().seq, 8);
        assert_eq!(found(dir.path(), 7).len(), 1);
        assert!(found(dir.path(), 6).is_empty());
    }

    #[test]
    fn a_log_belongs_to_its_database() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), 0).0.append(b"change", Status::Done, 0).unwrap();
        let control = std::fs::File::open(dir.path()).unwrap();
        assert!(!Log::is_settled(control.as_fd(), TAG, 0).unwrap());
        assert!(Log::is_settled(control.as_fd(), TAG, 1).unwrap());
        assert!(Log::is_settled(control.as_fd(), TAG + 1, 0).unwrap());
        assert!(Log::open(control.as_fd(), TAG + 1, 0).unwrap().1.is_empty());
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = open(dir.path(), 0);
        let change = vec![0; 8 << 20];
        let refused = (0..20).find_map(|_| log.append(&change, Status::Done, 0).err());
        assert_eq!(refused, Some(Host::NOSPC));
        assert!(log.is_full());
    }
}
