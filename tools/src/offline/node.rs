//! [`Node`] and [`File`]: what is held in a tree, and given back when dropped.

use super::Offline;
use super::data::{Buffer, Bytes};
use externfs::{
    Attr, Caller, CreateFlags, DirEntry, Entry, Errno, Export, Handle, HandleId, Listing, Mode, Name, NewNode, NodeId, OpenFlags,
    RenameFlags, Result, SetAttr, WriteFlags, XattrFlags,
};
use std::sync::Arc;

/// An object that is remembered until this is dropped.
pub struct Node {
    offline: Offline,
    id: NodeId,
    attr: Attr,
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.id != NodeId::ROOT {
            self.offline.export.forget(self.id, 1);
        }
    }
}

impl Node {
    pub(super) fn root(offline: Offline, attr: Attr) -> Node {
        Node { offline, id: NodeId::ROOT, attr }
    }

    fn of(&self, entry: &Entry) -> Node {
        Node { offline: self.offline.clone(), id: entry.id, attr: entry.attr }
    }

    fn export(&self) -> &dyn Export {
        &*self.offline.export
    }

    /// Its number, which is nothing else's for as long as this is held: unlike
    /// the host's, which two file systems may both have, and which a new file
    /// may get from one that is gone.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// As they were when it was looked up, made or last changed through this.
    #[must_use]
    pub fn attr(&self) -> &Attr {
        &self.attr
    }

    /// Looks at the attributes again.
    ///
    /// # Errors
    /// Those of stat(2).
    pub fn refresh(&mut self) -> Result<&Attr> {
        self.attr = self.export().get_attr(self.id, None)?.0;
        Ok(&self.attr)
    }

    /// The child called `name`.
    ///
    /// # Errors
    /// ENOENT.
    pub fn lookup(&self, name: Name<'_>) -> Result<Node> {
        self.export().lookup(&self.offline.caller, self.id, name).map(|entry| self.of(&entry))
    }

    /// As `lookup`, with None for a name that is free.
    ///
    /// # Errors
    /// All but ENOENT.
    pub fn find(&self, name: Name<'_>) -> Result<Option<Node>> {
        match self.lookup(name) {
            Ok(node) => Ok(Some(node)),
            Err(error) if error.errno() == Errno::ENOENT => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The names in this directory, ordered by their bytes.
    ///
    /// # Errors
    /// Those of readdir(3).
    pub fn names(&self) -> Result<Vec<Vec<u8>>> {
        let handle = self.export().open_dir(self.id)?;
        let mut names = Names::default();
        let listed = self.export().read_dir(handle.id, 0, &mut names);
        self.export().release_dir(handle.id);
        listed?;
        names.0.sort_unstable();
        Ok(names.0)
    }

    /// The target of a link.
    ///
    /// # Errors
    /// EINVAL if it is none.
    pub fn read_link(&self) -> Result<Vec<u8>> {
        self.export().read_link(self.id)
    }

    /// Changes attributes.
    ///
    /// # Errors
    /// Those of chmod(2), chown(2), truncate(2), utimensat(2).
    pub fn set_attr(&mut self, change: &SetAttr) -> Result<&Attr> {
        self.set_attr_of(None, change)
    }

    /// The same, of the object that `file` is open on.
    ///
    /// # Errors
    /// Those of fchmod(2), fchown(2), ftruncate(2), futimens(2).
    pub fn set_attr_of(&mut self, file: Option<&File>, change: &SetAttr) -> Result<&Attr> {
        let handle = file.map(|file| file.handle);
        self.attr = self.export().set_attr(&self.offline.caller, self.id, handle, change)?.0;
        Ok(&self.attr)
    }

    /// Every extended attribute, ordered by name.
    ///
    /// # Errors
    /// Those of listxattr(2) and getxattr(2).
    pub fn xattrs(&self) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let names = match self.export().list_xattr(self.id) {
            Ok(names) => names,
            Err(error) if error.errno() == Errno::EOPNOTSUPP => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut all = Vec::new();
        for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
            match self.export().get_xattr(self.id, name) {
                Ok(value) => all.push((name.to_vec(), value)),
                // hostfs lists what the host lists, and some of that is not for reading.
                Err(error) if matches!(error.errno(), Errno::ENODATA | Errno::EOPNOTSUPP) => {}
                Err(error) => return Err(error),
            }
        }
        all.sort_unstable();
        Ok(all)
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// Those of setxattr(2).
    pub fn set_xattr(&self, name: &[u8], value: &[u8]) -> Result<()> {
        self.export().set_xattr(&self.offline.caller, self.id, name, value, XattrFlags::empty())
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// ENODATA.
    pub fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        self.export().remove_xattr(&self.offline.caller, self.id, name)
    }

    /// Makes `name` in this directory, as root's.
    ///
    /// # Errors
    /// EEXIST.
    pub fn make(&self, name: Name<'_>, new: &NewNode<'_>, mode: Mode) -> Result<Node> {
        self.make_as(&self.offline.caller, name, new, mode)
    }

    /// Makes `name` in this directory, as `caller`'s.
    ///
    /// # Errors
    /// EEXIST.
    pub fn make_as(&self, caller: &Caller, name: Name<'_>, new: &NewNode<'_>, mode: Mode) -> Result<Node> {
        self.export().make(caller, self.id, name, new, mode).map(|entry| self.of(&entry))
    }

    /// Makes the regular file `name`, which must not exist, as root's.
    ///
    /// # Errors
    /// EEXIST.
    pub fn create(&self, name: Name<'_>, mode: Mode) -> Result<(Node, File)> {
        self.create_as(&self.offline.caller, name, mode)
    }

    /// As [`Node::create`], as `caller`'s.
    ///
    /// # Errors
    /// EEXIST.
    pub fn create_as(&self, caller: &Caller, name: Name<'_>, mode: Mode) -> Result<(Node, File)> {
        let open = OpenFlags { read: true, write: true, ..OpenFlags::default() };
        let (entry, handle) = self.export().create(caller, self.id, name, CreateFlags { mode, exclusive: true, open })?;
        Ok((self.of(&entry), self.file(&handle)))
    }

    /// Gives `node` the name `name` in this directory.
    ///
    /// # Errors
    /// EEXIST; EPERM for a directory.
    pub fn link(&self, node: &Node, name: Name<'_>) -> Result<Node> {
        self.export().link(&self.offline.caller, node.id, self.id, name).map(|entry| self.of(&entry))
    }

    /// Removes the name of what is no directory.
    ///
    /// # Errors
    /// ENOENT; EISDIR.
    pub fn unlink(&self, name: Name<'_>) -> Result<()> {
        self.export().unlink(&self.offline.caller, self.id, name)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// ENOENT; ENOTDIR; ENOTEMPTY.
    pub fn rmdir(&self, name: Name<'_>) -> Result<()> {
        self.export().rmdir(&self.offline.caller, self.id, name)
    }

    /// Renames within this directory, over what is called `to`.
    ///
    /// # Errors
    /// Those of rename(2).
    pub fn rename(&self, from: Name<'_>, to: Name<'_>) -> Result<()> {
        self.export().rename(&self.offline.caller, (self.id, from), (self.id, to), RenameFlags::empty())
    }

    /// Opens a regular file for reading, without a trace in its atime.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open_to_read(&self) -> Result<File> {
        self.open(OpenFlags { read: true, noatime: true, ..OpenFlags::default() })
    }

    /// Opens a regular file for writing, emptied.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open_to_replace(&self) -> Result<File> {
        self.open(OpenFlags { write: true, truncate: true, ..OpenFlags::default() })
    }

    fn open(&self, flags: OpenFlags) -> Result<File> {
        self.export().open(&self.offline.caller, self.id, flags).map(|handle| self.file(&handle))
    }

    fn file(&self, handle: &Handle) -> File {
        File { export: self.offline.export.clone(), handle: handle.id }
    }
}

/// An open file, closed when dropped.
pub struct File {
    export: Arc<dyn Export>,
    handle: HandleId,
}

impl Drop for File {
    fn drop(&mut self) {
        self.export.release(self.handle, None);
    }
}

impl File {
    /// Fills `buffer` from `offset` on; less only at the end of the file.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let size = buffer.len();
        self.export.read(self.handle, offset, size, &mut Buffer::new(buffer))
    }

