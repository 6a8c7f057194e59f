//! `externfs boot`: a User Mode Linux guest on this host's directories, as root
//! and as an ordinary user.

use externfs_tests::fixture::{self, checksum, need_program};
use externfs_tests::harness::{self, Case};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};

fn main() -> std::process::ExitCode {
    harness::main(vec![
        Case::new("the_command_runs_and_its_status_comes_back", the_command_runs_and_its_status_comes_back),
        Case::new("a_share_is_read_and_written", a_share_is_read_and_written),
        Case::new("a_quarter_of_a_gigabyte_arrives_intact", a_quarter_of_a_gigabyte_arrives_intact).limit(240),
        Case::new("owners_and_permissions_count_in_the_guest", owners_and_permissions_count_in_the_guest),
        Case::new("a_read_only_share_cannot_be_changed", a_read_only_share_cannot_be_changed),
        Case::new("the_hosts_root_is_read_only", the_hosts_root_is_read_only),
        Case::new("a_directory_can_be_the_root", a_directory_can_be_the_root),
        Case::new("an_ordinary_user_can_boot", an_ordinary_user_can_boot),
        Case::new("nothing_is_left_behind", nothing_is_left_behind),
    ])
}

fn boot(arguments: &[&str]) -> Output {
    need_program("linux.uml", "user-mode-linux");
    fixture::output(Command::new(fixture::binary()).arg("boot").args(arguments))
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Boots with `dir` at /mnt/x and returns what the script said.
fn in_share(dir: &Path, options: &str, script: &str) -> String {
    let share = format!("x={}{options}", dir.display());
    let done = boot(&["--share", &share, "--", "sh", "-euc", script]);
    assert!(done.status.success(), "{}: {}", done.status, text(&done));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

fn the_command_runs_and_its_status_comes_back() {
    let done = boot(&["--", "sh", "-c", "echo out; echo err >&2; exit 42"]);
    assert_eq!(done.status.code(), Some(42), "{}", text(&done));
    assert!(String::from_utf8_lossy(&done.stdout).contains("out"), "{}", text(&done));
    assert_eq!(boot(&["--", "true"]).status.code(), Some(0));
    assert_eq!(boot(&["--", "/no/such/program"]).status.code(), Some(127));
    assert_eq!(boot(&["--", "sh", "-c", "kill -TERM $$"]).status.code(), Some(128 + 15));
}

fn a_share_is_read_and_written() {
    let dir = fixture::temp_dir();
    std::fs::write(dir.path().join("from host"), "hello guest").unwrap();
    let said = in_share(
        dir.path(),
        "",
        "cd /mnt/x; cat 'from host'; echo; echo hello host >'from guest'; mkdir d; mv 'from guest' d/; ln d/'from guest' hard; \
         ln -s d/'from guest' soft; cat soft; rm 'from host'; ls",
    );
    assert!(said.contains("hello guest") && said.contains("hello host"), "{said}");
    assert_eq!(std::fs::read_to_string(dir.path().join("d/from guest")).unwrap(), "hello host\n");
    assert_eq!(std::fs::metadata(dir.path().join("hard")).unwrap().nlink(), 2);
    assert_eq!(std::fs::read_link(dir.path().join("soft")).unwrap(), Path::new("d/from guest"));
    assert!(!dir.path().join("from host").exists());
}

fn a_quarter_of_a_gigabyte_arrives_intact() {
    let dir = fixture::temp_dir();
    let big = dir.path().join("big");
    fixture::shell(&format!("head -c 268435456 /dev/urandom >{}", big.display()));
    let host = fixture::succeed(Command::new("md5sum").arg(&big));
    let said = in_share(dir.path(), "", "cd /mnt/x; md5sum big; cp big copy; sync");
    assert_eq!(said.split_whitespace().next(), host.split_whitespace().next(), "the guest reads other bytes");
    assert_eq!(checksum(&big), checksum(&dir.path().join("copy")), "the guest's copy differs");
}

fn owners_and_permissions_count_in_the_guest() {
    fixture::need_root();
    let dir = fixture::temp_dir();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    std::fs::write(dir.path().join("private"), "secret").unwrap();
    std::fs::set_permissions(dir.path().join("private"), PermissionsExt::from_mode(0o600)).unwrap();
    let said = in_share(
        dir.path(),
        "",
        "cd /mnt/x; user() { setpriv --reuid 1234 --regid 1234 --clear-groups sh -c \"$1\"; }; \
         if user 'cat private' 2>/dev/null; then echo LEAKED; fi; \
         user 'umask 027; echo mine >mine; mkdir dir'; stat -c '%u %g %a' mine dir; \
         if user 'chown 0 mine' 2>/dev/null; then echo GIVEN-AWAY; fi; \
         chown 77:88 mine; chmod 4711 mine; stat -c '%u %g %a' mine",
    );
    assert!(!said.contains("LEAKED") && !said.contains("GIVEN-AWAY"), "{said}");
    assert!(said.contains("1234 1234 640") && said.contains("1234 1234 750") && said.contains("77 88 4711"), "{said}");
    let mine = std::fs::metadata(dir.path().join("mine")).unwrap();
    assert_eq!((mine.uid(), mine.gid(), mine.mode() & 0o7777), (77, 88, 0o4711), "the host sees the same");
}

fn a_read_only_share_cannot_be_changed() {
    let dir = fixture::temp_dir();
    std::fs::write(dir.path().join("f"), "x").unwrap();
    let said = in_share(dir.path(), ",ro", "cat /mnt/x/f; if echo y >/mnt/x/f || touch /mnt/x/g || rm /mnt/x/f; then echo CHANGED; fi");
    assert!(said.contains('x') && !said.contains("CHANGED"), "{said}");
    assert_eq!(std::fs::read_to_string(dir.path().join("f")).unwrap(), "x");
}

fn the_hosts_root_is_read_only() {
    let name = format!("externfs-boot-test-{}", std::process::id());
    let done = boot(&["--", "sh", "-c", &format!("touch /{name} /usr/{name}; echo gone >/tmp/{name} && cat /tmp/{name}")]);
    assert!(done.status.success() && text(&done).contains("gone"), "/tmp is writable in the guest: {}", text(&done));
    for dir in ["/", "/usr/", "/tmp/"] {
        assert!(!Path::new(&format!("{dir}{name}")).exists(), "{dir}{name} appeared on the host");
    }
}

fn a_directory_can_be_the_root() {
    let dir = fixture::temp_dir();
    let busybox = need_program("busybox", "busybox-static");
    for sub in ["bin", "dev", "proc", "sys", "tmp", "run", "mnt", "etc"] {
        std::fs::create_dir(dir.path().join(sub)).unwrap();
    }
    std::fs::copy(busybox, dir.path().join("bin/busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", dir.path().join("bin/sh")).unwrap();
    let root = dir.path().display().to_string();
    let done = boot(&["--root", &root, "--", "/bin/sh", "-c", "/bin/busybox ls /; echo kept >/etc/made; exit 3"]);
    assert_eq!(done.status.code(), Some(3), "{}", text(&done));
    assert_eq!(std::fs::read_to_string(dir.path().join("etc/made")).unwrap(), "kept\n", "the guest's root is writable and is the host's");
}

fn an_ordinary_user_can_boot() {
    fixture::need_root();
    need_program("linux.uml", "user-mode-linux");
    let dir = fixture::temp_dir();
    let share = dir.path().join("share");
    std::fs::create_dir(&share).unwrap();
    std::os::unix::fs::chown(&share, Some(12345), Some(12345)).unwrap();
    // The program may lie where that user may not go.
    let program = dir.path().join("externfs");
    std::fs::copy(fixture::binary(), &program).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "12345", "--regid", "12345", "--clear-groups"]).arg(program);
    command.args(["boot", "--share"]).arg(format!("x={}", share.display()));
    command.args(["--", "sh", "-euc", "id -u; cd /mnt/x; echo text >f; cat f; mkdir d; mv f d; chmod 700 d; ls -l d"]);
    command.current_dir(dir.path()).env("HOME", dir.path()).env_remove("XDG_RUNTIME_DIR");
    let done = fixture::output(&mut command);
    assert!(done.status.success(), "{}: {}", done.status, text(&done));
    let made = std::fs::metadata(share.join("d/f")).unwrap();
    assert_eq!((made.uid(), made.len()), (12345, 5));
}

/// No process, socket or directory that names this boot is there afterwards.
fn nothing_is_left_behind() {
    let dir = fixture::temp_dir();
    let temporary = fixture::temp_dir();
    let share = format!("x={}", dir.path().display());
    let mut command = Command::new(fixture::binary());
    command.args(["boot", "--share", &share, "--", "true"]).env("TMPDIR", temporary.path()).env("XDG_RUNTIME_DIR", temporary.path());
    need_program("linux.uml", "user-mode-linux");
    fixture::succeed(&mut command);
    fixture::wait_for("processes of the guest end", || running_with(&dir.path().display().to_string()).is_empty());
    fixture::wait_for("processes of the guest end", || running_with(&temporary.path().display().to_string()).is_empty());
    let left: Vec<_> = std::fs::read_dir(temporary.path()).unwrap().flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "left in TMPDIR: {left:?}");
}

fn running_with(text: &str) -> Vec<String> {
    let listing = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = listing.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).into_owned()).filter(|line| line.contains(text)).collect()
}
