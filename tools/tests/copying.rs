//! Copying into trees and out of them, as cp(1) would.

mod support;

use externfs::Timestamp;
use externfs_tools::archive::{Member, What, Writer};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::{PROGRAM, Place, Running, externfs, fails, is_root, needs, run, succeeds, text};

/// A place with an empty tree in it.
fn empty() -> (Place, PathBuf) {
    let place = Place::new();
    let tree = place.path().join("tree");
    succeeds(externfs(["create"]).arg(&tree).args(["--size", "1G"]));
    (place, tree)
}

fn cp_in(tree: &Path, rest: &[&Path]) -> Command {
    let mut command = externfs(["cp-in"]);
    command.arg(tree).args(rest);
    command
}

fn listed(tree: &Path, path: &str) -> String {
    succeeds(externfs(["ls", "-ldn"]).arg(tree).arg(path))
}

fn contents(tree: &Path, path: &str) -> String {
    text(&run(externfs(["cp-out"]).arg(tree).args([path, "-"])).stdout)
}

#[test]
fn what_a_device_or_fifo_gives_becomes_a_file() {
    let (place, tree) = empty();
    let motd = Path::new("/motd");
    std::fs::write(place.path().join("motd"), "old").expect("write");
    succeeds(&mut cp_in(&tree, &[&place.path().join("motd"), motd]));
    // What is replaced stays the file that it was.
    succeeds(&mut cp_in(&tree, &[Path::new("/dev/null"), motd]));
    assert!(listed(&tree, "/motd").starts_with("-rw-r--r-- 1 0 0 0 "), "{}", listed(&tree, "/motd"));
    succeeds(&mut cp_in(&tree, &[Path::new("/dev/null"), Path::new("/new")]));
    assert!(listed(&tree, "/new").starts_with("-rw-r--r-- 1 0 0 0 "), "{}", listed(&tree, "/new"));
    let fifo = place.path().join("fifo");
    succeeds(Command::new("mkfifo").args(["-m", "600"]).arg(&fifo));
    let link = place.path().join("link");
    std::os::unix::fs::symlink("fifo", &link).expect("a link");
    for (name, at) in [(&fifo, "/a"), (&link, "/b")] {
        let mut reader = Command::new(PROGRAM);
        let mut reader = Running(reader.arg("cp-in").arg(&tree).arg(name).arg(at).stdin(Stdio::null()).spawn().expect("starts"));
        // Who opens it waits for the other side.
        std::fs::File::options().write(true).open(&fifo).expect("opens").write_all(b"through a pipe").expect("writes");
        assert_eq!(reader.ends(), Some(0));
        assert!(listed(&tree, at).starts_with("-rw------- 1 0 0 14 "), "{}", listed(&tree, at));
        assert_eq!(contents(&tree, at), "through a pipe");
    }
    let script = format!("printf here | {PROGRAM} cp-in {} /dev/stdin /c", tree.display());
    succeeds(Command::new("sh").args(["-ec", &script]));
    assert_eq!(contents(&tree, "/c"), "here");
}

#[test]
fn with_r_or_p_it_is_copied_itself() {
    let (place, tree) = empty();
    let [fifo, socket] = ["fifo", "socket"].map(|name| place.path().join(name));
    succeeds(Command::new("mkfifo").args(["-m", "640"]).arg(&fifo));
    let _listening = std::os::unix::net::UnixListener::bind(&socket).expect("binds");
    for option in ["-r", "-p"] {
        succeeds(cp_in(&tree, &[&fifo, Path::new("/fifo")]).arg(option));
        assert!(listed(&tree, "/fifo").starts_with("prw-r-----"), "{}", listed(&tree, "/fifo"));
        succeeds(cp_in(&tree, &[&socket, Path::new("/socket")]).arg(option));
        assert!(listed(&tree, "/socket").starts_with('s'), "{}", listed(&tree, "/socket"));
        succeeds(cp_in(&tree, &[Path::new("/dev/null"), Path::new("/null")]).arg(option));
        assert!(listed(&tree, "/null").starts_with('c'), "{}", listed(&tree, "/null"));
    }
    fails(&mut cp_in(&tree, &[&socket, Path::new("/fifo")]), 1, &["socket", "cannot be read", "-r"]);
    fails(&mut cp_in(&tree, &[place.path(), Path::new("/dir")]), 1, &["is a directory", "-r"]);
}

