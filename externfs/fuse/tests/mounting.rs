//! Mounting and unmounting: who may, where, what is in the way, and what a
//! killed server leaves.

#![allow(clippy::unwrap_used)] // A test that cannot set its stage ends.

mod support;

use externfs_fuse::{ExitReason, FuseMount, MountError, MountOptions, Unmounter, unmount};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use support::{Mounted, can_mount, lines};

fn refused(point: &Path) -> MountError {
    FuseMount::mount("test".as_ref(), point, &MountOptions::default()).unwrap_err()
}

#[test]
fn wrong_places_are_named() {
    let place = tempfile::tempdir().unwrap();
    let missing = place.path().join("missing");
    assert!(matches!(refused(&missing), MountError::NoSuchDirectory(path) if path == missing));
    assert!(matches!(refused(&missing.join("x")), MountError::NoSuchDirectory(_)));
    let file = place.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(refused(&file), MountError::NotADirectory(path) if path == file));
    let link = place.path().join("link");
    symlink("nowhere", &link).unwrap();
    assert!(matches!(refused(&link), MountError::NoSuchDirectory(_)));
    let cycle = place.path().join("cycle");
    symlink("cycle", &cycle).unwrap();
    assert!(matches!(refused(&cycle), MountError::Unusable(..)));
}

#[test]
fn a_link_to_a_directory_is_followed() {
    if !can_mount() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (real, link) = (place.path().join("real dir"), place.path().join("link"));
    fs::create_dir(&real).unwrap();
    symlink("real dir", &link).unwrap();
    let mount = FuseMount::mount("a,b \\c".as_ref(), &link, &MountOptions::default()).unwrap();
    assert_eq!(mount.unmounter().point(), real.canonicalize().unwrap());
    assert!(mount.unmounter().is_mounted());
    let unmounter = mount.unmounter();
    drop(mount);
    assert!(!unmounter.is_mounted(), "a mount that is not served goes with its owner");
}

#[test]
fn a_place_in_use_is_left_alone() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::with("", |_| lines());
    let line = refused(&mounted.point).to_string();
    assert!(line.contains("in use (fuse.externfs") && line.contains("externfs umount"), "{line}");
    assert_eq!(fs::read(mounted.path("1")).unwrap(), b"alpha\n");
    assert_eq!(mounted.end(), ExitReason::Stopped);
}

#[test]
fn umount_ends_the_server() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::with("", |_| lines());
    let open = File::open(mounted.path("1")).unwrap();
    assert!(matches!(unmount(&mounted.point, false), Err(MountError::Busy(_))));
    drop(open);
    unmount(&mounted.point, false).unwrap();
    let point = mounted.point.clone();
    assert!(matches!(unmount(&point, false), Err(MountError::NotMounted(_))));
    assert!(matches!(unmount(Path::new("/proc"), false), Err(MountError::NotMounted(_))));
    assert_eq!(mounted.join(), ExitReason::Unmounted);
}

/// Who has just begun to end, or another thread's fork(2), has it in use too.
#[test]
fn stopping_waits_for_a_moment() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::with("", |_| lines());
    let open = File::open(mounted.path("1")).unwrap();
    std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(30));
        drop(open);
    });
    assert_eq!(mounted.end(), ExitReason::Stopped);
}

#[test]
fn stopping_in_use_detaches() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::hostfs("", "");
    fs::write(mounted.path("f"), "x").unwrap();
    let open = File::open(mounted.path("f")).unwrap();
    mounted.stop.stop();
    let export = mounted.export.clone();
    assert_eq!(mounted.join(), ExitReason::StoppedInUse);
    assert_eq!(open.metadata().unwrap().len(), 1, "it is served until it is closed");
    drop(open);
    for _ in 0..100 {
        if export.upgrade().is_none() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("the session outlives its last file");
}

#[test]
fn the_kernel_gives_everything_back() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::hostfs("", "");
    for n in 0..200 {
        fs::write(mounted.path(&n.to_string()), "x").unwrap();
    }
    assert!(fs::read_dir(&mounted.point).unwrap().all(|entry| entry.unwrap().metadata().is_ok()));
    assert!(mounted.holds().0 > 200, "{:?}", mounted.holds());
    // Forgets come as the kernel drops its caches.
    for _ in 0..50 {
        fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        if mounted.holds() == (1, 0) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("nodes and handles that stay: {:?}", mounted.holds());
}

