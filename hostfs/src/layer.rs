//! What a plugin takes that keeps its data in a host directory as hostfs does
//! and something else beside it: humfs. It holds a [`HostFs`] over the data
//! and calls that for everything that is the same; where names change, it does
//! the host's part itself, between the book-keeping that is done here.
//!
//! The jail stays what it is: a descriptor that is handed out here was opened
//! by it, and names that come back are single components.

use crate::HostFs;
use crate::attr::{Stat, View};
use crate::fault::fault;
use crate::idmap::IdMap;
use crate::jail::Jail;
use crate::known::Known;
use crate::node::{Inode, OpenFile};
use crate::options::{Cache, Options};
use externfs::{Attr, Child, Created, FileCache, FileKind, Name, Opened, RenameFlags, Result};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A created file as layers get it.
pub type NewFile = Created<Arc<Inode>, Arc<OpenFile>>;

/// A directory and a name in it.
pub type Spot<'a> = (BorrowedFd<'a>, &'a CStr);

impl HostFs {
    /// The directory behind `root`. One that is not read only is ours alone:
    /// what is remembered of it stays right. Nothing is done in a caller's name.
    ///
    /// # Errors
    /// What the host says of the directory.
    pub fn layer(root: OwnedFd, read_only: bool) -> Result<HostFs> {
        let cache = if read_only { Cache::Auto } else { Cache::Always };
        let options = Options { cache, read_only, is_layers: !read_only, ..Options::default() };
        let jail = Jail::new(root, None, false).map_err(fault("jailing a directory"))?;
        let mut fs = HostFs::new(jail, options).map_err(fault("opening a directory"))?;
        fs.server.stay();
        fs.known = Some(Arc::default());
        Ok(fs)
    }

    /// Its directories that are remembered. Whoever drops a node of one that nobody
    /// may have any longer says so there.
    pub fn directories(&self) -> Option<Arc<Known>> {
        self.known.clone()
    }

