//! Records of objects that are there: loaded, saved, made durable.

use super::attributes::{self, Cell};
use super::lines;
use super::mirror::{Mirror, Pair};
use super::{ShadowStore, awaited, own};
use crate::host::{self, damaged, fault};
use crate::record::Record;
use crate::store::{Loaded, Object, Place};
use externfs::{Attr, Errno, Error, FileKind, Result};
use rustix::fs::OFlags;
use rustix::io::Errno as Host;
use std::borrow::Cow;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, RwLockReadGuard};

/// The directory of a mirror in which one object's record is kept.
pub(super) struct Home<'a> {
    dir: Arc<OwnedFd>,
    /// None: it is the directory's own.
    name: Option<&'a CStr>,
}

impl<'a> Home<'a> {
    /// In `pair`, made if need be; None if it is not there, or for what has no
    /// name.
    fn find(pair: &Pair, place: &Place<'a>, kind: FileKind, make: bool) -> Result<Option<Home<'a>>> {
        match place {
            Place::Nameless => Ok(None),
            Place::Root => Ok(Some(Home { dir: pair.dirs.root().clone(), name: None })),
            Place::Named(at) if kind == FileKind::Directory => {
                let Some(above) = pair.dirs.walk(at.parent, make)? else { return Ok(None) };
                let dir = pair.dirs.child(above.as_fd(), at.name, make)?;
                Ok(dir.map(|dir| Home { dir: Arc::new(dir), name: None }))
            }
            Place::Named(at) => Ok(pair.files.walk(at.parent, make)?.map(|dir| Home { dir, name: Some(at.name) })),
        }
    }

    /// Keeps the name of a directory's own record from changing.
    fn hold<'p>(&self, pair: &'p Pair) -> Option<RwLockReadGuard<'p, ()>> {
        self.name.is_none().then(|| pair.dirs.hold_names())
    }

    /// Where the record is, if there may be one.
    fn record(&self) -> Result<Option<(BorrowedFd<'_>, Cow<'a, CStr>)>> {
        let name = match self.name {
            Some(name) => Some(Cow::Borrowed(name)),
            None => own::find(self.dir.as_fd())?,
        };
        Ok(name.map(|name| (self.dir.as_fd(), name)))
    }

    /// Where the record is or shall be. Runs `write` there until that is true:
    /// false means that a directory is in the way, or appeared there.
    pub(super) fn write(&self, mut write: impl FnMut(BorrowedFd<'_>, &CStr) -> Result<bool>) -> Result<()> {
        for _ in 0..8 {
            let (dir, name) = match self.record()? {
                Some(found) => found,
                None => (self.dir.as_fd(), own::free(self.dir.as_fd())?),
            };
            if write(dir, &name)? {
                return Ok(());
            }
            if self.name.is_some() {
                // The mirror of a directory that is no more.
                host::remove_tree(dir, &name).map_err(fault("removing a stale record"))?;
            }
        }
        Err(damaged("a record comes and goes"))
    }
}

impl ShadowStore {
    pub(super) fn load_record(&self, place: &Place<'_>, host: &Attr) -> Result<Loaded> {
        let Some(home) = Home::find(&self.lines, place, host.kind, false)? else { return Ok(Loaded::Absent) };
        let attributes = self.attributes.get();
        let attributes = match attributes {
            Some(pair) => Home::find(pair, place, host.kind, false)?.map(|home| (pair, home)),
            None => None,
        };
        let held = home.hold(&self.lines);
        let Some(mut record) = self.line(&home, host)? else { return Ok(Loaded::Absent) };
        drop(held);
        if let Some((pair, home)) = attributes {
            let _held = home.hold(pair);
            if let Some(cell) = cell(&home)? {
                record.xattrs = cell.for_line(&record).clone();
            }
        }
        Ok(Loaded::Record(record))
    }

    fn line(&self, home: &Home<'_>, host: &Attr) -> Result<Option<Record>> {
        let Some((dir, name)) = home.record()? else { return Ok(None) };
        lines::read(self.style, dir, &name, host)
    }

    pub(super) fn save_record(&self, object: &Object<'_>, record: &Record) -> Result<()> {
        self.writing()?;
        let kind = object.host.kind;
        if let Some(home) = Home::find(&self.lines, &object.place, kind, true)? {
            let cut = self.save_attributes(object, record, &home)?;
            self.save_line(object.host, record, &home)?;
            if let Some((pair, home)) = cut {
                let _held = home.hold(pair);
                if let Some((dir, name)) = home.record()? {
                    host::remove_file(dir, &name).map_err(fault("removing attributes"))?;
                }
            }
        }
        object.hold.touch_ctime().map_err(fault("moving the ctime of a file"))
    }

