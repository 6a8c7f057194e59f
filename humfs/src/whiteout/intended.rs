//! [`Intended`]: what `humfs/changes` says of a rename with a whiteout.
//!
//! Numbers are given out anew, so an object is known by the time of its birth
//! too. Intents of before have none.

use crate::intent;
use externfs::{Attr, GuestGid, GuestUid};
use hostfs::layer::key_of;

/// An object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Who {
    number: u64,
    born: Option<u64>,
}

impl Who {
    pub(super) fn of(host: &Attr) -> Who {
        let key = key_of(0, host);
        Who { number: key.number, born: Some(key.generation) }
    }

    /// Whether `host` was said of it.
    pub(super) fn is(&self, host: &Attr) -> bool {
        let now = Who::of(host);
        self.number == now.number && (self.born.is_none() || self.born == now.born)
    }

    #[cfg(test)]
    pub(super) fn born_at(self, born: u64) -> Who {
        Who { born: Some(born), ..self }
    }

    fn to_text(self) -> String {
        let born = self.born.map_or_else(String::new, |born| format!("@{born}"));
        format!("{}{born}", self.number)
    }

    fn parse(text: &[u8]) -> Option<Who> {
        let text = std::str::from_utf8(text).ok()?;
        let (number, born) = match text.split_once('@') {
            Some((number, born)) => (number, Some(born.parse().ok()?)),
            None => (text, None),
        };
        Some(Who { number: number.parse().ok()?, born })
    }
}

/// See the [module](self).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Intended {
    pub(super) moved: Who,
    pub(super) replaced: Option<Who>,
    /// The whiteout's.
    pub(super) owner: (GuestUid, GuestGid),
    pub(super) old: Vec<u8>,
    pub(super) new: Vec<u8>,
}

impl Intended {
    pub(super) fn to_text(&self) -> Vec<u8> {
        let replaced = self.replaced.map_or_else(|| "0".to_owned(), Who::to_text);
        let (uid, gid) = (self.owner.0.0.to_string(), self.owner.1.0.to_string());
        let moved = self.moved.to_text();
        let words = [b"whiteout", moved.as_bytes(), replaced.as_bytes(), uid.as_bytes(), gid.as_bytes(), &self.old, &self.new];
        intent::join(&words)
    }

    pub(super) fn parse(text: &[u8]) -> Option<Intended> {
        let fields = intent::split(text);
        let [word, moved, replaced, uid, gid, old, new] = fields.as_slice() else { return None };
        if word != b"whiteout" {
            return None;
        }
        let id = |field: &[u8]| std::str::from_utf8(field).ok()?.parse::<u32>().ok();
        Some(Intended {
            moved: Who::parse(moved)?,
            replaced: Some(Who::parse(replaced)?).filter(|who| who.number != 0),
            owner: (GuestUid(id(uid)?), GuestGid(id(gid)?)),
            old: old.clone(),
            new: new.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_is_read_and_so_is_what_was() {
        let who = |number, born| Who { number, born };
        let mut intended = Intended {
            moved: who(12, Some(u64::MAX)),
            replaced: Some(who(13, Some(0))),
            owner: (GuestUid(u32::MAX), GuestGid(7)),
            old: b"a@b/c".to_vec(),
            new: b"d".to_vec(),
        };
        let text = intended.to_text();
        assert_eq!(text, b"whiteout//12@18446744073709551615//13@0//4294967295//7//a@b/c//d");
        assert_eq!(Intended::parse(&text), Some(intended.clone()));
        intended.replaced = None;
        assert_eq!(Intended::parse(&intended.to_text()), Some(intended.clone()));
        intended.moved = who(12, None);
        assert_eq!(Intended::parse(b"whiteout//12//0//4294967295//7//a@b/c//d"), Some(intended));
        for wrong in [&b"whiteout//12@//0//1//1//a//b"[..], b"whiteout//x//0//1//1//a//b", b"rename//1//0//1//1//a//b", b"whiteout//1"] {
            assert_eq!(Intended::parse(wrong), None);
        }
    }
}