    /// The exported directory.
    pub fn root_fd(&self) -> BorrowedFd<'_> {
        self.jail.root()
    }

    /// A descriptor (`O_PATH`) of a directory, for calls that take one and a name.
    ///
    /// # Errors
    /// ENOTDIR; ESTALE if it is no longer there.
    pub fn dir_fd(&self, node: &Arc<Inode>) -> Result<Arc<impl AsFd + Send + Sync + use<>>> {
        self.dir(node)
    }

    /// A descriptor of `node`, surely of that object, and what the host says of
    /// it: the open one where there is one, else `O_PATH`. The second value
    /// says which: true for open.
    ///
    /// # Errors
    /// ESTALE if it is no longer there.
    pub fn hold(&self, node: &Arc<Inode>) -> Result<(impl AsFd + use<>, bool, Attr)> {
        let (held, stat) = self.reach_with_stat(node)?;
        let open = held.is_open();
        let attr = self.tell(node, &stat)?;
        Ok((held, open, attr))
    }

    /// Opens for real what a descriptor stands for, a regular file.
    ///
    /// # Errors
    /// What openat(2) says.
    pub fn open_data(&self, fd: BorrowedFd<'_>, flags: rustix::fs::OFlags) -> Result<OwnedFd> {
        self.open_for_real(fd, flags)
    }

    /// The node for what is called `name` in `parent`, without looking at it
    /// through the jail's options. A directory that is remembered is believed to be
    /// there from now on, so the caller keeps the names in `parent` as they are.
    ///
    /// # Errors
    /// ENOENT, and what else statx(2) says.
    pub fn enroll(&self, parent: &Arc<Inode>, name: &CStr) -> Result<(Arc<Inode>, Attr)> {
        let dir = self.dir(parent)?;
        let stat = self.jail.stat(dir.as_fd(), name).map_err(fault("looking up a name"))?;
        self.found(parent, name.to_owned(), &stat)
    }

    /// The same for who walks through the tree while others change it: what was
    /// looked at may have moved before this returns, and a directory that is
    /// remembered elsewhere stays there. Nobody counts as told.
    ///
    /// # Errors
    /// The same.
    pub fn notice(&self, parent: &Arc<Inode>, name: &CStr) -> Result<(Arc<Inode>, Attr)> {
        let dir = self.dir(parent)?;
        let stat = self.jail.stat(dir.as_fd(), name).map_err(fault("looking up a name"))?;
        Ok((self.seen(parent, name, &stat)?, self.shown(&stat)?))
    }

    /// The node and the open file of `fd`, a regular file that was just made;
    /// `place` None for one without a name.
    ///
    /// # Errors
    /// What statx(2) says.
    pub fn enroll_file(&self, place: Option<(&Arc<Inode>, &CStr)>, fd: OwnedFd, writable: bool) -> Result<NewFile> {
        let stat = Stat::of_open(fd.as_fd())?;
        let (parent, name) = place.map_or((None, CString::default()), |(parent, name)| (Some(parent.clone()), name.to_owned()));
        let node = Arc::new(Inode::new(stat.key(), stat.kind()?, parent, name));
        if place.is_none() {
            self.keep_unnamed(&node, fd.as_fd())?;
        }
        let attr = self.tell(&node, &stat)?;
        let file = OpenFile::register(fd, node.clone(), writable, &self.locks);
        Ok(Created { node, attr, opened: Opened { file, cache: FileCache::Drop, size: stat.size() } })
    }

    /// Gives `node` another name by calling `link` with its descriptor and
    /// the place, and keeps the books.
    ///
    /// # Errors
    /// Those of `link`.
    pub fn link_by(
        &self,
        node: &Arc<Inode>,
        parent: &Arc<Inode>,
        name: Name<'_>,
        link: impl FnOnce(BorrowedFd<'_>, Spot<'_>) -> Result<()>,
    ) -> Result<Attr> {
        self.linking(node, parent, name, |held, dir, name| link(held, (dir, name)))
    }

    /// Removes a name by calling `remove`, and keeps the books.
    ///
    /// # Errors
    /// Those of `remove`.
    pub fn remove_by(
        &self,
        parent: &Arc<Inode>,
        child: &Child<'_, Arc<Inode>>,
        directory: bool,
        remove: impl FnOnce(Spot<'_>) -> Result<()>,
    ) -> Result<()> {
        self.removing(parent, child, directory, |dir, name| remove((dir, name)))
    }

    /// Renames by calling `rename`, and keeps the books.
    ///
    /// # Errors
    /// Those of `rename`.
    pub fn rename_by(
        &self,
        from: (&Arc<Inode>, &Child<'_, Arc<Inode>>),
        to: (&Arc<Inode>, &Child<'_, Arc<Inode>>),
        flags: RenameFlags,
        rename: impl FnOnce(Spot<'_>, Spot<'_>) -> Result<()>,
    ) -> Result<()> {
        self.renaming(from, to, flags, rename)
    }
}

/// What the host says of `name` in `dir`, links not followed.
///
/// # Errors
/// What statx(2) says; EIO for a type that is none.
pub fn status(dir: BorrowedFd<'_>, name: &CStr) -> std::result::Result<Attr, rustix::io::Errno> {
    let (stat, ids) = (Stat::of_name(dir, name)?, IdMap::default());
    let view = View { ids: &ids, hide_setid: false, hide_devices: false };
    stat.attr(&view).map_err(|_| rustix::io::Errno::IO)
}

/// The identity of an object on `volume` that is `attr`, as [`Inode::host_key`] has it.
#[must_use]
pub fn key_of(volume: u64, attr: &Attr) -> externfs::NodeKey {
    externfs::NodeKey { volume, number: attr.ino, generation: crate::attr::generation(attr.btime) }
}

/// The user whose the files are that the calling thread makes.
#[must_use]
pub fn acting_uid() -> u32 {
    crate::sys::set_fs_uid(u32::MAX)
}

/// The identity of what `fd` stands for, as [`Inode::host_key`] has it.
///
/// # Errors
/// What statx(2) says.
pub fn key(fd: BorrowedFd<'_>) -> std::result::Result<externfs::NodeKey, rustix::io::Errno> {
    Ok(Stat::of_fd(fd)?.key())
}

impl Inode {
    /// Its kind on the host.
    #[must_use]
    pub fn host_kind(&self) -> FileKind {
        self.kind()
    }

    /// Its identity on the host.
    #[must_use]
    pub fn host_key(&self) -> externfs::NodeKey {
        self.key()
    }

    /// The directory that holds it and its name there; None for the root and
    /// for what has no name (any more).
    #[must_use]
    pub fn whereabouts(&self) -> Option<(Arc<Inode>, CString)> {
        let place = self.place();
        if place.pin().is_some() {
            return None;
        }
        place.parent.clone().map(|parent| (parent, CString::from(&*place.name)))
    }
}

impl OpenFile {
    /// The open file's descriptor.
    #[must_use]
    pub fn data_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether it was opened for writing.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Whose file it is.
    #[must_use]
    pub fn inode(&self) -> &Arc<Inode> {
        &self.node
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use externfs::ExternFs;

    /// A look at a name, a rename by somebody else, and what is made of the look.
    #[test]
    fn a_directory_that_moves_is_not_put_back_by_who_has_seen_it_before() {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(place.path().join("p/d")).unwrap();
        std::fs::create_dir(place.path().join("q")).unwrap();
        let fs = HostFs::layer(std::fs::File::open(place.path()).unwrap().into(), false).unwrap();
        let root = fs.root().unwrap();
        let [p, q] = [c"p", c"q"].map(|name| fs.enroll(&root, name).unwrap().0);
        let (d, _) = fs.enroll(&p, c"d").unwrap();
        let stat = Stat::of_name(fs.dir_fd(&p).unwrap().as_fd(), c"d").unwrap();
        let from = Child { name: Name::new(b"d").unwrap(), node: Some(&d) };
        let to = Child { name: Name::new(b"e").unwrap(), node: None };
        let rename = |from: Spot<'_>, to: Spot<'_>| rustix::fs::renameat(from.0, from.1, to.0, to.1).map_err(fault("renaming"));
        fs.rename_by((&p, &from), (&q, &to), RenameFlags::empty(), rename).unwrap();
        assert!(Arc::ptr_eq(&fs.seen(&p, c"d", &stat).unwrap(), &d));
        assert!(d.is_the_child(&q, c"e"));
        assert!(Arc::ptr_eq(&fs.notice(&q, c"e").unwrap().0, &d) && fs.notice(&p, c"d").is_err());
        // Who holds the directory knows better.
        fs.found(&p, c"d".to_owned(), &stat).unwrap();
        assert!(d.is_the_child(&p, c"d"));
    }
}
