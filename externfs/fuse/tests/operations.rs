//! Each operation that fuser carries, through a real mount, against the host
//! directory that it happens in.

#![allow(clippy::unwrap_used)] // A test that cannot set its stage ends.

mod support;

use nix::sys::time::TimeSpec;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use support::{Mounted, can_mount, can_serve};

const WAYS: [&str; 6] = [
    "transport=native,passthrough=off",
    "transport=native,passthrough=auto",
    "uring=on,passthrough=off",
    "uring=on,passthrough=auto",
    "transport=fuser,passthrough=off",
    "transport=fuser,passthrough=auto,threads=1",
];

/// Runs `test` on a mount for each way of serving data, and checks that nothing
/// stays behind.
fn on_each(plugin: &str, test: impl Fn(&Mounted)) {
    if !can_mount() {
        return;
    }
    for way in WAYS.into_iter().filter(|way| can_serve(way)) {
        eprintln!("way: {way}");
        let mounted = Mounted::hostfs(plugin, way);
        test(&mounted);
        let export = mounted.export.clone();
        assert_eq!(mounted.end(), externfs_fuse::ExitReason::Stopped, "{way}");
        assert!(export.upgrade().is_none(), "{way}: the export outlives its mount");
    }
}

#[test]
fn data_goes_through() {
    on_each("", |m| {
        let text: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        fs::write(m.path("f"), &text).unwrap();
        assert_eq!(fs::read(m.host.join("f")).unwrap(), text);
        assert_eq!(fs::read(m.path("f")).unwrap(), text);
        let mut file = OpenOptions::new().append(true).open(m.path("f")).unwrap();
        file.write_all(b"end").unwrap();
        file.sync_all().unwrap();
        let mut file = OpenOptions::new().read(true).write(true).open(m.path("f")).unwrap();
        file.seek(SeekFrom::End(-3)).unwrap();
        let mut end = String::new();
        file.read_to_string(&mut end).unwrap();
        assert_eq!(end, "end");
        file.write_at(b"X", 1).unwrap();
        file.set_len(2).unwrap();
        assert_eq!(fs::read(m.host.join("f")).unwrap(), b"\0X");
        File::create(m.path("f")).unwrap();
        assert_eq!(fs::metadata(m.path("f")).unwrap().len(), 0);
    });
}

#[test]
fn direct_files_work_and_can_be_mapped() {
    if !can_mount() {
        return;
    }
    for way in WAYS.into_iter().filter(|way| can_serve(way)) {
        let m = Mounted::hostfs("direct-io", way);
        fs::write(m.path("f"), vec![b'a'; 10_000]).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(m.path("f")).unwrap();
        let mut byte = [0];
        file.read_at(&mut byte, 9_999).unwrap();
        assert_eq!(byte, *b"a");
        support::map_and_write(&file, 5000, b'Z');
        drop(file);
        assert_eq!(fs::read(m.host.join("f")).unwrap()[5000], b'Z', "{way}");
    }
}

