//! [`Reader`]: an archive, member by member.

use super::acl;
use super::header::{GID, Header, LINK, MAJOR, MINOR, MODE, MTIME, SIZE, UID};
use super::pax::{self, Records, XATTR_PREFIX};
use super::sparse::{self, Map};
use super::{BLOCK, Member, TYPE_KEYWORD, What, broken};
use crate::shown;
use externfs::{DeviceNumber, FileKind, Timestamp};
use std::collections::VecDeque;
use std::io::{self, Read};

/// All extended headers and long names of one member, and all global ones;
/// attributes are at most 64 KiB each.
const EXTRA_MAX: u64 = 16 << 20;

/// Reads an archive. After [`Reader::next_member`] its contents come from
/// [`Reader::data`]; what is not asked for is passed over.
pub struct Reader<R> {
    source: R,
    /// Bytes of the current member that the archive still holds.
    stored: u64,
    /// Bytes after those, to the next block.
    padding: u64,
    /// Where the stored bytes belong in the file.
    extents: VecDeque<(u64, u64)>,
    globals: Records,
    global_bytes: u64,
    /// The current member, for messages.
    path: Vec<u8>,
    begun: bool,
    ended: bool,
}

/// A size that a file can have.
fn in_range(size: u64) -> io::Result<u64> {
    if i64::try_from(size).is_ok() { Ok(size) } else { Err(broken("a header's size is out of range")) }
}

/// What precedes a member and belongs to it.
#[derive(Default)]
struct Before {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    records: Option<Records>,
    /// What all of that took in the archive.
    bytes: u64,
}

impl<R: Read> Reader<R> {
    /// Over the bytes of `source`, which are not compressed any more.
    pub fn new(source: R) -> Reader<R> {
        Reader {
            source,
            stored: 0,
            padding: 0,
            extents: VecDeque::new(),
            globals: Records::default(),
            global_bytes: 0,
            path: Vec::new(),
            begun: false,
            ended: false,
        }
    }

