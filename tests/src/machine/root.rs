//! [`Root`]: a guest's first root file system, packed from files of the host.
//! The guest suite and the benchmarks' guests are made of it.

use super::kernel::Kernel;
use externfs_tools::boot::initramfs::Initramfs;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Grows in memory. A file that is there already is not added again: programs
/// share libraries.
pub struct Root {
    archive: Initramfs,
    known: BTreeSet<PathBuf>,
}

impl Root {
    /// With a console, with `modules` in `/modules` in the order to load them,
    /// and empty directories to mount on.
    ///
    /// # Errors
    /// A module that cannot be read.
    pub fn new(kernel: &Kernel, directories: &[&str]) -> Result<Root, String> {
        let mut root = Root { archive: Initramfs::new(), known: BTreeSet::new() };
        for directory in ["/proc", "/sys", "/dev", "/tmp"].iter().chain(directories) {
            root.archive.directory(directory);
        }
        // The kernel opens it before anything is mounted.
        root.archive.character_device("/dev/console", 5, 1);
        for (module, name) in kernel.modules.iter().zip(kernel.module_names()) {
            root.copy(module, &Path::new("/modules").join(name))?;
        }
        Ok(root)
    }

    /// A file with these bytes.
    pub fn file(&mut self, path: &Path, contents: &[u8]) {
        if self.known.insert(path.to_owned()) {
            self.archive.file(path, contents);
        }
    }

    /// A copy of a file of the host.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn copy(&mut self, from: &Path, path: &Path) -> Result<(), String> {
        let contents = std::fs::read(from).map_err(|error| format!("{}: {error}", from.display()))?;
        self.file(path, &contents);
        Ok(())
    }

    /// A program of the host, less what only a debugger reads, with the
    /// libraries that it loads, where it expects them.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn program(&mut self, from: &Path, path: &Path) -> Result<(), String> {
        match stripped(from) {
            Some(contents) => self.file(path, &contents),
            None => self.copy(from, path)?,
        }
        libraries_of(from)?.iter().try_for_each(|library| self.copy(library, library))
    }

    /// A character device.
    pub fn character_device(&mut self, path: &str, major: u32, minor: u32) {
        self.archive.character_device(path, major, minor);
    }

    /// The archive.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.archive.finish()
    }
}

/// A program without symbols: nine tenths of one that is made for debugging are
/// these, and an emulated guest unpacks them for seconds. None where there is
/// no strip(1), or it cannot read this program.
fn stripped(program: &Path) -> Option<Vec<u8>> {
    let out = tempfile::NamedTempFile::new().ok()?;
    strip(program, out.path()).then(|| std::fs::read(out.path()).ok())?
}

fn strip(program: &Path, out: &Path) -> bool {
    let done = Command::new("strip").arg("-o").arg(out).arg(program).stderr(Stdio::null()).status();
    done.is_ok_and(|status| status.success())
}

/// What the loader will look for, at the paths where it will; a static program
/// has none.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>, String> {
    let listed = Command::new("ldd").arg(program).output().map_err(|error| format!("ldd: {error}"))?;
    if !listed.status.success() {
        let said = String::from_utf8_lossy(&[listed.stdout, listed.stderr].concat()).into_owned();
        // Its way to say that a program is static is to fail.
        let is_static = said.contains("not a dynamic executable");
        return if is_static { Ok(Vec::new()) } else { Err(format!("ldd {}: {}", program.display(), said.trim())) };
    }
    // "libc.so.6 => /lib/.../libc.so.6 (0x...)", or the loader's path alone.
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    Ok(text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_come_with_their_libraries_once() {
        let dir = tempfile::tempdir().unwrap();
        let module = dir.path().join("fuse.ko");
        std::fs::write(&module, "module").unwrap();
        let mut root = Root::new(&Kernel { image: PathBuf::new(), modules: vec![module] }, &["/mnt"]).unwrap();
        let own = std::env::current_exe().unwrap();
        root.program(&own, Path::new("/bin/one")).unwrap();
        let libraries = libraries_of(&own).unwrap();
        assert!(libraries.iter().any(|path| path.to_string_lossy().contains("libc.so")), "{libraries:?}");
        let expected = [Path::new("/modules/00-fuse.ko"), Path::new("/bin/one")].into_iter().chain(libraries.iter().map(PathBuf::as_path));
        assert!(expected.into_iter().all(|path| root.known.contains(path)), "{:?}", root.known);
        let count = root.known.len();
        root.program(&own, Path::new("/bin/two")).unwrap();
        assert_eq!(root.known.len(), count + 1, "its libraries are there already");
        let archive = root.finish();
        let members = |name: &str| archive.windows(name.len()).filter(|window| *window == name.as_bytes()).count();
        assert!(members("bin/two\0") >= 1);
        let twice = 2 * stripped(&own).map_or_else(|| std::fs::metadata(&own).unwrap().len() as usize, |bytes| bytes.len());
        assert!(archive.len() > twice, "{} bytes hold no two copies", archive.len());
    }

    #[test]
    fn a_program_is_packed_without_its_symbols_and_still_runs() {
        let own = std::env::current_exe().unwrap();
        let Some(small) = stripped(&own) else { return println!("no strip(1) here: programs are packed as they are") };
        assert!((small.len() as u64) < std::fs::metadata(&own).unwrap().len());
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        // Not written by this process: another test's child would hold it open.
        assert!(strip(&own, &program));
        assert_eq!(std::fs::read(&program).unwrap(), small);
        let listed = Command::new(&program).arg("--list").output().unwrap();
        assert!(listed.status.success() && String::from_utf8_lossy(&listed.stdout).contains("still_runs"));
        assert_eq!(stripped(Path::new("/etc/passwd")), None);
    }

    #[test]
    fn what_is_missing_is_named_and_static_programs_need_nothing() {
        let mut root = Root::new(&Kernel { image: PathBuf::new(), modules: Vec::new() }, &[]).unwrap();
        assert!(root.copy(Path::new("/no/such/file"), Path::new("/x")).unwrap_err().contains("/no/such/file"));
        assert!(root.program(Path::new("/no/such/program"), Path::new("/x")).unwrap_err().contains("/no/such/program"));
        assert_eq!(libraries_of(Path::new("/etc/passwd")), Ok(Vec::new()));
    }
}
