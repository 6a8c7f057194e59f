//! `externfs boot` with a real User Mode Linux guest.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::{Place, Running, can_boot, eventually, externfs, fails, is_root, needs, processes_with, run, succeeds, text};

/// `externfs boot` with its temporary files in a place of our own, so that
/// what is left behind can be told from what others are doing; from a
/// directory that the guest has as well (its /tmp is its own, and the
/// repository may lie there).
fn boot(place: &Place, arguments: &[&str]) -> Command {
    let mut command = externfs(["boot"]);
    command.args(arguments).env("XDG_RUNTIME_DIR", place.path()).current_dir("/");
    command
}

fn assert_nothing_left(place: &Place) {
    let here = place.path().display().to_string();
    eventually("every process to end", || processes_with(&here).is_empty());
    // After a kill the watchdog clears up, and is not waited for by anybody.
    eventually("every directory to go", || {
        let mut names = fs::read_dir(place.path()).expect("list").map(|entry| entry.expect("entry").file_name());
        !names.any(|name| name.as_bytes().starts_with(b"externfs-"))
    });
}

#[test]
fn the_exit_status_is_the_commands() {
    if !can_boot() {
        return;
    }
    let place = Place::new();
    for (arguments, code) in [
        (&["sh", "-c", "exit 7"][..], 7),
        (&["sh", "-c", "kill -9 $$"], 137),
        (&["true"], 0),
        (&["no-such-command"], 127),
        (&["/etc/passwd"], 126),
    ] {
        let output = run(boot(&place, &["--"]).args(arguments));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty(), "{arguments:?}: {}", text(&output.stdout));
        let said = text(&output.stderr);
        assert_eq!(said.lines().count(), usize::from((126..128).contains(&code)), "{arguments:?}: {said}");
    }
    assert_nothing_left(&place);
}

/// The guest's kernel would never get so far as to say so.
#[test]
fn memory_that_no_machine_has_is_refused() {
    let place = Place::new();
    fails(&mut boot(&place, &["--mem", "9000000G", "--", "true"]), 1, &["--mem 9000000G", "10 times", "MiB are free"]);
    assert_nothing_left(&place);
}

