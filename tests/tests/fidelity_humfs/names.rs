//! Names: several of one object, changed, odd, long, none at all.

use super::{Scene, what};
use proptest::prelude::Rng;
use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags, XattrFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

fn note_of(path: &Path) -> Option<Vec<u8>> {
    let mut value = [0; 256];
    let length = rustix::fs::lgetxattr(path, "user.note", &mut value[..]).ok()?;
    Some(value[..length].to_vec())
}

fn set_note(path: &Path, value: &str) {
    rustix::fs::setxattr(path, "user.note", value.as_bytes(), XattrFlags::empty()).unwrap();
}

pub(super) fn hard_links_are_one_file(scene: &mut Scene) {
    scene.shell(
        "mkdir a b; echo one >a/f; ln a/f b/g; ln b/g h; chown 5:6 a/f; chmod 4640 b/g; mkfifo a/p; ln a/p b/p; ln -s t a/l; ln a/l b/l",
    );
    let names = ["a/f", "b/g", "h"];
    scene.twice(|scene| {
        for name in names {
            let stat = fs::metadata(scene.at(name)).unwrap();
            assert_eq!((what(&scene.at(name)).as_str(), stat.nlink()), ("104640 5:6 0", 3), "{name}");
            assert_eq!(stat.ino(), fs::metadata(scene.at("h")).unwrap().ino());
        }
        for (one, other) in [("a/p", "b/p"), ("a/l", "b/l")] {
            let inode = |name: &str| scene.at(name).symlink_metadata().map(|stat| (stat.ino(), stat.nlink())).unwrap();
            assert_eq!(inode(one), inode(other));
        }
    });
    // A change by one name is seen by all, also after it came from the disk.
    for (number, name) in names.into_iter().enumerate() {
        let (uid, mode) = (1000 + number as u32, 0o600 + number as u32);
        std::os::unix::fs::chown(scene.at(name), Some(uid), Some(7)).unwrap();
        fs::set_permissions(scene.at(name), PermissionsExt::from_mode(mode)).unwrap();
        set_note(&scene.at(name), &format!("by {name}"));
        scene.twice(|scene| {
            for other in names {
                assert_eq!(what(&scene.at(other)), format!("{:o} {uid}:7 0", 0o100_000 | mode), "{other} after a change of {name}");
                assert_eq!(note_of(&scene.at(other)), Some(format!("by {name}").into_bytes()), "{other} after a change of {name}");
            }
        });
    }
}

/// What is open for reading only, and was never read, is not open on the host:
/// whatever becomes of its names, what it had can be read.
pub(super) fn readers_go_on_whatever_becomes_of_the_name(scene: &mut Scene) {
    let ways = [
        "rm f",
        "mv f g",
        "mv other f",
        "mkdir d; mv f d; mv d e",
        "ln f g; rm f",
        "ln f g; rm f; rm g",
        "mkdir d; mv f d; mv d/f d/g; rm d/g; rmdir d",
        "ln f g; mv other g; rm f; mv g f",
        "rm f; echo new >f",
        "chmod 0 f; chown 5:5 f; rm f",
    ];
    for (number, way) in ways.into_iter().enumerate() {
        let dir = scene.at(&format!("w{number}"));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("f"), "what it had").unwrap();
        fs::write(dir.join("other"), "something else").unwrap();
        scene.remount();
        let dir = scene.at(&format!("w{number}"));
        let read = |file: &File| {
            let mut text = [0; 32];
            let length = file.read_at(&mut text, 0).unwrap_or_else(|error| panic!("after {way:?}: {error}"));
            String::from_utf8_lossy(&text[..length]).into_owned()
        };
        // Nothing of it is in the kernel's cache: each look is a request.
        let (first, second) = (File::open(dir.join("f")).unwrap(), File::open(dir.join("f")).unwrap());
        scene.shell(&format!("cd w{number}; {way}"));
        // One that comes later shares what the first ones have, if it finds it.
        let third = File::open(dir.join("f"));
        assert_eq!(read(&first), "what it had", "{way}");
        rustix::fs::fadvise(&second, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        assert_eq!(read(&second), "what it had", "{way}");
        drop(third);
    }
}

