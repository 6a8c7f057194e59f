//! `externfs query --repl`: one question after another.

use super::ground::Ground;
use super::words::{ORDERS, Words};
use super::{Reader, format, put, refused};
use crate::cli::{Query, parse_answer_format};
use crate::failure::{Failure, Result};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, Editor};
use sqlfs::query::{Ask, Format, Schema, is_whole};
use std::io::{IsTerminal, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

/// Statements that are remembered.
const REMEMBERED: usize = 1000;

/// A conversation.
struct Talk<'g> {
    ground: &'g mut Ground,
    schema: Schema,
    format: Format,
    last: Option<String>,
    /// Something was refused.
    has_failed: bool,
    /// Once it has gone there is nobody to ask for.
    reader: Reader,
}

/// What comes after an order.
enum Next {
    GoOn,
    Quit,
}

/// Reads statements until there are no more. Returns the exit code: 1 if what is no
/// terminal has asked for something that was refused.
///
/// # Errors
/// There is nothing to ask.
pub(super) fn run(ground: &mut Ground, asked: &Query) -> Result<u8> {
    ground.renew()?;
    let schema = ground.engine().schema().map_err(|refusal| refused(&refusal))?;
    let is_terminal = std::io::stdin().is_terminal();
    let config = Config::builder().max_history_size(REMEMBERED).map_err(broken)?.auto_add_history(false).build();
    let mut editor: Editor<Words, FileHistory> = Editor::with_config(config).map_err(broken)?;
    editor.set_helper(Some(Words::new(&schema)));
    let history = history_file().filter(|_| is_terminal);
    if let Some(file) = &history {
        // There is none the first time.
        let _ = editor.load_history(file);
    }
    if is_terminal {
        put(|out| writeln!(out, "Statements end with ';'. Views: {}. .help tells more.", names(&schema).join(", ")))?;
    }
    let mut talk = Talk { ground, schema, format: format(asked.format, false), last: None, has_failed: false, reader: Reader::Reads };
    talk.hold(&mut editor)?;
    if let Some(file) = &history
        && let Err(error) = editor.save_history(file)
    {
        tracing::warn!("the history is not kept: {}: {error}", file.display());
    }
    Ok(u8::from(talk.has_failed && !is_terminal))
}

fn broken(error: ReadlineError) -> Failure {
    Failure::new(format!("cannot read statements: {error}"))
}

/// Where statements are remembered; None where nobody has said where such things go.
fn history_file() -> Option<PathBuf> {
    let state = PathBuf::from(std::env::var_os("XDG_STATE_HOME")?);
    let dir = state.join("externfs");
    let made = state.is_absolute() && std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).is_ok();
    made.then(|| dir.join("history"))
}

fn names(schema: &Schema) -> Vec<&str> {
    schema.tables.iter().map(|table| table.name.as_str()).collect()
}

impl Talk<'_> {
    fn hold(&mut self, editor: &mut Editor<Words, FileHistory>) -> Result<()> {
        let mut text = String::new();
        while self.reader == Reader::Reads {
            match editor.readline(if text.is_empty() { "sql> " } else { "...> " }) {
                Ok(line) if text.is_empty() && line.trim().is_empty() => {}
                Ok(line) if text.is_empty() && line.trim_start().starts_with('.') => {
                    remember(editor, line.trim());
                    if let Next::Quit = self.order(line.trim()) {
                        return Ok(());
                    }
                }
                Ok(line) => {
                    text.push_str(&line);
                    text.push('\n');
                    if is_whole(&text) {
                        let statement = std::mem::take(&mut text);
                        remember(editor, statement.trim());
                        self.answer(statement.trim(), false);
                    }
                }
                Err(ReadlineError::Interrupted) => text.clear(),
                Err(ReadlineError::Eof) if text.trim().is_empty() => return Ok(()),
                // The last of a file needs no ';'.
                Err(ReadlineError::Eof) => {
                    self.answer(text.trim(), false);
                    return Ok(());
                }
                Err(error) => return Err(broken(error)),
            }
        }
        Ok(())
    }

    /// Runs a statement and shows what comes of it.
    fn answer(&mut self, statement: &str, explain: bool) {
        self.last = Some(statement.to_owned());
        let format = if explain && self.format == Format::Table { Format::Text } else { self.format };
        let ask = Ask { explain, ..Ask::new(statement, format) };
        let run = self.ground.renew().and_then(|()| self.ground.engine().run(ask).map_err(|refusal| refused(&refusal)));
        match run {
            Ok(answer) => self.put(|out| answer.write_to(out)),
            Err(failure) => self.fail(&failure.line),
        }
    }

    fn put(&mut self, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) {
        match put(write) {
            Ok(reader) => self.reader = reader,
            Err(failure) => self.fail(&failure.line),
        }
    }

    fn fail(&mut self, line: &str) {
        self.has_failed = true;
        // Nobody may be there to read that either.
        let _ = writeln!(std::io::stderr(), "{line}");
    }

    fn order(&mut self, line: &str) -> Next {
        let (order, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match order {
            ".quit" | ".exit" => return Next::Quit,
            ".help" => self.put(|out| ORDERS.iter().try_for_each(|(order, help)| writeln!(out, "{order:<22} {help}"))),
            ".tables" => {
                let names: String = names(&self.schema).iter().map(|name| format!("{name}\n")).collect();
                self.put(|out| out.write_all(names.as_bytes()));
            }
            ".schema" => self.show_schema(rest),
            ".format" => match parse_answer_format(rest) {
                Ok(format) => self.format = format,
                Err(those) => self.fail(&those),
            },
            ".explain" => {
                let statement = if rest.is_empty() { self.last.clone() } else { Some(rest.to_owned()) };
                match statement {
                    Some(statement) => self.answer(&statement, true),
                    None => self.fail("there is no statement yet: .explain STATEMENT"),
                }
            }
            ".rescan" => self.ground.forget(),
            _ => self.fail(&format!("there is no {order}: .help lists what there is")),
        }
        Next::GoOn
    }

    fn show_schema(&mut self, wanted: &str) {
        let found: Vec<_> =
            self.schema.tables.iter().filter(|table| wanted.is_empty() || table.name.eq_ignore_ascii_case(wanted)).collect();
        if found.is_empty() {
            let line = format!("there is no view {wanted}: there are {}", names(&self.schema).join(", "));
            return self.fail(&line);
        }
        let mut shown = String::new();
        for table in found {
            let columns: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
            shown.push_str(&format!("{};\n-- columns: {}\n", table.sql, columns.join(", ")));
        }
        self.put(|out| out.write_all(shown.as_bytes()));
    }
}

fn remember(editor: &mut Editor<Words, FileHistory>, line: &str) {
    // It is in memory, and may be full.
    let _ = editor.add_history_entry(line);
}
