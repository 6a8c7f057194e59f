//! What no honest guest does. After each of these the server must serve the
//! next guest as if nothing had been.

use super::driver::*;
use super::fake::*;
use super::frontend::*;
use super::*;
use rustix::fs::ftruncate;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

/// The next guest is served.
pub(super) fn assert_still_serves(host: &Host) {
    let (frontend, mut driver) = Frontend::uml(&host.path);
    assert_eq!(driver.ask(ECHO, b"still here").unwrap(), b"still here");
    drop(frontend);
}

/// Offers `head` after `prepare`, and expects the queue to stop at it.
fn assert_breaks_queue(what: &str, prepare: impl FnOnce(&mut Driver) -> u16) {
    let host = Host::new();
    let (mut frontend, mut driver) = Frontend::uml(&host.path);
    let error = event();
    assert_eq!(frontend.tell_fds(SET_VRING_ERR, &longs(&[1]), &[error.as_fd()]).unwrap(), 0);
    frontend.tell(SET_VRING_ENABLE, &words(&[1, 0]));
    frontend.tell(SET_VRING_ENABLE, &words(&[1, 1]));
    let head = prepare(&mut driver);
    driver.offer(head, true);
    eventually(what, || host.server.statistics().broken_queues == 1);
    assert!(wait_readable(&error, Duration::from_secs(5)), "{what}: the error descriptor is silent");
    assert_eq!(driver.poll_used(), None, "{what}: a broken chain was returned");
    assert!(frontend.is_served(), "{what}: other queues go on");
    drop(frontend);
    assert_still_serves(&host);
}

#[test]
fn chains_that_are_none() {
    let request = |driver: &Driver| driver.memory.guest().write_slice(&request_bytes(ECHO, 0, b""), GuestAddress(driver.buffer(0)));
    use vm_memory::{Bytes, GuestAddress};
    let one = |what: &str, descriptor: fn(&Driver) -> Descriptor| {
        assert_breaks_queue(what, |driver| {
            request(driver).unwrap();
            driver.describe(3, descriptor(driver));
            3
        });
    };
    one("a loop of one", |driver| (driver.buffer(0), 4, NEXT, 3));
    one("a next outside the table", |driver| (driver.buffer(0), 16, NEXT, 256));
    one("a next at the end of the numbers", |driver| (driver.buffer(0), 16, NEXT, u16::MAX));
    one("an address outside", |_| (MEMORY, 16, 0, 0));
    one("an address at the very end", |_| (MEMORY - 8, 16, 0, 0));
    one("an address that wraps", |_| (u64::MAX - 4, 16, 0, 0));
    one("a length of everything", |driver| (driver.buffer(0), u32::MAX, 0, 0));
    one("a length of nothing", |driver| (driver.buffer(0), 0, 0, 0));
    one("no readable part", |driver| (driver.buffer(0), 64, WRITE, 0));
    one("shorter than a header", |driver| (driver.buffer(0), 15, 0, 0));
    one("an indirect table outside", |_| (MEMORY, 32, INDIRECT, 0));
    one("an indirect table of odd length", |driver| (driver.buffer(0x100), 17, INDIRECT, 0));
    one("an indirect table of no length", |driver| (driver.buffer(0x100), 0, INDIRECT, 0));
    one("an indirect table of everything", |driver| (driver.buffer(0x100), 0xffff_fff0, INDIRECT, 0));
    one("a request that is itself broken", |driver| {
        driver.write(BROKEN, driver.buffer(4));
        (driver.buffer(0), 16, 0, 0)
    });
}

#[test]
fn chains_of_several_that_are_none() {
    assert_breaks_queue("a loop of two", |driver| {
        driver.describe(0, (driver.buffer(0), 16, NEXT, 1));
        driver.describe(1, (driver.buffer(64), 16, NEXT, 0));
        0
    });
    assert_breaks_queue("readable behind writable", |driver| {
        driver.describe(0, (driver.buffer(0), 64, NEXT | WRITE, 1));
        driver.describe(1, (driver.buffer(64), 16, 0, 0));
        0
    });
    assert_breaks_queue("lengths that add up past 4 GiB", |driver| {
        for index in 0..9 {
            driver.describe(index, (0, (MEMORY - 4096) as u32 | 0x2000_0000, NEXT, index + 1));
        }
        0
    });
    assert_breaks_queue("an indirect table in an indirect table", |driver| {
        let table = driver.buffer(0x100);
        driver.write_descriptor(table, 0, (table, 32, INDIRECT, 0));
        driver.describe(0, (table, 32, INDIRECT, 0));
        0
    });
    assert_breaks_queue("an indirect loop", |driver| {
        let table = driver.buffer(0x100);
        driver.write_descriptor(table, 0, (driver.buffer(0), 4, NEXT, 1));
        driver.write_descriptor(table, 1, (driver.buffer(0), 4, NEXT, 0));
        driver.describe(0, (table, 32, INDIRECT, 0));
        0
    });
    assert_breaks_queue("an answer without room", |driver| {
        driver.describe(0, (driver.buffer(0), 16, NEXT, 1));
        driver.describe(1, (driver.buffer(64), 15, WRITE, 0));
        driver.write(ECHO, driver.buffer(4));
        0
    });
    assert_breaks_queue("a head outside the table", |_| 256);
    assert_breaks_queue("the last head there is", |_| u16::MAX);
}

