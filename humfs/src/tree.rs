//! [`Tree`]: a humfs tree on the host, opened: its superblock, its parts, its
//! lock.
//!
//! ```text
//! TREE/superblock        four lines; see superblock.rs
//! TREE/data/             the guest's files
//! TREE/file_metadata/    records of the shadow formats
//! TREE/dir_metadata/
//! TREE/file_attributes/  their extended attributes, when there are any
//! TREE/dir_attributes/
//! TREE/humfs/            what the original does not know:
//!      lock              held by the writer
//!      state             counters, and what is in flight
//!      settings          the tree's own policies, as KEY VALUE lines
//!      intents/          changes of several steps
//!      stage/            what is not finished yet
//!      metadata.db       the database of the sqlite format
//! ```

use crate::account::state::Left;
use crate::account::{EntryKind, cost};
use crate::host::{self, Fault};
use crate::path;
use crate::store::shadow::ShadowStore;
use crate::store::sqlite::SqliteStore;
use crate::store::xattr::XattrStore;
use crate::store::{Format, MetaStore};
use crate::superblock::Superblock;
use externfs::UsageError;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno as Host;
use std::collections::HashSet;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// In the lock's file while its holder is on the way out.
const CLOSING: &[u8] = b"closing";

/// Marks of what was cut short, and what goes on with it. Such a tree is
/// nobody else's to open.
pub(crate) const UNFINISHED: [(&CStr, &str); 3] = [
    (crate::make::IMPORTING, "the same 'externfs create'"),
    (crate::humfsify::CONVERTING, "the same 'humfsify'"),
    (crate::humfsify::RESTORING, "'humfsify -r'"),
];

/// A longer one is none, in bytes.
const SUPERBLOCK_MAX: usize = 4096;

/// How a tree is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// To change it: nobody else may at the same time.
    Write,
    /// To look, beside a writer if there is one.
    Read,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Tree {
    path: PathBuf,
    root: OwnedFd,
    data: OwnedFd,
    /// `humfs/`; None for a tree that is only read and has none.
    control: Option<OwnedFd>,
    superblock: Superblock,
    access: Access,
    /// Held for as long as the tree is open for writing.
    lock: Option<OwnedFd>,
    had_current_catalog: bool,
}

impl Tree {
    /// Opens the tree at `path`.
    ///
    /// # Errors
    /// One clear line: what is wrong and what to do.
    pub fn open(path: &Path, access: Access) -> Result<Tree, UsageError> {
        Tree::open_complete(path, access, false)?.without_conversion()
    }

