//! The classic line: `mode uid gid\n` or `mode uid gid TYPE major minor\n`.

use super::{Record, Unreadable};
use externfs::{DeviceNumber, FileKind, GuestGid, GuestUid, Mode};

/// The longest line in bytes, its LF included, as the original wrote them.
pub const LINE_MAX: usize = 64;

impl Record {
    /// The line, with its LF. A regular file, a directory and a symbolic link
    /// have three fields: what they are, the data tree says. So do a FIFO, a
    /// socket or a device that the data tree really holds (`native`).
    #[must_use]
    pub fn to_line(&self, native: bool) -> String {
        let (mode, uid, gid) = (self.mode.bits(), self.uid.0, self.gid.0);
        let letter = match self.kind {
            FileKind::BlockDevice => 'b',
            FileKind::CharDevice => 'c',
            FileKind::Fifo => 'p',
            FileKind::Socket => 's',
            FileKind::Regular | FileKind::Directory | FileKind::Symlink => return format!("{mode} {uid} {gid}\n"),
        };
        if native {
            return format!("{mode} {uid} {gid}\n");
        }
        let DeviceNumber { major, minor } = self.device;
        format!("{mode} {uid} {gid} {letter} {major} {minor}\n")
    }

    /// Reads a line. `kind` is what the data tree holds: it decides unless the
    /// line names a type. Anything after the first LF is left over from a
    /// longer line that was being replaced, and does not count.
    ///
    /// # Errors
    /// [`Unreadable`], for whatever the original could not have written.
    pub fn from_line(text: &[u8], kind: FileKind) -> Result<Record, Unreadable> {
        let line = text.split(|&b| b == b'\n').next().unwrap_or_default();
        if line.is_empty() {
            return Err(Unreadable::Empty);
        }
        if line.len() > LINE_MAX {
            return Err(Unreadable::Malformed("longer than a record can be"));
        }
        let line = std::str::from_utf8(line).map_err(|_| Unreadable::Malformed("not text"))?;
        let fields: Vec<&str> = line.split(' ').collect();
        let (&[mode, uid, gid], rest) = fields.split_first_chunk::<3>().ok_or(Unreadable::Malformed("fewer than three fields"))?;
        let mode: u32 = mode.parse().map_err(|_| Unreadable::Malformed("the mode is no decimal number"))?;
        if mode > 0o7777 {
            return Err(Unreadable::Malformed("the mode has more than twelve bits"));
        }
        let mut record = Record::new(kind, Mode::new(mode), GuestUid(id(uid)?), GuestGid(id(gid)?));
        match rest {
            [] => {}
            [letter, major, minor] => {
                record.kind = special(letter, kind)?;
                let number = |text: &str| text.parse().map_err(|_| Unreadable::Malformed("a device number is no number"));
                let device = DeviceNumber { major: number(major)?, minor: number(minor)? };
                if record.kind.is_device() {
                    record.device = device;
                }
            }
            _ => return Err(Unreadable::Malformed("neither three fields nor six")),
        }
        Ok(record)
    }
}

/// An owner. The old kernels wrote them with a sign.
fn id(text: &str) -> Result<u32, Unreadable> {
    let id = text.parse::<u32>().ok().or_else(|| text.parse::<i32>().ok().map(|signed| signed as u32));
    id.ok_or(Unreadable::Malformed("an owner is no number"))
}

/// A type letter. It can only stand on what is a regular file in the data
/// tree: a directory or link that a line calls a device was never written by us.
fn special(letter: &str, held: FileKind) -> Result<FileKind, Unreadable> {
    let kind = match letter {
        "b" => FileKind::BlockDevice,
        "c" => FileKind::CharDevice,
        "p" => FileKind::Fifo,
        "s" => FileKind::Socket,
        _ => return Err(Unreadable::Malformed("the type is none of b, c, p, s")),
    };
    if held != FileKind::Regular && held != kind {
        return Err(Unreadable::OtherType);
    }
    Ok(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_the_original() {
        for (line, kind, expected) in [
            ("493 0 0\n", FileKind::Directory, (0o755, 0, 0, FileKind::Directory, 0, 0)),
            ("420 0 0 b 98 0\n", FileKind::Regular, (0o644, 0, 0, FileKind::BlockDevice, 98, 0)),
            ("438 0 5 c 1048575 4294967295\n", FileKind::Regular, (0o666, 0, 5, FileKind::CharDevice, 1_048_575, u32::MAX)),
            ("384 -1 -2\n", FileKind::Regular, (0o600, u32::MAX, u32::MAX - 1, FileKind::Regular, 0, 0)),
            ("511 4294967294 7", FileKind::Symlink, (0o777, u32::MAX - 1, 7, FileKind::Symlink, 0, 0)),
            ("420 1 2\n 0 0 c 1 3\n", FileKind::Regular, (0o644, 1, 2, FileKind::Regular, 0, 0)),
            ("420 1 2\n", FileKind::Fifo, (0o644, 1, 2, FileKind::Fifo, 0, 0)),
        ] {
            let r = Record::from_line(line.as_bytes(), kind).expect(line);
            assert_eq!((r.mode.bits(), r.uid.0, r.gid.0, r.kind, r.device.major, r.device.minor), expected, "{line}");
        }
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for bad in
            ["", "\n", "420", "420 0", "420  0 0", "420 0 0 ", "420 0 0 b", "420 0 0 b 1", "420 0 0 b 1 2 3", "420 0 0 x 1 2", "x 0 0"]
        {
            assert!(Record::from_line(bad.as_bytes(), FileKind::Regular).is_err(), "{bad:?}");
        }
        for bad in ["4096 0 0", "-1 0 0", "420 4294967296 0", "420 0 -2147483649", "420 0 0 b -1 0", "0644 0 0 c 1 99999999999"] {
            assert!(Record::from_line(bad.as_bytes(), FileKind::Regular).is_err(), "{bad:?}");
        }
        assert!(Record::from_line(b"420 0 0 b 1 2", FileKind::Directory).is_err(), "a directory is no device");
        assert!(Record::from_line(&[b'4'; 1000], FileKind::Regular).is_err());
    }

    proptest::proptest! {
        #[test]
        fn a_line_comes_back(mode in 0u32..0o10000, uid: u32, gid: u32, major: u32, minor: u32, which in 0usize..7) {
            let kinds = [FileKind::Regular, FileKind::Directory, FileKind::Symlink, FileKind::BlockDevice, FileKind::CharDevice, FileKind::Fifo, FileKind::Socket];
            let kind = kinds[which];
            let mut record = Record::new(kind, Mode::new(mode), GuestUid(uid), GuestGid(gid));
            if kind.is_device() {
                record.device = DeviceNumber { major, minor };
            }
            let held = if which < 3 { kind } else { FileKind::Regular };
            proptest::prop_assert!(record.to_line(false).len() <= LINE_MAX);
            proptest::prop_assert_eq!(Record::from_line(record.to_line(false).as_bytes(), held), Ok(record));
        }

        #[test]
        fn no_text_is_a_panic(text: Vec<u8>) {
            let _ = Record::from_line(&text, FileKind::Regular);
        }
    }
}
