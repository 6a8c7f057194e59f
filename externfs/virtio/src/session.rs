//! The handler that counts: a FUSE session over an export of its own.

use crate::handler::{Handler, Handlers};
use externfs::{Connect, DataSource, UsageError};
use externfs_wire::{Config, LogGate, Outcome, Reply, Session, TransportKind};
use std::sync::Arc;

struct FuseHandler {
    session: Session,
}

impl Handler for FuseHandler {
    fn handle(&self, source: &mut dyn DataSource, reply: &mut dyn Reply) -> Outcome {
        self.session.handle(source, reply)
    }

    fn interrupt(&self) {
        self.session.interrupt_all();
    }
}

/// A fresh session over a fresh export for each guest. What they may write to
/// the log is one for all: each of them may come back at once.
pub(crate) fn handlers(connect: Arc<dyn Connect>) -> Box<Handlers> {
    let gate = Arc::new(LogGate::new());
    Box::new(move || {
        let export = connect.connect().map_err(|error| UsageError(format!("the export: {error}")))?;
        let session = Session::with_gate(export, Config::new(TransportKind::Virtio), Arc::clone(&gate));
        Ok(Arc::new(FuseHandler { session }))
    })
}
