//! What a guest's memory may be kept in.
//!
//! The frontend chooses the file, and we touch it at any time, from any
//! thread. What cannot be mapped away again when it is lost must not be mapped
//! at all.

use rustix::fs::FileType;
use std::os::fd::AsFd;

/// `HUGETLBFS_MAGIC`, linux/magic.h.
const HUGETLBFS: u64 = 0x9584_58f6;

/// Checks the file that is to be memory from byte `offset` on, `size` bytes.
/// Their sum does not wrap.
///
/// # Errors
/// It will not do: the reason for the log.
pub(crate) fn check(fd: impl AsFd, offset: u64, size: u64) -> Result<(), String> {
    let stat = rustix::fs::fstat(&fd).map_err(|error| format!("memory region: fstat: {error}"))?;
    // A device or a pipe could do anything on access.
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err("memory region: the descriptor is not one of a memory file (share=on missing?)".into());
    }
    if u64::try_from(stat.st_size).is_ok_and(|length| length < offset + size) {
        let end = offset + size;
        return Err(format!("memory region ends at {end:#x}, its file at {:#x}", stat.st_size));
    }
    let system = rustix::fs::fstatfs(&fd).map_err(|error| format!("memory region: fstatfs: {error}"))?;
    // The kernel maps huge pages whole, whatever length it is asked for, and
    // then neither unmaps nor replaces a part of one.
    let page = if number(system.f_type) == HUGETLBFS { number(system.f_bsize) } else { 1 };
    if !size.is_multiple_of(page.max(1)) || !offset.is_multiple_of(page.max(1)) {
        return Err(format!("memory region of {size:#x} bytes at {offset:#x} of its file is not made of whole pages of {page:#x} bytes"));
    }
    Ok(())
}

/// As unsigned bits: the types differ from machine to machine.
fn number(word: libc::c_long) -> u64 {
    (word as u64) & 0xffff_ffff
}
