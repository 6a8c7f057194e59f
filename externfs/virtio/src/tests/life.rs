//! Guests that come and go, and the socket that they come to.

use super::driver::Driver;
use super::fake::*;
use super::frontend::*;
use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::Ordering;

fn bind(path: &Path) -> Result<Server, String> {
    Server::bind_handlers(path, Options::new("share"), fake::handlers(&Arc::default())).map_err(|error| error.0)
}

#[test]
fn each_guest_has_a_handler_of_its_own_that_goes_with_it() {
    let host = Host::new();
    for _ in 0..3 {
        let (frontend, mut driver) = Frontend::uml(&host.path);
        assert!(driver.ask(ECHO, b"x").is_some());
        assert_eq!(host.fake.alive.load(Ordering::SeqCst), 1);
        drop(frontend);
        eventually("its handler goes", || host.fake.alive.load(Ordering::SeqCst) == 0);
    }
    assert_eq!(host.server.statistics().connections, 3);
}

#[test]
fn a_guest_that_leaves_in_the_middle_of_a_request() {
    let host = Host::new();
    for opcode in [SLEEP, WAIT, STUCK] {
        host.fake.release(false);
        let before = host.server.statistics().requests;
        let (frontend, mut driver) = Frontend::uml(&host.path);
        driver.request(0, opcode, b"");
        eventually("it is taken", || host.server.statistics().requests > before);
        drop(frontend);
        eventually("its handler goes", || host.fake.alive.load(Ordering::SeqCst) == 0);
        let (_frontend, mut driver) = Frontend::uml(&host.path);
        assert!(driver.ask(ECHO, b"next").is_some());
    }
}

#[test]
fn a_second_guest_waits_for_the_first_to_die() {
    let host = Host::new();
    let (first, _) = Frontend::uml(&host.path);
    let path = host.path.clone();
    let second = thread::spawn(move || {
        let (_frontend, mut driver) = Frontend::uml(&path);
        driver.ask(ECHO, b"second")
    });
    thread::sleep(Duration::from_millis(300));
    assert_eq!(host.server.statistics().connections, 1);
    drop(first);
    assert_eq!(second.join().unwrap().unwrap(), b"second");
}

#[test]
fn a_second_guest_is_turned_away_in_the_end() {
    let host = Host::new();
    let (mut first, mut driver) = Frontend::uml(&host.path);
    let mut second = Frontend::connect(&host.path);
    assert!(second.is_given_up());
    assert!(first.is_served());
    assert!(driver.ask(ECHO, b"undisturbed").is_some());
}

#[test]
fn a_frontend_that_never_stops_talking_can_be_stopped() {
    let host = Host::new();
    // What has no answer can be said without end.
    let mut frontend = Frontend::connect(&host.path);
    frontend.wants_ack = false;
    let talker = thread::spawn(move || {
        let one = [words(&[SET_OWNER, 1, 0])].concat().repeat(256);
        while frontend.send_raw(&one, &[]).is_ok() {}
    });
    eventually("it is served", || host.server.statistics().connections == 1);
    thread::sleep(Duration::from_millis(100));
    let start = Instant::now();
    drop(host);
    assert!(start.elapsed() < Duration::from_secs(5));
    talker.join().unwrap();
}

#[test]
fn a_queue_stops_where_it_says_and_goes_on_there() {
    let host = Host::new();
    let (mut frontend, mut driver) = Frontend::uml(&host.path);
    for _ in 0..5 {
        assert!(driver.ask(ECHO, b"x").is_some());
    }
    let answer = frontend.ask(GET_VRING_BASE, &words(&[1, 0]));
    assert_eq!(answer, words(&[1, 5]));
    driver.request(0, ECHO, b"while stopped");
    thread::sleep(Duration::from_millis(50));
    assert_eq!(driver.poll_used(), None);
    frontend.describe(&driver, 5);
    frontend.start(&driver);
    let (_, len) = driver.wait_used().unwrap();
    assert_eq!(driver.answer(0, len), b"while stopped");
}

#[test]
fn a_driver_that_is_unloaded_and_loaded_again() {
    let host = Host::new();
    let (mut frontend, mut driver) = Frontend::uml(&host.path);
    assert!(driver.ask(ECHO, b"x").is_some());
    for _ in 0..3 {
        for index in [0, 1] {
            frontend.tell(SET_VRING_ENABLE, &words(&[index, 0]));
        }
        frontend.ask_number(GET_FEATURES);
        driver = frontend.start_queues(2, 256, EventKind::Socket).remove(1);
        assert_eq!(driver.ask(ECHO, b"again").unwrap(), b"again");
    }
}

