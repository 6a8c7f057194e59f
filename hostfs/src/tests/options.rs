//! What `-o` changes.

use crate::HostFs;
use crate::testing::*;
use externfs::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn size(value: u64) -> SetAttr {
    SetAttr { size: Some(value), ..SetAttr::default() }
}

fn mode(bits: u32) -> SetAttr {
    SetAttr { mode: Some(Mode::new(bits)), ..SetAttr::default() }
}

fn owner(uid: u32, gid: u32) -> SetAttr {
    SetAttr { uid: Some(GuestUid(uid)), gid: Some(GuestGid(gid)), ..SetAttr::default() }
}

const APPEND: WriteFlags = WriteFlags { append: true, sync: false, cached: false, kill_suid_sgid: false };
const CACHED: WriteFlags = WriteFlags { append: false, sync: false, cached: true, kill_suid_sgid: false };
const PLAIN: WriteFlags = WriteFlags { append: false, sync: false, cached: false, kill_suid_sgid: false };

#[test]
fn append_lets_files_grow_and_nothing_else() {
    let export = Tree::new("append");
    std::fs::write(export.host("log"), "one ").unwrap();
    std::fs::write(export.host("other"), "").unwrap();
    let (node, root) = (export.node("log"), Caller::root());
    let file = export.open(&node);
    assert_eq!(export.write(&file, 0, b"two ", APPEND).unwrap(), 4);
    assert_eq!(export.write(&file, 8, b"three ", PLAIN).unwrap(), 6, "at the end without O_APPEND");
    let truncate = OpenFlags { truncate: true, ..READ_WRITE };
    let whole = CreateFlags { mode: Mode::new(0o600), exclusive: false, open: truncate };
    for (what, refused) in [
        ("overwrite", export.write(&file, 3, b"x", PLAIN).map(drop)),
        ("hole", export.write(&file, 100, b"x", PLAIN).map(drop)),
        ("mapped write", export.write(&file, 14, b"x", CACHED).map(drop)),
        ("shrink", export.fs.set_attr(&root, &node, None, &size(1)).map(drop)),
        ("shrink by file", export.fs.set_attr(&root, &node, Some(&file), &size(0)).map(drop)),
        ("O_TRUNC", export.fs.open(&root, &node, truncate).map(drop)),
        ("punch", export.fs.fallocate(&file, 0, 4, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE)),
        ("zero", export.fs.fallocate(&file, 0, 4, FallocateFlags::ZERO_RANGE)),
        ("collapse", export.fs.fallocate(&file, 0, 4096, FallocateFlags::COLLAPSE_RANGE)),
        ("insert", export.fs.fallocate(&file, 0, 4096, FallocateFlags::INSERT_RANGE)),
        ("unlink", export.remove("log", Some(&node))),
        ("rename over", export.rename("other", "log", RenameFlags::empty())),
    ] {
        assert_eq!(errno(refused), Errno::EPERM, "{what}");
    }
    assert_eq!(errno(export.fs.create(&root, &export.root(), name("log"), whole)), Errno::ESTALE, "it is there");
    assert_eq!(export.fs.set_attr(&root, &node, None, &size(14)).unwrap().size, 14, "as it is");
    assert_eq!(errno(export.fs.copy_range((&file, 0), (&file, 14), 1)), Errno::EOPNOTSUPP);
    assert!(export.fs.backing(&file).is_none(), "passthrough would not ask");
    assert_eq!(export.fs.open(&root, &node, READ_WRITE).unwrap().cache, FileCache::Bypass);
    assert_eq!(std::fs::read(export.host("log")).unwrap(), b"one two three ");
    assert!(std::fs::read(export.host("other")).unwrap().is_empty());
    assert_eq!(errno(export.rename("other", "log", RenameFlags::NOREPLACE)), Errno::EEXIST);
    export.rename("other", "moved", RenameFlags::empty()).unwrap();
    export.rename("moved", "log", RenameFlags::EXCHANGE).unwrap();
    assert_eq!(std::fs::read(export.host("moved")).unwrap(), b"one two three ");
    export.fs.set_attr(&root, &node, Some(&file), &size(20)).unwrap();
}

