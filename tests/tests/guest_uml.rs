//! User Mode Linux guests: on `externfs serve`, the rows, ends and beginnings
//! of guests, and two guests on one export; under `externfs boot`, the rows as
//! root and as an ordinary user, and what a boot leaves that is killed at any
//! moment; the rows on humfs trees that an ordinary user serves. (What boot does with streams, signals and roots is tested with it.)

use externfs_tests::fixture::{self, need_program, temp_dir};
use externfs_tests::harness::{self, Case, skip};
use externfs_tests::machine::processes::{descendants, runs, that_mention};
use externfs_tests::machine::{Kind, exhibit, noise, scenario};
use externfs_tests::ordinary;
use humfs::store::Format;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_externfs-guest-check");
/// Of nobody on any host.
const USER: u32 = 54_321;
/// Longer than all that a case itself waits for: this limit ends the run.
const LIMIT_S: u64 = 600;

fn main() -> std::process::ExitCode {
    ordinary::in_own_mounts(|| harness::main(cases()))
}

fn cases() -> Vec<Case> {
    let scenario = |name: &str, run: fn()| Case::new(name, run).limit(LIMIT_S);
    let mut cases = vec![
        scenario("every_row_passes", || scenario::rows_pass(Kind::Uml, Path::new(PROGRAM), "trusted")),
        scenario("every_row_passes_with_nothing_cached", || scenario::rows_pass(Kind::Uml, Path::new(PROGRAM), "cache=none")),
        scenario("every_row_passes_with_everything_cached", || scenario::rows_pass(Kind::Uml, Path::new(PROGRAM), "cache=always")),
        scenario("the_server_outlives_its_guests", || scenario::the_server_outlives_its_guests(Kind::Uml, Path::new(PROGRAM))),
        scenario("two_guests_see_each_others_writes", || scenario::two_guests_see_each_others_writes(Kind::Uml, Path::new(PROGRAM))),
        scenario("a_guest_sees_what_one_that_came_later_changes", || {
            scenario::a_guest_sees_what_one_that_came_later_changes(Kind::Uml, Path::new(PROGRAM));
        }),
        scenario("nodev_and_nosuid_bind_guests", || scenario::nodev_and_nosuid_bind_guests(Kind::Uml, Path::new(PROGRAM))),
        scenario("every_row_passes_under_boot", every_row_passes_under_boot),
        scenario("every_row_passes_under_boot_as_an_ordinary_user", every_row_passes_under_boot_as_an_ordinary_user),
        scenario("shares_and_a_long_input_until_its_end", shares_and_a_long_input_until_its_end),
        scenario("a_boot_killed_at_any_moment_leaves_nothing", a_boot_killed_at_any_moment_leaves_nothing),
        scenario("a_boot_killed_as_its_guest_starts_leaves_nothing", a_boot_killed_as_its_guest_starts_leaves_nothing),
        scenario("a_kernel_that_is_missing_is_named", a_kernel_that_is_missing_is_named),
    ];
    // All guests of a format ask the same of it, so one of each kind is enough here:
    // records beside the data, and records in a database.
    let usual = [Format::Xattr, Format::Sqlite];
    for format in Format::ALL.into_iter().filter(|format| usual.contains(format) || externfs_tests::cases(1) > 1) {
        let run = move || scenario::humfs_rows_pass(Kind::Uml, Path::new(PROGRAM), format);
        cases.push(Case::new(format!("every_row_passes_on_humfs_{}", format.name()), run).limit(LIMIT_S));
    }
    cases
}

/// `externfs boot` whose own files are in a directory of this test, and
/// everything that it may leave.
struct Boot {
    dir: TempDir,
    shared_memory: BTreeSet<PathBuf>,
}

impl Boot {
    fn new() -> Boot {
        need_program("linux.uml", "user-mode-linux");
        Boot { dir: temp_dir(), shared_memory: shared_memory() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(fixture::binary());
        command.arg("boot").args(arguments);
        self.confine(command)
    }

    /// As another user: with programs that this user may reach.
    fn command_as(&self, user: u32, arguments: &[&str]) -> Command {
        let program = self.dir.path().join("externfs");
        std::fs::copy(fixture::binary(), &program).expect("copy");
        std::os::unix::fs::chown(self.dir.path(), Some(user), Some(user)).expect("chown");
        let id = user.to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]).arg(program).arg("boot").args(arguments);
        self.confine(command)
    }

    fn confine(&self, mut command: Command) -> Command {
        let dir = self.dir.path();
        command.env("TMPDIR", dir).env("XDG_RUNTIME_DIR", dir).env("HOME", dir).current_dir(dir).stdin(Stdio::null());
        command
    }

    /// No process, no socket, no directory, no memory.
    fn leaves_nothing(&self) {
        let mark = self.dir.path().display().to_string();
        let left = || that_mention(&mark);
        fixture::wait_for("processes that name this boot's directory", || left().is_empty());
        let names = || -> Vec<PathBuf> {
            let all = std::fs::read_dir(self.dir.path()).expect("list").flatten().map(|entry| entry.path());
            all.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("externfs-"))).collect()
        };
        fixture::wait_for("directories of this boot", || names().is_empty());
        // Others boot as well; what stays is ours or theirs, but stays.
        fixture::wait_for("files in /dev/shm", || shared_memory().is_subset(&self.shared_memory));
    }
}

fn shared_memory() -> BTreeSet<PathBuf> {
    let all = std::fs::read_dir("/dev/shm").into_iter().flatten().flatten().map(|entry| entry.path());
    all.filter(|path| path.to_string_lossy().contains("vm_file")).collect()
}

