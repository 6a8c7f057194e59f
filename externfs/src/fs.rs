//! [`ExternFs`], the trait that a plugin implements. This is the one file that
//! a plugin author must read.
//!
//! # The three things a plugin hands out
//! * [`ExternFs::Node`]: a place in its tree. The bridge gives it a number,
//!   keeps it while a guest's kernel remembers that number, and drops it when
//!   every guest has forgotten it.
//! * [`ExternFs::File`]: an open file. Dropped when the last descriptor in the
//!   guest is closed; I/O goes on working after the name is gone. (Of a kernel that
//!   does not tell what it opens, [`ExternFs::begin_unopened`]: sooner or later, and
//!   another may be opened meanwhile.)
//! * [`ExternFs::Dir`]: an open listing.
//!
//! # Rules
//! * Every method is called from many threads at once, with `&self`. No lock
//!   of the bridge is held during a call, except for `key`.
//! * Permission bits are checked by the guest's kernel before we are asked
//!   (`default_permissions`; virtio-fs forces it), or whoever asks is root
//!   ([`crate::Plugin::owner_is_root`]). A plugin enforces what the
//!   kernel cannot know: the jail, its own options, its store.
//! * An answer is an [`Errno`] that is *true*, never ENOSYS: that one is a word
//!   of the protocol, and makes kernels stop asking for good.
//! * Nothing a guest sends may panic.
//! * When a method returns success, the change has happened for every later
//!   call; durability comes with `fsync`, `fsync_dir` and `sync`.
//!
//! Eight methods are required. The others default to what is true of a
//! read-only tree: EROFS for changes, EINVAL for `read_link` of what is no
//! link, EOPNOTSUPP or ENODATA where a feature is missing.

use crate::data::{DataSink, DataSource};
use crate::error::{Errno, Result};
use crate::export::HostMount;
use crate::interrupt::Interrupt;
use crate::name::Name;
use crate::types::*;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// A name in a directory together with the node that it leads to, when the
/// bridge knows one. The pairing was true a moment ago; somebody outside may
/// have changed it since, so a plugin that relies on it checks.
#[derive(Debug)]
pub struct Child<'a, N> {
    /// The component.
    pub name: Name<'a>,
    /// The node behind it, if a guest remembers that one.
    pub node: Option<&'a N>,
}

/// What happens behind the frontends' back is told through this.
pub type ChangeSink = Arc<dyn Fn(Change<NodeKey>) + Send + Sync>;

