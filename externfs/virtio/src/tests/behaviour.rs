//! Queues at work.

use super::driver::*;
use super::fake::*;
use super::frontend::*;
use super::*;
use std::sync::atomic::Ordering;
use vm_memory::{Bytes, GuestAddress};

#[test]
fn many_requests_at_once_come_back_each_once() {
    // On a busy machine the server may sleep before each request is made.
    let kicks: Vec<u64> = (0..3).map(|_| kicks_for_many_requests()).collect();
    assert!(kicks.iter().any(|&kicks| kicks < MANY / 2), "kicks are not suppressed: {kicks:?} of {MANY}");
}

const MANY: u64 = 700 * 32;

fn kicks_for_many_requests() -> u64 {
    let host = Host::new();
    let (_frontend, mut driver) = Frontend::uml(&host.path);
    for round in 0..700_u32 {
        for head in (0..64).step_by(2) {
            driver.request(head, ECHO, &round.to_ne_bytes());
        }
        let mut heads: Vec<_> = (0..32)
            .map(|_| {
                let (head, len) = driver.wait_used().unwrap();
                assert_eq!(driver.answer(head as u16, len), round.to_ne_bytes());
                head
            })
            .collect();
        heads.sort_unstable();
        assert_eq!(heads, (0..64).step_by(2).collect::<Vec<_>>());
    }
    assert_eq!(driver.poll_used(), None);
    let statistics = host.server.statistics();
    assert_eq!(statistics.requests, MANY);
    statistics.kicks
}

#[test]
fn indirect_chains() {
    let host = Host::new();
    let (_frontend, mut drivers) = Frontend::qemu(&host.path, 2);
    let driver = &mut drivers[1];
    let table = driver.buffer(0x1000);
    let bytes = request_bytes(ECHO, 5, b"scattered");
    driver.memory.guest().write_slice(&bytes, GuestAddress(driver.buffer(0))).unwrap();
    for index in 0..25_u16 {
        driver.write_descriptor(table, index, (driver.buffer(index.into()), 1, NEXT, index + 1));
    }
    driver.write_descriptor(table, 25, (driver.buffer(0x100), 0, NEXT | WRITE, 26));
    driver.write_descriptor(table, 26, (driver.buffer(0x100), 20, NEXT | WRITE, 27));
    driver.write_descriptor(table, 27, (driver.buffer(0x200), 20, WRITE, 0));
    driver.describe(7, (table, 28 * 16, INDIRECT, 0));
    driver.offer(7, true);
    assert_eq!(driver.wait_used(), Some((7, 25)));
    let mut answer = [0; 9];
    driver.memory.guest().read_slice(&mut answer[..4], GuestAddress(driver.buffer(0x110))).unwrap();
    driver.memory.guest().read_slice(&mut answer[4..], GuestAddress(driver.buffer(0x200))).unwrap();
    assert_eq!(&answer, b"scattered");
}

#[test]
fn interrupts_only_when_wanted() {
    let host = Host::new();
    let (_frontend, mut driver) = Frontend::uml(&host.path);
    // Wanted after the third answer, not before.
    driver.set_used_event(2);
    for head in [0, 2] {
        driver.request(head, ECHO, b"x");
    }
    eventually("two answers", || host.server.statistics().requests == 2);
    assert!(!wait_readable(&driver.call, Duration::from_millis(50)));
    driver.request(4, ECHO, b"x");
    assert!(wait_readable(&driver.call, Duration::from_secs(5)));
    assert_eq!(host.server.statistics().calls, 1);
}

#[test]
fn an_interrupt_that_may_be_overslept_is_repeated_once() {
    let host = Host::new();
    let (_frontend, mut driver) = Frontend::uml(&host.path);
    driver.request(0, ECHO, b"x");
    eventually("it is repeated", || host.server.statistics().repeated_calls == 1);
    thread::sleep(Duration::from_millis(50));
    let statistics = host.server.statistics();
    assert_eq!((statistics.calls, statistics.repeated_calls), (1, 1));
    let mut bytes = [0; 64];
    assert_eq!(rustix::io::read(&driver.call, &mut bytes).unwrap(), 16);
    assert!(driver.poll_used().is_some());
    // An eventfd cannot be overslept.
    let host = Host::new();
    let mut frontend = Frontend::connect(&host.path);
    frontend.agree(VERSION_1 | PROTOCOL | EVENT_IDX);
    frontend.send_memory_table();
    let mut driver = frontend.start_queues(2, 64, EventKind::Eventfd).remove(1);
    assert!(driver.ask(ECHO, b"x").is_some());
    thread::sleep(Duration::from_millis(50));
    assert_eq!(host.server.statistics().repeated_calls, 0);
}

