//! The rows of the tables: reading them, with everything checked that a
//! record may not be, and writing those of a [`Step`].

use super::change::{Owner, Row, Step};
use super::database::refused;
use super::log::Outcome;
use crate::host::damaged;
use crate::record::{Note, Record, Xattrs};
use externfs::{Attr, DeviceNumber, FileKind, GuestGid, GuestUid, Mode, Result, Timestamp};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Params, Row as Columns};

/// Number of the root's inode.
pub(super) const ROOT: i64 = 1;

/// In `inode.flags`.
const HAS_XATTRS: i64 = 1;

/// What is behind a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub(super) ino: i64,
    /// None for a directory that has a number and no record.
    pub(super) inode: Option<Inode>,
}

/// What a change wants to know of an inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Inode {
    pub(super) nlink: u32,
    pub(super) is_dir: bool,
    pub(super) has_xattrs: bool,
}

type Sql<T> = rusqlite::Result<T>;

const READING: &str = "reading a record";

fn one<T>(conn: &Connection, sql: &str, params: impl Params, read: impl FnOnce(&Columns<'_>) -> Sql<T>) -> Result<Option<T>> {
    let ask = || conn.prepare_cached(sql)?.query_row(params, read).optional();
    ask().map_err(refused(READING))
}

/// What is behind `name` in the directory with number `parent`.
pub(super) fn find(conn: &Connection, parent: i64, name: &[u8]) -> Result<Option<Found>> {
    let sql = "SELECT d.ino, i.mode, i.nlink, i.flags FROM dentry d LEFT JOIN inode i ON i.ino=d.ino WHERE d.parent=?1 AND d.name=?2";
    one(conn, sql, (parent, name), |row| Ok(Found { ino: row.get(0)?, inode: inode(row, 1)? }))
}

/// As [`find`], of the inode with number `ino`.
pub(super) fn find_inode(conn: &Connection, ino: i64) -> Result<Option<Inode>> {
    one(conn, "SELECT mode, nlink, flags FROM inode WHERE ino=?1", [ino], |row| inode(row, 0)).map(Option::flatten)
}

fn inode(row: &Columns<'_>, at: usize) -> Sql<Option<Inode>> {
    let Some(mode) = row.get::<_, Option<i64>>(at)? else { return Ok(None) };
    let (nlink, flags): (i64, i64) = (row.get(at + 1)?, row.get(at + 2)?);
    let is_dir = FileKind::from_mode(mode as u32) == Some(FileKind::Directory);
    // More names than anybody can make: the inode then outlives them all.
    let nlink = u32::try_from(nlink).unwrap_or(u32::MAX);
    Ok(Some(Inode { nlink, is_dir, has_xattrs: flags & HAS_XATTRS != 0 }))
}

/// Whether a name other than `name` leads to the inode with number `ino`.
pub(super) fn has_other_name(conn: &Connection, ino: i64, name: (i64, &[u8])) -> Result<bool> {
    let sql = "SELECT 1 FROM dentry WHERE ino=?1 AND NOT (parent=?2 AND name=?3) LIMIT 1";
    one(conn, sql, (ino, name.0, name.1), |_| Ok(())).map(|found| found.is_some())
}

/// The number behind `name` in the directory with number `parent`.
pub(super) fn number(conn: &Connection, parent: i64, name: &[u8]) -> Result<Option<i64>> {
    one(conn, "SELECT ino FROM dentry WHERE parent=?1 AND name=?2", (parent, name), |row| row.get(0))
}

/// The inode that was last seen as the host's object `hino`, born then. The
/// host gives numbers again, so without a time of birth nothing is the same.
pub(super) fn same(conn: &Connection, hino: u64, born: Option<Timestamp>) -> Result<Option<i64>> {
    let Some(born) = born else { return Ok(None) };
    let sql = "SELECT i.ino FROM hostref h JOIN inode i ON i.ino=h.ino WHERE h.hino=?1 AND i.btime=?2 AND i.btime_ns=?3 \
         ORDER BY i.nlink=0 LIMIT 1";
    one(conn, sql, (hino as i64, born.seconds, born.nanoseconds), |row| row.get(0))
}

/// What was last seen of the object with number `ino`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    pub(super) kind: Option<FileKind>,
    /// None after the tree was copied.
    pub(super) hino: Option<u64>,
    pub(super) born: Timestamp,
}

