//! Advisory locks: kept by the kernel unless asked otherwise, seen by host
//! processes with `locks=host`, and never a wait that cannot be ended.

use externfs_tests::fixture::{self, Mount, Process, need_program};
use externfs_tests::harness;
use rustix::fs::{FlockOperation, fcntl_lock, flock};
use rustix::io::Errno;
use rustix::process::Signal;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

fn main() -> std::process::ExitCode {
    harness::main(externfs_tests::cases![
        processes_exclude_each_other,
        local_locks_are_not_the_hosts,
        host_locks_are_seen_on_both_sides,
        a_wait_ends_when_the_lock_is_free,
        a_wait_ends_with_a_signal,
        a_dead_holder_holds_nothing,
    ])
}

fn scene(options: &str) -> (TempDir, Mount) {
    fixture::need_root();
    let source = fixture::temp_dir();
    std::fs::write(source.path().join("f"), "x").unwrap();
    let mount = Mount::new(source.path(), options);
    (source, mount)
}

fn open(dir: &Path) -> File {
    File::options().read(true).write(true).open(dir.join("f")).unwrap()
}

/// Another process that holds a flock until it is killed.
fn holder(dir: &Path) -> Process {
    let mut command = Command::new(need_program("flock", "util-linux"));
    command.arg("--exclusive").arg(dir.join("f")).args(["sh", "-c", "echo LOCKED; exec sleep 60"]);
    let mut process = Process::start(&mut command);
    let log = |process: &Process| process.log().contains("LOCKED");
    for _ in 0..500 {
        if log(&process) {
            return process;
        }
        assert!(!process.has_ended(), "{}", process.log());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("the holder does not get the lock");
}

/// flock(1) forks: its child holds the descriptor too.
fn kill(process: Process) {
    let children = fixture::succeed(Command::new("sh").args(["-c", &format!("cat /proc/{0}/task/{0}/children", process.id())]));
    for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()).filter_map(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(child, Signal::KILL);
    }
    drop(process);
}

fn processes_exclude_each_other() {
    for options in ["locks=local", "locks=host"] {
        let (_source, mount) = scene(options);
        let file = open(mount.path());
        let other = holder(mount.path());
        assert_eq!(flock(&file, FlockOperation::NonBlockingLockExclusive), Err(Errno::WOULDBLOCK), "{options}");
        assert_eq!(flock(&file, FlockOperation::NonBlockingLockShared), Err(Errno::WOULDBLOCK), "{options}");
        // The other family is another matter.
        fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).unwrap_or_else(|e| panic!("{options}: {e}"));
        kill(other);
        drop(file);
        mount.finish();
    }
}

fn local_locks_are_not_the_hosts() {
    let (source, mount) = scene("");
    let (inside, outside) = (open(mount.path()), open(source.path()));
    flock(&inside, FlockOperation::NonBlockingLockExclusive).unwrap();
    flock(&outside, FlockOperation::NonBlockingLockExclusive).expect("the host does not see it");
    drop((inside, outside));
    mount.finish();
}

fn host_locks_are_seen_on_both_sides() {
    let (source, mount) = scene("locks=host");
    let (inside, outside) = (open(mount.path()), open(source.path()));
    type Lock = fn(&File, FlockOperation) -> rustix::io::Result<()>;
    let families: [(&str, Lock); 2] = [("flock", |f, how| flock(f, how)), ("fcntl", |f, how| fcntl_lock(f, how))];
    for (family, lock) in families {
        for (holder, other, side) in [(&inside, &outside, "the host"), (&outside, &inside, "the mount")] {
            lock(holder, FlockOperation::NonBlockingLockExclusive).unwrap_or_else(|e| panic!("{family}: {e}"));
            let refused = lock(other, FlockOperation::NonBlockingLockExclusive);
            assert!(matches!(refused, Err(Errno::AGAIN | Errno::ACCESS)), "{family}: {side} does not see the lock: {refused:?}");
            lock(holder, FlockOperation::NonBlockingUnlock).unwrap_or_else(|e| panic!("{family}: {e}"));
            lock(other, FlockOperation::NonBlockingLockShared).unwrap_or_else(|e| panic!("{family}: {side} does not see the unlock: {e}"));
            lock(holder, FlockOperation::NonBlockingLockShared)
                .unwrap_or_else(|e| panic!("{family}: shared locks exclude each other: {e}"));
            lock(other, FlockOperation::NonBlockingUnlock).unwrap();
            lock(holder, FlockOperation::NonBlockingUnlock).unwrap();
        }
        // Closing releases.
        let closing = open(mount.path());
        lock(&closing, FlockOperation::NonBlockingLockExclusive).unwrap();
        drop(closing);
        fixture::wait_for("a closed file's lock goes", || lock(&outside, FlockOperation::NonBlockingLockExclusive).is_ok());
        lock(&outside, FlockOperation::NonBlockingUnlock).unwrap();
    }
    drop((inside, outside));
    mount.finish();
}

fn a_wait_ends_when_the_lock_is_free() {
    for options in ["locks=local", "locks=host"] {
        let (_source, mount) = scene(options);
        let other = holder(mount.path());
        let path = mount.path().to_path_buf();
        let waiter = std::thread::spawn(move || {
            let file = open(&path);
            flock(&file, FlockOperation::LockExclusive)
        });
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert!(!waiter.is_finished(), "{options}: the lock was given to two");
        // The mount goes on serving others while one waits.
        assert_eq!(std::fs::read_to_string(mount.path().join("f")).unwrap(), "x");
        kill(other);
        fixture::wait_for("the waiter gets the lock", || waiter.is_finished());
        waiter.join().unwrap().unwrap();
        mount.finish();
    }
}

fn a_wait_ends_with_a_signal() {
    for options in ["locks=local", "locks=host"] {
        let (_source, mount) = scene(options);
        let other = holder(mount.path());
        let mut command = Command::new("flock");
        command.arg("--exclusive").arg(mount.path().join("f")).arg("true");
        let mut waiter = Process::start(&mut command);
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(!waiter.has_ended(), "{options}: the lock was given to two");
        waiter.signal(Signal::TERM);
        waiter.wait(5);
        kill(other);
        // And nothing is left of the wait: the lock is to be had.
        let file = open(mount.path());
        fixture::wait_for("the lock is free", || flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok());
        drop(file);
        mount.finish();
    }
}

fn a_dead_holder_holds_nothing() {
    let (source, mount) = scene("locks=host");
    kill(holder(mount.path()));
    let outside = open(source.path());
    fixture::wait_for("a dead process's lock goes", || flock(&outside, FlockOperation::NonBlockingLockExclusive).is_ok());
    drop(outside);
    mount.finish();
}
