//! The columns of the host's tables.

use super::image::Image;
use super::server::Server;
use crate::fault::{Fault, Naming, Result, fault};
use crate::record::{Column, Role};
use externfs::Connect;
use externfs_tests::fixture::{binary, is_mounted};
use externfs_tests::humtree::paths_below;
use externfs_tests::ordinary;
use humfs::make::Plan;
use humfs::store::Format;
use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// How a column comes to be.
#[derive(Clone)]
pub(super) struct Spec {
    /// As after `--targets`.
    pub(super) name: Cow<'static, str>,
    role: Role,
    how: How,
}

#[derive(Clone)]
enum How {
    Native,
    /// `externfs mount hostfs` with these options.
    Ours(Cow<'static, str>),
    /// `externfs mount humfs` by an ordinary user, records in this format.
    Humfs(Format),
    Bindfs,
    FuseOverlayfs,
    /// By an ordinary user, with owners and modes in attributes.
    UserFuseOverlayfs,
}

const fn spec(name: &'static str, role: Role, how: How) -> Spec {
    Spec { name: Cow::Borrowed(name), role, how }
}

const fn ours(name: &'static str, options: &'static str) -> Spec {
    spec(name, Role::Ours, How::Ours(Cow::Borrowed(options)))
}

/// All columns, in the order of the tables.
pub(super) const SPECS: &[Spec] = &[
    spec("native", Role::Native, How::Native),
    spec("ctl", Role::Control, How::Native),
    ours("ours", "allow_other,cache=auto"),
    ours("ours-fuser", "allow_other,cache=auto,transport=fuser"),
    ours("ours-always", "allow_other,cache=always"),
    spec("humfs-xattr", Role::Ours, How::Humfs(Format::Xattr)),
    spec("humfs-sqlite", Role::Ours, How::Humfs(Format::Sqlite)),
    spec("humfs-shadow", Role::Ours, How::Humfs(Format::ShadowFs)),
    spec("bindfs", Role::Peer, How::Bindfs),
    spec("fovl", Role::Peer, How::FuseOverlayfs),
    spec("ufovl", Role::Peer, How::UserFuseOverlayfs),
];

/// A column that is up.
pub(super) struct Target {
    pub(super) column: Column,
    /// Where to work.
    pub(super) root: PathBuf,
    server: Option<Server>,
    _dir: Option<TempDir>,
}

impl Target {
    /// A fresh directory below one that somebody else takes care of.
    pub(super) fn elsewhere(column: Column, dir: &Path) -> Result<Target> {
        let dir = tempfile::Builder::new().prefix("externfs-bench-").tempdir_in(dir).naming(dir.display())?;
        Ok(Target { column, root: dir.path().to_owned(), server: None, _dir: Some(dir) })
    }

    /// The process whose time counts.
    pub(super) fn server_pid(&self) -> Option<u32> {
        self.server.as_ref().map(Server::pid)
    }
}

impl Spec {
    /// One more of ours: `NAME=OPTIONS`.
    pub(super) fn parse(text: &str) -> Result<Spec> {
        let Some((name, options)) = text.split_once('=').filter(|(name, _)| !name.is_empty() && !name.contains('/')) else {
            return fault(format!("{text}: NAME=OPTIONS is wanted, as in one=allow_other,threads=1"));
        };
        Ok(Spec { name: name.to_owned().into(), role: Role::Ours, how: How::Ours(options.to_owned().into()) })
    }

    fn tree(&self, image: &Image) -> PathBuf {
        let tree = image.trees().join(self.name.as_ref()).join("tree");
        if matches!(self.how, How::Humfs(_)) { tree.join("data") } else { tree }
    }

    /// Whether the server is an ordinary user's.
    fn is_users(&self) -> bool {
        matches!(self.how, How::Humfs(_) | How::UserFuseOverlayfs)
    }

    /// Whether it shows nothing but what was made by way of it: without its
    /// attribute a file has no owner there.
    pub(super) fn is_filled_through(&self) -> bool {
        matches!(self.how, How::UserFuseOverlayfs)
    }