#[test]
fn a_paused_queue_goes_on_where_it_was() {
    let host = Host::new();
    let (mut frontend, mut driver) = Frontend::uml(&host.path);
    assert!(driver.ask(ECHO, b"x").is_some());
    frontend.tell(SET_VRING_ENABLE, &words(&[1, 0]));
    driver.request(0, ECHO, b"paused");
    thread::sleep(Duration::from_millis(50));
    assert_eq!(driver.poll_used(), None);
    frontend.tell(SET_VRING_ENABLE, &words(&[1, 1]));
    assert!(driver.wait_used().is_some());
}

#[test]
fn a_queue_waits_for_memory_that_is_taken_away_for_a_moment() {
    use std::os::fd::AsFd;
    let host = Host::new();
    let mut frontend = Frontend::connect(&host.path);
    frontend.agree(VERSION_1 | PROTOCOL | EVENT_IDX);
    frontend.send_memory_table();
    let mut drivers = frontend.start_queues(3, 256, EventKind::Eventfd);
    let memory = frontend.memory_fd.try_clone().unwrap();
    assert!(drivers[2].ask(ECHO, b"x").is_some());
    // All of it, and back again.
    let region = longs(&[0, 0, MEMORY, 0, 0]);
    frontend.tell(REM_MEM_REG, &region);
    drivers[2].request(0, ECHO, b"patience");
    thread::sleep(Duration::from_millis(50));
    assert_eq!(drivers[2].poll_used(), None);
    assert_eq!(frontend.tell_fds(ADD_MEM_REG, &region, &[memory.as_fd()]).unwrap(), 0);
    assert!(drivers[2].wait_used().is_some());
    // A table with the first two queues alone.
    let table = |size: u64| [words(&[1, 0]), longs(&[0, size, 0, 0])].concat();
    assert_eq!(frontend.tell_fds(SET_MEM_TABLE, &table(0x3_0000), &[memory.as_fd()]).unwrap(), 0);
    assert!(drivers[1].ask(ECHO, b"still in it").is_some());
    drivers[2].request(0, ECHO, b"patience");
    thread::sleep(Duration::from_millis(50));
    assert_eq!(drivers[2].poll_used(), None);
    assert_eq!(frontend.tell_fds(SET_MEM_TABLE, &table(MEMORY), &[memory.as_fd()]).unwrap(), 0);
    assert!(drivers[2].wait_used().is_some());
    for driver in &mut drivers {
        assert!(driver.ask(ECHO, b"all").is_some());
    }
}

#[test]
fn a_reset_device_starts_afresh() {
    let host = Host::new();
    let (mut frontend, mut driver) = Frontend::uml(&host.path);
    driver.request(0, WAIT, b"");
    eventually("it waits", || host.fake.waiting.load(Ordering::SeqCst) == 1);
    frontend.tell(RESET_DEVICE, &[]);
    assert_eq!(host.fake.waiting.load(Ordering::SeqCst), 0);
    let mut driver: Driver = frontend.start_queues(2, 64, EventKind::Eventfd).remove(1);
    assert!(driver.ask(ECHO, b"fresh").is_some());
    assert_eq!(driver.poll_used(), None);
}

fn base_of(frontend: &mut Frontend, driver: &Driver) -> u32 {
    let answer = frontend.ask(GET_VRING_BASE, &words(&[driver.index, 0]));
    u32::from_le_bytes(answer[4..].try_into().unwrap())
}

#[test]
fn a_paused_guest_goes_on_waiting() {
    let host = Host::new();
    let (mut frontend, mut drivers) = Frontend::qemu(&host.path, 3);
    let waiting = |count| eventually("they wait", || host.fake.waiting.load(Ordering::SeqCst) == count);
    for driver in &mut drivers[1..] {
        driver.request(4, LOCK, b"");
    }
    waiting(2);
    assert!(drivers[1].ask(ECHO, b"used before the other").is_some());
    for _ in 0..2 {
        let mut bases = Vec::new();
        for driver in &drivers {
            bases.push(base_of(&mut frontend, driver));
            waiting(3 - bases.len().max(1));
        }
        assert_eq!(bases, [0, 2, 1], "what waits has been taken");
        for (driver, base) in drivers.iter().zip(bases) {
            frontend.describe(driver, base);
            frontend.start(driver);
        }
        waiting(2);
        assert!(drivers.iter_mut().all(|driver| driver.poll_used().is_none()), "answered, and nobody knows what");
    }
    host.fake.free();
    for driver in &mut drivers[1..] {
        assert_eq!(driver.wait_used(), Some((4, 22)));
        assert_eq!(driver.answer(4, 22), b"locked");
        assert_eq!(driver.ask(ECHO, b"on").unwrap(), b"on");
    }
}

