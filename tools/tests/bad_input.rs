//! Whatever is wrong is told in one line that names the thing and the remedy.

mod support;

use std::os::unix::net::UnixListener;
use std::process::Command;
use support::{Place, Running, can_mount, eventually, externfs, fails, is_root, needs, succeeds};

#[test]
fn a_source_that_cannot_be_exported() {
    let place = Place::new();
    let point = place.point();
    let file = place.source().join("hello");
    for (source, part) in [("/no/such/source", "/no/such/source"), (file.to_str().expect("utf-8"), "not a directory")] {
        fails(externfs(["mount", "hostfs", source]).arg(&point), 1, &[part]);
        fails(externfs(["serve", "hostfs", source, "--socket"]).arg(place.path().join("s")), 1, &[part]);
    }
    assert!(!place.is_mounted() && !place.path().join("s").exists());
}

#[test]
fn words_that_nobody_knows() {
    let place = Place::new();
    let (source, point) = (place.source(), place.point());
    fails(externfs(["mount", "nosuchfs"]).arg(&source).arg(&point), 2, &["'nosuchfs'", "hostfs"]);
    for (option, part) in [
        ("surprise", "'surprise'"),
        ("surprise=1", "squash"),
        ("threads=0", "threads"),
        ("passthrough=maybe", "passthrough"),
        ("sandbox=paper", "require"),
        ("fsname=", "fsname=VALUE"),
        ("=x", "without a name"),
    ] {
        fails(&mut place.mount(&["-o", option]), 2, &[part]);
    }
    // What the mount has is as good an answer as what the plugin has.
    for (option, parts) in [
        ("surprise", &["one-file-system", "allow_other", "threads", "sandbox"][..]),
        ("allow-other", &["did you mean 'allow_other'?"]),
        ("one_file_system", &["did you mean 'one-file-system'?"]),
        ("no-suid", &["did you mean 'nosuid'?"]),
        ("cahce=none", &["did you mean 'cache'?"]),
        ("remount", &["mount -i -o remount,ro", "mount again"]),
    ] {
        fails(&mut place.mount(&["-o", option]), 2, parts);
    }
    let unasked = support::run(&mut place.mount(&["-o", "surprise"]));
    assert!(!support::text(&unasked.stderr).contains("did you mean"));
    fails(&mut place.mount(&["-o", "cache=sometimes"]), 1, &["cache=none|auto|always"]);
    assert!(!place.is_mounted());
}

#[test]
fn a_tree_that_is_shown_as_a_directory() {
    let place = Place::new();
    let tree = place.path().join("tree");
    succeeds(&mut tree_command(&tree, &["create"], &["--size", "1G"]));
    let hint = format!("(humfs:{})", tree.display());
    let said = |command: &mut Command| support::text(&support::run(command).stderr);
    let none = place.path().join("none");
    assert!(said(externfs(["mount", "hostfs"]).arg(&tree).arg(&none)).contains(&hint));
    assert!(said(externfs(["serve", "hostfs"]).arg(&tree).arg("--socket").arg(none.join("s"))).contains(&hint));
    assert!(!said(externfs(["mount", "humfs"]).arg(&tree).arg(&none)).contains(&hint));
    assert!(!said(externfs(["mount", "hostfs"]).arg(place.source()).arg(&none)).contains("humfs"));
    if support::can_boot() {
        let booted = said(externfs(["boot", "--share", "none=/no/such/source", "--root"]).arg(&tree));
        assert!(!booted.contains(&hint), "the first that is wrong is told alone: {booted}");
        let booted = said(externfs(["boot", "--share"]).arg(format!("a={}", tree.display())).args(["--", "true"]));
        assert!(booted.contains(&hint), "{booted}");
    }
}

#[test]
fn a_mount_point_that_cannot_be_one() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let source = place.source();
    fails(externfs(["mount", "hostfs"]).arg(&source).arg(place.path().join("none")), 1, &["does not exist", "mkdir"]);
    fails(externfs(["mount", "hostfs"]).arg(&source).arg(source.join("hello")), 1, &["not a directory"]);
    succeeds(&mut place.mount(&[]));
    fails(&mut place.mount(&[]), 1, &["in use", "externfs umount"]);
    succeeds(&mut place.umount());
}

