//! Trees without a mount: made, filled, looked at, changed and exported, in
//! each format, as root and as an ordinary user.

mod support;

use externfs::{DeviceNumber, FileKind, Timestamp};
use externfs_tools::archive::{Member, What, Writer};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::{PROGRAM, Place, eventually, externfs, fails, is_root, needs, run, succeeds, text};

const FORMATS: [&str; 4] = ["xattr", "sqlite", "shadow_fs", "shadow_link"];

/// The command with a tree of this place.
fn on(tree: &Path, command: &[&str], rest: &[&str]) -> Command {
    let mut built = externfs(command);
    built.arg(tree).args(rest);
    built
}

fn member(path: &[u8], what: What) -> Member {
    let mtime = Timestamp { seconds: 1_700_000_000, nanoseconds: 0 };
    Member { path: path.to_vec(), what, mode: 0o644, uid: 0, gid: 0, mtime, atime: None, size: 0, xattrs: Vec::new() }
}

fn device(kind: FileKind, major: u32, minor: u32) -> What {
    What::Device(kind, DeviceNumber { major, minor })
}

/// An ACL as the kernel takes it: everybody's entries in their order.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// One of everything that a tree can hold, in the order that an export has.
fn everything() -> Vec<(Member, Vec<u8>)> {
    const NOBODY: u32 = u32::MAX;
    let at = |seconds, nanoseconds| Timestamp { seconds, nanoseconds };
    let access = acl(&[(1, 7, NOBODY), (2, 5, 1000), (4, 4, NOBODY), (0x10, 5, NOBODY), (0x20, 0, NOBODY)]);
    let capability = vec![1, 0, 0, 2, 0, b'\n', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut all = vec![
        (Member { mode: 0o755, gid: 3, mtime: at(1_600_000_000, 7), ..member(b"./", What::Directory) }, vec![]),
        (Member { mode: 0o3770, uid: 5, gid: 6, mtime: at(1_500_000_000, 123_456_789), ..member(b"./acl/", What::Directory) }, vec![]),
        (Member { uid: 1, ..member(b"./acl/below", What::Regular) }, vec![]),
        (
            Member { mode: 0o755, xattrs: vec![(b"security.capability".to_vec(), capability)], ..member(b"./bin", What::Regular) },
            b"elf".to_vec(),
        ),
        (Member { mode: 0o660, ..member(b"./dev-block", device(FileKind::BlockDevice, 4095, 1_048_575)) }, vec![]),
        (Member { mode: 0o666, mtime: at(-2, 500_000_000), ..member(b"./dev-null", device(FileKind::CharDevice, 1, 3)) }, vec![]),
        (member(b"./dev-zero", device(FileKind::CharDevice, 0, 0)), vec![]),
        (Member { mode: 0o600, ..member(b"./fifo", What::Fifo) }, vec![]),
        (Member { mode: 0o777, uid: 7, gid: 8, ..member(b"./link", What::Symlink(b"../../etc".to_vec())) }, vec![]),
        (Member { mode: 0o777, ..member(b"./link-long", What::Symlink(vec![b'l'; 3000])) }, vec![]),
        (Member { mode: 0o755, ..member(b"./metadata/", What::Directory) }, vec![]),
        (Member { mode: 0o755, ..member(b"./metadata/metadata/", What::Directory) }, vec![]),
        (member(b"./metadata/metadata/metadata", What::Regular), vec![]),
        (member(&[b"./", &[b'n'; 255][..]].concat(), What::Regular), vec![]),
        (Member { mode: 0, ..member(b"./secret", What::Regular) }, b"x".to_vec()),
        (Member { mode: 0o755, ..member(b"./socket", What::Socket) }, vec![]),
        (Member { mode: 0o1777, uid: 65_534, ..member(b"./sticky\nnew line/", What::Directory) }, vec![]),
        (Member { mode: 0o6755, uid: u32::MAX - 1, gid: u32::MAX - 1, ..member(b"./su", What::Regular) }, vec![b's'; 100_000]),
        (member(b"./su2", What::HardLink(b"./su".to_vec())), vec![]),
        (member(b"./w\xff\xfe", What::Regular), b"not UTF-8".to_vec()),
        (member(b"./xattrs", What::Regular), vec![]),
    ];
    for (member, contents) in &mut all {
        member.size = if member.what == What::Regular { contents.len() as u64 } else { 0 };
        match member.path.as_slice() {
            b"./acl/" => {
                let default = acl(&[(1, 7, NOBODY), (4, 5, NOBODY), (0x20, 0, NOBODY)]);
                member.mode = 0o3750;
                member.xattrs =
                    vec![(b"system.posix_acl_access".to_vec(), access.clone()), (b"system.posix_acl_default".to_vec(), default)];
            }
            b"./xattrs" => member.xattrs = vec![(b"trusted.overlay.opaque".to_vec(), b"y".to_vec()), (b"user.a=%".to_vec(), vec![])],
            b"./su2" => (member.mode, member.uid, member.gid) = (0o6755, u32::MAX - 1, u32::MAX - 1),
            _ => {}
        }
    }
    all
}

fn pack(members: &[(Member, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (member, contents) in members {
        writer.begin(member).expect("begins");
        writer.data(contents).expect("takes data");
        writer.end().expect("ends");
    }
    writer.finish().expect("finishes")
}

/// Everyone whom a test is to be run as: this user and, for root, an ordinary one.
fn users() -> Vec<Option<u32>> {
    if is_root() { vec![None, Some(65_534)] } else { vec![None] }
}

/// A place that `user` owns, with a copy of the program where that one may
/// find it: the build directory may be closed to others.
fn place_of(user: Option<u32>) -> (Place, Vec<String>) {
    let place = Place::new();
    let Some(uid) = user else { return (place, vec![PROGRAM.into()]) };
    let program = place.path().join("externfs");
    std::fs::copy(PROGRAM, &program).expect("copy");
    std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
    std::os::unix::fs::chown(place.path(), Some(uid), Some(uid)).expect("chown");
    let id = uid.to_string();
    let words = ["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups", program.to_str().expect("utf-8")];
    (place, words.map(str::to_owned).to_vec())
}

fn as_user(words: &[String], arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "120"]).args(words).args(arguments).stdin(Stdio::null());
    command
}

#[test]
fn an_archive_comes_back_bit_for_bit() {
    let archive = pack(&everything());
    for user in users() {
        let (place, program) = place_of(user);
        let path = |name: &str| place.path().join(name).to_str().expect("utf-8").to_owned();
        std::fs::write(path("in.tar"), &archive).expect("write");
        for format in FORMATS {
            let (tree, out) = (path(format), path("out.tar"));
            succeeds(&mut as_user(&program, &["create", &tree, "--size", "1G", "--metadata", format, "--from", &path("in.tar")]));
            succeeds(&mut as_user(&program, &["export", &tree, "--tar", &out]));
            let back = std::fs::read(&out).expect("read");
            if back != archive {
                std::fs::write("/tmp/externfs-differs.tar", &back).expect("write");
                panic!("{format} as {user:?}: the archive is another one: /tmp/externfs-differs.tar");
            }
            let piped = run(&mut as_user(&program, &["export", &tree, "--tar", "-"]));
            assert!(piped.stdout == archive, "{format}: a pipe gets the same");
        }
    }
}

#[test]
fn an_archive_on_its_way_is_nobody_elses() {
    let place = Place::new();
    let (tree, out, outside) = (place.path().join("tree"), place.path().join("out.tar"), place.path().join("outside"));
    succeeds(&mut on(&tree, &["create"], &["--size", "1G"]));
    std::fs::write(&outside, "precious").expect("write");
    std::os::unix::fs::symlink(&outside, place.path().join("out.tar.part")).expect("a link");
    let export = || on(&tree, &["export"], &["--tar", out.to_str().expect("utf-8")]);
    let names = || std::fs::read_dir(place.path()).expect("readdir").count();
    let before = names();
    succeeds(&mut export());
    assert!(std::fs::read(&outside).expect("read") == b"precious");
    // As any new file; and nothing but the archive has come.
    let usual = std::fs::File::create(place.path().join("usual")).and_then(|file| file.metadata()).expect("a file");
    assert_eq!(out.symlink_metadata().expect("stat").mode(), usual.mode());
    assert_eq!(names(), before + 2);
    // Nor is anything left of one that failed, and what was there stays.
    let archive = std::fs::read(&out).expect("read");
    let small = "trap '' XFSZ; ulimit -f 4; exec \"$@\"";
    let limited = export();
    fails(Command::new("sh").args(["-c", small, "sh"]).arg(limited.get_program()).args(limited.get_args()), 1, &["out.tar"]);
    assert_eq!(names(), before + 2);
    assert!(std::fs::read(&out).expect("read") == archive);
}

#[test]
fn an_archive_may_come_compressed_through_a_pipe() {
    let archive = pack(&everything());
    let place = Place::new();
    for (index, filter) in ["cat", "gzip", "xz", "zstd -q"].into_iter().enumerate() {
        let tree = place.path().join(index.to_string());
        let mut pack = Command::new("sh").args(["-c", filter]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sh");
        let mut input = pack.stdin.take().expect("piped");
        let bytes = archive.clone();
        let writer = std::thread::spawn(move || input.write_all(&bytes));
        let mut create = on(&tree, &["create"], &["--size", "1G", "--from", "-"]);
        let output = create.stdin(pack.stdout.take().expect("piped")).output().expect("runs");
        let _ = writer.join();
        if !pack.wait().is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: {filter}: it is not installed");
            continue;
        }
        assert!(output.status.success(), "{filter}: {}", text(&output.stderr));
        assert!(run(&mut on(&tree, &["export"], &["--tar", "-"])).stdout == archive, "{filter}");
    }
}

/// Everything that a host file has, but what changes by being looked at.
#[derive(PartialEq, Debug)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    device: u64,
    mtime: (i64, i64),
    links: u64,
    contents: Vec<u8>,
    xattrs: String,
}

