//! The `shadow_fs` and `shadow_link` formats: records in trees beside the data
//! tree, found by the same names.
//!
//! ```text
//! TREE/file_metadata/PATH      the record of each object that is no directory
//! TREE/dir_metadata/DIR/...    that of each directory, in its mirror: see own.rs
//! TREE/file_attributes/PATH    extended attributes, likewise, for the few
//! TREE/dir_attributes/DIR/...  objects that have any
//! ```
//! The first two are the original's, byte for byte (see lines.rs); the others
//! are ours (see attributes.rs), and there only once they have been needed.
//!
//! # What makes each change one
//! A record without an object is invisible, so:
//! * **create**, mkdir: the record, over any stale one, then the object.
//! * **remove**: the object, then its record.
//! * **link**: hard links of the records, then of the object. A record that is
//!   a link itself becomes a file first, which says the same.
//! * **rename** of what is no directory onto a free name: the records get the
//!   new name as well, then the object moves, then the old names of the
//!   records go.
//! * **save**: the attributes, which say for which line they hold, then the
//!   line, then the object's ctime. That comes last so that an fsync of the
//!   object, which the host's journal does in order, brings the record with it.
//! * **Every other rename**, see moves.rs: an intent; the records change
//!   places, which is its own opposite; then the objects move, which is the
//!   point of no return; then what was replaced goes, then the intent.
//!
//! The host must know `RENAME_EXCHANGE`; all local file systems do.
//!
//! # Locks
//! ```text
//! Mirror::names           while a directory's record is used by its name, and
//!                         (for writing) while it gets another; one at a time
//! Mirror::cache           for a look
//! ```

mod attributes;
mod awaited;
mod fresh;
mod inspect;
mod lines;
mod mirror;
mod moves;
mod names;
mod own;
mod records;
mod stage;
#[cfg(test)]
mod tests;
pub mod version1;

use super::{At, Facts, Format, Loaded, MetaStore, Object, Place, Recovered, Renaming};
use crate::host::{self, Fault, damaged, fault};
use crate::intent::Journal;
use crate::record::{Note, Record};
use crate::tree::{Access, Tree};
use awaited::Awaited;
use externfs::{Attr, Errno, Error, NodeKey, Result};
use fresh::Fresh;
use hostfs::Inode;
use lines::Style;
use mirror::{Holds, Mirror, Pair};
use rustix::io::Errno as Host;
use stage::Stage;
use std::ffi::CStr;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// See the [module](self).
#[derive(Debug)]
pub struct ShadowStore {
    style: Style,
    tree: OwnedFd,
    data: OwnedFd,
    data_root: NodeKey,
    lines: Pair,
    /// Empty while the tree has none: nothing is looked for then.
    attributes: OnceLock<Pair>,
    /// None in a tree that is only read.
    writing: Option<Writing>,
}

/// What changes need.
#[derive(Debug)]
struct Writing {
    stage: Stage,
    fresh: Fresh,
    awaited: Awaited,
    journal: Journal,
    /// A change could be neither completed nor taken back. Its intent is right
    /// for as long as nothing else changes, so nothing does until the next mount.
    is_stuck: AtomicBool,
}

impl ShadowStore {
    /// Of `tree`, in `format`: one of the two shadow formats.
    ///
    /// # Errors
    /// What the host says.
    pub fn open(tree: &Tree, format: Format) -> Result<ShadowStore> {
        let failed = fault("opening the metadata trees");
        let style = if format == Format::ShadowLink { Style::Link } else { Style::File };
        let data_root = hostfs::layer::key(tree.data()).map_err(&failed)?;
        let can_write = tree.access() == Access::Write;
        let trees = ["file_metadata", "dir_metadata"];
        let lines = Pair::open(tree.root(), trees, data_root, can_write)
            .map_err(|host| damaged(format!("opening {} and {}: {host}", trees[0], trees[1])))?;
        let attributes = match Pair::open(tree.root(), ATTRIBUTE_TREES, data_root, false) {
            Ok(pair) => OnceLock::from(pair),
            Err(Host::NOENT) => OnceLock::new(),
            Err(other) => return Err(failed(other)),
        };
        let own = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 0).map_err(&failed);
        let writing = if can_write { Some(Writing::open(tree).map_err(&failed)?) } else { None };
        Ok(ShadowStore { style, tree: own(tree.root())?, data: own(tree.data())?, data_root, lines, attributes, writing })
    }

    fn is_root(&self, node: &Inode) -> bool {
        node.host_key() == self.data_root
    }

    /// What a change needs.
    fn writing(&self) -> Result<&Writing> {
        let writing = self.writing.as_ref().ok_or(Errno::EROFS)?;
        if writing.is_stuck.load(Ordering::Relaxed) {
            return Err(damaged("a change stuck half-way; the next mount completes it or takes it back"));
        }
        Ok(writing)
    }

    /// The trees of the attributes, made if need be.
    fn attributes(&self) -> Result<&Pair> {
        if let Some(pair) = self.attributes.get() {
            return Ok(pair);
        }
        let pair = Pair::open(&self.tree, ATTRIBUTE_TREES, self.data_root, true).map_err(fault("making the attribute trees"))?;
        Ok(self.attributes.get_or_init(|| pair))
    }

    /// The pairs that are there.
    fn pairs(&self) -> impl Iterator<Item = &Pair> {
        std::iter::once(&self.lines).chain(self.attributes.get())
    }

    fn mirrors(&self) -> impl Iterator<Item = &Mirror> {
        self.pairs().flat_map(|pair| [&pair.files, &pair.dirs])
    }

    /// Runs `change`; if the process is out of descriptors, closes the spare
    /// ones and tries once more.
    fn with_spare_fds<T>(&self, change: impl Fn() -> Result<T>) -> Result<T> {
        match change() {
            Err(error) if error.errno() == Errno::EMFILE => {
                self.mirrors().for_each(Mirror::clear);
                change()
            }
            answer => answer,
        }
    }
}

