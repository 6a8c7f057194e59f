//! [`Registry`]: plugins by name, each with its options.
//!
//! The core knows no plugin. A program that bundles some registers them here;
//! mount, serve and boot then treat them all alike.

use crate::export::Connect;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// One `-o` option: `key` or `key=value`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountOption {
    /// Before the `=`.
    pub key: String,
    /// After it, if there was one.
    pub value: Option<String>,
}

/// What a plugin is asked to export.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// The directory, file or whatever the plugin takes.
    pub path: PathBuf,
    /// The plugin's own options, in order; later ones win.
    pub options: Vec<MountOption>,
}

/// One line for people who mistyped: names the thing and the remedy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UsageError(pub String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// A plugin that can be asked for by name.
pub trait Plugin: Send + Sync {
    /// As typed after `externfs mount`.
    fn name(&self) -> &'static str;
    /// What it does, in one line.
    fn summary(&self) -> &'static str;
    /// Its options: key as written with its argument ("map-uid=GUEST:HOST:N"), and one line of help.
    fn options(&self) -> &'static [(&'static str, &'static str)];
    /// Whether whoever owns the source on the host is root in what it holds:
    /// owners there are a guest's, and say nothing of users of the host. On a
    /// mount that an ordinary user makes for nobody else, every caller then is
    /// root, and the kernel checks nothing.
    fn owner_is_root(&self) -> bool {
        false
    }
    /// The user and group of the host that root is to open and serve `source` as:
    /// what root would make there would be root's, and in somebody's way.
    fn serves_as(&self, source: &Source) -> Option<(u32, u32)> {
        let _ = source;
        None
    }
    /// The directory below the source in which the plugin keeps things of its
    /// own. A server may write there even if nothing is to be changed: readers
    /// share locks and indexes.
    fn own_dir(&self) -> Option<&'static str> {
        None
    }
    /// Whether a server of it opens files of the source once it serves. One that
    /// does not loses the right to, and root's capabilities with it.
    fn opens_files(&self) -> bool {
        true
    }
    /// Whether, with these options, it gives files to the kernel to serve
    /// ([`crate::ExternFs::backing`]), for which a server keeps CAP_SYS_ADMIN.
    fn lends_files(&self, options: &[MountOption]) -> bool {
        let _ = options;
        self.opens_files()
    }
    /// Whether a server of it goes back to the source, or to what lies in it, by
    /// path. A mount that hides the source or lies within is refused then: the way
    /// would lead into the mount, and to wait for oneself ends never.
    fn goes_by_path(&self) -> bool {
        true
    }
    /// Opens the source. Everything that can be wrong with it is found here.
    ///
    /// # Errors
    /// One clear line: what is wrong and what to do.
    fn open(&self, source: &Source) -> Result<Arc<dyn Connect>, UsageError>;
}

/// The plugins of a program.
#[derive(Default)]
pub struct Registry {
    plugins: BTreeMap<&'static str, Box<dyn Plugin>>,
}

impl Registry {
    /// None yet.
    #[must_use]
    pub fn new() -> Registry {
        Registry::default()
    }

    /// Adds one; the last of a name wins.
    pub fn register(&mut self, plugin: impl Plugin + 'static) {
        self.plugins.insert(plugin.name(), Box::new(plugin));
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &dyn Plugin> {
        self.plugins.values().map(Box::as_ref)
    }

    /// The plugin called `name`.
    ///
    /// # Errors
    /// A line that names the plugins there are.
    pub fn get(&self, name: &str) -> Result<&dyn Plugin, UsageError> {
        self.plugins.get(name).map(Box::as_ref).ok_or_else(|| {
            let known: Vec<_> = self.plugins.keys().copied().collect();
            UsageError(format!("unknown plugin '{name}': there are {}", known.join(", ")))
        })
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.plugins.keys()).finish()
    }
}
