//! The bridge, driven as a frontend drives it, over the example plugin and over
//! one whose tree the test changes under it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use externfs::example::LinesFs;
use externfs::helper::{list, plain_attr, read_slice};
use externfs::*;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

struct Sink {
    bytes: Vec<u8>,
    size: usize,
}

impl DataSink for Sink {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        assert!(bytes.len() <= self.room(), "the plugin overran the sink");
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
    fn fill_from(&mut self, _: BorrowedFd<'_>, _: u64, _: usize) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn room(&self) -> usize {
        self.size - self.bytes.len()
    }
}

struct Names {
    left: usize,
    seen: Vec<(Vec<u8>, Option<NodeId>, u64)>,
}

impl Listing for Names {
    fn has_room(&self, _: usize) -> bool {
        self.left > 0
    }
    fn put(&mut self, entry: &DirEntry<'_>, known: Option<&Entry>) {
        self.left -= 1;
        self.seen.push((entry.name.to_vec(), known.map(|known| known.id), entry.next));
    }
}

fn name(text: &str) -> Name<'_> {
    Name::new(text.as_bytes()).unwrap()
}

fn errno<T: std::fmt::Debug>(result: Result<T>) -> Errno {
    result.expect_err("should be refused").errno()
}

fn idle(export: &dyn Export) {
    let statistics = export.statistics();
    assert_eq!((statistics.nodes, statistics.handles, statistics.bridge_nodes), (1, 0, 1));
}

fn lines(text: &str) -> Arc<dyn Export> {
    Bridge::new(LinesFs::new(text.as_bytes()), BridgeOptions::default()).unwrap().connect().unwrap()
}

#[test]
fn the_example_lists_reads_and_forgets() {
    let export = lines("one\ntwo\nthree");
    let root = Caller::root();
    let entry = export.lookup(&root, NodeId::ROOT, name("2")).unwrap();
    assert_eq!((entry.attr.kind, entry.attr.size), (FileKind::Regular, 4));
    assert_eq!(errno(export.lookup(&root, NodeId::ROOT, name("4"))), Errno::ENOENT);
    assert_eq!(errno(export.lookup(&root, entry.id, name("1"))), Errno::ENOTDIR);

    let handle = export.open(&root, entry.id, OpenFlags { read: true, ..OpenFlags::default() }).unwrap();
    let mut sink = Sink { bytes: Vec::new(), size: 100 };
    assert_eq!(export.read(handle.id, 1, 100, &mut sink), Ok(3));
    assert_eq!(sink.bytes, b"wo\n");
    export.release(handle.id, None);
    assert_eq!(errno(export.read(handle.id, 0, 1, &mut sink)), Errno::EBADF);

    let listing = export.open_dir(NodeId::ROOT).unwrap();
    let mut names = Names { left: 3, seen: Vec::new() };
    export.read_dir_plus(listing.id, 0, &mut names).unwrap();
    let cookie = names.seen.last().unwrap().2;
    names.left = 100;
    export.read_dir_plus(listing.id, cookie, &mut names).unwrap();
    let seen: Vec<_> = names.seen.iter().map(|(name, id, _)| (name.as_slice(), id.is_some())).collect();
    assert_eq!(seen, [(&b"."[..], false), (b"..", false), (b"1", true), (b"2", true), (b"3", true)]);
    export.release_dir(listing.id);

    // 2 was looked up twice: once by name and once by the listing.
    assert_eq!(export.statistics().nodes, 4);
    export.forget(entry.id, 1);
    assert!(export.get_attr(entry.id, None).is_ok());
    for (_, id, _) in names.seen {
        export.forget(id.unwrap_or(NodeId(999)), u64::MAX);
    }
    assert_eq!(errno(export.get_attr(entry.id, None)), Errno::ESTALE);
    idle(&*export);
}

