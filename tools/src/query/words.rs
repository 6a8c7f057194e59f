//! [`Words`]: what can be completed in a statement.

use rustyline::completion::Completer;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};
use sqlfs::query::Schema;

/// Orders to the program itself, and what they do.
pub(super) const ORDERS: &[(&str, &str)] = &[
    (".help", "this"),
    (".tables", "the views"),
    (".schema [VIEW]", "the statements that made them, with their columns"),
    (".format FORMAT", "table, csv, tsv, json, jsonl, nul or text"),
    (".explain [STATEMENT]", "the plan of a statement, or of the last one"),
    (".rescan", "look at a directory (hostfs:DIR) anew"),
    (".quit", "end; ^D does it too"),
];

const KEYWORDS: &[&str] = &[
    "and",
    "as",
    "asc",
    "between",
    "by",
    "case",
    "cast",
    "count",
    "desc",
    "distinct",
    "else",
    "end",
    "except",
    "exists",
    "filter",
    "from",
    "glob",
    "group",
    "having",
    "in",
    "intersect",
    "is",
    "join",
    "left",
    "like",
    "limit",
    "match",
    "max",
    "min",
    "not",
    "null",
    "offset",
    "on",
    "or",
    "order",
    "over",
    "select",
    "sum",
    "then",
    "total",
    "union",
    "unixepoch",
    "using",
    "values",
    "when",
    "where",
    "with",
];

/// See the [module](self).
pub(super) struct Words {
    /// Of statements, in order, each once.
    sql: Vec<String>,
}

impl Words {
    /// Keywords, and the names in `schema`.
    pub(super) fn new(schema: &Schema) -> Words {
        let names = schema.tables.iter().flat_map(|table| {
            let columns = table.columns.iter().map(|column| column.name.clone());
            std::iter::once(table.name.clone()).chain(columns)
        });
        let mut sql: Vec<String> = KEYWORDS.iter().map(|&word| word.to_owned()).chain(names).collect();
        sql.sort();
        sql.dedup();
        Words { sql }
    }

    /// Where the word before `position` begins, and what it may become.
    fn complete_at(&self, line: &str, position: usize) -> (usize, Vec<String>) {
        let before = line.get(..position).unwrap_or_default();
        let begin = before.rfind(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | '.')).map_or(0, |at| at + 1);
        let begin = (begin..=before.len()).find(|at| before.is_char_boundary(*at)).unwrap_or(before.len());
        let word = before.get(begin..).unwrap_or_default();
        if begin == 0 && word.starts_with('.') {
            let orders = ORDERS.iter().filter_map(|(order, _)| order.split(' ').next());
            return (0, orders.filter(|order| order.starts_with(word)).map(str::to_owned).collect());
        }
        // A column may have its table in front.
        let begin = word.rfind('.').map_or(begin, |dot| begin + dot + 1);
        let word = before.get(begin..).unwrap_or_default().to_ascii_lowercase();
        if word.is_empty() {
            return (begin, Vec::new());
        }
        (begin, self.sql.iter().filter(|known| known.to_ascii_lowercase().starts_with(&word)).cloned().collect())
    }
}

impl Completer for Words {
    type Candidate = String;

    fn complete(&self, line: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(self.complete_at(line, position))
    }
}

impl Hinter for Words {
    type Hint = String;
}
impl Highlighter for Words {}
impl Validator for Words {}
impl Helper for Words {}

#[cfg(test)]
mod tests {
    use super::*;
    use sqlfs::query::{Column, Table, TableKind};

    fn words() -> Words {
        let column =
            |name: &str| Column { name: name.into(), declared: String::new(), not_null: false, default: None, key: 0, generated: false };
        let columns = vec![column("setuid"), column("setgid"), column("Größe")];
        let table = Table { name: "root_fs".into(), kind: TableKind::View, sql: String::new(), without_rowid: false, columns };
        Words::new(&Schema { tables: vec![table] })
    }

    #[test]
    fn names_and_keywords_are_completed() {
        let words = words();
        for (line, begin, found) in [
            ("sel", 0, &["select"][..]),
            ("select setu", 7, &["setuid"]),
            ("select count(set", 13, &["setgid", "setuid"]),
            ("select x.SETG", 9, &["setgid"]),
            ("select ä, ro", 11, &["root_fs"]),
            ("select grö", 7, &["Größe"]),
            ("select „ro", 10, &["root_fs"]),
            ("select ", 7, &[]),
            (".s", 0, &[".schema"]),
            (".zz", 0, &[]),
            ("", 0, &[]),
        ] {
            let (at, candidates) = words.complete_at(line, line.len());
            assert_eq!(
                (at, candidates.as_slice()),
                (begin, found.iter().map(|&word| word.to_owned()).collect::<Vec<_>>().as_slice()),
                "{line}"
            );
        }
        assert_eq!(words.complete_at("wh root", 2).1, ["when", "where"]);
    }
}
