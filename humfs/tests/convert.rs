//! Conversions between all formats, whole and cut short.

use externfs::*;
use humfs::check::{CheckOptions, Progress};
use humfs::make::{Plan, lay};
use humfs::store::Format;
use humfs::superblock::Superblock;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

fn open(path: &Path) -> Arc<Bridge<humfs::HumFs>> {
    humfs::open(path, &humfs::Options::default()).expect("the tree opens")
}

fn name(bytes: &[u8]) -> Name<'_> {
    Name::new(bytes).expect("a name")
}

struct Bytes(Vec<u8>, usize);

impl DataSource for Bytes {
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(self.remaining());
        buffer[..count].copy_from_slice(&self.0[self.1..][..count]);
        self.1 += count;
        Ok(count)
    }
    fn drain_to(&mut self, file: BorrowedFd<'_>, place: WritePlace, len: usize, _: bool) -> io::Result<usize> {
        let WritePlace::At(offset) = place else { panic!("not appended here") };
        let count = rustix::io::pwrite(file, &self.0[self.1..][..len], offset)?;
        self.1 += count;
        Ok(count)
    }
    fn remaining(&self) -> usize {
        self.0.len() - self.1
    }
}

/// How many objects [`fill`] makes names for.
const ALL: usize = 13;

/// One of everything, and names that are hard to carry.
fn fill(export: &dyn Export) {
    let root = Caller::root();
    let bob = Caller { uid: GuestUid(1000), gid: GuestGid(4_294_967_294), ..Caller::root() };
    let mode = |bits| Mode::new(bits);
    let make = |parent, n: &[u8], new: NewNode<'_>, bits| export.make(&bob, parent, name(n), &new, mode(bits)).expect("made").id;
    let dir = make(NodeId::ROOT, b"dir", NewNode::Directory, 0o2775);
    let metadata = make(dir, b"metadata", NewNode::Directory, 0o700);
    make(metadata, b"metadata", NewNode::Directory, 0o1777);
    make(dir, &[b'n'; 255], NewNode::Regular, 0o600);
    make(dir, b"\xff\n \xfe", NewNode::Fifo, 0o622);
    make(NodeId::ROOT, b"short", NewNode::Symlink(b"dir/metadata"), 0);
    make(NodeId::ROOT, b"long", NewNode::Symlink(&[b't'; 4000]), 0);
    make(dir, b"disk", NewNode::BlockDevice(DeviceNumber { major: 0xfffff, minor: u32::MAX }), 0o660);
    make(dir, b"zero", NewNode::CharDevice(DeviceNumber { major: 0, minor: 0 }), 0o666);
    make(dir, b"socket", NewNode::Socket, 0o755);
    let flags = CreateFlags { mode: mode(0o644), exclusive: true, open: OpenFlags { read: true, write: true, ..OpenFlags::default() } };
    let (file, handle) = export.create(&bob, dir, name(b"file"), flags).expect("created");
    export.write(handle.id, 0, &mut Bytes(b"contents".to_vec(), 0), WriteFlags::default()).expect("written");
    export.release(handle.id, None);
    export.set_xattr(&root, file.id, b"user.colour", b"blue", XattrFlags::empty()).expect("setxattr");
    export.set_xattr(&root, file.id, b"security.capability", &[1, 0, 0, 2], XattrFlags::empty()).expect("setxattr");
    let setuid = SetAttr { mode: Some(mode(0o4755)), ..SetAttr::default() };
    export.set_attr(&root, file.id, None, &setuid).expect("chmod");
    export.link(&root, file.id, NodeId::ROOT, name(b"second name")).expect("linked");
    export.link(&root, file.id, metadata, name(b"third")).expect("linked");
    let times = SetAttr {
        atime: Some(SetTime::At(Timestamp { seconds: 1, nanoseconds: 2 })),
        mtime: Some(SetTime::At(Timestamp { seconds: -3, nanoseconds: 4 })),
        ..SetAttr::default()
    };
    for id in [file.id, dir] {
        export.set_attr(&root, id, None, &times).expect("utimens");
    }
}

struct Names(Vec<Vec<u8>>);

impl Listing for Names {
    fn has_room(&self, _: usize) -> bool {
        true
    }
    fn put(&mut self, entry: &DirEntry<'_>, _: Option<&Entry>) {
        if entry.name != b"." && entry.name != b".." {
            self.0.push(entry.name.to_vec());
        }
    }
}

struct Sink(Vec<u8>);