#[test]
fn what_a_plugin_lacks_is_answered_truly_and_never_with_enosys() {
    let export = lines("one\n");
    let root = Caller::root();
    let entry = export.lookup(&root, NodeId::ROOT, name("1")).unwrap();
    let flags = CreateFlags { mode: Mode::new(0o644), exclusive: true, open: OpenFlags::default() };
    assert_eq!(errno(export.make(&root, NodeId::ROOT, name("d"), &NewNode::Directory, Mode::new(0o755))), Errno::EROFS);
    assert_eq!(errno(export.create(&root, NodeId::ROOT, name("f"), flags)), Errno::EROFS);
    assert_eq!(errno(export.create_unnamed(&root, NodeId::ROOT, flags)), Errno::EOPNOTSUPP);
    assert_eq!(errno(export.unlink(&root, NodeId::ROOT, name("1"))), Errno::EROFS);
    assert_eq!(errno(export.rename(&root, (NodeId::ROOT, name("1")), (NodeId::ROOT, name("2")), RenameFlags::empty())), Errno::EROFS);
    assert_eq!(errno(export.link(&root, entry.id, NodeId::ROOT, name("2"))), Errno::EROFS);
    assert_eq!(errno(export.set_attr(&root, entry.id, None, &SetAttr::default())), Errno::EROFS);
    assert_eq!(errno(export.read_link(entry.id)), Errno::EINVAL);
    assert_eq!(errno(export.get_xattr(entry.id, b"user.x")), Errno::EOPNOTSUPP);
    assert_eq!(export.list_xattr(entry.id), Ok(Vec::new()));
    assert_eq!(errno(export.open(&root, NodeId::ROOT, OpenFlags::default())), Errno::EISDIR);
    assert_eq!(errno(export.open_dir(entry.id)), Errno::ENOTDIR);
}

#[test]
fn numbers_that_a_guest_invents_are_refused() {
    let export = lines("one\n");
    let root = Caller::root();
    for id in [0, 2, 7, 1 << 63, u64::MAX] {
        assert_eq!(errno(export.get_attr(NodeId(id), None)), Errno::ESTALE, "{id}");
        export.forget(NodeId(id), u64::MAX);
    }
    for handle in [0, 1, 1 << 32, u64::MAX] {
        let handle = HandleId(handle);
        assert_eq!(errno(export.fsync(handle, false)), Errno::EBADF);
        assert_eq!(errno(export.fsync_dir(handle, false)), Errno::EBADF);
        export.release(handle, Some(1));
        export.release_dir(handle);
    }
    let long = "x".repeat(256);
    assert_eq!(errno(export.lookup(&root, NodeId::ROOT, name(&long))), Errno::ENAMETOOLONG);
    idle(&*export);
}

// ----- a tree that the test changes under the bridge ---------------------------

type Objects = BTreeMap<Vec<u8>, NodeKey>;

/// A flat directory of empty files whose identities the test chooses.
struct Flat {
    objects: Arc<Mutex<Objects>>,
    coherent: bool,
    /// What a listing says of the files, which are regular ones.
    listed: Option<FileKind>,
    nodes_max: usize,
    sink: Arc<Mutex<Option<ChangeSink>>>,
}

impl Flat {
    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap()
    }
}

const TOP: NodeKey = NodeKey { volume: 1, number: 2, generation: 0 };

fn key(volume: u64, number: u64, generation: u64) -> NodeKey {
    NodeKey { volume, number, generation }
}

impl ExternFs for Flat {
    type Node = NodeKey;
    type File = NodeKey;
    type Dir = ();

