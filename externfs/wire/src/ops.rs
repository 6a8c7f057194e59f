//! The operations by family: each converts its arguments, calls the export,
//! and converts the answer.

pub(crate) mod attrs;
pub(crate) mod files;
pub(crate) mod ioctl;
pub(crate) mod listings;
pub(crate) mod locks;
pub(crate) mod names;
pub(crate) mod xattrs;

use crate::abi::InitFlags;
use crate::answer::Held;
use crate::habit::Habit;
use crate::init::Config;
use crate::passthrough::Passthrough;
use externfs::{CachePolicy, Caller, Entry, Export, NodeId};
use std::time::Duration;

/// What every operation knows of its request.
pub(crate) struct Call<'a> {
    pub(crate) export: &'a dyn Export,
    pub(crate) config: &'a Config,
    pub(crate) terms: InitFlags,
    pub(crate) habit: &'a Habit,
    /// There when the kernel agreed to it, with its mark at the request's start.
    pub(crate) passthrough: Option<(&'a dyn Passthrough, u64)>,
    pub(crate) node: NodeId,
    pub(crate) caller: Caller,
}

impl Call<'_> {
    pub(crate) fn policy(&self) -> CachePolicy {
        self.export.cache_policy()
    }

    /// How long attributes of `node` may be remembered.
    pub(crate) fn attr_ttl(&self, node: NodeId, ttl: Duration) -> Duration {
        self.passthrough.map_or(ttl, |(passthrough, mark)| passthrough.attr_ttl(mark, node, ttl))
    }

    /// The entry as the kernel is to be told of it.
    pub(crate) fn told(&self, entry: &Entry) -> Entry {
        Entry { attr_ttl: self.attr_ttl(entry.id, entry.attr_ttl), ..*entry }
    }

    /// Takes back what the kernel will not hear of.
    pub(crate) fn give_back(&self, held: Held) {
        held.give_back(self.export, self.passthrough.map(|(passthrough, _)| passthrough));
    }

    /// The caller, as one who makes something with this umask.
    pub(crate) fn maker(&self, umask: u32) -> Caller {
        Caller { umask, ..self.caller.clone() }
    }
}
