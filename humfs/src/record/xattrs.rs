//! [`Xattrs`]: the extended attributes of one object.

/// Names with their values, ordered by name. Few objects have any, and those
/// few of them: a sorted vector behind one pointer costs the others nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Xattrs(Option<Box<Entries>>);

type Entries = Vec<(Box<[u8]>, Box<[u8]>)>;

impl Xattrs {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |entries| entries.len())
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().flat_map(|entries| entries.iter()).map(|(name, value)| (&**name, &**value))
    }

    /// The value of `name`.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        let entries = self.0.as_ref()?;
        let index = entries.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        entries.get(index).map(|(_, value)| &**value)
    }

    /// Sets `name` to `value`.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        let entries = self.0.get_or_insert_default();
        match entries.binary_search_by(|(known, _)| (**known).cmp(name)) {
            Ok(index) => entries[index].1 = value.into(),
            Err(index) => entries.insert(index, (name.into(), value.into())),
        }
    }

    /// Takes `name` away; false if it was not there.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        let Some(entries) = &mut self.0 else { return false };
        let Ok(index) = entries.binary_search_by(|(known, _)| (**known).cmp(name)) else { return false };
        entries.remove(index);
        if entries.is_empty() {
            self.0 = None;
        }
        true
    }

    /// Bytes of all names and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> FromIterator<(N, V)> for Xattrs {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Xattrs {
        let mut xattrs = Xattrs::default();
        for (name, value) in pairs {
            xattrs.set(name.as_ref(), value.as_ref());
        }
        xattrs
    }
}
