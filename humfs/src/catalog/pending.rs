//! [`Pending`]: what has changed since the book last wrote it down. Of each name
//! and of each object only how it is now.

use crate::node::HumNode;
use externfs::{Attr, FileKind, Timestamp};
use externfs_catalog::{Change, Link, Op};
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use hostfs::Inode;
use std::ffi::{CStr, CString};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

/// Lines of the recent past that are kept until they are written.
const CHANGES_KEPT: usize = 10_000;

/// How an object is now.
#[derive(Debug)]
pub(crate) enum Fate {
    /// It has no name.
    Gone,
    /// It has a name that only the catalog knows, if anybody: so often it was
    /// not found by that.
    Astray(u32),
    /// It can be asked; or it was changed to this.
    Known(Weak<HumNode>, Option<Box<Attr>>),
    /// It was forgotten; this led to it, and it has this target if it is a link
    /// that was made since: reading that would move its atime, which guests see.
    Forgotten(Arc<Inode>, CString, Option<Box<[u8]>>),
}

/// What has gathered.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub(crate) names: HashMap<(u64, Box<[u8]>), Option<Link>>,
    pub(crate) objects: HashMap<u64, Fate>,
    pub(crate) changes: Vec<Change>,
    /// Directories that were made during a scan: all in them is told.
    pub(crate) made_dirs: Vec<u64>,
    /// Not everything is in here.
    pub(crate) overflown: bool,
    /// See [`Feed`](super::feed::Feed).
    pub(crate) generation: u64,
}

impl Pending {
    pub(super) fn len(&self) -> usize {
        self.names.len() + self.objects.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0 && self.changes.is_empty() && !self.overflown
    }

    pub(super) fn note(&mut self, op: Op, ino: u64, place: Option<(u64, &[u8])>) {
        if self.changes.len() >= 2 * CHANGES_KEPT {
            self.changes.drain(..CHANGES_KEPT);
        }
        let place = place.map(|(parent, name)| (parent, name.into()));
        self.changes.push(Change { time: Timestamp::now(), op, ino, place });
    }

    /// `node`, which has a name, is to be looked at when all is written down, or is
    /// `attr`.
    pub(super) fn ask(&mut self, node: &Arc<HumNode>, attr: Option<&Attr>) {
        node.awaited.store(self.generation, Ordering::Release);
        self.objects.insert(number(node), Fate::Known(Arc::downgrade(node), attr.map(|attr| Box::new(*attr))));
    }

    /// The same of one that may have lost its last name, and then stays gone.
    pub(super) fn ask_again(&mut self, node: &Arc<HumNode>, attr: Option<&Attr>) {
        if !matches!(self.objects.get(&number(node)), Some(Fate::Gone)) {
            self.ask(node, attr);
        }
    }

    pub(super) fn lose(&mut self, loss: Loss<'_>) {
        if loss.is_last() {
            self.objects.insert(loss.host.ino, Fate::Gone);
            return;
        }
        match (loss.node, self.objects.entry(loss.host.ino)) {
            (Some(node), _) => self.ask(node, None),
            // Whoever is asked knows.
            (None, Entry::Occupied(entry)) if matches!(entry.get(), Fate::Known(..)) => {}
            // The name that led to it may be this one.
            (None, entry) => drop(entry.insert(Fate::Astray(0))),
        }
    }
}

/// A name that is gone.
#[derive(Clone, Copy)]
pub(crate) struct Loss<'a> {
    pub(crate) parent: &'a Arc<HumNode>,
    pub(crate) name: &'a CStr,
    /// What it led to, as the host has it, and the node if there is one.
    pub(crate) host: &'a Attr,
    pub(crate) node: Option<&'a Arc<HumNode>>,
}

impl Loss<'_> {
    fn is_last(&self) -> bool {
        self.host.kind == FileKind::Directory || self.host.nlink <= 1
    }
}

pub(super) fn number(node: &HumNode) -> u64 {
    node.key().number
}
