//! [`Walk`]: every object of a tree, each inode once, with its record: for
//! counting and checking.

use crate::fs::HumFs;
use crate::record::Record;
use crate::store::{At, Loaded};
use externfs::{Attr, ExternFs, FileKind, Result};
use hostfs::Inode;
use std::collections::HashSet;
use std::ffi::CString;
use std::os::fd::AsFd;
use std::sync::Arc;

/// One name.
pub(crate) struct Seen<'a> {
    /// Where; None for the root.
    pub(crate) at: Option<At<'a>>,
    pub(crate) host: &'a Attr,
    /// Its record; None if it has none that can be read.
    pub(crate) record: Option<Record>,
    /// Why it cannot be read.
    pub(crate) unreadable: Option<externfs::Error>,
}

/// See the [module](self).
pub(crate) struct Walk<'f> {
    fs: &'f HumFs,
    /// Directories to be read. The chain of parents above each lives with it.
    ahead: Vec<Arc<Inode>>,
    /// Objects with several names that have been seen.
    linked: HashSet<u64>,
}

impl<'f> Walk<'f> {
    pub(crate) fn new(fs: &'f HumFs) -> Result<Walk<'f>> {
        Ok(Walk { fs, ahead: vec![fs.root()?.inner.clone()], linked: HashSet::new() })
    }

    /// Calls `see` with every object, each once whatever its names.
    pub(crate) fn run(mut self, see: &mut dyn FnMut(&Seen<'_>) -> Result<()>) -> Result<()> {
        let root = self.fs.root()?.inner.clone();
        let host = self.fs.base.attr(&root, None)?;
        let loaded = self.fs.store.load_root(self.fs.base.root_fd(), &host);
        let (record, unreadable) = sorted(loaded);
        see(&Seen { at: None, host: &host, record, unreadable })?;
        while let Some(dir) = self.ahead.pop() {
            self.directory(&dir, see)?;
        }
        Ok(())
    }

    fn directory(&mut self, dir: &Arc<Inode>, see: &mut dyn FnMut(&Seen<'_>) -> Result<()>) -> Result<()> {
        let listing = self.fs.base.open_dir(dir)?;
        let mut names: Vec<CString> = Vec::new();
        self.fs.base.read_dir(&listing, 0, &mut |entry| {
            if entry.name != b"." && entry.name != b".." {
                names.extend(CString::new(entry.name));
            }
            true
        })?;
        drop(listing);
        let fd = self.fs.base.dir_fd(dir)?;
        for name in names {
            let at = At { parent: dir, dir: fd.as_fd(), name: &name };
            let host = match crate::host::stat_at(at.dir, at.name) {
                Ok(host) => host,
                // Gone since it was listed: somebody else is at work.
                Err(rustix::io::Errno::NOENT) => continue,
                Err(other) => return Err(crate::host::fault("looking up a name")(other)),
            };
            if host.kind == FileKind::Directory {
                self.ahead.push(self.fs.base.enroll(dir, &name)?.0);
            } else if host.nlink > 1 && !self.linked.insert(host.ino) {
                continue;
            }
            let (record, unreadable) = sorted(self.fs.store.load(&at, &host));
            see(&Seen { at: Some(at), host: &host, record, unreadable })?;
        }
        Ok(())
    }
}

fn sorted(loaded: Result<Loaded>) -> (Option<Record>, Option<externfs::Error>) {
    match loaded {
        Ok(Loaded::Record(record)) => (Some(record), None),
        Ok(Loaded::Absent) => (None, None),
        Err(error) => (None, Some(error)),
    }
}
