//! Making an empty tree.

use crate::host::{self, Fault};
use crate::record::Record;
use crate::store::Format;
use crate::superblock::Superblock;
use externfs::{FileKind, GuestGid, GuestUid, Mode, UsageError};
use rustix::fs::OFlags;
use rustix::io::Errno as Host;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// What a new tree is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Where records live.
    pub format: Format,
    /// Bytes that may be used.
    pub total: u64,
    /// Objects that it may hold; None for as many as the host takes.
    pub inodes: Option<u64>,
}

/// Makes an empty tree in the directory `path`, which is made if it is not
/// there and must be empty otherwise. What an attempt left that was cut short
/// counts as empty: the superblock comes last.
///
/// # Errors
/// One clear line: what is wrong and what to do.
pub fn lay(path: &Path, plan: &Plan) -> Result<(), UsageError> {
    let shown = path.display();
    let cannot = |error: Host| UsageError(format!("cannot make a tree in '{shown}': {error}"));
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
    for (name, _) in host::names(root.as_fd()).map_err(cannot)? {
        match name.to_bytes() {
            b"superblock" => return Err(UsageError(format!("'{shown}' is a humfs tree already: 'externfs check' looks at it"))),
            b"data" | b"humfs" | b"file_metadata" | b"dir_metadata" | b"superblock.new" => {}
            other => {
                return Err(UsageError(format!("'{shown}' is not empty: it holds '{}'", other.escape_ascii())));
            }
        }
    }
    // Nobody but its owner has business in it.
    rustix::fs::fchmod(&root, host::DIR_MODE).map_err(cannot)?;
    let data = host::ensure_dir(root.as_fd(), c"data").map_err(cannot)?;
    if !host::names(data.as_fd()).map_err(cannot)?.is_empty() {
        return Err(UsageError(format!("'{shown}/data' is not empty: 'humfsify' converts a directory that is there")));
    }
    if let Some(inodes) = plan.inodes {
        let control = host::ensure_dir(root.as_fd(), c"humfs").map_err(cannot)?;
        host::replace_file(control.as_fd(), c"settings", format!("inodes {inodes}\n").as_bytes()).map_err(cannot)?;
    }
    lay_in(root.as_fd(), &Superblock { version: 2, format: plan.format, used: 1, total: plan.total }).map_err(cannot)
}

/// Makes the parts of an empty tree in the directory `root`, those that are
/// there already left alone, and then the superblock.
pub(crate) fn lay_in(root: BorrowedFd<'_>, superblock: &Superblock) -> Fault<()> {
    host::ensure_dir(root, c"data")?;
    host::ensure_dir(root, c"humfs")?;
    let guest_root = Record::new(FileKind::Directory, Mode::new(0o755), GuestUid(0), GuestGid(0));
    let line = guest_root.to_line(false);
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
        // The root's record is there when the first writer comes.
        Format::Sqlite | Format::Xattr => {}
    }
    host::replace_file(root, c"superblock", superblock.to_text().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(format: Format) -> Plan {
        Plan { format, total: 1 << 30, inodes: None }
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
}
