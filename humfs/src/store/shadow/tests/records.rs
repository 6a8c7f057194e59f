//! What is written, and what is read of what others wrote.

use super::rig::*;
use crate::record::Record;
use crate::store::{At, Format, Loaded, MetaStore, Object, Place};
use externfs::{DeviceNumber, Errno, ExternFs, FileKind};
use std::os::unix::fs::{MetadataExt, symlink};

fn device(kind: FileKind, major: u32, minor: u32) -> Record {
    let mut device = record(kind, 0o660, 3);
    device.device = DeviceNumber { major, minor };
    device
}

#[test]
fn each_kind_has_the_line_of_the_original() {
    for format in BOTH {
        let rig = Rig::new(format);
        for (name, record, line) in [
            ("f", record(FileKind::Regular, 0o4755, 1), "2541 1 2\n"),
            ("d", record(FileKind::Directory, 0o755, 0), "493 0 1\n"),
            ("l", record(FileKind::Symlink, 0o777, u32::MAX - 2), "511 4294967293 4294967294\n"),
            ("b", device(FileKind::BlockDevice, 98, 0), "432 3 4 b 98 0\n"),
            ("c", device(FileKind::CharDevice, 0, u32::MAX), "432 3 4 c 0 4294967295\n"),
            ("p", record(FileKind::Fifo, 0o600, 5), "384 5 6 p 0 0\n"),
            ("s", record(FileKind::Socket, 0o755, 5), "493 5 6 s 0 0\n"),
        ] {
            rig.create(name, &record).unwrap();
            let place = if name == "d" { "dir_metadata/d/metadata".to_owned() } else { format!("file_metadata/{name}") };
            assert_eq!(rig.text(&place).as_deref(), Some(line), "{name}");
            let kept = rig.host(&place).symlink_metadata().unwrap();
            assert_eq!(kept.is_symlink(), format == Format::ShadowLink);
            assert_eq!(rig.load(name).unwrap().unwrap(), Record { target: None, ..record }, "{name}");
        }
        assert_eq!(std::fs::read_link(rig.host("data/l")).unwrap().as_os_str(), "over/there");
        assert!(rig.host("data/b").metadata().unwrap().is_file());
        assert!(rig.host("file_metadata/d").is_dir());
    }
}

#[test]
fn saving_replaces_the_line_and_moves_the_ctime() {
    for format in BOTH {
        let rig = Rig::new(format);
        rig.create("f", &record(FileKind::Regular, 0o4777, 4_000_000_000)).unwrap();
        rig.create("l", &record(FileKind::Symlink, 0o777, 1)).unwrap();
        rig.create("d", &directory(1)).unwrap();
        for name in ["f", "l", "d"] {
            let before = rig.attr(name).unwrap().ctime;
            std::thread::sleep(std::time::Duration::from_millis(10));
            let kind = rig.load(name).unwrap().unwrap().kind;
            let mut saved = record(kind, 0o7, 8);
            saved.target = None;
            rig.save(name, &saved).unwrap();
            assert_eq!(rig.load(name).unwrap(), Some(saved));
            assert!(rig.attr(name).unwrap().ctime > before, "{name}");
        }
        assert_eq!(rig.text("file_metadata/f").unwrap(), "7 8 9\n");
        assert_eq!(rig.text("dir_metadata/d/metadata").unwrap(), "7 8 9\n");
        assert!(rig.is_quiet());
    }
}

#[test]
fn the_root_has_a_record() {
    for format in BOTH {
        let rig = Rig::new(format);
        let root = rig.fs.root_fd();
        let host = rig.fs.attr(&rig.fs.root().unwrap(), None).unwrap();
        let load = || match rig.store.load_root(root, &host).unwrap() {
            Loaded::Record(record) => record,
            Loaded::Absent => panic!("no record"),
        };
        assert_eq!(load().mode.bits(), 0o755, "the classic file is read in either format");
        let saved = with_xattr(directory(12), "of the root");
        rig.store.save(&Object { hold: crate::store::Hold::Path(root), place: Place::Root, host: &host, known: None }, &saved).unwrap();
        assert_eq!(load(), saved);
        assert_eq!(rig.text("dir_metadata/metadata").unwrap(), "488 12 13\n");
    }
}

