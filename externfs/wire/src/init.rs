//! INIT: what kernel and server agree upon.
//!
//! | asked for | when |
//! |---|---|
//! | ASYNC_READ, BIG_WRITES, EXPORT_SUPPORT, DONT_MASK, DO_READDIRPLUS, ASYNC_DIO, PARALLEL_DIROPS, MAX_PAGES, SETXATTR_EXT, INIT_EXT, CREATE_SUPP_GROUP, HAS_EXPIRE_ONLY, DIRECT_IO_ALLOW_MMAP | offered |
//! | READDIRPLUS_AUTO | to a kernel that takes a page of names at a time: names alone go by the dozen then, with room for attributes by the few; others ask for attributes always, and we decide what they get (`habit.rs`) |
//! | POSIX_ACL | the plugin honours ACLs, and the kernel is to check: this flag makes it |
//! | POSIX_LOCKS, FLOCK_LOCKS | the plugin keeps locks; else the kernel keeps them itself, and every wait can be interrupted |
//! | HANDLE_KILLPRIV_V2 | the plugin drops setuid and setgid; else the kernel asks for `security.capability` before each write |
//! | SUBMOUNTS | the plugin announces volumes (only virtio-fs offers it) |
//! | WRITEBACK_CACHE | the cache policy says so |
//! | AUTO_INVAL_DATA | unless only requests change the tree and this kernel is told of those of others: to drop what a process has just written because its times moved would be a waste |
//! | EXPLICIT_INVAL_DATA | instead of it: else a kernel that hears of a new size drops all pages, also what another process is just writing, and reads them before that has arrived |
//! | CACHE_SYMLINKS | the policy says that nobody else looks at or changes the tree; or as for AUTO_INVAL_DATA |
//! | OVER_IO_URING | the transport has the rings ready: once agreed, the kernel waits for them |
//! | PASSTHROUGH | the transport can register backing files ([`crate::Passthrough`]), without WRITEBACK_CACHE, which excludes it |
//! | NO_OPEN_SUPPORT with NO_OPENDIR_SUPPORT | nobody else changes the tree and the export can do without OPEN ([`Export::begin_unopened`](externfs::Export::begin_unopened)), there is no PASSTHROUGH, which OPEN negotiates, and FLUSH has no meaning: no locks of ours, no WRITEBACK_CACHE, no `flush_on_close`. What is agreed here the kernel learns by ENOSYS, which then answers OPEN, OPENDIR and FLUSH |
//!
//! Never asked for: SECURITY_CTX (labels are xattrs of the plugin's),
//! HANDLE_KILLPRIV (V2 is the exact one), ATOMIC_O_TRUNC (OPEN is sent before
//! the kernel refuses to truncate a running program with ETXTBSY, which then
//! loses its text and dies; without, a SETATTR follows once it may), SPLICE_* (a matter
//! of a transport), ALLOW_IDMAP (ids would arrive as -1).

use crate::abi::{self, InitFlags};
use crate::buffer::request_len;
use crate::codec::{Fields, Payload};
use externfs::{CachePolicy, Errno, Error, Features};

/// Which kernel is at the other end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransportKind {
    /// The host's own, through /dev/fuse.
    DevFuse,
    /// A guest's, through a virtio-fs device: no interrupts, no notifications.
    Virtio,
}

/// Switches of a session, fixed by whoever makes the transport.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Which kernel is at the other end.
    pub transport: TransportKind,
    /// Most bytes of one WRITE, and with 4 KiB pages of one READ; 128 KiB to
    /// 16 MiB, 1 MiB unless told. Kernels have a limit of their own (256 pages
    /// unless `fs.fuse.max_pages_limit` says otherwise).
    pub max_write: u32,
    /// Most bytes that the kernel reads ahead; it can only lower its own figure.
    pub max_readahead: u32,
    /// Requests that the kernel keeps under way in the background (readahead,
    /// asynchronous direct I/O, write-back).
    pub max_background: u16,
    /// Ask for a FLUSH at each close, although there is nothing to do in it:
    /// no locks of ours, no write-back cache. It costs a round trip a close.
    /// Wanted where a host reports late write errors at close (NFS, quotas).
    pub flush_on_close: bool,
    /// The kernel may read and write without opening anything, where the export
    /// can do without.
    pub may_not_open: bool,
    /// The kernel does not check who may do what, and whoever asks is root.
    pub callers_are_root: bool,
    /// The transport has rings ready for FUSE over io_uring.
    pub uring: bool,
}

