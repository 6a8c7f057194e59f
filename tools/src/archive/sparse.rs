//! Maps of sparse files: which bytes of a file the archive holds, and where
//! in the file they belong.

use super::header::{Header, number};
use super::pax::{Records, decimal};
use super::{BLOCK, broken};
use std::io::{self, Read};

/// Extents as offset and length in bytes, in order, not overlapping.
pub(super) type Map = Vec<(u64, u64)>;

/// No honest map is longer: one extent a block of a file of 16 GiB.
const EXTENTS_MAX: usize = 4 << 20;

/// GNU's first format: four extents in the header, 21 in each block after it.
pub(super) fn gnu(header: &Header, source: &mut impl Read) -> io::Result<(Map, u64)> {
    let mut map = Map::new();
    let size = number(header.bytes(483..495)).and_then(|size| u64::try_from(size).ok()).ok_or_else(malformed)?;
    let mut more = gnu_extents(header.bytes(386..482), &mut map)? && header.bytes(482..483) == [1];
    while more {
        let mut block = Header::empty();
        source.read_exact(&mut block.0)?;
        more = gnu_extents(block.bytes(0..504), &mut map)? && block.bytes(504..505) == [1];
        check_count(&map)?;
    }
    Ok((map, size))
}

/// Adds the extents in `bytes`; false at one that is empty, the last.
fn gnu_extents(bytes: &[u8], map: &mut Map) -> io::Result<bool> {
    for extent in bytes.chunks_exact(24) {
        let (offset, length) = extent.split_at(12);
        if length.first() == Some(&0) {
            return Ok(false);
        }
        let number = |field| number(field).and_then(|value| u64::try_from(value).ok()).ok_or_else(malformed);
        map.push((number(offset)?, number(length)?));
    }
    Ok(true)
}

/// PAX 0.0 and 0.1: the map is in the extended header.
pub(super) fn from_records(records: &Records) -> io::Result<Option<Map>> {
    let Some(text) = records.get(b"GNU.sparse.map") else {
        return Ok((!records.sparse.is_empty()).then(|| records.sparse.clone()));
    };
    let numbers: Vec<u64> = text.split(|&byte| byte == b',').map(decimal).collect::<io::Result<_>>()?;
    let (pairs, rest) = numbers.as_chunks::<2>();
    if rest.is_empty() { Ok(Some(pairs.iter().map(|&[offset, length]| (offset, length)).collect())) } else { Err(malformed()) }
}

/// PAX 1.0: the map is at the head of the contents, as lines of decimal
/// numbers padded to a block. Returns also how many bytes it takes.
pub(super) fn from_contents(source: &mut impl Read, stored: u64) -> io::Result<(Map, u64)> {
    let mut lines = Lines { source, block: [0; BLOCK], at: BLOCK, taken: 0, stored };
    let count = lines.number()?;
    let mut map = Map::new();
    for _ in 0..count {
        map.push((lines.number()?, lines.number()?));
        check_count(&map)?;
    }
    Ok((map, lines.taken))
}

struct Lines<'r, R> {
    source: &'r mut R,
    block: [u8; BLOCK],
    at: usize,
    taken: u64,
    stored: u64,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> io::Result<u64> {
        let mut digits = Vec::new();
        loop {
            if self.at == BLOCK {
                if self.taken + BLOCK as u64 > self.stored.next_multiple_of(BLOCK as u64) {
                    return Err(malformed());
                }
                self.source.read_exact(&mut self.block)?;
                self.taken += BLOCK as u64;
                self.at = 0;
            }
            let byte = self.block.get(self.at).copied().unwrap_or_default();
            self.at += 1;
            match byte {
                b'\n' if !digits.is_empty() => return decimal(&digits),
                _ if digits.len() > 20 => return Err(malformed()),
                _ => digits.push(byte),
            }
        }
    }
}

/// Checks that `map` fits a file of `size` bytes of which `stored` are there.
pub(super) fn check(map: &[(u64, u64)], size: u64, stored: u64) -> io::Result<()> {
    let (mut end, mut sum) = (0u64, 0u64);
    for &(offset, length) in map {
        let stop = offset.checked_add(length).ok_or_else(malformed)?;
        if offset < end || stop > size {
            return Err(malformed());
        }
        end = stop;
        sum += length;
    }
    if sum == stored { Ok(()) } else { Err(malformed()) }
}

fn check_count(map: &Map) -> io::Result<()> {
    if map.len() > EXTENTS_MAX { Err(malformed()) } else { Ok(()) }
}

fn malformed() -> io::Error {
    broken("the map of a sparse file is malformed")
}
