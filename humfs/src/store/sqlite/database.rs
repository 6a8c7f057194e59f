//! The database file: opening it, its schema, the values of `super`, and what
//! SQLite's errors mean to a guest.
//!
//! The tables and columns are those that a catalog of the tree wants to have;
//! what this store does not fill is not made.

use crate::host::{self, damaged, fault};
use externfs::{Errno, Error, Result};
use rusqlite::config::DbConfig;
use rusqlite::types::{FromSql, ToSql};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};
use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno as Host;
use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

const FILE: &CStr = c"metadata.db";

/// Before it is whole.
const FRESH: &CStr = c"metadata.db.new";

/// "humf".
const APPLICATION: i64 = 0x6875_6d66;
const VERSION: i64 = 1;

/// How long we wait for somebody with a shell and sqlite3 to finish.
const PATIENCE: Duration = Duration::from_secs(5);

/// In `inode`, `ino` is the database's own number, never given twice, so that
/// the file survives a copy of the tree; `hostref` says which object of the
/// host it was last. `nlink` counts the names in `dentry` of what is no
/// directory. `flags` has bit 0 for "has rows in xattr". Size, blocks and times
/// are as they were when the row was written: the host knows better.
///
/// In `dentry`, a number that has no row in `inode` is that of a directory
/// without a record of its own. The root is inode 1 and has no name.
const SCHEMA: &str = "
CREATE TABLE super(k TEXT PRIMARY KEY, v ANY) STRICT;
CREATE TABLE inode(ino INTEGER PRIMARY KEY, gen INTEGER NOT NULL, mode INTEGER NOT NULL, nlink INTEGER NOT NULL,
  uid INTEGER NOT NULL, gid INTEGER NOT NULL, rmajor INTEGER NOT NULL DEFAULT 0, rminor INTEGER NOT NULL DEFAULT 0,
  flags INTEGER NOT NULL DEFAULT 0, size INTEGER NOT NULL, blocks INTEGER NOT NULL,
  atime INTEGER NOT NULL, atime_ns INTEGER NOT NULL, mtime INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
  ctime INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, btime INTEGER NOT NULL, btime_ns INTEGER NOT NULL,
  setuid INTEGER GENERATED ALWAYS AS ((mode>>11)&1) VIRTUAL, setgid INTEGER GENERATED ALWAYS AS ((mode>>10)&1) VIRTUAL) STRICT;
CREATE TABLE dentry(parent INTEGER NOT NULL, name BLOB NOT NULL, ino INTEGER NOT NULL, PRIMARY KEY(parent,name)) WITHOUT ROWID, STRICT;
CREATE TABLE xattr(ino INTEGER NOT NULL, name BLOB NOT NULL, value BLOB NOT NULL, UNIQUE(ino,name)) STRICT;
CREATE TABLE hostref(ino INTEGER PRIMARY KEY, hino INTEGER NOT NULL) STRICT;
CREATE INDEX hostref_h ON hostref(hino);
INSERT INTO super VALUES('version', 1), ('layout', 'tree'), ('seq', 0), ('next_ino', 2), ('clean', 1), ('tag', random());
";

/// What `what` failed with, for the guest and for the log.
pub(super) fn refused(what: &'static str) -> impl Fn(rusqlite::Error) -> Error {
    move |error| {
        let errno = match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Errno::ENOSPC,
            Some(ErrorCode::OutOfMemory) => Errno::ENOMEM,
            Some(ErrorCode::ReadOnly) => Errno::EROFS,
            _ => Errno::EIO,
        };
        match errno {
            Errno::ENOSPC | Errno::EROFS => Error::new(errno),
            _ => Error::because(errno, format!("humfs/metadata.db: {what}: {error}")),
        }
    }
}

/// Where the directory `control` is at present, without a link in the path:
/// SQLite makes the names of its other files from that of the database and is
/// told to follow none.
fn path(control: BorrowedFd<'_>, file: &CStr) -> Result<PathBuf> {
    let path = rustix::fs::readlink(host::proc_path(control), Vec::new()).map_err(fault("finding humfs/"))?;
    Ok(PathBuf::from(std::ffi::OsString::from_vec(path.into_bytes())).join(OsStr::from_bytes(file.to_bytes())))
}

/// What SQLite has beside the database.
const BESIDE: [&CStr; 3] = [c"metadata.db-wal", c"metadata.db-shm", c"metadata.db-journal"];

