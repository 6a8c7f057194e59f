//! Who may do what, and whose a new object is.

use crate::place::{ALICE, BOB, Change, Place, User, Verdict, change_owner, done, look, mode_of, open, refused, same, set_mode, set_owner};
use rustix::fs::{CWD, FallocateFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

const DIRECTORY: Mode = Mode::from_raw_mode(0o755);

fn owner(path: &Path) -> Verdict<(u32, u32)> {
    let found = look(path)?;
    Ok((found.st_uid, found.st_gid))
}

pub(super) fn chown(place: &Place) -> Verdict {
    let file = place.file("file", "x")?;
    let link = place.at("link");
    done("symlink", rustix::fs::symlink("file", &link))?;
    for (uid, gid) in [(1001, 1002), (0, 0), (65_534, 65_534), (4_000_000_000, 3_000_000_000)] {
        set_owner(&file, uid, gid)?;
        set_owner(&link, gid, uid)?;
        same("file", owner(&file)?, (uid, gid))?;
        same("symlink", owner(&link)?, (gid, uid))?;
    }
    set_owner(&file, ALICE.uid, ALICE.gid)?;
    ALICE.acts(|| {
        refused("give away", change_owner(&file, BOB.uid, ALICE.gid), Errno::PERM)?;
        refused("a foreign group", change_owner(&file, ALICE.uid, 0), Errno::PERM)
    })?;
    set_owner(&file, BOB.uid, BOB.gid)?;
    BOB.acts(|| done("a group of one's own", change_owner(&file, BOB.uid, BOB.groups[0])))?;
    same("group", owner(&file)?, (BOB.uid, BOB.groups[0]))
}

pub(super) fn others_are_denied(place: &Place) -> Verdict {
    let secret = place.file("secret", "s")?;
    set_mode(&secret, 0o600)?;
    let closed = place.directory("closed")?;
    place.file("closed/inside", "i")?;
    set_mode(&closed, 0o700)?;
    let open_dir = place.directory("open")?;
    ALICE.acts(|| {
        refused("read", open(&secret, OFlags::RDONLY), Errno::ACCESS)?;
        refused("write", open(&secret, OFlags::WRONLY), Errno::ACCESS)?;
        refused("chmod", rustix::fs::chmod(&secret, Mode::from_raw_mode(0o777)), Errno::PERM)?;
        refused("list", open(&closed, OFlags::RDONLY | OFlags::DIRECTORY), Errno::ACCESS)?;
        refused("reach into", rustix::fs::stat(closed.join("inside")), Errno::ACCESS)?;
        refused("create in", open(&open_dir.join("x"), OFlags::CREATE | OFlags::WRONLY), Errno::ACCESS)?;
        refused("unlink", rustix::fs::unlink(&secret), Errno::ACCESS)?;
        refused("rename", rustix::fs::rename(&secret, place.at("mine")), Errno::ACCESS)?;
        let times = rustix::fs::Timestamps {
            last_access: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
            last_modification: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
        };
        let set = rustix::fs::utimensat(CWD, &secret, &times, rustix::fs::AtFlags::empty());
        refused("set times", set, Errno::PERM)?;
        let set = rustix::fs::setxattr(&secret, "user.x", b"1", rustix::fs::XattrFlags::empty());
        refused("set an xattr", set, Errno::ACCESS)?;
        refused("truncate", rustix::fs::open(&secret, OFlags::WRONLY | OFlags::TRUNC, Mode::empty()), Errno::ACCESS)
    })?;
    place.contains("secret", "s")
}

pub(super) fn groups_are_allowed(place: &Place) -> Verdict {
    let shared = place.file("shared", "team")?;
    set_owner(&shared, 0, BOB.groups[0])?;
    set_mode(&shared, 0o660)?;
    let dir = place.directory("team")?;
    set_owner(&dir, 0, BOB.groups[0])?;
    set_mode(&dir, 0o770)?;
    BOB.acts(|| {
        // Bob has the group among his supplementary ones only: the server, too, has to let him.
        done("read", fs::read(&shared))?;
        done("write", fs::write(&shared, "by bob"))?;
        done("create", fs::write(dir.join("file"), "x"))?;
        done("mkdir", rustix::fs::mkdir(dir.join("sub"), DIRECTORY))?;
        done("symlink", rustix::fs::symlink("x", dir.join("link")))?;
        done("mkfifo", rustix::fs::mkfifoat(CWD, dir.join("fifo"), Mode::from_raw_mode(0o600)))?;
        done("link", rustix::fs::link(dir.join("file"), dir.join("second")))?;
        done("rename", rustix::fs::rename(dir.join("file"), dir.join("third")))?;
        done("unlink", rustix::fs::unlink(dir.join("third")))?;
        done("list", fs::read_dir(&dir).map(Iterator::count)).map(drop)
    })?;
    same("owner", owner(&dir.join("second"))?, (BOB.uid, BOB.gid))?;
    ALICE.acts(|| refused("read by another", open(&shared, OFlags::RDONLY), Errno::ACCESS))?;
    const PRIMARY: User = User { uid: 1003, gid: 2000, groups: &[] };
    PRIMARY.acts(|| done("read by the primary group", fs::read(&shared)).map(drop))
}

/// One of each kind, made in `dir`, and a nameless one that gets a name.
fn make_all(dir: &Path) -> Verdict<Vec<&'static str>> {
    done("create", fs::write(dir.join("file"), "x"))?;
    done("mkdir", rustix::fs::mkdir(dir.join("sub"), DIRECTORY))?;
    done("symlink", rustix::fs::symlink("x", dir.join("link")))?;
    done("mkfifo", rustix::fs::mkfifoat(CWD, dir.join("fifo"), Mode::from_raw_mode(0o600)))?;
    done("mknod", rustix::fs::mknodat(CWD, dir.join("node"), FileType::RegularFile, Mode::RUSR, 0))?;
    done("mknod of a socket", rustix::fs::mknodat(CWD, dir.join("socket"), FileType::Socket, Mode::RUSR, 0))?;
    let nameless = done("tmpfile", open(dir, OFlags::TMPFILE | OFlags::RDWR))?;
    let number = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&nameless));
    let named = rustix::fs::linkat(CWD, number, CWD, dir.join("temporary"), rustix::fs::AtFlags::SYMLINK_FOLLOW);
    done("name the nameless", named)?;
    Ok(vec!["file", "sub", "link", "fifo", "node", "socket", "temporary"])
}