/// All below `top` by its path.
fn look(top: &Path) -> BTreeMap<PathBuf, Seen> {
    let (mut all, mut ahead) = (BTreeMap::new(), vec![top.to_owned()]);
    while let Some(path) = ahead.pop() {
        let there = path.symlink_metadata().expect("lstat");
        let kind = there.file_type();
        let contents = if kind.is_symlink() {
            std::fs::read_link(&path).expect("readlink").into_os_string().into_encoded_bytes()
        } else if kind.is_file() {
            std::fs::read(&path).expect("read")
        } else {
            Vec::new()
        };
        let xattrs = Command::new("getfattr").args(["-h", "-d", "-m", "-", "--absolute-names", "-e", "hex"]).arg(&path).output();
        let xattrs = xattrs.map_or_else(|_| String::new(), |output| text(&output.stdout).lines().skip(1).collect());
        let device = if kind.is_char_device() || kind.is_block_device() { there.rdev() } else { 0 };
        let links = if kind.is_dir() { 0 } else { there.nlink() };
        let (mtime, owner) = ((there.mtime(), there.mtime_nsec()), (there.uid(), there.gid()));
        let seen = Seen { mode: there.mode(), owner, device, mtime, links, contents, xattrs };
        all.insert(path.strip_prefix(top).expect("below").to_owned(), seen);
        if kind.is_dir() {
            ahead.extend(std::fs::read_dir(&path).expect("readdir").map(|entry| entry.expect("entry").path()));
        }
    }
    all
}