/// A server of its own, to be killed.
struct Server {
    child: Child,
    point: PathBuf,
}

impl Server {
    fn start(host: &Path, point: &Path, words: &str, user: Option<u32>) -> Server {
        let mut example = PathBuf::from(std::env::current_exe().unwrap().parent().unwrap().parent().unwrap());
        example.push("examples/mount_hostfs");
        let mut command = match user {
            None => Command::new(&example),
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".into()]).arg(&example);
                command
            }
        };
        let mut child = command.arg(host).arg(point).arg(words).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.as_mut().unwrap()), &mut line).unwrap();
        let server = Server { child, point: point.to_owned() };
        assert_eq!(line, "ready\n");
        server
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        while unmount(&self.point, true).is_ok() {}
    }
}

#[test]
fn the_mount_of_a_killed_server_is_cleared() {
    if !can_mount() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (host, point) = (place.path().join("host"), place.path().join("mnt"));
    fs::create_dir(&host).unwrap();
    fs::create_dir(&point).unwrap();
    for round in 0..3 {
        let mut server = Server::start(&host, &point, "cache=always", None);
        fs::write(point.join(round.to_string()), "written").unwrap();
        server.kill();
        assert_eq!(fs::read_dir(&point).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
        assert_eq!(fs::read(host.join(round.to_string())).unwrap(), b"written");
        std::mem::forget(server);
    }
    let mut server = Server::start(&host, &point, "cache=always", None);
    assert_eq!(fs::read_dir(&point).unwrap().count(), 3);
    server.kill();
    unmount(&point, false).unwrap();
    assert!(matches!(unmount(&point, false), Err(MountError::NotMounted(_))));
}

#[test]
fn a_server_that_is_about_to_die_is_not_in_the_way() {
    if !can_mount() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (host, point) = (place.path().join("host"), place.path().join("mnt"));
    fs::create_dir(&host).unwrap();
    fs::create_dir(&point).unwrap();
    let mut server = Server::start(&host, &point, "", None);
    let killing = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(30));
        server.kill();
        std::mem::forget(server);
    });
    let next = FuseMount::mount("next".as_ref(), &point, &MountOptions::default()).unwrap();
    killing.join().unwrap();
    assert!(next.unmounter().is_mounted());
}

/// nobody: fusermount3 wants a user that has a name.
const USER: u32 = 65534;

/// /dev/fuse open to all while it lives.
struct OpenDevice(fs::Permissions);

impl OpenDevice {
    fn new() -> OpenDevice {
        let before = fs::metadata("/dev/fuse").unwrap().permissions();
        fs::set_permissions("/dev/fuse", std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        OpenDevice(before)
    }
}

impl Drop for OpenDevice {
    fn drop(&mut self) {
        let _ = fs::set_permissions("/dev/fuse", self.0.clone());
    }
}

fn user_place() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (host, point) = (place.path().join("host"), place.path().join("mnt"));
    for path in [&host, &point] {
        fs::create_dir(path).unwrap();
        std::os::unix::fs::chown(path, Some(USER), Some(USER)).unwrap();
    }
    (place, host, point)
}

fn as_user(words: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={USER}"), format!("--regid={USER}"), "--clear-groups".into()]).args(words);
    command
}

