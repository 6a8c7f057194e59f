//! [`Opcode`]: what a request asks for, and [`Counts`] of how often.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! opcodes {
    ($($name:ident $number:literal $limit:expr;)*) => {
        /// The kernel's number for each operation (`enum fuse_opcode`).
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        #[allow(missing_docs)]
        #[repr(u32)]
        pub enum Opcode { $($name = $number,)* }

        impl Opcode {
            /// All of them, by number.
            pub const ALL: &'static [Opcode] = &[$(Opcode::$name,)*];

            /// The operation with this number, if this crate knows it.
            #[must_use]
            pub fn from_raw(number: u32) -> Option<Opcode> {
                match number { $($number => Some(Opcode::$name),)* _ => None }
            }

            /// Most bytes that its arguments may have, extensions and the data
            /// of a WRITE or BATCH_FORGET not counted.
            pub(crate) fn args_limit(self) -> usize {
                match self { $(Opcode::$name => $limit,)* }
            }
        }
    };
}

/// `PATH_MAX`: since Linux 6.14 a component may come in this long, so that it
/// is the server that says ENAMETOOLONG.
const PATH: usize = 4096;
/// `XATTR_NAME_MAX` with its NUL.
const XATTR_NAME: usize = 256;
/// `XATTR_SIZE_MAX`.
pub(crate) const XATTR_VALUE: usize = 65536;
/// Nothing that is understood here takes more (`struct fsxattr` has 28).
const IOCTL_DATA: usize = 4096;

opcodes! {
    Lookup 1 PATH;
    Forget 2 8;
    GetAttr 3 16;
    SetAttr 4 88;
    ReadLink 5 0;
    Symlink 6 2 * PATH;
    MkNod 8 16 + PATH;
    MkDir 9 8 + PATH;
    Unlink 10 PATH;
    RmDir 11 PATH;
    Rename 12 8 + 2 * PATH;
    Link 13 8 + PATH;
    Open 14 8;
    Read 15 40;
    Write 16 super::abi::size::WRITE;
    StatFs 17 0;
    Release 18 24;
    FSync 20 16;
    SetXattr 21 16 + XATTR_NAME + XATTR_VALUE;
    GetXattr 22 8 + XATTR_NAME;
    ListXattr 23 8;
    RemoveXattr 24 XATTR_NAME;
    Flush 25 24;
    Init 26 PATH;
    OpenDir 27 8;
    ReadDir 28 40;
    ReleaseDir 29 24;
    FSyncDir 30 16;
    GetLk 31 48;
    SetLk 32 48;
    SetLkW 33 48;
    Access 34 8;
    Create 35 16 + PATH;
    Interrupt 36 8;
    BMap 37 16;
    Destroy 38 0;
    Ioctl 39 32 + IOCTL_DATA;
    Poll 40 24;
    NotifyReply 41 0;
    BatchForget 42 super::abi::size::BATCH_FORGET;
    FAllocate 43 32;
    ReadDirPlus 44 40;
    Rename2 45 16 + 2 * PATH;
    LSeek 46 24;
    CopyFileRange 47 56;
    SetupMapping 48 40;
    RemoveMapping 49 PATH;
    SyncFs 50 8;
    TmpFile 51 16 + PATH;
    StatX 52 24;
    CopyFileRange64 53 56;
}

impl Opcode {
    /// The protocol has no answer to it.
    #[must_use]
    pub fn is_silent(self) -> bool {
        matches!(self, Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt | Opcode::NotifyReply)
    }

    /// Its arguments are fixed fields alone, so more of them is a mistake.
    pub(crate) fn too_long(self) -> externfs::Errno {
        use externfs::Errno;
        match self {
            Opcode::SetXattr => Errno::E2BIG,
            Opcode::GetXattr | Opcode::RemoveXattr => Errno::ERANGE,
            _ if self.args_limit() >= PATH => Errno::ENAMETOOLONG,
            _ => Errno::EINVAL,
        }
    }
}

impl fmt::Display for Opcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Numbers up to this one have a counter; 0 counts what is unknown.
const SLOTS: usize = 64;

/// How many requests of each kind have arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts([u64; SLOTS]);

impl Counts {
    /// Requests of this kind.
    #[must_use]
    pub fn of(&self, opcode: Opcode) -> u64 {
        self.0.get(opcode as usize).copied().unwrap_or(0)
    }

    /// Requests of a kind that this crate does not know.
    #[must_use]
    pub fn unknown(&self) -> u64 {
        self.0.first().copied().unwrap_or(0)
    }

    /// All requests.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The kinds that have arrived at all.
    pub fn iter(&self) -> impl Iterator<Item = (Opcode, u64)> {
        Opcode::ALL.iter().map(|&opcode| (opcode, self.of(opcode))).filter(|(_, count)| *count > 0)
    }

    /// What has arrived since `earlier` was taken.
    #[must_use]
    pub fn since(&self, earlier: &Counts) -> Counts {
        let mut counts = self.clone();
        for (now, then) in counts.0.iter_mut().zip(earlier.0) {
            *now = now.saturating_sub(then);
        }
        counts
    }
}

/// Relaxed counters: they order nothing.
pub(crate) struct Counters([AtomicU64; SLOTS]);

impl Counters {
    pub(crate) fn new() -> Counters {
        Counters([const { AtomicU64::new(0) }; SLOTS])
    }

    pub(crate) fn add(&self, opcode: Option<Opcode>) {
        let slot = opcode.map_or(0, |opcode| opcode as usize);
        if let Some(counter) = self.0.get(slot) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn snapshot(&self) -> Counts {
        Counts(std::array::from_fn(|slot| self.0.get(slot).map_or(0, |counter| counter.load(Ordering::Relaxed))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_opcode_has_its_number_and_a_counter() {
        let counters = Counters::new();
        for &opcode in Opcode::ALL {
            assert_eq!(Opcode::from_raw(opcode as u32), Some(opcode));
            assert!((opcode as usize) < SLOTS);
            counters.add(Some(opcode));
        }
        counters.add(None);
        let counts = counters.snapshot();
        assert_eq!(counts.total(), Opcode::ALL.len() as u64 + 1);
        assert_eq!(counts.unknown(), 1);
        assert_eq!(counts.iter().count(), Opcode::ALL.len());
        counters.add(Some(Opcode::Read));
        assert_eq!(counters.snapshot().since(&counts).iter().collect::<Vec<_>>(), [(Opcode::Read, 1)]);
        for unknown in [0, 7, 19, 54, 4096, u32::MAX] {
            assert_eq!(Opcode::from_raw(unknown), None);
        }
    }
}
