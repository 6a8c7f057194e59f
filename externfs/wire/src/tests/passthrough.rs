//! Files that the kernel serves from the host's.

use super::fake::Fake;
use super::*;
use crate::{NewlyOpen, Passthrough, Serving};
use externfs::{Export, FileCache, HandleId, NodeId};
use std::time::Duration;

struct Backings {
    serving: Serving,
    opened: Mutex<Vec<NewlyOpen>>,
    released: Mutex<Vec<HandleId>>,
}

impl Passthrough for Backings {
    fn opened(&self, _export: &dyn Export, file: NewlyOpen) -> Serving {
        self.opened.lock().unwrap().push(file);
        self.serving
    }
    fn released(&self, handle: HandleId) {
        self.released.lock().unwrap().push(handle);
    }
    fn mark(&self) -> u64 {
        17
    }
    fn attr_ttl(&self, mark: u64, node: NodeId, ttl: Duration) -> Duration {
        assert_eq!(mark, 17);
        if node == NodeId(NODE) { Duration::ZERO } else { ttl * 2 }
    }
}

fn kernel(serving: Serving, fake: Fake, offered: u64) -> (Kernel, Arc<Backings>) {
    let backings = Arc::new(Backings { serving, opened: Mutex::default(), released: Mutex::default() });
    let fake = Arc::new(fake);
    let session = Session::with_passthrough(fake.clone(), Config::new(TransportKind::DevFuse), backings.clone());
    let kernel = Kernel { session, fake, room: 1 << 20 };
    assert_eq!(kernel.call(Opcode::Init, 0, &init_args(45, offered)).errno, 0);
    (kernel, backings)
}

fn open_args(flags: i32) -> Bytes {
    Bytes::new().u32(flags as u32).u32(0)
}

fn create_args() -> Bytes {
    Bytes::new().u32(libc::O_RDWR as u32).u32(0o100_644).u64(0).text("n")
}

#[test]
fn an_open_file_is_served_as_it_was_decided() {
    for (serving, flags, id) in [(Serving::Plain, 1 << 1, 0), (Serving::Direct, 1 << 0 | 1 << 6, 0), (Serving::Backed(5), 1 << 7, 5)] {
        let (kernel, backings) = kernel(serving, Fake { cache: FileCache::Keep, ..Fake::default() }, OFFERED_7_45);
        let answer = kernel.call(Opcode::Open, NODE, &open_args(libc::O_RDWR));
        assert_eq!((answer.u32(8), answer.u32(12)), (flags, id));
        let handle = HandleId(answer.u64(0));
        assert_eq!(
            *backings.opened.lock().unwrap(),
            [NewlyOpen { node: NodeId(NODE), handle, maps: true, created: false, size: 77, cache: FileCache::Keep }]
        );
        assert!(backings.released.lock().unwrap().is_empty());
        kernel.call(Opcode::Release, NODE, &Bytes::new().u64(handle.0).u64(0).u64(0));
        assert_eq!(*backings.released.lock().unwrap(), [handle]);
    }
}

#[test]
fn a_created_file_too() {
    let (kernel, backings) = kernel(Serving::Backed(6), Fake::default(), OFFERED_7_45);
    let answer = kernel.call(Opcode::Create, NODE, &create_args());
    assert_eq!((answer.u32(128 + 8), answer.u32(128 + 12)), (1 << 7, 6));
    let opened = backings.opened.lock().unwrap();
    assert_eq!((opened[0].node, opened[0].handle), (NodeId(answer.u64(0)), HandleId(answer.u64(128))));
}

#[test]
fn attributes_live_as_long_as_they_may() {
    let (kernel, _) = kernel(Serving::Plain, Fake::default(), OFFERED_7_45);
    assert_eq!(kernel.call(Opcode::GetAttr, NODE, &Bytes::new().raw(&[0; 16])).u64(0), 0);
    assert_eq!(kernel.call(Opcode::SetAttr, NODE, &Bytes::new().raw(&[0; 88])).u64(0), 0);
    assert_eq!(kernel.call(Opcode::StatX, NODE, &Bytes::new().raw(&[0; 24])).u64(0), 0);
    assert_eq!(kernel.call(Opcode::GetAttr, 8, &Bytes::new().raw(&[0; 16])).u64(0), 10);
    let entry = kernel.call(Opcode::Lookup, NODE, &Bytes::new().text("n"));
    assert_eq!((entry.u64(16), entry.u64(24)), (7, 10), "the name lives on its own");
    let listing = kernel.call(Opcode::ReadDirPlus, NODE, &Bytes::new().u64(3).u64(0).u32(4096).raw(&[0; 20]));
    // Behind `.` and `..`.
    assert_eq!(listing.u64(2 * 160 + 24), 10);
}

#[test]
fn a_lost_answer_releases() {
    let (kernel, backings) = kernel(Serving::Backed(5), Fake::default(), OFFERED_7_45);
    for message in [request(Opcode::Open, NODE, &open_args(0)), request(Opcode::Create, NODE, &create_args())] {
        let mut reply = VecReply::new(4096, |_: &[u8]| Err(std::io::Error::from_raw_os_error(libc::ENOENT)));
        assert!(matches!(kernel.session.handle(&mut SliceSource::new(&message), &mut reply), Outcome::Replied));
    }
    let opened: Vec<_> = backings.opened.lock().unwrap().iter().map(|file| file.handle).collect();
    assert_eq!((opened.len(), *backings.released.lock().unwrap() == opened), (2, true));
}

#[test]
fn without_the_kernels_consent_nobody_is_asked() {
    let (kernel, backings) = kernel(Serving::Backed(5), Fake::default(), OFFERED_7_45 & !InitFlags::PASSTHROUGH.bits());
    let answer = kernel.call(Opcode::Open, NODE, &open_args(0));
    assert_eq!((answer.u32(8), answer.u32(12)), (0, 0));
    assert_eq!(kernel.call(Opcode::GetAttr, NODE, &Bytes::new().raw(&[0; 16])).u64(0), 5);
    assert!(backings.opened.lock().unwrap().is_empty());
}
