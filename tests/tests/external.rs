//! Suites that others wrote, on a root mount of hostfs over ext4. `./test`
//! installs them; what is missing is skipped aloud.

use externfs_tests::fixture::{self, LoopFs, Mount};
use externfs_tests::harness::{self, Case, skip};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

fn main() -> std::process::ExitCode {
    let mut cases = vec![
        Case::new("pjdfstest_has_no_failure", pjdfstest_has_no_failure).limit(300),
        Case::new("pjdfstest_read_only_has_no_failure", pjdfstest_read_only_has_no_failure),
        Case::new("pjdfstest_without_caching_has_no_failure", pjdfstest_without_caching_has_no_failure).limit(300),
    ];
    for seed in 1..=3 {
        cases.push(Case::new(format!("fsx_seed_{seed}"), move || fsx(seed, "cache=auto")));
    }
    cases.push(Case::new("fsx_without_caching", || fsx(4, "cache=none")));
    cases.push(Case::new("fsx_without_passthrough", || fsx(5, "passthrough=off")));
    for (name, engine) in FIO {
        cases.push(Case::new(format!("fio_verify_{name}"), move || fio(engine)));
    }
    cases.push(Case::new("stress_ng_verifies", stress_ng_verifies).limit(600));
    harness::main(cases)
}

/// An ext4 for the mount to stand on: the temporary directory's if it is one,
/// else one on a loop device.
struct Base {
    dir: Option<TempDir>,
    image: Option<LoopFs>,
}

impl Base {
    fn new() -> Base {
        let dir = fixture::temp_dir();
        let kind = fixture::succeed(Command::new("stat").args(["-f", "-c", "%T"]).arg(dir.path()));
        if kind.trim() == "ext2/ext3" {
            return Base { dir: Some(dir), image: None };
        }
        Base { dir: None, image: Some(LoopFs::new(1024)) }
    }

    fn path(&self) -> PathBuf {
        match (&self.dir, &self.image) {
            (Some(dir), _) => dir.path().to_path_buf(),
            (None, Some(image)) => image.path(),
            (None, None) => unreachable!("one of them is there"),
        }
    }
}

fn mount(options: &str) -> (Mount, Base) {
    fixture::need_root();
    let base = Base::new();
    let mount = Mount::new(&base.path(), &format!("allow_other,{options}"));
    (mount, base)
}

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

fn pjdfstest(mount: &Path, config: &Path, extra: impl FnOnce(&mut Command)) -> String {
    let program = fixture::need_program("pjdfstest", "cargo: ./test installs it");
    if !fixture::output(Command::new("id").arg("tests")).status.success() {
        skip("there is no user 'tests': useradd -M -U -s /usr/sbin/nologin -d / tests");
    }
    check_path_length(mount);
    let other = tempfile::tempdir_in("/dev/shm").expect("a directory on another file system");
    let mut command = Command::new(program);
    command.env("NO_COLOR", "1").arg("-c").arg(config).arg("-p").arg(mount).arg("-s").arg(other.path());
    extra(&mut command);
    let said = text(&fixture::output(&mut command));
    said.lines().filter(|line| line.ends_with(" FAILED")).for_each(|line| println!("    {line}"));
    let summary = said.lines().rev().find(|line| line.starts_with("Summary:")).map(str::to_owned);
    summary.unwrap_or_else(|| panic!("pjdfstest did not finish:\n{said}"))
}

/// The number before `word` in a summary line.
fn count(summary: &str, word: &str) -> usize {
    let before = summary.split(&format!(" {word}")).next().unwrap_or_default();
    let digits = before.rsplit([' ', ',']).next().unwrap_or_default();
    digits.parse().unwrap_or_else(|_| panic!("no count of {word} in {summary:?}"))
}

