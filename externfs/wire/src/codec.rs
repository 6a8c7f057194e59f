//! [`Fields`] and [`Payload`]: native-endian fields out of bytes and into them.
//! The protocol's structures are described field by field; nothing is
//! transmuted, and nothing panics on a short message.

use externfs::Errno;

/// Reads a message's fields front to back.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields { rest: bytes }
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        let (chunk, rest) = self.rest.split_first_chunk::<N>().ok_or(Errno::EINVAL)?;
        self.rest = rest;
        Ok(*chunk)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Errno> {
        self.chunk().map(u16::from_ne_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Errno> {
        self.chunk().map(u32::from_ne_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Errno> {
        self.chunk().map(u64::from_ne_bytes)
    }

    pub(crate) fn skip(&mut self, count: usize) -> Result<(), Errno> {
        self.bytes(count).map(drop)
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Errno> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(Errno::EINVAL)?;
        self.rest = rest;
        Ok(head)
    }

    /// The bytes up to the next NUL, which is skipped.
    pub(crate) fn text(&mut self) -> Result<&'a [u8], Errno> {
        let end = self.rest.iter().position(|&byte| byte == 0).ok_or(Errno::EINVAL)?;
        let text = self.bytes(end)?;
        self.skip(1)?;
        Ok(text)
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Nothing may follow: kernels send exactly the negotiated layout.
    pub(crate) fn end(self) -> Result<(), Errno> {
        if self.rest.is_empty() { Ok(()) } else { Err(Errno::EINVAL) }
    }
}

/// Bytes of the largest structure that is sent (`fuse_statx_out`).
const PAYLOAD_MAX: usize = 288;

/// Builds one fixed structure, in place: handing it from field to field would
/// copy all of it each time, which was a tenth of answering a GETATTR. The sizes
/// are ours alone, so running over is a mistake of this crate that the tests of
/// sizes find.
#[derive(Clone)]
pub(crate) struct Payload {
    bytes: [u8; PAYLOAD_MAX],
    len: usize,
}

impl Payload {
    pub(crate) fn new() -> Payload {
        Payload { bytes: [0; PAYLOAD_MAX], len: 0 }
    }

    /// What `fill` puts into it.
    pub(crate) fn of(fill: impl FnOnce(&mut Payload) -> &mut Payload) -> Payload {
        let mut payload = Payload::new();
        fill(&mut payload);
        payload
    }

    #[inline]
    pub(crate) fn put(&mut self, field: &[u8]) -> &mut Payload {
        let end = self.len + field.len();
        let slot = self.bytes.get_mut(self.len..end);
        debug_assert!(slot.is_some(), "structure larger than PAYLOAD_MAX");
        if let Some(slot) = slot {
            slot.copy_from_slice(field);
            self.len = end;
        }
        self
    }

    #[inline]
    pub(crate) fn u16(&mut self, value: u16) -> &mut Payload {
        self.put(&value.to_ne_bytes())
    }

    #[inline]
    pub(crate) fn u32(&mut self, value: u32) -> &mut Payload {
        self.put(&value.to_ne_bytes())
    }

    #[inline]
    pub(crate) fn i32(&mut self, value: i32) -> &mut Payload {
        self.put(&value.to_ne_bytes())
    }

    #[inline]
    pub(crate) fn u64(&mut self, value: u64) -> &mut Payload {
        self.put(&value.to_ne_bytes())
    }

    #[inline]
    pub(crate) fn i64(&mut self, value: i64) -> &mut Payload {
        self.put(&value.to_ne_bytes())
    }

    /// Zeroes up to `len` bytes in all.
    pub(crate) fn pad_to(&mut self, len: usize) -> &mut Payload {
        debug_assert!(len >= self.len && len <= PAYLOAD_MAX);
        self.len = self.len.max(len).min(PAYLOAD_MAX);
        self
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_read_back() {
        let mut payload = Payload::new();
        payload.u16(1).u16(2).u32(3).u64(4).i32(-5).put(b"abc\0").i64(-6).pad_to(40);
        let mut fields = Fields::new(payload.as_bytes());
        assert_eq!((fields.u16(), fields.u16(), fields.u32(), fields.u64()), (Ok(1), Ok(2), Ok(3), Ok(4)));
        assert_eq!(fields.u32(), Ok(-5i32 as u32));
        assert_eq!(fields.text(), Ok(&b"abc"[..]));
        assert_eq!(fields.u64(), Ok(-6i64 as u64));
        assert_eq!(fields.rest(), [0; 8]);
        assert_eq!(fields.end(), Err(Errno::EINVAL));
        assert!(fields.skip(9).is_err() && fields.skip(8).is_ok() && fields.end().is_ok());
        assert!(fields.u16().is_err() && fields.text().is_err());
    }
}
