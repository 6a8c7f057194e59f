//! What is agreed upon, kernel by kernel.

use super::fake::Fake;
use super::*;
use crate::init::{self, InitRequest, Ours};
use externfs::{CachePolicy, Features};

/// Everything that Linux 5.4 offers (7.31, no `flags2`).
const OFFERED_7_31: u64 = 0x03ff_ffff;
/// Everything that Linux 6.1 offers a virtio-fs server (7.38).
const OFFERED_7_38: u64 = 0x7fff_ffff | 0xb_0000_0000;

fn agree(minor: u32, offered: u64, config: Config, features: Features, policy: CachePolicy) -> crate::Negotiated {
    let request = InitRequest { major: 7, minor, max_readahead: 131_072, flags: InitFlags::from_bits_retain(offered) };
    init::negotiate(&Ours { config: &config, features, policy, passthrough: false, unopened: &|| false }, &request).unwrap().unwrap()
}

const ALWAYS: InitFlags = InitFlags::ASYNC_READ
    .union(InitFlags::BIG_WRITES)
    .union(InitFlags::EXPORT_SUPPORT)
    .union(InitFlags::DONT_MASK)
    .union(InitFlags::AUTO_INVAL_DATA)
    .union(InitFlags::DO_READDIRPLUS)
    .union(InitFlags::ASYNC_DIO)
    .union(InitFlags::PARALLEL_DIROPS)
    .union(InitFlags::MAX_PAGES);

const LATER: InitFlags = InitFlags::SETXATTR_EXT.union(InitFlags::INIT_EXT);
const NEWEST: InitFlags = InitFlags::CREATE_SUPP_GROUP.union(InitFlags::HAS_EXPIRE_ONLY).union(InitFlags::DIRECT_IO_ALLOW_MMAP);

#[test]
fn a_plain_plugin_asks_for_what_is_always_right() {
    let virtio = Config::new(TransportKind::Virtio);
    for (minor, offered, expected) in [
        (31, OFFERED_7_31, ALWAYS | InitFlags::READDIRPLUS_AUTO),
        (38, OFFERED_7_38, ALWAYS | InitFlags::READDIRPLUS_AUTO | LATER | InitFlags::HAS_EXPIRE_ONLY),
        (45, OFFERED_7_45, ALWAYS | LATER | NEWEST),
    ] {
        let agreed = agree(minor, offered, virtio, Features::default(), CachePolicy::NONE);
        assert_eq!(agreed.flags, expected, "7.{minor}");
        assert_eq!((agreed.minor, agreed.max_write, agreed.max_pages, agreed.max_readahead), (minor, 1 << 20, 256, 131_072));
    }
    assert_eq!(agree(99, u64::MAX, virtio, Features::default(), CachePolicy::NONE).minor, 45);
    assert_eq!(agree(45, 0, virtio, Features::default(), CachePolicy::NONE).flags, InitFlags::empty());
}

