//! Bytes in files.

use super::Subject;
use crate::export_driver::MemorySource;
use crate::guest::{BOTH, Guest, READ};
use crate::op::pattern;
use externfs::*;

const ROOT: NodeId = NodeId::ROOT;

pub(super) fn data_comes_back(_: &Subject, guest: &Guest) {
    let (entry, handle) = guest.create(ROOT, "f", true).expect("create");
    let mut expected = vec![0u8; 300_000];
    for (index, (offset, len)) in [(0, 1), (4095, 2), (4096, 4096), (100_000, 131_072), (1, 70_000), (299_999, 1)].into_iter().enumerate() {
        let data = pattern(index as u8 * 37, len);
        assert_eq!(guest.write(handle, offset as u64, &data), Ok(len), "write at {offset}");
        expected[offset..offset + len].copy_from_slice(&data);
    }
    assert_eq!(guest.attr(entry.id).expect("attr").size, 300_000);
    assert!(guest.read(handle, 0, 400_000) == Ok(expected.clone()), "the whole file");
    for (offset, len) in [(0usize, 1usize), (4090, 12), (299_990, 100), (131_071, 2)] {
        let end = (offset + len).min(expected.len());
        assert_eq!(guest.read(handle, offset as u64, len), Ok(expected[offset..end].to_vec()), "{len} at {offset}");
    }
    assert_eq!(guest.read(handle, 300_000, 10), Ok(Vec::new()), "nothing at the end");
    assert_eq!(guest.read(handle, 1 << 40, 10), Ok(Vec::new()), "nothing far behind it");
    assert_eq!(guest.write(handle, 5, b""), Ok(0), "writing nothing is nothing");
    let reader = guest.open(entry.id, READ).expect("open");
    assert_eq!(guest.write(reader, 0, b"x"), Err(Errno::EBADF), "a file open for reading");
    let writer = guest.open(entry.id, OpenFlags { read: false, ..BOTH }).expect("open");
    assert_eq!(guest.write(writer, 0, b"x"), Ok(1));
}

pub(super) fn a_gap_reads_as_zeroes(_: &Subject, guest: &Guest) {
    let (entry, handle) = guest.create(ROOT, "f", true).expect("create");
    guest.write(handle, 0, b"abc").expect("write");
    guest.set(entry.id, SetAttr { size: Some(2), ..SetAttr::default() }).expect("shrink");
    guest.set(entry.id, SetAttr { size: Some(10), ..SetAttr::default() }).expect("grow");
    assert_eq!(guest.read(handle, 0, 100), Ok(b"ab\0\0\0\0\0\0\0\0".to_vec()), "what was cut off must not come back");
    guest.write(handle, 20, b"z").expect("write");
    let data = guest.read(handle, 0, 100).expect("read");
    assert_eq!((data.len(), &data[2..20]), (21, &[0u8; 18][..]));
}

pub(super) fn appends_from_many_threads_all_arrive(subject: &Subject, guest: &Guest) {
    let file = guest.file(ROOT, "log", b"").expect("file");
    let other = Guest::new(subject.connect.as_ref());
    other.lookup(ROOT, "log").expect("lookup");
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let kernel = if thread % 2 == 0 { guest } else { &other };
            scope.spawn(move || {
                let handle = kernel.open(file.id, OpenFlags { append: true, ..BOTH }).expect("open");
                let flags = WriteFlags { append: true, ..WriteFlags::default() };
                for _ in 0..100 {
                    // The offset is what a kernel believed: it must not matter.
                    let line = [b'0' + thread; 16];
                    let count = kernel.export.write(handle, 0, &mut MemorySource(&line), flags).expect("append");
                    assert_eq!(count, 16);
                }
                kernel.close(handle);
            });
        }
    });
    let data = guest.contents(file.id).expect("read");
    assert_eq!(data.len(), 4 * 100 * 16);
    assert!(data.chunks(16).all(|line| line.iter().all(|b| *b == line[0])), "lines are torn");
    other.finish();
}

pub(super) fn open_can_truncate(_: &Subject, guest: &Guest) {
    let file = guest.file(ROOT, "f", b"contents").expect("file");
    let handle = guest.open(file.id, OpenFlags { truncate: true, ..BOTH }).expect("open");
    assert_eq!(guest.attr(file.id).expect("attr").size, 0);
    guest.write(handle, 0, b"new").expect("write");
    assert_eq!(guest.contents(file.id), Ok(b"new".to_vec()));
}

