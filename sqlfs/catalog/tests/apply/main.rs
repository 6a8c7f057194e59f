//! What the views say after batches.

mod random;
mod rig;

use externfs::FileKind;
use externfs_catalog::{Accounts, Batch, Catalog, Change, Extra, Op, facts};
use rig::{ROOT, Rig, attr, dir, file, gone, link, object};

#[test]
fn what_is_created_is_there_with_all_that_stat_says() {
    let mut rig = Rig::new();
    let mut attr = attr(7, FileKind::Regular, 0o4755);
    (attr.size, attr.blocks, attr.uid.0, attr.gid.0, attr.mtime.seconds, attr.mtime.nanoseconds) = (9000, 24, 5, 8, -3, 999_999_999);
    let xattrs = vec![(b"user.a".as_slice().into(), b"\0v".as_slice().into()), (b"user.b".as_slice().into(), b"".as_slice().into())];
    let extra = Extra { target: None, xattrs };
    let mut null = rig::attr(8, FileKind::CharDevice, 0o666);
    (null.device.major, null.device.minor, null.btime) = (1, 3, None);
    rig.apply(&Batch {
        objects: vec![
            dir(2),
            (7, Some(externfs_catalog::Object { attr, extra: Some(extra) })),
            object(null, None),
            object(rig::attr(9, FileKind::Symlink, 0o777), Some(b"/to/\xff")),
        ],
        names: vec![link(ROOT, "usr", 2, true), link(2, "su", 7, false), link(2, "null", 8, false), link(2, "l\u{1}\n", 9, false)],
        ..Batch::default()
    });
    assert_eq!(rig.text("select name, base, dir, parent, ino from root_fs where ino = 7"), "/usr/su|su|/usr|2|7");
    assert_eq!(
        rig.text("select type, mode, perms, setuid, setgid, sticky, uid, gid, nlink, size, blocks, mtime, mtime_ns from root_inodes where ino = 7"),
        "f|2541|4755|1|0|0|5|8|1|9000|24|-3|999999999"
    );
    assert_eq!(rig.text("select type, rmajor, rminor, btime is null from root_fs where base = 'null'"), "c|1|3|1");
    assert_eq!(rig.text("select hex(cast(target as blob)), hex(raw) from root_fs where type = 'l'"), "2F746F2FFF|2F7573722F6C010A");
    assert_eq!(rig.text("select ino, name, hex(value) from root_xattrs order by name"), "7|user.a|0076\n7|user.b|");
    // The root is an object without a name.
    assert_eq!(rig.text("select count(*) from root_fs where dir = '/'"), "1");
    // Attributes alone leave what is not in them.
    rig.apply(&Batch {
        objects: vec![(7, Some(externfs_catalog::Object { attr: rig::attr(7, FileKind::Regular, 0o600), extra: None }))],
        ..Batch::default()
    });
    assert_eq!(rig.text("select perms from root_fs where ino = 7"), "0600");
    assert_eq!(rig.text("select count(*) from root_xattrs"), "2");
    rig.apply(&Batch { objects: vec![file(7)], ..Batch::default() });
    assert_eq!(rig.text("select count(*) from root_xattrs"), "0");
}

#[test]
fn hard_links_are_names_of_one_object() {
    let mut rig = Rig::new();
    let mut two = attr(5, FileKind::Regular, 0o644);
    (two.nlink, two.blocks) = (2, 16);
    rig.apply(&Batch {
        objects: vec![dir(2), object(two, None)],
        names: vec![link(ROOT, "d", 2, true), link(ROOT, "a", 5, false), link(2, "b", 5, false)],
        ..Batch::default()
    });
    assert_eq!(rig.text("select name, nlink from root_fs where ino = 5 order by 1"), "/a|2\n/d/b|2");
    assert_eq!(rig.text("select count(*) from root_inodes where ino = 5"), "1");
    assert_eq!(rig.text("select inodes, bytes from root_usage where kind = 'all'"), "3|8192");
    two.nlink = 1;
    rig.apply(&Batch { names: vec![gone(ROOT, "a")], objects: vec![object(two, None)], ..Batch::default() });
    assert_eq!(rig.text("select name, nlink from root_fs where ino = 5"), "/d/b|1");
    rig.apply(&Batch { names: vec![gone(2, "b")], objects: vec![(5, None)], ..Batch::default() });
    assert_eq!(rig.text("select count(*), (select inodes from root_usage where kind = 'all') from root_fs"), "1|2");
}