impl DataSink for Sink {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
    fn fill_from(&mut self, file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<usize> {
        let mut bytes = vec![0; len];
        let count = rustix::io::pread(file, &mut bytes, offset)?;
        self.0.extend_from_slice(&bytes[..count]);
        Ok(count)
    }
    fn room(&self) -> usize {
        1 << 16
    }
}

/// Everything a guest can tell of a tree but inode numbers and ctimes. Times
/// of links and special files may be those of new inodes, and are left out.
fn snapshot(path: &Path) -> BTreeMap<Vec<u8>, String> {
    let bridge = open(path);
    let export = bridge.connect().expect("connected");
    let mut seen = BTreeMap::new();
    let mut inodes: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut ahead = vec![(NodeId::ROOT, Vec::new())];
    let (attr, _) = export.get_attr(NodeId::ROOT, None).expect("root");
    seen.insert(Vec::new(), format!("{:?} {:?} {:?}", attr.mode, attr.uid, attr.gid));
    while let Some((dir, above)) = ahead.pop() {
        let handle = export.open_dir(dir).expect("listing");
        let mut names = Names(Vec::new());
        export.read_dir(handle.id, 0, &mut names).expect("names");
        export.release_dir(handle.id);
        names.0.sort();
        for n in names.0 {
            let path = [above.as_slice(), b"/", &n].concat();
            let entry = export.lookup(&Caller::root(), dir, name(&n)).expect("looked up");
            let a = entry.attr;
            let mut text = format!("{:?} {:?} {:?} {:?} {:?} nlink {}", a.kind, a.mode, a.uid, a.gid, a.device, a.nlink);
            if matches!(a.kind, FileKind::Regular | FileKind::Directory) {
                text += &format!(" {:?}", a.mtime);
            }
            match a.kind {
                FileKind::Directory => ahead.push((entry.id, path.clone())),
                FileKind::Symlink => text += &format!(" -> {:?}", export.read_link(entry.id).expect("target")),
                FileKind::Regular => {
                    let first = inodes.entry(a.ino).or_insert_with(|| path.clone());
                    text += &format!(" is {first:?}");
                    let open = export.open(&Caller::root(), entry.id, OpenFlags { read: true, ..OpenFlags::default() }).expect("opened");
                    let mut sink = Sink(Vec::new());
                    export.read(open.id, 0, 1 << 16, &mut sink).expect("read");
                    export.release(open.id, None);
                    text += &format!(" {:?}", sink.0);
                }
                _ => {}
            }
            for attribute in export.list_xattr(entry.id).expect("list").split(|b| *b == 0).filter(|n| !n.is_empty()) {
                text += &format!(" {attribute:?}={:?}", export.get_xattr(entry.id, attribute).expect("value"));
            }
            seen.insert(path, text);
        }
    }
    let used = bridge.fs().account().used();
    assert_eq!(used, bridge.fs().recount().expect("recount"));
    drop(export);
    bridge.close().expect("closed");
    seen
}

fn tree(format: Format) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    lay(dir.path(), &Plan { format, total: 1 << 30, inodes: None, adopt: None }).expect("laid");
    let bridge = open(dir.path());
    fill(&*bridge.connect().expect("connected"));
    bridge.close().expect("closed");
    dir
}

#[test]
fn from_any_format_to_any_other_nothing_is_lost() {
    for from in Format::ALL {
        let dir = tree(from);
        let before = snapshot(dir.path());
        assert!(before.len() > 12);
        // One after the other, and back at last.
        for to in Format::ALL.into_iter().filter(|to| *to != from).chain([from]) {
            let mut told = 0;
            humfs::convert::convert(dir.path(), to, &mut |count| told = count).unwrap_or_else(|e| panic!("{from:?} to {to:?}: {e}"));
            assert!(told as usize >= before.len() - 1);
            let text = std::fs::read_to_string(dir.path().join("superblock")).expect("superblock");
            assert!(text.contains(&format!("metadata {}\n", to.name())), "{text}");
            assert_eq!(snapshot(dir.path()), before, "{from:?} to {to:?}");
            for left in ["humfs/convert", "humfs/old", "humfs/switching"] {
                assert!(!dir.path().join(left).exists(), "{left} is left");
            }
        }
        assert!(humfs::convert::convert(dir.path(), from, &mut |_| ()).unwrap_err().0.contains("already"));
    }
}

/// Begins a conversion that dies at the object with the number `last`.
fn cut_short(path: &Path, to: Format, last: usize) {
    let attempt = || humfs::convert::convert(path, to, &mut |told| assert!((told as usize) < last, "cut short"));
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(attempt)).expect_err("it was cut short");
    assert!(path.join("humfs/convert/data").exists());
}

fn convert(path: &Path, to: Format) {
    humfs::convert::convert(path, to, &mut |_| ()).unwrap_or_else(|e| panic!("to {to:?}: {e}"));
    for left in ["humfs/convert", "humfs/dropped", "humfs/old", "humfs/switching"] {
        assert!(!path.join(left).exists(), "{left} is left");
    }
}

