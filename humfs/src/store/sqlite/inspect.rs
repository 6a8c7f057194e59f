//! What `check` and `explain` ask of the database.

use super::SqliteStore;
use super::database::{self, refused};
use super::recovery::Past;
use super::session::Session;
use super::{reconcile, rows};
use crate::store::At;
use crate::tree::Access;
use externfs::{Attr, Result};
use rusqlite::Connection;
use std::os::fd::AsFd;

/// Rows that should not be there, and what to say of them. Names that lead to
/// no object are found by whoever walks the tree; a writer deletes inodes with 0
/// names.
const STRAYS: [(&str, &str); 4] = [
    (
        "SELECT count(*) FROM inode WHERE ino<>1 AND nlink<>0 AND ino NOT IN (SELECT ino FROM dentry)",
        "rows of inode to which no name leads",
    ),
    ("SELECT count(*) FROM hostref WHERE ino NOT IN (SELECT ino FROM inode)", "rows of hostref without an inode"),
    ("SELECT count(*) FROM xattr WHERE ino NOT IN (SELECT ino FROM inode)", "rows of xattr without an inode"),
    (
        "SELECT count(*) FROM inode i JOIN (SELECT ino, count(*) AS n FROM dentry GROUP BY ino) d ON d.ino=i.ino \
         WHERE i.nlink<>d.n AND i.mode>>12<>4",
        "rows of inode that count other names than there are",
    ),
];

impl SqliteStore {
    fn with_session<T>(&self, act: impl FnOnce(&mut Session) -> Result<T>) -> Result<T> {
        act(self.shared.lock().session(&self.shared.site)?)
    }

    fn find(&self, session: &mut Session, at: &At<'_>) -> Result<Option<i64>> {
        match session.number(at.parent, &self.shared.site)? {
            Some(parent) => rows::number(session.conn(), parent, at.name.to_bytes()),
            None => Ok(None),
        }
    }

    /// One transaction for all that is read: else each look takes and leaves
    /// SQLite's locks. A writer has its own transactions.
    pub(super) fn begin_reading(&self) -> Result<()> {
        if self.shared.site.access == Access::Write {
            return Ok(());
        }
        self.with_session(|session| session.conn().execute_batch("BEGIN").map_err(refused("beginning to read")))
    }

    /// The number behind `at`; 0 for none.
    pub(super) fn number_of(&self, at: &At<'_>) -> Result<u64> {
        self.with_session(|session| Ok(self.find(session, at)?.map_or(0, |ino| ino as u64)))
    }

    /// Whether the object that is there is another than the one recorded.
    pub(super) fn replaced(&self, at: &At<'_>, host: &Attr) -> Result<Option<String>> {
        self.with_session(|session| {
            let Some(parent) = session.number(at.parent, &self.shared.site)? else { return Ok(None) };
            let Some(seen) = rows::seen_at(session.conn(), parent, at.name.to_bytes())? else { return Ok(None) };
            let Some(hino) = seen.hino else { return Ok(None) };
            let is_reused = hino == host.ino && host.btime.is_some_and(|born| born != seen.born);
            if hino == host.ino && !is_reused {
                return Ok(None);
            }
            if Past::read(session.conn(), &self.shared.site, true)?.is_copied {
                // The host's numbers mean nothing; the next writer forgets them.
                return Ok(None);
            }
            Ok(Some(match is_reused {
                true => format!("the record is that of an older file which had the number {hino} too"),
                false => format!("the record is that of inode {hino}, and the file is inode {}", host.ino),
            }))
        })
    }

    pub(super) fn verify_tables(&self, emit: &mut dyn FnMut(String, bool)) -> Result<()> {
        self.with_session(|session| {
            let conn = session.conn();
            for line in damages(conn).map_err(refused("checking the database"))? {
                emit(format!("metadata.db: {line}"), false);
            }
            for (sql, what) in STRAYS {
                let count: i64 = conn.query_row(sql, (), |row| row.get(0)).map_err(refused("looking for strays"))?;
                if count > 0 {
                    emit(format!("metadata.db: {count} {what}"), true);
                }
            }
            Ok(())
        })
    }

    /// Cut short, it has done nothing.
    pub(super) fn tidy_tables(&self) -> Result<()> {
        let swept = self.with_session(|session| {
            // What a power failure could still bring back is swept, too.
            database::sync(self.shared.site.control.as_fd())?;
            session.begin()?;
            reconcile::sweep(session.conn()).map_err(refused("sweeping what has no name"))
        });
        self.shared.lock().commit();
        swept
    }

    pub(super) fn describe_row(&self, at: Option<&At<'_>>) -> String {
        let ino = match at {
            None => Ok(Some(rows::ROOT)),
            Some(at) => self.with_session(|session| self.find(session, at)),
        };
        match ino {
            Ok(Some(ino)) => format!("humfs/metadata.db, the rows with ino={ino}"),
            Ok(None) => "humfs/metadata.db: no row".into(),
            Err(error) => format!("humfs/metadata.db: {error}"),
        }
    }
}

/// What SQLite says of its own file.
fn damages(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = conn.prepare("PRAGMA quick_check(100)")?;
    let lines = statement.query_map((), |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(lines.into_iter().filter(|line| line != "ok").collect())
}
