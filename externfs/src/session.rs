//! [`Session`]: one kernel's view of a bridge. Its operations, in `session/export.rs`,
//! check numbers, kinds and limits, then call the plugin.

mod export;
mod unopened;

use self::unopened::Unopened;
use crate::bridge::Bridge;
use crate::error::{Errno, Error, Result};
use crate::export::{Entry, Export, Handle, Memory, Watcher};
use crate::fs::{Child, ExternFs};
use crate::name::Name;
use crate::table::{Handles, Lookups, NodeEntry};
use crate::types::*;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

type Node<F> = Arc<NodeEntry<F>>;

struct OpenFile<F: ExternFs> {
    node: Arc<NodeEntry<F>>,
    file: F::File,
    flags: OpenFlags,
}

/// What a file is used for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Read,
    Write,
    /// To write at its end, which may be all that is allowed (chattr +a).
    Append,
    /// Neither.
    Either,
}

impl Use {
    fn flags(self) -> OpenFlags {
        let write = matches!(self, Use::Write | Use::Append);
        OpenFlags { read: !write, write, append: self == Use::Append, ..OpenFlags::default() }
    }

    fn is_served_by(self, flags: OpenFlags) -> bool {
        match self {
            Use::Read => flags.read,
            Use::Write => flags.write && !flags.append,
            Use::Append => flags.write,
            Use::Either => true,
        }
    }
}

/// Most files and listings that are open on behalf of a kernel that opens none.
const UNOPENED_FILES: usize = 64;
const UNOPENED_DIRS: usize = 16;

struct OpenDir<F: ExternFs> {
    node: Arc<NodeEntry<F>>,
    dir: F::Dir,
}

pub(crate) struct Session<F: ExternFs> {
    bridge: Arc<Bridge<F>>,
    number: u64,
    lookups: Lookups<F>,
    files: Handles<OpenFile<F>>,
    dirs: Handles<OpenDir<F>>,
    /// The kernel opens nothing: what it uses is open on its behalf.
    opens_nothing: AtomicBool,
    unopened_files: Unopened<OpenFile<F>>,
    unopened_dirs: Unopened<OpenDir<F>>,
    watcher: OnceLock<Arc<dyn Watcher>>,
    limits: Limits,
    features: Features,
}

/// How long a kernel may remember `attr`. Not at all where a write can take
/// setuid or setgid away: the server drops them (`HANDLE_KILLPRIV_V2`), no
/// answer to a WRITE tells, and the kernel must not go on running the changed
/// file with another's rights.
fn attr_ttl(policy: &CachePolicy, attr: &Attr) -> Duration {
    if attr.kind == FileKind::Regular && attr.mode.bits() & 0o6000 != 0 { Duration::ZERO } else { policy.attr }
}

impl<F: ExternFs> Session<F> {
    pub(crate) fn new(bridge: Arc<Bridge<F>>) -> Session<F> {
        let limits = bridge.fs().limits();
        Session {
            number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed),
            lookups: Lookups::new(bridge.nodes_cost.clone()),
            files: Handles::new(),
            dirs: Handles::new(),
            opens_nothing: AtomicBool::new(false),
            unopened_files: Unopened::new(UNOPENED_FILES),
            unopened_dirs: Unopened::new(UNOPENED_DIRS),
            watcher: OnceLock::new(),
            limits,
            features: bridge.fs().features(),
            bridge,
        }
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Somebody else made this change.
    pub(crate) fn told(&self, change: &Change<NodeId>) {
        let Some(watcher) = self.watcher.get() else { return };
        match change {
            Change::Node { node: id, .. } | Change::Entry { parent: id, .. } => {
                if *id == NodeId::ROOT || self.lookups.contains(*id) {
                    watcher.changed(change.clone());
                }
            }
            // Most names that lead elsewhere now are found out by the node that they
            // led to: asked for its attributes, it is ESTALE. One that is open, or a
            // directory that was only moved, still answers.
            Change::Everything => {
                for node in [NodeId::ROOT].into_iter().chain(self.lookups.ids()) {
                    watcher.changed(Change::Node { node, data: true });
                }
            }
        }
    }

    fn fs(&self) -> &F {
        self.bridge.fs()
    }

    fn key(&self, node: &Node<F>) -> NodeKey {
        self.fs().key(&node.node)
    }

    fn node(&self, id: NodeId) -> Result<Node<F>> {
        if id == NodeId::ROOT { Ok(self.bridge.root.clone()) } else { self.lookups.get(id) }
    }

    fn directory(&self, id: NodeId) -> Result<Node<F>> {
        let node = self.node(id)?;
        if node.kind() == FileKind::Directory { Ok(node) } else { Err(Errno::ENOTDIR.into()) }
    }

    fn file_of(&self, node: &Node<F>, handle: Option<HandleId>) -> Result<Option<Arc<OpenFile<F>>>> {
        let Some(handle) = handle.filter(|handle| self.unopened_node(*handle).is_none()) else { return Ok(None) };
        let open = self.files.get(handle)?;
        if open.node.id() == node.id() { Ok(Some(open)) } else { Err(Errno::EBADF.into()) }
    }

