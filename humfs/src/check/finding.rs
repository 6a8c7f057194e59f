//! [`Finding`]: one thing that is not as it should be, where, and what can be
//! done about it.

use crate::account::Usage;
use crate::options::Adopt;
use externfs::FileKind;
use std::fmt;

/// What is wrong. The names of [`Problem::name`] are for programs, and stay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Problem {
    /// An object without a record.
    OrphanData {
        /// What becomes of it.
        policy: Adopt,
    },
    /// A record without an object.
    OrphanMetadata,
    /// The record is one of another type than the object.
    WrongType(Box<str>),
    /// The record cannot be read.
    UnreadableRecord(Box<str>),
    /// A power failure has swallowed the record.
    UnwrittenRecord,
    /// The record can be read and says what cannot be.
    InvalidRecord(Box<str>),
    /// A directory, or a name in one, that cannot be looked at.
    UnreadableDirectory(Box<str>),
    /// Two names of one object have a record each, and what is changed by one
    /// name is not by the other.
    SplitHardLink {
        /// The other name, as in [`Finding::path`].
        other: Box<[u8]>,
    },
    /// An object has a name that is not below data/.
    NameElsewhere {
        /// Names that the host counts.
        links: u32,
        /// Names below data/.
        found: u32,
    },
    /// It carries a record of the `xattr` format, and the tree has another.
    StrayRecord,
    /// The number of a file is now another file's.
    InodeReuse(Box<str>),
    /// A name that no guest can use.
    InvalidName,
    /// Something that the format keeps is not as it says.
    FormatFlaw(Box<str>),
    /// Users of the host other than the owner can reach or change what they
    /// could forge records with.
    OpenToOthers {
        /// The host's permission bits.
        mode: u16,
    },
    /// Another user of the host owns it.
    ForeignOwner {
        /// That user.
        uid: u32,
        /// Whose tree it is.
        owner: u32,
    },
    /// The host's permission bits give more than the ceiling allows.
    HostModeTooWide {
        /// These bits.
        mode: u16,
    },
    /// The host's permission bits keep the server out.
    HostModeTooNarrow {
        /// These bits.
        mode: u16,
    },
    /// Another file system is mounted there.
    OtherFileSystem,
    /// A counter is not what was counted.
    WrongCounters {
        /// What it says.
        said: Usage,
        /// What there is.
        counted: Usage,
    },
    /// The sum in the superblock is not that of `humfs/state`.
    WrongUsed {
        /// In the superblock, in bytes.
        superblock: u64,
        /// In `humfs/state`, in bytes.
        state: u64,
    },
    /// What a change left that was cut short.
    CutChange(&'static str),
    /// The tree is not complete; what completes it.
    Unfinished(&'static str),
    /// A line of `humfs/settings` that means nothing.
    InvalidSetting(Box<str>),
    /// What was cut short can be neither completed nor taken back.
    RecoveryFailed(Box<str>),
}

impl Problem {
    /// For programs: these names do not change.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Problem::OrphanData { .. } => "orphan-data",
            Problem::OrphanMetadata => "orphan-metadata",
            Problem::WrongType(_) => "wrong-type",
            Problem::UnreadableRecord(_) => "unreadable-record",
            Problem::UnwrittenRecord => "unwritten-record",
            Problem::InvalidRecord(_) => "invalid-record",
            Problem::UnreadableDirectory(_) => "unreadable-directory",
            Problem::SplitHardLink { .. } => "split-hard-link",
            Problem::NameElsewhere { .. } => "name-elsewhere",
            Problem::StrayRecord => "stray-record",
            Problem::InodeReuse(_) => "inode-reuse",
            Problem::InvalidName => "invalid-name",
            Problem::FormatFlaw(_) => "format-flaw",
            Problem::OpenToOthers { .. } => "open-to-others",
            Problem::ForeignOwner { .. } => "foreign-owner",
            Problem::HostModeTooWide { .. } => "host-mode-too-wide",
            Problem::HostModeTooNarrow { .. } => "host-mode-too-narrow",
            Problem::OtherFileSystem => "other-file-system",
            Problem::WrongCounters { .. } => "wrong-counters",
            Problem::WrongUsed { .. } => "wrong-used",
            Problem::CutChange(_) => "cut-change",
            Problem::Unfinished(_) => "unfinished",
            Problem::InvalidSetting(_) => "invalid-setting",
            Problem::RecoveryFailed(_) => "recovery-failed",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::OrphanData { policy: Adopt::Root } => f.write_str("it has no record: adopt=root makes it root's"),
            Problem::OrphanData { policy: Adopt::OwnerMap } => f.write_str("it has no record: adopt=owner-map makes it its host owner's"),
            Problem::OrphanData { policy: Adopt::Refuse } => f.write_str("it has no record: adopt=refuse keeps everybody away from it"),
            Problem::UnwrittenRecord => {
                f.write_str("its record had not reached the disk when the host went down: it is root's, and closed to others")
            }
            Problem::OrphanMetadata => f.write_str("there is a record and no object"),
            Problem::WrongType(why)
            | Problem::UnreadableRecord(why)
            | Problem::InvalidRecord(why)
            | Problem::UnreadableDirectory(why)
            | Problem::InodeReuse(why)
            | Problem::FormatFlaw(why)
            | Problem::InvalidSetting(why) => f.write_str(why),
            Problem::SplitHardLink { other } => write!(f, "it does not share the record of its other name {}", shown(other)),
            Problem::NameElsewhere { links, found } => {
                write!(f, "it has {links} names on the host and {found} below data/: who has another can change it behind the guest")
            }
            Problem::StrayRecord => {
                f.write_str("it carries a record of the xattr format, which is none of this tree's: of a conversion that was cut short")
            }
            Problem::InvalidName => f.write_str("no guest can use such a name"),
            Problem::OpenToOthers { mode } => write!(f, "other users of the host can come near (mode {mode:04o}) and could forge records"),
            Problem::ForeignOwner { uid, owner } => write!(f, "on the host it is user {uid}'s, and the tree is user {owner}'s"),
            Problem::HostModeTooWide { mode } => {
                write!(f, "its mode on the host is {mode:04o}: no setuid or setgid, and nothing for others to write, belongs there")
            }
            Problem::HostModeTooNarrow { mode } => write!(f, "its mode on the host is {mode:04o}: the server cannot open it"),
            Problem::OtherFileSystem => f.write_str("another file system is mounted here: numbers of files are not unique"),
            Problem::WrongCounters { said, counted } => write!(
                f,
                "it says {} objects and {} bytes, and there are {} objects and {} bytes",
                said.inodes, said.bytes, counted.inodes, counted.bytes
            ),
            Problem::WrongUsed { superblock, state } => write!(f, "it says that {superblock} bytes are used, and humfs/state says {state}"),
            Problem::CutChange(what) => f.write_str(what),
            Problem::Unfinished(remedy) => write!(f, "the tree is not complete: run {remedy} again"),
            Problem::RecoveryFailed(why) => write!(f, "what was cut short cannot be put in order: {why}"),
        }
    }
}

