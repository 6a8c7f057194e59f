//! [`Restless`]: files that were written a short while ago, whose number of
//! blocks the host has not decided upon: that changes when it writes them out,
//! and nobody tells.
//!
//! They are looked at again when somebody asks, and at the end. After a minute
//! the host has written them out, unless it has been told to wait for longer.

use super::book::Parts;
use super::look;
use crate::node::HumNode;
use externfs_catalog::Object;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Twice as long as Linux lets a page be dirty.
const REST: Duration = Duration::from_secs(60);

/// Files that are remembered. Of the others, such as are written in many small
/// parts may be told with a block too many or too few until they are changed.
const FILES_MAX: usize = 4096;

/// See the [module](self).
#[derive(Default)]
pub(super) struct Restless(HashMap<u64, (Instant, Weak<HumNode>)>);

impl Restless {
    /// `node` has been written.
    pub(super) fn written(&mut self, node: &Arc<HumNode>) {
        let number = node.key().number;
        if self.0.len() < FILES_MAX || self.0.contains_key(&number) {
            self.0.insert(number, (Instant::now(), Arc::downgrade(node)));
        }
    }

    /// All of them as they are now; `paths` are those of one that was forgotten.
    pub(super) fn look(&mut self, parts: &Parts, mut paths: impl FnMut(u64) -> Vec<Vec<u8>>) -> Vec<(u64, Option<Object>)> {
        let mut objects = Vec::new();
        for (&ino, (_, node)) in &self.0 {
            let object = match node.upgrade() {
                Some(node) => look::known(parts, &node, None),
                None => paths(ino).iter().find_map(|path| look::at_path(parts, ino, path)),
            };
            objects.extend(object.map(|object| (ino, Some(object))));
        }
        self.0.retain(|_, (since, _)| since.elapsed() < REST);
        objects
    }
}
