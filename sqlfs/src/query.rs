//! Queries by people who are not trusted, over databases that are not either.
//!
//! SQLite parses what a guest wrote, so it runs in a *worker*: a process
//! without files, network or privileges, which the *keeper*, a process that
//! does nothing else, starts and kills. What a query may do is limited four
//! times: by an authorizer that knows the open tables and functions by name, by
//! SQLite's own limits, by a clock within the worker, and by the one who asked,
//! who has the worker killed at twice the time.
//!
//! ```text
//! Engine (the server, confined)  --control-->  keeper  --fork-->  worker (confined)
//!        \______________________ one socket each ______________________/
//! ```
//!
//! Before a query over a catalog, the *messenger*, which the keeper has started
//! too, asks whoever serves the tree to bring it up to date.
//!
//! [`Engine::new`] forks the keeper, so it is called while the process has one
//! thread and still has its rights. Everything later works from within a sandbox.
//!
//! # Locks
//! ```text
//! Engine::desk       who runs, who waits, idle workers: never held while a query runs
//! Renewal::state     who asks for a catalog to be brought up to date: not held meanwhile
//! Keeper::control    one question to the keeper
//! ```

mod channel;
mod confine;
mod engine;
mod failure;
mod format;
mod frame;
mod keeper;
mod limits;
mod plan;
mod policy;
mod process;
mod renewal;
mod schema;
mod session;
mod sheet;
mod spool;
mod worker;

#[cfg(test)]
mod tests;

pub use engine::{Counts, Engine};
pub use externfs_catalog::Freshness;
pub use failure::Refusal;
pub use format::Format;
pub use limits::Limits;
pub use schema::{Column, Schema, Table, TableKind};
pub use spool::Answer;

use std::path::PathBuf;

/// The database that queries are put to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// An SQLite database file.
    pub path: PathBuf,
    /// It is the catalog of a tree.
    pub catalog: Option<Catalog>,
    /// Catalogs of other trees, beside one.
    pub beside: Vec<Beside>,
}

/// The catalog of another tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Beside {
    /// An SQLite database file.
    pub path: PathBuf,
    /// What it is.
    pub catalog: Catalog,
}

/// As many catalogs can be beside one.
pub const BESIDE_MAX: usize = 10;

impl Source {
    /// A database that is nothing else.
    #[must_use]
    pub fn plain(path: impl Into<PathBuf>) -> Source {
        Source { path: path.into(), catalog: None, beside: Vec::new() }
    }

    /// The catalogs among its databases.
    pub fn catalogs(&self) -> impl Iterator<Item = &Catalog> {
        self.catalog.iter().chain(self.beside.iter().map(|beside| &beside.catalog))
    }

    /// The files, and what a connection calls each.
    pub(crate) fn databases(&self) -> impl Iterator<Item = (String, &std::path::Path)> {
        let beside = self.beside.iter().enumerate().map(|(number, beside)| (format!("beside{number}"), beside.path.as_path()));
        std::iter::once(("main".to_owned(), self.path.as_path())).chain(beside)
    }
}

/// The catalog of a tree, which whoever serves the tree keeps; see [`externfs_catalog`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Catalog {
    /// What its views are called by.
    pub label: String,
    /// The directory where it is brought up to date before each query; None for
    /// one that does not change.
    pub dir: Option<PathBuf>,
}

/// The tables and views that a query may read. By name: who reads (which view,
/// which CTE) says nothing, for a query chooses the names of its CTEs itself.
/// So what a view reads must be in the list as well as the view.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Allowed {
    /// Every table and view of the file, but none of SQLite's own (`sqlite_...`).
    Everything,
    /// These, in any case of letters.
    Only(Vec<String>),
}

/// An argument of a statement.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs)]
pub enum Value {
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

/// A query.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Ask {
    /// One statement that only reads.
    pub sql: String,
    /// Values for `?1`, `?2` and so on.
    pub arguments: Vec<Value>,
    /// What the answer looks like.
    pub format: Format,
    /// The plan is wanted, not the rows.
    pub explain: bool,
    /// The statement is ours, with nothing of the guest's but arguments: a
    /// value may be as long as the whole answer.
    pub own: bool,
}

impl Ask {
    /// Somebody's words.
    #[must_use]
    pub fn new(sql: impl Into<String>, format: Format) -> Ask {
        Ask { sql: sql.into(), format, ..Ask::default() }
    }

    /// Our own words, around somebody's arguments.
    #[must_use]
    pub fn own(sql: impl Into<String>, arguments: Vec<Value>, format: Format) -> Ask {
        Ask { sql: sql.into(), arguments, format, explain: false, own: true }
    }
}

/// A change of one row by a statement of ours; a transaction of its own.
#[derive(Clone, PartialEq, Debug)]
pub struct Deed {
    /// One INSERT, UPDATE or DELETE.
    pub sql: String,
    /// Values for `?1`, `?2` and so on.
    pub arguments: Vec<Value>,
}

/// Whether a statement that is being typed is over: it ends in `;`, which no quote,
/// parenthesis or comment has in it.
#[must_use]
pub fn is_whole(text: &str) -> bool {
    text.trim_end().ends_with(';') && !crate::words::shape(text).is_open
}

/// `name` as SQL spells an identifier, whatever is in it.
#[must_use]
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
