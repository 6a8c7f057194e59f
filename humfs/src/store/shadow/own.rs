//! Where a directory's own record lies within its mirror.
//!
//! It is called `metadata`, unless the guest has a directory of that name in
//! there. Then it has any free name and is found as the only thing that is no
//! directory: the book's rule, so that no name is forbidden to the guest.

use crate::host::{self, Fault, damaged, fault};
use externfs::Result;
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno as Host;
use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;

/// What it is usually called.
pub(super) const USUAL: &CStr = c"metadata";

/// What it is usually called while `metadata` is taken.
const SECOND: &CStr = c"metadata.1";

/// The names that it is given, in this order; there are more than a directory
/// can hold.
fn candidates() -> impl Iterator<Item = Cow<'static, CStr>> {
    let numbered = (2u64..).filter_map(|number| CString::new(format!("metadata.{number}")).ok().map(Cow::Owned));
    [Cow::Borrowed(USUAL), Cow::Borrowed(SECOND)].into_iter().chain(numbered)
}

/// What `name` is; None if there is nothing.
fn type_of(dir: BorrowedFd<'_>, name: &CStr) -> Fault<Option<FileType>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Host::NOENT) => Ok(None),
        Err(other) => Err(other),
    }
}

/// The name of the record in `dir`; None if there is none.
///
/// # Errors
/// EIO if there is more than one that could be it.
pub(super) fn find(dir: BorrowedFd<'_>) -> Result<Option<Cow<'static, CStr>>> {
    let failed = fault("looking for a directory's record");
    // Listing a directory with a million names for each look would be slow.
    for name in [USUAL, SECOND] {
        match type_of(dir, name).map_err(&failed)? {
            None | Some(FileType::Directory) => {}
            Some(_) => return Ok(Some(Cow::Borrowed(name))),
        }
    }
    let mut found = None;
    for (name, mut kind) in host::names(dir).map_err(&failed)? {
        if kind == FileType::Unknown {
            kind = type_of(dir, &name).map_err(&failed)?.unwrap_or(FileType::Directory);
        }
        if kind != FileType::Directory && found.replace(name).is_some() {
            return Err(damaged("a metadata directory has two records of its own"));
        }
    }
    Ok(found.map(Cow::Owned))
}

/// A name for a first record in `dir`.
pub(super) fn free(dir: BorrowedFd<'_>) -> Result<Cow<'static, CStr>> {
    for name in candidates() {
        if type_of(dir, &name).map_err(fault("looking for a free name"))?.is_none() {
            return Ok(name);
        }
    }
    Err(damaged("a metadata directory has no free name"))
}

/// Gives the record in `dir` another name if it is called `name`, in one step:
/// it has one at every moment. False if what is called so is a directory.
pub(super) fn step_aside(dir: BorrowedFd<'_>, name: &CStr) -> Fault<bool> {
    if matches!(type_of(dir, name)?, None | Some(FileType::Directory)) {
        return Ok(false);
    }
    for other in candidates() {
        match host::rename_new(dir, name, dir, &other) {
            Err(Host::EXIST) => {}
            answer => return answer.map(|()| true),
        }
    }
    Err(Host::EXIST)
}
