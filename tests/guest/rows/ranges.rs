//! Parts of files: holes, allocation, copying inside the host.

use crate::place::{Place, Verdict, done, look, refused, same, skipped};
use externfs_tests::machine::noise;
use rustix::fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, seek};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::FileExt;

fn create(place: &Place, name: &str) -> Verdict<File> {
    done(name, File::options().read(true).write(true).create(true).truncate(true).open(place.at(name)))
}

pub(super) fn seek_data_and_hole(place: &Place) -> Verdict {
    const MIB: u64 = 1 << 20;
    let file = create(place, "sparse")?;
    done("write", file.write_all_at(&[1; 4096], 2 * MIB))?;
    done("grow", file.set_len(4 * MIB))?;
    done("fsync", file.sync_all())?;
    same("data from 0", done("SEEK_DATA", seek(&file, SeekFrom::Data(0)))?, 2 * MIB)?;
    same("hole from 0", done("SEEK_HOLE", seek(&file, SeekFrom::Hole(0)))?, 0)?;
    same("hole from the data", done("SEEK_HOLE", seek(&file, SeekFrom::Hole(2 * MIB)))?, 2 * MIB + 4096)?;
    refused("data after the last", seek(&file, SeekFrom::Data(3 * MIB)), Errno::NXIO)?;
    refused("data past the end", seek(&file, SeekFrom::Data(5 * MIB)), Errno::NXIO)?;
    let full = create(place, "full")?;
    done("write", full.write_all_at(&[1; 8192], 0))?;
    same("hole of a full file", done("SEEK_HOLE", seek(&full, SeekFrom::Hole(0)))?, 8192)
}

pub(super) fn allocate(place: &Place) -> Verdict {
    let file = create(place, "file")?;
    let size = || done("fstat", file.metadata()).map(|found| found.len());
    let fill = FallocateFlags::empty();
    match fallocate(&file, fill, 0, 65_536) {
        Err(Errno::OPNOTSUPP) => return skipped("the host's file system has no fallocate"),
        other => done("allocate", other)?,
    }
    same("size", size()?, 65_536)?;
    done("allocate past the end", fallocate(&file, FallocateFlags::KEEP_SIZE, 65_536, 65_536))?;
    same("size kept", size()?, 65_536)?;
    same("blocks taken", look(&place.at("file"))?.st_blocks * 512 >= 131_072, true)?;
    let mut wanted = noise::bytes(9, 65_536);
    done("write", file.write_all_at(&wanted, 0))?;
    done("punch a hole", fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 4096, 8192))?;
    wanted[4096..12_288].fill(0);
    place.contains("file", &wanted)?;
    done("zero a range", fallocate(&file, FallocateFlags::ZERO_RANGE, 20_000, 100))?;
    wanted[20_000..20_100].fill(0);
    place.contains("file", &wanted)?;
    done("zero past the end", fallocate(&file, FallocateFlags::ZERO_RANGE, 65_000, 5_000))?;
    wanted.resize(70_000, 0);
    wanted[65_000..].fill(0);
    place.contains("file", &wanted)?;
    refused("no length", fallocate(&file, fill, 0, 0), Errno::INVAL)?;
    // FUSE in the guest's kernel passes neither on.
    for mode in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
        refused(format_args!("{mode:?}"), fallocate(&file, mode, 0, 4096), Errno::OPNOTSUPP)?;
    }
    place.contains("file", &wanted)
}

pub(super) fn copy(place: &Place) -> Verdict {
    let from = create(place, "from")?;
    let to = create(place, "to")?;
    let data = noise::bytes(11, 300_000);
    done("write", from.write_all_at(&data, 0))?;
    let mut copied = 0;
    while copied < 200_000 {
        let (mut at, mut into) = (1000 + copied as u64, 50 + copied as u64);
        let count = done("copy", copy_file_range(&from, Some(&mut at), &to, Some(&mut into), 200_000 - copied))?;
        same("copied something", count > 0, true)?;
        copied += count;
    }
    let mut wanted = vec![0; 50];
    wanted.extend_from_slice(&data[1000..201_000]);
    place.contains("to", &wanted)?;
    let (mut at, mut into) = (400_000, 0);
    same("copied past the end", done("copy", copy_file_range(&from, Some(&mut at), &to, Some(&mut into), 10))?, 0)?;
    let (mut at, mut into) = (0, 250_000);
    let count = done("copy within", copy_file_range(&from, Some(&mut at), &from, Some(&mut into), 50_000))?;
    same("copied within", count, 50_000)?;
    let mut wanted = data.clone();
    wanted.copy_within(0..50_000, 250_000);
    place.contains("from", &wanted)
}
