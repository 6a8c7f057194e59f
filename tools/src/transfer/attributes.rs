//! Extended attributes on their way: which of them a guest can have, and what
//! becomes of the others.
//!
//! File systems of the host have attributes of their own, such as
//! `btrfs.compression` or `system.nfs4_acl`, and archives made there have them
//! too. In a guest they would mean nothing, and its kernel knows no such names. So
//! they are left out, and people are told at the end.

use super::Item;
use crate::shown;
use std::collections::BTreeMap;

/// xattr(7): the namespaces of which everything can be kept.
const NAMESPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];

/// Both ACLs, which are all that there is of the namespace `system`.
pub(super) const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// The longest name of an attribute that Linux takes, in bytes.
const NAME_MAX: usize = 255;

/// So many names are told one by one: an archive can make up any number.
const TOLD_MAX: usize = 16;

/// Whether an object of a guest can have an attribute of this name.
pub(super) fn can_be_had(name: &[u8]) -> bool {
    let known = || NAMESPACES.iter().any(|namespace| name.strip_prefix(*namespace).is_some_and(|rest| !rest.is_empty()));
    name.len() <= NAME_MAX && (ACLS.contains(&name) || known())
}

/// What was left out, by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[must_use = "people want to know"]
pub struct LeftOut {
    /// How many objects had it.
    objects: BTreeMap<Vec<u8>, u64>,
    /// How many attributes had yet another name.
    others: u64,
}

impl LeftOut {
    /// Takes away from `item` what no guest can have.
    pub(super) fn sift(&mut self, item: &mut Item) {
        item.xattrs.retain(|(name, _)| {
            let stays = can_be_had(name);
            if !stays {
                self.count(name, 1);
            }
            stays
        });
    }

    fn count(&mut self, name: &[u8], objects: u64) {
        let told = self.objects.contains_key(name) || (self.objects.len() < TOLD_MAX && name.len() <= NAME_MAX);
        if told {
            *self.objects.entry(name.to_vec()).or_default() += objects;
        } else {
            self.others += objects;
        }
    }

    /// And what `more` says.
    pub fn add(&mut self, more: &LeftOut) {
        more.objects.iter().for_each(|(name, objects)| self.count(name, *objects));
        self.others += more.others;
    }

    /// Tells people.
    pub fn tell(&self) {
        for (name, objects) in &self.objects {
            let of = if *objects == 1 { "an object".to_owned() } else { format!("{objects} objects") };
            tracing::warn!("the attribute {} of {of} is left out: no guest can have it", shown::text(name));
        }
        if self.others > 0 {
            tracing::warn!("{} attributes of other names are left out: no guest can have them", self.others);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Body;
    use super::*;

    #[test]
    fn what_a_guest_can_have_stays() {
        for name in ["user.a", "trusted.overlay.opaque", "security.capability", "system.posix_acl_access", "system.posix_acl_default"] {
            assert!(can_be_had(name.as_bytes()), "{name}");
        }
        for name in ["", "user", "user.", "users.a", "system.nfs4_acl", "system.posix_acl_accessory", "btrfs.compression", "Security.a"] {
            assert!(!can_be_had(name.as_bytes()), "{name}");
        }
        assert!(can_be_had(&[&b"user."[..], &[b'n'; 250]].concat()) && !can_be_had(&[&b"user."[..], &[b'n'; 251]].concat()));
    }

    #[test]
    fn names_that_are_made_up_are_counted_together() {
        let named = |name: Vec<u8>| (name, vec![1]);
        let mut left_out = LeftOut::default();
        for turn in 0..100 {
            let xattrs =
                [named(b"a.b".to_vec()), named(format!("x.{turn}").into_bytes()), named(b"user.a".to_vec()), named(vec![b'l'; 1 << 20])];
            let (path, mode) = (crate::offline::TreePath::default(), externfs::Mode::new(0));
            let mut item = Item { path, body: Body::Directory, mode, owner: None, mtime: None, atime: None, xattrs: xattrs.to_vec() };
            left_out.sift(&mut item);
            assert_eq!(item.xattrs, [named(b"user.a".to_vec())]);
        }
        let mut both = left_out.clone();
        both.add(&left_out);
        assert_eq!(both.objects.get(&b"a.b"[..]), Some(&200));
        assert_eq!((both.objects.len(), both.others), (TOLD_MAX, 2 * (300 - 100 - (TOLD_MAX as u64 - 1))));
    }
}
