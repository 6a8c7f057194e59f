//! The damages: what is done to a tree, what is found, what a repair leaves.

use crate::sample::{Sample, serve};
use externfs::{ExternFs, FileKind, GuestGid, GuestUid, Mode};
use humfs::record::{Record, Target};
use humfs::store::Format;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

/// What a repair can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum After {
    /// All is well again: exit code 1, then 0.
    Clean,
    /// Nothing safe can be done.
    Left,
}

pub(crate) struct Damage {
    pub(crate) called: &'static str,
    /// Formats that have it.
    pub(crate) only: &'static [Format],
    pub(crate) make: fn(&Sample),
    /// Where, and which problem.
    pub(crate) found: &'static [(&'static str, &'static str)],
    pub(crate) after: After,
    /// Paths whose looks may have changed after the repair.
    pub(crate) changed: &'static [&'static str],
}

pub(crate) fn write(path: impl AsRef<Path>, text: impl AsRef<[u8]>) {
    std::fs::write(path, text).unwrap();
}

pub(crate) fn chmod(path: impl AsRef<Path>, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

fn fifo(path: impl AsRef<Path>) {
    rustix::fs::mknodat(rustix::fs::CWD, path.as_ref(), rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0).unwrap();
}

fn set_block(path: impl AsRef<Path>, block: &[u8]) {
    rustix::fs::setxattr(path.as_ref(), "user.humfs", block, rustix::fs::XattrFlags::empty()).unwrap();
}

fn set_record(path: impl AsRef<Path>, change: impl FnOnce(&mut Record)) {
    let mut record = Record::new(FileKind::Regular, Mode::new(0o644), GuestUid(0), GuestGid(0));
    change(&mut record);
    set_block(path, &record.to_block(Target::Block));
}

const fn damage(called: &'static str, make: fn(&Sample), found: &'static [(&'static str, &'static str)], after: After) -> Damage {
    Damage { called, only: &Format::ALL, make, found, after, changed: &[] }
}

const fn xattr(
    called: &'static str,
    make: fn(&Sample),
    found: &'static [(&'static str, &'static str)],
    after: After,
    changed: &'static [&'static str],
) -> Damage {
    Damage { called, only: &[Format::Xattr], make, found, after, changed }
}

use After::{Clean, Left};

