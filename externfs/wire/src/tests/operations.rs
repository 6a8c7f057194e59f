//! Each operation: what the export is asked, and what the kernel hears.

use super::fake::Fake;
use super::*;
use externfs::{CachePolicy, Errno, Error, FileCache};
use std::time::Duration;

#[test]
fn each_operation_asks_once() {
    let kernel = Kernel::new();
    let node = "NodeId(7)";
    let expected = |opcode| {
        Some(match opcode {
            Opcode::Lookup => format!("lookup 1000 {node} name"),
            Opcode::Forget => format!("forget {node} 2"),
            Opcode::GetAttr | Opcode::StatX => format!("get_attr {node} None"),
            Opcode::ReadLink => format!("read_link {node}"),
            Opcode::Symlink => format!("make {node} name Symlink([116, 111]) 0777 umask 0 None"),
            Opcode::MkNod => format!("make {node} name Fifo 0644 umask 22 None"),
            Opcode::MkDir => format!("make {node} name Directory 0755 umask 22 None"),
            Opcode::Unlink => format!("unlink {node} name"),
            Opcode::RmDir => format!("rmdir {node} name"),
            Opcode::Rename => format!("rename ({node}, \"from\") (NodeId(8), \"to\") 0x0"),
            Opcode::Rename2 => format!("rename ({node}, \"from\") (NodeId(8), \"to\") 0x1"),
            Opcode::Link => format!("link NodeId(8) {node} name"),
            Opcode::Read => "read HandleId(3) 4096 512".into(),
            Opcode::StatFs => format!("statfs {node}"),
            Opcode::Release => "release HandleId(3) None".into(),
            Opcode::FSync => "fsync HandleId(3) true".into(),
            Opcode::SetXattr => format!("set_xattr {node} user.a value XattrFlags(0x0)"),
            Opcode::GetXattr => format!("get_xattr {node} user.a"),
            Opcode::ListXattr => format!("list_xattr {node}"),
            Opcode::RemoveXattr => format!("remove_xattr {node} user.a"),
            Opcode::Flush => "flush HandleId(3) 9".into(),
            Opcode::OpenDir => format!("open_dir {node}"),
            Opcode::ReadDir => "read_dir HandleId(3) 4096".into(),
            Opcode::ReadDirPlus => "read_dir_plus HandleId(3) 4096".into(),
            Opcode::ReleaseDir => "release_dir HandleId(3)".into(),
            Opcode::FSyncDir => "fsync_dir HandleId(3) false".into(),
            Opcode::Access => format!("access 1000 {node} Access(READ | WRITE)"),
            Opcode::FAllocate => "fallocate HandleId(3) 0 4096 0x3".into(),
            Opcode::LSeek => "seek HandleId(3) 10 Hole".into(),
            Opcode::CopyFileRange | Opcode::CopyFileRange64 => "copy_range (HandleId(3), 0) (HandleId(4), 100) 1000".into(),
            Opcode::SyncFs => "sync".into(),
            Opcode::Ioctl => format!("inode_flags {node} Some(HandleId(3))"),
            _ => return None,
        })
    };
    for (opcode, args) in well_formed() {
        let Some(expected) = expected(opcode) else { continue };
        let (outcome, sent) = kernel.send(&request(opcode, NODE, &args));
        assert_eq!(kernel.calls(), [expected], "{opcode}");
        assert_eq!(matches!(outcome, Outcome::Silent), opcode.is_silent());
        assert!(sent.iter().all(|answer| answer.errno == 0));
        assert_eq!(kernel.session.counts().of(opcode), 1);
    }
}

#[test]
fn sizes_of_the_answers() {
    let kernel = Kernel::new();
    for (opcode, args) in well_formed() {
        let size = match opcode {
            Opcode::Lookup | Opcode::MkNod | Opcode::MkDir | Opcode::Symlink | Opcode::Link => 128,
            Opcode::GetAttr | Opcode::SetAttr => 104,
            Opcode::StatX => 288,
            Opcode::Open | Opcode::OpenDir => 16,
            Opcode::Create | Opcode::TmpFile => 144,
            Opcode::Read => 9,
            Opcode::Write | Opcode::CopyFileRange | Opcode::CopyFileRange64 | Opcode::LSeek => 8,
            Opcode::StatFs => 80,
            Opcode::GetLk => 24,
            Opcode::Ioctl => 20,
            Opcode::GetXattr | Opcode::ListXattr => 5,
            Opcode::ReadLink => 6,
            Opcode::Init => 64,
            Opcode::BMap | Opcode::Poll | Opcode::SetupMapping | Opcode::RemoveMapping => {
                assert_eq!(kernel.call(opcode, NODE, &args).errno, libc::ENOSYS);
                continue;
            }
            Opcode::Destroy | Opcode::ReadDir | Opcode::ReadDirPlus => continue,
            _ if opcode.is_silent() => continue,
            _ => 0,
        };
        let answer = kernel.call(opcode, NODE, &args);
        assert_eq!((answer.errno, answer.payload.len()), (0, size), "{opcode}");
    }
}