#[test]
fn objects_belong_to_their_caller() {
    if !is_root() {
        return;
    }
    let export = Tree::new("");
    let caller = Caller { umask: 0o027, ..user(1000, 1001) };
    let created = export.create(&caller, "f", 0o666).unwrap();
    let attr = created.attr;
    assert_eq!((attr.uid, attr.gid, attr.mode), (GuestUid(1000), GuestGid(1001), Mode::new(0o640)));
    let kinds = [
        ("d", NewNode::Directory),
        ("l", NewNode::Symlink(b"nowhere")),
        ("p", NewNode::Fifo),
        ("s", NewNode::Socket),
        ("r", NewNode::Regular),
        ("c", NewNode::CharDevice(DeviceNumber { major: 0, minor: 0 })),
        ("b", NewNode::BlockDevice(DeviceNumber { major: 300, minor: 70_000 })),
    ];
    for (text, new) in kinds {
        let (_, attr) = export.fs.make(&caller, &export.root(), name(text), &new, Mode::new(0o777)).unwrap();
        assert_eq!((attr.uid, attr.gid), (GuestUid(1000), GuestGid(1001)), "{text}");
        let mode = if attr.kind == FileKind::Symlink { 0o777 } else { 0o750 };
        assert_eq!(attr.mode, Mode::new(mode), "{text}");
        if let NewNode::CharDevice(device) | NewNode::BlockDevice(device) = new {
            assert_eq!(attr.device, device);
        }
    }
    let flags = CreateFlags { mode: Mode::new(0o666), exclusive: false, open: READ_WRITE };
    let nameless = export.fs.create_unnamed(&caller, &export.root(), flags).unwrap();
    assert_eq!((nameless.attr.uid, nameless.attr.gid), (GuestUid(1000), GuestGid(1001)));
    // What is there already is not opened for who may not have been looked at.
    assert_eq!(errno(export.fs.create(&user(5, 5), &export.root(), name("f"), flags)), Errno::ESTALE);
}

#[test]
fn what_takes_appends_only_can_be_appended_to() {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    let export = Tree::new("");
    std::fs::write(export.host("log"), "one ").unwrap();
    let host = std::fs::File::open(export.host("log")).unwrap();
    let flags = ioctl_getflags(&host).unwrap_or(IFlags::empty());
    if ioctl_setflags(&host, flags | IFlags::APPEND).is_err() {
        println!("skipped: chattr +a needs root and a file system that has it");
        return;
    }
    let (node, root) = (export.node("log"), Caller::root());
    let append = OpenFlags { write: true, append: true, ..OpenFlags::default() };
    let opened = export.fs.open(&root, &node, append);
    let overwrite = export.fs.open(&root, &node, READ_WRITE).map(drop);
    let wrote = opened.and_then(|opened| export.write(&opened.file, 0, b"two", APPEND));
    ioctl_setflags(&host, flags).unwrap();
    assert_eq!((wrote.unwrap(), errno(overwrite)), (3, Errno::EPERM));
    assert_eq!(std::fs::read(export.host("log")).unwrap(), b"one two");
}

#[test]
fn a_setgid_directory_gives_its_group_on() {
    if !is_root() {
        return;
    }
    let export = Tree::new("");
    std::fs::create_dir(export.host("shared")).unwrap();
    std::os::unix::fs::chown(export.host("shared"), Some(0), Some(50)).unwrap();
    chmod(&export.host("shared"), 0o2777);
    let shared = export.node("shared");
    let (_, dir) = export.fs.make(&user(1000, 1000), &shared, name("d"), &NewNode::Directory, Mode::new(0o755)).unwrap();
    assert_eq!((dir.uid, dir.gid, dir.mode), (GuestUid(1000), GuestGid(50), Mode::new(0o2755)));
    let (_, file) = export.fs.make(&user(1000, 1000), &shared, name("f"), &NewNode::Regular, Mode::new(0o644)).unwrap();
    assert_eq!((file.gid, file.mode), (GuestGid(50), Mode::new(0o644)));
}

