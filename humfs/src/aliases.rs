//! [`Aliases`]: further names of an object that has several.
//!
//! Most formats keep a record by one of the object's names. The one that its
//! node goes by may be removed while the kernel goes on using another that it
//! has looked up before, without saying so again.

use crate::fs::HumFs;
use crate::node::HumNode;
use crate::store::{At, Format};
use externfs::{Errno, Error, ExternFs, Result};
use hostfs::Inode;
use std::ffi::{CStr, CString};
use std::sync::Arc;

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
        names.retain(|(known, called)| **called != *name || known.host_key() != parent.host_key());
        if names.len() >= NAMES_MAX {
            names.remove(0);
        }
        names.push((parent.clone(), name.to_owned()));
    }

    /// The one learned last, which is forgotten.
    fn take(&mut self) -> Option<(Arc<Inode>, CString)> {
        let names = self.0.as_mut()?;
        let taken = names.pop();
        if names.is_empty() {
            self.0 = None;
        }
        taken
    }
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

    /// Lets `node`, whose name is gone, go by another one. False if none is
    /// known. No directory is held by the caller.
    pub(crate) fn take_alias(&self, node: &HumNode) -> bool {
        loop {
            // A statement of its own, for the lock's sake.
            let alias = node.state().aliases.take();
            let Some((parent, name)) = alias else { return false };
            let _looking = self.dirs.look(&parent);
            let Ok((again, _)) = self.base.enroll(&parent, &name) else { continue };
            if again.host_key() == node.key() {
                self.base.found_again(&node.inner, again);
                return true;
            }
        }
    }

    /// Refuses to save a record that would be kept by a name, when the object
    /// has some but none is known.
    pub(crate) fn check_named(&self, is_orphan: bool) -> Result<()> {
        if is_orphan || self.store.format() == Format::Xattr {
            return Ok(());
        }
        Err(Error::because(Errno::EIO, "the name that it was opened by is gone, and none of its others has been looked up"))
    }
}
