//! What a broken or hostile kernel may try.

use super::Subject;
use crate::guest::{BOTH, Guest, READ, name};
use externfs::*;

const ROOT: NodeId = NodeId::ROOT;

pub(super) fn a_read_only_view_changes_nothing(subject: &Subject, guest: &Guest) {
    let file = guest.file(ROOT, "f", b"data").expect("file");
    guest.mkdir(ROOT, "d").expect("mkdir");
    let before = guest.attr(file.id).expect("attr");
    let ro = Guest::new(subject.read_only.as_ref());
    assert!(ro.export.is_read_only());
    let file = ro.lookup(ROOT, "f").expect("lookup");
    assert_eq!(ro.contents(file.id), Ok(b"data".to_vec()));
    assert_eq!(ro.names(ROOT), Ok(vec!["d".to_owned(), "f".to_owned()]));
    let refused: Vec<(&str, Option<Errno>)> = vec![
        ("create", ro.create(ROOT, "new", true).err()),
        ("mkdir", ro.mkdir(ROOT, "new").err()),
        ("symlink", ro.make(ROOT, "new", &NewNode::Symlink(b"x"), 0o777).err()),
        ("unlink", ro.unlink(ROOT, "f").err()),
        ("rmdir", ro.rmdir(ROOT, "d").err()),
        ("rename", ro.rename(ROOT, "f", "g", RenameFlags::empty()).err()),
        ("link", ro.keep(ro.export.link(&ro.caller, file.id, ROOT, name("g"))).err()),
        ("open for writing", ro.open(file.id, BOTH).err()),
        ("open to truncate", ro.open(file.id, OpenFlags { truncate: true, ..READ }).err()),
        ("chmod", ro.set(file.id, SetAttr { mode: Some(Mode::new(0)), ..SetAttr::default() }).err()),
        ("truncate", ro.set(file.id, SetAttr { size: Some(0), ..SetAttr::default() }).err()),
        ("utimens", ro.set(file.id, SetAttr { atime: Some(SetTime::Now), ..SetAttr::default() }).err()),
        ("setxattr", ro.export.set_xattr(&ro.caller, file.id, b"user.a", b"", XattrFlags::empty()).err().map(|e| e.errno())),
        ("removexattr", ro.export.remove_xattr(&ro.caller, file.id, b"user.a").err().map(|e| e.errno())),
    ];
    for (what, errno) in refused {
        assert_eq!(errno, Some(Errno::EROFS), "{what}");
    }
    assert!(guest.export.access(&guest.caller, ROOT, Access::WRITE).is_ok());
    assert_eq!(ro.export.access(&ro.caller, ROOT, Access::WRITE).map_err(|e| e.errno()), Err(Errno::EROFS));
    let after = guest.attr(before_id(guest)).expect("attr");
    assert_eq!((after.ctime, after.size, after.mode), (before.ctime, before.size, before.mode));
    ro.finish();
}

fn before_id(guest: &Guest) -> NodeId {
    guest.lookup(ROOT, "f").expect("lookup").id
}

pub(super) fn unknown_numbers_are_refused(_: &Subject, guest: &Guest) {
    let export = guest.export.as_ref();
    let caller = &guest.caller;
    for number in [0, 2, 12_345, u64::MAX, u64::MAX - 1, 1 << 63] {
        let (id, handle) = (NodeId(number), HandleId(number));
        assert!(export.lookup(caller, id, name("x")).is_err(), "lookup in {number}");
        assert!(export.lookup_self(id).is_err() && export.lookup_parent(id).is_err());
        assert!(export.get_attr(id, None).is_err() && export.get_attr(ROOT, Some(handle)).is_err());
        assert!(export.set_attr(caller, id, None, &SetAttr::default()).is_err());
        assert!(export.read_link(id).is_err() && export.statfs(id).is_err() && export.access(caller, id, Access::READ).is_err());
        assert!(export.get_xattr(id, b"user.a").is_err() && export.list_xattr(id).is_err());
        assert!(export.make(caller, id, name("x"), &NewNode::Directory, Mode::new(0)).is_err());
        assert!(export.link(caller, id, ROOT, name("x")).is_err() && export.link(caller, ROOT, id, name("x")).is_err());
        assert!(export.unlink(caller, id, name("x")).is_err() && export.rmdir(caller, id, name("x")).is_err());
        assert!(export.rename(caller, (id, name("x")), (ROOT, name("y")), RenameFlags::empty()).is_err());
        assert!(export.open(caller, id, READ).is_err() && export.open_dir(id).is_err());
        assert!(guest.read(handle, 0, 1).is_err() && guest.write(handle, 0, b"x").is_err());
        assert!(export.flush(handle, 0).is_err() && export.fsync(handle, false).is_err() && export.fsync_dir(handle, true).is_err());
        assert!(export.fallocate(handle, 0, 1, FallocateFlags::empty()).is_err() && export.seek(handle, 0, SeekFor::Data).is_err());
        assert!(export.copy_range((handle, 0), (handle, 0), 1).is_err() && export.backing(handle).is_none());
        assert!(guest.some_names(handle, 0, 0, false).is_err() && guest.some_names(handle, 0, 0, true).is_err());
        export.release(handle, Some(7));
        export.release_dir(handle);
        export.forget(id, u64::MAX);
    }
    assert!(guest.file(ROOT, "f", b"").is_ok(), "and all is well afterwards");
}

