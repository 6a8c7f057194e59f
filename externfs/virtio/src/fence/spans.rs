//! [`Spans`]: one side of a descriptor chain, as system calls want it.

use crate::memory::Memory;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use vm_memory::{GuestAddress, GuestMemory, Permissions, VolatileSlice};

/// Most pieces that one system call takes (`UIO_MAXIOV`).
const PIECES_MAX: usize = 1024;

/// A piece of mapped guest memory.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Span(libc::iovec);

// SAFETY: a span is an address and a length; what may be done with it is
// decided by `Spans`, which keeps the mapping alive.
unsafe impl Send for Span {}

/// Guest memory in pieces, consumed from the front.
///
/// The guest writes to it whenever it likes: bytes are copied out once, or
/// handed to the kernel, and no reference to them is ever made.
pub(crate) struct Spans {
    /// Invariant: every span lies in a mapping that this keeps alive.
    memory: Arc<Memory>,
    list: Vec<Span>,
    /// Where the front is: a span, and bytes into it.
    front: (usize, usize),
    remaining: usize,
}

impl Spans {
    /// None yet.
    pub(crate) fn new(memory: Arc<Memory>) -> Spans {
        Spans { memory, list: Vec::new(), front: (0, 0), remaining: 0 }
    }

    /// Appends `len` bytes at a guest physical address.
    pub(crate) fn push(&mut self, address: GuestAddress, len: usize) -> Result<(), String> {
        let outside = || format!("{len} bytes at {:#x} are not all guest memory", address.0);
        let total = self.remaining.checked_add(len).ok_or_else(outside)?;
        let memory = Arc::clone(&self.memory);
        let slices = memory.guest().get_slices(address, len, Permissions::ReadWrite).map_err(|_| outside())?;
        for slice in slices {
            let slice = slice.map_err(|_| outside())?;
            self.push_span(slice.ptr_guard_mut().as_ptr(), slice.len());
        }
        self.remaining = total;
        Ok(())
    }

    /// Pages of one buffer often lie side by side: fewer, longer spans.
    fn push_span(&mut self, base: *mut u8, len: usize) {
        match self.list.last_mut() {
            Some(Span(last)) if last.iov_base as usize + last.iov_len == base as usize => last.iov_len += len,
            _ => self.list.push(Span(libc::iovec { iov_base: base.cast(), iov_len: len })),
        }
    }

    /// Bytes from the front to the end.
    pub(crate) fn remaining(&self) -> usize {
        self.remaining
    }

    /// Goes back to the very beginning.
    pub(crate) fn rewind(&mut self) {
        self.front = (0, 0);
        self.remaining = self.list.iter().map(|span| span.0.iov_len).sum();
    }

    /// Drops up to `len` bytes from the front.
    pub(crate) fn skip(&mut self, len: usize) {
        let mut left = len.min(self.remaining);
        self.remaining -= left;
        while let Some(span) = self.list.get(self.front.0) {
            let here = span.0.iov_len - self.front.1;
            if left < here {
                self.front.1 += left;
                return;
            }
            left -= here;
            self.front = (self.front.0 + 1, 0);
        }
    }

    /// Copies from the front into `buffer`; returns how many bytes.
    pub(crate) fn copy_out(&mut self, buffer: &mut [u8]) -> usize {
        let mut done = 0;
        while let Some((slice, rest)) = self.front_slice().zip(buffer.get_mut(done..)).filter(|(_, rest)| !rest.is_empty()) {
            let copied = slice.copy_to(rest);
            self.skip(copied);
            done += copied;
        }
        done
    }

    /// Copies `bytes` to the front; returns how many of them fitted.
    pub(crate) fn copy_in(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while let Some((slice, rest)) = self.front_slice().zip(bytes.get(done..)).filter(|(_, rest)| !rest.is_empty()) {
            slice.copy_from(rest);
            let copied = slice.len().min(rest.len());
            self.skip(copied);
            done += copied;
        }
        done
    }

    fn front_slice(&self) -> Option<VolatileSlice<'_>> {
        let Span(span) = self.list.get(self.front.0)?;
        let len = span.iov_len - self.front.1;
        // SAFETY: the front lies inside its span (`skip`), the span inside a
        // mapping that `self.memory` keeps alive for as long as the slice
        // lives, and all access to it is volatile or through the kernel.
        Some(unsafe { VolatileSlice::new(span.iov_base.cast::<u8>().add(self.front.1), len) })
    }

    /// The pieces for the next `len` bytes at most.
    fn pieces(&self, len: usize) -> Vec<Span> {
        let mut left = len;
        let mut pieces = Vec::with_capacity(PIECES_MAX.min(self.list.len() - self.front.0.min(self.list.len())));
        for (index, Span(span)) in self.list.iter().enumerate().skip(self.front.0).take(PIECES_MAX) {
            let skipped = if index == self.front.0 { self.front.1 } else { 0 };
            let here = (span.iov_len - skipped).min(left);
            if here == 0 {
                break;
            }
            left -= here;
            let iov_base = span.iov_base.wrapping_byte_add(skipped);
            pieces.push(Span(libc::iovec { iov_base, iov_len: here }));
        }
        pieces
    }

    /// preadv2(2) to the front, for up to `len` bytes, until the end of the
    /// file. An error counts also after some bytes: fewer than were asked for
    /// mean the end of the file.
    pub(crate) fn read_from(&mut self, file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<usize> {
        self.transfer(len, Cut::IsAnError, |pieces, done| {
            let offset = file_offset(offset, done)?;
            // SAFETY: the pieces are valid iovecs (Span is transparent) over
            // mappings that `self.memory` keeps alive during the call.
            Ok(unsafe { libc::preadv2(file.as_raw_fd(), pieces.as_ptr().cast(), pieces.len() as i32, offset, 0) })
        })
    }

    /// pwritev2(2) from the front. With `flags` RWF_APPEND the offset does not
    /// matter. After some bytes an error only ends it.
    pub(crate) fn write_to(&mut self, file: BorrowedFd<'_>, offset: u64, len: usize, flags: i32) -> io::Result<usize> {
        self.transfer(len, Cut::IsAnEnd, |pieces, done| {
            let offset = file_offset(offset, done)?;
            // SAFETY: as in `read_from`.
            Ok(unsafe { libc::pwritev2(file.as_raw_fd(), pieces.as_ptr().cast(), pieces.len() as i32, offset, flags) })
        })
    }

    fn transfer(&mut self, len: usize, cut: Cut, call: impl Fn(&[Span], usize) -> io::Result<isize>) -> io::Result<usize> {
        let len = len.min(self.remaining);
        let mut done = 0;
        while done < len {
            let pieces = self.pieces(len - done);
            let moved = call(&pieces, done).and_then(|result| match result {
                0.. => Ok(result.unsigned_abs()),
                _ => Err(io::Error::last_os_error()),
            });
            match moved {
                Ok(0) => break,
                Ok(moved) => {
                    self.skip(moved);
                    done += moved;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) if done > 0 && cut == Cut::IsAnEnd => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

/// What an error after some bytes is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    IsAnEnd,
    IsAnError,
}

fn file_offset(offset: u64, done: usize) -> io::Result<libc::off_t> {
    let sum = offset.checked_add(done as u64).and_then(|sum| libc::off_t::try_from(sum).ok());
    sum.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
}
