//! Names that come and go.

use super::attributes::{self, Cell};
use super::lines;
use super::mirror::{Mirror, Pair};
use super::{ShadowStore, awaited, own};
use crate::host::{self, damaged, fault};
use crate::path;
use crate::record::Record;
use crate::store::{At, Facts, Object, Place};
use externfs::{Errno, FileKind, Result};
use rustix::fs::{AtFlags, FileType, OFlags};
use rustix::io::Errno as Host;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// What got another name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Carried {
    /// A record.
    Record,
    /// There was none.
    Nothing,
}

impl ShadowStore {
    pub(super) fn create_object(&self, at: &At<'_>, record: &Record) -> Result<OwnedFd> {
        self.writing()?;
        // The record of what is there must not be touched.
        must_be_free(at)?;
        let is_dir = record.kind == FileKind::Directory;
        let put = if is_dir { self.put_dir_records(at, record) } else { self.put_file_records(at, record) };
        put.and_then(|()| appear(at, record)).inspect_err(|_| self.drop_records(at, is_dir))
    }

    /// The records of a directory, over whatever is left of another one.
    fn put_dir_records(&self, at: &At<'_>, record: &Record) -> Result<()> {
        make_empty(&self.lines.files, at)?;
        let above = make_empty(&self.lines.dirs, at)?;
        let dir = host::child_dir(above.as_fd(), at.name).map_err(fault("opening a metadata directory"))?;
        let made = self.make_line(dir.as_fd(), own::USUAL, &record.to_line(false)).and_then(|made| match made {
            Some(_) => self.await_sync(awaited::number_of(dir.as_fd())?, above.as_fd()),
            None => Ok(()),
        });
        made.map_err(fault("making a record"))?;
        if record.has_xattrs() {
            let pair = self.attributes()?;
            purge(&pair.files, at)?;
            let dir = make_empty(&pair.dirs, at)?;
            let dir = host::child_dir(dir.as_fd(), at.name).map_err(fault("opening a metadata directory"))?;
            put_cell(&self.writing()?.stage, dir.as_fd(), own::USUAL, record)
        } else {
            self.attributes.get().map_or(Ok(()), |pair| purge(&pair.files, at).and_then(|()| purge(&pair.dirs, at)))
        }
    }

    /// Returns the number of the record's file, if it is one.
    fn make_line(&self, dir: BorrowedFd<'_>, name: &CStr, line: &str) -> host::Fault<Option<u64>> {
        let made = lines::make(self.style, dir, name, line)?;
        if let (Some(number), Some(writing)) = (made, &self.writing) {
            writing.fresh.made(number);
        }
        Ok(made)
    }

    /// What has this number and lies in `dir` is durable when the guest syncs the
    /// directory, at the latest.
    fn await_sync(&self, number: u64, dir: BorrowedFd<'_>) -> host::Fault<()> {
        let dir = awaited::number_of(dir)?;
        self.writing.iter().for_each(|writing| writing.awaited.made(number, dir));
        Ok(())
    }

    /// The records of what is no directory.
    fn put_file_records(&self, at: &At<'_>, record: &Record) -> Result<()> {
        let files = &self.lines.files;
        let dir = files.make(at.parent)?;
        let line = record.to_line(false);
        let make = || match self.make_line(dir.as_fd(), at.name, &line)? {
            // What is a regular file the guest can sync by itself.
            Some(number) if record.kind != FileKind::Regular => self.await_sync(number, dir.as_fd()),
            _ => Ok(()),
        };
        over_stale(files, at.name, dir.as_fd(), make, "making a record")?;
        if record.has_xattrs() {
            let files = &self.attributes()?.files;
            let dir = files.make(at.parent)?;
            files.purge(dir.as_fd(), at.name)?;
            put_cell(&self.writing()?.stage, dir.as_fd(), at.name, record)
        } else {
            self.attributes.get().map_or(Ok(()), |pair| purge(&pair.files, at))
        }
    }

    /// Takes away what is kept for a name that leads nowhere. What cannot be
    /// taken away is invisible, and `check` finds it.
    pub(super) fn drop_records(&self, at: &At<'_>, is_dir: bool) {
        for pair in self.pairs() {
            let dropped = purge(&pair.files, at).and_then(|()| if is_dir { purge(&pair.dirs, at) } else { Ok(()) });
            // The directory may be gone, and all of this with it.
            if let Err(error) = dropped
                && error.errno() != Errno::ENOENT
            {
                tracing::warn!(%error, name = path::shown(at.name), "a record is left over");
            }
        }
    }

    pub(super) fn link_object(&self, object: &Object<'_>, to: &At<'_>, record: &Record) -> Result<()> {
        self.writing()?;
        if object.host.kind == FileKind::Directory {
            return Err(Errno::EPERM.into());
        }
        must_be_free(to)?;
        let linked = match &object.place {
            Place::Named(from) => self.share_records(from, to, object, record),
            Place::Root | Place::Nameless => self.put_file_records(to, record),
        };
        let linked = linked.and_then(|()| object.hold.link(to).map_err(fault("linking a file")));
        linked.inspect_err(|_| self.drop_records(to, false))
    }

