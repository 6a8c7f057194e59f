//! [`Kernel`]: what a guest boots, and the modules that virtio-fs takes.

use super::Kind;
use crate::fixture::{need_program, workspace};
use crate::harness::skip;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// An image, and modules in the order to load them.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// A bzImage, or User Mode Linux's program.
    pub image: PathBuf,
    /// What is not built in.
    pub modules: Vec<PathBuf>,
}

/// Each after those that it needs. The package has no modules.dep: that is
/// written when it is installed, and here it is only unpacked.
const QEMU_MODULES: [&str; 7] =
    ["virtio", "virtio_ring", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "fuse", "virtiofs"];
const UML_MODULES: [&str; 2] = ["fuse", "virtiofs"];

impl Kernel {
    /// The kernel for a kind of guest. Skips the running case where there is none.
    #[must_use]
    pub fn find(kind: Kind) -> Kernel {
        match kind {
            Kind::Uml => uml(),
            Kind::Qemu => debian().unwrap_or_else(|why| skip(format!("no kernel for QEMU: {why}"))),
        }
    }
}

fn uml() -> Kernel {
    let image = need_program("linux.uml", "user-mode-linux");
    let version = Command::new(&image).arg("--version").output().map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let version = version.unwrap_or_else(|e| skip(format!("{} does not run: {e}", image.display())));
    let dir = Path::new("/usr/lib/uml/modules").join(&version);
    let modules = modules(&dir, &UML_MODULES).unwrap_or_else(|why| skip(format!("{why}: apt-get install user-mode-linux")));
    Kernel { image, modules }
}

/// Debian's cloud kernel: downloaded once and unpacked, not installed.
fn debian() -> Result<Kernel, String> {
    let dir = workspace().join("target/guest-kernel");
    fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let lock = File::create(dir.join("lock")).map_err(|e| format!("{}: {e}", dir.display()))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|e| format!("locking {}: {e}", dir.display()))?;
    let unpacked = dir.join("unpacked");
    if !unpacked.is_dir() {
        download(&dir, &unpacked)?;
    }
    let boot = fs::read_dir(unpacked.join("boot")).map_err(|e| format!("{}: {e}", unpacked.display()))?;
    let image = boot.flatten().map(|entry| entry.path()).find(|path| path.to_string_lossy().contains("/vmlinuz"));
    let image = image.ok_or_else(|| format!("no vmlinuz below {}", unpacked.display()))?;
    Ok(Kernel { image, modules: modules(&unpacked.join("lib/modules"), &QEMU_MODULES)? })
}

fn download(dir: &Path, unpacked: &Path) -> Result<(), String> {
    // linux-image-cloud-amd64 itself is empty and depends on the version of the day.
    let depends = said(Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]))?;
    let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: ").filter(|name| name.starts_with("linux-image-")));
    let package = package.ok_or("apt knows no linux-image-cloud-amd64: run apt-get update")?;
    let partial = tempfile::Builder::new().prefix("partial-").tempdir_in(dir).map_err(|e| e.to_string())?;
    // As root, not as apt's own user, who may not write here.
    said(Command::new("apt-get").args(["-q", "-o", "APT::Sandbox::User=root", "download", package]).current_dir(partial.path()))?;
    let archive = fs::read_dir(partial.path()).map_err(|e| e.to_string())?.flatten().map(|entry| entry.path()).next();
    let archive = archive.ok_or_else(|| format!("apt-get download {package} left nothing"))?;
    let tree = partial.path().join("tree");
    said(Command::new("dpkg-deb").arg("-x").arg(archive).arg(&tree))?;
    fs::rename(&tree, unpacked).map_err(|e| format!("{}: {e}", unpacked.display()))
}

fn said(command: &mut Command) -> Result<String, String> {
    let done = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if done.status.success() { Ok(text(&done.stdout)) } else { Err(format!("{command:?}: {}", text(&done.stderr))) }
}

/// The paths of `wanted` below `dir`. One that is built in has none; virtiofs has one.
fn modules(dir: &Path, wanted: &[&str]) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?.flatten() {
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_dir { open.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    let named = |path: &PathBuf, name: &str| path.file_name().is_some_and(|file| file.to_string_lossy() == format!("{name}.ko"));
    let found: Vec<PathBuf> = wanted.iter().filter_map(|name| files.iter().find(|path| named(path, name)).cloned()).collect();
    if found.is_empty() { Err(format!("no modules for virtio-fs below {}", dir.display())) } else { Ok(found) }
}
