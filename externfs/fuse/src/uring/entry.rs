//! [`Entry`]: the memory that one request lies in and its answer after it, at
//! the same place. The kernel fills it while a thread waits on its ring, and
//! reads the answer as it is committed.
//!
//! ```text
//! 0     in_out[128]            fuse_in_header, then fuse_out_header
//! 128   op_in[128]             the operation's fixed arguments
//! 256   fuse_uring_ent_in_out  flags u64, commit_id u64, payload_sz u32, ...
//! 288   struct iovec[2]        of the two parts, for the registration
//! 4096  payload                the rest of a request; all of an answer
//! ```
#![allow(unsafe_code)]

use externfs::{DataSink, DataSource, NodeId, WritePlace};
use externfs_wire::buffer::{SliceSource, read_into};
use externfs_wire::{Opcode, REPLY_HEADER_LEN, Reply};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::io;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

const IN_OUT_AT: usize = 0;
const OP_IN_AT: usize = 128;
const OP_IN_LEN: usize = 128;
const COMMIT_ID_AT: usize = 264;
const PAYLOAD_SIZE_AT: usize = 272;
const HEADERS_LEN: usize = 288;
const VECTORS_AT: usize = 288;
const PAYLOAD_AT: usize = 4096;

/// Bytes of a page. Not rustix's, which reads /proc/self/auxv, or panics where a
/// sandbox forbids it.
pub(super) fn page_size() -> usize {
    // SAFETY: sysconf(3) takes a number and touches no memory of ours.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(PAYLOAD_AT)
}

/// `fuse_in_header`.
const REQUEST_HEADER_LEN: usize = externfs_wire::abi::REQUEST_HEADER_LEN;

/// See the [module](self).
pub(super) struct Entry {
    base: NonNull<u8>,
    payload_len: usize,
    /// The kernel may write to it.
    lent: bool,
}

// SAFETY: an entry owns its memory, and nothing about it is a thread's.
unsafe impl Send for Entry {}

impl Entry {
    /// `FUSE_URING_IOV_SEGS`: headers and payload.
    pub(super) const VECTORS: u32 = 2;

    /// With room for a payload of this many bytes. Pages that no request ever
    /// fills take no memory.
    pub(super) fn new(payload_len: usize) -> io::Result<Entry> {
        let len = PAYLOAD_AT + payload_len;
        // SAFETY: the kernel chooses an address, so no mapping is replaced.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) }?;
        let base = NonNull::new(base.cast()).ok_or(Errno::NOMEM)?;
        let mut entry = Entry { base, payload_len, lent: false };
        let word = |value: usize| (value as u64).to_ne_bytes();
        let start = base.as_ptr() as usize;
        for (place, value) in [start, HEADERS_LEN, start + PAYLOAD_AT, payload_len].into_iter().enumerate() {
            entry.set(VECTORS_AT + place * 8, &word(value));
        }
        Ok(entry)
    }

    /// The address of the two vectors.
    pub(super) fn vectors(&self) -> u64 {
        self.base.as_ptr() as u64 + VECTORS_AT as u64
    }

    /// It is the kernel's until [`Entry::returned`].
    pub(super) fn lend(&mut self) {
        self.lent = true;
    }