/// What a repair does about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mend {
    /// Write the record down that the policy gives.
    Adopt,
    /// Move the object to `/lost+found`, as 0:0 and 0600.
    Lose,
    /// Remove the record.
    Discard,
    /// Remove the attribute that would be a record in the `xattr` format.
    Strip,
    /// Set the host's permission bits.
    Chmod(u16),
    /// Count anew.
    Count,
    /// Do what the next writer would.
    Recover,
    /// Remove what means nothing.
    Sweep,
}

impl fmt::Display for Mend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mend::Adopt => f.write_str("write that record down"),
            Mend::Lose => f.write_str("move it to /lost+found, as 0:0 and closed to others"),
            Mend::Discard => f.write_str("remove the record"),
            Mend::Strip => f.write_str("remove the attribute user.humfs"),
            Mend::Chmod(mode) => write!(f, "set the host's mode to {mode:04o}"),
            Mend::Count => f.write_str("write down what was counted"),
            Mend::Recover => f.write_str("complete it or take it back, as the next mount does"),
            Mend::Sweep => f.write_str("remove it"),
        }
    }
}

/// What has become of a finding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was only looked at, or nothing safe can be done.
    Left,
    /// It is no more; what was done.
    Repaired(Box<str>),
    /// It could not be repaired; why.
    Failed(Box<str>),
}

/// See the head of this file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Where: below the guest's root, with a slash at the front; or a part of
    /// the tree, as in `humfs/state`, without. One of more than a few thousand
    /// bytes begins with `/.../` and lacks its beginning.
    pub path: Box<[u8]>,
    /// What is wrong.
    pub problem: Problem,
    /// What a repair does, if there is a safe one.
    pub mend: Option<Mend>,
    /// What was done.
    pub outcome: Outcome,
}

impl Finding {
    /// At a part of the tree.
    pub(crate) fn of_part(part: impl AsRef<[u8]>, problem: Problem, mend: Option<Mend>) -> Finding {
        Finding { path: part.as_ref().into(), problem, mend, outcome: Outcome::Left }
    }

    /// At an object; `path` is below the guest's root.
    pub(crate) fn of_object(path: &[u8], problem: Problem, mend: Option<Mend>) -> Finding {
        Finding { path: guest_path(path), problem, mend, outcome: Outcome::Left }
    }

    pub(crate) fn is_repaired(&self) -> bool {
        matches!(self.outcome, Outcome::Repaired(_))
    }
}

/// `path`, below the guest's root, with a slash at its front.
pub(crate) fn guest_path(path: &[u8]) -> Box<[u8]> {
    [b"/", path].concat().into()
}

/// For people: nothing in it can move a cursor or forge a line.
pub(crate) fn shown(path: &[u8]) -> String {
    let mut shown = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\'' | '"' => shown.push(character),
                other => shown.extend(other.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            shown.push_str(&format!("\\x{byte:02x}"));
        }
    }
    shown
}

/// What people call a type.
pub(crate) fn kind(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Regular => "regular file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symbolic link",
        FileKind::BlockDevice => "block device",
        FileKind::CharDevice => "character device",
        FileKind::Fifo => "FIFO",
        FileKind::Socket => "socket",
    }
}

impl fmt::Display for Finding {
    /// One line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", shown(&self.path), self.problem.name(), self.problem)?;
        match (&self.outcome, self.mend) {
            (Outcome::Repaired(how), _) => write!(f, "; repaired: {how}"),
            (Outcome::Failed(why), _) => write!(f, "; could not be repaired: {why}"),
            (Outcome::Left, Some(mend)) => write!(f, "; --repair would {mend}"),
            (Outcome::Left, None) => Ok(()),
        }
    }
}
