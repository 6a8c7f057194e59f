//! [`Catalog`]: the database, and what changes in it.

use crate::accounts::Accounts;
use crate::batch::Batch;
use crate::look::{Facts, look, statements};
use crate::objects::Rows;
use crate::paths::Moved;
use crate::schema::{APPLICATION, EXPECTED, VERSION};
use crate::usage::Differences;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Result};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Lines of the recent past that are kept.
const CHANGES_KEPT: i64 = 10_000;

/// Bytes of log from which on it is written back into the database.
const LOG_USUAL: u64 = 8 << 20;

/// Bytes of log beyond which nothing more is written, because a reader who
/// does not end keeps it from being written back.
const LOG_MOST: u64 = 48 << 20;

/// The database of one tree, open for writing. There is one writer at a time:
/// whoever has locked the tree.
#[derive(Debug)]
pub struct Catalog {
    pub(crate) conn: Connection,
    path: PathBuf,
}

/// How long somebody else who writes is waited for; nobody should.
const BUSY: Duration = Duration::from_secs(5);

/// What SQLite keeps beside a database.
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut file = path.as_os_str().to_owned();
    file.push(suffix);
    file.into()
}

/// Whether there is nothing at `path` but files: a link would be followed.
pub(crate) fn is_plain(path: &Path) -> bool {
    let is_absent = |path: &Path| std::fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    is_file(path) && BESIDE.iter().map(|suffix| beside(path, suffix)).all(|file| is_file(&file) || is_absent(&file))
}

/// A regular file; anything else in its place would be opened for its effects.
fn is_file(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|there| there.is_file())
}

pub(crate) fn connect(path: &Path, access: OpenFlags) -> Result<Connection> {
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    // SQLite means every component; who named the tree by a link is in his right.
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = dir.canonicalize().map_err(|error| refused(&error))?;
    let conn = Connection::open_with_flags(dir.join(path.file_name().unwrap_or_default()), flags)?;
    for (switch, on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, false),
    ] {
        conn.set_db_config(switch, on)?;
    }
    Ok(conn)
}

/// Removes the catalog at `path`, if there is one.
///
/// # Errors
/// What unlink(2) says.
pub fn remove(path: &Path) -> io::Result<()> {
    for suffix in [""].iter().chain(&BESIDE) {
        match std::fs::remove_file(beside(path, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

impl Catalog {
    /// The catalog at `path`, if there is one of this version, called `label`, of a
    /// tree whose root has the number `root`, with everything in it.
    ///
    /// # Errors
    /// What SQLite says: it is damaged.
    pub fn open(path: &Path, label: &str, root: u64) -> Result<Option<Catalog>> {
        if !is_plain(path) {
            return Ok(None);
        }
        let mut conn = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let wanted = Facts { label: label.to_owned(), root, is_complete: true };
        if look(&mut conn)? != Some(wanted) {
            return Ok(None);
        }
        Catalog::set_up(conn, path).map(Some)
    }

    /// A new catalog at `path`, with nothing in it but the root's path. What is
    /// there is removed.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn create(path: &Path, label: &str, root: u64) -> Result<Catalog> {
        remove(path).map_err(|error| refused(&error))?;
        // SQLite gives its other files the mode of this one.
        use std::os::unix::fs::OpenOptionsExt;
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| refused(&error))?;
        let conn = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        conn.execute_batch(&format!(
            "BEGIN; PRAGMA application_id={APPLICATION}; PRAGMA user_version={VERSION}; {} COMMIT;",
            statements(label)
        ))?;
        conn.execute("INSERT INTO state VALUES('label', ?), ('root', ?), ('complete', 0)", (label, root as i64))?;
        conn.execute("INSERT INTO dir VALUES(?, 0, x'', x'2f')", [root as i64])?;
        // The first ANALYZE makes the table, the second has it read.
        conn.execute_batch(&format!("ANALYZE; DELETE FROM sqlite_stat1; {EXPECTED} ANALYZE sqlite_schema;"))?;
        Catalog::set_up(conn, path)
    }

    fn set_up(conn: Connection, path: &Path) -> Result<Catalog> {
        conn.pragma_update(None, "journal_mode", "WAL")?;
        // What a power failure takes is scanned anew.
        conn.pragma_update(None, "synchronous", "OFF")?;
        conn.pragma_update(None, "wal_autocheckpoint", 0)?;
        conn.pragma_update(None, "journal_size_limit", LOG_USUAL as i64)?;
        conn.pragma_update(None, "cache_size", -8192)?;
        conn.busy_timeout(Duration::ZERO)?;
        conn.set_prepared_statement_cache_capacity(64);
        Ok(Catalog { conn, path: path.to_owned() })
    }

    /// Says how things are now; all of it or, where that fails, nothing.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn apply(&mut self, batch: &Batch) -> Result<()> {
        self.conn.busy_timeout(BUSY)?;
        let transaction = self.conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        write(&transaction, batch)?;
        transaction.commit()?;
        self.conn.busy_timeout(Duration::ZERO)
    }

    /// Paths of object `ino`, or some of them; one whose beginning is cut off has
    /// no slash at its beginning.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn paths_of(&self, ino: u64) -> Result<Vec<Vec<u8>>> {
        let sql =
            "SELECT CAST(p.path||d.name AS BLOB) FROM dentry d JOIN dir p ON p.ino=d.parent WHERE d.ino=? AND p.path NOT NULL LIMIT 64";
        self.conn.prepare_cached(sql)?.query_map([ino as i64], |row| row.get(0))?.collect()
    }

    /// All directories, and their paths as far as they are known; what is above
    /// comes first.
    ///
    /// # Errors
    /// What SQLite says.
    #[allow(clippy::type_complexity, reason = "it is no more than this")]
    pub fn dirs(&self) -> Result<Vec<(u64, Option<Vec<u8>>)>> {
        let mut list = self.conn.prepare_cached("SELECT ino, path FROM dir ORDER BY length(path)")?;
        list.query_map([], |row| Ok((row.get::<_, i64>(0)? as u64, row.get(1)?)))?.collect()
    }

    /// Says what users and groups are called.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn name_accounts(&mut self, accounts: &Accounts) -> Result<()> {
        let transaction = self.conn.transaction()?;
        accounts.put(&transaction)?;
        transaction.commit()
    }

    /// Everything is in it now.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn complete(&mut self) -> Result<()> {
        self.conn.execute("UPDATE state SET v=1 WHERE k='complete'", []).map(drop)
    }

    /// Writes the log back if it has grown. False if a reader who does not end
    /// keeps it as large as it may become: then nothing should be applied.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn tidy_log(&mut self) -> Result<bool> {
        let log = beside(&self.path, "-wal");
        let size = || std::fs::metadata(&log).map_or(0, |log| log.len());
        if size() <= LOG_USUAL {
            return Ok(true);
        }
        let how = if size() > LOG_MOST { "TRUNCATE" } else { "PASSIVE" };
        let is_busy: bool = self.conn.query_row(&format!("PRAGMA wal_checkpoint({how})"), [], |row| row.get(0))?;
        Ok(!(is_busy && size() > LOG_MOST))
    }

    /// Puts everything into the one file and onto the disk.
    ///
    /// # Errors
    /// What SQLite or the host says.
    pub fn close(self) -> Result<()> {
        // A reader may be in the way; what is in the log is as good.
        self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        let path = self.path;
        self.conn.close().map_err(|(_, error)| error)?;
        for file in [beside(&path, "-wal"), path] {
            match std::fs::File::open(file).and_then(|file| file.sync_all()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(refused(&error)),
                _ => {}
            }
        }
        Ok(())
    }
}

