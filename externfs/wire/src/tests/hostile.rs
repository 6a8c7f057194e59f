//! Bytes that no kernel sends.

use super::fake::Fake;
use super::*;
use crate::buffer::request_len;
use proptest::prelude::*;

#[test]
fn a_message_without_a_header_cannot_be_answered() {
    let kernel = Kernel::new();
    let whole = request(Opcode::GetAttr, 1, &Bytes::new().raw(&[0; 16]));
    for len in 0..whole.len() {
        // Cut, with a header that still tells the old length.
        assert!(matches!(kernel.send(&whole[..len]).0, Outcome::Broken(_)), "{len}");
    }
    let longer = [&whole[..], &[0; 8]].concat();
    assert!(matches!(kernel.send(&longer).0, Outcome::Broken(_)));
}

/// Sends `message` and checks that it comes to exactly one end.
fn send_anything(kernel: &Kernel, message: &[u8]) {
    match kernel.send(message).0 {
        Outcome::Later(later) => {
            kernel.session.interrupt_all();
            later(&mut recording_reply(&Sent::default(), 4096));
        }
        Outcome::Replied | Outcome::Silent | Outcome::Broken(_) => {}
    }
    if kernel.session.negotiated().is_none() {
        kernel.call(Opcode::Init, 0, &init_args(45, OFFERED_7_45));
    }
}

#[test]
fn every_cut_of_every_request_is_answered() {
    for fake in [true, false] {
        let mut kernel = Kernel::new();
        kernel.room = if fake { 1 << 20 } else { 16 };
        for (opcode, args) in well_formed() {
            for len in 0..args.0.len() {
                let args = Bytes::new().raw(&args.0[..len]);
                let (outcome, sent) = kernel.send(&request(opcode, NODE, &args));
                match outcome {
                    Outcome::Silent => assert!(opcode.is_silent()),
                    Outcome::Replied if opcode == Opcode::Init && len >= 20 => {}
                    Outcome::Replied => assert_ne!(sent[0].errno, 0, "{opcode} cut to {len}"),
                    Outcome::Later(_) | Outcome::Broken(_) => panic!("{opcode} cut to {len}"),
                }
                if kernel.session.negotiated().is_none() {
                    kernel.call(Opcode::Init, 0, &init_args(45, OFFERED_7_45));
                }
            }
        }
        kernel.session.export().reset();
        assert_eq!(kernel.fake.held(), (0, 0));
    }
}

#[test]
fn more_than_there_should_be_is_refused() {
    let kernel = Kernel::new();
    for (opcode, args) in well_formed() {
        let unchecked = matches!(opcode, Opcode::Init | Opcode::BMap | Opcode::Poll | Opcode::SetupMapping | Opcode::RemoveMapping);
        if unchecked || opcode.is_silent() {
            continue;
        }
        assert_ne!(kernel.call(opcode, NODE, &args.clone().raw(&[0; 8])).errno, 0, "{opcode}");
        assert_ne!(kernel.call(opcode, NODE, &args.raw(&[1; 200_000])).errno, 0, "{opcode}");
        assert!(kernel.calls().is_empty(), "{opcode}");
    }
}

#[test]
fn extensions_longer_than_the_request_are_refused() {
    let kernel = Kernel::new();
    for (opcode, args) in well_formed() {
        for words in [1000u16, u16::MAX] {
            let mut message = request(opcode, NODE, &args);
            message[36..38].copy_from_slice(&words.to_ne_bytes());
            let (outcome, sent) = kernel.send(&message);
            assert!(matches!(outcome, Outcome::Silent) || sent[0].errno == libc::EINVAL, "{opcode}");
        }
    }
    assert!(kernel.calls().is_empty());
}

/// So many FORGETs of one lookup each.
fn batch_forget(count: u32) -> Bytes {
    Bytes::new().u32(count).u32(0).raw(&Bytes::new().u64(NODE).u64(1).0.repeat(count as usize))
}

#[test]
fn what_takes_too_long_is_refused() {
    let write = |size: u32| Bytes::new().u64(3).u64(0).u32(size).u32(0).u64(0).u32(0).u32(0).raw(&vec![0; size as usize]);
    // As much as a reader of /dev/fuse has room for.
    let forgets = ((request_len(1 << 20) - 48) / 16) as u32;
    for (offered, max_write) in [(OFFERED_7_45, 1 << 20), (OFFERED_7_45 & !InitFlags::MAX_PAGES.bits(), 128 << 10)] {
        let kernel = Kernel::with(Fake::default(), offered);
        assert_eq!(kernel.session.negotiated().unwrap().max_write, max_write);
        let (answer, _) = kernel.one(Opcode::Write, &write(max_write));
        assert_eq!((answer.errno, answer.u32(0)), (0, max_write));
        for size in [max_write + 1, 4 << 20] {
            assert_eq!(kernel.call(Opcode::Write, NODE, &write(size)).errno, libc::EINVAL, "{size}");
        }
        kernel.silent(Opcode::BatchForget, 0, &batch_forget(forgets));
        assert_eq!(kernel.calls().len(), forgets as usize);
        kernel.silent(Opcode::BatchForget, 0, &batch_forget(forgets + 1));
        assert_eq!(kernel.calls().len(), 0);
        // The longest value of an attribute comes with the longest name.
        let name = format!("user.{}", "n".repeat(250));
        let value = Bytes::new().u32(65536).u32(0).u32(0).u32(0).text(&name).raw(&[0; 65536]);
        assert_eq!(kernel.call(Opcode::SetXattr, NODE, &value).errno, 0);
    }
}

fn arbitrary_message() -> impl Strategy<Value = Vec<u8>> {
    let valid = well_formed();
    let count = valid.len();
    // Well-formed requests with some bytes changed, cut or appended reach
    // further than noise does.
    let mutated = (
        0..count,
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        any::<u8>(),
        prop::collection::vec(any::<u8>(), 0..40),
    );
    let mutated = mutated.prop_map(move |(which, changes, keep, tail)| {
        let (opcode, args) = &valid[which];
        let mut args = args.0.clone();
        for (place, value) in changes {
            if !args.is_empty() {
                let place = place.index(args.len());
                args[place] = value;
            }
        }
        args.truncate(args.len() * usize::from(keep.max(128)) / 255);
        args.extend(tail.get(8..).unwrap_or_default());
        request_of(*opcode as u32, NODE, &args, &[])
    });
    let noise = (0u32..60, prop::collection::vec(any::<u8>(), 0..400), 0usize..4).prop_map(|(opcode, args, words)| {
        let extensions = vec![args.first().copied().unwrap_or(0); words * 8];
        request_of(opcode, NODE, &args, &extensions)
    });
    prop_oneof![3 => mutated, 2 => noise, 1 => prop::collection::vec(any::<u8>(), 0..200)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_bring_it_down(messages in prop::collection::vec(arbitrary_message(), 1..30), room in prop_oneof![Just(1usize << 20), 0usize..300]) {
        let hostile = || Kernel { room, ..Kernel::with(Fake { honest: false, ..Fake::default() }, OFFERED_7_45) };
        let mut kernel = hostile();
        for message in messages {
            // INIT needs its room; it is not what is tested.
            if kernel.session.negotiated().is_none() {
                kernel = hostile();
            }
            send_anything(&kernel, &message);
        }
        prop_assert_eq!(kernel.session.waiting(), 0);
        let fake = kernel.fake.clone();
        drop(kernel);
        prop_assert_eq!(fake.held(), (0, 0));
    }
}
