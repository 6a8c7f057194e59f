//! Mapped files. The one place for `unsafe` in this program.
#![allow(unsafe_code)]

use crate::place::{Place, Verdict, done, holds, same};
use externfs_tests::machine::noise;
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::ptr::null_mut;

/// A mapping that is undone in the end.
struct Mapping {
    start: *mut u8,
    len: usize,
}

impl Mapping {
    fn new(file: &File, len: usize, flags: MapFlags) -> Verdict<Mapping> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no
        // memory in use.
        let start = unsafe { mmap(null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags, file, 0) };
        Ok(Mapping { start: done("mmap", start)?.cast(), len })
    }

    fn get(&self, at: usize) -> u8 {
        assert!(at < self.len, "a row looks past its mapping");
        // SAFETY: inside the mapping, which lives as long as `self`; volatile,
        // because the file changes through other means as well. The rows keep
        // the file longer than the mapping, so there is no SIGBUS.
        unsafe { self.start.add(at).read_volatile() }
    }

    fn set(&self, at: usize, value: u8) {
        assert!(at < self.len, "a row writes past its mapping");
        // SAFETY: as for `get`; it was mapped for writing.
        unsafe { self.start.add(at).write_volatile(value) }
    }

    fn sync(&self) -> Verdict {
        // SAFETY: exactly the mapping.
        done("msync", unsafe { msync(self.start.cast(), self.len, MsyncFlags::SYNC) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping; nobody holds a reference into it.
        let _ = unsafe { munmap(self.start.cast(), self.len) };
    }
}

const LEN: usize = 1 << 20;

fn file(place: &Place) -> Verdict<(File, Vec<u8>)> {
    let data = noise::bytes(3, LEN);
    let path = place.file("file", &data)?;
    Ok((done("open", File::options().read(true).write(true).open(path))?, data))
}

pub(super) fn shared_writes(place: &Place) -> Verdict {
    let (file, mut wanted) = file(place)?;
    let mapping = Mapping::new(&file, LEN, MapFlags::SHARED)?;
    holds("what is mapped is not what is in the file", (0..LEN).step_by(509).all(|at| mapping.get(at) == wanted[at]))?;
    for at in (0..LEN).step_by(4096) {
        mapping.set(at, 0xaa);
        wanted[at] = 0xaa;
    }
    place.contains("file", &wanted)?;
    done("pwrite", file.write_all_at(b"written", 8192))?;
    same("a write seen through the mapping", mapping.get(8192), b'w')?;
    wanted[8192..8199].copy_from_slice(b"written");
    mapping.sync()?;
    drop(mapping);
    done("fsync", file.sync_all())?;
    // Past this kernel's cache: what has arrived on the host.
    done("fadvise", rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed))?;
    place.contains("file", &wanted)
}

pub(super) fn private_writes(place: &Place) -> Verdict {
    let (file, wanted) = file(place)?;
    let mapping = Mapping::new(&file, LEN, MapFlags::PRIVATE)?;
    let value = !wanted[100];
    mapping.set(100, value);
    same("seen by its writer", mapping.get(100), value)?;
    place.contains("file", &wanted)
}