fn refused(error: &io::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(error.to_string().into())
}

fn write(conn: &Connection, batch: &Batch) -> Result<()> {
    write_objects(conn, batch)?;
    write_names(conn, batch)?;
    write_changes(conn, batch)
}

fn write_objects(conn: &Connection, batch: &Batch) -> Result<()> {
    let mut usage = Differences::default();
    let mut rows = Rows::of(conn)?;
    for (ino, object) in &batch.objects {
        match object {
            Some(object) => rows.put(*ino, object, &mut usage)?,
            None => rows.remove(*ino, &mut usage)?,
        }
    }
    usage.settle(conn)
}

fn write_names(conn: &Connection, batch: &Batch) -> Result<()> {
    let mut moved = Moved::default();
    let mut put = conn.prepare_cached("INSERT OR REPLACE INTO dentry VALUES(?, ?, ?)")?;
    let mut remove = conn.prepare_cached("DELETE FROM dentry WHERE parent=? AND name=?")?;
    for (parent, name, link) in &batch.names {
        match link {
            Some(link) => {
                put.execute((*parent as i64, &**name, link.ino as i64))?;
                if link.is_dir {
                    moved.put(conn, link.ino, *parent, name)?;
                }
            }
            None => drop(remove.execute((*parent as i64, &**name))?),
        }
    }
    moved.settle(conn)
}

fn write_changes(conn: &Connection, batch: &Batch) -> Result<()> {
    let begin = batch.changes.len().saturating_sub(CHANGES_KEPT as usize);
    let mut add = conn.prepare_cached("INSERT INTO change(time, time_ns, op, ino, parent, name) VALUES(?, ?, ?, ?, ?, ?)")?;
    for change in &batch.changes[begin..] {
        let (parent, name) = change.place.as_ref().map(|(parent, name)| (*parent as i64, &**name)).unzip();
        add.execute((change.time.seconds, change.time.nanoseconds, change.op.name(), change.ino as i64, parent, name))?;
    }
    if begin < batch.changes.len() {
        let last = conn.last_insert_rowid();
        conn.prepare_cached("DELETE FROM change WHERE seq<=?")?.execute([last - CHANGES_KEPT])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts;

    #[test]
    fn statistics_are_no_strangers_and_tables_are() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("catalog.db");
        let mut catalog = Catalog::create(&path, "root", 2).expect("a catalog");
        catalog.complete().expect("complete");
        // What SQLite does by itself once there are enough rows.
        catalog.conn.execute_batch("INSERT INTO dentry VALUES(2, x'61', 3), (2, x'62', 4); ANALYZE").expect("ANALYZE");
        catalog.close().expect("closed");
        assert!(Catalog::open(&path, "root", 2).expect("no damage").is_some());
        Connection::open(&path).expect("a database").execute_batch("CREATE TABLE sqlitestat1(x)").expect("a table");
        assert!(Catalog::open(&path, "root", 2).expect("no damage").is_none());
    }

    #[test]
    fn links_are_not_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, outside) = (dir.path().join("catalog.db"), dir.path().join("outside"));
        for suffix in BESIDE {
            let mut catalog = Catalog::create(&path, "root", 2).expect("a catalog");
            catalog.complete().expect("complete");
            catalog.close().expect("closed");
            std::fs::write(&outside, "precious").expect("a file");
            std::os::unix::fs::symlink(&outside, beside(&path, suffix)).expect("a link");
            assert!(Catalog::open(&path, "root", 2).expect("no damage").is_none(), "{suffix}");
            assert!(facts(&path).expect("no damage").is_none(), "{suffix}");
            drop(Catalog::create(&path, "root", 2).expect("a catalog"));
            assert_eq!(std::fs::read_to_string(&outside).expect("the file"), "precious", "{suffix}");
        }
    }
}