    /// The next member; None at the end.
    ///
    /// # Errors
    /// Those of the source; `InvalidData` with what is wrong with the archive.
    pub fn next_member(&mut self) -> io::Result<Option<Member>> {
        if self.ended {
            return Ok(None);
        }
        let rest = self.stored + self.padding;
        self.skip(rest)?;
        let mut before = Before::default();
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            let size = in_range(header.unsigned(SIZE, "size")?)?;
            let extra = match header.letter() {
                b'L' | b'K' | b'x' | b'X' => Some(&mut before.bytes),
                b'g' => Some(&mut self.global_bytes),
                _ => None,
            };
            if let Some(extra) = extra {
                *extra = extra.saturating_add(size);
                if *extra > EXTRA_MAX {
                    return Err(broken("extended headers are too long"));
                }
            }
            match header.letter() {
                b'L' => before.path = Some(self.extra_text(size)?),
                b'K' => before.link = Some(self.extra_text(size)?),
                b'x' | b'X' => {
                    let bytes = self.extra(size)?;
                    let records = before.records.get_or_insert_with(|| self.globals.clone());
                    records.read(&bytes)?;
                }
                b'g' => {
                    let bytes = self.extra(size)?;
                    self.globals.read(&bytes)?;
                }
                // A volume's label, Solaris' ACLs, dumps of old directories.
                b'V' | b'A' | b'N' => self.skip(size.next_multiple_of(BLOCK as u64))?,
                _ => return self.member(&header, before).map(Some),
            }
        }
    }

    /// The next piece of the member's contents: where it belongs and how long
    /// it is; None at the end. What is in no piece is a hole.
    ///
    /// # Errors
    /// As for [`Reader::next_member`].
    pub fn data(&mut self, buffer: &mut [u8]) -> io::Result<Option<(u64, usize)>> {
        while let Some((offset, length)) = self.extents.front_mut() {
            if *length == 0 {
                self.extents.pop_front();
                continue;
            }
            let wanted = usize::try_from(*length).unwrap_or(usize::MAX).min(buffer.len());
            let piece = buffer.get_mut(..wanted).unwrap_or_default();
            let at = *offset;
            *offset += wanted as u64;
            *length -= wanted as u64;
            self.stored -= wanted as u64;
            self.source.read_exact(piece).map_err(|error| self.cut_short(error))?;
            return Ok(Some((at, wanted)));
        }
        Ok(None)
    }

    /// The next header; None at the end of the archive, after which the source
    /// is read to its end: whoever writes into a pipe wants to finish.
    fn header(&mut self) -> io::Result<Option<Header>> {
        let mut header = Header::empty();
        if !self.block(&mut header)? {
            // A pipe whose writer died looks like this.
            return Err(broken(if self.begun { "the archive has no end: it was cut short" } else { "it is empty, and no tar archive" }));
        }
        if header.is_end() {
            self.ended = true;
            io::copy(&mut self.source, &mut io::sink())?;
            return Ok(None);
        }
        if !header.is_sound() {
            let after =
                if self.begun { format!("after '{}' comes no header", shown::text(&self.path)) } else { "it is no tar archive".into() };
            return Err(broken(after));
        }
        self.begun = true;
        Ok(Some(header))
    }

    /// Reads a block; false if there is not a byte more.
    fn block(&mut self, header: &mut Header) -> io::Result<bool> {
        let mut filled = 0;
        while let Some(rest @ [_, ..]) = header.0.get_mut(filled..) {
            match self.source.read(rest) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(self.cut_short(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn member(&mut self, header: &Header, before: Before) -> io::Result<Member> {
        let mut records = before.records.unwrap_or_else(|| self.globals.clone());
        let path = records.take(b"GNU.sparse.name").or_else(|| records.take(b"path")).or(before.path).unwrap_or_else(|| header.path());
        self.path.clone_from(&path);
        let link = records.take(b"linkpath").or(before.link).unwrap_or_else(|| header.text(LINK).to_vec());
        let what = what(header, &records, &path, link)?;
        let mut size = in_range(records.number(b"size")?.map_or_else(|| header.unsigned(SIZE, "size"), Ok)?)?;
        // POSIX lets the others have one, and then no contents follow; but in
        // GNU's incremental dumps a directory is followed by its names.
        if what != What::Regular && header.letter() != b'D' {
            size = 0;
        }
        self.stored = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        let size = self.lay_out(header, &records, &what)?;
        let id = |key: &[u8], field, name| -> io::Result<u32> {
            let id = records.number(key)?.map_or_else(|| header.unsigned(field, name), Ok)?;
            u32::try_from(id).map_err(|_| broken(format!("'{}' has a {name} that is out of range", shown::text(&self.path))))
        };
        Ok(Member {
            mode: (header.unsigned(MODE, "mode")? & 0o7777) as u32,
            uid: id(b"uid", UID, "uid")?,
            gid: id(b"gid", GID, "gid")?,
            mtime: match records.time(b"mtime")? {
                Some(mtime) => mtime,
                None => Timestamp { seconds: i64::try_from(header.signed(MTIME, "time")?).unwrap_or_default(), nanoseconds: 0 },
            },
            atime: records.time(b"atime")?,
            xattrs: self.xattrs(&records),
            size,
            what,
            path,
        })
    }

    /// Attributes, ordered by name; ACLs are among them.
    fn xattrs(&self, records: &Records) -> Vec<(Vec<u8>, Vec<u8>)> {
        let all = records.with_prefix(XATTR_PREFIX).map(|(name, value)| (pax::unescape(name), value.to_vec()));
        let mut all: Vec<_> = all.filter(|(name, _)| !name.is_empty()).collect();
        for (key, name) in
            [(&b"SCHILY.acl.access"[..], &b"system.posix_acl_access"[..]), (b"SCHILY.acl.default", b"system.posix_acl_default")]
        {
            let Some(text) = records.get(key).filter(|_| all.iter().all(|(known, _)| known != name)) else { continue };
            match acl::to_xattr(text) {
                Some(value) => all.push((name.to_vec(), value)),
                None => tracing::warn!(
                    "'{}': its ACL is left out, since it names owners by names: tar has --numeric-owner",
                    shown::text(&self.path)
                ),
            }
        }
        all.sort_unstable();
        all
    }

    /// Finds out where the contents belong. Returns the size of the file.
    fn lay_out(&mut self, header: &Header, records: &Records, what: &What) -> io::Result<u64> {
        let whole = self.stored;
        if *what != What::Regular {
            self.extents.clear();
            return Ok(0);
        }
        let (map, size): (Map, u64) = if header.letter() == b'S' {
            sparse::gnu(header, &mut self.source).map_err(|error| self.cut_short(error))?
        } else if records.get(b"GNU.sparse.major").is_some_and(|major| major == b"1") {
            let size = records.number(b"GNU.sparse.realsize")?.ok_or_else(|| broken("a sparse file has no size"))?;
            let (map, taken) = sparse::from_contents(&mut self.source, whole).map_err(|error| self.cut_short(error))?;
            self.stored = self.stored.checked_sub(taken).ok_or_else(|| broken("the map of a sparse file is malformed"))?;
            (map, size)
        } else if let Some(map) = sparse::from_records(records)? {
            let size = records.number(b"GNU.sparse.size")?.ok_or_else(|| broken("a sparse file has no size"))?;
            (map, size)
        } else {
            (vec![(0, whole)], whole)
        };
        sparse::check(&map, size, self.stored)?;
        self.extents = map.into();
        Ok(size)
    }

    fn extra(&mut self, size: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; size as usize];
        self.source.read_exact(&mut bytes).map_err(|error| self.cut_short(error))?;
        self.skip(size.next_multiple_of(BLOCK as u64) - size)?;
        Ok(bytes)
    }

    /// GNU's long names end with a NUL.
    fn extra_text(&mut self, size: u64) -> io::Result<Vec<u8>> {
        let mut text = self.extra(size)?;
        if let Some(end) = text.iter().position(|&byte| byte == 0) {
            text.truncate(end);
        }
        Ok(text)
    }

    fn skip(&mut self, count: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.source.by_ref().take(count), &mut io::sink())?;
        (self.stored, self.padding) = (0, 0);
        if skipped < count { Err(self.cut_short(io::ErrorKind::UnexpectedEof.into())) } else { Ok(()) }
    }

    fn cut_short(&self, error: io::Error) -> io::Error {
        if error.kind() != io::ErrorKind::UnexpectedEof {
            return error;
        }
        if !self.begun {
            return broken("it is no tar archive");
        }
        broken(format!("the archive was cut short in or after '{}'", shown::text(&self.path)))
    }
}

fn what(header: &Header, records: &Records, path: &[u8], link: Vec<u8>) -> io::Result<What> {
    let device = |kind| -> io::Result<What> {
        let number = |key: &[u8], field, name| -> io::Result<u32> {
            let number = records.number(key)?.map_or_else(|| header.unsigned(field, name), Ok)?;
            u32::try_from(number).map_err(|_| broken(format!("'{}' has a device number that is out of range", shown::text(path))))
        };
        let (major, minor) = (number(b"SCHILY.devmajor", MAJOR, "device number")?, number(b"SCHILY.devminor", MINOR, "device number")?);
        Ok(What::Device(kind, DeviceNumber { major, minor }))
    };
    Ok(match header.letter() {
        // Before POSIX, a slash made a directory.
        0 | b'0' | b'7' if path.ends_with(b"/") => What::Directory,
        0 | b'0' | b'7' if records.get(TYPE_KEYWORD) == Some(b"socket") => What::Socket,
        0 | b'0' | b'7' | b'S' => What::Regular,
        b'1' => What::HardLink(link),
        b'2' => What::Symlink(link),
        b'3' => device(FileKind::CharDevice)?,
        b'4' => device(FileKind::BlockDevice)?,
        b'5' | b'D' => What::Directory,
        b'6' => What::Fifo,
        b'M' => return Err(broken("it is a volume of a larger archive: put the volumes together first")),
        other => {
            return Err(broken(format!("'{}' is of a type that is not known: '{}'", shown::text(path), other.escape_ascii())));
        }
    })
}
