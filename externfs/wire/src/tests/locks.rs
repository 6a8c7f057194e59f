//! Waiting for a lock, and being stopped.

use super::fake::Fake;
use super::*;
use crate::Later;
use std::time::{Duration, Instant};

fn lock_args(kind: i32, flags: u32) -> Bytes {
    Bytes::new().u64(3).u64(9).u64(10).u64(i64::MAX as u64).u32(kind as u32).u32(11).u32(flags).u32(0)
}

fn taken() -> Kernel {
    Kernel::with(Fake { lock_taken: true, ..Fake::default() }, OFFERED_7_45)
}

fn must_wait(kernel: &Kernel) -> Later {
    match kernel.send(&request(Opcode::SetLkW, NODE, &lock_args(libc::F_WRLCK, 0))).0 {
        Outcome::Later(later) => later,
        _ => panic!("it was to wait"),
    }
}

/// Runs what waits on a thread of its own and gives its answer.
fn run(later: Later) -> std::thread::JoinHandle<Vec<Answered>> {
    std::thread::spawn(move || {
        let sent = Sent::default();
        later(&mut recording_reply(&sent, 4096));
        let sent = sent.lock().unwrap();
        sent.clone()
    })
}

fn until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "it never happened");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_free_lock_is_taken_at_once() {
    let kernel = Kernel::new();
    for (opcode, kind, flags, call) in [
        (Opcode::SetLk, libc::F_RDLCK, 0, "set_lock HandleId(3) Posix Read try"),
        (Opcode::SetLkW, libc::F_WRLCK, 1, "set_lock HandleId(3) Flock Write try"),
        (Opcode::SetLk, libc::F_UNLCK, 0, "set_lock HandleId(3) Posix Unlock try"),
    ] {
        let (answer, said) = kernel.one(opcode, &lock_args(kind, flags));
        assert_eq!((answer.errno, answer.payload.len(), said.as_str()), (0, 0, call));
    }
}

#[test]
fn who_does_not_wait_is_told() {
    let kernel = taken();
    assert_eq!(kernel.call(Opcode::SetLk, NODE, &lock_args(libc::F_WRLCK, 0)).errno, libc::EAGAIN);
    let answer = kernel.call(Opcode::GetLk, NODE, &lock_args(libc::F_RDLCK, 0));
    assert_eq!((answer.u64(0), answer.u64(8), answer.u32(16) as i32, answer.u32(20)), (5, i64::MAX as u64, libc::F_WRLCK, 77));
    let answer = Kernel::new().call(Opcode::GetLk, NODE, &lock_args(libc::F_RDLCK, 0));
    assert_eq!((answer.u32(16) as i32, answer.payload.len()), (libc::F_UNLCK, 24));
    assert_eq!(Kernel::new().call(Opcode::SetLk, NODE, &lock_args(9, 0)).errno, libc::EINVAL);
}

#[test]
fn an_interrupt_ends_a_wait() {
    let kernel = taken();
    let waiting = run(must_wait(&kernel));
    until(|| kernel.calls().iter().any(|call| call.ends_with("wait")));
    kernel.silent(Opcode::Interrupt, 0, &Bytes::new().u64(UNIQUE + 1));
    assert_eq!(kernel.session.waiting(), 1, "another request's");
    kernel.silent(Opcode::Interrupt, 0, &Bytes::new().u64(UNIQUE));
    let answers = waiting.join().unwrap();
    assert_eq!(answers, [Answered { errno: libc::EINTR, unique: UNIQUE, payload: Vec::new() }]);
    assert_eq!(kernel.session.waiting(), 0);
}

#[test]
fn what_no_signal_has_ended_is_not_answered() {
    let kernel = taken();
    let waiting = [run(must_wait(&kernel)), run(must_wait(&kernel))];
    let unstarted = must_wait(&kernel);
    kernel.session.interrupt_all();
    for waiting in waiting {
        assert_eq!(waiting.join().unwrap(), []);
    }
    assert_eq!(run(unstarted).join().unwrap(), []);
    // Handed in once more, it waits as before, and a signal ends it as before.
    let again = run(must_wait(&kernel));
    assert_eq!(kernel.session.waiting(), 1);
    kernel.silent(Opcode::Interrupt, 0, &Bytes::new().u64(UNIQUE));
    kernel.session.interrupt_all();
    assert_eq!(again.join().unwrap()[0].errno, libc::EINTR);
}

#[test]
fn an_interrupt_may_come_first() {
    let kernel = taken();
    kernel.silent(Opcode::Interrupt, 0, &Bytes::new().u64(UNIQUE));
    assert_eq!(kernel.call(Opcode::SetLkW, NODE, &lock_args(libc::F_WRLCK, 0)).errno, libc::EINTR);
    drop(must_wait(&kernel));
    assert_eq!(kernel.session.waiting(), 0, "a wait that its transport drops is over");
}

#[test]
fn a_reboot_and_the_end_of_the_session_end_every_wait() {
    let kernel = taken();
    let waiting = run(must_wait(&kernel));
    assert_eq!(kernel.call(Opcode::Init, 0, &init_args(45, OFFERED_7_45)).errno, 0);
    assert_eq!(waiting.join().unwrap()[0].errno, libc::EINTR);

    let (waiting, unstarted) = (run(must_wait(&kernel)), must_wait(&kernel));
    drop(kernel.session);
    assert_eq!(waiting.join().unwrap()[0].errno, libc::EINTR);
    assert_eq!(run(unstarted).join().unwrap()[0].errno, libc::EINTR);
}

#[test]
fn a_lock_whose_owner_never_hears_of_it_is_released() {
    // Without names the fake grants the lock to who waits.
    let kernel = Kernel::with(Fake { lock_taken: true, names: Vec::new(), ..Fake::default() }, OFFERED_7_45);
    assert_eq!(run(must_wait(&kernel)).join().unwrap()[0].errno, 0);
    assert_eq!(*kernel.fake.locks.lock().unwrap(), 1);
    must_wait(&kernel)(&mut VecReply::new(4096, |_: &[u8]| Err(std::io::Error::from_raw_os_error(libc::ENODEV))));
    assert_eq!(*kernel.fake.locks.lock().unwrap(), 1);
}