#[test]
fn nothing_to_unmount() {
    let place = Place::new();
    fails(&mut place.umount(), 1, &["not a mounted externfs"]);
    fails(&mut externfs(["umount", "/no/such/point"]), 1, &["/no/such/point"]);
    fails(&mut externfs(["umount", "/proc"]), 1, &["/proc"]);
}

#[test]
fn a_mount_that_is_in_use() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    succeeds(&mut place.mount(&[]));
    let busy = std::fs::File::open(place.point().join("hello")).expect("open");
    fails(&mut place.umount(), 1, &["in use", "--lazy"]);
    succeeds(place.umount().arg("--lazy"));
    assert!(!place.is_mounted());
    drop(busy);
}

#[test]
fn a_log_file_that_cannot_be_opened() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    fails(&mut place.mount(&["--log-file", "/no/such/log"]), 1, &["/no/such/log"]);
    assert!(!place.is_mounted());
}

#[test]
fn rights_that_only_root_can_keep() {
    if !needs(is_root(), "root, to become somebody else") {
        return;
    }
    let place = Place::new();
    let program = place.path().join("externfs");
    // The build directory may be closed to others.
    std::fs::copy(support::PROGRAM, &program).expect("copy");
    std::fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let ordinary = |option: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&program);
        command.args(["mount", "hostfs"]).arg(place.source()).arg(place.path().join("none")).args(["-o", option]);
        command
    };
    fails(&mut ordinary("trusted"), 2, &["trusted is for root", "leave it out"]);
    fails(&mut ordinary("trusted=off"), 1, &["does not exist"]);
}

#[test]
fn a_socket_that_cannot_be_made() {
    let place = Place::new();
    let serve = |path: &std::path::Path| {
        let mut command = externfs(["serve", "hostfs"]);
        command.arg(place.source()).arg("--socket").arg(path);
        command
    };
    let taken = place.path().join("taken");
    let listener = UnixListener::bind(&taken).expect("bind");
    fails(&mut serve(&taken), 1, &["taken", "in use"]);
    drop(listener);
    fails(&mut serve(&place.path().join("x".repeat(108))), 1, &["too long"]);
    fails(&mut serve(&place.source().join("hello")), 1, &["no socket"]);
    fails(&mut serve(&place.path().join("no/such/s")), 1, &["directory"]);
    fails(serve(&place.path().join("s")).args(["--tag", &"t".repeat(37)]), 1, &["tag"]);
}

#[test]
fn a_second_server_on_one_socket() {
    let place = Place::new();
    let socket = place.path().join("s");
    let source = place.source();
    let arguments = ["serve".as_ref(), "hostfs".as_ref(), source.as_os_str(), "--socket".as_ref(), socket.as_os_str()];
    let mut first = Running::start(&arguments);
    eventually("the socket", || socket.exists());
    fails(&mut externfs(arguments), 1, &["in use"]);
    first.signal("TERM");
    assert_eq!(first.ends(), Some(0));
    assert!(!socket.exists(), "the socket was left behind");
}

#[test]
fn a_guest_that_cannot_be_booted() {
    let place = Place::new();
    fails(&mut externfs(["boot", "--kernel", "/no/such/kernel", "--", "true"]), 1, &["/no/such/kernel", "user-mode-linux"]);
    fails(&mut externfs(["boot", "--kernel", "no-such-kernel", "--", "true"]), 1, &["no-such-kernel", "user-mode-linux"]);
    fails(&mut externfs(["boot", "--kernel", "/bin/true", "--", "true"]), 1, &["/bin/true", "no User Mode Linux kernel"]);
    fails(&mut externfs(["boot", "--share", "nonsense", "--", "true"]), 2, &["TAG=SRC"]);
    fails(&mut externfs(["boot", "--share", "x=foofs:/x", "--", "true"]), 2, &["unknown plugin 'foofs'", "hostfs"]);
    fails(&mut externfs(["boot", "--root", "foofs:/x", "--", "true"]), 2, &["unknown plugin 'foofs'", "hostfs"]);
    if support::can_boot() {
        let source = place.source();
        fails(externfs(["boot", "--modules"]).arg(&source).args(["--", "true"]), 1, &["virtiofs.ko", "user-mode-linux"]);
        fails(&mut externfs(["boot", "--share", "x=/no/such/dir", "--", "true"]), 1, &["/no/such/dir"]);
        fails(&mut externfs(["boot", "--root", "/no/such/root", "--", "true"]), 1, &["/no/such/root"]);
    }
}

