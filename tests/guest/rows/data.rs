//! Contents.

use crate::helper;
use crate::place::{Place, Verdict, done, failed, holds, look, open, refused, same};
use externfs_tests::machine::noise;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

fn both(path: &Path) -> Verdict<File> {
    done("open", File::options().read(true).write(true).create(true).truncate(false).open(path))
}

pub(super) fn offsets_and_holes(place: &Place) -> Verdict {
    let file = both(&place.at("file"))?;
    done("write far out", file.write_all_at(b"end", 1_000_000))?;
    done("write at the start", file.write_all_at(b"start", 0))?;
    let mut wanted = vec![0; 1_000_003];
    wanted[..5].copy_from_slice(b"start");
    wanted[1_000_000..].copy_from_slice(b"end");
    place.contains("file", &wanted)?;
    let mut past = [0; 10];
    same("read past the end", done("pread", file.read_at(&mut past, 2_000_000))?, 0)?;
    same("read across the end", done("pread", file.read_at(&mut past, 1_000_001))?, 2)?;
    holds("the hole takes room", look(&place.at("file"))?.st_blocks * 512 < 500_000)?;
    // Beyond 4 GiB.
    done("write beyond 4 GiB", file.write_all_at(b"far", 5 << 30))?;
    let mut far = [0; 3];
    done("read beyond 4 GiB", file.read_exact_at(&mut far, 5 << 30))?;
    same("there", &far, b"far")?;
    same("size", done("stat", file.metadata())?.len(), (5 << 30) + 3)
}

pub(super) fn truncate(place: &Place) -> Verdict {
    let path = place.file("file", vec![7; 10_000])?;
    let file = both(&path)?;
    done("shrink", file.set_len(5001))?;
    done("grow", file.set_len(9000))?;
    let mut wanted = vec![7; 5001];
    wanted.resize(9000, 0);
    place.contains("file", &wanted)?;
    drop(done("open(O_TRUNC)", File::create(&path))?);
    same("size seen through the old descriptor", done("fstat", file.metadata())?.len(), 0)?;
    refused("a negative size", rustix::fs::ftruncate(&file, u64::MAX), Errno::INVAL)
}

pub(super) fn append(place: &Place) -> Verdict {
    let path = place.file("file", "0")?;
    let appending = || done("open", File::options().append(true).open(&path));
    let (mut one, mut two) = (appending()?, appending()?);
    for digit in ["1", "2", "3", "4"] {
        done("append", one.write_all(digit.as_bytes()))?;
        done("append", two.write_all(digit.as_bytes()))?;
    }
    done("write at an offset", one.write_all_at(b"5", 0))?;
    // pwrite(2): with O_APPEND, Linux appends whatever the offset.
    place.contains("file", "0112233445")
}

pub(super) fn append_from_two_processes(place: &Place) -> Verdict {
    const LINES: usize = 400;
    let path = place.file("log", "")?;
    let writers = ["a", "b"].map(|letter| helper::start(&["append", &path.to_string_lossy(), letter, &LINES.to_string()]));
    for writer in writers {
        let mut writer = writer?;
        holds("a writer failed", done("wait", writer.wait())?.success())?;
    }
    let text = done("read", fs::read_to_string(&path))?;
    for letter in ["a", "b"] {
        let numbers: Vec<usize> = text.lines().filter_map(|line| line.strip_prefix(letter)?.parse().ok()).collect();
        same(format_args!("lines of {letter}"), numbers, (0..LINES).collect())?;
    }
    same("lines", text.lines().count(), 2 * LINES)
}

/// A buffer that starts at a multiple of 4096.
fn aligned(buffer: &mut Vec<u8>, len: usize) -> &mut [u8] {
    buffer.resize(len + 4096, 0);
    let skip = buffer.as_ptr().align_offset(4096);
    &mut buffer[skip..skip + len]
}