    /// The command that had it is over.
    pub(super) fn returned(&mut self) {
        self.lent = false;
    }

    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        debug_assert!(at + N <= PAYLOAD_AT);
        // SAFETY: both lie in live memory of at least N bytes: what is read in
        // the first page of the mapping, which only this module has offsets into.
        unsafe { std::ptr::copy_nonoverlapping(self.base.as_ptr().add(at), bytes.as_mut_ptr(), N) };
        bytes
    }

    fn set<const N: usize>(&mut self, at: usize, bytes: &[u8; N]) {
        debug_assert!(at + N <= PAYLOAD_AT);
        // SAFETY: as for `get`, the other way.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.as_ptr().add(at), N) };
    }

    /// What the answer is committed by.
    pub(super) fn commit_id(&self) -> u64 {
        u64::from_ne_bytes(self.get(COMMIT_ID_AT))
    }

    /// The request's number as its header has it.
    pub(super) fn unique(&self) -> u64 {
        u64::from_ne_bytes(self.get(IN_OUT_AT + 8))
    }

    /// The node that the request is about, if only regular files can be asked
    /// such a thing (or nearly: of locks too).
    pub(super) fn regular_node(&self) -> Option<NodeId> {
        let opcode = Opcode::from_raw(u32::from_ne_bytes(self.get(IN_OUT_AT + 4)))?;
        let is_regular = matches!(opcode, Opcode::Open | Opcode::Read | Opcode::Write | Opcode::Flush | Opcode::SetLk | Opcode::SetLkW);
        is_regular.then(|| NodeId(u64::from_ne_bytes(self.get(IN_OUT_AT + 16))))
    }

    /// Answers without a payload.
    pub(super) fn answer(&mut self, errno: i32, unique: u64) {
        let mut header = [0; REPLY_HEADER_LEN];
        header[..4].copy_from_slice(&(REPLY_HEADER_LEN as u32).to_ne_bytes());
        header[4..8].copy_from_slice(&(-errno).to_ne_bytes());
        header[8..].copy_from_slice(&unique.to_ne_bytes());
        self.set(IN_OUT_AT, &header);
        self.set(PAYLOAD_SIZE_AT, &0u32.to_ne_bytes());
    }

    /// The request that lies in it, and where its answer goes.
    pub(super) fn parts(&mut self) -> io::Result<(RingSource<'_>, RingReply<'_>)> {
        let header: [u8; REQUEST_HEADER_LEN] = self.get(IN_OUT_AT);
        let total = u32::from_ne_bytes(self.get(IN_OUT_AT)) as usize;
        let payload = u32::from_ne_bytes(self.get(PAYLOAD_SIZE_AT)) as usize;
        let fixed = total.checked_sub(REQUEST_HEADER_LEN + payload).filter(|len| *len <= OP_IN_LEN && payload <= self.payload_len);
        let Some(fixed) = fixed else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{total} bytes with a payload of {payload}")));
        };
        let mut head = [0; REQUEST_HEADER_LEN + OP_IN_LEN];
        head[..REQUEST_HEADER_LEN].copy_from_slice(&header);
        head[REQUEST_HEADER_LEN..].copy_from_slice(&self.get::<OP_IN_LEN>(OP_IN_AT));
        let (space, len) = (Space { entry: NonNull::from(&mut *self), life: PhantomData }, self.payload_len);
        let source = RingSource { head, head_len: REQUEST_HEADER_LEN + fixed, taken: 0, len: payload, space };
        Ok((source, RingReply { used: 0, len, space, is_finished: false }))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // A thread that ends by an error of the ring does not know what the
        // kernel still has: memory lost is better than memory overwritten.
        if !self.lent {
            // SAFETY: the mapping is this entry's own, and nobody has it any more.
            let _ = unsafe { munmap(self.base.as_ptr().cast(), PAYLOAD_AT + self.payload_len) };
        }
    }
}

/// The memory of an entry that has been borrowed for both parts: a request's
/// data is read before its answer is written to the same place, in turn, on
/// one thread. So neither part keeps a reference to it between two calls.
#[derive(Clone, Copy)]
struct Space<'a> {
    entry: NonNull<Entry>,
    life: PhantomData<&'a mut Entry>,
}

// SAFETY: it is a mutable borrow of an entry, which is Send; the trait of
// replies demands it, and both parts stay on the thread that made them.
unsafe impl Send for Space<'_> {}

