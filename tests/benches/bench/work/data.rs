//! Rows about contents.

use super::cold::drop_caches;
use super::fixture::DATA;
use super::map::sum_pages;
use super::{Place, Sample};
use crate::fault::{Fault, Naming, Result, fault};
use rustix::fs::{CWD, Mode, OFlags, fsync, openat};
use std::os::fd::OwnedFd;
use std::path::Path;

const MIB: usize = 1 << 20;

fn open(path: &Path, flags: OFlags) -> Result<OwnedFd> {
    openat(CWD, path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o644)).naming(path.display())
}

/// Writes a new file in pieces of 1 MiB; the close is timed, since it may flush.
fn write(place: &Place<'_>, sync: bool) -> Result<Sample> {
    let path = place.scratch.join("written");
    let piece = vec![0xa5_u8; MIB];
    let sample = place.time(place.sizes.mib, || {
        let file = open(&path, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY)?;
        for _ in 0..place.sizes.mib {
            let mut rest = piece.as_slice();
            while !rest.is_empty() {
                let length = rustix::io::write(&file, rest).naming("write")?;
                rest = rest.get(length..).unwrap_or_default();
            }
        }
        if sync { fsync(&file).naming("fsync") } else { Ok(()) }
    })?;
    // Without its pages there is nothing left to write out behind the next row.
    std::fs::remove_file(&path).naming(path.display())?;
    Ok(sample)
}

pub(super) fn seq_write(place: &Place<'_>) -> Result<Sample> {
    write(place, false)
}

pub(super) fn seq_write_fsync(place: &Place<'_>) -> Result<Sample> {
    write(place, true)
}

/// Reads the data file in pieces of 1 MiB.
fn read(path: &Path, mib: u32, buffer: &mut [u8]) -> Result<()> {
    let file = open(path, OFlags::RDONLY)?;
    let mut total = 0;
    loop {
        match rustix::io::read(&file, &mut *buffer).naming(path.display())? {
            0 if total == mib as usize * MIB => return Ok(()),
            0 => return fault(format!("{} ends after {total} bytes", path.display())),
            length => total += length,
        }
    }
}

pub(super) fn seq_read_warm(place: &Place<'_>) -> Result<Sample> {
    let path = place.root.join(DATA);
    let mut buffer = vec![0; MIB];
    let mib = place.sizes.mib;
    read(&path, mib, &mut buffer)?;
    place.time(mib * 2, || (0..2).try_for_each(|_| read(&path, mib, &mut buffer)))
}

pub(super) fn seq_read_cold(place: &Place<'_>) -> Result<Sample> {
    let path = place.root.join(DATA);
    let mut buffer = vec![0; MIB];
    drop_caches(place.root)?;
    place.time(place.sizes.mib, || read(&path, place.sizes.mib, &mut buffer))
}

/// Offsets of 4 KiB blocks, the same for every target: xorshift from a fixed seed.
fn offsets(place: &Place<'_>) -> Vec<u64> {
    let blocks = u64::from(place.sizes.mib) * 256;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % blocks) * 4096
    };
    (0..place.sizes.random).map(|_| next()).collect()
}

pub(super) fn rand_read_4k(place: &Place<'_>) -> Result<Sample> {
    let path = place.root.join(DATA);
    read(&path, place.sizes.mib, &mut vec![0; MIB])?;
    let file = open(&path, OFlags::RDONLY)?;
    let offsets = offsets(place);
    let mut buffer = [0; 4096];
    place.time(place.sizes.random, || {
        offsets.iter().try_for_each(|&offset| match rustix::io::pread(&file, &mut buffer, offset).naming("pread")? {
            4096 => Ok(()),
            length => fault(format!("pread at {offset}: {length} bytes")),
        })
    })
}

pub(super) fn rand_write_4k(place: &Place<'_>) -> Result<Sample> {
    let path = place.root.join(DATA);
    let file = open(&path, OFlags::RDWR)?;
    let offsets = offsets(place);
    let buffer = [0x3c; 4096];
    place.time(place.sizes.random, || {
        offsets.iter().try_for_each(|&offset| match rustix::io::pwrite(&file, &buffer, offset).naming("pwrite")? {
            4096 => Ok(()),
            length => fault(format!("pwrite at {offset}: {length} bytes")),
        })
    })
}

pub(super) fn mmap_read(place: &Place<'_>) -> Result<Sample> {
    let path = place.root.join(DATA);
    read(&path, place.sizes.mib, &mut vec![0; MIB])?;
    let file = open(&path, OFlags::RDONLY)?;
    let length = place.sizes.mib as usize * MIB;
    place.time((length / 4096) as u64, || sum_pages(&file, length).map(drop).map_err(|e| Fault(format!("mmap {}: {e}", path.display()))))
}