    /// As [`Tree::open`], for a server, which goes on for long after it was called:
    /// root must not change another user's tree.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn open_to_serve(path: &Path, access: Access) -> Result<Tree, UsageError> {
        Tree::open_complete(path, access, true)?.without_conversion()
    }

    /// As [`Tree::open`] for writing, by who goes on with a conversion.
    pub(crate) fn open_to_convert(path: &Path) -> Result<Tree, UsageError> {
        Tree::open_complete(path, Access::Write, false)
    }

    /// What a conversion has built goes before the tree is changed: it would bring
    /// back what is removed, and meanwhile it gives files second names.
    pub(crate) fn without_conversion(self) -> Result<Tree, UsageError> {
        let Some(control) = self.control().filter(|_| self.access == Access::Write) else { return Ok(self) };
        let shown = self.path.display();
        if crate::convert::abandon(control, self.superblock.format)
            .map_err(|error| UsageError(format!("'{shown}': removing humfs/convert: {error}")))?
        {
            tracing::info!("{shown}: a conversion that was cut short is given up: the next 'externfs convert' begins anew");
        }
        Ok(self)
    }

    fn open_complete(path: &Path, access: Access, to_serve: bool) -> Result<Tree, UsageError> {
        let tree = Tree::open_any(path, access, None, to_serve)?;
        for (mark, remedy) in UNFINISHED {
            if tree.control().is_some_and(|control| host::child(control, mark).is_ok()) {
                return Err(UsageError(format!("'{}' is not complete: run {remedy} again", path.display())));
            }
        }
        tree.check_privacy()?;
        Ok(tree)
    }

    /// Opens the tree at `path` for writing by whoever has left a mark in it
    /// that keeps others out. `lock` is the writer's, if the caller has it.
    pub(crate) fn open_marked(path: &Path, lock: Option<OwnedFd>) -> Result<Tree, UsageError> {
        let tree = Tree::open_any(path, Access::Write, lock, false)?;
        tree.check_privacy()?;
        Ok(tree)
    }

    /// As [`Tree::open`], whatever its state and whoever else may come near:
    /// for who looks into that.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn open_exposed(path: &Path, access: Access) -> Result<Tree, UsageError> {
        Tree::open_any(path, access, None, false)
    }

    fn open_any(path: &Path, access: Access, held: Option<OwnedFd>, to_serve: bool) -> Result<Tree, UsageError> {
        let shown = path.display();
        // While it can be read: the server goes into its sandbox next.
        let _ = host::boot_id();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(rustix::fs::CWD, path, flags, Mode::empty()).map_err(|error| match error {
            Host::NOENT => UsageError(format!("'{shown}' does not exist: 'externfs create {shown} --size 1G' makes a humfs tree")),
            Host::NOTDIR => UsageError(format!("'{shown}' is not a directory: a humfs tree is one")),
            other => UsageError(format!("cannot open '{shown}': {other}")),
        })?;
        let cannot = |what: &'static str| move |error: Host| UsageError(format!("'{}': {what}: {error}", path.display()));
        if to_serve && access == Access::Write {
            refuse_for_root(root.as_fd(), path)?;
        }
        // Before anything is made in a directory that is no tree.
        host::child(root.as_fd(), c"superblock").map_err(|error| match error {
            Host::NOENT if host::child(root.as_fd(), c"humfs/converting").is_ok() => {
                UsageError(format!("'{shown}' is not complete: run the same 'humfsify' again"))
            }
            Host::NOENT => {
                UsageError(format!("'{shown}' is no humfs tree: it has no superblock; 'externfs create' makes one, 'humfsify' converts"))
            }
            other => cannot("reading the superblock")(other),
        })?;
        let control = open_control(root.as_fd(), access).map_err(|error| match error {
            Host::ACCESS => UsageError(format!("'{shown}' is not yours: give it to the user who is to serve it: chown USER '{shown}'")),
            other => cannot("opening humfs/")(other),
        })?;
        let lock = match (&control, access) {
            (Some(control), Access::Write) => Some(held.map_or_else(|| take_lock(control.as_fd(), path), Ok)?),
            _ => None,
        };
        let had_current_catalog = match (&control, access) {
            (Some(control), Access::Write) => {
                crate::catalog::take_marker(control.as_fd()).map_err(cannot("removing humfs/catalog/current"))?
            }
            _ => false,
        };
        match access {
            Access::Write => crate::convert::finish(root.as_fd()).map_err(cannot("going on with a conversion"))?,
            Access::Read if is_switching(control.as_ref()) => {
                return Err(UsageError(format!("'{shown}' is between two formats: mount it without 'ro' once, or convert it again")));
            }
            Access::Read => {}
        }
        let text = host::read_file(root.as_fd(), c"superblock", SUPERBLOCK_MAX).map_err(cannot("reading the superblock"))?;
        let superblock = Superblock::parse(&text).map_err(|why| UsageError(format!("'{shown}/superblock': {why}")))?;
        if superblock.version == 1 {
            return Err(UsageError(format!(
                "'{shown}' is a tree of version 1: 'externfs convert {shown} --metadata shadow_fs' upgrades it"
            )));
        }
        let data = host::child_dir(root.as_fd(), c"data").map_err(cannot("opening data/"))?;
        let tree = Tree { path: path.to_owned(), root, data, control, superblock, access, lock, had_current_catalog };
        Ok(tree)
    }

    /// Whoever may write an attribute can forge a record of the `xattr`
    /// format, so nobody but the owner may come near.
    fn check_privacy(&self) -> Result<(), UsageError> {
        if self.superblock.format != Format::Xattr {
            return Ok(());
        }
        let shown = self.path.display();
        let stat = rustix::fs::statat(&self.root, c"", rustix::fs::AtFlags::EMPTY_PATH)
            .map_err(|error| UsageError(format!("'{shown}': {error}")))?;
        if stat.st_mode & 0o077 != 0 {
            return Err(UsageError(format!("'{shown}' is open to other users, who could forge its records: chmod 700 '{shown}'")));
        }
        Ok(())
    }

    /// As it was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tree's own directory.
    #[must_use]
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The guest's root.
    #[must_use]
    pub fn data(&self) -> BorrowedFd<'_> {
        self.data.as_fd()
    }

    /// `humfs/`.
    #[must_use]
    pub fn control(&self) -> Option<BorrowedFd<'_>> {
        self.control.as_ref().map(AsFd::as_fd)
    }

    /// As it was when the tree was opened.
    #[must_use]
    pub fn superblock(&self) -> Superblock {
        self.superblock
    }

    /// The limit that the superblock states right now, if it can be read.
    pub(crate) fn total_now(&self) -> Option<u64> {
        let text = host::read_file(self.root(), c"superblock", SUPERBLOCK_MAX).ok()?;
        Superblock::parse(&text).ok().map(|superblock| superblock.total)
    }

    /// Whether the catalog agreed with the tree when it was opened for writing.
    pub(crate) fn had_current_catalog(&self) -> bool {
        self.had_current_catalog
    }

    /// How it was opened.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// Changes the superblock, whole or not at all. Others who do the same wait
    /// meanwhile; an editor does not, and the later of the two wins.
    ///
    /// # Errors
    /// What the host says; EINVAL for a superblock that has become nonsense.
    pub fn edit_superblock(&self, edit: impl FnOnce(&mut Superblock)) -> Fault<()> {
        edit_superblock(self.root(), self.control().ok_or(Host::ROFS)?, edit)
    }

    /// Tells who wants the tree next that it will be free in a moment.
    pub(crate) fn announce_closing(&self) {
        if let Some(lock) = &self.lock {
            // Should it fail, the next one is refused instead of waiting.
            let _ = host::write_all(lock.as_fd(), CLOSING);
        }
    }

    /// A directory of `humfs/`, made if need be.
    ///
    /// # Errors
    /// What the host says; ENOENT in a tree that is only read and has none.
    pub fn control_dir(&self, name: &std::ffi::CStr) -> Fault<OwnedFd> {
        let control = self.control().ok_or(Host::NOENT)?;
        match self.access {
            Access::Write => host::ensure_dir(control, name),
            Access::Read => host::child_dir(control, name),
        }
    }

    /// The store of the tree's format.
    ///
    /// # Errors
    /// One clear line.
    pub fn store(&self) -> Result<Box<dyn MetaStore>, UsageError> {
        self.store_of(self.superblock.format)
    }

    /// A store of `format` in this tree, whatever its superblock says.
    ///
    /// # Errors
    /// One clear line.
    pub fn store_of(&self, format: Format) -> Result<Box<dyn MetaStore>, UsageError> {
        let shown = self.path.display();
        let cannot = |error: externfs::Error| UsageError(format!("'{shown}': cannot open its {} records: {error}", format.name()));
        Ok(match format {
            Format::ShadowFs | Format::ShadowLink => Box::new(ShadowStore::open(self, format).map_err(cannot)?),
            Format::Sqlite => Box::new(SqliteStore::open(self).map_err(cannot)?),
            Format::Xattr => Box::new(XattrStore::open(self).map_err(cannot)?),
        })
    }
}