impl Space<'_> {
    /// Calls `act` with this part of the payload. Callers keep to the bounds
    /// that [`Entry::parts`] gave, which are checked once more.
    fn with<T>(self, start: usize, len: usize, act: impl FnOnce(&mut [u8]) -> T) -> T {
        // SAFETY: the entry is alive and borrowed for as long as `self` is, and
        // no reference to it or to its payload outlives a call of this method:
        // what is called in it are copies and system calls, which know of no
        // other Space.
        let entry = unsafe { self.entry.as_ref() };
        let start = start.min(entry.payload_len);
        let len = len.min(entry.payload_len - start);
        // SAFETY: the range lies in the mapping, which has been zeroed or
        // written by the kernel; exclusive by the above.
        act(unsafe { std::slice::from_raw_parts_mut(entry.base.as_ptr().add(PAYLOAD_AT + start), len) })
    }
}

/// A request: its header and fixed arguments, copied once, and a payload that
/// stays where it is.
pub(super) struct RingSource<'a> {
    head: [u8; REQUEST_HEADER_LEN + OP_IN_LEN],
    head_len: usize,
    taken: usize,
    /// Bytes of the payload.
    len: usize,
    space: Space<'a>,
}

impl RingSource<'_> {
    fn in_head(&self) -> usize {
        self.head_len.saturating_sub(self.taken)
    }

    /// Where the payload goes on, and how much is left of it.
    fn rest(&self) -> (usize, usize) {
        let start = self.taken.saturating_sub(self.head_len);
        (start, self.len - start.min(self.len))
    }
}

impl DataSource for RingSource<'_> {
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(self.in_head());
        let (first, second) = buffer.split_at_mut(count);
        let head = self.head.get(self.taken..self.taken + count).unwrap_or_default();
        first.iter_mut().zip(head).for_each(|(to, from)| *to = *from);
        self.taken += count;
        if second.is_empty() {
            return Ok(count);
        }
        let (start, left) = self.rest();
        let more = second.len().min(left);
        self.space.with(start, more, |bytes| second.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from));
        self.taken += more;
        Ok(count + more)
    }

    fn drain_to(&mut self, file: BorrowedFd<'_>, place: WritePlace, len: usize, sync: bool) -> io::Result<usize> {
        // The arguments of a request with data are fixed, so none of it is in the head.
        if self.in_head() > 0 {
            return Err(Errno::INVAL.into());
        }
        let (start, left) = self.rest();
        let written = self.space.with(start, left, |bytes| SliceSource::new(bytes).drain_to(file, place, len, sync))?;
        self.taken += written;
        Ok(written)
    }

    fn remaining(&self) -> usize {
        self.in_head() + self.rest().1
    }
}

/// An answer that is collected where the kernel will read it.
pub(super) struct RingReply<'a> {
    used: usize,
    len: usize,
    space: Space<'a>,
    is_finished: bool,
}

impl RingReply<'_> {
    /// There is an answer to commit.
    pub(super) fn is_finished(&self) -> bool {
        self.is_finished
    }
}

impl DataSink for RingReply<'_> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > self.room() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} bytes into {} of room", bytes.len(), self.room())));
        }
        self.space.with(self.used, bytes.len(), |space| space.copy_from_slice(bytes));
        self.used += bytes.len();
        Ok(())
    }

    fn fill_from(&mut self, file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<usize> {
        let done = self.space.with(self.used, len.min(self.room()), |space| read_into(file, offset, space))?;
        self.used += done;
        Ok(done)
    }

    fn room(&self) -> usize {
        self.len - self.used
    }
}

