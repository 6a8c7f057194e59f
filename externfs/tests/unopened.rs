//! Kernels that open nothing: what is open on their behalf, and until when.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use externfs::helper::{list, plain_attr, read_slice};
use externfs::*;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const FILES: u64 = 100;

/// What is open at the moment, of files and of listings.
#[derive(Default)]
struct Open {
    files: AtomicUsize,
    dirs: AtomicUsize,
    /// How often something was opened, and for what.
    log: Mutex<Vec<(u64, OpenFlags)>>,
    /// There are no descriptors left until something closes.
    full: AtomicBool,
}

struct Held(Arc<Open>, u64, bool);

impl Drop for Held {
    fn drop(&mut self) {
        let count = if self.2 { &self.0.dirs } else { &self.0.files };
        count.fetch_sub(1, Ordering::Relaxed);
        self.0.full.store(false, Ordering::Relaxed);
    }
}

/// Files 10 to 109 in one directory; what is read of one is its number.
struct Shelf {
    open: Arc<Open>,
    can: bool,
    exclusive: bool,
}

impl Shelf {
    fn hold(&self, node: u64, is_dir: bool) -> Result<Held> {
        if self.open.full.load(Ordering::Relaxed) {
            return Err(Errno::EMFILE.into());
        }
        if is_dir { &self.open.dirs } else { &self.open.files }.fetch_add(1, Ordering::Relaxed);
        Ok(Held(self.open.clone(), node, is_dir))
    }
}

impl ExternFs for Shelf {
    type Node = u64;
    type File = Held;
    type Dir = Held;

    fn root(&self) -> Result<u64> {
        Ok(2)
    }
    fn key(&self, node: &u64) -> NodeKey {
        NodeKey { volume: 1, number: *node, generation: 0 }
    }
    fn attr(&self, node: &u64, _: Option<&Held>) -> Result<Attr> {
        let kind = if *node == 2 { FileKind::Directory } else { FileKind::Regular };
        Ok(plain_attr(*node, kind, 0o644, 0))
    }
    fn lookup(&self, _: &u64, name: Name<'_>) -> Result<(u64, Attr)> {
        let number = String::from_utf8_lossy(name.as_bytes()).parse().map_err(|_| Errno::ENOENT)?;
        Ok((number, self.attr(&number, None)?))
    }
    fn open_dir(&self, node: &u64) -> Result<Held> {
        self.hold(*node, true)
    }
    fn read_dir(&self, _: &Held, cookie: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        let names: Vec<_> = (10..10 + FILES).map(|number| number.to_string()).collect();
        list(names.iter().zip(10..).map(|(name, ino)| (name.as_bytes(), ino, FileKind::Regular)), cookie, emit);
        Ok(())
    }
    fn open(&self, _: &Caller, node: &u64, flags: OpenFlags) -> Result<Opened<Held>> {
        self.open.log.lock().unwrap().push((*node, flags));
        Ok(Opened { file: self.hold(*node, false)?, cache: FileCache::Keep, size: 0 })
    }
    fn create(&self, _: &Caller, _: &u64, name: Name<'_>, _: CreateFlags) -> Result<Created<u64, Held>> {
        let (node, attr) = self.lookup(&2, name)?;
        Ok(Created { node, attr, opened: Opened { file: self.hold(node, false)?, cache: FileCache::Keep, size: 0 } })
    }
    fn read(&self, file: &Held, offset: u64, size: usize, sink: &mut dyn DataSink) -> Result<usize> {
        read_slice(file.1.to_string().as_bytes(), offset, size, sink)
    }
    fn write(&self, _: &Held, _: u64, source: &mut dyn DataSource, _: WriteFlags) -> Result<usize> {
        Ok(source.take(&mut [0; 64])?)
    }
    fn fsync(&self, _: &Held, _: bool) -> Result<()> {
        Ok(())
    }
    fn fsync_dir(&self, _: &Held, _: bool) -> Result<()> {
        Ok(())
    }
    fn cache_policy(&self) -> CachePolicy {
        let day = Duration::from_secs(86_400);
        CachePolicy { attr: day, entry: day, listings: true, exclusive: self.exclusive, ..CachePolicy::NONE }
    }
    fn begin_unopened(&self) -> bool {
        self.can
    }
}

