//! Names: making, removing, renaming, listing.

use crate::place::{Place, Verdict, done, failed, holds, look, open, refused, same};
use externfs_tests::machine::noise;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

const DIRECTORY: Mode = Mode::from_raw_mode(0o755);

/// Names in a directory, as bytes.
fn listing(dir: &Path) -> Verdict<Vec<Vec<u8>>> {
    let entries = done(format_args!("list {}", dir.display()), fs::read_dir(dir))?;
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().into_vec()));
    done(format_args!("list {}", dir.display()), names.collect())
}

fn sorted(mut names: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    names.sort();
    names
}

pub(super) fn create_and_remove(place: &Place) -> Verdict {
    let path = place.at("file");
    let exclusive = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    drop(done("create", open(&path, exclusive))?);
    refused("create again", open(&path, exclusive), Errno::EXIST)?;
    drop(done("open what is there", open(&path, OFlags::WRONLY | OFlags::CREATE))?);
    same("size", look(&path)?.st_size, 0)?;
    let sub = place.directory("sub")?;
    done("mkdir below", rustix::fs::mkdir(sub.join("a"), DIRECTORY))?;
    same("links of a directory with one below", look(&sub)?.st_nlink, 3)?;
    same("names", sorted(listing(&place.dir)?), vec![b"file".to_vec(), b"sub".to_vec()])?;
    refused("rmdir with something in it", rustix::fs::rmdir(&sub), Errno::NOTEMPTY)?;
    done("rmdir below", rustix::fs::rmdir(sub.join("a")))?;
    done("rmdir", rustix::fs::rmdir(&sub))?;
    done("unlink", rustix::fs::unlink(&path))?;
    refused("open what is gone", open(&path, OFlags::RDONLY), Errno::NOENT)?;
    same("names", listing(&place.dir)?, vec![])
}

pub(super) fn errors_are_true(place: &Place) -> Verdict {
    let file = place.file("file", "x")?;
    let dir = place.directory("dir")?;
    let none = place.at("none");
    refused("unlink nothing", rustix::fs::unlink(&none), Errno::NOENT)?;
    refused("unlink a directory", rustix::fs::unlink(&dir), Errno::ISDIR)?;
    refused("rmdir a file", rustix::fs::rmdir(&file), Errno::NOTDIR)?;
    refused("mkdir over a file", rustix::fs::mkdir(&file, DIRECTORY), Errno::EXIST)?;
    refused("below a file", rustix::fs::stat(file.join("x")), Errno::NOTDIR)?;
    refused("below nothing", rustix::fs::mkdir(none.join("x"), DIRECTORY), Errno::NOENT)?;
    refused("write to a directory", open(&dir, OFlags::WRONLY), Errno::ISDIR)?;
    refused("list a file", open(&file, OFlags::RDONLY | OFlags::DIRECTORY), Errno::NOTDIR)?;
    refused("rename nothing", rustix::fs::rename(&none, &file), Errno::NOENT)?;
    refused("rename a file over a directory", rustix::fs::rename(&file, &dir), Errno::ISDIR)?;
    refused("rename a directory over a file", rustix::fs::rename(&dir, &file), Errno::NOTDIR)?;
    refused("rename a directory into itself", rustix::fs::rename(&dir, dir.join("x")), Errno::INVAL)?;
    refused("link a directory", rustix::fs::link(&dir, place.at("link")), Errno::PERM)?;
    refused("link over a file", rustix::fs::link(&file, &dir), Errno::EXIST)?;
    refused("read a file's link", rustix::fs::readlink(&file, Vec::new()), Errno::INVAL)
}

pub(super) fn rename(place: &Place) -> Verdict {
    let one = place.file("one", "1")?;
    place.file("two", "2")?;
    let ino = look(&one)?.st_ino;
    done("rename over", rustix::fs::rename(&one, place.at("two")))?;
    refused("the old name", rustix::fs::stat(&one), Errno::NOENT)?;
    place.contains("two", "1")?;
    same("inode number", look(&place.at("two"))?.st_ino, ino)?;
    let (from, to) = (place.directory("from")?, place.directory("to")?);
    place.file("from/deep", "d")?;
    done("rename a directory", rustix::fs::rename(&from, to.join("moved")))?;
    place.contains("to/moved/deep", "d")?;
    same("links of the new parent", look(&to)?.st_nlink, 3)?;
    let empty = place.directory("empty")?;
    done("over an empty directory", rustix::fs::rename(to.join("moved"), &empty))?;
    place.contains("empty/deep", "d")?;
    done("onto itself", rustix::fs::rename(place.at("two"), place.at("two")))?;
    refused("over a full directory", rustix::fs::rename(&to, &empty), Errno::NOTEMPTY)
}

