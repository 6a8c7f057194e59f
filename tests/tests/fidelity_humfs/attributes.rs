//! Owners, modes, kinds, extended attributes, times.

use super::{Scene, what};
use externfs_tests::fixture::need_program;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, StatxFlags, Timespec, Timestamps, Uid, XattrFlags, makedev};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::Path;
use std::time::Duration;

/// Of each width that somebody may have thought enough.
const IDS: [u32; 8] = [0, 1, 1505, 65_534, 65_536, 0x7fff_ffff, 0x8000_0000, 4_294_967_294];

pub(super) fn owners_and_modes_are_kept(scene: &mut Scene) {
    let mut wanted = BTreeMap::new();
    let mut note = |scene: &Scene, name: String, uid: u32, gid: u32, mode: u32| {
        let path = scene.at(&name);
        std::os::unix::fs::chown(&path, Some(uid), Some(gid)).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        let kind = if path.is_dir() { 0o040_000 } else { 0o100_000 };
        wanted.insert(name, format!("{:o} {uid}:{gid} 0", kind | mode));
    };
    for (number, uid) in IDS.into_iter().enumerate() {
        for gid in IDS {
            let name = format!("{uid}-{gid}");
            let mode = number as u32 * 0o777 % 0o10_000;
            if gid % 2 == 0 {
                fs::write(scene.at(&name), &name).unwrap()
            } else {
                fs::create_dir(scene.at(&name)).unwrap()
            }
            note(scene, name, uid, gid, mode);
        }
    }
    // Each bit, with and without those beside it.
    for mode in (0..12).flat_map(|bit| [1 << bit, 3 << bit & 0o7777, !(1 << bit) & 0o7777]) {
        for kind in ["f", "d"] {
            let name = format!("{kind}{mode:o}");
            if scene.at(&name).exists() {
                continue;
            }
            if kind == "f" {
                fs::write(scene.at(&name), &name).unwrap()
            } else {
                fs::create_dir(scene.at(&name)).unwrap()
            }
            note(scene, name, 7, 8, mode);
        }
    }
    scene.twice(|scene| {
        for (name, wanted) in &wanted {
            assert_eq!(&what(&scene.at(name)), wanted, "{name}");
        }
    });
    lchown(scene.at("f1"), Some(u32::MAX - 1), Some(7)).unwrap();
    assert_eq!(fs::metadata(scene.at("f1")).unwrap().uid(), u32::MAX - 1);
    // All 4096 modes, one after the other.
    let file = File::open(scene.at("f1")).unwrap();
    for mode in 0..0o10_000 {
        file.set_permissions(PermissionsExt::from_mode(mode)).unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o7777, mode);
    }
}

pub(super) fn every_kind_of_object_is_kept(scene: &mut Scene) {
    let mut wanted = BTreeMap::new();
    let devices = [(0, 0), (1, 3), (8, 255), (255, 256), (259, 70_000), (4095, 1_048_575)];
    for (major, minor) in devices {
        for (letter, kind, bits) in [('c', FileType::CharacterDevice, 0o020_000), ('b', FileType::BlockDevice, 0o060_000)] {
            let name = format!("{letter}-{major}-{minor}");
            let number = makedev(major, minor);
            rustix::fs::mknodat(CWD, scene.at(&name), kind, Mode::from_raw_mode(0o640), number).unwrap();
            lchown(scene.at(&name), Some(major), Some(minor)).unwrap();
            wanted.insert(name, format!("{:o} {major}:{minor} {number}", bits | 0o640));
        }
    }
    for (name, kind, bits) in [("fifo", FileType::Fifo, 0o010_000), ("socket", FileType::Socket, 0o140_000)] {
        rustix::fs::mknodat(CWD, scene.at(name), kind, Mode::from_raw_mode(0o604), 0).unwrap();
        lchown(scene.at(name), Some(11), Some(12)).unwrap();
        wanted.insert(name.to_owned(), format!("{:o} 11:12 0", bits | 0o604));
    }
    let long = "x".repeat(4095);
    let targets = [("short", "t"), ("absolute", "/etc/passwd"), ("long", &long[..1500]), ("longest", &long), ("odd", "a\nb \u{fc}//../")];
    for (name, target) in targets {
        symlink(target, scene.at(name)).unwrap();
        lchown(scene.at(name), Some(4_294_967_294), Some(13)).unwrap();
        wanted.insert(name.to_owned(), "120777 4294967294:13 0".to_owned());
    }
    scene.twice(|scene| {
        for (name, wanted) in &wanted {
            let stat = scene.at(name).symlink_metadata().unwrap();
            assert_eq!(&what(&scene.at(name)), wanted, "{name}");
            if !stat.is_symlink() {
                assert_eq!((stat.size(), stat.blocks(), stat.nlink()), (0, 0, 1), "{name}");
            }
        }
        for (name, target) in targets {
            assert_eq!(fs::read_link(scene.at(name)).unwrap().as_os_str(), target, "{name}");
            assert_eq!(scene.at(name).symlink_metadata().unwrap().size(), target.len() as u64, "{name}");
        }
        // A listing says the same of each as lstat(2).
        for entry in fs::read_dir(scene.root()).unwrap().map(Result::unwrap) {
            assert_eq!(entry.file_type().unwrap(), entry.path().symlink_metadata().unwrap().file_type(), "{:?}", entry.file_name());
        }
    });
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap_or_else(|e| panic!("{name} of {}: {e}", path.display()));
}

