//! Rows with two client threads.

use super::files::{Files, create};
use super::{Place, Sample};
use crate::fault::{Fault, Result, fault};
use rustix::fs::{AtFlags, StatxFlags, statx, unlinkat};
use std::thread;

/// Runs `work` on both at once, each on a thread of its own.
fn each_on_a_thread(files: &[Files; 2], work: impl Fn(&Files) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let threads = files.each_ref().map(|files| scope.spawn(|| work(files)));
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| fault("a client thread panicked")))
    })
}

pub(super) fn create_unlink(place: &Place<'_>) -> Result<Sample> {
    let count = place.sizes.files / 2;
    let make = |prefix| Files::absent(&place.scratch, prefix, count);
    let files = [make("a")?, make("b")?];
    place.time(count * 2, || {
        each_on_a_thread(&files, |files| {
            files.each(|directory, name| {
                create(directory, name, b"")?;
                unlinkat(directory, name, AtFlags::empty())
            })
        })
    })
}

pub(super) fn stat_sync(place: &Place<'_>) -> Result<Sample> {
    let count = place.sizes.files / 2;
    let make = |prefix| Files::present(&place.scratch, prefix, count);
    let files = [make("a")?, make("b")?];
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_FORCE_SYNC;
    let passes = place.sizes.passes;
    place.time(u64::from(count * 2 * passes), || {
        each_on_a_thread(&files, |files| {
            (0..passes).try_for_each(|_| files.each(|directory, name| statx(directory, name, flags, StatxFlags::BASIC_STATS)))
        })
        .map_err(|Fault(text)| Fault(format!("two clients: {text}")))
    })
}
