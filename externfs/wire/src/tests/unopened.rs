//! A kernel that opens nothing.

use super::fake::Fake;
use super::*;
use externfs::{CachePolicy, Features, HandleId, NodeId};

fn kernel() -> Kernel {
    let policy = CachePolicy { exclusive: true, listings: true, ..Fake::default().policy };
    let features = Features { locks: false, ..Fake::default().features };
    let kernel = Kernel::with(Fake { unopened: true, features, policy, ..Fake::default() }, OFFERED_7_45);
    assert!(kernel.session.negotiated().unwrap().flags.contains(crate::init::UNOPENED));
    kernel
}

#[test]
fn what_it_need_not_ask_it_is_told_so() {
    let kernel = kernel();
    for (opcode, args) in well_formed() {
        if matches!(opcode, Opcode::Open | Opcode::OpenDir | Opcode::Flush) {
            assert_eq!(kernel.call(opcode, NODE, &args).errno, libc::ENOSYS, "{opcode}");
            assert!(kernel.calls().is_empty());
        }
    }
}

#[test]
fn what_it_does_with_a_handle_it_does_with_the_object() {
    let kernel = kernel();
    let (node, itself, other) = (NodeId(NODE), HandleId::unopened(NodeId(NODE)), HandleId::unopened(NodeId(8)));
    let mut seen = 0;
    for (opcode, args) in well_formed() {
        let expected = match opcode {
            Opcode::Read => format!("read {itself:?} 4096 512"),
            Opcode::FSync => format!("fsync {itself:?} true"),
            Opcode::Release => format!("release {itself:?} None"),
            Opcode::ReadDir => format!("read_dir {itself:?} 4096"),
            Opcode::ReadDirPlus => format!("read_dir_plus {itself:?} 4096"),
            Opcode::ReleaseDir => format!("release_dir {itself:?}"),
            Opcode::FSyncDir => format!("fsync_dir {itself:?} false"),
            Opcode::FAllocate => format!("fallocate {itself:?} 0 4096 0x3"),
            Opcode::LSeek => format!("seek {itself:?} 10 Hole"),
            Opcode::CopyFileRange | Opcode::CopyFileRange64 => format!("copy_range ({itself:?}, 0) ({other:?}, 100) 1000"),
            Opcode::Ioctl => format!("inode_flags {node:?} Some({itself:?})"),
            _ => continue,
        };
        assert_eq!(kernel.one(opcode, &args).1, expected, "{opcode}");
        seen += 1;
    }
    assert_eq!(seen, 12);
    let write = Bytes::new().u64(0).u64(4096).u32(5).u32(0).u64(0).u32(0).u32(0).raw(b"hello");
    assert!(kernel.one(Opcode::Write, &write).1.starts_with(&format!("write {itself:?} 4096 hello")));
    // Also where it says which: it was given none.
    assert_eq!(kernel.one(Opcode::GetAttr, &Bytes::new().u32(1).u32(0).u64(5)).1, format!("get_attr {node:?} None"));
    let truncate = Bytes::new().u32(1 << 3 | 1 << 6).raw(&[0; 84]);
    assert!(kernel.one(Opcode::SetAttr, &truncate).1.starts_with(&format!("set_attr 1000 {node:?} None")));
    // Of a release with a flush nothing but the release is left.
    assert_eq!(kernel.one(Opcode::Release, &Bytes::new().u64(0).u32(0).u32(1).u64(9)).1, format!("release {itself:?} None"));
}

#[test]
fn a_new_file_is_given_without_a_handle() {
    for (opcode, text) in [(Opcode::Create, "name"), (Opcode::TmpFile, "/")] {
        let kernel = kernel();
        let args = Bytes::new().u32(libc::O_RDWR as u32).u32(0o100_644).u32(0o22).u32(0).text(text);
        let answer = kernel.call(opcode, NODE, &args);
        assert_eq!((answer.errno, answer.payload.len()), (0, 144));
        assert_eq!(answer.u64(128), 0, "no handle");
        let flags = crate::abi::OpenReply::KEEP_CACHE | crate::abi::OpenReply::NOFLUSH;
        assert_eq!(answer.u32(136), flags.bits());
        assert_eq!(kernel.calls().last().unwrap(), "leave_unopened true");
        assert_eq!(kernel.fake.held(), (1, 0), "the node, and no handle");
    }
}

#[test]
fn a_new_file_that_nobody_hears_of_is_forgotten() {
    let kernel = kernel();
    let args = Bytes::new().u32(libc::O_RDWR as u32).u32(0o100_644).u32(0o22).u32(0).text("name");
    let mut reply = VecReply::new(
        1 << 20,
        |message: &[u8]| {
            if message.len() > 16 { Err(std::io::Error::from_raw_os_error(libc::ENOENT)) } else { Ok(()) }
        },
    );
    let _ = kernel.session.handle(&mut SliceSource::new(&request(Opcode::Create, NODE, &args)), &mut reply);
    assert_eq!(kernel.fake.held(), (0, 0));
}

#[test]
fn numbers_of_what_was_not_opened_are_nobodys_handles() {
    // With or without.
    for kernel in [kernel(), Kernel::new()] {
        let read = Bytes::new().u64(HandleId::unopened(NodeId(9)).0).u64(0).u32(512).u32(0).u64(9).u32(0).u32(0);
        assert_eq!(kernel.call(Opcode::Read, NODE, &read).errno, libc::EBADF);
        assert!(kernel.calls().is_empty());
    }
}
