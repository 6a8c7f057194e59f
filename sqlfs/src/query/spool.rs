//! [`Answer`]: the rows of a query, kept for those who read them.

use externfs::helper::read_slice;
use externfs::{DataSink, Result};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Answers up to this many bytes are kept in memory: a descriptor costs more.
const SMALL: u64 = 64 << 10;

#[derive(Debug)]
enum Bytes {
    Here(Vec<u8>),
    /// In a file without a name that the worker has filled and sealed.
    There(File),
}

/// What a query has answered. It does not change, whatever the database does.
#[derive(Debug)]
pub struct Answer {
    bytes: Bytes,
    size: u64,
    rows: u64,
    _share: Share,
}

/// The part that an answer has in the bytes of all answers that are open.
#[derive(Debug)]
struct Share(Arc<AtomicU64>, u64);

impl Drop for Share {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Answer {
    /// Takes over what the worker wrote. Its size is looked at, not believed.
    pub(crate) fn new(file: File, rows: u64, most: u64, held: &Arc<AtomicU64>) -> io::Result<Answer> {
        let size = file.metadata()?.len();
        if size > most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let bytes = if size <= SMALL {
            let mut bytes = vec![0; size as usize];
            file.read_exact_at(&mut bytes, 0)?;
            Bytes::Here(bytes)
        } else {
            Bytes::There(file)
        };
        held.fetch_add(size, Ordering::Relaxed);
        Ok(Answer { bytes, size, rows, _share: Share(held.clone(), size) })
    }

    /// In bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How many rows there were.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// As [`externfs::ExternFs::read`].
    ///
    /// # Errors
    /// Those of the sink.
    pub fn read(&self, offset: u64, size: usize, sink: &mut dyn DataSink) -> Result<usize> {
        match &self.bytes {
            Bytes::Here(bytes) => read_slice(bytes, offset, size, sink),
            Bytes::There(file) => Ok(sink.fill_from(file.as_fd(), offset, size)?),
        }
    }

    /// Puts all of it out.
    ///
    /// # Errors
    /// The file cannot be read, or `out` not be written.
    pub fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        let file = match &self.bytes {
            Bytes::Here(bytes) => return out.write_all(bytes),
            Bytes::There(file) => file,
        };
        let mut piece = vec![0; SMALL as usize];
        let mut offset = 0;
        while offset < self.size {
            let length = SMALL.min(self.size - offset) as usize;
            let piece = piece.get_mut(..length).unwrap_or_default();
            file.read_exact_at(piece, offset)?;
            out.write_all(piece)?;
            offset += length as u64;
        }
        Ok(())
    }

    /// All of it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn to_vec(&self) -> io::Result<Vec<u8>> {
        match &self.bytes {
            Bytes::Here(bytes) => Ok(bytes.clone()),
            Bytes::There(file) => {
                let mut bytes = vec![0; self.size as usize];
                file.read_exact_at(&mut bytes, 0)?;
                Ok(bytes)
            }
        }
    }
}
