//! What each operation changes: the rows as they will be, by what is there now.

use super::change::{Change, Doubt, Owner, Row, Step};
use super::rows::{self, Found, ROOT};
use super::session::{Session, Site};
use crate::path;
use crate::record::{Record, Xattrs};
use crate::store::{At, Facts, Object, Place, Renaming};
use externfs::{Attr, Errno, FileKind, Result, Timestamp};

/// How to tell whether the host's step at `at` was done.
fn doubt(at: &At<'_>, site: &Site, hino: u64, appears: bool) -> Result<Option<Doubt>> {
    let path = path::of(at, |dir| dir.host_key().number == site.root).ok_or(Errno::ESTALE)?;
    Ok(Some(Doubt { path, hino, appears }))
}

/// The inode of an object that has another name than the one that was looked
/// for: somebody linked it on the host.
pub(super) fn other_name(session: &Session, host: &Attr) -> Result<Option<i64>> {
    if host.nlink < 2 || host.kind == FileKind::Directory {
        return Ok(None);
    }
    let Some(ino) = rows::same(session.conn(), host.ino, host.btime)? else { return Ok(None) };
    // A record that has lost its last name is about to go.
    Ok(rows::find_inode(session.conn(), ino)?.filter(|inode| inode.nlink > 0).map(|_| ino))
}

/// What is behind `at`, if its directory has a number.
fn find(session: &mut Session, site: &Site, at: &At<'_>) -> Result<Option<(i64, Option<Found>)>> {
    let Some(parent) = session.number(at.parent, site)? else { return Ok(None) };
    Ok(Some((parent, rows::find(session.conn(), parent, at.name.to_bytes())?)))
}

/// The steps after which a name no longer leads to `found`.
fn let_go(found: Option<Found>, steps: &mut Vec<Step>) {
    let Some(Found { ino, inode }) = found else { return };
    steps.push(match inode {
        Some(inode) if !inode.is_dir && inode.nlink > 1 => Step::Links { ino, nlink: inode.nlink - 1 },
        inode => Step::Drop { ino, below: inode.is_none_or(|inode| inode.is_dir) },
    });
}

/// The steps that lead from the attributes `before` to those of `record`.
fn xattr_steps(ino: i64, before: &Xattrs, record: &Record, steps: &mut Vec<Step>) {
    for (name, value) in record.xattrs.iter() {
        if before.get(name) != Some(value) {
            steps.push(Step::Set { ino, name: name.to_vec(), value: value.to_vec() });
        }
    }
    for (name, _) in before.iter() {
        if record.xattrs.get(name).is_none() {
            steps.push(Step::Unset { ino, name: name.to_vec() });
        }
    }
}

fn name_step(parent: i64, at: &At<'_>, ino: i64) -> Step {
    Step::Name { parent, name: at.name.to_bytes().to_vec(), ino }
}

fn unname_step(parent: i64, at: &At<'_>) -> Step {
    Step::Unname { parent, name: at.name.to_bytes().to_vec() }
}

/// What is changed of an object whose row is known to be there; None if it is
/// not known, or gone.
pub(super) fn own(session: &Session, known: &Record, record: &Record, time: Timestamp) -> Result<Option<Change>> {
    let ino = known.note.row;
    let (mode, uid, gid) = (record.kind.mode_bits() | record.mode.bits(), record.uid.0, record.gid.0);
    let mut steps = Vec::new();
    xattr_steps(ino, &known.xattrs, record, &mut steps);
    // An owner for a row that is not there changes nothing; attributes for it
    // would be left over.
    if !steps.is_empty() && rows::find_inode(session.conn(), ino)?.is_none_or(|inode| inode.nlink == 0) {
        return Ok(None);
    }
    steps.push(Step::Own(Owner { ino, mode, uid, gid, has_xattrs: record.has_xattrs(), time }));
    Ok(Some(Change::of(steps)))
}

/// Returns the number of the inode, too.
pub(super) fn save(session: &mut Session, site: &Site, object: &Object<'_>, record: &Record, time: Timestamp) -> Result<(i64, Change)> {
    let mut steps = Vec::new();
    let found = match &object.place {
        Place::Nameless => return Ok((0, Change::default())),
        Place::Root => Found { ino: ROOT, inode: rows::find_inode(session.conn(), ROOT)? },
        Place::Named(at) => {
            let parent = session.ensure_number(at.parent, site)?;
            let found = rows::find(session.conn(), parent, at.name.to_bytes())?;
            let is_dir = object.host.kind == FileKind::Directory;
            let is_its = |found: &Found| found.inode.map_or(is_dir, |inode| inode.is_dir == is_dir);
            match found.filter(is_its) {
                Some(found) => found,
                None => {
                    let_go(found, &mut steps);
                    let found = first(session, object.host)?;
                    steps.push(name_step(parent, at, found.ino));
                    found
                }
            }
        }
    };
    let before = match found.inode {
        Some(inode) if inode.has_xattrs => rows::xattrs(session.conn(), found.ino)?,
        _ => Xattrs::default(),
    };
    let nlink = found.inode.map_or(1, |inode| inode.nlink);
    steps.push(Step::Put(Row { nlink, ctime: time, ..Row::new(found.ino, record).of(object.host) }));
    xattr_steps(found.ino, &before, record, &mut steps);
    Ok((found.ino, Change::of(steps)))
}

/// The inode for an object whose name leads to none, with that name counted.
fn first(session: &mut Session, host: &Attr) -> Result<Found> {
    if let Some(ino) = other_name(session, host)?
        && let Some(inode) = rows::find_inode(session.conn(), ino)?
    {
        return Ok(one_more(ino, inode));
    }
    Ok(Found { ino: session.new_number()?, inode: None })
}

