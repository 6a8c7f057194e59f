//! [`Writer`]: PAX archives, of which there is one for a tree.

use super::header::{self, Header, LINK, MAGIC, MAJOR, MINOR, MODE, MTIME, NAME, SIZE, TYPE, UID, USTAR};
use super::pax::{self, XATTR_PREFIX, append, time_text};
use super::{BLOCK, Member, TYPE_KEYWORD, What, broken};
use externfs::FileKind;
use std::io::{self, Write};

/// Tar's record: archives are as long as a multiple of it, as they were on tape.
const RECORD: u64 = 20 * BLOCK as u64;

/// Writes an archive.
pub struct Writer<W> {
    target: W,
    written: u64,
    /// Contents that the current member still has to get.
    missing: u64,
    padding: u64,
}

impl<W: Write> Writer<W> {
    /// Into `target`.
    pub fn new(target: W) -> Writer<W> {
        Writer { target, written: 0, missing: 0, padding: 0 }
    }

    /// Writes the headers of `member`. As many bytes as it has must follow.
    ///
    /// # Errors
    /// Those of the target.
    pub fn begin(&mut self, member: &Member) -> io::Result<()> {
        let mut records = Vec::new();
        let mut header = header(member, &mut records);
        if !records.is_empty() {
            let mut extended = Header::empty();
            extended.put(NAME, b"././@PaxHeader");
            // The time would be the only thing that differs between two runs.
            for (field, number) in [(MODE, 0o644), (UID, 0), (header::GID, 0), (MTIME, 0), (MAJOR, 0), (MINOR, 0)] {
                extended.put_number(field, number);
            }
            extended.put_number(SIZE, records.len() as u64);
            extended.0[TYPE] = b'x';
            extended.put(MAGIC, USTAR);
            extended.seal();
            let padding = records.len().next_multiple_of(BLOCK) - records.len();
            records.extend([0; BLOCK].iter().take(padding));
            self.put(&extended.0)?;
            self.put(&records)?;
        }
        header.seal();
        self.put(&header.0)?;
        self.missing = if member.what == What::Regular { member.size } else { 0 };
        self.padding = self.missing.next_multiple_of(BLOCK as u64) - self.missing;
        Ok(())
    }

    /// Writes the next bytes of the member's contents.
    ///
    /// # Errors
    /// Those of the target; more than the member's size.
    pub fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.missing = self.missing.checked_sub(bytes.len() as u64).ok_or_else(|| broken("more contents than announced"))?;
        self.put(bytes)
    }

    /// Writes zeros up to `count` bytes long.
    ///
    /// # Errors
    /// As for [`Writer::data`].
    pub fn zeros(&mut self, count: u64) -> io::Result<()> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        let mut left = count;
        while left > 0 {
            let now = left.min(ZEROS.len() as u64);
            self.data(ZEROS.get(..now as usize).unwrap_or_default())?;
            left -= now;
        }
        Ok(())
    }

    /// Ends the member.
    ///
    /// # Errors
    /// Those of the target; less than the member's size.
    pub fn end(&mut self) -> io::Result<()> {
        if self.missing > 0 {
            return Err(broken("less contents than announced"));
        }
        let padding = std::mem::take(&mut self.padding) as usize;
        self.put([0; BLOCK].get(..padding).unwrap_or_default())
    }

    /// Ends the archive and gives the target back.
    ///
    /// # Errors
    /// Those of the target.
    pub fn finish(mut self) -> io::Result<W> {
        let end = (self.written + 2 * BLOCK as u64).next_multiple_of(RECORD);
        let zeros = vec![0; (end - self.written) as usize];
        self.put(&zeros)?;
        self.target.flush()?;
        Ok(self.target)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.target.write_all(bytes)
    }
}

/// The header of `member`; what has no room in it goes into `records`.
fn header(member: &Member, records: &mut Vec<u8>) -> Header {
    let mut header = Header::empty();
    let text = |header: &mut Header, field: std::ops::Range<usize>, key: &[u8], text: &[u8], records: &mut Vec<u8>| {
        if text.len() > field.len() {
            append(records, key, text);
        }
        header.put(field, text);
    };
    // Without it, names in extended headers are UTF-8.
    let link: &[u8] = match &member.what {
        What::Symlink(target) | What::HardLink(target) => target,
        _ => b"",
    };
    let is_binary = |text: &[u8], most: usize| text.len() > most && std::str::from_utf8(text).is_err();
    if is_binary(&member.path, NAME.len()) || is_binary(link, LINK.len()) {
        append(records, b"hdrcharset", b"BINARY");
    }
    text(&mut header, NAME, b"path", &member.path, records);
    text(&mut header, LINK, b"linkpath", link, records);
    let size = if member.what == What::Regular { member.size } else { 0 };
    let number = |header: &mut Header, field, key: &[u8], number: u64, records: &mut Vec<u8>| {
        if !header.put_number(field, number) {
            append(records, key, number.to_string().as_bytes());
        }
    };
    header.put_number(MODE, u64::from(member.mode & 0o7777));
    number(&mut header, UID, b"uid", u64::from(member.uid), records);
    number(&mut header, header::GID, b"gid", u64::from(member.gid), records);
    number(&mut header, SIZE, b"size", size, records);
    let seconds = u64::try_from(member.mtime.seconds);
    let fits = header.put_number(MTIME, seconds.unwrap_or(0)) && seconds.is_ok() && member.mtime.nanoseconds == 0;
    if !fits {
        append(records, b"mtime", time_text(member.mtime).as_bytes());
    }
    if let Some(atime) = member.atime {
        append(records, b"atime", time_text(atime).as_bytes());
    }
    let (mut major, mut minor) = (0, 0);
    header.0[TYPE] = match &member.what {
        What::Regular => b'0',
        What::HardLink(_) => b'1',
        What::Symlink(_) => b'2',
        What::Device(kind, device) => {
            (major, minor) = (device.major, device.minor);
            if *kind == FileKind::BlockDevice { b'4' } else { b'3' }
        }
        What::Directory => b'5',
        What::Fifo => b'6',
        What::Socket => {
            append(records, TYPE_KEYWORD, b"socket");
            b'0'
        }
    };
    number(&mut header, MAJOR, b"SCHILY.devmajor", u64::from(major), records);
    number(&mut header, MINOR, b"SCHILY.devminor", u64::from(minor), records);
    for (name, value) in &member.xattrs {
        append(records, &[XATTR_PREFIX, &pax::escape(name)].concat(), value);
    }
    header.put(MAGIC, USTAR);
    header
}
