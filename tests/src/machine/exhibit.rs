//! What the host puts into a share for a guest to look at, and what a guest
//! leaves there for the host.

use super::noise;
use crate::fixture::{checksum, succeed};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Of the host.
pub const FROM_HOST: &str = "from-host";
/// Of the guest.
pub const FOR_HOST: &str = "for-host";
/// [`Manifest`], as JSON.
pub const MANIFEST: &str = "manifest.json";
/// The large file, in either.
pub const BIG: &str = "big";
/// What the guest's large file adds up to.
pub const BIG_CHECKSUM: &str = "big.checksum";
/// 256 MiB.
pub const BIG_SIZE: u64 = 256 << 20;
/// What symlinks point to.
pub const TARGET: &str = "some/where";
/// On files and directories; the value is the object's name.
pub const XATTR: &str = "user.externfs.name";
/// Access and modification of what the guest leaves.
pub const STAMP: (i64, i64) = (1_234_567_890, 987_654_321);
/// A hard link to the first of [`Leaving::ALL`].
pub const SECOND_NAME: &str = "second-name";

/// What stat(2) should say of one object.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Fact {
    pub path: Vec<u8>,
    pub ino: u64,
    pub mode: u32,
    pub nlink: u64,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub blocks: u64,
    pub device: u64,
    pub modified: (i64, i64),
    pub changed: (i64, i64),
    pub target: Option<Vec<u8>>,
    pub xattr: Option<Vec<u8>>,
}

impl Fact {
    /// Looks at `path`, which is called `name` in the manifest.
    ///
    /// # Errors
    /// Those of lstat(2) and readlink(2).
    pub fn of(path: &Path, name: Vec<u8>) -> std::io::Result<Fact> {
        let found = path.symlink_metadata()?;
        let target = found.is_symlink().then(|| fs::read_link(path)).transpose()?;
        let mut value = [0; 256];
        let xattr = rustix::fs::lgetxattr(path, XATTR, &mut value[..]).ok().and_then(|size| value.get(..size));
        Ok(Fact {
            path: name,
            ino: found.ino(),
            mode: found.mode(),
            nlink: found.nlink(),
            uid: found.uid(),
            gid: found.gid(),
            size: found.size(),
            blocks: found.blocks(),
            device: found.rdev(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
            target: target.map(|target| target.as_os_str().as_bytes().to_vec()),
            xattr: xattr.map(<[u8]>::to_vec),
        })
    }
}

/// All of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Manifest {
    pub facts: Vec<Fact>,
    pub big_size: u64,
    pub big_checksum: u64,
    /// Eight bytes at the end, in the middle and at the start.
    pub big_words: [u64; 3],
    pub total_bytes: u64,
    pub total_inodes: u64,
}

/// One object that the guest leaves.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Leaving {
    pub name: &'static str,
    pub kind: FileType,
    pub device: (u32, u32),
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
}

impl Leaving {
    /// One of each kind.
    pub const ALL: [Leaving; 7] = [
        Leaving { name: "file", kind: FileType::RegularFile, device: (0, 0), uid: 1001, gid: 1002, mode: 0o4750 },
        Leaving { name: "directory", kind: FileType::Directory, device: (0, 0), uid: 1003, gid: 1004, mode: 0o3751 },
        Leaving { name: "symlink", kind: FileType::Symlink, device: (0, 0), uid: 1005, gid: 1006, mode: 0o777 },
        Leaving { name: "fifo", kind: FileType::Fifo, device: (0, 0), uid: 1007, gid: 1008, mode: 0o620 },
        Leaving { name: "socket", kind: FileType::Socket, device: (0, 0), uid: 1009, gid: 1010, mode: 0o666 },
        Leaving { name: "character", kind: FileType::CharacterDevice, device: (10, 229), uid: 1011, gid: 1012, mode: 0o600 },
        Leaving { name: "block", kind: FileType::BlockDevice, device: (7, 300), uid: 1013, gid: 1014, mode: 0o660 },
    ];
}