pub(super) fn creator_owns(place: &Place) -> Verdict {
    let dir = place.directory("dir")?;
    set_mode(&dir, 0o777)?;
    let names = BOB.acts(|| make_all(&dir))?;
    for name in names {
        same(name, owner(&dir.join(name))?, (BOB.uid, BOB.gid))?;
    }
    Ok(())
}

pub(super) fn setgid_directory(place: &Place) -> Verdict {
    let dir = place.directory("dir")?;
    set_owner(&dir, 0, 3000)?;
    set_mode(&dir, 0o2777)?;
    let names = BOB.acts(|| make_all(&dir))?;
    for name in names {
        same(name, owner(&dir.join(name))?, (BOB.uid, 3000))?;
    }
    same("mode of a directory below", mode_of(&dir.join("sub"))?, 0o2755)?;
    // A stranger to the group makes no setgid program there.
    BOB.acts(|| {
        let mode = Mode::from_raw_mode(0o2775);
        let made = rustix::fs::open(dir.join("program"), OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC, mode);
        done("create with setgid", made).map(drop)
    })?;
    same("setgid of a new file", mode_of(&dir.join("program"))? & 0o2000, 0)
}

pub(super) fn sticky_directory(place: &Place) -> Verdict {
    let dir = place.directory("dir")?;
    set_mode(&dir, 0o1777)?;
    ALICE.acts(|| done("create", fs::write(dir.join("hers"), "x")))?;
    BOB.acts(|| {
        refused("unlink another's", rustix::fs::unlink(dir.join("hers")), Errno::PERM)?;
        refused("rename another's", rustix::fs::rename(dir.join("hers"), dir.join("his")), Errno::PERM)?;
        done("create", fs::write(dir.join("his"), "x"))?;
        done("unlink one's own", rustix::fs::unlink(dir.join("his")))
    })?;
    ALICE.acts(|| done("unlink one's own", rustix::fs::unlink(dir.join("hers"))))
}

/// The ways in which a user changes a program that is setuid to another.
pub(super) fn setuid_goes_on_write(place: &Place) -> Verdict {
    let changes: [(&str, Change); 5] = [
        ("write", |path| File::options().write(true).open(path)?.write_all(b"x")),
        ("append", |path| File::options().append(true).open(path)?.write_all(b"x")),
        ("truncate", |path| File::options().write(true).open(path)?.set_len(1)),
        ("open(O_TRUNC)", |path| File::create(path).map(drop)),
        ("fallocate", |path| {
            let file = File::options().write(true).open(path)?;
            Ok(rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 8192)?)
        }),
    ];
    for (what, change) in changes {
        let file = place.file("program", "data")?;
        set_mode(&file, 0o6777)?;
        ALICE.acts(|| done(what, change(&file)))?;
        same(format_args!("mode after {what}"), mode_of(&file)?, 0o777)?;
        done("unlink", fs::remove_file(&file))?;
    }
    let file = place.file("program", "data")?;
    set_mode(&file, 0o6755)?;
    done("write by root", File::options().write(true).open(&file).and_then(|mut file| file.write_all(b"x")))?;
    same("mode after root's write", mode_of(&file)?, 0o6755)
}

pub(super) fn setuid_goes_on_chown(place: &Place) -> Verdict {
    let file = place.file("program", "data")?;
    set_mode(&file, 0o6755)?;
    set_owner(&file, ALICE.uid, ALICE.gid)?;
    same("mode after chown", mode_of(&file)?, 0o755)?;
    let dir = place.directory("dir")?;
    set_mode(&dir, 0o2755)?;
    set_owner(&dir, ALICE.uid, ALICE.gid)?;
    same("mode of a directory after chown", mode_of(&dir)?, 0o2755)
}
