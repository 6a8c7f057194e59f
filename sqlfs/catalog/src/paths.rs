//! The paths of directories, kept beside them: a full path of every file would
//! be ten times as much, and a rename of a directory at the top would change them all.
//!
//! A path longer than [`PATH_KEPT`], which no system call can name, is kept
//! without its beginning: `.../` stands for that. Else a chain of ten thousand
//! directories would take gigabytes.

use rusqlite::{Connection, OptionalExtension, Result};
use std::collections::HashSet;

/// Bytes, with the slash at the end.
const PATH_KEPT: usize = 4096;

const CUT: &[u8] = b".../";

/// Directories whose path is to be found out.
#[derive(Debug, Default)]
pub(crate) struct Moved(Vec<u64>, HashSet<u64>);

impl Moved {
    /// `ino` is called `name` in `parent` now.
    pub(crate) fn put(&mut self, conn: &Connection, ino: u64, parent: u64, name: &[u8]) -> Result<()> {
        let same = conn
            .prepare_cached("SELECT parent=?2 AND name=?3 FROM dir WHERE ino=?1")?
            .query_row((ino as i64, parent as i64, name), |row| row.get::<_, bool>(0))
            .optional()?;
        if same == Some(true) {
            return Ok(());
        }
        conn.prepare_cached("INSERT INTO dir(ino, parent, name) VALUES(?1, ?2, ?3) ON CONFLICT(ino) DO UPDATE SET parent=?2, name=?3")?
            .execute((ino as i64, parent as i64, name))?;
        if self.1.insert(ino) {
            self.0.push(ino);
        }
        Ok(())
    }

    /// Finds out the paths of all of them and of what is below.
    pub(crate) fn settle(mut self, conn: &Connection) -> Result<()> {
        for ino in std::mem::take(&mut self.0) {
            // Those above it that have moved as well come first.
            let mut chain = vec![ino];
            while let Some(above) = parent_of(conn, chain[chain.len() - 1])? {
                if !self.1.contains(&above) || chain.contains(&above) {
                    break;
                }
                chain.push(above);
            }
            for ino in chain.into_iter().rev() {
                if self.1.remove(&ino) {
                    settle_one(conn, ino)?;
                }
            }
        }
        Ok(())
    }
}

fn parent_of(conn: &Connection, ino: u64) -> Result<Option<u64>> {
    let parent =
        conn.prepare_cached("SELECT parent FROM dir WHERE ino=?")?.query_row([ino as i64], |row| row.get::<_, i64>(0)).optional()?;
    Ok(parent.map(|parent| parent as u64))
}

/// The path of `name` in the directory `above`.
fn below(above: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = [above, name, b"/"].concat();
    if path.len() > PATH_KEPT {
        let cut = path.len() - PATH_KEPT / 2;
        let tail = &path[cut..];
        let start = tail.iter().position(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        path = [CUT, &tail[start..]].concat();
    }
    path
}

fn settle_one(conn: &Connection, ino: u64) -> Result<()> {
    type Row = (Option<Vec<u8>>, Vec<u8>, Option<Vec<u8>>);
    let known: Option<Row> = conn
        .prepare_cached("SELECT d.path, d.name, p.path FROM dir d LEFT JOIN dir p ON p.ino=d.parent WHERE d.ino=?")?
        .query_row([ino as i64], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    // One whose parent nobody has told of yet waits for that.
    let Some((old, name, Some(above))) = known else { return Ok(()) };
    let path = below(&above, &name);
    let moved = old.as_ref().is_some_and(|old| *old != path);
    set(conn, ino, &path)?;
    if !moved && old.is_some() {
        return Ok(());
    }
    // What came before its directory did has waited, too.
    let mut heap = vec![(ino, path)];
    let mut seen = HashSet::from([ino]);
    while let Some((dir, path)) = heap.pop() {
        let mut children = conn.prepare_cached("SELECT ino, name FROM dir WHERE parent=?")?;
        let rows = children.query_map([dir as i64], |row| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, Vec<u8>>(1)?)))?;
        for row in rows {
            let (child, name) = row?;
            if seen.insert(child) {
                let path = below(&path, &name);
                set(conn, child, &path)?;
                heap.push((child, path));
            }
        }
    }
    Ok(())
}

fn set(conn: &Connection, ino: u64, path: &[u8]) -> Result<()> {
    conn.prepare_cached("UPDATE dir SET path=?2 WHERE ino=?1")?.execute((ino as i64, path)).map(drop)
}
