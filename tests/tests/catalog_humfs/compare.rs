//! What SQL says of a tree and what a walk of its mount says, side by side.

use externfs_catalog::barrier::{self, Standing};
use externfs_tests::fixture::wait_for;
use externfs_tests::humtree::HumTree;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{AtFlags, CWD, Statx, StatxFlags};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a barrier may take, here where two processors have much to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lines of each side that a report shows.
const SHOWN: usize = 6;

/// The database of a tree.
pub(crate) fn database(tree: &HumTree) -> PathBuf {
    tree.at("humfs/catalog/catalog.db")
}

/// What the tree's server says of its catalog.
pub(crate) fn standing(tree: &HumTree) -> Standing {
    barrier::flush(&tree.at("humfs/catalog"), PATIENCE).expect("asking the server").expect("somebody serves the tree")
}

/// Waits until the catalog is there, and has caught up.
pub(crate) fn settle(tree: &HumTree) {
    wait_for("the catalog is current", || match standing(tree) {
        Standing::Current | Standing::Reading(_) => true,
        Standing::Building(..) => false,
        Standing::Failed(why) => panic!("the catalog is not kept: {why}"),
    });
}

/// A reader as any SQLite program is one.
pub(crate) fn open(tree: &HumTree) -> Connection {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(database(tree), flags).expect("the catalog opens")
}

/// One object as the mount shows it.
pub(crate) struct Object {
    pub(crate) stat: Statx,
    pub(crate) target: Option<Vec<u8>>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Object {
    fn look(path: &Path) -> Object {
        // The server's word, not what the kernel remembers of it.
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_FORCE_SYNC;
        let stat = rustix::fs::statx(CWD, path, flags, StatxFlags::BASIC_STATS).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let target = (stat.stx_mode >> 12 == 10).then(|| path.read_link().expect("readlink").into_os_string().into_vec());
        let mut list = vec![0; 1 << 16];
        let length = rustix::fs::llistxattr(path, &mut list[..]).expect("llistxattr");
        let names = list[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
        let mut value = vec![0; 1 << 16];
        let xattrs = names.map(|name| {
            let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).expect("lgetxattr");
            (name.to_vec(), value[..length].to_vec())
        });
        Object { target, xattrs: xattrs.collect(), stat }
    }

    fn kind(&self) -> char {
        let kinds = [(8, 'f'), (4, 'd'), (10, 'l'), (6, 'b'), (2, 'c'), (1, 'p'), (12, 's')];
        kinds.iter().find(|(number, _)| *number == self.stat.stx_mode >> 12).map_or('?', |(_, kind)| *kind)
    }

    fn mode(&self) -> u32 {
        u32::from(self.stat.stx_mode) & 0o7777
    }

    /// Type, mode in four ways, owners, links.
    fn who(&self) -> String {
        let (mode, s) = (self.mode(), &self.stat);
        let bit = |bit: u32| mode >> bit & 1;
        let bits = format!("{mode}|{mode:04o}|{}|{}|{}", bit(11), bit(10), bit(9));
        format!("{}|{}|{bits}|{}|{}|{}", s.stx_ino, self.kind(), s.stx_uid, s.stx_gid, s.stx_nlink)
    }

    fn numbers(&self) -> String {
        let s = &self.stat;
        format!("{}|{}|{}|{}", s.stx_size, s.stx_blocks, s.stx_rdev_major, s.stx_rdev_minor)
    }

    fn times(&self) -> String {
        let (m, c) = (self.stat.stx_mtime, self.stat.stx_ctime);
        format!("{}|{}|{}|{}", m.tv_sec, m.tv_nsec, c.tv_sec, c.tv_nsec)
    }
}

/// A whole mount: paths below it, which begin with a slash, and objects.
pub(crate) struct Walk {
    names: Vec<(Vec<u8>, u64)>,
    objects: BTreeMap<u64, Object>,
    parents: BTreeMap<Vec<u8>, u64>,
}

impl Walk {
    /// Walks it, while nobody changes it.
    pub(crate) fn of(mount: &Path) -> Walk {
        let root = Object::look(mount);
        let mut walk = Walk { names: Vec::new(), parents: BTreeMap::new(), objects: BTreeMap::new() };
        walk.parents.insert(b"/".to_vec(), root.stat.stx_ino);
        walk.objects.insert(root.stat.stx_ino, root);
        let mut heap = vec![mount.to_path_buf()];
        while let Some(dir) = heap.pop() {
            for entry in std::fs::read_dir(&dir).expect("readdir") {
                let path = entry.expect("readdir").path();
                let below = path.as_os_str().as_bytes()[mount.as_os_str().len()..].to_vec();
                let object = Object::look(&path);
                let ino = object.stat.stx_ino;
                if object.kind() == 'd' {
                    walk.parents.insert(below.clone(), ino);
                    heap.push(path);
                }
                walk.names.push((below, ino));
                walk.objects.insert(ino, object);
            }
        }
        walk
    }

