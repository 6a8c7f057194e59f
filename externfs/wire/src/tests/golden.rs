//! Each structure byte for byte, written out from the kernel's header.

use super::Bytes;
use super::fake::{ATTR_TTL, ENTRY_TTL, attr};
use crate::codec::Payload;
use crate::reply;
use crate::request::Header;
use externfs::*;
use std::time::Duration;

fn attr_bytes(flags: u32) -> Vec<u8> {
    let times = Bytes::new().u64(u64::MAX).u64(2).u64(3).u32(1).u32(20).u32(30).0;
    let rest = Bytes::new().u32(0o104_755).u32(0x44).u32(0x55).u32(0x66).u32(0).u32(4096).u32(flags).0;
    [Bytes::new().u64(0x11).u64(0x22).u64(0x33).0, times, rest].concat()
}

#[test]
fn fuse_attr_out() {
    let bytes = reply::attr(&attr(), ATTR_TTL).unwrap();
    assert_eq!(bytes.as_bytes(), [Bytes::new().u64(5).u32(6).u32(0).0, attr_bytes(0)].concat());
    assert_eq!(bytes.as_bytes().len(), 104);
}

#[test]
fn fuse_entry_out() {
    let entry = |submount| Entry { id: NodeId(1 << 40), generation: 9, attr: attr(), attr_ttl: ATTR_TTL, entry_ttl: ENTRY_TTL, submount };
    for submount in [false, true] {
        let bytes = reply::entry(&entry(submount)).unwrap();
        let head = Bytes::new().u64(1 << 40).u64(9).u64(7).u64(5).u32(8).u32(6).0;
        assert_eq!(bytes.as_bytes(), [head, attr_bytes(u32::from(submount))].concat());
        assert_eq!(bytes.as_bytes().len(), 128);
    }
    let none = Bytes::new().u64(0).u64(0).u64(2).u64(0).u32(3).u32(0).raw(&[0; 88]);
    assert_eq!(reply::no_entry(Duration::new(2, 3)).as_bytes(), none.0);
}

#[test]
fn fuse_open_out() {
    let handle = |cache, keep_listing| Handle { id: HandleId(6), cache, keep_listing, size: 0 };
    for (cache, flags) in [(FileCache::Bypass, 0x41), (FileCache::Drop, 0), (FileCache::Keep, 2)] {
        let bytes = reply::put_open(Payload::new(), &handle(cache, false), reply::file_flags(cache), 0);
        assert_eq!(bytes.as_bytes(), Bytes::new().u64(6).u32(flags).u32(0).0);
    }
    assert_eq!(reply::dir_flags(&handle(FileCache::Drop, true)).bits(), 0xa);
    assert_eq!(reply::dir_flags(&handle(FileCache::Drop, false)).bits(), 0);
}

#[test]
fn fuse_statx_out() {
    let attr = Attr { device: DeviceNumber { major: 0x12345, minor: 0x678 }, ..attr() };
    let bytes = reply::statx(&attr, ATTR_TTL);
    let head = Bytes::new().u64(5).u32(6).u32(0).u64(0).u64(0);
    let head = head.u32(0xfff).u32(4096).u64(0).u32(0x44).u32(0x55).u32(0x66).u32(0o104_755);
    let body = head.u64(0x11).u64(0x22).u64(0x33).u64(0);
    let times = body.u64(u64::MAX).u64(1).u64(4).u64(40).u64(3).u64(30).u64(2).u64(20);
    assert_eq!(bytes.as_bytes(), times.u32(0x12345).u32(0x678).u64(0).raw(&[0; 112]).0);
    assert_eq!(bytes.as_bytes().len(), 288);
    let without = reply::statx(&Attr { btime: None, ..attr }, ATTR_TTL);
    assert_eq!(without.as_bytes()[32..36], 0x7ffu32.to_ne_bytes(), "no birth time is claimed");
    assert_eq!(without.as_bytes()[112..128], [0; 16]);
}

#[test]
fn fuse_statfs_out() {
    let stat = StatFs { block_size: 512, blocks: 1, blocks_free: 2, blocks_available: 3, inodes: 4, inodes_free: 5, name_max: 255 };
    let expected = Bytes::new().u64(1).u64(2).u64(3).u64(4).u64(5).u32(512).u32(255).u32(512).raw(&[0; 28]);
    assert_eq!(reply::statfs(&stat).as_bytes(), expected.0);
    assert_eq!(expected.0.len(), 80);
}

#[test]
fn small_structures() {
    let lock = Lock { family: LockFamily::Posix, kind: LockKind::Read, owner: 1, start: 2, end: u64::MAX, pid: 3 };
    let expected = |kind: i32| Bytes::new().u64(2).u64(i64::MAX as u64).u32(kind as u32).u32(3).0;
    assert_eq!(reply::lock(Some(&lock), &lock).as_bytes(), expected(libc::F_RDLCK));
    assert_eq!(reply::lock(None, &lock).as_bytes(), expected(libc::F_UNLCK));
    assert_eq!(reply::written(7).as_bytes(), Bytes::new().u32(7).u32(0).0);
    assert_eq!(reply::xattr_size(7).as_bytes(), Bytes::new().u32(7).u32(0).0);
    assert_eq!(reply::offset(7).as_bytes(), 7u64.to_ne_bytes());
    assert_eq!(reply::ioctl(&[1, 2]).as_bytes(), Bytes::new().raw(&[0; 16]).raw(&[1, 2]).0);
    assert_eq!(reply::header(5, None, 4).to_vec(), Bytes::new().u32(20).u32(0).u64(5).0);
    assert_eq!(reply::header(5, Some(Errno::ENOENT), 0).to_vec(), Bytes::new().u32(16).u32(-2i32 as u32).u64(5).0);
}

#[test]
fn fuse_in_header() {
    let bytes = Bytes::new().u32(48).u32(1).u64(2).u64(3).u32(4).u32(5).u32(6).u32(0x7777_0002).0;
    let header = Header::parse(bytes.as_slice().try_into().unwrap()).unwrap();
    let extension_len = if cfg!(target_endian = "little") { 16 } else { 0x7777 * 8 };
    assert_eq!(header, Header { len: 48, opcode: 1, unique: 2, node: 3, uid: 4, gid: 5, pid: 6, extension_len });
}

#[test]
fn device_numbers_are_the_kernels() {
    // 8:1 is sda1; 259:0x12345 spreads over both parts of the minor number.
    for (major, minor, bits) in [(0, 0, 0), (8, 1, 0x801), (4095, 0, 0xf_ff00), (259, 0x1_2345, 0x1231_0345), (0, 0xf_ffff, 0xfff0_00ff)] {
        assert_eq!(reply::device(DeviceNumber { major, minor }), Ok(bits), "{major}:{minor}");
    }
    for (major, minor) in [(4096, 0), (0, 1 << 20), (u32::MAX, u32::MAX)] {
        assert_eq!(reply::device(DeviceNumber { major, minor }), Err(Errno::EOVERFLOW));
    }
}