#[test]
fn a_guest_that_was_reset_waits_for_nothing() {
    let host = Host::new();
    let (mut frontend, mut drivers) = Frontend::qemu(&host.path, 2);
    drivers[1].request(4, LOCK, b"");
    eventually("it waits", || host.fake.waiting.load(Ordering::SeqCst) == 1);
    for driver in &drivers {
        base_of(&mut frontend, driver);
    }
    // The same places, as its new kernel chooses them, and nothing in them.
    let mut drivers = frontend.start_queues(2, 128, EventKind::Eventfd);
    assert!(drivers[1].ask(ECHO, b"fresh").is_some());
    host.fake.free();
    thread::sleep(Duration::from_millis(100));
    assert_eq!((host.fake.waiting.load(Ordering::SeqCst), drivers[1].poll_used()), (0, None));
}

#[test]
fn an_answer_after_the_queue_is_gone_is_dropped() {
    let host = Host::new();
    let (mut frontend, mut driver) = Frontend::uml(&host.path);
    driver.request(0, STUCK, b"");
    eventually("it waits", || host.server.statistics().later == 1);
    // Waits a second for it, in vain.
    assert_eq!(frontend.ask(GET_VRING_BASE, &words(&[1, 0])), words(&[1, 1]));
    eventually("it is told that nobody wants its answer", || host.fake.undelivered.load(Ordering::SeqCst) == 1);
    assert_eq!(driver.poll_used(), None);
    // Nor is its memory written to: it may be another request's by now.
    assert!((0..4).all(|word| driver.read::<u64>(driver.buffer(128 + word * 8)) == 0));
}

#[test]
fn a_queue_that_moves_answers_first_what_waits() {
    let host = Host::new();
    let (mut frontend, mut driver) = Frontend::uml(&host.path);
    let elsewhere = [words(&[1, 0]), longs(&[0x8_0000, 0x8_4000, 0x8_2000, 0])].concat();
    for (code, payload) in [(SET_VRING_BASE, words(&[1, 0])), (SET_VRING_NUM, words(&[1, 256])), (SET_VRING_ADDR, elsewhere)] {
        driver = Driver::new(&driver.memory, 1, 256, EventKind::Eventfd);
        frontend.describe(&driver, 0);
        frontend.start(&driver);
        host.fake.release(false);
        driver.request(0, WAIT, b"");
        eventually("it waits", || host.fake.waiting.load(Ordering::SeqCst) == 1);
        frontend.tell(code, &payload);
        assert_eq!(host.fake.waiting.load(Ordering::SeqCst), 0, "message {code}");
        let (_, len) = driver.poll_used().expect("an answer");
        assert_eq!(driver.answer(0, len), b"waited");
    }
}

#[test]
fn the_interrupt_may_change_while_it_runs() {
    use std::os::fd::AsFd;
    let host = Host::new();
    let (mut frontend, mut driver) = Frontend::uml(&host.path);
    assert!(driver.ask(ECHO, b"x").is_some());
    let other = event();
    assert_eq!(frontend.tell_fds(SET_VRING_CALL, &longs(&[1]), &[other.as_fd()]).unwrap(), 0);
    // For what the former one may have missed.
    assert!(wait_readable(&other, Duration::from_secs(5)));
    driver.request(0, ECHO, b"x");
    eventually("an interrupt for the answer", || wait_readable(&other, Duration::from_secs(5)) && driver.poll_used().is_some());
    // Bit 8: none at all.
    frontend.tell(SET_VRING_CALL, &longs(&[0x101]));
    driver.request(0, ECHO, b"x");
    eventually("an answer without interrupt", || driver.poll_used().is_some());
}

