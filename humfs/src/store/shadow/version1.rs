//! Trees of version 1, which humfs reads only to upgrade them.
//!
//! They had one metadata tree: `metadata/PATH` for what is no directory and
//! `metadata/DIR/metadata` for directories, each a line `uid gid`. The mode was
//! that of the file in the data tree.
//!
//! An upgrade is cut short without harm, and goes on when it is run again:
//! 1. The new trees are built in `humfs/stage`, from scratch each time.
//! 2. They are made durable and put in their places, `dir_metadata` last: once
//!    that is there the modes are safe.
//! 3. The files get the modes with which the server can always open them.
//! 4. `metadata/` goes to the stage, and the superblock is replaced.
//! 5. What is on the stage goes; the next mount would sweep it too.

use super::lines::{self, Style};
use super::own;
use crate::host::{self, Fault};
use crate::path;
use crate::record::{LINE_MAX, Record, Unreadable};
use crate::store::Format;
use crate::superblock::Superblock;
use crate::tree;
use externfs::{FileKind, GuestGid, GuestUid, Mode, UsageError};
use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno as Host;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Owner and group of a line of version 1.
///
/// # Errors
/// [`Unreadable`] for what is no such line.
fn parse_line(line: &[u8]) -> Result<(GuestUid, GuestGid), Unreadable> {
    // With a mode in front it is one of version 2, which says the rest.
    let line = [b"0 ", line].concat();
    let fields = line.split(|&byte| byte == b'\n').next().unwrap_or_default().split(|&byte| byte == b' ').count();
    if fields != 3 {
        return Err(Unreadable::Malformed("not two fields"));
    }
    Record::from_line(&line, FileKind::Regular).map(|record| (record.uid, record.gid))
}

/// Makes the version 1 tree at `path` one of version 2, and says how many
/// objects have a record now. An object without one stays without.
///
/// # Errors
/// One clear line. The tree is as it was then, or the upgrade can be run again.
pub fn upgrade(path: &Path) -> Result<u64, UsageError> {
    let shown = path.display();
    let cannot = |what: &'static str| move |error: Host| UsageError(format!("'{}': {what}: {error}", path.display()));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(rustix::fs::CWD, path, flags, rustix::fs::Mode::empty()).map_err(cannot("opening the tree"))?;
    let control = host::ensure_dir(root.as_fd(), c"humfs").map_err(cannot("making humfs/"))?;
    let _lock = tree::take_lock(control.as_fd(), path)?;
    let text = host::read_file(root.as_fd(), c"superblock", 4096).map_err(cannot("reading the superblock"))?;
    let superblock = Superblock::parse(&text).map_err(|why| UsageError(format!("'{shown}/superblock': {why}")))?;
    if superblock.version != 1 {
        return Err(UsageError(format!("'{shown}' has version {} already: there is nothing to upgrade", superblock.version)));
    }
    let stage = host::ensure_dir(control.as_fd(), c"stage").map_err(cannot("making humfs/stage"))?;
    let upgrade = Upgrade { path, root, stage };
    if host::child_dir(upgrade.root.as_fd(), c"dir_metadata").is_err() {
        upgrade.build()?;
    }
    let count = upgrade.loosen()?;
    upgrade.switch(superblock).map_err(cannot("completing the upgrade"))?;
    Ok(count)
}

struct Upgrade<'p> {
    path: &'p Path,
    root: OwnedFd,
    stage: OwnedFd,
}

/// A directory of the tree in each of the trees.
struct Place {
    data: OwnedFd,
    /// None: it has no records, nor has anything below it.
    old: Option<OwnedFd>,
    files: OwnedFd,
    dirs: OwnedFd,
}

/// Objects with several names, by number, and the first of these.
type Shared = HashMap<u64, (Vec<CString>, CString)>;