#[test]
fn unknown_operations_are_never_asked_again() {
    let kernel = Kernel::new();
    for opcode in [0, 7, 54, 4096, u32::MAX] {
        let (_, sent) = kernel.send(&request_of(opcode, NODE, b"whatever", &[]));
        assert_eq!(sent[0].errno, libc::ENOSYS);
    }
    assert_eq!(kernel.session.counts().unknown(), 5);
}

#[test]
fn lookups_of_dots_and_of_nothing() {
    let kernel = Kernel::new();
    assert_eq!(kernel.one(Opcode::Lookup, &Bytes::new().text(".")).1, "lookup_self NodeId(7)");
    assert_eq!(kernel.one(Opcode::Lookup, &Bytes::new().text("..")).1, "lookup_parent NodeId(7)");

    let fails = |negative, error| {
        let policy = CachePolicy { negative, ..CachePolicy::NONE };
        Kernel::with(Fake { error: Some(error), policy, ..Fake::default() }, OFFERED_7_45)
    };
    let name = Bytes::new().text("gone");
    assert_eq!(fails(Duration::ZERO, Errno::ENOENT.into()).call(Opcode::Lookup, 1, &name).errno, libc::ENOENT);
    let remembered = fails(Duration::new(3, 4), Errno::ENOENT.into());
    let answer = remembered.call(Opcode::Lookup, 1, &name);
    assert_eq!((answer.errno, answer.u64(0), answer.u64(16), answer.u32(32), answer.payload.len()), (0, 0, 3, 4, 128));
    assert_eq!(remembered.call(Opcode::Lookup, 1, &Bytes::new().text("..")).errno, libc::ENOENT, "no name to remember");
    let other = fails(Duration::new(3, 4), Error::because(Errno::EACCES, "a reason"));
    assert_eq!(other.call(Opcode::Lookup, 1, &name).errno, libc::EACCES);
}

#[test]
fn set_attr_takes_every_field() {
    let kernel = Kernel::new();
    let args = |valid: u32| {
        let sizes = Bytes::new().u32(valid).u32(0).u64(3).u64(0x1000).u64(9);
        let times = sizes.u64(-5i64 as u64).u64(6).u64(7).u32(50).u32(60).u32(70);
        times.u32(0o104_711).u32(0).u32(11).u32(12).u32(0)
    };
    let nothing = "mode: None, uid: None, gid: None, size: None, atime: None, mtime: None, ctime: None, kill_suid_sgid: false";
    let asked = |valid, was: &str, is: &str, handle| {
        let expected = format!("set_attr 1000 NodeId(7) {handle} SetAttr {{ {} }}", nothing.replace(was, is));
        assert_eq!(kernel.one(Opcode::SetAttr, &args(valid)).1, expected, "{valid:#x}");
    };
    let at = |seconds, nanoseconds| format!("Some(At(Timestamp {{ seconds: {seconds}, nanoseconds: {nanoseconds} }}))");
    asked(0, "", "", "None");
    asked(1 << 0, "mode: None", "mode: Some(4711)", "None");
    asked(1 << 1, "uid: None", "uid: Some(GuestUid(11))", "None");
    asked(1 << 2, "gid: None", "gid: Some(GuestGid(12))", "None");
    asked(1 << 3 | 1 << 6 | 1 << 9, "size: None", "size: Some(4096)", "Some(HandleId(3))");
    asked(1 << 4, "atime: None", &format!("atime: {}", at(-5, 50)), "None");
    asked(1 << 4 | 1 << 7, "atime: None", "atime: Some(Now)", "None");
    asked(1 << 5, "mtime: None", &format!("mtime: {}", at(6, 60)), "None");
    asked(1 << 5 | 1 << 8, "mtime: None", "mtime: Some(Now)", "None");
    asked(1 << 10, "ctime: None", "ctime: Some(Timestamp { seconds: 7, nanoseconds: 70 })", "None");
    asked(1 << 11, "kill_suid_sgid: false", "kill_suid_sgid: true", "None");
    asked(1 << 7 | 1 << 8, "", "", "None");

    let whole_second = Bytes::new().u32(1 << 4).raw(&[0; 52]).u32(1_000_000_000).raw(&[0; 28]);
    assert_eq!(kernel.call(Opcode::SetAttr, NODE, &whole_second).errno, libc::EINVAL);
    let beyond = Bytes::new().u32(1 << 3).raw(&[0; 12]).u64(1 << 63).raw(&[0; 64]);
    assert_eq!(kernel.call(Opcode::SetAttr, NODE, &beyond).errno, libc::EFBIG);
}

