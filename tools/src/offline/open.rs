//! TREE, as the commands take it: a humfs tree, or `PLUGIN:SRC` for whatever
//! else the program can export.

use super::Offline;
use crate::failure::{Failure, Result};
use crate::{hostuser, plugins, process};
use externfs::{MountOption, Registry, Source};
use std::ffi::OsStr;
use std::path::Path;

/// What a TREE is when nothing is said.
const DEFAULT_PLUGIN: &str = "humfs";

/// The plugin and the source that TREE means.
#[must_use]
pub fn source_of<'t>(registry: &Registry, tree: &'t OsStr) -> (&'t str, &'t Path) {
    let split = tree.to_str().and_then(|text| text.split_once(':'));
    match split {
        Some((plugin, source)) if registry.get(plugin).is_ok() => (plugin, Path::new(source)),
        _ => (DEFAULT_PLUGIN, Path::new(tree)),
    }
}

/// Opens TREE: to look, which is allowed beside a mount, or to `change` it.
///
/// # Errors
/// The plugin's line.
pub fn open(tree: &OsStr, change: bool) -> Result<Offline> {
    let registry = plugins::registry();
    let (plugin, path) = source_of(&registry, tree);
    let plugin = registry.get(plugin).map_err(|error| Failure::new(error.0))?;
    process::raise_file_limit();
    if change && plugin.name() == DEFAULT_PLUGIN {
        hostuser::act_as_owner_of(path)?;
    }
    let read_only = MountOption { key: "ro".into(), value: None };
    let options = if change { Vec::new() } else { vec![read_only] };
    let connect = plugin.open(&Source { path: path.to_owned(), options })?;
    Offline::new(connect)
}
