//! What the guest needs of this very program: the parts of an ELF file that
//! are loaded, and the libraries that it was linked with.
//!
//! The init of the guest is this executable itself, so the guest and the host
//! can never disagree about what they say to each other, and nothing else has
//! to be built or shipped.

use crate::failure::{Failure, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file and the absolute path at which the loader looks for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Library {
    /// Absolute.
    pub path: PathBuf,
    /// Cut by [`loadable`].
    pub contents: Vec<u8>,
}

/// Reads the native-endian number of `N` bytes at `at`.
fn field<const N: usize>(image: &[u8], at: usize) -> Option<u64> {
    let bytes = image.get(at..at.checked_add(N)?)?;
    let mut wide = [0; 8];
    for (to, from) in wide.iter_mut().zip(bytes) {
        *to = *from;
    }
    Some(u64::from_le_bytes(wide))
}

/// A program header of elf(5), as far as it matters here.
struct Segment {
    kind: u64,
    offset: usize,
    size: usize,
}

const PT_INTERP: u64 = 3;

fn segments(image: &[u8]) -> Option<Vec<Segment>> {
    // e_ident: magic, 64 bits, little endian.
    if image.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, entry, count) = (field::<8>(image, 32)? as usize, field::<2>(image, 54)? as usize, field::<2>(image, 56)? as usize);
    (0..count)
        .map(|index| {
            let at = table.checked_add(entry.checked_mul(index)?)?;
            Some(Segment {
                kind: field::<4>(image, at)?,
                offset: field::<8>(image, at.checked_add(8)?)? as usize,
                size: field::<8>(image, at.checked_add(32)?)? as usize,
            })
        })
        .collect()
}

/// `image` without what the loader never looks at: debugging information and
/// the section table, which are most of a development build.
#[must_use]
pub fn loadable(mut image: Vec<u8>) -> Vec<u8> {
    let Some(segments) = segments(&image) else { return image };
    let end = segments.iter().filter_map(|s| s.offset.checked_add(s.size)).max().unwrap_or(image.len());
    if end < 64 || end >= image.len() {
        return image;
    }
    image.truncate(end);
    // e_shoff, then e_shentsize, e_shnum and e_shstrndx: there are no sections.
    for byte in image.iter_mut().skip(40).take(8) {
        *byte = 0;
    }
    for byte in image.iter_mut().skip(58).take(6) {
        *byte = 0;
    }
    image
}

/// The dynamic loader that `image` asks for; None for a static program.
fn interpreter(image: &[u8]) -> Option<PathBuf> {
    let segment = segments(image)?.into_iter().find(|s| s.kind == PT_INTERP)?;
    let bytes = image.get(segment.offset..segment.offset.checked_add(segment.size)?)?;
    let text = std::str::from_utf8(bytes).ok()?;
    Some(PathBuf::from(text.trim_end_matches('\0')))
}

/// This program's own executable, cut, and every library it needs, the
/// loader included.
///
/// # Errors
/// The executable is unreadable or no ELF file of this machine; its loader
/// does not answer.
pub fn this_program() -> Result<(Vec<u8>, Vec<Library>)> {
    let image = std::fs::read("/proc/self/exe").map_err(|e| Failure::io("cannot read this program (is /proc mounted?)", &e))?;
    let mut libraries = Vec::new();
    if let Some(loader) = interpreter(&image) {
        let executable = std::fs::read_link("/proc/self/exe").map_err(|e| Failure::io("cannot find this program", &e))?;
        for path in listed_by(&loader, &executable)?.into_iter().chain([loader]) {
            let contents = std::fs::read(&path).map_err(|e| Failure::io(format!("cannot read library {}", path.display()), &e))?;
            libraries.push(Library { path, contents: loadable(contents) });
        }
        // Where the libraries are found through it, the guest's loader needs it too.
        if let Ok(contents) = std::fs::read("/etc/ld.so.cache") {
            libraries.push(Library { path: "/etc/ld.so.cache".into(), contents });
        }
    }
    Ok((loadable(image), libraries))
}

/// What `LOADER --list PROGRAM` says, as ldd(1) asks it.
fn listed_by(loader: &Path, program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new(loader)
        .arg("--list")
        .arg(program)
        .env_remove("LD_PRELOAD")
        .output()
        .map_err(|e| Failure::io(format!("cannot run the loader {}", loader.display()), &e))?;
    if !output.status.success() {
        return Err(Failure::new(format!("the loader {} cannot list this program's libraries", loader.display())));
    }
    Ok(parse_list(&String::from_utf8_lossy(&output.stdout)))
}

/// Lines are `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)` for the loader
/// itself, or a bare name for what the kernel provides (linux-vdso).
fn parse_list(text: &str) -> Vec<PathBuf> {
    text.lines()
        .filter_map(|line| line.trim().split_once(" => "))
        .filter_map(|(_, found)| found.rsplit_once(" (").map(|(path, _)| PathBuf::from(path)))
        .filter(|path| path.is_absolute())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_program_still_runs() {
        let image = std::fs::read("/bin/true").expect("/bin/true");
        let cut = loadable(image.clone());
        assert!(cut.len() < image.len(), "{} of {}", cut.len(), image.len());
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("true");
        std::fs::write(&path, &cut).expect("write");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        assert!(Command::new(&path).status().expect("runs").success());
    }

    #[test]
    fn what_is_no_elf_file_is_left_alone() {
        for odd in [&b""[..], b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0", &[0xff; 200]] {
            assert_eq!(loadable(odd.to_vec()), odd);
            assert_eq!(interpreter(odd), None);
        }
        // A header whose table lies far outside.
        let mut wild = b"\x7fELF\x02\x01".to_vec();
        wild.resize(64, 0xff);
        assert_eq!(loadable(wild.clone()), wild);
    }

    #[test]
    fn the_loaders_list_is_understood() {
        let text = "\tlinux-vdso.so.1 (0x0)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f)\n\t/lib64/ld-linux-x86-64.so.2 (0x7)\n\tlibx => not found\n";
        assert_eq!(parse_list(text), [PathBuf::from("/lib/x86_64-linux-gnu/libc.so.6")]);
    }

    #[test]
    fn this_program_comes_with_its_loader() {
        let (program, libraries) = this_program().expect("this program");
        assert!(program.starts_with(b"\x7fELF"));
        let loader = interpreter(&program).expect("the tests are linked dynamically");
        assert!(libraries.iter().any(|l| l.path == loader));
        assert!(libraries.iter().any(|l| l.path.to_string_lossy().contains("libc")));
    }
}