#[test]
fn attributes_may_be_those_of_an_open_file() {
    let kernel = Kernel::new();
    assert_eq!(kernel.one(Opcode::GetAttr, &Bytes::new().u32(1).u32(0).u64(5)).1, "get_attr NodeId(7) Some(HandleId(5))");
    assert_eq!(kernel.one(Opcode::StatX, &Bytes::new().u32(1).u32(0).u64(5).u64(0)).1, "get_attr NodeId(7) Some(HandleId(5))");
}

#[test]
fn a_node_is_made_as_it_is_asked() {
    let kernel = Kernel::new();
    let asked = |mode: u32, device: u32| {
        let args = Bytes::new().u32(mode).u32(device).u32(0o27).u32(0).text("n");
        let answer = kernel.call(Opcode::MkNod, NODE, &args);
        (answer.errno, kernel.calls().pop().unwrap_or_default())
    };
    let made = |what: &str, mode: &str| (0, format!("make NodeId(7) n {what} {mode} umask 27 None"));
    let device = "DeviceNumber { major: 259, minor: 74565 }";
    assert_eq!(asked(libc::S_IFREG | 0o600, 0), made("Regular", "0600"));
    assert_eq!(asked(0o600, 0), made("Regular", "0600"));
    assert_eq!(asked(libc::S_IFSOCK | 0o7777, 0), made("Socket", "7777"));
    assert_eq!(asked(libc::S_IFBLK | 0o1, 0x1231_0345), made(&format!("BlockDevice({device})"), "0001"));
    assert_eq!(asked(libc::S_IFCHR, 0x1231_0345), made(&format!("CharDevice({device})"), "0000"));
    assert_eq!(asked(libc::S_IFDIR, 0), (libc::EPERM, String::new()));
    assert_eq!(asked(libc::S_IFLNK, 0), (libc::EINVAL, String::new()));
    assert_eq!(asked(0o160_000, 0), (libc::EINVAL, String::new()));

    let masks = Kernel::with(Fake::default(), OFFERED_7_45 & !InitFlags::DONT_MASK.bits());
    let dir = Bytes::new().u32(0o755).u32(0o22).text("d");
    assert_eq!(masks.one(Opcode::MkDir, &dir).1, "make NodeId(7) d Directory 0755 umask 0 None", "the kernel has masked it");
}

#[test]
fn the_directorys_group_travels_with_what_is_made() {
    let kernel = Kernel::new();
    let args = Bytes::new().u32(0o755).u32(0).text("directory");
    let groups = |gid: u32| Bytes::new().u32(16).u32(32).u32(1).u32(gid).0;
    // A security context (types up to 31) in front is stepped over.
    let context = Bytes::new().u32(16).u32(1).u64(0).0;
    for extensions in [groups(77), [context.clone(), groups(77)].concat()] {
        let (_, sent) = kernel.send(&request_of(Opcode::MkDir as u32, NODE, &args.0, &extensions));
        assert_eq!(sent[0].errno, 0);
        assert!(kernel.calls()[0].ends_with("umask 0 Some(GuestGid(77))"));
    }
    let (_, sent) = kernel.send(&request_of(Opcode::MkDir as u32, NODE, &args.0, &context));
    assert_eq!(sent[0].errno, 0);
    for broken in [Bytes::new().u32(4).u32(32).0, Bytes::new().u32(24).u32(32).u64(1).0, Bytes::new().u32(12).u32(32).u64(1).0] {
        assert_eq!(kernel.send(&request_of(Opcode::MkDir as u32, NODE, &args.0, &broken)).1[0].errno, libc::EINVAL);
    }
}