pub(super) fn a_kind_that_does_not_fit_is_refused(_: &Subject, guest: &Guest) {
    let file = guest.file(ROOT, "f", b"").expect("file");
    let dir = guest.mkdir(ROOT, "d").expect("mkdir");
    assert_eq!(guest.lookup(file.id, "x").err(), Some(Errno::ENOTDIR));
    assert_eq!(guest.create(file.id, "x", true).err(), Some(Errno::ENOTDIR));
    assert_eq!(guest.open_dir(file.id).err(), Some(Errno::ENOTDIR));
    assert_eq!(guest.open(dir.id, BOTH).err(), Some(Errno::EISDIR));
    assert!(guest.create(ROOT, "d", false).is_err(), "a directory cannot be opened by creating it");
    assert!(guest.set(dir.id, SetAttr { size: Some(0), ..SetAttr::default() }).is_err(), "truncating a directory");
    // A handle of one file with another's id, a file's handle as a listing's.
    let handle = guest.open(file.id, BOTH).expect("open");
    assert!(guest.export.get_attr(dir.id, Some(handle)).is_err());
    assert!(guest.some_names(handle, 0, 0, false).is_err() || guest.open_dir(dir.id).is_ok_and(|listing| listing == handle));
    // Sizes of nonsense.
    assert_eq!(guest.read(handle, 0, 0), Ok(Vec::new()));
    let empty = guest.make(ROOT, "l", &NewNode::Symlink(b""), 0o777);
    assert!(empty.is_err(), "an empty target");
    assert!(guest.make(ROOT, "l", &NewNode::Symlink(&[b'x'; 4096]), 0o777).is_err(), "a target that is too long");
    assert!(guest.make(ROOT, "l", &NewNode::Symlink(b"a\0b"), 0o777).is_err(), "a target with a NUL");
}

pub(super) fn forgetting_too_much_does_no_harm(subject: &Subject, guest: &Guest) {
    let other = Guest::new(subject.connect.as_ref());
    let file = guest.file(ROOT, "f", b"x").expect("file");
    let theirs = other.lookup(ROOT, "f").expect("lookup");
    guest.export.forget(file.id, u64::MAX);
    guest.export.forget(file.id, 5);
    guest.export.forget(ROOT, u64::MAX);
    assert!(guest.attr(file.id).is_err(), "forgotten is forgotten");
    assert!(guest.attr(ROOT).is_ok(), "the root stays");
    assert_eq!(other.contents(theirs.id), Ok(b"x".to_vec()), "another kernel's counts are its own");
    assert_eq!(guest.lookup(ROOT, "f").expect("lookup").attr.ino, file.attr.ino);
    other.finish();
}

pub(super) fn a_reset_forgets_everything(subject: &Subject, _: &Guest) {
    let guest = Guest::new(subject.connect.as_ref());
    let dir = guest.mkdir(ROOT, "d").expect("mkdir");
    let (file, handle) = guest.create(dir.id, "f", true).expect("create");
    let listing = guest.open_dir(dir.id).expect("opendir");
    guest.export.reset();
    assert!(guest.attr(file.id).is_err() && guest.attr(dir.id).is_err());
    assert!(guest.read(handle, 0, 1).is_err());
    assert!(guest.some_names(listing, 0, 0, false).is_err());
    let held = guest.export.statistics();
    assert_eq!((held.nodes, held.handles), (1, 0), "{held:?}");
    assert!(guest.lookup(ROOT, "d").is_ok(), "and it goes on");
    guest.finish();
}

pub(super) fn many_threads_leave_nothing_behind(subject: &Subject, guest: &Guest) {
    let kernels: Vec<Guest> = (0..3).map(|_| Guest::new(subject.connect.as_ref())).collect();
    std::thread::scope(|scope| {
        for (index, kernel) in kernels.iter().cycle().take(6).enumerate() {
            scope.spawn(move || hammer(kernel, index));
        }
    });
    for kernel in kernels {
        kernel.finish();
    }
    let nodes = guest.export.statistics().bridge_nodes;
    assert_eq!(nodes, 1, "the bridge still knows {nodes} nodes when no kernel does");
}

fn hammer(kernel: &Guest, index: usize) {
    for round in 0..150 {
        let (here, there) = (format!("n{}", (round + index) % 5), format!("n{}", (round * 3) % 5));
        // Any of these may fail: others do the same to the same names.
        match round % 6 {
            0 => drop(kernel.mkdir(ROOT, &here)),
            1 => drop(kernel.file(ROOT, &here, b"data")),
            2 => drop(kernel.rename(ROOT, &here, &there, RenameFlags::empty())),
            3 => drop(kernel.unlink(ROOT, &here).or_else(|_| kernel.rmdir(ROOT, &here))),
            4 => drop(kernel.names(ROOT)),
            _ => {
                if let Ok(entry) = kernel.lookup(ROOT, &here) {
                    let _ = kernel.set(entry.id, SetAttr { mode: Some(Mode::new(0o711)), ..SetAttr::default() });
                    drop(kernel.contents(entry.id));
                }
            }
        }
    }
}
