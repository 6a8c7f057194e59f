//! Locks on files.

/// The two families of advisory lock, which never see each other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LockFamily {
    /// flock(2): whole files, owned by the open file.
    Flock,
    /// fcntl(2): byte ranges, owned by a process or open file.
    Posix,
}

/// What a lock request wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockKind {
    /// Shared.
    Read,
    /// Exclusive.
    Write,
    /// None: release.
    Unlock,
}

/// An advisory lock, asked for or found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lock {
    /// Which family.
    pub family: LockFamily,
    /// What kind.
    pub kind: LockKind,
    /// The guest's name for who holds it.
    pub owner: u64,
    /// First byte.
    pub start: u64,
    /// Last byte, inclusive; `u64::MAX` or anything past `i64::MAX` is the end
    /// of the file, wherever that moves.
    pub end: u64,
    /// The holder's process id where known, else 0.
    pub pid: u32,
}
