//! Writes a cpio archive in the format that the kernel unpacks into its first
//! root file system ("newc", Documentation/driver-api/early-userspace/
//! buffer-format.rst of the kernel).

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// An archive in memory.
#[derive(Default, Debug)]
pub struct Initramfs {
    bytes: Vec<u8>,
    directories: BTreeSet<PathBuf>,
    next_ino: u32,
}

/// What distinguishes one archive member from another.
struct Member<'a> {
    mode: u32,
    device: (u32, u32),
    data: &'a [u8],
}

impl Initramfs {
    /// Empty.
    #[must_use]
    pub fn new() -> Initramfs {
        Initramfs::default()
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    fn member(&mut self, path: &Path, member: &Member<'_>) {
        let name = path.strip_prefix("/").unwrap_or(path).as_os_str().as_bytes();
        self.next_ino += 1;
        let fields = [
            self.next_ino,
            member.mode,
            0, // uid
            0, // gid
            1, // nlink
            0, // mtime
            member.data.len() as u32,
            0, // dev
            0,
            member.device.0,
            member.device.1,
            name.len() as u32 + 1,
            0, // check, unused by this format
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name);
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(member.data);
        self.pad();
    }

    /// Adds a directory and those above it, once each.
    pub fn directory(&mut self, path: impl AsRef<Path>) {
        let path = path.as_ref();
        for above in path.ancestors().collect::<Vec<_>>().into_iter().rev() {
            if above.parent().is_some() && self.directories.insert(above.to_owned()) {
                self.member(above, &Member { mode: libc::S_IFDIR | 0o755, device: (0, 0), data: b"" });
            }
        }
    }

    /// Adds a file, executable for what it is worth, with the directories above it.
    pub fn file(&mut self, path: impl AsRef<Path>, data: &[u8]) {
        let path = path.as_ref();
        if let Some(parent) = path.parent() {
            self.directory(parent);
        }
        self.member(path, &Member { mode: libc::S_IFREG | 0o755, device: (0, 0), data });
    }

    /// Adds a character device.
    pub fn character_device(&mut self, path: impl AsRef<Path>, major: u32, minor: u32) {
        let path = path.as_ref();
        if let Some(parent) = path.parent() {
            self.directory(parent);
        }
        self.member(path, &Member { mode: libc::S_IFCHR | 0o600, device: (major, minor), data: b"" });
    }

    /// The finished archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.member(Path::new("TRAILER!!!"), &Member { mode: 0, device: (0, 0), data: b"" });
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn busybox_reads_it_back() {
        let mut archive = Initramfs::new();
        archive.character_device("/dev/console", 5, 1);
        archive.file("/lib/x/a.so", b"12345");
        archive.file("/lib/x/b.so", b"");
        archive.directory("/lib/x");
        archive.file("/init", &[7; 4096]);
        let bytes = archive.finish();
        assert!(bytes.len().is_multiple_of(4));
        let Ok(mut child) = Command::new("busybox").args(["cpio", "-tv"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
            eprintln!("SKIPPED: busybox is not installed (apt install busybox-static)");
            return;
        };
        child.stdin.take().expect("piped").write_all(&bytes).expect("written");
        let output = child.wait_with_output().expect("read");
        assert!(output.status.success());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let names: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().last()).collect();
        assert_eq!(names, ["dev", "dev/console", "lib", "lib/x", "lib/x/a.so", "lib/x/b.so", "init"], "{text}");
        assert!(text.contains("4096"), "{text}");
    }
}