/// Objects without a name that a server with so few descriptors does not hold any more.
const MANY: usize = 150;

/// Nor does it matter how much else loses its name while a kernel remembers it. One
/// that tells what it opens has the rest held in so far as there are descriptors; for
/// one that does not all is held that may be open, or stays.
pub(super) fn readers_go_on_among_many_removed(scene: &mut Scene) {
    for (options, refuses) in [("allow_other,flush_on_close", false), ("allow_other", true)] {
        fs::write(scene.at("f"), "what it had").unwrap();
        scene.remount_with_few_descriptors_and(options);
        let file = File::open(scene.at("f")).unwrap();
        fs::remove_file(scene.at("f")).unwrap();
        let mut held = Vec::new();
        for number in 0..MANY {
            let path = scene.at(&format!("g{number}"));
            File::create(&path).unwrap();
            held.push(rustix::fs::open(&path, OFlags::PATH, Mode::empty()).unwrap());
            if let Err(error) = fs::remove_file(&path) {
                assert!(refuses && error.raw_os_error() == Some(libc::ENFILE), "{options}: {number}: {error}");
                assert!(fs::metadata(&path).is_ok(), "it is still there");
            }
        }
        let mut text = [0; 32];
        let length = file.read_at(&mut text, 0).unwrap();
        assert_eq!(&text[..length], b"what it had", "{options}");
        drop(held);
        for number in 0..MANY {
            let _ = fs::remove_file(scene.at(&format!("g{number}")));
        }
    }
}

/// One of two names goes, the object is not held any more, and the kernel comes by
/// the name that it has known for long.
pub(super) fn the_other_name_leads_to_what_is_not_held(scene: &mut Scene) {
    scene.remount_with_few_descriptors();
    scene.shell("mkdir a b");
    for number in 0..MANY {
        fs::write(scene.at(&format!("a/{number}")), number.to_string()).unwrap();
        fs::hard_link(scene.at(&format!("a/{number}")), scene.at(&format!("b/{number}"))).unwrap();
    }
    // The kernel keeps the other name, and the object by that.
    for number in 0..MANY {
        fs::metadata(scene.at(&format!("b/{number}"))).unwrap();
        fs::remove_file(scene.at(&format!("a/{number}"))).unwrap();
    }
    for number in 0..MANY {
        let file = File::open(scene.at(&format!("b/{number}"))).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let mut text = [0; 32];
        let length = file.read_at(&mut text, 0).unwrap();
        assert_eq!((&text[..length], file.metadata().unwrap().nlink()), (number.to_string().as_bytes(), 1));
    }
}

/// A file that is open and was never read goes by its name, which somebody
/// changes all the time; and so does a directory.
pub(super) fn what_is_open_is_found_while_it_moves(scene: &mut Scene) {
    scene.shell("mkdir -p d/e; echo x >d/e/f; ln d/e/f d/other");
    scene.remount();
    let (dir, until) = (scene.at("d"), std::time::Instant::now() + std::time::Duration::from_millis(500));
    std::thread::scope(|scope| {
        let moves = scope.spawn(|| {
            while std::time::Instant::now() < until {
                for (old, new) in [("e/f", "e/g"), ("e", "h"), ("h/g", "h/f"), ("h", "e")] {
                    fs::rename(dir.join(old), dir.join(new)).unwrap();
                }
            }
        });
        let (mut looks, held) = (0, rustix::fs::open(dir.join("other"), OFlags::PATH, Mode::empty()).unwrap());
        while !moves.is_finished() {
            // By the magic link: no name is looked up.
            let file = File::open(format!("/proc/self/fd/{}", held.as_raw_fd())).unwrap();
            assert_eq!(file.metadata().map(|stat| stat.nlink()).unwrap_or_else(|error| panic!("look {looks}: {error}")), 2);
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            assert_eq!(file.read_at(&mut [0; 8], 0).unwrap_or_else(|error| panic!("look {looks}: {error}")), 2);
            looks += 1;
        }
        assert!(looks > 10, "{looks}");
    });
}

