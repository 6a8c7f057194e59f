//! [`ReadBuffer`]: a READ's data on its way.
//!
//! A READ's data lands in one buffer per worker thread that is kept between
//! requests, so that no request pays for zeroing or mapping memory. (The
//! pages stay with the thread: the largest read so far, 1 MiB as a rule.)

use externfs::DataSink;
use externfs_wire::buffer::read_into;
use std::cell::RefCell;
use std::io;
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
        let done = read_into(file, offset, self.rest().get_mut(..len).unwrap_or_default())?;
        self.filled += done;
        Ok(done)
    }

    fn room(&self) -> usize {
        self.bytes.len() - self.filled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
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
}