    /// The node that `handle` stands for in place of what was opened.
    fn unopened_node(&self, handle: HandleId) -> Option<NodeId> {
        handle.node().filter(|_| self.opens_nothing.load(Ordering::Relaxed))
    }

    /// The file behind `handle`, opened now for `what` if nobody has.
    fn file(&self, handle: HandleId, what: Use) -> Result<Arc<OpenFile<F>>> {
        let Some(id) = self.unopened_node(handle) else {
            let open = self.files.get(handle)?;
            // Kernels write back through any handle that was opened for writing.
            return if what.flags().write && !open.flags.write { Err(Errno::EBADF.into()) } else { Ok(open) };
        };
        if let Some(open) = self.unopened_files.get(id, |open| what.is_served_by(open.flags)) {
            return Ok(open);
        }
        let node = self.regular(id)?;
        let flags = what.flags();
        let opened = self.with_spare_handles(|| self.fs().open(&Caller::root(), &node.node, flags))?;
        let open = Arc::new(OpenFile { node, file: opened.file, flags });
        self.unopened_files.put(id, open.clone());
        Ok(open)
    }

    /// The listing behind `handle`, the same way.
    fn listing(&self, handle: HandleId) -> Result<Arc<OpenDir<F>>> {
        let Some(id) = self.unopened_node(handle) else { return self.dirs.get(handle) };
        if let Some(open) = self.unopened_dirs.get(id, |_| true) {
            return Ok(open);
        }
        let node = self.directory(id)?;
        let dir = self.with_spare_handles(|| self.fs().open_dir(&node.node))?;
        let open = Arc::new(OpenDir { node, dir });
        self.unopened_dirs.put(id, open.clone());
        Ok(open)
    }

    /// Runs `act`, which takes a descriptor or does nothing; where there are none left,
    /// what is open on the kernel's behalf closes, and it is tried once more.
    fn with_spare_handles<T>(&self, act: impl Fn() -> Result<T>) -> Result<T> {
        match act() {
            Err(error) if matches!(error.errno(), Errno::EMFILE | Errno::ENFILE) && self.opens_nothing.load(Ordering::Relaxed) => {
                self.close_unopened();
                act()
            }
            answer => answer,
        }
    }

    /// Closes all that is open on the kernel's behalf.
    fn close_unopened(&self) {
        self.unopened_files.clear();
        self.unopened_dirs.clear();
    }

    /// A node that is a file to be opened.
    fn regular(&self, id: NodeId) -> Result<Node<F>> {
        let node = self.node(id)?;
        match node.kind() {
            FileKind::Regular => Ok(node),
            FileKind::Directory => Err(Errno::EISDIR.into()),
            FileKind::Symlink => Err(Errno::ELOOP.into()),
            // The guest's kernel has drivers of its own for these.
            _ => Err(Errno::ENXIO.into()),
        }
    }

    fn check_name(&self, name: Name<'_>) -> Result<()> {
        if name.as_bytes().len() <= self.limits.name_max { Ok(()) } else { Err(Errno::ENAMETOOLONG.into()) }
    }

    fn check_writable(&self) -> Result<()> {
        if self.bridge.options.read_only { Err(Errno::EROFS.into()) } else { Ok(()) }
    }

    /// Whether this kernel may have one more file or listing open.
    ///
    /// # Errors
    /// ENFILE past its part of the limit: others are to have theirs.
    fn check_handles(&self) -> Result<()> {
        let open = self.files.len() + self.dirs.len();
        if open < self.bridge.share_of_handles(self.limits.handles_max) { Ok(()) } else { Err(Errno::ENFILE.into()) }
    }

    /// Whether this kernel may remember one more node.
    ///
    /// # Errors
    /// ENOMEM past the limit.
    fn check_nodes(&self) -> Result<()> {
        if self.lookups.len() < self.limits.nodes_max && self.bridge.has_room_for_node(self.lookups.cost()) {
            return Ok(());
        }
        Err(Error::because(Errno::ENOMEM, format!("a kernel that remembers {} objects has forgotten none", self.lookups.len())))
    }

    /// A directory in which names are about to change.
    fn writable_directory(&self, id: NodeId, name: Name<'_>) -> Result<Node<F>> {
        self.check_writable()?;
        self.check_name(name)?;
        self.directory(id)
    }

    /// Whether this kernel must not rely on what it remembers.
    fn is_in_the_dark(&self) -> bool {
        self.bridge.is_shared() && self.watcher.get().is_none() && self.fs().cache_policy().coherent
    }

    fn effective(&self, cache: FileCache) -> FileCache {
        if cache == FileCache::Keep && self.is_in_the_dark() { FileCache::Drop } else { cache }
    }

    /// Gives a plugin's node its number and counts one lookup of it, by a name of
    /// `name_len` bytes.
    fn admit(&self, node: F::Node, attr: Attr, parent: Option<&Node<F>>, name_len: usize) -> Entry {
        let key = self.fs().key(&node);
        if key == self.key(&self.bridge.root) {
            return self.entry(&self.bridge.root, attr, parent);
        }
        let (entry, again) = self.bridge.table.intern(key, node, attr.kind, None);
        if let Some(again) = again {
            self.fs().found_again(&entry.node, again);
        }
        self.lookups.remember(&entry, name_len);
        self.entry(&entry, attr, parent)
    }