#[test]
fn names_are_made_moved_and_removed() {
    on_each("", |m| {
        fs::create_dir(m.path("d")).unwrap();
        fs::write(m.path("d/a"), "a").unwrap();
        fs::write(m.path("b"), "b").unwrap();
        fs::hard_link(m.path("b"), m.path("d/l")).unwrap();
        assert_eq!(fs::metadata(m.path("b")).unwrap().nlink(), 2);
        symlink("../b", m.path("d/s")).unwrap();
        assert_eq!(fs::read_link(m.path("d/s")).unwrap().as_os_str(), "../b");
        assert_eq!(fs::read(m.path("d/s")).unwrap(), b"b");
        fs::rename(m.path("d/a"), m.path("c")).unwrap();
        assert!(!m.path("d/a").exists() && m.host.join("c").exists());
        assert_eq!(fs::remove_dir(m.path("d")).unwrap_err().raw_os_error(), Some(libc::ENOTEMPTY));
        assert_eq!(fs::remove_file(m.path("d")).unwrap_err().raw_os_error(), Some(libc::EISDIR));
        for name in ["d/s", "d/l", "b", "c"] {
            fs::remove_file(m.path(name)).unwrap();
        }
        fs::remove_dir(m.path("d")).unwrap();
        assert_eq!(fs::read_dir(&m.host).unwrap().count(), 0);
        assert_eq!(fs::metadata(m.path("x".repeat(256).as_str())).unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
    });
}

#[test]
fn rename_has_all_its_flags() {
    on_each("", |m| {
        let rename =
            |from: &str, to: &str, flags| rustix::fs::renameat_with(rustix::fs::CWD, m.path(from), rustix::fs::CWD, m.path(to), flags);
        use rustix::fs::RenameFlags as Flags;
        fs::write(m.path("a"), "a").unwrap();
        fs::write(m.path("b"), "b").unwrap();
        assert_eq!(rename("a", "b", Flags::NOREPLACE), Err(rustix::io::Errno::EXIST));
        rename("a", "b", Flags::EXCHANGE).unwrap();
        assert_eq!(fs::read(m.path("a")).unwrap(), b"b");
        rename("a", "w", Flags::WHITEOUT).unwrap();
        let whiteout = fs::symlink_metadata(m.path("a")).unwrap();
        assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
        assert_eq!(fs::read(m.host.join("w")).unwrap(), b"b");
    });
}

#[test]
fn special_files_are_made_with_the_umask() {
    on_each("", |m| {
        use nix::sys::stat::{Mode, SFlag, makedev, mknod};
        // The umask is the whole process's: a child is asked instead.
        let status = std::process::Command::new("sh")
            .arg("-c")
            .arg("umask 027; mkfifo p && mkdir d && : > f && mknod -m 640 z c 1 5")
            .current_dir(&m.point)
            .status();
        assert!(status.unwrap().success());
        for (name, mode) in [("p", 0o640), ("d", 0o750), ("f", 0o640), ("z", 0o640)] {
            assert_eq!(fs::symlink_metadata(m.host.join(name)).unwrap().mode() & 0o7777, mode, "{name}");
        }
        mknod(&m.path("null"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o600), makedev(1, 3)).unwrap();
        let about = fs::metadata(m.host.join("null")).unwrap();
        assert_eq!((about.rdev(), about.file_type().is_char_device()), (makedev(1, 3), true));
        assert_eq!(fs::metadata(m.path("null")).unwrap().rdev(), makedev(1, 3));
        // Opened through the mount it is the device, not the host's file.
        fs::write(m.path("null"), "gone").unwrap();
        mknod(&m.path("block"), SFlag::S_IFBLK, Mode::empty(), makedev(259, 70_000)).unwrap();
        assert_eq!(fs::metadata(m.path("block")).unwrap().rdev(), makedev(259, 70_000));
        let _socket = std::os::unix::net::UnixListener::bind(m.path("sock")).unwrap();
        assert!(fs::symlink_metadata(m.host.join("sock")).unwrap().file_type().is_socket());
    });
}

#[test]
fn attributes_are_set_one_by_one() {
    on_each("", |m| {
        fs::write(m.path("f"), "x").unwrap();
        fs::set_permissions(m.path("f"), PermissionsExt::from_mode(0o4751)).unwrap();
        std::os::unix::fs::chown(m.path("f"), Some(1234), Some(4321)).unwrap();
        let about = fs::metadata(m.host.join("f")).unwrap();
        assert_eq!((about.uid(), about.gid()), (1234, 4321));
        let set = |atime, mtime| {
            nix::sys::stat::utimensat(nix::fcntl::AT_FDCWD, &m.path("f"), &atime, &mtime, nix::sys::stat::UtimensatFlags::FollowSymlink)
        };
        // Before 1970, with a fraction; and the far future.
        for (seconds, nanoseconds) in [(-2, 800_000_000), (-1, 0), (0, 1), (4_000_000_000, 999_999_999)] {
            set(TimeSpec::new(seconds, nanoseconds), TimeSpec::UTIME_OMIT).unwrap();
            for path in [m.host.join("f"), m.path("f")] {
                let about = fs::metadata(path).unwrap();
                assert_eq!((about.atime(), about.atime_nsec()), (seconds, nanoseconds));
            }
        }
        let before = fs::metadata(m.host.join("f")).unwrap();
        set(TimeSpec::UTIME_OMIT, TimeSpec::new(7, 8)).unwrap();
        let after = fs::metadata(m.host.join("f")).unwrap();
        assert_eq!((after.mtime(), after.mtime_nsec()), (7, 8));
        assert_eq!((after.atime(), after.atime_nsec()), (before.atime(), before.atime_nsec()));
        set(TimeSpec::UTIME_NOW, TimeSpec::UTIME_NOW).unwrap();
        assert!(fs::metadata(m.host.join("f")).unwrap().mtime() > 1_000_000_000);
    });
}

#[test]
fn numbers_and_links_are_the_hosts() {
    on_each("", |m| {
        fs::write(m.path("f"), "x").unwrap();
        assert_eq!(fs::metadata(m.path("f")).unwrap().ino(), fs::metadata(m.host.join("f")).unwrap().ino());
        let host = rustix::fs::statvfs(&m.host).unwrap();
        let ours = rustix::fs::statvfs(&m.point).unwrap();
        assert_eq!((ours.f_blocks, ours.f_bsize, ours.f_files), (host.f_blocks, host.f_bsize, host.f_files));
        assert_eq!(ours.f_namemax, 255);
    });
}

#[test]
fn listings_are_complete() {
    on_each("", |m| {
        fs::create_dir(m.path("d")).unwrap();
        for n in 0..3000 {
            File::create(m.host.join(format!("d/file-with-a-rather-long-name-{n}"))).unwrap();
        }
        for round in 0..2 {
            let mut names: Vec<_> = fs::read_dir(m.path("d")).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), 3000, "round {round}");
        }
        // With attributes: the kernel switches to READDIRPLUS as they are used.
        let sizes = fs::read_dir(m.path("d")).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum::<u64>();
        assert_eq!(sizes, 0);
    });
}