/// As [`seen`], of the object behind `name` in the directory with number `parent`.
pub(super) fn seen_at(conn: &Connection, parent: i64, name: &[u8]) -> Result<Option<Seen>> {
    let sql = "SELECT i.mode, h.hino, i.btime, i.btime_ns FROM dentry d JOIN inode i ON i.ino=d.ino \
         LEFT JOIN hostref h ON h.ino=d.ino AND h.hino<>0 WHERE d.parent=?1 AND d.name=?2";
    one(conn, sql, (parent, name), read_seen)
}

/// What was last seen of the object with number `ino`.
pub(super) fn seen(conn: &Connection, ino: i64) -> Result<Option<Seen>> {
    let sql = "SELECT i.mode, h.hino, i.btime, i.btime_ns FROM inode i LEFT JOIN hostref h ON h.ino=i.ino AND h.hino<>0 WHERE i.ino=?1";
    one(conn, sql, [ino], read_seen)
}

fn read_seen(row: &Columns<'_>) -> Sql<Seen> {
    let (mode, hino): (i64, Option<i64>) = (row.get(0)?, row.get(1)?);
    let born = Timestamp { seconds: row.get(2)?, nanoseconds: row.get(3)? };
    Ok(Seen { kind: FileKind::from_mode(mode as u32), hino: hino.map(|hino| hino as u64), born })
}

/// Whether an object of kind `host` in the data tree can be what a record of
/// kind `kind` is about: an empty regular file stands for special files.
pub(super) fn fits(kind: FileKind, host: FileKind) -> bool {
    kind == host || (host == FileKind::Regular && !matches!(kind, FileKind::Directory | FileKind::Symlink))
}

/// The columns that make a record, and those that tell whose it was last.
macro_rules! record_columns {
    ($from:literal) => {
        concat!(
            "SELECT i.ino, i.mode, i.uid, i.gid, i.rmajor, i.rminor, i.flags, i.ctime, i.ctime_ns, i.btime, i.btime_ns, \
             ifnull(h.hino, 0) FROM ",
            $from
        )
    };
}

const COLUMNS: usize = 12;

/// The record behind `name` in the directory with number `parent`, which is
/// that of `host`.
pub(super) fn record(conn: &Connection, parent: i64, name: &[u8], host: &Attr) -> Result<Option<Record>> {
    let sql = record_columns!("dentry d JOIN inode i ON i.ino=d.ino LEFT JOIN hostref h ON h.ino=d.ino WHERE d.parent=?1 AND d.name=?2");
    let columns = one(conn, sql, (parent, name), columns)?;
    columns.map(|columns| read(conn, columns, host)).transpose()
}

/// The record of the inode with number `ino`, which is that of `host`.
pub(super) fn record_of(conn: &Connection, ino: i64, host: &Attr) -> Result<Option<Record>> {
    let sql = record_columns!("inode i LEFT JOIN hostref h ON h.ino=i.ino WHERE i.ino=?1");
    let columns = one(conn, sql, [ino], columns)?;
    columns.map(|columns| read(conn, columns, host)).transpose()
}

fn columns(row: &Columns<'_>) -> Sql<[i64; COLUMNS]> {
    let mut columns = [0; COLUMNS];
    for (index, column) in columns.iter_mut().enumerate() {
        *column = row.get(index)?;
    }
    Ok(columns)
}

fn read(conn: &Connection, columns: [i64; COLUMNS], host: &Attr) -> Result<Record> {
    let [ino, mode, uid, gid, major, minor, flags, ctime, ctime_ns, btime, btime_ns, hino] = columns;
    let number = |what: &str, value: i64| {
        u32::try_from(value).map_err(|_| damaged(format!("humfs/metadata.db: inode {ino}: {what} is {value}, which is none")))
    };
    let mode = number("the mode", mode)?;
    let kind = FileKind::from_mode(mode).filter(|kind| mode & !0o7777 == kind.mode_bits());
    let kind = kind.ok_or_else(|| damaged(format!("humfs/metadata.db: inode {ino}: the mode is {mode:o}, which is none")))?;
    let mut record = Record::new(kind, Mode::new(mode), GuestUid(number("the owner", uid)?), GuestGid(number("the group", gid)?));
    if kind.is_device() {
        record.device = DeviceNumber { major: number("the major number", major)?, minor: number("the minor number", minor)? };
    }
    if flags & HAS_XATTRS != 0 {
        record.xattrs = xattrs(conn, ino)?;
    }
    let time = |seconds, nanoseconds| u32::try_from(nanoseconds).ok().and_then(|ns| Timestamp::new(seconds, ns).ok()).unwrap_or_default();
    // Of a tree that was copied, the row has yet to learn which object it is about.
    let is_its = hino as u64 == host.ino && host.btime.is_none_or(|born| born == time(btime, btime_ns));
    record.note = Note { changed: time(ctime, ctime_ns), row: if is_its { ino } else { 0 } };
    Ok(record)
}