pub(crate) const ON_EVERY_FORMAT: &[Damage] = &[
    damage("a file of the host's", |s| write(s.data("etc/new"), "x"), &[("/etc/new", "orphan-data")], Clean),
    damage("a directory of the host's", |s| std::fs::create_dir(s.data("etc/d")).unwrap(), &[("/etc/d", "orphan-data")], Clean),
    damage("a link of the host's", |s| symlink("../x y", s.data("etc/ln")).unwrap(), &[("/etc/ln", "orphan-data")], Clean),
    damage("a FIFO of the host's", |s| fifo(s.data("dev/fifo")), &[("/dev/fifo", "orphan-data")], Clean),
    damage("setuid on the host", |s| chmod(s.data("bin/su"), 0o4755), &[("/bin/su", "host-mode-too-wide")], Clean),
    damage("a directory for everybody", |s| chmod(s.data("etc"), 0o777), &[("/etc", "host-mode-too-wide")], Clean),
    damage("a root for everybody", |s| chmod(s.data(""), 0o1777), &[("/", "host-mode-too-wide")], Clean),
    damage("a file that nobody can open", |s| chmod(s.data("etc/passwd"), 0o400), &[("/etc/passwd", "host-mode-too-narrow")], Clean),
    damage("a directory that nobody can enter", |s| chmod(s.data("etc"), 0), &[("/etc", "host-mode-too-narrow")], Clean),
    damage(
        "a counter",
        |s| patch(s, "humfs/state", 32, &9u64.to_le_bytes()),
        &[("humfs/state", "wrong-counters"), ("superblock", "wrong-used")],
        Clean,
    ),
    damage("the number of objects", |s| patch(s, "humfs/state", 40, &999u64.to_le_bytes()), &[("humfs/state", "wrong-counters")], Clean),
    damage("used", edit_used, &[("superblock", "wrong-used")], Clean),
    damage("a state of nonsense", |s| write(s.tree.join("humfs/state"), "humfs?"), &[("humfs/state", "format-flaw")], Clean),
    damage("a change under way", leave_in_flight, &[("humfs/state", "cut-change")], Clean),
    damage("a half-written superblock", |s| write(s.tree.join("superblock.new"), "vers"), &[("superblock.new", "cut-change")], Clean),
    damage("half-written settings", |s| write(s.tree.join("humfs/settings.new"), ""), &[("humfs/settings.new", "cut-change")], Clean),
    damage(
        "a staged directory",
        |s| std::fs::create_dir_all(s.tree.join("humfs/stage/7")).unwrap(),
        &[("humfs/stage/7", "cut-change")],
        Clean,
    ),
    damage("half an intent", |s| symlink("half", s.tree.join("humfs/changes/7.1")).unwrap(), &[("humfs/changes/7.1", "cut-change")], Clean),
    damage(
        "an intent of nonsense",
        |s| symlink("what", s.tree.join("humfs/changes/7")).unwrap(),
        &[("humfs/changes/7", "cut-change")],
        Left,
    ),
    damage("a control directory for everybody", |s| chmod(s.tree.join("humfs"), 0o777), &[("humfs", "open-to-others")], Clean),
    damage(
        "settings of nonsense",
        |s| write(s.tree.join("humfs/settings"), "inodes many\n"),
        &[("humfs/settings", "invalid-setting")],
        Left,
    ),
    damage("an import", |s| write(s.tree.join("humfs/importing"), ""), &[("humfs/importing", "unfinished")], Left),
    damage("a conversion", |s| std::fs::create_dir(s.tree.join("humfs/convert")).unwrap(), &[("humfs/convert", "cut-change")], Clean),
    damage("half a conversion", |s| std::fs::create_dir(s.tree.join("humfs/dropped")).unwrap(), &[("humfs/dropped", "cut-change")], Clean),
    damage(
        "a name elsewhere",
        |s| std::fs::hard_link(s.data("bin/su"), s.tree.join("out")).unwrap(),
        &[("/bin/su", "name-elsewhere")],
        Left,
    ),
    damage("another user's file", |s| chown(s.data("etc/passwd")), &[("/etc/passwd", "foreign-owner")], Left),
    damage("another user's part", |s| chown(s.tree.join("humfs/state")), &[("humfs/state", "foreign-owner")], Left),
];

pub(crate) const ON_XATTR: &[Damage] = &[
    xattr("a tree for everybody", |s| chmod(&s.tree, 0o755), &[(".", "open-to-others")], Clean, &[]),
    xattr("a record of nonsense", |s| set_block(s.data("bin/su"), b"x"), &[("/bin/su", "unreadable-record")], Clean, &["/bin/su"]),
    xattr("an empty record", |s| set_block(s.data("etc/other"), b""), &[("/etc/other", "unreadable-record")], Clean, &["/etc/other"]),
    xattr(
        "a record of the future",
        |s| set_block(s.data("etc/other"), &[9; 40]),
        &[("/etc/other", "unreadable-record")],
        Clean,
        &["/etc/other"],
    ),
    xattr("a directory's record", |s| set_block(s.data("etc"), b"x"), &[("/etc", "unreadable-record")], Clean, &["/etc"]),
    xattr("the root's record", |s| set_block(s.data(""), b"x"), &[("/", "unreadable-record")], Clean, &[]),
    xattr(
        "records above each other",
        |s| {
            set_block(s.data("etc"), b"x");
            set_block(s.data("etc/passwd"), b"y");
        },
        &[("/etc", "unreadable-record"), ("/etc/passwd", "unreadable-record")],
        Clean,
        &["/etc"],
    ),
    xattr("a record for several names", |s| set_block(s.data("one"), b"x"), &[("/one", "unreadable-record")], Clean, &["/etc/two", "/one"]),
    xattr("a record of another type", |s| set_record(s.data("etc"), |_| {}), &[("/etc", "wrong-type")], Clean, &["/etc"]),
    xattr("no owner", |s| set_record(s.data("one"), |r| r.uid = GuestUid(u32::MAX)), &[("/one", "invalid-record")], Left, &["/etc/two"]),
    xattr("a link to nowhere", |s| set_record(s.data("link"), |r| r.kind = FileKind::Symlink), &[("/link", "invalid-record")], Left, &[]),
    xattr("a lost record", |s| unset(s.data("bin/su")), &[("/bin/su", "orphan-data")], Clean, &["/bin/su"]),
    xattr(
        "a lost record where there is no place for it",
        |s| {
            set_block(s.data("bin/su"), b"x");
            write(s.data("lost+found"), "");
            set_record(s.data("lost+found"), |_| {});
            chmod(s.data("lost+found"), 0o600);
            recount(s);
        },
        &[("/bin/su", "unreadable-record")],
        Left,
        &[],
    ),
];

