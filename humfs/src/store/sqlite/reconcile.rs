//! After a crash of the host: the data tree may have changes whose records
//! were lost, and the reverse. This walks the data tree once and makes each
//! name lead to the record of the very object that it has. An object whose
//! record was lost is one without a record, never one with another's.
//!
//! A removal may be in the database and lost in the data tree. So the record of
//! what has lost its last name is still there (see [`Session`]), and is found by
//! the object.

use super::change::Step;
use super::database::refused;
use super::log::Outcome;
use super::rows::{self, ROOT};
use super::session::{Session, Site};
use crate::host::{self, damaged, fault};
use externfs::{FileKind, Result, Timestamp};
use rusqlite::Connection;
use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::Errno as Host;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The host's numbers mean nothing any more: from now on names count alone.
pub(super) fn forget_numbers(conn: &Connection) -> Result<()> {
    conn.execute("DELETE FROM hostref", ()).map(drop).map_err(refused("forgetting the host's numbers"))
}

/// See the [module](self).
pub(super) fn reconcile(session: &mut Session, site: &Site) -> Result<()> {
    let fixes = Walk { session, fixes: Vec::new() }.run(site)?;
    let count = fixes.len();
    for step in &fixes {
        rows::apply(session.conn(), step, &Outcome::default())?;
    }
    sweep(session.conn()).map_err(refused("sweeping what has no name"))?;
    tracing::info!("the host went down while the tree was in use: looked at all names and corrected {count}");
    Ok(())
}

/// Deletes what no name leads to, and counts names anew.
pub(super) fn sweep(conn: &Connection) -> rusqlite::Result<()> {
    // A directory's names go with it, those of directories in it in the next
    // round.
    while conn.execute("DELETE FROM dentry WHERE parent<>?1 AND parent NOT IN (SELECT ino FROM dentry)", [ROOT])? > 0 {}
    conn.execute("DELETE FROM inode WHERE ino<>?1 AND ino NOT IN (SELECT ino FROM dentry)", [ROOT])?;
    conn.execute("DELETE FROM hostref WHERE ino NOT IN (SELECT ino FROM inode)", ())?;
    conn.execute("DELETE FROM xattr WHERE ino NOT IN (SELECT ino FROM inode)", ())?;
    // A directory whose name has come back.
    conn.execute("UPDATE inode SET nlink=1 WHERE nlink=0 AND mode>>12=4", ())?;
    conn.execute(
        "UPDATE inode SET nlink=t.n FROM (SELECT ino AS i, count(*) AS n FROM dentry GROUP BY ino) AS t \
         WHERE t.i=inode.ino AND inode.nlink<>t.n AND inode.mode>>12<>4",
        (),
    )?;
    Ok(())
}

/// An object of the data tree.
struct There {
    kind: FileKind,
    hino: u64,
    born: Option<Timestamp>,
}

/// A directory that the walk is in, or above.
struct Level {
    hino: u64,
    /// Directories in it that are still to be visited, with their numbers.
    ahead: Vec<(CString, i64)>,
}

struct Walk<'a> {
    session: &'a mut Session,
    fixes: Vec<Step>,
}

impl Walk<'_> {
    /// With one descriptor, however deep the tree is. Nobody else is here, so
    /// `..` leads to where we came from.
    fn run(mut self, site: &Site) -> Result<Vec<Step>> {
        let failed = || fault("walking the data tree");
        let mut at: OwnedFd = host::child_dir(site.data.as_fd(), c".").map_err(failed())?;
        let mut levels = vec![Level { hino: site.root, ahead: self.visit(at.as_fd(), ROOT)? }];
        while let Some(level) = levels.last_mut() {
            if let Some((name, number)) = level.ahead.pop() {
                at = host::child_dir(at.as_fd(), &name).map_err(failed())?;
                let hino = rustix::fs::fstat(&at).map_err(failed())?.st_ino;
                let ahead = self.visit(at.as_fd(), number)?;
                levels.push(Level { hino, ahead });
                continue;
            }
            levels.pop();
            let Some(above) = levels.last() else { break };
            at = host::child_dir(at.as_fd(), c"..").map_err(failed())?;
            if rustix::fs::fstat(&at).map_err(failed())?.st_ino != above.hino {
                return Err(damaged("the data tree is being changed by somebody else"));
            }
        }
        Ok(self.fixes)
    }

    /// One directory. Returns those in it.
    fn visit(&mut self, dir: BorrowedFd<'_>, parent: i64) -> Result<Vec<(CString, i64)>> {
        let mut recorded: HashMap<Vec<u8>, i64> = rows::names(self.session.conn(), parent)?.into_iter().collect();
        let mut ahead = Vec::new();
        for (name, _) in host::names(dir).map_err(fault("walking the data tree"))? {
            let Some(there) = There::at(dir, &name)? else { continue };
            let before = recorded.remove(name.to_bytes());
            let mut now = self.identify(&there, before)?;
            if there.kind == FileKind::Directory {
                let number = match now {
                    Some(number) => number,
                    None => self.session.new_number()?,
                };
                now = Some(number);
                ahead.push((name.clone(), number));
            }
            let name = name.into_bytes();
            match now {
                Some(_) if now == before => {}
                Some(ino) => self.fixes.push(Step::Name { parent, name, ino }),
                None if before.is_some() => self.fixes.push(Step::Unname { parent, name }),
                None => {}
            }
        }
        self.fixes.extend(recorded.into_keys().map(|name| Step::Unname { parent, name }));
        Ok(ahead)
    }

    /// The number of what is there; `named` is what its name leads to.
    fn identify(&self, there: &There, named: Option<i64>) -> Result<Option<i64>> {
        let conn = self.session.conn();
        if let Some(number) = named {
            let is_it = match rows::seen(conn, number)? {
                Some(seen) => there.fits(&seen) && seen.hino.is_none_or(|hino| there.is(hino, seen.born)),
                None => there.kind == FileKind::Directory,
            };
            if is_it {
                return Ok(named);
            }
        }
        let Some(number) = rows::same(conn, there.hino, there.born)? else { return Ok(None) };
        Ok(rows::seen(conn, number)?.filter(|seen| there.fits(seen)).map(|_| number))
    }
}

impl There {
    fn fits(&self, seen: &rows::Seen) -> bool {
        seen.kind.is_some_and(|kind| rows::fits(kind, self.kind))
    }

    fn is(&self, hino: u64, born: Timestamp) -> bool {
        self.hino == hino && self.born.is_none_or(|time| time == born)
    }

    fn at(dir: BorrowedFd<'_>, name: &CStr) -> Result<Option<There>> {
        let wanted = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::BTIME;
        let stat = match rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, wanted) {
            Ok(stat) => stat,
            Err(Host::NOENT) => return Ok(None),
            Err(other) => return Err(fault("walking the data tree")(other)),
        };
        let born = (stat.stx_mask & StatxFlags::BTIME.bits() != 0)
            .then_some(Timestamp { seconds: stat.stx_btime.tv_sec, nanoseconds: stat.stx_btime.tv_nsec });
        let kind = FileKind::from_mode(stat.stx_mode.into()).ok_or_else(|| damaged("an object of the data tree has no type"))?;
        Ok(Some(There { kind, hino: stat.stx_ino, born }))
    }
}
