//! [`Archive`]: a guest's first root file system as the kernel unpacks it (the
//! "newc" format: Documentation/driver-api/early-userspace/buffer-format.rst).

use crate::fault::{Naming, Result, fault};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// Grows in memory; a path that is there already is not added again.
pub(super) struct Archive {
    bytes: Vec<u8>,
    known: BTreeSet<PathBuf>,
}

impl Archive {
    pub(super) fn new() -> Archive {
        Archive { bytes: Vec::new(), known: BTreeSet::new() }
    }

    fn member(&mut self, path: &Path, mode: u32, device: (u32, u32), data: &[u8]) {
        let name = path.strip_prefix("/").unwrap_or(path).as_os_str().as_bytes();
        let fields = [
            self.known.len() as u32 + 1,
            mode,
            0, // owner
            0,
            1, // links
            0, // time
            data.len() as u32,
            0, // device that it lies on
            0,
            device.0,
            device.1,
            name.len() as u32 + 1,
            0, // checksum, unused
        ];
        self.bytes.extend_from_slice(b"070701");
        fields.iter().for_each(|field| self.bytes.extend_from_slice(format!("{field:08x}").as_bytes()));
        self.bytes.extend_from_slice(name);
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(data);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// A directory, and those above it.
    pub(super) fn directory(&mut self, path: &Path) {
        if path.parent().is_some() && self.known.insert(path.to_owned()) {
            path.parent().into_iter().for_each(|parent| self.directory(parent));
            self.member(path, DIRECTORY, (0, 0), b"");
        }
    }

    /// What the first process gets as its standard streams.
    pub(super) fn console(&mut self) {
        self.directory(Path::new("/dev"));
        self.member(Path::new("/dev/console"), CHARACTER_DEVICE, (5, 1), b"");
    }

    /// A file with these bytes.
    pub(super) fn bytes(&mut self, path: &Path, data: &[u8]) {
        path.parent().into_iter().for_each(|parent| self.directory(parent));
        if self.known.insert(path.to_owned()) {
            self.member(path, PROGRAM, (0, 0), data);
        }
    }

    /// A copy of a file of the host.
    pub(super) fn file(&mut self, path: &Path, from: &Path) -> Result<()> {
        self.bytes(path, &fs::read(from).naming(from.display())?);
        Ok(())
    }

    /// A program of the host with the libraries that it loads, where it expects them.
    pub(super) fn program(&mut self, from: &Path, path: &Path) -> Result<()> {
        self.file(path, from)?;
        let done = Command::new("ldd").arg(from).output().naming("ldd")?;
        if !done.status.success() {
            return fault(format!("ldd {}: {}", from.display(), String::from_utf8_lossy(&done.stderr).trim()));
        }
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        // "libc.so.6 => /lib/.../libc.so.6 (0x...)", or the loader's path alone.
        let libraries = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
        libraries.map(Path::new).try_for_each(|library| self.file(library, library))
    }

    /// The whole.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.member(Path::new("TRAILER!!!"), 0, (0, 0), b"");
        self.bytes
    }
}
