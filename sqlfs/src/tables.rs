//! The part below `tables/`: the database without SQL.
//!
//! Names of tables and columns come from the schema, which is read once a
//! second at most. Looking a row up by its key is one step down an index; a
//! listing of rows reads one key more than it may have. What a file contains
//! is a query, made when it is opened, under the limits of all queries.

use crate::fs::SqlFs;
use crate::place::{Facet, Place};
use crate::query::{Answer, Ask, Format, Refusal, Table, TableKind, Value, quoted};
use crate::words::{spell, unspell};
use externfs::{Errno, FileKind, Result};
use std::fmt::Write;

/// Rows that are listed; in larger tables they are found by name only.
const LISTED: usize = 10_000;
/// Rows of `head`.
const HEAD: usize = 10;

type Names = Vec<(String, u64, FileKind)>;
/// An answer, or bytes of our own.
pub(crate) type Contents = (Option<Answer>, Vec<u8>);

impl SqlFs {
    pub(crate) fn table(&self, name: &str) -> Result<Table> {
        self.schema()?.table(name).cloned().ok_or(Errno::ENOENT.into())
    }

    pub(crate) fn table_child(&self, parent: &Place, name: &str) -> Result<Place> {
        let plain = || unspell(name).filter(|plain| spell(plain) == name).ok_or(Errno::ENOENT);
        Ok(match parent {
            Place::Tables => Place::Table(self.table(&plain()?)?.name),
            Place::Table(table) => self.facet(table, name)?,
            Place::By(table) => {
                let column = self.table(table)?.column(&plain()?).ok_or(Errno::ENOENT)?.name.clone();
                Place::Column { table: table.clone(), column }
            }
            Place::Column { table, column } => {
                // What somebody types is a value, unless it is spelled.
                let value = unspell(name).unwrap_or_else(|| name.to_owned());
                Place::Value { table: table.clone(), column: column.clone(), value }
            }
            Place::Rows(table) => {
                let known = self.table(table)?;
                if !self.has_row(&known, name)? {
                    return Err(Errno::ENOENT.into());
                }
                Place::Row { table: table.clone(), key: name.to_owned() }
            }
            Place::Row { table, key } => {
                let column = self.table(table)?.column(&plain()?).ok_or(Errno::ENOENT)?.name.clone();
                let place = Place::Cell { table: table.clone(), key: key.clone(), column };
                if self.withdrawn.holds(&place) {
                    return Err(Errno::ENOENT.into());
                }
                place
            }
            _ => return Err(Errno::ENOTDIR.into()),
        })
    }

    fn facet(&self, table: &str, name: &str) -> Result<Place> {
        let facet = match name {
            "by" => return Ok(Place::By(table.to_owned())),
            "rows" if !self.table(table)?.key().is_empty() => return Ok(Place::Rows(table.to_owned())),
            "schema" => Facet::Schema,
            "columns" => Facet::Columns,
            "count" => Facet::Count,
            "head" => Facet::Head(Format::Tsv),
            _ => match Format::split_suffix(name) {
                ("head", Some(format)) => Facet::Head(format),
                _ => return Err(Errno::ENOENT.into()),
            },
        };
        Ok(Place::Facet(table.to_owned(), facet))
    }

    pub(crate) fn table_names(&self, place: &Place) -> Result<Names> {
        let entry = |name: String, place: Place| (name, self.number(&place), place.kind());
        let mut names: Names = match place {
            Place::Tables => {
                let schema = self.schema()?;
                schema.tables.iter().map(|table| entry(spell(&table.name), Place::Table(table.name.clone()))).collect()
            }
            Place::Table(table) => {
                let known = self.table(table)?;
                let rows = (!known.key().is_empty()).then_some("rows");
                let all = ["schema", "columns", "count", "head", "by"].into_iter().chain(rows);
                all.map(|name| Ok(entry(name.to_owned(), self.facet(table, name)?))).collect::<Result<_>>()?
            }
            Place::By(table) => {
                let columns = self.table(table)?.columns.into_iter();
                columns.map(|column| entry(spell(&column.name), Place::Column { table: table.clone(), column: column.name })).collect()
            }
            Place::Rows(table) => {
                let keys = self.keys(&self.table(table)?)?.into_iter();
                keys.map(|key| entry(key.clone(), Place::Row { table: table.clone(), key })).collect()
            }
            Place::Row { table, key } => {
                let columns = self.table(table)?.columns.into_iter();
                let cells = columns
                    .map(|column| (spell(&column.name), Place::Cell { table: table.clone(), key: key.clone(), column: column.name }));
                cells.filter(|(_, place)| !self.withdrawn.holds(place)).map(|(name, place)| entry(name, place)).collect()
            }
            // Values are found by name only: there may be any number.
            _ => Vec::new(),
        };
        names.retain(|(name, ..)| name.len() <= externfs::NAME_LIMIT);
        Ok(names)
    }

