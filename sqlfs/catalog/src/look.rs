//! [`facts`]: what a file says that may be a catalog.
//!
//! It lies where the tree's owner can write, and whoever asks may be root, in a
//! process that nothing confines. So it is no more than bytes until its schema is
//! known to be ours, entry by entry.

use crate::catalog::{connect, is_plain};
use crate::schema::{APPLICATION, TABLES, VERSION, view_statements};
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Result};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long it may take to find out what a file is. It is anybody's until then.
const LOOK: Duration = Duration::from_secs(5);

/// How often the clock is looked at meanwhile, in SQLite's instructions.
const INSTRUCTIONS: std::ffi::c_int = 1000;

/// Bytes of one value meanwhile, and entries of a schema: ours have far fewer.
const VALUE_MOST: i32 = 1 << 20;
const ENTRIES_MOST: usize = 100;

/// What a catalog says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// What its views are called by.
    pub label: String,
    /// The root's number.
    pub root: u64,
    /// Everything is in it: it has been scanned to the end.
    pub is_complete: bool,
}

/// What makes the schema of a catalog called `label`.
pub(crate) fn statements(label: &str) -> String {
    format!("{TABLES}{}", view_statements(label))
}

/// Type, name and statement of what is in a schema.
type Entry = (String, String, Option<String>);

/// The schema as SQLite has it, in a fixed order, but for what its planner is
/// told of sizes. One that is too long has its end cut off.
fn schema(conn: &Connection, database: &str) -> Result<Vec<Entry>> {
    let mut list = conn.prepare(&format!(
        "SELECT type, name, sql FROM {database}.sqlite_schema WHERE sql IS NULL OR type<>'table' OR sql NOT IN(
         'CREATE TABLE sqlite_stat1(tbl,idx,stat)', 'CREATE TABLE sqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)') ORDER BY 1, 2 LIMIT {ENTRIES_MOST}"
    ))?;
    list.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
}

fn state<T: rusqlite::types::FromSql>(conn: &Connection, database: &str, key: &str) -> Result<Option<T>> {
    conn.query_row(&format!("SELECT v FROM {database}.state WHERE k=?"), [key], |row| row.get(0)).optional()
}

/// What the catalog at `path` says of itself; None if it is none of this version.
///
/// # Errors
/// What SQLite says.
pub fn facts(path: &Path) -> Result<Option<Facts>> {
    if !is_plain(path) {
        return Ok(None);
    }
    let mut conn = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    conn.execute_batch("PRAGMA temp_store=MEMORY; PRAGMA mmap_size=0; PRAGMA cell_size_check=ON; PRAGMA query_only=ON;")?;
    for switch in [DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER] {
        conn.set_db_config(switch, false)?;
    }
    look(&mut conn)
}

/// What `conn` has, found out in one transaction, so that it does not become
/// something else meanwhile, and under limits.
pub(crate) fn look(conn: &mut Connection) -> Result<Option<Facts>> {
    let begun = Instant::now();
    conn.progress_handler(INSTRUCTIONS, Some(move || begun.elapsed() > LOOK))?;
    let length = conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_MOST)?;
    let found = conn.transaction().and_then(|transaction| facts_of(&transaction, MAIN));
    conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, length)?;
    conn.progress_handler(0, None::<fn() -> bool>)?;
    found
}

/// Whether the database that `conn` has by the name `database` is a catalog of
/// this version, with nothing of anybody else's in its schema: then that can be
/// trusted.
///
/// # Errors
/// What SQLite says.
pub fn is_ours(conn: &Connection, database: &str) -> Result<bool> {
    facts_of(conn, database).map(|facts| facts.is_some())
}

/// What a connection calls the database that it was opened with.
const MAIN: &str = "main";

/// Nothing in it is read by its name before its whole schema has been compared: a
/// view that is called as a table of ours would be a program of somebody else's.
fn facts_of(conn: &Connection, database: &str) -> Result<Option<Facts>> {
    let number = |pragma: &str| conn.pragma_query_value(Some(database), pragma, |row| row.get::<_, i64>(0));
    if (number("application_id")?, number("user_version")?) != (APPLICATION, VERSION) {
        return Ok(None);
    }
    let theirs = schema(conn, database)?;
    let Some(label) = theirs.iter().find_map(label_of).filter(|label| crate::is_label(label)) else { return Ok(None) };
    let ours = Connection::open_in_memory()?;
    ours.execute_batch(&statements(label))?;
    if schema(&ours, MAIN)? != theirs {
        return Ok(None);
    }
    if state::<String>(conn, database, "label")?.as_deref() != Some(label) {
        return Ok(None);
    }
    let root = state::<i64>(conn, database, "root")?.unwrap_or_default() as u64;
    Ok(Some(Facts { label: label.to_owned(), root, is_complete: state::<i64>(conn, database, "complete")? == Some(1) }))
}

/// What a catalog is called by whose schema has this entry, if it says.
fn label_of((kind, name, _): &Entry) -> Option<&str> {
    name.strip_suffix("_fs").filter(|_| kind == "view")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Catalog;

    /// A view in the place of `state` that never ends.
    const ENDLESS: &str = "CREATE VIEW state(k, v) AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n)
        SELECT 'label', 'root' FROM n WHERE i<0";

    #[test]
    fn a_strangers_view_is_not_asked() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("catalog.db");
        for extra in ["", "CREATE VIEW root_fs AS SELECT 1"] {
            drop(std::fs::remove_file(&path));
            let made = Connection::open(&path).expect("a database");
            made.execute_batch(&format!("PRAGMA application_id={APPLICATION}; PRAGMA user_version={VERSION}; {ENDLESS}; {extra}"))
                .expect("a schema");
            drop(made);
            let (done, answer) = std::sync::mpsc::channel();
            let theirs = path.clone();
            std::thread::spawn(move || {
                let opened = Catalog::open(&theirs, "root", 2).map(|found| found.is_some());
                drop(done.send((facts(&theirs), opened)));
            });
            let (facts, opened) = answer.recv_timeout(Duration::from_secs(20)).expect("an answer");
            assert!(facts.expect("no damage").is_none() && !opened.expect("no damage"));
        }
    }

    #[test]
    fn no_more_than_a_schema_of_ours_is_looked_at() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("catalog.db");
        drop(Catalog::create(&path, "root", 2).expect("a catalog"));
        let theirs = Connection::open(&path).expect("a database");
        let tables: String = (0..2 * ENTRIES_MOST).map(|number| format!("CREATE TABLE t{number}(x);")).collect();
        theirs.execute_batch(&tables).expect("tables");
        assert_eq!(schema(&theirs, MAIN).expect("a schema").len(), ENTRIES_MOST);
        assert!(facts(&path).expect("no damage").is_none());
    }

    #[test]
    fn limits_are_for_the_look_alone() {
        let mut conn = Connection::open_in_memory().expect("a database");
        let before = conn.limit(Limit::SQLITE_LIMIT_LENGTH).expect("a limit");
        assert!(look(&mut conn).expect("no damage").is_none());
        assert_eq!(conn.limit(Limit::SQLITE_LIMIT_LENGTH).expect("a limit"), before);
    }
}