/// The same of directories, which have nothing in them when they are removed.
pub(super) fn listings_go_on_whatever_becomes_of_the_name(scene: &mut Scene) {
    use rustix::fs::{Dir, open};
    scene.shell("mkdir -p moved/in gone above/below/d; touch moved/a moved/b above/below/d/c");
    scene.remount();
    let opened = |scene: &Scene, name: &str| open(scene.at(name), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let names = |fd: &rustix::fd::OwnedFd| {
        let entries = Dir::read_from(fd).unwrap().map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        entries.collect::<Result<Vec<_>, Errno>>().map(|mut names| {
            names.retain(|name| name != "." && name != "..");
            names.sort_unstable();
            names
        })
    };
    let (moved, gone, deep) = (opened(scene, "moved"), opened(scene, "gone"), opened(scene, "above/below/d"));
    scene.shell("mv moved elsewhere; rmdir gone; mv above/below b; mv b/d b/e; rm elsewhere/a");
    assert_eq!(names(&moved).unwrap(), ["b", "in"]);
    assert_eq!(names(&deep).unwrap(), ["c"]);
    assert!(names(&gone).unwrap().is_empty());
    rustix::fs::fsync(&moved).unwrap();
}

/// Whichever name goes, by unlink or by being replaced, and whichever the
/// kernel has looked up last: what is changed by the rest is there.
pub(super) fn a_removed_directory_can_be_synced(scene: &mut Scene) {
    scene.shell("mkdir d d/below");
    let (dir, below) = (File::open(scene.at("d")).unwrap(), File::open(scene.at("d/below")).unwrap());
    scene.shell("rm -r d");
    for gone in [dir, below] {
        gone.sync_all().unwrap();
    }
}

pub(super) fn one_name_of_several_can_go(scene: &mut Scene) {
    let mut wanted = Vec::new();
    let ways = ["rm gone", "mv other gone", "mv gone kept2; rm kept2", "ln kept kept3; rm gone kept; mv kept3 kept"];
    for (number, way) in ways.into_iter().enumerate() {
        for (first, last) in [("gone", "kept"), ("kept", "gone")] {
            for before in ["", "setfattr -n user.note -v early FIRST;"] {
                let dir = format!("{number}-{first}-{}", before.len());
                let early = before.replace("FIRST", first);
                scene.shell(&format!(
                    "mkdir {dir}; cd {dir}; echo x >{first}; echo other >other; chmod 444 other; {early} ln {first} {last}; cat {last} >/dev/null; {way}\n\
                     chown 77:88 kept; chmod 2751 kept; setfattr -n user.note -v late kept"
                ));
                wanted.push(dir);
            }
        }
    }
    scene.twice(|scene| {
        for dir in &wanted {
            let kept = scene.at(dir).join("kept");
            assert_eq!(what(&kept), "102751 77:88 0", "{dir}");
            assert_eq!(note_of(&kept).as_deref(), Some(&b"late"[..]), "{dir}");
            assert_eq!(fs::read(&kept).unwrap(), b"x\n", "{dir}");
            for name in ["other", "gone"].map(|name| scene.at(dir).join(name)).into_iter().filter(|path| path.exists()) {
                assert_eq!((what(&name).as_str(), note_of(&name)), ("100444 0:0 0", None), "{}", name.display());
            }
        }
    });
    // Names that nobody has looked up since the mount: told to be impossible, or done.
    scene.shell("echo y >one; ln one two; setfattr -n user.note -v early one");
    scene.remount();
    let file = File::options().read(true).write(true).open(scene.at("one")).unwrap();
    fs::remove_file(scene.at("one")).unwrap();
    let changed = file.set_permissions(PermissionsExt::from_mode(0o604)).is_ok();
    let noted = rustix::fs::fsetxattr(&file, "user.note", b"late", XattrFlags::empty()).is_ok();
    drop(file);
    scene.twice(|scene| {
        assert_eq!(what(&scene.at("two")), if changed { "100604 0:0 0" } else { "100644 0:0 0" });
        assert_eq!(note_of(&scene.at("two")).as_deref(), Some(if noted { &b"late"[..] } else { &b"early"[..] }));
    });
}

/// The record is kept by a name in most formats. Here the one that the file was
/// opened by is gone, and another has moved, or is as yet unknown.
pub(super) fn a_name_is_found_that_nobody_looked_up(scene: &mut Scene) {
    fs::create_dir_all(scene.at("deep/down")).unwrap();
    for (first, second) in [("moved", "deep/moved"), ("unknown", "deep/down/unknown")] {
        File::create(scene.at(first)).unwrap();
        fs::hard_link(scene.at(first), scene.at(second)).unwrap();
    }
    scene.remount();
    let change = |file: File| file.set_permissions(Permissions::from_mode(0o751)).unwrap();
    let moved = File::open(scene.at("moved")).unwrap();
    fs::rename(scene.at("deep/moved"), scene.at("deep/down/again")).unwrap();
    fs::remove_file(scene.at("moved")).unwrap();
    change(moved);
    let unknown = File::open(scene.at("unknown")).unwrap();
    fs::remove_file(scene.at("unknown")).unwrap();
    change(unknown);
    for _ in 0..2 {
        for name in ["deep/down/again", "deep/down/unknown"] {
            assert_eq!(fs::metadata(scene.at(name)).unwrap().mode(), 0o100_751, "{name}");
        }
        scene.remount();
    }
}

/// Four threads make, link, rename and remove the same seven names.
pub(super) fn names_of_one_file_may_race(scene: &mut Scene) {
    let scene = &*scene;
    let work = |seed: u64| {
        let mut rng = externfs_tests::random::rng(seed);
        let mut dice = |sides: u32| rng.next_u32() % sides;
        for _ in 0..3000 {
            let [one, two] = [(); 2].map(|()| scene.at(&format!("f{}", dice(7))));
            let done = match dice(5) {
                0 => fs::write(&one, "contents"),
                1 => fs::rename(&one, &two),
                2 => fs::remove_file(&one),
                3 => fs::hard_link(&one, &two),
                _ => fs::set_permissions(&one, Permissions::from_mode(0o640)),
            };
            if let Err(error) = done {
                assert!(matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists), "{}: {error}", one.display());
            }
        }
    };
    std::thread::scope(|scope| (1..=4).for_each(|seed| drop(scope.spawn(move || work(seed)))));
    for entry in fs::read_dir(scene.root()).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
}

