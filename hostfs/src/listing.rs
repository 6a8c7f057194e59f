//! Directory listings: getdents64(2) through a buffer, cookies as the host's
//! file system gives them.

use crate::fault::fault;
use crate::sys;
use externfs::{DirEntry, Errno, Error, FileKind, Result};
use rustix::fs::SeekFrom;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

/// Enough for some 400 entries; only listings that are being read have one.
const BUFFER_LEN: usize = 16 << 10;

/// An open listing of a host directory.
pub struct Listing {
    pub(crate) fd: OwnedFd,
    ahead: Mutex<Ahead>,
}

/// What was read from the host and not yet told: kernels ask for less at a
/// time than one getdents64(2) gives.
#[derive(Default)]
struct Ahead {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// The cookie of the entry at `start`, or of the descriptor if there is none.
    cookie: u64,
}

/// One record of getdents64(2).
struct Record<'a> {
    entry: DirEntry<'a>,
    len: usize,
}

impl<'a> Record<'a> {
    /// The first record in `bytes`, laid out as `struct linux_dirent64`.
    fn parse(bytes: &'a [u8]) -> Option<Record<'a>> {
        let (ino, rest) = bytes.split_first_chunk::<8>()?;
        let (next, rest) = rest.split_first_chunk::<8>()?;
        let (len, rest) = rest.split_first_chunk::<2>()?;
        let len = usize::from(u16::from_ne_bytes(*len));
        let (&[kind], _) = rest.split_first_chunk::<1>()?;
        let name = bytes.get(19..len)?;
        let name = name.get(..name.iter().position(|&b| b == 0)?)?;
        let entry =
            DirEntry { name, ino: u64::from_ne_bytes(*ino), kind: FileKind::from_dirent_type(kind), next: u64::from_ne_bytes(*next) };
        Some(Record { entry, len })
    }
}

impl Listing {
    pub(crate) fn new(fd: OwnedFd) -> Listing {
        Listing { fd, ahead: Mutex::default() }
    }

    /// See [`externfs::ExternFs::read_dir`]. `emit` is called under this
    /// listing's lock, and must not use the listing.
    pub(crate) fn read(&self, cookie: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        if ahead.cookie != cookie {
            (ahead.start, ahead.end) = (0, 0);
            rustix::fs::seek(&self.fd, SeekFrom::Start(cookie)).map_err(fault("seeking in a directory"))?;
            ahead.cookie = cookie;
        }
        loop {
            if ahead.start == ahead.end && !self.fill(&mut ahead)? {
                return Ok(());
            }
            let unread = ahead.buffer.get(ahead.start..ahead.end).unwrap_or_default();
            let Some(record) = Record::parse(unread) else {
                return Err(Error::because(Errno::EIO, "the host gave a directory record that is cut short"));
            };
            if !emit(&record.entry) {
                return Ok(());
            }
            let (next, len) = (record.entry.next, record.len);
            ahead.start += len;
            ahead.cookie = next;
        }
    }

    /// Reads more; false at the end of the listing.
    fn fill(&self, ahead: &mut Ahead) -> Result<bool> {
        if ahead.buffer.is_empty() {
            ahead.buffer = vec![0; BUFFER_LEN].into();
        }
        let len = sys::get_dents(self.fd.as_fd(), &mut ahead.buffer).map_err(fault("reading a directory"))?;
        (ahead.start, ahead.end) = (0, len);
        if len == 0 {
            // Many listings may be open and read to their ends.
            ahead.buffer = Box::default();
        }
        Ok(len != 0)
    }
}

impl std::fmt::Debug for Listing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listing").field("fd", &self.fd).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn names(listing: &Listing, cookie: u64, max: usize) -> (Vec<Vec<u8>>, u64) {
        let (mut names, mut next) = (Vec::new(), cookie);
        listing
            .read(cookie, &mut |entry| {
                if names.len() == max {
                    return false;
                }
                names.push(entry.name.to_vec());
                next = entry.next;
                true
            })
            .unwrap();
        (names, next)
    }

    #[test]
    fn each_name_once_whatever_the_portions() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..1500 {
            std::fs::write(dir.path().join(format!("file-{number}")), "").unwrap();
        }
        for portion in [1, 7, 400, 100_000] {
            let listing = Listing::new(std::fs::File::open(dir.path()).unwrap().into());
            let (mut seen, mut cookie) = (Vec::new(), 0);
            loop {
                let (names, next) = names(&listing, cookie, portion);
                if names.is_empty() {
                    break;
                }
                seen.extend(names);
                cookie = next;
            }
            assert_eq!(seen.len(), 1502, "with . and ..");
            assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 1502);
        }
    }

    #[test]
    fn a_listing_can_go_back_to_any_cookie() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..50 {
            std::fs::write(dir.path().join(format!("{number}")), "").unwrap();
        }
        let listing = Listing::new(std::fs::File::open(dir.path()).unwrap().into());
        let (first, middle) = names(&listing, 0, 20);
        let (rest, _) = names(&listing, middle, 1000);
        assert_eq!(first.len() + rest.len(), 52);
        assert_eq!(names(&listing, 0, 20).0, first);
        assert_eq!(names(&listing, middle, 1000).0, rest);
    }

    #[test]
    fn a_short_record_is_refused() {
        for len in 0..19 {
            assert!(Record::parse(&vec![1; len]).is_none());
        }
        let mut unterminated = [b'x'; 32];
        unterminated[16..18].copy_from_slice(&32u16.to_ne_bytes());
        assert!(Record::parse(&unterminated).is_none());
    }
}
