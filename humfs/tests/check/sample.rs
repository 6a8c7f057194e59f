//! A small tree with one of everything, and what a guest sees in it.

use externfs::*;
use humfs::check::{CheckOptions, Progress, Report};
use humfs::make::{Plan, lay};
use humfs::store::Format;
use humfs::tree::{Access, Tree};
use humfs::{HumFs, HumNode, Options};
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) struct Sample {
    _dir: tempfile::TempDir,
    pub(crate) tree: PathBuf,
    pub(crate) format: Format,
}

type Node = Arc<HumNode>;

pub(crate) fn name(bytes: &[u8]) -> Name<'_> {
    Name::new(bytes).unwrap()
}

pub(crate) fn serve(tree: &Path) -> HumFs {
    HumFs::new(Tree::open(tree, Access::Write).unwrap(), Options::default()).unwrap()
}

struct Bytes<'a>(&'a [u8]);

impl DataSource for Bytes<'_> {
    fn take(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = buffer.len().min(self.0.len());
        buffer[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }

    fn drain_to(&mut self, file: std::os::fd::BorrowedFd<'_>, place: WritePlace, len: usize, _sync: bool) -> std::io::Result<usize> {
        let WritePlace::At(offset) = place else { panic!("nobody appends here") };
        let count = rustix::io::pwrite(file, &self.0[..len.min(self.0.len())], offset)?;
        self.0 = &self.0[count..];
        Ok(count)
    }

    fn remaining(&self) -> usize {
        self.0.len()
    }
}

fn file(fs: &HumFs, parent: &Node, called: &[u8], mode: u32, text: &str) -> Node {
    let open = OpenFlags { read: true, write: true, ..OpenFlags::default() };
    let flags = CreateFlags { mode: Mode::new(mode), exclusive: true, open };
    let made = fs.create(&Caller::root(), parent, name(called), flags).unwrap();
    fs.write(&made.opened.file, 0, &mut Bytes(text.as_bytes()), WriteFlags::default()).unwrap();
    made.node
}

/// The formats that there are.
pub(crate) fn formats() -> Vec<Format> {
    let works = |format: &Format| {
        let dir = tempfile::tempdir().unwrap();
        lay(dir.path(), &Plan { format: *format, total: 1 << 20, inodes: None, adopt: None }).unwrap();
        let store = Tree::open(dir.path(), Access::Write).unwrap().store().map(drop);
        !store.is_err_and(|error| error.0.contains("not yet"))
    };
    Format::ALL.into_iter().filter(works).collect()
}

impl Sample {
    pub(crate) fn empty(format: Format) -> Sample {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        lay(&tree, &Plan { format, total: 1 << 30, inodes: None, adopt: None }).unwrap();
        serve(&tree).close().unwrap();
        Sample { _dir: dir, tree, format }
    }

