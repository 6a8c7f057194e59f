//! Changes of rows, with `-o rw`: each is a transaction, and over before the
//! system call is.
//!
//! A value is written as it is read: a text with a newline at its end, which
//! is not part of it; bytes as they are. Every write(2) stores what has been
//! written so far, for a shell looks at what write says, not at what close does.

use crate::fs::SqlFs;
use crate::journal::Journal;
use crate::place::{CellDraft, Node, Place, Shown};
use crate::query::{Column, Deed, Engine, Refusal, Table, Value, quoted};
use externfs::helper::read_slice;
use externfs::{DataSink, DataSource, Errno, Result};
use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Cells that have been removed and cannot be NULL: rm -r removes them before
/// it removes the row, and only the latter changes the database.
#[derive(Debug, Default)]
pub(crate) struct Withdrawn(Mutex<HashSet<Place>>);

/// How many: each is forgotten with its row, and who removes cells but no rows
/// is told to stop.
const MOST_WITHDRAWN: usize = 10_000;

impl Withdrawn {
    fn set(&self) -> MutexGuard<'_, HashSet<Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn holds(&self, place: &Place) -> bool {
        self.set().contains(place)
    }

    fn add(&self, place: Place) -> Result<()> {
        let mut set = self.set();
        if set.len() >= MOST_WITHDRAWN {
            return Err(Errno::ENOSPC.into());
        }
        set.insert(place);
        Ok(())
    }

    fn forget_row(&self, wanted: &str, row: &str) {
        self.set().retain(|place| !matches!(place, Place::Cell { table, key, .. } if table == wanted && key == row));
    }
}

/// A cell that is open for writing. What it is to become is the node's: the
/// kernel cuts a file by name after it has opened it.
#[derive(Debug)]
pub(crate) struct Writing {
    uid: u32,
    column: Column,
    /// The change, but for the value, which is the last argument.
    sql: String,
    arguments: Vec<Value>,
    shown: Arc<Shown>,
    engine: Arc<Engine>,
    journal: Arc<Journal>,
}

impl Writing {
    /// Held while a change runs: who waits for it is one of those who wait.
    fn draft(&self) -> Result<MutexGuard<'_, CellDraft>> {
        self.engine.take(&self.shown.draft).map_err(|refusal| self.noted(&refusal))
    }

    fn noted(&self, refusal: &Refusal) -> externfs::Error {
        self.journal.note(Some(self.uid), &self.sql, refusal);
        refusal.into()
    }

    pub(crate) fn read(&self, offset: u64, size: usize, sink: &mut dyn DataSink) -> Result<usize> {
        read_slice(&self.draft()?.bytes, offset, size, sink)
    }

    /// At `offset`, or at the end.
    pub(crate) fn write(&self, offset: Option<u64>, source: &mut dyn DataSource) -> Result<usize> {
        let mut draft = self.draft()?;
        let start = offset.unwrap_or(draft.bytes.len() as u64);
        let end = start.checked_add(source.remaining() as u64).filter(|end| *end <= self.engine.limits().bytes).ok_or(Errno::EFBIG)?;
        let mut bytes = draft.bytes.clone();
        bytes.resize(bytes.len().max(end as usize), 0);
        let taken = source.take(bytes.get_mut(start as usize..end as usize).unwrap_or_default())?;
        // A write that is refused is no reason to store the emptiness before it.
        draft.cut = false;
        self.store(&bytes)?;
        draft.bytes = bytes;
        Ok(taken)
    }

    /// By name while others have the cell open, it is open(2) with O_TRUNC most
    /// likely: then emptiness is not stored before the cell is closed. It may
    /// be what the database refuses, and not what was meant.
    fn resize(&self, size: usize, by_name: bool) -> Result<()> {
        let mut draft = self.draft()?;
        let mut bytes = draft.bytes.clone();
        bytes.resize(size, 0);
        draft.cut = size == 0 && by_name && self.shown.writers.load(Ordering::Relaxed) > 1;
        if !draft.cut {
            self.store(&bytes)?;
        }
        draft.bytes = bytes;
        Ok(())
    }

    /// Stores the emptiness that nothing was written to.
    pub(crate) fn settle(&self) -> Result<()> {
        let mut draft = self.draft()?;
        if std::mem::take(&mut draft.cut) { self.store(&draft.bytes) } else { Ok(()) }
    }

    fn store(&self, bytes: &[u8]) -> Result<()> {
        let value = value_of(&self.column, bytes)
            .ok_or_else(|| self.noted(&Refusal::new(Errno::EINVAL, format!("{}: a text is UTF-8", self.column.name))))?;
        let mut arguments = self.arguments.clone();
        arguments.push(value);
        match self.engine.change(Deed { sql: self.sql.clone(), arguments }) {
            Ok((0, _)) => Err(Errno::ENOENT.into()),
            Ok(_) => Ok(()),
            Err(refusal) => Err(self.noted(&refusal)),
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if self.shown.writers.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        // Kernels do not ask for a flush at each close. A refusal is in `errors`.
        // Whoever has it locked has come after this one, and finds it cut.
        if let Ok(mut draft) = self.shown.draft.try_lock()
            && std::mem::take(&mut draft.cut)
        {
            let _ = self.store(&draft.bytes);
        }
    }
}

