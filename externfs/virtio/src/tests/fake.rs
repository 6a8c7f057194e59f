//! A handler that does as it is told by the request.

use crate::handler::{Handler, Handlers};
use externfs::DataSource;
use externfs_wire::{Outcome, REPLY_HEADER_LEN, Reply};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// What a request asks for, in the opcode's place.
pub(super) const ECHO: u32 = 1;
pub(super) const SILENT: u32 = 2;
pub(super) const WAIT: u32 = 3;
pub(super) const BROKEN: u32 = 4;
pub(super) const PANIC: u32 = 5;
pub(super) const RELEASE: u32 = 6;
pub(super) const STUCK: u32 = 7;
pub(super) const SLEEP: u32 = 8;
/// As a lock: without an answer when it is interrupted.
pub(super) const LOCK: u32 = 9;

/// What the handlers of a server share, for tests to look at.
#[derive(Default)]
pub(super) struct Fake {
    /// Handlers alive: one for each guest.
    pub(super) alive: AtomicUsize,
    /// Waiting requests.
    pub(super) waiting: AtomicUsize,
    /// Late answers that were not taken.
    pub(super) undelivered: AtomicUsize,
    released: Mutex<bool>,
    /// Whether locks are free, and how often waits were interrupted.
    locks: Mutex<(bool, u32)>,
    changed: Condvar,
    changed_locks: Condvar,
}

impl Fake {
    pub(super) fn release(&self, released: bool) {
        *self.released.lock().unwrap() = released;
        self.changed.notify_all();
    }

    /// Frees what [`LOCK`] waits for.
    pub(super) fn free(&self) {
        self.locks.lock().unwrap().0 = true;
        self.changed_locks.notify_all();
    }

    /// Whether it got the lock.
    fn wait_for_lock(&self) -> bool {
        let locks = self.locks.lock().unwrap();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let before = locks.1;
        let locks = self.changed_locks.wait_while(locks, |(free, interrupts)| !*free && *interrupts == before).unwrap();
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        locks.0
    }

    fn wait(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let released = self.released.lock().unwrap();
        drop(self.changed.wait_while(released, |released| !*released).unwrap());
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

struct FakeHandler(Arc<Fake>);

pub(super) fn handlers(fake: &Arc<Fake>) -> Box<Handlers> {
    let fake = Arc::clone(fake);
    Box::new(move || {
        fake.alive.fetch_add(1, Ordering::SeqCst);
        Ok(Arc::new(FakeHandler(Arc::clone(&fake))))
    })
}

impl Drop for FakeHandler {
    fn drop(&mut self) {
        self.0.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

fn finish(reply: &mut dyn Reply, unique: [u8; 8], payload: &[u8]) -> Outcome {
    let mut header = [0; REPLY_HEADER_LEN];
    header[..4].copy_from_slice(&((REPLY_HEADER_LEN + payload.len()) as u32).to_ne_bytes());
    header[8..].copy_from_slice(&unique);
    match reply.put(payload).and_then(|()| reply.finish(header)) {
        Ok(()) => Outcome::Replied,
        Err(error) => Outcome::Broken(format!("no room: {error}")),
    }
}

impl Handler for FakeHandler {
    fn handle(&self, source: &mut dyn DataSource, reply: &mut dyn Reply) -> Outcome {
        let mut bytes = vec![0; source.remaining()];
        assert_eq!(source.take(&mut bytes).unwrap(), bytes.len());
        let Some((start, payload)) = bytes.split_first_chunk::<16>() else {
            return Outcome::Broken("too short".into());
        };
        let opcode = u32::from_ne_bytes(start[4..8].try_into().unwrap());
        let unique: [u8; 8] = start[8..].try_into().unwrap();
        let fake = Arc::clone(&self.0);
        match opcode {
            ECHO => finish(reply, unique, payload),
            RELEASE => {
                fake.release(true);
                finish(reply, unique, b"released")
            }
            SLEEP => {
                std::thread::sleep(Duration::from_millis(300));
                finish(reply, unique, b"slept")
            }
            SILENT => Outcome::Silent,
            BROKEN => Outcome::Broken("asked to".into()),
            PANIC => panic!("asked to"),
            WAIT => Outcome::Later(Box::new(move |reply| {
                fake.wait();
                let _ = finish(reply, unique, b"waited");
            })),
            LOCK => Outcome::Later(Box::new(move |reply| {
                if fake.wait_for_lock() {
                    let _ = finish(reply, unique, b"locked");
                }
            })),
            STUCK => Outcome::Later(Box::new(move |reply| {
                std::thread::sleep(Duration::from_millis(1500));
                if let Outcome::Broken(_) = finish(reply, unique, b"late") {
                    fake.undelivered.fetch_add(1, Ordering::SeqCst);
                }
            })),
            _ => Outcome::Broken(format!("opcode {opcode}")),
        }
    }

    fn interrupt(&self) {
        self.0.release(true);
        self.0.locks.lock().unwrap().1 += 1;
        self.0.changed_locks.notify_all();
    }
}