#[test]
fn a_default_acl_takes_the_place_of_the_umask() {
    let export = Tree::new("");
    let root = export.root();
    // user::rwx group::r-x other::---, version 2.
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, bits) in [(1u16, 7u16), (4, 5), (32, 0)] {
        acl.extend([tag.to_le_bytes(), bits.to_le_bytes()].concat());
        acl.extend(u32::MAX.to_le_bytes());
    }
    let set = export.fs.set_xattr(&Caller::root(), &root, b"system.posix_acl_default", &acl, XattrFlags::empty());
    if set.as_ref().is_err_and(|error| error.errno() == Errno::EOPNOTSUPP) {
        println!("skipped: the temporary directory's file system has no ACLs");
        return;
    }
    set.unwrap();
    let caller = Caller { umask: 0o777, ..Caller::root() };
    let created = export.create(&caller, "f", 0o666).unwrap();
    assert_eq!(created.attr.mode, Mode::new(0o640), "by the ACL, not by the umask");
}

#[test]
fn a_default_acl_leaves_a_directory_its_setgid() {
    let export = Tree::new("");
    std::fs::create_dir(export.host("d")).unwrap();
    std::fs::set_permissions(export.host("d"), std::os::unix::fs::PermissionsExt::from_mode(0o2775)).unwrap();
    let dir = export.node("d");
    // user::rwx user:1000:rwx group::r-x mask::rwx other::---
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, bits, id) in [(1u16, 7u16, u32::MAX), (2, 7, 1000), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 0, u32::MAX)] {
        acl.extend([tag.to_le_bytes(), bits.to_le_bytes()].concat());
        acl.extend(id.to_le_bytes());
    }
    for (name, expected) in [(&b"system.posix_acl_default"[..], 0o2775), (b"system.posix_acl_access", 0o770)] {
        let set = export.fs.set_xattr(&Caller::root(), &dir, name, &acl, XattrFlags::KILL_SGID);
        if set.as_ref().is_err_and(|error| error.errno() == Errno::EOPNOTSUPP) {
            println!("skipped: the temporary directory's file system has no ACLs");
            return;
        }
        set.unwrap();
        assert_eq!(export.fs.attr(&dir, None).unwrap().mode, Mode::new(expected), "{}", name.escape_ascii());
    }
}

#[test]
fn squash_makes_everything_one_users() {
    if !is_root() {
        return;
    }
    let export = Tree::new("squash=1234:1235");
    for uid in [0, 1000] {
        let created = export.create(&user(uid, uid), &format!("f{uid}"), 0o644).unwrap();
        assert_eq!((created.attr.uid, created.attr.gid), (GuestUid(1234), GuestGid(1235)));
        let change = |change| export.fs.set_attr(&user(uid, uid), &created.node, None, &change);
        assert_eq!(errno(change(owner(0, 0))), Errno::EPERM);
        assert!(change(owner(1234, 1235)).is_ok(), "changes nothing");
    }
}

#[test]
fn ids_are_mapped_both_ways() {
    if !is_root() {
        return;
    }
    let export = Tree::new("map-uid=0:100000:1000,map-gid=0:200000:1000");
    let created = export.create(&user(5, 6), "f", 0o644).unwrap();
    assert_eq!((created.attr.uid, created.attr.gid), (GuestUid(5), GuestGid(6)));
    let host = std::fs::metadata(export.host("f")).unwrap();
    assert_eq!((host.uid(), host.gid()), (100_005, 200_006));
    let attr = export.fs.set_attr(&Caller::root(), &created.node, None, &owner(7, 8)).unwrap();
    assert_eq!((attr.uid, attr.gid), (GuestUid(7), GuestGid(8)));
    let refused = export.fs.set_attr(&Caller::root(), &created.node, None, &owner(1000, 8));
    assert_eq!(errno(refused), Errno::EINVAL);
    assert_eq!(errno(export.create(&user(1000, 0), "g", 0o644)), Errno::EOVERFLOW);
    assert!(!export.host("g").exists());
    std::os::unix::fs::chown(export.host("f"), Some(0), Some(0)).unwrap();
    let attr = export.fs.attr(&created.node, None).unwrap();
    assert_eq!((attr.uid, attr.gid), (GuestUid(65534), GuestGid(65534)), "nobody's");
    acl_ids_are_mapped(&export);
}