#[test]
fn an_available_index_that_runs_ahead() {
    let host = Host::new();
    let (frontend, driver) = Frontend::uml(&host.path);
    driver.set_available_index(257);
    driver.kick();
    eventually("the queue stops", || host.server.statistics().broken_queues == 1);
    drop(frontend);
    assert_still_serves(&host);
}

#[test]
fn a_panic_ends_its_guest_only() {
    let host = Host::new();
    let (mut frontend, mut driver) = Frontend::uml(&host.path);
    driver.request(0, PANIC, b"");
    assert!(frontend.is_given_up());
    assert_still_serves(&host);
    let (_frontend, mut driver) = Frontend::uml(&host.path);
    assert!(driver.ask(ECHO, b"x").is_some());
}

#[test]
fn memory_that_is_truncated() {
    let host = Host::new();
    let (mut frontend, driver) = Frontend::uml(&host.path);
    ftruncate(&frontend.memory_fd, 0).unwrap();
    driver.kick();
    assert!(frontend.is_given_up());
    assert_still_serves(&host);
}

#[test]
fn memory_that_is_truncated_under_a_busy_queue() {
    let host = Host::with(Options { poll: Poll::Max(10_000), ..Options::new("share") });
    let (mut frontend, mut driver) = Frontend::uml(&host.path);
    for _ in 0..50 {
        assert!(driver.ask(ECHO, b"busy").is_some());
    }
    driver.request(0, SLEEP, b"");
    thread::sleep(Duration::from_millis(100));
    ftruncate(&frontend.memory_fd, 4096).unwrap();
    assert!(frontend.is_given_up());
    assert_still_serves(&host);
}

/// Sends one message that cannot be right and expects a refusal, with or
/// without an acknowledgement asked for.
fn assert_refused(what: &str, code: u32, payload: &[u8], fd: Option<&File>) {
    for wants_ack in [true, false] {
        let host = Host::new();
        let mut frontend = Frontend::connect(&host.path);
        frontend.agree(VERSION_1 | PROTOCOL | EVENT_IDX);
        frontend.send_memory_table();
        frontend.wants_ack = wants_ack;
        let fds: Vec<_> = fd.iter().map(|fd| fd.as_fd()).collect();
        match frontend.tell_fds(code, payload, &fds) {
            Ok(answer) if wants_ack => assert_ne!(answer, 0, "{what}: accepted"),
            Ok(_) => panic!("{what}: accepted"),
            Err(_) => assert!(!wants_ack || code == GET_VRING_BASE, "{what}: not acknowledged"),
        }
        drop(frontend);
        assert_still_serves(&host);
    }
}

#[test]
fn messages_about_queues_that_do_not_exist() {
    for index in [65, 255, u32::MAX, 1 << 31] {
        assert_refused("number", SET_VRING_NUM, &words(&[index, 8]), None);
        assert_refused("base", SET_VRING_BASE, &words(&[index, 0]), None);
        assert_refused("enable", SET_VRING_ENABLE, &words(&[index, 1]), None);
        assert_refused("get base", GET_VRING_BASE, &words(&[index, 0]), None);
        let mut address = words(&[index, 0]);
        address.extend(longs(&[0, 4096, 8192, 0]));
        assert_refused("address", SET_VRING_ADDR, &address, None);
    }
    let null: File = event().into();
    for code in [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR] {
        assert_refused("index 255", code, &longs(&[255]), Some(&null));
    }
}

