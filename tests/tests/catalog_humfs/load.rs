//! Random changes of a mounted tree by a few threads that are in each other's
//! way: few names, so that most paths are somebody's.

use rustix::fs::{self, AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid, XattrFlags};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Who else writes: neither the server's user nor root.
const OTHER: u32 = 1234;

/// Levels of directories.
const DEEPEST: u64 = 4;

type Done = rustix::io::Result<()>;

type Deed = (&'static str, u64, fn(&mut Worker) -> Done);

/// Each, and how often among all.
const DEEDS: &[Deed] = &[
    ("create", 12, Worker::create),
    ("write", 10, Worker::write),
    ("append", 6, Worker::append),
    ("write by another", 4, Worker::write_by_another),
    ("truncate", 5, Worker::truncate),
    ("allocate", 2, Worker::allocate),
    ("mkdir", 12, Worker::make_dir),
    ("rmdir", 3, Worker::remove_dir),
    ("rm -r", 1, Worker::remove_tree),
    ("symlink", 5, Worker::symlink),
    ("mknod", 6, Worker::make_node),
    ("link", 8, Worker::link),
    ("unlink", 9, Worker::unlink),
    ("rename", 8, |worker| worker.rename(RenameFlags::empty())),
    ("rename noreplace", 4, |worker| worker.rename(RenameFlags::NOREPLACE)),
    ("exchange", 3, |worker| worker.rename(RenameFlags::EXCHANGE)),
    ("rename with whiteout", 2, |worker| worker.rename(RenameFlags::WHITEOUT)),
    ("rename of a directory", 5, Worker::rename_dir),
    ("exchange of directories", 2, Worker::exchange_dirs),
    ("chmod", 10, Worker::chmod),
    ("chown", 8, Worker::chown),
    ("set xattr", 8, Worker::set_xattr),
    ("remove xattr", 6, Worker::remove_xattr),
    ("set ACL", 4, Worker::set_acl),
    ("utimens", 5, Worker::utimens),
    ("name for the nameless", 3, Worker::name_nameless),
    ("change of a removed file", 4, Worker::change_removed),
    ("change by descriptor beside an unlink", 3, Worker::change_other_name),
];

/// One thread's.
struct Worker {
    root: PathBuf,
    state: u64,
}

/// Random changes of the tree below `root`; how many of each kind succeeded.
pub(crate) fn run(root: &Path, seed: u64, threads: u64, count: usize) -> BTreeMap<&'static str, usize> {
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let mut worker = Worker { root: root.to_path_buf(), state: seed.wrapping_mul(31).wrapping_add(thread) };
                scope.spawn(move || worker.run(count))
            })
            .collect();
        let mut sums = BTreeMap::new();
        for worker in workers {
            for (deed, count) in worker.join().expect("a worker") {
                *sums.entry(deed).or_default() += count;
            }
        }
        sums
    })
}

/// Kinds of changes that have never succeeded, going by `done`.
pub(crate) fn missing(done: &BTreeMap<&'static str, usize>) -> Vec<&'static str> {
    DEEDS.iter().map(|(name, ..)| *name).filter(|name| !done.contains_key(name)).collect()
}

/// A regular file; a FIFO or a device would be waited for.
fn open(path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    fs::open(path, flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::from_raw_mode(0o644))
}

fn put(file: &OwnedFd, length: u64, offset: Option<u64>) -> Done {
    let data = vec![b'x'; length as usize];
    match offset {
        Some(offset) => rustix::io::pwrite(file, &data, offset)?,
        None => rustix::io::write(file, &data)?,
    };
    Ok(())
}

/// An ACL as the kernel takes it: the three, one more user, the mask.
fn acl(user: u16, permissions: u16) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    let none = u32::MAX;
    for (tag, permissions, id) in
        [(1, 7, none), (2, permissions, u32::from(user)), (4, 5, none), (0x10, 7, none), (0x20, permissions & 4, none)]
    {
        bytes.extend(u16::to_le_bytes(tag));
        bytes.extend(u16::to_le_bytes(permissions));
        bytes.extend(u32::to_le_bytes(id));
    }
    bytes
}

