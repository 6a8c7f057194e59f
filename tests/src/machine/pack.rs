//! A guest's first root: the suite's program, busybox, modules, and what a
//! test wants there.

use super::kernel::Kernel;
use super::{Kind, Plan};
use crate::fixture::{need_program, succeed};
use externfs_tools::boot::initramfs::Initramfs;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Known to every program that asks for names: pjdfstest wants `tests` and `nobody`.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\ntests:x:1500:1500:tests:/:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &str = "root:x:0:\ntests:x:1500:\nnogroup:x:65534:\n";

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The archive.
pub(super) fn initramfs(plan: &Plan, kernel: &Kernel, program: &Path) -> Vec<u8> {
    let mut archive = Initramfs::new();
    for directory in ["/proc", "/sys", "/dev", "/tmp", "/run", "/mnt", "/root"] {
        archive.directory(directory);
    }
    // The kernel opens it before anything is mounted.
    archive.character_device("/dev/console", 5, 1);
    for (number, module) in kernel.modules.iter().enumerate() {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.file(format!("/modules/{number:02}-{name}"), &read(module));
    }
    archive.file("/init", &read(program));
    archive.file("/etc/passwd", PASSWD.as_bytes());
    archive.file("/etc/group", GROUP.as_bytes());
    let mut programs = vec![(program.to_owned(), PathBuf::from("/bin/externfs-guest-check"))];
    let busybox = need_program("busybox", "busybox-static");
    for path in std::iter::once(&busybox).chain(&plan.programs) {
        programs.push((path.clone(), Path::new("/bin").join(path.file_name().unwrap_or_default())));
    }
    let mut libraries = BTreeSet::new();
    for (from, to) in &programs {
        archive.file(to, &read(from));
        libraries.extend(libraries_of(from));
    }
    for library in libraries {
        archive.file(&library, &read(&library));
    }
    for (path, contents) in &plan.files {
        archive.file(path, contents);
    }
    if plan.kind == Kind::Uml {
        // Unlike QEMU's, its kernel makes no node for the serial line before devtmpfs is there.
        archive.character_device("/dev/ttyS0", 4, 64);
    }
    archive.finish()
}

/// What the loader will look for, at the paths where it will.
fn libraries_of(program: &Path) -> Vec<PathBuf> {
    // "libc.so.6 => /lib/.../libc.so.6 (0x...)", or the loader's path alone; a static program has none.
    let listed = Command::new("ldd").arg(program).output().unwrap_or_else(|e| panic!("ldd: {e}"));
    if !listed.status.success() {
        // Of a static program ldd says that it is none of its business, and fails.
        succeed(Command::new("test").arg("-x").arg(program));
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from)).collect()
}
