//! [`Order`]: a READ waits for the WRITEs of its pages that came before it.
//!
//! While a process writes through the page cache, another may have the kernel
//! drop these pages: it opens the file anew, or hears that the file's times
//! have moved. They are read again at once, with the WRITE still under way. If
//! the READ were answered first, the pages would show what was there before (past
//! the end: zeros), to everybody, until they are dropped once more. One thread
//! that serves all keeps the order in which the kernel asked; where there are
//! several, each request takes its place here before the next one is read.

use externfs_wire::Opcode;
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Requests are compared by pages of this many bytes: the largest there are.
const PAGE: u64 = 64 << 10;
/// So long a READ waits at most: a host whose write depends on it shall not stand
/// still for ever.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where a request has its node, and READ and WRITE their offset and size
/// (`fuse_in_header`, `fuse_read_in`, `fuse_write_in`).
const OPCODE_AT: usize = 4;
const NODE_AT: usize = 16;
const OFFSET_AT: usize = 48;
const SIZE_AT: usize = 56;

/// Bytes of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Part {
    node: u64,
    pages: Range<u64>,
}

impl Part {
    fn of(request: &[u8]) -> Option<Part> {
        let number = |at: usize| request.get(at..at + 8)?.first_chunk().copied().map(u64::from_ne_bytes);
        let size = request.get(SIZE_AT..SIZE_AT + 4)?.first_chunk().copied().map(u32::from_ne_bytes)?;
        let (node, offset) = (number(NODE_AT)?, number(OFFSET_AT)?);
        Some(Part { node, pages: offset / PAGE..offset.saturating_add(size.into()).div_ceil(PAGE) })
    }

    fn meets(&self, other: &Part) -> bool {
        self.node == other.node && self.pages.start < other.pages.end && other.pages.start < self.pages.end
    }
}

#[derive(Default)]
struct Writes {
    /// Under way, by number.
    parts: Vec<(u64, Part)>,
    next: u64,
}

impl Writes {
    fn stands_before(&self, part: &Part, number: u64) -> bool {
        self.parts.iter().any(|(write, theirs)| *write < number && theirs.meets(part))
    }
}

/// The order of one mount's requests.
#[derive(Default)]
pub(crate) struct Order {
    writes: Mutex<Writes>,
    done: Condvar,
}

/// A request's place; given up by dropping it.
pub(crate) enum Place<'a> {
    /// Before and behind anything.
    Anywhere,
    Write(&'a Order, u64),
    /// Behind the WRITEs with smaller numbers.
    Read(&'a Order, u64, Range<u64>, u64),
}

impl Order {
    fn writes(&self) -> MutexGuard<'_, Writes> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place of a request that was just read, and before which no other is read.
    pub(crate) fn place(&self, request: &[u8]) -> Place<'_> {
        let opcode = request.get(OPCODE_AT..OPCODE_AT + 4).and_then(|bytes| bytes.first_chunk()).copied().map(u32::from_ne_bytes);
        match opcode.and_then(Opcode::from_raw) {
            Some(Opcode::Write) => {
                let Some(part) = Part::of(request) else { return Place::Anywhere };
                let mut writes = self.writes();
                let number = writes.next;
                writes.next += 1;
                writes.parts.push((number, part));
                Place::Write(self, number)
            }
            Some(Opcode::Read) => {
                let writes = self.writes();
                match Part::of(request).filter(|part| writes.stands_before(part, u64::MAX)) {
                    Some(part) => Place::Read(self, part.node, part.pages, writes.next),
                    None => Place::Anywhere,
                }
            }
            _ => Place::Anywhere,
        }
    }
}

impl Place<'_> {
    /// Returns when it is this request's turn.
    pub(crate) fn await_turn(&self) {
        if let Place::Read(order, node, pages, number) = self {
            let part = Part { node: *node, pages: pages.clone() };
            let stands = |writes: &mut Writes| writes.stands_before(&part, *number);
            drop(order.done.wait_timeout_while(order.writes(), PATIENCE, stands));
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Place::Write(order, number) = self {
            order.writes().parts.retain(|(write, _)| write != number);
            order.done.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    fn request(opcode: Opcode, node: u64, offset: u64, size: u32) -> Vec<u8> {
        let mut bytes = vec![0; 80];
        bytes[4..8].copy_from_slice(&(opcode as u32).to_ne_bytes());
        bytes[16..24].copy_from_slice(&node.to_ne_bytes());
        bytes[48..56].copy_from_slice(&offset.to_ne_bytes());
        bytes[56..60].copy_from_slice(&size.to_ne_bytes());
        bytes
    }

    fn waits(order: &Order, read: &[u8]) -> bool {
        matches!(order.place(read), Place::Read(..))
    }

    #[test]
    fn a_read_waits_for_writes_of_its_pages_only() {
        let order = Order::default();
        let write = order.place(&request(Opcode::Write, 7, PAGE, 100));
        assert!(waits(&order, &request(Opcode::Read, 7, 0, PAGE as u32 + 1)));
        assert!(waits(&order, &request(Opcode::Read, 7, 2 * PAGE - 1, 1)));
        assert!(!waits(&order, &request(Opcode::Read, 7, 0, PAGE as u32)), "pages before it");
        assert!(!waits(&order, &request(Opcode::Read, 7, 2 * PAGE, 1)), "pages behind it");
        assert!(!waits(&order, &request(Opcode::Read, 8, PAGE, 1)), "another file");
        assert!(!waits(&order, &request(Opcode::GetAttr, 7, PAGE, 1)));
        drop(write);
        assert!(!waits(&order, &request(Opcode::Read, 7, PAGE, 1)), "it is done");
    }

    #[test]
    fn it_waits_until_they_are_done_and_not_for_those_behind_it() {
        let order = Order::default();
        let (write, done) = (order.place(&request(Opcode::Write, 7, 0, 1)), AtomicBool::new(false));
        let bytes = request(Opcode::Read, 7, 0, 1);
        let read = order.place(&bytes);
        let _behind = order.place(&request(Opcode::Write, 7, 0, 1));
        thread::scope(|scope| {
            scope.spawn(|| {
                read.await_turn();
                assert!(done.load(Ordering::SeqCst));
            });
            thread::sleep(Duration::from_millis(20));
            done.store(true, Ordering::SeqCst);
            drop(write);
        });
    }

    #[test]
    fn what_is_no_request_has_no_place() {
        let order = Order::default();
        for len in 0..60 {
            assert!(matches!(order.place(&request(Opcode::Write, 7, 0, 1)[..len]), Place::Anywhere), "{len}");
        }
        assert!(matches!(order.place(&request(Opcode::Write, 7, u64::MAX, u32::MAX)), Place::Write(..)));
    }
}