/// /a/x, /b/y, each with a file.
fn two_directories() -> Rig {
    let mut rig = Rig::new();
    rig.apply(&Batch {
        objects: vec![dir(10), dir(11), dir(20), dir(21), file(12), file(22)],
        names: vec![
            // From below, as a scan may tell it.
            link(11, "f", 12, false),
            link(10, "x", 11, true),
            link(ROOT, "a", 10, true),
            link(ROOT, "b", 20, true),
            link(20, "y", 21, true),
            link(21, "f", 22, false),
        ],
        ..Batch::default()
    });
    assert_eq!(rig.names(), ["/a", "/a/x", "/a/x/f", "/b", "/b/y", "/b/y/f"]);
    rig
}

#[test]
fn directories_move_with_all_that_is_in_them() {
    // Each as it is told, and the other way round.
    for (what, names, expected) in [
        ("rename", vec![gone(ROOT, "a"), link(20, "c", 10, true)], ["/b", "/b/c", "/b/c/x", "/b/c/x/f", "/b/y", "/b/y/f"]),
        ("exchange", vec![link(ROOT, "a", 20, true), link(ROOT, "b", 10, true)], ["/a", "/a/y", "/a/y/f", "/b", "/b/x", "/b/x/f"]),
        (
            "exchange of different depth",
            vec![link(ROOT, "a", 21, true), link(20, "y", 10, true)],
            ["/a", "/a/f", "/b", "/b/y", "/b/y/x", "/b/y/x/f"],
        ),
        (
            "a child above its parent",
            vec![gone(10, "x"), link(ROOT, "x", 11, true), gone(ROOT, "a"), link(11, "a", 10, true)],
            ["/b", "/b/y", "/b/y/f", "/x", "/x/a", "/x/f"],
        ),
        (
            "one that moves into one that moves",
            vec![gone(ROOT, "a"), link(21, "a", 10, true), gone(20, "y"), link(ROOT, "z", 21, true)],
            ["/b", "/z", "/z/a", "/z/a/x", "/z/a/x/f", "/z/f"],
        ),
    ] {
        for reversed in [false, true] {
            let mut rig = two_directories();
            let mut names = names.clone();
            if reversed {
                names.reverse();
            }
            let batch = Batch { names, ..Batch::default() };
            rig.apply(&batch);
            assert_eq!(rig.names(), expected, "{what}, reversed: {reversed}");
            // How things are may be said twice.
            rig.apply(&batch);
            assert_eq!(rig.names(), expected, "{what} again, reversed: {reversed}");
        }
    }
}

#[test]
fn a_number_may_mean_something_else_from_one_moment_to_the_next() {
    let mut rig = two_directories();
    // Directory 11 becomes a file, file 22 a directory, in one batch.
    rig.apply(&Batch {
        objects: vec![file(11), dir(22), (12, None), file(30)],
        names: vec![
            gone(11, "f"),
            gone(10, "x"),
            gone(21, "f"),
            link(ROOT, "new", 11, false),
            link(10, "d", 22, true),
            link(22, "g", 30, false),
        ],
        ..Batch::default()
    });
    assert_eq!(rig.names(), ["/a", "/a/d", "/a/d/g", "/b", "/b/y", "/new"]);
    assert_eq!(rig.text("select group_concat(type, '') from (select type from root_fs order by name)"), "ddfddf");
    // What was a directory is none of the paths any more.
    rig.apply(&Batch { objects: vec![file(31)], names: vec![link(11, "stray", 31, false)], ..Batch::default() });
    assert_eq!(rig.text("select count(*) from root_fs where base = 'stray'"), "0");
}

#[test]
fn usage_is_what_the_objects_add_up_to() {
    let mut rig = two_directories();
    let mut big = attr(12, FileKind::Regular, 0o600);
    (big.blocks, big.uid.0, big.gid.0) = (800, 1000, 1000);
    rig.apply(&Batch { objects: vec![object(big, None), (22, None)], names: vec![gone(21, "f")], ..Batch::default() });
    rig.check_usage();
    assert_eq!(rig.text("select id, inodes, bytes from root_usage where kind = 'user' order by id"), "0|5|0\n1000|1|409600");
    big.uid.0 = 0;
    rig.apply(&Batch { objects: vec![object(big, None)], ..Batch::default() });
    rig.check_usage();
    // Whoever has nothing any more has no row.
    assert_eq!(rig.text("select count(*) from root_usage where id = 1000 and kind = 'user'"), "0");
}

