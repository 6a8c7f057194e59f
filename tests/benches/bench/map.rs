//! Reading through a shared mapping: the only unsafe code of the benchmarks.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;

/// Touches each page of the file and returns a checksum of what it saw.
pub(crate) fn sum_pages(file: &File, len: usize) -> io::Result<u64> {
    // SAFETY: a fresh mapping of `len` bytes at an address of the kernel's
    // choice; the file is ours, has that length and is not truncated meanwhile.
    let start = unsafe {
        rustix::mm::mmap(std::ptr::null_mut(), len, rustix::mm::ProtFlags::READ, rustix::mm::MapFlags::SHARED, file, 0)?
    };
    let mut sum = 0u64;
    for offset in (0..len).step_by(4096) {
        // SAFETY: `offset` is below `len`, all of which is mapped readable.
        sum = sum.wrapping_add(u64::from(unsafe { start.cast::<u8>().add(offset).read_volatile() }));
    }
    // SAFETY: exactly what was mapped above; no reference to it is left.
    unsafe { rustix::mm::munmap(start, len)? };
    Ok(sum)
}