    /// Gives the records of `from` the name `to` as well, for good.
    fn share_records(&self, from: &At<'_>, to: &At<'_>, object: &Object<'_>, record: &Record) -> Result<()> {
        let stage = &self.writing()?.stage;
        let pair = self.attributes()?;
        attributes::make_shareable(stage, pair.files.make(from.parent)?.as_fd(), from.name)?;
        let dir = self.lines.files.make(from.parent)?;
        lines::make_shareable(self.style, stage, dir.as_fd(), from.name).map_err(fault("making a record shareable"))?;
        let refused = fault("linking a record");
        if self.carry(&self.lines, from, to)?.map_err(&refused)? == Carried::Nothing {
            // It was a stranger's until now.
            let line = record.to_line(object.host.kind == record.kind);
            stage.put_file(line.as_bytes(), dir.as_fd(), from.name).map_err(fault("making a record"))?;
            self.carry(&self.lines, from, to)?.map_err(&refused)?;
        }
        self.carry(pair, from, to)?.map_err(refused)?;
        Ok(())
    }

    /// Gives what `pair` keeps of `from`, which is no directory, the name `to`
    /// as well. What was left at `to` goes. The inner error is the host's
    /// refusal: a file has only so many names, and not every host gives links
    /// second ones.
    pub(super) fn carry(&self, pair: &Pair, from: &At<'_>, to: &At<'_>) -> Result<host::Fault<Carried>> {
        let files = &pair.files;
        if let Some(from_dir) = files.find(from.parent)? {
            let to_dir = files.make(to.parent)?;
            for _ in 0..8 {
                match rustix::fs::linkat(&from_dir, from.name, &to_dir, to.name, AtFlags::empty()) {
                    Err(Host::EXIST) => files.purge(to_dir.as_fd(), to.name)?,
                    Err(Host::NOENT) => break,
                    answer => {
                        self.note_link(to_dir.as_fd(), to.name);
                        return Ok(answer.map(|()| Carried::Record));
                    }
                }
            }
        }
        purge(files, to)?;
        Ok(Ok(Carried::Nothing))
    }

    pub(super) fn remove_object(&self, at: &At<'_>, victim: Facts) -> Result<()> {
        self.writing()?;
        let is_dir = victim.kind == FileKind::Directory;
        let flags = if is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(at.dir, at.name, flags).map_err(fault("removing a name"))?;
        self.drop_records(at, is_dir);
        if is_dir {
            self.forget(at, victim);
        }
        Ok(())
    }

    /// Forgets the mirrors of a directory that is no longer there.
    pub(super) fn forget(&self, at: &At<'_>, gone: Facts) {
        let volume = at.parent.host_key().volume;
        self.mirrors().for_each(|mirror| mirror.forget(volume, gone.ino));
    }

    pub(super) fn discard_records(&self, at: &At<'_>) -> Result<()> {
        self.writing()?;
        must_be_free(at)?;
        self.mirrors().try_for_each(|mirror| purge(mirror, at))
    }
}

/// EEXIST if there is an object called `at`.
fn must_be_free(at: &At<'_>) -> Result<()> {
    match rustix::fs::statat(at.dir, at.name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Host::NOENT) => Ok(()),
        Ok(_) => Err(Errno::EEXIST.into()),
        Err(other) => Err(fault("looking for a name")(other)),
    }
}

/// Makes the object whose record is there already.
fn appear(at: &At<'_>, record: &Record) -> Result<OwnedFd> {
    let failed = fault("creating a file");
    let made = match record.kind {
        FileKind::Regular => return host::open_file(at.dir, at.name, OFlags::CREATE | OFlags::EXCL | OFlags::RDWR).map_err(failed),
        FileKind::Directory => rustix::fs::mkdirat(at.dir, at.name, host::DIR_MODE),
        FileKind::Symlink => rustix::fs::symlinkat(record.target.as_deref().unwrap_or_default(), at.dir, at.name),
        FileKind::BlockDevice | FileKind::CharDevice | FileKind::Fifo | FileKind::Socket => {
            rustix::fs::mknodat(at.dir, at.name, FileType::RegularFile, host::FILE_MODE, 0)
        }
    };
    made.map_err(&failed)?;
    host::child(at.dir, at.name).map_err(|error| {
        let flags = if record.kind == FileKind::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        let _ = rustix::fs::unlinkat(at.dir, at.name, flags);
        failed(error)
    })
}

/// Makes the mirror of the directory `at`, empty; returns the one above.
fn make_empty(mirror: &Mirror, at: &At<'_>) -> Result<Arc<OwnedFd>> {
    let above = mirror.make(at.parent)?;
    mirror.make_empty(above.as_fd(), at.name)?;
    Ok(above)
}

/// Takes away what `mirror` keeps of `at`.
fn purge(mirror: &Mirror, at: &At<'_>) -> Result<()> {
    match mirror.find(at.parent)? {
        Some(dir) => mirror.purge(dir.as_fd(), at.name),
        None => Ok(()),
    }
}

/// Runs `make`, which makes `name` in `dir`; what is there already is stale.
fn over_stale(mirror: &Mirror, name: &CStr, dir: BorrowedFd<'_>, make: impl Fn() -> host::Fault<()>, what: &'static str) -> Result<()> {
    for _ in 0..8 {
        match make() {
            Err(Host::EXIST) => mirror.purge(dir, name)?,
            answer => return answer.map_err(fault(what)),
        }
    }
    Err(damaged(format!("the record of '{}' comes and goes", path::shown(name))))
}

/// The attributes of what is new.
fn put_cell(stage: &super::stage::Stage, dir: BorrowedFd<'_>, name: &CStr, record: &Record) -> Result<()> {
    match attributes::write(stage, dir, name, &Cell::new(record, None), false)? {
        true => Ok(()),
        false => Err(damaged(format!("the attributes of '{}' come and go", path::shown(name)))),
    }
}