#[test]
fn bytes_pass_unchanged_and_apart() {
    if !can_boot() {
        return;
    }
    let place = Place::new();
    // Everything that a terminal would touch, and more than any buffer holds.
    let mut random = Vec::new();
    fs::File::open("/dev/urandom").expect("urandom").take(3_000_000).read_to_end(&mut random).expect("read");
    let input = [b"\x04\x03\x1a\r\n\n\r\x11\x13\xff\0".as_slice(), &random].concat();
    let mut child = boot(&place, &["--", "sh", "-c", "cat; echo told >&2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    let bytes = input.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes));
    let output = child.wait_with_output().expect("ends");
    writer.join().expect("no panic").expect("all was taken");
    assert!(output.stdout == input, "{} bytes came back of {}", output.stdout.len(), input.len());
    assert_eq!(text(&output.stderr), "told\n");
    assert_nothing_left(&place);
}

#[test]
fn a_closed_output_is_a_broken_pipe() {
    if !can_boot() {
        return;
    }
    let place = Place::new();
    let mut child = boot(&place, &["--", "yes"]).stdout(Stdio::piped()).spawn().expect("starts");
    let mut first = [0; 4];
    child.stdout.take().expect("piped").read_exact(&mut first).expect("read");
    assert_eq!(&first, b"y\ny\n");
    assert_eq!(child.wait().expect("ends").code(), Some(128 + libc::SIGPIPE));
}

#[test]
fn arguments_environment_and_directory_arrive() {
    if !can_boot() {
        return;
    }
    let place = Place::new();
    let odd = "a 'b' \"c\" $d \\e\nf\tg=h,;|&";
    let script = "printf '%s|' \"$@\"; printf '%s|' \"$ODD\" \"$HERE\"; pwd; id -u; sync; hostname";
    let mut command = boot(&place, &["-e", &format!("ODD={odd}"), "-e", "HERE", "--", "sh", "-c", script, "sh", odd, "", "last"]);
    let said = succeeds(command.env("HERE", "there").current_dir("/usr/share"));
    assert_eq!(said, format!("{odd}||last|{odd}|there|/usr/share\n0\nexternfs\n"));
}

#[test]
fn shares_are_mounted_and_the_host_root_is_read_only() {
    if !can_boot() {
        return;
    }
    let place = Place::new();
    let read_only = place.path().join("ro");
    fs::create_dir(&read_only).expect("mkdir");
    let script = "cat /mnt/rw/hello && echo made > /mnt/rw/made && ! touch /mnt/ro/x && ! touch /usr/x && touch /tmp/a /run/a /mnt/a && ls /usr/bin/env";
    let share = |tag: &str, path: &Path, options: &str| format!("{tag}={}{options}", path.display());
    let (rw, ro) = (share("rw", &place.source(), ""), share("ro", &read_only, ",ro"));
    let said = succeeds(&mut boot(&place, &["--share", &rw, "--share", &ro, "--", "sh", "-c", script]));
    assert_eq!(said, "from the host\n/usr/bin/env\n");
    assert_eq!(fs::read_to_string(place.source().join("made")).expect("made"), "made\n");
    assert_nothing_left(&place);
}

/// A root file system of one static busybox.
fn busybox_root(place: &Place) -> Option<std::path::PathBuf> {
    let busybox = Path::new("/bin/busybox");
    if !needs(busybox.exists(), "busybox (package busybox-static)") {
        return None;
    }
    let root = place.path().join("root");
    fs::create_dir_all(root.join("bin")).expect("mkdir");
    fs::copy(busybox, root.join("bin/busybox")).expect("copy");
    for name in ["sh", "mount", "ls", "mknod", "cat"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).expect("symlink");
    }
    Some(root)
}

#[test]
fn a_root_of_its_own_is_writable() {
    if !can_boot() {
        return;
    }
    let place = Place::new();
    let Some(root) = busybox_root(&place) else { return };
    let device = if is_root() { "mknod /null c 1 3" } else { "true" };
    let script = format!("echo hi > /kept; {device}; test -d /proc/1 && test -c /dev/null && pwd; echo $PATH");
    let said = succeeds(boot(&place, &["--root"]).arg(&root).args(["--", "sh", "-c", &script]));
    assert_eq!(said, "/\n/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n");
    assert_eq!(fs::read_to_string(root.join("kept")).expect("kept"), "hi\n");
    assert!(!is_root() || fs::metadata(root.join("null")).expect("null").file_type().is_char_device());
    assert!(!root.join("mnt").exists(), "nothing was shared");
}

#[test]
fn an_ordinary_user_can() {
    if !can_boot() || !needs(is_root(), "root, to become an ordinary user") {
        return;
    }
    let place = Place::new();
    // The build directory may be closed to others.
    let program = place.path().join("externfs");
    fs::copy(support::PROGRAM, &program).expect("copy");
    let script = format!(
        "chmod 755 {0}; chown -R 65534:65534 {0}; \
         exec setpriv --reuid 65534 --regid 65534 --clear-groups env XDG_RUNTIME_DIR={0} HOME={0} \
         {0}/externfs boot --share s={0}/source -- sh -c 'id -u; cat /mnt/s/hello; echo user > /mnt/s/made; cat /etc/shadow'",
        place.path().display()
    );
    let output = run(Command::new("timeout").args(["--kill-after=5", "60", "sh", "-c", &script]).current_dir("/").stdin(Stdio::null()));
    assert_eq!(text(&output.stdout), "0\nfrom the host\n", "{}", text(&output.stderr));
    assert!(!output.status.success() && text(&output.stderr).contains("shadow"), "the host decides what may be read");
    assert_eq!(fs::metadata(place.source().join("made")).expect("made").uid(), 65534);
    assert_nothing_left(&place);
}

/// Starts a guest that has said "up" and now sleeps.
fn sleeping_guest(place: &Place) -> Running {
    let mut command = Command::new(support::PROGRAM);
    command.args(["boot", "--", "sh", "-c", "echo up; exec sleep 1000"]).env("XDG_RUNTIME_DIR", place.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Running(command.spawn().expect("starts"));
    let mut up = [0; 3];
    running.0.stdout.take().expect("piped").read_exact(&mut up).expect("the guest came up");
    running
}

#[test]
fn a_signal_ends_the_guest_and_nothing_stays() {
    if !can_boot() {
        return;
    }
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let place = Place::new();
        let mut running = sleeping_guest(&place);
        running.signal(signal);
        assert_eq!(running.ends(), Some(code), "{signal}");
        assert_nothing_left(&place);
    }
}

#[test]
fn a_kill_leaves_nothing_either() {
    if !can_boot() {
        return;
    }
    let place = Place::new();
    let mut running = sleeping_guest(&place);
    running.signal("KILL");
    running.ends();
    assert_nothing_left(&place);
}

#[test]
fn a_guest_that_cannot_start_says_why() {
    if !can_boot() {
        return;
    }
    let place = Place::new();
    let empty = place.path().join("empty");
    fs::create_dir(&empty).expect("mkdir");
    // A read-only root without the directories that a share's needs.
    let (root, share) = (format!("{},ro", empty.display()), format!("s={}", place.source().display()));
    let output = run(&mut boot(&place, &["--root", &root, "--share", &share, "--", "sh"]));
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.lines().last().is_some_and(|line| line.contains("share s on")), "{said}");
    assert_nothing_left(&place);
}

