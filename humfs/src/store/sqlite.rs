//! The `sqlite` format.

/// See the [module](self).
#[derive(Debug)]
pub struct SqliteStore;
