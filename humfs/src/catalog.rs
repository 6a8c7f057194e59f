//! The live catalog: what SQL is told about a tree while it is served.
//!
//! Whatever changes a name or an object says so to the feed, in memory, and
//! goes on. A thread, the book, writes what has gathered into the catalog's
//! database: each second, when there is much, and when somebody is about to
//! query. What is told is how things are now, so what came and went between
//! two times costs next to nothing; and the rest (size, times) is looked up only
//! when it is written.
//!
//! The catalog is a copy that nothing is served from. It is made by a scan when
//! the tree is not known to agree with it: `humfs/catalog/current` is there
//! exactly while nobody writes the tree and it does. Changes go on during a scan,
//! and are applied after it, so that the later word is theirs; then the
//! directories that it has missed are read, because they were on the move.
//!
//! Should the database fail, the tree is served all the same, without one.

mod book;
mod feed;
mod look;
mod marker;
mod pending;
mod restless;
mod scan;
mod text;

pub use book::rebuild;
pub(crate) use book::{Book, Parts};
pub(crate) use feed::Feed;
pub(crate) use marker::take as take_marker;
pub(crate) use pending::Loss;

/// Whether a catalog is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Upkeep {
    /// No; what there is will be out of date.
    #[default]
    Off,
    /// If there is one that agrees with the tree.
    IfCurrent,
    /// Yes: where there is none it is made.
    On,
}

/// What is in `humfs/`.
pub(crate) const DIR: &std::ffi::CStr = c"catalog";
