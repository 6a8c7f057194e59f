//! The guest's first process: this same executable, started as `/init` from
//! the initramfs. It mounts what [`Orders`] say, runs the command, tells the
//! host how it ended, and switches the machine off.
//!
//! Whatever fails here is told in one line: through the report file once that
//! is there, on the console, which the host keeps, before.

use super::control::{INPUT_TAG, OUTPUT_TAG, ROOT_TAG};
use super::orders::{Orders, Report, ShareOrder};
use super::streams;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Before each line that the init writes on the console; the host looks for it.
pub(crate) const CONSOLE_MARK: &str = "externfs-init: ";

/// Where the initramfs keeps the kernel modules, named in the order to load.
pub(crate) const MODULES: &str = "/modules";
/// Where the control shares are mounted.
pub(crate) const CONTROL_IN: &str = "/control/in";
/// See [`CONTROL_IN`].
pub(crate) const CONTROL_OUT: &str = "/control/out";
/// Where the root is put together.
pub(crate) const NEW_ROOT: &str = "/root";

/// Whether this process is a guest's init.
#[must_use]
pub fn is_init() -> bool {
    std::process::id() == 1 && std::env::args_os().next().is_some_and(|name| name == "/init")
}

/// Does it all. Does not return.
pub fn main() -> ! {
    let mut control = None;
    if let Err(reason) = run(&mut control) {
        let told = control.as_mut().is_some_and(|c| c.tell(&Report::Failed(reason.clone())).is_ok());
        if !told {
            eprintln!("{CONSOLE_MARK}{reason}");
        }
    }
    let _ = reboot(RebootMode::RB_POWER_OFF);
    // Only a kernel that cannot switch itself off comes here; a panic ends it.
    std::process::exit(1)
}

/// The host's ears and mouth, opened before the root changes.
pub(crate) struct Control {
    /// [`super::frames`] from the host.
    pub(crate) input: File,
    /// The command's standard output, where that is no terminal.
    pub(crate) stdout: File,
    /// Its standard error, where that is none.
    pub(crate) stderr: File,
    /// The host's terminal.
    pub(crate) terminal: File,
    report: File,
}

impl Control {
    /// Tells the host.
    pub(crate) fn tell(&mut self, report: &Report) -> std::io::Result<()> {
        self.report.write_all(report.encode().as_bytes())
    }
}

fn run(slot: &mut Option<Control>) -> Result<(), String> {
    special("proc", "/proc")?;
    special("sysfs", "/sys")?;
    special("devtmpfs", "/dev")?;
    load_modules()?;
    virtiofs(OUTPUT_TAG.as_ref(), Path::new(CONTROL_OUT), false)?;
    // Read-only, so that a sync(2) in the guest passes it by: the answer would
    // have to wait behind the read that waits for input.
    virtiofs(INPUT_TAG.as_ref(), Path::new(CONTROL_IN), true)?;
    let (control, orders) = open_control()?;
    let control = slot.insert(control);
    build_root(control, &orders)?;
    enter_root(control, &orders)?;
    let ended = streams::run_command(control, &orders)?;
    write_back(&orders);
    control.tell(&Report::Ended(ended.code)).map_err(|e| format!("cannot tell the exit status: {e}"))?;
    ended.wait_for_farewell();
    Ok(())
}

/// What the command left in the guest's caches (pages written through a
/// mapping, say) must be on the host before the host hears that it ended.
fn write_back(orders: &Orders) {
    let shares = orders.shares.iter().filter(|share| !share.read_only).map(|share| share.target.as_path());
    let root = (!orders.root_read_only).then_some(Path::new("/"));
    for place in shares.chain(root) {
        if let Ok(directory) = File::open(place) {
            let _ = nix::unistd::syncfs(&directory);
        }
    }
}

fn special(kind: &str, at: &str) -> Result<(), String> {
    let _ = fs::create_dir_all(at);
    mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>).map_err(|e| format!("cannot mount {kind} on {at}: {}", e.desc()))
}

fn load_modules() -> Result<(), String> {
    let Ok(directory) = fs::read_dir(MODULES) else { return Ok(()) };
    let mut paths: Vec<_> = directory.filter_map(Result::ok).map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let file = File::open(&path).map_err(|e| format!("cannot open {}: {e}", path.display()))?;
        nix::kmod::finit_module(&file, c"", nix::kmod::ModuleInitFlags::empty())
            .map_err(|e| format!("cannot load module {}: {}", path.display(), e.desc()))?;
    }
    Ok(())
}

