//! Whether a record says what can be. Pure: no file is touched here.

use crate::acl::{self, Acl};
use crate::record::{Record, Unreadable};
use crate::store::Format;
use externfs::{DeviceNumber, FileKind};

/// The longest target of a link, and the longest value of an attribute.
const TARGET_MAX: usize = libc::PATH_MAX as usize - 1;
const VALUE_MAX: usize = 64 << 10;

/// How the reason ends for a record that was refused for its type.
pub(super) fn other_type() -> String {
    Unreadable::OtherType.to_string()
}

/// Whether an object that is `held` in the data tree can be a `recorded` one.
pub(super) fn fits(format: Format, recorded: FileKind, held: FileKind) -> bool {
    match recorded {
        FileKind::Regular | FileKind::Directory => held == recorded,
        FileKind::Symlink if format.has_native_links() => held == recorded,
        _ => held == FileKind::Regular || held == recorded,
    }
}

/// What is wrong with a record that can be read.
pub(crate) fn nonsense(record: &Record, format: Format) -> Option<String> {
    if record.uid.0 == u32::MAX || record.gid.0 == u32::MAX {
        return Some(format!("an owner of {}:{} is none: 'externfs chown' gives it another", record.uid.0, record.gid.0));
    }
    if !record.kind.is_device() && record.device != DeviceNumber::default() {
        return Some("it has a device number and is no device".into());
    }
    if record.kind == FileKind::Symlink && !format.has_native_links() {
        let target = record.target.as_deref().unwrap_or_default();
        if target.is_empty() {
            return Some("it is a symbolic link without a target".into());
        }
        if target.len() > TARGET_MAX || target.contains(&0) {
            return Some("the target of the symbolic link can be none".into());
        }
    }
    record.xattrs.iter().find_map(|(name, value)| attribute(record, name, value))
}

/// Whether it is what stands for a record that was not written out: root's,
/// and closed to others. Few are, so that is asked first.
pub(super) fn is_closed(record: &Record) -> bool {
    let is_private = record.kind == FileKind::Symlink || record.mode.bits() & 0o7077 == 0;
    (record.uid.0, record.gid.0) == (0, 0) && is_private
}

fn attribute(record: &Record, name: &[u8], value: &[u8]) -> Option<String> {
    let shown = || name.escape_ascii();
    if value.len() > VALUE_MAX {
        return Some(format!("its attribute {} is longer than one can be", shown()));
    }
    match name {
        acl::ACCESS => match Acl::parse(value) {
            Err(_) => Some("its ACL cannot be read: remove it with setfacl -b".into()),
            Ok(acl) if acl.mode() != record.mode.bits() & 0o777 => Some(format!(
                "its ACL amounts to mode {:04o}, and its mode is {:04o}: chmod makes them one",
                acl.mode(),
                record.mode.bits()
            )),
            Ok(_) => None,
        },
        acl::DEFAULT if record.kind != FileKind::Directory => Some("it has a default ACL and is no directory".into()),
        acl::DEFAULT => Acl::parse(value).err().map(|_| "its default ACL cannot be read: remove it with setfacl -k".into()),
        _ => {
            let known = [&b"user."[..], b"trusted.", b"security.", b"system."].iter().any(|prefix| name.starts_with(prefix));
            (!known).then(|| format!("its attribute {} is in no name space that a kernel knows", shown()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use externfs::{GuestGid, GuestUid, Mode};

    fn record(kind: FileKind) -> Record {
        Record::new(kind, Mode::new(0o644), GuestUid(0), GuestGid(0))
    }

    #[test]
    fn kinds_fit_as_the_formats_have_them() {
        use FileKind::*;
        for format in Format::ALL {
            assert!(fits(format, Regular, Regular) && fits(format, Directory, Directory) && fits(format, Fifo, Fifo));
            assert!(fits(format, CharDevice, Regular) && fits(format, Socket, Regular));
            assert!(!fits(format, Regular, Directory) && !fits(format, Directory, Regular) && !fits(format, Fifo, Directory));
            assert!(!fits(format, Regular, Symlink) && !fits(format, Fifo, Socket));
            assert_eq!(fits(format, Symlink, Regular), format == Format::Xattr);
        }
    }

    #[test]
    fn what_no_guest_could_have_recorded_is_noticed() {
        let nonsense = |record: &Record| nonsense(record, Format::Xattr).unwrap_or_default();
        assert_eq!(nonsense(&record(FileKind::Regular)), "");
        let mut owner = record(FileKind::Regular);
        owner.gid = GuestGid(u32::MAX);
        assert!(nonsense(&owner).contains("0:4294967295"));
        let mut numbered = record(FileKind::Fifo);
        numbered.device.minor = 3;
        assert!(nonsense(&numbered).contains("no device"));
        let mut link = record(FileKind::Symlink);
        assert!(nonsense(&link).contains("without a target"));
        link.target = Some(b"a\0b".as_slice().into());
        assert!(nonsense(&link).contains("can be none"));
        for (name, value, says) in [
            (&b"system.posix_acl_access"[..], &b"\x01"[..], "setfacl -b"),
            (b"system.posix_acl_default", b"", "no directory"),
            (b"humfs", b"", "no name space"),
            (b"user.x", &[0; 70_000], "longer"),
        ] {
            let mut with = record(FileKind::Regular);
            with.xattrs.set(name, value);
            assert!(nonsense(&with).contains(says), "{}", nonsense(&with));
        }
        let mut acl = record(FileKind::Regular);
        let entry = |tag: u16, perm: u16| [tag.to_le_bytes(), perm.to_le_bytes(), [255; 2], [255; 2]].concat();
        acl.xattrs.set(acl::ACCESS, &[vec![2, 0, 0, 0], entry(1, 7), entry(4, 4), entry(32, 4)].concat());
        assert!(nonsense(&acl).contains("mode 0744"), "{}", nonsense(&acl));
    }
}
