//! [`Cell`]: the extended attributes of one object, for which the classic line
//! has no room.
//!
//! A change may concern the line and the attributes at once: an ACL sets mode
//! bits, a change of the owner takes capabilities away. The line is the point
//! of no return. The cell is written first and says for which line it holds;
//! while it is new it has what held for the line before as well:
//!
//! * the line is the one before: the change was cut short, and the attributes
//!   are those before;
//! * anything else, an administrator's edit too: those that were written last.
//!
//! A cell is replaced as a whole: it is the target, in hexadecimal, of a
//! symbolic link. Where hosts have no room for that, and where an object's
//! names must share it, it is a file:
//! ```text
//! offset  bytes  what (numbers little-endian)
//!      0      8  "humfs-xa"
//!      8      8  offset of the cell in this file, at least 512
//!     16      8  length of the cell
//!     24      4  CRC-32 (IEEE) of the 24 bytes before
//! ```
//! In a file that names share, the new cell goes beside the old one, and then
//! the head is rewritten, which is less than a sector. Each step is durable
//! before the next, so one of the two is whole at any moment. The first link(2)
//! makes an empty file, which is no cell yet: later there would be nobody who
//! knows all names that are to share it. Nor is there one while the head is
//! all zeroes.
//!
//! The cell: for what holds now, then for what held before if need be: the
//! length of a block (4), the block (see the record's).

use super::stage::Stage;
use crate::host::{self, Fault, damaged, fault};
use crate::path;
use crate::record::{Record, Target, Unreadable, Xattrs};
use externfs::Result;
use rustix::fs::OFlags;
use rustix::io::Errno as Host;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The longest target of a link: xfs takes 1023 bytes, others up to 4095.
const TEXT_MAX: usize = 1000;

/// No cell is longer: two blocks, each of which is bounded by what a guest's
/// kernel lists of one object (`XATTR_LIST_MAX` names, values of 64 KiB).
const CELL_MAX: u64 = 64 << 20;

const MAGIC: &[u8; 8] = b"humfs-xa";

/// A sector: the head has one to itself.
const HEAD: u64 = 512;

/// Bytes of the head.
const HEAD_LEN: usize = 28;

/// See the [module](self).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Cell {
    /// Written last, with the line for which it holds.
    now: Record,
    /// What held for another line, if that may still be there.
    before: Option<Record>,
}

/// Whether two records have the same line.
fn same_line(one: &Record, other: &Record) -> bool {
    let line = |record: &Record| (record.kind, record.mode, record.uid, record.gid, record.device);
    line(one) == line(other)
}

impl Cell {
    /// For `now`; `before` is what was there until now, which matters if its
    /// line is another one.
    pub(super) fn new(now: &Record, before: Option<&Record>) -> Cell {
        let bare = |record: &Record| Record { target: None, ..record.clone() };
        Cell { now: bare(now), before: before.filter(|before| !same_line(before, now)).map(bare) }
    }

    /// The attributes of an object whose line is that of `record`.
    pub(super) fn for_line(&self, record: &Record) -> &Xattrs {
        match &self.before {
            Some(before) if same_line(before, record) => &before.xattrs,
            _ => &self.now.xattrs,
        }
    }

