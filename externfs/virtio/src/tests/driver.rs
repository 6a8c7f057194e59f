//! The guest's side of a split virtqueue.

use super::frontend::{EventKind, event, wait_readable};
use crate::memory::Memory;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};
use vm_memory::{Bytes, GuestAddress};

pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

/// A descriptor: address, length, flags, next.
pub(super) type Descriptor = (u64, u32, u16, u16);

/// Where queue `index` lies: 64 KiB for each from 64 KiB on; its buffers
/// in the upper half.
const STRIDE: u64 = 0x1_0000;
pub(super) const BUFFERS: u64 = 0x8000;

/// One queue, driven.
pub(super) struct Driver {
    pub(super) memory: Arc<Memory>,
    pub(super) index: u32,
    pub(super) size: u16,
    pub(super) kick: OwnedFd,
    pub(super) call: OwnedFd,
    pub(super) call_for_device: OwnedFd,
    next: u16,
    seen: u16,
}

impl Driver {
    pub(super) fn new(memory: &Arc<Memory>, index: u32, size: u16, kind: EventKind) -> Driver {
        let (call, call_for_device) = match kind {
            EventKind::Eventfd => {
                let event = event();
                (event.try_clone().unwrap(), event)
            }
            EventKind::Socket => socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap(),
        };
        let memory = Arc::clone(memory);
        let driver = Driver { memory, index, size, kick: event(), call, call_for_device, next: 0, seen: 0 };
        let base = driver.base();
        driver.memory.guest().write_slice(&[0; BUFFERS as usize], GuestAddress(base)).unwrap();
        driver
    }

    fn base(&self) -> u64 {
        STRIDE * (u64::from(self.index) + 1)
    }

    /// Descriptor table, available ring, used ring.
    pub(super) fn places(&self) -> [u64; 3] {
        [0, 0x2000, 0x4000].map(|offset| self.base() + offset)
    }

    /// A place for buffers, as a guest's address.
    pub(super) fn buffer(&self, offset: u64) -> u64 {
        self.base() + BUFFERS + offset
    }

    pub(super) fn write<T: vm_memory::ByteValued>(&self, value: T, address: u64) {
        self.memory.guest().write_obj(value, GuestAddress(address)).unwrap();
    }

    pub(super) fn read<T: vm_memory::ByteValued>(&self, address: u64) -> T {
        self.memory.guest().read_obj(GuestAddress(address)).unwrap()
    }

    pub(super) fn write_descriptor(&self, table: u64, index: u16, (address, len, flags, next): Descriptor) {
        let at = table + u64::from(index) * 16;
        self.write(address, at);
        self.write(len, at + 8);
        self.write(flags, at + 12);
        self.write(next, at + 14);
    }

    pub(super) fn describe(&self, index: u16, descriptor: Descriptor) {
        self.write_descriptor(self.places()[0], index, descriptor);
    }

    /// Makes the chain at `head` available, and kicks if the device wants it.
    pub(super) fn offer(&mut self, head: u16, event_index: bool) -> bool {
        let [_, available, used] = self.places();
        self.write(head, available + 4 + u64::from(self.next % self.size) * 2);
        fence(Ordering::SeqCst);
        let old = self.next;
        self.next = self.next.wrapping_add(1);
        self.memory.guest().store(self.next, GuestAddress(available + 2), Ordering::SeqCst).unwrap();
        fence(Ordering::SeqCst);
        let wanted = if event_index {
            let event: u16 = self.read(used + 4 + u64::from(self.size) * 8);
            self.next.wrapping_sub(event).wrapping_sub(1) < self.next.wrapping_sub(old)
        } else {
            self.read::<u16>(used) & 1 == 0
        };
        if wanted {
            self.kick();
        }
        wanted
    }

    pub(super) fn kick(&self) {
        rustix::io::write(&self.kick, &1_u64.to_ne_bytes()).unwrap();
    }

    pub(super) fn set_available_index(&self, index: u16) {
        self.write(index, self.places()[1] + 2);
    }

    /// Asks for an interrupt after the used entry `event`.
    pub(super) fn set_used_event(&self, event: u16) {
        self.write(event, self.places()[1] + 4 + u64::from(self.size) * 2);
    }

    /// The next used entry, if there is one: head and length.
    pub(super) fn poll_used(&mut self) -> Option<(u32, u32)> {
        let used = self.places()[2];
        let index: u16 = self.memory.guest().load(GuestAddress(used + 2), Ordering::Acquire).unwrap();
        if index == self.seen {
            return None;
        }
        let at = used + 4 + u64::from(self.seen % self.size) * 8;
        self.seen = self.seen.wrapping_add(1);
        self.set_used_event(self.seen);
        Some((self.read(at), self.read(at + 4)))
    }

    /// The next used entry, waiting for interrupts; None after a while.
    pub(super) fn wait_used(&mut self) -> Option<(u32, u32)> {
        let start = Instant::now();
        loop {
            if let Some(used) = self.poll_used() {
                return Some(used);
            }
            if start.elapsed() > Duration::from_secs(10) {
                return None;
            }
            wait_readable(&self.call, Duration::from_millis(50));
        }
    }

    /// A request in the fake handler's words, offered as one readable and one
    /// writable descriptor from `head` on.
    pub(super) fn request(&mut self, head: u16, opcode: u32, payload: &[u8]) {
        let at = self.buffer(u64::from(head) * 256);
        self.memory.guest().write_slice(&request_bytes(opcode, head.into(), payload), GuestAddress(at)).unwrap();
        self.describe(head, (at, 16 + payload.len() as u32, NEXT, head + 1));
        self.describe(head + 1, (at + 128, 128, WRITE, 0));
        self.offer(head, true);
    }

    /// The answer to [`Driver::request`] of `head`.
    pub(super) fn answer(&self, head: u16, len: u32) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        let at = self.buffer(u64::from(head) * 256 + 128);
        self.memory.guest().read_slice(&mut bytes, GuestAddress(at)).unwrap();
        assert_eq!(bytes[..4], len.to_ne_bytes(), "the header's length");
        assert_eq!(bytes[8..16], u64::from(head).to_ne_bytes(), "whose answer it is");
        bytes.split_off(16)
    }

    /// A request and its answer.
    pub(super) fn ask(&mut self, opcode: u32, payload: &[u8]) -> Option<Vec<u8>> {
        self.request(0, opcode, payload);
        let (head, len) = self.wait_used()?;
        assert_eq!(head, 0);
        Some(self.answer(0, len))
    }
}

pub(super) fn request_bytes(opcode: u32, unique: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (16 + payload.len() as u32).to_ne_bytes().to_vec();
    bytes.extend(opcode.to_ne_bytes());
    bytes.extend(unique.to_ne_bytes());
    bytes.extend(payload);
    bytes
}