#[test]
fn an_interrupt_that_went_nowhere_is_made_up_for() {
    use std::os::fd::AsFd;
    let host = Host::new();
    let (mut frontend, mut drivers) = Frontend::qemu(&host.path, 2);
    let driver = &mut drivers[1];
    frontend.tell(SET_VRING_ENABLE, &words(&[1, 0]));
    for head in [0, 2, 4] {
        driver.request(head, ECHO, b"left over");
    }
    // As after a stop of the machine: the queue goes on, and only then there is
    // word of where its interrupts go.
    frontend.tell(SET_VRING_ENABLE, &words(&[1, 1]));
    eventually("they are answered", || host.server.statistics().calls == 1);
    let other = event();
    assert_eq!(frontend.tell_fds(SET_VRING_CALL, &longs(&[1]), &[other.as_fd()]).unwrap(), 0);
    assert!(wait_readable(&other, Duration::from_secs(5)), "the guest sleeps for ever");
    assert!((0..3).all(|_| driver.poll_used().is_some()));
}

#[test]
fn an_interrupt_that_nobody_takes() {
    let host = Host::new();
    let (_frontend, mut driver) = Frontend::uml(&host.path);
    // Nobody reads: the socket's buffer fills up, and the queue goes on.
    driver.set_used_event(0);
    for round in 0..5000_u16 {
        driver.set_used_event(round);
        driver.request(0, ECHO, b"x");
        while driver.poll_used().is_none() {
            thread::yield_now();
        }
    }
    // The other end is closed.
    drop(std::mem::replace(&mut driver.call, event()));
    driver.request(0, ECHO, b"x");
    eventually("an answer", || driver.poll_used().is_some());
}

#[test]
fn the_socket_is_for_its_owner_and_goes_with_the_server() {
    let host = Host::new();
    let path = host.path.clone();
    assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let error = bind(&path).unwrap_err();
    assert!(error.contains("in use by another process") && error.contains("sock"), "{error}");
    drop(host);
    assert!(!path.exists());
}

#[test]
fn a_socket_that_nobody_listens_on_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let server = bind(&path).unwrap();
    // What somebody puts in its place is not ours to remove.
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"mine").unwrap();
    drop(server);
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    let error = bind(&path).unwrap_err();
    assert!(error.contains("no socket"), "{error}");
}

#[test]
fn bad_input_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let long = directory.path().join("x".repeat(100));
    let error = bind(&long).unwrap_err();
    assert!(error.contains("at most 107"), "{error}");
    let error = bind(&directory.path().join("missing/sock")).unwrap_err();
    assert!(error.contains("directory") && error.contains("No such file"), "{error}");
    let path = directory.path().join("sock");
    for tag in ["", "a\0b", &"x".repeat(37)] {
        let error = Server::bind_handlers(&path, Options::new(tag), fake::handlers(&Arc::default())).unwrap_err();
        assert!(error.0.contains("36"), "{error}");
    }
    for request_queues in [0, 65] {
        let options = Options { request_queues, ..Options::new("x") };
        let error = Server::bind_handlers(&path, options, fake::handlers(&Arc::default())).unwrap_err();
        assert!(error.0.contains("64"), "{error}");
    }
    assert!(!path.exists());
}

#[test]
fn the_process_behind_a_guest_counts() {
    // A process that connects, leaves the socket to a child, and dies: what
    // User Mode Linux looks like when it is killed.
    let host = Host::new();
    let script = "import os, socket, sys, time\n\
        s = socket.socket(socket.AF_UNIX)\n\
        s.connect(sys.argv[1])\n\
        if os.fork() == 0:\n\
        \x20   time.sleep(60)\n\
        else:\n\
        \x20   time.sleep(0.3)\n\
        \x20   os._exit(0)\n";
    let mut command = std::process::Command::new("python3");
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = match command.arg("-c").arg(script).arg(&host.path).stdout(std::process::Stdio::null()).spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("SKIPPED: no python3 to play a dying guest: {error}");
            return;
        }
    };
    let group = rustix::process::Pid::from_child(&child);
    eventually("it connects", || host.fake.alive.load(Ordering::SeqCst) == 1);
    let status = child.wait().unwrap();
    let start = Instant::now();
    while host.fake.alive.load(Ordering::SeqCst) != 0 && start.elapsed() < Duration::from_secs(5) {
        thread::sleep(Duration::from_millis(5));
    }
    let alive = host.fake.alive.load(Ordering::SeqCst);
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
    assert!(status.success());
    assert_eq!(alive, 0, "the guest's process is dead, its connection is not");
    let (_frontend, mut driver) = Frontend::uml(&host.path);
    assert!(driver.ask(ECHO, b"next").is_some());
}