#[test]
fn names_are_checked() {
    let kernel = Kernel::new();
    let long = "x".repeat(1025);
    for (name, errno) in [("", libc::ENOENT), ("a/b", libc::EINVAL), (long.as_str(), libc::ENAMETOOLONG)] {
        for (opcode, args) in [
            (Opcode::Lookup, Bytes::new().text(name)),
            (Opcode::Unlink, Bytes::new().text(name)),
            (Opcode::RmDir, Bytes::new().text(name)),
            (Opcode::Symlink, Bytes::new().text(name).text("to")),
            (Opcode::MkDir, Bytes::new().u64(0).text(name)),
            (Opcode::MkNod, Bytes::new().u64(0).u64(0).text(name)),
            (Opcode::Create, Bytes::new().u64(0).u64(0).text(name)),
            (Opcode::Link, Bytes::new().u64(8).text(name)),
            (Opcode::Rename, Bytes::new().u64(8).text(name).text("to")),
            (Opcode::Rename2, Bytes::new().u64(8).u64(0).text("from").text(name)),
        ] {
            assert_eq!(kernel.call(opcode, NODE, &args).errno, errno, "{opcode} {name:.5}");
        }
    }
    for name in [".", ".."] {
        assert_eq!(kernel.call(Opcode::Unlink, NODE, &Bytes::new().text(name)).errno, libc::EINVAL);
    }
    let very_long = "x".repeat(9000);
    assert_eq!(kernel.call(Opcode::Lookup, NODE, &Bytes::new().text(&very_long)).errno, libc::ENAMETOOLONG);
    assert_eq!(kernel.call(Opcode::Symlink, NODE, &Bytes::new().text("a").text("")).errno, libc::ENOENT);
    assert_eq!(kernel.call(Opcode::Symlink, NODE, &Bytes::new().text("a").text(&very_long[..4096])).errno, libc::ENAMETOOLONG);
    assert!(kernel.calls().is_empty());
    assert_eq!(kernel.call(Opcode::Symlink, NODE, &Bytes::new().text("a").text(&very_long[..4095])).errno, 0);
}

#[test]
fn flags_of_open_are_told_apart() {
    let kernel = Kernel::new();
    let asked = |flags: i32, open_flags: u32| kernel.one(Opcode::Open, &Bytes::new().u32(flags as u32).u32(open_flags)).1;
    let set = |names: &[&str]| {
        let all = ["read", "write", "append", "truncate", "sync", "direct", "noatime", "exec", "kill_suid_sgid"];
        let fields: Vec<_> = all.iter().map(|name| format!("{name}: {}", names.contains(name))).collect();
        format!("open NodeId(7) OpenFlags {{ {} }}", fields.join(", "))
    };
    assert_eq!(asked(libc::O_RDONLY, 0), set(&["read"]));
    assert_eq!(asked(libc::O_WRONLY, 0), set(&["write"]));
    assert_eq!(asked(libc::O_RDWR | libc::O_APPEND, 0), set(&["read", "write", "append"]));
    assert_eq!(asked(libc::O_WRONLY | libc::O_TRUNC, 1), set(&["write", "truncate", "kill_suid_sgid"]));
    assert_eq!(asked(libc::O_WRONLY | libc::O_SYNC, 0), set(&["write", "sync"]));
    assert_eq!(asked(libc::O_WRONLY | libc::O_DSYNC, 0), set(&["write", "sync"]));
    assert_eq!(asked(libc::O_DIRECT | libc::O_NOATIME, 0), set(&["read", "direct", "noatime"]));
    assert_eq!(asked(0x20, 0), set(&["read", "exec"]));
    assert_eq!(asked(3, 0), set(&["read"]));

    let policy = CachePolicy { writeback: true, ..CachePolicy::NONE };
    let writeback = Kernel::with(Fake { policy, ..Fake::default() }, OFFERED_7_45);
    let args = Bytes::new().u32((libc::O_WRONLY | libc::O_APPEND) as u32).u32(0);
    assert_eq!(writeback.one(Opcode::Open, &args).1, set(&["read", "write"]), "the cache reads, and appends by itself");
}

