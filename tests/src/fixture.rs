//! What tests stand on: temporary trees, mounts, servers and second file
//! systems. Each ends with its guard, by process id, also when a test panics.

use crate::harness::skip;
use crate::machine::processes::{descendants, runs};
use crate::ordinary;
use crate::ordinary::USER;
use rustix::process::{Pid, Signal};
use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest that anything here may take to begin or to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// How the names of this process's temporary directories begin: others may run
/// the same tests beside us.
#[must_use]
pub fn prefix() -> String {
    format!("externfs-test-{}-", std::process::id())
}

/// A fresh directory that everybody may enter.
#[must_use]
pub fn temp_dir() -> TempDir {
    let dir = tempfile::Builder::new().prefix(&prefix()).tempdir().expect("a temporary directory");
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    dir
}

/// The same, where syncing costs nothing if there is such a place: for what
/// processes do and power cuts do not. `TMPDIR` decides where it is set.
#[must_use]
pub fn memory_dir() -> TempDir {
    let memory = Path::new("/dev/shm");
    let able = |dir: &TempDir| {
        use rustix::fs::{CWD, Mode, OFlags, XattrFlags, openat, setxattr};
        setxattr(dir.path(), c"user.able", b"", XattrFlags::empty()).is_ok()
            && openat(CWD, dir.path(), OFlags::TMPFILE | OFlags::RDWR, Mode::RUSR).is_ok()
    };
    let made = tempfile::Builder::new().prefix(&prefix()).tempdir_in(memory);
    match made {
        Ok(dir) if std::env::var_os("TMPDIR").is_none() && able(&dir) => dir,
        _ => temp_dir(),
    }
}

/// The `externfs` program: `EXTERNFS_BIN`, or built now if need be.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(given) = std::env::var_os("EXTERNFS_BIN") {
            let given = PathBuf::from(given);
            assert!(given.is_file(), "EXTERNFS_BIN={} is no file", given.display());
            return given;
        }
        let own = std::env::current_exe().expect("own path");
        let profile = own.ancestors().find(|dir| dir.ends_with("debug") || dir.ends_with("release")).expect("cargo's target directory");
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "-p", "externfs-tools", "--bin", "externfs"]).current_dir(workspace());
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo").success(), "the externfs program does not build");
        profile.join("externfs")
    })
}

/// The repository.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace holds this crate")
}

/// Where downloaded and built helpers are kept between runs.
#[must_use]
pub fn cache_dir() -> PathBuf {
    let dir = std::env::var_os("EXTERNFS_TEST_CACHE").map_or_else(|| workspace().join("target/tools"), PathBuf::from);
    std::fs::create_dir_all(&dir).expect("the cache directory");
    dir
}

/// Where `program` is, among those kept between runs or installed.
#[must_use]
pub fn find_program(program: &str) -> Option<PathBuf> {
    let own = cache_dir().join("bin").join(program);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    std::iter::once(own).chain(places.map(|dir| dir.join(program))).find(|candidate| candidate.is_file())
}

/// Skips the running case unless `program` can be run.
pub fn need_program(program: &str, package: &str) -> PathBuf {
    find_program(program).unwrap_or_else(|| skip(format!("{program} is not installed: apt-get install {package}")))
}

/// Skips the running case unless it is root's.
pub fn need_root() {
    if !rustix::process::geteuid().is_root() {
        skip("needs root: run the tests with sudo");
    }
}

/// Runs this very program once more, by an ordinary user. Skips the running
/// case unless root runs it.
///
/// # Panics
/// When it fails.
pub fn run_as_user(arguments: &[&str]) {
    need_root();
    let dir = temp_dir();
    // Where it lies may be out of that user's reach.
    let (program, temporary) = (dir.path().join("program"), dir.path().join("tmp"));
    std::fs::copy("/proc/self/exe", &program).expect("copying this program");
    std::fs::create_dir(&temporary).expect("a directory");
    std::os::unix::fs::chown(&temporary, Some(USER), Some(USER)).expect("chown");
    let mut command = Command::new(&program);
    command.args(arguments).uid(USER).gid(USER).env("TMPDIR", &temporary).env_remove("HOME").current_dir("/");
    println!("{}", indented(&succeed(&mut command)));
}

