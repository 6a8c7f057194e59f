//! [`Limits`]: how much a query may take.

use std::time::Duration;

/// Each is a wall, never a cut: a query that meets one is refused whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// By the clock on the wall, for each query; at twice that the worker is killed.
    pub time: Duration,
    /// Rows of an answer.
    pub rows: u64,
    /// Bytes of an answer.
    pub bytes: u64,
    /// Bytes of memory that SQLite may hold.
    pub heap: u64,
    /// Bytes of one value within a query (not of what we read for ourselves).
    pub length: u64,
    /// Bytes of a statement.
    pub sql: usize,
    /// Queries that run at a time.
    pub running: usize,
    /// Queries that wait for those.
    pub queued: usize,
    /// Bytes of answers that are open at a time.
    pub held: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            time: Duration::from_secs(1),
            rows: 1_000_000,
            bytes: 64 << 20,
            heap: 64 << 20,
            // A single instr() on strings of a megabyte took four seconds
            // without the clock being looked at; on these, a tenth of one.
            length: 128 << 10,
            sql: 8 << 10,
            running: 2,
            queued: 8,
            held: 256 << 20,
        }
    }
}

/// SQLite's own limits that nobody needs to change: columns of a result, terms
/// of a compound SELECT, depth of an expression, instructions of a program,
/// bytes of a LIKE pattern, arguments of a statement.
pub(crate) const COLUMNS: i32 = 100;
pub(crate) const COMPOUND: i32 = 10;
pub(crate) const EXPRESSION_DEPTH: i32 = 60;
pub(crate) const PROGRAM: i32 = 25_000;
pub(crate) const PATTERN: i32 = 256;
pub(crate) const ARGUMENTS: i32 = 100;