    /// Whether it says the same whatever the line becomes.
    pub(super) fn is_settled(&self) -> bool {
        self.before.is_none()
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for record in std::iter::once(&self.now).chain(&self.before) {
            let block = record.to_block(Target::Block);
            bytes.extend((block.len() as u32).to_le_bytes());
            bytes.extend(block);
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> std::result::Result<Cell, Unreadable> {
        let (now, rest) = one_block(bytes)?;
        let before = if rest.is_empty() { None } else { Some(one_block(rest)?) };
        match before {
            None => Ok(Cell { now, before: None }),
            Some((before, [])) => Ok(Cell { now, before: Some(before) }),
            Some(_) => Err(Unreadable::Malformed("something follows the second block")),
        }
    }
}

/// The first block of `bytes`, and what follows it.
fn one_block(bytes: &[u8]) -> std::result::Result<(Record, &[u8]), Unreadable> {
    let short = Unreadable::Malformed("cut short");
    let (len, rest) = bytes.split_first_chunk::<4>().ok_or(short)?;
    let (block, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or(short)?;
    let (record, _) = Record::from_block(block)?;
    Ok((record, rest))
}

/// The cell called `name` in `dir`; None if there is none.
///
/// # Errors
/// EIO for what is no cell.
pub(super) fn read(dir: BorrowedFd<'_>, name: &CStr) -> Result<Option<Cell>> {
    let why = |why: Unreadable| damaged(format!("the attributes of '{}': {why}", path::shown(name)));
    let bytes = match rustix::fs::readlinkat(dir, name, Vec::with_capacity(TEXT_MAX + 1)) {
        Ok(text) => from_hex(text.as_bytes()).ok_or(Unreadable::Malformed("not hexadecimal")),
        Err(Host::NOENT) => return Ok(None),
        Err(Host::INVAL) => {
            let Some(file) = open(dir, name, OFlags::RDONLY)? else { return Ok(None) };
            match read_file(&file)? {
                Ok(None) => return Ok(None),
                Ok(Some((_, bytes))) => Ok(bytes),
                Err(why) => Err(why),
            }
        }
        Err(other) => return Err(fault("reading attributes")(other)),
    };
    bytes.and_then(|bytes| Cell::decode(&bytes)).map(Some).map_err(why)
}

/// Puts `cell` at `name` in `dir`, over what is there; false if that is a
/// directory. `shared`: other names may share it.
pub(super) fn write(stage: &Stage, dir: BorrowedFd<'_>, name: &CStr, cell: &Cell, shared: bool) -> Result<bool> {
    let bytes = cell.encode();
    if shared && let Some(file) = open_shared(dir, name)? {
        let Ok(there) = read_file(&file)? else {
            return Err(damaged(format!("the attributes of '{}' cannot be replaced, they are damaged", path::shown(name))));
        };
        let place = there.map_or((HEAD, 0), |(place, _)| place);
        return write_beside(&file, place, &bytes).map(|()| true).map_err(fault("rewriting attributes"));
    }
    let text = to_hex(&bytes);
    let put = if shared || text.len() > TEXT_MAX {
        stage.put_durable_file(&with_head(&bytes), dir, name)
    } else {
        stage.put_link(&text, dir, name)
    };
    match put {
        Err(Host::ISDIR) => Ok(false),
        answer => answer.map(|()| true).map_err(fault("writing attributes")),
    }
}

/// Makes sure that names can share the cell `name`: what there is, or will be.
pub(super) fn make_shareable(stage: &Stage, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    match rustix::fs::readlinkat(dir, name, Vec::with_capacity(TEXT_MAX + 1)) {
        Ok(text) => {
            let bytes =
                from_hex(text.as_bytes()).ok_or_else(|| damaged(format!("the attributes of '{}': not hexadecimal", path::shown(name))))?;
            stage.put_durable_file(&with_head(&bytes), dir, name).map_err(fault("writing attributes"))
        }
        Err(Host::INVAL) => Ok(()),
        Err(Host::NOENT) => {
            host::open_file(dir, name, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY).map(drop).map_err(fault("making attributes"))
        }
        Err(other) => Err(fault("reading attributes")(other)),
    }
}

/// Whether there is anything called `name` in `dir`.
pub(super) fn exist(dir: BorrowedFd<'_>, name: &CStr) -> Result<bool> {
    match host::stat_at(dir, name) {
        Ok(_) => Ok(true),
        Err(Host::NOENT) => Ok(false),
        Err(other) => Err(fault("looking for attributes")(other)),
    }
}

/// The regular file `name`; None if there is nothing, or a directory.
fn open(dir: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<Option<OwnedFd>> {
    let failed = fault("opening attributes");
    let file = match host::open_file(dir, name, flags) {
        Ok(file) => file,
        Err(Host::NOENT | Host::ISDIR) => return Ok(None),
        Err(other) => return Err(failed(other)),
    };
    match rustix::fs::fstat(&file).map_err(failed)?.st_mode & libc::S_IFMT {
        libc::S_IFREG => Ok(Some(file)),
        libc::S_IFDIR => Ok(None),
        _ => Err(damaged(format!("the attributes of '{}' are no regular file", path::shown(name)))),
    }
}

/// The file that names share already; None for a link, which they cannot.
fn open_shared(dir: BorrowedFd<'_>, name: &CStr) -> Result<Option<OwnedFd>> {
    match rustix::fs::readlinkat(dir, name, Vec::new()) {
        Err(Host::INVAL) => open(dir, name, OFlags::RDWR),
        Ok(_) | Err(Host::NOENT) => Ok(None),
        Err(other) => Err(fault("reading attributes")(other)),
    }
}

/// Offset and length in a file.
type Span = (u64, u64);

/// What a file holds, if that is a cell.
type Read<T> = std::result::Result<T, Unreadable>;

/// A cell, and where in its file it is.
type Found = (Span, Vec<u8>);

/// The cell in a file; None if there was none yet.
fn read_file(file: &OwnedFd) -> Result<Read<Option<Found>>> {
    let failed = fault("reading attributes");
    let size = rustix::fs::fstat(file).map_err(&failed)?.st_size;
    let size = u64::try_from(size).unwrap_or_default().min(2 * CELL_MAX);
    let bytes = host::read_fd(file.as_fd(), size as usize).map_err(&failed)?;
    // Nothing, or a first cell whose head was not written any more.
    if bytes.iter().take(HEAD_LEN).all(|byte| *byte == 0) {
        return Ok(Ok(None));
    }
    Ok(find_cell(&bytes).map(|(span, cell)| Some((span, cell.to_vec()))))
}

fn find_cell(bytes: &[u8]) -> Read<(Span, &[u8])> {
    let short = Unreadable::Malformed("cut short");
    let (head, _) = bytes.split_first_chunk::<HEAD_LEN>().ok_or(short)?;
    let (head, sum) = head.split_at(HEAD_LEN - 4);
    if crc32fast::hash(head).to_le_bytes() != *sum {
        return Err(Unreadable::Checksum);
    }
    let (magic, span) = head.split_at(8);
    if magic != MAGIC {
        return Err(Unreadable::Malformed("no file of attributes"));
    }
    let number = |bytes: &[u8]| bytes.first_chunk::<8>().copied().map(u64::from_le_bytes).ok_or(short);
    let (offset, len) = (number(span)?, number(span.get(8..).unwrap_or_default())?);
    let end = offset.checked_add(len).ok_or(short)?;
    let cell = usize::try_from(offset).ok().zip(usize::try_from(end).ok()).and_then(|(from, to)| bytes.get(from..to));
    Ok(((offset, len), cell.ok_or(short)?))
}

fn head((offset, len): Span) -> Vec<u8> {
    let mut head = MAGIC.to_vec();
    head.extend(offset.to_le_bytes());
    head.extend(len.to_le_bytes());
    let sum = crc32fast::hash(&head);
    head.extend(sum.to_le_bytes());
    head
}

/// A file with one cell.
fn with_head(cell: &[u8]) -> Vec<u8> {
    let mut bytes = head((HEAD, cell.len() as u64));
    bytes.resize(HEAD as usize, 0);
    bytes.extend(cell);
    bytes
}

/// Replaces the cell that lies at `old`.
fn write_beside(file: &OwnedFd, old: Span, cell: &[u8]) -> Fault<()> {
    let len = cell.len() as u64;
    let behind = (old.0 + old.1).next_multiple_of(HEAD);
    let offset = if HEAD + len <= old.0 { HEAD } else { behind };
    let mut done = 0;
    while let Some(rest) = cell.get(done..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pwrite(file, rest, offset + done as u64) {
            Ok(0) => return Err(Host::IO),
            Ok(count) => done += count,
            Err(Host::INTR) => {}
            Err(other) => return Err(other),
        }
    }
    rustix::fs::fdatasync(file)?;
    host::write_all(file.as_fd(), &head((offset, len)))?;
    // Else the next one might go over the old cell while the head on the disk
    // still leads there.
    rustix::fs::fdatasync(file)
}

fn to_hex(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| DIGITS.get(usize::from(value)).copied().unwrap_or(b'0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.chunks_exact(2).map(|pair| Some((digit(*pair.first()?)? << 4) | digit(*pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use externfs::{FileKind, GuestGid, GuestUid, Mode};

    fn record(mode: u32, value: &str) -> Record {
        let mut record = Record::new(FileKind::Regular, Mode::new(mode), GuestUid(7), GuestGid(8));
        if !value.is_empty() {
            record.xattrs.set(b"user.a", value.as_bytes());
        }
        record
    }

    struct Place {
        dir: tempfile::TempDir,
        fd: OwnedFd,
        stage: Stage,
    }

    fn place() -> Place {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("stage")).unwrap();
        let stage = Stage::new(std::fs::File::open(dir.path().join("stage")).unwrap().into());
        let fd = std::fs::File::open(dir.path()).unwrap().into();
        Place { dir, fd, stage }
    }

    #[test]
    fn the_line_decides_which_half_holds() {
        let (before, now) = (record(0o644, "old"), record(0o600, "new"));
        let cell = Cell::new(&now, Some(&before));
        assert_eq!(cell.for_line(&before), &before.xattrs);
        assert_eq!(cell.for_line(&now), &now.xattrs);
        assert_eq!(cell.for_line(&record(0o640, "")), &now.xattrs, "an administrator's edit");
        let same_line = Cell::new(&record(0o644, "new"), Some(&before));
        assert!(same_line.is_settled());
        assert_eq!(same_line.for_line(&before).get(b"user.a"), Some(&b"new"[..]));
        assert_eq!(Cell::decode(&cell.encode()), Ok(cell));
    }

    #[test]
    fn small_cells_are_links_and_others_files() {
        let p = place();
        for (value, is_link) in [("x".to_owned(), true), ("y".repeat(65536), false), ("z".repeat(100), true)] {
            let cell = Cell::new(&record(0o644, &value), None);
            assert!(write(&p.stage, p.fd.as_fd(), c"n", &cell, false).unwrap());
            assert_eq!(read(p.fd.as_fd(), c"n").unwrap(), Some(cell));
            assert_eq!(p.dir.path().join("n").is_symlink(), is_link);
        }
        assert_eq!(read(p.fd.as_fd(), c"none").unwrap(), None);
    }

    #[test]
    fn shared_cells_are_rewritten_in_place_and_stay_small() {
        let p = place();
        let cell = |value: &str| Cell::new(&record(0o644, value), None);
        assert!(write(&p.stage, p.fd.as_fd(), c"one", &cell("first"), false).unwrap());
        make_shareable(&p.stage, p.fd.as_fd(), c"one").unwrap();
        assert_eq!(read(p.fd.as_fd(), c"one").unwrap(), Some(cell("first")));
        std::fs::hard_link(p.dir.path().join("one"), p.dir.path().join("two")).unwrap();
        for round in 0..50usize {
            let cell = cell(&"v".repeat(1 + round * 613 % 3000));
            assert!(write(&p.stage, p.fd.as_fd(), c"one", &cell, true).unwrap());
            assert_eq!(read(p.fd.as_fd(), c"two").unwrap(), Some(cell));
        }
        assert!(std::fs::metadata(p.dir.path().join("two")).unwrap().len() < 16 << 10);
    }

    #[test]
    fn names_that_share_nothing_yet_share_what_comes() {
        let p = place();
        make_shareable(&p.stage, p.fd.as_fd(), c"one").unwrap();
        assert_eq!(read(p.fd.as_fd(), c"one").unwrap(), None);
        std::fs::hard_link(p.dir.path().join("one"), p.dir.path().join("two")).unwrap();
        for value in ["short", "s", &"long".repeat(500)] {
            let cell = Cell::new(&record(0o644, value), None);
            assert!(write(&p.stage, p.fd.as_fd(), c"one", &cell, true).unwrap());
            assert_eq!(read(p.fd.as_fd(), c"two").unwrap(), Some(cell));
        }
    }

    /// Every prefix of the steps of a rewrite leaves the old cell or the new.
    #[test]
    fn a_rewrite_that_is_cut_short_leaves_the_old_one() {
        let (old, new) = (record(0o644, "old").to_block(Target::Block), record(0o644, "newer").to_block(Target::Block));
        let before = with_head(&old);
        let file = tempfile::tempfile().unwrap();
        rustix::io::pwrite(&file, &before, 0).unwrap();
        let fd: OwnedFd = file.into();
        write_beside(&fd, (HEAD, old.len() as u64), &new).unwrap();
        let after = host::read_fd(fd.as_fd(), 1 << 16).unwrap();
        assert_eq!(find_cell(&after).unwrap().1, new);
        for cut in before.len()..=after.len() {
            let mut torn = after[..cut].to_vec();
            torn[..HEAD as usize].copy_from_slice(&before[..HEAD as usize]);
            assert_eq!(find_cell(&torn).unwrap().1, old, "{cut}");
        }
    }

    #[test]
    fn damage_is_noticed() {
        let p = place();
        std::os::unix::fs::symlink("xyz", p.dir.path().join("n")).unwrap();
        assert!(read(p.fd.as_fd(), c"n").is_err());
        std::fs::write(p.dir.path().join("m"), "h").unwrap();
        assert!(read(p.fd.as_fd(), c"m").is_err());
        let whole = with_head(&Cell::new(&record(0o644, "v"), None).encode());
        for bit in (0..28 * 8).chain(HEAD as usize * 8..whole.len() * 8) {
            let mut bad = whole.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let read = find_cell(&bad).and_then(|(_, cell)| Cell::decode(cell));
            assert!(read.is_err(), "bit {bit}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_are_a_panic(bytes: Vec<u8>, offset: u64, len: u64) {
            let _ = Cell::decode(&bytes);
            let mut file = head((offset, len));
            file.extend(&bytes);
            let _ = find_cell(&file);
            let _ = from_hex(&bytes);
        }
    }
}
