//! POSIX ACLs (acl(5)) in the form that they have as extended attributes.
//!
//! The guest's kernel checks permissions with them; what falls to the file
//! system is to keep them in step with the mode: chmod changes the ACL, setting
//! the ACL changes the mode, and a new object takes its directory's default.

use externfs::Errno;

/// The ACL that counts when the object is accessed.
pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The ACL that a directory gives to what is made in it.
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";

/// `POSIX_ACL_XATTR_VERSION` of linux/posix_acl_xattr.h.
const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// One entry: tag, permissions, id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    tag: u16,
    perm: u16,
    id: u32,
}

/// A well-formed ACL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Acl(Vec<Entry>);

impl Acl {
    /// Reads one.
    ///
    /// # Errors
    /// EINVAL for what is none; EOPNOTSUPP for another version.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Acl, Errno> {
        let (version, rest) = bytes.split_first_chunk::<4>().ok_or(Errno::EINVAL)?;
        if u32::from_le_bytes(*version) != VERSION {
            return Err(Errno::EOPNOTSUPP);
        }
        if !rest.len().is_multiple_of(8) {
            return Err(Errno::EINVAL);
        }
        let entries = rest.chunks_exact(8).map(|e| Entry {
            tag: u16::from_le_bytes([e[0], e[1]]),
            perm: u16::from_le_bytes([e[2], e[3]]),
            id: u32::from_le_bytes([e[4], e[5], e[6], e[7]]),
        });
        let acl = Acl(entries.collect());
        if acl.is_valid() { Ok(acl) } else { Err(Errno::EINVAL) }
    }

    /// One owner, one group, one for others; a mask if anybody is named.
    fn is_valid(&self) -> bool {
        let count = |tag: u16| self.0.iter().filter(|entry| entry.tag == tag).count();
        let known = self.0.iter().all(|e| matches!(e.tag, USER_OBJ | USER | GROUP_OBJ | GROUP | MASK | OTHER) && e.perm <= 7);
        let named = count(USER) + count(GROUP) > 0;
        known && count(USER_OBJ) == 1 && count(GROUP_OBJ) == 1 && count(OTHER) == 1 && count(MASK) <= 1 && (!named || count(MASK) == 1)
    }

    /// As an attribute's value.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for entry in &self.0 {
            bytes.extend(entry.tag.to_le_bytes());
            bytes.extend(entry.perm.to_le_bytes());
            bytes.extend(entry.id.to_le_bytes());
        }
        bytes
    }

    /// The entry that the middle bits of a mode stand for.
    fn group_class(&self) -> u16 {
        if self.0.iter().any(|entry| entry.tag == MASK) { MASK } else { GROUP_OBJ }
    }

    /// The nine permission bits that it amounts to.
    pub(crate) fn mode(&self) -> u32 {
        let group = self.group_class();
        let perm = |tag: u16| self.0.iter().find(|entry| entry.tag == tag).map_or(0, |entry| u32::from(entry.perm));
        perm(USER_OBJ) << 6 | perm(group) << 3 | perm(OTHER)
    }

    /// Whether the mode alone says as much.
    pub(crate) fn is_minimal(&self) -> bool {
        self.0.len() == 3
    }

    fn change(&mut self, change: impl Fn(u16, u16) -> u16, mode: u32) {
        let group = self.group_class();
        for entry in &mut self.0 {
            let bits = match entry.tag {
                USER_OBJ => mode >> 6,
                OTHER => mode,
                tag if tag == group => mode >> 3,
                _ => continue,
            };
            entry.perm = change(entry.perm, (bits & 7) as u16);
        }
    }

    /// After chmod(2) to `mode`.
    pub(crate) fn chmod(&mut self, mode: u32) {
        self.change(|_, bits| bits, mode);
    }

    /// The access ACL of an object that is made with `mode` in a directory
    /// whose default this is: no more than both allow.
    pub(crate) fn inherit(&self, mode: u32) -> Acl {
        let mut acl = self.clone();
        acl.change(|perm, bits| perm & bits, mode);
        acl
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        Acl(entries.iter().map(|&(tag, perm, id)| Entry { tag, perm, id }).collect())
    }

    #[test]
    fn what_is_no_acl_is_refused() {
        let good = acl(&[(USER_OBJ, 7, u32::MAX), (USER, 5, 1000), (GROUP_OBJ, 5, u32::MAX), (MASK, 7, u32::MAX), (OTHER, 0, u32::MAX)]);
        assert_eq!(Acl::parse(&good.to_bytes()), Ok(good.clone()));
        assert_eq!(Acl::parse(b""), Err(Errno::EINVAL));
        assert_eq!(Acl::parse(&[1, 0, 0, 0]), Err(Errno::EOPNOTSUPP));
        assert_eq!(Acl::parse(&good.to_bytes()[..20]), Err(Errno::EINVAL));
        let no_mask = acl(&[(USER_OBJ, 7, 0), (USER, 5, 1000), (GROUP_OBJ, 5, 0), (OTHER, 0, 0)]);
        assert_eq!(Acl::parse(&no_mask.to_bytes()), Err(Errno::EINVAL));
        let too_much = acl(&[(USER_OBJ, 8, 0), (GROUP_OBJ, 5, 0), (OTHER, 0, 0)]);
        assert_eq!(Acl::parse(&too_much.to_bytes()), Err(Errno::EINVAL));
    }

    #[test]
    fn mode_and_acl_keep_in_step() {
        let mut named = acl(&[(USER_OBJ, 7, 0), (USER, 7, 1000), (GROUP_OBJ, 5, 0), (MASK, 7, 0), (OTHER, 1, 0)]);
        assert_eq!(named.mode(), 0o771);
        assert!(!named.is_minimal());
        named.chmod(0o640);
        assert_eq!(named, acl(&[(USER_OBJ, 6, 0), (USER, 7, 1000), (GROUP_OBJ, 5, 0), (MASK, 4, 0), (OTHER, 0, 0)]));
        let default = acl(&[(USER_OBJ, 7, 0), (GROUP_OBJ, 5, 0), (OTHER, 5, 0)]);
        let got = default.inherit(0o666);
        assert_eq!((got.mode(), got.is_minimal()), (0o644, true));
    }
}