#[test]
fn extended_attributes_pass() {
    on_each("", |m| {
        use rustix::fs::{XattrFlags as Flags, getxattr, listxattr, removexattr, setxattr};
        use rustix::io::Errno;
        let path = m.path("f");
        fs::write(&path, "x").unwrap();
        setxattr(&path, "user.a", b"value", Flags::CREATE).unwrap();
        assert_eq!(setxattr(&path, "user.a", b"value", Flags::CREATE), Err(Errno::EXIST));
        assert_eq!(setxattr(&path, "user.b", b"value", Flags::REPLACE), Err(Errno::NODATA));
        let mut buffer = [0u8; 64];
        assert_eq!(getxattr(&path, "user.a", &mut buffer[..4]), Err(Errno::RANGE));
        assert_eq!(getxattr(&path, "user.a", &mut buffer[..]), Ok(5));
        assert_eq!(&buffer[..5], b"value");
        assert_eq!(listxattr(&path, &mut buffer[..3]), Err(Errno::RANGE));
        let len = listxattr(&path, &mut buffer[..]).unwrap();
        assert_eq!(&buffer[..len], b"user.a\0");
        // getfattr(1) asks for the size of each first.
        let output = std::process::Command::new("getfattr").args(["-d", "--absolute-names"]).arg(&path).output().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains("user.a=\"value\""), "{output:?}");
        removexattr(&path, "user.a").unwrap();
        assert_eq!(getxattr(&path, "user.a", &mut buffer[..]), Err(Errno::NODATA));
    });
}

#[test]
fn holes_and_ranges_are_the_hosts() {
    on_each("", |m| {
        use rustix::fs::{FallocateFlags as Flags, SeekFrom, fallocate, seek};
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(m.path("f")).unwrap();
        fallocate(&file, Flags::empty(), 0, 65536).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 65536);
        file.write_all_at(&[1; 65536], 0).unwrap();
        file.sync_all().unwrap();
        fallocate(&file, Flags::PUNCH_HOLE | Flags::KEEP_SIZE, 8192, 8192).unwrap();
        assert_eq!(seek(&file, SeekFrom::Hole(0)), Ok(8192));
        assert_eq!(seek(&file, SeekFrom::Data(8192)), Ok(16384));
        assert_eq!(seek(&file, SeekFrom::Data(70_000)), Err(rustix::io::Errno::NXIO));
        let copy = File::create(m.path("copy")).unwrap();
        let (mut from, mut to) = (0, 0);
        assert_eq!(rustix::fs::copy_file_range(&file, Some(&mut from), &copy, Some(&mut to), 10_000), Ok(10_000));
        assert_eq!(fs::read(m.host.join("copy")).unwrap(), fs::read(m.host.join("f")).unwrap()[..10_000]);
    });
}

