//! Databases that are damaged, foreign, missing or hostile; readers.

use super::*;
use rusqlite::Connection;
use std::os::unix::fs::symlink;

fn sql(dir: &Path, sql: &str) {
    Connection::open(dir.join("humfs/metadata.db")).unwrap().execute_batch(sql).unwrap();
}

/// A tree with a file `f`, closed.
fn closed() -> TempDir {
    let world = World::new();
    let mut made = file(1);
    made.xattrs.set(b"user.a", b"b");
    world.create("f", &made).unwrap();
    world.close()
}

fn refusal(dir: TempDir) -> String {
    World::try_open(dir, Access::Write).map(drop).unwrap_err().to_string()
}

#[test]
fn rows_with_impossible_values_are_damage_and_no_panic() {
    for change in [
        "UPDATE inode SET uid=-1",
        "UPDATE inode SET uid=4294967296",
        "UPDATE inode SET gid=9223372036854775807",
        "UPDATE inode SET mode=0",
        "UPDATE inode SET mode=-5",
        "UPDATE inode SET mode=mode+65536",
        "UPDATE inode SET mode=8192+420, rmajor=-1",
        "UPDATE inode SET mode=8192+420, rminor=4294967296",
        "DROP TABLE xattr; CREATE TABLE xattr(ino, name, value); INSERT INTO xattr SELECT ino, 5, 1.5 FROM inode",
        "DROP TABLE inode; CREATE TABLE inode(ino, mode, nlink, uid, gid, rmajor, rminor, flags); \
         INSERT INTO inode SELECT ino, 'mode', NULL, x'00', 1.5, 0, 0, 0 FROM dentry",
    ] {
        let dir = closed();
        sql(dir.path(), change);
        let world = World::open(dir);
        let error = load(&world.fs, &world.store, b"f").unwrap_err();
        assert_eq!(error.errno(), Errno::EIO, "{change}");
        assert!(error.reason().unwrap().contains("metadata.db"), "{change}: {error}");
    }
}

#[test]
fn rows_that_make_no_sense_together_do_no_harm() {
    let dir = closed();
    // A name that leads nowhere, one that is no blob, a directory in itself,
    // and more names than there are.
    sql(
        dir.path(),
        "INSERT INTO dentry VALUES(1, x'67', 77), (1, x'64', 50), (50, x'64', 50), (50, x'65', 1);
         INSERT INTO inode(ino,gen,mode,nlink,uid,gid,size,blocks,atime,atime_ns,mtime,mtime_ns,ctime,ctime_ns,btime,btime_ns)
            VALUES(50,0,16877,2,0,0,0,0,0,0,0,0,0,0,0,0);
         UPDATE inode SET nlink=-3 WHERE ino<>50",
    );
    std::fs::create_dir(dir.path().join("data/d")).unwrap();
    std::fs::write(dir.path().join("data/g"), "").unwrap();
    let world = World::open(dir);
    assert_eq!(world.load("g"), Loaded::Absent);
    world.remove("d").unwrap();
    world.save("g", &file(2));
    world.link("f", "h").unwrap();
    world.remove("f").unwrap();
    world.remove("h").unwrap();
    assert_eq!(world.again().load("g"), Loaded::Record(file(2)));
}

#[test]
fn triggers_in_the_file_do_not_run() {
    let dir = closed();
    sql(dir.path(), "CREATE TRIGGER forge AFTER UPDATE ON inode BEGIN UPDATE inode SET uid=0; END");
    let world = World::open(dir);
    world.save("f", &file(5));
    assert_eq!(world.load("f"), Loaded::Record(file(5)));
}

#[test]
fn a_file_that_is_no_database_of_ours_is_refused_at_once() {
    let dir = closed();
    std::fs::write(dir.path().join("humfs/metadata.db"), vec![b'x'; 8192]).unwrap();
    assert!(refusal(dir).contains("metadata.db"));

    let dir = closed();
    sql(dir.path(), "PRAGMA application_id=5");
    assert!(refusal(dir).contains("no database of humfs"));

    let dir = closed();
    sql(dir.path(), "PRAGMA user_version=2");
    assert!(refusal(dir).contains("version 2"));

    for change in ["DELETE FROM super WHERE k='seq'", "UPDATE super SET v=-1 WHERE k='seq'", "UPDATE super SET v='x' WHERE k='seq'"] {
        let dir = closed();
        sql(dir.path(), change);
        assert!(refusal(dir).contains("super"), "{change}");
    }
}