impl SqlFs {
    pub(crate) fn open_cell(&self, uid: u32, node: &Node, truncate: bool) -> Result<Writing> {
        let Place::Cell { table, key, column } = &node.place else { return Err(Errno::EINVAL.into()) };
        let known = self.table(table)?;
        let found = known.column(column).ok_or(Errno::ENOENT)?;
        let (sql, arguments) = update(&known, key, found).ok_or(Errno::ENOENT)?;
        let mut draft = self.draft(uid, node)?;
        // What the last one has cut, and had no time to store, is still to be.
        if node.shown.writers.load(Ordering::Acquire) == 0 && !draft.cut {
            draft.bytes = self.cell(uid, (table, key, column))?.to_vec()?;
        }
        if truncate {
            (draft.bytes, draft.cut) = (Vec::new(), true);
        }
        node.shown.writers.fetch_add(1, Ordering::AcqRel);
        let (engine, journal) = (self.engine.clone(), self.journal.clone());
        Ok(Writing { uid, column: found.clone(), sql, arguments, shown: node.shown.clone(), engine, journal })
    }

    /// truncate(2), ftruncate(2), and open(2) with O_TRUNC.
    pub(crate) fn resize_cell(&self, uid: u32, node: &Node, size: u64, by_name: bool) -> Result<()> {
        let size = usize::try_from(size).ok().filter(|size| *size as u64 <= self.engine.limits().bytes).ok_or(Errno::EFBIG)?;
        self.open_cell(uid, node, false)?.resize(size, by_name)
    }

    /// Who reads a cell that was cut a moment ago finds it empty.
    pub(crate) fn settle_cell(&self, uid: u32, node: &Node) -> Result<()> {
        let was_cut = self.draft(uid, node)?.cut;
        if was_cut && let Ok(writing) = self.open_cell(uid, node, false) {
            // A refusal is in `errors`, and the old value is what is read.
            let _ = writing.settle();
        }
        Ok(())
    }

