//! [`Realm`]: a plugin and the kind of tree that it serves, by a name that can
//! be told to another process.

use externfs::{Connect, MountOption, Plugin, Source};
use humfs::store::Format;
use humfs::superblock::Superblock;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

/// See the [module](self).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Realm {
    /// A plain directory.
    HostFs,
    /// A humfs tree with its records in this format.
    HumFs(Format),
}

/// Bytes that a tree may hold: more than any test needs.
const TOTAL: u64 = 1 << 30;

impl Realm {
    /// For a command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Realm::HostFs => "hostfs",
            Realm::HumFs(format) => format.name(),
        }
    }

    /// The one that is called so.
    #[must_use]
    pub fn named(wanted: &str) -> Option<Realm> {
        if wanted == Realm::HostFs.name() { Some(Realm::HostFs) } else { Format::parse(wanted).map(Realm::HumFs) }
    }

    /// Makes an empty tree at `path`, where there is nothing.
    ///
    /// # Panics
    /// When the host refuses it.
    pub fn make(self, path: &Path) {
        let private = |path: &Path| {
            std::fs::create_dir(path).expect("a directory");
            std::fs::set_permissions(path, Permissions::from_mode(0o700)).expect("chmod");
        };
        private(path);
        if let Realm::HumFs(format) = self {
            private(&path.join("data"));
            let superblock = Superblock { version: 2, format, used: 1, total: TOTAL };
            std::fs::write(path.join("superblock"), superblock.to_text()).expect("a superblock");
        }
    }

    /// Opens it, with what else the plugin should know.
    ///
    /// # Errors
    /// What the plugin says.
    pub fn open(self, path: &Path, options: &[&str]) -> Result<Arc<dyn Connect>, String> {
        let options: Vec<_> = options.iter().map(|key| MountOption { key: (*key).into(), value: None }).collect();
        let opened: Result<Arc<dyn Connect>, _> = match self {
            Realm::HostFs => hostfs::HostFsPlugin.open(&Source { path: path.to_path_buf(), options }),
            Realm::HumFs(_) => humfs::Options::parse(&options).and_then(|options| Ok(humfs::open(path, &options)? as _)),
        };
        opened.map_err(|error| error.0)
    }

    /// Whether statfs(2) tells of this tree alone.
    #[must_use]
    pub fn keeps_account(self) -> bool {
        self != Realm::HostFs
    }

    /// What lies about in a tree that was left in good order and should not.
    ///
    /// # Panics
    /// When it cannot be looked at.
    #[must_use]
    pub fn left_over(self, path: &Path) -> Vec<String> {
        let mut left = Vec::new();
        if let Realm::HumFs(_) = self {
            // Files are the tree's own; what is in flight has a directory.
            for dir in std::fs::read_dir(path.join("humfs")).expect("humfs/").flatten() {
                for entry in std::fs::read_dir(dir.path()).into_iter().flatten().flatten() {
                    left.push(format!("{}/{}", dir.file_name().to_string_lossy(), entry.file_name().to_string_lossy()));
                }
            }
        }
        left
    }

    /// Takes the counters away, so that the next mount counts for itself.
    ///
    /// # Panics
    /// When they cannot be removed.
    pub fn forget_counters(self, path: &Path) {
        if let Realm::HumFs(_) = self {
            std::fs::remove_file(path.join("humfs/state")).expect("humfs/state");
        }
    }
}