pub(super) fn direct(place: &Place) -> Verdict {
    let path = place.at("file");
    let file = File::from(done("open(O_DIRECT)", open(&path, OFlags::RDWR | OFlags::CREATE | OFlags::DIRECT))?);
    let (mut out, mut back) = (Vec::new(), Vec::new());
    let out = aligned(&mut out, 1 << 20);
    out.copy_from_slice(&noise::bytes(5, 1 << 20));
    done("write", file.write_all_at(out, 0))?;
    let back = aligned(&mut back, 1 << 20);
    done("read", file.read_exact_at(back, 0))?;
    holds("what was read is not what was written", back == out)?;
    // The same through the cache, then past it again.
    place.contains("file", &*out)?;
    let cached = both(&path)?;
    done("write through the cache", cached.write_all_at(b"cached", 4096))?;
    done("fsync", cached.sync_all())?;
    done("read past the cache", file.read_exact_at(&mut back[..4096], 4096))?;
    same("it", &back[..6], b"cached".as_slice())
}

pub(super) fn sync(place: &Place) -> Verdict {
    let path = place.at("file");
    let mut file = both(&path)?;
    done("write", file.write_all(b"x"))?;
    done("fsync", file.sync_all())?;
    done("fdatasync", file.sync_data())?;
    let dir = done("open the directory", File::open(&place.dir))?;
    done("fsync of a directory", dir.sync_all())?;
    done("syncfs", rustix::fs::syncfs(&dir))?;
    rustix::fs::sync();
    for flag in [OFlags::SYNC, OFlags::DSYNC] {
        let mut file = File::from(done("open", open(&path, OFlags::WRONLY | flag))?);
        done("a synchronous write", file.write_all(b"y"))?;
    }
    place.contains("file", "y")
}

pub(super) fn vectors(place: &Place) -> Verdict {
    let mut file = both(&place.at("file"))?;
    let wrote = done("writev", file.write_vectored(&[IoSlice::new(b"one "), IoSlice::new(b""), IoSlice::new(b"two")]))?;
    same("written", wrote, 7)?;
    done("seek", file.rewind())?;
    let (mut a, mut b) = ([0; 4], [0; 3]);
    let got = done("readv", file.read_vectored(&mut [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)]))?;
    same("read", got, 7)?;
    same("parts", (&a, &b), (b"one ", b"two"))
}

pub(super) fn open_flags(place: &Place) -> Verdict {
    let path = place.file("file", "0123456789")?;
    let mut reading = File::from(done("open", open(&path, OFlags::RDONLY))?);
    holds("write to what is open for reading", reading.write(b"x").is_err())?;
    let mut writing = File::from(done("open", open(&path, OFlags::WRONLY))?);
    holds("read of what is open for writing", writing.read(&mut [0; 1]).is_err())?;
    same("seek to the end", done("lseek", reading.seek(SeekFrom::End(-3)))?, 7)?;
    let mut rest = String::new();
    done("read", reading.read_to_string(&mut rest))?;
    same("the rest", rest.as_str(), "789")?;
    let by_path = done("open(O_PATH)", open(&path, OFlags::PATH))?;
    same("size by O_PATH", done("fstat", rustix::fs::fstat(&by_path))?.st_size, 10)?;
    done("open(O_NOATIME)", open(&path, OFlags::RDONLY | OFlags::NOATIME)).map(drop)
}

/// Against a copy in memory; the file is closed and opened in between.
pub(super) fn random_writes_read_back(place: &Place) -> Verdict {
    const SIZE: usize = 1 << 20;
    let path = place.at("file");
    let mut wanted = vec![0; SIZE];
    done("create", fs::write(&path, &wanted))?;
    for round in 0..4 {
        let file = both(&path)?;
        let mut numbers = noise::words(round + 1);
        for _ in 0..200 {
            let mut next = || numbers.next().unwrap_or_default() as usize;
            let (at, len, value) = (next() % SIZE, next() % 70_000, next() as u8);
            let end = (at + len).min(SIZE);
            if value % 5 == 0 {
                let mut seen = vec![0; end - at];
                done("pread", file.read_exact_at(&mut seen, at as u64))?;
                if seen != wanted[at..end] {
                    return failed(format_args!("round {round}: {len} bytes at {at} differ"));
                }
            } else {
                wanted[at..end].fill(value);
                done("pwrite", file.write_all_at(&wanted[at..end], at as u64))?;
            }
        }
        drop(file);
        place.contains("file", &wanted)?;
    }
    Ok(())
}
