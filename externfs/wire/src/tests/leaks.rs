//! What the kernel never hears of is taken back.

use super::fake::{Fake, attr};
use super::*;
use externfs::{DeviceNumber, FileKind};

/// Sends a request whose answer the transport loses.
fn lose(kernel: &Kernel, opcode: Opcode, args: &Bytes) {
    let mut reply = VecReply::new(kernel.room, |_: &[u8]| Err(std::io::Error::from_raw_os_error(libc::ENOENT)));
    let message = request(opcode, NODE, args);
    assert!(matches!(kernel.session.handle(&mut SliceSource::new(&message), &mut reply), Outcome::Replied));
}

#[test]
fn a_lost_answer_holds_nothing() {
    let kernel = Kernel::new();
    for (opcode, args) in well_formed() {
        if opcode.is_silent() || matches!(opcode, Opcode::Destroy | Opcode::Init) {
            continue;
        }
        lose(&kernel, opcode, &args);
        assert_eq!(kernel.fake.held(), (0, 0), "{opcode}");
    }
}

#[test]
fn an_answer_without_room_holds_nothing() {
    for room in [0, 1, 15, 24, 127, 143] {
        let kernel = Kernel { room, ..Kernel::new() };
        for (opcode, args) in well_formed() {
            if opcode.is_silent() || matches!(opcode, Opcode::Destroy | Opcode::Init) {
                continue;
            }
            let before = kernel.fake.held();
            let answer = kernel.call(opcode, NODE, &args);
            if answer.errno != 0 {
                assert_eq!(kernel.fake.held(), before, "{opcode} in {room}");
            }
        }
    }
}

#[test]
fn what_the_kernel_hears_of_is_held() {
    let kernel = Kernel::new();
    for (opcode, held) in [
        (Opcode::Lookup, (1, 0)),
        (Opcode::MkNod, (1, 0)),
        (Opcode::MkDir, (1, 0)),
        (Opcode::Symlink, (1, 0)),
        (Opcode::Link, (1, 0)),
        (Opcode::Open, (0, 1)),
        (Opcode::OpenDir, (0, 1)),
        (Opcode::Create, (1, 1)),
        (Opcode::TmpFile, (1, 1)),
        (Opcode::ReadDir, (0, 0)),
    ] {
        let (_, args) = well_formed().into_iter().find(|(listed, _)| *listed == opcode).unwrap();
        kernel.fake.nodes.lock().unwrap().clear();
        kernel.fake.handles.lock().unwrap().clear();
        assert_eq!(kernel.call(opcode, NODE, &args).errno, 0);
        assert_eq!(kernel.fake.held(), held, "{opcode}");
    }
}

#[test]
fn a_device_that_the_protocol_cannot_carry_holds_nothing() {
    let attr = externfs::Attr { kind: FileKind::CharDevice, device: DeviceNumber { major: 4096, minor: 0 }, ..attr() };
    let kernel = Kernel::with(Fake { attr, ..Fake::default() }, OFFERED_7_45);
    for (opcode, args) in well_formed() {
        if matches!(opcode, Opcode::Lookup | Opcode::MkNod | Opcode::Link | Opcode::Create | Opcode::TmpFile) {
            assert_eq!(kernel.call(opcode, NODE, &args).errno, libc::EOVERFLOW, "{opcode}");
        }
        if opcode == Opcode::ReadDirPlus {
            assert_eq!(kernel.call(opcode, NODE, &args).errno, 0, "the others are listed all the same");
        }
        assert_eq!(kernel.fake.held(), (0, 0), "{opcode}");
    }
}

#[test]
fn the_end_of_a_session_takes_everything_back() {
    let kernel = Kernel::new();
    kernel.call(Opcode::Create, NODE, &Bytes::new().raw(&[0; 16]).text("a"));
    assert_eq!(kernel.fake.held(), (1, 1));
    drop(kernel.session);
    assert_eq!(kernel.fake.held(), (0, 0));
}