#[test]
fn what_is_no_record_is_eio_and_never_followed() {
    let rig = Rig::new(Format::ShadowFs);
    let secret = rig.host("secret");
    std::fs::write(&secret, "493 0 0\n").unwrap();
    for name in ["link", "junk", "fifo", "lf"] {
        std::fs::write(rig.host(format!("data/{name}")), "").unwrap();
    }
    symlink(&secret, rig.host("file_metadata/link")).unwrap();
    std::fs::write(rig.host("file_metadata/junk"), "rwxr-xr-x root\n").unwrap();
    std::fs::write(rig.host("file_metadata/lf"), "\n").unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, rig.host("file_metadata/fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    for name in ["link", "junk", "fifo", "lf"] {
        assert_eq!(errno(rig.load(name)), Errno::EIO, "{name}");
    }
    assert_eq!(errno(rig.save("link", &file(9))), Errno::EIO);
    assert_eq!(errno(rig.save("fifo", &file(9))), Errno::EIO);
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "493 0 0\n");
    // A mirror that is a link leads nowhere.
    std::fs::create_dir(rig.host("data/d")).unwrap();
    std::fs::write(rig.host("data/d/f"), "").unwrap();
    std::fs::create_dir(rig.host("elsewhere")).unwrap();
    std::fs::write(rig.host("elsewhere/f"), "493 0 0\n").unwrap();
    symlink(rig.host("elsewhere"), rig.host("file_metadata/d")).unwrap();
    assert_eq!(rig.load("d/f").unwrap(), None);
    rig.save("d/f", &file(5)).unwrap();
    assert_eq!(rig.owner("d/f"), Some(5));
    assert_eq!(std::fs::read_to_string(rig.host("elsewhere/f")).unwrap(), "493 0 0\n");
}

/// As a power failure leaves them.
#[test]
fn an_empty_record_is_roots_and_private() {
    for format in BOTH {
        let rig = Rig::new(format);
        rig.create("f", &record(FileKind::Regular, 0o4755, 1)).unwrap();
        rig.create("d", &directory(1)).unwrap();
        for (path, zeros) in [("file_metadata/f", 0), ("dir_metadata/d/metadata", 9)] {
            std::fs::remove_file(rig.host(path)).unwrap();
            std::fs::write(rig.host(path), vec![0; zeros]).unwrap();
        }
        let shown = |name| rig.load(name).unwrap().map(|r| (r.mode.bits(), r.uid.0, r.gid.0));
        assert_eq!(shown("f"), Some((0o600, 0, 0)));
        assert_eq!(shown("d"), Some((0o700, 0, 0)));
        rig.save("f", &file(3)).unwrap();
        assert_eq!(rig.owner("f"), Some(3));
    }
}

#[test]
fn strangers_have_no_record_until_one_is_saved() {
    for format in BOTH {
        let rig = Rig::new(format);
        std::fs::create_dir_all(rig.host("data/a/b")).unwrap();
        std::fs::write(rig.host("data/a/b/f"), "").unwrap();
        for name in ["a", "a/b", "a/b/f"] {
            assert_eq!(rig.load(name).unwrap(), None, "{name}");
        }
        rig.save("a/b/f", &with_xattr(file(1), "v")).unwrap();
        rig.save("a/b", &directory(2)).unwrap();
        assert_eq!(rig.load("a/b/f").unwrap(), Some(with_xattr(file(1), "v")));
        assert_eq!(rig.owner("a/b"), Some(2));
        assert_eq!(rig.load("a").unwrap(), None);
        rig.create("a/b/g", &file(3)).unwrap();
        assert_eq!(rig.owner("a/b/g"), Some(3));
    }
}

