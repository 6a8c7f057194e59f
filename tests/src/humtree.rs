//! [`HumTree`]: a humfs tree that belongs to an ordinary user of the host, on
//! an ext4.

use crate::fixture::{self, LoopFs, Mount};
use crate::ground::Ground;
use crate::ordinary::{self, give};
use humfs::make::Plan;
use humfs::store::Format;
use humfs::superblock::Superblock;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// More than a suite needs.
pub const TOTAL: u64 = 4 << 30;

/// See the [module](self).
pub struct HumTree {
    ground: Ground,
}

/// Every path below `root`, itself included; links are not followed.
///
/// # Panics
/// When a directory cannot be listed.
#[must_use]
pub fn paths_below(root: &Path) -> Vec<PathBuf> {
    let mut found = vec![root.to_path_buf()];
    let mut at = 0;
    while let Some(path) = found.get(at).cloned() {
        if path.symlink_metadata().expect("lstat").is_dir() {
            found.extend(fs::read_dir(&path).expect("list").map(|entry| entry.expect("list").path()));
        }
        at += 1;
    }
    found
}

/// Bytes of names and values of the extended attributes of each object below
/// `mount` that has any, by inode number.
///
/// # Panics
/// When one cannot be looked at.
#[must_use]
pub fn attribute_bytes(mount: &Path) -> HashMap<u64, u64> {
    let mut sums = HashMap::new();
    let mut names = vec![0; 1 << 16];
    for path in paths_below(mount) {
        let length = rustix::fs::llistxattr(&path, &mut names[..]).expect("llistxattr");
        let names = names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
        let sum: usize = names.map(|name| name.len() + rustix::fs::lgetxattr_query(&path, name).expect("lgetxattr")).sum();
        if sum > 0 {
            sums.insert(path.symlink_metadata().expect("lstat").ino(), sum as u64);
        }
    }
    sums
}

impl HumTree {
    /// An empty one. Skips the running case where [`ordinary::USER`] cannot mount.
    ///
    /// # Panics
    /// When the host refuses it.
    #[must_use]
    pub fn new(format: Format, total: u64) -> HumTree {
        HumTree::limited(format, total, None)
    }

    /// The same, for so many objects.
    ///
    /// # Panics
    /// When the host refuses it.
    #[must_use]
    pub fn limited(format: Format, total: u64, inodes: Option<u64>) -> HumTree {
        ordinary::need();
        let tree = HumTree { ground: Ground::new() };
        let plan = Plan { format, total, inodes, adopt: None };
        humfs::make::lay(&tree.path(), &plan).unwrap_or_else(|why| panic!("{why}"));
        tree.hand_over();
        tree
    }

    /// One made by `externfs create --from SOURCE`, which nobody has mounted yet.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn filled(format: Format, source: &Path) -> HumTree {
        ordinary::need();
        let tree = HumTree { ground: Ground::new() };
        let mut create = Command::new(fixture::binary());
        create.args(["create", "--size", "4G", "--metadata", format.name(), "--from"]).arg(source).arg(tree.path());
        fixture::succeed(&mut create);
        tree.hand_over();
        tree
    }

    /// One made by the user with `externfs create` from the archive that `pour` writes.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn poured(format: Format, pour: impl FnOnce(&mut dyn Write)) -> HumTree {
        ordinary::need();
        let tree = HumTree { ground: Ground::new() };
        give(&tree.ground.path());
        let mut create = Command::new(fixture::binary());
        create.args(["create", "--size", "8G", "--metadata", format.name(), "--from", "-"]).arg(tree.path());
        ordinary::act(&mut create);
        let mut child = create.stdin(Stdio::piped()).spawn().expect("externfs create");
        pour(&mut child.stdin.take().expect("a pipe"));
        assert!(child.wait().expect("wait").success(), "externfs create fails");
        tree
    }

    /// An empty one on a small file system of its own, of so many MiB.
    ///
    /// # Panics
    /// When the host refuses it.
    #[must_use]
    pub fn confined(format: Format, mebibytes: u64) -> HumTree {
        ordinary::need();
        let tree = HumTree { ground: Ground::Image(LoopFs::new(mebibytes)) };
        let plan = Plan { format, total: TOTAL, inodes: None, adopt: None };
        humfs::make::lay(&tree.path(), &plan).unwrap_or_else(|why| panic!("{why}"));
        tree.hand_over();
        tree
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.ground.path().join("tree")
    }

    /// What is called `name` in it.
    #[must_use]
    pub fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Gives all of it to the user, after root has put something in.
    ///
    /// # Panics
    /// When it cannot be given away.
    pub fn hand_over(&self) {
        paths_below(&self.path()).iter().for_each(|path| give(path));
    }

    /// A mount for everybody, by the user.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn mount(&self, options: &str) -> Mount {
        let options = if options.is_empty() { "allow_other".to_owned() } else { format!("allow_other,{options}") };
        Mount::humfs(&self.path(), &options)
    }

    /// What FORMAT.md says that the tree costs, counted on the host: bytes and
    /// objects. The guest's attributes are counted as `mount` shows them.
    ///
    /// # Panics
    /// When one of the two cannot be looked at.
    #[must_use]
    pub fn counted(&self, attributes: &HashMap<u64, u64>) -> (u64, u64) {
        // Until it is written out, the host has not decided upon every block.
        rustix::fs::syncfs(fs::File::open(self.path()).expect("the tree")).expect("syncfs");
        let mut seen = HashSet::new();
        let mut bytes = 0;
        for path in paths_below(&self.at("data")) {
            let stat = path.symlink_metadata().expect("lstat");
            if seen.insert(stat.ino()) {
                let blocks = if stat.is_dir() { 4096 } else { stat.blocks() * 512 };
                bytes += blocks + 512 + attributes.get(&stat.ino()).copied().unwrap_or(0).next_multiple_of(512);
            }
        }
        (bytes, seen.len() as u64)
    }

    /// What its superblock says.
    ///
    /// # Panics
    /// When that is nonsense.
    #[must_use]
    pub fn superblock(&self) -> Superblock {
        let text = fs::read(self.at("superblock")).expect("the superblock");
        Superblock::parse(&text).unwrap_or_else(|why| panic!("the superblock: {why}"))
    }
}
