//! [`MetaStore`]: where records live. Four formats, one semantics, one suite.
//!
//! # The contract
//! * **The data tree decides which names there are.** A record without an
//!   object in the data tree is garbage that nobody sees; an object without a
//!   record is a stranger's, for whom the tree has a policy. So whoever makes
//!   a name puts the record there *before* the object appears, over any stale
//!   one; whoever removes it removes the object first.
//! * **Each method is one change.** When it returns success the change
//!   survives the death of the process at any moment afterwards. A process
//!   that dies within it leaves the old state or the new one as the guest sees
//!   it after [`MetaStore::recover`], which the next writer calls first and
//!   which looks only at what was in flight.
//! * A failure leaves the old state.
//! * **Durability** (after a power failure) comes with [`MetaStore::sync`] and
//!   [`MetaStore::sync_record`], not before.
//! * The tree is hostile: a link in place of a metadata file is refused, never
//!   followed; a record that cannot be read is EIO with a reason.
//!
//! # What the caller guarantees
//! * No two calls that name the same directory run at once if one of them
//!   changes names in it; `load` and `save` of other names may run beside each
//!   other.
//! * No directory is moved while another call is under way.
//! * Calls for one object do not overlap.
//! * `At::parent` leads up to the root by [`hostfs::Inode::whereabouts`].

pub mod shadow;
pub mod sqlite;
pub mod xattr;

use crate::host::{self, Fault};
use crate::record::{Note, Record};
use externfs::{Attr, FileKind, Result};
use hostfs::Inode;
use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A name in a directory of the data tree.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    /// The directory, which knows the way up to the root.
    pub parent: &'a Arc<Inode>,
    /// A descriptor of it (`O_PATH`).
    pub dir: BorrowedFd<'a>,
    /// The component.
    pub name: &'a CStr,
}

/// Where an object can be found.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// The root of the data tree.
    Root,
    /// One of its names.
    Named(At<'a>),
    /// It has lost its last name, or never had one. Formats that keep records
    /// by name have nowhere to put its record; it goes with the object.
    Nameless,
}

/// What a call reaches an object by.
#[derive(Clone, Copy, Debug)]
pub enum Hold<'a> {
    /// It is open for I/O.
    Open(BorrowedFd<'a>),
    /// An `O_PATH` descriptor of it.
    Path(BorrowedFd<'a>),
    /// One of its names, which was looked at and stays meanwhile.
    Name(At<'a>),
}

impl<'a> Hold<'a> {
    /// By a descriptor, and whether that is open for I/O.
    #[must_use]
    pub fn by(fd: BorrowedFd<'a>, is_open: bool) -> Hold<'a> {
        if is_open { Hold::Open(fd) } else { Hold::Path(fd) }
    }

    /// Moves the ctime to now and changes nothing else.
    pub(crate) fn touch_ctime(&self) -> Fault<()> {
        match self {
            Hold::Open(fd) | Hold::Path(fd) => host::touch_ctime(*fd),
            Hold::Name(at) => hostfs::named::touch_ctime(at.dir, at.name),
        }
    }

    /// Gives it the name `to` as well.
    pub(crate) fn link(&self, to: &At<'_>) -> Fault<()> {
        match self {
            Hold::Open(fd) | Hold::Path(fd) => host::link_fd(*fd, to.dir, to.name),
            Hold::Name(at) => rustix::fs::linkat(at.dir, at.name, to.dir, to.name, rustix::fs::AtFlags::empty()),
        }
    }
}

/// An object of the data tree that is there.
#[derive(Clone, Copy, Debug)]
pub struct Object<'a> {
    /// How to get at it.
    pub hold: Hold<'a>,
    /// Where it is.
    pub place: Place<'a>,
    /// What the host says of it: number, links, kind in the data tree.
    pub host: &'a Attr,
    /// Its record as it was until now, if the caller remembers: it was loaded or
    /// made, and every change since has been saved. The note says whether the
    /// store has it.
    pub known: Option<&'a Record>,
}

/// What a store has to say of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Loaded {
    /// Its record.
    Record(Record),
    /// There is none.
    Absent,
}

/// The object behind a name that is removed, moved or replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Its number on the host.
    pub ino: u64,
    /// Its kind in the data tree.
    pub kind: FileKind,
    /// How many names it has on the host. Corresponds to `st_nlink`.
    pub nlink: u32,
}

