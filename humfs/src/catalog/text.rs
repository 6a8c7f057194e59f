//! [`Reader`]: reads what files say, some time after they were written.
//!
//! Which files have been read is in the catalog itself. What is kept here is
//! where to look: everything once, from the first number to the last, and
//! whatever changes. A file that is being written is left alone until it rests.

use super::book::Parts;
use super::look;
use externfs::{Caller, ExternFs, OpenFlags};
use externfs_catalog::{Catalog, Change, Op, Wanted};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long a file must not have changed.
const REST: Duration = Duration::from_millis(300);

/// Files, and bytes, that are read before somebody else has a turn.
const FILES: usize = 64;
const BYTES: usize = 8 << 20;

/// Bytes at a file's beginning that say whether it is text.
const HEAD: usize = 8192;

pub(super) struct Reader {
    wanted: Wanted,
    /// The number up to which all files have been looked at; None once all have.
    swept: Option<u64>,
    /// Files that have changed, and when last.
    fresh: HashMap<u64, Instant>,
}

impl Reader {
    pub(super) fn new(wanted: Wanted) -> Reader {
        Reader { wanted, swept: Some(0), fresh: HashMap::new() }
    }

    pub(super) fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// The catalog was made anew: nothing has been read.
    pub(super) fn start_over(&mut self) {
        self.swept = Some(0);
        self.fresh.clear();
    }

    /// Something may be read now that was not, or was another.
    pub(super) fn note(&mut self, changes: &[Change]) {
        let now = Instant::now();
        for change in changes {
            if matches!(change.op, Op::Create | Op::Link | Op::Rename | Op::Write | Op::Attributes) {
                self.fresh.insert(change.ino, now);
            }
        }
    }

    /// Files that wait; of those that were there before, one stands for all.
    pub(super) fn waiting(&self) -> u64 {
        self.fresh.len() as u64 + u64::from(self.swept.is_some())
    }

    /// When there will be something to do.
    pub(super) fn due(&self) -> Option<Duration> {
        if self.swept.is_some() {
            return Some(Duration::ZERO);
        }
        let first = self.fresh.values().min()?;
        Some(REST.saturating_sub(first.elapsed()))
    }

    /// Reads some.
    ///
    /// # Errors
    /// What SQLite says.
    pub(super) fn read_some(&mut self, parts: &Parts, catalog: &mut Catalog) -> Result<(), externfs_catalog::Error> {
        let rested: Vec<u64> = self.fresh.iter().filter(|(_, since)| since.elapsed() >= REST).map(|(ino, _)| *ino).take(FILES).collect();
        let mut files = Vec::new();
        for ino in &rested {
            files.extend(catalog.unread(&self.wanted, *ino..=*ino, 1)?);
        }
        if rested.is_empty()
            && let Some(swept) = self.swept
        {
            files = catalog.unread(&self.wanted, swept.saturating_add(1)..=i64::MAX as u64, FILES)?;
            self.swept = files.last().map(|(ino, _)| *ino);
        }
        let mut texts = Vec::new();
        let mut bytes = 0;
        for (ino, path) in files {
            if self.fresh.get(&ino).is_some_and(|since| since.elapsed() < REST) {
                // It is being written; its turn comes.
                continue;
            }
            let contents = self.contents(parts, ino, &path).unwrap_or_default();
            bytes += contents.len();
            texts.push((ino, as_text(contents)));
            if bytes > BYTES {
                catalog.put_texts(&std::mem::take(&mut texts))?;
                bytes = 0;
            }
        }
        catalog.put_texts(&texts)?;
        for ino in rested {
            self.fresh.remove(&ino);
        }
        Ok(())
    }

    /// What is in file `ino`, if it is at `path`. Its atime, which guests see, does
    /// not move where the host lets us.
    fn contents(&self, parts: &Parts, ino: u64, path: &[u8]) -> Option<Vec<u8>> {
        let inode = look::inode_at(parts, ino, path)?;
        let flags = OpenFlags { read: true, noatime: true, ..OpenFlags::default() };
        let opened = parts.base.open(&Caller::root(), &inode, flags).ok()?;
        let mut contents = vec![0; usize::try_from(self.wanted.size_max).ok()?.min(usize::try_from(opened.size).ok()?)];
        let mut length = 0;
        while let Some(rest) = contents.get_mut(length..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pread(opened.file.data_fd(), rest, length as u64) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return None,
            }
        }
        contents.truncate(length);
        Some(contents)
    }
}

/// None for what is none: something binary, or nothing.
fn as_text(contents: Vec<u8>) -> Option<String> {
    let is_text = !contents.is_empty() && !contents.iter().take(HEAD).any(|&byte| byte == 0);
    is_text.then(|| String::from_utf8(contents).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}