/// Lets a writer count what was put there by hand.
fn recount(sample: &Sample) {
    std::fs::remove_file(sample.tree.join("humfs/state")).unwrap();
    serve(&sample.tree).close().unwrap();
}

fn unset(path: impl AsRef<Path>) {
    rustix::fs::removexattr(path.as_ref(), "user.humfs").unwrap();
}

fn chown(path: impl AsRef<Path>) {
    std::os::unix::fs::chown(path, Some(12_345), None).unwrap();
}

fn edit_used(sample: &Sample) {
    let path = sample.tree.join("superblock");
    let text = std::fs::read_to_string(&path).unwrap();
    let lines = text.lines().map(|line| if line.starts_with("used") { "used 77" } else { line });
    write(path, lines.map(|line| format!("{line}\n")).collect::<String>());
}

/// As if the server had been killed while it made a file.
fn leave_in_flight(sample: &Sample) {
    patch(sample, "humfs/state", 8, &[0; 8]);
    patch(sample, "humfs/state", 64, &entry(b"gone"));
}

/// An entry of `humfs/state`: a file was to be made at `path`.
fn entry(path: &[u8]) -> Vec<u8> {
    let mut entry = vec![0; 256];
    (entry[0], entry[1]) = (1, path.len() as u8);
    entry[24..24 + path.len()].copy_from_slice(path);
    entry
}

fn patch(sample: &Sample, part: &str, offset: u64, bytes: &[u8]) {
    let file = std::fs::OpenOptions::new().write(true).open(sample.tree.join(part)).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

const ALL_BUT_XATTR: &[Format] = &[Format::ShadowFs, Format::ShadowLink, Format::Sqlite];

pub(crate) const ON_OTHERS: &[Damage] = &[
    Damage {
        called: "records of a conversion that was cut short",
        only: ALL_BUT_XATTR,
        make: |s| {
            for path in ["", "bin/su", "one", "dev/pipe", "etc"] {
                set_record(s.data(path), |_| {});
            }
            recount(s);
        },
        found: &[
            ("/", "stray-record"),
            ("/bin/su", "stray-record"),
            ("/dev/pipe", "stray-record"),
            ("/etc", "stray-record"),
            ("/one", "stray-record"),
        ],
        after: Clean,
        changed: &[],
    },
    Damage {
        called: "a file of a conversion that has no record",
        only: ALL_BUT_XATTR,
        make: |s| {
            write(s.data("etc/new"), "x");
            set_record(s.data("etc/new"), |r| r.mode = Mode::new(0o4755));
        },
        found: &[("/etc/new", "orphan-data"), ("/etc/new", "stray-record")],
        after: Clean,
        changed: &[],
    },
];

const SHADOW: &[Format] = &[Format::ShadowFs, Format::ShadowLink];

const fn shadow(
    called: &'static str,
    make: fn(&Sample),
    found: &'static [(&'static str, &'static str)],
    after: After,
    changed: &'static [&'static str],
) -> Damage {
    Damage { called, only: SHADOW, make, found, after, changed }
}

/// Puts `text` in place of a record, as the format has it.
fn replace_record(sample: &Sample, part: &str, text: &str) {
    let path = sample.tree.join(part);
    let _ = std::fs::remove_file(&path);
    match sample.format {
        Format::ShadowLink => symlink(text, path).unwrap(),
        _ => write(path, format!("{text}\n")),
    }
}

