//! The tables, and the views that queries see.

/// Of the views, as SQLite's `user_version`.
pub const VERSION: i64 = 1;

/// "humc".
pub(crate) const APPLICATION: i64 = 0x6875_6d63;

/// What views are called by default: `root_fs` and so on.
pub const LABEL: &str = "root";

/// Numbers are those of stat(2), bit for bit. Names, paths and targets are bytes: SQLite
/// promises nothing for texts that are no UTF-8.
///
/// `dir.path` begins and ends with a slash; see `paths` for long ones. `flags`
/// has bit 0 for "has rows in xattr". `usage.kind` is 0 for users, 1 for groups, 2 for
/// everything.
pub(crate) const TABLES: &str = "
CREATE TABLE state(k TEXT PRIMARY KEY, v ANY) WITHOUT ROWID, STRICT;
CREATE TABLE inode(ino INTEGER PRIMARY KEY, mode INTEGER NOT NULL, nlink INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL,
  rmajor INTEGER NOT NULL, rminor INTEGER NOT NULL, size INTEGER NOT NULL, blocks INTEGER NOT NULL,
  atime INTEGER NOT NULL, atime_ns INTEGER NOT NULL, mtime INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
  ctime INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, btime INTEGER, btime_ns INTEGER, flags INTEGER NOT NULL, target BLOB,
  setuid INTEGER GENERATED ALWAYS AS ((mode>>11)&1) VIRTUAL, setgid INTEGER GENERATED ALWAYS AS ((mode>>10)&1) VIRTUAL) STRICT;
CREATE INDEX inode_setuid ON inode(setuid) WHERE setuid=1;
CREATE INDEX inode_setgid ON inode(setgid) WHERE setgid=1;
CREATE TABLE dentry(parent INTEGER NOT NULL, name BLOB NOT NULL, ino INTEGER NOT NULL, PRIMARY KEY(parent, name)) WITHOUT ROWID, STRICT;
CREATE INDEX dentry_ino ON dentry(ino);
CREATE TABLE dir(ino INTEGER PRIMARY KEY, parent INTEGER NOT NULL, name BLOB NOT NULL, path BLOB) STRICT;
CREATE INDEX dir_parent ON dir(parent);
CREATE TABLE xattr(ino INTEGER NOT NULL, name BLOB NOT NULL, value BLOB NOT NULL, UNIQUE(ino, name)) STRICT;
CREATE TABLE usage(kind INTEGER NOT NULL, id INTEGER NOT NULL, inodes INTEGER NOT NULL, bytes INTEGER NOT NULL,
  PRIMARY KEY(kind, id)) WITHOUT ROWID, STRICT;
CREATE TABLE change(seq INTEGER PRIMARY KEY, time INTEGER NOT NULL, time_ns INTEGER NOT NULL, op TEXT NOT NULL, ino INTEGER NOT NULL,
  parent INTEGER, name BLOB) STRICT;
CREATE TABLE user_name(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT;
CREATE TABLE group_name(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT;
";

/// What is the same in `_fs` and `_inodes`.
const COLUMNS: &str = "i.ino,
  CASE i.mode>>12 WHEN 8 THEN 'f' WHEN 4 THEN 'd' WHEN 10 THEN 'l' WHEN 6 THEN 'b' WHEN 2 THEN 'c' WHEN 1 THEN 'p' WHEN 12 THEN 's' END AS type,
  i.mode&4095 AS mode, printf('%04o', i.mode&4095) AS perms, i.setuid, i.setgid, (i.mode>>9)&1 AS sticky,
  i.uid, i.gid, u.name AS user, g.name AS \"group\", i.nlink, i.size, i.blocks, i.rmajor, i.rminor,
  i.atime, i.mtime, i.ctime, i.btime, i.atime_ns, i.mtime_ns, i.ctime_ns, i.btime_ns, CAST(i.target AS TEXT) AS target";

const NAMES: &str = "LEFT JOIN user_name u ON u.id=i.uid LEFT JOIN group_name g ON g.id=i.gid";

/// The views of `label`, in SQL.
pub(crate) fn view_statements(label: &str) -> String {
    format!(
        "CREATE VIEW {label}_fs AS SELECT CAST(p.path||d.name AS TEXT) AS name, CAST(d.name AS TEXT) AS base,
  CASE length(p.path) WHEN 1 THEN '/' ELSE CAST(substr(p.path, 1, length(p.path)-1) AS TEXT) END AS dir,
  CAST(p.path||d.name AS BLOB) AS raw, d.parent, {COLUMNS}
  FROM dentry d JOIN inode i ON i.ino=d.ino JOIN dir p ON p.ino=d.parent {NAMES};
CREATE VIEW {label}_inodes AS SELECT {COLUMNS} FROM inode i {NAMES};
CREATE VIEW {label}_xattrs AS SELECT x.ino, CAST(x.name AS TEXT) AS name, x.value FROM xattr x;
CREATE VIEW {label}_usage AS SELECT CASE z.kind WHEN 0 THEN 'user' WHEN 1 THEN 'group' ELSE 'all' END AS kind,
  CASE WHEN z.kind<2 THEN z.id END AS id, CASE z.kind WHEN 0 THEN u.name WHEN 1 THEN g.name END AS name, z.inodes, z.bytes
  FROM usage z LEFT JOIN user_name u ON u.id=z.id LEFT JOIN group_name g ON g.id=z.id;
CREATE VIEW {label}_changes AS SELECT c.seq, c.time, c.time_ns, c.op, c.ino,
  CAST(CASE WHEN c.name IS NULL THEN (SELECT q.path||d.name FROM dentry d JOIN dir q ON q.ino=d.parent WHERE d.ino=c.ino LIMIT 1)
  ELSE p.path||c.name END AS TEXT) AS name
  FROM change c LEFT JOIN dir p ON p.ino=c.parent;
"
    )
}

/// The names of the views of `label`.
#[must_use]
pub fn views(label: &str) -> Vec<String> {
    ["fs", "inodes", "xattrs", "usage", "changes"].iter().map(|view| format!("{label}_{view}")).collect()
}

/// What the views of `label` and their tables are called: all that a query
/// over them may read.
#[must_use]
pub fn tables(label: &str) -> Vec<String> {
    let tables = ["inode", "dentry", "dir", "xattr", "usage", "change", "user_name", "group_name"];
    tables.iter().map(|&table| table.to_owned()).chain(views(label)).collect()
}

/// Whether views can be called by it: a letter, then letters, digits and `_`, 32 bytes at
/// most.
#[must_use]
pub fn is_label(label: &str) -> bool {
    label.len() <= 32
        && label.starts_with(|c: char| c.is_ascii_alphabetic())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