/// Another format than `from`.
fn other(from: Format) -> Format {
    if from == Format::Xattr { Format::ShadowFs } else { Format::Xattr }
}

#[test]
fn what_was_cut_short_goes_on_if_nobody_has_changed_anything() {
    use std::os::unix::fs::MetadataExt;
    for from in Format::ALL {
        for to in Format::ALL.into_iter().filter(|to| *to != from) {
            let dir = tree(from);
            let before = snapshot(dir.path());
            for spared in [9, 0] {
                cut_short(dir.path(), to, before.len() - 1 - spared);
            }
            let made = |at: &str| dir.path().join(at).join("dir").metadata().expect("stat").ino();
            let first = made("humfs/convert/data");
            convert(dir.path(), to);
            assert_eq!(made("data"), first, "{from:?} to {to:?}: it has begun anew");
            assert_eq!(snapshot(dir.path()), before, "{from:?} to {to:?}");
        }
    }
}

#[test]
fn a_tree_that_was_used_meanwhile_stays_as_it_was_left() {
    for from in Format::ALL {
        let dir = tree(from);
        for to in Format::ALL.into_iter().filter(|to| *to != from) {
            cut_short(dir.path(), to, ALL);
            use_it(dir.path());
            assert!(!dir.path().join("humfs/convert").exists());
            let left = snapshot(dir.path());
            convert(dir.path(), to);
            assert_eq!(snapshot(dir.path()), left, "{from:?} to {to:?}");
            convert(dir.path(), from);
            restore(dir.path());
        }
    }
}

/// What a guest may do to a tree that [`fill`] has filled.
fn use_it(path: &Path) {
    let bridge = open(path);
    let export = bridge.connect().expect("connected");
    let (root, caller) = (NodeId::ROOT, Caller::root());
    let find = |parent, n: &[u8]| export.lookup(&caller, parent, name(n)).expect("looked up");
    let dir = find(root, b"dir").id;
    let alone = find(dir, &[b'n'; 255]);
    assert_eq!(alone.attr.nlink, 1, "it has a second name in humfs/convert");
    export.unlink(&caller, dir, name(&[b'n'; 255])).expect("unlinked");
    export.unlink(&caller, dir, name(b"zero")).expect("unlinked");
    export.make(&caller, dir, name(b"zero"), &NewNode::Directory, Mode::new(0o711)).expect("made");
    export.make(&caller, dir, name(b"new"), &NewNode::Regular, Mode::new(0o600)).expect("made");
    let given = SetAttr { uid: Some(GuestUid(7)), gid: Some(GuestGid(8)), ..SetAttr::default() };
    export.set_attr(&caller, dir, None, &given).expect("chown");
    drop(export);
    bridge.close().expect("closed");
}

/// Undoes what [`use_it`] would stumble over the next time.
fn restore(path: &Path) {
    let bridge = open(path);
    let export = bridge.connect().expect("connected");
    let caller = Caller::root();
    let dir = export.lookup(&caller, NodeId::ROOT, name(b"dir")).expect("looked up").id;
    export.rmdir(&caller, dir, name(b"zero")).expect("rmdir");
    export.unlink(&caller, dir, name(b"new")).expect("unlinked");
    for n in [&b"zero"[..], &[b'n'; 255]] {
        export.make(&caller, dir, name(n), &NewNode::Regular, Mode::new(0o600)).expect("made");
    }
    drop(export);
    bridge.close().expect("closed");
}

/// Nobody opens the tree for what processes of the host do to it.
#[test]
fn what_the_host_has_changed_meanwhile_is_converted_as_it_is() {
    for from in Format::ALL {
        let dir = tree(from);
        let data = |below: &str| dir.path().join("data").join(below);
        cut_short(dir.path(), other(from), ALL);
        std::fs::remove_file(data("dir/metadata/third")).expect("removed");
        std::fs::remove_file(data("dir/zero")).expect("removed");
        std::fs::create_dir(data("dir/zero")).expect("made");
        convert(dir.path(), other(from));
        let after = snapshot(dir.path());
        assert!(!after.contains_key(&b"/dir/metadata/third"[..]), "{from:?}");
        assert!(after[&b"/dir/zero"[..]].starts_with("Directory"), "{from:?}");
        assert!(after[&b"/dir/file"[..]].contains("nlink 2 "), "{from:?}: {}", after[&b"/dir/file"[..]]);
    }
}

