//! [`Label`]: the name that an inode is remembered by. A million of them may
//! be, and most names are short: those lie within, without memory of their own.

use std::ffi::{CStr, CString};
use std::ops::Deref;

/// Bytes that fit, the NUL among them. One more would make every label larger.
const WITHIN: usize = 23;

/// A component of a path; empty for what has no name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Label {
    /// Up to its first NUL.
    Short([u8; WITHIN]),
    Long(Box<CStr>),
}

impl From<&CStr> for Label {
    fn from(name: &CStr) -> Label {
        let bytes = name.to_bytes_with_nul();
        let mut within = [0; WITHIN];
        match within.get_mut(..bytes.len()) {
            Some(place) => {
                place.copy_from_slice(bytes);
                Label::Short(within)
            }
            None => Label::Long(name.into()),
        }
    }
}

impl From<CString> for Label {
    fn from(name: CString) -> Label {
        if name.as_bytes().len() < WITHIN { Label::from(name.as_c_str()) } else { Label::Long(name.into_boxed_c_str()) }
    }
}

impl Default for Label {
    fn default() -> Label {
        Label::Short([0; WITHIN])
    }
}

impl Deref for Label {
    type Target = CStr;

    fn deref(&self) -> &CStr {
        match self {
            // There is a NUL: nothing longer is put there.
            Label::Short(within) => CStr::from_bytes_until_nul(within).unwrap_or_default(),
            Label::Long(name) => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_length_come_back() {
        for length in [0, 1, WITHIN - 2, WITHIN - 1, WITHIN, WITHIN + 1, 255] {
            let name = CString::new(vec![b'n'; length]).unwrap();
            let label = Label::from(name.as_c_str());
            assert_eq!(*label, *name, "{length}");
            assert_eq!(label, Label::from(name));
            assert_eq!(matches!(label, Label::Short(_)), length < WITHIN);
        }
        assert!(Label::default().is_empty());
        assert_eq!(size_of::<Label>(), WITHIN + 1);
    }
}
