//! QEMU guests on `externfs serve`: the rows, ends and beginnings of guests,
//! two guests on one export, and pjdfstest; rows and pjdfstest on humfs trees
//! that an ordinary user serves.

use externfs_tests::fixture::{self, Server};
use externfs_tests::harness::{self, Case};
use externfs_tests::humtree::{HumTree, TOTAL};
use externfs_tests::machine::{Kind, Machine, Plan, scenario};
use externfs_tests::ordinary;
use humfs::store::Format;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_externfs-guest-check");

/// Longer than all that a case itself waits for: this limit ends the run.
const LIMIT_S: u64 = 600;

fn main() -> std::process::ExitCode {
    ordinary::in_own_mounts(|| harness::main(cases()))
}

fn cases() -> Vec<Case> {
    let scenario = |name: &str, run: fn()| Case::new(name, run).limit(LIMIT_S);
    vec![
        scenario("every_row_passes", || scenario::rows_pass(Kind::Qemu, Path::new(PROGRAM), "")),
        scenario("the_server_outlives_its_guests", || scenario::the_server_outlives_its_guests(Kind::Qemu, Path::new(PROGRAM))),
        scenario("two_guests_see_each_others_writes", || scenario::two_guests_see_each_others_writes(Kind::Qemu, Path::new(PROGRAM))),
        scenario("a_paused_guest_goes_on_waiting_for_locks", || {
            scenario::a_paused_guest_goes_on_waiting_for_locks(Path::new(PROGRAM));
        }),
        scenario("pjdfstest_has_no_failure", || {
            fixture::need_root();
            let share = fixture::temp_dir();
            pjdfstest_has_no_failure(&Server::new(share.path(), "", 1, false));
        }),
        scenario("every_row_passes_on_humfs", || scenario::humfs_rows_pass(Kind::Qemu, Path::new(PROGRAM), Format::Sqlite)),
        scenario("pjdfstest_has_no_failure_on_humfs", || {
            let tree = HumTree::new(Format::Xattr, TOTAL);
            pjdfstest_has_no_failure(&Server::humfs(&tree.path(), "", 1));
        }),
    ]
}

/// 384 tests of what POSIX asks of a file system, then the 13 that remount it
/// read-only. One skips itself: nobody knows how many links FUSE allows.
fn pjdfstest_has_no_failure(server: &Server) {
    // The suite stumbles over its own arithmetic at some lengths of path, that
    // of /mnt/host among them (see external.rs).
    const TAG: &str = "posix";
    let pjdfstest = pjdfstest();
    let config = include_str!("../pjdfstest.toml");
    let remounting = config.replace("allow_remount = false", "allow_remount = true");
    assert_ne!(config, remounting, "what is to be switched on is not there");
    let mut plan = Plan { queues: 2, ..Plan::new(Kind::Qemu, &[(server.socket(0), TAG)]) };
    plan.files = vec![("/pjdfstest.toml".into(), config.into()), ("/remounting.toml".into(), remounting.into())];
    plan.programs.push(pjdfstest);
    let mut guest = Machine::boot(&plan, Path::new(PROGRAM));
    guest.mount(TAG);
    // The second file system of the tests that need one.
    guest.check("mkdir /tmp/other");
    let mut run = |config: &str, pattern: &str| {
        let script = format!("pjdfstest -c /{config}.toml -p /mnt/{TAG} -s /tmp/other {pattern}");
        let said = guest.run_within(&script, Duration::from_secs(300)).output;
        let mut lines = said.lines();
        while let Some(line) = lines.next() {
            if line.ends_with(" FAILED") {
                println!("    {line}: {}", lines.next().unwrap_or_default().trim());
            }
        }
        said.lines().rev().find(|line| line.starts_with("Summary: ")).unwrap_or_else(|| panic!("it did not finish:\n{said}")).to_owned()
    };
    assert_eq!(run("pjdfstest", ""), "Summary: 0 failed, 14 skipped, 384 passed, 0 expected failures, 398 total");
    assert_eq!(run("remounting", "erofs"), "Summary: 0 failed, 0 skipped, 13 passed, 0 expected failures, 13 total");
    guest.power_off();
}

/// Where ./test installs it, or where a user has it.
fn pjdfstest() -> PathBuf {
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo = cargo.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let installed = cargo.map(|home| home.join("bin/pjdfstest")).filter(|path| path.is_file());
    installed.unwrap_or_else(|| fixture::need_program("pjdfstest", "cargo: ./test installs it"))
}
