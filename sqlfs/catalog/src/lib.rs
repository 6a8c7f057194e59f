//! The catalog of a tree: what `find -ls` would say of it, in an SQLite
//! database that can be queried. It is a copy. Nothing is served from it, and
//! it can be thrown away: whoever keeps it makes it again by a scan.
//!
//! * [`Catalog`] is the database and its only writer. Changes come in batches
//!   ([`Batch`]) that say how things *are* now, not what happened; so a batch may
//!   be applied twice, and what came and went between two batches costs nothing.
//! * [`views`] are what queries see. Their columns are an interface with a
//!   version ([`VERSION`]) and described in `sqlfs/MAPPING.md`; the tables below
//!   them are not.
//! * [`barrier`] lets who queries wait until the catalog has caught up;
//!   [`Freshness`] says what has come of it.
//!
//! The database trusts nobody: one that does not have exactly the schema of this
//! version is not opened ([`Catalog::open`] says so, and it is made anew).

mod accounts;
pub mod barrier;
mod batch;
mod catalog;
mod freshness;
mod look;
mod objects;
mod paths;
mod schema;
mod text;
mod usage;

pub use accounts::Accounts;
pub use batch::{Batch, Change, Extra, Link, Object, Op, Xattr};
pub use catalog::{Catalog, remove};
pub use freshness::{DATABASE, DIRECTORY, Freshness};
pub use look::{Facts, facts, is_ours};
pub use rusqlite::Error;
pub use schema::{LABEL, VERSION, is_label, tables, views};
pub use text::Wanted;
