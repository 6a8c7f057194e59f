//! Renames.

use super::rig::*;
use crate::store::{Facts, Renaming};
use externfs::{Errno, FileKind};

/// `a` with a file, a directory with a file, and attributes below.
fn grow(rig: &Rig, name: &str, uid: u32) {
    rig.create(name, &with_xattr(directory(uid), "dir")).unwrap();
    rig.create(format!("{name}/f"), &with_xattr(file(uid + 1), "file")).unwrap();
    rig.create(format!("{name}/d"), &directory(uid + 2)).unwrap();
    rig.create(format!("{name}/d/f"), &file(uid + 3)).unwrap();
}

fn check(rig: &Rig, name: &str, uid: u32) {
    assert_eq!(rig.load(name).unwrap(), Some(with_xattr(directory(uid), "dir")), "{name}");
    assert_eq!(rig.load(format!("{name}/f")).unwrap(), Some(with_xattr(file(uid + 1), "file")));
    assert_eq!(rig.owner(format!("{name}/d")), Some(uid + 2));
    assert_eq!(rig.owner(format!("{name}/d/f")), Some(uid + 3));
}

#[test]
fn files_move() {
    for format in BOTH {
        let rig = Rig::new(format);
        rig.create("d", &directory(1)).unwrap();
        rig.create("f", &with_xattr(file(2), "x")).unwrap();
        rig.create("g", &file(3)).unwrap();
        let others = rig.metadata().len();
        // What was left at the new names does no harm.
        std::fs::create_dir_all(rig.host("file_metadata/d/f/x")).unwrap();
        std::fs::create_dir(rig.host("file_attributes/d")).unwrap();
        std::fs::write(rig.host("file_attributes/d/g"), "junk").unwrap();
        rig.rename("f", "d/f").unwrap();
        rig.rename("g", "d/g").unwrap();
        assert_eq!(rig.load("d/f").unwrap(), Some(with_xattr(file(2), "x")));
        assert_eq!(rig.load("d/g").unwrap(), Some(file(3)));
        // Over another one.
        rig.rename("d/f", "d/g").unwrap();
        assert_eq!(rig.load("d/g").unwrap(), Some(with_xattr(file(2), "x")));
        rig.create("h", &file(4)).unwrap();
        rig.rename("h", "d/g").unwrap();
        assert_eq!(rig.load("d/g").unwrap(), Some(file(4)));
        assert_eq!(rig.metadata().len(), others - 1, "{:?}", rig.metadata());
        assert!(rig.is_quiet());
    }
}

#[test]
fn directories_move_with_all_below_them() {
    for format in BOTH {
        let rig = Rig::new(format);
        grow(&rig, "a", 10);
        rig.create("b", &directory(1)).unwrap();
        check(&rig, "a", 10);
        let before = rig.metadata();
        std::fs::create_dir_all(rig.host("dir_metadata/b/c/x")).unwrap();
        std::fs::create_dir_all(rig.host("file_attributes/b/c/f")).unwrap();
        rig.rename("a", "b/c").unwrap();
        check(&rig, "b/c", 10);
        rig.create("b/c/d/new", &file(20)).unwrap();
        // Over an empty directory.
        rig.create("e", &with_xattr(directory(2), "e")).unwrap();
        rig.rename("b/c", "e").unwrap();
        check(&rig, "e", 10);
        assert_eq!(rig.owner("e/d/new"), Some(20));
        // Not over one that is not.
        grow(&rig, "g", 30);
        assert_eq!(errno(rig.rename("e", "g")), Errno::ENOTEMPTY);
        assert_eq!(errno(rig.rename("g", "g/d/below")), Errno::EINVAL);
        check(&rig, "e", 10);
        check(&rig, "g", 30);
        rig.remove("e/d/new").unwrap();
        for name in ["g/d/f", "g/d", "g/f", "g"] {
            rig.remove(name).unwrap();
        }
        rig.rename("e", "a").unwrap();
        let left: Vec<_> = rig.metadata().into_iter().filter(|path| !path.ends_with("_attributes/b/")).collect();
        assert_eq!(left, before);
        assert!(rig.is_quiet());
        let (rig, recovered) = rig.again();
        assert_eq!((recovered.completed, recovered.undone), (0, 0));
        check(&rig, "a", 10);
    }
}