/// The version that the superblock at `path` states, if there is one.
pub(crate) fn version(path: &Path) -> Option<u32> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    let text = host::read_file(root.as_fd(), c"superblock", SUPERBLOCK_MAX).ok()?;
    Superblock::parse(&text).ok().map(|superblock| superblock.version)
}

fn is_switching(control: Option<&OwnedFd>) -> bool {
    control.is_some_and(|control| host::child(control.as_fd(), crate::convert::SWITCHING).is_ok())
}

/// See [`Tree::edit_superblock`].
pub(crate) fn edit_superblock(root: BorrowedFd<'_>, control: BorrowedFd<'_>, edit: impl FnOnce(&mut Superblock)) -> Fault<()> {
    let lock = host::open_file(control, c"superblock.lock", OFlags::CREATE | OFlags::RDWR)?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
    let there = host::read_file(root, c"superblock", SUPERBLOCK_MAX)?;
    let mut superblock = Superblock::parse(&there).map_err(|_| Host::INVAL)?;
    edit(&mut superblock);
    let text = superblock.to_text();
    if text.as_bytes() == there {
        return Ok(());
    }
    host::replace_file(root, c"superblock", text.as_bytes())
}

/// Sets the limit of the tree at `path`, which may be mounted: its server
/// looks at the superblock when it tells sizes, before it says ENOSPC, and a
/// second after it last did before any change.
///
/// # Errors
/// One clear line; a limit below what is used is refused.
pub fn resize(path: &Path, total: u64) -> Result<(), UsageError> {
    let shown = path.display();
    // No lock of the writer's: whoever serves the tree has it.
    let tree = Tree::open(path, Access::Read)?;
    let cannot = |error: Host| UsageError(format!("cannot resize '{shown}': {error}"));
    let control = host::ensure_dir(tree.root(), c"humfs").map_err(cannot)?;
    let counted = crate::account::state::read(control.as_fd()).map_err(cannot)?;
    let used = counted.map_or(tree.superblock().used, |(state, left)| used_now(&tree, state.named().bytes, &left));
    if total < used {
        return Err(UsageError(format!("'{shown}' uses {used} bytes: it cannot become smaller than that")));
    }
    edit_superblock(tree.root(), control.as_fd(), |superblock| superblock.total = total).map_err(cannot)
}

