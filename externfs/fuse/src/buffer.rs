//! File data on its way: [`ReadBuffer`] takes a READ's, [`WriteSlice`] gives a
//! WRITE's.
//!
//! A READ's data lands in one buffer per worker thread that is kept between
//! requests, so that no request pays for zeroing or mapping memory. (The
//! pages stay with the thread: the largest read so far, 1 MiB as a rule.)

use externfs::{DataSink, DataSource, WritePlace};
use rustix::io::{Errno, ReadWriteFlags};
use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Runs `read` with room for `size` bytes and hands what it put there to
/// `done`, or its error.
pub(crate) fn with_read_buffer<E>(
    size: usize,
    read: impl FnOnce(&mut ReadBuffer<'_>) -> Result<usize, E>,
    done: impl FnOnce(Result<&[u8], E>),
) {
    BUFFER.with_borrow_mut(|bytes| {
        if bytes.len() < size {
            bytes.resize(size, 0);
        }
        let mut sink = ReadBuffer { bytes: bytes.get_mut(..size).unwrap_or_default(), filled: 0 };
        let result = read(&mut sink);
        let filled = sink.filled;
        done(result.map(|_| bytes.get(..filled).unwrap_or_default()));
    });
}

/// Room for what a READ asked for.
pub(crate) struct ReadBuffer<'a> {
    bytes: &'a mut [u8],
    filled: usize,
}

impl ReadBuffer<'_> {
    fn rest(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.filled..).unwrap_or_default()
    }
}

impl DataSink for ReadBuffer<'_> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let target = self.rest().get_mut(..bytes.len()).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        target.copy_from_slice(bytes);
        self.filled += bytes.len();
        Ok(())
    }

    fn fill_from(&mut self, file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<usize> {
        let len = len.min(self.room());
        let mut done = 0;
        while done < len {
            let target = self.rest().get_mut(..len - done).unwrap_or_default();
            match rustix::io::pread(file, target, offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(count) => {
                    self.filled += count;
                    done += count;
                }
                Err(Errno::INTR) => {}
                // What has arrived is worth more than the error: the next read
                // meets it again.
                Err(_) if done > 0 => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }

    fn room(&self) -> usize {
        self.bytes.len() - self.filled
    }
}

/// The data of a WRITE, where the kernel put it.
pub(crate) struct WriteSlice<'a>(pub(crate) &'a [u8]);

impl WriteSlice<'_> {
    fn skip(&mut self, count: usize) {
        self.0 = self.0.get(count..).unwrap_or_default();
    }
}

impl DataSource for WriteSlice<'_> {
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(self.0.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), self.0.get(..count)) {
            to.copy_from_slice(from);
        }
        self.skip(count);
        Ok(count)
    }

    fn drain_to(&mut self, file: BorrowedFd<'_>, place: WritePlace, len: usize, sync: bool) -> io::Result<usize> {
        let len = len.min(self.0.len());
        let mut flags = if sync { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
        let start = match place {
            WritePlace::At(offset) => offset,
            WritePlace::End => {
                flags |= ReadWriteFlags::APPEND;
                0
            }
        };
        let mut done = 0;
        while done < len {
            let bytes = self.0.get(..len - done).unwrap_or_default();
            match rustix::io::pwritev2(file, &[IoSlice::new(bytes)], start.saturating_add(done as u64), flags) {
                Ok(0) => break,
                Ok(count) => {
                    self.skip(count);
                    done += count;
                }
                Err(Errno::INTR) => {}
                Err(_) if done > 0 => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }

    fn remaining(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;

    #[test]
    fn a_read_never_overfills() {
        with_read_buffer::<io::Error>(
            4,
            |sink| {
                sink.put(b"abc")?;
                assert!(sink.put(b"de").is_err());
                assert_eq!(sink.room(), 1);
                sink.put(b"d")?;
                Ok(4)
            },
            |result| assert_eq!(result.unwrap(), b"abcd"),
        );
    }

    #[test]
    fn a_file_fills_only_what_was_asked_for() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        with_read_buffer::<io::Error>(
            16,
            |sink| {
                assert_eq!(sink.fill_from(file.as_fd(), 2, 3)?, 3);
                assert_eq!(sink.fill_from(file.as_fd(), 8, 100)?, 2);
                assert_eq!(sink.fill_from(file.as_fd(), 100, 5)?, 0);
                Ok(5)
            },
            |result| assert_eq!(result.unwrap(), b"23489"),
        );
        // The buffer is the same one: nothing old may show.
        with_read_buffer::<io::Error>(8, |_| Ok(0), |result| assert!(result.unwrap().is_empty()));
    }

    #[test]
    fn a_write_lands_where_it_should() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let mut source = WriteSlice(b"abcdef");
        assert_eq!(source.drain_to(file.as_fd(), WritePlace::At(1), 2, false).unwrap(), 2);
        assert_eq!(source.drain_to(file.as_fd(), WritePlace::End, 2, true).unwrap(), 2);
        let mut rest = [0; 8];
        assert_eq!(source.take(&mut rest).unwrap(), 2);
        assert_eq!(source.remaining(), 0);
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "0ab3456789cd");
    }
}
