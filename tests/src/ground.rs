//! [`Ground`]: an ext4 for trees to stand on.

use crate::fixture::{LoopFs, succeed, temp_dir};
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

/// The temporary directory's file system if it is ext4, else one on a loop
/// device. With `EXTERNFS_TEST_GROUND=host` the former, whatever it is.
pub enum Ground {
    /// A directory of the host.
    Dir(TempDir),
    /// The root of an image.
    Image(LoopFs),
}

impl Ground {
    /// An empty directory.
    ///
    /// # Panics
    /// When the host does not give one.
    #[must_use]
    pub fn new() -> Ground {
        let dir = temp_dir();
        if std::env::var_os("EXTERNFS_TEST_GROUND").is_some_and(|ground| ground == "host") {
            return Ground::Dir(dir);
        }
        let kind = succeed(Command::new("stat").args(["-f", "-c", "%T"]).arg(dir.path()));
        if kind.trim() == "ext2/ext3" { Ground::Dir(dir) } else { Ground::Image(LoopFs::new(1024)) }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match self {
            Ground::Dir(dir) => dir.path().to_path_buf(),
            Ground::Image(image) => image.path(),
        }
    }
}

impl Default for Ground {
    fn default() -> Ground {
        Ground::new()
    }
}
