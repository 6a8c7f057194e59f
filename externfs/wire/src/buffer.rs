//! Both ends of a transport that moves whole messages: [`SliceSource`] over a
//! request that was read into a buffer, [`VecReply`] that collects an answer
//! and hands it on in one piece.
//!
//! A /dev/fuse loop reads a request into a buffer of [`request_len`] bytes,
//! hands `SliceSource::new(&buffer[..n])` to [`crate::Session::handle`] with a
//! [`VecReply`] whose `send` writes to the device, and runs what comes back as
//! [`crate::Outcome::Later`] on a thread of its own with a reply of its own.

use crate::abi;
use crate::transport::{REPLY_HEADER_LEN, Reply};
use externfs::{DataSink, DataSource, WritePlace};
use rustix::io::{Errno, ReadWriteFlags};
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

/// Bytes of a buffer that takes any request of a kernel that agreed to
/// `max_write`; reading from /dev/fuse with less fails with EINVAL.
#[must_use]
pub fn request_len(max_write: u32) -> usize {
    max_write as usize + abi::REQUEST_OVERHEAD
}

/// Reads the bytes of `file` from `offset` on into `buffer`, until it is full or
/// the file has no more; how many that were.
///
/// # Errors
/// What pread(2) says, also after some bytes: a kernel takes fewer than it asked
/// for as the end of the file, and would cut the file off there.
pub fn read_into(file: BorrowedFd<'_>, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while let Some(space) = buffer.get_mut(done..).filter(|space| !space.is_empty()) {
        match rustix::io::pread(file, space, offset.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}

/// A request in one piece.
#[derive(Debug)]
pub struct SliceSource<'a> {
    rest: &'a [u8],
}

impl<'a> SliceSource<'a> {
    /// Of these bytes, front to back.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> SliceSource<'a> {
        SliceSource { rest: bytes }
    }
}

impl DataSource for SliceSource<'_> {
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(self.rest.len());
        let (head, rest) = self.rest.split_at(count);
        buffer.iter_mut().zip(head).for_each(|(to, from)| *to = *from);
        self.rest = rest;
        Ok(count)
    }

    fn drain_to(&mut self, file: BorrowedFd<'_>, place: WritePlace, len: usize, sync: bool) -> io::Result<usize> {
        let len = len.min(self.rest.len());
        let mut flags = ReadWriteFlags::empty();
        flags.set(ReadWriteFlags::DSYNC, sync);
        let offset = match place {
            WritePlace::At(offset) => offset,
            WritePlace::End => {
                flags |= ReadWriteFlags::APPEND;
                // -1, as pwritev2(2) calls "the current position", would move
                // it; with RWF_APPEND any other offset is ignored.
                0
            }
        };
        let mut done = 0;
        while done < len {
            let (head, _) = self.rest.split_at(len - done);
            let at = if flags.contains(ReadWriteFlags::APPEND) { offset } else { offset.saturating_add(done as u64) };
            match rustix::io::pwritev2(file, &[IoSlice::new(head)], at, flags) {
                Ok(0) => break,
                Ok(count) => {
                    done += count;
                    self.rest = self.rest.get(count..).unwrap_or_default();
                }
                Err(Errno::INTR) => {}
                // What has arrived counts; the error comes again with the rest.
                Err(_) if done > 0 => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }

    fn remaining(&self) -> usize {
        self.rest.len()
    }
}

/// An answer that is collected in one piece, header in front, and handed to
/// `send` when it is complete. Made once and used for one answer after the
/// other ([`VecReply::reuse`]): its memory is neither cleared nor given back.
pub struct VecReply<S> {
    bytes: Vec<u8>,
    used: usize,
    room: usize,
    send: S,
}

impl<S> VecReply<S>
where
    S: FnMut(&[u8]) -> io::Result<()> + Send,
{
    /// With room for `capacity` bytes behind the header: what the session
    /// agreed upon as `max_write` is enough for every answer.
    pub fn new(capacity: usize, send: S) -> VecReply<S> {
        VecReply { bytes: vec![0; REPLY_HEADER_LEN], used: 0, room: capacity, send }
    }

    /// Ready for the next answer.
    pub fn reuse(&mut self) {
        self.used = 0;
    }

    /// The next `len` bytes of the buffer. It grows to what is really used:
    /// most answers are short.
    fn space(&mut self, len: usize) -> &mut [u8] {
        let start = REPLY_HEADER_LEN + self.used;
        let end = start + len;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes.get_mut(start..end).unwrap_or_default()
    }
}

impl<S> DataSink for VecReply<S>
where
    S: FnMut(&[u8]) -> io::Result<()> + Send,
{
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > self.room() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} bytes into {} of room", bytes.len(), self.room())));
        }
        self.space(bytes.len()).copy_from_slice(bytes);
        self.used += bytes.len();
        Ok(())
    }

    fn fill_from(&mut self, file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<usize> {
        let done = read_into(file, offset, self.space(len.min(self.room())))?;
        self.used += done;
        Ok(done)
    }

    fn room(&self) -> usize {
        self.room - self.used
    }
}

