//! The block of the `xattr` format: everything in one value of an extended
//! attribute, with a version at its head and a checksum at its end.
//!
//! ```text
//! offset  bytes  what (numbers little-endian)
//!      0      1  version: 1
//!      1      1  type: one of f d l b c p s, as in find(1)
//!      2      2  permission bits, 0 to 07777
//!      4      4  uid
//!      8      4  gid
//!     12      4  device major
//!     16      4  device minor
//!     20      2  length of the target; 65535: the file's contents are the target
//!     22      2  number of extended attributes
//!     24         the target, then for each attribute, ordered by name: length of
//!                the name (1), of the value (4), the name, the value
//!    end      4  CRC-32 (IEEE) of all before
//! ```

use super::{Record, Unreadable, Xattrs};
use externfs::{DeviceNumber, FileKind, GuestGid, GuestUid, Mode};

/// The version that is written.
pub const BLOCK_VERSION: u8 = 1;

/// In place of a target's length: it is what the file holds.
const IN_CONTENTS: u16 = u16::MAX;

const HEAD: usize = 24;

/// Where a symbolic link's target is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// In the block, or there is none.
    Block,
    /// In the file, since an attribute's value has no room for it.
    Contents,
}

fn letter(kind: FileKind) -> u8 {
    match kind {
        FileKind::Regular => b'f',
        FileKind::Directory => b'd',
        FileKind::Symlink => b'l',
        FileKind::BlockDevice => b'b',
        FileKind::CharDevice => b'c',
        FileKind::Fifo => b'p',
        FileKind::Socket => b's',
    }
}

fn kind(letter: u8) -> Option<FileKind> {
    Some(match letter {
        b'f' => FileKind::Regular,
        b'd' => FileKind::Directory,
        b'l' => FileKind::Symlink,
        b'b' => FileKind::BlockDevice,
        b'c' => FileKind::CharDevice,
        b'p' => FileKind::Fifo,
        b's' => FileKind::Socket,
        _ => return None,
    })
}

impl Record {
    /// The block.
    #[must_use]
    pub fn to_block(&self, target: Target) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + 4 + self.xattrs.bytes());
        bytes.extend([BLOCK_VERSION, letter(self.kind)]);
        bytes.extend((self.mode.bits() as u16).to_le_bytes());
        for number in [self.uid.0, self.gid.0, self.device.major, self.device.minor] {
            bytes.extend(number.to_le_bytes());
        }
        let inline = match target {
            Target::Block => self.target.as_deref().unwrap_or_default(),
            Target::Contents => &[],
        };
        let length = if target == Target::Contents { IN_CONTENTS } else { inline.len() as u16 };
        bytes.extend(length.to_le_bytes());
        bytes.extend((self.xattrs.len() as u16).to_le_bytes());
        bytes.extend(inline);
        for (name, value) in self.xattrs.iter() {
            bytes.push(name.len() as u8);
            bytes.extend((value.len() as u32).to_le_bytes());
            bytes.extend(name);
            bytes.extend(value);
        }
        let sum = crc32fast::hash(&bytes);
        bytes.extend(sum.to_le_bytes());
        bytes
    }

    /// Reads a block, and says where the target is.
    ///
    /// # Errors
    /// [`Unreadable`] for everything that [`Record::to_block`] does not write.
    pub fn from_block(bytes: &[u8]) -> Result<(Record, Target), Unreadable> {
        let (&version, _) = bytes.split_first().ok_or(Unreadable::Empty)?;
        if version != BLOCK_VERSION {
            return Err(Unreadable::Version(version));
        }
        let short = Unreadable::Malformed("cut short");
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or(short)?;
        if crc32fast::hash(body) != u32::from_le_bytes(*sum) {
            return Err(Unreadable::Checksum);
        }
        let mut reader = Reader(body);
        let [_, letter] = reader.take::<2>()?;
        let kind = kind(letter).ok_or(Unreadable::Malformed("the type is none of f, d, l, b, c, p, s"))?;
        let mode = u16::from_le_bytes(reader.take()?);
        if mode > 0o7777 {
            return Err(Unreadable::Malformed("the mode has more than twelve bits"));
        }
        let (uid, gid) = (reader.number()?, reader.number()?);
        let mut record = Record::new(kind, Mode::new(mode.into()), GuestUid(uid), GuestGid(gid));
        record.device = DeviceNumber { major: reader.number()?, minor: reader.number()? };
        let length = u16::from_le_bytes(reader.take()?);
        let count = u16::from_le_bytes(reader.take()?);
        let target = if length == IN_CONTENTS { Target::Contents } else { Target::Block };
        if target == Target::Block && length > 0 {
            record.target = Some(reader.bytes(length.into())?.into());
        }
        record.xattrs = reader.xattrs(count)?;
        if !reader.0.is_empty() {
            return Err(Unreadable::Malformed("something follows the last attribute"));
        }
        Ok((record, target))
    }
}

/// What is still to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Unreadable> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Unreadable::Malformed("cut short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Unreadable::Malformed("cut short"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn number(&mut self) -> Result<u32, Unreadable> {
        self.take().map(u32::from_le_bytes)
    }

    fn xattrs(&mut self, count: u16) -> Result<Xattrs, Unreadable> {
        let mut xattrs = Xattrs::default();
        for _ in 0..count {
            let [name_len] = self.take::<1>()?;
            let value_len = self.number()? as usize;
            let name = self.bytes(name_len.into())?;
            if name.is_empty() || name.contains(&0) {
                return Err(Unreadable::Malformed("an attribute's name is none"));
            }
            xattrs.set(name, self.bytes(value_len)?);
        }
        Ok(xattrs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Record {
        let mut record = Record::new(FileKind::CharDevice, Mode::new(0o4640), GuestUid(1000), GuestGid(u32::MAX - 1));
        record.device = DeviceNumber { major: 5, minor: 1 };
        record.xattrs = [("user.a", "x"), ("security.capability", "\0\u{1}")].into_iter().collect();
        record
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        let block = sample().to_block(Target::Block);
        assert_eq!(Record::from_block(&block), Ok((sample(), Target::Block)));
        for len in 0..block.len() {
            assert!(Record::from_block(&block[..len]).is_err(), "{len}");
        }
        for bit in 0..block.len() * 8 {
            let mut bad = block.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::from_block(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_long_target_is_left_to_the_file() {
        let mut link = Record::new(FileKind::Symlink, Mode::new(0o777), GuestUid(0), GuestGid(0));
        link.target = Some(b"over there".as_slice().into());
        assert_eq!(Record::from_block(&link.to_block(Target::Block)), Ok((link.clone(), Target::Block)));
        let (read, target) = Record::from_block(&link.to_block(Target::Contents)).unwrap();
        assert_eq!((read.target, target), (None, Target::Contents));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_are_a_panic(mut bytes: Vec<u8>, sum: bool) {
            if sum && !bytes.is_empty() {
                bytes[0] = BLOCK_VERSION;
                let sum = crc32fast::hash(&bytes);
                bytes.extend(sum.to_le_bytes());
            }
            let _ = Record::from_block(&bytes);
        }
    }
}