/// What a program within a test says must not be taken for the suite's results.
fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    | {line}\n")).collect()
}

/// Skips the running case unless FUSE works here.
pub fn need_fuse() {
    if let Err(error) = File::options().read(true).write(true).open("/dev/fuse") {
        skip(format!("cannot open /dev/fuse: {error}"));
    }
}

/// Runs a command to its end and returns what it said.
///
/// # Panics
/// When it cannot be started.
pub fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

/// Runs a command that must succeed, and returns its standard output.
///
/// # Panics
/// With its own words when it fails.
pub fn succeed(command: &mut Command) -> String {
    let done = output(command);
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{command:?}: {}\n{said}{}", done.status, String::from_utf8_lossy(&done.stderr));
    said
}

/// A shell command line that must succeed.
pub fn shell(line: &str) -> String {
    succeed(Command::new("sh").args(["-euc", line]))
}

/// Polls until `ready`, or fails with `what`.
pub fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !ready() {
        assert!(Instant::now() < end, "{what}: not within {} s", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether something is mounted exactly at `path`.
#[must_use]
pub fn is_mounted(path: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let wanted = path.as_os_str().to_string_lossy();
    table.lines().any(|line| line.split(' ').nth(4) == Some(&wanted))
}

/// A child process that does not outlive the test.
pub struct Process {
    child: Child,
    log: PathBuf,
    command: String,
    _logs: TempDir,
}

impl Process {
    /// Starts it, with its output kept for [`Process::log`].
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Process {
        let logs = temp_dir();
        let log = logs.path().join("log");
        let out = File::create(&log).expect("log");
        let err = out.try_clone().expect("log");
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = child.unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Process { child, log, command: format!("{command:?}"), _logs: logs }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn wait(&mut self, seconds: u64) -> std::process::ExitStatus {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status;
            }
            assert!(Instant::now() < end, "{} still runs after {seconds} s; it said:\n{}", self.command, self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Polls until `ready`; says what the process said if it is not, or dies.
    pub fn wait_until(&mut self, what: &str, mut ready: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !ready() {
            let dead = self.has_ended();
            assert!(!dead && Instant::now() < end, "{}: {what} (ended: {dead}); it said:\n{}", self.command, self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Resident memory in bytes.
    #[must_use]
    pub fn resident(&self) -> u64 {
        self.status_field("VmRSS:") * 1024
    }

    /// The largest that its resident memory has been, in bytes.
    #[must_use]
    pub fn peak_resident(&self) -> u64 {
        self.status_field("VmHWM:") * 1024
    }

    fn status_field(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }

    /// Descriptors that it has open, as their targets.
    #[must_use]
    pub fn descriptors(&self) -> Vec<PathBuf> {
        let listing = std::fs::read_dir(format!("/proc/{}/fd", self.id())).into_iter().flatten().flatten();
        listing.filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let said = self.log();
            if !said.trim().is_empty() {
                eprintln!("--- {} said:\n{said}---", self.command);
            }
        }
    }
}

/// Takes a mount away, whatever its server's state.
pub fn unmount(path: &Path) {
    let end = Instant::now() + Duration::from_secs(5);
    while is_mounted(path) {
        let lazy = Instant::now() > end;
        let flags = if lazy { rustix::mount::UnmountFlags::DETACH } else { rustix::mount::UnmountFlags::empty() };
        if rustix::mount::unmount(path, flags).is_err() {
            // An ordinary user asks the helper.
            let flag = if lazy { "-uz" } else { "-u" };
            let _ = Command::new("fusermount3").args([flag, "--"]).arg(path).stderr(Stdio::null()).status();
        }
        if is_mounted(path) {
            std::thread::sleep(Duration::from_millis(50));
        }
        if Instant::now() > end + Duration::from_secs(5) {
            eprintln!("{} stays mounted", path.display());
            return;
        }
    }
}

/// A directory exported by a plugin and mounted through FUSE.
pub struct Mount {
    /// The server.
    pub server: Process,
    point: TempDir,
}

impl Mount {
    /// `externfs mount hostfs SOURCE ... -o OPTIONS`, by a server that stays
    /// the test's child.
    ///
    /// # Panics
    /// With the server's words when it does not mount.
    #[must_use]
    pub fn new(source: &Path, options: &str) -> Mount {
        Mount::with(source, options, |_| {})
    }

    /// The same, with a change to the server's command line.
    ///
    /// # Panics
    /// With the server's words when it does not mount.
    #[must_use]
    pub fn with(source: &Path, options: &str, adjust: impl FnOnce(&mut Command)) -> Mount {
        let mount = Mount::launch(temp_dir(), "hostfs", (source, options), adjust);
        // The first answer: from here on the server serves.
        let first = std::fs::metadata(mount.path());
        assert!(first.is_ok(), "{first:?}; the server said: {}", mount.server.log());
        mount
    }

    /// `externfs mount humfs TREE` by the user whose tree it is.
    ///
    /// # Panics
    /// With the server's words when it does not mount.
    #[must_use]
    pub fn humfs(tree: &Path, options: &str) -> Mount {
        Mount::humfs_with(tree, options, |_| {})
    }

    /// The same, with more to be done to the command.
    ///
    /// # Panics
    /// With the server's words when it does not mount.
    #[must_use]
    pub fn humfs_with(tree: &Path, options: &str, adjust: impl FnOnce(&mut Command)) -> Mount {
        ordinary::need();
        let point = temp_dir();
        ordinary::give(point.path());
        let mount = Mount::launch(point, "humfs", (tree, options), |command| {
            adjust(command);
            ordinary::act(command);
        });
        // All others may be kept out, root too.
        let mut look = Command::new("stat");
        ordinary::act(look.arg(mount.path()));
        let first = output(&mut look);
        assert!(first.status.success(), "{first:?}; the server said: {}", mount.server.log());
        mount
    }

    /// `externfs mount sqlfs DATABASE`.
    ///
    /// # Panics
    /// With the server's words when it does not mount.
    #[must_use]
    pub fn sqlfs(database: &Path, options: &str) -> Mount {
        let mount = Mount::launch(temp_dir(), "sqlfs", (database, options), |_| {});
        let first = std::fs::metadata(mount.path());
        assert!(first.is_ok(), "{first:?}; the server said: {}", mount.server.log());
        mount
    }

    /// The same by an ordinary user, for himself.
    ///
    /// # Panics
    /// With the server's words when it does not mount.
    #[must_use]
    pub fn sqlfs_of_user(database: &Path, options: &str) -> Mount {
        ordinary::need();
        let point = temp_dir();
        ordinary::give(point.path());
        Mount::launch(point, "sqlfs", (database, options), ordinary::act)
    }

    fn launch(point: TempDir, plugin: &str, (source, options): (&Path, &str), adjust: impl FnOnce(&mut Command)) -> Mount {
        need_fuse();
        let mut command = Command::new(binary());
        command.args(["mount", plugin]).arg(source).arg(point.path()).arg("-f");
        if !options.is_empty() {
            command.args(["-o", options]);
        }
        adjust(&mut command);
        let mut server = Process::start(&mut command);
        let path = point.path().to_path_buf();
        server.wait_until("does not mount", || is_mounted(&path));
        Mount { server, point }
    }

    /// Where.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.point.path()
    }

    /// `kill -9` of the server and of who watches over it, at one stroke.
    ///
    /// # Panics
    /// When one of them does not die.
    pub fn kill(self) {
        let family: Vec<u32> = std::iter::once(self.server.id()).chain(descendants(self.server.id())).collect();
        for pid in family.iter().filter_map(|&id| Pid::from_raw(id as i32)) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        wait_for("a killed server is dead", || !family.iter().any(|&id| runs(id)));
    }

    /// Unmounts as a user would, and checks that the server ends by itself
    /// with success.
    ///
    /// # Panics
    /// When it does not.
    pub fn finish(mut self) {
        // A client that was killed a moment ago may be on its way out still.
        let end = Instant::now() + Duration::from_secs(3);
        loop {
            let done = output(Command::new(binary()).arg("umount").arg(self.path()));
            if done.status.success() {
                break;
            }
            assert!(Instant::now() < end, "umount: {}", String::from_utf8_lossy(&done.stderr));
            std::thread::sleep(Duration::from_millis(50));
        }
        let status = self.server.wait(10);
        assert!(status.success(), "the server ended with {status}: {}", self.server.log());
        assert!(!is_mounted(self.path()), "still mounted after the server's end");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        unmount(self.point.path());
    }
}

/// A directory served to guests on vhost-user sockets.
pub struct Server {
    /// The process.
    pub process: Process,
    sockets: Vec<PathBuf>,
    point: Option<PathBuf>,
    _dir: TempDir,
}

impl Server {
    /// `externfs serve hostfs SOURCE --socket ... -o OPTIONS`, with `guests`
    /// sockets, and mounted on the host too with `mount`.
    ///
    /// # Panics
    /// With the server's words when it does not come up.
    #[must_use]
    pub fn new(source: &Path, options: &str, guests: usize, mount: bool) -> Server {
        let dir = temp_dir();
        let point = mount.then(|| dir.path().join("mnt"));
        if let Some(point) = &point {
            need_fuse();
            std::fs::create_dir(point).expect("mount point");
        }
        Server::launch(dir, ("hostfs", source, options), guests, point, |_| {})
    }

    /// `externfs serve humfs TREE ...` by the user whose tree it is.
    ///
    /// # Panics
    /// With the server's words when it does not come up.
    #[must_use]
    pub fn humfs(tree: &Path, options: &str, guests: usize) -> Server {
        ordinary::need();
        let dir = temp_dir();
        ordinary::give(dir.path());
        Server::launch(dir, ("humfs", tree, options), guests, None, ordinary::act)
    }

    fn launch(
        dir: TempDir,
        (plugin, source, options): (&str, &Path, &str),
        guests: usize,
        point: Option<PathBuf>,
        adjust: impl FnOnce(&mut Command),
    ) -> Server {
        let sockets: Vec<PathBuf> = (0..guests).map(|i| dir.path().join(format!("{i}.sock"))).collect();
        let mut command = Command::new(binary());
        command.args(["serve", plugin]).arg(source).args(["--tag", "host"]);
        for socket in &sockets {
            command.arg("--socket").arg(socket);
        }
        if !options.is_empty() {
            command.args(["-o", options]);
        }
        if let Some(point) = &point {
            command.arg("--mount").arg(point);
        }
        adjust(&mut command);
        let mut process = Process::start(&mut command);
        process.wait_until("does not listen", || sockets.iter().all(|s| s.exists()) && point.as_ref().is_none_or(|p| is_mounted(p)));
        Server { process, sockets, point, _dir: dir }
    }

    /// The socket of a guest.
    #[must_use]
    pub fn socket(&self, guest: usize) -> &Path {
        &self.sockets[guest]
    }

    /// Where it is mounted on the host.
    #[must_use]
    pub fn mount_point(&self) -> &Path {
        self.point.as_deref().expect("started with mount")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(point) = &self.point {
            unmount(point);
        }
    }
}

/// A journalling file system of Linux.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum DiskFormat {
    Ext4,
    Xfs,
}

impl DiskFormat {
    /// What mount(8) calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DiskFormat::Ext4 => "ext4",
            DiskFormat::Xfs => "xfs",
        }
    }

    /// MiB of the smallest worth having, and about what mkfs.xfs insists on.
    #[must_use]
    pub fn smallest(self) -> u64 {
        match self {
            DiskFormat::Ext4 => 128,
            DiskFormat::Xfs => 320,
        }
    }

    fn make(self, image: &Path) {
        let (program, package, arguments): (_, _, &[&str]) = match self {
            DiskFormat::Ext4 => ("mkfs.ext4", "e2fsprogs", &["-q", "-F", "-E", "lazy_itable_init=0"]),
            DiskFormat::Xfs => ("mkfs.xfs", "xfsprogs", &["-q"]),
        };
        need_program(program, package);
        succeed(Command::new(program).args(arguments).arg(image));
    }

    /// For mount(8).
    fn options(self) -> &'static str {
        match self {
            DiskFormat::Ext4 => "loop",
            // A copy of an image has its UUID.
            DiskFormat::Xfs => "loop,nouuid",
        }
    }
}

/// A second file system, on a loop device.
pub struct LoopFs {
    dir: TempDir,
    format: DiskFormat,
    /// The number of the image that is mounted.
    generation: AtomicU32,
}

impl LoopFs {
    /// An ext4 of so many MiB.
    ///
    /// # Panics
    /// When it cannot be made although this is root.
    #[must_use]
    pub fn new(mebibytes: u64) -> LoopFs {
        LoopFs::with(DiskFormat::Ext4, mebibytes)
    }

    /// One of this format, of so many MiB.
    ///
    /// # Panics
    /// When it cannot be made although this is root.
    #[must_use]
    pub fn with(format: DiskFormat, mebibytes: u64) -> LoopFs {
        need_root();
        let dir = temp_dir();
        let (image, point) = (dir.path().join(image_name(0)), dir.path().join("mnt"));
        File::create(&image).and_then(|file| file.set_len(mebibytes << 20)).expect("image");
        std::fs::create_dir(&point).expect("mount point");
        format.make(&image);
        let mounted = output(Command::new("mount").args(["-t", format.name(), "-o", format.options()]).arg(&image).arg(&point));
        if !mounted.status.success() {
            skip(format!("no loop devices, or no {}, here: {}", format.name(), String::from_utf8_lossy(&mounted.stderr).trim()));
        }
        LoopFs { dir, format, generation: AtomicU32::new(0) }
    }

    /// Its root.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// Unmounts it in good order and mounts it again: whatever the host keeps of
    /// files that it remembers, it does without.
    ///
    /// # Panics
    /// When it is in use, or does not mount.
    pub fn mount_again(&self) {
        succeed(Command::new("umount").arg(self.path()));
        let image = self.dir.path().join(image_name(self.generation.load(Ordering::Relaxed)));
        succeed(Command::new("mount").args(["-t", self.format.name(), "-o", self.format.options()]).arg(image).arg(self.path()));
    }

    /// What its device holds at this moment, mounted in its place: a file
    /// system after a power cut, if it was stopped before.
    ///
    /// # Panics
    /// When it does not mount.
    pub fn replay(&self) {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed);
        let [old, new] = [generation, generation + 1].map(|number| self.dir.path().join(image_name(number)));
        // A copy, since others may keep the old device busy for longer: they
        // need only have been started in a mount namespace of their own.
        succeed(Command::new("cp").arg("--sparse=always").arg(&old).arg(&new));
        rustix::mount::unmount(self.path(), rustix::mount::UnmountFlags::DETACH).expect("umount -l");
        succeed(Command::new("mount").args(["-t", self.format.name(), "-o", self.format.options()]).arg(&new).arg(self.path()));
        std::fs::remove_file(old).expect("removing an image");
    }
}

fn image_name(generation: u32) -> String {
    format!("image{generation}")
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        unmount(&self.path());
    }
}

/// Has `command`, a program and its arguments, start with no more descriptors than
/// these, which it cannot change.
pub fn limit_descriptors(command: &mut Command, most: u32) {
    let program = command.get_program().to_owned();
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    *command = Command::new("prlimit");
    command.arg(format!("--nofile={most}:{most}")).arg(program).args(arguments);
}

/// A checksum of a file's contents, for comparing what two sides see.
///
/// # Panics
/// When it cannot be read.
#[must_use]
pub fn checksum(path: &Path) -> u64 {
    let mut file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut buffer = vec![0; 1 << 20];
    // FNV-1a over 64-bit words: fast enough for a quarter of a gigabyte.
    let mut sum = 0xcbf2_9ce4_8422_2325_u64;
    loop {
        let count = file.read(&mut buffer).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        if count == 0 {
            return sum;
        }
        for word in buffer[..count].chunks(8) {
            let mut bytes = [0; 8];
            bytes[..word.len()].copy_from_slice(word);
            sum = (sum ^ u64::from_le_bytes(bytes)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