impl<S> Reply for VecReply<S>
where
    S: FnMut(&[u8]) -> io::Result<()> + Send,
{
    fn rewind(&mut self) {
        self.used = 0;
    }

    fn finish(&mut self, header: [u8; REPLY_HEADER_LEN]) -> io::Result<()> {
        if let Some(space) = self.bytes.first_chunk_mut() {
            *space = header;
        }
        let end = REPLY_HEADER_LEN + self.used;
        (self.send)(self.bytes.get(..end).unwrap_or_default())
    }
}

impl<S> std::fmt::Debug for VecReply<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VecReply").field("used", &self.used).field("room", &self.room).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;
    use std::sync::{Arc, Mutex};

    fn file(contents: &[u8]) -> std::fs::File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(contents).unwrap();
        file
    }

    fn contents(file: &mut std::fs::File) -> Vec<u8> {
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// Our own memory as a file, and an offset from which some bytes can be read
    /// before one that cannot.
    fn file_with_a_bad_sector() -> (std::fs::File, u64, usize) {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let mut readable = Vec::new();
        for line in maps.lines() {
            let (range, rest) = line.split_once(' ').unwrap();
            let (from, to) = range.split_once('-').unwrap();
            readable.push((u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap(), rest.starts_with('r')));
        }
        let ends = |pair: &[(u64, u64, bool)]| pair[0].2 && pair[0].1 != pair[1].0;
        let end = readable.windows(2).find(|pair| ends(pair)).unwrap()[0].1;
        (std::fs::File::open("/proc/self/mem").unwrap(), end - 100, 100)
    }

    #[test]
    fn an_error_after_some_bytes_is_no_end_of_the_file() {
        let (file, offset, good) = file_with_a_bad_sector();
        let mut buffer = vec![0; 4096];
        assert_eq!(read_into(file.as_fd(), offset, &mut buffer[..good]).unwrap(), good);
        assert_eq!(read_into(file.as_fd(), offset, &mut buffer).unwrap_err().raw_os_error(), Some(libc::EIO));
    }

    #[test]
    fn a_source_is_read_front_to_back() {
        let mut source = SliceSource::new(b"abcdef");
        let mut two = [0; 2];
        assert_eq!((source.take(&mut two).unwrap(), &two, source.remaining()), (2, b"ab", 4));
        let mut file = file(b"0123456789");
        assert_eq!(source.drain_to(file.as_fd(), WritePlace::At(4), 2, true).unwrap(), 2);
        assert_eq!(source.drain_to(file.as_fd(), WritePlace::End, 100, false).unwrap(), 2);
        assert_eq!(source.drain_to(file.as_fd(), WritePlace::End, 100, false).unwrap(), 0);
        assert_eq!(contents(&mut file), b"0123cd6789ef");
        assert_eq!(source.take(&mut two).unwrap(), 0);
    }

    #[test]
    fn a_write_lands_where_it_should() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let mut source = SliceSource::new(b"abcdef");
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

    #[test]
    fn a_source_says_why_a_write_failed() {
        let mut source = SliceSource::new(b"abc");
        let error = source.drain_to(std::fs::File::open("/dev/null").unwrap().as_fd(), WritePlace::At(0), 3, false).unwrap_err();
        assert_eq!((error.raw_os_error(), source.remaining()), (Some(libc::EBADF), 3));
    }

    #[test]
    fn a_reply_is_sent_in_one_piece_and_used_again() {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let send = {
            let sent = sent.clone();
            move |message: &[u8]| {
                sent.lock().unwrap().push(message.to_vec());
                Ok(())
            }
        };
        let mut reply = VecReply::new(10, send);
        let file = file(b"0123456789abcdef");
        reply.put(b"ab").unwrap();
        assert_eq!(reply.fill_from(file.as_fd(), 5, 3).unwrap(), 3);
        assert_eq!((reply.room(), reply.put(b"123456").is_err()), (5, true));
        assert_eq!(reply.fill_from(file.as_fd(), 14, 5).unwrap(), 2, "the end of the file");
        assert_eq!(reply.fill_from(file.as_fd(), 0, 100).unwrap(), 3, "no more than fits");
        reply.finish([7; 16]).unwrap();
        reply.reuse();
        reply.put(b"gone").unwrap();
        reply.rewind();
        reply.put(b"x").unwrap();
        reply.finish([8; 16]).unwrap();
        assert_eq!(*sent.lock().unwrap(), [[&[7; 16][..], b"ab567ef012"].concat(), [&[8; 16][..], b"x"].concat()]);
    }

    #[test]
    fn a_reply_says_why_a_read_failed() {
        let mut reply = VecReply::new(10, |_: &[u8]| Ok(()));
        let directory = std::fs::File::open("/").unwrap();
        assert_eq!(reply.fill_from(directory.as_fd(), 0, 5).unwrap_err().raw_os_error(), Some(libc::EISDIR));
        assert_eq!(reply.room(), 10);
    }
}