    fn root(&self) -> Result<NodeKey> {
        Ok(TOP)
    }
    fn key(&self, node: &NodeKey) -> NodeKey {
        *node
    }
    fn attr(&self, node: &NodeKey, _: Option<&NodeKey>) -> Result<Attr> {
        let kind = if *node == TOP { FileKind::Directory } else { FileKind::Regular };
        Ok(plain_attr(node.number, kind, 0o644, 0))
    }
    fn lookup(&self, _: &NodeKey, name: Name<'_>) -> Result<(NodeKey, Attr)> {
        let node = *self.objects().get(name.as_bytes()).ok_or(Errno::ENOENT)?;
        Ok((node, self.attr(&node, None)?))
    }
    fn open_dir(&self, _: &NodeKey) -> Result<()> {
        Ok(())
    }
    fn read_dir(&self, _: &(), cookie: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        let objects = self.objects().clone();
        let entries = objects.iter().map(|(name, key)| (name.as_slice(), key.number, FileKind::Regular));
        list(entries, cookie, &mut |entry| emit(&DirEntry { kind: self.listed, ..*entry }));
        Ok(())
    }
    fn open(&self, _: &Caller, node: &NodeKey, _: OpenFlags) -> Result<Opened<NodeKey>> {
        Ok(Opened { file: *node, cache: FileCache::Keep, size: 0 })
    }
    fn read(&self, _: &NodeKey, offset: u64, size: usize, sink: &mut dyn DataSink) -> Result<usize> {
        read_slice(b"", offset, size, sink)
    }
    /// Has no room past the eighth byte, and takes three at a time.
    fn write(&self, _: &NodeKey, offset: u64, source: &mut dyn DataSource, _: WriteFlags) -> Result<usize> {
        let room = 8u64.checked_sub(offset).filter(|room| *room > 0).ok_or(Errno::ENOSPC)?;
        let mut piece = [0; 3];
        let count = room.min(3) as usize;
        Ok(source.take(&mut piece[..count])?)
    }
    fn remove(&self, _: &Caller, _: &NodeKey, child: Child<'_, NodeKey>, _: bool) -> Result<()> {
        // The pairing is what the bridge promised.
        if let Some(node) = child.node {
            assert_eq!(self.objects().get(child.name.as_bytes()), Some(node));
        }
        self.objects().remove(child.name.as_bytes()).map(drop).ok_or_else(|| Errno::ENOENT.into())
    }
    fn cache_policy(&self) -> CachePolicy {
        CachePolicy { attr: Duration::from_secs(1), entry: Duration::from_secs(1), coherent: self.coherent, ..CachePolicy::NONE }
    }
    fn limits(&self) -> Limits {
        Limits { handles_max: 3, nodes_max: self.nodes_max, ..Limits::default() }
    }
    fn watch(&self, sink: ChangeSink) -> Result<()> {
        *self.sink.lock().unwrap() = Some(sink);
        Ok(())
    }
    fn features(&self) -> Features {
        Features { submounts: true, ..Features::default() }
    }
}

fn flat(objects: &[(&str, NodeKey)], coherent: bool) -> (Arc<Mutex<Objects>>, Arc<Bridge<Flat>>) {
    let objects: Objects = objects.iter().map(|(name, key)| (name.as_bytes().to_vec(), *key)).collect();
    let objects = Arc::new(Mutex::new(objects));
    let bridge = Bridge::new(
        Flat { objects: objects.clone(), coherent, listed: Some(FileKind::Regular), nodes_max: usize::MAX, sink: Arc::default() },
        BridgeOptions::default(),
    )
    .unwrap();
    (objects, bridge)
}

#[test]
fn hard_links_are_one_node_and_reused_numbers_two() {
    let (objects, bridge) =
        flat(&[("a", key(1, 50, 0)), ("b", key(1, 50, 0)), ("other", key(9, 50, 0)), ("huge", key(1, 7 << 60 | 50, 0))], true);
    let export = bridge.connect().unwrap();
    let root = Caller::root();
    let look = |text: &str| export.lookup(&root, NodeId::ROOT, name(text)).unwrap().id;
    assert_eq!(look("a"), NodeId(50), "the host's number where it is unique");
    assert_eq!(look("b"), NodeId(50));
    let foreign = look("other");
    assert!(foreign.0 >= 1 << 63, "another volume's 50 is another node: {foreign:?}");
    let huge = export.lookup(&root, NodeId::ROOT, name("huge")).unwrap();
    assert!(huge.id.0 >= 1 << 63 && huge.id != foreign, "a number without room for a kind: {huge:?}");
    assert_eq!((huge.attr.ino, huge.attr.kind), (7 << 60 | 50, FileKind::Regular));
    assert_eq!(export.statistics().nodes, 4);

    // The file is replaced by one with the same number while the old is known.
    objects.lock().unwrap().insert(b"a".to_vec(), key(1, 50, 1));
    let reborn = look("a");
    assert_ne!(reborn, NodeId(50));
    assert!(export.get_attr(NodeId(50), None).is_ok(), "who had the old one keeps it");
    export.forget(NodeId(50), 2);
    export.forget(reborn, 1);
    assert_eq!(look("a"), NodeId(50), "free again");
    // The root's own number is taken by ROOT, whatever the plugin calls it.
    objects.lock().unwrap().insert(b"loop".to_vec(), TOP);
    assert_eq!(look("loop"), NodeId::ROOT);
    export.reset();
    idle(&*export);
}