impl Upgrade<'_> {
    fn cannot(&self, what: &str, at: &[CString], error: impl std::fmt::Display) -> UsageError {
        let names: Vec<String> = at.iter().map(|name| path::shown(name)).collect();
        UsageError(format!("'{}': {what} '{}': {error}", self.path.display(), names.join("/")))
    }

    /// Steps 1 and 2.
    fn build(&self) -> Result<(), UsageError> {
        let failed = |what: &'static str| move |error: Host| self.cannot(what, &[], error);
        let data = host::child_dir(self.root.as_fd(), c"data").map_err(failed("opening data/"))?;
        let old = host::child_dir(self.root.as_fd(), c"metadata").map_err(failed("opening metadata/"))?;
        let fresh = |name: &CStr| -> Result<OwnedFd, UsageError> {
            host::remove_tree(self.stage.as_fd(), name).map_err(failed("sweeping the stage"))?;
            host::ensure_dir(self.stage.as_fd(), name).map_err(failed("making a directory"))
        };
        let (files, dirs) = (fresh(c"file_metadata")?, fresh(c"dir_metadata")?);
        let mut shared = Shared::new();
        let mut todo: Vec<Vec<CString>> = vec![Vec::new()];
        while let Some(at) = todo.pop() {
            let wrong = |error: Host| self.cannot("reading the directory", &at, error);
            let walk = |root: &OwnedFd| path::walk(root.as_fd(), &at);
            let old = match walk(&old) {
                Err(Host::NOENT | Host::NOTDIR | Host::LOOP) => None,
                answer => Some(answer.map_err(wrong)?),
            };
            let place =
                Place { data: walk(&data).map_err(wrong)?, old, files: walk(&files).map_err(wrong)?, dirs: walk(&dirs).map_err(wrong)? };
            self.convert(&place, &at, &files, &mut shared, &mut todo)?;
        }
        rustix::fs::syncfs(self.root_for_sync().map_err(failed("opening the tree"))?).map_err(failed("syncing the new records"))?;
        host::remove_tree(self.root.as_fd(), c"file_metadata").map_err(failed("removing a half-made tree"))?;
        for name in [c"file_metadata", c"dir_metadata"] {
            host::rename_new(self.stage.as_fd(), name, self.root.as_fd(), name).map_err(failed("putting the new trees in place"))?;
        }
        Ok(())
    }

    fn root_for_sync(&self) -> Fault<OwnedFd> {
        host::open_listing(self.root.as_fd())
    }

    /// The records of a directory and of what is in it; its directories are
    /// still `todo`.
    fn convert(
        &self,
        place: &Place,
        at: &[CString],
        files: &OwnedFd,
        shared: &mut Shared,
        todo: &mut Vec<Vec<CString>>,
    ) -> Result<(), UsageError> {
        let wrong = |error: Host| self.cannot("converting the directory", at, error);
        for (name, _) in host::names(place.data.as_fd()).map_err(wrong)? {
            let below = [at, std::slice::from_ref(&name)].concat();
            let wrong = |error: Host| self.cannot("converting", &below, error);
            let stat = rustix::fs::statat(&place.data, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(wrong)?;
            let kind = FileKind::from_mode(stat.st_mode).unwrap_or(FileKind::Regular);
            if kind == FileKind::Directory {
                rustix::fs::mkdirat(&place.files, &name, host::DIR_MODE).map_err(wrong)?;
                rustix::fs::mkdirat(&place.dirs, &name, host::DIR_MODE).map_err(wrong)?;
                todo.push(below);
                continue;
            }
            if let Some((dir, first)) = shared.get(&stat.st_ino) {
                let dir = path::walk(files.as_fd(), dir).map_err(wrong)?;
                rustix::fs::linkat(&dir, first, &place.files, &name, AtFlags::empty()).map_err(wrong)?;
                continue;
            }
            let Some(record) = self.record(place.old.as_ref(), &name, stat.st_mode, kind, &below)? else { continue };
            lines::make(Style::File, place.files.as_fd(), &name, &record.to_line(true)).map_err(wrong)?;
            if stat.st_nlink > 1 {
                shared.insert(stat.st_ino, (at.to_vec(), name));
            }
        }
        let mode = rustix::fs::statat(&place.data, c"", AtFlags::EMPTY_PATH).map_err(wrong)?.st_mode;
        let Some(record) = self.record(place.old.as_ref(), own::USUAL, mode, FileKind::Directory, at)? else { return Ok(()) };
        let name = own::free(place.dirs.as_fd()).map_err(|error| self.cannot("converting the directory", at, error))?;
        lines::make(Style::File, place.dirs.as_fd(), &name, &record.to_line(true)).map(drop).map_err(wrong)
    }

    /// What the old record `name` in `dir` says of the object `at`.
    fn record(&self, dir: Option<&OwnedFd>, name: &CStr, mode: u32, kind: FileKind, at: &[CString]) -> Result<Option<Record>, UsageError> {
        let Some(dir) = dir else { return Ok(None) };
        let text = match host::read_file(dir.as_fd(), name, 2 * LINE_MAX) {
            Err(Host::NOENT | Host::ISDIR) => return Ok(None),
            answer => answer.map_err(|error| self.cannot("reading the record of", at, error))?,
        };
        let (uid, gid) = parse_line(&text).map_err(|why| self.cannot("correct by hand the record of", at, why))?;
        let mode = if kind == FileKind::Symlink { Mode::new(0o777) } else { Mode::new(mode) };
        Ok(Some(Record::new(kind, mode, uid, gid)))
    }

    /// Step 3; counts the records on the way.
    fn loosen(&self) -> Result<u64, UsageError> {
        let open = |name: &CStr| host::child_dir(self.root.as_fd(), name).map_err(|error| self.cannot("opening the data", &[], error));
        let (data, files, dirs) = (open(c"data")?, open(c"file_metadata")?, open(c"dir_metadata")?);
        let mut count = 0;
        let mut todo: Vec<Vec<CString>> = vec![Vec::new()];
        while let Some(at) = todo.pop() {
            let wrong = |error: Host| self.cannot("setting the modes in", &at, error);
            let dir = path::walk(data.as_fd(), &at).map_err(wrong)?;
            let kept = path::walk(files.as_fd(), &at).map_err(wrong)?;
            let own = path::walk(dirs.as_fd(), &at).map_err(wrong)?;
            let own = own::find(own.as_fd()).map_err(|error| self.cannot("looking at the record of", &at, error))?;
            count += u64::from(own.is_some());
            rustix::fs::chmod(host::proc_path(dir.as_fd()), host::DIR_MODE).map_err(wrong)?;
            for (name, _) in host::names(dir.as_fd()).map_err(wrong)? {
                let found = rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(wrong)?;
                match FileKind::from_mode(found.st_mode) {
                    Some(FileKind::Directory) => {
                        todo.push([at.as_slice(), std::slice::from_ref(&name)].concat());
                        continue;
                    }
                    Some(FileKind::Regular) => set_mode(dir.as_fd(), &name).map_err(wrong)?,
                    _ => {}
                }
                count += u64::from(rustix::fs::statat(&kept, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok());
            }
        }
        Ok(count)
    }

    /// Steps 4 and 5.
    fn switch(&self, superblock: Superblock) -> Fault<()> {
        host::remove_tree(self.stage.as_fd(), c"metadata")?;
        match host::rename_new(self.root.as_fd(), c"metadata", self.stage.as_fd(), c"metadata") {
            Ok(()) | Err(Host::NOENT) => {}
            Err(other) => return Err(other),
        }
        let superblock = Superblock { version: 2, format: Format::ShadowFs, ..superblock };
        host::replace_file(self.root.as_fd(), c"superblock", superblock.to_text().as_bytes())?;
        host::remove_tree(self.stage.as_fd(), c"metadata")
    }
}

/// The floor of a file's host mode, and nothing above it.
fn set_mode(dir: BorrowedFd<'_>, name: &CStr) -> Fault<()> {
    let file = host::child(dir, name)?;
    rustix::fs::chmod(host::proc_path(file.as_fd()), host::FILE_MODE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{At, Loaded};
    use crate::tree::{Access, Tree};
    use externfs::{ExternFs, Name};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn lay() -> tempfile::TempDir {
        let top = tempfile::tempdir().unwrap();
        let at = |path: &str| top.path().join(path);
        std::fs::write(at("superblock"), "version 1\nused 4096\ntotal 1000000\n").unwrap();
        for (dir, mode) in [("data", 0o755), ("data/d", 0o1777), ("data/d/metadata", 0o500), ("data/none", 0o711)] {
            std::fs::create_dir(at(dir)).unwrap();
            std::fs::set_permissions(at(dir), PermissionsExt::from_mode(mode)).unwrap();
            std::fs::create_dir_all(at(&dir.replacen("data", "metadata", 1))).unwrap();
        }
        for (file, mode) in [("data/su", 0o4755), ("data/d/ro", 0o444), ("data/d/lost", 0o640)] {
            std::fs::write(at(file), file).unwrap();
            std::fs::set_permissions(at(file), PermissionsExt::from_mode(mode)).unwrap();
        }
        symlink("nowhere", at("data/l")).unwrap();
        std::fs::hard_link(at("data/su"), at("data/d/su")).unwrap();
        std::fs::remove_dir(at("metadata/none")).unwrap();
        for (record, line) in [("metadata", "0 0\n"), ("su", "0 5\n"), ("d/su", "0 5\n"), ("d/ro", "-2 7\n"), ("l", "3 4\n")] {
            std::fs::write(at("metadata").join(record), line).unwrap();
        }
        top
    }

    type Seen = Vec<(&'static str, Option<(u32, u32, u32)>)>;

    /// Mode, owner and group as a mount of version 2 has them.
    fn seen(path: &Path) -> Seen {
        let tree = Tree::open(path, Access::Write).unwrap();
        let store = tree.store().unwrap();
        let fs = hostfs::HostFs::layer(rustix::io::fcntl_dupfd_cloexec(tree.data(), 0).unwrap(), false).unwrap();
        let root = fs.root().unwrap();
        store.recover(&root).unwrap();
        let shown = |loaded: Loaded| match loaded {
            Loaded::Record(r) => Some((r.mode.bits(), r.uid.0, r.gid.0)),
            Loaded::Absent => None,
        };
        let mut all = vec![("", shown(store.load_root(fs.root_fd(), &fs.attr(&root, None).unwrap()).unwrap()))];
        for path in ["su", "l", "d", "d/su", "d/ro", "d/lost", "d/metadata", "none"] {
            let (mut parent, mut names) = (root.clone(), path.split('/').peekable());
            while let Some(name) = names.next() {
                let (node, attr) = fs.lookup(&parent, Name::new(name.as_bytes()).unwrap()).unwrap();
                if names.peek().is_none() {
                    let dir = fs.dir_fd(&parent).unwrap();
                    let name = CString::new(name).unwrap();
                    let at = At { parent: &parent, dir: dir.as_fd(), name: &name };
                    all.push((path, shown(store.load(&at, &attr).unwrap())));
                }
                parent = node;
            }
        }
        all
    }

    fn wanted() -> Seen {
        vec![
            ("", Some((0o755, 0, 0))),
            ("su", Some((0o4755, 0, 5))),
            ("l", Some((0o777, 3, 4))),
            ("d", None),
            ("d/su", Some((0o4755, 0, 5))),
            ("d/ro", Some((0o444, u32::MAX - 1, 7))),
            ("d/lost", None),
            ("d/metadata", None),
            ("none", None),
        ]
    }

    fn check(path: &Path) {
        assert_eq!(seen(path), wanted());
        assert_eq!(std::fs::read_to_string(path.join("superblock")).unwrap(), "version 2\nmetadata shadow_fs\nused 4096\ntotal 1000000\n");
        assert!(!path.join("metadata").exists());
        assert_eq!(std::fs::read_dir(path.join("humfs/stage")).unwrap().count(), 0);
        let mode = |name: &str| path.join(name).metadata().unwrap().mode() & 0o7777;
        assert_eq!([mode("data/su"), mode("data/d/ro"), mode("data/d")], [0o600, 0o600, 0o700]);
        assert_eq!(path.join("file_metadata/su").metadata().unwrap().nlink(), 2, "hard links share a record");
        assert_eq!(std::fs::read_to_string(path.join("file_metadata/d/ro")).unwrap(), "292 4294967294 7\n");
    }

    #[test]
    fn an_old_tree_becomes_a_new_one() {
        let top = lay();
        assert_eq!(upgrade(top.path()), Ok(5));
        check(top.path());
        assert!(upgrade(top.path()).unwrap_err().0.contains("version 2 already"));
    }

    /// After each step by which an upgrade can be cut short.
    #[test]
    fn an_upgrade_goes_on_where_it_was_cut_short() {
        // Something is on the stage, or in its place already.
        for half in ["humfs/stage/file_metadata/junk", "humfs/stage/dir_metadata/d", "file_metadata/su"] {
            let top = lay();
            std::fs::create_dir_all(top.path().join(half)).unwrap();
            assert_eq!(upgrade(top.path()), Ok(5), "{half}");
            check(top.path());
        }
        // All is built; then the modes are gone; then the old records as well.
        for step in 0..4 {
            let top = lay();
            let donor = lay();
            let at = |path: &str| top.path().join(path);
            upgrade(donor.path()).unwrap();
            for name in ["file_metadata", "dir_metadata"] {
                std::fs::rename(donor.path().join(name), at(name)).unwrap();
            }
            if step > 0 {
                std::fs::set_permissions(at("data/su"), PermissionsExt::from_mode(0o600)).unwrap();
            }
            if step > 1 {
                std::fs::create_dir_all(at("humfs/stage")).unwrap();
                std::fs::rename(at("metadata"), at("humfs/stage/metadata")).unwrap();
            }
            if step > 2 {
                std::fs::write(at("superblock.new"), "version 2\nmeta").unwrap();
            }
            assert_eq!(upgrade(top.path()), Ok(5), "step {step}");
            check(top.path());
        }
    }

    #[test]
    fn what_cannot_be_read_is_named_and_changes_nothing() {
        let top = lay();
        std::fs::write(top.path().join("metadata/d/ro"), "420 0 0\n").unwrap();
        let error = upgrade(top.path()).unwrap_err().0;
        assert!(error.contains("'d/ro'") && error.contains("not two fields"), "{error}");
        assert_eq!(std::fs::metadata(top.path().join("data/su")).unwrap().mode() & 0o7777, 0o4755);
        assert!(std::fs::read_to_string(top.path().join("superblock")).unwrap().starts_with("version 1\n"));
        std::fs::write(top.path().join("metadata/d/ro"), "-2 7\n").unwrap();
        assert_eq!(upgrade(top.path()), Ok(5));
        check(top.path());
    }

    #[test]
    fn lines_of_version_1() {
        assert_eq!(parse_line(b"1000 100\n"), Ok((GuestUid(1000), GuestGid(100))));
        for bad in ["", "\n", "1", "1 2 3", "a b", "1 2 c 1 3"] {
            assert!(parse_line(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
