//! How much of a range of a host file is allocated (FIEMAP of
//! Documentation/filesystems/fiemap.rst). Without it, writing into space that
//! fallocate(2) has promised could fail near the limit: SEEK_DATA takes
//! allocated but unwritten space for a hole.
#![allow(unsafe_code)]

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode};
use std::ffi::c_void;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Extents asked for at a time.
const EXTENTS: usize = 64;

/// `FIEMAP_EXTENT_LAST`.
const LAST: u32 = 1;

/// `FIEMAP_EXTENT_DELALLOC`.
const DELAYED: u32 = 4;

/// `FIEMAP_EXTENT_UNWRITTEN`.
const UNWRITTEN: u32 = 0x800;

/// `FIEMAP_EXTENT_ENCODED`, `_DATA_INLINE` and `_SHARED`: writing over these
/// takes room.
const ELSEWHERE: u32 = 0x8 | 0x200 | 0x2000;

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// `struct fiemap`, with room for the answer.
#[repr(C)]
struct Map {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [Extent; EXTENTS],
}

struct Fiemap<'a>(&'a mut Map);

// SAFETY: the opcode is FS_IOC_FIEMAP, whose argument is a struct fiemap
// followed by `count` extents; `Map` is laid out so and `count` is `EXTENTS`.
unsafe impl Ioctl for Fiemap<'_> {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        // _IOWR('f', 11, struct fiemap), whose size is that of the head.
        rustix::ioctl::opcode::read_write::<[u8; 32]>(b'f', 11)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(self.0).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> Result<(), Errno> {
        Ok(())
    }
}

/// Shows `look` each extent of `file` that has something of `length` bytes from
/// `start` on, until it has seen enough. False where the host cannot tell.
fn each_extent(file: BorrowedFd<'_>, start: u64, length: u64, mut look: impl FnMut(&Extent) -> ControlFlow<()>) -> bool {
    let end = start.saturating_add(length);
    let mut at = start;
    while at < end {
        let mut map = Map {
            start: at,
            length: end - at,
            flags: 0,
            mapped: 0,
            count: EXTENTS as u32,
            reserved: 0,
            extents: [Extent::default(); EXTENTS],
        };
        // SAFETY: `Fiemap` describes the call truly; see there.
        if unsafe { rustix::ioctl::ioctl(file, Fiemap(&mut map)) }.is_err() {
            return false;
        }
        let found = map.extents.get(..map.mapped as usize).unwrap_or_default();
        if found.iter().any(|extent| look(extent).is_break()) {
            break;
        }
        match found.last() {
            Some(last) if last.flags & LAST == 0 && last.logical + last.length > at => at = last.logical + last.length,
            _ => break,
        }
    }
    true
}

/// Bytes of `length` from `start` on that are allocated in `file`; 0 where the
/// host cannot tell.
pub(crate) fn allocated(file: BorrowedFd<'_>, start: u64, length: u64) -> u64 {
    let end = start.saturating_add(length);
    let mut sum = 0u64;
    let told = each_extent(file, start, length, |extent| {
        let extent_end = extent.logical.saturating_add(extent.length);
        sum += extent_end.min(end).saturating_sub(extent.logical.max(start));
        ControlFlow::Continue(())
    });
    if told { sum } else { 0 }
}

/// Up to where all of `file` was written; 0 where the host cannot tell. Of a file
/// in very many pieces it is said of the first.
pub(crate) fn dense_to(file: BorrowedFd<'_>) -> u64 {
    const PIECES: usize = 1024;
    let (mut end, mut pieces) = (0, 0);
    let told = each_extent(file, 0, u64::MAX, |extent| {
        pieces += 1;
        if extent.logical > end || extent.flags & (UNWRITTEN | ELSEWHERE) != 0 || pieces > PIECES {
            return ControlFlow::Break(());
        }
        end = extent.logical.saturating_add(extent.length);
        ControlFlow::Continue(())
    });
    if told { end } else { 0 }
}

/// How much of a file has found its place on the host's disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Settled {
    /// All of it: the list of its extents will not grow by itself.
    Wholly,
    /// All of it, but some of that was only promised, and falls into pieces when
    /// what was written there gets to the disk.
    Promised,
    /// Some is still to be given a place.
    Partly,
}

/// Looks at the first `length` bytes of `file`. A host that cannot tell has no such
/// lists.
pub(crate) fn settled(file: BorrowedFd<'_>, length: u64) -> Settled {
    let mut found = Settled::Wholly;
    each_extent(file, 0, length, |extent| {
        if extent.flags & DELAYED != 0 {
            found = Settled::Partly;
            return ControlFlow::Break(());
        }
        if extent.flags & UNWRITTEN != 0 {
            found = Settled::Promised;
        }
        ControlFlow::Continue(())
    });
    found
}

/// Has the host begin to write `file` out, for which it has to find places.
pub(crate) fn begin_writing(file: BorrowedFd<'_>) {
    // SAFETY: plain numbers, and a descriptor that is open. What fails is tried
    // again by the host in its own time.
    unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    #[test]
    fn holes_do_not_count_and_promised_space_does() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        assert_eq!(allocated(file.as_fd(), 0, 1 << 20), 0);
        file.write_all_at(&[1; 4096], 8192).unwrap();
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 65536, 65536).unwrap();
        file.sync_all().unwrap();
        assert_eq!(allocated(file.as_fd(), 0, 1 << 20), 4096 + 65536);
        assert_eq!(allocated(file.as_fd(), 10_000, 60_000), 12_288 - 10_000 + 70_000 - 65_536);
    }

    #[test]
    fn holes_and_what_is_promised_end_what_is_dense() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(dense_to(file.as_fd()), 0);
        file.write_all_at(&[1; 8192], 0).unwrap();
        file.write_all_at(&[1; 8192], 65536).unwrap();
        assert_eq!(dense_to(file.as_fd()), 8192);
        file.sync_all().unwrap();
        assert_eq!(dense_to(file.as_fd()), 8192);
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 8192, 65536 - 8192).unwrap();
        assert_eq!(dense_to(file.as_fd()), 8192);
        file.write_all_at(&[1; 65536 - 8192], 8192).unwrap();
        file.sync_all().unwrap();
        assert_eq!(dense_to(file.as_fd()), 65536 + 8192);
    }

    #[test]
    fn what_is_promised_is_told_from_what_is_written() {
        let file = tempfile::tempfile_in(".").unwrap();
        const EXT4: u64 = 0xef53;
        if rustix::fs::fstatfs(&file).unwrap().f_type as u64 != EXT4 {
            eprintln!("skipped: the working directory is not on ext4, whose lists this is about");
            return;
        }
        file.write_all_at(&[1; 65536], 0).unwrap();
        begin_writing(file.as_fd());
        file.sync_all().unwrap();
        assert_eq!(settled(file.as_fd(), u64::MAX), Settled::Wholly);
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 65536, 65536).unwrap();
        file.sync_all().unwrap();
        assert_eq!(settled(file.as_fd(), u64::MAX), Settled::Promised);
        file.write_all_at(&[1; 65536], 65536).unwrap();
        file.sync_all().unwrap();
        assert_eq!(settled(file.as_fd(), u64::MAX), Settled::Wholly);
    }
}