#[test]
fn a_kernel_that_dies_leaves_nothing_and_takes_nothing_from_others() {
    let (_, bridge) = flat(&[("a", key(1, 50, 0)), ("b", key(1, 51, 0))], true);
    let (first, second) = (bridge.connect().unwrap(), bridge.connect().unwrap());
    let root = Caller::root();
    let open = OpenFlags { read: true, write: true, ..OpenFlags::default() };
    for export in [&first, &second] {
        let entry = export.lookup(&root, NodeId::ROOT, name("a")).unwrap();
        export.open(&root, entry.id, open).unwrap();
    }
    first.lookup(&root, NodeId::ROOT, name("b")).unwrap();
    assert_eq!(second.statistics().bridge_nodes, 3);
    assert_eq!(errno(second.get_attr(NodeId(51), None)), Errno::ESTALE, "numbers are each kernel's own");
    drop(first);
    let left = second.statistics();
    assert_eq!((left.nodes, left.handles, left.bridge_nodes), (2, 1, 2));
    assert!(second.get_attr(NodeId(50), None).is_ok());
}

#[test]
fn handles_are_limited_and_never_stand_for_a_successor() {
    let (_, bridge) = flat(&[("a", key(1, 50, 0))], true);
    let export = bridge.connect().unwrap();
    let root = Caller::root();
    let id = export.lookup(&root, NodeId::ROOT, name("a")).unwrap().id;
    let open = |write| export.open(&root, id, OpenFlags { read: true, write, ..OpenFlags::default() });
    let handles: Vec<_> = (0..3).map(|_| open(false).unwrap().id).collect();
    assert_eq!(errno(open(false)), Errno::ENFILE);
    let mut seen = std::collections::HashSet::new();
    seen.extend(handles.iter().map(|handle| handle.0));
    for handle in handles {
        export.release(handle, None);
        export.release(handle, None);
    }
    for _ in 0..1000 {
        let handle = open(false).unwrap().id;
        assert!(seen.insert(handle.0), "a number was given twice");
        export.release(handle, None);
    }
    let reader = open(false).unwrap();
    assert_eq!(errno(export.write(reader.id, 0, &mut Blank(3), WriteFlags::default())), Errno::EBADF);
    let writer = open(true).unwrap();
    assert_eq!(export.write(writer.id, 0, &mut Blank(3), WriteFlags::default()), Ok(3));
    assert_eq!(errno(export.write(writer.id, i64::MAX as u64, &mut Blank(3), WriteFlags::default())), Errno::EFBIG);
    assert_eq!(errno(export.fallocate(writer.id, u64::MAX, 2, FallocateFlags::empty())), Errno::EFBIG);
    assert_eq!(errno(export.fallocate(writer.id, 0, 0, FallocateFlags::empty())), Errno::EINVAL);
}