fn shelf(can: bool, exclusive: bool) -> (Arc<Open>, Arc<dyn Export>) {
    let open = Arc::<Open>::default();
    let bridge = Bridge::new(Shelf { open: open.clone(), can, exclusive }, BridgeOptions::default()).unwrap();
    (open, bridge.connect().unwrap())
}

fn name(text: &str) -> Name<'_> {
    Name::new(text.as_bytes()).unwrap()
}

fn look(export: &dyn Export, number: u64) -> HandleId {
    let entry = export.lookup(&Caller::root(), NodeId::ROOT, name(&number.to_string())).unwrap();
    assert_eq!(entry.id, NodeId(number));
    HandleId::unopened(entry.id)
}

fn read(export: &dyn Export, handle: HandleId) -> Result<String> {
    let mut sink = Vec::new();
    export.read(handle, 0, 64, &mut VecSink(&mut sink))?;
    Ok(String::from_utf8(sink).unwrap())
}

struct VecSink<'a>(&'a mut Vec<u8>);

impl DataSink for VecSink<'_> {
    fn room(&self) -> usize {
        64
    }
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
    fn fill_from(&mut self, _: std::os::fd::BorrowedFd<'_>, _: u64, _: usize) -> std::io::Result<usize> {
        unreachable!("this plugin has no descriptors")
    }
}

struct Bytes<'a>(&'a [u8]);

