//! The plugins of this program: the only file that knows them all.

use externfs::{MountOption, Registry};
use std::path::Path;

/// All of them.
#[must_use]
pub fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.register(hostfs::HostFsPlugin);
    registry.register(humfs::HumFsPlugin);
    registry.register(sqlfs::SqlFsPlugin);
    registry.register(externfs::example::LinesPlugin);
    registry
}

/// Tells an ordinary user who is about to mount `source` for himself what keeps him
/// from using it. It is for mounts alone: in a guest, its root asks.
pub fn warn_who_mounts(plugin: &str, source: &Path, options: &[MountOption]) {
    let own = nix::unistd::geteuid();
    // Of a source that is not there the plugin tells more.
    if plugin == "sqlfs" && !own.is_root() && source.exists() && !options.iter().any(|option| option.key == "uid") {
        tracing::warn!("only root may query: an ordinary user who mounts for himself adds -o uid={own}");
    }
}

/// Tells who shows a humfs tree by hostfs that it is one: what is in it can be meant,
/// and has other owners and modes.
pub fn warn_of_tree(plugin: &str, source: &Path) {
    if plugin == "hostfs" && source.join("superblock").is_file() && source.join("data").is_dir() {
        let shown = source.display();
        tracing::warn!("'{shown}' is a humfs tree: hostfs shows its parts, the plugin humfs what is in it (humfs:{shown})");
    }
}