#[test]
fn of_several_with_one_name_the_first_is_copied() {
    let (place, tree) = empty();
    let made: Vec<PathBuf> = ["one/same", "two/same", "two/other", "three/same"].map(|name| place.path().join(name)).to_vec();
    for path in &made {
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("mkdir");
        std::fs::write(path, path.as_os_str().as_encoded_bytes()).expect("write");
    }
    let said = |path: &Path| path.to_str().expect("utf-8").to_owned();
    let sources: Vec<&Path> = made.iter().map(PathBuf::as_path).chain([Path::new("/")]).collect();
    fails(&mut cp_in(&tree, &sources), 1, &[&said(&made[1]), &said(&made[3]), "are not copied over what was just copied"]);
    assert_eq!(contents(&tree, "/same"), said(&made[0]));
    assert_eq!(contents(&tree, "/other"), said(&made[2]));
    // The same file again is no other.
    succeeds(&mut cp_in(&tree, &[&made[0], &made[2], &made[0], Path::new("/")]));

    let [one, two] = ["one", "two"].map(|name| place.path().join(name));
    succeeds(cp_in(&tree, &[&one, &two, Path::new("/")]).arg("-r"));
    let out = place.path().join("out");
    std::fs::create_dir(&out).expect("mkdir");
    let mut copied = externfs(["cp-out"]);
    copied.arg(&tree).args(["/one/same", "/two/same", "/two/other"]).arg(&out);
    fails(&mut copied, 1, &["/two/same is not copied over what was just copied"]);
    assert_eq!(std::fs::read_to_string(out.join("same")).expect("read"), said(&made[0]));
    assert_eq!(std::fs::read_to_string(out.join("other")).expect("read"), said(&made[2]));
    assert_eq!(out.read_dir().expect("a listing").count(), 2);
    // What was there before is replaced as ever.
    succeeds(externfs(["cp-out"]).arg(&tree).args(["/two/same", "/two/same", "/two/other"]).arg(&out));
    assert_eq!(std::fs::read_to_string(out.join("same")).expect("read"), said(&made[1]));
}

/// As cp(1): who copies a hundred files wants the ninety-nine that are there.
#[test]
fn what_cannot_be_copied_keeps_nothing_else_from_it() {
    let (place, tree) = empty();
    let said = |command: &mut Command| {
        let output = run(command);
        assert_eq!(output.status.code(), Some(1), "{command:?}: {}", text(&output.stderr));
        text(&output.stderr)
    };
    let at = |name: &str| place.path().join(name);
    for name in ["one", "two", "dir/inner", "later/missing"] {
        std::fs::create_dir_all(at(name).parent().expect("a directory")).expect("mkdir");
        std::fs::write(at(name), name).expect("write");
    }
    let lines = said(&mut cp_in(&tree, &[&at("one"), &at("missing"), &at("dir"), &at("two"), Path::new("/")]));
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with("externfs: ") && lines[0].contains("missing: no such file"), "{lines:?}");
    assert!(lines[1].starts_with("externfs: ") && lines[1].contains("dir is a directory: -r"), "{lines:?}");
    assert_eq!(succeeds(externfs(["ls"]).arg(&tree)), "one\ntwo\n");
    // What was not copied leaves its name to another.
    assert_eq!(said(&mut cp_in(&tree, &[&at("missing"), &at("later/missing"), Path::new("/")])).lines().count(), 1);
    assert_eq!(contents(&tree, "/missing"), "later/missing");

    succeeds(cp_in(&tree, &[&at("dir"), Path::new("/")]).arg("-r"));
    let out = at("out");
    std::fs::create_dir(&out).expect("mkdir");
    let lines = said(externfs(["cp-out"]).arg(&tree).args(["/one", "/none", "/dir", "/two"]).arg(&out));
    assert!(lines.lines().count() == 2 && lines.contains("/none: no such file") && lines.contains("/dir is a directory: -r"), "{lines}");
    assert_eq!(out.read_dir().expect("a listing").count(), 2);
    // Before anything is copied: it is no matter of one source.
    fails(&mut cp_in(&tree, &[&at("one"), Path::new("-"), Path::new("/dir")]), 2, &["no name"]);
    assert_eq!(succeeds(externfs(["ls"]).arg(&tree).arg("/dir")), "inner\n");
    for (command, target) in [("cp-in", "/nodir/"), ("cp-out", "/no/such/")] {
        let source = if command == "cp-in" { at("one") } else { PathBuf::from("/one") };
        let line = said(externfs([command]).arg(&tree).args([&source, Path::new(target)]));
        assert!(line.contains("it is no directory") && !line.contains("several"), "{line}");
    }
}

