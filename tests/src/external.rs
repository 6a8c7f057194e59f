//! Suites that others wrote, for whatever is mounted somewhere. `./test`
//! installs them; what is missing is skipped aloud.

use crate::fixture::{need_program, output, temp_dir, workspace};
use crate::harness::skip;
use std::path::Path;
use std::process::{Command, Output};

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The suite makes paths of 127 bytes a component and stumbles over itself
/// when they divide what is left of PATH_MAX exactly.
fn check_path_length(mount: &Path) {
    const OWN: usize = 22;
    let left = 4095 - (mount.as_os_str().len() + OWN);
    assert!(left % 127 > 1, "pjdfstest cannot work at {}: choose a TMPDIR of another length", mount.display());
}

fn run_pjdfstest(mount: &Path, config: &Path, extra: impl FnOnce(&mut Command)) -> String {
    let program = need_program("pjdfstest", "cargo: ./test installs it");
    if !output(Command::new("id").arg("tests")).status.success() {
        skip("there is no user 'tests': useradd -M -U -s /usr/sbin/nologin -d / tests");
    }
    check_path_length(mount);
    let other = tempfile::tempdir_in("/dev/shm").expect("a directory on another file system");
    let mut command = Command::new(program);
    command.env("NO_COLOR", "1").arg("-c").arg(config).arg("-p").arg(mount).arg("-s").arg(other.path());
    extra(&mut command);
    let said = text(&output(&mut command));
    let mut lines = said.lines();
    while let Some(line) = lines.next() {
        if line.ends_with(" FAILED") {
            println!("    {line}: {}", lines.next().unwrap_or_default().trim());
        }
    }
    let summary = said.lines().rev().find(|line| line.starts_with("Summary:")).map(str::to_owned);
    summary.unwrap_or_else(|| panic!("pjdfstest did not finish:\n{said}"))
}

/// The number before `word` in a summary line.
fn count(summary: &str, word: &str) -> usize {
    let before = summary.split(&format!(" {word}")).next().unwrap_or_default();
    let digits = before.rsplit([' ', ',']).next().unwrap_or_default();
    digits.parse().unwrap_or_else(|_| panic!("no count of {word} in {summary:?}"))
}

/// pjdfstest on the mount, but for the tests that remount: none fails.
///
/// # Panics
/// When one does.
pub fn pjdfstest(mount: &Path) {
    let config = workspace().join("tests/pjdfstest.toml");
    let summary = run_pjdfstest(mount, &config, |_| {});
    println!("    {summary}");
    assert_eq!(count(&summary, "failed"), 0, "{summary}");
    assert!(count(&summary, "passed") >= 384, "{summary}");
}

/// Those that remount read-only: mount(8) would hand that to a helper that
/// cannot, so another `mount` stands first in PATH.
///
/// # Panics
/// When one fails.
pub fn pjdfstest_read_only(mount: &Path) {
    let dir = temp_dir();
    let config = dir.path().join("config.toml");
    let usual = std::fs::read_to_string(workspace().join("tests/pjdfstest.toml")).expect("the configuration");
    assert!(usual.contains("allow_remount = false"));
    std::fs::write(&config, usual.replace("allow_remount = false", "allow_remount = true")).expect("configuration");
    let wrapper = dir.path().join("mount");
    std::fs::write(&wrapper, "#!/bin/sh\nexec /bin/mount -i \"$@\"\n").expect("wrapper");
    std::fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap_or_default());
    let summary = run_pjdfstest(mount, &config, |command| {
        command.env("PATH", path).arg("erofs");
    });
    println!("    {summary}");
    assert_eq!((count(&summary, "failed"), count(&summary, "passed")), (0, 13), "{summary}");
}