fn get(path: &Path, name: &str) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; 1 << 16];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..])?;
    value.truncate(length);
    Ok(value)
}

fn list(path: &Path) -> Vec<String> {
    let mut names = vec![0; 1 << 16];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let mut names: Vec<_> = names.map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    names.sort();
    names
}

pub(super) fn extended_attributes_are_kept(scene: &mut Scene) {
    fs::write(scene.at("file"), "data").unwrap();
    fs::create_dir(scene.at("dir")).unwrap();
    symlink("nowhere", scene.at("link")).unwrap();
    rustix::fs::mkfifoat(CWD, scene.at("fifo"), Mode::from_raw_mode(0o600)).unwrap();
    let big: Vec<u8> = (0..2500u32).map(|n| n as u8).collect();
    // Linux allows user.* on files and directories only.
    let everywhere = [("trusted.a", &b"1"[..]), ("security.note", b"\0\xff"), ("trusted.empty", b"")];
    let more = [("user.a", &b"2"[..]), ("user.humfs", b"not ours"), ("user.big", &big)];
    for name in ["file", "dir", "link", "fifo"] {
        let more = if name == "file" || name == "dir" { &more[..] } else { &[] };
        everywhere.iter().chain(more).for_each(|(attribute, value)| set(&scene.at(name), attribute, value));
    }
    scene.twice(|scene| {
        for name in ["file", "dir", "link", "fifo"] {
            let path = scene.at(name);
            let more = if name == "file" || name == "dir" { &more[..] } else { &[] };
            for (attribute, value) in everywhere.iter().chain(more) {
                assert_eq!(get(&path, attribute).as_deref(), Ok(*value), "{attribute} of {name}");
            }
            let mut names: Vec<_> = everywhere.iter().chain(more).map(|(attribute, _)| *attribute).collect();
            names.sort_unstable();
            assert_eq!(list(&path), names, "{name}");
            assert_eq!(get(&path, "user.none"), Err(Errno::NODATA), "{name}");
        }
    });
    for name in ["file", "dir", "link", "fifo"] {
        set(&scene.at(name), "trusted.a", b"changed");
        rustix::fs::lremovexattr(scene.at(name), "trusted.empty").unwrap();
        assert_eq!(rustix::fs::lremovexattr(scene.at(name), "trusted.empty"), Err(Errno::NODATA));
        assert_eq!(rustix::fs::lsetxattr(scene.at(name), "trusted.a", b"", XattrFlags::CREATE), Err(Errno::EXIST));
        assert_eq!(rustix::fs::lsetxattr(scene.at(name), "trusted.b", b"", XattrFlags::REPLACE), Err(Errno::NODATA));
    }
    scene.twice(|scene| {
        for name in ["file", "dir", "link", "fifo"] {
            assert_eq!(get(&scene.at(name), "trusted.a").as_deref(), Ok(&b"changed"[..]), "{name}");
            assert!(!list(&scene.at(name)).contains(&"trusted.empty".to_owned()), "{name}");
        }
    });
    fs::read(scene.at("file")).map(|data| assert_eq!(data, b"data")).unwrap();
}

pub(super) fn capabilities_stick_and_die_on_write(scene: &mut Scene) {
    need_program("setcap", "libcap2-bin");
    scene.shell("cp /bin/true f; cp /bin/true g; cp /bin/true h; setcap cap_net_raw+ep f; setcap cap_net_raw+ep g; setcap cap_chown+ei h");
    let has = |scene: &Scene, name: &str| get(&scene.at(name), "security.capability").is_ok();
    scene.twice(|scene| {
        assert!(["f", "g", "h"].iter().all(|name| has(scene, name)));
        assert!(scene.shell("getcap h").contains("cap_chown"));
    });
    scene.shell("echo x >>f; chown 5 g");
    scene.twice(|scene| {
        assert!(!has(scene, "f") && !has(scene, "g") && has(scene, "h"));
    });
    scene.shell("truncate -s 5 h");
    scene.twice(|scene| assert!(!has(scene, "h")));
}

