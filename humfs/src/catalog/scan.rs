//! Making the catalog from the tree, while that is being served.

use super::book::{Parts, apply};
use super::feed::Feed;
use super::look::{self, entry};
use crate::fs::{adopted, merged};
use crate::store::Loaded;
use crate::walk::{self, Folder, Ground, Names, Seen, Visit};
use externfs::{Errno, Error, FileKind, Result};
use externfs_catalog::barrier::Standing;
use externfs_catalog::{Batch, Catalog, Link, Object};
use hostfs::Inode;
use std::collections::HashSet;
use std::ffi::CStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Objects that are written at once.
const PORTION: usize = 4096;

struct Scan<'a> {
    parts: &'a Parts,
    feed: Option<&'a Feed>,
    listed: &'a Listed,
    /// Directories that were in their places after so many moves.
    in_place: Mutex<(u64, HashSet<u64>)>,
    expected: u64,
    seen: AtomicU64,
    progress: &'a (dyn Fn(u64, u64) + Sync),
    sink: Mutex<(Batch, &'a mut Catalog)>,
}

/// Directories whose names have all been seen. What changes in them after that
/// is told.
#[derive(Default)]
pub(super) struct Listed(Mutex<HashSet<u64>>);

impl Listed {
    fn set(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, dirs: &[u64]) {
        self.set().extend(dirs);
    }

    pub(super) fn lacks(&self, dir: u64) -> bool {
        !self.set().contains(&dir)
    }
}

/// Writes everything below `from` into `catalog`, except what is below
/// directories that are `listed`. The feed: others change the tree
/// meanwhile and want to know how far this is.
///
/// # Errors
/// It cannot be written, or the feed ends: then `listed` has directories in it
/// whose names are not in the catalog. What cannot be read is none.
pub(super) fn scan(
    parts: &Parts,
    from: &Arc<Inode>,
    catalog: &mut Catalog,
    listed: &Listed,
    (feed, progress): (Option<&Feed>, &(dyn Fn(u64, u64) + Sync)),
) -> Result<()> {
    let expected = parts.account.used().inodes;
    let scan = Scan {
        parts,
        feed,
        listed,
        in_place: Mutex::default(),
        expected,
        seen: AtomicU64::new(0),
        progress,
        sink: Mutex::new((Batch::default(), catalog)),
    };
    walk::walk_below(&Ground::new(&parts.base, &*parts.store, from.clone()), &scan)?;
    let (batch, catalog) = scan.sink.into_inner().unwrap_or_else(PoisonError::into_inner);
    apply(catalog, batch, feed)
}

/// The catalog cannot be written.
pub(super) fn failed(error: &rusqlite::Error) -> Error {
    Error::because(Errno::EIO, format!("humfs/catalog/catalog.db: {error}"))
}

impl Scan<'_> {
    /// See [`look::is_in_place`]; looked at once until something moves.
    fn is_in_place(&self, dir: &Arc<Inode>) -> bool {
        let moves = self.feed.map_or(0, Feed::moves);
        if moves == 0 {
            return true;
        }
        let number = dir.host_key().number;
        let known = || self.in_place.lock().unwrap_or_else(PoisonError::into_inner);
        if known().0 == moves && known().1.contains(&number) {
            return true;
        }
        let is_there = look::is_in_place(self.parts, dir);
        let mut known = known();
        if known.0 != moves {
            *known = (moves, HashSet::new());
        }
        if is_there {
            known.1.insert(number);
        }
        is_there
    }
}

impl Visit for Scan<'_> {
    fn see(&self, seen: &Seen<'_>) -> Result<()> {
        let Some(at) = &seen.at else { return Ok(()) };
        let (record, host) = {
            let _looking = self.parts.dirs.look(&seen.folder.inode);
            if !self.is_in_place(&seen.folder.inode) {
                self.listed.set().remove(&seen.folder.inode.host_key().number);
                return Ok(());
            }
            // What cannot be read is not in the catalog; nor does the guest see it.
            match seen.load() {
                Ok(Loaded::Record(record)) => (record, seen.host),
                Ok(Loaded::Absent) => match adopted(self.parts.adopt, seen.host) {
                    Ok(record) => (record, seen.host),
                    Err(_) => return Ok(()),
                },
                Err(_) => return Ok(()),
            }
        };
        let target = || match record.kind {
            FileKind::Symlink if record.target.is_none() => {
                let (inode, _) = self.parts.base.notice(at.parent, at.name).ok()?;
                look::target(self.parts, &inode)
            }
            _ => None,
        };
        let object = Object { attr: merged(host, &record), extra: Some(entry(&record, target)) };
        let link = Link { ino: host.ino, is_dir: host.kind == FileKind::Directory };
        let count = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        {
            let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
            let (batch, catalog) = &mut *sink;
            batch.names.push((seen.folder.inode.host_key().number, at.name.to_bytes().into(), Some(link)));
            batch.objects.push((host.ino, Some(object)));
            if batch.objects.len() < PORTION {
                return Ok(());
            }
            apply(catalog, std::mem::take(batch), self.feed)?;
        }
        (self.progress)(count, self.expected);
        if let Some(feed) = self.feed {
            feed.stand(Standing::Building(count, self.expected));
            if feed.is_ending() {
                return Err(Errno::EINTR.into());
            }
        }
        Ok(())
    }

    fn list(&self, _ground: &Ground<'_>, folder: &Folder, _names: &Names) -> Result<()> {
        self.listed.add(&[folder.inode.host_key().number]);
        Ok(())
    }

    fn enters(&self, dir: &Inode) -> bool {
        self.listed.lacks(dir.host_key().number)
    }

    /// A directory that has moved meanwhile is to be read again; what cannot be
    /// read is not in the catalog.
    fn fail(&self, folder: &Folder, name: Option<&CStr>, _error: Error) -> Result<()> {
        if name.is_none() {
            self.listed.set().remove(&folder.inode.host_key().number);
        }
        Ok(())
    }
}