    /// Makes the directories that it serves; answers where its fixtures go.
    pub(super) fn lay_out(&self, image: &Image) -> Result<PathBuf> {
        for name in ["tree", "lower", "work"] {
            let dir = image.trees().join(self.name.as_ref()).join(name);
            fs::create_dir_all(&dir).naming(dir.display())?;
        }
        if let How::Humfs(format) = self.how {
            let tree = image.trees().join(self.name.as_ref()).join("tree");
            humfs::make::lay(&tree, &Plan { format, total: 64 << 30, inodes: None, adopt: None }).map_err(|error| Fault(error.0))?;
            // A database is made while the tree is empty. What the fixtures put
            // there later is adopted as root's.
            let first = humfs::open(&tree, &humfs::Options::default()).map_err(|error| Fault(error.0))?;
            first.close().map_err(|error| Fault(error.to_string()))?;
        }
        Ok(self.tree(image))
    }

    /// Brings it up.
    ///
    /// # Errors
    /// Not installed, or it does not mount.
    pub(super) fn start(&self, image: &Image) -> Result<Target> {
        let tree = self.tree(image);
        let point = image.room().join(format!("on-{}", self.name));
        fs::create_dir_all(&point).naming(point.display())?;
        if self.is_users() {
            let own = image.trees().join(self.name.as_ref());
            paths_below(&own).iter().for_each(|path| ordinary::give(path));
            ordinary::give(&point);
        }
        let Some(mut command) = self.command(image, &tree, &point) else {
            let column =
                Column { name: self.name.clone().into_owned(), role: self.role, how: "a directory of the same file system".into() };
            return Ok(Target { column, root: tree, server: None, _dir: None });
        };
        let how = words(&command);
        let log = image.room().join(format!("{}.log", self.name));
        let server = Server::start(&mut command, log, || is_mounted(&point))?.mounted_on(&point);
        if self.is_filled_through() {
            let column = Column { name: self.name.clone().into_owned(), role: self.role, how };
            return Ok(Target { column, root: point, server: Some(server), _dir: None });
        }
        // A mount that shows something else would be measured just as happily.
        let data = point.join(crate::work::fixture::DATA);
        if !fs::metadata(&data).naming(data.display())?.is_file() {
            return fault(format!("{} does not show the tree", point.display()));
        }
        let column = Column { name: self.name.clone().into_owned(), role: self.role, how };
        Ok(Target { column, root: point, server: Some(server), _dir: None })
    }

    fn command(&self, image: &Image, tree: &Path, point: &Path) -> Option<Command> {
        match &self.how {
            How::Native => None,
            How::Ours(options) => {
                let mut command = Command::new(binary());
                command.args(["mount", "hostfs"]).arg(tree).arg(point).args(["-f", "-o", options]);
                Some(command)
            }
            How::Humfs(_) => {
                let mut command = Command::new(binary());
                let tree = tree.parent().unwrap_or(tree);
                command.args(["mount", "humfs"]).arg(tree).arg(point).args(["-f", "-o", "allow_other"]);
                ordinary::act(&mut command);
                Some(command)
            }
            How::Bindfs => {
                let mut command = Command::new("bindfs");
                command.args(["-f", "-o", "allow_other,default_permissions"]).arg(tree).arg(point);
                Some(command)
            }
            How::FuseOverlayfs | How::UserFuseOverlayfs => {
                let own = image.trees().join(self.name.as_ref());
                let layers = format!("lowerdir={0}/lower,upperdir={0}/tree,workdir={0}/work", own.display());
                let mut command = Command::new("fuse-overlayfs");
                let owners = if self.is_users() { ",xattr_permissions=2" } else { "" };
                command.args(["-f", "-o", &format!("{layers},allow_other{owners}")]).arg(point);
                if self.is_users() {
                    ordinary::act(&mut command);
                }
                Some(command)
            }
        }
    }
}

/// A command line without the directories, which differ each time.
fn words(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let plain = command.get_args().map(|word| word.to_string_lossy()).filter(|word| !word.starts_with('/'));
    let words: Vec<String> = plain.map(|word| word.split(',').filter(|part| !part.contains('/')).collect::<Vec<_>>().join(",")).collect();
    format!("{program} {}", words.join(" "))
}