/// One of everything in `dir` of the host.
fn host_directory(dir: &Path) {
    let script = "
        umask 022; mkdir 'a b' metadata dev; echo x > 'a b/f'; echo s > su; ln su 'a b/su2'; chown 0:42 su; chmod 4755 su
        mknod dev/null c 1 3; mknod dev/big b 300 70000; mkfifo dev/p; ln -s ../x dev/l; chown -h 7:8 dev/l; chown 1000:1000 'a b'; chmod 1777 'a b'
        cp su cap; if command -v setcap >/dev/null; then setcap cap_net_raw+ep cap; fi; if command -v setfattr >/dev/null; then setfattr -n user.q -v hello cap; fi
        printf z | dd of=sparse bs=1 seek=8M conv=notrunc 2>/dev/null; truncate -s 20M sparse; touch 'we;rd $(x)'; chmod 0 'we;rd $(x)'
        touch -d 2001-02-03T04:05:06.789012345Z dev 'a b/f' su; touch -h -d 2002-01-01 dev/l";
    let done = Command::new("sh").args(["-e", "-c", script]).current_dir(dir).status().expect("sh");
    assert!(done.success());
}

#[test]
fn a_directory_comes_back_as_it_was() {
    if !needs(is_root(), "root, for devices and owners") {
        return;
    }
    let place = Place::new();
    let source = place.path().join("from");
    std::fs::create_dir(&source).expect("mkdir");
    host_directory(&source);
    let before = look(&source);
    for format in FORMATS {
        let (tree, out) = (place.path().join(format), place.path().join(format!("{format}.out")));
        let from = source.to_str().expect("utf-8");
        succeeds(&mut on(&tree, &["create"], &["--size", "1G", "--metadata", format, "--from", from]));
        let holes = std::fs::metadata(tree.join("data/sparse")).expect("stat").blocks() * 512;
        assert!(holes < 1 << 20, "{format}: the sparse file takes {holes} bytes");
        succeeds(&mut on(&tree, &["cp-out", "-r", "-p"], &["/", out.to_str().expect("utf-8")]));
        let after = look(&out);
        for (path, seen) in &before {
            assert_eq!(after.get(path), Some(seen), "{format}: {}", path.display());
        }
        assert_eq!(before.len(), after.len());
        // And in again.
        succeeds(&mut on(&tree, &["cp-in", "-r", "-p"], &[out.to_str().expect("utf-8"), "/copy"]));
        let again = place.path().join(format!("{format}.again"));
        succeeds(&mut on(&tree, &["cp-out", "-r", "-p"], &["/copy", again.to_str().expect("utf-8")]));
        assert_eq!(look(&again), before, "{format}");
    }
}

