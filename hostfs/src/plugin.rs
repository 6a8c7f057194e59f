//! [`HostFsPlugin`]: hostfs as the registry knows it.

use crate::HostFs;
use crate::jail::{Jail, Resolver};
use crate::options::{OPTIONS, Options};
use externfs::{Bridge, BridgeOptions, Connect, Plugin, Source, UsageError};
use rustix::fs::Access;
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

/// `hostfs`: one host directory, jailed.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostFsPlugin;

impl Plugin for HostFsPlugin {
    fn name(&self) -> &'static str {
        "hostfs"
    }

    fn summary(&self) -> &'static str {
        "one host directory, as it is, and nothing outside it"
    }

    fn options(&self) -> &'static [(&'static str, &'static str)] {
        OPTIONS
    }

    fn goes_by_path(&self) -> bool {
        false
    }

    fn open(&self, source: &Source) -> Result<Arc<dyn Connect>, UsageError> {
        let options = Options::parse(&source.options)?;
        let bridge_options = BridgeOptions { read_only: options.read_only };
        let fs = open(&source.path, options)?;
        let bridge = Bridge::new(fs, bridge_options);
        let bridge = bridge.map_err(|error| UsageError(format!("cannot export '{}': {error}", source.path.display())))?;
        Ok(bridge)
    }
}

impl HostFs {
    /// Exports the directory at `source.path`.
    ///
    /// # Errors
    /// One clear line: what is wrong and what to do.
    pub fn open(source: &Source) -> Result<HostFs, UsageError> {
        open(&source.path, Options::parse(&source.options)?)
    }
}

fn open(path: &Path, options: Options) -> Result<HostFs, UsageError> {
    let cannot = |what: &str, error: Errno| UsageError(format!("cannot export '{}': {what}: {error}", path.display()));
    let mut root = Jail::open_root(path).map_err(|error| refuse_source(path, error))?;
    if let Some(subdir) = &options.subdir {
        let jail = Jail::new(root, options.resolver, options.one_file_system).map_err(|e| refuse_jail(path, &options, e))?;
        root = jail.walk(subdir.as_bytes()).map_err(|error| refuse_subdir(path, subdir, error))?;
    }
    check_readable(path, &root)?;
    let jail = Jail::new(root, options.resolver, options.one_file_system).map_err(|e| refuse_jail(path, &options, e))?;
    HostFs::new(jail, options).map_err(|error| cannot("statx", error))
}

fn refuse_source(path: &Path, error: Errno) -> UsageError {
    let path = path.display();
    UsageError(match error {
        Errno::NOENT => format!("'{path}' does not exist: make the directory first, or correct its name"),
        Errno::NOTDIR => format!("'{path}' is not a directory: hostfs exports directories only"),
        Errno::ACCESS => format!("'{path}' cannot be reached: a directory on the way does not let this user through"),
        other => format!("cannot open '{path}': {other}"),
    })
}

fn refuse_subdir(path: &Path, subdir: &str, error: Errno) -> UsageError {
    let (path, subdir) = (path.display(), subdir.escape_debug());
    UsageError(match error {
        Errno::NOENT => format!("subdir={subdir} does not exist in '{path}'"),
        Errno::NOTDIR | Errno::LOOP => {
            format!("subdir={subdir} leads through something in '{path}' that is no directory; links are not followed")
        }
        Errno::XDEV => format!("subdir={subdir} leaves '{path}', or its file system with one-file-system"),
        other => format!("cannot open subdir={subdir} in '{path}': {other}"),
    })
}

fn refuse_jail(path: &Path, options: &Options, error: Errno) -> UsageError {
    UsageError(match error {
        Errno::NOSYS | Errno::PERM if options.resolver == Some(Resolver::Openat2) => {
            "this host has no openat2(2), or forbids it: leave resolver=openat2 out".to_owned()
        }
        Errno::NOENT => "hostfs needs /proc/self/fd: mount proc on /proc".to_owned(),
        other => format!("cannot jail '{}': {other}", path.display()),
    })
}

/// To be listed, it must be readable and searchable; better found out now
/// than by every guest.
fn check_readable(path: &Path, root: &OwnedFd) -> Result<(), UsageError> {
    let wanted = Access::READ_OK | Access::EXEC_OK;
    rustix::fs::accessat(root.as_fd(), c".", wanted, rustix::fs::AtFlags::EACCESS).map_err(|error| match error {
        Errno::ACCESS => UsageError(format!("'{}' is not readable for this user: chmod u+rx it, or run as its owner", path.display())),
        other => UsageError(format!("cannot read '{}': {other}", path.display())),
    })
}