/// Whether the database is there.
///
/// # Errors
/// EIO for something else in its place: SQLite would open a FIFO and wait.
pub(super) fn exists(control: BorrowedFd<'_>) -> Result<bool> {
    let is_there = |name: &CStr| match rustix::fs::statat(control, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if stat.st_mode & libc::S_IFMT == libc::S_IFREG => Ok(true),
        Ok(_) => Err(damaged(format!("humfs/{} is no regular file", name.to_string_lossy()))),
        Err(Host::NOENT) => Ok(false),
        Err(other) => Err(fault("looking for humfs/metadata.db")(other)),
    };
    for name in BESIDE {
        is_there(name)?;
    }
    is_there(FILE)
}

/// What to say if it is not.
pub(super) fn missing() -> Error {
    damaged("humfs/metadata.db is missing: put it back from a backup")
}

/// Makes an empty database, whole or not at all, for nobody but the owner.
pub(super) fn create(control: BorrowedFd<'_>) -> Result<()> {
    let failed = || fault("making humfs/metadata.db");
    for left in [FRESH, c"metadata.db.new-journal"] {
        host::remove_file(control, left).map_err(failed())?;
    }
    // SQLite gives its other files the mode of this one.
    host::open_file(control, FRESH, OFlags::CREATE | OFlags::EXCL | OFlags::RDWR).map_err(failed())?;
    let conn = Connection::open_with_flags(path(control, FRESH)?, flags(OpenFlags::SQLITE_OPEN_READ_WRITE)).map_err(refused("making"))?;
    guard(&conn)?;
    let head = format!("BEGIN IMMEDIATE; PRAGMA application_id={APPLICATION}; PRAGMA user_version={VERSION};");
    conn.execute_batch(&format!("{head}{SCHEMA}COMMIT;")).map_err(refused("laying out the tables"))?;
    drop(conn);
    host::rename_new(control, FRESH, control, FILE).map_err(failed())
}

/// A connection that may write.
pub(super) fn open(control: BorrowedFd<'_>) -> Result<Connection> {
    let conn = Connection::open_with_flags(path(control, FILE)?, flags(OpenFlags::SQLITE_OPEN_READ_WRITE)).map_err(refused("opening"))?;
    guard(&conn)?;
    check(&conn)?;
    let set_up = || {
        conn.pragma_update(None, "journal_mode", "WAL")?;
        conn.pragma_update(None, "synchronous", "NORMAL")?;
        // Checkpoints wait for the disk: whoever keeps the database decides when.
        conn.pragma_update(None, "wal_autocheckpoint", 0)?;
        conn.pragma_update(None, "journal_size_limit", 64 << 20)?;
        // The disk is touched when a batch ends, and only then can it be full.
        conn.pragma_update(None, "cache_spill", false)
    };
    set_up().map_err(refused("opening"))?;
    Ok(conn)
}

/// A connection that may only look, beside a writer if there is one.
pub(super) fn open_to_read(control: BorrowedFd<'_>) -> Result<Connection> {
    let open = |name: &OsStr, how: OpenFlags| {
        let conn = Connection::open_with_flags(name, flags(OpenFlags::SQLITE_OPEN_READ_ONLY | how)).map_err(refused("opening"))?;
        guard(&conn)?;
        check(&conn)?;
        Ok(conn)
    };
    let path = path(control, FILE)?;
    match open(path.as_os_str(), OpenFlags::empty()) {
        Err(_) if is_unwritable(control) => {}
        answer => return answer,
    }
    // Readers share an index of SQLite's log in a file beside the database. On
    // a medium where it cannot be made nobody writes either.
    if has_log(control)? {
        return Err(damaged("humfs/metadata.db was not left in order and cannot be written: mount the tree once where it can be"));
    }
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_bytes() {
        uri.push_str(&format!("%{byte:02x}"));
    }
    uri.push_str("?immutable=1");
    open(OsStr::new(&uri), OpenFlags::SQLITE_OPEN_URI)
}

fn flags(how: OpenFlags) -> OpenFlags {
    // Each connection has a lock of ours around it.
    how | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW
}

fn is_unwritable(control: BorrowedFd<'_>) -> bool {
    rustix::fs::accessat(control, c".", rustix::fs::Access::WRITE_OK, AtFlags::EACCESS).is_err()
}