pub(super) fn renames_keep_both_sides_together(scene: &mut Scene) {
    scene.shell(
        "i=101; for n in a b c d e f g; do echo $n >$n; chown $i:2 $n; chmod 4711 $n; i=$((i + 1)); done\n\
         chmod 640 b; mkdir x y; chown 7:8 x; chmod 2755 x; echo in >x/in; chown 9:0 x/in",
    );
    let rename =
        |scene: &Scene, old: &str, new: &str, flags: RenameFlags| rustix::fs::renameat_with(CWD, scene.at(old), CWD, scene.at(new), flags);
    rename(scene, "a", "b", RenameFlags::empty()).unwrap();
    assert_eq!(rename(scene, "c", "d", RenameFlags::NOREPLACE), Err(Errno::EXIST));
    rename(scene, "c", "fresh", RenameFlags::NOREPLACE).unwrap();
    rename(scene, "d", "x", RenameFlags::EXCHANGE).unwrap();
    rename(scene, "e", "white", RenameFlags::WHITEOUT).unwrap();
    rename(scene, "f", "g", RenameFlags::WHITEOUT).unwrap();
    assert_eq!(rename(scene, "y", "g", RenameFlags::empty()), Err(Errno::NOTDIR));
    assert_eq!(rename(scene, "g", "y", RenameFlags::empty()), Err(Errno::ISDIR));
    assert_eq!(rename(scene, "y", "d", RenameFlags::empty()), Err(Errno::NOTEMPTY));
    assert_eq!(rename(scene, "none", "y", RenameFlags::EXCHANGE), Err(Errno::NOENT));
    assert_eq!(rename(scene, "d", "d/below", RenameFlags::empty()), Err(Errno::INVAL));
    fs::rename(scene.at("d"), scene.at("y")).unwrap();
    scene.twice(|scene| {
        let whiteout = "20000 0:0 0";
        for (name, wanted, contents) in [
            ("b", "104711 101:2 0", "a\n"),
            ("fresh", "104711 103:2 0", "c\n"),
            ("x", "104711 104:2 0", "d\n"),
            ("y", "42755 7:8 0", ""),
            ("y/in", "100644 9:0 0", "in\n"),
            ("e", whiteout, ""),
            ("white", "104711 105:2 0", "e\n"),
            ("f", whiteout, ""),
        ] {
            assert_eq!(what(&scene.at(name)), wanted, "{name}");
            if !contents.is_empty() {
                assert_eq!(fs::read_to_string(scene.at(name)).unwrap(), contents, "{name}");
            }
        }
        assert_eq!(fs::read_to_string(scene.at("g")).unwrap(), "f\n");
        assert!(["a", "c", "d"].iter().all(|name| !scene.at(name).exists()));
    });
}

