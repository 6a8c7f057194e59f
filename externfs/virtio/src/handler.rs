//! [`Handler`]: what answers the requests of one guest.

use externfs::{DataSource, UsageError};
use externfs_wire::{Outcome, Reply};
use std::sync::Arc;

/// Answers requests, from several threads at once. The FUSE session is the
/// one that counts; tests have simpler ones.
pub(crate) trait Handler: Send + Sync {
    /// Takes one request from `source` and answers it through `reply`.
    fn handle(&self, source: &mut dyn DataSource, reply: &mut dyn Reply) -> Outcome;

    /// Ends every operation that waits. Without an answer it is asked for again when
    /// its queue goes on.
    fn interrupt(&self);
}

/// Makes a handler for each guest that connects.
pub(crate) type Handlers = dyn Fn() -> Result<Arc<dyn Handler>, UsageError> + Send + Sync;