    /// All of it, up to `most` bytes.
    ///
    /// # Errors
    /// EFBIG when there is more.
    pub fn read_all(&self, most: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; most.saturating_add(1)];
        let count = self.read(0, &mut bytes)?;
        if count > most {
            return Err(Errno::EFBIG.into());
        }
        bytes.truncate(count);
        Ok(bytes)
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// Those of write(2).
    pub fn write_all(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut source = Bytes(bytes);
        let mut at = offset;
        while !source.0.is_empty() {
            match self.export.write(self.handle, at, &mut source, WriteFlags::default())? {
                0 => return Err(Errno::EIO.into()),
                count => at += count as u64,
            }
        }
        Ok(())
    }

    /// The next offset with data at or after `offset`, and where that ends;
    /// None if there is no more. All is data where the tree does not know.
    ///
    /// # Errors
    /// EIO.
    pub fn next_data(&self, offset: u64, size: u64) -> Result<Option<(u64, u64)>> {
        use externfs::SeekFor::{Data, Hole};
        if offset >= size {
            return Ok(None);
        }
        let start = match self.export.seek(self.handle, offset, Data) {
            Ok(start) => start,
            Err(error) if error.errno() == Errno::ENXIO => return Ok(None),
            Err(error) if matches!(error.errno(), Errno::EOPNOTSUPP | Errno::EINVAL) => return Ok(Some((offset, size))),
            Err(error) => return Err(error),
        };
        let end = self.export.seek(self.handle, start, Hole)?;
        Ok((start < size).then(|| (start, end.min(size))))
    }

    /// Makes it durable.
    ///
    /// # Errors
    /// EIO.
    pub fn sync(&self) -> Result<()> {
        self.export.fsync(self.handle, false)
    }
}

/// Takes every name but the dots.
#[derive(Default)]
struct Names(Vec<Vec<u8>>);

impl Listing for Names {
    fn has_room(&self, _name_len: usize) -> bool {
        true
    }

    fn put(&mut self, entry: &DirEntry<'_>, _known: Option<&Entry>) {
        if !matches!(entry.name, b"." | b"..") {
            self.0.push(entry.name.to_vec());
        }
    }
}
