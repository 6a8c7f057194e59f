//! `externfs mount` and `umount` on a real host.

mod support;

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use support::{Place, Running, can_mount, eventually, processes_with, run, succeeds, text};

#[test]
fn a_mount_is_usable_when_the_command_returns() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    // Its streams are pipes here: were the server to hold them, this would hang.
    succeeds(&mut place.mount(&[]));
    let hello = place.point().join("hello");
    assert_eq!(fs::read_to_string(&hello).expect("read"), "from the host\n");
    fs::write(place.point().join("new"), "through the mount").expect("write");
    assert_eq!(fs::read_to_string(place.source().join("new")).expect("read"), "through the mount");
    assert_eq!(fs::metadata(&hello).expect("stat").ino(), fs::metadata(place.source().join("hello")).expect("stat").ino());
    succeeds(&mut place.umount());
    assert!(!place.is_mounted());
    eventually("both processes to end", || processes_with(&place.source().display().to_string()).is_empty());
}

#[test]
fn options_reach_whom_they_mean() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    succeeds(&mut place.mount(&["-o", "ro,noexec,fsname=my data,threads=1", "-o", "cache=none"]));
    let info = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let line = info.lines().find(|line| line.contains(&place.point().display().to_string())).expect("mounted");
    for part in ["ro,", "noexec", "fuse.externfs my\\040data"] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    let refused = fs::write(place.point().join("x"), "").expect_err("read-only");
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    succeeds(&mut place.umount());
}

/// What making a device node and setting setuid on `hello` say, as errnos.
fn device_and_setuid(point: &std::path::Path) -> [Option<i32>; 2] {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let device = point.join("device");
    let made = mknod(&device, SFlag::S_IFCHR, Mode::from_bits_truncate(0o600), makedev(1, 3)).err().map(|errno| errno as i32);
    let _ = fs::remove_file(device);
    let hello = point.join("hello");
    let set = fs::set_permissions(&hello, fs::Permissions::from_mode(0o4755)).err().and_then(|error| error.raw_os_error());
    [made, set]
}

#[test]
fn nodev_and_nosuid_are_promises_of_the_server() {
    if !can_mount() {
        return;
    }
    let both = [Some(libc::EPERM); 2];
    for (options, expected) in [
        ("nodev,nosuid", both),
        ("dev,suid,nodev,nosuid", both),
        ("nodev", [Some(libc::EPERM), None]),
        ("nosuid", [None, Some(libc::EPERM)]),
        // The kernel's mount has both flags anyway: that is no promise about the files.
        ("rw", [None; 2]),
        ("nodev,nosuid,dev,suid", [None; 2]),
    ] {
        let place = Place::new();
        succeeds(&mut place.mount(&["-o", options]));
        assert_eq!(device_and_setuid(&place.point()), expected, "{options}");
        let mode = fs::metadata(place.source().join("hello")).expect("stat").mode();
        assert_eq!(mode & 0o4000 != 0, expected[1].is_none(), "{options}: {mode:o}");
        succeeds(&mut place.umount());
    }
}

#[test]
fn plugins_without_nodev_and_nosuid_leave_them_to_the_kernel() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let tree = place.path().join("tree");
    succeeds(support::externfs(["create", "--size", "64M"]).arg(&tree));
    for (plugin, source) in [("humfs", tree), ("lines", place.source().join("hello"))] {
        succeeds(support::externfs(["mount", plugin]).arg(source).arg(place.point()).args(["-o", "nodev,nosuid"]));
        let info = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let line = info.lines().find(|line| line.contains(&place.point().display().to_string())).expect("mounted");
        assert!(line.contains("nosuid,nodev"), "{line}");
        succeeds(&mut place.umount());
    }
}

#[test]
fn in_the_foreground_a_signal_unmounts() {
    if !can_mount() {
        return;
    }
    for signal in ["INT", "TERM", "HUP"] {
        let place = Place::new();
        let (source, point) = (place.source(), place.point());
        let arguments = ["mount".as_ref(), "-f".as_ref(), "hostfs".as_ref(), source.as_os_str(), point.as_os_str()];
        let mut running = Running::start(&arguments);
        eventually("the mount", || place.is_mounted() && point.join("hello").exists());
        running.signal(signal);
        assert_eq!(running.ends(), Some(0), "{signal}");
        assert!(!place.is_mounted(), "{signal}");
    }
}