    /// Writes the attributes for the line that `record` will have. Those that
    /// say that there are none are returned, to be taken away after that.
    fn save_attributes<'a>(&self, object: &Object<'a>, record: &Record, line: &Home<'_>) -> Result<Option<(&Pair, Home<'a>)>> {
        let wanted = record.has_xattrs();
        let pair = match self.attributes.get() {
            Some(pair) => pair,
            None if wanted => self.attributes()?,
            None => return Ok(None),
        };
        let Some(home) = Home::find(pair, &object.place, object.host.kind, wanted)? else { return Ok(None) };
        let before = {
            let _held = line.hold(&self.lines);
            self.line(line, object.host)?
        };
        let held = home.hold(pair);
        let known = match cell(&home)? {
            None if !wanted => return Ok(None),
            known => known,
        };
        let shared = object.host.nlink > 1 && object.host.kind != FileKind::Directory;
        if shared && known.is_none() {
            refuse_unshared(line, &home)?;
        }
        let before = before.map(|before| with_attributes_of(before, known.as_ref()));
        let unchanged = known.as_ref().is_some_and(Cell::is_settled) && before.as_ref().is_some_and(|b| b.xattrs == record.xattrs);
        if !unchanged {
            let cell = Cell::new(record, before.as_ref());
            let stage = &self.writing()?.stage;
            home.write(|dir, name| attributes::write(stage, dir, name, &cell, shared))?;
        }
        drop(held);
        Ok((!wanted && !shared).then_some((pair, home)))
    }

    fn save_line(&self, host: &Attr, record: &Record, home: &Home<'_>) -> Result<()> {
        let line = record.to_line(host.kind == record.kind);
        let shared = host.nlink > 1 && host.kind != FileKind::Directory;
        let writing = self.writing()?;
        let _held = home.hold(&self.lines);
        home.write(|dir, name| lines::write(self.style, writing, dir, name, &line, shared))
    }

    pub(super) fn sync_records_of(&self, object: &Object<'_>) -> Result<()> {
        for pair in self.pairs() {
            let Some(home) = Home::find(pair, &object.place, object.host.kind, false)? else { continue };
            let _held = home.hold(pair);
            if let Some((dir, name)) = home.record()? {
                let number = sync(dir, &name)?;
                if let (Some(number), Some(writing)) = (number, &self.writing) {
                    writing.fresh.sync(number);
                    // Of a directory its mirror is known, not the record in it.
                    let known = if home.name.is_some() { Ok(number) } else { awaited::number_of(home.dir.as_fd()) };
                    writing.awaited.synced(known.map_err(fault("looking at a record"))?);
                }
            }
        }
        Ok(())
    }

    pub(super) fn list_recorded(&self, dir: &Arc<hostfs::Inode>, emit: &mut dyn FnMut(&CStr)) -> Result<()> {
        let failed = fault("listing records");
        let mut are_two = false;
        // Most directories are in two of these; each is told once.
        let mut told: Vec<(&Mirror, Arc<OwnedFd>)> = Vec::new();
        for mirror in self.mirrors() {
            let Some(found) = mirror.find(dir)? else { continue };
            let mut own = 0;
            for entry in rustix::fs::Dir::new(host::open_listing(found.as_fd()).map_err(&failed)?).map_err(&failed)? {
                let entry = entry.map_err(&failed)?;
                let name = entry.file_name();
                if name == c"." || name == c".." {
                    continue;
                }
                if !mirror.keeps(found.as_fd(), &entry)? {
                    own += 1;
                    continue;
                }
                let mut is_told = false;
                for (mirror, dir) in &told {
                    is_told = is_told || mirror.number(dir.as_fd(), name)? != 0;
                }
                if !is_told {
                    emit(name);
                }
            }
            are_two = are_two || own > 1;
            told.push((mirror, found));
        }
        if are_two { Err(damaged("a metadata directory has two records of its own")) } else { Ok(()) }
    }
}

/// The names of an old tree's file share a line, and nothing that attributes
/// could be put into. Not all of these names are known, so one would have the
/// attributes and another not.
fn refuse_unshared(line: &Home<'_>, home: &Home<'_>) -> Result<()> {
    let Some(((dir, name), (attribute_dir, attribute_name))) = line.record()?.zip(home.record()?) else { return Ok(()) };
    let is_shared = host::stat_at(dir, &name).is_ok_and(|line| line.nlink > 1);
    if is_shared && !attributes::exist(attribute_dir, &attribute_name)? {
        return Err(Error::because(Errno::EOPNOTSUPP, "the names of this file were made by a program that knows no attributes"));
    }
    Ok(())
}

fn cell(home: &Home<'_>) -> Result<Option<Cell>> {
    let Some((dir, name)) = home.record()? else { return Ok(None) };
    attributes::read(dir, &name)
}

fn with_attributes_of(mut record: Record, cell: Option<&Cell>) -> Record {
    if let Some(cell) = cell {
        record.xattrs = cell.for_line(&record).clone();
    }
    record
}

/// Makes one record durable, and returns the number of its file. A link is
/// whole as soon as it has its name.
pub(super) fn sync(dir: BorrowedFd<'_>, name: &CStr) -> Result<Option<u64>> {
    let failed = fault("fsync of a record");
    let (file, is_file) = match host::open_file(dir, name, OFlags::RDONLY) {
        Ok(file) => (file, true),
        Err(Host::LOOP) => (host::open_listing(dir).map_err(&failed)?, false),
        Err(Host::NOENT) => return Ok(None),
        Err(other) => return Err(failed(other)),
    };
    rustix::fs::fsync(&file).map_err(&failed)?;
    if is_file { rustix::fs::fstat(&file).map(|stat| Some(stat.st_ino)).map_err(failed) } else { Ok(None) }
}
