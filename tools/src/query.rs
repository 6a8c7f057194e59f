//! `externfs query`: a tree, or any directory, asked in SQL.

mod found;
mod ground;
mod made;
mod number;
mod repl;
mod scan;
mod survey;
mod words;

use crate::cli::Query;
use crate::failure::{Failure, Result};
use ground::Ground;
use sqlfs::query::{Answer, Ask, Format, Limits, Refusal};
use std::io::{BufWriter, IsTerminal, Write};
use std::time::Duration;

/// Bytes of an answer to one who wants more rows than usual.
const LARGE: u64 = 1 << 30;

/// Asks once, or again and again. Returns the exit code.
///
/// # Errors
/// One line: why there is no answer.
pub fn run(asked: &Query) -> Result<u8> {
    crate::process::raise_file_limit();
    let mut ground = Ground::open(asked, limits(asked))?;
    let Some(sql) = &asked.sql else { return repl::run(&mut ground, asked) };
    ground.renew()?;
    let ask = Ask { explain: asked.explain, ..Ask::new(sql, format(asked.format, asked.explain)) };
    let answer = ground.engine().run(ask).map_err(|refusal| refused(&refusal))?;
    print(&answer)?;
    Ok(0)
}

fn limits(asked: &Query) -> Limits {
    let usual = Limits { time: Duration::from_secs(asked.time), ..Limits::default() };
    match asked.rows {
        Some(rows) => Limits { rows, bytes: LARGE, held: LARGE, ..usual },
        None => usual,
    }
}

/// A plan has lines, not columns.
fn format(wanted: Option<Format>, explain: bool) -> Format {
    let usual = if std::io::stdout().is_terminal() && !explain { Format::Table } else { Format::Text };
    wanted.unwrap_or(usual)
}

/// A refusal, with what the host's administrator can do about it.
fn refused(refusal: &Refusal) -> Failure {
    let remedy = match refusal.limit.as_deref() {
        Some("time") => ": --time SECONDS allows more",
        Some("rows" | "bytes") => ": --rows N allows more",
        _ => "",
    };
    let line = Refusal { limit: None, ..refusal.clone() }.to_string();
    Failure::new(crate::shown::text(format!("{line}{remedy}").as_bytes()))
}

/// Puts an answer out; to a terminal, with nothing in it that the terminal would obey.
fn print(answer: &Answer) -> Result<()> {
    let stdout = std::io::stdout();
    let is_terminal = stdout.is_terminal();
    let mut out = BufWriter::with_capacity(64 << 10, stdout.lock());
    let done = if is_terminal { answer.write_to(&mut Tame(&mut out)) } else { answer.write_to(&mut out) };
    match done.and_then(|()| out.flush()) {
        // Whoever reads has enough.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::io("cannot write to standard output", &error)),
        _ => Ok(()),
    }
}

/// Writes what a terminal would obey as `\x1b`. Bytes of other writing systems
/// pass: they have been checked to be text where it matters, by the formats.
struct Tame<W: Write>(W);

impl<W: Write> Write for Tame<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        for piece in bytes.split_inclusive(|byte| is_order(*byte)) {
            match piece.split_last() {
                Some((last, before)) if is_order(*last) => {
                    self.0.write_all(before)?;
                    write!(self.0, "\\x{last:02x}")?;
                }
                _ => self.0.write_all(piece)?,
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

fn is_order(byte: u8) -> bool {
    byte.is_ascii_control() && !matches!(byte, b'\n' | b'\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_given_orders() {
        let mut out = Vec::new();
        Tame(&mut out).write_all("a\x1b[2J\tb\u{7f}\r\u{e4}\n".as_bytes()).expect("written");
        assert_eq!(String::from_utf8(out).expect("text"), "a\\x1b[2J\tb\\x7f\\x0d\u{e4}\n");
    }

    #[test]
    fn a_limit_comes_with_its_remedy() {
        let line = |limit| refused(&Refusal::limit(externfs::Errno::EFBIG, limit, "too much")).line;
        assert_eq!(line("rows"), "too much: --rows N allows more");
        assert_eq!(line("time"), "too much: --time SECONDS allows more");
        assert_eq!(line("heap"), "too much");
    }
}
