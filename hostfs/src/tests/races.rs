//! What other processes of the host do meanwhile: swaps, locks, changes.

use crate::testing::*;
use externfs::*;
use rustix::fs::{CWD, FileType, Mode as HostMode, RenameFlags as HostRename};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// Exchanges two names as fast as it can until dropped.
struct Swapper {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Swapper {
    fn start(a: &Path, b: &Path) -> Swapper {
        let stop = Arc::new(AtomicBool::new(false));
        let (a, b, stopped) = (a.to_owned(), b.to_owned(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(CWD, &a, CWD, &b, HostRename::EXCHANGE).unwrap();
            }
        });
        Swapper { stop, thread: Some(thread) }
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn no_operation_leaves_the_jail_through_a_swapped_link() {
    // The last has been promised that nobody does what is done here.
    for options in ["resolver=openat2", "resolver=manual", "exclusive"] {
        let export = Tree::new(options);
        std::fs::write(export.outside("canary"), "canary").unwrap();
        std::fs::create_dir(export.host("dir")).unwrap();
        std::fs::write(export.host("dir/canary"), "inside").unwrap();
        symlink(export.outside(""), export.host("dirtrap")).unwrap();
        std::fs::write(export.host("file"), "inside").unwrap();
        symlink(export.outside("canary"), export.host("filetrap")).unwrap();
        let before = std::fs::metadata(export.outside("canary")).unwrap();
        let (dir, file) = (export.node("dir"), export.node("file"));
        let _dirs = Swapper::start(&export.host("dir"), &export.host("dirtrap"));
        let _files = Swapper::start(&export.host("file"), &export.host("filetrap"));
        let began = Instant::now();
        let (mut round, mut done) = (0, 0);
        while began.elapsed() < Duration::from_millis(1500) {
            round += 1;
            export.fs.dirs.clear();
            done += attack(&export, &dir, &file, &format!("made{round}"));
        }
        assert!(done > 0, "some operations came through");
        let after = std::fs::metadata(export.outside("canary")).unwrap();
        assert_eq!(std::fs::read(export.outside("canary")).unwrap(), b"canary");
        assert_eq!((before.mode(), before.ctime_nsec(), before.nlink()), (after.mode(), after.ctime_nsec(), after.nlink()));
        assert_eq!(std::fs::read_dir(export.outside("")).unwrap().count(), 1);
    }
}

/// One of each operation; returns how many came through. Whatever is read is
/// checked to be from inside.
fn attack(export: &Tree, dir: &Node, file: &Node, fresh: &str) -> usize {
    let (fs, root) = (&export.fs, Caller::root());
    let flags = CreateFlags { mode: Mode::new(0o600), exclusive: false, open: READ_WRITE };
    let change = SetAttr { mode: Some(Mode::new(0o600)), uid: Some(GuestUid(0)), ..SetAttr::default() };
    let mut done = 0;
    let mut count = |ok: bool| done += usize::from(ok);
    if let Ok((child, attr)) = fs.lookup(dir, name("canary")) {
        assert_eq!(attr.size, 6);
        if let Ok(opened) = fs.open(&root, &child, READ_WRITE) {
            assert_eq!(export.read(&opened.file), b"inside");
        }
        count(fs.set_attr(&root, &child, None, &change).is_ok());
        count(fs.link(&root, &child, &export.root(), name(fresh)).is_ok());
    }
    if let Ok(created) = fs.create(&root, &export.root(), name("file"), flags) {
        assert_eq!(export.read(&created.opened.file), b"inside");
        count(true);
    }
    if let Ok(opened) = fs.open(&root, file, READ_WRITE) {
        assert_eq!(export.read(&opened.file), b"inside");
        count(true);
    }
    count(fs.set_attr(&root, file, None, &change).is_ok());
    count(fs.set_xattr(&root, file, b"user.x", b"1", XattrFlags::empty()).is_ok());
    count(fs.get_xattr(file, b"user.x").is_ok());
    count(fs.make(&root, dir, name(fresh), &NewNode::Directory, Mode::new(0o700)).is_ok());
    count(fs.create(&root, dir, name("new"), flags).is_ok());
    count(fs.remove(&root, dir, Child { name: name("new"), node: None }, false).is_ok());
    done
}

#[test]
fn a_fifo_or_device_that_takes_a_files_place_is_not_opened() {
    let export = Tree::new("");
    std::fs::write(export.host("file"), "inside").unwrap();
    rustix::fs::mknodat(CWD, export.host("trap"), FileType::Fifo, HostMode::RWXU, 0).unwrap();
    let trap = std::fs::metadata(export.host("trap")).unwrap();
    let node = export.node("file");
    let fifo = export.node("trap");
    assert_eq!(errno(export.fs.open(&Caller::root(), &fifo, READ_WRITE)), Errno::ENXIO);
    let _swapper = Swapper::start(&export.host("file"), &export.host("trap"));
    let began = Instant::now();
    let mut opened = 0;
    while began.elapsed() < Duration::from_secs(1) {
        let flags = CreateFlags { mode: Mode::new(0o600), exclusive: false, open: READ_WRITE };
        let by_node = export.fs.open(&Caller::root(), &node, READ_WRITE).map(|opened| opened.file);
        let by_name = export.fs.create(&Caller::root(), &export.root(), name("file"), flags).map(|c| c.opened.file);
        for file in [by_node, by_name].into_iter().flatten() {
            assert_eq!(rustix::fs::fstat(&file.fd).unwrap().st_mode & libc::S_IFMT, libc::S_IFREG);
            opened += 1;
        }
    }
    assert!(opened > 0);
    drop(_swapper);
    // Opening a FIFO for reading and writing would have moved its times.
    let trap_now = [export.host("trap"), export.host("file")].map(|path| std::fs::symlink_metadata(path).unwrap());
    assert!(trap_now.iter().any(|now| now.ino() == trap.ino()));
}

fn lock(owner: u64, family: LockFamily, kind: LockKind) -> Lock {
    Lock { family, kind, owner, start: 0, end: u64::MAX, pid: 0 }
}

#[test]
fn locks_are_seen_by_owners_and_by_the_host() {
    let export = Tree::new("locks=host");
    assert!(export.fs.features().locks);
    std::fs::write(export.host("f"), "0123456789").unwrap();
    let (file, second) = (export.open(&export.node("f")), export.open(&export.node("f")));
    for family in [LockFamily::Posix, LockFamily::Flock] {
        let set = |lock: Lock| export.fs.set_lock(if lock.owner == 1 { &file } else { &second }, &lock, None);
        set(lock(1, family, LockKind::Write)).unwrap();
        set(lock(1, family, LockKind::Write)).unwrap();
        assert_eq!(errno(set(lock(2, family, LockKind::Read))), Errno::EAGAIN);
        set(lock(1, family, LockKind::Read)).unwrap();
        set(lock(2, family, LockKind::Read)).unwrap();
        set(lock(1, family, LockKind::Unlock)).unwrap();
        export.fs.release_locks(&second, 2, family);
        let host = std::fs::File::open(export.host("f")).unwrap();
        assert!(rustix::fs::flock(&host, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok());
        if family == LockFamily::Flock {
            assert_eq!(errno(set(lock(3, family, LockKind::Read))), Errno::EAGAIN, "the host has it");
        }
    }
    assert!(export.fs.locks.len() <= 1);
    let part = Lock { start: 2, end: 4, ..lock(7, LockFamily::Posix, LockKind::Write) };
    export.fs.set_lock(&file, &part, None).unwrap();
    let asked = lock(8, LockFamily::Posix, LockKind::Write);
    let found = export.fs.get_lock(&file, &asked).unwrap().unwrap();
    assert_eq!((found.start, found.end, found.kind), (2, 4, LockKind::Write));
    let beside = Lock { start: 5, end: 9, ..asked };
    assert_eq!(export.fs.get_lock(&file, &beside).unwrap(), None);
    drop((file, second));
    assert_eq!(export.fs.locks.len(), 0, "they go with the file");
}

/// Closed by one process while another has inherited it, and gone only after the
/// first has locked the file anew.
#[test]
fn a_file_that_is_closed_late_takes_no_later_lock_along() {
    let export = Tree::new("locks=host");
    std::fs::write(export.host("f"), "").unwrap();
    for family in [LockFamily::Posix, LockFamily::Flock] {
        let (first, second, other) = (export.open(&export.node("f")), export.open(&export.node("f")), export.open(&export.node("f")));
        let wanted = lock(1, family, LockKind::Write);
        export.fs.set_lock(&first, &wanted, None).unwrap();
        export.fs.release_locks(&first, 1, family);
        export.fs.set_lock(&second, &wanted, None).unwrap();
        drop(first);
        assert_eq!(errno(export.fs.set_lock(&other, &lock(2, family, LockKind::Write), None)), Errno::EAGAIN, "{family:?}");
        drop((second, other));
        assert_eq!(export.fs.locks.len(), 0);
    }
}

#[test]
fn asking_for_locks_and_failing_to_get_them_leaves_nothing() {
    let export = Tree::new("locks=host");
    std::fs::write(export.host("f"), "").unwrap();
    let file = export.open(&export.node("f"));
    export.fs.set_lock(&file, &lock(1, LockFamily::Posix, LockKind::Write), None).unwrap();
    for owner in 2..1000 {
        let asked = lock(owner, LockFamily::Posix, LockKind::Write);
        assert!(export.fs.get_lock(&file, &asked).unwrap().is_some());
        export.fs.set_lock(&file, &lock(owner, LockFamily::Posix, LockKind::Unlock), None).unwrap();
    }
    assert_eq!((export.fs.locks.len(), file.lockers.len()), (1, 1));
}

/// A program that a guest locks can still be run: nobody opens it for writing.
#[test]
fn a_lock_on_a_program_does_not_stop_it() {
    let export = Tree::new("locks=host");
    std::fs::copy("/bin/true", export.host("program")).unwrap();
    let node = export.node("program");
    let read_only = OpenFlags { read: true, ..OpenFlags::default() };
    let file = export.fs.open(&Caller::root(), &node, read_only).unwrap().file;
    export.fs.set_lock(&file, &lock(1, LockFamily::Flock, LockKind::Read), None).unwrap();
    assert!(std::process::Command::new(export.host("program")).status().unwrap().success());
    // An owner that reads by one file may write by another.
    let writable = export.open(&node);
    let part = |start, kind| Lock { start, end: start + 9, ..lock(1, LockFamily::Posix, kind) };
    export.fs.set_lock(&file, &part(0, LockKind::Read), None).unwrap();
    export.fs.set_lock(&writable, &part(10, LockKind::Write), None).unwrap();
}

/// What was given up while somebody waited takes nothing from him.
#[test]
fn a_lock_that_was_waited_for_stays() {
    let export = Arc::new(Tree::new("locks=host"));
    std::fs::write(export.host("f"), "").unwrap();
    let (file, other) = (export.open(&export.node("f")), export.open(&export.node("f")));
    export.fs.set_lock(&other, &lock(2, LockFamily::Posix, LockKind::Write), None).unwrap();
    let (tree, held) = (export.clone(), file.clone());
    let waiter = std::thread::spawn(move || tree.fs.set_lock(&held, &lock(1, LockFamily::Posix, LockKind::Write), Some(&Interrupt::new())));
    while export.fs.locks.len() < 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(50));
    export.fs.release_locks(&file, 1, LockFamily::Posix);
    export.fs.set_lock(&other, &lock(2, LockFamily::Posix, LockKind::Unlock), None).unwrap();
    waiter.join().unwrap().unwrap();
    assert_eq!(errno(export.fs.set_lock(&other, &lock(2, LockFamily::Posix, LockKind::Write), None)), Errno::EAGAIN);
}

#[test]
fn a_wait_for_a_lock_ends_with_the_lock_or_the_interrupt() {
    let export = Arc::new(Tree::new("locks=host"));
    std::fs::write(export.host("f"), "").unwrap();
    let (file, second) = (export.open(&export.node("f")), export.open(&export.node("f")));
    for family in [LockFamily::Posix, LockFamily::Flock] {
        for interrupted in [false, true] {
            export.fs.set_lock(&file, &lock(1, family, LockKind::Write), None).unwrap();
            let interrupt = Arc::new(Interrupt::new());
            let (tell, told) = mpsc::channel();
            let (tree, held, raised) = (export.clone(), second.clone(), interrupt.clone());
            let waiter = std::thread::spawn(move || {
                let answer = tree.fs.set_lock(&held, &lock(2, family, LockKind::Write), Some(&raised));
                tell.send(answer.map_err(|error| error.errno())).unwrap();
            });
            assert!(told.recv_timeout(Duration::from_millis(100)).is_err(), "it waits");
            if interrupted {
                interrupt.raise();
            } else {
                export.fs.set_lock(&file, &lock(1, family, LockKind::Unlock), None).unwrap();
            }
            let answer = told.recv_timeout(Duration::from_secs(10)).expect("the wait ended");
            assert_eq!(answer, if interrupted { Err(Errno::EINTR) } else { Ok(()) }, "{family:?}");
            waiter.join().unwrap();
            export.fs.release_locks(&file, 1, family);
            export.fs.release_locks(&second, 2, family);
        }
    }
    let raised = Interrupt::new();
    raised.raise();
    export.fs.set_lock(&file, &lock(1, LockFamily::Flock, LockKind::Write), None).unwrap();
    let late = export.fs.set_lock(&second, &lock(2, LockFamily::Flock, LockKind::Write), Some(&raised));
    assert_eq!(errno(late), Errno::EINTR, "raised before it began");
}

#[test]
fn changes_of_the_host_are_told_and_our_own_are_not() {
    let export = Tree::new("watch");
    let (tell, told) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    export.fs.watch(Arc::new(move |change| tell.lock().unwrap().send(change).unwrap())).unwrap();
    let root = export.root();
    std::fs::write(export.host("theirs"), "").unwrap();
    let next = || told.recv_timeout(Duration::from_secs(10)).expect("a change is told");
    assert_eq!(next(), Change::Entry { parent: root.key(), name: b"theirs".to_vec() });
    let created = export.create(&Caller::root(), "ours", 0o600).unwrap();
    export.write(&created.opened.file, 0, b"x", WriteFlags::default()).unwrap();
    std::fs::write(export.host("end"), "").unwrap();
    loop {
        match next() {
            Change::Entry { name, .. } if name == b"end" => break,
            Change::Entry { name, .. } => assert_ne!(name, b"ours", "an echo"),
            Change::Node { data, node } => assert!(!data || node != created.node.key(), "an echo"),
            Change::Everything => panic!("few changes"),
        }
    }
    let theirs = export.node("theirs");
    std::fs::write(export.host("theirs"), "new contents").unwrap();
    let wanted = Change::Node { node: theirs.key(), data: true };
    while next() != wanted {}
    // In a directory that a guest has looked into.
    std::fs::create_dir(export.host("d")).unwrap();
    let dir = export.node("d");
    assert!(export.fs.lookup(&dir, name("x")).is_err());
    std::fs::write(export.host("d/x"), "").unwrap();
    let wanted = Change::Entry { parent: dir.key(), name: b"x".to_vec() };
    while next() != wanted {}
}

#[test]
fn more_changes_than_can_be_told_are_told_as_everything() {
    let export = Tree::new("watch,cache=always");
    assert_eq!(export.fs.cache_policy().negative, Duration::from_secs(1), "of absent names nobody can tell then");
    let (tell, told) = mpsc::channel();
    let (tell, busy) = (std::sync::Mutex::new(tell), Arc::new(std::sync::Mutex::new(())));
    let held = busy.lock().unwrap();
    let waits = busy.clone();
    let sink = move |change| {
        drop(waits.lock().unwrap());
        tell.lock().unwrap().send(change).unwrap();
    };
    export.fs.watch(Arc::new(sink)).unwrap();
    let most: usize = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    // One after the other: the same event twice in a row is one.
    for round in 0..most + 2000 {
        match round % 2 {
            0 => std::fs::write(export.host("theirs"), "").unwrap(),
            _ => std::fs::remove_file(export.host("theirs")).unwrap(),
        }
    }
    drop(held);
    while told.recv_timeout(Duration::from_secs(10)).expect("it is told") != Change::Everything {}
}