fn unnamed(dir: &Path) -> File {
    rustix::fs::open(dir, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::from_raw_mode(0o640)).unwrap().into()
}

pub(super) fn what_has_no_name_yet_gets_one(scene: &mut Scene) {
    let mut file = unnamed(scene.root());
    file.write_all(b"data").unwrap();
    rustix::fs::fchown(&file, Some(rustix::fs::Uid::from_raw(42)), Some(rustix::fs::Gid::from_raw(43))).unwrap();
    file.set_permissions(PermissionsExt::from_mode(0o4750)).unwrap();
    rustix::fs::fsetxattr(&file, "user.note", b"early", XattrFlags::empty()).unwrap();
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    for name in ["named", "again"] {
        rustix::fs::linkat(CWD, path.as_str(), CWD, scene.at(name), AtFlags::SYMLINK_FOLLOW).unwrap();
    }
    drop(file);
    drop(unnamed(scene.root()));
    scene.twice(|scene| {
        for name in ["named", "again"] {
            assert_eq!(what(&scene.at(name)), "104750 42:43 0");
            assert_eq!((fs::read(scene.at(name)).unwrap(), note_of(&scene.at(name))), (b"data".to_vec(), Some(b"early".to_vec())));
        }
        assert_eq!(fs::read_dir(scene.root()).unwrap().count(), 2);
    });
}

pub(super) fn what_has_lost_its_name_goes_on(scene: &mut Scene) {
    let mut file = File::options().create_new(true).read(true).write(true).open(scene.at("f")).unwrap();
    file.write_all(b"before").unwrap();
    fs::remove_file(scene.at("f")).unwrap();
    fs::write(scene.at("f"), "its successor").unwrap();
    file.write_all(b" and after").unwrap();
    file.set_permissions(PermissionsExt::from_mode(0o4701)).unwrap();
    rustix::fs::fchown(&file, Some(rustix::fs::Uid::from_raw(42)), None).unwrap();
    rustix::fs::fsetxattr(&file, "user.note", b"lost", XattrFlags::empty()).unwrap();
    rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1 << 16).unwrap();
    file.sync_all().unwrap();
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_string(&mut text)).unwrap();
    let stat = file.metadata().unwrap();
    assert_eq!((text.as_str(), stat.nlink(), stat.uid(), stat.mode() & 0o777), ("before and after", 0, 42, 0o701));
    // A directory too, and one that was replaced.
    scene.shell("mkdir d e");
    let dir = File::open(scene.at("d")).unwrap();
    fs::rename(scene.at("e"), scene.at("d")).unwrap();
    assert_eq!(dir.metadata().unwrap().nlink(), 0);
    assert!(rustix::fs::openat(&dir, "x", OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o600)).is_err());
    drop((file, dir));
    scene.twice(|scene| {
        assert_eq!(what(&scene.at("f")), "100644 0:0 0");
        assert_eq!((fs::read(scene.at("f")).unwrap(), note_of(&scene.at("f"))), (b"its successor".to_vec(), None));
    });
}

