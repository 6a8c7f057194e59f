//! Names that hold still: where nobody but us changes the tree (`exclusive`), a
//! name that was looked at leads to the same object until we let it go. Then
//! calls take the name ([`crate::named`]), and the object need not be opened to
//! be sure of it: two system calls of five.
//!
//! Guests still rename beside each other. Whoever goes by a name holds its
//! directory shared, whoever takes a name away or gives it to something else
//! holds it exclusively. A name that comes takes none away, so making one needs
//! no lock. The place of an inode is a hint even here, since a look-up may be
//! overtaken by a rename before it is noted: so the look is under the lock.
//!
//! A call may be slow, and the locks are held meanwhile. So nobody waits in order
//! to go by a name: while names move, the descriptor way is taken, which is always
//! right; only who finds nothing by it, or finds again what has lost its name, waits until
//! they hold still ([`HostFs::when_still`]). And only names on the export's own file system are gone by, so that one
//! that hangs below it (a network's) keeps nobody else from renaming.

use crate::HostFs;
use crate::attr::Stat;
use crate::fault::fault;
use crate::jail::check_component;
use crate::node::Inode;
use crate::reach::Spot;
use externfs::{Errno, Result};
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

const SHARDS: usize = 64;

/// A lock for each directory, some of them shared.
pub(crate) struct Still([RwLock<()>; SHARDS]);

/// Nobody goes by a name of one or two directories.
#[must_use]
pub(crate) struct Moving<'a> {
    _locks: [Option<RwLockWriteGuard<'a, ()>>; 2],
}

fn shard(dir: &Inode) -> usize {
    (dir.key().number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize % SHARDS
}

impl Still {
    pub(crate) fn new() -> Still {
        Still(std::array::from_fn(|_| RwLock::default()))
    }

    fn move_in(&self, one: &Inode, two: &Inode) -> Moving<'_> {
        // In order of their index, so that two renames cannot wait for each other.
        let (low, high) = (shard(one).min(shard(two)), shard(one).max(shard(two)));
        let lock = |shard: usize| self.0[shard].write().unwrap_or_else(PoisonError::into_inner);
        let first = lock(low);
        Moving { _locks: [Some(first), (high != low).then(|| lock(high))] }
    }
}

impl HostFs {
    /// For whoever is about to take names in these directories away, or to give
    /// them to something else. None where nobody goes by names.
    pub(crate) fn move_names(&self, one: &Inode, two: &Inode) -> Option<Moving<'_>> {
        self.still.as_ref().map(|still| still.move_in(one, two))
    }

    /// What `act` makes of a node whose name, or that of a directory above it, may be
    /// moving at this moment: then once more while nothing moves. For what the
    /// kernel does not look up again itself: it does so for an open that is ESTALE,
    /// and not for a read.
    pub(crate) fn when_still<T>(&self, act: impl Fn() -> Result<T>) -> Result<T> {
        match (act(), &self.still) {
            (Err(error), Some(still)) if error.errno() == Errno::ESTALE => {
                // In order of their index, as those do that move names.
                let _held = still.0.each_ref().map(|lock| lock.read().unwrap_or_else(PoisonError::into_inner));
                act()
            }
            (answer, _) => answer,
        }
    }

    /// Waits until no name in `dir` is being taken away, and keeps it so. For who would
    /// let go of what a removal holds because its name still leads there.
    pub(crate) fn await_moves(&self, dir: &Inode) -> Option<RwLockReadGuard<'_, ()>> {
        let still = self.still.as_ref()?;
        Some(still.0[shard(dir)].read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Calls `act` with the name of `node` and what the host says of it, while
    /// that name holds still. None if it has to be done by a descriptor, which
    /// `act` may say too.
    pub(crate) fn by_name<T>(
        &self,
        node: &Arc<Inode>,
        act: impl FnOnce(BorrowedFd<'_>, &CStr, &Stat) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let Some(still) = &self.still else { return Ok(None) };
        let Spot::Named { dir, parent, name } = self.spot(node)? else { return Ok(None) };
        if parent.key().volume != self.root_key.volume {
            return Ok(None);
        }
        let _held = match still.0[shard(&parent)].try_read() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(held)) => held.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(None),
        };
        check_component(name.to_bytes()).map_err(fault("going by a name"))?;
        let Ok(stat) = self.jail.stat(dir.as_fd(), &name) else { return Ok(None) };
        if self.verify(node, &stat).is_err() {
            return Ok(None);
        }
        act(dir.as_fd(), &name, &stat)
    }
}