    fn entry(&self, node: &Node<F>, attr: Attr, parent: Option<&Node<F>>) -> Entry {
        let policy = self.cache_policy();
        Entry {
            id: node.id(),
            generation: self.key(node).generation,
            attr,
            attr_ttl: attr_ttl(&policy, &attr),
            entry_ttl: policy.entry,
            submount: self.features.submounts
                && attr.kind == FileKind::Directory
                && parent.is_some_and(|parent| self.key(parent).volume != self.key(node).volume),
        }
    }

    /// The node behind a name, if any kernel remembers it.
    ///
    /// # Errors
    /// EMFILE and its like: to whoever takes the name away it would pass for unknown.
    fn known_child(&self, parent: &Node<F>, name: Name<'_>) -> Result<Option<Node<F>>> {
        match self.fs().child_key(&parent.node, name) {
            Ok(key) => Ok(self.bridge.table.find(key)),
            Err(error) if matches!(error.errno(), Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM) => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Two kernels may give two processes the same name as a lock's owner.
    fn own_owner(&self, owner: u64) -> u64 {
        owner ^ self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn own_lock(&self, wanted: &Lock) -> Lock {
        Lock { owner: self.own_owner(wanted.owner), ..*wanted }
    }

    /// What this kernel remembers of what a listing calls number `ino`: what it
    /// will for a while need not be read and sent again. A guess by number; a
    /// wrong one costs a request.
    fn memory_of(&self, ino: u64) -> Memory {
        let ttl = self.cache_policy().attr;
        match self.lookups.age(NodeId(ino)) {
            None => Memory::None,
            Some(age) if age >= ttl => Memory::None,
            Some(age) if !self.bridge.has_company() && age < ttl / 2 => Memory::Fresh,
            Some(_) => Memory::Old,
        }
    }

    fn tell_node(&self, id: NodeId, data: bool) {
        self.bridge.tell(&Change::Node { node: id, data }, Some(self.number));
    }

    fn tell_name(&self, parent: NodeId, name: Name<'_>) {
        self.bridge.tell(&Change::Entry { parent, name: name.as_bytes().to_vec() }, Some(self.number));
        self.tell_node(parent, false);
    }

    fn insert_file(&self, node: Node<F>, opened: Opened<F::File>, flags: OpenFlags) -> Handle {
        let (cache, size) = (self.effective(opened.cache), opened.size);
        let id = self.files.insert(OpenFile { node, file: opened.file, flags });
        Handle { id, cache, keep_listing: false, size }
    }

    fn admit_created(
        &self,
        created: Created<F::Node, F::File>,
        parent: &Node<F>,
        name_len: usize,
        flags: CreateFlags,
    ) -> Result<(Entry, Handle)> {
        let entry = self.admit(created.node, created.attr, Some(parent), name_len);
        let node = self.node(entry.id)?;
        Ok((entry, self.insert_file(node, created.opened, flags.open)))
    }

    fn remove(&self, caller: &Caller, parent: NodeId, name: Name<'_>, directory: bool) -> Result<()> {
        let parent = self.writable_directory(parent, name)?;
        let known = self.with_spare_handles(|| self.known_child(&parent, name))?;
        self.with_spare_handles(|| {
            let child = Child { name, node: known.as_ref().map(|entry| &entry.node) };
            self.fs().remove(caller, &parent.node, child, directory)
        })?;
        self.tell_name(parent.id(), name);
        if let Some(known) = known {
            self.tell_node(known.id(), false);
        }
        Ok(())
    }

    /// Gives `emit` what `handle` lists from `cookie` on.
    fn list(&self, handle: HandleId, cookie: u64, mut emit: impl FnMut(&OpenDir<F>, &DirEntry<'_>) -> bool) -> Result<()> {
        let open = self.listing(handle)?;
        let mut ended = true;
        self.fs().read_dir(&open.dir, cookie, &mut |entry| {
            ended = false;
            emit(&open, entry)
        })?;
        if ended && let Some(id) = self.unopened_node(handle) {
            // A kernel that gets nothing has all of it.
            self.unopened_dirs.close(id);
        }
        Ok(())
    }

    /// Puts the right number on `.` and on the root's `..`, whose host number
    /// is none of the guest's business. The second value is false for a name
    /// that no guest may see.
    fn numbered<'e>(&self, dir: &Node<F>, entry: &DirEntry<'e>) -> (DirEntry<'e>, bool) {
        let mut entry = *entry;
        match entry.name {
            b"." => entry.ino = self.key(dir).number,
            b".." if dir.id() == NodeId::ROOT => entry.ino = self.key(dir).number,
            b".." => {}
            name => return (entry, Name::new(name).is_ok()),
        }
        (entry, true)
    }
}

impl<F: ExternFs> Drop for Session<F> {
    fn drop(&mut self) {
        if self.watcher.get().is_some() {
            self.bridge.watcher_gone();
        }
        self.bridge.session_ended();
    }
}