/// A file system tree that can be given to guests. The rules are at the head of `fs.rs`.
#[allow(unused_variables)]
pub trait ExternFs: Send + Sync + 'static {
    /// A place in the tree.
    type Node: Send + Sync + 'static;
    /// An open file.
    type File: Send + Sync + 'static;
    /// An open listing.
    type Dir: Send + Sync + 'static;

    // ----- required ---------------------------------------------------------

    /// The exported directory.
    fn root(&self) -> Result<Self::Node>;

    /// The node's identity; the same for every lookup of the same object. A
    /// plain look into the node: it is asked for often, also under a lock.
    fn key(&self, node: &Self::Node) -> NodeKey;

    /// Attributes of `node`. `file` is an open file of that node, if the guest
    /// named one: it is the better source when the name is gone.
    fn attr(&self, node: &Self::Node, file: Option<&Self::File>) -> Result<Attr>;

    /// The child called `name`. `parent` is a directory. Symbolic links are
    /// found, not followed.
    ///
    /// # Errors
    /// ENOENT when there is none.
    fn lookup(&self, parent: &Self::Node, name: Name<'_>) -> Result<(Self::Node, Attr)>;

    /// Opens a listing of a directory.
    fn open_dir(&self, node: &Self::Node) -> Result<Self::Dir>;

    /// Calls `emit` for each name from `cookie` on (0 is the start, else the
    /// `next` of an earlier entry) until it returns false or the names end.
    /// A name that exists all the while is listed exactly once.
    fn read_dir(&self, dir: &Self::Dir, cookie: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()>;

    /// Opens a regular file. `truncate` has happened on return.
    fn open(&self, caller: &Caller, node: &Self::Node, flags: OpenFlags) -> Result<Opened<Self::File>>;

    /// Reads up to `size` bytes at `offset` into `sink` and returns how many;
    /// fewer only at the end of the file.
    fn read(&self, file: &Self::File, offset: u64, size: usize, sink: &mut dyn DataSink) -> Result<usize>;

    // ----- what the plugin is -----------------------------------------------

    /// Optional abilities, fixed for the plugin's life.
    fn features(&self) -> Features {
        Features::default()
    }

    /// Sizes it can take, fixed for the plugin's life.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// What a guest's kernel may remember, fixed for the plugin's life.
    fn cache_policy(&self) -> CachePolicy {
        CachePolicy::NONE
    }

    /// From now on tells `sink` of changes that did not come through the
    /// trait, as far as it can see them. Called at most once.
    fn watch(&self, sink: ChangeSink) -> Result<()> {
        Ok(())
    }

    /// The kernel is going to read and write without opening anything, if the plugin
    /// agrees ([`crate::Export::begin_unopened`]); there is no other one. Nobody tells
    /// then whether a file whose last name goes is open somewhere: from now on, each
    /// that the kernel remembers can be opened until it is forgotten, whatever becomes
    /// of its names meanwhile, and where it cannot be held, the removal is refused.
    /// That the kernel found a file's permission bits to allow something is enough
    /// for it to be opened.
    fn begin_unopened(&self) -> bool {
        false
    }

    /// What is served shows in `mount`; see [`crate::Connect::mounted`].
    fn mounted(&self, mount: Option<HostMount>) {}

    // ----- identity ---------------------------------------------------------

    /// The identity of a child, cheaper than a lookup where that is possible.
    fn child_key(&self, parent: &Self::Node, name: Name<'_>) -> Result<NodeKey> {
        self.lookup(parent, name).map(|(node, _)| self.key(&node))
    }

    /// A lookup arrived at `again`, which has the key of `known`: the bridge
    /// goes on with `known`. A plugin that finds nodes by name takes the new
    /// name over here.
    fn found_again(&self, known: &Self::Node, again: Self::Node) {}

    /// The directory that holds a directory; the root's is the root. Only file
    /// handles that outlive the guest's memory (NFS export) need it.
    fn parent(&self, node: &Self::Node) -> Result<Self::Node> {
        Err(Errno::ESTALE.into())
    }

    // ----- reading ----------------------------------------------------------

    /// The target of a symbolic link, as it is: the guest follows it, we never.
    fn read_link(&self, node: &Self::Node) -> Result<Vec<u8>> {
        Err(Errno::EINVAL.into())
    }

    /// What is free and what is used.
    fn statfs(&self, node: &Self::Node) -> Result<StatFs> {
        Ok(StatFs { block_size: 4096, name_max: self.limits().name_max as u32, ..StatFs::default() })
    }

    /// access(2), for frontends whose kernel does not check by itself.
    fn access(&self, caller: &Caller, node: &Self::Node, wanted: Access) -> Result<()> {
        if wanted.contains(Access::WRITE) { Err(Errno::EROFS.into()) } else { Ok(()) }
    }

    /// The next offset with data, or without.
    ///
    /// # Errors
    /// ENXIO at or past the end of the file.
    fn seek(&self, file: &Self::File, offset: u64, what: SeekFor) -> Result<u64> {
        Err(Errno::EOPNOTSUPP.into())
    }

    /// A host file whose bytes *are* this file's, for FUSE passthrough: the
    /// kernel then reads and writes it without asking. None where the plugin
    /// must see each read and write.
    fn backing<'f>(&self, file: &'f Self::File) -> Option<BorrowedFd<'f>> {
        None
    }

    // ----- names ------------------------------------------------------------

    /// mkdir, symlink, mknod: makes `name`, which must not exist, with `mode`
    /// less the caller's umask, owned by the caller; a setgid directory gives
    /// its group on.
    fn make(&self, caller: &Caller, parent: &Self::Node, name: Name<'_>, new: &NewNode<'_>, mode: Mode) -> Result<(Self::Node, Attr)> {
        Err(Errno::EROFS.into())
    }

    /// Makes the file `name` and opens it (`O_CREAT`). Of one that is there:
    /// EEXIST with `exclusive`, else ESTALE. A kernel that sends this believes
    /// that there is none, and opens without a look at who may (fs/fuse/dir.c,
    /// `fuse_atomic_open`); ESTALE makes it look, check, and open what there is. A
    /// plugin that checks by itself may open it.
    fn create(&self, caller: &Caller, parent: &Self::Node, name: Name<'_>, flags: CreateFlags) -> Result<Created<Self::Node, Self::File>> {
        Err(Errno::EROFS.into())
    }

    /// Makes a file without a name (`O_TMPFILE`); `exclusive` forbids giving
    /// it one later.
    fn create_unnamed(&self, caller: &Caller, parent: &Self::Node, flags: CreateFlags) -> Result<Created<Self::Node, Self::File>> {
        Err(Errno::EOPNOTSUPP.into())
    }

    /// Gives `node` another name and returns its attributes.
    fn link(&self, caller: &Caller, node: &Self::Node, parent: &Self::Node, name: Name<'_>) -> Result<Attr> {
        Err(Errno::EROFS.into())
    }

    /// unlink (`directory` false) or rmdir. The node goes on working for who
    /// has it open.
    fn remove(&self, caller: &Caller, parent: &Self::Node, child: Child<'_, Self::Node>, directory: bool) -> Result<()> {
        Err(Errno::EROFS.into())
    }

    /// renameat2(2).
    fn rename(
        &self,
        caller: &Caller,
        from: (&Self::Node, Child<'_, Self::Node>),
        to: (&Self::Node, Child<'_, Self::Node>),
        flags: RenameFlags,
    ) -> Result<()> {
        Err(Errno::EROFS.into())
    }

    // ----- contents and attributes -------------------------------------------

    /// Changes attributes and returns the new ones. `file`, when given, is
    /// open for writing: a truncation through it needs no write permission.
    fn set_attr(&self, caller: &Caller, node: &Self::Node, file: Option<&Self::File>, change: &SetAttr) -> Result<Attr> {
        Err(Errno::EROFS.into())
    }

    /// Writes all of `source` and returns how many bytes arrived; fewer than
    /// offered only when an error cut it short after some.
    fn write(&self, file: &Self::File, offset: u64, source: &mut dyn DataSource, flags: WriteFlags) -> Result<usize> {
        Err(Errno::EBADF.into())
    }

    /// One descriptor of the file is closed. Late write errors come out here.
    fn flush(&self, file: &Self::File) -> Result<()> {
        Ok(())
    }

    /// Makes contents durable, and attributes too unless `data_only`.
    fn fsync(&self, file: &Self::File, data_only: bool) -> Result<()> {
        Ok(())
    }

    /// Makes the names in a directory durable.
    fn fsync_dir(&self, dir: &Self::Dir, data_only: bool) -> Result<()> {
        Ok(())
    }

    /// Makes everything durable (syncfs).
    fn sync(&self) -> Result<()> {
        Ok(())
    }

    /// The last frontend is gone: what is kept in memory is to be put away.
    fn close(&self) -> Result<()> {
        Ok(())
    }

    /// fallocate(2).
    fn fallocate(&self, file: &Self::File, offset: u64, length: u64, flags: FallocateFlags) -> Result<()> {
        Err(Errno::EOPNOTSUPP.into())
    }

    /// copy_file_range(2): returns how many bytes were copied.
    fn copy_range(&self, from: (&Self::File, u64), to: (&Self::File, u64), length: u64) -> Result<u64> {
        Err(Errno::EOPNOTSUPP.into())
    }

    // ----- extended attributes ------------------------------------------------

    /// The value of an attribute.
    ///
    /// # Errors
    /// ENODATA when it is not there; EOPNOTSUPP when none can be.
    fn get_xattr(&self, node: &Self::Node, name: &[u8]) -> Result<Vec<u8>> {
        Err(Errno::EOPNOTSUPP.into())
    }

    /// The names, each followed by a NUL, as listxattr(2) gives them.
    fn list_xattr(&self, node: &Self::Node) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    /// Sets one.
    fn set_xattr(&self, caller: &Caller, node: &Self::Node, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()> {
        Err(Errno::EOPNOTSUPP.into())
    }

    /// Removes one.
    fn remove_xattr(&self, caller: &Caller, node: &Self::Node, name: &[u8]) -> Result<()> {
        Err(Errno::EOPNOTSUPP.into())
    }

    /// `FS_IOC_GETFLAGS`. `file` is the guest's open file if it is a regular one.
    fn inode_flags(&self, node: &Self::Node, file: Option<&Self::File>) -> Result<InodeFlags> {
        Err(Errno::ENOTTY.into())
    }

    /// `FS_IOC_SETFLAGS`. The guest's kernel has checked who may.
    fn set_inode_flags(&self, caller: &Caller, node: &Self::Node, file: Option<&Self::File>, flags: InodeFlags) -> Result<()> {
        Err(Errno::ENOTTY.into())
    }

    // ----- locks (only asked when `features().locks`) --------------------------

    /// The first lock that stands in the way of `wanted`; None if it is free.
    fn get_lock(&self, file: &Self::File, wanted: &Lock) -> Result<Option<Lock>> {
        Err(Errno::EOPNOTSUPP.into())
    }

    /// Takes or releases a lock. With `wait` it blocks until it has it or is
    /// interrupted (EINTR), and is called on a thread that may block.
    ///
    /// # Errors
    /// EAGAIN when it is taken and `wait` is None.
    fn set_lock(&self, file: &Self::File, wanted: &Lock, wait: Option<&Interrupt>) -> Result<()> {
        Err(Errno::EOPNOTSUPP.into())
    }

    /// `owner` has closed a descriptor of the file: its POSIX locks on it go.
    /// With `family` Flock the open file itself is closed.
    fn release_locks(&self, file: &Self::File, owner: u64, family: LockFamily) {}
}
