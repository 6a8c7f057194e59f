//! What a frontend may write to the operator's log.

use super::frontend::*;
use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Counts lines of the thread that it is the subscriber of.
struct Lines(Arc<AtomicUsize>);

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// A server whose thread's lines are counted.
fn host(lines: &Arc<AtomicUsize>) -> Host {
    let lines = Lines(Arc::clone(lines));
    Host::run(Options::new("share"), move |server, stop| tracing::subscriber::with_default(lines, || server.run(stop).unwrap()))
}

#[test]
fn refusals_do_not_fill_it() {
    let lines = Arc::default();
    let host = host(&lines);
    let mut frontend = Frontend::connect(&host.path);
    for _ in 0..500 {
        assert_ne!(frontend.tell_fds(SET_VRING_NUM, &words(&[99, 8]), &[]).unwrap(), 0);
    }
    let seen = lines.load(Ordering::SeqCst);
    assert!((20..=100).contains(&seen), "{seen} lines");
}

#[test]
fn connections_do_not_fill_it() {
    let lines = Arc::default();
    let host = host(&lines);
    for _ in 0..200 {
        let mut frontend = Frontend::connect(&host.path);
        frontend.send_raw(&[0xff; 64], &[]).unwrap();
        assert!(frontend.is_given_up());
    }
    let seen = lines.load(Ordering::SeqCst);
    assert!((20..=100).contains(&seen), "{seen} lines");
}