#[test]
fn a_tree_for_another_user_is_all_that_users() {
    if !needs(is_root(), "root, to give files away") {
        return;
    }
    let place = Place::new();
    let source = place.path().join("from");
    std::fs::create_dir(&source).expect("mkdir");
    host_directory(&source);
    std::fs::set_permissions(&source, PermissionsExt::from_mode(0o700)).expect("chmod");
    for format in FORMATS {
        let tree = place.path().join(format);
        let from = source.to_str().expect("utf-8");
        succeeds(&mut on(&tree, &["create"], &["--size", "1G", "--metadata", format, "--owner", "65534:65534", "--from", from]));
        // What root does to it later is done as that user.
        succeeds(&mut on(&tree, &["chown"], &["5:6", "/su"]));
        succeeds(&mut on(&tree, &["mknod"], &["/dev/ubda", "b", "98", "0"]));
        succeeds(&mut on(&tree, &["cp-in"], &["/etc/hostname", "/new"]));
        succeeds(&mut on(&tree, &["resize"], &["2G"]));
        succeeds(&mut on(&tree, &["convert"], &["--metadata", if format == "sqlite" { "xattr" } else { "sqlite" }]));
        for (path, seen) in look(&tree) {
            assert_eq!(seen.owner, (65_534, 65_534), "{format}: {}", path.display());
            // A link has no mode of its own.
            let others = if seen.mode & 0o170_000 == 0o120_000 { 0 } else { seen.mode & 0o6022 };
            assert_eq!(others, 0, "{format}: {} is {:o}", path.display(), seen.mode);
        }
        let listed = succeeds(&mut on(&tree, &["ls", "-ln"], &["/su", "/dev/null"]));
        assert!(listed.contains("-rwxr-xr-x 2 5 6") && listed.contains("crw-r--r-- 1 0 0"), "{listed}");
    }
}

