//! Writing over what is there: it takes no room, so the account is not asked
//! and nothing is looked at afterwards. A database's writes and those into a
//! disk image are mostly such.
//!
//! Of a file it is remembered up to where it is *dense*: all before that has a
//! place on the host's disk, or is about to get one, and was written. FIEMAP
//! tells, after a write that has added nothing. What could make a hole again
//! (truncate, fallocate, a copy) holds the file's lock in [`Dense`] and forgets
//! it; a write that relies on it holds the same lock for reading, so nothing
//! is allocated that was not announced, whatever goes on beside it. No other lock
//! is taken under this one.
//!
//! Only on ext4, where a block that was written stays where it is: elsewhere
//! one that is shared with a copy is allocated anew.

use crate::account::Outcome;
use crate::extents::dense_to;
use crate::fs::HumFs;
use crate::node::{HumFile, HumNode};
use externfs::{Attr, DataSource, ExternFs, Result, WriteFlags};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

/// Files share a lock by their numbers. Few do: a write may wait for the disk.
const LOCKS: usize = 4096;

/// So many writes after a look that was in vain there is another one.
const PATIENCE: u8 = 100;

/// `EXT4_SUPER_MAGIC`
const EXT4: u64 = 0xef53;

/// See the [module](self).
pub(crate) struct Dense {
    is_known: bool,
    locks: Box<[RwLock<()>]>,
}

/// What is known of one file.
#[derive(Debug, Default)]
pub(crate) struct DenseTo {
    /// In bytes.
    end: AtomicU64,
    /// Writes until it is worth another look.
    patience: AtomicU8,
}

impl Dense {
    /// Of the data tree `root`.
    pub(crate) fn new(root: BorrowedFd<'_>) -> Dense {
        let is_known = rustix::fs::fstatfs(root).is_ok_and(|host| host.f_type as u64 == EXT4);
        Dense { is_known, locks: (0..LOCKS).map(|_| RwLock::default()).collect() }
    }

    fn lock(&self, node: &HumNode) -> Option<&RwLock<()>> {
        self.locks.get(node.key().number as usize % LOCKS)
    }

    /// Holes may appear in `node` while what is returned is held.
    pub(crate) fn forget(&self, node: &HumNode) -> Option<RwLockWriteGuard<'_, ()>> {
        let held = self.lock(node)?.write().unwrap_or_else(PoisonError::into_inner);
        node.dense.end.store(0, Ordering::Relaxed);
        node.dense.patience.store(0, Ordering::Relaxed);
        Some(held)
    }
}

impl HumFs {
    /// Writes what is in `source`, if that goes over what is there; None if it
    /// may not, and nothing was done.
    pub(crate) fn overwrite(&self, file: &HumFile, offset: u64, source: &mut dyn DataSource, flags: WriteFlags) -> Option<Result<usize>> {
        if flags.append {
            return None;
        }
        let end = offset.checked_add(source.remaining() as u64)?;
        let dense = &file.node.dense.end;
        if end > dense.load(Ordering::Relaxed) {
            return None;
        }
        let data = self.data(file).ok()?;
        let _stays = self.dense.lock(&file.node)?.read().unwrap_or_else(PoisonError::into_inner);
        // It may have been cut while we waited.
        if end > dense.load(Ordering::Relaxed) {
            return None;
        }
        Some(self.base.write(data, offset, source, flags))
    }

    /// A write up to `end` of `file`, which is `host` now, came to `outcome`.
    pub(crate) fn learn_dense(&self, file: &HumFile, host: &Attr, end: u64, outcome: &Outcome) {
        let node = &file.node;
        if !self.dense.is_known || *outcome != Outcome::default() || end > host.size {
            return;
        }
        let waits = node.dense.patience.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        if waits {
            return;
        }
        let (Some(lock), Ok(data)) = (self.dense.lock(node), self.data(file)) else { return };
        let _alone = lock.write().unwrap_or_else(PoisonError::into_inner);
        // The size may be another one by now.
        let Ok(host) = self.host_attr(node, Some(file)) else { return };
        let dense = dense_to(data.data_fd()).min(host.size);
        node.dense.end.store(dense, Ordering::Relaxed);
        node.dense.patience.store(PATIENCE, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::Usage;
    use crate::make::{Plan, lay};
    use crate::options::Options;
    use crate::store::Format;
    use crate::tree::{Access, Tree};
    use externfs::{Caller, CreateFlags, ExternFs, FallocateFlags, Mode, Name, OpenFlags, SetAttr, WritePlace};
    use std::sync::Arc;

    struct Bytes<'a>(&'a [u8]);

    impl DataSource for Bytes<'_> {
        fn take(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let (taken, rest) = self.0.split_at(buffer.len().min(self.0.len()));
            buffer[..taken.len()].copy_from_slice(taken);
            self.0 = rest;
            Ok(taken.len())
        }

        fn drain_to(&mut self, file: BorrowedFd<'_>, place: WritePlace, len: usize, _sync: bool) -> std::io::Result<usize> {
            let WritePlace::At(offset) = place else { panic!("nobody appends here") };
            let count = rustix::io::pwrite(file, &self.0[..len.min(self.0.len())], offset)?;
            self.0 = &self.0[count..];
            Ok(count)
        }

        fn remaining(&self) -> usize {
            self.0.len()
        }
    }

