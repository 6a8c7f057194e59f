//! [`HumTree`]: a humfs tree that belongs to an ordinary user of the host, on
//! an ext4.

use crate::fixture::{self, DiskFormat, LoopFs, Mount};
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

/// Whether the host of `path` gives growing files blocks past their end.
fn adds_blocks(path: &Path) -> bool {
    const XFS: u64 = 0x5846_5342;
    rustix::fs::statfs(path).expect("statfs").f_type as u64 == XFS
}

/// Blocks of 512 bytes that the file `path` has, without those past its end; not
/// more, if its writer is at work, than it has in the end.
fn blocks_within(path: &Path) -> u64 {
    loop {
        let before = path.symlink_metadata().expect("lstat");
        let past = if before.blocks() > 0 { blocks_past(path, before.size()) } else { 0 };
        let after = path.symlink_metadata().expect("lstat");
        // Else the host has taken them back before they were told.
        if after.blocks() >= before.blocks() {
            return before.blocks().saturating_sub(past);
        }
    }
}

fn blocks_past(path: &Path, size: u64) -> u64 {
    // xfs_io looks at every mount of the host first, and one of these may hang.
    fixture::need_program("filefrag", "e2fsprogs");
    let told = fixture::succeed(Command::new("filefrag").args(["-v", "-b512"]).arg(path));
    let end = size.next_multiple_of(4096) / 512;
    // "   1:      320..     335: ...", after three lines that say something else.
    let range = |line: &str| {
        let (number, rest) = line.split_once(':')?;
        let (first, last) = rest.split_once(':')?.0.split_once("..")?;
        number.trim().parse::<u32>().ok()?;
        Some((first.trim().parse::<u64>().ok()?, last.trim().parse::<u64>().ok()?))
    };
    told.lines().filter_map(range).map(|(first, last)| (last + 1).saturating_sub(first.max(end))).sum()
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

    /// An empty one on a file system of its own, of this format. Skips the running
    /// case where there is none.
    ///
    /// # Panics
    /// When the host refuses it.
    #[must_use]
    pub fn on(disk: DiskFormat, format: Format, total: u64) -> HumTree {
        ordinary::need();
        let tree = HumTree { ground: Ground::Image(LoopFs::with(disk, disk.smallest())) };
        let plan = Plan { format, total, inodes: None, adopt: None };
        humfs::make::lay(&tree.path(), &plan).unwrap_or_else(|why| panic!("{why}"));
        tree.hand_over();
        tree
    }

    /// Has the host forget the files of a tree that nobody serves, with what it keeps
    /// of them beside what is in them. True if that can be done here.
    ///
    /// # Panics
    /// When the tree is in use.
    pub fn forget_files(&self) -> bool {
        match &self.ground {
            Ground::Dir(_) => false,
            Ground::Image(image) => {
                image.mount_again();
                true
            }
        }
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
        let adds = adds_blocks(&self.path());
        let mut seen = HashSet::new();
        let mut bytes = 0;
        for path in paths_below(&self.at("data")) {
            let stat = path.symlink_metadata().expect("lstat");
            if seen.insert(stat.ino()) {
                let blocks = match () {
                    () if stat.is_dir() => 4096,
                    () if adds && stat.is_file() => blocks_within(&path) * 512,
                    () => stat.blocks() * 512,
                };
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