#[test]
fn each_kernel_has_its_part_of_the_handles() {
    let (_, bridge) = flat(&[("a", key(1, 50, 0))], true);
    let (first, root) = (bridge.connect().unwrap(), Caller::root());
    let open = |export: &Arc<dyn Export>| {
        let id = export.lookup(&root, NodeId::ROOT, name("a")).unwrap().id;
        export.open(&root, id, OpenFlags { read: true, ..OpenFlags::default() }).map(|handle| handle.id)
    };
    let listing = first.open_dir(NodeId::ROOT).unwrap().id;
    let files = [open(&first).unwrap(), open(&first).unwrap()];
    assert_eq!((errno(open(&first)), errno(first.open_dir(NodeId::ROOT))), (Errno::ENFILE, Errno::ENFILE));
    let second = bridge.connect().unwrap();
    open(&second).unwrap();
    assert_eq!(errno(open(&second)), Errno::ENFILE);
    first.release_dir(listing);
    files.iter().for_each(|file| first.release(*file, None));
    open(&first).unwrap();
    assert_eq!(errno(open(&first)), Errno::ENFILE);
}

#[test]
fn a_kernel_that_never_forgets_is_told_no_more() {
    let objects: Vec<_> = (0..8).map(|number| (format!("f{number}"), key(1, 50 + number, 0))).collect();
    let objects: Objects = objects.into_iter().map(|(name, key)| (name.into_bytes(), key)).collect();
    let fs = Flat {
        objects: Arc::new(Mutex::new(objects)),
        coherent: true,
        listed: Some(FileKind::Regular),
        nodes_max: 3,
        sink: Arc::default(),
    };
    let export = Bridge::new(fs, BridgeOptions::default()).unwrap().connect().unwrap();
    let root = Caller::root();
    let look = |number: u64| export.lookup(&root, NodeId::ROOT, name(&format!("f{number}")));
    let nodes: Vec<_> = (0..3).map(|number| look(number).unwrap().id).collect();
    assert_eq!(errno(look(3)), Errno::ENOMEM);
    assert!(export.get_attr(nodes[0], None).is_ok());
    let listing = export.open_dir(NodeId::ROOT).unwrap().id;
    let mut names = Names { left: 99, seen: Vec::new() };
    export.read_dir_plus(listing, 0, &mut names).unwrap();
    assert!(names.seen.len() >= 8 && names.seen.iter().all(|(_, known, _)| known.is_none()), "listed, and not remembered");
    export.forget(nodes[1], 1);
    assert!(look(3).is_ok());
}

/// So many bytes of no meaning.
struct Blank(usize);

impl DataSource for Blank {
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(self.0);
        self.0 -= count;
        Ok(count)
    }
    fn drain_to(&mut self, _: BorrowedFd<'_>, _: WritePlace, _: usize, _: bool) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn remaining(&self) -> usize {
        self.0
    }
}

#[derive(Default)]
struct Heard(Mutex<Vec<Change<NodeId>>>);

impl Watcher for Heard {
    fn changed(&self, change: Change<NodeId>) {
        self.0.lock().unwrap().push(change);
    }
}

#[test]
fn one_kernels_changes_reach_the_others() {
    let (_, bridge) = flat(&[("a", key(1, 50, 0)), ("b", key(1, 51, 0))], true);
    let (author, other) = (bridge.connect().unwrap(), bridge.connect().unwrap());
    let heard = Arc::new(Heard::default());
    let root = Caller::root();
    assert_eq!(author.cache_policy().attr, Duration::ZERO, "shared, and cannot be told");
    other.set_watcher(heard.clone());
    assert_eq!(other.cache_policy().attr, Duration::from_secs(1), "shared, but will be told");

    let id = author.lookup(&root, NodeId::ROOT, name("a")).unwrap().id;
    other.lookup(&root, NodeId::ROOT, name("a")).unwrap();
    let handle = author.open(&root, id, OpenFlags { write: true, ..OpenFlags::default() }).unwrap();
    assert_eq!(handle.cache, FileCache::Drop, "pages may be stale, so they go at open");
    author.write(handle.id, 0, &mut Blank(1), WriteFlags::default()).unwrap();
    author.release(handle.id, None);
    assert_eq!(std::mem::take(&mut *heard.0.lock().unwrap()), [Change::Node { node: id, data: true }]);
    author.unlink(&root, NodeId::ROOT, name("a")).unwrap();
    let changes = std::mem::take(&mut *heard.0.lock().unwrap());
    assert!(changes.contains(&Change::Entry { parent: NodeId::ROOT, name: b"a".to_vec() }), "{changes:?}");

    // What the other never heard of is no news to it.
    let unknown = author.lookup(&root, NodeId::ROOT, name("b")).unwrap().id;
    let handle = author.open(&root, unknown, OpenFlags { write: true, ..OpenFlags::default() }).unwrap();
    author.write(handle.id, 0, &mut Blank(1), WriteFlags::default()).unwrap();
    assert_eq!(*heard.0.lock().unwrap(), []);
    drop(author);
    assert_eq!(other.cache_policy().attr, Duration::from_secs(1));
}

