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
use crate::init::Config;
use externfs::{CachePolicy, Caller, Export, NodeId};

/// What every operation knows of its request.
pub(crate) struct Call<'a> {
    pub(crate) export: &'a dyn Export,
    pub(crate) config: &'a Config,
    pub(crate) terms: InitFlags,
    pub(crate) node: NodeId,
    pub(crate) caller: Caller,
}

impl Call<'_> {
    pub(crate) fn policy(&self) -> CachePolicy {
        self.export.cache_policy()
    }

    /// The caller, as one who makes something with this umask.
    pub(crate) fn maker(&self, umask: u32) -> Caller {
        Caller { umask, ..self.caller.clone() }
    }
}
