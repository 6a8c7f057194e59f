//! Rows about single files: names, attributes, small contents.

use super::cold::drop_caches;
use super::files::{BLOCK, Files, names};
use super::{Place, Sample};
use crate::fault::{Naming, Result};
use rustix::fs::{
    AtFlags, Mode, OFlags, StatxFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, linkat, openat, renameat, statat, statx,
    utimensat,
};
use rustix::io::Errno;
use std::path::PathBuf;

const LOOK: AtFlags = AtFlags::SYMLINK_NOFOLLOW;

/// Made through the target, so that its caches know them.
fn present(place: &Place<'_>) -> Result<Files> {
    Files::present(&place.scratch, "f", place.sizes.files)
}

pub(super) fn create_4k(place: &Place<'_>) -> Result<Sample> {
    let files = Files::absent(&place.scratch, "f", place.sizes.files)?;
    place.time(files.count(), || files.create(&BLOCK))
}

pub(super) fn create_empty(place: &Place<'_>) -> Result<Sample> {
    let files = Files::absent(&place.scratch, "f", place.sizes.files)?;
    place.time(files.count(), || files.create(b""))
}

pub(super) fn stat_warm(place: &Place<'_>) -> Result<Sample> {
    let files = present(place)?;
    let stat = || files.each(|directory, name| statat(directory, name, LOOK));
    stat()?;
    let passes = place.sizes.passes * 4;
    place.time(files.count() * u64::from(passes), || (0..passes).try_for_each(|_| stat()))
}

pub(super) fn stat_sync(place: &Place<'_>) -> Result<Sample> {
    let files = present(place)?;
    let passes = place.sizes.passes;
    let flags = LOOK | AtFlags::STATX_FORCE_SYNC;
    let stat = || files.each(|directory, name| statx(directory, name, flags, StatxFlags::BASIC_STATS));
    stat()?;
    place.time(files.count() * u64::from(passes), || (0..passes).try_for_each(|_| stat()))
}

pub(super) fn stat_missing(place: &Place<'_>) -> Result<Sample> {
    let files = Files::absent(&place.scratch, "none", place.sizes.files)?;
    let stat = || {
        files.each(|directory, name| match statat(directory, name, LOOK) {
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
            Ok(_) => Err(Errno::EXIST),
        })
    };
    stat()?;
    let passes = place.sizes.passes * 4;
    place.time(files.count() * u64::from(passes), || (0..passes).try_for_each(|_| stat()))
}

pub(super) fn stat_cold(place: &Place<'_>) -> Result<Sample> {
    let files = present(place)?;
    drop_caches(place.root)?;
    place.time(files.count(), || files.each(|directory, name| statat(directory, name, LOOK)))
}

pub(super) fn open_read_close(place: &Place<'_>) -> Result<Sample> {
    let files = present(place)?;
    let mut buffer = [0; BLOCK.len()];
    let mut pass = || {
        files.each(|directory, name| {
            let file = openat(directory, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            match rustix::io::read(file, &mut buffer)? {
                length if length == BLOCK.len() => Ok(()),
                _ => Err(Errno::IO),
            }
        })
    };
    pass()?;
    let passes = place.sizes.passes;
    place.time(files.count() * u64::from(passes), || (0..passes).try_for_each(|_| pass()))
}

pub(super) fn append_close(place: &Place<'_>) -> Result<Sample> {
    let files = present(place)?;
    place.time(files.count(), || {
        files.each(|directory, name| {
            let file = openat(directory, name, OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC, Mode::empty())?;
            rustix::io::write(file, &BLOCK[..100])
        })
    })
}

pub(super) fn chmod(place: &Place<'_>) -> Result<Sample> {
    let files = present(place)?;
    place.time(files.count() * 2, || {
        files.each(|directory, name| chmodat(directory, name, Mode::from_raw_mode(0o600), AtFlags::empty()))?;
        files.each(|directory, name| chmodat(directory, name, Mode::from_raw_mode(0o640), AtFlags::empty()))
    })
}

pub(super) fn chown(place: &Place<'_>) -> Result<Sample> {
    let files = present(place)?;
    let give = |uid| files.each(move |directory, name| chownat(directory, name, Some(Uid::from_raw(uid)), None, LOOK));
    place.time(files.count() * 2, || give(1234).and_then(|()| give(1235)))
}

pub(super) fn utimens(place: &Place<'_>) -> Result<Sample> {
    let files = present(place)?;
    let set = |tv_sec| {
        let time = Timespec { tv_sec, tv_nsec: 123_456_789 };
        let times = Timestamps { last_access: time, last_modification: time };
        files.each(move |directory, name| utimensat(directory, name, &times, LOOK))
    };
    place.time(files.count() * 2, || set(1_000_000_000).and_then(|()| set(1_100_000_000)))
}

/// The xattr calls take no directory descriptor before kernel 6.13.
fn paths(place: &Place<'_>, files: &Files) -> Vec<PathBuf> {
    files.names.iter().map(|name| place.scratch.join(name.to_string_lossy().as_ref())).collect()
}

fn set_each(paths: &[PathBuf]) -> Result<()> {
    paths
        .iter()
        .try_for_each(|path| rustix::fs::lsetxattr(path, "user.bench", b"sixteen bytes ok", XattrFlags::empty()).naming(path.display()))
}

pub(super) fn setxattr(place: &Place<'_>) -> Result<Sample> {
    let paths = paths(place, &present(place)?);
    place.time(paths.len() as u64, || set_each(&paths))
}

pub(super) fn getxattr(place: &Place<'_>) -> Result<Sample> {
    let paths = paths(place, &present(place)?);
    set_each(&paths)?;
    let mut buffer = [0_u8; 64];
    let passes = place.sizes.passes;
    place.time(paths.len() as u64 * u64::from(passes), || {
        (0..passes)
            .flat_map(|_| &paths)
            .try_for_each(|path| rustix::fs::lgetxattr(path, "user.bench", &mut buffer).map(drop).naming(path.display()))
    })
}

pub(super) fn rename_same_dir(place: &Place<'_>) -> Result<Sample> {
    let files = present(place)?;
    let others = names("r", place.sizes.files)?;
    place.time(files.count(), || {
        let mut to = others.iter();
        files.each(|directory, name| to.next().map_or(Ok(()), |to| renameat(directory, name, directory, to)))
    })
}

pub(super) fn link(place: &Place<'_>) -> Result<Sample> {
    let files = present(place)?;
    let others = names("l", place.sizes.files)?;
    place.time(files.count(), || {
        let mut to = others.iter();
        files.each(|directory, name| to.next().map_or(Ok(()), |to| linkat(directory, name, directory, to, AtFlags::empty())))
    })
}

pub(super) fn unlink(place: &Place<'_>) -> Result<Sample> {
    let files = present(place)?;
    place.time(files.count(), || files.unlink())
}
