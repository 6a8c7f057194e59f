//! [`Format`]: what an answer looks like.

/// Text is the book's form: bare values, for people and pipes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Format {
    /// No header; tabs between columns; NULL is empty; `\t`, `\n` and `\\` are written so.
    #[default]
    Text,
    /// RFC 4180, with a header; NULL is empty and an empty text is `""`.
    Csv,
    /// As text, with a header.
    Tsv,
    /// One array of objects.
    Json,
    /// An object a line.
    JsonLines,
    /// Values as they are, a NUL byte after each: for `xargs -0`.
    Nul,
    /// Columns under each other, with a header.
    Table,
    /// The first value of the first row as it is, and a newline unless it is
    /// bytes; for files that hold one value. No name asks for it.
    Value,
}

impl Format {
    /// Those that can be asked for.
    pub const ALL: [Format; 7] = [Format::Text, Format::Csv, Format::Tsv, Format::Json, Format::JsonLines, Format::Nul, Format::Table];

    /// As in a suffix or in the name of a directory.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Format::Text => "txt",
            Format::Csv => "csv",
            Format::Tsv => "tsv",
            Format::Json => "json",
            Format::JsonLines => "jsonl",
            Format::Nul => "nul",
            Format::Table => "table",
            Format::Value => "value",
        }
    }

    /// The format called `name`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|format| format.name() == name)
    }

    /// For a worker.
    pub(crate) fn from_number(number: u64) -> Option<Format> {
        Format::ALL.into_iter().chain([Format::Value]).find(|format| *format as u64 == number)
    }

    /// `text` without a suffix that names a format, and that format.
    #[must_use]
    pub fn split_suffix(text: &str) -> (&str, Option<Format>) {
        let split = text.rsplit_once('.').and_then(|(before, suffix)| Some((before, Format::parse(suffix)?)));
        split.map_or((text, None), |(before, format)| (before, Some(format)))
    }
}
