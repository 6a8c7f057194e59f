//! Making a tree: empty, or one that is filled before anybody opens it.
//!
//! The writer's lock is held from before anything is made until the tree is
//! whole, without a gap: who waits for it looks anew at what is there once it has
//! it, and finds either what was cut short or a tree that is nobody's to make again.

use crate::account::{DIRECTORY_COST, INODE_COST};
use crate::birth;
use crate::convert::PARTS;
use crate::fs::HumFs;
use crate::host::{self, Fault};
use crate::options::{Adopt, Options};
use crate::store::Format;
use crate::superblock::Superblock;
use crate::tree::{Tree, take_lock};
use externfs::{Bridge, BridgeOptions, UsageError};
use rustix::fs::OFlags;
use rustix::io::Errno as Host;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a new tree is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Where records live.
    pub format: Format,
    /// Bytes that may be used, [`TOTAL_MIN`] at least.
    pub total: u64,
    /// Objects that it may hold; None for as many as the host takes.
    pub inodes: Option<u64>,
    /// What becomes of files that the host makes in it; None for [`Adopt::default`].
    pub adopt: Option<Adopt>,
}

impl Plan {
    /// `humfs/settings`.
    fn settings(&self) -> String {
        let inodes = self.inodes.map(|inodes| format!("inodes {inodes}\n"));
        let adopt = self.adopt.map(|adopt| format!("adopt {}\n", adopt.word()));
        inodes.into_iter().chain(adopt).collect()
    }
}

/// What an empty tree uses, for its root. One with less could never be filled, nor
/// take so much as an attribute.
pub const TOTAL_MIN: u64 = DIRECTORY_COST + INODE_COST;

/// In `humfs/` while a tree is being made or filled. Nobody opens it then.
pub(crate) const IMPORTING: &CStr = c"importing";

/// Makes an empty tree in the directory `path`, which is made if it is not
/// there and must be empty otherwise. What an attempt left that was cut short
/// counts as empty.
///
/// # Errors
/// One clear line: what is wrong and what to do.
pub fn lay(path: &Path, plan: &Plan) -> Result<(), UsageError> {
    let (root, control, lock) = prepare(path, plan)?;
    let cannot = cannot_make(path);
    lay_in(root.as_fd(), &plan.superblock()).map_err(&cannot)?;
    host::remove_file(control.as_fd(), IMPORTING).map_err(&cannot)?;
    drop(lock);
    Ok(())
}

/// A tree that [`lay_to_fill`] has made, and nobody else's until this is dropped.
#[derive(Debug)]
pub struct Filling {
    path: PathBuf,
    control: OwnedFd,
    lock: OwnedFd,
}

/// As [`lay`], but nobody can open the tree before [`Filling::finish`] was called,
/// except by [`Filling::open`]. Without that end the next call, or the next
/// [`lay`], starts over.
///
/// # Errors
/// As for [`lay`].
pub fn lay_to_fill(path: &Path, plan: &Plan) -> Result<Filling, UsageError> {
    let (root, control, lock) = prepare(path, plan)?;
    let cannot = cannot_make(path);
    drop(host::open_file(control.as_fd(), IMPORTING, OFlags::CREATE | OFlags::WRONLY).map_err(&cannot)?);
    // A mark that comes back after a power failure is harmless; one that has
    // gone, with the superblock there, is not.
    rustix::fs::fsync(host::open_listing(control.as_fd()).map_err(&cannot)?).map_err(&cannot)?;
    lay_in(root.as_fd(), &plan.superblock()).map_err(&cannot)?;
    Ok(Filling { path: path.to_owned(), control, lock })
}

impl Filling {
    /// Opens the tree.
    ///
    /// # Errors
    /// One clear line.
    pub fn open(&self) -> Result<Arc<Bridge<HumFs>>, UsageError> {
        // The lock is the open file's: it outlives the tree that is closed first.
        let lock = self.lock.try_clone().map_err(|error| UsageError(format!("'{}/humfs/lock': {error}", self.path.display())))?;
        let tree = Tree::open_marked(&self.path, Some(lock))?;
        let filling = HumFs::new(tree, Options::default()).and_then(|fs| {
            // Cut short, it is made anew: nobody would want the account of it.
            fs.account().write_at_the_end().map_err(host::fault("writing humfs/state"))?;
            Bridge::new(fs, BridgeOptions::default())
        });
        filling.map_err(|error| UsageError(format!("'{}': {error}", self.path.display())))
    }

    /// The tree is filled, and everything in it durable: anybody may open it.
    ///
    /// # Errors
    /// One clear line.
    pub fn finish(self) -> Result<(), UsageError> {
        let cannot = cannot_make(&self.path);
        host::remove_file(self.control.as_fd(), IMPORTING).map_err(&cannot)?;
        rustix::fs::fsync(host::open_listing(self.control.as_fd()).map_err(&cannot)?).map_err(&cannot)
    }
}