#[test]
fn inode_flags_pass() {
    on_each("", |m| {
        use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
        fs::write(m.path("f"), "x").unwrap();
        fs::create_dir(m.path("d")).unwrap();
        for name in ["f", "d"] {
            let file = File::open(m.path(name)).unwrap();
            let flags = ioctl_getflags(&file).unwrap();
            ioctl_setflags(&file, flags | IFlags::NODUMP).unwrap();
            let host = File::open(m.host.join(name)).unwrap();
            assert!(ioctl_getflags(&host).unwrap().contains(IFlags::NODUMP), "{name}");
            ioctl_setflags(&file, flags).unwrap();
            assert!(!ioctl_getflags(&host).unwrap().contains(IFlags::NODUMP), "{name}");
        }
        // Something that is no ioctl of a file: TCGETS.
        assert!(!rustix::termios::isatty(File::open(m.path("f")).unwrap()));
    });
}

#[test]
fn setuid_is_dropped_by_who_may_not_keep_it() {
    on_each("", |m| {
        for change in ["write", "truncate", "O_TRUNC", "write in place"] {
            fs::write(m.path("f"), "x").unwrap();
            fs::set_permissions(m.path("f"), PermissionsExt::from_mode(0o6777)).unwrap();
            let script = match change {
                "write" => "printf y >> f",
                "truncate" => "truncate -s 0 f",
                "write in place" => "dd if=/dev/zero of=f bs=1 count=1 conv=notrunc status=none",
                _ => ": > f",
            };
            let status = std::process::Command::new("setpriv")
                .args(["--reuid=1500", "--regid=1500", "--clear-groups", "sh", "-c", script])
                .current_dir(&m.point)
                .status();
            assert!(status.unwrap().success(), "{change}");
            assert_eq!(fs::metadata(m.host.join("f")).unwrap().mode() & 0o7777, 0o777, "{change}");
            assert_eq!(fs::metadata(m.path("f")).unwrap().mode() & 0o7777, 0o777, "{change}");
        }
    });
}

#[test]
fn an_open_file_outlives_its_name() {
    on_each("", |m| {
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(m.path("f")).unwrap();
        fs::remove_file(m.path("f")).unwrap();
        file.write_all(b"still here").unwrap();
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "still here");
    });
}

#[test]
fn file_handles_find_their_files_again() {
    on_each("", |m| {
        fs::create_dir_all(m.path("a/b")).unwrap();
        fs::write(m.path("a/b/f"), "x").unwrap();
        let handle = nix_name_to_handle(m.path("a/b/f").as_os_str());
        assert!(handle.is_ok(), "{handle:?}");
    });
}

/// The kernel makes handles of a FUSE mount only with EXPORT_SUPPORT.
fn nix_name_to_handle(path: &OsStr) -> std::io::Result<()> {
    let status = std::process::Command::new("python3")
        .arg("-c")
        .arg("import ctypes,sys,os\nl=ctypes.CDLL(None,use_errno=True)\nb=ctypes.create_string_buffer(136)\nctypes.memmove(b,(128).to_bytes(4,'little'),4)\nm=ctypes.c_int()\nr=l.name_to_handle_at(-100,os.fsencode(sys.argv[1]),b,ctypes.byref(m),0)\nif r: sys.exit(1)\nd=os.open(os.path.dirname(sys.argv[1]),os.O_RDONLY)\nf=l.open_by_handle_at(d,b,os.O_RDONLY)\nsys.exit(0 if f>=0 and os.read(f,1)==b'x' else 2)")
        .arg(OsStr::from_bytes(path.as_bytes()))
        .status()?;
    if status.success() { Ok(()) } else { Err(std::io::Error::other(status.to_string())) }
}

