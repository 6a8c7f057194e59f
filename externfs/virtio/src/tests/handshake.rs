//! What is offered and what is asked, in the order of each frontend.

use super::frontend::*;
use super::*;
use crate::tests::fake::ECHO;

#[test]
fn as_user_mode_linux() {
    let host = Host::with(Options { request_queues: 3, ..Options::new("share") });
    let mut frontend = Frontend::connect(&host.path);
    frontend.agree(VERSION_1 | PROTOCOL | EVENT_IDX);
    // It reads the configuration space from its beginning, a byte more each time.
    for size in 1..=40_u32 {
        let mut payload = words(&[0, size, 0]);
        payload.extend(vec![0; size as usize]);
        let answer = frontend.ask(GET_CONFIG, &payload);
        let mut expected = b"share".to_vec();
        expected.resize(36, 0);
        expected.extend(3_u32.to_le_bytes());
        assert_eq!(answer[..12], words(&[0, size, 0]));
        assert_eq!(answer[12..], expected[..size as usize]);
    }
    frontend.send_memory_table();
    let mut driver = frontend.start_queues(2, 256, EventKind::Socket).remove(1);
    assert_eq!(driver.ask(ECHO, b"hello").unwrap(), b"hello");
}

#[test]
fn as_qemu() {
    let host = Host::new();
    let (mut frontend, mut drivers) = Frontend::qemu(&host.path, 5);
    assert!(frontend.ask_number(GET_QUEUE_NUM) >= 5);
    for driver in &mut drivers {
        assert_eq!(driver.ask(ECHO, b"hello").unwrap(), b"hello");
    }
}

#[test]
fn what_is_offered() {
    let host = Host::new();
    let mut frontend = Frontend::connect(&host.path);
    let protocol = frontend.ask_number(GET_PROTOCOL_FEATURES);
    for (bit, name) in [(0, "MQ"), (3, "REPLY_ACK"), (5, "BACKEND_REQ"), (9, "CONFIG")] {
        assert!(protocol & 1 << bit != 0, "{name}");
    }
    assert!(protocol & 1 << 14 == 0, "in-band notifications make User Mode Linux slow");
    let features = frontend.ask_number(GET_FEATURES);
    assert_eq!(features & (VERSION_1 | PROTOCOL | EVENT_IDX), VERSION_1 | PROTOCOL | EVENT_IDX);
    assert!(features & 1 << 26 == 0, "dirty logging is not there");
}

#[test]
fn configuration_space_at_any_place() {
    let host = Host::new();
    let mut frontend = Frontend::connect(&host.path);
    assert_eq!(frontend.ask(GET_CONFIG, &words(&[36, 4, 7]))[12..], [1, 0, 0, 0]);
    assert_eq!(frontend.ask(GET_CONFIG, &words(&[3, 2, 0]))[12..], *b"re");
    assert_eq!(frontend.ask(GET_CONFIG, &words(&[38, 4, 0]))[12..], [0; 4]);
    assert_eq!(frontend.ask(GET_CONFIG, &words(&[u32::MAX, 4, 0]))[12..], [0; 4]);
    assert_eq!(frontend.ask(GET_CONFIG, &words(&[0, 256, 0])).len(), 12 + 256);
    assert_eq!(frontend.ask(GET_CONFIG, &words(&[0, 257, 0])).len(), 12);
    assert_eq!(frontend.ask(GET_CONFIG, &words(&[0, u32::MAX, 0])).len(), 12);
}

#[test]
fn acknowledged_exactly_once() {
    let host = Host::new();
    let mut frontend = Frontend::connect(&host.path);
    frontend.tell(SET_OWNER, &[]);
    assert_ne!(frontend.tell_fds(SET_FEATURES, &longs(&[1 << 26]), &[]).unwrap(), 0);
    assert_ne!(frontend.tell_fds(SET_PROTOCOL_FEATURES, &longs(&[1 << 14]), &[]).unwrap(), 0);
    assert_ne!(frontend.tell_fds(99, &[], &[]).unwrap(), 0);
    // A question has its answer and no acknowledgement behind it.
    frontend.send(GET_FEATURES, &[], &[]).unwrap();
    frontend.send(GET_QUEUE_NUM, &[], &[]).unwrap();
    assert_eq!(frontend.receive().unwrap().0, GET_FEATURES);
    assert_eq!(frontend.receive().unwrap().0, GET_QUEUE_NUM);
}

#[test]
fn memory_slot_by_slot() {
    use std::os::fd::AsFd;
    let host = Host::new();
    let mut frontend = Frontend::connect(&host.path);
    frontend.agree(VERSION_1 | PROTOCOL | EVENT_IDX);
    assert!(frontend.ask_number(GET_MAX_MEM_SLOTS) >= 8);
    let region = |start: u64, len: u64, offset: u64| longs(&[0, start, len, start, offset]);
    let half = MEMORY / 2;
    for place in [0, half] {
        let fd = frontend.memory_fd.try_clone().unwrap();
        assert_eq!(frontend.tell_fds(ADD_MEM_REG, &region(place, half, place), &[fd.as_fd()]).unwrap(), 0);
    }
    let mut driver = frontend.start_queues(2, 64, EventKind::Eventfd).remove(1);
    assert_eq!(driver.ask(ECHO, b"one").unwrap(), b"one");
    // The upper half holds nothing of the queue: it goes on without.
    frontend.tell(REM_MEM_REG, &region(half, half, 0));
    assert_eq!(driver.ask(ECHO, b"two").unwrap(), b"two");
    assert_ne!(frontend.tell_fds(REM_MEM_REG, &region(half, half, 0), &[]).unwrap(), 0);
    frontend.tell(REM_MEM_REG, &region(0, half, 0));
    driver.request(0, ECHO, b"three");
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(driver.poll_used(), None, "memory that was taken back is not touched");
    assert!(frontend.is_served());
}

#[test]
fn whatever_order_it_comes_in() {
    use std::os::fd::AsFd;
    let host = Host::new();
    let mut frontend = Frontend::connect(&host.path);
    let mut driver = super::driver::Driver::new(&frontend.memory, 1, 64, EventKind::Eventfd);
    frontend.tell(SET_VRING_ENABLE, &words(&[1, 1]));
    let kick = driver.kick.try_clone().unwrap();
    assert_eq!(frontend.tell_fds(SET_VRING_KICK, &longs(&[1]), &[kick.as_fd()]).unwrap(), 0);
    frontend.describe(&driver, 0);
    driver.request(0, ECHO, b"early");
    frontend.agree(VERSION_1 | PROTOCOL | EVENT_IDX);
    frontend.send_memory_table();
    let (head, len) = driver.wait_used().unwrap();
    assert_eq!((head, driver.answer(0, len)), (0, b"early".to_vec()));
    // A table that says the same again disturbs nothing.
    frontend.send_memory_table();
    assert_eq!(driver.ask(ECHO, b"again").unwrap(), b"again");
}
