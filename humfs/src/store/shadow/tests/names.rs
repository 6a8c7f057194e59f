//! Names that come and go, and what is left of their records.

use super::rig::*;
use crate::record::Record;
use crate::store::{Format, MetaStore, Object, Place};
use externfs::{Errno, FileKind};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

#[test]
fn nothing_is_left_of_what_is_removed() {
    for format in BOTH {
        let rig = Rig::new(format);
        let before = rig.metadata();
        rig.create("d", &directory(1)).unwrap();
        for (name, kind) in [("f", FileKind::Regular), ("l", FileKind::Symlink), ("p", FileKind::Fifo)] {
            rig.create(format!("d/{name}"), &record(kind, 0o644, 1)).unwrap();
            assert_eq!(errno(rig.create(format!("d/{name}"), &file(9))), Errno::EEXIST);
            assert_eq!(rig.owner(format!("d/{name}")), Some(1), "what is there keeps its record");
        }
        assert_eq!(errno(rig.create("d", &directory(9))), Errno::EEXIST);
        assert_eq!(errno(rig.remove("d")), Errno::ENOTEMPTY);
        assert_eq!(rig.owner("d"), Some(1));
        for name in ["d/f", "d/l", "d/p", "d"] {
            rig.remove(name).unwrap();
        }
        assert_eq!(rig.metadata(), before);
    }
}

#[test]
fn stale_records_are_never_inherited() {
    for format in BOTH {
        let rig = Rig::new(format);
        // A directory where a file was, a file where a directory was, and one
        // of each in place.
        for path in ["file_metadata/a/x/y", "dir_metadata/b/x", "file_metadata/b/x"] {
            std::fs::create_dir_all(rig.host(path)).unwrap();
        }
        for path in ["file_metadata/c", "file_metadata/b/x/f", "dir_metadata/b/odd", "dir_metadata/b/x/metadata"] {
            std::fs::write(rig.host(path), "2047 5 5\n").unwrap();
        }
        rig.create("a", &file(1)).unwrap();
        rig.create("b", &directory(2)).unwrap();
        rig.create("c", &directory(3)).unwrap();
        assert_eq!((rig.owner("a"), rig.owner("b"), rig.owner("c")), (Some(1), Some(2), Some(3)));
        // The host makes a file where an old record would have been.
        std::fs::create_dir(rig.host("data/b/x")).unwrap();
        std::fs::write(rig.host("data/b/x/f"), "").unwrap();
        assert_eq!(rig.load("b/x").unwrap(), None);
        assert_eq!(rig.load("b/x/f").unwrap(), None);
    }
}

#[test]
fn hard_links_share_a_record() {
    for format in BOTH {
        let rig = Rig::new(format);
        rig.create("d", &directory(1)).unwrap();
        rig.create("f", &with_xattr(file(1), "x")).unwrap();
        rig.link("f", "d/g").unwrap();
        assert_eq!(rig.host("data/f").metadata().unwrap().nlink(), 2);
        assert_eq!(rig.load("d/g").unwrap(), Some(with_xattr(file(1), "x")));
        rig.save("d/g", &with_xattr(file(2), "y")).unwrap();
        assert_eq!(rig.load("f").unwrap(), Some(with_xattr(file(2), "y")));
        rig.save("f", &file(2)).unwrap();
        assert_eq!(rig.load("d/g").unwrap(), Some(file(2)));
        rig.link("d/g", "h").unwrap();
        rig.remove("f").unwrap();
        rig.save("h", &with_xattr(record(FileKind::Regular, 0o7777, 3), "z")).unwrap();
        assert_eq!(rig.load("d/g").unwrap(), rig.load("h").unwrap());
        assert_eq!(rig.text("file_metadata/h").unwrap(), "4095 3 4\n");
        assert_eq!(errno(rig.link("h", "d/g")), Errno::EEXIST);
        rig.remove("d/g").unwrap();
        // The last name: whatever the record is by now, it can be replaced.
        rig.save("h", &file(4)).unwrap();
        assert_eq!(rig.load("h").unwrap(), Some(file(4)));
        assert!(rig.is_quiet());
    }
}

#[test]
fn symbolic_links_and_devices_have_hard_links_too() {
    for format in BOTH {
        let rig = Rig::new(format);
        for (name, kind) in [("l", FileKind::Symlink), ("c", FileKind::CharDevice)] {
            rig.create(name, &record(kind, 0o777, 1)).unwrap();
            let other = format!("{name}2");
            rig.link(name, &other).unwrap();
            rig.save(&other, &Record { target: None, ..record(kind, 0o777, 9) }).unwrap();
            assert_eq!(rig.owner(name), Some(9));
        }
    }
}

