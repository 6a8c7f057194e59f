//! [`Journal`]: what is about to be done in more than one step, written down
//! so that a successor can finish it.
//!
//! An intent is a symbolic link whose target is the text: making one is a
//! single operation on the host's metadata, so it is there or it is not, and
//! ext4 and xfs keep it in order with the operations that follow it, also
//! across a power failure. A text that is longer than a link can hold (paths
//! can be) is spread over several, of which the last one counts.
//!
//! Names: `N` for the intent with number N; `N.1`, `N.2`, ... for what comes
//! before the text of `N`.
//!
//! An intent says what is to become of some names, so it is right for as long as
//! they stay. One that is neither carried out nor crossed out sticks: who keeps
//! the journal lets no name change any more, and the next mount carries it out.

use crate::host::{self, Fault};
use rustix::fs::AtFlags;
use rustix::io::Errno as Host;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Bytes in one link: xfs takes targets of up to 1023, others more.
const PIECE: usize = 1000;

/// A directory of intents.
#[derive(Debug)]
pub struct Journal {
    dir: OwnedFd,
    next: AtomicU64,
    is_stuck: AtomicBool,
}

/// An intent that is written down. Dropping it leaves it there: that is what
/// a change that can neither go on nor be taken back wants.
#[derive(Debug)]
#[must_use = "an intent that is not crossed out is carried out again at the next mount"]
pub struct Intent {
    number: u64,
    pieces: usize,
}

impl Journal {
    /// Over the directory `dir`, in which nothing else is kept.
    #[must_use]
    pub fn new(dir: OwnedFd) -> Journal {
        Journal { dir, next: AtomicU64::new(1), is_stuck: AtomicBool::new(false) }
    }

    /// An intent stays here that must not outlive a change of names.
    pub(crate) fn stick(&self) {
        self.is_stuck.store(true, Ordering::Release);
    }

    /// Whether one does.
    pub(crate) fn is_stuck(&self) -> bool {
        self.is_stuck.load(Ordering::Acquire)
    }

    /// Writes `text` down. It must not be empty nor contain NUL.
    ///
    /// # Errors
    /// What symlinkat(2) says.
    pub fn begin(&self, text: &[u8]) -> Fault<Intent> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let pieces: Vec<&[u8]> = text.chunks(PIECE).collect();
        let (last, before) = pieces.split_last().ok_or(Host::INVAL)?;
        for (index, piece) in before.iter().enumerate() {
            rustix::fs::symlinkat(*piece, &self.dir, format!("{number}.{}", index + 1))?;
        }
        rustix::fs::symlinkat(*last, &self.dir, number.to_string())?;
        Ok(Intent { number, pieces: before.len() })
    }

    /// Crosses an intent out: it is done.
    ///
    /// # Errors
    /// What unlinkat(2) says.
    pub fn end(&self, intent: Intent) -> Fault<()> {
        rustix::fs::unlinkat(&self.dir, intent.number.to_string(), AtFlags::empty())?;
        for piece in 1..=intent.pieces {
            rustix::fs::unlinkat(&self.dir, format!("{}.{piece}", intent.number), AtFlags::empty())?;
        }
        Ok(())
    }

    /// What predecessors left, oldest first. Pieces whose intent was never
    /// finished are taken away; they mean nothing.
    ///
    /// # Errors
    /// What the host says of the directory.
    pub fn left_over(&self) -> Fault<Vec<(Intent, Vec<u8>)>> {
        let mut whole: Vec<u64> = Vec::new();
        let mut pieces: Vec<(u64, usize)> = Vec::new();
        for (name, _) in host::names(self.dir.as_fd())? {
            let text = name.to_string_lossy();
            match text.split_once('.') {
                None => whole.extend(text.parse::<u64>()),
                Some((number, piece)) => pieces.extend(number.parse().ok().zip(piece.parse().ok())),
            }
        }
        whole.sort_unstable();
        let mut found = Vec::new();
        for number in &whole {
            let count = pieces.iter().filter(|(of, _)| of == number).count();
            let mut text = Vec::new();
            for piece in 1..=count {
                text.extend(self.read(&format!("{number}.{piece}"))?);
            }
            text.extend(self.read(&number.to_string())?);
            found.push((Intent { number: *number, pieces: count }, text));
        }
        for (number, piece) in pieces.iter().filter(|(of, _)| !whole.contains(of)) {
            rustix::fs::unlinkat(&self.dir, format!("{number}.{piece}"), AtFlags::empty())?;
        }
        self.next.fetch_max(whole.last().map_or(1, |last| last + 1), Ordering::Relaxed);
        Ok(found)
    }

    fn read(&self, name: &str) -> Fault<Vec<u8>> {
        rustix::fs::readlinkat(&self.dir, name, Vec::new()).map(CString::into_bytes)
    }
}

/// Joins the fields of an intent. Fields are numbers, words and paths without
/// a leading or doubled slash, so `//` cannot occur in one.
#[must_use]
pub fn join(fields: &[&[u8]]) -> Vec<u8> {
    fields.join(&b"//"[..])
}

/// The fields of an intent. None is lost when one is empty.
#[must_use]
pub fn split(text: &[u8]) -> Vec<Vec<u8>> {
    let (mut fields, mut field, mut rest) = (Vec::new(), Vec::new(), text);
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'/' && after.first() == Some(&b'/') {
            fields.push(std::mem::take(&mut field));
            rest = after.get(1..).unwrap_or_default();
        } else {
            field.push(byte);
            rest = after;
        }
    }
    fields.push(field);
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(dir: &std::path::Path) -> Journal {
        Journal::new(std::fs::File::open(dir).unwrap().into())
    }

    #[test]
    fn an_intent_is_there_until_it_is_crossed_out() {
        let dir = tempfile::tempdir().unwrap();
        let one = journal(dir.path());
        let short = one.begin(b"short").unwrap();
        let long_text: Vec<u8> = (0..10_000u32).map(|n| b'a' + (n % 26) as u8).collect();
        let _kept = one.begin(&long_text).unwrap();
        one.end(short).unwrap();
        // A successor.
        let two = journal(dir.path());
        let found = two.left_over().unwrap();
        assert_eq!(found.len(), 1);
        let (intent, text) = found.into_iter().next().unwrap();
        assert_eq!(text, long_text);
        let _other = two.begin(b"its number is new").unwrap();
        two.end(intent).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn pieces_without_a_head_mean_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("half of a long text", dir.path().join("7.1")).unwrap();
        assert!(journal(dir.path()).left_over().unwrap().is_empty());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn fields_come_back() {
        for fields in [vec![&b"rename"[..], b"12", b"a/b c", b"x\ny"], vec![b"", b"a", b""], vec![b"one"]] {
            assert_eq!(split(&join(&fields)), fields);
        }
    }
}