    /// See [`Writing::draft`].
    fn draft<'n>(&self, uid: u32, node: &'n Node) -> Result<MutexGuard<'n, CellDraft>> {
        self.engine.take(&node.shown.draft).map_err(|refusal| self.refuse(Some(uid), "a cell", &refusal))
    }

    fn set(&self, uid: u32, table: &Table, key: &str, column: &Column, value: Value) -> Result<()> {
        let (sql, mut arguments) = update(table, key, column).ok_or(Errno::ENOENT)?;
        arguments.push(value);
        self.change(uid, sql, arguments)
    }

    /// ENOENT when no row is the one that was meant.
    fn change(&self, uid: u32, sql: String, arguments: Vec<Value>) -> Result<()> {
        let what = sql.clone();
        match self.engine.change(Deed { sql, arguments }) {
            Ok((0, _)) => Err(Errno::ENOENT.into()),
            Ok(_) => Ok(()),
            Err(refusal) => Err(self.refuse(Some(uid), &what, &refusal)),
        }
    }

    /// mkdir: a row with this key, its defaults, and what else it must have.
    pub(crate) fn insert_row(&self, uid: u32, table: &str, key: &str) -> Result<Node> {
        let known = self.table(table)?;
        let (_, mut arguments) = SqlFs::condition(&known, key).ok_or(Errno::EINVAL)?;
        let mut columns = known.key();
        let is_alone = known.columns.iter().filter(|column| column.key > 0).count() == 1;
        for column in &known.columns {
            // A rowid by another name is the key already; numbers of a key of several are none.
            let is_rowid = is_alone && column.declared.eq_ignore_ascii_case("INTEGER");
            let is_key = column.key > 0 && (known.without_rowid || is_rowid);
            if column.not_null && column.default.is_none() && !column.generated && !is_key {
                columns.push(quoted(&column.name));
                arguments.push(neutral(column));
            }
        }
        let places: Vec<String> = (1..=columns.len()).map(|number| format!("?{number}")).collect();
        let sql = format!("INSERT INTO {}({}) VALUES({})", quoted(table), columns.join(", "), places.join(", "));
        self.change(uid, sql, arguments)?;
        self.withdrawn.forget_row(table, key);
        Ok(self.node(Place::Row { table: table.to_owned(), key: key.to_owned() }))
    }

    /// rmdir: the row goes, whatever is in it.
    pub(crate) fn delete_row(&self, uid: u32, table: &str, key: &str) -> Result<()> {
        let known = self.table(table)?;
        let (condition, arguments) = SqlFs::condition(&known, key).ok_or(Errno::ENOENT)?;
        self.change(uid, format!("DELETE FROM {} WHERE {condition}", quoted(table)), arguments)?;
        self.withdrawn.forget_row(table, key);
        Ok(())
    }

    /// unlink: NULL where that can be.
    pub(crate) fn clear_cell(&self, uid: u32, table: &str, key: &str, name: &str) -> Result<()> {
        let row = Place::Row { table: table.to_owned(), key: key.to_owned() };
        let place = self.table_child(&row, name)?;
        let Place::Cell { column, .. } = &place else { return Err(Errno::ENOENT.into()) };
        let known = self.table(table)?;
        let column = known.column(column).ok_or(Errno::ENOENT)?;
        let can_be_null = !column.not_null && column.key == 0 && !column.generated;
        if can_be_null && self.set(uid, &known, key, column, Value::Null).is_ok() {
            return Ok(());
        }
        self.withdrawn.add(place)
    }

    /// A name that was removed comes back when it is written.
    pub(crate) fn restore_cell(&self, table: &str, key: &str, name: &str) -> Result<Node> {
        let column = crate::words::unspell(name).ok_or(Errno::EPERM)?;
        if self.table(table)?.column(&column).is_none() {
            // An editor's own files, say.
            return Err(Errno::EPERM.into());
        }
        let place = Place::Cell { table: table.to_owned(), key: key.to_owned(), column };
        self.withdrawn.set().remove(&place);
        Ok(self.node(place))
    }
}

/// The statement that changes a cell, and its arguments but for the value.
fn update(table: &Table, key: &str, column: &Column) -> Option<(String, Vec<Value>)> {
    let (condition, arguments) = SqlFs::condition(table, key)?;
    let value = arguments.len() + 1;
    let sql = format!("UPDATE {} SET {} = ?{value} WHERE {condition}", quoted(&table.name), quoted(&column.name));
    Some((sql, arguments))
}

/// What bytes mean in `column`; None for what is no text. SQLite makes numbers
/// of texts where the column wants numbers.
fn value_of(column: &Column, bytes: &[u8]) -> Option<Value> {
    if Table::is_binary(column) {
        return Some(Value::Blob(bytes.to_vec()));
    }
    let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    String::from_utf8(text.to_vec()).ok().map(Value::Text)
}

/// What a column has that must have something.
fn neutral(column: &Column) -> Value {
    let declared = column.declared.to_ascii_uppercase();
    if Table::is_binary(column) {
        Value::Blob(Vec::new())
    } else if ["INT", "REAL", "FLOA", "DOUB", "NUM", "DEC", "BOOL", "DATE"].iter().any(|word| declared.contains(word)) {
        Value::Integer(0)
    } else {
        Value::from("")
    }
}
