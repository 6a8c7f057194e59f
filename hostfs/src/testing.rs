//! What the tests of this crate share.

use crate::HostFs;
use crate::node::{Inode, OpenFile};
use externfs::*;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

pub(crate) type Node = Arc<Inode>;

/// An exported temporary directory, with one beside it that is not.
pub(crate) struct Tree {
    top: TempDir,
    pub(crate) fs: HostFs,
}

/// Splits "key=value,key" into options.
pub(crate) fn options(text: &str) -> Vec<MountOption> {
    let split = |option: &str| match option.split_once('=') {
        Some((key, value)) => MountOption { key: key.into(), value: Some(value.into()) },
        None => MountOption { key: option.into(), value: None },
    };
    text.split(',').filter(|option| !option.is_empty()).map(split).collect()
}

impl Tree {
    pub(crate) fn new(given: &str) -> Tree {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir(top.path().join("jail")).unwrap();
        std::fs::create_dir(top.path().join("outside")).unwrap();
        let fs = HostFs::open(&Source { path: top.path().join("jail"), options: options(given) }).unwrap();
        Tree { top, fs }
    }

    /// On the host, of what guests call `path`.
    pub(crate) fn host(&self, path: &str) -> PathBuf {
        self.top.path().join("jail").join(path)
    }

    /// On the host, next to the exported directory.
    pub(crate) fn outside(&self, path: &str) -> PathBuf {
        self.top.path().join("outside").join(path)
    }

    /// Descriptors of this process for what is below the exported directory.
    pub(crate) fn fds_below(&self) -> usize {
        let below = self.host("");
        let links = std::fs::read_dir("/proc/self/fd").unwrap();
        let targets = links.filter_map(|link| std::fs::read_link(link.unwrap().path()).ok());
        targets.filter(|target| target.starts_with(&below) && *target != below.components().collect::<PathBuf>()).count()
    }

    pub(crate) fn root(&self) -> Node {
        self.fs.root().unwrap()
    }

    pub(crate) fn try_node(&self, path: &str) -> Result<Node> {
        let mut node = self.root();
        for part in path.split('/') {
            node = self.fs.lookup(&node, name(part))?.0;
        }
        Ok(node)
    }

    pub(crate) fn node(&self, path: &str) -> Node {
        self.try_node(path).unwrap()
    }

    pub(crate) fn create(&self, caller: &Caller, path: &str, mode: u32) -> Result<Created<Node, Arc<OpenFile>>> {
        let flags = CreateFlags { mode: Mode::new(mode), exclusive: true, open: READ_WRITE };
        self.fs.create(caller, &self.root(), name(path), flags)
    }

    pub(crate) fn open(&self, node: &Node) -> Arc<OpenFile> {
        self.fs.open(&Caller::root(), node, READ_WRITE).unwrap().file
    }

    pub(crate) fn write(&self, file: &Arc<OpenFile>, offset: u64, bytes: &[u8], flags: WriteFlags) -> Result<usize> {
        self.fs.write(file, offset, &mut Bytes(bytes), flags)
    }

    pub(crate) fn read(&self, file: &Arc<OpenFile>) -> Vec<u8> {
        let mut sink = Room { bytes: Vec::new(), max: 1 << 16 };
        self.fs.read(file, 0, 1 << 16, &mut sink).unwrap();
        sink.bytes
    }

    pub(crate) fn remove(&self, path: &str, node: Option<&Node>) -> Result<()> {
        let directory = node.is_some_and(|node| node.kind() == FileKind::Directory);
        self.fs.remove(&Caller::root(), &self.root(), Child { name: name(path), node }, directory)
    }

    pub(crate) fn rename(&self, from: &str, to: &str, flags: RenameFlags) -> Result<()> {
        let (moved, replaced) = (self.try_node(from).ok(), self.try_node(to).ok());
        self.rename_known((from, moved.as_ref()), (to, replaced.as_ref()), flags)
    }

    pub(crate) fn rename_known(&self, from: (&str, Option<&Node>), to: (&str, Option<&Node>), flags: RenameFlags) -> Result<()> {
        let root = self.root();
        let from = Child { name: name(from.0), node: from.1 };
        let to = Child { name: name(to.0), node: to.1 };
        self.fs.rename(&Caller::root(), (&root, from), (&root, to), flags)
    }
}

pub(crate) const READ_WRITE: OpenFlags = OpenFlags {
    read: true,
    write: true,
    append: false,
    truncate: false,
    sync: false,
    direct: false,
    noatime: false,
    exec: false,
    kill_suid_sgid: false,
};

pub(crate) fn name(text: &str) -> Name<'_> {
    Name::new(text.as_bytes()).unwrap()
}

pub(crate) fn user(uid: u32, gid: u32) -> Caller {
    Caller { uid: GuestUid(uid), gid: GuestGid(gid), ..Caller::root() }
}

/// The errno of what must have failed.
pub(crate) fn errno<T>(result: Result<T>) -> Errno {
    match result {
        Ok(_) => panic!("succeeded"),
        Err(error) => error.errno(),
    }
}

/// Whether this test may do what only root can; says so if not.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: needs root");
    }
    root
}

struct Bytes<'a>(&'a [u8]);

impl DataSource for Bytes<'_> {
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = buffer.len().min(self.0.len());
        buffer[..len].copy_from_slice(&self.0[..len]);
        self.0 = &self.0[len..];
        Ok(len)
    }

    fn drain_to(&mut self, file: BorrowedFd<'_>, place: WritePlace, len: usize, _sync: bool) -> io::Result<usize> {
        // Short writes on purpose: at most 5 bytes at a time.
        let piece = &self.0[..len.min(self.0.len()).min(5)];
        let slices = [io::IoSlice::new(piece)];
        let (offset, flags) = match place {
            WritePlace::At(offset) => (offset, rustix::io::ReadWriteFlags::empty()),
            WritePlace::End => (0, rustix::io::ReadWriteFlags::APPEND),
        };
        let written = rustix::io::pwritev2(file, &slices, offset, flags)?;
        self.0 = &self.0[written..];
        Ok(written)
    }

    fn remaining(&self) -> usize {
        self.0.len()
    }
}

struct Room {
    bytes: Vec<u8>,
    max: usize,
}

impl DataSink for Room {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn fill_from(&mut self, file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<usize> {
        let mut buffer = vec![0; len];
        let read = rustix::io::pread(file, &mut buffer, offset)?;
        self.bytes.extend_from_slice(&buffer[..read]);
        Ok(read)
    }

    fn room(&self) -> usize {
        self.max - self.bytes.len()
    }
}
