//! [`Kernel`]: what to boot, and the modules that virtio-fs takes.

use super::Kind;
use crate::fault::{Fault, Naming, Result, fault};
use externfs_tests::fixture::workspace;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use walk::find_files;

/// An image and modules in order of loading.
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    pub(super) modules: Vec<PathBuf>,
}

/// Each after those that it needs. What is missing is built in.
const QEMU_MODULES: [&str; 7] =
    ["virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "fuse", "virtiofs"];
const UML_MODULES: [&str; 2] = ["fuse", "virtiofs"];

impl Kernel {
    /// File names of the modules.
    pub(super) fn module_names(&self) -> Vec<String> {
        self.modules.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect()
    }
}

/// The kernel for a kind of guest; `given` holds an image and modules, for QEMU.
pub(super) fn find(kind: Kind, given: Option<&Path>) -> Result<Kernel> {
    match kind {
        Kind::Uml => uml(),
        Kind::Qemu => {
            let dir = given.map_or_else(debian, |given| Ok(given.to_owned()))?;
            let files = find_files(&dir)?;
            let image = files.iter().find(|path| file_name(path).starts_with("vmlinuz"));
            let image = image.cloned().ok_or_else(|| Fault(format!("no vmlinuz* below {}", dir.display())))?;
            Ok(Kernel { image, modules: modules(&files, &QEMU_MODULES) })
        }
    }
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn modules(files: &[PathBuf], wanted: &[&str]) -> Vec<PathBuf> {
    wanted.iter().filter_map(|name| files.iter().find(|path| file_name(path).strip_suffix(".ko") == Some(name)).cloned()).collect()
}

fn uml() -> Result<Kernel> {
    let image = PathBuf::from("/usr/bin/linux.uml");
    if !image.is_file() {
        return fault("User Mode Linux is not installed: apt-get install user-mode-linux");
    }
    Ok(Kernel { image, modules: modules(&find_files(Path::new("/usr/lib/uml/modules"))?, &UML_MODULES) })
}

/// Debian's cloud kernel, downloaded and unpacked once; not installed.
fn debian() -> Result<PathBuf> {
    let dir = workspace().join("target/guest-kernel");
    let unpacked = dir.join("unpacked");
    if unpacked.is_dir() {
        return Ok(unpacked);
    }
    fs::create_dir_all(&dir).naming(dir.display())?;
    eprintln!("downloading Debian's cloud kernel into {}", dir.display());
    let depends = output(Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]))?;
    let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: ").filter(|name| name.starts_with("linux-image-")));
    let package = package.ok_or_else(|| Fault("apt knows no linux-image-cloud-amd64: apt-get update, or give --kernel DIR".into()))?;
    output(Command::new("apt-get").args(["-q", "download", package]).current_dir(&dir))?;
    let archive = fs::read_dir(&dir).naming(dir.display())?.flatten().map(|entry| entry.path());
    let archive = archive.filter(|path| path.extension().is_some_and(|e| e == "deb")).max();
    let archive = archive.ok_or_else(|| Fault(format!("apt-get download {package} left nothing")))?;
    // Renamed when complete, so that an interrupted run leaves nothing that looks whole.
    let partial = dir.join("partial");
    output(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&partial))?;
    fs::rename(&partial, &unpacked).naming(unpacked.display())?;
    Ok(unpacked)
}

fn output(command: &mut Command) -> Result<String> {
    let done = command.output().naming(format_args!("{command:?}"))?;
    match done.status.success() {
        true => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
        false => fault(format!("{command:?}: {}", String::from_utf8_lossy(&done.stderr).trim())),
    }
}

mod walk {
    use crate::fault::{Naming, Result};
    use std::fs;
    use std::path::{Path, PathBuf};

    /// Regular files below `dir`, not through symlinks.
    pub(super) fn find_files(dir: &Path) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut open = vec![dir.to_owned()];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(&dir).naming(dir.display())? {
                let entry = entry.naming(dir.display())?;
                let kind = entry.file_type().naming(dir.display())?;
                match kind {
                    kind if kind.is_dir() => open.push(entry.path()),
                    kind if kind.is_file() => found.push(entry.path()),
                    _ => {}
                }
            }
        }
        found.sort();
        Ok(found)
    }
}