impl Config {
    /// What suits this transport.
    #[must_use]
    pub fn new(transport: TransportKind) -> Config {
        Config {
            transport,
            max_write: 1 << 20,
            max_readahead: u32::MAX,
            max_background: 64,
            flush_on_close: false,
            may_not_open: true,
            callers_are_root: false,
            uring: false,
        }
    }
}

/// Smallest `max_write`: a SETXATTR of the largest value (64 KiB) must still
/// fit into a buffer made for a WRITE. Largest: what `max_pages` of 4 KiB express
/// with room to spare.
const MAX_WRITE_RANGE: (u32, u32) = (128 << 10, 16 << 20);
/// The smallest page of any kernel; with larger ones a request holds more.
const PAGE: u32 = 4096;
/// Pages of one request for a kernel that does not negotiate them.
const PAGES_UNNEGOTIATED: u32 = 32;

/// Most bytes of one WRITE for a kernel that agreed to `flags`.
pub(crate) fn max_write(config: &Config, flags: InitFlags) -> u32 {
    let most = config.max_write.clamp(MAX_WRITE_RANGE.0, MAX_WRITE_RANGE.1);
    if flags.contains(InitFlags::MAX_PAGES) { most } else { most.min(PAGES_UNNEGOTIATED * PAGE) }
}

/// Bytes of the longest request that anybody needs to send, whatever was agreed:
/// as many forgotten nodes as the reader of /dev/fuse has room for come in one
/// BATCH_FORGET, and that room is there before INIT.
pub(crate) fn longest_request(config: &Config) -> usize {
    request_len(max_write(config, InitFlags::MAX_PAGES))
}

/// From here on a READDIR has as much room as the program gave to getdents(2),
/// 32 KiB mostly, and not a page: seen on Linux 6.18, which says this minor
/// version. One or two before it may do so, too.
const MINOR_LONG_LISTINGS: u32 = 45;

/// `fuse_init_in`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct InitRequest {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) max_readahead: u32,
    pub(crate) flags: InitFlags,
}

impl InitRequest {
    /// Until 7.35 the request ended behind `flags`; later kernels may add more.
    pub(crate) fn parse(args: &[u8]) -> Result<InitRequest, Errno> {
        let mut fields = Fields::new(args);
        let (major, minor) = (fields.u32()?, fields.u32()?);
        if major != abi::MAJOR {
            // Nothing else of another major version's layout is known.
            return Ok(InitRequest { major, minor, max_readahead: 0, flags: InitFlags::empty() });
        }
        let max_readahead = fields.u32()?;
        let mut bits = u64::from(fields.u32()?);
        if bits & InitFlags::INIT_EXT.bits() != 0 {
            bits |= u64::from(fields.u32()?) << 32;
        }
        Ok(InitRequest { major, minor, max_readahead, flags: InitFlags::from_bits_retain(bits) })
    }
}

/// What INIT came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Negotiated {
    /// The minor version that both speak.
    pub minor: u32,
    /// What the kernel offered.
    pub offered: InitFlags,
    /// What both do.
    pub flags: InitFlags,
    /// Most bytes of one WRITE.
    pub max_write: u32,
    /// Most pages of one request.
    pub max_pages: u16,
    /// Most bytes that the kernel reads ahead.
    pub max_readahead: u32,
    /// Requests in the background.
    pub max_background: u16,
}

/// What the server's side brings.
#[derive(Clone, Copy)]
pub(crate) struct Ours<'a> {
    pub(crate) config: &'a Config,
    pub(crate) features: Features,
    pub(crate) policy: CachePolicy,
    /// There is somebody to register backing files.
    pub(crate) passthrough: bool,
    /// Asked whether the export can do without OPEN, if nothing else is against it.
    pub(crate) unopened: &'a dyn Fn() -> bool,
}

/// What a kernel offers that can do without OPEN and OPENDIR.
pub(crate) const UNOPENED: InitFlags = InitFlags::NO_OPEN_SUPPORT.union(InitFlags::NO_OPENDIR_SUPPORT);