fn acl_ids_are_mapped(export: &Tree) {
    let node = export.node("f");
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, id) in [(1u16, u32::MAX), (2, 9), (4, u32::MAX), (8, 10), (16, u32::MAX), (32, u32::MAX)] {
        acl.extend([tag.to_le_bytes(), 4u16.to_le_bytes()].concat());
        acl.extend(id.to_le_bytes());
    }
    let attribute = b"system.posix_acl_access";
    export.fs.set_xattr(&Caller::root(), &node, attribute, &acl, XattrFlags::empty()).unwrap();
    assert_eq!(export.fs.get_xattr(&node, attribute).unwrap(), acl);
    let file = std::fs::File::open(export.host("f")).unwrap();
    let mut host = vec![0; 256];
    let len = rustix::fs::fgetxattr(&file, "system.posix_acl_access", &mut host[..]).unwrap();
    assert!(host[..len].windows(4).any(|id| id == 100_009u32.to_le_bytes()), "the host has the host's id");
}

#[test]
fn nodev_shows_devices_that_nothing_serves() {
    if !is_root() {
        return;
    }
    let export = Tree::new("nodev");
    let null = DeviceNumber { major: 1, minor: 3 };
    for new in [NewNode::CharDevice(null), NewNode::BlockDevice(null)] {
        let made = export.fs.make(&Caller::root(), &export.root(), name("n"), &new, Mode::new(0o666));
        assert_eq!(errno(made), Errno::EPERM);
    }
    export.fs.make(&Caller::root(), &export.root(), name("p"), &NewNode::Fifo, Mode::new(0o666)).unwrap();
    let free = HostFs::open(&Source { path: export.host(""), options: Vec::new() }).unwrap();
    let root = free.root().unwrap();
    let (_, attr) = free.make(&Caller::root(), &root, name("null"), &NewNode::CharDevice(null), Mode::new(0o666)).unwrap();
    assert_eq!(attr.device, null);
    let attr = export.fs.attr(&export.node("null"), None).unwrap();
    assert_eq!((attr.kind, attr.device), (FileKind::CharDevice, DeviceNumber::default()));
}

#[test]
fn nosuid_neither_shows_nor_sets() {
    let export = Tree::new("nosuid");
    std::fs::write(export.host("su"), "").unwrap();
    chmod(&export.host("su"), 0o6755);
    std::fs::create_dir(export.host("d")).unwrap();
    let node = export.node("su");
    assert_eq!(export.fs.attr(&node, None).unwrap().mode, Mode::new(0o755));
    assert_eq!(errno(export.fs.set_attr(&Caller::root(), &node, None, &mode(0o4755))), Errno::EPERM);
    assert_eq!(errno(export.create(&Caller::root(), "new", 0o2755)), Errno::EPERM);
    let dir = export.fs.set_attr(&Caller::root(), &export.node("d"), None, &mode(0o3777)).unwrap();
    assert_eq!(dir.mode, Mode::new(0o3777), "on a directory it says whose the children are");
    let caps = b"security.capability";
    assert_eq!(errno(export.fs.get_xattr(&node, caps)), Errno::ENODATA);
    assert_eq!(errno(export.fs.set_xattr(&Caller::root(), &node, caps, b"x", XattrFlags::empty())), Errno::EPERM);
}

#[test]
fn noxattr_has_none() {
    let export = Tree::new("noxattr");
    let root = export.root();
    assert_eq!(errno(export.fs.get_xattr(&root, b"user.x")), Errno::EOPNOTSUPP);
    let set = export.fs.set_xattr(&Caller::root(), &root, b"user.x", b"1", XattrFlags::empty());
    assert_eq!(errno(set), Errno::EOPNOTSUPP);
    assert!(export.fs.list_xattr(&root).unwrap().is_empty());
    assert!(!export.fs.features().posix_acl);
}

