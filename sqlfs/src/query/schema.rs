//! [`Schema`]: what the database says of its tables, read by the worker.

use super::failure::Failure;
use super::frame::{Reader, Writer};
use super::quoted;
use rusqlite::Connection;

/// The tables and views that are open, by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Schema {
    /// In the order of their names.
    pub tables: Vec<Table>,
}

/// What kind of table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableKind {
    /// An ordinary one.
    Table,
    /// A view.
    View,
    /// A virtual one.
    Virtual,
}

/// A table or view.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    /// As it was created.
    pub name: String,
    /// What kind of table.
    pub kind: TableKind,
    /// The statement that created it.
    pub sql: String,
    /// It has no rowid: its rows are known by their primary key.
    pub without_rowid: bool,
    /// In order.
    pub columns: Vec<Column>,
}

/// A column.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The type that was declared; may be empty.
    pub declared: String,
    /// NULL is refused.
    pub not_null: bool,
    /// Its default, as SQL.
    pub default: Option<String>,
    /// Its place in the primary key, from 1; 0 for none.
    pub key: u32,
    /// It is computed.
    pub generated: bool,
}

impl Schema {
    /// The table called `name`, in the letters that it was created with.
    #[must_use]
    pub fn table(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.name == name)
    }
}

impl Table {
    /// The column called `name`, in the letters that it was created with.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The names, as SQL, of what tells rows apart; empty where nothing does
    /// (views), or what does is hidden by columns of the same names.
    #[must_use]
    pub fn key(&self) -> Vec<String> {
        if self.kind != TableKind::Table {
            return Vec::new();
        }
        if !self.without_rowid {
            let hidden = |alias: &&str| self.columns.iter().any(|column| column.name.eq_ignore_ascii_case(alias));
            return ["rowid", "_rowid_", "oid"].into_iter().find(|alias| !hidden(alias)).map(str::to_owned).into_iter().collect();
        }
        let mut columns: Vec<_> = self.columns.iter().filter(|column| column.key > 0).collect();
        columns.sort_by_key(|column| column.key);
        columns.into_iter().map(|column| quoted(&column.name)).collect()
    }

    /// Whether values of this column are bytes by declaration.
    #[must_use]
    pub fn is_binary(column: &Column) -> bool {
        column.declared.to_ascii_uppercase().contains("BLOB")
    }
}

/// All of it but SQLite's own. Of several databases each has views of its own,
/// and its tables are called as those of the others.
pub(crate) fn read(connection: &Connection, databases: &[&str], is_open: impl Fn(&str) -> bool) -> Result<Schema, Failure> {
    let failed = |error: rusqlite::Error| Failure::of(&error);
    let mut schema = Schema::default();
    for database in databases {
        let mut list = connection
            .prepare(&format!(
                "SELECT s.name, l.type, l.wr, coalesce(s.sql, '') FROM {database}.sqlite_schema s \
                 JOIN pragma_table_list l ON l.schema = '{database}' AND l.name = s.name \
                 WHERE s.type IN ('table', 'view') ORDER BY s.name"
            ))
            .map_err(failed)?;
        let rows = list.query_map([], |row| {
            let kind = match row.get::<_, String>(1)?.as_str() {
                "view" => TableKind::View,
                "virtual" => TableKind::Virtual,
                _ => TableKind::Table,
            };
            Ok(Table { name: row.get(0)?, kind, sql: row.get(3)?, without_rowid: row.get(2)?, columns: Vec::new() })
        });
        for table in rows.map_err(failed)? {
            let mut table = table.map_err(failed)?;
            if is_open(&table.name) && schema.table(&table.name).is_none() {
                table.columns = columns(connection, &table).map_err(failed)?;
                schema.tables.push(table);
            }
        }
    }
    schema.tables.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(schema)
}

fn columns(connection: &Connection, table: &Table) -> rusqlite::Result<Vec<Column>> {
    let mut list = connection.prepare_cached("SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo(?1)")?;
    let columns = list.query_map([&table.name], |row| {
        let hidden: u32 = row.get(5)?;
        let column = Column {
            name: row.get(0)?,
            declared: row.get(1)?,
            not_null: row.get(2)?,
            default: row.get(3)?,
            key: row.get(4)?,
            generated: hidden > 1,
        };
        Ok((column, hidden == 1))
    });
    match columns.and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>) {
        Ok(columns) => Ok(columns.into_iter().filter(|(_, hidden)| !hidden).map(|(column, _)| column).collect()),
        // A broken view, or a virtual table of a module that is not here: it
        // has a name, and reading it says what is wrong.
        Err(_) if table.kind != TableKind::Table => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

impl Schema {
    pub(crate) fn put(&self, to: &mut Writer) {
        to.number(self.tables.len() as u64);
        for table in &self.tables {
            to.text(&table.name);
            to.number(match table.kind {
                TableKind::Table => 0,
                TableKind::View => 1,
                TableKind::Virtual => 2,
            });
            to.text(&table.sql);
            to.number(u64::from(table.without_rowid));
            to.number(table.columns.len() as u64);
            for column in &table.columns {
                to.text(&column.name);
                to.text(&column.declared);
                to.number(u64::from(column.not_null));
                to.optional(column.default.as_deref());
                to.number(u64::from(column.key));
                to.number(u64::from(column.generated));
            }
        }
    }

    pub(crate) fn take(from: &mut Reader<'_>) -> Option<Schema> {
        let mut schema = Schema::default();
        for _ in 0..from.number()? {
            let (name, kind, sql, without_rowid) = (from.text()?, from.number()?, from.text()?, from.number()? != 0);
            let kind = match kind {
                0 => TableKind::Table,
                1 => TableKind::View,
                _ => TableKind::Virtual,
            };
            let mut table = Table { name, kind, sql, without_rowid, columns: Vec::new() };
            for _ in 0..from.number()? {
                table.columns.push(Column {
                    name: from.text()?,
                    declared: from.text()?,
                    not_null: from.number()? != 0,
                    default: from.optional()?,
                    key: u32::try_from(from.number()?).ok()?,
                    generated: from.number()? != 0,
                });
            }
            schema.tables.push(table);
        }
        Some(schema)
    }
}
