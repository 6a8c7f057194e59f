//! Which open files the kernel serves from the host file itself (FUSE
//! passthrough, Linux 6.9).
//!
//! The kernel's rules (fs/fuse/iomode.c): an inode is cached or backed, never
//! both at once, and all its backed opens share one backing id; an open that
//! breaks this fails with EIO. So the first open of a node decides, and those
//! that come while it is open follow. A file that bypasses the cache
//! (`FOPEN_DIRECT_IO`) may be mixed with either.
//!
//! A mapped write goes to the host file's pages; the kernel learns nothing of
//! it, so attributes that it remembers show old times (xfstests 080 and 215).
//! Therefore, while a node is open for reading and writing, which a shared
//! writable mapping needs, and backed:
//! * every answer gives its attributes a life of zero ([`Backings::attr_ttl`]);
//! * those given before are withdrawn as it is opened
//!   ([`Claim::withdraw_attributes`]).
//!
//! An answer may be computed while the last writer closes. [`Backings::mark`]
//! is taken before attributes are read; when a writer has closed since, they
//! live zero time too.
//!
//! Registering a file costs two ioctls, about what a READ of a small file
//! costs. So with `auto` a small file that exists is served through the page
//! cache; a new one may become large.

use externfs::{HandleId, NodeId};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The option `passthrough=`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PassthroughChoice {
    /// Where kernel and privileges allow it.
    #[default]
    Auto,
    /// Or else do not serve at all.
    On,
    /// Never.
    Off,
}

impl FromStr for PassthroughChoice {
    type Err = String;

    fn from_str(word: &str) -> Result<PassthroughChoice, String> {
        match word {
            "auto" => Ok(PassthroughChoice::Auto),
            "on" => Ok(PassthroughChoice::On),
            "off" => Ok(PassthroughChoice::Off),
            _ => Err(format!("passthrough={word}: it is auto, on or off")),
        }
    }
}

/// From this size on, in bytes, a file that exists is worth registering: it
/// takes several requests to read (1 MiB each at most, 128 KiB at first).
const WORTH_BYTES: u64 = 128 << 10;

impl PassthroughChoice {
    /// Whether a file of `size` bytes is worth registering.
    pub(crate) fn pays(self, created: bool, size: u64) -> bool {
        match self {
            PassthroughChoice::Auto => created || size >= WORTH_BYTES,
            PassthroughChoice::On => true,
            PassthroughChoice::Off => false,
        }
    }
}

/// What is to be known of an open to claim it.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    /// It may be written through a mapping.
    pub(crate) maps: bool,
    /// The plugin wants it uncached.
    pub(crate) bypass: bool,
    /// Registering it pays.
    pub(crate) pays: bool,
}

/// Whether this process may register backing files: `BACKING_OPEN` demands
/// CAP_SYS_ADMIN (fs/fuse/backing.c).
pub(crate) fn is_permitted() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN))
}

/// How the kernel is told to open a file.
pub(crate) enum Claim<B> {
    /// As the plugin said.
    Plain,
    /// Not through the page cache: others have the node backed.
    Direct,
    /// From the host file.
    Backed {
        /// The id to answer with.
        backing: Arc<B>,
        /// Whether attributes that the kernel remembers must go.
        withdraw_attributes: bool,
    },
}

struct Open {
    node: NodeId,
    writes: bool,
}

struct NodeState<B> {
    /// None: cached.
    backing: Option<Arc<B>>,
    opens: usize,
    writers: usize,
}

struct Tables<B> {
    nodes: HashMap<NodeId, NodeState<B>>,
    handles: HashMap<HandleId, Open>,
}

/// The open files of one mount and how the kernel serves each. `B` closes its
/// backing id when dropped.
pub(crate) struct Backings<B> {
    enabled: AtomicBool,
    /// Backed opens for writing, of all nodes.
    writers: AtomicUsize,
    /// How many of them have ended.
    ended: AtomicU64,
    tables: Mutex<Tables<B>>,
}

impl<B> Backings<B> {
    /// Nothing is open. Until [`Backings::enable`] every claim is plain.
    pub(crate) fn new() -> Backings<B> {
        Backings {
            enabled: AtomicBool::new(false),
            writers: AtomicUsize::new(0),
            ended: AtomicU64::new(0),
            tables: Mutex::new(Tables { nodes: HashMap::new(), handles: HashMap::new() }),
        }
    }

    /// The kernel agreed to passthrough; no file is open yet.
    pub(crate) fn enable(&self) {
        self.enabled.store(true, Ordering::Relaxed);
    }