/// Runs `script` in a mount namespace with a /dev of its own.
fn in_namespace(script: &str) -> Command {
    let mut command = Command::new("timeout");
    let prepare = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3";
    command.args(["--kill-after=5", "60", "unshare", "-m", "sh", "-c", &format!("{prepare} && {script}")]);
    command
}

#[test]
fn a_host_without_fuse() {
    if !needs(is_root(), "root, for a mount namespace") {
        return;
    }
    let place = Place::new();
    let mount = format!("exec {} mount hostfs {} {}", support::PROGRAM, place.source().display(), place.point().display());
    fails(&mut in_namespace(&mount), 1, &["/dev/fuse", "modprobe fuse"]);
}

#[test]
fn a_user_without_fusermount3() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let program = place.path().join("externfs");
    // The build directory may be closed to others.
    std::fs::copy(support::PROGRAM, &program).expect("copy");
    let script = format!(
        "mknod -m 666 /dev/fuse c 10 229; for f in /usr/bin/fusermount3 /bin/fusermount3; do test -e $f && mount --bind /dev/null $f; done; \
         chmod 755 {0}; chown -R 65534 {0}; exec setpriv --reuid 65534 --regid 65534 --clear-groups {1} mount hostfs {0}/source {0}/point",
        place.path().display(),
        program.display()
    );
    fails(&mut in_namespace(&script), 1, &["fusermount3", "fuse3"]);
}

/// `externfs COMMAND TREE REST`.
fn tree_command(tree: &std::path::Path, command: &[&str], rest: &[&str]) -> Command {
    let mut built = externfs(command);
    built.arg(tree).args(rest);
    built
}

#[test]
fn what_is_no_tree() {
    let place = Place::new();
    let (none, directory, file) = (place.path().join("none"), place.source(), place.source().join("hello"));
    for (command, rest) in [
        (&["ls"][..], &[][..]),
        (&["stat"], &["/"]),
        (&["chown"], &["0", "/"]),
        (&["chmod"], &["0", "/"]),
        (&["mknod"], &["/p", "p"]),
        (&["ln"], &["/a", "/b"]),
        (&["cp-in"], &["/etc/hostname", "/"]),
        (&["cp-out"], &["/a", "/tmp"]),
        (&["export"], &["--tar", "/tmp/externfs-never"]),
        (&["resize"], &["1G"]),
        (&["convert"], &["--metadata", "sqlite"]),
    ] {
        fails(&mut tree_command(&none, command, rest), 1, &["does not exist", "externfs create"]);
        fails(&mut tree_command(&directory, command, rest), 1, &["no superblock", "humfsify"]);
        fails(&mut tree_command(&file, command, rest), 1, &["not a directory"]);
    }
}