/// Whether there are transactions that are not in the database file yet.
fn has_log(control: BorrowedFd<'_>) -> Result<bool> {
    match rustix::fs::statat(control, c"metadata.db-wal", AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(stat.st_size > 0),
        Err(Host::NOENT) => Ok(false),
        Err(other) => Err(fault("looking for humfs/metadata.db-wal")(other)),
    }
}

/// The file may be a stranger's work: nothing in it may make SQLite do more
/// than keep rows.
fn guard(conn: &Connection) -> Result<()> {
    let set = || {
        conn.busy_timeout(PATIENCE)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
        // Else a statement is compiled again when other values are bound to it.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        conn.set_prepared_statement_cache_capacity(64);
        conn.execute_batch("PRAGMA cell_size_check=ON; PRAGMA temp_store=MEMORY; PRAGMA cache_size=-16000;")
    };
    set().map_err(refused("opening"))
}

fn check(conn: &Connection) -> Result<()> {
    let number = |name: &str| conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(refused("reading its head"));
    if number("application_id")? != APPLICATION {
        return Err(damaged("humfs/metadata.db is no database of humfs"));
    }
    match number("user_version")? {
        VERSION => {}
        other => return Err(damaged(format!("humfs/metadata.db has version {other}: this program knows {VERSION}"))),
    }
    seq(conn).map(drop)
}

/// The value of `key` in `super`.
pub(super) fn get<T: FromSql>(conn: &Connection, key: &str) -> Result<T> {
    look(conn, key)?.ok_or_else(|| damaged(format!("humfs/metadata.db: super has no '{key}'")))
}

/// As [`get`], where there may be none.
pub(super) fn look<T: FromSql>(conn: &Connection, key: &str) -> Result<Option<T>> {
    let mut statement = conn.prepare_cached("SELECT v FROM super WHERE k=?1").map_err(refused("reading super"))?;
    statement.query_row([key], |row| row.get(0)).optional().map_err(refused("reading super"))
}

/// The last record of the log that is in the database.
pub(super) fn seq(conn: &Connection) -> Result<u64> {
    let seq: i64 = get(conn, "seq")?;
    let seq = u64::try_from(seq).ok().filter(|seq| *seq < super::log::SEQ_END);
    seq.ok_or_else(|| damaged("humfs/metadata.db: super: seq is no number of a record"))
}

/// What tells this database's log from those of others.
pub(super) fn tag(conn: &Connection) -> Result<u64> {
    get::<i64>(conn, "tag").map(|tag| tag as u64)
}

/// Sets the value of `key` in `super`.
pub(super) fn set(conn: &Connection, key: &str, value: impl ToSql) -> Result<()> {
    let set = || {
        let mut statement = conn.prepare_cached("INSERT INTO super VALUES(?1,?2) ON CONFLICT(k) DO UPDATE SET v=excluded.v")?;
        statement.execute((key, value))
    };
    set().map(drop).map_err(refused("writing super"))
}

/// The number of this boot of the host. None where /proc does not tell.
pub(super) fn boot() -> Option<String> {
    host::boot_id().map(str::to_owned)
}

/// Makes the transactions that are committed durable, and all that was done in
/// the data tree before.
pub(super) fn sync(control: BorrowedFd<'_>) -> Result<()> {
    // Closing a descriptor of ours lets go of the process's locks on that file,
    // but SQLite has none on this one.
    match host::open_file(control, c"metadata.db-wal", OFlags::RDWR) {
        // The change of its ctime makes the file part of the host's present
        // transaction, so that fsync has to commit that and all before it. Writing
        // over blocks that the file has already need not change its inode.
        Ok(log) => host::touch_ctime(log.as_fd()).and_then(|()| rustix::fs::fsync(&log)).map_err(fault("fsync of humfs/metadata.db-wal")),
        Err(Host::NOENT) => Ok(()),
        Err(other) => Err(fault("opening humfs/metadata.db-wal")(other)),
    }
}

/// How far SQLite's log is moved into the database file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Checkpoint {
    /// Pages in the log.
    pub(super) pages: i64,
    /// Those of them that are in the database file, too.
    pub(super) moved: i64,
}

/// Moves transactions from SQLite's log into the database file, as far as
/// readers let, without waiting for any. A log that is moved as a whole is
/// begun anew with the next transaction.
pub(super) fn checkpoint(conn: &Connection) -> Result<Checkpoint> {
    let done = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", (), |row| Ok(Checkpoint { pages: row.get(1)?, moved: row.get(2)? }));
    done.map_err(refused("moving transactions into the database"))
}