    /// Names in it.
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    /// A line for each name.
    fn of_names(&self, line: impl Fn(&[u8], &Object) -> Option<String>) -> Vec<String> {
        self.names.iter().filter_map(|(path, ino)| line(path, &self.objects[ino])).collect()
    }

    fn of_objects(&self, line: impl Fn(&Object) -> String) -> Vec<String> {
        self.objects.values().map(line).collect()
    }

    fn places(&self) -> Vec<String> {
        let line = |path: &[u8]| {
            let cut = path.iter().rposition(|&byte| byte == b'/').expect("a slash");
            let dir = if cut == 0 { &b"/"[..] } else { &path[..cut] };
            format!("{}|{}|{}|{}", shown(path), shown(dir), shown(&path[cut + 1..]), self.parents[dir])
        };
        self.of_names(|path, _| Some(line(path)))
    }

    fn xattrs(&self) -> Vec<String> {
        let of_one = |object: &Object| {
            let line = |(name, value): &(Vec<u8>, Vec<u8>)| format!("{}|{}|{}", object.stat.stx_ino, shown(name), shown(value));
            object.xattrs.iter().map(line).collect::<Vec<_>>()
        };
        self.objects.values().flat_map(of_one).collect()
    }

    fn sums<K: Ord>(&self, key: impl Fn(&Object) -> K, value: impl Fn(&Object) -> u64) -> BTreeMap<K, (u64, u64)> {
        let mut sums: BTreeMap<K, (u64, u64)> = BTreeMap::new();
        for object in self.objects.values() {
            let sum = sums.entry(key(object)).or_default();
            *sum = (sum.0 + 1, sum.1 + value(object));
        }
        sums
    }

    fn usage(&self) -> Vec<String> {
        let bytes = |object: &Object| object.stat.stx_blocks * 512;
        let users = self.sums(|object| format!("user|{}", object.stat.stx_uid), bytes);
        let groups = self.sums(|object| format!("group|{}", object.stat.stx_gid), bytes);
        let all = self.sums(|_| "all|NULL".to_owned(), bytes);
        let sums = users.into_iter().chain(groups).chain(all);
        sums.map(|(who, (inodes, bytes))| format!("{who}|{inodes}|{bytes}")).collect()
    }

