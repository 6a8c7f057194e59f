//! Messages and rings made of dice. Whatever they bring, the next guest is
//! served.

use super::driver::*;
use super::frontend::*;
use super::hostile::assert_still_serves;
use super::*;
use crate::tests::fake::{BROKEN, ECHO, SILENT, WAIT};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use vm_memory::{Bytes, GuestAddress};

/// Numbers that mean something here and there.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..4_u64,
        Just(8),
        Just(0x101),
        (0..16_u64).prop_map(|page| page * 4096),
        Just(MEMORY),
        Just(u64::MAX),
        Just(u64::from(u32::MAX)),
        any::<u64>(),
    ]
}

#[derive(Clone, Debug)]
struct Dice {
    code: u32,
    need_reply: bool,
    words: Vec<u64>,
    cut: usize,
    fds: Vec<u8>,
}

fn message() -> impl Strategy<Value = Dice> {
    (0..45_u32, any::<bool>(), vec(number(), 0..8), 0..9_usize, vec(0..4_u8, 0..3)).prop_map(|(code, need_reply, words, cut, fds)| Dice {
        code,
        need_reply,
        words,
        cut,
        fds,
    })
}

fn throw(frontend: &mut Frontend, dice: &Dice) -> std::io::Result<()> {
    let mut payload = longs(&dice.words);
    payload.truncate(payload.len().saturating_sub(dice.cut));
    let fds: Vec<OwnedFd> = dice
        .fds
        .iter()
        .map(|kind| match kind {
            0 => event(),
            1 => frontend.memory_fd.try_clone().unwrap(),
            // Not the connection itself: it would not end while we hold it.
            2 => UnixStream::pair().unwrap().0.into(),
            _ => std::fs::File::open("/dev/null").unwrap().into(),
        })
        .collect();
    frontend.wants_ack = dice.need_reply;
    frontend.send(dice.code, &payload, &fds.iter().map(AsFd::as_fd).collect::<Vec<_>>())
}

#[test]
fn any_messages() {
    let host = Host::new();
    let cases = (any::<bool>(), vec(message(), 1..20));
    let run = |(prepared, messages): (bool, Vec<Dice>)| {
        let mut frontend = if prepared { Frontend::uml(&host.path).0 } else { Frontend::connect(&host.path) };
        // It may be given up at any of them.
        let _ = messages.iter().try_for_each(|dice| throw(&mut frontend, dice));
        drop(frontend);
        assert_still_serves(&host);
        Ok(())
    };
    TestRunner::new(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() }).run(&cases, run).unwrap();
}

fn descriptor() -> impl Strategy<Value = (u64, u64, u16, u16)> {
    // Flags: next, write, indirect and any; addresses: in this queue's
    // buffers for the most part.
    let address = prop_oneof![4 => (0..64_u64).prop_map(|at| 0x2_0000 + BUFFERS + at * 16), 1 => number()];
    let length = prop_oneof![4 => 0..128_u64, 1 => number()];
    (address, length, 0..8_u16, 0..10_u16)
}

#[test]
fn any_rings() {
    let host = Host::new();
    let opcodes = prop_oneof![4 => Just(ECHO), 1 => Just(SILENT), 1 => Just(BROKEN), 1 => Just(WAIT)];
    let cases = (vec(descriptor(), 8), vec(descriptor(), 64), vec(0..9_u16, 8), 0..10_u16, opcodes);
    let run = |(table, buffers, heads, count, opcode): (Vec<_>, Vec<_>, Vec<u16>, u16, u32)| {
        host.fake.release(false);
        let mut frontend = Frontend::connect(&host.path);
        frontend.agree(VERSION_1 | PROTOCOL | 1 << 28);
        frontend.send_memory_table();
        let driver = frontend.start_queues(2, 8, EventKind::Eventfd).remove(1);
        for (index, (address, len, flags, next)) in (0..).zip(table) {
            driver.describe(index, (address, len as u32, flags, next));
        }
        // The buffers hold descriptors (indirect tables) and requests.
        for (index, (address, len, flags, next)) in (0..).zip(buffers) {
            driver.write_descriptor(driver.buffer(0), index, (address, len as u32, flags, next));
        }
        driver.memory.guest().write_slice(&request_bytes(opcode, 1, b"dice"), GuestAddress(driver.buffer(0))).unwrap();
        for (index, head) in (0..).zip(heads) {
            driver.write(head, driver.places()[1] + 4 + index * 2);
        }
        driver.set_available_index(count);
        driver.kick();
        // Has been through it all when it answers this.
        frontend.ask(GET_VRING_BASE, &words(&[1, 0]));
        drop(frontend);
        assert_still_serves(&host);
        Ok(())
    };
    let config = ProptestConfig { cases: 200, failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::default() };
    TestRunner::new(config).run(&cases, run).unwrap();
}