/// The attributes of the inode with number `ino`.
pub(super) fn xattrs(conn: &Connection, ino: i64) -> Result<Xattrs> {
    let ask = || {
        let mut statement = conn.prepare_cached("SELECT name, value FROM xattr WHERE ino=?1 ORDER BY name")?;
        let rows = statement.query_map([ino], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?)))?;
        rows.collect::<Sql<Vec<_>>>()
    };
    ask().map(Xattrs::from_iter).map_err(refused("reading attributes"))
}

/// The names in the directory with number `parent`, and what they lead to.
pub(super) fn names(conn: &Connection, parent: i64) -> Result<Vec<(Vec<u8>, i64)>> {
    let ask = || {
        let mut statement = conn.prepare_cached("SELECT name, ino FROM dentry WHERE parent=?1")?;
        let rows = statement.query_map([parent], |row| {
            // A name that is no blob cannot have been written by us; it is
            // found by no other means, so it is shown as it is.
            let name = match row.get_ref(0)? {
                ValueRef::Blob(name) | ValueRef::Text(name) => name.to_vec(),
                _ => Vec::new(),
            };
            Ok((name, row.get(1)?))
        })?;
        rows.collect::<Sql<Vec<_>>>()
    };
    ask().map_err(refused("reading names"))
}

fn run(conn: &Connection, sql: &str, params: impl Params) -> Sql<()> {
    conn.prepare_cached(sql)?.execute(params).map(drop)
}

/// Writes or deletes the row of `step`; `outcome` completes an object that was
/// being made.
pub(super) fn apply(conn: &Connection, step: &Step, outcome: &Outcome) -> Result<()> {
    let applied = match step {
        Step::Name { parent, name, ino } => {
            let sql = "INSERT INTO dentry VALUES(?1,?2,?3) ON CONFLICT DO UPDATE SET ino=excluded.ino";
            run(conn, sql, (parent, name, ino))
        }
        Step::Unname { parent, name } => run(conn, "DELETE FROM dentry WHERE parent=?1 AND name=?2", (parent, name)),
        Step::Put(row) if row.hino == 0 => put(conn, &row.born(outcome.hino, outcome.time)),
        Step::Put(row) => put(conn, row),
        Step::Links { ino, nlink } => run(conn, "UPDATE inode SET nlink=?2 WHERE ino=?1", (ino, nlink)),
        Step::Drop { ino, below } => {
            let gone = abandon(conn, *ino, *below)?;
            return gone.into_iter().try_for_each(|ino| erase(conn, ino));
        }
        Step::Set { ino, name, value } => {
            let sql = "INSERT INTO xattr VALUES(?1,?2,?3) ON CONFLICT DO UPDATE SET value=excluded.value";
            run(conn, sql, (ino, name, value))
        }
        Step::Unset { ino, name } => run(conn, "DELETE FROM xattr WHERE ino=?1 AND name=?2", (ino, name)),
        Step::Own(owner) => own(conn, owner),
    };
    applied.map_err(refused("writing a record"))
}

/// Changes one row, or none if there is none that has names.
fn own(conn: &Connection, owner: &Owner) -> Sql<()> {
    let sql = "UPDATE inode SET mode=?2, uid=?3, gid=?4, flags=?5, ctime=?6, ctime_ns=?7 WHERE ino=?1 AND nlink<>0";
    let Owner { ino, mode, uid, gid, has_xattrs, time } = *owner;
    let flags = if has_xattrs { HAS_XATTRS } else { 0 };
    let columns = [ino, mode.into(), uid.into(), gid.into(), flags, time.seconds, time.nanoseconds.into()];
    run(conn, sql, columns)
}

