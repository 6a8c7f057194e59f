//! What is particular to FUSE over io_uring: waits, panics, threads that are
//! all blocked, ends, and doing without.

#![allow(clippy::unwrap_used)] // A test that cannot set its stage ends.

mod support;

use externfs::helper::plain_attr;
use externfs::*;
use externfs_fuse::{ExitReason, FuseMount, MountOptions, ServeError, ServeOptions, StopHandle, UringChoice};
use rustix::fs::FlockOperation;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use support::{Mounted, can_mount, has_uring};

fn can_ring() -> bool {
    can_mount() && has_uring()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "not within 20 s: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Threads of this process that serve rings.
fn ring_threads() -> usize {
    let names = fs::read_dir("/proc/self/task").unwrap().filter_map(|task| fs::read(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with(b"fuse-ring-") && !name.starts_with(b"fuse-ring-f")).count()
}

/// `flock` on the first processor. A process of its own, so that it does not
/// outlive the server that it waits for.
fn flock(path: &Path, command: &str) -> Child {
    let mut flock = Command::new("taskset");
    flock.args(["-c", "0", "flock", "-x"]).arg(path).args(["-c", command]);
    flock.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// On one processor, all in one queue: more waits than it has threads, and
/// the holder lets go through the same queue.
#[test]
fn waiting_locks_leave_room_for_the_holder() {
    if !can_ring() {
        return;
    }
    let m = Mounted::hostfs("locks=host", "uring=on");
    let path = m.path("f");
    fs::write(&path, "").unwrap();
    for round in 0..3 {
        let mut holder = flock(&path, "echo held; read end");
        holder.stdout.as_mut().unwrap().read_exact(&mut [0; 4]).unwrap();
        let mut others: Vec<_> = (0..24).map(|_| flock(&path, "true")).collect();
        thread::sleep(Duration::from_millis(if round == 0 { 500 } else { round * 20 }));
        holder.stdin.take();
        until("all have had the lock", || others.iter_mut().all(|other| other.try_wait().unwrap().is_some()));
        assert!(holder.wait().unwrap().code().is_some());
    }
    assert_eq!(m.end(), ExitReason::Stopped);
}

#[test]
fn a_waiting_lock_is_interrupted_and_ends_with_the_mount() {
    if !can_ring() {
        return;
    }
    let m = Mounted::hostfs("locks=host", "uring=on");
    fs::write(m.path("f"), "").unwrap();
    let held = File::open(m.host.join("f")).unwrap();
    rustix::fs::flock(&held, FlockOperation::LockExclusive).unwrap();
    let (mut interrupted, mut left) = (flock(&m.path("f"), "true"), flock(&m.path("f"), "true"));
    thread::sleep(Duration::from_millis(200));
    interrupted.kill().unwrap();
    until("the wait is over", || interrupted.try_wait().unwrap().is_some());
    assert!(left.try_wait().unwrap().is_none(), "the other one waits on");
    // Stopping detaches; the session ends with the last user.
    m.stop.stop();
    left.kill().unwrap();
    until("the other wait is over too", || left.try_wait().unwrap().is_some());
    let export = m.export.clone();
    m.join();
    until("the session ends", || export.upgrade().is_none());
}

/// Files `0` to `9`; looking at `panic` panics, and at `b...` blocks until the
/// gate opens.
#[derive(Clone, Default)]
struct Odd {
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl ExternFs for Odd {
    type Node = u64;
    type File = ();
    type Dir = ();

    fn root(&self) -> Result<u64> {
        Ok(1)
    }
    fn key(&self, node: &u64) -> NodeKey {
        NodeKey { volume: 0, number: *node, generation: 0 }
    }
    fn attr(&self, node: &u64, _: Option<&()>) -> Result<Attr> {
        let kind = if *node == 1 { FileKind::Directory } else { FileKind::Regular };
        Ok(plain_attr(*node, kind, 0o755, 7))
    }
    fn lookup(&self, _: &u64, name: Name<'_>) -> Result<(u64, Attr)> {
        match name.as_bytes() {
            b"panic" => panic!("as it was asked to"),
            [b'b', ..] => {
                let open = self.gate.0.lock().unwrap();
                drop(self.gate.1.wait_while(open, |open| !*open).unwrap());
                Err(Errno::ENOENT.into())
            }
            [digit @ b'0'..=b'9'] => Ok((u64::from(*digit), self.attr(&u64::from(*digit), None)?)),
            _ => Err(Errno::ENOENT.into()),
        }
    }
    fn open_dir(&self, _: &u64) -> Result<()> {
        Ok(())
    }
    fn read_dir(&self, _: &(), _: u64, _: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        Ok(())
    }
    fn open(&self, _: &Caller, _: &u64, _: OpenFlags) -> Result<Opened<()>> {
        Err(Errno::EACCES.into())
    }
    fn read(&self, _: &(), _: u64, _: usize, _: &mut dyn DataSink) -> Result<usize> {
        Ok(0)
    }
    fn cache_policy(&self) -> CachePolicy {
        CachePolicy::NONE
    }
}

#[test]
fn a_panic_costs_one_request() {
    if !can_ring() {
        return;
    }
    for serve in ["uring=on", "uring=on,threads=1"] {
        let m = Mounted::with(serve, |_| Bridge::new(Odd::default(), BridgeOptions::default()).unwrap());
        for _ in 0..20 {
            assert_eq!(fs::metadata(m.path("panic")).unwrap_err().raw_os_error(), Some(libc::EIO));
            assert_eq!(fs::metadata(m.path("3")).unwrap().ino(), u64::from(b'3'));
        }
        assert_eq!(m.end(), ExitReason::Stopped);
    }
}

/// More requests block than a queue has threads at first: others are called,
/// and what came in between is not forgotten.
#[test]
fn blocked_threads_are_replaced() {
    if !can_ring() {
        return;
    }
    let odd = Odd::default();
    let bridge = odd.clone();
    let m = Mounted::with("uring=on", move |_| Bridge::new(bridge, BridgeOptions::default()).unwrap());
    let mut one = rustix::thread::CpuSet::new();
    one.set(0);
    // The kernel has a regular file.
    let known = fs::metadata(m.path("1")).unwrap();
    assert!(File::open(m.path("1")).is_err() && known.is_file());
    thread::scope(|scope| {
        for number in 0..6 {
            let (m, one) = (&m, &one);
            scope.spawn(move || {
                rustix::thread::sched_setaffinity(None, one).unwrap();
                assert!(fs::metadata(m.path(&format!("b{number}"))).is_err());
            });
        }
        let look = scope.spawn(|| {
            rustix::thread::sched_setaffinity(None, &one).unwrap();
            (b'0'..=b'9').all(|digit| fs::metadata(m.path(&char::from(digit).to_string())).unwrap().ino() == u64::from(digit))
        });
        let start = Instant::now();
        while !look.is_finished() && start.elapsed() < Duration::from_secs(20) {
            thread::sleep(Duration::from_millis(10));
        }
        let is_served = look.is_finished();
        // Before anything is asserted, or this test would wait for itself.
        *odd.gate.0.lock().unwrap() = true;
        odd.gate.1.notify_all();
        assert!(is_served && look.join().unwrap());
    });
    assert_eq!(m.end(), ExitReason::Stopped);
}

/// Runs the test `name` of this program where it cannot make so many
/// descriptors: far too few, and each number at which the rings alone might fit.
fn alone_with_few_descriptors(name: &str) -> bool {
    if std::env::var_os("FEW_DESCRIPTORS").is_some() {
        return true;
    }
    for limit in 18..36 {
        let limited = format!("ulimit -n {limit}; exec '{}' --exact {name} --nocapture", std::env::current_exe().unwrap().display());
        let status = Command::new("sh").args(["-c", &limited]).env("FEW_DESCRIPTORS", "1").status().unwrap();
        assert!(status.success(), "ulimit -n {limit}");
    }
    false
}

#[test]
fn without_rings_dev_fuse_serves() {
    if !can_ring() || !alone_with_few_descriptors("without_rings_dev_fuse_serves") {
        return;
    }
    let m = Mounted::hostfs("exclusive", "uring=auto,threads=2");
    fs::write(m.path("f"), "x").unwrap();
    assert_eq!(fs::read(m.host.join("f")).unwrap(), b"x");
    assert_eq!(ring_threads(), 0);
    assert_eq!(m.end(), ExitReason::Stopped);
}

fn refusal(serve: &ServeOptions) -> String {
    let place = tempfile::tempdir().unwrap();
    let export = support::lines().connect().unwrap();
    let mount = FuseMount::mount("x".as_ref(), place.path(), &MountOptions::default()).unwrap();
    match mount.serve(export, serve, &StopHandle::new(), || panic!("it is served")) {
        Err(ServeError::Refused(line)) => line,
        other => panic!("{other:?}"),
    }
}

#[test]
fn rings_that_cannot_be_had_are_refused() {
    if !can_ring() || !alone_with_few_descriptors("rings_that_cannot_be_had_are_refused") {
        return;
    }
    let on = ServeOptions { uring: UringChoice::On, ..ServeOptions::default() };
    let line = refusal(&on);
    assert!(line.contains("uring=on") && line.contains("fuse/parameters/enable_uring") && !line.contains('\n'), "{line}");
    let line = refusal(&ServeOptions { transport: externfs_fuse::Transport::Fuser, ..on });
    assert!(line.contains("transport=fuser"), "{line}");
}

/// With `auto` a plugin that keeps locks is left to /dev/fuse, where any number may
/// wait, and so is a tree that others may change: there requests have an order.
#[test]
fn auto_takes_rings_where_that_costs_nothing() {
    if !can_ring() || std::env::var_os("FEW_DESCRIPTORS").is_some() {
        return;
    }
    let name = "auto_takes_rings_where_that_costs_nothing";
    // Alone, so that no other test's threads are counted.
    if std::env::var_os("ALONE").is_none() {
        let mut child = Command::new(std::env::current_exe().unwrap());
        assert!(child.args(["--exact", name, "--nocapture"]).env("ALONE", "1").status().unwrap().success());
        return;
    }
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    for (plugin, has_rings) in [("exclusive", true), ("", false), ("exclusive,locks=host", false)] {
        let m = Mounted::hostfs(plugin, "uring=auto");
        fs::write(m.path("f"), "x").unwrap();
        assert_eq!(ring_threads() > 0, has_rings, "{plugin}");
        assert_eq!(m.end(), ExitReason::Stopped);
        assert_eq!((ring_threads(), descriptors()), (0, before), "{plugin}");
    }
}