#[test]
fn another_format_is_begun_anew() {
    let dir = tree(Format::Sqlite);
    let before = snapshot(dir.path());
    cut_short(dir.path(), Format::ShadowFs, ALL - 3);
    convert(dir.path(), Format::Xattr);
    assert_eq!(snapshot(dir.path()), before);
    assert!(!dir.path().join("file_metadata").exists(), "of the other attempt");
}

/// `externfs resize` needs nobody's lock, and may come at any time.
#[test]
fn a_limit_that_is_changed_meanwhile_stays() {
    let total = |path: &Path| Superblock::parse(&std::fs::read(path.join("superblock")).expect("superblock")).expect("sense").total;
    for from in Format::ALL {
        let dir = tree(from);
        let resize = |told: u64| {
            if told == ALL as u64 {
                humfs::tree::resize(dir.path(), 3 << 30).expect("resized");
            }
        };
        humfs::convert::convert(dir.path(), other(from), &mut { resize }).unwrap_or_else(|e| panic!("{from:?}: {e}"));
        assert_eq!(total(dir.path()), 3 << 30, "{from:?}");
        let told = open(dir.path()).connect().expect("connected").statfs(NodeId::ROOT).expect("statfs");
        assert_eq!(told.blocks * u64::from(told.block_size), 3 << 30, "{from:?}");
    }
}

/// Attributes of files are in both trees.
#[test]
fn records_of_another_format_do_not_stay_on_files() {
    for from in Format::ALL {
        let dir = tree(from);
        let marked = || {
            let files = ["dir/file", "second name", "dir/disk", "dir/zero"].map(|below| dir.path().join("data").join(below));
            files.iter().filter(|file| rustix::fs::getxattr(*file, "user.humfs", &mut [0; 4096]).is_ok()).count()
        };
        let clean = |when: &str| {
            let report = humfs::check::check(dir.path(), &CheckOptions::default(), &Progress::default()).expect("checked");
            assert_eq!(report.exit_code(), 0, "{from:?}, {when}: {report}");
        };
        large_attribute(dir.path());
        if from == Format::Xattr {
            assert_eq!(marked(), 4);
            for to in [Format::Sqlite, Format::ShadowLink] {
                convert(dir.path(), to);
                assert_eq!(marked(), 0, "to {to:?}");
                clean("converted");
            }
        } else {
            for again in [ALL, 2] {
                cut_short(dir.path(), Format::Xattr, again);
                drop(open(dir.path()).close());
                assert_eq!(marked(), 0, "{from:?}: given up at {again}");
                clean("given up");
            }
        }
    }
}

/// Gives a file an attribute for which the host needs a block where that is the record.
fn large_attribute(path: &Path) {
    let bridge = open(path);
    let export = bridge.connect().expect("connected");
    let file = export.lookup(&Caller::root(), NodeId::ROOT, name(b"second name")).expect("looked up").id;
    export.set_xattr(&Caller::root(), file, b"user.large", &[7; 1500], XattrFlags::empty()).expect("setxattr");
    drop(export);
    bridge.close().expect("closed");
}

/// A power failure may take the record of a directory and leave the directory.
#[test]
fn a_directory_without_its_record_gets_it() {
    let dir = tree(Format::Xattr);
    let before = snapshot(dir.path());
    cut_short(dir.path(), Format::ShadowFs, ALL);
    let record = dir.path().join("humfs/convert/dir_metadata/dir/metadata/metadata/metadata");
    std::fs::write(record, "").expect("emptied");
    convert(dir.path(), Format::ShadowFs);
    assert_eq!(snapshot(dir.path()), before);
}

#[test]
fn what_is_given_up_leads_nowhere_else() {
    use std::os::unix::fs::symlink;
    let outside = tempfile::tempdir().expect("a directory");
    std::fs::write(outside.path().join("letter"), "dear").expect("written");
    let dir = tree(Format::Xattr);
    let before = snapshot(dir.path());
    let control = |below: &str| dir.path().join("humfs").join(below);
    // One that was being taken away when whoever did it died, and another.
    cut_short(dir.path(), Format::ShadowFs, ALL);
    std::fs::rename(control("convert"), control("dropped")).expect("renamed");
    symlink(outside.path(), control("dropped/data/dir/link")).expect("linked");
    symlink(outside.path(), control("convert")).expect("linked");
    assert_eq!(snapshot(dir.path()), before);
    assert!(!control("dropped").exists() && control("convert").symlink_metadata().is_err());
    assert_eq!(std::fs::read(outside.path().join("letter")).expect("read"), b"dear");
    // Who only looks takes nothing away.
    cut_short(dir.path(), Format::ShadowFs, ALL);
    let options = humfs::Options { read_only: true, ..humfs::Options::default() };
    drop(humfs::open(dir.path(), &options).expect("the tree opens"));
    assert!(control("convert/data/dir").exists());
}
