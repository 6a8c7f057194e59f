//! A descriptor chain as the FUSE protocol sees it: [`ChainSource`] is its
//! readable part, [`ChainReply`] its writable one. File data goes between a
//! host file and guest memory by one system call, without a copy.

use crate::fence::Spans;
use externfs::{DataSink, DataSource, WritePlace};
use externfs_wire::{REPLY_HEADER_LEN, Reply};
use std::io;
use std::os::fd::BorrowedFd;

/// The readable part: a request.
pub(crate) struct ChainSource {
    spans: Spans,
}

impl ChainSource {
    pub(crate) fn new(spans: Spans) -> ChainSource {
        ChainSource { spans }
    }

    /// From the front again.
    pub(crate) fn rewind(&mut self) {
        self.spans.rewind();
    }

    /// Copies the first bytes once more, wherever the reading has got to.
    pub(crate) fn peek_start(&mut self, buffer: &mut [u8]) -> usize {
        self.spans.rewind();
        self.spans.copy_out(buffer)
    }
}

impl DataSource for ChainSource {
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.spans.copy_out(buffer))
    }

    fn drain_to(&mut self, file: BorrowedFd<'_>, place: WritePlace, len: usize, sync: bool) -> io::Result<usize> {
        let durable = if sync { libc::RWF_DSYNC } else { 0 };
        match place {
            WritePlace::At(offset) => self.spans.write_to(file, offset, len, durable),
            WritePlace::End => self.spans.write_to(file, 0, len, durable | libc::RWF_APPEND),
        }
    }

    fn remaining(&self) -> usize {
        self.spans.remaining()
    }
}

/// The writable part: room for an answer. The payload goes behind the place
/// of the header, which comes last.
pub(crate) struct ChainReply {
    spans: Spans,
    /// Bytes of payload so far.
    payload: usize,
    /// Bytes of the finished answer; 0 where there was no room for one.
    finished: u32,
}

impl ChainReply {
    pub(crate) fn new(mut spans: Spans) -> ChainReply {
        spans.skip(REPLY_HEADER_LEN);
        ChainReply { spans, payload: 0, finished: 0 }
    }

    /// How long the answer is; 0 where none was made.
    pub(crate) fn len(&self) -> u32 {
        self.finished
    }

    fn no_room() -> io::Error {
        io::Error::from_raw_os_error(libc::EINVAL)
    }
}

impl DataSink for ChainReply {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > self.room() {
            return Err(ChainReply::no_room());
        }
        self.payload += self.spans.copy_in(bytes);
        Ok(())
    }

    fn fill_from(&mut self, file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<usize> {
        let count = self.spans.read_from(file, offset, len)?;
        self.payload += count;
        Ok(count)
    }

    fn room(&self) -> usize {
        self.spans.remaining()
    }
}

impl Reply for ChainReply {
    fn rewind(&mut self) {
        self.spans.rewind();
        self.spans.skip(REPLY_HEADER_LEN);
        self.payload = 0;
    }

    fn finish(&mut self, header: [u8; REPLY_HEADER_LEN]) -> io::Result<()> {
        let length = u32::try_from(REPLY_HEADER_LEN + self.payload).map_err(|_| ChainReply::no_room())?;
        self.spans.rewind();
        if self.spans.copy_in(&header) < REPLY_HEADER_LEN {
            return Err(ChainReply::no_room());
        }
        self.finished = length;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Memory, RegionPlace};
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use std::io::{Read, Seek, SeekFrom, Write};
    use std::os::fd::AsFd;
    use std::sync::Arc;
    use vm_memory::{Bytes, GuestAddress};

    fn memory() -> Arc<Memory> {
        let table = [0, 0x4000].map(|guest_address| {
            let fd = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
            ftruncate(&fd, 0x4000).unwrap();
            (RegionPlace { guest_address, size: 0x4000, user_address: guest_address, file_offset: 0 }, fd)
        });
        Arc::new(Memory::map(table.into()).unwrap())
    }

    fn spans(memory: &Arc<Memory>, pieces: &[(u64, usize)]) -> Spans {
        let mut spans = Spans::new(Arc::clone(memory));
        for (address, len) in pieces {
            spans.push(GuestAddress(*address), *len).unwrap();
        }
        spans
    }

