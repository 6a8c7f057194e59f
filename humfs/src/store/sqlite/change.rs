//! [`Change`]: one change of the records, as it goes into the log and from
//! there into the database. Pure: no file is touched here.
//!
//! A change is a list of rows to write and to delete, with final values and no
//! increments: carrying it out twice, or again after later ones and then those
//! again, ends in the same state. If a step of the host's goes with it, it says
//! by what to tell whether that was done.
//!
//! ```text
//! doubt   u8: 0 none, 1 the object is gone if it was done, 2 it is there
//!         [path: bytes, host inode number: u64 (0: whatever is there)]
//! steps   u8 (see Step), then its fields
//! ```
//! Numbers are little-endian; bytes have their length (u32) before them.

use crate::record::Record;
use externfs::{Attr, Timestamp};

/// See the [module](self).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Change {
    pub(super) doubt: Option<Doubt>,
    pub(super) steps: Vec<Step>,
}

/// How to tell whether the host's step was done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Doubt {
    /// Below the root of the data tree.
    pub(super) path: Vec<u8>,
    /// What to look for there; 0 for something that had yet to be made.
    pub(super) hino: u64,
    /// Whether it is there if the step was done; else it is not there then.
    pub(super) appears: bool,
}

/// One row written or deleted. Numbers without a further word are the
/// database's own of inodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// 1: a name leads to an inode.
    Name { parent: i64, name: Vec<u8>, ino: i64 },
    /// 2: a name is gone.
    Unname { parent: i64, name: Vec<u8> },
    /// 3: an inode is as this row says.
    Put(Row),
    /// 4: an inode has so many names.
    Links { ino: i64, nlink: u32 },
    /// 5: an inode is gone with all that it had, at the latest when the disk has
    /// the removal; 8: so is all that is recorded below it, left over from names
    /// that somebody removed behind our back.
    Drop { ino: i64, below: bool },
    /// 6: an attribute has this value.
    Set { ino: i64, name: Vec<u8>, value: Vec<u8> },
    /// 7: an attribute is gone.
    Unset { ino: i64, name: Vec<u8> },
    /// 9: an inode that has a row, and names, has another owner or mode.
    Own(Owner),
}

/// What of a row of `inode` a guest can change of an object that is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Owner {
    pub(super) ino: i64,
    /// As in [`Row`].
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) has_xattrs: bool,
    /// When it was changed.
    pub(super) time: Timestamp,
}

/// A row of `inode`, and its object on the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Row {
    pub(super) ino: i64,
    /// 0 for an object that is being made: [`super::log::Outcome`] has it.
    pub(super) hino: u64,
    /// Type and permission bits, as `st_mode`.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) nlink: u32,
    /// Whether it has extended attributes.
    pub(super) has_xattrs: bool,
    pub(super) size: u64,
    pub(super) blocks: u64,
    pub(super) atime: Timestamp,
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
    pub(super) btime: Timestamp,
}

impl Row {
    /// Of an object that is being made.
    pub(super) fn new(ino: i64, record: &Record) -> Row {
        Row {
            ino,
            mode: record.kind.mode_bits() | record.mode.bits(),
            uid: record.uid.0,
            gid: record.gid.0,
            major: record.device.major,
            minor: record.device.minor,
            nlink: 1,
            has_xattrs: record.has_xattrs(),
            ..Row::default()
        }
    }

    /// With what the host says of the object.
    pub(super) fn of(self, host: &Attr) -> Row {
        let Attr { size, blocks, atime, mtime, ctime, .. } = *host;
        Row { hino: host.ino, size, blocks, atime, mtime, ctime, btime: host.btime.unwrap_or_default(), ..self }
    }

    /// With what is known of an object that has just been made.
    pub(super) fn born(self, hino: u64, time: Timestamp) -> Row {
        Row { hino, atime: time, mtime: time, ctime: time, btime: time, ..self }
    }
}

