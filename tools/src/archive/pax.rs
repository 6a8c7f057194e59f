//! The records of a PAX extended header: `LENGTH KEYWORD=VALUE\n`, where the
//! length counts the whole record and the value may be any bytes.

use super::broken;
use externfs::Timestamp;
use std::collections::BTreeMap;
use std::io;

/// What the keyword of an extended attribute begins with.
pub(super) const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// Keywords with their values. Of a keyword that may repeat, all are kept in
/// order; of the others the last counts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Records {
    last: BTreeMap<Vec<u8>, Vec<u8>>,
    /// `GNU.sparse.offset` and `.numbytes` of format 0.0, as they come.
    pub(super) sparse: Vec<(u64, u64)>,
}

impl Records {
    /// Takes in what `bytes` says, over what is there.
    pub(super) fn read(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        let mut offset = None;
        while !rest.is_empty() {
            let (record, after) = split(rest).ok_or_else(|| broken("a PAX header is malformed"))?;
            rest = after;
            let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(|| broken("a PAX record has no '='"))?;
            let (key, value) = (record.get(..equals).unwrap_or_default(), record.get(equals + 1..).unwrap_or_default());
            match key {
                b"GNU.sparse.offset" => offset = Some(decimal(value)?),
                b"GNU.sparse.numbytes" => {
                    self.sparse.push((offset.take().ok_or_else(|| broken("a sparse map is malformed"))?, decimal(value)?))
                }
                // An empty value takes an earlier one back, for all but attributes.
                _ if value.is_empty() && !key.starts_with(XATTR_PREFIX) => drop(self.last.remove(key)),
                _ => drop(self.last.insert(key.to_vec(), value.to_vec())),
            }
        }
        Ok(())
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.last.get(key).map(Vec::as_slice)
    }

    pub(super) fn take(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        self.last.remove(key)
    }

    /// The number under `key`.
    pub(super) fn number(&self, key: &[u8]) -> io::Result<Option<u64>> {
        self.get(key).map(decimal).transpose()
    }

    /// The time under `key`.
    pub(super) fn time(&self, key: &[u8]) -> io::Result<Option<Timestamp>> {
        self.get(key).map(|value| time(value).ok_or_else(|| broken("a PAX header has a time that is none"))).transpose()
    }

    /// Those whose keyword begins with `prefix`, without it.
    pub(super) fn with_prefix<'r>(&'r self, prefix: &'r [u8]) -> impl Iterator<Item = (&'r [u8], &'r [u8])> {
        let from = self.last.range(prefix.to_vec()..);
        from.map_while(move |(key, value)| key.strip_prefix(prefix).map(|name| (name, value.as_slice())))
    }
}

/// The first record without its length and LF, and what follows it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().position(|&byte| byte == b' ')?;
    let length = usize::try_from(decimal(bytes.get(..space)?).ok()?).ok()?;
    let record = bytes.get(space + 1..length)?;
    Some((record.strip_suffix(b"\n")?, bytes.get(length..)?))
}

/// A decimal number.
pub(super) fn decimal(text: &[u8]) -> io::Result<u64> {
    let digits = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|text| text.parse().ok()).ok_or_else(|| broken("a PAX header has a number that is none"))
}

/// Seconds with a fraction: `-1.5` is half a second before -1.
fn time(text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?;
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let whole: i64 = whole.parse().ok()?;
    let nanoseconds: u32 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    Some(match (negative, nanoseconds) {
        (false, _) => Timestamp { seconds: whole, nanoseconds },
        (true, 0) => Timestamp { seconds: -whole, nanoseconds: 0 },
        (true, _) => Timestamp { seconds: -whole - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

/// Writes a time as [`time`] reads it.
pub(super) fn time_text(at: Timestamp) -> String {
    let fraction =
        |nanoseconds: u32| if nanoseconds == 0 { String::new() } else { format!(".{nanoseconds:09}").trim_end_matches('0').to_owned() };
    if at.seconds < 0 && at.nanoseconds > 0 {
        let whole = (at.seconds + 1).unsigned_abs();
        return format!("-{whole}{}", fraction(1_000_000_000 - at.nanoseconds));
    }
    format!("{}{}", at.seconds, fraction(at.nanoseconds))
}

/// Appends a record.
pub(super) fn append(to: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // The length counts its own digits.
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    to.extend(length.to_string().as_bytes());
    to.push(b' ');
    to.extend(key);
    to.push(b'=');
    to.extend(value);
    to.push(b'\n');
}

/// The name of an attribute inside a keyword, which `=` would end. GNU tar
/// writes it the same way.
pub(super) fn escape(name: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(name.len());
    for &byte in name {
        match byte {
            b'%' => escaped.extend(b"%25"),
            b'=' => escaped.extend(b"%3D"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Undoes [`escape`].
pub(super) fn unescape(name: &[u8]) -> Vec<u8> {
    let (mut plain, mut rest) = (Vec::with_capacity(name.len()), name);
    while let Some((&byte, after)) = rest.split_first() {
        let (byte, after) = match after {
            [b'2', b'5', after @ ..] if byte == b'%' => (b'%', after),
            [b'3', b'D', after @ ..] if byte == b'%' => (b'=', after),
            _ => (byte, after),
        };
        plain.push(byte);
        rest = after;
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_whatever_is_in_them() {
        let values: Vec<Vec<u8>> =
            vec![b"".into(), b"a\nb=c".into(), vec![0; 90], vec![b'\n'; 95], (0..=255).collect(), vec![b'x'; 10_000]];
        for value in values {
            let mut bytes = Vec::new();
            append(&mut bytes, b"SCHILY.xattr.user.a", &value);
            append(&mut bytes, b"path", b"p");
            let mut records = Records::default();
            records.read(&bytes).expect("reads");
            assert_eq!(records.with_prefix(b"SCHILY.xattr.").collect::<Vec<_>>(), [(&b"user.a"[..], &value[..])]);
            assert_eq!(records.get(b"path"), Some(&b"p"[..]));
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in
            [&b"x"[..], b"5 a=b", b"99 a=b\n", b"5 a=bX", b"4 ab\n", b"0 a=b\n", b"-6 a=b\n", b"6 a=b\n6", b"18446744073709551616 a=b\n"]
        {
            assert!(Records::default().read(bad).is_err(), "{:?}", bad.escape_ascii().to_string());
        }
    }

    #[test]
    fn times_before_and_after_the_epoch() {
        for (text, seconds, nanoseconds) in [
            ("0", 0, 0),
            ("1.5", 1, 500_000_000),
            ("1.000000001", 1, 1),
            ("-1", -1, 0),
            ("-1.5", -2, 500_000_000),
            ("-0.25", -1, 750_000_000),
        ] {
            let at = Timestamp { seconds, nanoseconds };
            assert_eq!(time(text.as_bytes()), Some(at), "{text}");
            assert_eq!(time_text(at), text);
        }
        assert_eq!(time(b"1.1234567899"), Some(Timestamp { seconds: 1, nanoseconds: 123_456_789 }));
        for bad in ["", ".5", "x", "1.x", "--1", "1.5.5", "99999999999999999999"] {
            assert!(time(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