/// One test, since both sides of it change /dev/fuse.
#[test]
fn an_ordinary_user_mounts_through_fusermount3() {
    let has_helper = Path::new("/usr/bin/fusermount3").exists();
    if !can_mount() || !has_helper {
        eprintln!("SKIPPED without fusermount3: {}", !has_helper);
        return;
    }
    let (_place, host, point) = user_place();
    let example = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples/mount_hostfs");
    let attempt = |words: &str, point: &Path| {
        let output = as_user(&[example.to_str().unwrap()]).arg(&host).arg(point).arg(words).output().unwrap();
        assert!(!output.status.success(), "{words}");
        String::from_utf8(output.stderr).unwrap()
    };
    let closed = fs::metadata("/dev/fuse").unwrap();
    if std::os::unix::fs::MetadataExt::mode(&closed) & 0o777 == 0o600 {
        assert!(attempt("", &point).contains("DeviceForbidden"));
    }
    let device = OpenDevice::new();
    assert!(attempt("", Path::new("/mnt")).contains("NotYours"));
    assert!(attempt("suid", &point).contains("for root"));
    if !fs::read_to_string("/etc/fuse.conf").unwrap_or_default().lines().any(|line| line.trim() == "user_allow_other") {
        assert!(attempt("allow_other", &point).contains("AllowOtherForbidden"));
    }
    let script = |text: &str| {
        let output = as_user(&["sh", "-c", text]).current_dir("/").env("P", &point).output().unwrap();
        assert!(output.status.success(), "{text}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for round in 0..2 {
        let mut server = Server::start(&host, &point, "", Some(USER));
        assert_eq!(script("echo mine > $P/f && cat $P/f && mkdir -p $P/d && stat -c %u $P/f"), format!("mine\n{USER}\n"));
        // Nobody else is let in, not even root.
        assert_eq!(fs::read_dir(&point).unwrap_err().raw_os_error(), Some(libc::EACCES));
        if round == 0 {
            // What it leaves is cleared by its user's next mount.
            server.kill();
            std::mem::forget(server);
        } else {
            script("fusermount3 -u $P");
            assert!(server.child.wait().unwrap().success());
        }
    }
    drop(device);
}

#[test]
fn an_unmounter_touches_no_other_mount() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::with("", |_| lines());
    let stranger: Unmounter = {
        let place = tempfile::tempdir().unwrap();
        let mount = FuseMount::mount("other".as_ref(), place.path(), &MountOptions::default()).unwrap();
        mount.unmounter()
    };
    assert!(!stranger.is_mounted());
    stranger.unmount(true).unwrap();
    assert!(mounted.is_mounted());

    // The next mount in the same place often gets the same device number.
    let place = tempfile::tempdir().unwrap();
    let mount = || FuseMount::mount("other".as_ref(), place.path(), &MountOptions::default()).unwrap();
    let before = mount().unmounter();
    let successor = mount();
    before.unmount(true).unwrap();
    assert!(!before.is_mounted() && successor.unmounter().is_mounted());
    assert_eq!(mounted.end(), ExitReason::Stopped);
}

#[test]
fn a_mount_is_found_where_it_has_moved_to() {
    if !can_mount() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (above, renamed, other) = (place.path().join("above"), place.path().join("renamed"), place.path().join("other"));
    fs::create_dir_all(above.join("mnt")).unwrap();
    fs::create_dir(&other).unwrap();
    let mount = FuseMount::mount("moving".as_ref(), &above.join("mnt"), &MountOptions::default()).unwrap();
    let unmounter = mount.unmounter();
    // The same file system a second time: no business of ours.
    let bind =
        |arguments: &[&Path]| Command::new("mount").args(["--no-canonicalize", "--bind"]).args(arguments).status().unwrap().success();
    assert!(bind(&[&above.join("mnt"), &other]));
    fs::rename(&above, &renamed).unwrap();
    // What came into its place is not it.
    fs::create_dir_all(above.join("mnt")).unwrap();
    let successor = FuseMount::mount("successor".as_ref(), &above.join("mnt"), &MountOptions::default()).unwrap();
    let is_mounted = |point: &Path| {
        let shown = format!(" {} ", point.display());
        fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&shown)
    };
    assert!(unmounter.is_mounted() && is_mounted(&renamed.join("mnt")));
    // Somebody else's on top of it is left alone.
    assert!(bind(&[Path::new("/proc"), &renamed.join("mnt")]));
    assert!(unmounter.is_mounted());
    assert!(matches!(unmounter.unmount(true), Err(MountError::Busy(_))));
    assert!(Command::new("umount").arg(renamed.join("mnt")).status().unwrap().success());
    unmounter.unmount_now().unwrap();
    assert!(!unmounter.is_mounted() && !is_mounted(&renamed.join("mnt")));
    assert!(is_mounted(&other) && successor.unmounter().is_mounted());
    // Nobody serves it: while there is a device umount(8) would wait.
    drop(mount);
    assert!(Command::new("umount").arg(&other).status().unwrap().success());
}