pub(super) fn odd_names_are_kept(scene: &mut Scene) {
    let mut names: Vec<Vec<u8>> =
        vec![b"\xff\xfe\x80".to_vec(), b"new\nline".to_vec(), b" ".to_vec(), b"-rf *".to_vec(), b"a%62".to_vec(), b"...".to_vec()];
    names.extend([vec![b'n'; 255], [&b"\xc3\xbc"[..]; 127].concat(), (1..=255).filter(|&b| b != b'/').collect()]);
    let own = ["superblock", "data", "humfs", "file_metadata", "dir_metadata", ".", "metadata.db", "user.humfs", "lost+found"];
    names.extend(own.iter().filter(|name| **name != ".").map(|name| name.as_bytes().to_vec()));
    for (number, name) in names.iter().enumerate() {
        let path = scene.root().join(OsStr::from_bytes(name));
        if number % 2 == 0 {
            fs::write(&path, name).unwrap()
        } else {
            fs::create_dir(&path).and_then(|()| fs::write(path.join("in"), name)).unwrap()
        }
        std::os::unix::fs::chown(&path, Some(number as u32 + 100), Some(7)).unwrap();
    }
    assert_eq!(fs::write(scene.at(&"n".repeat(256)), "").map_err(|e| e.raw_os_error()), Err(Some(libc::ENAMETOOLONG)));
    scene.twice(|scene| {
        let mut seen: Vec<Vec<u8>> =
            fs::read_dir(scene.root()).unwrap().map(|entry| entry.unwrap().file_name().as_bytes().to_vec()).collect();
        let mut wanted = names.clone();
        seen.sort();
        wanted.sort();
        assert_eq!(seen, wanted);
        for (number, name) in names.iter().enumerate() {
            let path = scene.root().join(OsStr::from_bytes(name));
            let data = if number % 2 == 0 { fs::read(&path) } else { fs::read(path.join("in")) };
            assert_eq!((data.unwrap(), fs::metadata(&path).unwrap().uid()), (name.clone(), number as u32 + 100), "{}", path.display());
        }
    });
    for name in &names {
        let path = scene.root().join(OsStr::from_bytes(name));
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }
    scene.twice(|scene| assert_eq!(fs::read_dir(scene.root()).unwrap().count(), 0));
}

/// In the shadow formats a directory's own record has that name.
pub(super) fn directories_called_metadata_are_kept(scene: &mut Scene) {
    scene.shell(
        "mkdir metadata; chown 11 metadata; mkdir metadata/metadata; chown 12 metadata/metadata; echo x >metadata/metadata/f; chown 13 metadata/metadata/f\n\
         mkdir a; chown 14 a; echo y >a/metadata; chown 15 a/metadata; mkdir b; chown 16 b; mkdir b/metadata; chown 17 b/metadata; chmod 2700 b/metadata",
    );
    scene.twice(|scene| {
        for (name, uid) in [
            ("metadata", 11),
            ("metadata/metadata", 12),
            ("metadata/metadata/f", 13),
            ("a", 14),
            ("a/metadata", 15),
            ("b", 16),
            ("b/metadata", 17),
        ] {
            assert_eq!(fs::metadata(scene.at(name)).unwrap().uid(), uid, "{name}");
        }
    });
    // Comes, goes and moves.
    scene.shell("mv b/metadata b/other; rm a/metadata; mkdir a/metadata; chown 18 a/metadata; mv a/metadata b/metadata; chown 19 b; chmod 711 b; mv metadata/metadata top");
    scene.twice(|scene| {
        for (name, wanted) in [
            ("metadata", "40755 11:0 0"),
            ("top", "40755 12:0 0"),
            ("top/f", "100644 13:0 0"),
            ("a", "40755 14:0 0"),
            ("b", "40711 19:0 0"),
            ("b/other", "42700 17:0 0"),
            ("b/metadata", "40755 18:0 0"),
        ] {
            assert_eq!(what(&scene.at(name)), wanted, "{name}");
        }
        assert!(!scene.at("a/metadata").exists() && !scene.at("metadata/metadata").exists());
    });
    scene.shell("rm -r metadata a b top");
    scene.twice(|scene| assert_eq!(fs::read_dir(scene.root()).unwrap().count(), 0));
}