impl DataSource for Bytes<'_> {
    fn remaining(&self) -> usize {
        self.0.len()
    }
    fn take(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let count = self.0.len().min(into.len());
        into[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
    fn drain_to(&mut self, _: std::os::fd::BorrowedFd<'_>, _: WritePlace, _: usize, _: bool) -> std::io::Result<usize> {
        unreachable!("this plugin has no descriptors")
    }
}

#[test]
fn what_is_used_is_opened_once_and_closed_when_it_is_forgotten() {
    let (open, export) = shelf(true, true);
    assert!(export.begin_unopened());
    let (one, two) = (look(&*export, 11), look(&*export, 12));
    for _ in 0..3 {
        assert_eq!((read(&*export, one).unwrap(), read(&*export, two).unwrap()), ("11".into(), "12".into()));
    }
    assert_eq!(export.write(one, 0, &mut Bytes(b"abc"), WriteFlags::default()), Ok(3));
    assert_eq!(export.write(one, 3, &mut Bytes(b"def"), WriteFlags::default()), Ok(3));
    export.fsync(one, false).unwrap();
    let opened: Vec<_> = open.log.lock().unwrap().iter().map(|(node, flags)| (*node, flags.read, flags.write)).collect();
    assert_eq!(opened, [(11, true, false), (12, true, false), (11, false, true)]);
    assert_eq!(open.files.load(Ordering::Relaxed), 3);
    assert_eq!(export.statistics().handles, 0, "the kernel has none");
    export.forget(NodeId(11), 1);
    assert_eq!(open.files.load(Ordering::Relaxed), 1);
    assert_eq!(read(&*export, one).unwrap_err().errno(), Errno::ESTALE);
    export.reset();
    assert_eq!(open.files.load(Ordering::Relaxed), 0);
}

#[test]
fn who_may_only_append_appends() {
    let (open, export) = shelf(true, true);
    assert!(export.begin_unopened());
    let log = look(&*export, 11);
    let write = |append| export.write(log, 0, &mut Bytes(b"abc"), WriteFlags { append, ..WriteFlags::default() }).unwrap();
    for append in [true, true, false, true] {
        assert_eq!(write(append), 3);
    }
    let opened: Vec<_> = open.log.lock().unwrap().iter().map(|(_, flags)| (flags.write, flags.append)).collect();
    assert_eq!(opened, [(true, true), (true, false)], "what was opened for appending is not written elsewhere");
}

#[test]
fn there_is_an_end_to_what_is_open() {
    let (open, export) = shelf(true, true);
    assert!(export.begin_unopened());
    for number in 10..10 + FILES {
        let handle = look(&*export, number);
        assert_eq!(read(&*export, handle).unwrap(), number.to_string());
    }
    let first = open.files.load(Ordering::Relaxed);
    assert!((8..FILES as usize).contains(&first), "{first} are open");
    // One that had to close is opened again.
    assert_eq!(read(&*export, HandleId::unopened(NodeId(10))).unwrap(), "10");
    // Without descriptors all close for the one that is needed.
    open.full.store(true, Ordering::Relaxed);
    assert_eq!(read(&*export, HandleId::unopened(NodeId(11))).unwrap(), "11");
    assert_eq!(open.files.load(Ordering::Relaxed), 1);
}

#[test]
fn a_new_files_handle_stays_for_who_writes_it() {
    let (open, export) = shelf(true, true);
    assert!(export.begin_unopened());
    let flags = OpenFlags { write: true, ..OpenFlags::default() };
    let create = CreateFlags { mode: Mode::new(0o600), exclusive: true, open: flags };
    let (entry, handle) = export.create(&Caller::root(), NodeId::ROOT, name("42"), create).unwrap();
    export.leave_unopened(handle.id);
    assert_eq!(export.write(handle.id, 0, &mut Bytes(b"x"), WriteFlags::default()).unwrap_err().errno(), Errno::EBADF);
    assert_eq!(export.write(HandleId::unopened(entry.id), 0, &mut Bytes(b"x"), WriteFlags::default()), Ok(1));
    assert_eq!((open.files.load(Ordering::Relaxed), open.log.lock().unwrap().len()), (1, 0), "not opened again");
    assert_eq!(export.get_attr(entry.id, Some(HandleId::unopened(entry.id))).unwrap().0.ino, 42);
    export.forget(entry.id, 1);
    assert_eq!(open.files.load(Ordering::Relaxed), 0);
}

struct Names(Vec<u64>, usize);

impl Listing for Names {
    fn has_room(&self, _: usize) -> bool {
        self.0.len() < self.1
    }
    fn put(&mut self, entry: &DirEntry<'_>, _: Option<&Entry>) {
        self.0.push(entry.next);
    }
}

#[test]
fn a_listing_closes_when_all_of_it_was_read() {
    let (open, export) = shelf(true, true);
    assert!(export.begin_unopened());
    let root = HandleId::unopened(NodeId::ROOT);
    let (mut cookie, mut seen) = (0, 0);
    loop {
        let mut names = Names(Vec::new(), 30);
        export.read_dir(root, cookie, &mut names).unwrap();
        let Some(last) = names.0.last() else { break };
        assert_eq!(open.dirs.load(Ordering::Relaxed), 1);
        (cookie, seen) = (*last, seen + names.0.len() as u64);
    }
    assert!(seen >= FILES);
    assert_eq!(open.dirs.load(Ordering::Relaxed), 0);
    export.fsync_dir(root, false).unwrap();
    assert_eq!(export.open_dir(NodeId(10)).unwrap_err().errno(), Errno::ESTALE);
    let file = look(&*export, 10);
    assert_eq!(export.read_dir(file, 0, &mut Names(Vec::new(), 1)).unwrap_err().errno(), Errno::ENOTDIR);
    assert_eq!(read(&*export, root).unwrap_err().errno(), Errno::EISDIR);
}

#[test]
fn who_has_not_agreed_has_to_open() {
    for (can, exclusive) in [(false, true), (true, false)] {
        let (_, export) = shelf(can, exclusive);
        assert!(!export.begin_unopened());
        let handle = look(&*export, 11);
        assert_eq!(read(&*export, handle).unwrap_err().errno(), Errno::EBADF);
        assert_eq!(export.read_dir(HandleId::unopened(NodeId::ROOT), 0, &mut Names(Vec::new(), 1)).unwrap_err().errno(), Errno::EBADF);
    }
}

#[test]
fn a_kernel_that_may_have_company_has_to_open() {
    let bridge = Bridge::new(Shelf { open: Arc::default(), can: true, exclusive: true }, BridgeOptions::default()).unwrap();
    bridge.expect(2);
    assert!(!bridge.connect().unwrap().begin_unopened(), "what it has cached may be another's to change");
}