pub(crate) const ON_SHADOW: &[Damage] = &[
    shadow(
        "a left-over record",
        |s| replace_record(s, "file_metadata/etc/ghost", "2541 0 0"),
        &[("/etc/ghost", "orphan-metadata")],
        Clean,
        &[],
    ),
    shadow(
        "left-over mirrors",
        |s| {
            for tree in ["file_metadata/gone/deep", "dir_metadata/gone/deep"] {
                std::fs::create_dir_all(s.tree.join(tree)).unwrap();
            }
            replace_record(s, "dir_metadata/gone/metadata", "493 0 0");
            replace_record(s, "file_metadata/gone/deep/x", "420 0 0");
        },
        &[("/gone", "orphan-metadata")],
        Clean,
        &[],
    ),
    shadow(
        "a lost record",
        |s| std::fs::remove_file(s.tree.join("file_metadata/etc/other")).unwrap(),
        &[("/etc/other", "orphan-data")],
        Clean,
        &["/etc/other"],
    ),
    shadow(
        "a directory's lost record",
        |s| std::fs::remove_file(s.tree.join("dir_metadata/etc/metadata")).unwrap(),
        &[("/etc", "orphan-data")],
        Clean,
        &[],
    ),
    shadow(
        "the root's lost record",
        |s| std::fs::remove_file(s.tree.join("dir_metadata/metadata.1")).unwrap(),
        &[("/", "orphan-data")],
        Clean,
        &[],
    ),
    shadow("lost mirrors", |s| std::fs::remove_dir_all(s.tree.join("dir_metadata/dev")).unwrap(), &[("/dev", "orphan-data")], Clean, &[]),
    shadow(
        "a record of nonsense",
        |s| replace_record(s, "file_metadata/bin/su", "x"),
        &[("/bin/su", "unreadable-record")],
        Clean,
        &["/bin/su"],
    ),
    shadow(
        "a mode of nonsense",
        |s| replace_record(s, "file_metadata/bin/su", "99999 0 0"),
        &[("/bin/su", "unreadable-record")],
        Clean,
        &["/bin/su"],
    ),
    shadow(
        "a directory's record of nonsense",
        |s| replace_record(s, "dir_metadata/etc/metadata", "x"),
        &[("/etc", "unreadable-record")],
        Clean,
        &["/etc"],
    ),
    shadow(
        "the root's record of nonsense",
        |s| replace_record(s, "dir_metadata/metadata.1", "x"),
        &[("/", "unreadable-record")],
        Clean,
        &[],
    ),
    shadow("two records of a directory", |s| replace_record(s, "dir_metadata/etc/other", "493 0 0"), &[("/etc", "format-flaw")], Left, &[]),
    shadow(
        "records that a power failure swallowed",
        |s| {
            for part in ["file_metadata/bin/su", "dir_metadata/etc/metadata", "dir_metadata/metadata.1"] {
                std::fs::remove_file(s.tree.join(part)).unwrap();
                write(s.tree.join(part), "");
            }
        },
        &[("/", "unwritten-record"), ("/bin/su", "unwritten-record"), ("/etc", "unwritten-record")],
        Clean,
        &[],
    ),
    shadow(
        "a FIFO for a record",
        |s| {
            std::fs::remove_file(s.tree.join("file_metadata/bin/su")).unwrap();
            fifo(s.tree.join("file_metadata/bin/su"));
        },
        &[("/bin/su", "unreadable-record")],
        Clean,
        &["/bin/su"],
    ),
    shadow(
        "a device for a record",
        |s| replace_record(s, "dir_metadata/etc/metadata", "420 0 0 b 1 2"),
        &[("/etc", "wrong-type")],
        Clean,
        &["/etc"],
    ),
    shadow(
        "no owner",
        |s| replace_record(s, "file_metadata/etc/other", "416 -1 0"),
        &[("/etc/other", "invalid-record")],
        Left,
        &["/etc/other"],
    ),
    shadow(
        "a record for one name only",
        |s| replace_record(s, "file_metadata/etc/two", "384 9 9"),
        &[("/one", "split-hard-link")],
        Left,
        &["/etc/two"],
    ),
    shadow("the same record twice", |s| replace_record(s, "file_metadata/etc/two", "384 7 8"), &[("/one", "split-hard-link")], Left, &[]),
    Damage {
        called: "a link for a record",
        only: &[Format::ShadowFs],
        make: |s| {
            std::fs::remove_file(s.tree.join("file_metadata/bin/su")).unwrap();
            symlink("/etc/passwd", s.tree.join("file_metadata/bin/su")).unwrap();
        },
        found: &[("/bin/su", "unreadable-record")],
        after: Clean,
        changed: &["/bin/su"],
    },
    shadow(
        "a metadata tree for everybody",
        |s| chmod(s.tree.join("file_metadata"), 0o777),
        &[("file_metadata", "open-to-others")],
        Clean,
        &[],
    ),
];