#[test]
fn paths_and_modes_and_owners_that_are_none() {
    let place = Place::new();
    let tree = place.path().join("tree");
    let go = |command: &[&str], rest: &[&str]| tree_command(&tree, command, rest);
    succeeds(&mut go(&["create"], &["--size", "1G", "--from", place.source().to_str().expect("utf-8")]));
    succeeds(&mut go(&["ln", "-s"], &["hello", "/link"]));
    for (command, rest, code, parts) in [
        (&["ls"][..], &["/none"][..], 1, &["/none: no such file"][..]),
        (&["ls"], &["../x"], 2, &["'..'"]),
        (&["explain"], &[".."], 2, &["'..'"]),
        (&["ls"], &["/hello/x"], 1, &["/hello: not a directory"]),
        (&["stat"], &["/link/x"], 1, &["symbolic link", "hello"]),
        (&["chown"], &["nobody", "/hello"], 1, &["'nobody'", "/etc/passwd", "number"]),
        (&["chown"], &[":", "/hello"], 2, &["USER:GROUP"]),
        (&["chown"], &["4294967295", "/hello"], 1, &["4294967295", "up to 4294967294"]),
        (&["chown"], &["0:4294967296", "/hello"], 1, &["4294967296", "up to 4294967294"]),
        (&["chmod"], &["u+z", "/hello"], 2, &["'u+z'", "go-w"]),
        (&["chmod"], &["99", "/hello"], 2, &["'99'"]),
        (&["chmod"], &["0", "/link"], 1, &["/link", "no mode"]),
        (&["mknod"], &["/null", "c"], 2, &["MAJOR"]),
        (&["mknod"], &["/pipe", "p", "1", "2"], 2, &["only devices"]),
        (&["mknod"], &["/hello", "p"], 1, &["/hello: exists already"]),
        (&["mknod"], &["/p", "p", "--owner", "me"], 1, &["'me'"]),
        (&["mknod"], &["/", "p"], 1, &["root of the tree"]),
        (&["ln"], &["/none", "/x"], 1, &["/none"]),
        (&["ln"], &["/", "/x"], 1, &["directory", "ln -s"]),
        (&["cp-in"], &["/no/such/file", "/x"], 1, &["/no/such/file: no such file"]),
        (&["cp-in"], &["/tmp", "/x"], 1, &["/tmp is a directory: -r"]),
        (&["cp-in"], &["/etc/hostname", "/none/x"], 1, &["/none"]),
        (&["cp-in"], &["/etc/hostname", "/etc/passwd", "/hello"], 1, &["/hello", "directory"]),
        (&["cp-in"], &["-", "/"], 2, &["no name"]),
        (&["cp-out"], &["/", "/tmp/externfs-never"], 1, &["-r"]),
        (&["cp-out"], &["/hello", "/no/such/dir/x"], 1, &["/no/such/dir"]),
        (&["cp-out"], &["/hello", "/hello", "/no/such"], 1, &["/no/such", "directory"]),
        (&["export"], &["--tar", "/no/such/dir/x.tar"], 1, &["/no/such/dir/x.tar"]),
        (&["convert"], &["--metadata", "xattr"], 1, &["already"]),
        (&["create"], &["--size", "1G"], 1, &["already"]),
    ] {
        fails(&mut go(command, rest), code, parts);
    }
    let line = support::text(&support::run(&mut go(&["export"], &["--tar", "/no/such/dir/x.tar"])).stderr);
    assert_eq!(line, "externfs: /no/such/dir/x.tar: no such file or directory\n");
    assert_eq!(succeeds(&mut go(&["ls"], &["/"])), "hello\nlink\n");
    for (command, rest) in [
        (&["create"][..], &["--size", "0"][..]),
        (&["create"], &["--size", "1X"]),
        (&["create"], &[]),
        (&["create"], &["--size", "1G", "--metadata", "ext4"]),
        (&["resize"], &["lots"]),
    ] {
        assert_eq!(support::run(&mut go(command, rest)).status.code(), Some(2), "{command:?} {rest:?}");
    }
}

/// As what is left of "$DIR" when nobody has set it: it means the tree's root to no command.
#[test]
fn a_path_that_is_empty() {
    let place = Place::new();
    let tree = place.path().join("tree");
    succeeds(&mut tree_command(&tree, &["create"], &["--size", "1G", "--from", place.source().to_str().expect("utf-8")]));
    let looks = || succeeds(&mut tree_command(&tree, &["ls", "-lnRd"], &["/", "/hello"]));
    let before = looks();
    for (command, rest) in [
        (&["chmod"][..], &["0700", ""][..]),
        (&["chmod", "-R"], &["0700", "/hello", ""]),
        (&["chown", "-R"], &["1000:1000", ""]),
        (&["ls"], &[""]),
        (&["stat"], &[""]),
        (&["explain"], &[""]),
        (&["cp-in"], &["/etc/passwd", ""]),
        (&["cp-out"], &["", "-"]),
        (&["cp-out", "-r"], &["", "/tmp/externfs-never"]),
        (&["mknod"], &["", "p"]),
        (&["ln"], &["", "/x"]),
        (&["ln"], &["/hello", ""]),
    ] {
        fails(&mut tree_command(&tree, command, rest), 2, &["path is empty"]);
    }
    assert_eq!(looks(), before);
}

