//! [`Kernel`]: what a guest boots, and the modules that virtio-fs takes.

use super::Kind;
use crate::fixture::{cache_dir, find_program, output, workspace};
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

impl Kernel {
    /// The kernel for a kind of guest. Skips the running case where there is none.
    #[must_use]
    pub fn find(kind: Kind) -> Kernel {
        Kernel::locate(kind).unwrap_or_else(|why| skip(why))
    }

    /// The kernel for a kind of guest: the one that is installed for User Mode
    /// Linux; for QEMU Debian's cloud kernel, downloaded once and unpacked.
    ///
    /// # Errors
    /// What is missing, and how to get it.
    pub fn locate(kind: Kind) -> Result<Kernel, String> {
        match kind {
            Kind::Uml => uml(),
            Kind::Qemu => debian().map_err(|why| format!("no kernel for QEMU: {why}")),
        }
    }

    /// The one in `dir`, as `tests/guest/fetch-kernel` leaves it: `vmlinuz`,
    /// module files, and their names in `modules`, in the order to load them.
    ///
    /// # Errors
    /// What is missing.
    pub fn kept_in(dir: &Path) -> Result<Kernel, String> {
        let list = dir.join("modules");
        let names = fs::read_to_string(&list).map_err(|error| format!("{}: {error}", list.display()))?;
        let kernel = Kernel { image: dir.join("vmlinuz"), modules: names.lines().map(|name| dir.join(name)).collect() };
        match std::iter::once(&kernel.image).chain(&kernel.modules).find(|path| !path.is_file()) {
            Some(missing) => Err(format!("there is no {}", missing.display())),
            None => Ok(kernel),
        }
    }

    /// File names for the modules that sort as they are to be loaded.
    #[must_use]
    pub fn module_names(&self) -> Vec<String> {
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.modules.iter().enumerate().map(|(number, path)| format!("{number:02}-{}", name(path))).collect()
    }
}

fn uml() -> Result<Kernel, String> {
    let image = find_program("linux.uml").ok_or("linux.uml is not installed: apt-get install user-mode-linux")?;
    let asked = output(Command::new(&image).arg("--version"));
    let dir = Path::new("/usr/lib/uml/modules").join(String::from_utf8_lossy(&asked.stdout).trim()).join("kernel/fs/fuse");
    let modules: Vec<PathBuf> = ["fuse.ko", "virtiofs.ko"].map(|name| dir.join(name)).into();
    if !modules.iter().all(|path| path.is_file()) {
        return Err(format!("no modules for {} in {}: apt-get install user-mode-linux", image.display(), dir.display()));
    }
    Ok(Kernel { image, modules })
}

fn debian() -> Result<Kernel, String> {
    let failed = |error: std::io::Error| error.to_string();
    let dir = cache_dir().join("guest-kernel");
    fs::create_dir_all(&dir).map_err(failed)?;
    // Those that start together fetch it once.
    let lock = File::create(dir.join("lock")).map_err(failed)?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|errno| failed(errno.into()))?;
    let fetched = output(Command::new(workspace().join("tests/guest/fetch-kernel")).arg(&dir));
    if !fetched.status.success() {
        return Err(String::from_utf8_lossy(&fetched.stderr).trim().to_owned());
    }
    Kernel::kept_in(&dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_kernel_is_whole_or_says_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let refused = || Kernel::kept_in(dir.path()).unwrap_err();
        assert!(refused().contains("modules: "));
        fs::write(dir.path().join("modules"), "virtio.ko\nfuse.ko\n").unwrap();
        assert!(refused().ends_with("vmlinuz"));
        for name in ["vmlinuz", "virtio.ko"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert!(refused().ends_with("fuse.ko"));
        fs::write(dir.path().join("fuse.ko"), "").unwrap();
        assert_eq!(Kernel::kept_in(dir.path()).unwrap().module_names(), ["00-virtio.ko", "01-fuse.ko"]);
    }
}
