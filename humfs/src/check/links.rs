//! [`Links`]: objects with several names, and what each name says of them.

use super::finding::{Finding, Problem, guest_path};
use crate::record::{Record, Target};
use crate::walk::{Folder, Seen};
use std::collections::HashMap;
use std::ffi::CString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// See the [module](self).
#[derive(Default)]
pub(super) struct Links(HashMap<(u64, u64), Link>);

struct Link {
    /// Names that the host counts.
    nlink: u32,
    /// Names that were seen.
    found: u32,
    /// Of the first record that could be read.
    digest: Option<u64>,
    /// The name that it is under; any, as long as there is none.
    folder: Arc<Folder>,
    name: CString,
}

/// What a name adds.
pub(super) struct Added {
    /// It is the first.
    pub(super) is_first: bool,
    /// Another name with another record.
    pub(super) split_from: Option<Box<[u8]>>,
}

/// Equal for equal records that are one, as the store tells them apart.
pub(super) fn digest(record: &Record, identity: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (record.to_block(Target::Block), identity).hash(&mut hasher);
    hasher.finish()
}

impl Links {
    /// Takes note of a name. `digest` None: its record cannot be read, or all
    /// names share it.
    pub(super) fn add(&mut self, seen: &Seen<'_>, digest: Option<u64>) -> Added {
        let name = seen.at.as_ref().map_or_else(CString::default, |at| at.name.to_owned());
        let mut is_first = false;
        let link = self.0.entry(seen.key()).or_insert_with(|| {
            is_first = true;
            Link { nlink: seen.host.nlink, found: 0, digest: None, folder: seen.folder.clone(), name: name.clone() }
        });
        link.found += 1;
        let split_from = match (link.digest, digest) {
            (Some(known), Some(other)) if known != other => Some(guest_path(&link.folder.path_of(&link.name))),
            (None, Some(_)) => {
                (link.digest, link.folder, link.name) = (digest, seen.folder.clone(), name);
                None
            }
            _ => None,
        };
        Added { is_first, split_from }
    }

    /// Whether one of the names of an object has a record that can be read.
    pub(super) fn has_record(&self, key: (u64, u64)) -> bool {
        self.0.get(&key).is_some_and(|link| link.digest.is_some())
    }

    /// Objects of which not every name was seen.
    pub(super) fn elsewhere(&self) -> impl Iterator<Item = Finding> {
        self.0.values().filter(|link| link.found < link.nlink).map(|link| {
            let problem = Problem::NameElsewhere { links: link.nlink, found: link.found };
            Finding::of_object(&link.folder.path_of(&link.name), problem, None)
        })
    }
}