/// Bytes used by what has a name, if `counted` are those of the counters, and `left`
/// are the changes that its server has announced: some have been made, and others
/// may be in this moment.
pub(crate) fn used_now(tree: &Tree, counted: u64, left: &[Left]) -> u64 {
    let mut used = counted;
    let mut changed = HashSet::new();
    for entry in left {
        let Some((dirs, name)) = path::split(&entry.path) else { continue };
        let there = path::walk(tree.data(), &dirs).and_then(|dir| host::stat_at(dir.as_fd(), &name));
        // What attributes cost is not looked at: nothing is taken for smaller by that.
        let there = there.ok().map(|host| (host.ino, cost(&host, 0)));
        match (entry.kind, there) {
            (Some(EntryKind::Create), Some((ino, cost))) if ino != entry.ino => used = used.saturating_add(cost),
            (Some(EntryKind::Change), Some((ino, cost))) if ino == entry.ino && changed.insert(ino) => {
                used = used.saturating_add(cost.saturating_sub(entry.before));
            }
            (Some(EntryKind::Remove), there) if there.is_none_or(|(ino, _)| ino != entry.ino) => used = used.saturating_sub(entry.before),
            _ => {}
        }
    }
    used
}

/// What root makes in a tree is root's, and in the way of its owner's own server
/// later; so root acts as that user, here by the file-system ids at least. The
/// directory itself is asked: what its path leads to may change.
fn refuse_for_root(root: BorrowedFd<'_>, path: &Path) -> Result<(), UsageError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let shown = path.display();
    let owner = rustix::fs::fstat(root).map_err(|error| UsageError(format!("cannot look at '{shown}': {error}")))?.st_uid;
    if owner == hostfs::layer::acting_uid() {
        return Ok(());
    }
    Err(UsageError(format!(
        "'{shown}' belongs to user {owner}, and what another changes in it would be in his way: do it as that user (setpriv --reuid={owner} ...)"
    )))
}

fn open_control(root: BorrowedFd<'_>, access: Access) -> Fault<Option<OwnedFd>> {
    match access {
        Access::Write => host::ensure_dir(root, c"humfs").map(Some),
        Access::Read => match host::child_dir(root, c"humfs") {
            Err(Host::NOENT) => Ok(None),
            answer => answer.map(Some),
        },
    }
}

/// How long a writer that is on its way out is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long it may take a writer to notice that it is unmounted, and to say so.
const NOTICE: Duration = Duration::from_secs(1);

/// One writer a tree. The lock belongs to the open file and goes with the
/// last process that has it, however that ends. A writer that is unmounted
/// already, and still writes out what it has, is waited for.
pub(crate) fn take_lock(control: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, UsageError> {
    let shown = path.display();
    let lock = host::open_file(control, c"lock", OFlags::CREATE | OFlags::RDWR)
        .map_err(|error| UsageError(format!("'{shown}/humfs/lock': {error}")))?;
    match lock_when_free(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(true) => {}
        Ok(false) => return Err(UsageError(format!("'{shown}' is in use by another writer: unmount it first, or mount it with -o ro"))),
        Err(error) => return Err(UsageError(format!("'{shown}/humfs/lock': {error}"))),
    }
    rustix::fs::ftruncate(&lock, 0).map_err(|error| UsageError(format!("'{shown}/humfs/lock': {error}")))?;
    Ok(lock)
}

/// Takes the lock, after a writer that is on its way out; false if one stays.
pub(crate) fn lock_when_free(lock: &OwnedFd, operation: FlockOperation) -> Fault<bool> {
    let begun = Instant::now();
    loop {
        match rustix::fs::flock(lock, operation) {
            Err(Host::WOULDBLOCK) => {}
            answer => return answer.map(|()| true),
        }
        let holder = host::read_fd(lock.as_fd(), 64)?;
        if begun.elapsed() > if holder.starts_with(CLOSING) { PATIENCE } else { NOTICE } {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