/// As timeout(1) does it: to the process, and then to its group.
#[test]
fn a_signal_that_comes_twice_is_not_yet_force() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let (source, point) = (place.source(), place.point());
    let arguments = ["mount".as_ref(), "-f".as_ref(), "hostfs".as_ref(), source.as_os_str(), point.as_os_str()];
    let mut running = Running::start(&arguments);
    eventually("the mount", || place.is_mounted() && point.join("hello").exists());
    // Whoever uses the mount is waited for.
    let user = fs::File::open(point.join("hello")).expect("open");
    let twice = format!("kill -TERM {0}; sleep 0.2; kill -TERM {0}", running.0.id());
    succeeds(std::process::Command::new("sh").args(["-c", &twice]));
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(running.0.try_wait().expect("wait"), None, "force was taken for asked");
    let mut said = String::new();
    (&user).read_to_string(&mut said).expect("it is served");
    assert_eq!(said, "from the host\n");
    drop(user);
    assert_eq!(running.ends(), Some(0));
    // Somebody else's is a second one.
    let mut running = Running::start(&arguments);
    eventually("the mount", || place.is_mounted() && point.join("hello").exists());
    let _user = fs::File::open(point.join("hello")).expect("open");
    running.signal("TERM");
    running.signal("TERM");
    assert_eq!(running.ends(), Some(1));
}

fn kill(pid: u32) {
    assert!(std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill").success());
}

fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:")).and_then(|above| above.trim().parse().ok())
}

/// Options of the ways to talk to the kernel that there are here.
fn ways() -> Vec<[&'static str; 2]> {
    let offered = fs::read("/sys/module/fuse/parameters/enable_uring").is_ok_and(|word| word.starts_with(b"Y"));
    let mut ways = vec![["-o", "uring=off"]];
    if support::needs(offered, "fuse.enable_uring") {
        ways.push(["-o", "uring=on"]);
    }
    ways
}

#[test]
fn a_server_that_dies_leaves_no_dead_mount() {
    if !can_mount() {
        return;
    }
    ways().iter().for_each(|way| a_server_dies(way));
}

fn a_server_dies(way: &[&str]) {
    let place = Place::new();
    succeeds(&mut place.mount(way));
    let both = processes_with(&place.source().display().to_string());
    assert_eq!(both.len(), 2, "a supervisor and a server");
    let server = *both.iter().find(|pid| parent(**pid).is_some_and(|ppid| both.contains(&ppid))).expect("a server");
    kill(server);
    eventually("the supervisor to unmount", || !place.is_mounted());
    eventually("the supervisor to end", || processes_with(&place.source().display().to_string()).is_empty());

    // And when the supervisor dies, the server goes with it; the dead mount
    // that this leaves is no obstacle to the next.
    succeeds(&mut place.mount(way));
    let both = processes_with(&place.source().display().to_string());
    let supervisor = *both.iter().find(|pid| !parent(**pid).is_some_and(|ppid| both.contains(&ppid))).expect("a supervisor");
    kill(supervisor);
    eventually("the server to end", || processes_with(&place.source().display().to_string()).is_empty());
    succeeds(&mut place.mount(way));
    assert_eq!(fs::read_to_string(place.point().join("hello")).expect("read"), "from the host\n");
    succeeds(&mut place.umount());
}

#[test]
fn the_next_mount_works_however_short_ago_a_server_was_killed() {
    if !can_mount() {
        return;
    }
    ways().iter().for_each(|way| the_next_mount_works(way));
}

fn the_next_mount_works(way: &[&str]) {
    let place = Place::new();
    succeeds(&mut place.mount(way));
    for round in 0..30 {
        let both = processes_with(&place.source().display().to_string());
        let supervisor = both.iter().find(|pid| !parent(**pid).is_some_and(|above| both.contains(&above))).expect("a supervisor");
        let server = both.iter().find(|pid| parent(**pid) == Some(*supervisor)).expect("a server");
        match round % 3 {
            0 => kill(*server),
            1 => kill(*supervisor),
            _ => {
                kill(*server);
                kill(*supervisor);
            }
        }
        succeeds(&mut place.mount(way));
        assert_eq!(fs::read_to_string(place.point().join("hello")).expect("read"), "from the host\n", "round {round}");
        eventually("the dead to be gone", || processes_with(&place.source().display().to_string()).len() == 2);
    }
    succeeds(&mut place.umount());
    assert!(!place.is_mounted());
}

#[test]
fn the_server_keeps_only_what_it_needs() {
    if !can_mount() {
        return;
    }
    ways().iter().for_each(|way| the_server_is_confined(way));
}