#[test]
fn when_anything_may_have_changed_all_is_told_that_is_remembered() {
    let (_, bridge) = flat(&[("a", key(1, 50, 0)), ("b", key(1, 51, 0)), ("c", key(1, 52, 0))], true);
    let (kernel, other) = (bridge.connect().unwrap(), bridge.connect().unwrap());
    let heard = Arc::new(Heard::default());
    kernel.set_watcher(heard.clone());
    for text in ["a", "b"] {
        kernel.lookup(&Caller::root(), NodeId::ROOT, name(text)).unwrap();
    }
    other.lookup(&Caller::root(), NodeId::ROOT, name("c")).unwrap();
    let sink = bridge.fs().sink.lock().unwrap().clone().unwrap();
    sink(Change::Everything);
    let mut told = std::mem::take(&mut *heard.0.lock().unwrap());
    told.sort_by_key(|change| if let Change::Node { node, .. } = change { node.0 } else { 0 });
    assert_eq!(told, [1, 50, 51].map(|node| Change::Node { node: NodeId(node), data: true }));
}

#[test]
fn a_kernel_that_will_be_joined_is_promised_nothing() {
    let (_, bridge) = flat(&[("a", key(1, 50, 0))], true);
    bridge.expect(2);
    let first = bridge.connect().unwrap();
    let root = Caller::root();
    let entry = first.lookup(&root, NodeId::ROOT, name("a")).unwrap();
    assert_eq!((entry.attr_ttl, entry.entry_ttl, first.cache_policy().negative), (Duration::ZERO, Duration::ZERO, Duration::ZERO));
    assert_eq!(first.get_attr(entry.id, None).unwrap().1, Duration::ZERO);
    let open = first.open(&root, entry.id, OpenFlags { read: true, ..OpenFlags::default() }).unwrap();
    assert_eq!(open.cache, FileCache::Drop);
    first.release(open.id, None);
    // Nothing was promised, so a listing has to tell it again.
    let listing = first.open_dir(NodeId::ROOT).unwrap();
    let mut names = Names { left: 100, seen: Vec::new() };
    first.read_dir_plus(listing.id, 0, &mut names).unwrap();
    assert_eq!(names.seen.iter().filter(|(_, known, _)| known.is_some()).count(), 1);
    first.release_dir(listing.id);
    assert_eq!(first.get_attr(NodeId::ROOT, None).unwrap().1, Duration::ZERO);
    // Its part of three handles is what is left for it beside the other.
    let _open = first.open_dir(NodeId::ROOT).unwrap();
    assert_eq!(errno(first.open_dir(NodeId::ROOT)), Errno::ENFILE);
    // Who is told of changes may remember whoever comes, and one that goes alone too.
    let told = bridge.connect().unwrap();
    told.set_watcher(Arc::new(Heard::default()));
    assert_eq!(told.lookup(&root, NodeId::ROOT, name("a")).unwrap().attr_ttl, Duration::from_secs(1));
    drop(first);
    assert_eq!(bridge.connect().unwrap().cache_policy().attr, Duration::ZERO);
}

