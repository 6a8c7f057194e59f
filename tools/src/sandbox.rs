//! What a serving process gives up before it answers its first request.
//!
//! A guest may be hostile, and the code that parses its requests may one day
//! have a hole. So the server keeps only what serving takes: the tree that it
//! exports (`landlock`), the capabilities that creating on somebody's behalf
//! needs (`caps`), the system calls that file systems are made of
//! (`seccomp`), and no way to gain a privilege again (no_new_privs).
//!
//! It is entered once, after everything that needs more (mounting, binding a
//! socket) and before the first worker thread, which inherits it. What a
//! kernel lacks is said aloud, once, and the rest still applies.
//!
//! The tree is named by descriptors ([`Grounds`]) that were opened before the
//! mount was made. A mount may lie over its own source, or above it: then the
//! path leads to the mount, and to open it would be to wait for an answer that
//! nobody gives before we serve.

mod caps;
mod landlock;
mod seccomp;

use crate::failure::{Failure, Result};
use clap::ValueEnum;
use rustix::fs::{CWD, Mode as Bits, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// How much a missing piece matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Mode {
    /// As much as this kernel has; a warning names what it lacks
    #[default]
    Auto,
    /// All of it, or the server does not start
    Require,
    /// None of it
    None,
}

impl Mode {
    /// From the value of `-o sandbox=`.
    ///
    /// # Errors
    /// A line with the values there are.
    pub fn parse(value: &str) -> Result<Mode> {
        <Mode as ValueEnum>::from_str(value, false).map_err(|_| Failure::usage(format!("sandbox is auto, require or none, not '{value}'")))
    }
}

/// What of a source can go on being opened, by descriptors that open nothing
/// themselves.
#[derive(Debug)]
pub struct Grounds {
    tree: std::result::Result<OwnedFd, Errno>,
    own: Option<OwnedFd>,
}

impl Grounds {
    /// Those of the source at `path`, with what its plugin keeps in `own_dir`
    /// there; see [`externfs::Plugin::own_dir`]. A plugin may take what is no path
    /// at all, so that there is none is found out by who needs one.
    #[must_use]
    pub fn open(path: &Path, own_dir: Option<&str>) -> Grounds {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let tree = rustix::fs::openat(CWD, path, flags, Bits::empty());
        // There may be none yet, and nothing to keep in it.
        let own = tree.as_ref().ok().zip(own_dir);
        let own = own.and_then(|(tree, name)| rustix::fs::openat(tree, name, flags | OFlags::DIRECTORY, Bits::empty()).ok());
        Grounds { tree, own }
    }

    fn tree(&self) -> std::result::Result<BorrowedFd<'_>, String> {
        self.tree.as_ref().map(AsFd::as_fd).map_err(|errno| format!("cannot open the source: {errno}"))
    }
}

/// What a server still needs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs<'a> {
    /// The exported tree; None for a server that opens no file.
    pub tree: Option<&'a Grounds>,
    /// The tree is only read, but for what the plugin keeps there.
    pub read_only: bool,
    /// Each worker opens /dev/fuse for itself.
    pub fuse_device: bool,
    /// CAP_SYS_ADMIN: FUSE passthrough, and `trusted.*` attributes.
    pub administration: bool,
    /// Rings of an io_uring, which it has already.
    pub rings: bool,
}

/// Gives up everything that `needs` does not name, for good.
///
/// # Errors
/// With [`Mode::Require`], the first piece that the kernel lacks.
pub fn enter(mode: Mode, needs: &Needs<'_>) -> Result<()> {
    if mode == Mode::None {
        return Ok(());
    }
    let pieces: [(&str, std::result::Result<(), String>); 4] = [
        ("no_new_privs", nix::sys::prctl::set_no_new_privs().map_err(|errno| errno.desc().to_owned())),
        ("capabilities", caps::trim(needs)),
        ("Landlock", landlock::restrict(needs)),
        // Last, for the others need system calls that it refuses.
        ("seccomp", seccomp::install(needs)),
    ];
    for (name, outcome) in pieces {
        if let Err(reason) = outcome {
            let line = format!("the server runs without {name}: {reason}");
            if mode == Mode::Require {
                return Err(Failure::new(format!("sandbox=require: {line}")));
            }
            tracing::warn!("{line}");
        }
    }
    Ok(())
}
