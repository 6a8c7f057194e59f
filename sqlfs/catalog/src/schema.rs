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
/// has bit 0 for "has rows in xattr" and bit 1 for "has been read for fulltext". `usage.kind` is 0 for users, 1 for groups, 2 for
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
CREATE VIRTUAL TABLE fulltext USING fts5(text, tokenize='unicode61 remove_diacritics 2');
";

/// What SQLite's planner is told of sizes: a tree of a million objects. What it
/// would find out by itself holds for a moment only, and a tree that was small
/// then would be asked in ways that suit no other: rows of a table or index, then
/// of one key of its first column, of its first two.
pub(crate) const EXPECTED: &str = "
INSERT INTO sqlite_stat1 VALUES('inode', 'inode_setuid', '50 50'), ('inode', 'inode_setgid', '50 50'), ('inode', NULL, '1000000'),
  ('dentry', 'dentry', '1000000 20 1'), ('dentry', 'dentry_ino', '1000000 1'), ('dir', 'dir_parent', '50000 5'),
  ('xattr', 'sqlite_autoindex_xattr_1', '10000 2 1'), ('usage', 'usage', '100 50 1'), ('change', NULL, '10000'),
  ('user_name', NULL, '50'), ('group_name', NULL, '50');";

/// What is the same in `_fs` and `_inodes`.
const COLUMNS: &str = "inode.ino,
  CASE inode.mode>>12 WHEN 8 THEN 'f' WHEN 4 THEN 'd' WHEN 10 THEN 'l'
  WHEN 6 THEN 'b' WHEN 2 THEN 'c' WHEN 1 THEN 'p' WHEN 12 THEN 's' END AS type,
  inode.mode&4095 AS mode, printf('%04o', inode.mode&4095) AS perms, inode.setuid, inode.setgid, (inode.mode>>9)&1 AS sticky,
  inode.uid, inode.gid, user_name.name AS user, group_name.name AS \"group\",
  inode.nlink, inode.size, inode.blocks, inode.rmajor, inode.rminor,
  inode.atime, inode.mtime, inode.ctime, inode.btime, inode.atime_ns, inode.mtime_ns, inode.ctime_ns, inode.btime_ns,
  CAST(inode.target AS TEXT) AS target";

const NAMES: &str = "LEFT JOIN user_name ON user_name.id=inode.uid LEFT JOIN group_name ON group_name.id=inode.gid";

/// The views of `label`, in SQL. Tables go by their own names, which a plan tells.
pub(crate) fn view_statements(label: &str) -> String {
    format!(
        "CREATE VIEW {label}_fs AS SELECT CAST(dir.path||dentry.name AS TEXT) AS name, CAST(dentry.name AS TEXT) AS base,
  CASE length(dir.path) WHEN 1 THEN '/' ELSE CAST(substr(dir.path, 1, length(dir.path)-1) AS TEXT) END AS dir,
  CAST(dir.path||dentry.name AS BLOB) AS raw, dentry.parent, {COLUMNS}
  FROM dentry JOIN inode ON inode.ino=dentry.ino JOIN dir ON dir.ino=dentry.parent {NAMES};
CREATE VIEW {label}_inodes AS SELECT {COLUMNS} FROM inode {NAMES};
CREATE VIEW {label}_xattrs AS SELECT xattr.ino, CAST(xattr.name AS TEXT) AS name, xattr.value FROM xattr;
CREATE VIEW {label}_usage AS SELECT CASE usage.kind WHEN 0 THEN 'user' WHEN 1 THEN 'group' ELSE 'all' END AS kind,
  CASE WHEN usage.kind<2 THEN usage.id END AS id, CASE usage.kind WHEN 0 THEN user_name.name WHEN 1 THEN group_name.name END AS name,
  usage.inodes, usage.bytes
  FROM usage LEFT JOIN user_name ON user_name.id=usage.id LEFT JOIN group_name ON group_name.id=usage.id;
CREATE VIEW {label}_changes AS SELECT change.seq, change.time, change.time_ns, change.op, change.ino,
  CAST(CASE WHEN change.name IS NULL
  THEN (SELECT above.path||dentry.name FROM dentry JOIN dir above ON above.ino=dentry.parent WHERE dentry.ino=change.ino LIMIT 1)
  ELSE dir.path||change.name END AS TEXT) AS name
  FROM change LEFT JOIN dir ON dir.ino=change.parent;
CREATE VIEW {label}_text AS SELECT CAST(dir.path||dentry.name AS TEXT) AS name, fulltext.rowid AS ino, fulltext.text AS text,
  snippet(fulltext, 0, '[', ']', '...', 12) AS snippet, fulltext.rank AS rank
  FROM fulltext JOIN dentry ON dentry.ino=fulltext.rowid JOIN dir ON dir.ino=dentry.parent;
"
    )
}

/// The names of the views of `label`.
#[must_use]
pub fn views(label: &str) -> Vec<String> {
    ["fs", "inodes", "xattrs", "usage", "changes", "text"].iter().map(|view| format!("{label}_{view}")).collect()
}

/// What the views of `label` and their tables are called: all that a query
/// over them may read.
#[must_use]
pub fn tables(label: &str) -> Vec<String> {
    let tables = ["inode", "dentry", "dir", "xattr", "usage", "change", "user_name", "group_name", "fulltext"];
    // A full text table reads its own tables in the asker's name.
    let own = ["data", "idx", "content", "docsize", "config"].iter().map(|part| format!("fulltext_{part}"));
    tables.iter().map(|&table| table.to_owned()).chain(own).chain(views(label)).collect()
}

/// Whether views can be called by it: a letter, then letters, digits and `_`, 32 bytes at
/// most.
#[must_use]
pub fn is_label(label: &str) -> bool {
    label.len() <= 32
        && label.starts_with(|c: char| c.is_ascii_alphabetic())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
