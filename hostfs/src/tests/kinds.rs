//! What is not a regular file or a directory, and attributes of all kinds.

use crate::testing::*;
use externfs::*;

/// One of each kind that a test may make here, with its node.
fn one_of_each(export: &Tree) -> Vec<(FileKind, Node)> {
    let mut kinds = vec![
        (FileKind::Regular, NewNode::Regular),
        (FileKind::Directory, NewNode::Directory),
        (FileKind::Symlink, NewNode::Symlink(b"nowhere")),
        (FileKind::Fifo, NewNode::Fifo),
        (FileKind::Socket, NewNode::Socket),
    ];
    if is_root() {
        kinds.push((FileKind::CharDevice, NewNode::CharDevice(DeviceNumber { major: 1, minor: 3 })));
        kinds.push((FileKind::BlockDevice, NewNode::BlockDevice(DeviceNumber { major: 7, minor: 200 })));
    }
    let make = |(kind, new): (FileKind, NewNode<'_>)| {
        let text = format!("{kind:?}");
        let made = export.fs.make(&Caller::root(), &export.root(), name(&text), &new, Mode::new(0o644));
        let (node, attr) = made.unwrap();
        assert_eq!(attr.kind, kind);
        (kind, node)
    };
    kinds.into_iter().map(make).collect()
}

#[test]
fn attributes_of_every_kind_can_be_set() {
    for resolver in ["resolver=openat2", "resolver=manual"] {
        let export = Tree::new(resolver);
        for (kind, node) in one_of_each(&export) {
            let set = |change: SetAttr| export.fs.set_attr(&Caller::root(), &node, None, &change);
            let time = Timestamp { seconds: -5, nanoseconds: 123_456_789 };
            let times = SetAttr { mtime: Some(SetTime::At(time)), atime: Some(SetTime::Now), ..SetAttr::default() };
            let attr = set(times).unwrap();
            assert_eq!(attr.mtime, time, "{kind:?}");
            assert!(attr.atime.seconds > 0, "{kind:?}");
            let mode = SetAttr { mode: Some(Mode::new(0o4711)), ..SetAttr::default() };
            if kind == FileKind::Symlink {
                assert_eq!(errno(set(mode)), Errno::EOPNOTSUPP);
            } else {
                assert_eq!(set(mode).unwrap().mode, Mode::new(0o4711), "{kind:?}");
            }
            if is_root() {
                let owner = SetAttr { uid: Some(GuestUid(1000)), gid: Some(GuestGid(1001)), ..SetAttr::default() };
                let attr = set(owner).unwrap();
                assert_eq!((attr.uid, attr.gid), (GuestUid(1000), GuestGid(1001)), "{kind:?}");
            }
            let size = set(SetAttr { size: Some(10), ..SetAttr::default() });
            match kind {
                FileKind::Regular => assert_eq!(size.unwrap().size, 10),
                FileKind::Directory => assert_eq!(errno(size), Errno::EISDIR),
                _ => assert_eq!(errno(size), Errno::EINVAL, "{kind:?}"),
            }
        }
    }
}

#[test]
fn trusted_attributes_go_on_every_kind() {
    let export = Tree::new("");
    for (kind, node) in one_of_each(&export) {
        if !is_root() {
            return;
        }
        let set = |value: &[u8], flags| export.fs.set_xattr(&Caller::root(), &node, b"trusted.x", value, flags);
        set(b"one", XattrFlags::CREATE).unwrap();
        assert_eq!(errno(set(b"two", XattrFlags::CREATE)), Errno::EEXIST, "{kind:?}");
        let long = vec![b'x'; 2000];
        set(&long, XattrFlags::REPLACE).unwrap();
        assert_eq!(export.fs.get_xattr(&node, b"trusted.x").unwrap(), long, "{kind:?}");
        let list = export.fs.list_xattr(&node).unwrap();
        assert!(list.split(|&b| b == 0).any(|name| name == b"trusted.x"), "{kind:?}");
        export.fs.remove_xattr(&Caller::root(), &node, b"trusted.x").unwrap();
        assert_eq!(errno(export.fs.get_xattr(&node, b"trusted.x")), Errno::ENODATA);
        assert_eq!(errno(set(b"one", XattrFlags::REPLACE)), Errno::ENODATA);
    }
    assert!(export.try_node("nowhere").is_err(), "no link was followed");
}