const ATTRIBUTE_TREES: [&str; 2] = ["file_attributes", "dir_attributes"];

impl Writing {
    /// Lets nothing change any more, and says `why`.
    fn stick(&self, why: &str) -> Error {
        self.is_stuck.store(true, Ordering::Relaxed);
        damaged(format!("{why}; the next mount completes it or takes it back"))
    }

    fn open(tree: &Tree) -> Fault<Writing> {
        let (stage, journal) = (Stage::new(tree.control_dir(c"stage")?), Journal::new(tree.control_dir(c"intents")?));
        Ok(Writing { stage, fresh: Fresh::default(), awaited: Awaited::default(), journal, is_stuck: AtomicBool::new(false) })
    }
}

impl Pair {
    /// The trees called `names`; ENOENT if they are not there and not to be made.
    fn open(tree: impl AsFd, names: [&str; 2], data_root: NodeKey, make: bool) -> Fault<Pair> {
        let [files, dirs] = names.map(|name| {
            let name = std::ffi::CString::new(name).map_err(|_| Host::INVAL)?;
            if make { host::ensure_dir(tree.as_fd(), &name) } else { host::child_dir(tree.as_fd(), &name) }
        });
        let each = descriptors_each();
        Ok(Pair { files: Mirror::new(files?, data_root, Holds::Files, each), dirs: Mirror::new(dirs?, data_root, Holds::Dirs, each) })
    }
}

/// Descriptors that each of four mirrors may keep: an eighth of what the
/// process may have, or 2048, in all.
fn descriptors_each() -> NonZeroUsize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let all = limit.map_or(2048, |limit| usize::try_from(limit / 8).unwrap_or(2048)).min(2048);
    NonZeroUsize::new(all / 4).unwrap_or(NonZeroUsize::MIN)
}

impl MetaStore for ShadowStore {
    fn format(&self) -> Format {
        match self.style {
            Style::File => Format::ShadowFs,
            Style::Link => Format::ShadowLink,
        }
    }

    fn load(&self, at: &At<'_>, host: &Attr) -> Result<Loaded> {
        self.with_spare_fds(|| self.load_record(&Place::Named(*at), host))
    }

    fn load_root(&self, _root: BorrowedFd<'_>, host: &Attr) -> Result<Loaded> {
        self.with_spare_fds(|| self.load_record(&Place::Root, host))
    }

    fn save(&self, object: &Object<'_>, record: &Record) -> Result<Note> {
        self.with_spare_fds(|| self.save_record(object, record)).map(|()| Note::default())
    }

    fn create(&self, at: &At<'_>, record: &Record) -> Result<(OwnedFd, Note)> {
        self.with_spare_fds(|| self.create_object(at, record)).map(Note::none_for)
    }

    fn create_unnamed(&self, dir: BorrowedFd<'_>, _record: &Record) -> Result<OwnedFd> {
        self.writing()?;
        self.with_spare_fds(|| host::unnamed(dir).map_err(fault("creating a file")))
    }

    fn link(&self, object: &Object<'_>, to: &At<'_>, record: &Record) -> Result<()> {
        self.with_spare_fds(|| self.link_object(object, to, record))
    }

    fn remove(&self, at: &At<'_>, victim: Facts) -> Result<()> {
        self.with_spare_fds(|| self.remove_object(at, victim))
    }

    fn rename(&self, from: &At<'_>, to: &At<'_>, how: &Renaming) -> Result<()> {
        self.with_spare_fds(|| self.rename_object(from, to, how))
    }

    fn sync_record(&self, object: &Object<'_>) -> Result<()> {
        self.with_spare_fds(|| self.sync_records_of(object))
    }

    fn sync(&self) -> Result<()> {
        if let Some(writing) = &self.writing {
            writing.fresh.sync_all();
        }
        self.sync_all_awaited()
    }

    fn sync_names(&self, dir: &Arc<Inode>) -> Result<bool> {
        self.with_spare_fds(|| self.sync_awaited_in(dir))
    }

    fn recover(&self, _root: &Arc<Inode>) -> Result<Recovered> {
        self.recover_all()
    }

    fn recorded_names(&self, dir: &Arc<Inode>, emit: &mut dyn FnMut(&CStr)) -> Result<()> {
        self.list_recorded(dir, emit)
    }

    fn discard(&self, at: &At<'_>) -> Result<()> {
        self.with_spare_fds(|| self.discard_records(at))
    }

    fn reset(&self, object: &Object<'_>, record: &Record) -> Result<()> {
        self.with_spare_fds(|| self.reset_record(object, record))
    }

    fn is_unwritten(&self, at: Option<&At<'_>>, host: &Attr) -> Result<bool> {
        self.with_spare_fds(|| self.is_record_unwritten(at, host))
    }

    fn identity(&self, at: &At<'_>) -> Result<u64> {
        self.with_spare_fds(|| self.record_number(at))
    }

    fn describe(&self, _root: BorrowedFd<'_>, at: Option<&At<'_>>) -> String {
        self.describe_record(at)
    }
}
