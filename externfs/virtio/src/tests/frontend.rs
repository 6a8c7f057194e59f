//! The side of vhost-user that User Mode Linux and QEMU have.

use super::driver::Driver;
use crate::memory::{Memory, RegionPlace};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub(super) const GET_FEATURES: u32 = 1;
pub(super) const SET_FEATURES: u32 = 2;
pub(super) const SET_OWNER: u32 = 3;
pub(super) const SET_MEM_TABLE: u32 = 5;
pub(super) const SET_VRING_NUM: u32 = 8;
pub(super) const SET_VRING_ADDR: u32 = 9;
pub(super) const SET_VRING_BASE: u32 = 10;
pub(super) const GET_VRING_BASE: u32 = 11;
pub(super) const SET_VRING_KICK: u32 = 12;
pub(super) const SET_VRING_CALL: u32 = 13;
pub(super) const SET_VRING_ERR: u32 = 14;
pub(super) const GET_PROTOCOL_FEATURES: u32 = 15;
pub(super) const SET_PROTOCOL_FEATURES: u32 = 16;
pub(super) const GET_QUEUE_NUM: u32 = 17;
pub(super) const SET_VRING_ENABLE: u32 = 18;
pub(super) const SET_BACKEND_REQ_FD: u32 = 21;
pub(super) const GET_CONFIG: u32 = 24;
pub(super) const RESET_DEVICE: u32 = 34;
pub(super) const GET_MAX_MEM_SLOTS: u32 = 36;
pub(super) const ADD_MEM_REG: u32 = 37;
pub(super) const REM_MEM_REG: u32 = 38;

pub(super) const EVENT_IDX: u64 = 1 << 29;
pub(super) const PROTOCOL: u64 = 1 << 30;
pub(super) const VERSION_1: u64 = 1 << 32;
const NEED_REPLY: u32 = 1 << 3;

/// Guest memory of the tests, in bytes.
pub(super) const MEMORY: u64 = 1 << 20;

/// Little-endian words, as payloads are made of.
pub(super) fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// As [`words`], of 64 bits.
pub(super) fn longs(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|long| long.to_le_bytes()).collect()
}

/// A frontend with a guest's memory.
pub(super) struct Frontend {
    pub(super) socket: UnixStream,
    pub(super) memory: Arc<Memory>,
    pub(super) memory_fd: OwnedFd,
    /// What is added to a guest's address to get the frontend's.
    pub(super) user_offset: u64,
    /// Ask for an acknowledgement of everything, as User Mode Linux does.
    pub(super) wants_ack: bool,
}