fn virtiofs(tag: &std::ffi::OsStr, at: &Path, read_only: bool) -> Result<(), String> {
    let _ = fs::create_dir_all(at);
    let flags = if read_only { MsFlags::MS_RDONLY } else { MsFlags::empty() };
    mount(Some(tag), at, Some("virtiofs"), flags, None::<&str>)
        .map_err(|e| format!("cannot mount share {} on {}: {}", tag.display(), at.display(), e.desc()))?;
    // The kernel lets a FUSE mount keep hardly any dirty pages, which makes
    // cached writing slower than none. Where the file is missing, so be it.
    if let Ok(found) = fs::metadata(at) {
        let (major, minor) = (nix::sys::stat::major(found.dev()), nix::sys::stat::minor(found.dev()));
        let _ = fs::write(format!("/sys/class/bdi/{major}:{minor}/max_ratio"), "100");
    }
    Ok(())
}

fn open_control() -> Result<(Control, Orders), String> {
    let named = |name: &str| Path::new(CONTROL_OUT).join(name);
    let bytes = fs::read(named("orders")).map_err(|e| format!("cannot read the orders: {e}"))?;
    let orders = Orders::decode(&bytes).map_err(|reason| format!("cannot understand the orders: {reason}"))?;
    let write = |name: &str| File::options().write(true).open(named(name)).map_err(|e| format!("cannot open {name}: {e}"));
    let input = File::open(Path::new(CONTROL_IN).join("input")).map_err(|e| format!("cannot open the input: {e}"))?;
    let control =
        Control { input, stdout: write("stdout")?, stderr: write("stderr")?, terminal: write("terminal")?, report: write("report")? };
    Ok((control, orders))
}

/// Mounts the root and everything in it below [`NEW_ROOT`].
fn build_root(control: &mut Control, orders: &Orders) -> Result<(), String> {
    let root = Path::new(NEW_ROOT);
    virtiofs(ROOT_TAG.as_ref(), root, orders.root_read_only)?;
    let inside = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    for (kind, at) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        mount_inside(control, kind, &inside(Path::new(at)), "");
    }
    mount_inside(control, "devpts", &inside(Path::new("/dev/pts")), "mode=620,gid=5,ptmxmode=666");
    mount_inside(control, "tmpfs", &inside(Path::new("/dev/shm")), "mode=1777");
    for (name, target) in [("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        let _ = std::os::unix::fs::symlink(Path::new("/proc/self").join(target), inside(Path::new("/dev")).join(name));
    }
    for path in &orders.scratch {
        mount_inside(control, "tmpfs", &inside(path), if path == Path::new("/tmp") { "mode=1777" } else { "mode=755" });
    }
    for ShareOrder { tag, target, read_only } in &orders.shares {
        virtiofs(tag, &inside(target), *read_only)?;
    }
    Ok(())
}

/// A mount without which the guest is poorer, but not useless: a root without
/// a /sys may still run a command.
fn mount_inside(control: &mut Control, kind: &str, at: &Path, data: &str) {
    let _ = fs::create_dir(at);
    if let Err(errno) = mount(Some(kind), at, Some(kind), MsFlags::empty(), Some(data)) {
        let shown = at.strip_prefix(NEW_ROOT).unwrap_or(at);
        let _ = control.tell(&Report::Warning(format!("the guest has no {kind} on /{}: {}", shown.display(), errno.desc())));
    }
}

/// Makes [`NEW_ROOT`] the root, and the orders' directory the current one.
fn enter_root(control: &mut Control, orders: &Orders) -> Result<(), String> {
    let failed = |what: &str, errno: nix::Error| format!("cannot {what} the root: {}", errno.desc());
    nix::unistd::chdir(NEW_ROOT).map_err(|e| failed("enter", e))?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).map_err(|e| failed("move", e))?;
    nix::unistd::chroot(".").map_err(|e| failed("change", e))?;
    nix::unistd::chdir("/").map_err(|e| failed("enter", e))?;
    let _ = fs::write("/proc/sys/kernel/hostname", "externfs");
    if let Err(errno) = nix::unistd::chdir(&orders.directory) {
        let directory = orders.directory.display();
        let _ = control.tell(&Report::Warning(format!("{directory} is not there in the guest ({}): starting in /", errno.desc())));
    }
    Ok(())
}