impl Worker {
    fn run(&mut self, count: usize) -> BTreeMap<&'static str, usize> {
        let mut done = BTreeMap::new();
        let all: u64 = DEEDS.iter().map(|(_, share, _)| share).sum();
        for _ in 0..count {
            let mut at = self.below(all);
            for (name, share, act) in DEEDS {
                if at < *share {
                    if act(self).is_ok() {
                        *done.entry(*name).or_default() += 1;
                    }
                    break;
                }
                at -= share;
            }
        }
        done
    }

    fn below(&mut self, bound: u64) -> u64 {
        // splitmix64
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % bound
    }

    fn name(&mut self) -> OsString {
        match self.below(18) {
            0 => OsString::from("with\na newline"),
            1 => OsString::from_vec(b"no \xff UTF-8 \xc3".to_vec()),
            2 => OsString::from_vec([b'l'; 255].to_vec()),
            3 => OsString::from("quote ' and % and \\"),
            other => OsString::from(format!("f{other}")),
        }
    }

    fn dir(&mut self) -> PathBuf {
        let mut path = self.root.clone();
        for _ in 0..self.below(DEEPEST + 1) {
            let below = path.join(self.dir_name());
            if !below.is_dir() {
                break;
            }
            path = below;
        }
        path
    }

    fn dir_name(&mut self) -> OsString {
        match self.below(4) {
            0 => OsString::from_vec(b"d\xfe\nir".to_vec()),
            other => OsString::from(format!("d{other}")),
        }
    }

    fn new_path(&mut self) -> PathBuf {
        let dir = self.dir();
        dir.join(self.name())
    }

    /// Something that is there, most of the time.
    fn path(&mut self) -> PathBuf {
        for _ in 0..4 {
            let path = self.new_path();
            if path.symlink_metadata().is_ok() {
                return path;
            }
        }
        self.new_path()
    }

    fn file(&mut self) -> PathBuf {
        for _ in 0..4 {
            let path = self.path();
            if path.symlink_metadata().is_ok_and(|there| there.is_file()) {
                return path;
            }
        }
        self.path()
    }

    /// A file, or at times a directory.
    fn any(&mut self) -> PathBuf {
        if self.below(4) == 0 { self.some_dir() } else { self.path() }
    }

    /// Not the root, which cannot go or move.
    fn some_dir(&mut self) -> PathBuf {
        for _ in 0..8 {
            let dir = self.dir();
            if dir != self.root {
                return dir;
            }
        }
        let name = self.dir_name();
        self.root.join(name)
    }

    fn create(&mut self) -> Done {
        let file = open(&self.new_path(), OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY)?;
        let length = self.below(3) * self.below(9000);
        put(&file, length, None)
    }

    fn write(&mut self) -> Done {
        let flags = if self.below(4) == 0 { OFlags::TRUNC } else { OFlags::empty() };
        let file = open(&self.file(), OFlags::WRONLY | flags)?;
        let (length, offset) = (self.below(20_000), self.below(4) * self.below(200_000));
        put(&file, length, Some(offset))
    }

    fn append(&mut self) -> Done {
        let file = open(&self.file(), OFlags::WRONLY | OFlags::APPEND)?;
        put(&file, 700, None)?;
        put(&file, 1, None)
    }

    /// Takes setuid away, as none of root's writes does.
    fn write_by_another(&mut self) -> Done {
        let path = self.file();
        fs::chmodat(CWD, &path, Mode::from_raw_mode(0o6777), AtFlags::empty())?;
        let file = open(&path, OFlags::WRONLY)?;
        let root = Uid::ROOT;
        rustix::thread::set_thread_res_uid(root, Uid::from_raw(OTHER), root)?;
        let outcome = put(&file, 10, Some(0));
        rustix::thread::set_thread_res_uid(root, root, root)?;
        outcome
    }

    fn truncate(&mut self) -> Done {
        let file = open(&self.file(), OFlags::WRONLY)?;
        fs::ftruncate(&file, self.below(50_000))
    }

    fn allocate(&mut self) -> Done {
        let file = open(&self.file(), OFlags::WRONLY)?;
        let flags = match self.below(3) {
            0 => fs::FallocateFlags::PUNCH_HOLE | fs::FallocateFlags::KEEP_SIZE,
            1 => fs::FallocateFlags::KEEP_SIZE,
            _ => fs::FallocateFlags::empty(),
        };
        fs::fallocate(&file, flags, self.below(30_000), 1 + self.below(30_000))
    }

    fn new_dir(&mut self) -> PathBuf {
        let dir = self.dir();
        dir.join(self.dir_name())
    }

    fn make_dir(&mut self) -> Done {
        let mode = if self.below(5) == 0 { 0o3775 } else { 0o755 };
        let path = self.new_dir();
        fs::mkdirat(CWD, path, Mode::from_raw_mode(mode))
    }

    fn remove_dir(&mut self) -> Done {
        fs::unlinkat(CWD, self.some_dir(), AtFlags::REMOVEDIR)
    }

    fn remove_tree(&mut self) -> Done {
        if self.below(3) > 0 {
            return Err(rustix::io::Errno::AGAIN);
        }
        // Others may put something in meanwhile, or remove it first.
        std::fs::remove_dir_all(self.some_dir()).map_err(|_| rustix::io::Errno::NOTEMPTY)
    }

    fn symlink(&mut self) -> Done {
        let target = if self.below(6) == 0 { OsString::from("t".repeat(3000)) } else { self.name() };
        fs::symlinkat(target, CWD, self.new_path())
    }

    fn make_node(&mut self) -> Done {
        let kinds = [FileType::RegularFile, FileType::Fifo, FileType::Socket, FileType::BlockDevice, FileType::CharacterDevice];
        let kind = kinds[self.below(5) as usize];
        let device = if matches!(kind, FileType::BlockDevice | FileType::CharacterDevice) {
            fs::makedev(self.below(300) as u32, self.below(70_000) as u32)
        } else {
            0
        };
        fs::mknodat(CWD, self.new_path(), kind, Mode::from_raw_mode(0o640), device)
    }

    fn link(&mut self) -> Done {
        fs::linkat(CWD, self.path(), CWD, self.new_path(), AtFlags::empty())
    }

    fn unlink(&mut self) -> Done {
        fs::unlinkat(CWD, self.path(), AtFlags::empty())
    }

    fn rename(&mut self, flags: RenameFlags) -> Done {
        let new = if flags.contains(RenameFlags::EXCHANGE) { self.path() } else { self.new_path() };
        fs::renameat_with(CWD, self.path(), CWD, new, flags)
    }

    fn rename_dir(&mut self) -> Done {
        let new = self.new_dir();
        fs::renameat(CWD, self.some_dir(), CWD, new)
    }

    fn exchange_dirs(&mut self) -> Done {
        let other = self.any();
        fs::renameat_with(CWD, self.some_dir(), CWD, other, RenameFlags::EXCHANGE)
    }

    fn chmod(&mut self) -> Done {
        let mode = [0o4755, 0o2755, 0o6711, 0o1777, 0o600, 0, 0o644][self.below(7) as usize];
        let path = self.any();
        if path.is_symlink() {
            return Err(rustix::io::Errno::OPNOTSUPP);
        }
        fs::chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())
    }

    fn chown(&mut self) -> Done {
        let id = |number| Some(number).filter(|number| *number < 4).map(|number| [0, 1000, 65_534, 4_000_000_000][number as usize]);
        let (uid, gid) = (id(self.below(5)), id(self.below(5)));
        fs::chownat(CWD, self.any(), uid.map(Uid::from_raw), gid.map(Gid::from_raw), AtFlags::SYMLINK_NOFOLLOW)
    }

    fn set_xattr(&mut self) -> Done {
        let name = ["user.one", "user.two", "trusted.three", "security.capability"][self.below(4) as usize];
        let value = if name.starts_with("security") {
            // VFS_CAP_REVISION_2, effective: cap_chown.
            [0x0200_0001_u32, 1, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect()
        } else {
            vec![b'v'; self.below(400) as usize]
        };
        let path = if name.starts_with("user") { self.file() } else { self.any() };
        fs::lsetxattr(path, name, &value, XattrFlags::empty())
    }

    fn remove_xattr(&mut self) -> Done {
        let path = if self.below(2) == 0 { self.file() } else { self.any() };
        fs::lremovexattr(path, ["user.one", "user.two", "trusted.three"][self.below(3) as usize])
    }

    fn set_acl(&mut self) -> Done {
        let value = acl(1000 + self.below(3) as u16, self.below(8) as u16);
        let (path, name) =
            if self.below(3) == 0 { (self.some_dir(), "system.posix_acl_default") } else { (self.any(), "system.posix_acl_access") };
        if path.is_symlink() {
            return Err(rustix::io::Errno::OPNOTSUPP);
        }
        fs::setxattr(path, name, &value, XattrFlags::empty())
    }

    fn utimens(&mut self) -> Done {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 1, tv_nsec: 2 },
            last_modification: Timespec { tv_sec: self.below(4_000_000_000) as i64 - 1_000_000, tv_nsec: self.below(1_000_000_000) as i64 },
        };
        fs::utimensat(CWD, self.any(), &times, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn name_nameless(&mut self) -> Done {
        let file = fs::open(self.dir(), OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::from_raw_mode(0o640))?;
        put(&file, 5000, None)?;
        let by_descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
        fs::linkat(CWD, by_descriptor, CWD, self.new_path(), AtFlags::SYMLINK_FOLLOW)?;
        put(&file, 10, None)
    }

    /// None of this may bring it back.
    fn change_removed(&mut self) -> Done {
        let path = self.file();
        let file = open(&path, OFlags::RDWR)?;
        fs::unlinkat(CWD, &path, AtFlags::empty())?;
        if self.below(2) == 0 {
            std::thread::sleep(std::time::Duration::from_millis(self.below(3)));
        }
        put(&file, 300, None)?;
        fs::fchmod(file.as_fd(), Mode::from_raw_mode(0o4711))?;
        fs::fsetxattr(file.as_fd(), "user.late", b"1", XattrFlags::empty())
    }

    fn change_other_name(&mut self) -> Done {
        let path = self.file();
        let file = open(&path, OFlags::RDWR)?;
        fs::linkat(CWD, &path, CWD, self.new_path(), AtFlags::empty())?;
        fs::unlinkat(CWD, &path, AtFlags::empty())?;
        put(&file, 300, None)?;
        fs::fchmod(file.as_fd(), Mode::from_raw_mode(0o751))
    }
}
