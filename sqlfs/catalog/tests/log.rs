//! The log of the database stays bounded, whatever readers do.

use externfs::{Attr, DeviceNumber, FileKind, GuestGid, GuestUid, Mode, Timestamp};
use externfs_catalog::{Batch, Catalog, Extra, Object};
use rusqlite::Connection;

const MIB: u64 = 1 << 20;

/// Some MiB of changes.
fn batch(round: u64) -> Batch {
    let time = Timestamp::default();
    let (uid, gid, mode, device) = (GuestUid(0), GuestGid(0), Mode::new(0o600), DeviceNumber::default());
    let objects = (0..64).map(|number| {
        let ino = 2 + number;
        let kind = FileKind::Regular;
        let attr = Attr {
            ino,
            size: round,
            blocks: 0,
            block_size: 0,
            kind,
            mode,
            nlink: 1,
            uid,
            gid,
            device,
            atime: time,
            mtime: time,
            ctime: time,
            btime: None,
        };
        let xattrs = vec![(b"user.x".as_slice().into(), vec![round as u8; 60_000].into())];
        (ino, Some(Object { attr, extra: Some(Extra { target: None, xattrs }) }))
    });
    Batch { objects: objects.collect(), ..Batch::default() }
}

#[test]
fn a_reader_who_does_not_end_stops_the_writer_and_not_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.db");
    let log = || std::fs::metadata(dir.path().join("catalog.db-wal")).map_or(0, |log| log.len());
    let mut catalog = Catalog::create(&path, "root", 1).unwrap();
    // Without a reader it is written back again and again.
    for round in 0..20 {
        catalog.apply(&batch(round)).unwrap();
        assert!(catalog.tidy_log().unwrap());
        assert!(log() < 20 * MIB, "{} bytes of log", log());
    }
    let reader = Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM inode;").unwrap();
    let mut rounds = 0;
    while catalog.tidy_log().unwrap() {
        catalog.apply(&batch(rounds)).unwrap();
        rounds += 1;
        assert!(rounds < 100, "{} bytes of log", log());
    }
    assert!((48 * MIB..64 * MIB).contains(&log()), "{} bytes of log", log());
    assert!(!catalog.tidy_log().unwrap());
    // He still has what he began with.
    let seen: i64 = reader.query_row("SELECT max(size) FROM inode", [], |row| row.get(0)).unwrap();
    assert_eq!(seen, 19);
    reader.execute_batch("COMMIT").unwrap();
    assert!(catalog.tidy_log().unwrap());
    assert!(log() <= 8 * MIB, "{} bytes of log", log());
    let seen: i64 = reader.query_row("SELECT max(size) FROM inode", [], |row| row.get(0)).unwrap();
    assert_eq!(seen, rounds as i64 - 1);
    drop(reader);
    // One who has left in order leaves one file.
    catalog.complete().unwrap();
    catalog.close().unwrap();
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["catalog.db"]);
}
