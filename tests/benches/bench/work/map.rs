//! Reading through a mapping: the only unsafe code of the benchmarks.
#![allow(unsafe_code)]

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::os::fd::OwnedFd;
use std::ptr;

/// Maps the first `length` bytes of `file`, touches each page once, unmaps.
/// Answers the sum of what it saw, so that no read can be left out.
pub(super) fn sum_pages(file: &OwnedFd, length: usize) -> rustix::io::Result<u64> {
    // SAFETY: a fresh mapping at an address of the kernel's choice; nothing else knows it.
    let start = unsafe { mmap(ptr::null_mut(), length, ProtFlags::READ, MapFlags::SHARED, file, 0)? };
    let page = |offset| {
        // SAFETY: offset < length, and the mapping lives until the end of this function. The
        // benchmark owns the file and nobody shortens it, so no page is past its end. Volatile,
        // since the file may change below us, although no row writes to it meanwhile.
        u64::from(unsafe { start.cast::<u8>().add(offset).read_volatile() })
    };
    let sum = (0..length).step_by(4096).map(page).fold(0, u64::wrapping_add);
    // SAFETY: what mmap returned, and no reference into it is left.
    unsafe { munmap(start, length)? };
    Ok(sum)
}