/// Runs it, and returns what it says on standard error.
fn says(command: &mut Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
    text(&output.stderr)
}

const COMPRESSION: &str = "externfs: warning: the attribute btrfs.compression of 2 objects is left out: no guest can have it\n";

#[test]
fn attributes_that_no_guest_can_have_are_left_out_of_archives() {
    let place = Place::new();
    let member = |path: &[u8], what: What, mode: u32, names: &[&str]| {
        let xattrs = names.iter().map(|name| (name.as_bytes().to_vec(), b"x".to_vec())).collect();
        Member { path: path.to_vec(), what, mode, uid: 0, gid: 0, mtime: Timestamp::default(), atime: None, size: 0, xattrs }
    };
    let mut writer = Writer::new(Vec::new());
    for member in [
        member(b"./", What::Directory, 0o755, &["btrfs.compression", "user.kept"]),
        member(b"./file", What::Regular, 0o644, &["btrfs.compression", "system.nfs4_acl", "user.kept"]),
        // It was counted already.
        member(b"./second", What::HardLink(b"./file".to_vec()), 0o644, &["btrfs.compression"]),
    ] {
        writer.begin(&member).expect("begins");
        writer.end().expect("ends");
    }
    let archive = place.path().join("in.tar");
    std::fs::write(&archive, writer.finish().expect("finishes")).expect("write");
    for format in ["xattr", "sqlite", "shadow_fs", "shadow_link"] {
        let tree = place.path().join(format);
        let nfs = "externfs: warning: the attribute system.nfs4_acl of an object is left out: no guest can have it\n";
        let said = says(externfs(["create"]).arg(&tree).args(["--size", "1G", "--metadata", format, "--from"]).arg(&archive));
        assert_eq!(said, format!("{COMPRESSION}{nfs}"));
        for path in ["/", "/second"] {
            let shown = succeeds(externfs(["stat"]).arg(&tree).arg(path));
            assert!(shown.contains("user.kept") && !shown.contains("btrfs") && !shown.contains("nfs4"), "{shown}");
        }
    }
}

#[test]
fn attributes_that_no_guest_can_have_are_left_out_of_directories() {
    let has = |program: &str| Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    let known = || std::fs::read_to_string("/proc/filesystems").is_ok_and(|all| all.contains("\tbtrfs"));
    if !needs(is_root() && has("mkfs.btrfs") && has("setfattr") && known(), "root, btrfs, mkfs.btrfs and setfattr") {
        return;
    }
    let (place, tree) = empty();
    let (image, source) = (place.path().join("image"), place.point());
    std::fs::File::create(&image).and_then(|file| file.set_len(120 << 20)).expect("a file");
    succeeds(Command::new("mkfs.btrfs").arg("-q").arg(&image));
    // The place takes it away again, whatever happens.
    if !needs(run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&source)).status.success(), "loop devices") {
        return;
    }
    let script =
        "mkdir d; echo x > d/f; for name in d d/f; do setfattr -n btrfs.compression -v zlib $name; setfattr -n user.kept -v x $name; done";
    succeeds(Command::new("sh").args(["-ec", script]).current_dir(&source));
    let kept = |tree: &Path, path: &str| {
        let shown = succeeds(externfs(["stat"]).arg(tree).arg(path));
        assert!(shown.contains("user.kept") && !shown.contains("btrfs"), "{shown}");
    };
    let made = place.path().join("made");
    assert_eq!(says(externfs(["create"]).arg(&made).args(["--size", "1G", "--from"]).arg(&source)), COMPRESSION);
    kept(&made, "/d/f");
    assert_eq!(says(cp_in(&tree, &[&source.join("d"), Path::new("/")]).args(["-r", "-p"])), COMPRESSION);
    kept(&tree, "/d");
    // Each file by itself, told together.
    std::fs::copy(source.join("d/f"), source.join("d/g")).expect("a copy");
    succeeds(Command::new("setfattr").args(["-n", "btrfs.compression", "-v", "zlib"]).arg(source.join("d/g")));
    assert_eq!(says(cp_in(&tree, &[&source.join("d/f"), &source.join("d/g"), Path::new("/")]).arg("-p")), COMPRESSION);
    kept(&tree, "/f");
    // Nothing is kept, and nothing left out.
    assert_eq!(says(cp_in(&tree, &[&source.join("d"), Path::new("/e")]).arg("-r")), "");
}
