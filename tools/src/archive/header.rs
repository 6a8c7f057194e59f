//! The 512 bytes at the head of a member.

use super::{BLOCK, broken};
use std::io;
use std::ops::Range;

/// A header's fields, as POSIX and GNU lay them out.
pub(super) const NAME: Range<usize> = 0..100;
pub(super) const MODE: Range<usize> = 100..108;
pub(super) const UID: Range<usize> = 108..116;
pub(super) const GID: Range<usize> = 116..124;
pub(super) const SIZE: Range<usize> = 124..136;
pub(super) const MTIME: Range<usize> = 136..148;
pub(super) const CHECKSUM: Range<usize> = 148..156;
pub(super) const TYPE: usize = 156;
pub(super) const LINK: Range<usize> = 157..257;
pub(super) const MAGIC: Range<usize> = 257..265;
pub(super) const MAJOR: Range<usize> = 329..337;
pub(super) const MINOR: Range<usize> = 337..345;
pub(super) const PREFIX: Range<usize> = 345..500;

/// POSIX's magic and version.
pub(super) const USTAR: &[u8] = b"ustar\x0000";

/// One block.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Header(pub(super) [u8; BLOCK]);

impl Header {
    /// All zero.
    pub(super) fn empty() -> Header {
        Header([0; BLOCK])
    }

    /// Whether it is the block that ends an archive.
    pub(super) fn is_end(&self) -> bool {
        self.0.iter().all(|&byte| byte == 0)
    }

    pub(super) fn bytes(&self, field: Range<usize>) -> &[u8] {
        self.0.get(field).unwrap_or_default()
    }

    /// A text field, which a NUL ends if it is shorter than the field.
    pub(super) fn text(&self, field: Range<usize>) -> &[u8] {
        let bytes = self.bytes(field);
        bytes.split(|&byte| byte == 0).next().unwrap_or_default()
    }

    /// The letter of the type.
    pub(super) fn letter(&self) -> u8 {
        self.0.get(TYPE).copied().unwrap_or_default()
    }

    /// The name; only POSIX's headers have a prefix, GNU keeps other things there.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = self.text(NAME);
        let prefix = if self.bytes(MAGIC).starts_with(b"ustar\0") { self.text(PREFIX) } else { b"" };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    /// A number that cannot be below zero.
    pub(super) fn unsigned(&self, field: Range<usize>, what: &str) -> io::Result<u64> {
        u64::try_from(self.signed(field, what)?).map_err(|_| broken(format!("a header's {what} is out of range")))
    }

    /// A number: octal digits, or base-256 with the top bit of the first byte set.
    pub(super) fn signed(&self, field: Range<usize>, what: &str) -> io::Result<i128> {
        number(self.bytes(field)).ok_or_else(|| broken(format!("a header's {what} is no number")))
    }

    /// Whether the sum is right. Old tars summed signed bytes.
    pub(super) fn is_sound(&self) -> bool {
        let Some(written) = number(self.bytes(CHECKSUM)) else { return false };
        let byte = |index: usize, byte: u8| if CHECKSUM.contains(&index) { b' ' } else { byte };
        let unsigned: i128 = self.0.iter().enumerate().map(|(index, &b)| i128::from(byte(index, b))).sum();
        let signed: i128 = self.0.iter().enumerate().map(|(index, &b)| i128::from(byte(index, b).cast_signed())).sum();
        written == unsigned || written == signed
    }

    /// Puts `bytes` at the start of `field`, cut to its length.
    pub(super) fn put(&mut self, field: Range<usize>, bytes: &[u8]) {
        for (to, from) in self.0[field].iter_mut().zip(bytes) {
            *to = *from;
        }
    }

    /// Puts a number in octal; false if the field is too short for it, and
    /// then holds 0.
    pub(super) fn put_number(&mut self, field: Range<usize>, number: u64) -> bool {
        let width = field.len() - 1;
        let digits = format!("{number:0width$o}");
        let fits = digits.len() <= width;
        let digits = if fits { digits } else { format!("{:0width$o}", 0) };
        self.put(field, digits.as_bytes());
        fits
    }

    /// Puts the sum in, the last thing that is done.
    pub(super) fn seal(&mut self) {
        self.put(CHECKSUM, b"        ");
        let sum: u32 = self.0.iter().map(|&byte| u32::from(byte)).sum();
        self.put(CHECKSUM, format!("{sum:06o}\0 ").as_bytes());
    }
}

/// A number as a header holds it. An empty field is 0.
pub(super) fn number(field: &[u8]) -> Option<i128> {
    let (&first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // Base 256, two's complement from the second bit on.
        let start = if first & 0x40 != 0 { -1i128 } else { 0 };
        let start = (start << 6) | i128::from(first & 0x3f);
        let mut value = start;
        for &byte in rest {
            value = value.checked_mul(256)? | i128::from(byte);
        }
        return Some(value);
    }
    let text = field.split(|&byte| byte == 0).next().unwrap_or_default().trim_ascii();
    let mut value = 0i128;
    for &digit in text {
        if !(b'0'..=b'7').contains(&digit) {
            return None;
        }
        value = value * 8 + i128::from(digit - b'0');
    }
    Some(value)
}
