//! [`Kernel`]: what a guest boots, and the modules that virtio-fs takes.

use super::Kind;
use crate::fixture::{cache_dir, need_program, output, workspace};
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
        match kind {
            Kind::Uml => uml(),
            Kind::Qemu => debian().unwrap_or_else(|why| skip(format!("no kernel for QEMU: {why}"))),
        }
    }
}

fn uml() -> Kernel {
    let image = need_program("linux.uml", "user-mode-linux");
    let asked = output(Command::new(&image).arg("--version"));
    let dir = Path::new("/usr/lib/uml/modules").join(String::from_utf8_lossy(&asked.stdout).trim()).join("kernel/fs/fuse");
    let modules: Vec<PathBuf> = ["fuse.ko", "virtiofs.ko"].map(|name| dir.join(name)).into();
    if !modules.iter().all(|path| path.is_file()) {
        skip(format!("no modules for {} in {}: apt-get install user-mode-linux", image.display(), dir.display()));
    }
    Kernel { image, modules }
}

/// Debian's cloud kernel: downloaded once and unpacked, not installed.
fn debian() -> Result<Kernel, String> {
    let failed = |error: std::io::Error| error.to_string();
    let dir = cache_dir().join("guest-kernel");
    fs::create_dir_all(&dir).map_err(failed)?;
    // Two suites that start together fetch it once.
    let lock = File::create(dir.join("lock")).map_err(failed)?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|errno| failed(errno.into()))?;
    let fetched = output(Command::new(workspace().join("tests/guest/fetch-kernel")).arg(&dir));
    if !fetched.status.success() {
        return Err(String::from_utf8_lossy(&fetched.stderr).trim().to_owned());
    }
    let list = fs::read_to_string(dir.join("modules")).map_err(failed)?;
    Ok(Kernel { image: dir.join("vmlinuz"), modules: list.lines().map(|name| dir.join(name)).collect() })
}