#[test]
fn every_command_on_every_format() {
    for user in users() {
        let (place, program) = place_of(user);
        let path = |name: &str| place.path().join(name).to_str().expect("utf-8").to_owned();
        let users = "root:x:0:0::/:\nuser:x:1000:1001::/:\n";
        std::fs::write(path("group"), "root:x:0:\ndisk:x:6:\nusers:x:1001:\n").expect("write");
        for format in FORMATS {
            let tree = path(format);
            std::fs::write(path("passwd"), users).expect("write");
            let go = |arguments: &[&str]| {
                let (command, rest) = arguments.split_at(arguments.iter().position(|word| *word == "TREE").expect("TREE"));
                succeeds(&mut as_user(&program, &[command, &[tree.as_str()], &rest[1..]].concat()))
            };
            go(&["create", "TREE", "--size", "1G", "--metadata", format, "--inodes", "1000"]);
            assert_eq!(go(&["ls", "TREE"]), "");
            assert!(go(&["ls", "-ld", "TREE"]).starts_with("drwxr-xr-x 2 0 0"), "{}", go(&["ls", "-ld", "TREE"]));
            std::fs::create_dir_all(path("etc/dev")).expect("mkdir");
            go(&["cp-in", "-r", "TREE", &path("etc"), "/"]);
            go(&["cp-in", "TREE", &path("passwd"), &path("group"), "/etc"]);
            go(&["mknod", "TREE", "/etc/dev/ubda", "b", "98", "16", "-m", "660", "--owner", "root:disk"]);
            go(&["mknod", "TREE", "/etc/pipe", "p"]);
            go(&["ln", "TREE", "/etc/passwd", "/etc/passwd-"]);
            go(&["ln", "-s", "TREE", "etc/passwd", "/link"]);
            go(&["chown", "TREE", "user:", "/etc/passwd", "/link"]);
            go(&["chmod", "TREE", "4711", "/etc/passwd"]);
            go(&["chmod", "TREE", "g=u,o-x", "/etc/passwd"]);
            let listed = go(&["ls", "-lR", "TREE"]);
            for part in [
                "-rwsrwx--- 2 user users",
                "brw-rw---- 1 root disk",
                "98, 16",
                "prw-r--r-- 1 root root",
                "lrwxrwxrwx 1 user users",
                "link -> etc/passwd",
            ] {
                assert!(listed.contains(part), "{format}: {part} is not in\n{listed}");
            }
            assert_eq!(go(&["cp-out", "TREE", "/etc/passwd-", "-"]), users);
            // What is replaced keeps whose it is.
            std::fs::write(path("shorter"), "root:x:0:0::/:\n").expect("write");
            go(&["cp-in", "TREE", &path("shorter"), "/etc/passwd"]);
            let shown = go(&["stat", "TREE", "/etc/passwd", "/etc/dev/ubda"]);
            for part in ["mode: 4770 (-rwsrwx---)", "owner: 1000", "group: 1001 (users)", "size: 15 bytes", "links: 1", "device: 98:16"] {
                assert!(shown.contains(part), "{format}: {part} is not in\n{shown}");
            }
            go(&["chown", "-R", "TREE", "7:8", "/etc"]);
            go(&["chmod", "-R", "TREE", "u=rwX,go=", "/"]);
            let listed = go(&["ls", "-lnR", "TREE", "/etc"]);
            assert!(
                listed.contains("drwx------ 2 7 8") && listed.contains("-rwx------ 1 7 8") && listed.contains("-rw------- 1 7 8"),
                "{listed}"
            );
            // The device in there is nothing that an ordinary user can make.
            go(&["chmod", "TREE", "0", "/etc/passwd"]);
            go(&["cp-out", "-p", "TREE", "/etc/passwd", "/etc/pipe", "/link", place.path().to_str().expect("utf-8")]);
            let copy = std::fs::metadata(path("passwd")).expect("stat");
            assert_eq!((copy.len(), copy.mode() & 0o7777), (15, 0));
            assert_eq!(std::fs::read_link(path("link")).expect("readlink"), Path::new("etc/passwd"));
            ["passwd", "pipe", "link"].iter().for_each(|name| std::fs::remove_file(path(name)).expect("rm"));
            go(&["chmod", "TREE", "u=rwX", "/etc/passwd"]);
            go(&["resize", "TREE", "3G"]);
            assert!(std::fs::read_to_string(path(&format!("{format}/superblock"))).expect("read").contains("total 3221225472\n"));
            let usual = go(&["ls", "-lnR", "TREE"]);
            for other in FORMATS.into_iter().filter(|other| *other != format) {
                go(&["convert", "TREE", "--metadata", other]);
                assert_eq!(go(&["ls", "-lnR", "TREE"]), usual, "from {format} to {other}");
            }
        }
    }
}

