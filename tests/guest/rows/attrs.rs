//! Mode, times, size.

use crate::place::{Change, Place, Verdict, done, holds, look, mode_of, open, refused, same, set_mode, skipped};
use rustix::fs::{AtFlags, CWD, IFlags, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};
use rustix::io::Errno;
use std::fs;
use std::path::Path;
use std::time::Duration;

pub(super) fn mode_bits(place: &Place) -> Verdict {
    let file = place.file("file", "x")?;
    let dir = place.directory("dir")?;
    for mode in [0, 0o777, 0o644, 0o4755, 0o2755, 0o1777, 0o7777, 0o111] {
        for path in [&file, &dir] {
            set_mode(path, mode)?;
            same(format_args!("mode of {}", path.display()), mode_of(path)?, mode)?;
        }
    }
    set_mode(&dir, 0o755)?;
    // A server of an ordinary user opens no file that its owner may not read.
    set_mode(&file, 0o600)?;
    let fd = done("open", open(&file, OFlags::RDONLY))?;
    done("fchmod", rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o640)))?;
    same("mode", mode_of(&file)?, 0o640)
}

fn stamp(seconds: i64, nanoseconds: i64) -> Timespec {
    Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ }
}

fn set_times(path: &Path, access: Timespec, modification: Timespec) -> Verdict {
    let times = Timestamps { last_access: access, last_modification: modification };
    done(format_args!("utimensat {}", path.display()), utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW))
}

/// Access and modification.
fn times(path: &Path) -> Verdict<[(i64, i64); 2]> {
    let found = look(path)?;
    Ok([(found.st_atime as i64, found.st_atime_nsec as i64), (found.st_mtime as i64, found.st_mtime_nsec as i64)])
}

fn change_time(path: &Path) -> Verdict<(i64, i64)> {
    let found = look(path)?;
    Ok((found.st_ctime as i64, found.st_ctime_nsec as i64))
}

pub(super) fn times_to_the_nanosecond(place: &Place) -> Verdict {
    let file = place.file("file", "x")?;
    let dir = place.directory("dir")?;
    let link = place.at("link");
    done("symlink", rustix::fs::symlink("file", &link))?;
    // Before 1970, and past 2038 and 2106: ext4 keeps 34 bits.
    for (access, modification) in [((1_000_000_000, 123_456_789), (1, 1)), ((-1, 999_999_999), (-86_400, 0)), ((5_000_000_000, 7), (0, 0))]
    {
        for path in [&file, &dir, &link] {
            set_times(path, stamp(access.0, access.1), stamp(modification.0, modification.1))?;
            same(path.display(), times(path)?, [access, modification])?;
        }
    }
    let fd = done("open", open(&file, OFlags::RDONLY))?;
    let both = Timestamps { last_access: stamp(3, 4), last_modification: stamp(5, 6) };
    done("futimens", rustix::fs::futimens(&fd, &both))?;
    same("by descriptor", times(&file)?, [(3, 4), (5, 6)])
}

pub(super) fn now_and_omit(place: &Place) -> Verdict {
    let file = place.file("file", "x")?;
    set_times(&file, stamp(10, 11), stamp(12, 13))?;
    set_times(&file, stamp(20, 21), stamp(0, UTIME_OMIT))?;
    same("modification omitted", times(&file)?, [(20, 21), (12, 13)])?;
    set_times(&file, stamp(0, UTIME_OMIT), stamp(30, 31))?;
    same("access omitted", times(&file)?, [(20, 21), (30, 31)])?;
    set_times(&file, stamp(0, UTIME_OMIT), stamp(0, UTIME_NOW))?;
    let [access, modification] = times(&file)?;
    same("access omitted", access, (20, 21))?;
    holds("modification is now", modification.0 > 1_000_000_000)
}

/// A clock tick of either kernel.
fn pause() {
    std::thread::sleep(Duration::from_millis(25));
}