#[test]
fn open_and_removed_files_have_attributes_too() {
    if !is_root() {
        return;
    }
    let export = Tree::new("");
    let created = export.create(&Caller::root(), "f", 0o600).unwrap();
    let round = || {
        let set = export.fs.set_xattr(&Caller::root(), &created.node, b"user.x", b"1", XattrFlags::empty());
        set.unwrap();
        assert_eq!(export.fs.get_xattr(&created.node, b"user.x").unwrap(), b"1");
        assert_eq!(export.fs.list_xattr(&created.node).unwrap(), b"user.x\0");
        export.fs.remove_xattr(&Caller::root(), &created.node, b"user.x").unwrap();
    };
    round();
    export.remove("f", Some(&created.node)).unwrap();
    round();
    drop(created.opened);
    round();
}

#[test]
fn links_tell_their_target_and_survive_their_name() {
    let export = Tree::new("");
    let target = vec![b'x'; 4095];
    let made = export.fs.make(&Caller::root(), &export.root(), name("l"), &NewNode::Symlink(&target), Mode::new(0o777));
    let node = made.unwrap().0;
    assert_eq!(export.fs.read_link(&node).unwrap(), target);
    export.remove("l", Some(&node)).unwrap();
    assert_eq!(export.fs.read_link(&node).unwrap(), target);
    assert_eq!(errno(export.fs.read_link(&export.root())), Errno::EINVAL);
}

#[test]
fn inode_flags_are_for_files_and_directories() {
    let export = Tree::new("");
    for (kind, node) in one_of_each(&export) {
        let flags = export.fs.inode_flags(&node, None);
        if !matches!(kind, FileKind::Regular | FileKind::Directory) {
            assert_eq!(errno(flags), Errno::ENOTTY, "{kind:?}");
            continue;
        }
        let flags = match flags {
            Err(error) if matches!(error.errno(), Errno::ENOTTY | Errno::EOPNOTSUPP) => {
                println!("skipped: the temporary directory's file system has no inode flags");
                return;
            }
            answer => answer.unwrap(),
        };
        let wanted = flags | InodeFlags::NODUMP;
        export.fs.set_inode_flags(&Caller::root(), &node, None, wanted).unwrap();
        assert_eq!(export.fs.inode_flags(&node, None).unwrap(), wanted, "{kind:?}");
    }
}

#[test]
fn only_directories_are_listed_and_entered() {
    let export = Tree::new("");
    for (kind, node) in one_of_each(&export) {
        if kind != FileKind::Directory {
            assert_eq!(errno(export.fs.open_dir(&node)), Errno::ENOTDIR, "{kind:?}");
            assert_eq!(errno(export.fs.lookup(&node, name("x"))), Errno::ENOTDIR, "{kind:?}");
        }
        if kind != FileKind::Regular {
            assert!(export.fs.open(&Caller::root(), &node, READ_WRITE).is_err(), "{kind:?}");
        }
    }
}

#[test]
fn access_follows_the_mode_bits() {
    let export = Tree::new("");
    let created = export.create(&Caller::root(), "f", 0o640).unwrap();
    let attr = created.attr;
    let asks = |uid, gid, wanted| export.fs.access(&user(uid, gid), &created.node, wanted).is_ok();
    let (uid, gid) = (attr.uid.0, attr.gid.0);
    assert!(asks(uid, 9, Access::READ | Access::WRITE));
    assert!(asks(9, gid, Access::READ));
    assert!(!asks(9, gid, Access::WRITE));
    assert!(!asks(9, 9, Access::READ));
    assert!(!asks(0, 0, Access::EXECUTE), "not even root runs what nobody may");
    let member = Caller { supplementary_group: Some(attr.gid), ..user(9, 9) };
    assert!(export.fs.access(&member, &created.node, Access::READ).is_ok());
}

#[test]
fn a_directory_that_may_be_read_but_not_searched_is_listed() {
    let tree = Tree::new("");
    std::fs::create_dir(tree.host("d")).unwrap();
    std::fs::write(tree.host("d/f"), "").unwrap();
    std::fs::set_permissions(tree.host("d"), std::os::unix::fs::PermissionsExt::from_mode(0o444)).unwrap();
    let node = tree.node("d");
    // On a thread of its own that gives its privileges up, as an ordinary server has none.
    let listed = std::thread::scope(|scope| {
        let listing = scope.spawn(|| {
            crate::sys::set_fs_uid(65534);
            let dir = tree.fs.open_dir(&node)?;
            let mut names = Vec::new();
            tree.fs.read_dir(&dir, 0, &mut |entry| {
                names.push(entry.name.to_vec());
                true
            })?;
            Ok::<_, Error>(names)
        });
        listing.join().unwrap()
    });
    std::fs::set_permissions(tree.host("d"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert!(listed.unwrap().contains(&b"f".to_vec()));
}