impl Change {
    /// Without a step of the host's.
    pub(super) fn of(steps: Vec<Step>) -> Change {
        Change { doubt: None, steps }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(192);
        match &self.doubt {
            None => out.push(0),
            Some(doubt) => {
                out.push(1 + u8::from(doubt.appears));
                put_bytes(&mut out, &doubt.path);
                out.extend(doubt.hino.to_le_bytes());
            }
        }
        for step in &self.steps {
            step.encode(&mut out);
        }
        out
    }

    /// None for what [`Change::encode`] does not write.
    pub(super) fn decode(bytes: &[u8]) -> Option<Change> {
        let mut rest = Fields(bytes);
        let doubt = match rest.number()? {
            0u8 => None,
            how @ (1 | 2) => Some(Doubt { path: rest.bytes()?, hino: rest.number()?, appears: how == 2 }),
            _ => return None,
        };
        let mut steps = Vec::new();
        while !rest.0.is_empty() {
            steps.push(Step::decode(&mut rest)?);
        }
        Some(Change { doubt, steps })
    }
}

impl Step {
    fn encode(&self, out: &mut Vec<u8>) {
        let head = |out: &mut Vec<u8>, tag: u8, ino: i64| {
            out.push(tag);
            out.extend(ino.to_le_bytes());
        };
        match self {
            Step::Name { parent, name, ino } => {
                head(out, 1, *parent);
                put_bytes(out, name);
                out.extend(ino.to_le_bytes());
            }
            Step::Unname { parent, name } => {
                head(out, 2, *parent);
                put_bytes(out, name);
            }
            Step::Put(row) => {
                head(out, 3, row.ino);
                row.encode(out);
            }
            Step::Links { ino, nlink } => {
                head(out, 4, *ino);
                out.extend(nlink.to_le_bytes());
            }
            Step::Drop { ino, below } => head(out, if *below { 8 } else { 5 }, *ino),
            Step::Set { ino, name, value } => {
                head(out, 6, *ino);
                put_bytes(out, name);
                put_bytes(out, value);
            }
            Step::Unset { ino, name } => {
                head(out, 7, *ino);
                put_bytes(out, name);
            }
            Step::Own(Owner { ino, mode, uid, gid, has_xattrs, time }) => {
                head(out, 9, *ino);
                for number in [*mode, *uid, *gid, u32::from(*has_xattrs)] {
                    out.extend(number.to_le_bytes());
                }
                put_time(out, *time);
            }
        }
    }

    fn decode(rest: &mut Fields<'_>) -> Option<Step> {
        let (tag, ino): (u8, i64) = (rest.number()?, rest.number()?);
        Some(match tag {
            1 => Step::Name { parent: ino, name: rest.bytes()?, ino: rest.number()? },
            2 => Step::Unname { parent: ino, name: rest.bytes()? },
            3 => Step::Put(Row::decode(ino, rest)?),
            4 => Step::Links { ino, nlink: rest.number()? },
            5 | 8 => Step::Drop { ino, below: tag == 8 },
            6 => Step::Set { ino, name: rest.bytes()?, value: rest.bytes()? },
            7 => Step::Unset { ino, name: rest.bytes()? },
            9 => Step::Own(Owner {
                ino,
                mode: rest.number()?,
                uid: rest.number()?,
                gid: rest.number()?,
                has_xattrs: rest.number::<u32, 4>()? != 0,
                time: rest.time()?,
            }),
            _ => return None,
        })
    }
}

impl Row {
    fn encode(&self, out: &mut Vec<u8>) {
        for number in [self.hino, self.size, self.blocks] {
            out.extend(number.to_le_bytes());
        }
        for number in [self.mode, self.uid, self.gid, self.major, self.minor, self.nlink, u32::from(self.has_xattrs)] {
            out.extend(number.to_le_bytes());
        }
        for time in [self.atime, self.mtime, self.ctime, self.btime] {
            put_time(out, time);
        }
    }

    fn decode(ino: i64, rest: &mut Fields<'_>) -> Option<Row> {
        Some(Row {
            ino,
            hino: rest.number()?,
            size: rest.number()?,
            blocks: rest.number()?,
            mode: rest.number()?,
            uid: rest.number()?,
            gid: rest.number()?,
            major: rest.number()?,
            minor: rest.number()?,
            nlink: rest.number()?,
            has_xattrs: rest.number::<u32, 4>()? != 0,
            atime: rest.time()?,
            mtime: rest.time()?,
            ctime: rest.time()?,
            btime: rest.time()?,
        })
    }
}