#[test]
fn a_strangers_link_gives_both_names_a_record() {
    for format in BOTH {
        let rig = Rig::new(format);
        std::fs::write(rig.host("data/f"), "").unwrap();
        rig.link("f", "g").unwrap();
        assert_eq!((rig.owner("f"), rig.owner("g")), (Some(77), Some(77)));
        rig.save("f", &file(5)).unwrap();
        assert_eq!(rig.owner("g"), Some(5));
    }
}

#[test]
fn a_file_without_a_name_gets_its_record_with_one() {
    for format in BOTH {
        let rig = Rig::new(format);
        let fd = rig.store.create_unnamed(rig.fs.root_fd(), &file(1)).unwrap();
        let attr = rig.attr_of(&fd);
        let object = Object { hold: crate::store::Hold::Open(fd.as_fd()), place: Place::Nameless, host: &attr, known: None };
        rig.store.save(&object, &file(2)).unwrap();
        std::fs::write(rig.host("file_metadata/f"), "2047 9 9\n").unwrap();
        let wanted = with_xattr(file(2), "x");
        rig.at("f", |to| rig.store.link(&object, to, &wanted)).unwrap();
        assert_eq!(rig.load("f").unwrap(), Some(wanted));
        // One whose last name is gone cannot come back: the host says so.
        let fd = rig.create("g", &file(3)).unwrap();
        rig.remove("g").unwrap();
        let attr = rig.attr_of(&fd);
        let object = Object { hold: crate::store::Hold::Open(fd.as_fd()), place: Place::Nameless, host: &attr, known: None };
        assert_eq!(rig.at("h", |to| errno(rig.store.link(&object, to, &file(3)))), Errno::ENOENT);
        assert!(!rig.metadata().iter().any(|path| path.ends_with("/h")), "{:?}", rig.metadata());
    }
}

/// The original's rule, in every order in which it can come to matter.
#[test]
fn a_directory_may_be_called_metadata() {
    for format in BOTH {
        let rig = Rig::new(format);
        rig.create("metadata", &directory(1)).unwrap();
        rig.create("metadata/metadata", &directory(2)).unwrap();
        rig.create("metadata/metadata/metadata", &file(3)).unwrap();
        let root = |rig: &Rig| rig.text("dir_metadata/metadata.1");
        assert_eq!(root(&rig).as_deref(), Some("493 0 0\n"));
        // The name that the record has got is wanted as well.
        rig.create("metadata/metadata.1", &with_xattr(directory(4), "x")).unwrap();
        rig.create("metadata/metadata.2", &directory(5)).unwrap();
        let owners = |rig: &Rig| {
            ["metadata", "metadata/metadata", "metadata/metadata/metadata", "metadata/metadata.1", "metadata/metadata.2"]
                .map(|path| rig.owner(path).unwrap())
        };
        assert_eq!(owners(&rig), [1, 2, 3, 4, 5]);
        rig.save("metadata", &with_xattr(directory(6), "y")).unwrap();
        rig.create("metadata/metadata.3", &with_xattr(directory(7), "z")).unwrap();
        let (rig, _) = rig.again();
        assert_eq!(owners(&rig), [6, 2, 3, 4, 5]);
        assert_eq!(rig.load("metadata").unwrap(), Some(with_xattr(directory(6), "y")));
        // By way of renames and exchanges.
        rig.create("d", &directory(8)).unwrap();
        rig.create("e", &directory(9)).unwrap();
        rig.rename("d", "e/metadata").unwrap();
        assert_eq!((rig.owner("e"), rig.owner("e/metadata")), (Some(9), Some(8)));
        rig.create("e/x", &directory(10)).unwrap();
        rig.create("x", &directory(11)).unwrap();
        rig.create("x/metadata", &file(12)).unwrap();
        rig.exchange("x/metadata", "e/x").unwrap();
        let found = ["x", "x/metadata", "e", "e/x", "e/metadata"].map(|path| rig.owner(path).unwrap());
        assert_eq!(found, [11, 10, 9, 12, 8]);
        for path in ["metadata/metadata/metadata", "metadata/metadata.1", "metadata/metadata.2", "metadata/metadata.3"] {
            rig.remove(path).unwrap();
        }
        rig.remove("metadata/metadata").unwrap();
        assert_eq!(rig.owner("metadata"), Some(6));
        rig.remove("metadata").unwrap();
        assert!(rig.is_quiet());
    }
}

