//! File data between memory and an export.

use externfs::{DataSink, DataSource, WritePlace};
use rustix::io::ReadWriteFlags;
use std::io;
use std::os::fd::BorrowedFd;

/// A buffer that a read fills.
pub(super) struct Buffer<'b> {
    bytes: &'b mut [u8],
    filled: usize,
}

impl<'b> Buffer<'b> {
    pub(super) fn new(bytes: &'b mut [u8]) -> Buffer<'b> {
        Buffer { bytes, filled: 0 }
    }
}

impl DataSink for Buffer<'_> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = self.filled + bytes.len();
        self.bytes.get_mut(self.filled..end).ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(bytes);
        self.filled = end;
        Ok(())
    }

    fn fill_from(&mut self, file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<usize> {
        let end = self.bytes.len().min(self.filled.saturating_add(len));
        let mut done = 0;
        while let Some(rest @ [_, ..]) = self.bytes.get_mut(self.filled..end) {
            match rustix::io::pread(file, rest, offset + done as u64) {
                Ok(0) => break,
                Ok(count) => {
                    self.filled += count;
                    done += count;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Ok(done)
    }

    fn room(&self) -> usize {
        self.bytes.len() - self.filled
    }
}

/// Bytes on their way into a file.
pub(super) struct Bytes<'b>(pub(super) &'b [u8]);

impl DataSource for Bytes<'_> {
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (now, later) = self.0.split_at(buffer.len().min(self.0.len()));
        buffer.get_mut(..now.len()).ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(now);
        self.0 = later;
        Ok(now.len())
    }

    fn drain_to(&mut self, file: BorrowedFd<'_>, place: WritePlace, len: usize, sync: bool) -> io::Result<usize> {
        let (now, _) = self.0.split_at(len.min(self.0.len()));
        let mut flags = ReadWriteFlags::empty();
        flags.set(ReadWriteFlags::DSYNC, sync);
        let offset = match place {
            WritePlace::At(offset) => offset,
            WritePlace::End => {
                flags |= ReadWriteFlags::APPEND;
                0
            }
        };
        let written = if flags.is_empty() {
            rustix::io::pwrite(file, now, offset)?
        } else {
            rustix::io::pwritev2(file, &[io::IoSlice::new(now)], offset, flags)?
        };
        self.0 = self.0.get(written..).unwrap_or_default();
        Ok(written)
    }

    fn remaining(&self) -> usize {
        self.0.len()
    }
}
