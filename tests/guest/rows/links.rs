//! Several names, no name, and names of names.

use crate::place::{Place, Verdict, done, failed, look, open, refused, same};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;

pub(super) fn hard(place: &Place) -> Verdict {
    let one = place.file("one", "first")?;
    let two = place.at("two");
    done("link", rustix::fs::link(&one, &two))?;
    let (a, b) = (look(&one)?, look(&two)?);
    same("inode", (a.st_dev, a.st_ino), (b.st_dev, b.st_ino))?;
    same("links", (a.st_nlink, b.st_nlink), (2, 2))?;
    done("write through one", fs::write(&one, "second, longer"))?;
    place.contains("two", "second, longer")?;
    same("size of the other", look(&two)?.st_size, 14)?;
    done("chmod through two", rustix::fs::chmod(&two, Mode::from_raw_mode(0o600)))?;
    same("mode of the other", look(&one)?.st_mode & 0o7777, 0o600)?;
    done("unlink one", rustix::fs::unlink(&one))?;
    same("links", look(&two)?.st_nlink, 1)?;
    place.contains("two", "second, longer")
}

pub(super) fn symbolic(place: &Place) -> Verdict {
    place.file("target", "found")?;
    let link = place.at("link");
    done("symlink", rustix::fs::symlink("target", &link))?;
    same("its size", look(&link)?.st_size, 6)?;
    place.contains("link", "found")?;
    let long = "t".repeat(4095);
    done("symlink of 4095 bytes", rustix::fs::symlink(&long, place.at("long")))?;
    let seen = done("readlink", rustix::fs::readlink(place.at("long"), Vec::new()))?;
    same("4095 bytes", seen.to_bytes() == long.as_bytes(), true)?;
    let odd = b"\xff/../\n";
    done("symlink of odd bytes", rustix::fs::symlink(&odd[..], place.at("odd")))?;
    same("odd bytes", done("readlink", rustix::fs::readlink(place.at("odd"), Vec::new()))?.into_bytes(), odd.to_vec())?;
    done("symlink to itself", rustix::fs::symlink("loop", place.at("loop")))?;
    refused("open a loop", open(&place.at("loop"), OFlags::RDONLY), Errno::LOOP)?;
    refused("open a link without following", open(&link, OFlags::RDONLY | OFlags::NOFOLLOW), Errno::LOOP)?;
    done("hard link to a symbolic one", rustix::fs::linkat(CWD, &link, CWD, place.at("again"), AtFlags::empty()))?;
    same("links", look(&link)?.st_nlink, 2)?;
    done("unlink the target", rustix::fs::unlink(place.at("target")))?;
    refused("open a dangling link", open(&link, OFlags::RDONLY), Errno::NOENT)?;
    // An absolute target is the guest's, not the host's.
    done("symlink", rustix::fs::symlink("/proc/sys/kernel/osrelease", place.at("absolute")))?;
    let guests = done("read", fs::read("/proc/sys/kernel/osrelease"))?;
    place.contains("absolute", guests)
}

/// A file without a name that gets one.
pub(super) fn tmpfile(place: &Place) -> Verdict {
    let flags = OFlags::TMPFILE | OFlags::RDWR;
    let mut file = File::from(done("open(O_TMPFILE)", open(&place.dir, flags))?);
    done("write", file.write_all(b"nameless"))?;
    same("links", done("fstat", fstat(&file))?.st_nlink, 0)?;
    same("names", done("list", fs::read_dir(&place.dir))?.count(), 0)?;
    let by_number = format!("/proc/self/fd/{}", file.as_raw_fd());
    done("linkat", rustix::fs::linkat(CWD, by_number, CWD, place.at("named"), AtFlags::SYMLINK_FOLLOW))?;
    place.contains("named", "nameless")?;
    same("links", look(&place.at("named"))?.st_nlink, 1)?;
    let exclusive = File::from(done("open(O_TMPFILE|O_EXCL)", open(&place.dir, flags | OFlags::EXCL))?);
    let by_number = format!("/proc/self/fd/{}", exclusive.as_raw_fd());
    let named = rustix::fs::linkat(CWD, by_number, CWD, place.at("never"), AtFlags::SYMLINK_FOLLOW);
    refused("linkat after O_EXCL", named, Errno::NOENT)
}

pub(super) fn unlinked_but_open(place: &Place) -> Verdict {
    let path = place.file("file", "still here")?;
    let mut file = done("open", File::options().read(true).write(true).open(&path))?;
    done("unlink", rustix::fs::unlink(&path))?;
    same("links", done("fstat", fstat(&file))?.st_nlink, 0)?;
    let mut text = String::new();
    done("read", file.read_to_string(&mut text))?;
    same("contents", text.as_str(), "still here")?;
    done("write", file.write_all(b" and grows"))?;
    done("fchmod", rustix::fs::fchmod(&file, Mode::from_raw_mode(0o640)))?;
    done("truncate", file.set_len(5))?;
    done("seek", file.rewind())?;
    text.clear();
    done("read", file.read_to_string(&mut text))?;
    same("contents", text.as_str(), "still")?;
    let found = done("fstat", fstat(&file))?;
    same("mode and size", (found.st_mode & 0o7777, found.st_size), (0o640, 5))?;
    place.file("file", "a new one")?;
    same("the same inode", look(&path)?.st_ino == found.st_ino, false)
}

pub(super) fn renamed_over_but_open(place: &Place) -> Verdict {
    let old = place.file("old", "old")?;
    let new = place.file("new", "new")?;
    let mut file = done("open", File::open(&old))?;
    done("rename", rustix::fs::rename(&new, &old))?;
    let mut text = String::new();
    done("read", file.read_to_string(&mut text))?;
    same("what was open", text.as_str(), "old")?;
    place.contains("old", "new")
}

pub(super) fn removed_directory(place: &Place) -> Verdict {
    let dir = place.directory("dir")?;
    let held = done("open", open(&dir, OFlags::RDONLY | OFlags::DIRECTORY))?;
    done("rmdir", rustix::fs::rmdir(&dir))?;
    let create = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    refused("create in it", rustix::fs::openat(&held, "x", create, Mode::RUSR), Errno::NOENT)?;
    let mut stream = done("read it", rustix::fs::Dir::read_from(&held))?;
    while let Some(entry) = stream.read() {
        let name = done("readdir", entry)?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            return failed(format_args!("{name:?} is in it"));
        }
    }
    Ok(())
}