#[test]
fn each_ability_brings_its_flags() {
    let virtio = Config::new(TransportKind::Virtio);
    let plain = agree(45, OFFERED_7_45, virtio, Features::default(), CachePolicy::NONE).flags;
    let added = |features, policy, config| agree(45, OFFERED_7_45, config, features, policy).flags.difference(plain);
    let none = Features::default();
    let policy = CachePolicy::NONE;
    assert_eq!(added(Features { posix_acl: true, ..none }, policy, virtio), InitFlags::POSIX_ACL);
    assert_eq!(added(Features { locks: true, ..none }, policy, virtio), InitFlags::POSIX_LOCKS | InitFlags::FLOCK_LOCKS);
    assert_eq!(added(Features { kill_priv: true, ..none }, policy, virtio), InitFlags::HANDLE_KILLPRIV_V2);
    assert_eq!(added(Features { submounts: true, ..none }, policy, virtio), InitFlags::SUBMOUNTS);
    assert_eq!(added(none, CachePolicy { writeback: true, ..policy }, virtio), InitFlags::WRITEBACK_CACHE);
    assert_eq!(added(none, CachePolicy { coherent: false, ..policy }, virtio), InitFlags::CACHE_SYMLINKS);
    let exclusive = CachePolicy { exclusive: true, ..policy };
    assert_eq!(added(none, exclusive, virtio), InitFlags::empty(), "a guest is not told of other guests' changes");
    let told = agree(45, OFFERED_7_45, Config::new(TransportKind::DevFuse), none, exclusive).flags;
    assert_eq!(told.symmetric_difference(plain), InitFlags::AUTO_INVAL_DATA | InitFlags::EXPLICIT_INVAL_DATA | InitFlags::CACHE_SYMLINKS);

    let rings = |transport| Config { uring: true, ..Config::new(transport) };
    assert_eq!(added(none, policy, rings(TransportKind::DevFuse)), InitFlags::OVER_IO_URING);
    assert_eq!(added(none, policy, rings(TransportKind::Virtio)), InitFlags::empty(), "a guest's requests come from its queues");
    let not_offered = agree(45, OFFERED_7_45 & !InitFlags::OVER_IO_URING.bits(), rings(TransportKind::DevFuse), none, policy).flags;
    assert_eq!(not_offered, plain);

    let with_passthrough = |policy, transport| {
        let config = Config::new(transport);
        let request = InitRequest { major: 7, minor: 45, max_readahead: 0, flags: InitFlags::from_bits_retain(OFFERED_7_45) };
        init::negotiate(&Ours { config: &config, features: none, policy, passthrough: true, unopened: &|| true }, &request)
            .unwrap()
            .unwrap()
            .flags
            .difference(plain)
    };
    assert_eq!(with_passthrough(policy, TransportKind::DevFuse), InitFlags::PASSTHROUGH);
    let writeback = CachePolicy { writeback: true, ..policy };
    assert_eq!(with_passthrough(writeback, TransportKind::DevFuse), InitFlags::WRITEBACK_CACHE, "the two exclude each other");
    assert_eq!(with_passthrough(policy, TransportKind::Virtio), InitFlags::empty(), "a guest has no files of ours");
}

#[test]
fn a_kernel_does_without_open_where_nothing_is_against_it() {
    let exclusive = CachePolicy { exclusive: true, listings: true, ..CachePolicy::NONE };
    let config = Config::new(TransportKind::DevFuse);
    let none = Features::default();
    let asked = std::cell::Cell::new(0);
    let agreed = |offered, config, features, policy, passthrough, can| {
        let request = InitRequest { major: 7, minor: 45, max_readahead: 0, flags: InitFlags::from_bits_retain(offered) };
        let unopened = || {
            asked.set(asked.get() + 1);
            can
        };
        let flags = init::negotiate(&Ours { config: &config, features, policy, passthrough, unopened: &unopened }, &request);
        let flags = flags.unwrap().unwrap().flags & init::UNOPENED;
        assert!(flags.is_empty() || flags == init::UNOPENED, "both or neither");
        !flags.is_empty()
    };
    for transport in [TransportKind::DevFuse, TransportKind::Virtio] {
        assert!(agreed(OFFERED_7_45, Config::new(transport), none, exclusive, false, true));
    }
    assert!(agreed(OFFERED_7_31, config, none, exclusive, false, true), "5.4 offers it");
    assert!(agreed(OFFERED_7_45, Config::new(TransportKind::Virtio), none, exclusive, true, true), "a guest has no files of ours");
    assert!(!agreed(OFFERED_7_45, config, none, exclusive, false, false), "the export cannot");
    asked.set(0);
    assert!(!agreed(OFFERED_7_45, config, none, exclusive, true, true), "files are handed over when they are opened");
    assert!(!agreed(OFFERED_7_45, config, none, CachePolicy { exclusive: false, ..exclusive }, false, true));
    assert!(!agreed(OFFERED_7_45, config, none, CachePolicy { writeback: true, ..exclusive }, false, true));
    assert!(!agreed(OFFERED_7_45, config, Features { locks: true, ..none }, exclusive, false, true));
    assert!(!agreed(OFFERED_7_45, Config { flush_on_close: true, ..config }, none, exclusive, false, true));
    assert!(!agreed(OFFERED_7_45, Config { may_not_open: false, ..config }, none, exclusive, false, true), "the kernel is not to");
    for flag in [InitFlags::NO_OPEN_SUPPORT, InitFlags::NO_OPENDIR_SUPPORT] {
        assert!(!agreed(OFFERED_7_45 & !flag.bits(), config, none, exclusive, false, true));
    }
    assert_eq!(asked.get(), 0, "an export that is asked acts upon it");
}