/// An inode with another name than it has.
fn one_more(ino: i64, inode: rows::Inode) -> Found {
    Found { ino, inode: Some(rows::Inode { nlink: inode.nlink.saturating_add(1), ..inode }) }
}

/// Returns the number of the inode, too.
pub(super) fn create(session: &mut Session, site: &Site, at: &At<'_>, record: &Record) -> Result<(i64, Change)> {
    let parent = session.ensure_number(at.parent, site)?;
    let mut steps = Vec::new();
    // A stale record.
    let_go(rows::find(session.conn(), parent, at.name.to_bytes())?, &mut steps);
    let ino = session.new_number()?;
    steps.push(Step::Put(Row::new(ino, record)));
    xattr_steps(ino, &Xattrs::default(), record, &mut steps);
    steps.push(name_step(parent, at, ino));
    Ok((ino, Change { doubt: doubt(at, site, 0, true)?, steps }))
}

pub(super) fn link(session: &mut Session, site: &Site, object: &Object<'_>, to: &At<'_>, record: &Record) -> Result<Change> {
    let parent = session.ensure_number(to.parent, site)?;
    let mut steps = Vec::new();
    let_go(rows::find(session.conn(), parent, to.name.to_bytes())?, &mut steps);
    let known = match &object.place {
        Place::Named(at) => find(session, site, at)?.and_then(|(_, found)| found),
        Place::Root | Place::Nameless => None,
    };
    let found = match known.and_then(|found| found.inode.map(|inode| (found.ino, inode))) {
        Some((ino, inode)) => one_more(ino, inode),
        None => first(session, object.host)?,
    };
    let ino = found.ino;
    match found.inode {
        Some(inode) => steps.push(Step::Links { ino, nlink: inode.nlink }),
        None => {
            steps.push(Step::Put(Row::new(ino, record).of(object.host)));
            xattr_steps(ino, &Xattrs::default(), record, &mut steps);
        }
    }
    steps.push(name_step(parent, to, ino));
    Ok(Change { doubt: doubt(to, site, object.host.ino, true)?, steps })
}

pub(super) fn remove(session: &mut Session, site: &Site, at: &At<'_>, victim: Facts) -> Result<Change> {
    let Some((parent, found @ Some(_))) = find(session, site, at)? else { return Ok(Change::default()) };
    let mut steps = Vec::new();
    let_go(found, &mut steps);
    steps.push(unname_step(parent, at));
    session.forget(victim.ino);
    Ok(Change { doubt: doubt(at, site, victim.ino, false)?, steps })
}

pub(super) fn rename(session: &mut Session, site: &Site, (from, to): (&At<'_>, &At<'_>), how: &Renaming) -> Result<Change> {
    if how.replaced.is_some_and(|replaced| replaced.ino == how.moved.ino) {
        // Two names of one object: the host does nothing.
        return Ok(Change::default());
    }
    let source = find(session, site, from)?;
    let moved = source.and_then(|(_, found)| found);
    let target = match moved {
        Some(_) => {
            let parent = session.ensure_number(to.parent, site)?;
            Some((parent, rows::find(session.conn(), parent, to.name.to_bytes())?))
        }
        None => find(session, site, to)?,
    };
    let replaced = target.and_then(|(_, found)| found);
    let mut steps = Vec::new();
    if how.exchange {
        let source = match (source, replaced) {
            (None, Some(_)) => Some(session.ensure_number(from.parent, site)?),
            (source, _) => source.map(|(parent, _)| parent),
        };
        for (parent, at, now, before) in [(target.map(|(parent, _)| parent), to, moved, replaced), (source, from, replaced, moved)] {
            match (parent, now) {
                (Some(parent), Some(now)) => steps.push(name_step(parent, at, now.ino)),
                (Some(parent), None) if before.is_some() => steps.push(unname_step(parent, at)),
                _ => {}
            }
        }
    } else {
        // Should the database take the two for one, that one stays.
        let_go(replaced.filter(|replaced| moved.is_none_or(|moved| moved.ino != replaced.ino)), &mut steps);
        if let Some(replaced) = how.replaced {
            session.forget(replaced.ino);
        }
        match (target, moved) {
            (Some((parent, _)), Some(moved)) => steps.push(name_step(parent, to, moved.ino)),
            (Some((parent, Some(_))), None) => steps.push(unname_step(parent, to)),
            _ => {}
        }
        if let Some((parent, Some(_))) = source {
            steps.push(unname_step(parent, from));
        }
    }
    if steps.is_empty() {
        return Ok(Change::default());
    }
    Ok(Change { doubt: doubt(to, site, how.moved.ino, true)?, steps })
}

pub(super) fn discard(session: &mut Session, site: &Site, at: &At<'_>) -> Result<Change> {
    let Some((parent, found @ Some(_))) = find(session, site, at)? else { return Err(Errno::ENOENT.into()) };
    let mut steps = Vec::new();
    // A database that somebody edited may lead to one directory from two places.
    let is_elsewhere = match found {
        Some(Found { ino, inode: Some(rows::Inode { is_dir: true, .. }) }) => {
            rows::has_other_name(session.conn(), ino, (parent, at.name.to_bytes()))?
        }
        _ => false,
    };
    if !is_elsewhere {
        let_go(found, &mut steps);
    }
    steps.push(unname_step(parent, at));
    Ok(Change::of(steps))
}
