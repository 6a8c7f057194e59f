//! What the guest suite packs into a guest's first root: its program, busybox,
//! and what a test wants there.

use super::kernel::Kernel;
use super::root::Root;
use super::{Kind, Plan};
use crate::fixture::need_program;
use std::path::Path;

/// Known to every program that asks for names: pjdfstest wants `tests` and `nobody`.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\ntests:x:1500:1500:tests:/:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &str = "root:x:0:\ntests:x:1500:\nnogroup:x:65534:\n";

/// The archive.
///
/// # Errors
/// A file of the host that cannot be read.
pub(super) fn initramfs(plan: &Plan, kernel: &Kernel, program: &Path) -> Result<Vec<u8>, String> {
    let mut root = Root::new(kernel, &["/run", "/mnt", "/root"])?;
    root.program(program, Path::new("/init"))?;
    root.copy(program, Path::new("/bin/externfs-guest-check"))?;
    let busybox = need_program("busybox", "busybox-static");
    for path in std::iter::once(&busybox).chain(&plan.programs) {
        root.program(path, &Path::new("/bin").join(path.file_name().unwrap_or_default()))?;
    }
    root.file(Path::new("/etc/passwd"), PASSWD.as_bytes());
    root.file(Path::new("/etc/group"), GROUP.as_bytes());
    for (path, contents) in &plan.files {
        root.file(path, contents);
    }
    if plan.kind == Kind::Uml {
        // Unlike QEMU's, its kernel makes no node for the serial line before devtmpfs is there.
        root.character_device("/dev/ttyS0", 4, 64);
    }
    Ok(root.finish())
}