#[test]
fn messages_that_lack_something() {
    for code in [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR] {
        assert_refused("no descriptor", code, &longs(&[1]), None);
        assert_refused("no payload", code, &[], None);
        assert_refused("a file for an event", code, &longs(&[1]), Some(&tempfile::tempfile().unwrap()));
    }
    assert_refused("no kick", SET_VRING_KICK, &longs(&[0x101]), None);
    assert_refused("no channel", SET_BACKEND_REQ_FD, &[], None);
    for code in [SET_FEATURES, SET_MEM_TABLE, SET_VRING_NUM, SET_VRING_ADDR, ADD_MEM_REG, REM_MEM_REG] {
        assert_refused("too short", code, &[0; 4], None);
    }
    assert_refused("no memory file", SET_MEM_TABLE, &[words(&[1, 0]), longs(&[0, 4096, 0, 0])].concat(), None);
    assert_refused("no regions", SET_MEM_TABLE, &words(&[0, 0]), None);
    assert_refused("all regions", SET_MEM_TABLE, &words(&[u32::MAX, 0]), None);
    assert_refused("more regions than sent", SET_MEM_TABLE, &[words(&[2, 0]), longs(&[0, 4096, 0, 0])].concat(), None);
}

#[test]
fn memory_that_is_none() {
    let short = tempfile::tempfile().unwrap();
    short.set_len(4096).unwrap();
    let table = |place: [u64; 4]| [words(&[1, 0]), longs(&place)].concat();
    assert_refused("longer than its file", SET_MEM_TABLE, &table([0, 8192, 0, 0]), Some(&short));
    assert_refused("behind its file", SET_MEM_TABLE, &table([0, 4096, 0, 4096]), Some(&short));
    assert_refused("an offset that wraps", SET_MEM_TABLE, &table([0, 4096, 0, u64::MAX - 4095]), Some(&short));
    assert_refused("an address that wraps", SET_MEM_TABLE, &table([u64::MAX, 4096, 0, 0]), Some(&short));
    assert_refused("everything", SET_MEM_TABLE, &table([0, u64::MAX, 0, 0]), Some(&short));
    assert_refused("a device", SET_MEM_TABLE, &table([0, 4096, 0, 0]), Some(&File::open("/dev/zero").unwrap()));
    let overlapping = [longs(&[0]), longs(&[0, 4096, 1 << 40, 0])].concat();
    assert_refused("a slot over another", ADD_MEM_REG, &overlapping, Some(&short));
}

#[test]
fn rings_that_are_not_in_memory() {
    for (what, place) in [
        ("outside", [MEMORY, 0x2000, 0x4000]),
        ("at the end", [MEMORY - 16, 0x2000, 0x4000]),
        ("used ring outside", [0x1000, 0x2000, MEMORY]),
        ("used ring at the end", [0x1000, 0x2000, MEMORY - 4]),
        ("available ring outside", [0x1000, u64::MAX, 0x4000]),
        ("not aligned", [0x1001, 0x2000, 0x4000]),
    ] {
        let host = Host::new();
        let mut frontend = Frontend::connect(&host.path);
        frontend.agree(VERSION_1 | PROTOCOL | EVENT_IDX);
        frontend.send_memory_table();
        let kick = event();
        frontend.tell(SET_VRING_NUM, &words(&[1, 16]));
        frontend.tell(SET_VRING_ADDR, &[words(&[1, 0]), longs(&[place[0], place[2], place[1], 0])].concat());
        frontend.tell(SET_VRING_ENABLE, &words(&[1, 1]));
        assert_ne!(frontend.tell_fds(SET_VRING_KICK, &longs(&[1]), &[kick.as_fd()]).unwrap(), 0, "{what}");
        drop(frontend);
        assert_still_serves(&host);
    }
}

#[test]
fn sizes_and_bases_that_are_none() {
    for (code, value) in [(SET_VRING_NUM, 65536), (SET_VRING_NUM, u32::MAX), (SET_VRING_BASE, 65536), (SET_VRING_BASE, u32::MAX)] {
        assert_refused("too large", code, &words(&[1, value]), None);
    }
    for size in [0, 3, 65535] {
        let host = Host::new();
        let mut frontend = Frontend::connect(&host.path);
        frontend.agree(VERSION_1 | PROTOCOL | EVENT_IDX);
        frontend.send_memory_table();
        let driver = Driver::new(&frontend.memory, 1, 16, EventKind::Eventfd);
        frontend.describe(&driver, 0);
        frontend.tell(SET_VRING_NUM, &words(&[1, size]));
        frontend.tell(SET_VRING_ENABLE, &words(&[1, 1]));
        assert_ne!(frontend.tell_fds(SET_VRING_KICK, &longs(&[1]), &[driver.kick.as_fd()]).unwrap(), 0, "{size}");
        drop(frontend);
        assert_still_serves(&host);
    }
}