    /// The rows' names, if there are few enough.
    fn keys(&self, table: &Table) -> Result<Vec<String>> {
        let columns = table.key();
        let (list, name) = (columns.join(", "), quoted(&table.name));
        let sql = format!("SELECT {list} FROM {name} ORDER BY {list} LIMIT {}", LISTED + 1);
        let answer = self.run(None, Ask::own(&sql, Vec::new(), Format::Nul))?;
        if answer.rows() > LISTED as u64 {
            let message = format!("{} has more than {LISTED} rows: they are found by name only, or by a query", table.name);
            return Err(self.refuse(None, &sql, &Refusal::limit(Errno::EFBIG, "listing", message)));
        }
        let bytes = answer.to_vec()?;
        let values: Vec<&[u8]> = bytes.split(|byte| *byte == 0).collect();
        // The last NUL ends a value too, and begins none.
        let rows = values.chunks_exact(columns.len().max(1)).take(answer.rows() as usize);
        let keys: Vec<String> = rows.filter_map(spell_key).collect();
        let unnamed = answer.rows() as usize - keys.len().min(answer.rows() as usize);
        if unnamed > 0 {
            let message = format!("{unnamed} rows of {} are not listed: their keys are no text", table.name);
            self.journal.note(None, &sql, &Refusal::new(Errno::EINVAL, message));
        }
        Ok(keys)
    }

    /// The condition that finds the row called `key`, and its arguments.
    pub(crate) fn condition(table: &Table, key: &str) -> Option<(String, Vec<Value>)> {
        let columns = table.key();
        let arguments: Vec<Value> = if table.without_rowid {
            key.split(',').map(|part| unspell(part).map(Value::Text)).collect::<Option<_>>()?
        } else {
            // As a row is listed, and no other way.
            let number: i64 = key.parse().ok().filter(|number: &i64| number.to_string() == key)?;
            vec![Value::Integer(number)]
        };
        if columns.is_empty() || columns.len() != arguments.len() {
            return None;
        }
        let terms = columns.iter().enumerate().map(|(number, column)| format!("{column} = ?{}", number + 1));
        Some((terms.collect::<Vec<_>>().join(" AND "), arguments))
    }

    fn has_row(&self, table: &Table, key: &str) -> Result<bool> {
        let Some((condition, arguments)) = SqlFs::condition(table, key) else { return Ok(false) };
        let sql = format!("SELECT 1 FROM {} WHERE {condition}", quoted(&table.name));
        Ok(self.run(None, Ask::own(sql, arguments, Format::Text))?.rows() > 0)
    }

    /// The value of a column of a row; ENOENT when the row is gone.
    pub(crate) fn cell(&self, uid: u32, (table, key, column): (&str, &str, &str)) -> Result<Answer> {
        let known = self.table(table)?;
        let (condition, arguments) = SqlFs::condition(&known, key).ok_or(Errno::ENOENT)?;
        let sql = format!("SELECT {} FROM {} WHERE {condition}", quoted(column), quoted(table));
        let answer = self.run(Some(uid), Ask::own(sql, arguments, Format::Value))?;
        if answer.rows() == 0 { Err(Errno::ENOENT.into()) } else { Ok(answer) }
    }

    /// What a file below `tables/` contains.
    pub(crate) fn table_contents(&self, uid: u32, place: &Place) -> Result<Contents> {
        let run = |ask| self.run(Some(uid), ask).map(|answer| (Some(answer), Vec::new()));
        match place {
            Place::Facet(table, Facet::Schema) => Ok((None, format!("{}\n", self.table(table)?.sql).into_bytes())),
            Place::Facet(table, Facet::Columns) => Ok((None, columns_text(&self.table(table)?).into_bytes())),
            Place::Facet(table, Facet::Count) => run(Ask::own(format!("SELECT count(*) FROM {}", quoted(table)), Vec::new(), Format::Text)),
            Place::Facet(table, Facet::Head(format)) => {
                run(Ask::own(format!("SELECT * FROM {} LIMIT {HEAD}", quoted(table)), Vec::new(), *format))
            }
            Place::Value { table, column, value } => {
                let known = self.table(table)?;
                let binary = known.column(column).is_some_and(Table::is_binary);
                // Bytes never equal a text, though they be the same.
                let argument = if binary { Value::Blob(value.clone().into_bytes()) } else { Value::from(value.as_str()) };
                let sql = format!("SELECT * FROM {} WHERE {} = ?1", quoted(table), quoted(column));
                run(Ask::own(sql, vec![argument], Format::Tsv))
            }
            Place::Cell { table, key, column } => self.cell(uid, (table, key, column)).map(|answer| (Some(answer), Vec::new())),
            _ => Err(Errno::EISDIR.into()),
        }
    }
}

/// A row's name: its key's values, with commas between.
fn spell_key(values: &[&[u8]]) -> Option<String> {
    let [first, rest @ ..] = values else { return None };
    let part = |bytes: &[u8]| Some(spell(std::str::from_utf8(bytes).ok()?).replace(',', "%2C"));
    let mut key = part(first)?;
    for value in rest {
        key.push(',');
        key.push_str(&part(value)?);
    }
    Some(key)
}

fn columns_text(table: &Table) -> String {
    let mut text = String::new();
    for column in &table.columns {
        let _ = write!(text, "{}\t{}", spell(&column.name), column.declared);
        if column.key > 0 && table.kind == TableKind::Table {
            let _ = write!(text, "\tPRIMARY KEY {}", column.key);
        }
        if column.not_null {
            text.push_str("\tNOT NULL");
        }
        if let Some(default) = &column.default {
            let _ = write!(text, "\tDEFAULT {default}");
        }
        if column.generated {
            text.push_str("\tGENERATED");
        }
        text.push('\n');
    }
    text
}