#[test]
fn flags_of_an_open_file_follow_from_its_caching() {
    let opened = |cache, locks, flags: i32| {
        let mut fake = Fake { cache, ..Fake::default() };
        fake.features.locks = locks;
        Kernel::with(fake, OFFERED_7_45).call(Opcode::Open, NODE, &Bytes::new().u32(flags as u32).u32(0)).u32(8)
    };
    assert_eq!(opened(FileCache::Drop, true, 0), 0);
    assert_eq!(opened(FileCache::Drop, false, 0), 1 << 5, "nothing to flush");
    assert_eq!(opened(FileCache::Keep, true, 0), 1 << 1);
    assert_eq!(opened(FileCache::Bypass, true, 0), 1 << 0 | 1 << 6);
    assert_eq!(opened(FileCache::Drop, true, libc::O_DIRECT), 1 << 6);

    let listing = |keep_listing| {
        Kernel::with(Fake { keep_listing, ..Fake::default() }, OFFERED_7_45).call(Opcode::OpenDir, NODE, &Bytes::new().u64(0)).u32(8)
    };
    assert_eq!((listing(true), listing(false)), (1 << 3 | 1 << 1, 0));

    let mut config = Config::new(TransportKind::DevFuse);
    config.flush_on_close = true;
    let mut fake = Fake::default();
    fake.features.locks = false;
    let kernel = Kernel::raw(fake, config);
    kernel.call(Opcode::Init, 0, &init_args(45, OFFERED_7_45));
    assert_eq!(kernel.call(Opcode::Open, NODE, &Bytes::new().u64(0)).u32(8), 0);
}

#[test]
fn creating_says_everything() {
    let kernel = Kernel::new();
    let flags = (libc::O_RDWR | libc::O_EXCL) as u32;
    let args = |name| Bytes::new().u32(flags).u32(0o100_640).u32(0o27).u32(0).text(name);
    let open = "OpenFlags { read: true, write: true, append: false, truncate: false, sync: false, direct: false, noatime: false, exec: false, kill_suid_sgid: false }";
    let create = format!("CreateFlags {{ mode: 0640, exclusive: true, open: {open} }}");
    let (answer, call) = kernel.one(Opcode::Create, &args("n"));
    assert_eq!(call, format!("create NodeId(7) n {create} umask 27"));
    assert_eq!((answer.u64(0), answer.u64(128)), (0x100, 0x101), "entry and handle");
    assert_eq!(kernel.one(Opcode::TmpFile, &args("/")).1, format!("create_unnamed NodeId(7) {create} umask 27"));
}

#[test]
fn data_goes_through() {
    let kernel = Kernel::new();
    assert_eq!(kernel.call(Opcode::Read, NODE, &Bytes::new().u64(3).u64(0).u32(9).u32(0).u64(0).u64(0)).payload, b"some data");
    kernel.calls();
    let written = |write_flags: u32, open_flags: i32| {
        let args = Bytes::new().u64(3).u64(8).u32(4).u32(write_flags).u64(0).u32(open_flags as u32).u32(0).raw(b"data");
        let (answer, call) = kernel.one(Opcode::Write, &args);
        assert_eq!(answer.u32(0), 4);
        call
    };
    let expected = |append, sync, cached, kill| {
        format!("write HandleId(3) 8 data WriteFlags {{ append: {append}, sync: {sync}, cached: {cached}, kill_suid_sgid: {kill} }}")
    };
    assert_eq!(written(0, libc::O_RDWR), expected(false, false, false, false));
    assert_eq!(written(0, libc::O_APPEND | libc::O_DSYNC), expected(true, true, false, false));
    assert_eq!(written(1, libc::O_APPEND), expected(false, false, true, false), "a page knows its place");
    assert_eq!(written(2 | 4, libc::O_SYNC), expected(false, true, false, true));

    let sized = |size: u32| Bytes::new().u64(3).u64(8).u32(size).u32(0).u64(0).u64(0).raw(b"data");
    for size in [0, 3, 5, u32::MAX] {
        assert_eq!(kernel.call(Opcode::Write, NODE, &sized(size)).errno, libc::EINVAL, "{size}");
    }
    for size in [(1 << 20) + 1, u32::MAX] {
        let args = Bytes::new().u64(3).u64(0).u32(size).u32(0).u64(0).u64(0);
        assert_eq!(kernel.call(Opcode::Read, NODE, &args).errno, libc::EINVAL, "it would look like the end of the file");
    }
}

#[test]
fn a_read_that_fails_in_the_middle_gives_nothing() {
    let kernel = Kernel::with(Fake { error: Some(Error::because(Errno::EIO, "a bad sector")), ..Fake::default() }, OFFERED_7_45);
    let answer = kernel.call(Opcode::Read, NODE, &Bytes::new().u64(3).u64(0).u32(9).u32(0).u64(0).u64(0));
    assert_eq!((answer.errno, answer.payload.len()), (libc::EIO, 0));
}

