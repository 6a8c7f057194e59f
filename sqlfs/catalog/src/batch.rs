//! What is told to a [`Catalog`](crate::Catalog).

use externfs::{Attr, Timestamp};

/// How some of a tree's names and objects are now.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Names by their directory's number: what they lead to, or that they are gone.
    pub names: Vec<(u64, Box<[u8]>, Option<Link>)>,
    /// Objects by number; None for one that has lost its last name.
    pub objects: Vec<(u64, Option<Object>)>,
    /// What happened, oldest first.
    pub changes: Vec<Change>,
}

impl Batch {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.objects.is_empty() && self.changes.is_empty()
    }

    /// The same in parts of `most` rows, to be applied in this order: what a
    /// reader sees between two of them is neither old nor new.
    pub fn split(mut self, most: usize) -> impl Iterator<Item = Batch> {
        let mut is_over = self.is_empty();
        std::iter::from_fn(move || {
            if is_over {
                return None;
            }
            let mut part = Batch::default();
            part.objects = self.objects.split_off(self.objects.len().saturating_sub(most));
            part.names = self.names.split_off(self.names.len().saturating_sub(most - part.objects.len()));
            is_over = self.objects.is_empty() && self.names.is_empty();
            if is_over {
                part.changes = std::mem::take(&mut self.changes);
            }
            Some(part)
        })
    }

    /// Rows that it is about.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len() + self.objects.len()
    }
}

/// What a name leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// The object's number. Corresponds to `st_ino`.
    pub ino: u64,
    /// It is a directory.
    pub is_dir: bool,
}

/// What an object is.
#[derive(Clone, Debug)]
pub struct Object {
    /// As stat(2) tells it.
    pub attr: Attr,
    /// What is not in there; None leaves what is known.
    pub extra: Option<Extra>,
}

/// An extended attribute: its name, its value.
pub type Xattr = (Box<[u8]>, Box<[u8]>);

/// What stat(2) does not tell of an object.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Extra {
    /// A symbolic link's target; None leaves what is known.
    pub target: Option<Box<[u8]>>,
    /// All extended attributes.
    pub xattrs: Vec<Xattr>,
}

/// What happened to a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Op {
    Create,
    Link,
    Remove,
    Rename,
    Attributes,
    Write,
}

impl Op {
    /// As `root_changes` spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Op::Create => "create",
            Op::Link => "link",
            Op::Remove => "remove",
            Op::Rename => "rename",
            Op::Attributes => "attributes",
            Op::Write => "write",
        }
    }
}

/// One line of the recent past.
#[derive(Clone, Debug)]
pub struct Change {
    /// When.
    pub time: Timestamp,
    /// What.
    pub op: Op,
    /// The object's number.
    pub ino: u64,
    /// Its directory and its name there (the new one of a rename), if the
    /// change was one of names.
    pub place: Option<(u64, Box<[u8]>)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_whole_and_changes_come_last() {
        let name = |number: u64| (1, number.to_string().into_bytes().into(), None);
        let change = Change { time: Timestamp::default(), op: Op::Write, ino: 7, place: None };
        let (objects, names) = ((0..5).map(|ino| (ino, None)).collect(), (0..4).map(name).collect());
        let parts: Vec<Batch> = Batch { objects, names, changes: vec![change] }.split(3).collect();
        assert!(parts.iter().all(|part| part.len() <= 3));
        let mut seen: Vec<u64> = parts.iter().flat_map(|part| part.objects.iter().map(|(ino, _)| *ino)).collect();
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3, 4]);
        assert_eq!(parts.iter().map(|part| part.names.len()).sum::<usize>(), 4);
        assert_eq!(parts.iter().map(|part| part.changes.len()).collect::<Vec<_>>(), [0, 0, 1]);
        assert_eq!(Batch::default().split(3).count(), 0);
    }
}
