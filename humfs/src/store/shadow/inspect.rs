//! What `check` and `explain` ask of records.

use super::mirror::Mirror;
use super::{ShadowStore, lines, own};
use crate::host::{self, fault};
use crate::path;
use crate::record::Record;
use crate::store::{At, Object, Place};
use externfs::{Attr, FileKind, Result};
use rustix::fs::FileType;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

impl ShadowStore {
    /// The record that was there goes first: until the new one is written the
    /// object is a stranger's, for whom the tree has a policy.
    pub(super) fn reset_record(&self, object: &Object<'_>, record: &Record) -> Result<()> {
        self.writing()?;
        for pair in self.pairs() {
            match &object.place {
                Place::Nameless => {}
                Place::Root => drop_own(pair.dirs.root().as_fd())?,
                Place::Named(at) if object.host.kind == FileKind::Directory => {
                    let Some(above) = pair.dirs.find(at.parent)? else { continue };
                    if let Some(dir) = pair.dirs.child(above.as_fd(), at.name, false)? {
                        drop_own(dir.as_fd())?;
                    }
                }
                Place::Named(at) => {
                    if let Some(dir) = pair.files.find(at.parent)? {
                        pair.files.purge(dir.as_fd(), at.name)?;
                    }
                }
            }
        }
        self.save_record(object, record)
    }

    /// The number of the record's file; 0 for none.
    pub(super) fn record_number(&self, at: &At<'_>) -> Result<u64> {
        let Some(dir) = self.lines.files.find(at.parent)? else { return Ok(0) };
        self.lines.files.number(dir.as_fd(), at.name)
    }

    pub(super) fn is_record_unwritten(&self, at: Option<&At<'_>>, host: &Attr) -> Result<bool> {
        let is_dir = host.kind == FileKind::Directory;
        let found = if is_dir { self.own_record(at)? } else { self.file_record(at)? };
        let Some((dir, name)) = found else { return Ok(false) };
        let text = lines::read_text(self.style, dir.as_fd(), &name)?;
        Ok(text.is_some_and(|text| lines::is_unwritten(&text)))
    }

    /// Where the record is, and its text.
    pub(super) fn describe_record(&self, at: Option<&At<'_>>) -> String {
        let below = at.and_then(|at| path::of(at, |inode| self.is_root(inode))).unwrap_or_default();
        let is_dir = at.is_none_or(|at| host::stat_at(at.dir, at.name).is_ok_and(|host| host.kind == FileKind::Directory));
        let shown = below.escape_ascii().to_string();
        let found = if is_dir { self.own_record(at) } else { self.file_record(at) };
        let place = |name: &CStr| match (is_dir, shown.is_empty()) {
            (false, _) => format!("file_metadata/{shown}"),
            (true, true) => format!("dir_metadata/{}", path::shown(name)),
            (true, false) => format!("dir_metadata/{shown}/{}", path::shown(name)),
        };
        match found {
            Ok(Some((dir, name))) => match lines::read_text(self.style, dir.as_fd(), &name) {
                Ok(Some(text)) => format!("{}: '{}'", place(&name), text.trim_ascii_end().escape_ascii()),
                Ok(None) => format!("{}: there is none", place(&name)),
                Err(error) => format!("{}: {error}", place(&name)),
            },
            Ok(None) => format!("{}: there is none", place(own::USUAL)),
            Err(error) => format!("{}: {error}", place(own::USUAL)),
        }
    }

    fn file_record(&self, at: Option<&At<'_>>) -> Result<Option<(Arc<OwnedFd>, CString)>> {
        let Some(at) = at else { return Ok(None) };
        Ok(self.lines.files.find(at.parent)?.map(|dir| (dir, at.name.to_owned())))
    }

    fn own_record(&self, at: Option<&At<'_>>) -> Result<Option<(Arc<OwnedFd>, CString)>> {
        let dirs: &Mirror = &self.lines.dirs;
        let dir = match at {
            None => Some(dirs.root().clone()),
            Some(at) => match dirs.find(at.parent)? {
                Some(above) => dirs.child(above.as_fd(), at.name, false)?.map(Arc::new),
                None => None,
            },
        };
        let Some(dir) = dir else { return Ok(None) };
        let name = own::find(dir.as_fd())?;
        Ok(name.map(|name| (dir, name.into_owned())))
    }
}

/// Removes everything in a mirror that could be the record of its directory.
fn drop_own(dir: BorrowedFd<'_>) -> Result<()> {
    let failed = fault("removing a directory's record");
    for (name, mut kind) in host::names(dir).map_err(&failed)? {
        if kind == FileType::Unknown {
            let stat = rustix::fs::statat(dir, &name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).map_err(&failed)?;
            kind = FileType::from_raw_mode(stat.st_mode);
        }
        if kind != FileType::Directory {
            host::remove_file(dir, &name).map_err(&failed)?;
        }
    }
    Ok(())
}