pub(super) fn rename_flags(place: &Place) -> Verdict {
    let (one, two) = (place.file("one", "1")?, place.file("two", "2")?);
    let with = |from: &Path, to: &Path, flags| rustix::fs::renameat_with(CWD, from, CWD, to, flags);
    refused("NOREPLACE over a file", with(&one, &two, RenameFlags::NOREPLACE), Errno::EXIST)?;
    done("NOREPLACE to a new name", with(&one, &place.at("three"), RenameFlags::NOREPLACE))?;
    done("EXCHANGE", with(&place.at("three"), &two, RenameFlags::EXCHANGE))?;
    place.contains("two", "1")?;
    place.contains("three", "2")?;
    let dir = place.directory("dir")?;
    place.file("dir/inside", "i")?;
    done("EXCHANGE a file and a directory", with(&two, &dir, RenameFlags::EXCHANGE))?;
    place.contains("two/inside", "i")?;
    place.contains("dir", "1")?;
    refused("EXCHANGE with nothing", with(&two, &place.at("none"), RenameFlags::EXCHANGE), Errno::NOENT)?;
    let both = RenameFlags::EXCHANGE | RenameFlags::NOREPLACE;
    refused("EXCHANGE and NOREPLACE", with(&two, &dir, both), Errno::INVAL)
}

/// What overlayfs leaves in place of a file that it has renamed.
pub(super) fn whiteout(place: &Place) -> Verdict {
    let one = place.file("one", "1")?;
    done("WHITEOUT", rustix::fs::renameat_with(CWD, &one, CWD, place.at("two"), RenameFlags::WHITEOUT))?;
    place.contains("two", "1")?;
    let left = look(&one)?;
    same("kind of what is left", FileType::from_raw_mode(left.st_mode), FileType::CharacterDevice)?;
    same("its number", left.st_rdev, 0)
}

pub(super) fn odd_bytes(place: &Place) -> Verdict {
    let names: Vec<Vec<u8>> = vec![
        b"\xff\xfe\x80".to_vec(),
        b"new\nline".to_vec(),
        b" ".to_vec(),
        b"-rf".to_vec(),
        b"...".to_vec(),
        b"a\\b\"c'd".to_vec(),
        b"\x01\x7f\x1b[31m".to_vec(),
        "Gr\u{fc}\u{df}e \u{1f600}".as_bytes().to_vec(),
        b"e\xcc\x81".to_vec(),
        b"\xc3\xa9".to_vec(),
        b"CON".to_vec(),
        b"con".to_vec(),
    ];
    for name in &names {
        done(format_args!("create {name:?}"), fs::write(place.at_bytes(name), name))?;
    }
    same("names", sorted(listing(&place.dir)?), sorted(names.clone()))?;
    for name in &names {
        same(format_args!("contents of {name:?}"), done("read", fs::read(place.at_bytes(name)))?, name.clone())?;
        done(format_args!("unlink {name:?}"), fs::remove_file(place.at_bytes(name)))?;
    }
    same("names", listing(&place.dir)?, vec![])
}

pub(super) fn length_limits(place: &Place) -> Verdict {
    let (longest, too_long) = ("n".repeat(255), "n".repeat(256));
    place.file(&longest, "long")?;
    place.contains(&longest, "long")?;
    same("names", listing(&place.dir)?, vec![longest.clone().into_bytes()])?;
    let bad = place.at(&too_long);
    refused("stat of 256 bytes", rustix::fs::stat(&bad), Errno::NAMETOOLONG)?;
    refused("create of 256 bytes", open(&bad, OFlags::CREATE | OFlags::WRONLY), Errno::NAMETOOLONG)?;
    refused("mkdir of 256 bytes", rustix::fs::mkdir(&bad, DIRECTORY), Errno::NAMETOOLONG)?;
    refused("rename to 256 bytes", rustix::fs::rename(place.at(&longest), &bad), Errno::NAMETOOLONG)?;
    refused("symlink of 256 bytes", rustix::fs::symlink("x", &bad), Errno::NAMETOOLONG)
}