pub(super) fn times_move(place: &Place) -> Verdict {
    let file = place.file("file", "x")?;
    let steps: [(&str, Change); 5] = [
        ("chmod", |path| fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))),
        ("link", |path| fs::hard_link(path, path.with_extension("link"))),
        ("unlink of the link", |path| fs::remove_file(path.with_extension("link"))),
        ("rename", |path| fs::rename(path, path.with_extension("new")).and_then(|()| fs::rename(path.with_extension("new"), path))),
        ("setxattr", |path| Ok(rustix::fs::setxattr(path, "user.x", b"1", rustix::fs::XattrFlags::empty())?)),
    ];
    for (what, step) in steps {
        let before = (change_time(&file)?, times(&file)?[1]);
        pause();
        done(what, step(&file))?;
        holds(format_args!("{what} moves the change time"), change_time(&file)? > before.0)?;
        same(format_args!("{what} leaves the modification time"), times(&file)?[1], before.1)?;
    }
    let before = (change_time(&file)?, times(&file)?[1]);
    pause();
    done("write", fs::write(&file, "yy"))?;
    holds("write moves both", change_time(&file)? > before.0 && times(&file)?[1] > before.1)?;
    let before = times(&place.dir)?[1];
    pause();
    place.file("another", "")?;
    holds("create moves the directory's", times(&place.dir)?[1] > before)?;
    let before = times(&place.dir)?[1];
    pause();
    done("unlink", fs::remove_file(place.at("another")))?;
    holds("unlink moves the directory's", times(&place.dir)?[1] > before)
}

pub(super) fn umask(place: &Place) -> Verdict {
    let make = || -> Verdict<[u32; 4]> {
        let (file, dir, fifo, temporary) = (place.at("file"), place.at("dir"), place.at("fifo"), &place.dir);
        let all = Mode::from_raw_mode(0o777);
        let opened = rustix::fs::open(&file, OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC, all);
        drop(done("create", opened)?);
        done("mkdir", rustix::fs::mkdir(&dir, all))?;
        done("mkfifo", rustix::fs::mkfifoat(CWD, &fifo, all))?;
        let nameless = done("tmpfile", rustix::fs::open(temporary, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, all))?;
        let nameless = done("fstat", rustix::fs::fstat(&nameless))?.st_mode & 0o7777;
        Ok([mode_of(&file)?, mode_of(&dir)?, mode_of(&fifo)?, nameless])
    };
    let usual = rustix::process::umask(Mode::from_raw_mode(0o027));
    let modes = make();
    rustix::process::umask(usual);
    same("file, directory, fifo, nameless", modes?, [0o750; 4])
}

pub(super) fn size(place: &Place) -> Verdict {
    let file = place.file("file", vec![1; 10_000])?;
    same("size", look(&file)?.st_size, 10_000)?;
    holds("blocks", look(&file)?.st_blocks * 512 >= 10_000)?;
    let fd = done("open", open(&file, OFlags::RDONLY))?;
    refused("ftruncate of what is open for reading", rustix::fs::ftruncate(&fd, 1), Errno::INVAL)?;
    let dir = place.directory("dir")?;
    let set = rustix::fs::open(&dir, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    refused("a directory for writing", set, Errno::ISDIR)?;
    holds("block size", look(&file)?.st_blksize > 0)
}

/// chattr(1), lsattr(1).
pub(super) fn inode_flags(place: &Place) -> Verdict {
    let file = place.file("file", "x")?;
    let fd = done("open", open(&file, OFlags::RDWR))?;
    let flags = match rustix::fs::ioctl_getflags(&fd) {
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS) => return skipped("this server has no inode flags"),
        other => done("FS_IOC_GETFLAGS", other)?,
    };
    match rustix::fs::ioctl_setflags(&fd, flags | IFlags::NODUMP) {
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => return skipped("this server does not set inode flags"),
        other => done("FS_IOC_SETFLAGS", other)?,
    }
    same("no-dump flag", done("FS_IOC_GETFLAGS", rustix::fs::ioctl_getflags(&fd))?.contains(IFlags::NODUMP), true)
}
