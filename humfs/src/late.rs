//! Opening late: a file that is open for reading only, and a directory, cost the
//! host nothing until somebody reads what no kernel has cached. Most are opened
//! and closed without.
//!
//! Nothing can go wrong by that while the tree is ours alone: the object stays
//! where its name says, and before that goes ([`HumFs::hold_reader`]) what is open
//! is opened in truth. A tree that is mounted read-only is another's to change, and
//! its files may be handed to the kernel, which takes open ones: there they are
//! opened at once.

use crate::fs::HumFs;
use crate::node::{HumDir, HumFile, HumNode};
use externfs::{Caller, DirEntry, Errno, ExternFs, FileCache, FileKind, OpenFlags, Opened, Result};
use hostfs::OpenFile;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The host's file behind all who have a node open for reading only.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    opened: OnceLock<Arc<OpenFile>>,
    /// Held while it is being opened: no directory is locked under it.
    opening: Mutex<()>,
}

/// What an open file is read and written through.
#[derive(Debug)]
pub(crate) enum Data {
    Open(Arc<OpenFile>),
    Late(Arc<Reader>),
}

impl Data {
    /// The host's file, if it has been opened.
    pub(crate) fn opened(&self) -> Option<&Arc<OpenFile>> {
        match self {
            Data::Open(file) => Some(file),
            Data::Late(reader) => reader.opened.get(),
        }
    }
}

impl HumFs {
    /// `node`, a regular file, opened late; None if that is not to be.
    pub(crate) fn open_late(&self, node: &Arc<HumNode>, flags: OpenFlags) -> Option<Opened<HumFile>> {
        if !flags.read || flags.write || flags.truncate || flags.noatime || flags.direct || self.is_read_only() {
            return None;
        }
        let mut state = node.state();
        // One that is about to lose its name, or goes by one of several that it may
        // have to look for: a kernel that opens looks the path up again if it cannot,
        // and does nothing of the kind if it cannot be read.
        if state.orphan || !state.aliases.is_empty() || node.inner.whereabouts().is_none() {
            return None;
        }
        let reader = state.reader.upgrade().unwrap_or_else(|| {
            let reader = Arc::new(Reader::default());
            state.reader = Arc::downgrade(&reader);
            reader
        });
        let file = HumFile { data: Data::Late(reader), node: node.clone() };
        Some(Opened { file, cache: FileCache::Keep, size: 0 })
    }

    /// What `file` is read and written through.
    pub(crate) fn data<'f>(&self, file: &'f HumFile) -> Result<&'f Arc<OpenFile>> {
        match &file.data {
            Data::Open(opened) => Ok(opened),
            Data::Late(reader) => match reader.opened.get() {
                Some(opened) => Ok(opened),
                None => self.in_place(&file.node, || self.open_now(&file.node, reader)),
            },
        }
    }

    /// What `act` makes of `node`, whose name may be changing at this moment: then
    /// once more when it is not.
    pub(crate) fn in_place<T>(&self, node: &HumNode, act: impl Fn() -> Result<T>) -> Result<T> {
        match act() {
            Err(error) if error.errno() == Errno::ESTALE => self.with_place(node, |_| act()),
            answer => answer,
        }
    }

    fn open_now<'r>(&self, node: &HumNode, reader: &'r Reader) -> Result<&'r Arc<OpenFile>> {
        let _opening = reader.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = reader.opened.get() {
            return Ok(opened);
        }
        let opened = self.base.open(&Caller::root(), &node.inner, OpenFlags { read: true, ..OpenFlags::default() })?;
        Ok(reader.opened.get_or_init(|| opened.file))
    }

    /// A name of `node` is about to go, and its directory is held: whoever reads
    /// it goes on.
    pub(crate) fn hold_reader(&self, node: &HumNode) -> Result<()> {
        let reader = node.state().reader.upgrade();
        let Some(reader) = reader.filter(|reader| reader.opened.get().is_none()) else { return Ok(()) };
        match self.open_now(node, &reader) {
            Err(error) if matches!(error.errno(), Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM) => Err(error),
            // One that cannot be read now could not have been a moment ago.
            _ => Ok(()),
        }
    }

    /// See [`externfs::ExternFs::open_dir`].
    pub(crate) fn open_listing(&self, node: &Arc<HumNode>) -> Result<HumDir> {
        let is_late = node.inner.host_kind() == FileKind::Directory && !self.is_read_only() && !node.state().orphan;
        let inner = if is_late { OnceLock::new() } else { self.base.open_dir(&node.inner)?.into() };
        Ok(HumDir { inner, node: node.clone() })
    }

    fn listing<'d>(&self, dir: &'d HumDir) -> Result<&'d hostfs::Listing> {
        if let Some(listing) = dir.inner.get() {
            return Ok(listing);
        }
        let opened = self.in_place(&dir.node, || self.base.open_dir(&dir.node.inner))?;
        Ok(dir.inner.get_or_init(|| opened))
    }

    /// See [`externfs::ExternFs::read_dir`].
    pub(crate) fn read_listing(&self, dir: &HumDir, cookie: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        if dir.inner.get().is_none() && dir.node.state().orphan {
            // There is nothing in what has been removed.
            return Ok(());
        }
        self.base.read_dir(self.listing(dir)?, cookie, emit)
    }

    /// See [`externfs::ExternFs::fsync_dir`].
    pub(crate) fn sync_listing(&self, dir: &HumDir) -> Result<()> {
        self.base.fsync_dir(self.listing(dir)?, false)
    }
}
