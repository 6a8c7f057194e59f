//! What the tests of the command share: running it, and cleaning up whatever
//! happens.
#![allow(dead_code, unreachable_pub)]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_externfs");

/// The command, given up on after a while: a test that hangs tells nothing.
pub fn externfs<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(arguments: I) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "60", PROGRAM]).args(arguments).stdin(Stdio::null());
    command
}

pub fn run(command: &mut Command) -> Output {
    command.output().expect("the command starts")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asserts success and returns standard output.
pub fn succeeds(command: &mut Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{command:?}: {:?}\n{}", output.status, text(&output.stderr));
    text(&output.stdout)
}

/// Asserts that it fails with `code` and one line on standard error that
/// contains each of `parts`.
pub fn fails(command: &mut Command, code: i32, parts: &[&str]) {
    let output = run(command);
    let line = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{command:?}: {line}");
    assert_eq!(line.lines().count(), 1, "{command:?}: one line, not {line:?}");
    for part in parts.iter().chain(&["externfs: "]) {
        assert!(line.contains(part), "{command:?}: {part:?} is not in {line:?}");
    }
}

pub fn is_root() -> bool {
    text(&Command::new("id").arg("-u").output().expect("id").stdout).trim() == "0"
}

/// Says why a test does not run here. Returns whether it can.
pub fn needs(present: bool, what: &str) -> bool {
    if !present {
        eprintln!("SKIPPED: needs {what}");
    }
    present
}

pub fn can_mount() -> bool {
    let device = std::fs::File::options().read(true).write(true).open("/dev/fuse").is_ok();
    needs(device && is_root(), "root and /dev/fuse")
}

pub fn can_boot() -> bool {
    needs(Path::new("/usr/bin/linux.uml").exists(), "the package user-mode-linux")
}

/// A directory with a source and a mount point in it. Dropping it unmounts.
pub struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Place {
        let directory = tempfile::Builder::new().prefix("tools-test-").tempdir_in("/tmp").expect("tempdir");
        let place = Place { directory };
        std::fs::create_dir(place.source()).expect("mkdir");
        std::fs::create_dir(place.point()).expect("mkdir");
        std::fs::write(place.source().join("hello"), "from the host\n").expect("write");
        place
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn source(&self) -> PathBuf {
        self.path().join("source")
    }

    pub fn point(&self) -> PathBuf {
        self.path().join("point")
    }

    pub fn is_mounted(&self) -> bool {
        let needle = format!(" {} ", self.point().display());
        std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo").contains(&needle)
    }

    /// The mount command for this place, options first.
    pub fn mount(&self, options: &[&str]) -> Command {
        let mut command = externfs(["mount"]);
        command.args(options).arg("hostfs").arg(self.source()).arg(self.point());
        command
    }

    pub fn umount(&self) -> Command {
        let mut command = externfs(["umount"]);
        command.arg(self.point());
        command
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        while self.is_mounted() {
            let done = Command::new("umount").arg("-l").arg(self.point()).status();
            if !done.is_ok_and(|status| status.success()) {
                break;
            }
        }
    }
}

/// A process that does not outlive the test.
pub struct Running(pub Child);

impl Running {
    /// Starts the program itself, without the time limit in between.
    pub fn start(arguments: &[&OsStr]) -> Running {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running(command.spawn().expect("starts"))
    }

    pub fn signal(&self, name: &str) {
        let done = Command::new("kill").args(["-s", name, &self.0.id().to_string()]).status();
        assert!(done.expect("kill").success());
    }

    /// Waits for the end and returns the exit code.
    pub fn ends(&mut self) -> Option<i32> {
        let mut status = None;
        eventually("the process to end", || {
            status = self.0.try_wait().expect("wait");
            status.is_some()
        });
        status.and_then(|status| status.code())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The processes whose command line contains `needle`, this one's excepted.
pub fn processes_with(needle: &str) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").expect("proc").filter_map(Result::ok);
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id())
        .filter(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| text(&line).contains(needle)))
        .collect()
}