impl Frontend {
    pub(super) fn connect(path: &Path) -> Frontend {
        let socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let memory_fd = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&memory_fd, MEMORY).unwrap();
        let place = RegionPlace { guest_address: 0, size: MEMORY, user_address: 0, file_offset: 0 };
        let memory = Arc::new(Memory::map(vec![(place, memory_fd.try_clone().unwrap())]).unwrap());
        Frontend { socket, memory, memory_fd, user_offset: 0, wants_ack: true }
    }

    /// Up to a running device with one request queue, as User Mode Linux does.
    pub(super) fn uml(path: &Path) -> (Frontend, Driver) {
        let mut frontend = Frontend::connect(path);
        frontend.agree(VERSION_1 | PROTOCOL | EVENT_IDX);
        frontend.send_memory_table();
        let drivers = frontend.start_queues(2, 256, EventKind::Socket);
        (frontend, drivers.into_iter().nth(1).unwrap())
    }

    /// As QEMU does: addresses of its own, acknowledgements only where needed.
    pub(super) fn qemu(path: &Path, queues: u32) -> (Frontend, Vec<Driver>) {
        let mut frontend = Frontend::connect(path);
        frontend.user_offset = 0x7f00_0000_0000;
        frontend.wants_ack = false;
        frontend.agree(VERSION_1 | PROTOCOL | EVENT_IDX | 1 << 28);
        frontend.send_memory_table();
        let drivers = frontend.start_queues(queues, 128, EventKind::Eventfd);
        (frontend, drivers)
    }

    pub(super) fn send(&mut self, code: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut bytes = words(&[code, 1 | if self.wants_ack { NEED_REPLY } else { 0 }, payload.len() as u32]);
        bytes.extend(payload);
        self.send_raw(&bytes, fds)
    }

    pub(super) fn send_raw(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        rustix::net::sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// The next answer: its code and payload.
    pub(super) fn receive(&mut self) -> io::Result<(u32, Vec<u8>)> {
        let mut header = [0; 12];
        self.socket.read_exact(&mut header)?;
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        assert_eq!(word(4), 1 | 4, "version 1, a reply");
        let mut payload = vec![0; word(8) as usize];
        self.socket.read_exact(&mut payload)?;
        Ok((word(0), payload))
    }

    /// A message with an answer of its own.
    pub(super) fn ask(&mut self, code: u32, payload: &[u8]) -> Vec<u8> {
        self.send(code, payload, &[]).unwrap();
        let (answered, payload) = self.receive().unwrap();
        assert_eq!(answered, code);
        payload
    }

    pub(super) fn ask_number(&mut self, code: u32) -> u64 {
        u64::from_le_bytes(self.ask(code, &[]).try_into().unwrap())
    }

    /// A message that is acknowledged, if asked: 0 is yes. Unasked, a question
    /// behind it shows that it has been taken in.
    pub(super) fn tell_fds(&mut self, code: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<u64> {
        self.send(code, payload, fds)?;
        if self.wants_ack {
            let (answered, payload) = self.receive()?;
            assert_eq!(answered, code);
            return Ok(u64::from_le_bytes(payload.try_into().unwrap()));
        }
        self.send(GET_FEATURES, &[], &[])?;
        let (answered, _) = self.receive()?;
        assert_eq!(answered, GET_FEATURES, "an answer that nobody asked for");
        Ok(0)
    }

    pub(super) fn tell(&mut self, code: u32, payload: &[u8]) {
        assert_eq!(self.tell_fds(code, payload, &[]).unwrap(), 0, "message {code} is refused");
    }

    pub(super) fn agree(&mut self, features: u64) {
        self.tell(SET_OWNER, &[]);
        let offered = self.ask_number(GET_FEATURES);
        assert_eq!(features & !offered, 0);
        let protocol = self.ask_number(GET_PROTOCOL_FEATURES);
        self.tell(SET_PROTOCOL_FEATURES, &longs(&[protocol]));
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert_eq!(self.tell_fds(SET_BACKEND_REQ_FD, &[], &[ours.as_fd()]).unwrap(), 0);
        self.tell(SET_FEATURES, &longs(&[features]));
    }

    /// One region, in a message with room for two, as User Mode Linux's.
    pub(super) fn send_memory_table(&mut self) {
        let mut payload = words(&[1, 0]);
        payload.extend(longs(&[0, MEMORY, self.user_offset, 0]));
        payload.extend([0; 32]);
        let fd = self.memory_fd.try_clone().unwrap();
        assert_eq!(self.tell_fds(SET_MEM_TABLE, &payload, &[fd.as_fd()]).unwrap(), 0);
    }

    /// Sets `count` queues up and returns their drivers.
    pub(super) fn start_queues(&mut self, count: u32, size: u16, kind: EventKind) -> Vec<Driver> {
        let drivers: Vec<_> = (0..count).map(|index| Driver::new(&self.memory, index, size, kind)).collect();
        for driver in &drivers {
            self.describe(driver, 0);
        }
        for driver in &drivers {
            self.start(driver);
        }
        drivers
    }

    /// Everything about a queue but its kick.
    pub(super) fn describe(&mut self, driver: &Driver, base: u32) {
        let index = driver.index;
        let call = driver.call_for_device.as_fd();
        assert_eq!(self.tell_fds(SET_VRING_CALL, &longs(&[index.into()]), &[call]).unwrap(), 0);
        self.tell(SET_VRING_NUM, &words(&[index, driver.size.into()]));
        self.tell(SET_VRING_BASE, &words(&[index, base]));
        self.tell(SET_VRING_ADDR, &self.address_payload(driver));
    }

    pub(super) fn address_payload(&self, driver: &Driver) -> Vec<u8> {
        let [descriptors, available, used] = driver.places().map(|place| place + self.user_offset);
        let mut payload = words(&[driver.index, 0]);
        payload.extend(longs(&[descriptors, used, available, 0]));
        payload
    }

    pub(super) fn start(&mut self, driver: &Driver) {
        let index = driver.index;
        let kick = driver.kick.as_fd();
        assert_eq!(self.tell_fds(SET_VRING_KICK, &longs(&[index.into()]), &[kick]).unwrap(), 0);
        self.tell(SET_VRING_ENABLE, &words(&[index, 1]));
    }

    /// Whether the server has closed the connection, waiting for it.
    pub(super) fn is_given_up(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.socket.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    /// Whether it still answers.
    pub(super) fn is_served(&mut self) -> bool {
        self.send(GET_QUEUE_NUM, &[], &[]).is_ok() && self.receive().is_ok()
    }
}

/// What a queue calls through.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum EventKind {
    Eventfd,
    Socket,
}

pub(super) fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

/// Waits until a descriptor is readable and reads it.
pub(super) fn wait_readable(fd: impl AsFd, limit: Duration) -> bool {
    let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let ready = poll(&mut fds, Some(&limit)).unwrap() > 0;
    if ready {
        rustix::io::read(&fd, &mut [0; 64]).unwrap();
    }
    ready
}
