//! The rows of objects.

use crate::batch::{Extra, Object};
use crate::text;
use crate::usage::{Differences, Share};
use externfs::{Attr, FileKind, Timestamp};
use rusqlite::{CachedStatement, Connection, OptionalExtension, Result, params};

/// It has rows in `xattr`.
const HAS_XATTRS: i64 = 1;

/// What is known of an object.
struct Known {
    share: Share,
    flags: i64,
    /// Size and mtime: while they stay, so does what was read.
    version: (i64, i64, i64),
}

/// The rows of one batch. Its statements are looked up once: there are thousands
/// of rows, and as much again would go into that.
pub(crate) struct Rows<'c> {
    conn: &'c Connection,
    known: CachedStatement<'c>,
    insert: CachedStatement<'c>,
    update: CachedStatement<'c>,
    remove: CachedStatement<'c>,
    forget_dir: CachedStatement<'c>,
}

const KNOWN: &str = "SELECT uid, gid, blocks, flags, size, mtime, mtime_ns FROM inode WHERE ino=?";

const INSERT: &str = "INSERT INTO inode VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)";

/// With the same numbers.
const UPDATE: &str =
    "UPDATE inode SET mode=?2, nlink=?3, uid=?4, gid=?5, rmajor=?6, rminor=?7, size=?8, blocks=?9, atime=?10, atime_ns=?11,
  mtime=?12, mtime_ns=?13, ctime=?14, ctime_ns=?15, btime=?16, btime_ns=?17, flags=?18,
  target=CASE ?2>>12 WHEN 10 THEN coalesce(?19, target) END WHERE ino=?1";

impl<'c> Rows<'c> {
    pub(crate) fn of(conn: &'c Connection) -> Result<Rows<'c>> {
        Ok(Rows {
            conn,
            known: conn.prepare_cached(KNOWN)?,
            insert: conn.prepare_cached(INSERT)?,
            update: conn.prepare_cached(UPDATE)?,
            remove: conn.prepare_cached("DELETE FROM inode WHERE ino=?")?,
            forget_dir: conn.prepare_cached("DELETE FROM dir WHERE ino=?")?,
        })
    }

    fn known(&mut self, ino: u64) -> Result<Option<Known>> {
        let read = |row: &rusqlite::Row<'_>| {
            let share = Share { uid: row.get(0)?, gid: row.get(1)?, bytes: row.get::<_, i64>(2)? * 512 };
            Ok(Known { share, flags: row.get(3)?, version: (row.get(4)?, row.get(5)?, row.get(6)?) })
        };
        self.known.query_row([ino as i64], read).optional()
    }

    /// `object` is number `ino`.
    pub(crate) fn put(&mut self, ino: u64, object: &Object, usage: &mut Differences) -> Result<()> {
        let Object { attr, extra } = object;
        let before = self.known(ino)?;
        let share = Share { uid: attr.uid.0, gid: attr.gid.0, bytes: attr.blocks as i64 * 512 };
        usage.note(before.as_ref().map(|known| known.share), Some(share));
        let had = before.as_ref().map_or(0, |known| known.flags);
        let mut flags = extra.as_ref().map_or(had & HAS_XATTRS, |extra| if extra.xattrs.is_empty() { 0 } else { HAS_XATTRS });
        if let Some(known) = before.as_ref().filter(|known| known.flags & text::IS_READ != 0) {
            let version = (attr.size as i64, attr.mtime.seconds, i64::from(attr.mtime.nanoseconds));
            if attr.kind == FileKind::Regular && known.version == version {
                flags |= text::IS_READ;
            } else {
                text::forget(self.conn, ino)?;
            }
        }
        let target = extra.as_ref().and_then(|extra| extra.target.as_deref());
        bind(if before.is_some() { &mut self.update } else { &mut self.insert }, ino, attr, flags, target)?;
        let Some(extra) = extra else { return Ok(()) };
        if before.is_some() && attr.kind != FileKind::Directory {
            // The number was a directory's a moment ago.
            self.forget_dir.execute([ino as i64])?;
        }
        if had & HAS_XATTRS != 0 {
            forget_xattrs(self.conn, ino)?;
        }
        put_xattrs(self.conn, ino, extra)
    }

    /// Number `ino` has no name any more.
    pub(crate) fn remove(&mut self, ino: u64, usage: &mut Differences) -> Result<()> {
        let Some(known) = self.known(ino)? else { return Ok(()) };
        usage.note(Some(known.share), None);
        if known.flags & HAS_XATTRS != 0 {
            forget_xattrs(self.conn, ino)?;
        }
        if known.flags & text::IS_READ != 0 {
            text::forget(self.conn, ino)?;
        }
        self.remove.execute([ino as i64])?;
        self.forget_dir.execute([ino as i64]).map(drop)
    }
}

fn put_xattrs(conn: &Connection, ino: u64, extra: &Extra) -> Result<()> {
    for (name, value) in &extra.xattrs {
        conn.prepare_cached("INSERT INTO xattr VALUES(?, ?, ?)")?.execute((ino as i64, &**name, &**value))?;
    }
    Ok(())
}

fn forget_xattrs(conn: &Connection, ino: u64) -> Result<()> {
    conn.prepare_cached("DELETE FROM xattr WHERE ino=?")?.execute([ino as i64]).map(drop)
}

fn bind(statement: &mut CachedStatement<'_>, ino: u64, attr: &Attr, flags: i64, target: Option<&[u8]>) -> Result<()> {
    let time = |time: Timestamp| (time.seconds, i64::from(time.nanoseconds));
    let (atime, mtime, ctime, btime) = (time(attr.atime), time(attr.mtime), time(attr.ctime), attr.btime.map(time));
    let row = params![
        ino as i64,
        attr.kind.mode_bits() | attr.mode.bits(),
        attr.nlink,
        attr.uid.0,
        attr.gid.0,
        attr.device.major,
        attr.device.minor,
        attr.size as i64,
        attr.blocks as i64,
        atime.0,
        atime.1,
        mtime.0,
        mtime.1,
        ctime.0,
        ctime.1,
        btime.map(|time| time.0),
        btime.map(|time| time.1),
        flags,
        target,
    ];
    statement.execute(row).map(drop)
}