    struct World {
        _dir: tempfile::TempDir,
        fs: HumFs,
        file: HumFile,
    }

    fn world() -> Option<World> {
        let dir = tempfile::tempdir().unwrap();
        lay(dir.path(), &Plan { format: Format::Xattr, total: 1 << 30, inodes: None, adopt: None }).unwrap();
        let fs = HumFs::new(Tree::open(dir.path(), Access::Write).unwrap(), Options::default()).unwrap();
        if !fs.dense.is_known {
            println!("skipped: the temporary directory is not on ext4");
            return None;
        }
        let open = OpenFlags { read: true, write: true, ..OpenFlags::default() };
        let flags = CreateFlags { mode: Mode::new(0o644), open, exclusive: true };
        let root = fs.root().unwrap();
        let file = fs.create(&Caller::root(), &root, Name::new(b"f").unwrap(), flags).unwrap().opened.file;
        Some(World { _dir: dir, fs, file })
    }

    impl World {
        fn write(&self, offset: u64, length: usize) {
            let bytes = vec![7; length];
            let written = self.fs.write(&self.file, offset, &mut Bytes(&bytes), WriteFlags::default());
            assert_eq!(written.unwrap(), length);
        }

        fn dense(&self) -> u64 {
            self.file.node.dense.end.load(Ordering::Relaxed)
        }

        fn cut(&self, size: u64) {
            let change = SetAttr { size: Some(size), ..SetAttr::default() };
            self.fs.set_attr(&Caller::root(), &self.file.node, Some(&self.file), &change).unwrap();
        }

        fn blocks(&self) -> u64 {
            self.fs.host_attr(&self.file.node, Some(&self.file)).unwrap().blocks * 512
        }

        /// What the account has and what is there, but for what the host adds later.
        fn check(&self) {
            let state = self.file.node.state().cost;
            assert_eq!(state, self.blocks() + crate::account::INODE_COST);
            let known: Usage = self.fs.account.used();
            assert_eq!(known, self.fs.recount().unwrap());
        }
    }

    #[test]
    fn what_is_written_over_is_not_announced() {
        let Some(world) = world() else { return };
        world.write(0, 65536);
        assert_eq!(world.dense(), 0, "it grew");
        world.write(4096, 4096);
        assert_eq!(world.dense(), 65536);
        let state = || std::fs::read(world._dir.path().join("humfs/state")).unwrap();
        let before = state();
        for offset in [0, 1, 4095, 61440] {
            world.write(offset, 4096);
        }
        assert_eq!(state(), before);
        world.write(61441, 4096);
        world.check();
    }

    #[test]
    fn a_hole_that_is_made_again_is_counted_when_it_is_filled() {
        let Some(world) = world() else { return };
        let fill = || {
            world.write(0, 65536);
            world.write(0, 65536);
            assert_eq!(world.dense(), 65536);
        };
        fill();
        world.cut(10_000);
        assert_eq!(world.dense(), 0);
        world.cut(65536);
        world.write(40960, 4096);
        assert_eq!(world.dense(), 0);
        world.check();
        fill();
        world.fs.fallocate(&world.file, 8192, 8192, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE).unwrap();
        world.write(8192, 4096);
        world.check();
        // Promised and not written.
        world.cut(0);
        world.fs.fallocate(&world.file, 0, 65536, FallocateFlags::empty()).unwrap();
        world.write(0, 4096);
        assert!(world.dense() <= 4096, "{}", world.dense());
        world.check();
    }

    /// One cuts and punches, others write over: nothing appears that is not counted.
    #[test]
    fn writers_and_who_makes_holes_do_not_miss_each_other() {
        let Some(world) = world() else { return };
        world.write(0, 65536);
        world.write(0, 65536);
        let world = Arc::new(world);
        std::thread::scope(|scope| {
            for thread in 0..2u64 {
                let world = world.clone();
                scope.spawn(move || (0..2000u64).for_each(|round| world.write((round * 7 + thread) % 15 * 4096, 4096)));
            }
            let world = world.clone();
            scope.spawn(move || {
                for round in 0..400 {
                    match round % 3 {
                        0 => world.cut(0),
                        1 => world.write(0, 65536),
                        _ => {
                            let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                            world.fs.fallocate(&world.file, 4096 * (round % 13), 8192, how).unwrap();
                        }
                    }
                }
            });
        });
        world.check();
    }
}
