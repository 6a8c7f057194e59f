//! The classic lines, as files or as links.
//!
//! * A **file** is rewritten in place, since hard-linked names share it: one
//!   write, which a killed process has done or not. What an old line was
//!   longer is overwritten with LFs in that write and cut off after it. After
//!   a power failure the disk may have the bytes of a longer line and still
//!   the size of the one before, and the number at its end would be another
//!   one. So the file is made longer first, by LFs, and that is made durable.
//!   Only a record that no sync has seen yet ([`Fresh`](super::fresh)) may be
//!   torn: without an LF it is none.
//! * A **link** has the line without its LF for a target, and is replaced. Two
//!   names cannot share one that way, so an object with several has a file,
//!   also in the `shadow_link` format.

use super::Writing;
use super::stage::Stage;
use crate::host::{self, Fault, damaged, fault};
use crate::path;
use crate::record::{LINE_MAX, Record};
use externfs::{Attr, FileKind, GuestGid, GuestUid, Mode, Result};
use rustix::fs::OFlags;
use rustix::io::Errno as Host;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How new records are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Style {
    /// `shadow_fs`
    File,
    /// `shadow_link`
    Link,
}

/// The record called `name` in `dir`; `host` is the object's. None if there
/// is none.
///
/// # Errors
/// EIO for what is no record.
pub(super) fn read(style: Style, dir: BorrowedFd<'_>, name: &CStr, host: &Attr) -> Result<Option<Record>> {
    let Some(text) = read_text(style, dir, name)? else { return Ok(None) };
    if is_unwritten(&text) {
        return Ok(Some(unwritten(host.kind)));
    }
    let why = |why| damaged(format!("the record of '{}' (inode {}): {why}", path::shown(name), host.ino));
    let mut record = Record::from_line(&text, host.kind).map_err(why)?;
    if record.kind.is_device() && host.kind == record.kind {
        // The old humfsify left the node itself and got big numbers wrong.
        record.device = host.device;
    }
    Ok(Some(record))
}

/// Blocks that the host had not written yet when the power failed.
pub(super) fn is_unwritten(text: &[u8]) -> bool {
    text.iter().all(|&byte| byte == 0)
}

/// The record of what was made so shortly before a power failure that its own
/// did not reach the disk: nobody but root may come near.
fn unwritten(kind: FileKind) -> Record {
    let mode = match kind {
        FileKind::Directory => 0o700,
        FileKind::Symlink => 0o777,
        _ => 0o600,
    };
    Record::new(kind, Mode::new(mode), GuestUid(0), GuestGid(0))
}

/// What is in the record called `name` in `dir`; None if there is none.
///
/// # Errors
/// EIO for what is no record.
pub(super) fn read_text(style: Style, dir: BorrowedFd<'_>, name: &CStr) -> Result<Option<Vec<u8>>> {
    if style == Style::Link {
        match rustix::fs::readlinkat(dir, name, Vec::with_capacity(2 * LINE_MAX)) {
            Ok(text) => return Ok(Some(text.into_bytes())),
            Err(Host::NOENT) => return Ok(None),
            // No link: the object has several names, or had.
            Err(Host::INVAL) => {}
            Err(other) => return Err(fault("reading a record")(other)),
        }
    }
    let file = match host::open_file(dir, name, OFlags::RDONLY) {
        Ok(file) => file,
        Err(Host::NOENT) => return Ok(None),
        Err(host) => return Err(no_file(name, host)),
    };
    let mut text = vec![0; 2 * LINE_MAX];
    match rustix::io::pread(&file, text.as_mut_slice(), 0) {
        Ok(0) => {
            size(&file, name)?;
            Ok(Some(Vec::new()))
        }
        Ok(len) => Ok(text.get(..len).map(|text| if is_torn(text) { Vec::new() } else { text.to_vec() })),
        // The mirror of a directory that is no more.
        Err(Host::ISDIR) => Ok(None),
        Err(Host::SPIPE) => Err(no_file(name, Host::NXIO)),
        Err(other) => Err(fault("reading a record")(other)),
    }
}

/// Whether this is the beginning of a line: it was made longer, and the power
/// failed. What its last number was nobody knows.
fn is_torn(text: &[u8]) -> bool {
    text.len() < LINE_MAX && text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b' ' | b'b' | b'c' | b'p' | b's'))
}

/// Why the file `name` did not open.
fn no_file(name: &CStr, host: Host) -> externfs::Error {
    match host {
        Host::LOOP => damaged(format!("the record '{}' is a symbolic link", path::shown(name))),
        Host::NXIO => damaged(format!("the record '{}' is no regular file", path::shown(name))),
        other => fault("opening a record")(other),
    }
}