#[test]
fn so_is_that_of_a_request_that_waited() {
    let host = Host::new();
    let (_frontend, mut driver) = Frontend::uml(&host.path);
    driver.request(0, WAIT, b"");
    eventually("it waits", || host.fake.waiting.load(Ordering::SeqCst) == 1);
    // Its queue falls asleep.
    thread::sleep(Duration::from_millis(50));
    host.fake.release(true);
    eventually("it is repeated", || host.server.statistics().repeated_calls == 1);
    thread::sleep(Duration::from_millis(50));
    let statistics = host.server.statistics();
    assert_eq!((statistics.calls, statistics.repeated_calls), (1, 1));
    assert!(driver.poll_used().is_some());
}

#[test]
fn without_event_index() {
    let host = Host::new();
    let mut frontend = Frontend::connect(&host.path);
    frontend.agree(VERSION_1 | PROTOCOL);
    frontend.send_memory_table();
    let mut driver = frontend.start_queues(2, 8, EventKind::Eventfd).remove(1);
    for _ in 0..100 {
        driver.memory.guest().write_slice(&request_bytes(ECHO, 0, b"plain"), GuestAddress(driver.buffer(0))).unwrap();
        driver.describe(0, (driver.buffer(0), 21, NEXT, 1));
        driver.describe(1, (driver.buffer(128), 128, WRITE, 0));
        driver.offer(0, false);
        let (_, len) = driver.wait_used().unwrap();
        assert_eq!(driver.answer(0, len), b"plain");
    }
    assert!(host.server.statistics().kicks > 0);
}

#[test]
fn a_request_without_an_answer_comes_back_empty() {
    let host = Host::new();
    let (_frontend, mut driver) = Frontend::uml(&host.path);
    driver.request(0, SILENT, b"forget");
    assert_eq!(driver.wait_used(), Some((0, 0)));
}

#[test]
fn a_waiting_request_does_not_hold_up_its_queue() {
    let host = Host::new();
    let (_frontend, mut driver) = Frontend::uml(&host.path);
    driver.request(2, WAIT, b"");
    eventually("it waits", || host.fake.waiting.load(Ordering::SeqCst) == 1);
    assert_eq!(driver.ask(ECHO, b"on").unwrap(), b"on");
    driver.request(4, RELEASE, b"");
    let mut answers: Vec<_> = (0..2).map(|_| driver.wait_used().unwrap().0).collect();
    answers.sort_unstable();
    assert_eq!(answers, [2, 4]);
    assert_eq!(driver.answer(2, 22), b"waited");
    assert_eq!(host.server.statistics().later, 1);
}

#[test]
fn too_many_waiting_requests_are_refused() {
    let host = Host::new();
    let mut frontend = Frontend::connect(&host.path);
    frontend.agree(VERSION_1 | PROTOCOL | EVENT_IDX);
    frontend.send_memory_table();
    let mut drivers = frontend.start_queues(6, 128, EventKind::Eventfd);
    for driver in &mut drivers[1..5] {
        for head in (0..128).step_by(2) {
            driver.request(head, WAIT, b"");
        }
    }
    eventually("they wait", || host.fake.waiting.load(Ordering::SeqCst) == 256);
    let driver = &mut drivers[5];
    driver.request(0, WAIT, b"");
    let (head, len) = driver.wait_used().unwrap();
    assert_eq!((head, len), (0, 16));
    assert_eq!(driver.read::<i32>(driver.buffer(128 + 4)), -libc::ENOLCK);
    assert!(driver.answer(0, 16).is_empty());
    host.fake.release(true);
    for driver in &mut drivers[1..5] {
        for _ in 0..64 {
            driver.wait_used().unwrap();
        }
    }
}

/// 200 requests in close succession.
fn be_busy(driver: &mut Driver) {
    for _ in 0..200 {
        driver.request(0, ECHO, b"x");
        while driver.poll_used().is_none() {
            thread::yield_now();
        }
    }
}

#[test]
fn watching_spares_kicks() {
    let host = Host::with(Options { poll: Poll::Max(10_000), ..Options::new("share") });
    let (_frontend, mut driver) = Frontend::uml(&host.path);
    // How often it pays is for the tuner to say, and for other tests, which
    // use the same processors.
    eventually("requests are seen by watching", || {
        be_busy(&mut driver);
        host.server.statistics().spin_hits >= 5
    });
    let statistics = host.server.statistics();
    assert!(statistics.kicks + statistics.spin_hits <= statistics.requests, "{statistics:?}");
}

#[test]
fn switched_off_nothing_is_watched() {
    let host = Host::with(Options { poll: Poll::Off, ..Options::new("share") });
    let (_frontend, mut driver) = Frontend::uml(&host.path);
    be_busy(&mut driver);
    let statistics = host.server.statistics();
    assert_eq!((statistics.spins, statistics.spin_hits, statistics.spin_wasted_us), (0, 0, 0));
}

#[test]
fn an_idle_queue_is_not_watched() {
    let host = Host::with(Options::new("share"));
    let (_frontend, mut driver) = Frontend::uml(&host.path);
    for _ in 0..100 {
        assert!(driver.ask(ECHO, b"x").is_some());
    }
    thread::sleep(Duration::from_millis(50));
    let before = host.server.statistics();
    thread::sleep(Duration::from_millis(200));
    assert_eq!(host.server.statistics(), before);
}