#[test]
fn anything_changes_places_with_anything() {
    for format in BOTH {
        let rig = Rig::new(format);
        grow(&rig, "a", 10);
        grow(&rig, "b", 20);
        rig.create("f", &with_xattr(file(1), "x")).unwrap();
        rig.create("l", &record(FileKind::Symlink, 0o777, 2)).unwrap();
        rig.exchange("a", "b").unwrap();
        check(&rig, "a", 20);
        check(&rig, "b", 10);
        rig.exchange("a", "b/d").unwrap();
        assert_eq!(rig.owner("a/f"), Some(13));
        check(&rig, "b/d", 20);
        rig.exchange("a", "b/d").unwrap();
        rig.exchange("f", "a").unwrap();
        check(&rig, "f", 20);
        assert_eq!(rig.load("a").unwrap(), Some(with_xattr(file(1), "x")));
        rig.exchange("a", "l").unwrap();
        assert_eq!((rig.owner("l"), rig.owner("a")), (Some(1), Some(2)));
        rig.exchange("b/d/f", "b/f").unwrap();
        assert_eq!((rig.owner("b/d/f"), rig.owner("b/f")), (Some(11), Some(13)));
        assert_eq!(errno(rig.exchange("b", "b/d")), Errno::EINVAL);
        assert_eq!(rig.owner("b/d"), Some(12));
        assert!(rig.is_quiet());
    }
}

#[test]
fn what_the_host_refuses_changes_nothing() {
    for format in BOTH {
        let rig = Rig::new(format);
        for (name, uid) in [("f", 1), ("g", 2)] {
            rig.create(name, &file(uid)).unwrap();
        }
        rig.create("d", &directory(3)).unwrap();
        let before = rig.metadata();
        let facts = |name: &str| rig.facts(name).unwrap();
        let how = Renaming { exchange: false, no_replace: true, moved: facts("f"), replaced: rig.facts("g") };
        assert_eq!(errno(rig.rename_as("f", "g", &how)), Errno::EEXIST);
        assert_eq!(errno(rig.rename("f", "d")), Errno::EISDIR);
        assert_eq!(errno(rig.rename("d", "f")), Errno::ENOTDIR);
        let how = Renaming { exchange: true, no_replace: false, moved: facts("f"), replaced: None };
        assert_eq!(errno(rig.rename_as("f", "none", &how)), Errno::ENOENT);
        // The host has changed something behind our back.
        let gone = Facts { ino: 1, kind: FileKind::Regular, nlink: 1 };
        let how = Renaming { exchange: false, no_replace: false, moved: gone, replaced: None };
        assert_eq!(errno(rig.rename_as("none", "new", &how)), Errno::ENOENT);
        let how = Renaming { exchange: true, no_replace: false, moved: facts("f"), replaced: Some(gone) };
        assert_eq!(errno(rig.rename_as("f", "none", &how)), Errno::ENOENT);
        assert_eq!([rig.owner("f"), rig.owner("g"), rig.owner("d")], [Some(1), Some(2), Some(3)]);
        assert_eq!(rig.metadata(), before);
        assert!(rig.is_quiet());
    }
}

#[test]
fn two_names_of_one_file_stay_two() {
    for format in BOTH {
        let rig = Rig::new(format);
        rig.create("f", &file(1)).unwrap();
        rig.create("h", &file(2)).unwrap();
        rig.link("f", "g").unwrap();
        rig.rename("f", "g").unwrap();
        rig.exchange("f", "g").unwrap();
        assert_eq!((rig.owner("f"), rig.owner("g")), (Some(1), Some(1)));
        // One of them moves, replaces and is replaced; the other one stays.
        rig.rename("f", "i").unwrap();
        rig.rename("i", "h").unwrap();
        rig.save("h", &file(3)).unwrap();
        assert_eq!(rig.owner("g"), Some(3));
        rig.create("j", &file(4)).unwrap();
        rig.rename("j", "h").unwrap();
        assert_eq!((rig.owner("g"), rig.owner("h")), (Some(3), Some(4)));
    }
}

