//! With `exclusive` calls go by names that hold still. What guests do beside
//! each other must not lead them to something else.

use crate::HostFs;
use crate::testing::*;
use externfs::*;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Runs `attack` for a while, and `meanwhile` beside it again and again.
fn beside(meanwhile: impl Fn() + Sync, mut attack: impl FnMut()) {
    /// Also when the attack fails: its neighbour would go on for ever.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                meanwhile();
            }
        });
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(700) {
            attack();
        }
    });
}

/// Runs `attack` while another guest exchanges the names of `a` and `b`.
pub(super) fn while_guests_swap(export: &Tree, (a, b): (&Node, &Node), attack: impl FnMut()) {
    let swap = |from, to| export.rename_known(("a", Some(from)), ("b", Some(to)), RenameFlags::EXCHANGE).unwrap();
    let there_and_back = || {
        swap(a, b);
        swap(b, a);
    };
    beside(there_and_back, attack);
}

/// The files `a` and `b`.
fn two_files() -> (Tree, Node, Node) {
    let export = Tree::new("exclusive");
    for path in ["a", "b"] {
        std::fs::write(export.host(path), "").unwrap();
    }
    let (a, b) = (export.node("a"), export.node("b"));
    (export, a, b)
}

#[test]
fn a_change_never_lands_on_what_takes_the_name() {
    let (export, meant, other) = two_files();
    let mut changed = 0;
    let change = SetAttr { mode: Some(Mode::new(0o711)), atime: Some(SetTime::Now), ..SetAttr::default() };
    while_guests_swap(&export, (&meant, &other), || {
        changed += usize::from(export.fs.set_attr(&Caller::root(), &meant, None, &change).is_ok());
        changed += usize::from(export.fs.set_xattr(&Caller::root(), &meant, b"user.x", b"1", XattrFlags::empty()).is_ok());
        if let Ok(value) = export.fs.get_xattr(&meant, b"user.x") {
            assert_eq!(value, b"1");
        }
    });
    assert!(changed > 100, "{changed}");
    let attr = export.fs.attr(&other, None).unwrap();
    assert_ne!(attr.mode.bits() & 0o777, 0o711);
    assert_eq!(errno(export.fs.get_xattr(&other, b"user.x")), Errno::ENODATA);
    assert_eq!(export.fs.attr(&meant, None).unwrap().mode.bits() & 0o777, 0o711);
}

#[test]
fn what_takes_a_files_name_is_not_opened_nor_linked() {
    let export = Tree::new("exclusive");
    std::fs::write(export.host("a"), "").unwrap();
    export.fs.make(&Caller::root(), &export.root(), name("b"), &NewNode::Fifo, Mode::new(0o600)).unwrap();
    let (file, fifo) = (export.node("a"), export.node("b"));
    let mut opened = 0;
    while_guests_swap(&export, (&file, &fifo), || {
        if let Ok(open) = export.fs.open(&Caller::root(), &file, READ_WRITE) {
            assert_eq!(rustix::fs::fstat(&open.file.fd).unwrap().st_ino, file.key().number);
            opened += 1;
        }
        if export.fs.link(&Caller::root(), &file, &export.root(), name("c")).is_ok() {
            assert_eq!(export.host("c").metadata().unwrap().ino(), file.key().number);
            export.remove("c", None).unwrap();
        }
    });
    assert!(opened > 100, "{opened}");
    let fifo_now = ["a", "b"].map(|path| export.host(path).metadata().unwrap()).into_iter().find(|now| now.file_type().is_fifo()).unwrap();
    assert_eq!((fifo_now.ino(), fifo_now.nlink()), (fifo.key().number, 1));
}

/// Guests that rename from one directory to another and back, across each other,
/// and go by the names meanwhile.
#[test]
fn nobody_waits_for_each_other() {
    let export = Tree::new("exclusive");
    let dirs: Vec<Node> = (0..80)
        .map(|number| {
            let text = format!("d{number}");
            let made = export.fs.make(&Caller::root(), &export.root(), name(&text), &NewNode::Directory, Mode::new(0o755));
            made.unwrap().0
        })
        .collect();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (fs, dirs) = (&export.fs, &dirs);
            scope.spawn(move || {
                let text = format!("f{number}");
                let own = name(&text);
                let file = fs.make(&Caller::root(), &dirs[number], own, &NewNode::Regular, Mode::new(0o644)).unwrap().0;
                let change = SetAttr { mode: Some(Mode::new(0o600)), ..SetAttr::default() };
                for round in 0..400 {
                    let [from, to] = [round, round + 1].map(|round| &dirs[(number + round * 37) % dirs.len()]);
                    let child = Child { name: own, node: Some(&file) };
                    fs.rename(&Caller::root(), (from, child), (to, Child { name: own, node: None }), RenameFlags::empty()).unwrap();
                    fs.set_attr(&Caller::root(), &file, None, &change).unwrap();
                    fs.open(&Caller::root(), &file, READ_WRITE).unwrap();
                }
            });
        }
    });
}

/// Two servers of one tree break the promise; what is opened is a file even so.
#[test]
fn another_server_does_not_have_a_fifo_opened() {
    let export = Tree::new("exclusive");
    let other = HostFs::open(&Source { path: export.host(""), options: options("exclusive") }).unwrap();
    std::fs::write(export.host("a"), "").unwrap();
    let root = other.root().unwrap();
    other.make(&Caller::root(), &root, name("b"), &NewNode::Fifo, Mode::new(0o600)).unwrap();
    let file = export.node("a");
    let child = |text| Child { name: name(text), node: None };
    let swap = || other.rename(&Caller::root(), (&root, child("a")), (&root, child("b")), RenameFlags::EXCHANGE).unwrap();
    let mut opened = 0;
    beside(swap, || {
        if let Ok(open) = export.fs.open(&Caller::root(), &file, READ_WRITE) {
            assert_eq!(rustix::fs::fstat(&open.file.fd).unwrap().st_ino, file.key().number);
            opened += 1;
        }
    });
    assert!(opened > 0);
}