    /// Whether opens are to be claimed.
    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    fn tables(&self) -> MutexGuard<'_, Tables<B>> {
        // Each change is complete before anything that could panic.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides how `handle` of `node` is served. `file` tells what its bytes
    /// are on the host; `register` makes a backing id and may fail, which
    /// means cached.
    pub(crate) fn claim(
        &self,
        (node, handle): (NodeId, HandleId),
        asked: Asked,
        file: impl Fn() -> Option<OwnedFd>,
        register: impl FnOnce(OwnedFd) -> io::Result<B>,
    ) -> Claim<B> {
        if !self.is_enabled() {
            return Claim::Plain;
        }
        let mut tables = self.tables();
        let backing = match tables.nodes.get(&node) {
            Some(NodeState { backing: Some(_), .. }) if file().is_none() => return Claim::Direct,
            Some(state) => state.backing.clone(),
            None if !asked.pays => None,
            None => file().and_then(|file| match register(file) {
                Ok(backing) => Some(Arc::new(backing)),
                Err(error) => {
                    self.refused(&error);
                    None
                }
            }),
        };
        if backing.is_none() && asked.bypass {
            return Claim::Plain;
        }
        let state = tables.nodes.entry(node).or_insert_with(|| NodeState { backing: backing.clone(), opens: 0, writers: 0 });
        state.opens += 1;
        let writes = asked.maps && backing.is_some();
        if writes {
            state.writers += 1;
            self.writers.fetch_add(1, Ordering::SeqCst);
        }
        tables.handles.insert(handle, Open { node, writes });
        match backing {
            Some(backing) => Claim::Backed { backing, withdraw_attributes: writes },
            None => Claim::Plain,
        }
    }

    /// `handle` is closed; the kernel has left its mode by now.
    pub(crate) fn release(&self, handle: HandleId) {
        if !self.is_enabled() {
            return;
        }
        let mut tables = self.tables();
        let Some(open) = tables.handles.remove(&handle) else { return };
        let Some(state) = tables.nodes.get_mut(&open.node) else { return };
        state.opens -= 1;
        if open.writes {
            state.writers -= 1;
            self.ended.fetch_add(1, Ordering::SeqCst);
            self.writers.fetch_sub(1, Ordering::SeqCst);
        }
        // The id is closed outside the lock, by whoever drops it last.
        let gone = if state.opens == 0 { tables.nodes.remove(&open.node) } else { None };
        drop(tables);
        drop(gone);
    }

    /// To be taken before attributes are read.
    pub(crate) fn mark(&self) -> u64 {
        self.ended.load(Ordering::SeqCst)
    }

    /// How long attributes of `node`, read since `mark`, may be remembered if
    /// the plugin allows `ttl`.
    pub(crate) fn attr_ttl(&self, mark: u64, node: NodeId, ttl: Duration) -> Duration {
        if ttl.is_zero() || (self.writers.load(Ordering::SeqCst) == 0 && self.mark() == mark) {
            return ttl;
        }
        let written = self.tables().nodes.get(&node).is_some_and(|state| state.writers > 0);
        if written || self.mark() != mark { Duration::ZERO } else { ttl }
    }

    fn refused(&self, error: &io::Error) {
        static TOLD: AtomicBool = AtomicBool::new(false);
        if !TOLD.swap(true, Ordering::Relaxed) {
            tracing::warn!("passthrough: the kernel does not take the host's files ({error}); they are served through the page cache");
        }
    }

    #[cfg(test)]
    fn is_idle(&self) -> bool {
        let tables = self.tables();
        tables.nodes.is_empty() && tables.handles.is_empty() && self.writers.load(Ordering::SeqCst) == 0
    }
}