pub(super) fn a_file_may_be_huge(_: &Subject, guest: &Guest) {
    let (entry, handle) = guest.create(ROOT, "f", true).expect("create");
    let far = 5_000_000_000u64;
    guest.write(handle, far, b"far").expect("write past 4 GiB");
    assert_eq!(guest.attr(entry.id).expect("attr").size, far + 3);
    assert_eq!(guest.read(handle, far - 1, 10), Ok(b"\0far".to_vec()));
    assert!(guest.attr(entry.id).expect("attr").blocks < 10_000, "and stays sparse");
    for offset in [u64::MAX, u64::MAX - 2, i64::MAX as u64, 1 << 63] {
        assert!(guest.write(handle, offset, b"abc").is_err(), "write at {offset}");
        assert!(!matches!(guest.read(handle, offset, 10), Ok(data) if !data.is_empty()), "read at {offset}");
        let change = SetAttr { size: Some(offset), ..SetAttr::default() };
        if offset != i64::MAX as u64 {
            assert!(guest.set(entry.id, change).is_err(), "truncate to {offset}");
        }
    }
    assert_eq!(guest.attr(entry.id).expect("attr").size, far + 3, "refused changes change nothing");
}

pub(super) fn holes_can_be_made_and_found(subject: &Subject, guest: &Guest) {
    if !subject.can.holes {
        crate::harness::skip("this plugin makes no holes");
    }
    let (entry, handle) = guest.create(ROOT, "f", true).expect("create");
    let size = 4 << 20;
    guest.write(handle, 0, &pattern(1, size)).expect("write");
    let (start, len) = (1u64 << 20, 1u64 << 20);
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    guest.export.fallocate(handle, start, len, punch).expect("punch");
    let data = guest.read(handle, start - 1, 3).expect("read");
    assert_eq!(data[1..], [0, 0]);
    assert_ne!(data[0], 0, "the byte before the hole stays");
    let seek = |offset, what| guest.export.seek(handle, offset, what).map_err(|e| e.errno());
    assert_eq!(seek(0, SeekFor::Hole), Ok(start));
    assert_eq!(seek(start, SeekFor::Data), Ok(start + len));
    assert_eq!(seek(size as u64, SeekFor::Data), Err(Errno::ENXIO), "nothing at the end");
    guest.export.fallocate(handle, size as u64, 4096, FallocateFlags::empty()).expect("allocate");
    assert_eq!(guest.attr(entry.id).expect("attr").size, size as u64 + 4096);
    guest.export.fallocate(handle, 0, 64 << 20, FallocateFlags::KEEP_SIZE).expect("allocate behind the end");
    assert_eq!(guest.attr(entry.id).expect("attr").size, size as u64 + 4096);
    for (offset, len) in [(0, 0), (u64::MAX, 1), (1, u64::MAX), (i64::MAX as u64, i64::MAX as u64)] {
        assert!(guest.export.fallocate(handle, offset, len, FallocateFlags::empty()).is_err(), "{offset} {len}");
    }
}

pub(super) fn ranges_can_be_copied(_: &Subject, guest: &Guest) {
    let data = pattern(9, 200_000);
    let source = guest.file(ROOT, "from", &data).expect("file");
    let (target, to) = guest.create(ROOT, "to", true).expect("create");
    let from = guest.open(source.id, READ).expect("open");
    let mut done = 0u64;
    while done < 100_000 {
        match guest.export.copy_range((from, 50_000 + done), (to, 10 + done), 100_000 - done) {
            Ok(count) if count > 0 => done += count,
            Ok(_) => panic!("copying stopped after {done} bytes"),
            Err(e) if e.errno() == Errno::EOPNOTSUPP => crate::harness::skip("this plugin copies no ranges"),
            Err(e) => panic!("copy after {done} bytes: {e}"),
        }
    }
    assert_eq!(guest.attr(target.id).expect("attr").size, 100_010);
    assert!(guest.read(to, 10, 200_000) == Ok(data[50_000..150_000].to_vec()), "the copy differs");
    let copy = |a: (HandleId, u64), b: (HandleId, u64), len| guest.export.copy_range(a, b, len).map_err(|e| e.errno());
    assert_eq!(copy((from, 200_000), (to, 0), 10), Ok(0), "nothing to copy at the end");
    assert_eq!(copy((to, 0), (from, 0), 10), Err(Errno::EBADF), "into a file open for reading");
}

pub(super) fn syncing_succeeds(_: &Subject, guest: &Guest) {
    let (_, handle) = guest.create(ROOT, "f", true).expect("create");
    guest.write(handle, 0, b"x").expect("write");
    guest.export.flush(handle, 1).expect("flush");
    guest.export.fsync(handle, true).expect("fdatasync");
    guest.export.fsync(handle, false).expect("fsync");
    let dir = guest.open_dir(ROOT).expect("opendir");
    guest.export.fsync_dir(dir, false).expect("fsync of a directory");
    guest.export.sync().expect("syncfs");
}