#[test]
fn bytes_that_are_no_messages() {
    let cases: [&[u8]; 5] = [
        &words(&[SET_MEM_TABLE, 1, 4097]),
        &words(&[SET_MEM_TABLE, 1, u32::MAX]),
        &words(&[SET_MEM_TABLE, 0, 8]),
        &words(&[99, 1, 0]),
        &[0xff; 4096],
    ];
    for case in cases {
        let host = Host::new();
        let mut frontend = Frontend::connect(&host.path);
        frontend.send_raw(case, &[]).unwrap();
        assert!(frontend.is_given_up(), "{:?}", &case[..12]);
        assert_still_serves(&host);
    }
}

#[test]
fn a_message_that_stops_in_the_middle_holds_nobody_up() {
    let host = Host::new();
    let mut frontend = Frontend::connect(&host.path);
    frontend.send_raw(&words(&[SET_MEM_TABLE, 1]), &[]).unwrap();
    thread::sleep(Duration::from_millis(50));
    let start = Instant::now();
    drop(host);
    assert!(start.elapsed() < Duration::from_secs(2), "the server did not stop");
    assert!(frontend.is_given_up());
}

#[test]
fn more_descriptors_than_anyone_needs() {
    let host = Host::new();
    let mut frontend = Frontend::connect(&host.path);
    let event = event();
    let fds: Vec<_> = (0..33).map(|_| event.as_fd()).collect();
    frontend.send_raw(&words(&[SET_OWNER, 1, 0]), &fds).unwrap();
    assert!(frontend.is_given_up());
    assert_still_serves(&host);
}

/// The flag is one of the open file description, so it is cleared for both.
fn let_block(fd: &impl AsFd) {
    let flags = rustix::fs::fcntl_getfl(fd).unwrap();
    rustix::fs::fcntl_setfl(fd, flags - rustix::fs::OFlags::NONBLOCK).unwrap();
}

/// An eventfd that takes no more.
fn full_event() -> OwnedFd {
    let full = event();
    rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    full
}

#[test]
fn an_interrupt_that_is_full_and_blocks() {
    for opcode in [ECHO, WAIT] {
        let host = Host::new();
        let (mut frontend, mut driver) = Frontend::uml(&host.path);
        let full = full_event();
        assert_eq!(frontend.tell_fds(SET_VRING_CALL, &longs(&[1]), &[full.as_fd()]).unwrap(), 0);
        let_block(&full);
        driver.request(0, opcode, b"");
        if opcode == WAIT {
            eventually("it waits", || host.fake.waiting.load(std::sync::atomic::Ordering::SeqCst) == 1);
            host.fake.release(true);
        }
        eventually("it is answered", || driver.poll_used().is_some());
        // Whoever answered is held. Nobody else is.
        let start = Instant::now();
        let other = event();
        assert_eq!(frontend.tell_fds(SET_VRING_CALL, &longs(&[1]), &[other.as_fd()]).unwrap(), 0);
        assert!(wait_readable(&other, Duration::from_secs(5)));
        drop(frontend);
        assert_still_serves(&host);
        assert!(start.elapsed() < Duration::from_secs(8), "the server was held");
    }
}

#[test]
fn descriptors_that_begin_to_block_at_any_moment() {
    let host = Host::new();
    let (mut frontend, driver) = Frontend::uml(&host.path);
    let (full, kick) = (full_event(), driver.kick.try_clone().unwrap());
    let hand = full.try_clone().unwrap();
    let end = Stop::new().unwrap();
    let ended = end.clone();
    // Kicks are taken back at once, so that a read finds none.
    let tamper = thread::spawn(move || {
        while !ended.is_raised() {
            let_block(&hand);
            rustix::io::write(&kick, &1_u64.to_ne_bytes()).unwrap();
            let_block(&kick);
            let flags = rustix::fs::fcntl_getfl(&kick).unwrap();
            rustix::fs::fcntl_setfl(&kick, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
            let _ = rustix::io::read(&kick, &mut [0; 8]);
            let_block(&kick);
        }
    });
    let start = Instant::now();
    for _ in 0..50 {
        assert_eq!(frontend.tell_fds(SET_VRING_CALL, &longs(&[1]), &[full.as_fd()]).unwrap(), 0);
    }
    frontend.tell(SET_VRING_ENABLE, &words(&[1, 0]));
    drop(frontend);
    eventually("its handler goes", || host.fake.alive.load(std::sync::atomic::Ordering::SeqCst) == 0);
    end.raise();
    tamper.join().unwrap();
    assert_still_serves(&host);
    assert!(start.elapsed() < Duration::from_secs(8), "the server was held");
}