fn the_server_is_confined(way: &[&str]) {
    let place = Place::new();
    let output = run(&mut place.mount(&[&["-o", "passthrough=off", "--sandbox", "require"], way].concat()));
    if !output.status.success() && text(&output.stderr).contains("sandbox=require") {
        eprintln!("SKIPPED: {}", text(&output.stderr));
        return;
    }
    assert!(output.status.success(), "{}", text(&output.stderr));
    let statuses = processes_with(&place.source().display().to_string());
    let confined = statuses.iter().filter(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
        let capabilities = u64::from_str_radix(&field("CapPrm:"), 16).unwrap_or(u64::MAX);
        const SYS_ADMIN: u64 = 1 << 21;
        const SYS_PTRACE: u64 = 1 << 19;
        const CHOWN: u64 = 1;
        field("NoNewPrivs:") == "1"
            && field("Seccomp:") == "2"
            && capabilities & (SYS_ADMIN | SYS_PTRACE) == 0
            && capabilities & CHOWN != 0
            && field("CapBnd:") == field("CapPrm:")
    });
    assert_eq!(confined.count(), 1, "one of the two is the server");
    assert_eq!(fs::read_to_string(place.point().join("hello")).expect("read"), "from the host\n");
    succeeds(&mut place.umount());
}

#[test]
fn the_log_goes_where_it_is_told() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let log = place.path().join("log");
    succeeds(place.mount(&["--log-file", log.to_str().expect("utf-8")]).env("RUST_LOG", "info"));
    let line = fs::read_to_string(&log).expect("log");
    assert!(line.contains("externfs[") && line.contains("serving"), "{line}");
    succeeds(&mut place.umount());
}

#[test]
fn an_ordinary_user_mounts_through_fusermount3() {
    if !can_mount() || !support::needs(std::path::Path::new("/usr/bin/fusermount3").exists(), "fusermount3 (package fuse3)") {
        return;
    }
    let place = Place::new();
    let program = place.path().join("externfs");
    // The build directory may be closed to others.
    fs::copy(support::PROGRAM, &program).expect("copy");
    // A /dev/fuse for everybody, as distributions have it, that only we see.
    let script = "mount -t tmpfs none /dev\nmknod -m 666 /dev/null c 1 3\nmknod -m 666 /dev/fuse c 10 229\n\
                  chmod 755 $D; chown -R 65534:65534 $D\ncd $D\n\
                  U='setpriv --reuid 65534 --regid 65534 --clear-groups'\n\
                  $U ./externfs mount hostfs source point\n$U cat point/hello\n$U sh -c 'echo made > point/made'\n\
                  $U ./externfs umount point\n$U ./externfs mount hostfs source point -o ro\n\
                  $U sh -c 'echo no > point/no' 2>/dev/null || echo refused\n$U ./externfs umount point\n\
                  # Found where it is by now.\n$U mkdir -p above/point\n\
                  $U ./externfs mount -f hostfs source above/point &\n\
                  until $U test -e above/point/hello; do sleep 0.05; done\n$U mv above renamed\n\
                  kill $!\nwait $!\n! grep renamed /proc/self/mountinfo";
    let mut command = std::process::Command::new("timeout");
    command.args(["--kill-after=5", "60", "unshare", "-m", "sh", "-ec", script]).env("D", place.path());
    assert_eq!(succeeds(&mut command), "from the host\nrefused\n");
    assert_eq!(fs::metadata(place.source().join("made")).expect("made").uid(), 65534);
    let here = place.path().display().to_string();
    eventually("both processes to end", || processes_with(&here).is_empty());
}

#[test]
fn the_example_plugin_is_mountable() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let text = place.path().join("text");
    fs::write(&text, "one\ntwo\n").expect("write");
    succeeds(support::externfs(["mount", "lines"]).arg(&text).arg(place.point()).args(["--sandbox", "auto"]));
    let mut names: Vec<_> = fs::read_dir(place.point()).expect("list").map(|entry| entry.expect("entry").path()).collect();
    names.sort();
    let lines: Vec<_> = names.iter().map(|name| fs::read_to_string(name).expect("read")).collect();
    assert_eq!(lines, ["one\n", "two\n"]);
    support::fails(
        support::externfs(["mount", "lines"]).arg(&text).arg(place.path().join("point/..")).args(["-o", "surprise"]),
        2,
        &["surprise"],
    );
    succeeds(&mut place.umount());
}
