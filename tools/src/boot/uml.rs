//! User Mode Linux: finding a kernel and its modules, and its command line.

use crate::failure::{Failure, Result};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where Debian's package keeps the modules of its kernels.
const MODULES_DIRECTORY: &str = "/usr/lib/uml/modules";
/// Device id of a file system device (virtio specification, 5.11).
const VIRTIO_ID_FS: u32 = 26;
const REMEDY: &str = "install the package user-mode-linux, or name the kernel with --kernel";

/// A kernel that can be booted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kernel {
    /// The executable.
    pub image: PathBuf,
    /// File names and contents, in the order to load them.
    pub modules: Vec<(String, Vec<u8>)>,
}

/// Finds the kernel `image`, in `PATH` if it names no directory, and the
/// modules that it needs to mount virtio-fs: below `modules`, or where the
/// package has them.
///
/// # Errors
/// What is missing, and which package has it.
pub fn find(image: &Path, modules: Option<&Path>) -> Result<Kernel> {
    let path = locate(image).ok_or_else(|| Failure::new(format!("no User Mode Linux kernel '{}': {REMEDY}", image.display())))?;
    let version = ask(&path, "--version")?;
    let version = version.trim();
    if version.is_empty() || version.contains(['/', ' ', '\n']) {
        return Err(Failure::new(format!("'{}' is no User Mode Linux kernel: {REMEDY}", path.display())));
    }
    if modules.is_none() && ask(&path, "--showconfig")?.lines().any(|line| line == "CONFIG_VIRTIO_FS=y") {
        return Ok(Kernel { image: path, modules: Vec::new() });
    }
    let directory = modules.map_or_else(|| Path::new(MODULES_DIRECTORY).join(version), Path::to_owned);
    let modules = load_order(&directory, "virtiofs.ko").map_err(|reason| {
        Failure::new(format!(
            "no module virtiofs.ko for kernel {version} in {} ({reason}): install the package user-mode-linux, or name the directory with --modules",
            directory.display()
        ))
    })?;
    Ok(Kernel { image: path, modules })
}

fn locate(image: &Path) -> Option<PathBuf> {
    let is_program = |path: &Path| {
        nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok() && path.metadata().is_ok_and(|found| found.is_file())
    };
    if image.components().count() > 1 || image.is_absolute() {
        return is_program(image).then(|| std::path::absolute(image).unwrap_or_else(|_| image.to_owned()));
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(image)).find(|path| is_program(path))
}

fn ask(kernel: &Path, question: &str) -> Result<String> {
    let output = Command::new(kernel).arg(question).stdin(Stdio::null()).output();
    let output = output.map_err(|e| Failure::io(format!("cannot run '{}'", kernel.display()), &e))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The module called `wanted` and what modules.dep says it needs, the needed
/// first. modules.dep lists all of them on one line, the deepest last.
fn load_order(directory: &Path, wanted: &str) -> std::result::Result<Vec<(String, Vec<u8>)>, String> {
    let list = directory.join("modules.dep");
    let text = std::fs::read_to_string(&list).map_err(|e| format!("modules.dep: {}", crate::failure::phrase(&e)))?;
    let paths = dependencies(&text, wanted).ok_or("modules.dep does not have it")?;
    paths
        .iter()
        .map(|path| {
            let name = Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let contents = std::fs::read(directory.join(path)).map_err(|e| format!("{path}: {}", crate::failure::phrase(&e)))?;
            Ok((name, contents))
        })
        .collect()
}

fn dependencies<'a>(text: &'a str, wanted: &str) -> Option<Vec<&'a str>> {
    let (module, needs) = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(module, _)| Path::new(module).file_name().is_some_and(|name| name == wanted))?;
    Some(needs.split_whitespace().rev().chain([module]).collect())
}

/// What a guest is started with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine<'a> {
    /// The kernel's executable.
    pub image: &'a Path,
    /// Memory, as the kernel's `mem=` takes it ("512M").
    pub memory: &'a str,
    /// The initramfs.
    pub initramfs: &'a Path,
    /// Where it may keep its files; short, for one is a socket.
    pub directory: &'a Path,
    /// One vhost-user socket for each file system device.
    pub sockets: &'a [PathBuf],
}

/// The argument that gives a guest the file system device behind `socket`.
#[must_use]
pub fn device_argument(socket: &Path, number: usize) -> String {
    format!("virtio_uml.device={}:{VIRTIO_ID_FS}:{number}", socket.display())
}

/// The command that boots `machine` with its console and all its chatter going
/// to `log`. It leads a process group, so that it can be ended as a whole: UML
/// keeps a host process for each guest process.
#[must_use]
pub fn command(machine: &Machine<'_>, log: Stdio, log_too: Stdio) -> Command {
    let mut command = Command::new(machine.image);
    command
        .arg(format!("mem={}", machine.memory))
        .arg(format!("initrd={}", machine.initramfs.display()))
        .arg(format!("uml_dir={}", machine.directory.display()))
        .args(["umid=guest", "con=null", "con0=null,fd:1", "ssl=null", "quiet", "panic=-1", "noreboot"])
        .args(machine.sockets.iter().enumerate().map(|(number, socket)| device_argument(socket, number + 1)));
    // Its memory is a file: in /dev/shm, whatever TMPDIR says, for speed. HOME
    // is where it would keep files of its own.
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", machine.directory);
    command.current_dir(machine.directory).stdin(Stdio::null()).stdout(log).stderr(log_too).process_group(0);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_what_they_need() {
        let text =
            "kernel/fs/fuse/fuse.ko:\nkernel/fs/fuse/virtiofs.ko: kernel/b.ko kernel/a.ko\nkernel/x.ko: kernel/fs/fuse/virtiofs.ko\n";
        assert_eq!(dependencies(text, "virtiofs.ko"), Some(vec!["kernel/a.ko", "kernel/b.ko", "kernel/fs/fuse/virtiofs.ko"]));
        assert_eq!(dependencies(text, "none.ko"), None);
    }

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        for image in ["no-such-kernel-1", "/no/such/kernel"] {
            let line = find(Path::new(image), None).expect_err("missing").line;
            assert!(line.contains(image) && line.contains("user-mode-linux"), "{line}");
        }
    }
}
