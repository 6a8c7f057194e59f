//! INIT: what the kernel offers and we take.

use super::Adapter;
use crate::native::obstacle;
use crate::passthrough::{PassthroughChoice, is_permitted};
use fuser::{InitFlags, KernelConfig};
use std::io;

/// Bytes of one WRITE, and of one READ: 256 pages, the kernel's default limit.
pub(crate) const MAX_TRANSFER: u32 = 1 << 20;

/// Requests that the kernel keeps in the background (readahead, direct I/O in
/// pieces) before it makes writers wait.
const MAX_BACKGROUND: u16 = 64;

/// A refusal of our own, worded for the user, among fuser's errors.
#[derive(Debug)]
struct Refusal(&'static str);

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Refusal {}

/// Whether `error` is one of ours.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Refusal>())
}

/// What stands in the way of passthrough, if anything does.
fn obstacle_of(offered: InitFlags, writeback: bool) -> Option<&'static str> {
    let offers = offered.contains(InitFlags::FUSE_PASSTHROUGH);
    let flags = if offers { externfs_wire::abi::InitFlags::PASSTHROUGH } else { externfs_wire::abi::InitFlags::empty() };
    let clear = offers && !writeback && is_permitted();
    (!clear).then(|| obstacle(flags, writeback))
}

impl Adapter {
    /// ATOMIC_O_TRUNC is not among them: with it OPEN is sent, and a running
    /// program truncated, before the kernel refuses with ETXTBSY. Without, a
    /// SETATTR follows OPEN once that is settled, and setuid is dropped in it.
    fn wanted(&self) -> InitFlags {
        let mut flags = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_EXPORT_SUPPORT
            | InitFlags::FUSE_BIG_WRITES
            | InitFlags::FUSE_DONT_MASK
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_HAS_IOCTL_DIR
            | InitFlags::FUSE_MAX_PAGES
            | InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP;
        // Who may forget attributes at once gains nothing from getting them early.
        let remembers = !self.policy.attr.is_zero() && !self.policy.entry.is_zero();
        flags.set(InitFlags::FUSE_DO_READDIRPLUS | InitFlags::FUSE_READDIRPLUS_AUTO, remembers);
        // With it the kernel checks, whatever the mount says.
        flags.set(InitFlags::FUSE_POSIX_ACL, self.features.posix_acl && !self.callers_are_root);
        flags.set(InitFlags::FUSE_WRITEBACK_CACHE, self.policy.writeback);
        // Targets have no expiry of their own: only for trees that nobody else changes.
        flags.set(InitFlags::FUSE_CACHE_SYMLINKS, !self.policy.coherent || self.policy.exclusive);
        // Where others change nothing, moving times and sizes say nothing about the data.
        flags.set(InitFlags::FUSE_AUTO_INVAL_DATA, !self.policy.exclusive);
        flags.set(InitFlags::FUSE_EXPLICIT_INVAL_DATA, self.policy.exclusive);
        flags
    }

    pub(super) fn negotiate(&self, config: &mut KernelConfig) -> io::Result<()> {
        // One by one: a flag that this kernel lacks is done without.
        for flag in self.wanted().iter() {
            if config.add_capabilities(flag).is_err() {
                tracing::debug!("the kernel does not offer {flag:?}");
            }
        }
        self.negotiate_passthrough(config)?;
        // Each setter returns the nearest value that it takes.
        let _ = config.set_max_write(MAX_TRANSFER);
        if let Err(most) = config.set_max_readahead(MAX_TRANSFER) {
            let _ = config.set_max_readahead(most);
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn negotiate_passthrough(&self, config: &mut KernelConfig) -> io::Result<()> {
        if self.choice == PassthroughChoice::Off {
            return Ok(());
        }
        match obstacle_of(config.capabilities(), self.policy.writeback) {
            Some(line) if self.choice == PassthroughChoice::On => return Err(io::Error::other(Refusal(line))),
            Some(line) => {
                tracing::debug!("no passthrough: {line}");
                return Ok(());
            }
            None => {}
        }
        // 1: the host's files may lie on no stacked file system, and this one
        // may itself lie below an overlay.
        let taken = config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok() && config.set_max_stack_depth(1).is_ok();
        if taken {
            self.backings.enable();
        }
        Ok(())
    }
}