#[test]
fn release_says_whose_locks_go() {
    let kernel = Kernel::new();
    let release = |flags: u32| {
        assert_eq!(kernel.call(Opcode::Release, NODE, &Bytes::new().u64(3).u32(0).u32(flags).u64(9)).errno, 0);
        kernel.calls()
    };
    assert_eq!(release(0), ["release HandleId(3) None"]);
    assert_eq!(release(2), ["release HandleId(3) Some(9)"]);
    assert_eq!(release(1), ["flush HandleId(3) 9", "release HandleId(3) None"]);
}

#[test]
fn seeking_and_copying() {
    let seek = |whence: i32| Bytes::new().u64(3).u64(10).u32(whence as u32).u32(0);
    let kernel = Kernel::new();
    assert_eq!(kernel.call(Opcode::LSeek, NODE, &seek(libc::SEEK_DATA)).u64(0), 11);
    assert_eq!(kernel.call(Opcode::LSeek, NODE, &seek(libc::SEEK_END)).errno, libc::EINVAL);
    let cannot = Kernel::with(Fake { error: Some(Errno::EOPNOTSUPP.into()), ..Fake::default() }, OFFERED_7_45);
    assert_eq!(cannot.call(Opcode::LSeek, NODE, &seek(libc::SEEK_DATA)).errno, libc::ENOSYS, "the kernel then does it alone");
    assert_eq!(cannot.call(Opcode::FAllocate, NODE, &Bytes::new().u64(3).u64(0).u64(1).u64(0)).errno, libc::EOPNOTSUPP);

    let copy = |length: u64, flags: u64| Bytes::new().u64(3).u64(0).u64(8).u64(4).u64(0).u64(length).u64(flags);
    assert_eq!(kernel.call(Opcode::CopyFileRange, NODE, &copy(5 << 32, 0)).u32(0), 0xffff_f000);
    assert_eq!(kernel.call(Opcode::CopyFileRange64, NODE, &copy(5 << 32, 0)).u64(0), 5 << 32);
    assert_eq!(kernel.call(Opcode::CopyFileRange, NODE, &copy(1, 1)).errno, libc::EINVAL);
    assert_eq!(kernel.call(Opcode::FAllocate, NODE, &Bytes::new().u64(3).u64(0).u64(1).u32(0x100).u32(0)).errno, libc::EOPNOTSUPP);
}

#[test]
fn extended_attributes_and_their_sizes() {
    let kernel = Kernel::new();
    let get = |kernel: &Kernel, size: u32| kernel.call(Opcode::GetXattr, NODE, &Bytes::new().u32(size).u32(0).text("user.a"));
    assert_eq!(get(&kernel, 0).payload, Bytes::new().u32(5).u32(0).0);
    assert_eq!(get(&kernel, 4).errno, libc::ERANGE);
    assert_eq!(get(&kernel, 5).payload, b"value");
    assert_eq!(kernel.call(Opcode::ListXattr, NODE, &Bytes::new().u64(0)).payload, Bytes::new().u32(5).u32(0).0);
    let huge = Kernel::with(Fake { xattr: vec![1; 65537], ..Fake::default() }, OFFERED_7_45);
    assert_eq!((get(&huge, 0).errno, get(&huge, 100_000).errno), (libc::E2BIG, libc::E2BIG));
    let empty = Kernel::with(Fake { xattr: Vec::new(), ..Fake::default() }, OFFERED_7_45);
    assert_eq!(get(&empty, 10).payload, b"");

    kernel.calls();
    let long = "u".repeat(256);
    assert_eq!(kernel.call(Opcode::RemoveXattr, NODE, &Bytes::new().text("")).errno, libc::ERANGE);
    assert_eq!(kernel.call(Opcode::RemoveXattr, NODE, &Bytes::new().text(&long)).errno, libc::ERANGE);
    let set = |flags: u32, ext: &[u8]| Bytes::new().u32(2).u32(flags).raw(ext).text("user.a").raw(b"\0v");
    let asked = |kernel: &Kernel, args: &Bytes| kernel.one(Opcode::SetXattr, args).1;
    assert_eq!(asked(&kernel, &set(1, &[0; 8])), "set_xattr NodeId(7) user.a \\x00v XattrFlags(CREATE)");
    assert_eq!(asked(&kernel, &set(2, &[1, 0, 0, 0, 0, 0, 0, 0])), "set_xattr NodeId(7) user.a \\x00v XattrFlags(REPLACE | KILL_SGID)");
    let short = Kernel::with(Fake::default(), OFFERED_7_45 & !InitFlags::SETXATTR_EXT.bits());
    assert_eq!(asked(&short, &set(0, &[])), "set_xattr NodeId(7) user.a \\x00v XattrFlags(0x0)");
    assert_eq!(kernel.call(Opcode::SetXattr, NODE, &set(4, &[0; 8])).errno, libc::EINVAL);
    let big = Bytes::new().u32(65537).u32(0).u64(0).text("user.a").raw(&[0; 65537]);
    assert_eq!(kernel.call(Opcode::SetXattr, NODE, &big).errno, libc::E2BIG);
}

