//! The protocol end to end: bytes in, bytes out, over an export that records.

mod fake;
mod golden;
mod hostile;
mod init;
mod leaks;
mod locks;
mod operations;
mod passthrough;
mod unopened;

use crate::abi::InitFlags;
use crate::buffer::{SliceSource, VecReply};
use crate::{Config, Opcode, Outcome, Session, TransportKind};
use fake::Fake;
use std::sync::{Arc, Mutex};

/// Arguments in the making.
#[derive(Clone, Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn new() -> Bytes {
        Bytes::default()
    }

    fn u32(mut self, value: u32) -> Bytes {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Bytes {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Bytes {
        self.0.extend(bytes);
        self
    }

    fn text(self, text: &str) -> Bytes {
        self.raw(text.as_bytes()).raw(&[0])
    }
}

/// What a kernel reads.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Answered {
    errno: i32,
    unique: u64,
    payload: Vec<u8>,
}

impl Answered {
    fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.payload[at..at + 8].try_into().unwrap())
    }
}

const UNIQUE: u64 = 0x1234_5678_9abc;
const NODE: u64 = 7;

fn request_of(opcode: u32, node: u64, args: &[u8], extensions: &[u8]) -> Vec<u8> {
    assert_eq!(extensions.len() % 8, 0);
    let len = 40 + args.len() + extensions.len();
    let header = Bytes::new().u32(len as u32).u32(opcode).u64(UNIQUE).u64(node).u32(1000).u32(100).u32(4321);
    header.u32((extensions.len() / 8) as u32).raw(args).raw(extensions).0
}

fn request(opcode: Opcode, node: u64, args: &Bytes) -> Vec<u8> {
    request_of(opcode as u32, node, &args.0, &[])
}

/// Checks the header that a kernel checks.
fn parse_answer(message: &[u8]) -> Answered {
    assert!(message.len() >= 16);
    assert_eq!(u32::from_ne_bytes(message[..4].try_into().unwrap()) as usize, message.len(), "length in the header");
    let error = i32::from_ne_bytes(message[4..8].try_into().unwrap());
    assert!(error <= 0 && error > -512, "fuse_dev_do_write refuses {error}");
    let payload = message[16..].to_vec();
    assert!(error == 0 || payload.is_empty(), "an error has no payload");
    Answered { errno: -error, unique: u64::from_ne_bytes(message[8..16].try_into().unwrap()), payload }
}

type Sent = Arc<Mutex<Vec<Answered>>>;

/// A reply whose messages end up in `sent`.
fn recording_reply(sent: &Sent, room: usize) -> VecReply<impl FnMut(&[u8]) -> std::io::Result<()> + Send + use<>> {
    let sent = sent.clone();
    VecReply::new(room, move |message: &[u8]| {
        sent.lock().unwrap().push(parse_answer(message));
        Ok(())
    })
}

/// A kernel that has agreed with the session.
struct Kernel {
    fake: Arc<Fake>,
    session: Session,
    room: usize,
}

/// Everything that a 6.18 kernel offers.
const OFFERED_7_45: u64 = 0x7ff_ffff_ffff & !(1 << 31);

impl Kernel {
    fn raw(fake: Fake, config: Config) -> Kernel {
        let fake = Arc::new(fake);
        Kernel { session: Session::new(fake.clone(), config), fake, room: 1 << 20 }
    }

    fn with(fake: Fake, offered: u64) -> Kernel {
        let kernel = Kernel::raw(fake, Config::new(TransportKind::Virtio));
        assert_eq!(kernel.call(Opcode::Init, 0, &init_args(45, offered)).errno, 0);
        kernel.fake.calls.lock().unwrap().clear();
        kernel
    }

    fn new() -> Kernel {
        Kernel::with(Fake::default(), OFFERED_7_45)
    }

    fn send(&self, message: &[u8]) -> (Outcome, Vec<Answered>) {
        let sent = Sent::default();
        let mut reply = recording_reply(&sent, self.room);
        let outcome = self.session.handle(&mut SliceSource::new(message), &mut reply);
        let sent = sent.lock().unwrap().clone();
        match outcome {
            Outcome::Replied => assert_eq!(sent.len(), 1, "exactly one answer"),
            _ => assert!(sent.is_empty(), "no answer"),
        }
        (outcome, sent)
    }

    /// The answer to a request that has one.
    fn call(&self, opcode: Opcode, node: u64, args: &Bytes) -> Answered {
        let (outcome, mut sent) = self.send(&request(opcode, node, args));
        assert!(matches!(outcome, Outcome::Replied), "{opcode}");
        let answer = sent.remove(0);
        assert_eq!(answer.unique, UNIQUE);
        answer
    }

    fn silent(&self, opcode: Opcode, node: u64, args: &Bytes) {
        let (outcome, _) = self.send(&request(opcode, node, args));
        assert!(matches!(outcome, Outcome::Silent), "{opcode}");
    }

