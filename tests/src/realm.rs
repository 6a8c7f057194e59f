//! [`Realm`]: a plugin and the kind of tree that it serves, by a name that can
//! be told to another process.

use externfs::{Connect, MountOption, Plugin, Source};
use std::path::Path;
use std::sync::Arc;

/// See the [module](self).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Realm {
    /// A plain directory.
    HostFs,
}

impl Realm {
    /// All of them.
    pub const ALL: [Realm; 1] = [Realm::HostFs];

    /// For a command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Realm::HostFs => "hostfs",
        }
    }

    /// The one that is called so.
    #[must_use]
    pub fn named(wanted: &str) -> Option<Realm> {
        Realm::ALL.into_iter().find(|realm| realm.name() == wanted)
    }

    /// Makes an empty tree at `path`, where there is nothing.
    ///
    /// # Panics
    /// When the host refuses it.
    pub fn make(self, path: &Path) {
        match self {
            Realm::HostFs => std::fs::create_dir(path).expect("a directory"),
        }
    }

    /// Opens it, with what else the plugin should know.
    ///
    /// # Errors
    /// What the plugin says.
    pub fn open(self, path: &Path, options: &[&str]) -> Result<Arc<dyn Connect>, String> {
        let options = options.iter().map(|key| MountOption { key: (*key).into(), value: None }).collect();
        let source = Source { path: path.to_path_buf(), options };
        let opened = match self {
            Realm::HostFs => hostfs::HostFsPlugin.open(&source),
        };
        opened.map_err(|error| error.0)
    }

    /// Whether statfs(2) tells of this tree alone.
    #[must_use]
    pub fn keeps_account(self) -> bool {
        match self {
            Realm::HostFs => false,
        }
    }

    /// What lies about in an open tree that nobody has opened to change it.
    #[must_use]
    pub fn left_over(self, _path: &Path) -> Vec<String> {
        match self {
            Realm::HostFs => Vec::new(),
        }
    }
}
