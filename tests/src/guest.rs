//! [`Guest`]: a kernel that remembers what it was given, so that a test can
//! say what it means and still give everything back at its end.

use crate::export_driver::{MemorySink, MemorySource, check_idle};
use externfs::*;
use std::sync::{Arc, Mutex, PoisonError};

/// What the guest holds.
#[derive(Default)]
struct Held {
    nodes: Vec<NodeId>,
    files: Vec<HandleId>,
    dirs: Vec<HandleId>,
}

/// A kernel on an export.
pub struct Guest {
    /// For what has no shorthand here; hand entries to [`Guest::keep`].
    pub export: Arc<dyn Export>,
    /// Root, unless a test says otherwise.
    pub caller: Caller,
    held: Mutex<Held>,
}

type Answer<T> = std::result::Result<T, Errno>;

/// A name that a test wrote down.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn name(text: &str) -> Name<'_> {
    Name::new(text.as_bytes()).unwrap_or_else(|e| panic!("{text:?} is no component: {e}"))
}

/// Read and write.
pub const BOTH: OpenFlags = OpenFlags {
    read: true,
    write: true,
    append: false,
    truncate: false,
    sync: false,
    direct: false,
    noatime: false,
    exec: false,
    kill_suid_sgid: false,
};

/// Read.
pub const READ: OpenFlags = OpenFlags { write: false, ..BOTH };

/// A whole listing.
#[derive(Default)]
pub struct Names {
    /// Names, cookies and what was looked up, in order.
    pub entries: Vec<(Vec<u8>, u64, Option<Entry>)>,
    /// Most that fit; 0 for no end.
    pub room: usize,
}

impl Listing for Names {
    fn has_room(&self, _: usize) -> bool {
        self.room == 0 || self.entries.len() < self.room
    }

    fn put(&mut self, entry: &DirEntry<'_>, known: Option<&Entry>) {
        self.entries.push((entry.name.to_vec(), entry.next, known.copied()));
    }
}