/// Opening a running program for truncation is refused before it is truncated.
#[test]
fn a_running_program_keeps_its_text() {
    on_each("", |m| {
        fs::copy("/bin/sleep", m.path("sleep")).unwrap();
        let len = fs::metadata(m.path("sleep")).unwrap().len();
        for _ in 0..20 {
            // A test beside us may have forked while the copy was open for
            // writing, and not come to its exec yet.
            let mut child = loop {
                match std::process::Command::new(m.path("sleep")).arg("60").spawn() {
                    Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) => std::thread::yield_now(),
                    child => break child.unwrap(),
                }
            };
            for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_TRUNC, libc::O_RDWR | libc::O_TRUNC] {
                let flags = nix::fcntl::OFlag::from_bits_truncate(flags);
                let opened = nix::fcntl::open(&m.path("sleep"), flags, nix::sys::stat::Mode::empty());
                assert_eq!(opened.err(), Some(nix::errno::Errno::ETXTBSY), "{flags:?}");
            }
            assert_eq!(fs::metadata(m.host.join("sleep")).unwrap().len(), len);
            assert_eq!(child.try_wait().unwrap(), None);
            child.kill().unwrap();
            child.wait().unwrap();
        }
    });
}

/// What fuser does not carry.
#[test]
fn our_own_transport_has_the_rest() {
    if !can_mount() {
        return;
    }
    ["transport=native", "uring=on"].into_iter().filter(|way| can_serve(way)).for_each(the_rest);
}

fn the_rest(way: &str) {
    use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, linkat, openat, statx, syncfs};
    let m = Mounted::hostfs("locks=host", way);
    let unnamed = openat(CWD, &m.point, OFlags::TMPFILE | OFlags::RDWR, Mode::RUSR).unwrap();
    rustix::io::write(&unnamed, b"unnamed").unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&unnamed));
    linkat(CWD, path, CWD, m.path("named"), AtFlags::SYMLINK_FOLLOW).unwrap();
    assert_eq!(fs::read(m.host.join("named")).unwrap(), b"unnamed");
    syncfs(&unnamed).unwrap();
    let birth = |path: &std::path::Path| statx(CWD, path, AtFlags::empty(), StatxFlags::BTIME).unwrap().stx_btime;
    let (ours, hosts) = (birth(&m.path("named")), birth(&m.host.join("named")));
    assert_eq!((ours.tv_sec, ours.tv_nsec), (hosts.tv_sec, hosts.tv_nsec));
    // A lock of the host's is seen, and a wait for it can be interrupted.
    let held = File::open(m.host.join("named")).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let wait = |seconds: &str| {
        let mut command = std::process::Command::new("timeout");
        command.args(["-s", "INT", seconds, "flock", "-x"]).arg(m.path("named")).args(["-c", "exit 3"]);
        command.status().unwrap().code()
    };
    let start = std::time::Instant::now();
    assert_eq!(wait("1"), Some(124));
    assert!(start.elapsed() < std::time::Duration::from_secs(8), "the wait was not interrupted");
    drop(held);
    assert_eq!(wait("20"), Some(3));
    m.end();
}

/// Setuid and the group of a directory are settled with the caller's own
/// supplementary groups where the protocol tells them.
#[test]
fn a_supplementary_group_counts_in_a_setgid_directory() {
    if !can_mount() {
        return;
    }
    ["transport=native", "uring=on"].into_iter().filter(|way| can_serve(way)).for_each(a_supplementary_group_counts);
}

fn a_supplementary_group_counts(way: &str) {
    let m = Mounted::hostfs("", way);
    fs::create_dir(m.path("d")).unwrap();
    std::os::unix::fs::chown(m.path("d"), Some(0), Some(1777)).unwrap();
    fs::set_permissions(m.path("d"), PermissionsExt::from_mode(0o2775)).unwrap();
    let status = std::process::Command::new("setpriv")
        .args(["--reuid=1500", "--regid=1500", "--groups=1777", "sh", "-c", "umask 0; mkdir d/sub && : > d/file && chmod 2755 d/file"])
        .current_dir(&m.point)
        .status();
    assert!(status.unwrap().success());
    for (name, mode) in [("sub", 0o2777), ("file", 0o2755)] {
        let about = fs::metadata(m.host.join("d").join(name)).unwrap();
        assert_eq!((about.uid(), about.gid(), about.mode() & 0o7777), (1500, 1777, mode), "{name}");
    }
}
