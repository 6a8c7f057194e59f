//! What files say: full text of those that are wanted, for MATCH.
//!
//! The catalog says which files have not been read ([`Catalog::unread`]); its
//! writer reads them and tells what is in them ([`Catalog::put_texts`]). A file
//! that changes is forgotten, and is one that has not been read.

use crate::catalog::Catalog;
use rusqlite::{Connection, OptionalExtension, Result};
use std::ops::RangeInclusive;

/// In `inode.flags`: what is in it has been read, whether it was text or not.
pub(crate) const IS_READ: i64 = 2;

/// `S_IFREG`, shifted as in the views.
const REGULAR: &str = "inode.mode>>12=8";

/// Which files are to be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// What SQLite's GLOB takes, of which one must match: the whole path where it has
    /// a slash, else the name.
    pub globs: Vec<String>,
    /// Files of more bytes are left out.
    pub size_max: u64,
}

impl Wanted {
    /// For the `state` table: other files wanted than before means reading anew.
    fn to_text(&self) -> String {
        format!("{}:{}", self.size_max, self.globs.join(":"))
    }

    fn condition(&self) -> String {
        let one = |(index, glob): (usize, &String)| {
            let what = if glob.contains('/') { "CAST(dir.path||dentry.name AS TEXT)" } else { "CAST(dentry.name AS TEXT)" };
            format!("{what} GLOB ?{}", index + 4)
        };
        self.globs.iter().enumerate().map(one).collect::<Vec<_>>().join(" OR ")
    }
}

impl Catalog {
    /// From now on `wanted` are to be read. If others were before, all that was
    /// read is forgotten.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn want_texts(&mut self, wanted: Option<&Wanted>) -> Result<()> {
        let now = wanted.map(Wanted::to_text).unwrap_or_default();
        let transaction = self.conn.transaction()?;
        let before: Option<String> = transaction.query_row("SELECT v FROM state WHERE k='content'", [], |row| row.get(0)).optional()?;
        if before.as_ref() != Some(&now) {
            transaction.execute_batch(&format!("DELETE FROM fulltext; UPDATE inode SET flags=flags&~{IS_READ} WHERE flags&{IS_READ};"))?;
            transaction.execute("INSERT OR REPLACE INTO state VALUES('content', ?)", [&now])?;
        }
        transaction.commit()
    }

    /// Files that are wanted and have not been read, with a path of each as bytes:
    /// the first `most` of those with these numbers.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn unread(&self, wanted: &Wanted, numbers: RangeInclusive<u64>, most: usize) -> Result<Vec<(u64, Vec<u8>)>> {
        let sql = format!(
            "SELECT inode.ino, min(CAST(dir.path||dentry.name AS BLOB)) FROM inode JOIN dentry ON dentry.ino=inode.ino
             JOIN dir ON dir.ino=dentry.parent
             WHERE inode.ino BETWEEN ?1 AND ?2 AND {REGULAR} AND inode.flags&{IS_READ}=0 AND inode.size BETWEEN 1 AND ?3 AND ({})
             GROUP BY inode.ino ORDER BY inode.ino LIMIT {most}",
            wanted.condition()
        );
        let mut list = self.conn.prepare_cached(&sql)?;
        list.raw_bind_parameter(1, *numbers.start() as i64)?;
        list.raw_bind_parameter(2, *numbers.end() as i64)?;
        list.raw_bind_parameter(3, i64::try_from(wanted.size_max).unwrap_or(i64::MAX))?;
        for (index, glob) in wanted.globs.iter().enumerate() {
            list.raw_bind_parameter(index + 4, glob)?;
        }
        let mut rows = list.raw_query();
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push((row.get::<_, i64>(0)? as u64, row.get(1)?));
        }
        Ok(found)
    }

    /// Says what is in files; None for what is no text.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn put_texts(&mut self, texts: &[(u64, Option<String>)]) -> Result<()> {
        let transaction = self.conn.transaction()?;
        for (ino, text) in texts {
            let ino = *ino as i64;
            let marked = transaction
                .prepare_cached(&format!("UPDATE inode SET flags=flags|{IS_READ} WHERE ino=? AND flags&{IS_READ}=0"))?
                .execute([ino])?;
            if let (1, Some(text)) = (marked, text) {
                transaction.prepare_cached("INSERT INTO fulltext(rowid, text) VALUES(?, ?)")?.execute((ino, text))?;
            }
        }
        transaction.commit()
    }
}

/// What was read of number `ino` is right no more.
pub(crate) fn forget(conn: &Connection, ino: u64) -> Result<()> {
    conn.prepare_cached("DELETE FROM fulltext WHERE rowid=?")?.execute([ino as i64]).map(drop)
}
