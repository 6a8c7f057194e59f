//! What makes a small plugin small: data from memory, listings from a slice,
//! attributes from four facts.

use crate::data::DataSink;
use crate::error::Result;
use crate::types::{Attr, DeviceNumber, DirEntry, FileKind, GuestGid, GuestUid, Mode, Timestamp};

/// Answers a read from bytes in memory.
///
/// # Errors
/// Those of the sink.
pub fn read_slice(bytes: &[u8], offset: u64, size: usize, sink: &mut dyn DataSink) -> Result<usize> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    let wanted = &bytes[start..bytes.len().min(start.saturating_add(size))];
    sink.put(wanted)?;
    Ok(wanted.len())
}

/// Answers a listing from names that stay in one order: cookies are positions.
/// Adds `.` and `..`.
pub fn list<'a>(names: impl IntoIterator<Item = (&'a [u8], u64, FileKind)>, cookie: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) {
    let dots = [(&b"."[..], 0, FileKind::Directory), (b"..", 0, FileKind::Directory)];
    let from = usize::try_from(cookie).unwrap_or(usize::MAX);
    for (position, (name, ino, kind)) in dots.into_iter().chain(names).enumerate().skip(from) {
        if !emit(&DirEntry { name, ino, kind: Some(kind), next: position as u64 + 1 }) {
            return;
        }
    }
}

/// Attributes of an object that root owns and that has no history.
#[must_use]
pub fn plain_attr(ino: u64, kind: FileKind, mode: u32, size: u64) -> Attr {
    let epoch = Timestamp::default();
    Attr {
        ino,
        size,
        blocks: size.div_ceil(512),
        block_size: 4096,
        kind,
        mode: Mode::new(mode),
        nlink: if kind == FileKind::Directory { 2 } else { 1 },
        uid: GuestUid(0),
        gid: GuestGid(0),
        device: DeviceNumber::default(),
        atime: epoch,
        mtime: epoch,
        ctime: epoch,
        btime: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::os::fd::BorrowedFd;

    struct Sink(Vec<u8>, usize);

    impl DataSink for Sink {
        fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
            assert!(bytes.len() <= self.room());
            self.0.extend_from_slice(bytes);
            Ok(())
        }
        fn fill_from(&mut self, _: BorrowedFd<'_>, _: u64, _: usize) -> io::Result<usize> {
            Err(io::ErrorKind::Unsupported.into())
        }
        fn room(&self) -> usize {
            self.1 - self.0.len()
        }
    }

    #[test]
    fn a_slice_is_read_within_its_bounds() {
        for (offset, size, expected) in [(0, 3, &b"abc"[..]), (2, 100, b"cde"), (5, 1, b""), (6, 1, b""), (u64::MAX, 4, b""), (0, 0, b"")] {
            let mut sink = Sink(Vec::new(), 200);
            assert_eq!(read_slice(b"abcde", offset, size, &mut sink), Ok(expected.len()), "{offset} {size}");
            assert_eq!(sink.0, expected);
        }
    }

    #[test]
    fn a_listing_resumes_where_it_stopped() {
        let names = [(&b"a"[..], 7, FileKind::Regular), (b"b", 8, FileKind::Fifo)];
        let mut seen = Vec::new();
        let mut cookie = 0;
        // One entry at a time, as with the smallest buffer.
        loop {
            let mut got = None;
            list(names, cookie, &mut |entry| {
                let first = got.is_none();
                if first {
                    got = Some((entry.name.to_vec(), entry.next));
                }
                first
            });
            let Some((name, next)) = got else { break };
            seen.push(name);
            cookie = next;
        }
        assert_eq!(seen, [&b"."[..], b"..", b"a", b"b"]);
    }
}