#[test]
fn inode_flags_travel_in_both_forms() {
    let kernel = Kernel::new();
    let ioctl = |command: u32, flags: u32, data: &[u8], out: u32| {
        let args = Bytes::new().u64(3).u32(flags).u32(command).u64(0).u32(data.len() as u32).u32(out).raw(data);
        let answer = kernel.call(Opcode::Ioctl, NODE, &args);
        (answer.errno, answer.payload.get(16..).unwrap_or_default().to_vec(), kernel.calls())
    };
    let got = |handle: &str| vec![format!("inode_flags NodeId(7) {handle}")];
    assert_eq!(ioctl(0x8008_6601, 0, &[], 4), (0, Bytes::new().u32(0x8_0020).0, got("Some(HandleId(3))")));
    assert_eq!(ioctl(0x8004_6601, 0, &[], 4), (0, Bytes::new().u32(0x8_0020).0, got("Some(HandleId(3))")));
    assert_eq!(ioctl(0x8008_6601, 1 << 4, &[], 8), (0, Bytes::new().u64(0x8_0020).0, got("None")), "a directory's handle");
    assert_eq!(
        ioctl(0x4008_6602, 0, &0x30u32.to_ne_bytes(), 0),
        (0, vec![], vec!["set_inode_flags NodeId(7) Some(HandleId(3)) 0x30".into()])
    );
    let fsxattr = |xflags: u32| Bytes::new().u32(xflags).raw(&[0; 24]).0;
    assert_eq!(ioctl(0x801c_581f, 0, &[], 28), (0, fsxattr(0x10), got("Some(HandleId(3))")));
    let (errno, _, calls) = ioctl(0x401c_5820, 0, &fsxattr(0x8), 0);
    assert_eq!((errno, calls[1].as_str()), (0, "set_inode_flags NodeId(7) Some(HandleId(3)) 0x80010"));
    assert_eq!(ioctl(0x401c_5820, 0, &fsxattr(0x2), 0).0, libc::EOPNOTSUPP, "preallocation");
    for (command, flags, data, out) in [(0x5401, 0, &[][..], 64), (0x8008_6601, 1 << 1, &[], 4), (0x801c_581f, 0, &[], 4)] {
        assert_eq!(ioctl(command, flags, data, out), (libc::ENOTTY, vec![], vec![]));
    }
    assert_eq!(ioctl(0x8008_6601, 0, &[], u32::MAX).0, libc::EINVAL);
    assert_eq!(ioctl(0x4008_6602, 0, &[1], 0).0, libc::EINVAL);
}

fn records(mut bytes: &[u8], plus: bool) -> Vec<(u64, String, u64)> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let head = if plus { 128 } else { 0 };
        let node = if plus { u64::from_ne_bytes(bytes[..8].try_into().unwrap()) } else { 0 };
        let next = u64::from_ne_bytes(bytes[head + 8..head + 16].try_into().unwrap());
        let len = u32::from_ne_bytes(bytes[head + 16..head + 20].try_into().unwrap()) as usize;
        assert_eq!(bytes[head + 20], libc::DT_REG);
        let name = String::from_utf8(bytes[head + 24..head + 24 + len].to_vec()).unwrap();
        records.push((node, name, next));
        bytes = &bytes[(head + 24 + len).next_multiple_of(8)..];
    }
    records
}