/// Ended with its group when a test panics.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        for id in descendants(self.0.id()) {
            signal(id, Signal::KILL);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn signal(id: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

fn rows(boot: &Boot, mut command: Command, share: &Path, all: bool) {
    let done = fixture::output(&mut command);
    println!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert_eq!(done.status.code(), Some(0), "rows failed, see above");
    exhibit::verify(share, all);
    boot.leaves_nothing();
}

/// The program goes along in the share: below /tmp, which is the guest's own,
/// it would not be found.
fn every_row_passes_under_boot() {
    fixture::need_root();
    let (boot, share) = (Boot::new(), temp_dir());
    exhibit::prepare(share.path(), None);
    std::fs::copy(PROGRAM, share.path().join("check")).expect("copy");
    let argument = format!("x={}", share.path().display());
    rows(&boot, boot.command(&["--share", &argument, "--", "/mnt/x/check", "rows", "/mnt/x"]), share.path(), true);
}

fn every_row_passes_under_boot_as_an_ordinary_user() {
    fixture::need_root();
    let (boot, share) = (Boot::new(), temp_dir());
    exhibit::prepare(share.path(), Some(USER));
    // Where that user finds it in the guest, too.
    std::fs::copy(PROGRAM, share.path().join("check")).expect("copy");
    let argument = format!("x={}", share.path().display());
    let command = boot.command_as(USER, &["--share", &argument, "--", "/mnt/x/check", "rows", "/mnt/x", "--unprivileged"]);
    rows(&boot, command, share.path(), false);
}

fn shares_and_a_long_input_until_its_end() {
    let (boot, one, two) = (Boot::new(), temp_dir(), temp_dir());
    std::fs::write(one.path().join("name"), "one").expect("write");
    std::fs::write(two.path().join("name"), "two").expect("write");
    let shares = [("a", one.path(), ""), ("b", two.path(), ",ro")].map(|(tag, dir, options)| format!("{tag}={}{options}", dir.display()));
    // cat ends only when its input does.
    let script = "cat >/mnt/a/input; cat /mnt/a/name /mnt/b/name; ! touch /mnt/b/name 2>/dev/null";
    let mut command = boot.command(&["--share", &shares[0], "--share", &shares[1], "--", "sh", "-euc", script]);
    let mut running = Running(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts"));
    let input = noise::bytes(17, 8 << 20);
    running.0.stdin.take().expect("piped").write_all(&input).expect("the guest reads all of it");
    let mut output = String::new();
    std::io::Read::read_to_string(&mut running.0.stdout.take().expect("piped"), &mut output).expect("text");
    assert_eq!(running.0.wait().expect("wait").code(), Some(0));
    assert_eq!(output, "onetwo");
    assert!(std::fs::read(one.path().join("input")).expect("read") == input, "the input differs in the guest");
    boot.leaves_nothing();
}

/// kill -9 while it prepares, while the guest boots, and while a command runs.
fn a_boot_killed_at_any_moment_leaves_nothing() {
    for milliseconds in [30, 150, 400, 800, 1500, 4000] {
        kill_boot(&[], |boot| {
            std::thread::sleep(Duration::from_millis(milliseconds));
            boot
        });
    }
}

/// kill -9 when the guest is there and the boot, whose writes are held up, has
/// told nobody.
fn a_boot_killed_as_its_guest_starts_leaves_nothing() {
    need_program("strace", "strace");
    if !fixture::output(Command::new("strace").args(["-o", "/dev/null", "true"])).status.success() {
        skip("strace may not trace here");
    }
    let hold_up = ["strace", "-o", "/dev/null", "-e", "trace=write", "-e", "inject=write:delay_enter=1000000"];
    kill_boot(&hold_up, |strace| {
        let guest = || descendants(strace).into_iter().any(is_guest);
        fixture::wait_for("a guest", guest);
        *descendants(strace).first().expect("the boot")
    });
}

fn is_guest(id: u32) -> bool {
    let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).contains("initrd=")
}

/// Boots, by way of the command `through` if that is not empty, and kills the
/// process that `moment` names when it has waited; it gets the one started.
fn kill_boot(through: &[&str], moment: impl FnOnce(u32) -> u32) {
    let (boot, share) = (Boot::new(), temp_dir());
    let argument = format!("x={}", share.path().display());
    let mut words: Vec<&OsStr> = through.iter().map(OsStr::new).collect();
    words.push(fixture::binary().as_os_str());
    words.extend(["boot", "--share", &argument, "--", "sh", "-c", "while true; do echo x >>/mnt/x/log; done"].map(OsStr::new));
    let mut command = Command::new(words.remove(0));
    command.args(words).stdout(Stdio::null()).stderr(Stdio::null());
    let mut running = Running(boot.confine(command).spawn().expect("starts"));
    let boots = moment(running.0.id());
    let all = descendants(running.0.id());
    signal(boots, Signal::KILL);
    running.0.wait().expect("wait");
    fixture::wait_for("the guest and the servers of a boot that was killed", || !all.iter().any(|id| runs(*id)));
    boot.leaves_nothing();
    let log = share.path().join("log");
    let size = || log.metadata().map_or(0, |found| found.len());
    let before = size();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(size(), before, "somebody still writes");
}

fn a_kernel_that_is_missing_is_named() {
    for kernel in ["/no/such/linux.uml", "no-such-linux.uml", "/etc/passwd"] {
        let done = fixture::output(Command::new(fixture::binary()).args(["boot", "--kernel", kernel, "--", "true"]));
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(kernel) && said.contains("user-mode-linux"), "{said}");
    }
}
