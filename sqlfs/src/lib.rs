//! sqlfs: a database as a file system, where a query is a file name and its
//! answer the file's contents; and the engine that runs such queries safely,
//! for whoever else has a database ([`query`]).
//!
//! What every path means and which errno comes when is in `MAPPING.md`.

mod contents;
mod fs;
mod journal;
mod names;
mod options;
mod place;
mod plugin;
pub mod query;
mod rows;
mod saved;
mod tables;
mod tree;
mod words;

pub use contents::File;
pub use fs::{Listing, SqlFs};
pub use place::Node;
pub use plugin::SqlFsPlugin;