fn put(conn: &Connection, row: &Row) -> Sql<()> {
    let sql = "INSERT INTO inode(ino,gen,mode,nlink,uid,gid,rmajor,rminor,flags,size,blocks,atime,atime_ns,mtime,mtime_ns,ctime,ctime_ns,\
         btime,btime_ns) VALUES(?1,0,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18) ON CONFLICT DO UPDATE SET \
         mode=excluded.mode, nlink=excluded.nlink, uid=excluded.uid, gid=excluded.gid, rmajor=excluded.rmajor, rminor=excluded.rminor, \
         flags=excluded.flags, size=excluded.size, blocks=excluded.blocks, atime=excluded.atime, atime_ns=excluded.atime_ns, \
         mtime=excluded.mtime, mtime_ns=excluded.mtime_ns, ctime=excluded.ctime, ctime_ns=excluded.ctime_ns, \
         btime=excluded.btime, btime_ns=excluded.btime_ns";
    let Row { ino, mode, nlink, uid, gid, major, minor, atime, mtime, ctime, btime, .. } = *row;
    let flags = if row.has_xattrs { HAS_XATTRS } else { 0 };
    let (size, blocks) = (row.size as i64, row.blocks as i64);
    let mut statement = conn.prepare_cached(sql)?;
    let columns: [i64; 18] = [
        ino,
        mode.into(),
        nlink.into(),
        uid.into(),
        gid.into(),
        major.into(),
        minor.into(),
        flags,
        size,
        blocks,
        atime.seconds,
        atime.nanoseconds.into(),
        mtime.seconds,
        mtime.nanoseconds.into(),
        ctime.seconds,
        ctime.nanoseconds.into(),
        btime.seconds,
        btime.nanoseconds.into(),
    ];
    statement.execute(columns)?;
    // Mostly it is there and right: then nothing is written.
    let sql = "INSERT INTO hostref VALUES(?1,?2) ON CONFLICT DO UPDATE SET hino=excluded.hino WHERE hino<>excluded.hino";
    run(conn, sql, (ino, row.hino as i64))
}

/// Writes down that the inode with number `top` has lost its last name, and all
/// that is recorded below it if `below`. Returns these inodes: their rows stay
/// until [`erase`].
pub(super) fn abandon(conn: &Connection, top: i64, below: bool) -> Result<Vec<i64>> {
    let mut gone = vec![top];
    let mut ahead = if below { vec![top] } else { Vec::new() };
    while let Some(parent) = ahead.pop() {
        let names = names(conn, parent)?;
        if names.is_empty() {
            continue;
        }
        run(conn, "DELETE FROM dentry WHERE parent=?1", [parent]).map_err(refused("deleting names"))?;
        for (_, ino) in names {
            if ino == ROOT {
                // Only a forger has it in a directory.
                continue;
            }
            match find_inode(conn, ino)? {
                Some(Inode { is_dir: false, nlink: nlink @ 2.., .. }) => {
                    apply(conn, &Step::Links { ino, nlink: nlink - 1 }, &Outcome::default())?;
                }
                _ => {
                    ahead.push(ino);
                    gone.push(ino);
                }
            }
        }
    }
    let sql = "UPDATE inode SET nlink=0 WHERE ino=?1";
    gone.iter().try_for_each(|ino| run(conn, sql, [ino])).map_err(refused("giving up a record"))?;
    Ok(gone)
}

/// The inodes that have lost their last name.
pub(super) fn abandoned(conn: &Connection) -> Result<Vec<i64>> {
    let ask = || {
        let sql = "SELECT ino FROM inode WHERE nlink=0 AND ino<>?1 AND ino NOT IN (SELECT ino FROM dentry)";
        conn.prepare(sql)?.query_map([ROOT], |row| row.get(0))?.collect::<Sql<Vec<_>>>()
    };
    ask().map_err(refused("looking for records without a name"))
}

/// Deletes an inode that has lost its last name, with all that it had.
pub(super) fn erase(conn: &Connection, ino: i64) -> Result<()> {
    let erase = || {
        if conn.prepare_cached("DELETE FROM inode WHERE ino=?1 AND nlink=0")?.execute([ino])? == 0 {
            return Ok(());
        }
        run(conn, "DELETE FROM hostref WHERE ino=?1", [ino])?;
        run(conn, "DELETE FROM xattr WHERE ino=?1", [ino])
    };
    erase().map_err(refused("deleting a record"))
}
