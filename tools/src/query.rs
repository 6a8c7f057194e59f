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
use crate::shown::Tame;
use ground::Ground;
use sqlfs::query::{Ask, Format, Limits, Refusal};
use std::io::{BufWriter, IsTerminal, Write};
use std::time::Duration;

/// Bytes of an answer to one who wants more rows than usual.
const LARGE: u64 = 1 << 30;

/// Asks once, or again and again. Returns the exit code.
///
/// # Errors
/// One line: why there is no answer.
pub fn run(asked: &Query) -> Result<u8> {
    if asked.sql.is_none() && !asked.repl {
        return Err(Failure::usage("nothing is asked: give an SQL statement, or --repl to ask one after another"));
    }
    crate::process::raise_file_limit();
    let mut ground = Ground::open(asked, limits(asked))?;
    let Some(sql) = &asked.sql else { return repl::run(&mut ground, asked) };
    ground.renew()?;
    let ask = Ask { explain: asked.explain, ..Ask::new(sql, format(asked.format, asked.explain)) };
    let answer = ground.engine().run(ask).map_err(|refusal| refused(&refusal))?;
    put(|out| answer.write_to(out))?;
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

/// Whoever reads our output.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reader {
    Reads,
    /// It has enough, as head(1).
    HasGone,
}

/// Puts out what `write` writes; to a terminal, with nothing in it that the terminal
/// would obey.
fn put(write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<Reader> {
    let stdout = std::io::stdout();
    let is_terminal = stdout.is_terminal();
    let mut out = BufWriter::with_capacity(64 << 10, stdout.lock());
    let done = if is_terminal {
        let mut tame = Tame::new(&mut out);
        write(&mut tame).and_then(|()| tame.finish())
    } else {
        write(&mut out)
    };
    match done.and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::Reads),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(Reader::HasGone),
        Err(error) => Err(Failure::io("cannot write to standard output", &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_comes_with_its_remedy() {
        let line = |limit| refused(&Refusal::limit(externfs::Errno::EFBIG, limit, "too much")).line;
        assert_eq!(line("rows"), "too much: --rows N allows more");
        assert_eq!(line("time"), "too much: --time SECONDS allows more");
        assert_eq!(line("heap"), "too much");
    }
}
