//! A catalog in a temporary place, and short words for what it is told.

use externfs::{Attr, DeviceNumber, FileKind, GuestGid, GuestUid, Mode, Timestamp};
use externfs_catalog::{Batch, Catalog, Extra, Link, Object};
use rusqlite::Connection;
use rusqlite::types::Value;
use std::path::PathBuf;

pub(crate) const ROOT: u64 = 1;

pub(crate) struct Rig {
    catalog: Catalog,
    conn: Connection,
    dir: tempfile::TempDir,
}

impl Rig {
    /// With the root in it.
    pub(crate) fn new() -> Rig {
        let dir = tempfile::tempdir().expect("the catalog");
        let path = dir.path().join("catalog.db");
        let mut catalog = Catalog::create(&path, "root", ROOT).expect("the catalog");
        catalog.apply(&Batch { objects: vec![self::dir(ROOT)], ..Batch::default() }).expect("the catalog");
        let conn = Connection::open(&path).expect("the catalog");
        Rig { catalog, conn, dir }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("catalog.db")
    }

    pub(crate) fn catalog(&mut self) -> &mut Catalog {
        &mut self.catalog
    }

    pub(crate) fn conn(&self) -> &Connection {
        &self.conn
    }

    pub(crate) fn apply(&mut self, batch: &Batch) {
        self.catalog.apply(batch).expect("the catalog");
    }

    /// Rows by lines, values between bars.
    pub(crate) fn text(&self, sql: &str) -> String {
        let mut statement = self.conn.prepare(sql).expect("the catalog");
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| {
            let values: Vec<String> = (0..columns)
                .map(|column| match row.get_unwrap(column) {
                    Value::Null => String::new(),
                    Value::Integer(number) => number.to_string(),
                    Value::Real(number) => number.to_string(),
                    Value::Text(text) => text,
                    Value::Blob(bytes) => format!("{bytes:?}"),
                })
                .collect();
            Ok(values.join("|"))
        });
        rows.expect("rows").map(|row| row.expect("a row")).collect::<Vec<_>>().join("\n")
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.text("select name from root_fs order by name").lines().map(str::to_owned).collect()
    }

    /// What is kept is what it would be if it were summed up.
    pub(crate) fn check_usage(&self) {
        let kept = self.text("select kind, id, inodes, bytes from root_usage order by 1, 2");
        let summed = "select 'all' as kind, null as id, count(*), sum(blocks*512) from root_inodes union all \
             select 'group', gid, count(*), sum(blocks*512) from root_inodes group by gid union all \
             select 'user', uid, count(*), sum(blocks*512) from root_inodes group by uid order by 1, 2";
        assert_eq!(kept, self.text(summed));
    }
}

pub(crate) fn attr(ino: u64, kind: FileKind, mode: u32) -> Attr {
    let time = Timestamp { seconds: 1_700_000_000, nanoseconds: 7 };
    Attr {
        ino,
        size: 0,
        blocks: 0,
        block_size: 4096,
        kind,
        mode: Mode::new(mode),
        nlink: 1,
        uid: GuestUid(0),
        gid: GuestGid(0),
        device: DeviceNumber::default(),
        atime: time,
        mtime: time,
        ctime: time,
        btime: Some(time),
    }
}

pub(crate) fn object(attr: Attr, target: Option<&[u8]>) -> (u64, Option<Object>) {
    (attr.ino, Some(Object { attr, extra: Some(Extra { target: target.map(Into::into), xattrs: Vec::new() }) }))
}

pub(crate) fn dir(ino: u64) -> (u64, Option<Object>) {
    object(attr(ino, FileKind::Directory, 0o755), None)
}

pub(crate) fn file(ino: u64) -> (u64, Option<Object>) {
    object(attr(ino, FileKind::Regular, 0o644), None)
}

type Name = (u64, Box<[u8]>, Option<Link>);

pub(crate) fn link(parent: u64, name: &str, ino: u64, is_dir: bool) -> Name {
    (parent, name.as_bytes().into(), Some(Link { ino, is_dir }))
}

pub(crate) fn gone(parent: u64, name: &str) -> Name {
    (parent, name.as_bytes().into(), None)
}