fn cannot_make(path: &Path) -> impl Fn(Host) -> UsageError {
    move |error| UsageError(format!("cannot make a tree in '{}': {error}", path.display()))
}

/// The directory and its `humfs/`, with nothing of a tree in them but what
/// was asked for, and the writer's lock.
fn prepare(path: &Path, plan: &Plan) -> Result<(OwnedFd, OwnedFd, OwnedFd), UsageError> {
    let shown = path.display();
    if plan.total < TOTAL_MIN {
        return Err(UsageError(format!(
            "'{shown}' cannot be made with {} bytes: an empty tree uses {TOTAL_MIN}, which is the least that it may hold",
            plan.total
        )));
    }
    let cannot = cannot_make(path);
    match rustix::fs::mkdir(path, host::DIR_MODE) {
        Ok(()) | Err(Host::EXIST) => {}
        Err(Host::NOENT) => return Err(UsageError(format!("cannot make '{shown}': the directory above it does not exist"))),
        Err(other) => return Err(cannot(other)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map_err(|error| match error {
        Host::NOTDIR => UsageError(format!("'{shown}' is not a directory: give one that is empty, or a name that is free")),
        other => cannot(other),
    })?;
    is_unfinished(root.as_fd(), path)?;
    // Nobody but its owner has business in it.
    rustix::fs::fchmod(&root, host::DIR_MODE).map_err(&cannot)?;
    let control = host::ensure_dir(root.as_fd(), c"humfs").map_err(&cannot)?;
    let lock = take_lock(control.as_fd(), path)?;
    // Whoever had it until now may have made a tree meanwhile.
    if is_unfinished(root.as_fd(), path)? {
        start_over(root.as_fd(), control.as_fd()).map_err(&cannot)?;
    }
    let data = host::ensure_dir(root.as_fd(), c"data").map_err(&cannot)?;
    if !host::names(data.as_fd()).map_err(&cannot)?.is_empty() {
        return Err(UsageError(format!("'{shown}/data' is not empty: 'humfsify' converts a directory that is there")));
    }
    let settings = plan.settings();
    if !settings.is_empty() {
        host::replace_file(control.as_fd(), c"settings", settings.as_bytes()).map_err(&cannot)?;
    }
    Ok((root, control, lock))
}

/// Whether an attempt to make a tree in `root` was cut short.
///
/// # Errors
/// There is something in it that no such attempt has made.
fn is_unfinished(root: BorrowedFd<'_>, path: &Path) -> Result<bool, UsageError> {
    let shown = path.display();
    let unfinished = host::child(root, c"humfs/importing").is_ok();
    for (name, _) in host::names(root).map_err(cannot_make(path))? {
        match name.to_bytes() {
            b"superblock" if !unfinished => {
                return Err(UsageError(format!("'{shown}' is a humfs tree already: 'externfs check' looks at it")));
            }
            b"superblock" | b"superblock.new" | b"humfs" => {}
            _ if PARTS.contains(&&*name) => {}
            other => {
                return Err(UsageError(format!("'{shown}' is not empty: it holds '{}'", other.escape_ascii())));
            }
        }
    }
    Ok(unfinished)
}

/// Takes away what an attempt made that was cut short: the mark last, and that
/// by whoever goes on.
fn start_over(root: BorrowedFd<'_>, control: BorrowedFd<'_>) -> Fault<()> {
    host::remove_file(root, c"superblock")?;
    for part in PARTS {
        host::remove_deep(root, part)?;
    }
    for (name, _) in host::names(control)? {
        if *name != *IMPORTING && *name != *c"lock" {
            host::remove_deep(control, &name)?;
        }
    }
    Ok(())
}

impl Plan {
    fn superblock(&self) -> Superblock {
        Superblock { version: 2, format: self.format, used: 1, total: self.total }
    }
}

/// Makes the parts of an empty tree in the directory `root`, those that are
/// there already left alone, and then the superblock.
pub(crate) fn lay_in(root: BorrowedFd<'_>, superblock: &Superblock) -> Fault<()> {
    host::ensure_dir(root, c"data")?;
    host::ensure_dir(root, c"humfs")?;
    let line = birth::root().to_line(false);
    match superblock.format {
        Format::ShadowFs => {
            host::ensure_dir(root, c"file_metadata")?;
            let dirs = host::ensure_dir(root, c"dir_metadata")?;
            host::replace_file(dirs.as_fd(), c"metadata", line.as_bytes())?;
        }
        Format::ShadowLink => {
            host::ensure_dir(root, c"file_metadata")?;
            let dirs = host::ensure_dir(root, c"dir_metadata")?;
            match rustix::fs::symlinkat(line.trim_end(), &dirs, c"metadata") {
                Ok(()) | Err(Host::EXIST) => {}
                Err(other) => return Err(other),
            }
        }
        // The root's record comes with its first change.
        Format::Sqlite | Format::Xattr => {}
    }
    host::replace_file(root, c"superblock", superblock.to_text().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Access;
    use externfs::Connect;

    fn plan(format: Format) -> Plan {
        Plan { format, total: 1 << 30, inodes: None, adopt: None }
    }

    #[test]
    fn a_tree_is_made_once_and_only_where_nothing_is() {
        let dir = tempfile::tempdir().unwrap();
        for format in Format::ALL {
            let path = dir.path().join(format.name());
            // As after a kill: some parts are there.
            std::fs::create_dir_all(path.join("data")).unwrap();
            lay(&path, &plan(format)).unwrap();
            let text = std::fs::read_to_string(path.join("superblock")).unwrap();
            assert_eq!(text, format!("version 2\nmetadata {}\nused 1\ntotal 1073741824\n", format.name()));
            assert!(lay(&path, &plan(format)).unwrap_err().0.contains("already"));
        }
        let used = dir.path().join("used");
        std::fs::create_dir(&used).unwrap();
        std::fs::write(used.join("letter"), "").unwrap();
        assert!(lay(&used, &plan(Format::Xattr)).unwrap_err().0.contains("holds 'letter'"));
        assert!(lay(&dir.path().join("a/b"), &plan(Format::Xattr)).unwrap_err().0.contains("above it"));
        assert!(lay(&used.join("letter"), &plan(Format::Xattr)).unwrap_err().0.contains("not a directory"));
    }

    #[test]
    fn a_tree_may_hold_at_least_its_root() {
        let dir = tempfile::tempdir().unwrap();
        for format in Format::ALL {
            let path = dir.path().join(format.name());
            for total in [1, 4096, TOTAL_MIN - 1] {
                let refused = lay(&path, &Plan { total, ..plan(format) }).unwrap_err().0;
                assert!(refused.contains("uses 4608") && !path.exists(), "{refused}");
            }
            lay(&path, &Plan { total: TOTAL_MIN, ..plan(format) }).unwrap();
            drop(Tree::open(&path, Access::Write).unwrap());
            // It is what resizing takes for the least, too.
            crate::tree::resize(&path, TOTAL_MIN).unwrap();
        }
    }

    #[test]
    fn nobody_opens_a_tree_that_is_not_filled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tree");
        let plan = Plan { inodes: Some(5), ..plan(Format::Xattr) };
        let open = |access| Tree::open(&path, access).map(drop).map_err(|error| error.0);
        drop(lay_to_fill(&path, &plan).unwrap());
        std::fs::create_dir_all(path.join("data/a/b")).unwrap();
        for access in [Access::Read, Access::Write] {
            assert!(open(access).unwrap_err().contains("same 'externfs create' again"));
        }
        // It starts over, and goes on being in use after it was closed.
        let filling = lay_to_fill(&path, &plan).unwrap();
        drop(filling.open().unwrap());
        assert!(lay_to_fill(&path, &plan).unwrap_err().0.contains("in use"));
        assert_eq!(std::fs::read_dir(path.join("data")).unwrap().count(), 0);
        assert_eq!(std::fs::read_to_string(path.join("humfs/settings")).unwrap(), "inodes 5\n");
        filling.finish().unwrap();
        open(Access::Read).unwrap();
        open(Access::Write).unwrap();
        assert!(lay(&path, &plan).unwrap_err().0.contains("already"));
    }

    #[test]
    fn who_waits_for_the_end_of_another_attempt_destroys_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tree");
        let plan = plan(Format::ShadowFs);
        let filling = lay_to_fill(&path, &plan).unwrap();
        let tree = filling.open().unwrap();
        std::fs::write(path.join("data/precious"), "").unwrap();
        // From here on others wait instead of being refused.
        tree.close().unwrap();
        drop(tree);
        let second = {
            let path = path.clone();
            std::thread::spawn(move || lay_to_fill(&path, &plan).map(drop))
        };
        // It has looked at what is there, or does so after the end: both are to be well.
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(path.join("data/precious").exists());
        filling.finish().unwrap();
        assert!(second.join().unwrap().unwrap_err().0.contains("already"));
        assert!(path.join("data/precious").exists());
        Tree::open(&path, Access::Write).unwrap();
    }

    #[test]
    fn an_attempt_that_was_cut_short_can_be_given_up_for_an_empty_tree() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tree");
        drop(lay_to_fill(&path, &plan(Format::ShadowFs)).unwrap());
        std::fs::write(path.join("data/file"), "").unwrap();
        lay(&path, &plan(Format::Xattr)).unwrap();
        assert_eq!(std::fs::read_dir(path.join("data")).unwrap().count(), 0);
        assert!(!path.join("dir_metadata").exists());
        Tree::open(&path, Access::Write).unwrap();
    }
}
