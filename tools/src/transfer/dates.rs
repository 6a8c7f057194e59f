//! What is set on directories last, because what happens in them changes it.

use super::Item;
use crate::offline::TreePath;
use externfs::{GuestGid, GuestUid, Mode, SetAttr, SetTime, Timestamp};

/// The attributes of a directory that is being filled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Later {
    pub(super) path: TreePath,
    pub(super) mode: Mode,
    pub(super) owner: Option<(GuestUid, GuestGid)>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) atime: Option<Timestamp>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Later {
    pub(super) fn of(item: &Item) -> Later {
        let Item { path, mode, owner, mtime, atime, xattrs, .. } = item;
        Later { path: path.clone(), mode: *mode, owner: *owner, mtime: *mtime, atime: *atime, xattrs: xattrs.clone() }
    }
}

/// The change that sets the times; nothing when they are to be now.
pub(super) fn times(mtime: Option<Timestamp>, atime: Option<Timestamp>) -> SetAttr {
    let mtime = mtime.map(SetTime::At);
    SetAttr { mtime, atime: atime.map(SetTime::At).or(mtime), ..SetAttr::default() }
}
