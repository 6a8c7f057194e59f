//! `externfs chmod`.

use crate::cli::Chmod;
use crate::failure::{Failure, Result};
use crate::offline::{self, failed};
use crate::shown;
use externfs::{FileKind, Mode, SetAttr};

/// Changes modes.
///
/// # Errors
/// A mode that is none, a path that is not there or is a link.
pub fn run(asked: &Chmod) -> Result<()> {
    let change = ModeChange::parse(&asked.mode).ok_or_else(|| {
        Failure::usage(format!(
            "'{}' is no mode: octal up to 7777, or u+x, go-w, a=rX and lists of these",
            shown::text(asked.mode.as_bytes())
        ))
    })?;
    let paths = super::paths(&asked.paths)?;
    let tree = offline::open(&asked.tree, true)?;
    super::for_each(&tree, &paths, asked.recursive, &mut |path, node| {
        let attr = *node.attr();
        if attr.kind == FileKind::Symlink {
            let line = format!("{}: it is a symbolic link, which has no mode: name what it leads to", shown::path(path.as_bytes()));
            return if asked.recursive { Ok(()) } else { Err(Failure::new(line)) };
        }
        let mode = Some(change.apply(attr.mode, attr.kind == FileKind::Directory));
        node.set_attr(&SetAttr { mode, ..SetAttr::default() }).map(drop).map_err(|error| failed(path.as_bytes(), &error))
    })?;
    tree.close()
}

/// What chmod(1) takes.
#[derive(Clone, PartialEq, Eq, Debug)]
enum ModeChange {
    /// These twelve bits.
    Exactly(Mode),
    /// These clauses, one after the other.
    Clauses(Vec<Clause>),
}

/// `WHO OP PERMISSIONS`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Clause {
    /// The bits of those who are meant: 0700, 0070, 0007 and their special ones.
    who: u32,
    operation: u8,
    /// As for everybody: `r` is 0444.
    bits: u32,
    /// `X`: execution for directories and what somebody can execute.
    maybe_execute: bool,
    /// `g=u`: whose bits are copied, as a shift.
    copied: Option<u32>,
}

impl ModeChange {
    fn parse(text: &str) -> Option<ModeChange> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777)?;
            return Some(ModeChange::Exactly(Mode::new(mode)));
        }
        let mut clauses = Vec::new();
        for part in text.split(',') {
            let letters = part.bytes().take_while(|byte| b"ugoa".contains(byte)).count();
            let (who, mut rest) = part.as_bytes().split_at(letters);
            let who = if who.is_empty() { 0o7777 } else { who.iter().fold(0, |all, letter| all | of_whom(*letter)) };
            if rest.is_empty() {
                return None;
            }
            while let Some((&operation, after)) = rest.split_first() {
                if !b"+-=".contains(&operation) {
                    return None;
                }
                let length = after.iter().take_while(|byte| !b"+-=".contains(byte)).count();
                let (permissions, next) = after.split_at(length);
                clauses.push(Clause::parse(who, operation, permissions)?);
                rest = next;
            }
        }
        Some(ModeChange::Clauses(clauses))
    }

    fn apply(&self, mode: Mode, directory: bool) -> Mode {
        match self {
            ModeChange::Exactly(mode) => *mode,
            ModeChange::Clauses(clauses) => Mode::new(clauses.iter().fold(mode.bits(), |bits, clause| clause.apply(bits, directory))),
        }
    }
}

fn of_whom(letter: u8) -> u32 {
    match letter {
        b'u' => 0o4700,
        b'g' => 0o2070,
        b'o' => 0o1007,
        _ => 0o7777,
    }
}

impl Clause {
    fn parse(who: u32, operation: u8, permissions: &[u8]) -> Option<Clause> {
        let mut clause = Clause { who, operation, bits: 0, maybe_execute: false, copied: None };
        if let &[letter @ (b'u' | b'g' | b'o')] = permissions {
            clause.copied = Some(match letter {
                b'u' => 6,
                b'g' => 3,
                _ => 0,
            });
            return Some(clause);
        }
        for letter in permissions {
            match letter {
                b'r' => clause.bits |= 0o444,
                b'w' => clause.bits |= 0o222,
                b'x' => clause.bits |= 0o111,
                b'X' => clause.maybe_execute = true,
                b's' => clause.bits |= 0o6000,
                b't' => clause.bits |= 0o1000,
                _ => return None,
            }
        }
        // The sticky bit is nobody's in particular.
        if clause.bits & 0o1000 != 0 {
            clause.who |= 0o1000;
        }
        Some(clause)
    }

    fn apply(self, mode: u32, directory: bool) -> u32 {
        let mut bits = self.bits;
        if self.maybe_execute && (directory || mode & 0o111 != 0) {
            bits |= 0o111;
        }
        if let Some(shift) = self.copied {
            bits = ((mode >> shift) & 7) * 0o111;
        }
        match self.operation {
            b'+' => mode | (bits & self.who),
            b'-' => mode & !(bits & self.who),
            _ => {
                // As chmod(1): a directory keeps what is not spelled out.
                let kept = if directory { mode & 0o7000 & self.who & !bits & !(self.bits & 0o7000) } else { 0 };
                (mode & !self.who) | (bits & self.who) | kept
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_those_of_chmod() {
        for (text, before, directory, after) in [
            ("755", 0o644, false, 0o755),
            ("04755", 0o644, false, 0o4755),
            ("0", 0o7777, false, 0),
            ("u+x", 0o644, false, 0o744),
            ("+x", 0o644, false, 0o755),
            ("-x", 0o755, false, 0o644),
            ("u+s,g+s", 0o755, false, 0o6755),
            ("+s", 0o755, false, 0o6755),
            ("u-s", 0o6755, false, 0o2755),
            ("+t", 0o777, true, 0o1777),
            ("o+t", 0o777, true, 0o1777),
            ("go=", 0o777, false, 0o700),
            ("a=rX", 0o640, false, 0o444),
            ("a=rX", 0o750, false, 0o555),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("g=u", 0o740, false, 0o770),
            ("o+g", 0o750, false, 0o755),
            ("u=rw+x", 0o000, false, 0o700),
            ("g=rx", 0o2755, true, 0o2755),
            ("g=rx", 0o2755, false, 0o755),
        ] {
            let change = ModeChange::parse(text).expect(text);
            assert_eq!(change.apply(Mode::new(before), directory), Mode::new(after), "{text} {before:o}");
        }
        for bad in ["", "8", "77777", "x", "u", "u+z", "u+x,", ",u+x", "a=ug", "u+x g-w", "rwx"] {
            assert_eq!(ModeChange::parse(bad), None, "{bad}");
        }
    }
}