#[test]
fn strangers_move_and_inherit_nothing() {
    for format in BOTH {
        let rig = Rig::new(format);
        std::fs::create_dir(rig.host("data/s")).unwrap();
        std::fs::write(rig.host("data/s/f"), "").unwrap();
        std::fs::write(rig.host("data/t"), "").unwrap();
        rig.create("f", &file(1)).unwrap();
        rig.create("d", &directory(2)).unwrap();
        // A stranger in the place of ours, and ours in the place of a stranger.
        rig.rename("t", "f").unwrap();
        assert_eq!(rig.load("f").unwrap(), None);
        rig.rename("s", "d").unwrap();
        assert_eq!(rig.load("d").unwrap(), None);
        rig.create("g", &file(3)).unwrap();
        rig.exchange("g", "d/f").unwrap();
        assert_eq!((rig.load("g").unwrap(), rig.owner("d/f")), (None, Some(3)));
        rig.exchange("d/f", "f").unwrap();
        assert_eq!((rig.owner("f"), rig.load("d/f").unwrap()), (Some(3), None));
        rig.rename("f", "d/new").unwrap();
        assert_eq!(rig.owner("d/new"), Some(3));
        rig.rename("d", "e").unwrap();
        assert_eq!((rig.load("e").unwrap(), rig.owner("e/new")), (None, Some(3)));
    }
}

/// Deeper than a path can be long.
#[test]
fn paths_may_be_longer_than_the_host_takes() {
    for format in BOTH {
        let rig = Rig::new(format);
        let mut path = Vec::new();
        for level in 0..20u8 {
            path.extend([b'a' + level; 255]);
            rig.create(&path, &directory(u32::from(level))).unwrap();
            path.push(b'/');
        }
        let below = |name: &str| [&path[..], name.as_bytes()].concat();
        grow_at(&rig, &below("x"));
        rig.rename(below("x"), below("y")).unwrap();
        assert_eq!(rig.owner(below("y/f")), Some(41));
        rig.create(below("g"), &file(50)).unwrap();
        rig.rename(below("g"), below("y/f")).unwrap();
        assert_eq!(rig.owner(below("y/f")), Some(50));
        assert!(rig.is_quiet());
        let (rig, _) = rig.again();
        assert_eq!(rig.owner(below("y")), Some(40));
    }
}

fn grow_at(rig: &Rig, path: &[u8]) {
    rig.create(path, &directory(40)).unwrap();
    rig.create([path, b"/f"].concat(), &file(41)).unwrap();
}

/// Many threads in directories of their own, as the caller allows.
#[test]
fn directories_do_not_hold_each_other_up() {
    for format in BOTH {
        let rig = &Rig::new(format);
        std::thread::scope(|scope| {
            for thread in 0..4u32 {
                scope.spawn(move || {
                    let dir = format!("t{thread}");
                    rig.create(&dir, &directory(thread)).unwrap();
                    for round in 0..60u32 {
                        let uid = 1000 * thread + round;
                        rig.create(format!("{dir}/new"), &with_xattr(file(uid), "x")).unwrap();
                        rig.rename(format!("{dir}/new"), format!("{dir}/f")).unwrap();
                        rig.create(format!("{dir}/metadata"), &directory(uid)).unwrap();
                        assert_eq!(rig.owner(&dir), Some(thread));
                        assert_eq!(rig.owner(format!("{dir}/f")), Some(uid));
                        assert_eq!(rig.owner(format!("{dir}/metadata")), Some(uid));
                        rig.remove(format!("{dir}/metadata")).unwrap();
                    }
                });
            }
            // The directories' own records are used beside that.
            scope.spawn(move || {
                for round in 0..300 {
                    let dir = format!("t{}", round % 4);
                    if rig.attr(&dir).is_some() && rig.load(&dir).unwrap().is_some() {
                        rig.save(&dir, &directory(round % 4)).unwrap();
                    }
                }
            });
        });
        assert!(rig.is_quiet());
    }
}
