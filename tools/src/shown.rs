//! Bytes and times for people: nothing that a guest chose can move a cursor,
//! colour a terminal or forge a line.

use externfs::{FileKind, Mode, Timestamp};

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

/// `2026-01-31 23:59:58` in UTC: the guest's time zone is not ours to know.
#[must_use]
pub fn time(at: Timestamp) -> String {
    let (days, second) = (at.seconds.div_euclid(86_400), at.seconds.rem_euclid(86_400));
    // Howard Hinnant's civil_from_days: a year begins in March, 400 of them are an era.
    let shifted = i128::from(days) + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i128::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
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