#[test]
fn one_guest_after_the_other_may_remember() {
    let (_, bridge) = flat(&[], true);
    bridge.expect(1);
    for _ in 0..2 {
        assert_eq!(bridge.connect().unwrap().cache_policy().attr, Duration::from_secs(1));
    }
    let mount = bridge.connect().unwrap();
    mount.set_watcher(Arc::new(Heard::default()));
    assert_eq!(bridge.connect().unwrap().cache_policy().attr, Duration::ZERO, "beside a mount");
    drop(mount);
    assert_eq!(bridge.connect().unwrap().cache_policy().attr, Duration::from_secs(1), "which is gone for good");
}

#[test]
fn a_tree_that_nobody_else_changes_keeps_its_times_when_shared() {
    let (_, bridge) = flat(&[], false);
    bridge.expect(2);
    let exports = [bridge.connect().unwrap(), bridge.connect().unwrap()];
    assert_eq!(exports[0].cache_policy().attr, Duration::from_secs(1));
}

#[test]
fn a_listing_does_not_repeat_what_the_kernel_was_just_told() {
    let (_, bridge) = flat(&[("a", key(1, 50, 0)), ("b", key(1, 51, 0))], true);
    let export = bridge.connect().unwrap();
    let told = |export: &dyn Export| {
        let listing = export.open_dir(NodeId::ROOT).unwrap();
        let mut names = Names { left: 100, seen: Vec::new() };
        export.read_dir_plus(listing.id, 0, &mut names).unwrap();
        export.release_dir(listing.id);
        names.seen.into_iter().filter_map(|(_, id, _)| id).collect::<Vec<_>>()
    };
    export.lookup(&Caller::root(), NodeId::ROOT, name("a")).unwrap();
    assert_eq!(told(&*export), [NodeId(51)], "a was looked up just now");
    assert_eq!(told(&*export), []);
    // Half of its second is over: the kernel will want to know again.
    std::thread::sleep(Duration::from_millis(550));
    assert_eq!(told(&*export), [NodeId(50), NodeId(51)]);
    export.forget(NodeId(50), u64::MAX);
    assert_eq!(told(&*export), [NodeId(50)], "forgotten");
    // A second kernel changes things: nothing is taken for granted.
    let other = bridge.connect().unwrap();
    assert_eq!(told(&*export).len(), 2);
    assert_eq!(told(&*other).len(), 2);
}

struct Kinds(Vec<Option<FileKind>>);

impl Listing for Kinds {
    fn has_room(&self, _: usize) -> bool {
        true
    }
    fn put(&mut self, entry: &DirEntry<'_>, _: Option<&Entry>) {
        if !entry.name.starts_with(b".") {
            self.0.push(entry.kind);
        }
    }
}

#[test]
fn a_listing_with_attributes_agrees_with_them() {
    for listed in [None, Some(FileKind::Directory)] {
        let objects = Arc::new(Mutex::new(Objects::from([(b"a".to_vec(), key(1, 50, 0))])));
        let export =
            Bridge::new(Flat { objects, coherent: true, listed, nodes_max: usize::MAX, sink: Arc::default() }, BridgeOptions::default())
                .unwrap()
                .connect()
                .unwrap();
        let listing = export.open_dir(NodeId::ROOT).unwrap();
        let (mut plain, mut plus) = (Kinds(Vec::new()), Kinds(Vec::new()));
        export.read_dir(listing.id, 0, &mut plain).unwrap();
        export.read_dir_plus(listing.id, 0, &mut plus).unwrap();
        assert_eq!(plain.0, [listed], "what the plugin says, and no guess");
        assert_eq!(plus.0, [Some(FileKind::Regular)], "what the attributes say");
        // The kernel has just been told the attributes, but a type of a listing is
        // another matter: without one programs look at each name.
        let mut again = Kinds(Vec::new());
        export.read_dir_plus(listing.id, 0, &mut again).unwrap();
        assert_eq!(again.0, [listed.or(Some(FileKind::Regular))]);
    }
}