impl Reply for RingReply<'_> {
    fn rewind(&mut self) {
        self.used = 0;
    }

    fn finish(&mut self, header: [u8; REPLY_HEADER_LEN]) -> io::Result<()> {
        // SAFETY: as in `Space::with`; nothing else is called meanwhile.
        let entry = unsafe { self.space.entry.as_mut() };
        entry.set(IN_OUT_AT, &header);
        entry.set(PAYLOAD_SIZE_AT, &(self.used as u32).to_ne_bytes());
        self.is_finished = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    /// An entry as the kernel fills it.
    fn filled(fixed: &[u8], payload: &[u8], total: u32) -> Entry {
        let mut entry = Entry::new(8192).unwrap();
        let mut header = [0; REQUEST_HEADER_LEN];
        header[..4].copy_from_slice(&total.to_ne_bytes());
        header[8..16].copy_from_slice(&77u64.to_ne_bytes());
        entry.set(IN_OUT_AT, &header);
        let mut op_in = [0xff; OP_IN_LEN];
        op_in[..fixed.len()].copy_from_slice(fixed);
        entry.set(OP_IN_AT, &op_in);
        entry.set(COMMIT_ID_AT, &78u64.to_ne_bytes());
        entry.set(PAYLOAD_SIZE_AT, &(payload.len() as u32).to_ne_bytes());
        let (_, mut reply) = Entry::parts(&mut entry).map(|parts| ((), parts.1)).unwrap_or_else(|_| panic!("not a request"));
        reply.put(payload).unwrap();
        entry
    }

    #[test]
    fn a_request_is_its_three_parts_in_a_row() {
        let mut entry = filled(b"fixed", b"payload", 40 + 5 + 7);
        assert_eq!((entry.unique(), entry.commit_id()), (77, 78));
        let (mut source, _) = entry.parts().unwrap();
        assert_eq!(source.remaining(), 52);
        let (mut head, mut rest) = ([0; 42], [0; 20]);
        assert_eq!(source.take(&mut head).unwrap(), 42);
        assert_eq!(&head[40..], b"fi");
        assert_eq!(source.take(&mut rest).unwrap(), 10);
        assert_eq!((&rest[..10], source.remaining()), (&b"xedpayload"[..], 0));
        assert_eq!(source.take(&mut rest).unwrap(), 0);
    }

    #[test]
    fn data_goes_from_the_entry_to_the_file_and_back() {
        let mut entry = filled(b"12", b"the data", 40 + 2 + 8);
        let mut file = tempfile::tempfile().unwrap();
        let (mut source, mut reply) = entry.parts().unwrap();
        assert!(source.drain_to(file.as_fd(), WritePlace::At(0), 8, false).is_err(), "its arguments come first");
        source.take(&mut [0; 42]).unwrap();
        assert_eq!(source.drain_to(file.as_fd(), WritePlace::At(1), 3, false).unwrap(), 3);
        assert_eq!(source.drain_to(file.as_fd(), WritePlace::End, 100, false).unwrap(), 5);
        file.write_all(b"X").unwrap();
        assert_eq!(reply.fill_from(file.as_fd(), 0, 100).unwrap(), 9);
        reply.put(b"!").unwrap();
        assert!(reply.put(&[0; 8192]).is_err());
        assert!(!reply.is_finished());
        reply.finish([7; 16]).unwrap();
        assert!(reply.is_finished());
        assert_eq!(entry.get::<16>(IN_OUT_AT), [7; 16]);
        assert_eq!(u32::from_ne_bytes(entry.get(PAYLOAD_SIZE_AT)), 10);
        assert_eq!(&entry.get_payload(10), b"Xthe data!");
        entry.answer(libc::EIO, 9);
        assert_eq!(u32::from_ne_bytes(entry.get(PAYLOAD_SIZE_AT)), 0);
        assert_eq!(i32::from_ne_bytes(entry.get(IN_OUT_AT + 4)), -libc::EIO);
    }

    impl Entry {
        fn get_payload(&mut self, len: usize) -> Vec<u8> {
            let space = Space { entry: NonNull::from(self), life: PhantomData };
            space.with(0, len, |bytes| bytes.to_vec())
        }
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        for (payload, total) in [(0u32, 39u32), (0, 40 + 129), (10, 45), (8193, 40 + 8193), (u32::MAX, 40)] {
            let mut entry = filled(b"", b"", 40);
            entry.set(IN_OUT_AT, &total.to_ne_bytes());
            entry.set(PAYLOAD_SIZE_AT, &payload.to_ne_bytes());
            assert!(entry.parts().is_err(), "{payload} {total}");
        }
    }
}