/// The flags to ask for where a kernel offers them: the table above.
fn wanted(ours: &Ours<'_>) -> InitFlags {
    let Ours { config, features, policy, passthrough, .. } = *ours;
    let mut wanted = InitFlags::ASYNC_READ
        | InitFlags::BIG_WRITES
        | InitFlags::EXPORT_SUPPORT
        | InitFlags::DONT_MASK
        | InitFlags::DO_READDIRPLUS
        | InitFlags::ASYNC_DIO
        | InitFlags::PARALLEL_DIROPS
        | InitFlags::MAX_PAGES
        | InitFlags::SETXATTR_EXT
        | InitFlags::INIT_EXT
        | InitFlags::CREATE_SUPP_GROUP
        | InitFlags::HAS_EXPIRE_ONLY
        | InitFlags::DIRECT_IO_ALLOW_MMAP;
    wanted.set(InitFlags::POSIX_ACL, features.posix_acl && !config.callers_are_root);
    wanted.set(InitFlags::POSIX_LOCKS | InitFlags::FLOCK_LOCKS, features.locks);
    wanted.set(InitFlags::HANDLE_KILLPRIV_V2, features.kill_priv);
    wanted.set(InitFlags::SUBMOUNTS, features.submounts);
    wanted.set(InitFlags::WRITEBACK_CACHE, policy.writeback);
    // A guest's kernel cannot be told.
    let is_told = policy.exclusive && config.transport == TransportKind::DevFuse;
    wanted.set(InitFlags::AUTO_INVAL_DATA, !is_told);
    wanted.set(InitFlags::EXPLICIT_INVAL_DATA, is_told);
    wanted.set(InitFlags::CACHE_SYMLINKS, !policy.coherent || is_told);
    let passthrough = passthrough && config.transport == TransportKind::DevFuse && !policy.writeback;
    wanted.set(InitFlags::PASSTHROUGH, passthrough);
    wanted.set(InitFlags::OVER_IO_URING, config.uring && config.transport == TransportKind::DevFuse);
    wanted.set(UNOPENED, policy.exclusive && !policy.writeback && !features.locks && !config.flush_on_close && config.may_not_open);
    wanted
}

/// Agrees with a kernel. None: it is to ask again with our major version.
pub(crate) fn negotiate(ours: &Ours<'_>, request: &InitRequest) -> Result<Option<Negotiated>, Error> {
    if request.major > abi::MAJOR {
        return Ok(None);
    }
    if request.major < abi::MAJOR || request.minor < abi::MINOR_OLDEST {
        let (oldest, major, minor) = (abi::MINOR_OLDEST, request.major, request.minor);
        let reason = format!("the kernel speaks FUSE {major}.{minor}; 7.{oldest} (Linux 5.4) is the oldest that is served");
        return Err(Error::because(Errno::EPROTO, reason));
    }
    let mut wanted = wanted(ours);
    wanted.set(InitFlags::READDIRPLUS_AUTO, request.minor < MINOR_LONG_LISTINGS);
    let mut flags = wanted & request.flags;
    if !flags.contains(UNOPENED) || flags.contains(InitFlags::PASSTHROUGH) || !(ours.unopened)() {
        flags.remove(UNOPENED);
    }
    let config = ours.config;
    let max_write = max_write(config, flags);
    Ok(Some(Negotiated {
        minor: request.minor.min(abi::MINOR),
        offered: request.flags,
        flags,
        max_write,
        max_pages: u16::try_from(max_write.div_ceil(PAGE)).unwrap_or(u16::MAX),
        max_readahead: request.max_readahead.min(config.max_readahead),
        max_background: config.max_background.max(1),
    }))
}

/// `fuse_init_out`.
pub(crate) fn encode(agreed: &Negotiated) -> Payload {
    let bits = agreed.flags.bits();
    let stack_depth = u32::from(agreed.flags.contains(InitFlags::PASSTHROUGH));
    Payload::of(|payload| {
        payload
            .u32(abi::MAJOR)
            .u32(agreed.minor)
            .u32(agreed.max_readahead)
            .u32(bits as u32)
            .u16(agreed.max_background)
            // Where the kernel slows its own background work: three quarters, as it does by default.
            .u16((agreed.max_background / 4 * 3).max(1))
            .u32(agreed.max_write)
            // Times are exact to the nanosecond.
            .u32(1)
            .u16(agreed.max_pages)
            .u16(0)
            .u32((bits >> 32) as u32)
            // The host file of a passthrough lies on a file system that is not stacked itself.
            .u32(stack_depth)
            .pad_to(64)
    })
}

/// The answer to a kernel of a later major version: ours, and nothing else.
pub(crate) fn encode_other_major() -> Payload {
    Payload::of(|payload| payload.u32(abi::MAJOR).u32(abi::MINOR).pad_to(64))
}