#[test]
fn a_terminal_is_one_in_the_guest_too() {
    if !can_boot() {
        return;
    }
    let place = Place::new();
    let window = libc::winsize { ws_row: 33, ws_col: 101, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = nix::pty::openpty(Some(&window), None).expect("pty");
    let before = rustix::termios::tcgetattr(&pty.slave).expect("settings");
    let stream = || Stdio::from(pty.slave.try_clone().expect("dup"));
    let script = "tty; stty size; cat; read x; echo \"got $x\"; exit 9";
    let mut command = Command::new("setsid");
    command.args(["-c", "-w", support::PROGRAM, "boot", "--", "sh", "-c", script]).env("XDG_RUNTIME_DIR", place.path());
    let mut running = Running(command.stdin(stream()).stdout(stream()).stderr(stream()).spawn().expect("starts"));
    let mut terminal = fs::File::from(pty.master);
    let mut seen = Vec::new();
    let mut wait_for = |terminal: &mut fs::File, part: &str| {
        let start = Instant::now();
        let mut buffer = [0; 1024];
        while !text(&seen).contains(part) {
            assert!(start.elapsed() < Duration::from_secs(30), "{part:?} is not in {:?}", text(&seen));
            let mut fds = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&*terminal), nix::poll::PollFlags::POLLIN)];
            if nix::poll::poll(&mut fds, 500_u16).expect("poll") > 0 {
                let length = terminal.read(&mut buffer).expect("read");
                seen.extend_from_slice(&buffer[..length]);
            }
        }
    };
    wait_for(&mut terminal, "/dev/pts/0\r\n33 101\r\n");
    // Ctrl-D ends cat, though the host's terminal passes it on as a byte.
    terminal.write_all(b"\x04").expect("write");
    terminal.write_all(b"word\r").expect("write");
    wait_for(&mut terminal, "got word\r\n");
    assert_eq!(running.ends(), Some(9));
    let after = rustix::termios::tcgetattr(&pty.slave).expect("settings");
    assert_eq!(format!("{before:?}"), format!("{after:?}"), "the terminal is as it was");
    assert_nothing_left(&place);
}

/// The tree has never been served before, and both are shared by one command.
#[test]
fn a_guest_asks_about_its_own_tree() {
    if !can_boot() {
        return;
    }
    let place = Place::new();
    let tree = place.path().join("tree");
    succeeds(externfs(["create", "--size", "1G", "--from"]).arg(place.source()).arg(&tree));
    let shares = [format!("data=humfs:{}", tree.display()), format!("sql=sqlfs:{}", tree.display())];
    let script = "cd /mnt/sql; for try in 1 2 3 4 5 6 7 8 9; do cat 'select name from root_fs' 2>/dev/null && break; sleep 1; done
        touch /mnt/data/new; chmod 4711 /mnt/data/new; cat 'select name from root_fs where setuid = 1'
        echo 12345 >> /mnt/data/hello; sync; exec 3<>query; echo 'select max(size)/1 from root_fs' >&3; cat <&3; exec 3>&-";
    let said = succeeds(&mut boot(&place, &["--share", &shares[0], "--share", &shares[1], "--", "bash", "-c", script]));
    assert_eq!(said, "/hello\n/new\n20\n");
    assert_nothing_left(&place);
}