#[test]
fn setid_bits_go_when_asked() {
    let export = Tree::new("");
    let kill = WriteFlags { kill_suid_sgid: true, ..PLAIN };
    let open = |flags| {
        chmod(&export.host("su"), 0o6755);
        export.fs.open(&Caller::root(), &export.node("su"), flags).unwrap().file
    };
    let host_mode = || std::fs::metadata(export.host("su")).unwrap().mode() & 0o7777;
    std::fs::write(export.host("su"), "").unwrap();
    let file = open(READ_WRITE);
    export.write(&file, 0, b"x", PLAIN).unwrap();
    if is_root() {
        assert_eq!(host_mode(), 0o6755, "a privileged writer keeps them");
    }
    export.write(&file, 0, b"x", kill).unwrap();
    assert_eq!(host_mode(), 0o755);
    open(OpenFlags { truncate: true, kill_suid_sgid: true, ..READ_WRITE });
    assert_eq!(host_mode(), 0o755);
    let file = open(READ_WRITE);
    let change = SetAttr { kill_suid_sgid: true, ..size(5) };
    export.fs.set_attr(&Caller::root(), &file.node, None, &change).unwrap();
    assert_eq!(host_mode(), 0o755);
    let file = open(READ_WRITE);
    export.fs.fallocate(&file, 0, 10, FallocateFlags::empty()).unwrap();
    assert_eq!(host_mode(), 0o755);
    // Without group execution, setgid meant mandatory locking and stays.
    chmod(&export.host("su"), 0o2644);
    export.write(&file, 0, b"x", kill).unwrap();
    assert_eq!(host_mode() & 0o2000, 0o2000);
}

#[test]
fn pages_stay_cached_while_nothing_changed() {
    let cache = |export: &Tree, node: &Node| export.fs.open(&Caller::root(), node, READ_WRITE).unwrap().cache;
    let export = Tree::new("");
    std::fs::write(export.host("f"), "one").unwrap();
    let node = export.node("f");
    assert_eq!(cache(&export, &node), FileCache::Keep);
    std::fs::write(export.host("f"), "longer").unwrap();
    assert_eq!(cache(&export, &node), FileCache::Drop, "changed since it was told");
    export.fs.attr(&node, None).unwrap();
    assert_eq!(cache(&export, &node), FileCache::Keep);
    for (options, expected) in [("cache=none", FileCache::Drop), ("exclusive", FileCache::Keep), ("direct-io", FileCache::Bypass)] {
        let export = Tree::new(options);
        std::fs::write(export.host("f"), "one").unwrap();
        assert_eq!(cache(&export, &export.node("f")), expected, "{options}");
    }
}

#[test]
fn subdir_is_the_whole_export() {
    let export = Tree::new("");
    std::fs::create_dir_all(export.host("a/b/c")).unwrap();
    std::os::unix::fs::symlink("a", export.host("link")).unwrap();
    for resolver in ["openat2", "manual"] {
        let open = |subdir: &str| {
            let options = options(&format!("subdir={subdir},resolver={resolver}"));
            HostFs::open(&Source { path: export.host(""), options })
        };
        let fs = open("a/b").unwrap();
        assert!(fs.lookup(&fs.root().unwrap(), name("c")).is_ok());
        assert_eq!(fs.parent(&fs.root().unwrap()).unwrap().key(), fs.root().unwrap().key());
        for (bad, says) in [("link/b", "no directory"), ("x", "does not exist"), ("a/../..", "without '..'")] {
            let line = open(bad).unwrap_err().0;
            assert!(line.contains(says), "{line}");
        }
    }
}

#[test]
fn a_wrong_source_is_one_clear_line() {
    let export = Tree::new("");
    std::fs::write(export.host("file"), "").unwrap();
    for (path, says) in [("missing", "does not exist"), ("file", "is not a directory")] {
        let opened = HostFs::open(&Source { path: export.host(path), options: Vec::new() });
        let line = opened.unwrap_err().0;
        assert!(line.contains(says) && line.contains(path) && !line.contains('\n'), "{line}");
    }
    let unknown = HostFs::open(&Source { path: export.host(""), options: options("bogus") });
    assert!(unknown.unwrap_err().0.contains("'bogus'"));
}

#[test]
fn what_is_mounted_below_is_not_entered() {
    for options_text in ["one-file-system,resolver=openat2", "one-file-system,resolver=manual"] {
        let options = options(options_text);
        let fs = HostFs::open(&Source { path: "/".into(), options }).unwrap();
        assert_eq!(errno(fs.lookup(&fs.root().unwrap(), name("proc"))), Errno::EXDEV);
        assert!(!fs.features().submounts);
    }
    let fs = HostFs::open(&Source { path: "/".into(), options: Vec::new() }).unwrap();
    let root = fs.root().unwrap();
    let (proc, _) = fs.lookup(&root, name("proc")).unwrap();
    assert_ne!(fs.key(&proc).volume, fs.key(&root).volume, "announced as a mount point");
}