#[test]
fn sizes_are_bounded() {
    let config = |max_write| Config { max_write, max_readahead: 65536, ..Config::new(TransportKind::DevFuse) };
    let agreed = |max_write, offered| agree(45, offered, config(max_write), Features::default(), CachePolicy::NONE);
    assert_eq!((agreed(0, OFFERED_7_45).max_write, agreed(0, OFFERED_7_45).max_pages), (128 << 10, 32));
    assert_eq!((agreed(u32::MAX, OFFERED_7_45).max_write, agreed(u32::MAX, OFFERED_7_45).max_pages), (16 << 20, 4096));
    assert_eq!((agreed(1 << 20, 0).max_write, agreed(1 << 20, 0).max_pages), (128 << 10, 32), "MAX_PAGES was not offered");
    assert_eq!(agreed(1 << 20, OFFERED_7_45).max_readahead, 65536);
}

#[test]
#[cfg(target_endian = "little")]
fn the_answer_is_what_the_kernel_reads() {
    let kernel = Kernel::raw(Fake { features: Features::default(), ..Fake::default() }, Config::new(TransportKind::Virtio));
    let answer = kernel.call(Opcode::Init, 0, &init_args(45, OFFERED_7_45));
    assert_eq!((answer.errno, answer.payload.len()), (0, 64));
    let flags = (ALWAYS | LATER | NEWEST).bits();
    let expected = Bytes::new().u32(7).u32(45).u32(131_072).u32(flags as u32).u32(64 | 48 << 16).u32(1 << 20).u32(1).u32(256);
    assert_eq!(answer.payload, expected.u32((flags >> 32) as u32).raw(&[0; 28]).0);
    assert_eq!(kernel.session.negotiated().unwrap().offered.bits(), OFFERED_7_45);
}

#[test]
fn a_short_init_of_an_old_kernel_is_understood() {
    let kernel = Kernel::raw(Fake::default(), Config::new(TransportKind::Virtio));
    let args = init_args(31, OFFERED_7_31);
    assert_eq!(args.0.len(), 16);
    assert_eq!(kernel.call(Opcode::Init, 0, &args).errno, 0);
    assert_eq!(kernel.session.negotiated().unwrap().minor, 31);
}

#[test]
fn other_versions_are_told_so() {
    let kernel = Kernel::raw(Fake::default(), Config::new(TransportKind::Virtio));
    let later = kernel.call(Opcode::Init, 0, &Bytes::new().u32(8).u32(0).raw(&[1; 100]));
    assert_eq!((later.errno, later.u32(0), later.u32(4)), (0, 7, 45));
    assert_eq!(kernel.call(Opcode::GetAttr, 1, &Bytes::new().raw(&[0; 16])).errno, libc::EIO, "nothing is agreed yet");
    for (major, minor) in [(7, 30), (6, 99), (0, 0)] {
        assert_eq!(kernel.call(Opcode::Init, 0, &Bytes::new().u32(major).u32(minor).u64(0)).errno, libc::EPROTO, "{major}.{minor}");
    }
    assert!(kernel.session.negotiated().is_none());
}

#[test]
fn nothing_is_served_before_init_or_after_destroy() {
    let kernel = Kernel::raw(Fake::default(), Config::new(TransportKind::Virtio));
    for (opcode, args) in well_formed() {
        if opcode.is_silent() {
            kernel.silent(opcode, NODE, &args);
        } else if opcode != Opcode::Init {
            assert_eq!(kernel.call(opcode, NODE, &args).errno, libc::EIO, "{opcode}");
        }
    }
    assert!(kernel.calls().is_empty());
    assert_eq!(kernel.call(Opcode::Init, 0, &init_args(45, OFFERED_7_45)).errno, 0);
    assert_eq!(kernel.call(Opcode::GetAttr, 1, &Bytes::new().raw(&[0; 16])).errno, 0);
    assert_eq!(kernel.call(Opcode::Destroy, 0, &Bytes::new()).errno, 0);
    assert_eq!(kernel.calls().last().unwrap(), "reset");
    assert_eq!(kernel.call(Opcode::GetAttr, 1, &Bytes::new().raw(&[0; 16])).errno, libc::EIO);
}

#[test]
fn a_second_init_is_a_guest_that_rebooted() {
    let kernel = Kernel::new();
    kernel.call(Opcode::Lookup, 1, &Bytes::new().text("a"));
    kernel.call(Opcode::Open, 1, &Bytes::new().u64(0));
    assert_eq!(kernel.fake.held(), (1, 1));
    assert_eq!(kernel.call(Opcode::Init, 0, &init_args(38, OFFERED_7_38)).errno, 0);
    assert_eq!(kernel.fake.held(), (0, 0));
    assert_eq!(kernel.session.negotiated().unwrap().minor, 38);
}
