//! [`Saved`]: the files of `queries/`. A file `NAME.sql` is a saved query and
//! can be run as `NAME`; others are there because editors make them for a
//! moment. All are in memory and bounded.

use externfs::helper::read_slice;
use externfs::{DataSink, DataSource, Errno, Mode, Result, Timestamp};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Files, and bytes of each. An editor's swap file takes some.
const MOST_FILES: usize = 1000;
const MOST_BYTES: usize = 256 << 10;
/// Bytes of all.
const MOST_TOGETHER: u64 = 16 << 20;

/// A file. It outlives its name while it is open.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) id: u64,
    together: Arc<AtomicU64>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    bytes: Vec<u8>,
    mode: Mode,
    atime: Timestamp,
    mtime: Timestamp,
    ctime: Timestamp,
}

/// What stat(2) tells of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) size: u64,
    pub(crate) mode: Mode,
    pub(crate) atime: Timestamp,
    pub(crate) mtime: Timestamp,
    pub(crate) ctime: Timestamp,
}

impl Draft {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn facts(&self) -> Facts {
        let state = self.state();
        let State { mode, atime, mtime, ctime, .. } = *state;
        Facts { size: state.bytes.len() as u64, mode, atime, mtime, ctime }
    }

    pub(crate) fn change(&self, mode: Option<Mode>, atime: Option<Timestamp>, mtime: Option<Timestamp>) {
        let mut state = self.state();
        state.mode = mode.unwrap_or(state.mode);
        state.atime = atime.unwrap_or(state.atime);
        state.mtime = mtime.unwrap_or(state.mtime);
        state.ctime = Timestamp::now();
    }

    /// As a statement: without a newline at its end.
    pub(crate) fn sql(&self) -> Result<String> {
        let text = String::from_utf8(self.state().bytes.clone()).map_err(|_| Errno::EINVAL)?;
        Ok(text.trim_end().to_owned())
    }

    pub(crate) fn read(&self, offset: u64, size: usize, sink: &mut dyn DataSink) -> Result<usize> {
        read_slice(&self.state().bytes, offset, size, sink)
    }

    /// Replaces all of it.
    pub(crate) fn fill(&self, bytes: &[u8]) -> Result<()> {
        let mut state = self.state();
        self.make_room(&mut state, bytes.len() as u64)?;
        state.bytes.copy_from_slice(bytes);
        Ok(())
    }

    pub(crate) fn resize(&self, size: u64) -> Result<()> {
        let mut state = self.state();
        self.make_room(&mut state, size)
    }

    /// Sets the length, if that is allowed.
    fn make_room(&self, state: &mut State, size: u64) -> Result<()> {
        let size = usize::try_from(size).ok().filter(|size| *size <= MOST_BYTES).ok_or(Errno::EFBIG)?;
        let (old, new) = (state.bytes.len() as u64, size as u64);
        if new > old && self.together.fetch_add(new - old, Ordering::Relaxed) + (new - old) > MOST_TOGETHER {
            self.together.fetch_sub(new - old, Ordering::Relaxed);
            return Err(Errno::ENOSPC.into());
        }
        if new < old {
            self.together.fetch_sub(old - new, Ordering::Relaxed);
        }
        state.bytes.resize(size, 0);
        (state.mtime, state.ctime) = (Timestamp::now(), Timestamp::now());
        Ok(())
    }

    /// At `offset`, or at the end.
    pub(crate) fn write(&self, offset: Option<u64>, source: &mut dyn DataSource) -> Result<usize> {
        let mut state = self.state();
        let start = offset.unwrap_or(state.bytes.len() as u64);
        let end = start.checked_add(source.remaining() as u64).ok_or(Errno::EFBIG)?;
        let length = state.bytes.len() as u64;
        self.make_room(&mut state, end.max(length))?;
        let place = state.bytes.get_mut(start as usize..end as usize).unwrap_or_default();
        Ok(source.take(place)?)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        self.together.fetch_sub(self.state().bytes.len() as u64, Ordering::Relaxed);
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Saved {
    files: RwLock<BTreeMap<String, Arc<Draft>>>,
    next: AtomicU64,
    together: Arc<AtomicU64>,
}

impl Saved {
    fn files(&self) -> RwLockReadGuard<'_, BTreeMap<String, Arc<Draft>>> {
        self.files.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Arc<Draft>>> {
        self.files.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names and files, in order.
    pub(crate) fn all(&self) -> Vec<(String, Arc<Draft>)> {
        self.files().iter().map(|(name, draft)| (name.clone(), draft.clone())).collect()
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<Draft>> {
        self.files().get(name).cloned()
    }

    /// A new file. Of one that is there: EEXIST with `exclusive`, else ESTALE.
    pub(crate) fn create(&self, name: &str, mode: Mode, exclusive: bool) -> Result<Arc<Draft>> {
        let mut files = self.change();
        if files.contains_key(name) {
            // Nobody has looked whether the caller may open it.
            return Err(if exclusive { Errno::EEXIST } else { Errno::ESTALE }.into());
        }
        if files.len() >= MOST_FILES {
            return Err(Errno::ENOSPC.into());
        }
        let now = Timestamp::now();
        let state = State { bytes: Vec::new(), mode, atime: now, mtime: now, ctime: now };
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let draft = Arc::new(Draft { id, together: self.together.clone(), state: Mutex::new(state) });
        files.insert(name.to_owned(), draft.clone());
        Ok(draft)
    }

    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        self.change().remove(name).map(drop).ok_or(Errno::ENOENT.into())
    }

    pub(crate) fn rename(&self, from: &str, to: &str, replace: bool) -> Result<()> {
        let mut files = self.change();
        if !files.contains_key(from) {
            return Err(Errno::ENOENT.into());
        }
        if !replace && files.contains_key(to) {
            return Err(Errno::EEXIST.into());
        }
        if let Some(draft) = files.remove(from) {
            files.insert(to.to_owned(), draft);
        }
        Ok(())
    }

    pub(crate) fn exchange(&self, one: &str, other: &str) -> Result<()> {
        let mut files = self.change();
        let (Some(first), Some(second)) = (files.get(one).cloned(), files.get(other).cloned()) else {
            return Err(Errno::ENOENT.into());
        };
        files.insert(one.to_owned(), second);
        files.insert(other.to_owned(), first);
        Ok(())
    }
}