/// A tree whose paths no system call takes, and back out of it.
pub(super) fn deep_paths(place: &Place) -> Verdict {
    const DEPTH: usize = 120;
    let name = "d".repeat(60);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut dirs = vec![done("open", open(&place.dir, flags))?];
    for depth in 0..DEPTH {
        let Some(parent) = dirs.last() else { return failed("no parent") };
        done(format_args!("mkdir at depth {depth}"), rustix::fs::mkdirat(parent, &name, DIRECTORY))?;
        let next = done(format_args!("open at depth {depth}"), rustix::fs::openat(parent, &name, flags, Mode::empty()))?;
        dirs.push(next);
    }
    let Some(bottom) = dirs.last() else { return failed("no bottom") };
    let create = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    drop(done("create at the bottom", rustix::fs::openat(bottom, "leaf", create, Mode::RUSR))?);
    let found = done("stat at the bottom", rustix::fs::statat(bottom, "leaf", AtFlags::empty()))?;
    same("kind", FileType::from_raw_mode(found.st_mode), FileType::RegularFile)?;
    done("unlink at the bottom", rustix::fs::unlinkat(bottom, "leaf", AtFlags::empty()))?;
    dirs.pop();
    while let Some(parent) = dirs.pop() {
        done(format_args!("rmdir at depth {}", dirs.len()), rustix::fs::unlinkat(&parent, &name, AtFlags::REMOVEDIR))?;
    }
    Ok(())
}

pub(super) fn many(place: &Place) -> Verdict {
    const COUNT: usize = 5000;
    let dir = place.directory("many")?;
    let wanted: Vec<Vec<u8>> = (0..COUNT).map(|number| format!("entry-{number:05}").into_bytes()).collect();
    for name in &wanted {
        done("create", fs::File::create(dir.join(OsString::from_vec(name.clone()))))?;
    }
    same("names", sorted(listing(&dir)?), wanted.clone())?;
    // From the start again after a part, as rewinddir(3).
    let mut stream = done("opendir", open(&dir, OFlags::RDONLY | OFlags::DIRECTORY).and_then(Dir::new))?;
    for _ in 0..1234 {
        done("readdir", stream.read().unwrap_or(Err(Errno::NOENT)))?;
    }
    stream.rewind();
    let mut seen = BTreeSet::new();
    while let Some(entry) = stream.read() {
        let name = done("readdir", entry)?.file_name().to_bytes().to_vec();
        let shown = format!("{name:?} is listed twice");
        holds(shown, seen.insert(name))?;
    }
    same("names after rewinding, with . and ..", seen.len(), COUNT + 2)?;
    for name in &wanted {
        done("unlink", fs::remove_file(dir.join(OsString::from_vec(name.clone()))))?;
    }
    same("names after all", listing(&dir)?, vec![])
}

/// As `rm -r` does: none may be skipped, none may come twice.
pub(super) fn remove_while_listing(place: &Place) -> Verdict {
    let dir = place.directory("listed")?;
    for number in 0..1500 {
        done("create", fs::File::create(dir.join(format!("n{number}"))))?;
    }
    let mut removed = 0;
    for entry in done("list", fs::read_dir(&dir))? {
        done("unlink", fs::remove_file(done("readdir", entry)?.path()))?;
        removed += 1;
    }
    same("removed", removed, 1500)?;
    done("rmdir", rustix::fs::rmdir(&dir))
}

pub(super) fn inode_numbers_agree(place: &Place) -> Verdict {
    let sub = place.directory("sub")?;
    place.file("sub/file", "")?;
    done("symlink", rustix::fs::symlink("file", sub.join("link")))?;
    let mut stream = done("opendir", open(&sub, OFlags::RDONLY | OFlags::DIRECTORY).and_then(Dir::new))?;
    let mut seen = 0;
    while let Some(entry) = stream.read() {
        let entry = done("readdir", entry)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = match name.as_str() {
            "." => sub.clone(),
            ".." => place.dir.clone(),
            other => sub.join(other),
        };
        let found = look(&path)?;
        same(format_args!("number of {name}"), entry.ino(), found.st_ino)?;
        same(format_args!("kind of {name}"), entry.file_type(), FileType::from_raw_mode(found.st_mode))?;
        seen += 1;
    }
    same("entries", seen, 4)
}

/// Threads that fall over each other's names; in the end all is gone.
pub(super) fn four_at_once(place: &Place) -> Verdict {
    let work = |seed: u64| -> Verdict {
        for value in noise::words(seed).take(400) {
            let (one, two) = (place.at(format!("f{}", value % 7)), place.at(format!("f{}", value / 7 % 7)));
            let tolerated = match value / 64 % 5 {
                0 => fs::write(&one, value.to_string()),
                1 => fs::rename(&one, &two),
                2 => fs::remove_file(&one),
                3 => fs::hard_link(&one, &two),
                _ => fs::read(&one).map(drop),
            };
            if let Err(error) = tolerated
                && !matches!(error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::NOENT | Errno::EXIST))
            {
                return failed(format_args!("{error}"));
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..=4).map(|seed| scope.spawn(move || work(seed))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| failed("panicked")))
    })?;
    for name in listing(&place.dir)? {
        done("unlink", fs::remove_file(place.at_bytes(&name)))?;
    }
    same("names", listing(&place.dir)?, vec![])
}