/// A share that a guest can be shown, with objects of every kind and owner;
/// without devices and all of `owner`, if there is one.
///
/// # Panics
/// When the host's file system refuses one.
pub fn prepare(share: &Path, owner: Option<u32>) {
    let from = share.join(FROM_HOST);
    fs::create_dir(&from).expect("mkdir");
    fs::create_dir(share.join(FOR_HOST)).expect("mkdir");
    let big = from.join(BIG);
    let mut words = write_noise(&big);
    let names: [&[u8]; 6] = [b"plain", b"\xff\xfe", b"new\nline", b"-rf *", &[b'n'; 255], "\u{fc}\u{1f600}".as_bytes()];
    for name in names {
        fs::write(from.join(OsStr::from_bytes(name)), name).expect("write");
    }
    fs::create_dir_all(from.join("a/b/c")).expect("mkdir");
    fs::hard_link(from.join("plain"), from.join("a/second-name")).expect("link");
    std::os::unix::fs::symlink(TARGET, from.join("a/link")).expect("symlink");
    fs::create_dir(from.join("many")).expect("mkdir");
    for number in 0..600 {
        File::create(from.join(format!("many/{number}"))).expect("create");
    }
    let sparse = File::create(from.join("sparse")).expect("create");
    sparse.write_all_at(b"end", 3 << 30).expect("write");
    rustix::fs::mkfifoat(CWD, from.join("fifo"), Mode::from_raw_mode(0o640)).expect("mkfifo");
    rustix::fs::setxattr(from.join("a"), XATTR, b"of the host", XattrFlags::empty()).expect("setxattr");
    if owner.is_none() {
        for leaving in Leaving::ALL.iter().filter(|l| matches!(l.kind, FileType::CharacterDevice | FileType::BlockDevice)) {
            let device = rustix::fs::makedev(leaving.device.0, leaving.device.1);
            rustix::fs::mknodat(CWD, from.join(leaving.name), leaving.kind, Mode::from_raw_mode(leaving.mode), device).expect("mknod");
        }
        let owner = (Some(Uid::from_raw(1234)), Some(Gid::from_raw(5678)));
        rustix::fs::chown(from.join("a/b"), owner.0, owner.1).expect("chown");
    }
    let old = Timespec { tv_sec: -1000, tv_nsec: 1 };
    let times = Timestamps { last_access: old, last_modification: old };
    rustix::fs::utimensat(CWD, from.join("plain"), &times, AtFlags::empty()).expect("utimensat");
    if let Some(uid) = owner {
        succeed(Command::new("chown").args(["-hR", &format!("{uid}:{uid}")]).arg(share));
    }
    words.reverse();
    write_manifest(share, &from, words);
}

/// Returns the words at the start, in the middle and at the end.
fn write_noise(path: &Path) -> [u64; 3] {
    let mut file = File::create(path).expect("create");
    let mut words = [0; 3];
    let mut bytes = Vec::with_capacity(1 << 20);
    let all = BIG_SIZE / 8;
    for (number, word) in (0..all).zip(noise::words(256)) {
        for (at, kept) in [0, all / 2, all - 1].into_iter().zip(&mut words) {
            if at == number {
                *kept = word;
            }
        }
        bytes.extend_from_slice(&word.to_le_bytes());
        if bytes.len() == 1 << 20 {
            file.write_all(&bytes).expect("write");
            bytes.clear();
        }
    }
    file.sync_all().expect("fsync");
    words
}

fn write_manifest(share: &Path, from: &Path, big_words: [u64; 3]) {
    // Blocks of what was just written are counted when they are allocated.
    rustix::fs::sync();
    let mut facts = Vec::new();
    let mut open = vec![from.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).expect("list").flatten() {
            let path: PathBuf = entry.path();
            if entry.file_type().expect("type").is_dir() {
                open.push(path.clone());
            }
            let name = path.strip_prefix(from).expect("below").as_os_str().as_bytes().to_vec();
            facts.push(Fact::of(&path, name).expect("lstat"));
        }
    }
    let fs_facts = rustix::fs::statvfs(share).expect("statvfs");
    let big_checksum = checksum(&from.join(BIG));
    let total_bytes = fs_facts.f_blocks * fs_facts.f_frsize;
    let manifest = Manifest { facts, big_size: BIG_SIZE, big_checksum, big_words, total_bytes, total_inodes: fs_facts.f_files };
    let bytes = serde_json::to_vec(&manifest).expect("plain data");
    fs::write(share.join(MANIFEST), bytes).expect("write");
}

/// What the rows of a guest have left must be on the host.
///
/// # Panics
/// When it is not.
pub fn verify(share: &Path, all: bool) {
    let dir = share.join(FOR_HOST);
    let told: u64 = serde_json::from_slice(&fs::read(dir.join(BIG_CHECKSUM)).expect("the guest's checksum")).expect("a number");
    assert_eq!(checksum(&dir.join(BIG)), told, "the checksum of what the guest wrote");
    let rows = fs::read_dir(share).expect("list").flatten().filter(|entry| entry.file_name().as_bytes().starts_with(b"row-"));
    assert_eq!(rows.count(), 0, "rows clean up");
    if !all {
        return;
    }
    for leaving in Leaving::ALL {
        let path = dir.join(leaving.name);
        let seen = Fact::of(&path, leaving.name.into()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let kind = FileType::from_raw_mode(seen.mode);
        let device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice).then_some(seen.device);
        let wanted = rustix::fs::makedev(leaving.device.0, leaving.device.1);
        assert_eq!(kind, leaving.kind, "{leaving:?}");
        assert_eq!((seen.uid, seen.gid, seen.mode & 0o7777), (leaving.uid, leaving.gid, leaving.mode), "{leaving:?}");
        assert!(device.is_none_or(|device| device == wanted), "{leaving:?}: device {device:?}");
        assert_eq!(seen.modified, STAMP, "{leaving:?}");
        let marked = matches!(kind, FileType::RegularFile | FileType::Directory);
        assert_eq!(seen.xattr, marked.then(|| leaving.name.into()), "{leaving:?}");
        assert_eq!(seen.target.as_deref(), (kind == FileType::Symlink).then_some(TARGET.as_bytes()), "{leaving:?}");
    }
    let [first, ..] = Leaving::ALL;
    let inode = |name: &str| dir.join(name).symlink_metadata().map(|found| (found.ino(), found.nlink())).expect(name);
    assert_eq!(inode(first.name), inode(SECOND_NAME), "hard links");
    assert_eq!(inode(first.name).1, 2, "hard links");
}
