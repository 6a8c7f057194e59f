//! `externfs umount`.

use crate::failure::{Failure, Result};
use std::path::Path;

/// Unmounts the externfs on `point`.
///
/// # Errors
/// It is none, it is in use, or it is somebody else's.
pub fn run(point: &Path, lazy: bool) -> Result<()> {
    externfs_fuse::unmount(point, lazy).map_err(|error| Failure::new(error.to_string()))
}
