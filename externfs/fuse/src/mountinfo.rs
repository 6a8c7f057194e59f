//! What is mounted where: /proc/self/mountinfo, proc_pid_mountinfo(5).

use rustix::fs::{AtFlags, StatxFlags};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct MountEntry {
    /// Unique while it exists.
    pub(crate) id: u64,
    /// Of the file system: `major:minor`.
    pub(crate) device: String,
    pub(crate) point: PathBuf,
    /// With the subtype: `fuse.externfs`.
    pub(crate) kind: String,
    pub(crate) source: OsString,
}

impl MountEntry {
    /// The two numbers of `device`.
    pub(crate) fn numbers(&self) -> Option<(u32, u32)> {
        let (major, minor) = self.device.split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    }

    /// Whether it is FUSE's, whoever serves it.
    pub(crate) fn is_fuse(&self) -> bool {
        self.kind == "fuse" || self.kind.starts_with("fuse.")
    }
}

/// Undoes `\040` and the like.
fn unescape(field: &str) -> OsString {
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|digits| first == b'\\' && digits.iter().all(|d| (b'0'..b'8').contains(d)));
        match octal {
            Some(digits) => {
                out.push(digits.iter().fold(0u8, |value, digit| (value << 3) | (digit - b'0')));
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out)
}

/// The number that no other mount ever had or will have until the next boot;
/// None before Linux 6.8. Asks nothing of whoever serves the mount.
pub(crate) fn unique_id(point: &Path) -> Option<u64> {
    // STATX_MNT_ID_UNIQUE of statx(2).
    let wanted = StatxFlags::from_bits_retain(0x4000);
    let how = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let found = rustix::fs::statx(rustix::fs::CWD, point, how, wanted).ok()?;
    (found.stx_mask & wanted.bits() != 0).then_some(found.stx_mnt_id)
}

fn parse_line(line: &str) -> Option<MountEntry> {
    let (mount, system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ');
    let id = mount.next()?.parse().ok()?;
    let device = mount.nth(1)?.to_owned();
    let point = PathBuf::from(unescape(mount.nth(1)?));
    let mut system = system.split(' ');
    Some(MountEntry { id, device, point, kind: system.next()?.to_owned(), source: unescape(system.next()?) })
}

/// All mounts of this namespace, in the order of mounting. Paths that are no
/// UTF-8 are kept: the kernel escapes only blanks and backslashes.
pub(crate) fn read() -> io::Result<Vec<MountEntry>> {
    let bytes = fs::read("/proc/self/mountinfo")?;
    Ok(bytes.split(|&b| b == b'\n').filter_map(parse_bytes).collect())
}

/// A line with a path that is no UTF-8 is parsed with that path made safe, and
/// the true bytes put back.
fn parse_bytes(line: &[u8]) -> Option<MountEntry> {
    if let Ok(text) = std::str::from_utf8(line) {
        return parse_line(text);
    }
    let escaped: String = line.iter().map(|&b| if b.is_ascii() { char::from(b).to_string() } else { format!("\\{b:03o}") }).collect();
    parse_line(&escaped)
}

/// The mount that one sees at `point`: the last one there.
pub(crate) fn topmost(point: &Path) -> io::Result<Option<MountEntry>> {
    Ok(read()?.into_iter().rev().find(|entry| entry.point.as_os_str().as_bytes() == point.as_os_str().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart() {
        let line = r"36 35 98:0 /mnt1 /mnt\0402\134x rw,noatime master:1 shared:2 - fuse.externfs host\011dir rw,user_id=0";
        let entry = parse_line(line).unwrap();
        assert_eq!(entry.id, 36);
        assert_eq!(entry.device, "98:0");
        assert_eq!(entry.numbers(), Some((98, 0)));
        assert_eq!(entry.point, Path::new("/mnt 2\\x"));
        assert_eq!(entry.kind, "fuse.externfs");
        assert!(entry.is_fuse());
        assert_eq!(entry.source, "host\tdir");
    }

    #[test]
    fn foreign_lines_are_skipped_and_odd_bytes_kept() {
        assert_eq!(parse_bytes(b""), None);
        assert_eq!(parse_bytes(b"1 2 3"), None);
        let entry = parse_bytes(b"1 0 0:5 / /a\xff rw - ext4 /dev/x rw").unwrap();
        assert_eq!(entry.point.as_os_str().as_bytes(), b"/a\xff");
        assert!(!entry.is_fuse());
    }

    #[test]
    fn proc_is_found() {
        assert_eq!(topmost(Path::new("/proc")).unwrap().unwrap().kind, "proc");
        assert_eq!(topmost(Path::new("/proc/nowhere")).unwrap(), None);
    }
}
