//! [`Sheet`]: writes the rows of an answer in a format.

use super::failure::{Failure, Refusal};
use super::format::Format;
use externfs::Errno;
use rusqlite::types::ValueRef;
use std::collections::HashSet;
use std::io::{self, Write};

/// A writer that refuses what would make it more than `left` bytes.
pub(crate) struct Metered<W: Write> {
    inner: W,
    left: u64,
}

impl<W: Write> Metered<W> {
    pub(crate) fn new(inner: W, most: u64) -> Metered<W> {
        Metered { inner, left: most }
    }
}

impl<W: Write> Write for Metered<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        self.inner.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The answer is too large, or the spool broke.
pub(crate) fn spoiled(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::FileTooLarge => {
            Refusal::limit(Errno::EFBIG, "bytes", "the answer is larger than it may be: ask for less of it").into()
        }
        _ => Refusal::new(Errno::EIO, format!("writing the answer: {error}")).into(),
    }
}

/// See the [module](self).
pub(crate) struct Sheet<'w> {
    out: &'w mut dyn Write,
    format: Format,
    header: Vec<String>,
    rows: u64,
    /// Of a table: its cells are kept until their widths are known.
    cells: Vec<Vec<String>>,
    room: u64,
}

impl<'w> Sheet<'w> {
    /// Begins with the header, where the format has one. `room` is what a table may keep.
    pub(crate) fn begin(out: &'w mut dyn Write, format: Format, columns: &[&str], room: u64) -> io::Result<Sheet<'w>> {
        let header = match format {
            Format::Json | Format::JsonLines => distinct(columns),
            _ => columns.iter().map(|&name| name.to_owned()).collect(),
        };
        let mut sheet = Sheet { out, format, header, rows: 0, cells: Vec::new(), room };
        match format {
            Format::Csv => sheet.header_line(b',', csv_text)?,
            Format::Tsv => sheet.header_line(b'\t', escaped)?,
            Format::Json => sheet.out.write_all(b"[")?,
            Format::Text | Format::JsonLines | Format::Nul | Format::Table | Format::Value => {}
        }
        Ok(sheet)
    }

    fn header_line(&mut self, between: u8, put: fn(&mut dyn Write, &[u8]) -> io::Result<()>) -> io::Result<()> {
        for (number, name) in self.header.iter().enumerate() {
            if number > 0 {
                self.out.write_all(&[between])?;
            }
            put(self.out, name.as_bytes())?;
        }
        self.out.write_all(b"\n")
    }

    /// One row.
    pub(crate) fn row(&mut self, values: &[ValueRef<'_>]) -> Result<(), Failure> {
        if self.format == Format::Nul && values.iter().any(holds_nul) {
            return Err(Refusal::new(Errno::EINVAL, "a value contains a NUL byte, which .nul cannot show: use .json").into());
        }
        self.rows += 1;
        self.put_row(values).map_err(|error| spoiled(&error))
    }

    fn put_row(&mut self, values: &[ValueRef<'_>]) -> io::Result<()> {
        match self.format {
            Format::Text | Format::Tsv => self.delimited(values, b'\t', plain),
            Format::Csv => self.delimited(values, b',', csv),
            Format::Nul => values.iter().try_for_each(|value| {
                raw(self.out, value)?;
                self.out.write_all(b"\0")
            }),
            Format::Json => {
                self.out.write_all(if self.rows == 1 { b"\n" } else { b",\n" })?;
                self.object(values)
            }
            Format::JsonLines => {
                self.object(values)?;
                self.out.write_all(b"\n")
            }
            Format::Table => self.keep(values),
            Format::Value => match values.first() {
                Some(value) if self.rows == 1 => {
                    raw(self.out, value)?;
                    let is_line = !matches!(value, ValueRef::Null | ValueRef::Blob(_));
                    if is_line { self.out.write_all(b"\n") } else { Ok(()) }
                }
                _ => Ok(()),
            },
        }
    }

    fn delimited(
        &mut self,
        values: &[ValueRef<'_>],
        between: u8,
        put: fn(&mut dyn Write, &ValueRef<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        for (number, value) in values.iter().enumerate() {
            if number > 0 {
                self.out.write_all(&[between])?;
            }
            put(self.out, value)?;
        }
        self.out.write_all(b"\n")
    }

    fn object(&mut self, values: &[ValueRef<'_>]) -> io::Result<()> {
        self.out.write_all(b"{")?;
        for (number, (name, value)) in self.header.iter().zip(values).enumerate() {
            if number > 0 {
                self.out.write_all(b",")?;
            }
            json_text(self.out, name.as_bytes())?;
            self.out.write_all(b":")?;
            json(self.out, value)?;
        }
        self.out.write_all(b"}")
    }

    fn keep(&mut self, values: &[ValueRef<'_>]) -> io::Result<()> {
        let mut cells = Vec::with_capacity(values.len());
        for value in values {
            let mut bytes = Vec::new();
            plain(&mut bytes, value)?;
            // A String of its own, its place in two vectors: count those too.
            self.room = self.room.checked_sub(bytes.len() as u64 + 64).ok_or(io::ErrorKind::FileTooLarge)?;
            cells.push(String::from_utf8_lossy(&bytes).into_owned());
        }
        self.cells.push(cells);
        Ok(())
    }

    fn table(&mut self) -> io::Result<()> {
        let mut widths: Vec<usize> = self.header.iter().map(|name| name.chars().count()).collect();
        for row in &self.cells {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
        let header = std::mem::take(&mut self.header);
        for row in [&header, &rule].into_iter().chain(&self.cells) {
            let mut line = String::new();
            for (width, cell) in widths.iter().zip(row) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
            }
            writeln!(self.out, "{}", line.trim_end())?;
        }
        Ok(())
    }

    /// Ends it; returns the number of rows.
    pub(crate) fn end(mut self) -> Result<u64, Failure> {
        let ended = match self.format {
            Format::Json => self.out.write_all(if self.rows == 0 { b"]\n" } else { b"\n]\n" }),
            Format::Table => self.table(),
            _ => Ok(()),
        };
        ended.map(|()| self.rows).map_err(|error| spoiled(&error))
    }
}

/// An object with one name twice would lose a value in whoever parses it.
fn distinct(columns: &[&str]) -> Vec<String> {
    let mut taken = HashSet::new();
    let mut names = Vec::with_capacity(columns.len());
    for &column in columns {
        let mut name = column.to_owned();
        let mut number = 2;
        while !taken.insert(name.clone()) {
            name = format!("{column}_{number}");
            number += 1;
        }
        names.push(name);
    }
    names
}

fn holds_nul(value: &ValueRef<'_>) -> bool {
    matches!(value, ValueRef::Text(bytes) | ValueRef::Blob(bytes) if bytes.contains(&0))
}

/// As SQLite prints it: the shortest digits that mean it, with a point.
fn real(number: f64) -> String {
    match number {
        f64::INFINITY => "Inf".into(),
        f64::NEG_INFINITY => "-Inf".into(),
        _ => format!("{number:?}"),
    }
}

fn raw(out: &mut dyn Write, value: &ValueRef<'_>) -> io::Result<()> {
    match value {
        ValueRef::Null => Ok(()),
        ValueRef::Integer(number) => write!(out, "{number}"),
        ValueRef::Real(number) => out.write_all(real(*number).as_bytes()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => out.write_all(bytes),
    }
}

fn plain(out: &mut dyn Write, value: &ValueRef<'_>) -> io::Result<()> {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => escaped(out, bytes),
        other => raw(out, other),
    }
}

fn escaped(out: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    for piece in bytes.split_inclusive(|byte| matches!(byte, b'\t' | b'\n' | b'\\')) {
        match piece.split_last() {
            Some((b'\t', before)) => out.write_all(before).and_then(|()| out.write_all(b"\\t"))?,
            Some((b'\n', before)) => out.write_all(before).and_then(|()| out.write_all(b"\\n"))?,
            Some((b'\\', before)) => out.write_all(before).and_then(|()| out.write_all(b"\\\\"))?,
            _ => out.write_all(piece)?,
        }
    }
    Ok(())
}

fn csv(out: &mut dyn Write, value: &ValueRef<'_>) -> io::Result<()> {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => csv_text(out, bytes),
        other => raw(out, other),
    }
}

fn csv_text(out: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    let spaces = bytes.first() == Some(&b' ') || bytes.last() == Some(&b' ');
    if !bytes.is_empty() && !spaces && !bytes.iter().any(|byte| matches!(byte, b',' | b'"' | b'\n' | b'\r')) {
        return out.write_all(bytes);
    }
    out.write_all(b"\"")?;
    for piece in bytes.split_inclusive(|byte| *byte == b'"') {
        out.write_all(piece)?;
        if piece.last() == Some(&b'"') {
            out.write_all(b"\"")?;
        }
    }
    out.write_all(b"\"")
}

fn json(out: &mut dyn Write, value: &ValueRef<'_>) -> io::Result<()> {
    match value {
        ValueRef::Null => out.write_all(b"null"),
        ValueRef::Integer(number) => write!(out, "{number}"),
        // JSON has no word for it; this overflows to it in every reader.
        ValueRef::Real(number) if number.is_infinite() => out.write_all(if *number > 0.0 { b"9e999" } else { b"-9e999" }),
        ValueRef::Real(number) => write!(out, "{number:?}"),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => json_text(out, bytes),
    }
}

/// Bytes that are no UTF-8 become U+DC80 to U+DCFF, as Python reads file names
/// ("surrogateescape"), so that nothing is lost.
fn json_text(out: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(b"\"")?;
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' => out.write_all(b"\\\"")?,
                '\\' => out.write_all(b"\\\\")?,
                '\n' => out.write_all(b"\\n")?,
                '\r' => out.write_all(b"\\r")?,
                '\t' => out.write_all(b"\\t")?,
                control if control < ' ' || control == '\x7f' => write!(out, "\\u{:04x}", control as u32)?,
                other => out.write_all(other.encode_utf8(&mut [0; 4]).as_bytes())?,
            }
        }
        for byte in chunk.invalid() {
            write!(out, "\\udc{byte:02x}")?;
        }
    }
    out.write_all(b"\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(format: Format, rows: &[&[ValueRef<'_>]]) -> String {
        let mut out = Vec::new();
        let mut sheet = Sheet::begin(&mut out, format, &["a", "b"], 1 << 20).unwrap();
        rows.iter().for_each(|row| sheet.row(row).unwrap());
        assert_eq!(sheet.end(), Ok(rows.len() as u64));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_format_shows_the_same_rows() {
        use ValueRef::{Blob, Integer, Null, Real, Text};
        let rows: &[&[ValueRef<'_>]] = &[
            &[Text(b"x,\"y\"\t\\\n"), Null],
            &[Text(b""), Integer(-5)],
            &[Real(1.0), Real(f64::INFINITY)],
            &[Text("ä".as_bytes()), Blob(b"\xff\x01")],
        ];
        for (format, expected) in [
            (
                Format::Json,
                "[\n{\"a\":\"x,\\\"y\\\"\\t\\\\\\n\",\"b\":null},\n{\"a\":\"\",\"b\":-5},\n{\"a\":1.0,\"b\":9e999},\n{\"a\":\"ä\",\"b\":\"\\udcff\\u0001\"}\n]\n",
            ),
            (
                Format::JsonLines,
                "{\"a\":\"x,\\\"y\\\"\\t\\\\\\n\",\"b\":null}\n{\"a\":\"\",\"b\":-5}\n{\"a\":1.0,\"b\":9e999}\n{\"a\":\"ä\",\"b\":\"\\udcff\\u0001\"}\n",
            ),
        ] {
            assert_eq!(shown(format, rows), expected, "{format:?}");
        }
        let rows = &rows[..3];
        for (format, expected) in [
            (Format::Text, "x,\"y\"\\t\\\\\\n\t\n\t-5\n1.0\tInf\n"),
            (Format::Tsv, "a\tb\nx,\"y\"\\t\\\\\\n\t\n\t-5\n1.0\tInf\n"),
            (Format::Csv, "a,b\n\"x,\"\"y\"\"\t\\\n\",\n\"\",-5\n1.0,Inf\n"),
            (Format::Nul, "x,\"y\"\t\\\n\0\0\0-5\x001.0\0Inf\0"),
            (Format::Table, "a            b\n-----------  ---\nx,\"y\"\\t\\\\\\n\n             -5\n1.0          Inf\n"),
        ] {
            assert_eq!(shown(format, rows), expected, "{format:?}");
        }
        assert_eq!(shown(Format::Json, &[]), "[]\n");
        assert_eq!(shown(Format::Text, &[]), "");
    }

    #[test]
    fn nothing_is_cut_and_nothing_runs_together() {
        let mut metered = Metered::new(Vec::new(), 3);
        let mut sheet = Sheet::begin(&mut metered, Format::Text, &["a"], 1 << 20).unwrap();
        sheet.row(&[ValueRef::Integer(1)]).unwrap();
        let refused = sheet.row(&[ValueRef::Integer(23)]).unwrap_err().refusal;
        assert_eq!((refused.errno, refused.limit.as_deref()), (Errno::EFBIG, Some("bytes")));

        let mut out = Vec::new();
        let mut sheet = Sheet::begin(&mut out, Format::Nul, &["a"], 1 << 20).unwrap();
        assert_eq!(sheet.row(&[ValueRef::Blob(b"a\0b")]).unwrap_err().refusal.errno, Errno::EINVAL);

        let mut sheet = Sheet::begin(&mut out, Format::Table, &["a"], 1000).unwrap();
        let full = (0..20).map(|_| sheet.row(&[ValueRef::Integer(7)])).find_map(Result::err).expect("a limit");
        assert_eq!(full.refusal.errno, Errno::EFBIG);
    }

    #[test]
    fn json_names_are_distinct() {
        assert_eq!(distinct(&["a", "a", "b", "a", "a_2"]), ["a", "a_2", "b", "a_3", "a_2_2"]);
    }

    #[test]
    fn json_is_what_others_read() {
        let mut out = Vec::new();
        json_text(&mut out, b"\x00\x1f\x7f\"\\ \xc3\xa4 plain").unwrap();
        let read: String = serde_json::from_slice(&out).unwrap();
        assert_eq!(read, "\0\u{1f}\u{7f}\"\\ ä plain");
    }
}