/// How a rename goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Renaming {
    /// The two change places; else the old name goes.
    pub exchange: bool,
    /// EEXIST if the new name is taken.
    pub no_replace: bool,
    /// What is at the old name.
    pub moved: Facts,
    /// What is at the new name, if anything.
    pub replaced: Option<Facts>,
}

/// What recovery found and did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Recovered {
    /// Changes that were cut short and have been completed.
    pub completed: usize,
    /// Changes that were cut short and have been taken back.
    pub undone: usize,
}

/// The metadata formats, by the name that the superblock has for them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Format {
    /// Parallel trees of text files; the original's format.
    ShadowFs,
    /// Parallel trees of symbolic links whose targets are the records.
    ShadowLink,
    /// One SQLite database.
    Sqlite,
    /// One extended attribute of each object.
    Xattr,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 4] = [Format::ShadowFs, Format::ShadowLink, Format::Sqlite, Format::Xattr];

    /// As the superblock spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Format::ShadowFs => "shadow_fs",
            Format::ShadowLink => "shadow_link",
            Format::Sqlite => "sqlite",
            Format::Xattr => "xattr",
        }
    }

    /// The format called `name`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Whether a symbolic link is one in the data tree too. Attributes cannot
    /// be set on links, so the `xattr` format has a regular file instead.
    #[must_use]
    pub fn has_native_links(self) -> bool {
        self != Format::Xattr
    }
}

/// See the [module](self).
pub trait MetaStore: Send + Sync {
    /// Which one it is.
    fn format(&self) -> Format;

