//! The rows of objects.

use crate::batch::{Extra, Object};
use crate::text;
use crate::usage::{Differences, Share};
use externfs::{Attr, FileKind, Timestamp};
use rusqlite::{Connection, OptionalExtension, Result, named_params};

/// It has rows in `xattr`.
const HAS_XATTRS: i64 = 1;

/// What is known of an object.
struct Known {
    share: Share,
    flags: i64,
    /// Size and mtime: while they stay, so does what was read.
    version: (i64, i64, i64),
}

fn known(conn: &Connection, ino: u64) -> Result<Option<Known>> {
    conn.prepare_cached("SELECT uid, gid, blocks, flags, size, mtime, mtime_ns FROM inode WHERE ino=?")?
        .query_row([ino as i64], |row| {
            let share = Share { uid: row.get(0)?, gid: row.get(1)?, bytes: row.get::<_, i64>(2)? * 512 };
            Ok(Known { share, flags: row.get(3)?, version: (row.get(4)?, row.get(5)?, row.get(6)?) })
        })
        .optional()
}

/// `object` is number `ino`.
pub(crate) fn put(conn: &Connection, ino: u64, object: &Object, usage: &mut Differences) -> Result<()> {
    let Object { attr, extra } = object;
    let before = known(conn, ino)?;
    let share = Share { uid: attr.uid.0, gid: attr.gid.0, bytes: attr.blocks as i64 * 512 };
    usage.note(before.as_ref().map(|known| known.share), Some(share));
    let had = before.as_ref().map_or(0, |known| known.flags);
    let mut flags = extra.as_ref().map_or(had & HAS_XATTRS, |extra| if extra.xattrs.is_empty() { 0 } else { HAS_XATTRS });
    if let Some(known) = before.as_ref().filter(|known| known.flags & text::IS_READ != 0) {
        let version = (attr.size as i64, attr.mtime.seconds, i64::from(attr.mtime.nanoseconds));
        if attr.kind == FileKind::Regular && known.version == version {
            flags |= text::IS_READ;
        } else {
            text::forget(conn, ino)?;
        }
    }
    let target = extra.as_ref().and_then(|extra| extra.target.as_deref());
    bind(conn, if before.is_some() { UPDATE } else { INSERT }, ino, attr, flags, target)?;
    let Some(extra) = extra else { return Ok(()) };
    if before.is_some() && attr.kind != FileKind::Directory {
        // The number was a directory's a moment ago.
        forget_dir(conn, ino)?;
    }
    if had & HAS_XATTRS != 0 {
        forget_xattrs(conn, ino)?;
    }
    put_xattrs(conn, ino, extra)
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

const INSERT: &str = "INSERT INTO inode VALUES(:ino, :mode, :nlink, :uid, :gid, :rmajor, :rminor, :size, :blocks,
  :atime, :atime_ns, :mtime, :mtime_ns, :ctime, :ctime_ns, :btime, :btime_ns, :flags, :target)";

const UPDATE: &str =
    "UPDATE inode SET mode=:mode, nlink=:nlink, uid=:uid, gid=:gid, rmajor=:rmajor, rminor=:rminor, size=:size, blocks=:blocks,
  atime=:atime, atime_ns=:atime_ns, mtime=:mtime, mtime_ns=:mtime_ns, ctime=:ctime, ctime_ns=:ctime_ns, btime=:btime, btime_ns=:btime_ns,
  flags=:flags, target=CASE :mode>>12 WHEN 10 THEN coalesce(:target, target) END WHERE ino=:ino";

fn bind(conn: &Connection, sql: &str, ino: u64, attr: &Attr, flags: i64, target: Option<&[u8]>) -> Result<()> {
    let time = |time: Timestamp| (time.seconds, i64::from(time.nanoseconds));
    let (atime, mtime, ctime, btime) = (time(attr.atime), time(attr.mtime), time(attr.ctime), attr.btime.map(time));
    conn.prepare_cached(sql)?
        .execute(named_params! {
            ":ino": ino as i64, ":mode": attr.kind.mode_bits() | attr.mode.bits(), ":nlink": attr.nlink,
            ":uid": attr.uid.0, ":gid": attr.gid.0, ":rmajor": attr.device.major, ":rminor": attr.device.minor,
            ":size": attr.size as i64, ":blocks": attr.blocks as i64, ":atime": atime.0, ":atime_ns": atime.1,
            ":mtime": mtime.0, ":mtime_ns": mtime.1, ":ctime": ctime.0, ":ctime_ns": ctime.1,
            ":btime": btime.map(|time| time.0), ":btime_ns": btime.map(|time| time.1), ":flags": flags, ":target": target,
        })
        .map(drop)
}

/// Number `ino` has no name any more.
pub(crate) fn remove(conn: &Connection, ino: u64, usage: &mut Differences) -> Result<()> {
    let Some(known) = known(conn, ino)? else { return Ok(()) };
    usage.note(Some(known.share), None);
    if known.flags & HAS_XATTRS != 0 {
        forget_xattrs(conn, ino)?;
    }
    if known.flags & text::IS_READ != 0 {
        text::forget(conn, ino)?;
    }
    conn.prepare_cached("DELETE FROM inode WHERE ino=?")?.execute([ino as i64])?;
    forget_dir(conn, ino)
}

fn forget_dir(conn: &Connection, ino: u64) -> Result<()> {
    conn.prepare_cached("DELETE FROM dir WHERE ino=?")?.execute([ino as i64]).map(drop)
}