#[test]
fn names_may_be_long_and_anything() {
    for format in BOTH {
        let rig = Rig::new(format);
        let long = [0xffu8; 255];
        let odd = b"a\nb \x01\xc3..";
        for name in [&long[..], &odd[..]] {
            rig.create(name, &directory(1)).unwrap();
            let below: Vec<u8> = [name, b"/", name].concat();
            rig.create(&below, &with_xattr(file(2), "x")).unwrap();
            let moved: Vec<u8> = [name, b"/", &[b'z'; 255][..]].concat();
            rig.rename(&below, &moved).unwrap();
            assert_eq!(rig.load(&moved).unwrap(), Some(with_xattr(file(2), "x")));
        }
        assert_eq!(
            errno(rig.at("x", |at| {
                let name = std::ffi::CString::new(vec![b'x'; 256]).unwrap();
                rig.store.create(&crate::store::At { name: &name, ..*at }, &file(1))
            })),
            Errno::ENAMETOOLONG
        );
    }
}

#[test]
fn left_over_records_are_found_and_discarded() {
    let rig = Rig::new(Format::ShadowFs);
    rig.create("d", &directory(1)).unwrap();
    rig.create("d/f", &with_xattr(file(2), "x")).unwrap();
    rig.create("d/e", &with_xattr(directory(3), "x")).unwrap();
    let names = || {
        let mut names = Vec::new();
        rig.store.recorded_names(&rig.dir(b"d"), &mut |name| names.push(name.to_str().unwrap().to_owned())).unwrap();
        names.sort();
        names
    };
    assert_eq!(names(), ["e", "f"], "each once, the directory's own records not");
    for path in ["file_metadata/d/1", "dir_metadata/d/2", "file_attributes/d/3", "dir_attributes/d/4"] {
        std::fs::create_dir(rig.host(path)).unwrap();
    }
    std::fs::write(rig.host("file_metadata/d/5"), "").unwrap();
    assert_eq!(names(), ["1", "2", "3", "4", "5", "e", "f"]);
    for name in ["1", "2", "3", "4", "5", "metadata"] {
        rig.at(format!("d/{name}"), |at| rig.store.discard(at)).unwrap();
    }
    assert_eq!(names(), ["e", "f"]);
    assert_eq!(errno(rig.at("d/f", |at| rig.store.discard(at))), Errno::EEXIST);
    assert_eq!((rig.owner("d"), rig.owner("d/e"), rig.owner("d/f")), (Some(1), Some(3), Some(2)));
}

#[test]
fn a_synced_directory_awaits_no_sync_of_what_is_in_it() {
    let rig = Rig::new(Format::ShadowFs);
    let awaits = || rig.store.writing.as_ref().unwrap().awaited.has_any();
    rig.create("file", &file(1)).unwrap();
    assert!(!awaits(), "a guest can sync it");
    rig.create("link", &record(FileKind::Symlink, 0o777, 1)).unwrap();
    rig.create("dir", &directory(1)).unwrap();
    rig.create("dir/metadata", &directory(1)).unwrap();
    rig.create("dir/metadata/fifo", &record(FileKind::Fifo, 0o600, 1)).unwrap();
    let is_fresh = |record: &str| {
        let number = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(rig.host(record)).unwrap());
        rig.store.writing.as_ref().unwrap().fresh.has(number)
    };
    assert!(is_fresh("file_metadata/link"));
    for (dir, is_all) in [("dir", false), ("", false), ("dir/metadata", true)] {
        assert!(rig.store.sync_names(&rig.dir(dir.as_bytes())).unwrap());
        assert_eq!(awaits(), !is_all, "{dir}");
    }
    // From now on a longer line must not be cut short by a power failure.
    assert!(!is_fresh("file_metadata/link") && !is_fresh("dir_metadata/dir/metadata"));
    for number in 0..100 {
        rig.create(format!("link{number}"), &record(FileKind::Symlink, 0o777, 1)).unwrap();
    }
    assert!(rig.store.sync_names(&rig.dir(b"dir")).unwrap(), "they are elsewhere");
    assert!(!rig.store.sync_names(&rig.dir(b"")).unwrap(), "they are many");
    rig.store.sync().unwrap();
    assert!(!awaits());
}