    #[test]
    fn a_request_is_read_across_pieces_and_regions() {
        let memory = memory();
        memory.guest().write_slice(b"headerarguments!", GuestAddress(0x3ff8)).unwrap();
        memory.guest().write_slice(b"data", GuestAddress(0x10)).unwrap();
        let mut source = ChainSource::new(spans(&memory, &[(0x3ff8, 3), (0x3ffb, 13), (0, 0), (0x10, 4)]));
        assert_eq!(source.remaining(), 20);
        let mut buffer = [0; 15];
        assert_eq!(source.take(&mut buffer).unwrap(), 15);
        assert_eq!(&buffer, b"headerarguments");
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        assert_eq!(source.drain_to(file.as_fd(), WritePlace::At(2), 3, true).unwrap(), 3);
        assert_eq!(source.drain_to(file.as_fd(), WritePlace::End, 99, false).unwrap(), 2);
        assert_eq!(source.remaining(), 0);
        assert_eq!(source.take(&mut buffer).unwrap(), 0);
        let mut text = String::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "01!da56789ta");
        let mut start = [0; 6];
        assert_eq!((source.peek_start(&mut start), &start), (6, b"header"));
    }

    #[test]
    fn an_answer_is_written_around_its_header() {
        let memory = memory();
        let mut reply = ChainReply::new(spans(&memory, &[(0x3ffe, 8), (0x100, 12), (0x200, 5)]));
        assert_eq!(reply.room(), 9);
        reply.put(b"wrong").unwrap();
        reply.rewind();
        assert_eq!(reply.room(), 9);
        reply.put(b"ab").unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456").unwrap();
        assert_eq!(reply.fill_from(file.as_fd(), 4, 99).unwrap(), 3);
        assert_eq!(reply.fill_from(file.as_fd(), 7, 99).unwrap(), 0);
        assert!(reply.fill_from(file.as_fd(), u64::MAX, 1).is_err());
        assert!(reply.put(b"12345").is_err());
        assert_eq!(reply.len(), 0);
        reply.finish(*b"HHHHHHHHHHHHHHHH").unwrap();
        assert_eq!(reply.len(), 21);
        let mut bytes = [0; 12];
        memory.guest().read_slice(&mut bytes, GuestAddress(0x100)).unwrap();
        assert_eq!(&bytes, b"HHHHHHHHab45");
        memory.guest().read_slice(&mut bytes[..1], GuestAddress(0x200)).unwrap();
        assert_eq!(bytes[0], b'6');
    }

    #[test]
    fn no_room_for_a_header_is_an_error() {
        let memory = memory();
        for pieces in [&[][..], &[(0, 15)][..], &[(0, 0)][..]] {
            let mut reply = ChainReply::new(spans(&memory, pieces));
            assert_eq!(reply.room(), 0);
            assert!(reply.finish([0; REPLY_HEADER_LEN]).is_err());
            assert_eq!(reply.len(), 0);
        }
    }

    #[test]
    fn more_pieces_than_a_system_call_takes() {
        let memory = memory();
        let pieces: Vec<_> = (0..1500).map(|index| (index * 4, 2)).collect();
        let mut file = tempfile::tempfile().unwrap();
        let text: Vec<u8> = (0..3000_u32).map(|index| index as u8).collect();
        file.write_all(&text).unwrap();
        let mut reply = ChainReply::new(spans(&memory, &pieces));
        assert_eq!(reply.fill_from(file.as_fd(), 0, usize::MAX).unwrap(), 2984);
        let mut source = ChainSource::new(spans(&memory, &pieces));
        let mut back = vec![0; 3000];
        assert_eq!(source.take(&mut back).unwrap(), 3000);
        assert_eq!(back[16..], text[..2984]);
    }

    #[test]
    fn addresses_outside_are_refused() {
        let memory = memory();
        for (address, len) in [(0x7fff, 2), (0x8000, 1), (u64::MAX, 1), (u64::MAX, usize::MAX), (0, usize::MAX), (0, 0x8001)] {
            assert!(Spans::new(Arc::clone(&memory)).push(GuestAddress(address), len).is_err(), "{address:#x} {len:#x}");
        }
        let lost = Spans::new(Arc::clone(&memory));
        assert_eq!(lost.remaining(), 0);
    }
}