/// A look-up that was overtaken by a rename may leave an inode with a name that
/// is another's.
#[test]
fn a_place_that_is_no_longer_right_changes_nothing() {
    let (export, a, b) = two_files();
    export.fs.settle(&a, export.root(), c"b");
    let before = export.host("b").metadata().unwrap();
    let change =
        SetAttr { mode: Some(Mode::new(0o4711)), uid: Some(GuestUid(before.uid())), mtime: Some(SetTime::Now), ..SetAttr::default() };
    assert_eq!(errno(export.fs.set_attr(&Caller::root(), &a, None, &change)), Errno::ESTALE);
    assert_eq!(errno(export.fs.set_xattr(&Caller::root(), &a, b"user.x", b"1", XattrFlags::empty())), Errno::ESTALE);
    assert_eq!(errno(export.fs.open(&Caller::root(), &a, READ_WRITE)), Errno::ESTALE);
    assert_eq!(errno(export.fs.link(&Caller::root(), &a, &export.root(), name("c"))), Errno::ESTALE);
    let after = export.host("b").metadata().unwrap();
    assert_eq!((before.mode(), before.ctime_nsec(), before.nlink()), (after.mode(), after.ctime_nsec(), after.nlink()));
    assert!(export.fs.set_attr(&Caller::root(), &b, None, &change).is_ok());
}

/// By name and by descriptor the same happens to each kind of object.
#[test]
fn changes_are_what_they_are_without_it() {
    let run = |options: &str| {
        let export = Tree::new(options);
        std::fs::write(export.host("f"), "").unwrap();
        std::fs::create_dir(export.host("d")).unwrap();
        for (path, mode) in [("f", 0o6755), ("d", 0o755)] {
            std::fs::set_permissions(export.host(path), PermissionsExt::from_mode(mode)).unwrap();
        }
        symlink("nowhere", export.host("l")).unwrap();
        export.fs.make(&Caller::root(), &export.root(), name("p"), &NewNode::Fifo, Mode::new(0o600)).unwrap();
        export.fs.make(&Caller::root(), &export.root(), name("s"), &NewNode::Socket, Mode::new(0o600)).unwrap();
        std::fs::write(export.host("h"), "").unwrap();
        std::fs::hard_link(export.host("h"), export.host("hh")).unwrap();
        let mut seen = Vec::new();
        let at = |seconds| Some(SetTime::At(Timestamp { seconds, nanoseconds: 7 }));
        for path in ["f", "d", "l", "p", "s", "h", "hh"] {
            let node = export.node(path);
            let own = export.fs.attr(&node, None).unwrap();
            for change in [
                SetAttr { uid: Some(own.uid), kill_suid_sgid: true, ..SetAttr::default() },
                SetAttr { mode: Some(Mode::new(0o2754)), ..SetAttr::default() },
                SetAttr { gid: Some(own.gid), ..SetAttr::default() },
                SetAttr { mode: Some(Mode::new(0o640)), atime: at(1), mtime: at(2), ..SetAttr::default() },
                SetAttr { uid: Some(GuestUid(77777)), ..SetAttr::default() },
                SetAttr { size: Some(3), ..SetAttr::default() },
            ] {
                let done = export.fs.set_attr(&Caller::root(), &node, None, &change);
                let told = done.map(|attr| (attr.mode, attr.uid, attr.gid, attr.size)).map_err(|error| error.errno());
                let is = export.host(path).symlink_metadata().unwrap();
                let times = (change.mtime.is_some() && told.is_ok()).then(|| (is.atime(), is.mtime(), is.mtime_nsec()));
                seen.push(format!("{path} {change:?}: {told:?} {:o} {} {} {times:?}", is.mode(), is.uid(), is.size()));
            }
            for (attribute, flags) in
                [(&b"user.x"[..], XattrFlags::CREATE), (b"user.x", XattrFlags::CREATE), (b"no.such", XattrFlags::empty())]
            {
                let set = export.fs.set_xattr(&Caller::root(), &node, attribute, b"1", flags).map_err(|error| error.errno());
                let got = export.fs.get_xattr(&node, attribute).map_err(|error| error.errno());
                seen.push(format!("{path} {set:?} {got:?}"));
            }
            let opened = export.fs.open(&Caller::root(), &node, READ_WRITE).map_err(|error| error.errno());
            seen.push(format!("{path} {:?}", opened.map(|open| (open.size, export.read(&open.file)))));
            let linked = export.fs.link(&Caller::root(), &node, &export.root(), name("x")).map_err(|error| error.errno());
            seen.push(format!("{path} {:?}", linked.map(|attr| (attr.kind, attr.nlink))));
            let is = export.host("x").symlink_metadata().map(|is| is.file_type());
            seen.push(format!("{path} {:?} {:?}", is.is_ok(), export.fs.read_link(&node).map_err(|error| error.errno())));
            let _ = export.remove("x", None);
        }
        seen
    };
    for options in
        ["", "nosuid", "nodev", "noxattr", "squash=0:0", "map-uid=0:0:10", "append", "sync", "one-file-system", "resolver=manual"]
    {
        let by_descriptor = run(&format!("{options},cache=none"));
        assert_eq!(by_descriptor.len(), 7 * 12);
        assert_eq!(run(&format!("{options},exclusive")), by_descriptor, "{options}");
    }
}