impl<B> fmt::Debug for Backings<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backings").field("enabled", &self.is_enabled()).field("open", &self.tables().handles.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const NODE: NodeId = NodeId(7);

    fn file() -> Option<OwnedFd> {
        Some(tempfile::tempfile().unwrap().into())
    }

    fn asked(maps: bool, bypass: bool) -> Asked {
        Asked { maps, bypass, pays: true }
    }

    fn backings() -> Backings<u32> {
        let backings = Backings::new();
        backings.enable();
        backings
    }

    fn id(claim: &Claim<u32>) -> Option<u32> {
        match claim {
            Claim::Backed { backing, .. } => Some(**backing),
            _ => None,
        }
    }

    #[test]
    fn all_opens_of_a_node_share_the_first_ones_id() {
        let backings = backings();
        let first = backings.claim((NODE, HandleId(1)), asked(false, false), file, |_| Ok(41));
        let second = backings.claim((NODE, HandleId(2)), asked(true, true), file, |_| panic!("registered twice"));
        assert_eq!((id(&first), id(&second)), (Some(41), Some(41)));
        backings.release(HandleId(1));
        let third = backings.claim((NODE, HandleId(3)), asked(false, false), file, |_| panic!("registered twice"));
        assert_eq!(id(&third), Some(41));
        backings.release(HandleId(2));
        backings.release(HandleId(3));
        assert!(backings.is_idle());
        assert_eq!(id(&backings.claim((NODE, HandleId(4)), asked(false, false), file, |_| Ok(42))), Some(42));
    }

    #[test]
    fn a_cached_node_stays_cached_while_it_is_open() {
        let backings = backings();
        let first = backings.claim((NODE, HandleId(1)), asked(false, false), || None, |_| panic!("no file"));
        let second = backings.claim((NODE, HandleId(2)), asked(false, false), file, |_| panic!("cached already"));
        assert!(matches!((first, second), (Claim::Plain, Claim::Plain)));
        backings.release(HandleId(1));
        backings.release(HandleId(2));
        assert!(id(&backings.claim((NODE, HandleId(3)), asked(false, false), file, |_| Ok(1))).is_some());
    }

    #[test]
    fn a_backed_node_is_never_opened_cached() {
        let backings = backings();
        let _first = backings.claim((NODE, HandleId(1)), asked(false, false), file, |_| Ok(1));
        assert!(matches!(backings.claim((NODE, HandleId(2)), asked(false, false), || None, |_| Ok(2)), Claim::Direct));
        backings.release(HandleId(2));
        backings.release(HandleId(1));
        assert!(backings.is_idle());
    }

    #[test]
    fn a_refused_file_is_cached_and_an_uncached_one_is_not_counted() {
        let backings = backings();
        let refuse = |_| Err(io::Error::from_raw_os_error(libc::ELOOP));
        assert!(matches!(backings.claim((NODE, HandleId(1)), asked(true, false), file, refuse), Claim::Plain));
        assert!(matches!(backings.claim((NodeId(8), HandleId(2)), asked(true, true), || None, refuse), Claim::Plain));
        assert!(!backings.tables().nodes.contains_key(&NodeId(8)));
        backings.release(HandleId(2));
        backings.release(HandleId(1));
        assert!(backings.is_idle());
    }

    #[test]
    fn attributes_of_a_written_node_do_not_live() {
        let backings = backings();
        let mark = backings.mark();
        let _reader = backings.claim((NODE, HandleId(1)), asked(false, false), file, |_| Ok(1));
        assert_eq!(backings.attr_ttl(mark, NODE, LONG), LONG);
        let writer = backings.claim((NODE, HandleId(2)), asked(true, false), file, |_| Ok(1));
        assert!(matches!(writer, Claim::Backed { withdraw_attributes: true, .. }));
        assert_eq!(backings.attr_ttl(mark, NODE, LONG), Duration::ZERO);
        assert_eq!(backings.attr_ttl(mark, NodeId(8), LONG), LONG);
        backings.release(HandleId(2));
        // Read before the writer closed, answered after.
        assert_eq!(backings.attr_ttl(mark, NODE, LONG), Duration::ZERO);
        assert_eq!(backings.attr_ttl(backings.mark(), NODE, LONG), LONG);
    }

    #[test]
    fn without_passthrough_nothing_is_kept() {
        let backings: Backings<u32> = Backings::new();
        assert!(matches!(backings.claim((NODE, HandleId(1)), asked(true, false), file, |_| Ok(1)), Claim::Plain));
        assert!(backings.is_idle());
    }

    #[test]
    fn a_small_file_is_not_worth_registering_until_somebody_has_it_backed() {
        assert!(!PassthroughChoice::Auto.pays(false, WORTH_BYTES - 1) && PassthroughChoice::On.pays(false, 0));
        assert!(PassthroughChoice::Auto.pays(true, 0) && PassthroughChoice::Auto.pays(false, WORTH_BYTES));
        let backings = backings();
        let small = Asked { maps: false, bypass: false, pays: false };
        let plain = backings.claim((NODE, HandleId(1)), small, || panic!("asked for its file"), |_| Ok(1));
        assert!(matches!(plain, Claim::Plain));
        backings.release(HandleId(1));
        let _first = backings.claim((NODE, HandleId(2)), asked(false, false), file, |_| Ok(1));
        assert_eq!(id(&backings.claim((NODE, HandleId(3)), small, file, |_| Ok(2))), Some(1));
    }

    #[test]
    fn the_option_has_three_words() {
        assert_eq!("on".parse(), Ok(PassthroughChoice::On));
        assert!("yes".parse::<PassthroughChoice>().unwrap_err().contains("auto, on or off"));
    }
}
