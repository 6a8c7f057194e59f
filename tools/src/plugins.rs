//! The plugins of this program: the only file that knows them all.

use externfs::Registry;

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