#[test]
fn what_was_cut_short_is_started_over() {
    // Large enough that a pipe does not hold all of it.
    let mut members = everything();
    members.push((Member { size: 3 << 20, ..member(b"./zz", What::Regular) }, vec![b'z'; 3 << 20]));
    let archive = pack(&members);
    let place = Place::new();
    for format in FORMATS {
        let tree = place.path().join(format);
        let create = || on(&tree, &["create"], &["--size", "1G", "--metadata", format, "--from", "-"]);
        let mut first = Command::new(PROGRAM);
        first.arg("create").arg(&tree).args(["--size", "1G", "--metadata", format, "--from", "-"]);
        let mut first = support::Running(first.stdin(Stdio::piped()).spawn().expect("starts"));
        let mut input = first.0.stdin.take().expect("piped");
        input.write_all(&archive[..archive.len() - (2 << 20)]).expect("write");
        eventually("the last file", || tree.join("data/zz").exists());
        first.0.kill().expect("kill");
        first.0.wait().expect("wait");
        let mount = externfs(["mount", "humfs"]).arg(&tree).arg(place.point()).output().expect("runs");
        for (said, code) in [(mount.stderr, mount.status.code()), {
            let listed = run(&mut on(&tree, &["ls"], &[]));
            (listed.stderr, listed.status.code())
        }] {
            assert_eq!(code, Some(1));
            assert!(text(&said).contains("the same 'externfs create' again"), "{}", text(&said));
        }
        // It is cut short again, by an archive that is.
        let mut second = create();
        second.stdin(std::fs::File::open(place.source().join("hello")).expect("open"));
        fails(&mut second, 1, &["standard input", "tar"]);
        std::fs::write(place.path().join("in.tar"), &archive).expect("write");
        let mut third = create();
        succeeds(third.stdin(std::fs::File::open(place.path().join("in.tar")).expect("open")));
        assert!(run(&mut on(&tree, &["export"], &["--tar", "-"])).stdout == archive, "{format}");
        fails(&mut create(), 1, &["already"]);
    }
}

#[test]
fn a_file_that_is_replaced_is_the_old_or_the_new_one() {
    let place = Place::new();
    let tree = place.path().join("tree");
    succeeds(&mut on(&tree, &["create"], &["--size", "1G"]));
    let (old, new) = (place.path().join("old"), place.path().join("new"));
    std::fs::write(&old, vec![b'o'; 1 << 20]).expect("write");
    std::fs::write(&new, vec![b'n'; 1 << 20]).expect("write");
    succeeds(&mut on(&tree, &["cp-in"], &[old.to_str().expect("utf-8"), "/file"]));
    succeeds(&mut on(&tree, &["chmod"], &["640", "/file"]));
    // From a pipe that is never closed.
    let mut cut = Command::new(PROGRAM);
    cut.arg("cp-in").arg(&tree).args(["-", "/file"]).stdin(Stdio::piped());
    let mut cut = support::Running(cut.spawn().expect("starts"));
    let mut input = cut.0.stdin.take().expect("piped");
    input.write_all(&vec![b'n'; 700_000]).expect("write");
    eventually("some of it", || tree.join("data/.externfs.unfinished").metadata().is_ok_and(|there| there.len() > 0));
    cut.0.kill().expect("kill");
    cut.0.wait().expect("wait");
    assert_eq!(run(&mut on(&tree, &["cp-out"], &["/file", "-"])).stdout, vec![b'o'; 1 << 20]);
    succeeds(&mut on(&tree, &["cp-in"], &[new.to_str().expect("utf-8"), "/file"]));
    assert_eq!(run(&mut on(&tree, &["cp-out"], &["/file", "-"])).stdout, vec![b'n'; 1 << 20]);
    let listed = succeeds(&mut on(&tree, &["ls", "-l"], &["/"]));
    assert!(listed.starts_with("-rw-r----- 1 0 0 1048576") && listed.lines().count() == 1, "{listed}");
}

#[test]
fn the_size_is_kept() {
    let place = Place::new();
    let tree = place.path().join("tree");
    let big = place.path().join("big");
    std::fs::write(&big, vec![b'b'; 3 << 20]).expect("write");
    succeeds(&mut on(&tree, &["create"], &["--size", "2M"]));
    fails(&mut on(&tree, &["cp-in"], &[big.to_str().expect("utf-8"), "/big"]), 1, &["/big", "no space left", "externfs resize"]);
    assert_eq!(succeeds(&mut on(&tree, &["ls"], &["/"])), "", "nothing is left of it");
    succeeds(&mut on(&tree, &["resize"], &["10M"]));
    succeeds(&mut on(&tree, &["cp-in"], &[big.to_str().expect("utf-8"), "/big"]));
    fails(&mut on(&tree, &["resize"], &["1M"]), 1, &["uses", "cannot become smaller"]);
    let small = place.path().join("small");
    let from = place.source();
    let mut create = on(&small, &["create"], &["--size", "8K", "--from", from.to_str().expect("utf-8")]);
    let line = text(&run(&mut create).stderr);
    fails(&mut create, 1, &["no space left", "--size is used up", "larger"]);
    assert!(!line.contains("resize"), "nothing resizes what is not whole: {line}");
    // Nor does it take the catalog for the reason.
    let asked = run(&mut on(&small, &["query"], &["select 1"]));
    let line = text(&asked.stderr);
    assert!(line.contains("the same 'externfs create' again") && !line.contains("catalog"), "{line}");
    succeeds(&mut on(&small, &["create"], &["--size", "1M", "--from", from.to_str().expect("utf-8")]));
    let mut create = on(&place.path().join("few"), &["create"], &["--size", "1M", "--inodes", "1", "--from"]);
    fails(create.arg(&from), 1, &["no space left", "--inodes"]);
}