#[test]
fn long_paths_are_kept_by_their_end() {
    let mut rig = Rig::new();
    let name = "n".repeat(200);
    let mut batch = Batch::default();
    for depth in 0..3000 {
        batch.objects.push(dir(2 + depth));
        batch.names.push(link(1 + depth, &name, 2 + depth, true));
    }
    batch.objects.push(file(9999));
    batch.names.push(link(3001, "deep", 9999, false));
    rig.apply(&batch);
    let (length, path) = (rig.text("select max(length(name)) from root_fs"), rig.text("select name from root_fs where base = 'deep'"));
    assert!(length.parse::<usize>().expect("a number") <= 4096 + 200, "{length}");
    assert!(path.starts_with(".../nnn") && path.ends_with("n/deep") && path.len() <= 4096 + 8, "{path}");
    // Those that can be named are whole.
    assert!(rig.text(&format!("select name from root_fs where ino = {}", 2 + 18)).starts_with("/nnn"));
    // A move far above changes all of them.
    rig.apply(&Batch { names: vec![gone(1, &name), link(1, "m", 2, true)], ..Batch::default() });
    assert!(rig.text("select name from root_fs where ino = 5").starts_with("/m/nnn"));
}

#[test]
fn the_past_is_a_ring() {
    let mut rig = two_directories();
    let change = |ino| Change {
        time: externfs::Timestamp { seconds: ino as i64, nanoseconds: 5 },
        op: Op::Write,
        ino,
        place: Some((10, b"x".as_slice().into())),
    };
    for begin in [0, 6000] {
        rig.apply(&Batch { changes: (begin..begin + 6000).map(change).collect(), ..Batch::default() });
    }
    assert_eq!(
        rig.text("select count(*), min(ino), max(ino), max(time_ns), max(op), max(name) from root_changes"),
        "10000|2000|11999|5|write|/a/x"
    );
}

#[test]
fn accounts_have_names() {
    let mut rig = two_directories();
    rig.catalog()
        .name_accounts(&Accounts { passwd: b"root:x:0:0:::\nada:x:1000:7:::\n".to_vec(), group: b"wheel:x:0:\n".to_vec() })
        .unwrap();
    assert_eq!(rig.text("select distinct user, \"group\" from root_fs"), "root|wheel");
    assert_eq!(rig.text("select kind, name from root_usage order by 1"), "all|\ngroup|wheel\nuser|root");
    rig.catalog().name_accounts(&Accounts::default()).unwrap();
    assert_eq!(rig.text("select count(*) from root_fs where user is null"), "6");
}

#[test]
fn only_what_is_whole_and_ours_is_opened() {
    let mut rig = two_directories();
    let path = rig.path();
    let open = |label: &str, root| Catalog::open(&path, label, root).unwrap().is_some();
    assert!(!open("root", ROOT), "it is not complete");
    rig.catalog().complete().unwrap();
    assert!(facts(&path).unwrap().is_some_and(|facts| facts.is_complete && facts.label == "root" && facts.root == ROOT));
    assert!(open("root", ROOT));
    assert!(!open("other", ROOT) && !open("root", 2));
    for foreign in [
        "CREATE TRIGGER evil AFTER INSERT ON inode BEGIN DELETE FROM dentry; END",
        "CREATE VIEW evil AS SELECT 1",
        "CREATE TABLE evil(a)",
        "CREATE INDEX evil ON inode(uid)",
        "DROP VIEW root_fs; CREATE VIEW root_fs AS SELECT 1 AS name",
        "PRAGMA user_version=2",
        "PRAGMA application_id=1",
        "UPDATE state SET v='1; DROP' WHERE k='label'",
    ] {
        let copy = path.with_file_name("copy.db");
        let _ = std::fs::remove_file(&copy);
        rig.conn().execute("VACUUM INTO ?", [copy.to_str()]).unwrap();
        assert!(Catalog::open(&copy, "root", ROOT).unwrap().is_some());
        let conn = rusqlite::Connection::open(&copy).unwrap();
        conn.execute_batch(foreign).unwrap();
        drop(conn);
        assert!(Catalog::open(&copy, "root", ROOT).unwrap().is_none(), "{foreign}");
        assert!(facts(&copy).unwrap().is_none(), "{foreign}");
    }
    // A link is no file of ours; a directory that is one leads to it all the same.
    let link = path.with_file_name("link.db");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(facts(&link).unwrap().is_none());
    let elsewhere = tempfile::tempdir().unwrap();
    let dir = elsewhere.path().join("dir");
    std::os::unix::fs::symlink(path.parent().unwrap(), &dir).unwrap();
    assert!(facts(&dir.join(path.file_name().unwrap())).unwrap().is_some());
}