    fn links(&self) -> Vec<String> {
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        self.names.iter().filter(|(_, ino)| self.objects[ino].kind() != 'd').for_each(|(_, ino)| *counts.entry(*ino).or_default() += 1);
        counts.into_iter().filter(|(_, count)| *count > 1).map(|(ino, count)| format!("{ino}|{count}|{count}")).collect()
    }
}

/// Bytes as a report shows them, and no two alike.
fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn rows(conn: &Connection, sql: &str) -> Vec<String> {
    let mut statement = conn.prepare(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let columns = statement.column_count();
    let mut rows = statement.query([]).expect("a query");
    let mut lines = Vec::new();
    while let Some(row) = rows.next().unwrap_or_else(|error| panic!("{sql}: {error}")) {
        let value = |column| match row.get_ref(column).expect("a value") {
            ValueRef::Null => "NULL".to_owned(),
            ValueRef::Integer(number) => number.to_string(),
            ValueRef::Real(number) => number.to_string(),
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => shown(bytes),
        };
        lines.push((0..columns).map(value).collect::<Vec<_>>().join("|"));
    }
    lines
}

const WHO: &str = "ino, type, mode, perms, setuid, setgid, sticky, uid, gid, nlink";

/// Each query beside what it must say.
fn questions(walk: &Walk) -> Vec<(String, Vec<String>)> {
    let named = |path: &[u8], rest: String| Some(format!("{}|{rest}", shown(path)));
    let is_device = |object: &Object| matches!(object.kind(), 'b' | 'c');
    let of_uid = walk.sums(|object| object.stat.stx_uid, |object| object.stat.stx_size);
    let line = |path: &[u8], yes: bool| yes.then(|| shown(path));
    vec![
        (format!("SELECT raw, {WHO} FROM root_fs"), walk.of_names(|path, object| named(path, object.who()))),
        ("SELECT raw, size, blocks, rmajor, rminor FROM root_fs".into(), walk.of_names(|path, object| named(path, object.numbers()))),
        ("SELECT raw, mtime, mtime_ns, ctime, ctime_ns FROM root_fs".into(), walk.of_names(|path, object| named(path, object.times()))),
        ("SELECT CAST(name AS BLOB), CAST(dir AS BLOB), CAST(base AS BLOB), parent FROM root_fs".into(), walk.places()),
        (
            "SELECT raw, CAST(target AS BLOB) FROM root_fs WHERE target IS NOT NULL".into(),
            walk.of_names(|path, object| object.target.as_ref().and_then(|target| named(path, shown(target)))),
        ),
        (
            format!("SELECT {WHO}, size, blocks, rmajor, rminor, mtime, mtime_ns, ctime, ctime_ns FROM root_inodes"),
            walk.of_objects(|object| [object.who(), object.numbers(), object.times()].join("|")),
        ),
        ("SELECT ino, name, value FROM root_xattrs".into(), walk.xattrs()),
        ("SELECT kind, id, inodes, bytes FROM root_usage".into(), walk.usage()),
        (
            "SELECT CAST(name AS BLOB) FROM root_fs WHERE setuid = 1".into(),
            walk.of_names(|path, object| line(path, object.mode() & 0o4000 != 0)),
        ),
        (
            "SELECT uid, count(*), sum(size) FROM root_inodes GROUP BY uid".into(),
            of_uid.into_iter().map(|(uid, (count, size))| format!("{uid}|{count}|{size}")).collect(),
        ),
        ("SELECT ino, count(*), nlink FROM root_fs WHERE type <> 'd' GROUP BY ino HAVING count(*) > 1".into(), walk.links()),
        (
            "SELECT raw FROM root_fs WHERE type IN ('b', 'c') OR instr(raw, x'0a') > 0".into(),
            walk.of_names(|path, object| line(path, is_device(object) || path.contains(&b'\n'))),
        ),
    ]
}

/// Lines that only one of two sorted lists has.
fn missing(from: &[String], in_these: &[String]) -> Vec<String> {
    let mut left: BTreeMap<&str, isize> = BTreeMap::new();
    in_these.iter().for_each(|line| *left.entry(line).or_default() += 1);
    let mut found = Vec::new();
    for line in from {
        let count = left.entry(line).or_default();
        *count -= 1;
        if *count < 0 {
            found.push(line.clone());
        }
    }
    found
}

/// Where SQL and `walk` differ; nothing if they do not.
pub(crate) fn differences(conn: &Connection, walk: &Walk) -> String {
    let mut report = String::new();
    for (sql, told) in questions(walk) {
        let said = rows(conn, &sql);
        let (extra, lacking) = (missing(&said, &told), missing(&told, &said));
        for (who, lines) in [("only SQL says", extra), ("only the mount says", lacking)] {
            if !lines.is_empty() {
                let lines: Vec<&str> = lines.iter().take(SHOWN).map(String::as_str).collect();
                report += &format!("{sql}\n  {who}:\n    {}\n", lines.join("\n    "));
            }
        }
    }
    report
}

/// Compares the tree's catalog with its mount at `mount`, while nobody changes
/// it. Returns the number of names.
pub(crate) fn check(tree: &HumTree, mount: &Path, what: &str) -> usize {
    // Blocks are not to be decided upon between the two.
    rustix::fs::syncfs(std::fs::File::open(tree.path()).expect("the tree")).expect("syncfs");
    settle(tree);
    let walk = Walk::of(mount);
    let report = differences(&open(tree), &walk);
    assert!(report.is_empty(), "{what}:\n{report}");
    walk.len()
}
