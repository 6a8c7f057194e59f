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
    fails(&mut place.mount(&["-o", "cache=sometimes"]), 1, &["cache=none|auto|always"]);
    assert!(!place.is_mounted());
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