    pub(crate) fn new(format: Format) -> Sample {
        let sample = Sample::empty(format);
        let fs = serve(&sample.tree);
        let (caller, root) = (Caller::root(), fs.root().unwrap());
        let make = |parent: &Node, called: &[u8], new: NewNode<'_>, mode: u32| {
            fs.make(&caller, parent, name(called), &new, Mode::new(mode)).unwrap().0
        };
        let own = |node: &Node, uid: u32, gid: u32| {
            let change = SetAttr { uid: Some(GuestUid(uid)), gid: Some(GuestGid(gid)), ..SetAttr::default() };
            fs.set_attr(&caller, node, None, &change).unwrap();
        };
        let etc = make(&root, b"etc", NewNode::Directory, 0o755);
        let passwd = file(&fs, &etc, b"passwd", 0o644, "root:x:0:0\n");
        fs.set_xattr(&caller, &passwd, b"user.a", b"x", XattrFlags::default()).unwrap();
        file(&fs, &etc, b"other", 0o640, "");
        let bin = make(&root, b"bin", NewNode::Directory, 0o755);
        let su = file(&fs, &bin, b"su", 0o755, "program");
        own(&su, 0, 50);
        fs.set_attr(&caller, &su, None, &SetAttr { mode: Some(Mode::new(0o4755)), ..SetAttr::default() }).unwrap();
        let dev = make(&root, b"dev", NewNode::Directory, 0o755);
        make(&dev, b"console", NewNode::CharDevice(DeviceNumber { major: 5, minor: 1 }), 0o600);
        make(&dev, b"log", NewNode::Socket, 0o666);
        make(&dev, b"pipe", NewNode::Fifo, 0o666);
        let link = make(&root, b"link", NewNode::Symlink(b"etc/passwd"), 0o777);
        own(&link, 1000, 1000);
        let one = file(&fs, &root, b"one", 0o600, "several names");
        own(&one, 7, 8);
        fs.link(&caller, &one, &etc, name(b"two")).unwrap();
        file(&fs, &root, b"new\nline", 0o644, "");
        file(&fs, &root, b"not-\xff-utf8", 0o644, "");
        let metadata = make(&root, b"metadata", NewNode::Directory, 0o711);
        make(&metadata, b"metadata", NewNode::Directory, 0o700);
        fs.close().unwrap();
        sample
    }

    pub(crate) fn data(&self, path: &str) -> PathBuf {
        self.tree.join("data").join(path)
    }

    pub(crate) fn check(&self, options: CheckOptions) -> Report {
        humfs::check::check(&self.tree, &options, &Progress::default()).unwrap()
    }

    pub(crate) fn look(&self) -> Report {
        self.check(CheckOptions::default())
    }

    pub(crate) fn repair(&self) -> Report {
        self.check(CheckOptions { repair: true, ..CheckOptions::default() })
    }

    /// What a guest sees, by path.
    pub(crate) fn view(&self) -> BTreeMap<Vec<u8>, String> {
        let fs = HumFs::new(Tree::open(&self.tree, Access::Read).unwrap(), Options { read_only: true, ..Options::default() }).unwrap();
        let mut view = BTreeMap::new();
        let mut ahead = vec![(Vec::new(), fs.root().unwrap())];
        while let Some((path, dir)) = ahead.pop() {
            let listing = fs.open_dir(&dir).unwrap();
            let mut names = Vec::new();
            fs.read_dir(&listing, 0, &mut |entry| {
                names.push(entry.name.to_vec());
                true
            })
            .unwrap();
            for called in names.iter().filter(|called| !matches!(called.as_slice(), b"." | b"..")) {
                let path = [path.as_slice(), b"/", called].concat();
                let Ok((node, attr)) = fs.lookup(&dir, name(called)) else {
                    view.insert(path, "EIO".into());
                    continue;
                };
                let target = fs.read_link(&node).map(|target| String::from_utf8(target).unwrap()).unwrap_or_default();
                let text = format!("{:?} {:04o} {}:{} {target}", attr.kind, attr.mode.bits(), attr.uid.0, attr.gid.0);
                view.insert(path.clone(), text);
                if attr.kind == FileKind::Directory {
                    ahead.push((path, node));
                }
            }
        }
        view
    }

    /// Everything that the host says of the tree, times and attributes too.
    pub(crate) fn fingerprint(&self) -> BTreeMap<PathBuf, String> {
        let mut prints = BTreeMap::new();
        let mut ahead = vec![self.tree.clone()];
        while let Some(path) = ahead.pop() {
            let stat = std::fs::symlink_metadata(&path).unwrap();
            let mut record = vec![0; 4096];
            let len = rustix::fs::lgetxattr(&path, "user.humfs", record.as_mut_slice()).unwrap_or(0);
            record.truncate(len);
            let text = format!(
                "{:o} {} {} {} {} {} {}.{} {}.{} {record:?}",
                stat.mode(),
                stat.uid(),
                stat.gid(),
                stat.nlink(),
                stat.ino(),
                stat.size(),
                stat.mtime(),
                stat.mtime_nsec(),
                stat.ctime(),
                stat.ctime_nsec()
            );
            if stat.is_dir() {
                ahead.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            // SQLite makes and removes these for every reader, which the times
            // of the directory show.
            let text = if path.ends_with("tree/humfs") { "a directory".into() } else { text };
            if !path.as_os_str().as_bytes().ends_with(b"-shm") && !path.as_os_str().as_bytes().ends_with(b"-wal") {
                prints.insert(path, text);
            }
        }
        prints
    }
}