    /// What the export was asked, in its own words.
    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.fake.calls.lock().unwrap())
    }

    /// The one call that a request came to.
    fn one(&self, opcode: Opcode, args: &Bytes) -> (Answered, String) {
        let answer = self.call(opcode, NODE, args);
        let mut calls = self.calls();
        assert_eq!(calls.len(), 1, "{opcode}: {calls:?}");
        (answer, calls.remove(0))
    }
}

fn init_args(minor: u32, offered: u64) -> Bytes {
    let args = Bytes::new().u32(7).u32(minor).u32(131_072).u32(offered as u32);
    if offered & InitFlags::INIT_EXT.bits() == 0 { args } else { args.u32((offered >> 32) as u32).raw(&[0; 44]) }
}

/// Well-formed arguments of every operation that has any meaning.
fn well_formed() -> Vec<(Opcode, Bytes)> {
    let new = Bytes::new;
    let create = || new().u32(libc::O_RDWR as u32).u32(0o100_644).u32(0o22).u32(0);
    let read = || new().u64(3).u64(4096).u32(512).u32(0).u64(9).u32(0).u32(0);
    let lock = || new().u64(3).u64(9).u64(0).u64(99).u32(libc::F_WRLCK as u32).u32(11).u32(0).u32(0);
    let copy = || new().u64(3).u64(0).u64(8).u64(4).u64(100).u64(1000).u64(0);
    vec![
        (Opcode::Lookup, new().text("name")),
        (Opcode::Forget, new().u64(2)),
        (Opcode::GetAttr, new().u32(0).u32(0).u64(0)),
        (Opcode::SetAttr, new().u32(1).raw(&[0; 84])),
        (Opcode::ReadLink, new()),
        (Opcode::Symlink, new().text("name").text("to")),
        (Opcode::MkNod, new().u32(0o10_644).u32(0).u32(0o22).u32(0).text("name")),
        (Opcode::MkDir, new().u32(0o755).u32(0o22).text("name")),
        (Opcode::Unlink, new().text("name")),
        (Opcode::RmDir, new().text("name")),
        (Opcode::Rename, new().u64(8).text("from").text("to")),
        (Opcode::Link, new().u64(8).text("name")),
        (Opcode::Open, new().u32(libc::O_RDWR as u32).u32(0)),
        (Opcode::Read, read()),
        (Opcode::Write, new().u64(3).u64(4096).u32(5).u32(0).u64(0).u32(0).u32(0).raw(b"hello")),
        (Opcode::StatFs, new()),
        (Opcode::Release, new().u64(3).u32(0).u32(0).u64(9)),
        (Opcode::FSync, new().u64(3).u32(1).u32(0)),
        (Opcode::SetXattr, new().u32(5).u32(0).u32(0).u32(0).text("user.a").raw(b"value")),
        (Opcode::GetXattr, new().u32(100).u32(0).text("user.a")),
        (Opcode::ListXattr, new().u32(100).u32(0)),
        (Opcode::RemoveXattr, new().text("user.a")),
        (Opcode::Flush, new().u64(3).u64(0).u64(9)),
        (Opcode::Init, init_args(45, OFFERED_7_45)),
        (Opcode::OpenDir, new().u32(0).u32(0)),
        (Opcode::ReadDir, read()),
        (Opcode::ReleaseDir, new().u64(3).u32(0).u32(0).u64(9)),
        (Opcode::FSyncDir, new().u64(3).u32(0).u32(0)),
        (Opcode::GetLk, lock()),
        (Opcode::SetLk, lock()),
        (Opcode::SetLkW, lock()),
        (Opcode::Access, new().u32(6).u32(0)),
        (Opcode::Create, create().text("name")),
        (Opcode::Interrupt, new().u64(99)),
        (Opcode::BMap, new().u64(0).u64(0)),
        (Opcode::Destroy, new()),
        (Opcode::Ioctl, new().u64(3).u32(0).u32(0x8008_6601).u64(0).u32(0).u32(4)),
        (Opcode::Poll, new().u64(3).u64(0).u64(0)),
        (Opcode::NotifyReply, new()),
        (Opcode::BatchForget, new().u32(2).u32(0).u64(7).u64(1).u64(8).u64(3)),
        (Opcode::FAllocate, new().u64(3).u64(0).u64(4096).u32(3).u32(0)),
        (Opcode::ReadDirPlus, read()),
        (Opcode::Rename2, new().u64(8).u32(1).u32(0).text("from").text("to")),
        (Opcode::LSeek, new().u64(3).u64(10).u32(libc::SEEK_HOLE as u32).u32(0)),
        (Opcode::CopyFileRange, copy()),
        (Opcode::SetupMapping, new().raw(&[0; 40])),
        (Opcode::RemoveMapping, new().raw(&[0; 24])),
        (Opcode::SyncFs, new().u64(0)),
        (Opcode::TmpFile, create().text("/")),
        (Opcode::StatX, new().u32(0).u32(0).u64(0).u32(0).u32(0xfff)),
        (Opcode::CopyFileRange64, copy()),
    ]
}

#[test]
fn the_table_has_every_operation() {
    let listed: Vec<_> = well_formed().into_iter().map(|(opcode, _)| opcode).collect();
    assert_eq!(listed, Opcode::ALL);
}