pub(super) fn times_are_kept_to_the_nanosecond(scene: &mut Scene) {
    scene.shell("echo x >file; mkdir dir; ln -s x link; mkfifo fifo; mknod null c 1 3");
    let stamps = [(1_234_567_890, 987_654_321), (-1000, 1), (0, 0), (4_294_967_296, 999_999_999), (1, 5)];
    let names = ["file", "dir", "link", "fifo", "null"];
    for (name, (tv_sec, tv_nsec)) in names.into_iter().zip(stamps) {
        let access = Timespec { tv_sec: tv_sec + 1, tv_nsec };
        let times = Timestamps { last_access: access, last_modification: Timespec { tv_sec, tv_nsec } };
        rustix::fs::utimensat(CWD, scene.at(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    let born = |scene: &Scene, name: &str| {
        let stat = rustix::fs::statx(CWD, scene.at(name), AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BTIME).unwrap();
        assert!(stat.stx_mask & StatxFlags::BTIME.bits() != 0, "{name} has no birth time");
        (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)
    };
    let births: Vec<_> = names.iter().map(|name| born(scene, name)).collect();
    // A scan for the catalog reads links, which moves their atime as it does for anybody.
    scene.await_catalog();
    scene.twice(|scene| {
        for ((name, stamp), birth) in names.into_iter().zip(stamps).zip(&births) {
            let stat = scene.at(name).symlink_metadata().unwrap();
            assert_eq!((stat.mtime(), stat.mtime_nsec()), stamp, "{name}");
            assert_eq!((stat.atime(), stat.atime_nsec()), (stamp.0 + 1, stamp.1), "{name}");
            assert_eq!(born(scene, name), *birth, "{name}");
        }
    });
}

pub(super) fn changes_move_the_ctime(scene: &mut Scene) {
    scene.shell("echo x >file; mkdir dir; ln -s x link; mkfifo fifo");
    let ctime = |path: &Path| path.symlink_metadata().map(|stat| (stat.ctime(), stat.ctime_nsec())).unwrap();
    let mtime = |path: &Path| path.symlink_metadata().map(|stat| (stat.mtime(), stat.mtime_nsec())).unwrap();
    for name in ["file", "dir", "link", "fifo"] {
        let path = scene.at(name);
        let (from, to, second) = (scene.at(name), scene.at("moved"), scene.at("second"));
        let is_link = name == "link";
        type Change<'a> = (&'a str, Box<dyn Fn() + 'a>);
        let changes: [Change<'_>; 7] = [
            (
                "chmod",
                Box::new(|| {
                    if !is_link {
                        fs::set_permissions(&path, PermissionsExt::from_mode(0o711)).unwrap()
                    } else {
                        lchown(&path, Some(1), None).unwrap()
                    }
                }),
            ),
            (
                "chown",
                Box::new(|| {
                    rustix::fs::chownat(CWD, &path, Some(Uid::from_raw(3)), Some(Gid::from_raw(4)), AtFlags::SYMLINK_NOFOLLOW).unwrap()
                }),
            ),
            ("chown to the same", Box::new(|| lchown(&path, Some(3), Some(4)).unwrap())),
            ("setxattr", Box::new(|| set(&path, "trusted.a", b"1"))),
            ("removexattr", Box::new(|| rustix::fs::lremovexattr(&path, "trusted.a").unwrap())),
            ("rename", Box::new(|| fs::rename(&from, &to).and_then(|()| fs::rename(&to, &from)).unwrap())),
            (
                "link and unlink",
                Box::new(|| {
                    if name != "dir" {
                        fs::hard_link(&path, &second).and_then(|()| fs::remove_file(&second)).unwrap()
                    } else {
                        lchown(&path, Some(2), None).unwrap()
                    }
                }),
            ),
        ];
        let before = mtime(&path);
        for (what, change) in changes {
            let old = ctime(&path);
            // Longer than a coarse clock's tick.
            std::thread::sleep(Duration::from_millis(15));
            change();
            assert!(ctime(&path) > old, "{what} of {name} leaves the ctime");
        }
        assert_eq!(mtime(&path), before, "the mtime of {name} moves");
    }
    // Reading moves nothing but the access time.
    let old = ctime(&scene.at("file"));
    std::thread::sleep(Duration::from_millis(15));
    fs::read(scene.at("file")).unwrap();
    fs::read_dir(scene.root()).unwrap().count();
    assert_eq!(ctime(&scene.at("file")), old);
}