const fn sqlite(
    called: &'static str,
    make: fn(&Sample),
    found: &'static [(&'static str, &'static str)],
    after: After,
    changed: &'static [&'static str],
) -> Damage {
    Damage { called, only: &[Format::Sqlite], make, found, after, changed }
}

fn sql(sample: &Sample, statement: &str) {
    let conn = rusqlite::Connection::open(sample.tree.join("humfs/metadata.db")).unwrap();
    assert!(conn.execute(statement, ()).unwrap() > 0, "{statement}");
}

const OF_SU: &str = "(SELECT ino FROM dentry WHERE name=CAST('su' AS BLOB))";

pub(crate) const ON_SQLITE: &[Damage] = &[
    sqlite(
        "a left-over name",
        |s| sql(s, "INSERT INTO dentry VALUES(1, CAST('ghost' AS BLOB), 2)"),
        &[("/ghost", "orphan-metadata")],
        Clean,
        &[],
    ),
    sqlite(
        "a left-over name of its own",
        |s| {
            sql(s, "INSERT INTO dentry VALUES(1, CAST('ghost' AS BLOB), 777)");
            sql(
                s,
                &format!(
                    "INSERT INTO inode SELECT 777,gen,mode,1,uid,gid,rmajor,rminor,flags,size,blocks,atime,atime_ns,mtime,mtime_ns,ctime,ctime_ns,btime,btime_ns FROM inode WHERE ino={OF_SU}"
                ),
            );
        },
        &[("/ghost", "orphan-metadata")],
        Clean,
        &[],
    ),
    sqlite(
        "a second name of a row",
        |s| sql(s, &format!("INSERT INTO dentry VALUES(1, CAST('ghost' AS BLOB), {OF_SU})")),
        &[("/ghost", "orphan-metadata"), ("humfs", "format-flaw")],
        Clean,
        &[],
    ),
    sqlite(
        "a name that is none",
        |s| sql(s, "INSERT INTO dentry VALUES(1, CAST('a/b' AS BLOB), 2)"),
        &[("/a/b", "invalid-name")],
        Left,
        &[],
    ),
    sqlite(
        "a lost name",
        |s| sql(s, "DELETE FROM dentry WHERE name=CAST('other' AS BLOB)"),
        &[("/etc/other", "orphan-data"), ("humfs", "format-flaw")],
        Clean,
        &["/etc/other"],
    ),
    sqlite(
        "a lost row",
        |s| sql(s, &format!("DELETE FROM inode WHERE ino={OF_SU}")),
        &[("/bin/su", "orphan-data"), ("humfs", "format-flaw")],
        Clean,
        &["/bin/su"],
    ),
    sqlite(
        "a mode of nonsense",
        |s| sql(s, &format!("UPDATE inode SET mode=99999999 WHERE ino={OF_SU}")),
        &[("/bin/su", "unreadable-record")],
        Clean,
        &["/bin/su"],
    ),
    sqlite(
        "an owner of nonsense",
        |s| sql(s, &format!("UPDATE inode SET uid=-5 WHERE ino={OF_SU}")),
        &[("/bin/su", "unreadable-record")],
        Clean,
        &["/bin/su"],
    ),
    sqlite(
        "another object",
        |s| sql(s, &format!("UPDATE hostref SET hino=hino+1000000 WHERE ino={OF_SU}")),
        &[("/bin/su", "inode-reuse")],
        Left,
        &[],
    ),
    sqlite(
        "another birth",
        |s| sql(s, &format!("UPDATE inode SET btime=btime-1 WHERE ino={OF_SU}")),
        &[("/bin/su", "inode-reuse")],
        Left,
        &[],
    ),
    sqlite(
        "a database for everybody",
        |s| chmod(s.tree.join("humfs/metadata.db"), 0o666),
        &[("humfs/metadata.db", "open-to-others")],
        Clean,
        &[],
    ),
    sqlite("no database", |s| std::fs::remove_file(s.tree.join("humfs/metadata.db")).unwrap(), &[(".", "format-flaw")], Left, &[]),
];
