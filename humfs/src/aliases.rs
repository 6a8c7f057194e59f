//! [`Aliases`]: further names of an object that has several.
//!
//! Most formats keep a record by one of the object's names. The one that its
//! node goes by may be removed while the kernel goes on using another that it
//! has looked up before, without saying so again; or while a descriptor is open
//! and nobody has ever looked up the others, which are searched for then.

use crate::fs::HumFs;
use crate::node::HumNode;
use crate::store::{At, Format};
use crate::walk::{self, Folder, Ground, Seen, Visit};
use externfs::{Attr, Errno, Error, ExternFs, FileKind, Result};
use hostfs::Inode;
use std::ffi::{CStr, CString};
use std::sync::{Arc, Mutex, PoisonError};

/// Names that are remembered of one object; the oldest goes beyond that.
const NAMES_MAX: usize = 16;

/// Names that were right when they were learned. Few objects have any, so
/// nothing is a pointer.
#[derive(Debug, Default)]
pub(crate) struct Aliases(Option<Box<Names>>);

type Names = Vec<(Arc<Inode>, CString)>;

impl Aliases {
    /// `name` in `parent` leads to the object too.
    pub(crate) fn learn(&mut self, parent: &Arc<Inode>, name: &CStr) {
        let names = self.0.get_or_insert_default();
        strike(names, parent, name);
        if names.len() >= NAMES_MAX {
            names.remove(0);
        }
        names.push((parent.clone(), name.to_owned()));
    }

    /// `name` in `parent` does not lead to the object any more.
    pub(crate) fn unlearn(&mut self, parent: &Inode, name: &CStr) {
        let Some(names) = self.0.as_mut() else { return };
        strike(names, parent, name);
        if names.is_empty() {
            self.0 = None;
        }
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The one learned last.
    pub(crate) fn last(&self) -> Option<(Arc<Inode>, CString)> {
        self.0.as_ref()?.last().cloned()
    }

    /// The same, which is forgotten.
    fn take(&mut self) -> Option<(Arc<Inode>, CString)> {
        let names = self.0.as_mut()?;
        let taken = names.pop();
        if names.is_empty() {
            self.0 = None;
        }
        taken
    }
}

fn strike(names: &mut Names, parent: &Inode, name: &CStr) {
    names.retain(|(known, called)| **called != *name || known.host_key() != parent.host_key());
}

impl HumFs {
    /// A look-up has found `node`, known before, as `at`.
    pub(crate) fn learn_alias(&self, node: &HumNode, before: Option<(Arc<Inode>, CString)>, at: &At<'_>) {
        let now = node.inner.whereabouts();
        let differs = |parent: &Inode, name: &CStr| {
            now.as_ref().is_none_or(|(above, called)| above.host_key() != parent.host_key() || **called != *name)
        };
        let mut state = node.state();
        if let Some((parent, name)) = before.filter(|(parent, name)| differs(parent, name)) {
            state.aliases.learn(&parent, &name);
        }
        if differs(at.parent, at.name) {
            state.aliases.learn(at.parent, at.name);
        }
    }

    /// The object `host`, known or not, has moved from `old` to `new`.
    pub(crate) fn follow(&self, host: &Attr, old: &At<'_>, new: &At<'_>) {
        if host.nlink <= 1 || host.kind == FileKind::Directory {
            return;
        }
        let Ok((moved, _)) = self.base.enroll(new.parent, new.name) else { return };
        if let Some(node) = self.nodes.get(moved.host_key()) {
            let mut state = node.state();
            state.aliases.unlearn(old.parent, old.name);
            state.aliases.learn(new.parent, new.name);
        }
    }

    /// Lets `node`, whose name is gone, go by another one. False if it has
    /// none. No directory is held by the caller.
    pub(crate) fn take_alias(&self, node: &HumNode) -> bool {
        loop {
            // A statement of its own, for the lock's sake.
            let alias = node.state().aliases.take();
            let Some((parent, name)) = alias else { break };
            if self.go_by(node, &parent, &name) {
                return true;
            }
        }
        if node.state().orphan || self.store.format() == Format::Xattr {
            return false;
        }
        self.search(node).is_some_and(|(parent, name)| self.go_by(node, &parent, &name))
    }

    /// Lets `node` go by `name` in `parent`, if that leads to it.
    fn go_by(&self, node: &HumNode, parent: &Arc<Inode>, name: &CStr) -> bool {
        let _looking = self.dirs.look(parent);
        let Ok((again, _)) = self.base.enroll(parent, name) else { return false };
        let leads_to_it = again.host_key() == node.key();
        if leads_to_it {
            self.base.found_again(&node.inner, again);
        }
        leads_to_it
    }

    /// Looks for a name of `node` in the whole tree: slow, but once for each
    /// name that is lost, and without it the change would be.
    fn search(&self, node: &HumNode) -> Option<(Arc<Inode>, CString)> {
        let root = self.root().ok()?.inner.clone();
        let search = Search { wanted: node.key().number, found: Mutex::default() };
        // The end of the search is told as an error; others are not this one's.
        let _ = walk::walk(&Ground::new(&self.base, self.store.as_ref(), root), &search);
        search.found.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses to save a record that would be kept by a name, when the object
    /// has some but none was found: others move them about. The kernel looks up
    /// the path that it was given once more, if it was given one.
    pub(crate) fn check_named(&self, is_orphan: bool) -> Result<()> {
        if is_orphan || self.store.format() == Format::Xattr {
            return Ok(());
        }
        Err(Error::because(Errno::ESTALE, "the name that it was opened by is gone, and none of its others was found"))
    }
}

struct Search {
    /// Its number on the host.
    wanted: u64,
    found: Mutex<Option<(Arc<Inode>, CString)>>,
}

impl Visit for Search {
    fn see(&self, seen: &Seen<'_>) -> Result<()> {
        let Some(at) = &seen.at else { return Ok(()) };
        if seen.host.ino != self.wanted {
            return Ok(());
        }
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some((at.parent.clone(), at.name.to_owned()));
        Err(Errno::EINTR.into())
    }

    fn fail(&self, _folder: &Folder, _name: Option<&CStr>, _error: Error) -> Result<()> {
        Ok(())
    }
}