#[test]
fn a_tree_that_cannot_be_made() {
    let place = Place::new();
    let source = place.source();
    let go = |tree: &std::path::Path, rest: &[&str]| tree_command(tree, &["create"], &[&["--size", "1G"], rest].concat());
    fails(&mut go(&source, &[]), 1, &["not empty", "'hello'"]);
    fails(&mut go(&source.join("hello"), &[]), 1, &["not a directory"]);
    fails(&mut go(std::path::Path::new("/no/such/dir/tree"), &[]), 1, &["/no/such/dir/tree"]);
    let tree = place.path().join("tree");
    fails(&mut go(&tree, &["--from", "/no/such/source"]), 1, &["/no/such/source"]);
    assert!(!tree.exists(), "nothing is made before the source is there");
    fails(&mut go(&tree, &["--from", source.join("hello").to_str().expect("utf-8")]), 1, &["hello", "tar"]);
    fails(&mut go(&tree, &["--from", place.path().to_str().expect("utf-8")]), 1, &["tree", "itself"]);
    let inner = place.source().join("inner");
    for from in [place.path(), &source, &source.join("../source/.")] {
        fails(&mut go(&inner, &["--from", from.to_str().expect("utf-8")]), 1, &["inner", "itself"]);
        assert!(!inner.exists(), "nothing is made that is never finished");
    }
    fails(&mut go(&place.path().join("other"), &["--owner", "no such user"]), 1, &["no such user"]);
    // Less than its root takes.
    for size in ["100", "4K", "4607"] {
        let small = place.path().join("small");
        fails(&mut tree_command(&small, &["create"], &["--size", size]), 1, &["4608"]);
        assert!(!small.exists());
    }
    succeeds(&mut tree_command(&place.path().join("least"), &["create"], &["--size", "4608"]));
}

/// The directory above TREE may be the user's own, who puts there what he likes.
#[test]
fn what_is_not_given_away() {
    use std::os::unix::fs::{MetadataExt, chown, symlink};
    if !needs(support::is_root(), "root, to give files away") {
        return;
    }
    let place = Place::new();
    let go = |tree: &std::path::Path| tree_command(tree, &["create"], &["--size", "1G", "--owner", "65534:65534"]);
    let roots = place.path().join("roots");
    std::fs::create_dir(&roots).expect("mkdir");
    for (name, target) in [("link", &roots), ("slash", &roots), ("dangling", &place.path().join("nothing"))] {
        symlink(target, place.path().join(name)).expect("symlink");
        let ending = if name == "slash" { "slash/" } else { name };
        fails(&mut go(&place.path().join(ending)), 1, &[name, "symbolic link", "name the directory"]);
    }
    assert_eq!(roots.metadata().expect("stat").uid(), 0);
    assert!(!place.path().join("nothing").exists());
    fails(&mut go(&place.source().join("hello")), 1, &["hello", "not a directory"]);
    let others = place.path().join("others");
    std::fs::create_dir(&others).expect("mkdir");
    chown(&others, Some(65_533), None).expect("chown");
    fails(&mut go(&others), 1, &["others", "belongs to user 65533"]);
    // What is empty and root's is given away, and so is what is the user's already.
    chown(place.path().join("others"), Some(65_534), None).expect("chown");
    std::fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    for tree in [&roots, &others] {
        succeeds(&mut go(tree));
        assert_eq!(tree.join("data").metadata().expect("stat").uid(), 65_534);
    }
}

#[test]
fn an_archive_that_leads_elsewhere() {
    if !needs(Command::new("python3").arg("--version").output().is_ok(), "python3, to make such archives") {
        return;
    }
    let place = Place::new();
    for (name, members, parts) in [
        ("absolute", "f('/etc/x')", &["'/etc/x'", "absolute"][..]),
        ("climbing", "f('a/../../x')", &["a/../../x", "leads out"]),
        ("through", "l('d', '/tmp'); f('d/x')", &["/d", "symbolic link"]),
        ("linked", "h('x', '../../etc/passwd')", &["etc/passwd", "leads out"]),
        ("dangling", "h('x', 'nothing')", &["/x", "hard link"]),
        ("rootless", "f('.')", &["'.'", "root"]),
        ("beneath", "f('a'); f('a/b')", &["/a", "no directory"]),
    ] {
        let archive = place.path().join(format!("{name}.tar"));
        let script = format!(
            "import tarfile,sys\nt=tarfile.open(sys.argv[1],'w')\n\
             def e(n,k,l=''):\n i=tarfile.TarInfo('p'); i.name=n; i.type=k; i.linkname=l; t.addfile(i)\n\
             f=lambda n: e(n,tarfile.REGTYPE)\nl=lambda n,x: e(n,tarfile.SYMTYPE,x)\nh=lambda n,x: e(n,tarfile.LNKTYPE,x)\n{members}\nt.close()"
        );
        succeeds(Command::new("python3").args(["-c", &script]).arg(&archive));
        let tree = place.path().join(name);
        fails(&mut tree_command(&tree, &["create"], &["--size", "1G", "--from", archive.to_str().expect("utf-8")]), 1, parts);
    }
}