#[test]
fn a_disk_that_is_full_is_not_the_trees_size() {
    if !needs(is_root(), "root, to mount") {
        return;
    }
    let place = Place::new();
    std::fs::write(place.source().join("big"), vec![b'b'; 3 << 20]).expect("write");
    // The place takes it away again, whatever happens.
    succeeds(Command::new("mount").args(["-t", "tmpfs", "-o", "size=1M", "externfs-test"]).arg(place.point()));
    let mut create = on(&place.point().join("tree"), &["create"], &["--size", "1G", "--metadata", "shadow_fs", "--from"]);
    fails(create.arg(place.source()), 1, &["no space left", "the host's disk is full"]);
}

#[test]
fn files_of_two_file_systems_with_one_number_are_two() {
    if !needs(is_root(), "root, to mount") {
        return;
    }
    let place = Place::new();
    let both = place.path().join("both");
    let mounted: Vec<PathBuf> = ["a", "b"].iter().map(|name| both.join(name)).collect();
    for dir in &mounted {
        std::fs::create_dir_all(dir).expect("a directory");
        succeeds(Command::new("mount").args(["-t", "tmpfs", "externfs-test"]).arg(dir));
    }
    let numbers: Vec<u64> = mounted
        .iter()
        .map(|dir| {
            std::fs::write(dir.join("one"), dir.as_os_str().as_encoded_bytes()).expect("write");
            std::fs::hard_link(dir.join("one"), dir.join("two")).expect("a link");
            std::fs::metadata(dir.join("one")).expect("stat").ino()
        })
        .collect();
    let out = place.path().join("out.tar");
    let exported = externfs(["export"]).arg(format!("hostfs:{}", both.display())).arg("--tar").arg(&out).output().expect("runs");
    for dir in &mounted {
        succeeds(Command::new("umount").arg(dir));
    }
    assert!(exported.status.success(), "{}", text(&exported.stderr));
    assert_eq!(numbers[0], numbers[1], "they were to have one number");
    let unpacked = place.path().join("unpacked");
    std::fs::create_dir(&unpacked).expect("a directory");
    succeeds(Command::new("tar").arg("-xf").arg(&out).arg("-C").arg(&unpacked));
    for (name, dir) in ["a", "b"].iter().zip(&mounted) {
        for file in ["one", "two"] {
            assert_eq!(std::fs::read(unpacked.join(name).join(file)).expect("read"), dir.as_os_str().as_encoded_bytes(), "{name}/{file}");
        }
        assert_eq!(std::fs::metadata(unpacked.join(name).join("one")).expect("stat").nlink(), 2);
    }
}

#[test]
fn a_device_that_is_copied_out_is_nobody_elses() {
    if !needs(is_root(), "root, to make devices") {
        return;
    }
    let place = Place::new();
    let (tree, out) = (place.path().join("tree"), place.path().join("out"));
    succeeds(&mut on(&tree, &["create"], &["--size", "1G"]));
    succeeds(&mut on(&tree, &["mknod"], &["/null", "c", "1", "3"]));
    succeeds(&mut on(&tree, &["chmod"], &["666", "/null"]));
    succeeds(&mut on(&tree, &["cp-out"], &["-r", "/null", out.to_str().expect("utf-8")]));
    assert_eq!(std::fs::symlink_metadata(&out).expect("stat").permissions().mode() & 0o7777, 0o600);
    std::fs::remove_file(&out).expect("removed");
    succeeds(&mut on(&tree, &["cp-out"], &["-r", "-p", "/null", out.to_str().expect("utf-8")]));
    assert_eq!(std::fs::symlink_metadata(&out).expect("stat").permissions().mode() & 0o7777, 0o666);
}
