//! [`Place`]: what a path means, and [`Node`], which a kernel holds on to.

use crate::query::Format;
use crate::saved::Draft;
use externfs::{FileKind, NodeKey};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// How the answer to a query is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct View {
    /// None where a suffix may still say it.
    pub(crate) format: Option<Format>,
    /// The plan instead of the rows.
    pub(crate) explain: bool,
}

/// Files of the root with contents of our own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Leaf {
    Readme,
    Info,
    Limits,
    Schema,
    Errors,
}

impl Leaf {
    pub(crate) const ALL: [(&'static str, Leaf); 5] =
        [("README", Leaf::Readme), ("errors", Leaf::Errors), (".info", Leaf::Info), (".limits", Leaf::Limits), (".schema", Leaf::Schema)];
}

/// Files of a table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Facet {
    Schema,
    Columns,
    Count,
    /// The first rows.
    Head(Format),
}

/// See the [module](self). Names are as in the database, not as in the path;
/// but for keys, which are as in the path.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Place {
    Root,
    Leaf(Leaf),
    /// `query`, with a suffix or without.
    Talk(Format),
    /// `.csv` and the like, `.explain`.
    View(View),
    /// A query that goes on in the next component.
    Partial(View, String),
    Query(View, String),
    Queries,
    /// A file of `queries/`, by its number.
    Draft(u64),
    /// A saved query with as many arguments as have been given of those wanted.
    Saved {
        name: String,
        format: Format,
        wanted: usize,
        arguments: Vec<String>,
    },
    Tables,
    Table(String),
    Facet(String, Facet),
    By(String),
    Column {
        table: String,
        column: String,
    },
    Value {
        table: String,
        column: String,
        value: String,
    },
    Rows(String),
    Row {
        table: String,
        key: String,
    },
    Cell {
        table: String,
        key: String,
        column: String,
    },
}

impl Place {
    pub(crate) fn kind(&self) -> FileKind {
        match self {
            Place::Root | Place::View(_) | Place::Partial(..) | Place::Queries | Place::Tables | Place::Table(_) => FileKind::Directory,
            Place::By(_) | Place::Column { .. } | Place::Rows(_) | Place::Row { .. } => FileKind::Directory,
            Place::Saved { wanted, arguments, .. } if arguments.len() < *wanted => FileKind::Directory,
            Place::Leaf(_) | Place::Talk(_) | Place::Query(..) | Place::Draft(_) | Place::Saved { .. } => FileKind::Regular,
            Place::Facet(..) | Place::Value { .. } | Place::Cell { .. } => FileKind::Regular,
        }
    }
}

/// The size that a file has while somebody has it open, and 0 otherwise: the
/// next answer may be another, and who believed the size would cut it short.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    size: AtomicU64,
    opens: AtomicU64,
    /// Of a cell that is being written, by all who write it.
    pub(crate) draft: Mutex<CellDraft>,
    /// How many those are; more of them only while the draft is locked.
    pub(crate) writers: AtomicU64,
}

/// What a cell is to become.
#[derive(Debug, Default)]
pub(crate) struct CellDraft {
    pub(crate) bytes: Vec<u8>,
    /// It was cut, and nothing has been written or stored since.
    pub(crate) cut: bool,
}

impl Shown {
    pub(crate) fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }
}

/// Shows a size for as long as it lives.
#[derive(Debug)]
pub(crate) struct Showing(Arc<Shown>);

impl Showing {
    pub(crate) fn begin(shown: &Arc<Shown>, size: u64) -> Showing {
        shown.opens.fetch_add(1, Ordering::Relaxed);
        shown.size.store(size, Ordering::Relaxed);
        Showing(shown.clone())
    }
}

impl Drop for Showing {
    fn drop(&mut self) {
        if self.0.opens.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.size.store(0, Ordering::Relaxed);
        }
    }
}

/// A place that a kernel knows.
#[derive(Debug)]
pub struct Node {
    pub(crate) place: Place,
    pub(crate) key: NodeKey,
    pub(crate) draft: Option<Arc<Draft>>,
    pub(crate) shown: Arc<Shown>,
}