fn pjdfstest_on(options: &str) {
    let (mount, _base) = mount(options);
    let config = fixture::workspace().join("tests/pjdfstest.toml");
    let summary = pjdfstest(mount.path(), &config, |_| {});
    println!("    {summary}");
    assert_eq!(count(&summary, "failed"), 0, "{summary}");
    assert!(count(&summary, "passed") >= 384, "{summary}");
    mount.finish();
}

fn pjdfstest_has_no_failure() {
    pjdfstest_on("cache=auto");
}

fn pjdfstest_without_caching_has_no_failure() {
    pjdfstest_on("cache=none");
}

/// These remount: mount(8) would hand that to a helper that cannot, so another
/// `mount` stands first in PATH.
fn pjdfstest_read_only_has_no_failure() {
    let (mount, _base) = mount("cache=auto");
    let dir = fixture::temp_dir();
    let config = dir.path().join("config.toml");
    let usual = std::fs::read_to_string(fixture::workspace().join("tests/pjdfstest.toml")).expect("the configuration");
    assert!(usual.contains("allow_remount = false"));
    std::fs::write(&config, usual.replace("allow_remount = false", "allow_remount = true")).expect("configuration");
    let wrapper = dir.path().join("mount");
    std::fs::write(&wrapper, "#!/bin/sh\nexec /bin/mount -i \"$@\"\n").expect("wrapper");
    std::fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap_or_default());
    let summary = pjdfstest(mount.path(), &config, |command| {
        command.env("PATH", path).arg("erofs");
    });
    println!("    {summary}");
    assert_eq!((count(&summary, "failed"), count(&summary, "passed")), (0, 13), "{summary}");
    mount.finish();
}

fn fsx(seed: u32, options: &str) {
    let program = fixture::need_program("fsx", "cargo: ./test installs it");
    let (mount, _base) = mount(options);
    let artifacts = fixture::temp_dir();
    let mut command = Command::new(program);
    command.arg("-q").arg("-f").arg(fixture::workspace().join("tests/fsx.toml"));
    command.args(["-N", "10000", "-S", &seed.to_string(), "-P"]).arg(artifacts.path()).arg(mount.path().join("file"));
    let done = fixture::output(&mut command);
    assert!(done.status.success(), "seed {seed}: {}\n{}", done.status, text(&done));
    mount.finish();
}

const FIO: [(&str, &[&str]); 5] = [
    ("psync", &["--ioengine=psync"]),
    ("libaio_direct", &["--ioengine=libaio", "--direct=1", "--iodepth=16", "--blockalign=4k", "--bsrange=4k-128k"]),
    ("io_uring", &["--ioengine=io_uring", "--iodepth=16"]),
    ("mmap", &["--ioengine=mmap"]),
    ("sync_direct", &["--ioengine=sync", "--direct=1", "--blockalign=4k", "--bsrange=4k-128k"]),
];

fn fio(engine: &[&str]) {
    let program = fixture::need_program("fio", "fio");
    let (mount, _base) = mount("cache=auto");
    let mut command = Command::new(program);
    command.args(["--name=v", "--size=48m", "--rw=randrw", "--bsrange=1k-128k"]);
    command.args(["--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--fallocate=posix", "--output-format=terse"]);
    // Later ones win.
    command.args(engine).arg(format!("--directory={}", mount.path().display()));
    command.current_dir(mount.path().parent().unwrap_or(Path::new("/")));
    let done = fixture::output(&mut command);
    assert!(done.status.success(), "{engine:?}: {}\n{}", done.status, text(&done));
    mount.finish();
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

fn stress_ng_verifies() {
    let program = fixture::need_program("stress-ng", "stress-ng");
    let (mount, _base) = mount("cache=auto");
    let mut failed = Vec::new();
    for stressor in STRESSORS {
        let mut command = Command::new(&program);
        command.arg(format!("--{stressor}")).args(["1", "--timeout", "1", "--verify", "--temp-path"]).arg(mount.path());
        let done = fixture::output(&mut command);
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
    mount.finish();
}