    /// The record of the object called `at`. `host` is what the host says of
    /// it right now.
    ///
    /// # Errors
    /// EIO for a record that cannot be read.
    fn load(&self, at: &At<'_>, host: &Attr) -> Result<Loaded>;

    /// The record of the root.
    ///
    /// # Errors
    /// As for `load`.
    fn load_root(&self, root: BorrowedFd<'_>, host: &Attr) -> Result<Loaded>;

    /// Replaces the record of `object`, or gives it its first. The ctime moves,
    /// as it does when an inode changes, even if the record is what it was. The
    /// note is what the record has from now on.
    ///
    /// # Errors
    /// ENOSPC when the format has no room for it.
    fn save(&self, object: &Object<'_>, record: &Record) -> Result<Note>;

    /// Whether the time of a change is kept with the record ([`Note::changed`]).
    /// Then `save` leaves the object on the host as it was, in all that the host
    /// says of it, unless its ctime is later than that time.
    fn keeps_times(&self) -> bool {
        false
    }

    /// As `save`, where there is a record that cannot be read: what it says
    /// does not count.
    ///
    /// # Errors
    /// As for `save`.
    fn reset(&self, object: &Object<'_>, record: &Record) -> Result<()> {
        self.save(object, record).map(drop)
    }

    /// Makes `at`, which must not exist, with `record`: an empty regular file
    /// for regular and special files, a directory, a link to `record.target`
    /// (or what stands for one). The record is there when the name appears.
    /// Returns the descriptor of what was made: open for reading and writing
    /// if the guest sees a regular file, else `O_PATH`.
    ///
    /// # Errors
    /// EEXIST.
    fn create(&self, at: &At<'_>, record: &Record) -> Result<(OwnedFd, Note)>;

    /// Makes a regular file without a name in the directory `dir`, open for
    /// reading and writing.
    ///
    /// # Errors
    /// EOPNOTSUPP where the host has no `O_TMPFILE`.
    fn create_unnamed(&self, dir: BorrowedFd<'_>, record: &Record) -> Result<OwnedFd>;

    /// Gives `object` the name `to`, which must not exist.
    ///
    /// # Errors
    /// EEXIST; EMLINK.
    fn link(&self, object: &Object<'_>, to: &At<'_>, record: &Record) -> Result<()>;

    /// Removes the name `at`, behind which is `victim`.
    ///
    /// # Errors
    /// ENOENT; ENOTEMPTY; EISDIR and ENOTDIR as unlinkat(2).
    fn remove(&self, at: &At<'_>, victim: Facts) -> Result<()>;

    /// Renames as renameat2(2).
    ///
    /// # Errors
    /// Those of renameat2(2).
    fn rename(&self, from: &At<'_>, to: &At<'_>, how: &Renaming) -> Result<()>;

    /// Makes the record of `object` durable; its data is durable already.
    ///
    /// # Errors
    /// EIO.
    fn sync_record(&self, object: &Object<'_>) -> Result<()>;

    /// Makes the records of what is in the directory `dir` durable, as far as a
    /// guest has no other means: regular files it can sync by themselves. False if
    /// that is too much: the caller syncs everything then. What is in `dir` stays
    /// meanwhile.
    ///
    /// # Errors
    /// EIO.
    fn sync_names(&self, _dir: &Arc<Inode>) -> Result<bool> {
        Ok(true)
    }

    /// Makes all records durable, short of syncfs(2), which the caller does.
    ///
    /// # Errors
    /// EIO.
    fn sync(&self) -> Result<()>;

    /// The writer leaves, and no other call follows: what is kept open is put
    /// away. A process that ends without it has died, as far as a successor
    /// can tell.
    ///
    /// # Errors
    /// EIO.
    fn close(&self) -> Result<()> {
        Ok(())
    }

    /// Completes or takes back what a writer that died left half done.
    ///
    /// # Errors
    /// What the host says; the tree cannot be mounted then.
    fn recover(&self, root: &Arc<Inode>) -> Result<Recovered>;

    /// The names under which records are kept in the directory that `at` is,
    /// whether or not there is an object: for finding those that are left over.
    /// Nothing for formats that keep records with their objects.
    ///
    /// # Errors
    /// What the host says; EIO, after all names, for what is no name's and
    /// should not be there.
    fn recorded_names(&self, dir: &Arc<Inode>, emit: &mut dyn FnMut(&CStr)) -> Result<()>;

    /// Takes away a record that has no object (see `recorded_names`).
    ///
    /// # Errors
    /// What the host says.
    fn discard(&self, at: &At<'_>) -> Result<()>;

    /// What a writer that died has left for the next one, without which
    /// records cannot be trusted. Nothing is changed.
    ///
    /// # Errors
    /// What the host says.
    fn pending(&self) -> Result<Option<&'static str>> {
        Ok(None)
    }

    /// Many records are about to be read; what is read from now on may be as of
    /// this moment. For stores that nothing is changed through.
    ///
    /// # Errors
    /// What the host says.
    fn read_ahead(&self) -> Result<()> {
        Ok(())
    }

    /// Tells records apart: two names of one object with the same number share
    /// one record. 0 where all names of an object do.
    ///
    /// # Errors
    /// What the host says.
    fn identity(&self, _at: &At<'_>) -> Result<u64> {
        Ok(0)
    }

    /// Whether the record of the object called `at` (None: of the root) stands
    /// for one that a power failure has swallowed.
    ///
    /// # Errors
    /// As for `load`.
    fn is_unwritten(&self, _at: Option<&At<'_>>, _host: &Attr) -> Result<bool> {
        Ok(false)
    }

    /// Why the record of `at` is that of an object which was replaced behind
    /// our back, where a format can tell.
    ///
    /// # Errors
    /// As for `load`.
    fn stranger(&self, _at: &At<'_>, _host: &Attr) -> Result<Option<String>> {
        Ok(None)
    }

    /// What is wrong with the store as a whole and shows at no single object,
    /// a line each, and whether [`MetaStore::tidy`] mends it.
    ///
    /// # Errors
    /// What the host says.
    fn verify(&self, _emit: &mut dyn FnMut(String, bool)) -> Result<()> {
        Ok(())
    }

    /// Takes away what nothing leads to.
    ///
    /// # Errors
    /// What the host says.
    fn tidy(&self) -> Result<()> {
        Ok(())
    }

    /// Where the record of the object called `at` is (None: of the root, whose
    /// descriptor is `root`) and what it looks like there, in a line for people.
    fn describe(&self, _root: BorrowedFd<'_>, _at: Option<&At<'_>>) -> String {
        format!("kept by the format {}", self.format().name())
    }
}