pub(super) fn the_longest_path_is_kept(scene: &mut Scene) {
    // 15 directories of 255 bytes and a file, with the slashes between: 4095.
    let name = "d".repeat(255);
    let mut dir = rustix::fs::open(scene.root(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let mut path = String::new();
    for depth in 0..15 {
        rustix::fs::mkdirat(&dir, name.as_str(), Mode::from_raw_mode(0o755)).unwrap();
        rustix::fs::chownat(&dir, name.as_str(), Some(rustix::fs::Uid::from_raw(100 + depth)), None, AtFlags::empty()).unwrap();
        dir = rustix::fs::openat(&dir, name.as_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        path.push_str(&name);
        path.push('/');
    }
    path.push_str(&"f".repeat(255));
    assert_eq!(path.len(), 4095);
    drop(dir);
    let open = |scene: &Scene| rustix::fs::open(scene.root(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    let file: File = rustix::fs::openat(open(scene), path.as_str(), flags, Mode::from_raw_mode(0o640)).unwrap().into();
    file.write_all_at(b"deep", 0).unwrap();
    rustix::fs::fchown(&file, Some(rustix::fs::Uid::from_raw(4242)), None).unwrap();
    rustix::fs::fsetxattr(&file, "user.note", b"deep", XattrFlags::empty()).unwrap();
    drop(file);
    scene.twice(|scene| {
        let root = open(scene);
        let file: File = rustix::fs::openat(&root, path.as_str(), OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap().into();
        let mut note = [0; 16];
        let stat = file.metadata().unwrap();
        assert_eq!((stat.uid(), stat.mode() & 0o7777, rustix::fs::fgetxattr(&file, "user.note", &mut note[..])), (4242, 0o640, Ok(4)));
        for depth in [0usize, 7, 14] {
            let above = &path[..(depth + 1) * 256 - 1];
            assert_eq!(rustix::fs::statat(&root, above, AtFlags::empty()).unwrap().st_uid, 100 + depth as u32);
        }
    });
    // A move of the top moves all of it.
    fs::rename(scene.at(&name), scene.at("t")).unwrap();
    let moved = format!("t{}", &path[255..]);
    scene.twice(|scene| {
        let stat = rustix::fs::statat(open(scene), moved.as_str(), AtFlags::empty()).unwrap();
        assert_eq!((stat.st_uid, stat.st_size), (4242, 4));
    });
    scene.shell("rm -r t");
    scene.twice(|scene| assert_eq!(fs::read_dir(scene.root()).unwrap().count(), 0));
}

pub(super) fn a_name_made_again_inherits_nothing(scene: &mut Scene) {
    let make = "echo x >f; mkdir d; ln -s t l; mkfifo p; mknod c c 1 3";
    let mark = "for n in f d p c; do chown 5:6 $n; chmod 7777 $n; setfattr -n trusted.a -v 1 $n; done; chown -h 5:6 l; setfattr -n user.a -v 1 f d";
    scene.shell(&format!("{make}; {mark}; rm f l p c; rmdir d; {make}"));
    let fresh = |scene: &Scene| {
        for (name, wanted) in
            [("f", "100644 0:0 0"), ("d", "40755 0:0 0"), ("l", "120777 0:0 0"), ("p", "10644 0:0 0"), ("c", "20644 0:0 259")]
        {
            assert_eq!(what(&scene.at(name)), wanted, "{name}");
            assert_eq!(rustix::fs::llistxattr(scene.at(name), &mut [0u8; 64][..]), Ok(0), "{name}");
        }
    };
    scene.twice(fresh);
    // Also where another kind of object was.
    scene.shell(&format!("{mark}; rm f l p c; rmdir d; mkdir f l p c; touch d; rmdir f l p c; rm d; {make}"));
    scene.twice(fresh);
    // And by a rename over it.
    scene.shell(&format!(
        "{mark}; echo x >f2; mkfifo p2; ln -s t l2; mknod c2 c 1 3; mkdir d2; mv f2 f; mv p2 p; mv l2 l; mv c2 c; mv -T d2 d"
    ));
    scene.twice(fresh);
}