#[test]
fn listings_hold_what_fits() {
    let list = |kernel: &Kernel, opcode, size: u32, cookie| {
        let answer = kernel.call(opcode, NODE, &Bytes::new().u64(3).u64(cookie).u32(size).u32(0).u64(0).u64(0));
        (answer.errno, records(&answer.payload, opcode == Opcode::ReadDirPlus))
    };
    let kernel = Kernel::new();
    let entry = |node, name: &str, next| (node, name.to_owned(), next);
    let all = vec![entry(0, ".", 1), entry(0, "..", 2), entry(0, "one", 3), entry(0, "four", 4)];
    assert_eq!(list(&kernel, Opcode::ReadDir, 4096, 0), (0, all.clone()));
    assert_eq!(list(&kernel, Opcode::ReadDir, 4096, 4), (0, vec![]));
    assert_eq!(list(&kernel, Opcode::ReadDir, 127, 0), (0, all[..3].to_vec()));
    assert_eq!(list(&kernel, Opcode::ReadDir, 128, 0), (0, all.clone()));
    assert_eq!(list(&kernel, Opcode::ReadDir, 31, 0), (libc::EINVAL, vec![]), "not the end");
    assert_eq!(
        list(&kernel, Opcode::ReadDirPlus, u32::MAX, 0),
        (0, vec![entry(0, ".", 1), entry(0, "..", 2), entry(0x100, "one", 3), entry(0x101, "four", 4)])
    );
    // Room for three: of two that have attributes, one is told.
    assert_eq!(list(&kernel, Opcode::ReadDirPlus, 479, 0).1.len(), 2);
    assert_eq!(list(&kernel, Opcode::ReadDirPlus, 480, 0).1.len(), 3);
    assert_eq!(kernel.fake.held().0, 3, "as many as the kernel was told of");
    let small = Kernel { room: 64, ..Kernel::new() };
    assert_eq!(list(&small, Opcode::ReadDir, 4096, 0), (0, all[..2].to_vec()), "the room counts too");

    let failing = Kernel::with(Fake { listing_error: true, ..Fake::default() }, OFFERED_7_45);
    assert_eq!(list(&failing, Opcode::ReadDir, 4096, 0), (0, all));
    assert_eq!(list(&failing, Opcode::ReadDir, 4096, 4), (libc::EIO, vec![]));
}

#[test]
fn a_listing_brings_attributes_where_they_are_of_use() {
    let nodes = |kernel: &Kernel, cookie: u64| -> Vec<u64> {
        let answer = kernel.call(Opcode::ReadDirPlus, NODE, &Bytes::new().u64(3).u64(cookie).u32(4096).u32(0).u64(0).u64(0));
        records(&answer.payload, true).into_iter().map(|(node, ..)| node).collect()
    };
    let kernel = Kernel::new();
    assert_eq!(nodes(&kernel, 1), [0, 0, 0x100], "one name of a later piece is left out");
    assert_eq!(nodes(&kernel, 0), [0, 0, 0x101, 0x102], "none of the first");
    assert_eq!(nodes(&kernel, 0), [0, 0, 0x103, 0x104]);
    assert_eq!(nodes(&kernel, 1), [0, 0, 0], "it was not looked up");
    kernel.call(Opcode::Lookup, NODE, &Bytes::new().raw(b"one\0"));
    assert_eq!(nodes(&kernel, 1).iter().filter(|node| **node != 0).count(), 1, "now one was");

    let by_page = Kernel::raw(Fake::default(), Config::new(TransportKind::Virtio));
    by_page.call(Opcode::Init, 0, &init_args(38, OFFERED_7_45));
    assert_eq!([nodes(&by_page, 1), nodes(&by_page, 1)], [[0, 0x100, 0x101], [0, 0x102, 0x103]], "a kernel with a rule of its own");
    let policy = CachePolicy { entry: Duration::ZERO, ..Fake::default().policy };
    let forgetful = Kernel::with(Fake { policy, ..Fake::default() }, OFFERED_7_45);
    assert_eq!(nodes(&forgetful, 0), [0; 4], "a kernel that remembers nothing");
    assert_eq!(forgetful.fake.held().0, 0);
}

#[test]
fn forgetting_in_batches() {
    let kernel = Kernel::new();
    kernel.silent(Opcode::BatchForget, 0, &Bytes::new().u32(2).u32(0).u64(70).u64(1).u64(80).u64(3));
    assert_eq!(kernel.calls(), ["forget NodeId(70) 1", "forget NodeId(80) 3"]);
    for count in [0, 1, 3, u32::MAX] {
        kernel.silent(Opcode::BatchForget, 0, &Bytes::new().u32(count).u32(0).u64(70).u64(1).u64(80).u64(3));
        assert!(kernel.calls().is_empty(), "{count} does not fit the length");
    }
}

#[test]
fn a_target_that_no_kernel_takes_is_refused() {
    let kernel = |len| Kernel::with(Fake { link: vec![b'x'; len], ..Fake::default() }, OFFERED_7_45);
    assert_eq!(kernel(4095).call(Opcode::ReadLink, NODE, &Bytes::new()).payload.len(), 4095);
    assert_eq!(kernel(4096).call(Opcode::ReadLink, NODE, &Bytes::new()).errno, libc::ENAMETOOLONG);
}