/// 10,000 operations of every kind on one file.
///
/// # Panics
/// When one goes wrong.
pub fn fsx(mount: &Path, seed: u32) {
    let program = need_program("fsx", "cargo: ./test installs it");
    let artifacts = temp_dir();
    let mut command = Command::new(program);
    command.arg("-q").arg("-f").arg(workspace().join("tests/fsx.toml"));
    command.args(["-N", "10000", "-S", &seed.to_string(), "-P"]).arg(artifacts.path()).arg(mount.join("file"));
    let done = output(&mut command);
    assert!(done.status.success(), "seed {seed}: {}\n{}", done.status, text(&done));
}

/// Ways of writing and reading, by name.
pub const FIO: [(&str, &[&str]); 5] = [
    ("psync", &["--ioengine=psync"]),
    ("libaio_direct", &["--ioengine=libaio", "--direct=1", "--iodepth=16", "--blockalign=4k", "--bsrange=4k-128k"]),
    ("io_uring", &["--ioengine=io_uring", "--iodepth=16"]),
    ("mmap", &["--ioengine=mmap"]),
    ("sync_direct", &["--ioengine=sync", "--direct=1", "--blockalign=4k", "--bsrange=4k-128k"]),
];

/// Writes 48 MiB at random in the way of `engine` and verifies them.
///
/// # Panics
/// When something else is read than was written.
pub fn fio(mount: &Path, engine: &[&str]) {
    let program = need_program("fio", "fio");
    let mut command = Command::new(program);
    command.args(["--name=v", "--size=48m", "--rw=randrw", "--bsrange=1k-128k"]);
    command.args(["--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--fallocate=posix", "--output-format=terse"]);
    // Later ones win.
    command.args(engine).arg(format!("--directory={}", mount.display()));
    command.current_dir(mount.parent().unwrap_or(Path::new("/")));
    let done = output(&mut command);
    assert!(done.status.success(), "{engine:?}: {}\n{}", done.status, text(&done));
}

/// Those that work on files below a path. One that this version lacks is left
/// out, aloud.
const STRESSORS: [&str; 41] = [
    "access",
    "chattr",
    "chdir",
    "chmod",
    "chown",
    "copy-file",
    "dentry",
    "dir",
    "dirdeep",
    "dirmany",
    "dup",
    "fallocate",
    "fcntl",
    "fiemap",
    "file-ioctl",
    "filename",
    "flock",
    "fpunch",
    "fstat",
    "getdent",
    "handle",
    "hdd",
    "inode-flags",
    "io",
    "iomix",
    "lease",
    "link",
    "locka",
    "lockf",
    "lockofd",
    "mknod",
    "open",
    "readahead",
    "rename",
    "seek",
    "splice",
    "symlink",
    "sync-file",
    "touch",
    "utime",
    "xattr",
];

/// Each stress-ng stressor for a second, with its own verification.
///
/// # Panics
/// When one fails.
pub fn stress_ng(mount: &Path) {
    stress_ng_share(mount, 0, 1);
}

/// One in `of` of the stressors, from number `share` on; all of them when
/// `EXTERNFS_TEST_CASES` asks for more.
///
/// # Panics
/// When one fails.
pub fn stress_ng_share(mount: &Path, share: usize, of: usize) {
    let program = need_program("stress-ng", "stress-ng");
    let mut failed = Vec::new();
    let (share, of) = if crate::cases(1) > 1 { (0, 1) } else { (share, of) };
    for stressor in STRESSORS.iter().skip(share).step_by(of) {
        let mut command = Command::new(&program);
        command.arg(format!("--{stressor}")).args(["1", "--timeout", "1", "--verify", "--temp-path"]).arg(mount);
        let done = output(&mut command);
        if text(&done).contains("unrecognized option") {
            println!("    left out: this stress-ng has no --{stressor}");
            continue;
        }
        // 4 is "not implemented here": leases and the like.
        if !matches!(done.status.code(), Some(0 | 4)) {
            failed.push(format!("{stressor}: {}\n{}", done.status, text(&done)));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
