//! What a guest's memory may be kept in.
//!
//! The frontend chooses the file, and we touch it at any time, from any
//! thread. Where an access waits for somebody (the server of a FUSE file,
//! another machine), whoever that is could hold our threads for ever: a page
//! fault ends for a fatal signal alone. And what cannot be mapped away again
//! when it is lost must not be mapped at all. So it is memory, or a file of a
//! local disk: all else is refused, since no list of what is slow is complete.
//! What is neither is refused before anybody asks it ([`crate::foreign`]).

use rustix::fs::FileType;
use std::os::fd::AsFd;

// Numbers of linux/magic.h.
/// Shared memory and memfds are of it, too.
const TMPFS: u64 = 0x0102_1994;
const HUGETLBFS: u64 = 0x9584_58f6;
/// ext2 and ext3 have the same.
const EXT4: u64 = 0xef53;
const XFS: u64 = 0x5846_5342;
const F2FS: u64 = 0xf2f5_2010;

/// Whether a file of a file system of this type answers by itself.
fn is_local(kind: u64) -> bool {
    matches!(kind, TMPFS | HUGETLBFS | EXT4 | XFS | F2FS)
}

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
    if !is_local(number(system.f_type)) {
        let kind = number(system.f_type);
        return Err(format!(
            "memory region: a file system of type {kind:#x} may keep us waiting; use shared memory, or a file in /dev/shm"
        ));
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, memfd_create};
    use std::fs::File;

    #[test]
    fn memory_and_disks_will_do() {
        let memory = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&memory, 4096).unwrap();
        check(&memory, 0, 4096).unwrap();
        for kind in [TMPFS, HUGETLBFS, EXT4, XFS, F2FS] {
            assert!(is_local(kind), "{kind:#x}");
        }
    }

    #[test]
    fn what_waits_for_somebody_else_will_not() {
        let fuse = 0x6573_5546;
        let [nfs, cifs, smb2, nine, ceph] = [0x6969, 0xff53_4d42, 0xfe53_4d42, 0x0102_1997, 0x00c3_6400];
        let [afs, coda, fhgfs, overlay] = [0x5346_414f, 0x7375_7245, 0x1983_0326, 0x794c_7630];
        for kind in [fuse, nfs, cifs, smb2, nine, ceph, afs, coda, fhgfs, overlay, 0] {
            assert!(!is_local(kind), "{kind:#x}");
        }
        // Of another kind, and found by its descriptor: a page long, they say.
        match File::open("/sys/kernel/uevent_seqnum") {
            Ok(other) => assert!(check(&other, 0, 4096).unwrap_err().contains("0x62656572")),
            Err(error) => eprintln!("SKIPPED: no sysfs to try: {error}"),
        }
    }
}
