//! Rows about directories: making, removing, listing.

use super::cold::drop_caches;
use super::files::Files;
use super::fixture::BIG;
use super::{Place, Sample};
use crate::fault::{Naming, Result, fault};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, mkdirat, openat, statat, unlinkat};
use std::mem::MaybeUninit;
use std::path::Path;

fn make(files: &Files) -> Result<()> {
    files.each(|directory, name| mkdirat(directory, name, Mode::from_raw_mode(0o755)))
}

pub(super) fn mkdir(place: &Place<'_>) -> Result<Sample> {
    let files = Files::absent(&place.scratch, "d", place.sizes.files)?;
    place.time(files.count(), || make(&files))
}

pub(super) fn rmdir(place: &Place<'_>) -> Result<Sample> {
    let files = Files::absent(&place.scratch, "d", place.sizes.files)?;
    make(&files)?;
    place.time(files.count(), || files.each(|directory, name| unlinkat(directory, name, AtFlags::REMOVEDIR)))
}

/// Lists a directory with the buffer that glibc uses, and looks at each entry if
/// asked, as `ls` and `ls -l` do; answers how many there are but the dots.
fn list(path: &Path, long: bool) -> Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, path, flags, Mode::empty()).naming(path.display())?;
    let mut buffer = [const { MaybeUninit::<u8>::uninit() }; 32 * 1024];
    let mut entries = RawDir::new(&directory, &mut buffer);
    let mut count = 0;
    while let Some(entry) = entries.next() {
        let entry = entry.naming(path.display())?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        count += 1;
        if long {
            statat(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW).naming(path.display())?;
        }
    }
    Ok(count)
}

/// Lists the large directory `passes` times.
fn listing(place: &Place<'_>, long: bool, passes: u32) -> Result<Sample> {
    let path = place.root.join(BIG);
    let expected = u64::from(place.sizes.entries);
    place.time(expected * u64::from(passes), || {
        (0..passes).try_for_each(|_| match list(&path, long)? {
            count if count == expected => Ok(()),
            count => fault(format!("{} lists {count} of {expected} entries", path.display())),
        })
    })
}

pub(super) fn readdir(place: &Place<'_>) -> Result<Sample> {
    list(&place.root.join(BIG), false)?;
    listing(place, false, place.sizes.passes)
}

pub(super) fn ls_l(place: &Place<'_>) -> Result<Sample> {
    list(&place.root.join(BIG), true)?;
    listing(place, true, place.sizes.passes)
}

pub(super) fn ls_l_cold(place: &Place<'_>) -> Result<Sample> {
    drop_caches(place.root)?;
    listing(place, true, 1)
}