/// Who writes a page back hears of an error or of nothing.
#[test]
fn pages_are_written_back_wholly_or_not_at_all() {
    let (_, bridge) = flat(&[("f", key(1, 50, 0))], true);
    let export = bridge.connect().unwrap();
    let node = export.lookup(&Caller::root(), NodeId::ROOT, name("f")).unwrap().id;
    let flags = OpenFlags { read: true, write: true, ..OpenFlags::default() };
    let handle = export.open(&Caller::root(), node, flags).unwrap().id;
    let write = |length, cached| {
        let flags = WriteFlags { cached, ..WriteFlags::default() };
        export.write(handle, 0, &mut Blank(length), flags).map_err(|error| error.errno())
    };
    assert_eq!(write(8, true), Ok(8));
    assert_eq!(write(9, true), Err(Errno::ENOSPC));
    assert_eq!(write(9, false), Ok(3), "write(2) comes again with the rest");
}

#[test]
fn the_read_only_switch_stops_every_change() {
    let objects = Arc::new(Mutex::new(Objects::from([(b"a".to_vec(), key(1, 50, 0))])));
    let fs = Flat { objects: objects.clone(), coherent: true, listed: None, nodes_max: usize::MAX, sink: Arc::default() };
    let bridge = Bridge::new(fs, BridgeOptions { read_only: true }).unwrap();
    let export = bridge.connect().unwrap();
    let root = Caller::root();
    let id = export.lookup(&root, NodeId::ROOT, name("a")).unwrap().id;
    assert_eq!(errno(export.unlink(&root, NodeId::ROOT, name("a"))), Errno::EROFS);
    assert_eq!(errno(export.open(&root, id, OpenFlags { write: true, ..OpenFlags::default() })), Errno::EROFS);
    assert_eq!(errno(export.open(&root, id, OpenFlags { truncate: true, ..OpenFlags::default() })), Errno::EROFS);
    assert_eq!(errno(export.access(&root, id, Access::WRITE)), Errno::EROFS);
    assert_eq!(errno(export.set_xattr(&root, id, b"user.x", b"", XattrFlags::empty())), Errno::EROFS);
    assert_eq!(objects.lock().unwrap().len(), 1);
}

#[test]
fn the_process_hears_when_much_was_forgotten() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    when_much_is_forgotten(|| {
        CALLS.fetch_add(1, Ordering::SeqCst);
    });
    let objects: Vec<(String, NodeKey)> = (0..10_000).map(|n| (format!("f{n}"), key(1, 100 + n, 0))).collect();
    let borrowed: Vec<(&str, NodeKey)> = objects.iter().map(|(name, key)| (name.as_str(), *key)).collect();
    let (_, bridge) = flat(&borrowed, true);
    let export = bridge.connect().unwrap();
    let ids: Vec<_> = borrowed.iter().map(|(text, _)| export.lookup(&Caller::root(), NodeId::ROOT, name(text)).unwrap().id).collect();
    let (first, second) = ids.split_at(4_000);
    first.iter().for_each(|id| export.forget(*id, 1));
    assert_eq!(CALLS.load(Ordering::SeqCst), 0);
    second.iter().for_each(|id| export.forget(*id, 1));
    assert_eq!(CALLS.load(Ordering::SeqCst), 2, "at 5,000 of 10,000 and at 2,500 of 5,000");
    idle(&*export);
}

#[test]
fn many_threads_leave_the_counts_right() {
    let objects: Vec<(String, NodeKey)> = (0..64).map(|n| (format!("f{n}"), key(1, 100 + n % 16, 0))).collect();
    let borrowed: Vec<(&str, NodeKey)> = objects.iter().map(|(name, key)| (name.as_str(), *key)).collect();
    let (_, bridge) = flat(&borrowed, true);
    let export = bridge.connect().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (export, objects) = (&export, &objects);
            scope.spawn(move || {
                for turn in 0..5000u64 {
                    let (text, _) = &objects[((turn * 7 + thread) % 64) as usize];
                    let entry = export.lookup(&Caller::root(), NodeId::ROOT, name(text)).unwrap();
                    assert!(export.get_attr(entry.id, None).is_ok());
                    export.forget(entry.id, 1);
                }
            });
        }
    });
    idle(&*export);
}