/// Trees that the old humfsify made hold the nodes themselves.
#[test]
fn real_special_files_are_what_the_host_says() {
    let rig = Rig::new(Format::ShadowFs);
    let at = rig.host("data/p");
    rustix::fs::mknodat(rustix::fs::CWD, &at, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    std::fs::write(rig.host("file_metadata/p"), "420 1 2\n").unwrap();
    assert_eq!(rig.load("p").unwrap(), Some(record(FileKind::Fifo, 0o644, 1)));
    rig.save("p", &record(FileKind::Fifo, 0o600, 10)).unwrap();
    assert_eq!(rig.text("file_metadata/p").unwrap(), "384 10 11\n");
    std::fs::write(rig.host("file_metadata/p"), "420 1 2 c 1 3\n").unwrap();
    assert_eq!(errno(rig.load("p")), Errno::EIO);
    let at = rig.host("data/null");
    if rustix::fs::mknodat(rustix::fs::CWD, &at, rustix::fs::FileType::CharacterDevice, 0o600.into(), rustix::fs::makedev(1, 300)).is_ok() {
        std::fs::write(rig.host("file_metadata/null"), "438 0 0 c 1 44\n").unwrap();
        assert_eq!(rig.load("null").unwrap().unwrap().device, DeviceNumber { major: 1, minor: 300 });
    } else {
        println!("skipped in part: only root makes devices");
    }
}

/// The original's reader takes blanks, LFs among them, between fields.
#[test]
fn a_shorter_line_leaves_no_digits_behind() {
    let rig = Rig::new(Format::ShadowFs);
    rig.create("f", &device(FileKind::CharDevice, 4_000_000_000, 4_000_000_000)).unwrap();
    let long = rig.text("file_metadata/f").unwrap();
    // What a process leaves that dies between the write and the cut.
    let half = format!("{:\n<width$}", "384 1 2\n", width = long.len());
    rig.save("f", &record(FileKind::Fifo, 0o600, 1)).unwrap();
    assert_eq!(rig.text("file_metadata/f").unwrap(), "384 1 2 p 0 0\n");
    std::fs::write(rig.host("file_metadata/f"), half).unwrap();
    assert_eq!(rig.load("f").unwrap(), Some(record(FileKind::Regular, 0o600, 1)));
}

#[test]
fn attributes_come_and_go_with_their_object() {
    for format in BOTH {
        let rig = Rig::new(format);
        let (f, d) = (file(1), directory(2));
        rig.create("f", &f).unwrap();
        rig.create("d", &d).unwrap();
        assert!(!rig.host("file_attributes").exists(), "trees without attributes pay nothing for them");
        rig.save("f", &with_xattr(f.clone(), "one")).unwrap();
        rig.save("d", &with_xattr(d.clone(), "two")).unwrap();
        assert_eq!(rig.load("f").unwrap(), Some(with_xattr(f.clone(), "one")));
        assert_eq!(rig.load("d").unwrap(), Some(with_xattr(d.clone(), "two")));
        // The line alone changes.
        rig.save("f", &with_xattr(file(7), "one")).unwrap();
        assert_eq!(rig.load("f").unwrap(), Some(with_xattr(file(7), "one")));
        // Both change.
        rig.save("f", &with_xattr(file(8), "three")).unwrap();
        rig.save("f", &with_xattr(file(7), "three")).unwrap();
        assert_eq!(rig.load("f").unwrap(), Some(with_xattr(file(7), "three")));
        // An administrator's edit.
        std::fs::remove_file(rig.host("file_metadata/f")).unwrap();
        std::fs::write(rig.host("file_metadata/f"), "420 0 0\n").unwrap();
        assert_eq!(rig.load("f").unwrap().unwrap().xattrs.get(b"user.x"), Some(&b"three"[..]));
        rig.save("f", &f).unwrap();
        rig.save("d", &d).unwrap();
        assert_eq!((rig.load("f").unwrap(), rig.load("d").unwrap()), (Some(f), Some(d)));
        let left: Vec<_> = rig.metadata().into_iter().filter(|path| path.contains("_attributes")).collect();
        assert_eq!(left, ["dir_attributes/d/"]);
        // New objects have theirs from the start, over what was left there.
        std::fs::write(rig.host("file_attributes/g"), "junk").unwrap();
        std::fs::write(rig.host("file_attributes/h"), "junk").unwrap();
        rig.create("g", &with_xattr(file(1), &"long".repeat(1000))).unwrap();
        rig.create("h", &file(1)).unwrap();
        assert_eq!(rig.load("g").unwrap(), Some(with_xattr(file(1), &"long".repeat(1000))));
        assert_eq!(rig.load("h").unwrap(), Some(file(1)));
        rig.create("e", &with_xattr(directory(1), "e")).unwrap();
        assert_eq!(rig.load("e").unwrap(), Some(with_xattr(directory(1), "e")));
        rig.remove("g").unwrap();
        rig.remove("e").unwrap();
        rig.remove("d").unwrap();
        let left: Vec<_> = rig.metadata().into_iter().filter(|path| path.contains("_attributes")).collect();
        assert_eq!(left, [""; 0]);
        let (rig, _) = rig.again();
        assert_eq!(rig.load("f").unwrap(), Some(file(1)));
    }
}

/// The line is the point of no return of a change of both.
#[test]
fn attributes_are_those_of_the_line() {
    for format in BOTH {
        let rig = Rig::new(format);
        let (before, after) = (with_xattr(file(1), "before"), with_xattr(file(2), "after"));
        rig.create("f", &before).unwrap();
        let old_line = rig.text("file_metadata/f").unwrap();
        rig.save("f", &after).unwrap();
        // As if the line had not been written yet.
        let path = rig.host("file_metadata/f");
        std::fs::remove_file(&path).unwrap();
        match format {
            Format::ShadowLink => symlink(old_line.trim_end(), &path).unwrap(),
            _ => std::fs::write(&path, &old_line).unwrap(),
        }
        assert_eq!(rig.load("f").unwrap(), Some(before.clone()));
        // The same from nothing and to nothing.
        rig.save("f", &file(3)).unwrap();
        assert_eq!(rig.load("f").unwrap(), Some(file(3)));
        rig.save("f", &after).unwrap();
        assert_eq!(rig.load("f").unwrap(), Some(after));
    }
}

#[test]
fn a_record_is_made_durable_wherever_it_is() {
    for format in BOTH {
        let rig = Rig::new(format);
        rig.create("f", &with_xattr(file(1), "x")).unwrap();
        rig.create("d", &directory(1)).unwrap();
        rig.link("f", "g").unwrap();
        for name in ["f", "g", "d"] {
            rig.object(name, |object| rig.store.sync_record(object)).unwrap();
        }
        let attr = rig.attr("f").unwrap();
        let nameless = Object { hold: crate::store::Hold::Path(rig.fs.root_fd()), place: Place::Nameless, host: &attr, known: None };
        rig.store.sync_record(&nameless).unwrap();
    }
}

#[test]
fn no_more_descriptors_are_kept_than_there_are_for_it() {
    let rig = Rig::new(Format::ShadowFs);
    for number in 0..700 {
        rig.create(format!("d{number}"), &directory(1)).unwrap();
        rig.create(format!("d{number}/f"), &file(number)).unwrap();
    }
    let limit = super::super::descriptors_each().get();
    assert!(rig.store.lines.files.cached() <= limit);
    for number in 0..700 {
        assert_eq!(rig.owner(format!("d{number}/f")), Some(number));
    }
    rig.store.mirrors().for_each(super::super::Mirror::clear);
    assert_eq!(rig.store.lines.files.cached(), 0);
    assert_eq!(rig.owner("d7/f"), Some(7));
}

#[test]
fn a_tree_that_is_only_read_is_not_changed() {
    let rig = Rig::new(Format::ShadowFs);
    rig.create("f", &file(1)).unwrap();
    let tree = crate::tree::Tree::open(rig.dir.path(), crate::tree::Access::Read).unwrap();
    let store = super::super::ShadowStore::open(&tree, Format::ShadowFs).unwrap();
    let attr = rig.attr("f").unwrap();
    let load = |at: &At<'_>| store.load(at, &attr);
    assert_eq!(rig.at("f", load).unwrap(), Loaded::Record(file(1)));
    assert_eq!(rig.at("g", |at| errno(store.create(at, &file(1)))), Errno::EROFS);
    assert_eq!(rig.object("f", |object| errno(store.save(object, &file(2)))), Errno::EROFS);
    assert!(!rig.host("data/g").exists());
    assert_eq!(rig.host("data/f").metadata().unwrap().nlink(), 1);
}

/// A change that is neither done nor undone must not be followed by another.
#[test]
fn nothing_changes_once_a_change_is_stuck() {
    let rig = Rig::new(Format::ShadowFs);
    rig.create("f", &file(1)).unwrap();
    let told = rig.store.writing().unwrap().stick("taking back a rename");
    assert_eq!(told.errno(), Errno::EIO);
    assert_eq!(errno(rig.create("g", &file(1))), Errno::EIO);
    assert_eq!(errno(rig.save("f", &file(2))), Errno::EIO);
    assert_eq!(errno(rig.remove("f")), Errno::EIO);
    assert_eq!(errno(rig.rename("f", "g")), Errno::EIO);
    assert_eq!(errno(rig.link("f", "g")), Errno::EIO);
    assert_eq!(rig.owner("f"), Some(1));
    let (rig, _) = rig.again();
    rig.remove("f").unwrap();
}

/// In a process of its own, which has few descriptors.
#[test]
fn spare_descriptors_are_given_up() {
    const INSIDE: &str = "HUMFS_TEST_FEW_DESCRIPTORS";
    if std::env::var_os(INSIDE).is_none() {
        let itself = std::env::current_exe().unwrap();
        let name = std::thread::current().name().unwrap().to_owned();
        let run = std::process::Command::new(itself).args([name.as_str(), "--exact", "--nocapture"]).env(INSIDE, "1").output().unwrap();
        let said = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let rig = Rig::new(Format::ShadowFs);
    for number in 0..20 {
        rig.create(format!("d{number}"), &directory(1)).unwrap();
        rig.create(format!("d{number}/f"), &file(number)).unwrap();
    }
    let cached = rig.store.lines.files.cached();
    assert!(cached >= 20);
    let before = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let limit = rustix::process::Rlimit { current: Some(256), ..before };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    rig.at("d3/new", |at| {
        let mut hoard = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            hoard.push(file);
        }
        rig.store.create(at, &file(7)).unwrap();
    });
    assert!(rig.store.lines.files.cached() < cached);
    assert_eq!(rig.owner("d3/new"), Some(7));
}
