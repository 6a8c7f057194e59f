//! [`HumFsPlugin`]: humfs as the registry knows it.

use crate::catalog::{self, Upkeep};
use crate::fs::HumFs;
use crate::host;
use crate::options::{OPTIONS, Options};
use crate::tree::{Access, Tree};
use externfs::{Bridge, BridgeOptions, Connect, Error, Export, HostMount, MountOption, Plugin, Result, Source, UsageError};
use externfs_catalog::barrier;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// `humfs`: a tree with its own owners, modes and devices.
#[derive(Clone, Copy, Debug, Default)]
pub struct HumFsPlugin;

impl Plugin for HumFsPlugin {
    fn name(&self) -> &'static str {
        "humfs"
    }

    fn summary(&self) -> &'static str {
        "a humfs tree: owners, modes, devices and attributes of its own, no privilege needed"
    }

    fn options(&self) -> &'static [(&'static str, &'static str)] {
        OPTIONS
    }

    fn owner_is_root(&self) -> bool {
        true
    }

    fn serves_as(&self, source: &Source) -> Option<(u32, u32)> {
        let there = std::fs::metadata(&source.path).ok()?;
        (rustix::process::geteuid().is_root() && there.uid() != 0).then_some((there.uid(), there.gid()))
    }

    fn own_dir(&self) -> Option<&'static str> {
        Some("humfs")
    }

    fn lends_files(&self, options: &[MountOption]) -> bool {
        options.iter().any(|option| option.key == "ro")
    }

    fn open(&self, source: &Source) -> std::result::Result<Arc<dyn Connect>, UsageError> {
        let options = Options::parse(&source.options)?;
        let access = if options.read_only { Access::Read } else { Access::Write };
        let tree = Tree::open_to_serve(&source.path, access)?;
        let listener = listener(&tree, &options);
        // The bridge is made in the server's sandbox, where nobody can look.
        externfs::measure_memory();
        Ok(Arc::new(Later(Mutex::new(Opening::Tree(Box::new(tree), options, listener)))))
    }
}

/// Opens the tree at `path` in this process, at once.
///
/// # Errors
/// One clear line: what is wrong and what to do.
pub fn open(path: &Path, options: &Options) -> std::result::Result<Arc<Bridge<HumFs>>, UsageError> {
    let access = if options.read_only { Access::Read } else { Access::Write };
    serve(Tree::open(path, access)?, options.clone(), None).map_err(|error| UsageError(format!("'{}': {error}", path.display())))
}

fn serve(tree: Tree, options: Options, listener: Option<UnixListener>) -> Result<Arc<Bridge<HumFs>>> {
    let read_only = options.read_only;
    Bridge::new(HumFs::open(tree, options, listener)?, BridgeOptions { read_only })
}

/// Where queries ask for the catalog to catch up. Made now, since the server's
/// sandbox allows no socket. Without one the tree is served all the same.
fn listener(tree: &Tree, options: &Options) -> Option<UnixListener> {
    let control = tree.control().filter(|_| options.catalog == Upkeep::On && !options.read_only)?;
    let dir = host::ensure_dir(control, catalog::DIR).map_err(std::io::Error::from);
    match dir.and_then(|dir| barrier::listen(Path::new(&host::proc_path(dir.as_fd())))) {
        Ok(listener) => Some(listener),
        Err(error) => {
            tracing::warn!("'{}/humfs/catalog': {error}: queries cannot wait for the catalog", tree.path().display());
            None
        }
    }
}

/// A tree that is found and locked by whoever was called, and served by a
/// process that is forked later: recovery and databases belong to the latter.
struct Later(Mutex<Opening>);

enum Opening {
    Tree(Box<Tree>, Options, Option<UnixListener>),
    Bridge(Arc<Bridge<HumFs>>),
    Failed(Error),
}

impl Later {
    /// The tree, opened now if it was not.
    fn bridge(&self) -> Result<Arc<Bridge<HumFs>>> {
        let mut opening = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = Opening::Failed(Error::because(externfs::Errno::EIO, "the tree could not be opened"));
        *opening = match std::mem::replace(&mut *opening, lost) {
            Opening::Tree(tree, options, listener) => serve(*tree, options, listener).map_or_else(Opening::Failed, Opening::Bridge),
            other => other,
        };
        match &*opening {
            Opening::Bridge(bridge) => Ok(bridge.clone()),
            Opening::Failed(error) => Err(error.clone()),
            Opening::Tree(..) => Err(externfs::Errno::EIO.into()),
        }
    }
}

impl Connect for Later {
    fn connect(&self) -> Result<Arc<dyn Export>> {
        self.bridge()?.connect()
    }

    fn expect(&self, guests: usize) {
        // What is wrong with the tree is told to who connects.
        if let Ok(bridge) = self.bridge() {
            bridge.expect(guests);
        }
    }

    fn mounted(&self, mount: Option<HostMount>) {
        if let Ok(bridge) = self.bridge() {
            bridge.mounted(mount);
        }
    }

    fn close(&self) -> Result<()> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Opening::Bridge(bridge) => bridge.close(),
            _ => Ok(()),
        }
    }
}