/// Size and number of the regular file that a record must be.
fn size(file: &OwnedFd, name: &CStr) -> Result<(usize, u64)> {
    let stat = rustix::fs::fstat(file).map_err(fault("looking at a record"))?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(damaged(format!("the record '{}' is no regular file", path::shown(name))));
    }
    Ok((usize::try_from(stat.st_size).unwrap_or(usize::MAX), stat.st_ino))
}

/// Makes the record `name`, which must not exist, for an object that is not
/// there yet: half of it would be seen by nobody. Returns the number of the
/// file, if it is one.
pub(super) fn make(style: Style, dir: BorrowedFd<'_>, name: &CStr, line: &str) -> Fault<Option<u64>> {
    match style {
        Style::Link => rustix::fs::symlinkat(line.trim_end(), dir, name).map(|()| None),
        Style::File => {
            let file = host::open_file(dir, name, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY)?;
            host::write_all(file.as_fd(), line.as_bytes())?;
            Ok(Some(rustix::fs::fstat(&file)?.st_ino))
        }
    }
}

/// Writes the record `name` of an object that is there, over the one before if
/// there is one; false if a directory is in the way. `shared`: the object has
/// other names, which share the record.
pub(super) fn write(style: Style, writing: &Writing, dir: BorrowedFd<'_>, name: &CStr, line: &str, shared: bool) -> Result<bool> {
    let stage = &writing.stage;
    let placed = |put| match put {
        Err(Host::ISDIR) => Ok(false),
        Err(other) => Err(fault("replacing a record")(other)),
        Ok(()) => Ok(true),
    };
    let put_link = || placed(stage.put_link(line.trim_end().as_bytes(), dir, name));
    if style == Style::Link && !shared {
        return put_link();
    }
    match host::open_file(dir, name, OFlags::WRONLY) {
        Ok(file) => rewrite(writing, &file, name, line).map(|()| true),
        Err(Host::NOENT) => placed(stage.put_file(line.as_bytes(), dir, name)),
        Err(Host::ISDIR) => Ok(false),
        // Its second name was not given by us.
        Err(Host::LOOP) if style == Style::Link => put_link(),
        Err(host) => Err(no_file(name, host)),
    }
}

/// In place.
fn rewrite(writing: &Writing, file: &OwnedFd, name: &CStr, line: &str) -> Result<()> {
    let failed = fault("rewriting a record");
    let (before, number) = size(file, name)?;
    if before > 0 && before < line.len() && !writing.fresh.has(number) {
        grow(file, before, line.len()).map_err(&failed)?;
    }
    host::write_all(file.as_fd(), &covering(line, before)).map_err(&failed)?;
    if before > line.len() {
        rustix::fs::ftruncate(file, line.len() as u64).map_err(&failed)?;
    }
    Ok(())
}

/// Makes it longer without changing what it says, for good.
fn grow(file: &OwnedFd, before: usize, size: usize) -> Fault<()> {
    let fill = vec![b'\n'; size.saturating_sub(before)];
    let mut done = 0;
    while let Some(rest) = fill.get(done..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pwrite(file, rest, (before + done) as u64) {
            Ok(0) => return Err(Host::IO),
            Ok(count) => done += count,
            Err(Host::INTR) => {}
            Err(other) => return Err(other),
        }
    }
    rustix::fs::fdatasync(file)
}

/// `line`, and LFs over what an old record of `before` bytes had behind it: to
/// the original's reader these are blanks, a leftover digit is a field.
fn covering(line: &str, before: usize) -> Vec<u8> {
    let mut bytes = line.as_bytes().to_vec();
    bytes.resize(bytes.len().max(before.min(2 * LINE_MAX)), b'\n');
    bytes
}

/// Makes sure that names can share the record `name`, if there is one.
pub(super) fn make_shareable(style: Style, stage: &Stage, dir: BorrowedFd<'_>, name: &CStr) -> Fault<()> {
    if style == Style::File {
        return Ok(());
    }
    match rustix::fs::readlinkat(dir, name, Vec::with_capacity(2 * LINE_MAX)) {
        Ok(text) => {
            let mut line = text.into_bytes();
            line.push(b'\n');
            stage.put_durable_file(&line, dir, name)
        }
        Err(Host::INVAL | Host::NOENT) => Ok(()),
        Err(other) => Err(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_longer_record_shows_behind_a_shorter_one() {
        assert_eq!(covering("384 1 2\n", 0), b"384 1 2\n");
        assert_eq!(covering("384 1 2\n", 8), b"384 1 2\n");
        assert_eq!(covering("384 1 2\n", 11), b"384 1 2\n\n\n\n");
        assert_eq!(covering("384 1 2\n", usize::MAX).len(), 2 * LINE_MAX);
    }
}