impl Guest {
    /// A kernel that knows only the root.
    ///
    /// # Panics
    /// When the plugin refuses it.
    #[must_use]
    pub fn new(connect: &dyn Connect) -> Guest {
        let export = connect.connect().unwrap_or_else(|e| panic!("connecting: {e}"));
        Guest { export, caller: Caller::root(), held: Mutex::default() }
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over an entry that an operation answered.
    ///
    /// # Errors
    /// Those of the operation.
    pub fn keep(&self, answer: Result<Entry>) -> Answer<Entry> {
        let entry = answer.map_err(|e| e.errno())?;
        if entry.id != NodeId::ROOT {
            self.held().nodes.push(entry.id);
        }
        Ok(entry)
    }

    /// lookup.
    pub fn lookup(&self, parent: NodeId, text: &str) -> Answer<Entry> {
        self.keep(self.export.lookup(&self.caller, parent, name(text)))
    }

    /// mkdir, symlink, mknod.
    pub fn make(&self, parent: NodeId, text: &str, new: &NewNode<'_>, mode: u32) -> Answer<Entry> {
        self.keep(self.export.make(&self.caller, parent, name(text), new, Mode::new(mode)))
    }

    /// mkdir, 0755.
    pub fn mkdir(&self, parent: NodeId, text: &str) -> Answer<Entry> {
        self.make(parent, text, &NewNode::Directory, 0o755)
    }

    /// open(O_CREAT), 0644, for reading and writing.
    pub fn create(&self, parent: NodeId, text: &str, exclusive: bool) -> Answer<(Entry, HandleId)> {
        let flags = CreateFlags { mode: Mode::new(0o644), exclusive, open: BOTH };
        let (entry, handle) = self.export.create(&self.caller, parent, name(text), flags).map_err(|e| e.errno())?;
        self.held().files.push(handle.id);
        self.keep(Ok(entry)).map(|entry| (entry, handle.id))
    }

    /// A closed file with contents.
    pub fn file(&self, parent: NodeId, text: &str, data: &[u8]) -> Answer<Entry> {
        let (entry, handle) = self.create(parent, text, true)?;
        self.write(handle, 0, data)?;
        self.close(handle);
        Ok(entry)
    }

    /// open.
    pub fn open(&self, id: NodeId, flags: OpenFlags) -> Answer<HandleId> {
        let handle = self.export.open(&self.caller, id, flags).map_err(|e| e.errno())?;
        self.held().files.push(handle.id);
        Ok(handle.id)
    }

    /// close.
    pub fn close(&self, handle: HandleId) {
        self.held().files.retain(|&held| held != handle);
        self.export.release(handle, None);
    }

    /// pwrite.
    pub fn write(&self, handle: HandleId, offset: u64, data: &[u8]) -> Answer<usize> {
        self.export.write(handle, offset, &mut MemorySource(data), WriteFlags::default()).map_err(|e| e.errno())
    }

    /// pread.
    pub fn read(&self, handle: HandleId, offset: u64, len: usize) -> Answer<Vec<u8>> {
        let mut sink = MemorySink::new(len);
        self.export.read(handle, offset, len, &mut sink).map(|_| sink.data).map_err(|e| e.errno())
    }

    /// The whole of a short file.
    pub fn contents(&self, id: NodeId) -> Answer<Vec<u8>> {
        let handle = self.open(id, READ)?;
        let data = self.read(handle, 0, 1 << 20);
        self.close(handle);
        data
    }

    /// stat.
    pub fn attr(&self, id: NodeId) -> Answer<Attr> {
        self.export.get_attr(id, None).map(|(attr, _)| attr).map_err(|e| e.errno())
    }

    /// chmod, chown, truncate, utimens.
    pub fn set(&self, id: NodeId, change: SetAttr) -> Answer<Attr> {
        self.export.set_attr(&self.caller, id, None, &change).map(|(attr, _)| attr).map_err(|e| e.errno())
    }

    /// rename within one directory.
    pub fn rename(&self, parent: NodeId, from: &str, to: &str, flags: RenameFlags) -> Answer<()> {
        self.export.rename(&self.caller, (parent, name(from)), (parent, name(to)), flags).map_err(|e| e.errno())
    }

    /// unlink.
    pub fn unlink(&self, parent: NodeId, text: &str) -> Answer<()> {
        self.export.unlink(&self.caller, parent, name(text)).map_err(|e| e.errno())
    }

    /// rmdir.
    pub fn rmdir(&self, parent: NodeId, text: &str) -> Answer<()> {
        self.export.rmdir(&self.caller, parent, name(text)).map_err(|e| e.errno())
    }

    /// opendir.
    pub fn open_dir(&self, id: NodeId) -> Answer<HandleId> {
        let handle = self.export.open_dir(id).map_err(|e| e.errno())?;
        self.held().dirs.push(handle.id);
        Ok(handle.id)
    }

    /// One answer's worth of a listing.
    pub fn some_names(&self, handle: HandleId, cookie: u64, room: usize, plus: bool) -> Answer<Names> {
        let mut names = Names { room, ..Names::default() };
        let result = match plus {
            true => self.export.read_dir_plus(handle, cookie, &mut names),
            false => self.export.read_dir(handle, cookie, &mut names),
        };
        self.held().nodes.extend(names.entries.iter().filter_map(|(_, _, known)| known.map(|entry| entry.id)));
        result.map(|()| names).map_err(|e| e.errno())
    }

    /// All names but the dots, sorted.
    pub fn names(&self, id: NodeId) -> Answer<Vec<String>> {
        let handle = self.open_dir(id)?;
        let names = self.some_names(handle, 0, 0, false)?;
        let mut names: Vec<String> = names.entries.iter().map(|(n, _, _)| String::from_utf8_lossy(n).into_owned()).collect();
        names.retain(|n| n != "." && n != "..");
        names.sort();
        Ok(names)
    }

    /// Gives everything back.
    ///
    /// # Panics
    /// When the export then still holds something.
    pub fn finish(self) {
        let held = std::mem::take(&mut *self.held());
        for handle in held.files {
            self.export.release(handle, None);
        }
        for handle in held.dirs {
            self.export.release_dir(handle);
        }
        for node in held.nodes {
            self.export.forget(node, 1);
        }
        if let Err(leak) = check_idle(self.export.as_ref()) {
            panic!("leak: {leak}");
        }
    }
}