fn put_time(out: &mut Vec<u8>, time: Timestamp) {
    out.extend(time.seconds.to_le_bytes());
    out.extend(time.nanoseconds.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u32).to_le_bytes());
    out.extend(bytes);
}

/// What is left to decode.
struct Fields<'a>(&'a [u8]);

trait Number<const N: usize> {
    fn read(bytes: [u8; N]) -> Self;
}

macro_rules! numbers {
    ($($number:ty, $size:literal;)*) => {
        $(impl Number<$size> for $number {
            fn read(bytes: [u8; $size]) -> Self {
                <$number>::from_le_bytes(bytes)
            }
        })*
    };
}

numbers! { u8, 1; u32, 4; u64, 8; i64, 8; }

impl Fields<'_> {
    fn number<T: Number<N>, const N: usize>(&mut self) -> Option<T> {
        let (bytes, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(T::read(*bytes))
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let len: u32 = self.number()?;
        let (bytes, rest) = self.0.split_at_checked(len as usize)?;
        self.0 = rest;
        Some(bytes.to_vec())
    }

    fn time(&mut self) -> Option<Timestamp> {
        Some(Timestamp { seconds: self.number()?, nanoseconds: self.number()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row() -> impl Strategy<Value = Row> {
        let time = || (any::<i64>(), any::<u32>()).prop_map(|(seconds, nanoseconds)| Timestamp { seconds, nanoseconds });
        let numbers = (any::<i64>(), any::<u64>(), any::<[u32; 6]>(), any::<bool>(), any::<u64>(), any::<u64>());
        (numbers, [time(), time(), time(), time()]).prop_map(
            |((ino, hino, [mode, uid, gid, major, minor, nlink], has_xattrs, size, blocks), times)| {
                let [atime, mtime, ctime, btime] = times;
                Row { ino, hino, mode, uid, gid, major, minor, nlink, has_xattrs, size, blocks, atime, mtime, ctime, btime }
            },
        )
    }

    fn change() -> impl Strategy<Value = Change> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..300);
        let step = prop_oneof![
            (any::<i64>(), bytes(), any::<i64>()).prop_map(|(parent, name, ino)| Step::Name { parent, name, ino }),
            (any::<i64>(), bytes()).prop_map(|(parent, name)| Step::Unname { parent, name }),
            row().prop_map(Step::Put),
            (any::<i64>(), any::<u32>()).prop_map(|(ino, nlink)| Step::Links { ino, nlink }),
            (any::<i64>(), any::<bool>()).prop_map(|(ino, below)| Step::Drop { ino, below }),
            (any::<i64>(), bytes(), bytes()).prop_map(|(ino, name, value)| Step::Set { ino, name, value }),
            (any::<i64>(), bytes()).prop_map(|(ino, name)| Step::Unset { ino, name }),
            row().prop_map(|Row { ino, mode, uid, gid, has_xattrs, ctime: time, .. }| {
                Step::Own(Owner { ino, mode, uid, gid, has_xattrs, time })
            }),
        ];
        let doubt = (bytes(), any::<u64>(), any::<bool>()).prop_map(|(path, hino, appears)| Doubt { path, hino, appears });
        (prop::option::of(doubt), prop::collection::vec(step, 0..6)).prop_map(|(doubt, steps)| Change { doubt, steps })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(change in change()) {
            prop_assert_eq!(Change::decode(&change.encode()), Some(change));
        }

        #[test]
        fn what_is_cut_short_is_never_taken_for_more(change in change(), cut in any::<prop::sample::Index>()) {
            let bytes = change.encode();
            let short = &bytes[..cut.index(bytes.len())];
            if let Some(read) = Change::decode(short) {
                prop_assert!(read.steps.len() < change.steps.len());
            }
        }

        #[test]
        fn nonsense_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Change::decode(&bytes);
        }
    }
}