#[test]
fn pages_that_are_overwritten_are_damage_and_no_panic() {
    let dir = closed();
    let path = dir.path().join("humfs/metadata.db");
    let whole = std::fs::read(&path).unwrap();
    let dir = dir.keep();
    for page in 1..whole.len() / 4096 {
        let mut bytes = whole.clone();
        bytes[page * 4096..][..4096].fill(0xa5);
        std::fs::write(&path, &bytes).unwrap();
        for log in ["metadata.db-wal", "metadata.db-shm"] {
            let _ = std::fs::remove_file(dir.join("humfs").join(log));
        }
        let tree = open_tree(&dir, Access::Write);
        let fs = HostFs::layer(host::open_listing(tree.data()).unwrap(), false).unwrap();
        let Ok(store) = SqliteStore::open(&tree) else { continue };
        let world = World { dir: tempfile::tempdir().unwrap(), fs, store, _tree: tree };
        match load(&world.fs, &world.store, b"f") {
            Ok(Loaded::Record(found)) => assert_eq!((found.uid, found.mode), (GuestUid(1), Mode::new(0o4755)), "page {page}"),
            Ok(Loaded::Absent) => panic!("page {page}: the record is gone without a word"),
            Err(error) => assert_eq!(error.errno(), Errno::EIO, "page {page}"),
        }
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn links_in_place_of_files_are_refused() {
    for name in ["metadata.db", "metadata.log.0", "metadata.log.1", "metadata.db-wal", "metadata.db-shm"] {
        let dir = closed();
        let (path, elsewhere) = (dir.path().join("humfs").join(name), dir.path().join("elsewhere"));
        if std::fs::rename(&path, &elsewhere).is_err() {
            std::fs::write(&elsewhere, "somebody's").unwrap();
        }
        symlink(&elsewhere, &path).unwrap();
        let before = std::fs::read(&elsewhere).unwrap();
        assert!(!refusal_keeping(dir.path()).is_empty(), "{name}");
        assert_eq!(std::fs::read(&elsewhere).unwrap(), before, "{name}");
    }
}

#[test]
fn a_fifo_in_place_of_the_database_is_refused_and_not_waited_for() {
    let dir = closed();
    let path = dir.path().join("humfs/metadata.db");
    std::fs::remove_file(&path).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, host::FILE_MODE, 0).unwrap();
    assert!(refusal_keeping(dir.path()).contains("is no regular file"));
}

fn refusal_keeping(dir: &Path) -> String {
    let tree = open_tree(dir, Access::Write);
    let fs = HostFs::layer(host::open_listing(tree.data()).unwrap(), false).unwrap();
    let refused = SqliteStore::open(&tree).and_then(|store| store.recover(&fs.root().unwrap()));
    refused.unwrap_err().to_string()
}

#[test]
fn a_database_that_is_missing_is_not_made_anew_over_files() {
    let dir = closed();
    std::fs::remove_file(dir.path().join("humfs/metadata.db")).unwrap();
    assert!(refusal_keeping(dir.path()).contains("missing"));
    std::fs::remove_file(dir.path().join("data/f")).unwrap();
    World::open(dir);
}

#[test]
fn a_log_with_nonsense_in_it_is_refused() {
    let world = World::new();
    world.create("f", &file(1)).unwrap();
    {
        let mut state = world.store.shared.lock();
        let session = state.session(&world.store.shared.site).unwrap();
        session.write_nonsense();
    }
    assert!(refusal(world.die()).contains("malformed"));
}

#[test]
fn a_reader_sees_what_is_committed_and_changes_nothing() {
    let world = World::new();
    world.create("f", &file(1)).unwrap();
    world.store.sync().unwrap();
    let (fs, store) = world.reader();
    assert_eq!(load(&fs, &store, b"f"), Ok(Loaded::Record(file(1))));
    world.save("f", &file(2));
    world.store.sync().unwrap();
    assert_eq!(load(&fs, &store, b"f"), Ok(Loaded::Record(file(2))));
    let refused = at(&fs, b"g", |at| store.create(at, &file(1))).unwrap_err();
    assert_eq!(refused.errno(), Errno::EROFS);
    assert_eq!(at(&fs, b"f", |at| store.discard(at)).unwrap_err().errno(), Errno::EROFS);
    store.sync().unwrap();
    assert!(!world.host("g").exists());
}

#[test]
fn a_reader_sees_a_change_within_seconds_without_any_sync() {
    let world = World::new();
    world.create("f", &file(1)).unwrap();
    world.store.sync().unwrap();
    let (fs, store) = world.reader();
    world.save("f", &file(2));
    for _ in 0..200 {
        if load(&fs, &store, b"f") == Ok(Loaded::Record(file(2))) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("never seen");
}

#[test]
fn a_reader_of_a_tree_whose_writer_died_sees_all() {
    let world = World::new();
    world.create("f", &file(1)).unwrap();
    let dir = world.die();
    let world = World::try_open(dir, Access::Read).unwrap();
    assert_eq!(world.load("f"), Loaded::Record(file(1)));
}

#[test]
fn a_tree_on_a_medium_that_cannot_be_written_can_be_read() {
    let dir = closed();
    let mount = tempfile::tempdir().unwrap();
    // Only root can make such a medium here.
    let bind = |args: &[&str]| std::process::Command::new("mount").args(args).output().is_ok_and(|done| done.status.success());
    let (from, to) = (dir.path().to_str().unwrap(), mount.path().to_str().unwrap());
    if !bind(&["-o", "bind", from, to]) {
        eprintln!("skipped: only root can mount");
        return;
    }
    let is_read_only = bind(&["-o", "remount,bind,ro", to]);
    let tree = open_tree(mount.path(), Access::Read);
    let fs = HostFs::layer(host::open_listing(tree.data()).unwrap(), true).unwrap();
    let loaded = SqliteStore::open(&tree).and_then(|store| load(&fs, &store, b"f"));
    drop((tree, fs));
    assert!(std::process::Command::new("umount").arg(mount.path()).status().unwrap().success());
    assert!(is_read_only);
    assert!(matches!(loaded, Ok(Loaded::Record(_))), "{loaded:?}");
}
