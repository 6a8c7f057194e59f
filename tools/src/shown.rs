//! Bytes and times for people: nothing that a guest chose can move a cursor,
//! colour a terminal or forge a line.

use externfs::{FileKind, Mode, Timestamp};
use std::io::{self, Write};

/// `bytes` with everything escaped that is no printable text.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\'' | '"' => shown.push(character),
                other => shown.extend(other.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            shown.push_str(&format!("\\x{byte:02x}"));
        }
    }
    shown
}

/// Writes text with everything escaped that a terminal would obey, and all that is
/// no text; lines and tabs, and marks that combine with letters, stay as they are.
/// A character may come in pieces.
pub struct Tame<W: Write> {
    out: W,
    /// The beginning of a character.
    begun: Vec<u8>,
}

impl<W: Write> Tame<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Tame<W> {
        Tame { out, begun: Vec::new() }
    }

    /// Nothing more comes: a character that is not whole is none.
    ///
    /// # Errors
    /// What the target says.
    pub fn finish(mut self) -> io::Result<()> {
        let begun = std::mem::take(&mut self.begun);
        self.put_invalid(&begun)
    }

    fn put(&mut self, text: &str) -> io::Result<()> {
        let mut rest = text;
        while let Some((at, order)) = rest.char_indices().find(|(_, character)| is_order(*character)) {
            let (before, from) = rest.split_at(at);
            self.out.write_all(before.as_bytes())?;
            if order.is_ascii() {
                write!(self.out, "\\x{:02x}", u32::from(order))?;
            } else {
                write!(self.out, "{}", order.escape_unicode())?;
            }
            rest = from.split_at(order.len_utf8()).1;
        }
        self.out.write_all(rest.as_bytes())
    }

    fn put_invalid(&mut self, bytes: &[u8]) -> io::Result<()> {
        bytes.iter().try_for_each(|byte| write!(self.out, "\\x{byte:02x}"))
    }
}

impl<W: Write> Write for Tame<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut joined = std::mem::take(&mut self.begun);
        let text = if joined.is_empty() {
            bytes
        } else {
            joined.extend(bytes);
            &joined
        };
        let mut chunks = text.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.put(chunk.valid())?;
            let is_begun = || std::str::from_utf8(chunk.invalid()).is_err_and(|error| error.error_len().is_none());
            if chunks.peek().is_none() && is_begun() {
                self.begun = chunk.invalid().to_vec();
            } else {
                self.put_invalid(chunk.invalid())?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Whether a terminal does something else with it than to show it where it is:
/// control characters, C1 among them, and those of Unicode that turn the direction
/// of what follows, break a line, or cannot be seen at all. The two joiners are
/// part of words and pictures.
fn is_order(character: char) -> bool {
    match character {
        '\n' | '\t' | '\u{200c}' | '\u{200d}' => false,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' => true,
        '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' => true,
        other => other.is_control(),
    }
}

/// A path in a tree, from its root: `/etc/passwd`.
#[must_use]
pub fn path(components: &[u8]) -> String {
    format!("/{}", text(components))
}

/// The ten characters of ls(1): `-rwsr-xr-x`.
#[must_use]
pub fn mode(kind: FileKind, mode: Mode) -> String {
    let letter = match kind {
        FileKind::Regular => '-',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::BlockDevice => 'b',
        FileKind::CharDevice => 'c',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
    };
    let bits = mode.bits();
    let mut shown = String::from(letter);
    for (shift, special, set, set_with_x) in [(6, 0o4000, 'S', 's'), (3, 0o2000, 'S', 's'), (0, 0o1000, 'T', 't')] {
        let three = bits >> shift;
        shown.push(if three & 4 != 0 { 'r' } else { '-' });
        shown.push(if three & 2 != 0 { 'w' } else { '-' });
        shown.push(match (bits & special != 0, three & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, false) => set,
            (true, true) => set_with_x,
        });
    }
    shown
}

/// What find(1) and stat(1) call a type.
#[must_use]
pub fn kind(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Regular => "regular file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symbolic link",
        FileKind::BlockDevice => "block device",
        FileKind::CharDevice => "character device",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
    }
}

/// A time to the second, in UTC.
#[must_use]
pub fn time(at: Timestamp) -> String {
    at.date()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_raw() {
        assert_eq!(text("Grüße 'x'".as_bytes()), "Grüße 'x'");
        assert_eq!(text(b"a\n\x1b[2J\xff\\"), "a\\n\\u{1b}[2J\\xff\\\\");
        assert_eq!(text("\u{202e}".as_bytes()), "\\u{202e}");
        assert_eq!(path(b""), "/");
    }

    #[test]
    fn a_terminal_is_not_given_orders() {
        for (pieces, shown) in [
            (&[&b"a\x1b[2J\tb\x7f\r\xc3\xa4\n"[..]][..], "a\\x1b[2J\tb\\x7f\\x0d\u{e4}\n"),
            // C1, as a character and as a byte.
            (&["\u{9b}31m".as_bytes(), b"\x9b31m\x85"], "\\u{9b}31m\\x9b31m\\x85"),
            (&["a\u{202e}b\u{2066}c\u{feff}".as_bytes()], "a\\u{202e}b\\u{2066}c\\u{feff}"),
            // In pieces: what is harmless, what is not, and what never comes.
            (&[b"\xf0\x9f", b"\x98", b"\x80."], "\u{1f600}."),
            (&[b"\xc2", b"\x9b", b"\xe2\x80", b"\xae"], "\\u{9b}\\u{202e}"),
            (&[b"\xe2\x82", b"a", b"\xe2\x82"], "\\xe2\\x82a\\xe2\\x82"),
            // Letters with marks of their own, and families.
            (&["u\u{308} \u{1f468}\u{200d}\u{1f469}".as_bytes()], "u\u{308} \u{1f468}\u{200d}\u{1f469}"),
        ] {
            let mut out = Vec::new();
            let mut tame = Tame::new(&mut out);
            pieces.iter().for_each(|piece| tame.write_all(piece).expect("written"));
            tame.finish().expect("written");
            assert_eq!(String::from_utf8(out).expect("text"), shown, "{pieces:?}");
        }
    }

    #[test]
    fn modes_look_as_in_ls() {
        for (bits, shown) in
            [(0o755, "-rwxr-xr-x"), (0o4755, "-rwsr-xr-x"), (0o6644, "-rwSr-Sr--"), (0o1777, "-rwxrwxrwt"), (0o1000, "---------T")]
        {
            assert_eq!(mode(FileKind::Regular, Mode::new(bits)), shown);
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, shown) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400, "2000-02-29 00:00:00"),
            (-1, "1969-12-31 23:59:59"),
            (1_795_746_947, "2026-11-27 02:35:47"),
            (4_102_444_800, "2100-01-01 00:00:00"),
        ] {
            assert_eq!(time(Timestamp { seconds, nanoseconds: 0 }), shown);
        }
        let _ = time(Timestamp { seconds: i64::MIN, nanoseconds: 0 });
    }
}
