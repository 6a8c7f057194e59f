//! How large the requests are that the kernel makes of large reads and writes.

#![allow(clippy::unwrap_used)] // A test that cannot set its stage ends.

mod support;

use externfs::helper::{list, plain_attr};
use externfs::*;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use support::{Mounted, can_mount, can_serve};

const SIZE: u64 = 16 << 20;

#[derive(Default)]
struct Largest {
    read: AtomicUsize,
    written: AtomicUsize,
    flushes: AtomicUsize,
    callers: Mutex<Vec<Caller>>,
}

/// A directory with one file `f`, which notes how it is used.
struct Noting(Arc<Largest>, FileCache);

impl ExternFs for Noting {
    type Node = bool;
    type File = ();
    type Dir = ();

    fn root(&self) -> Result<bool> {
        Ok(false)
    }
    fn key(&self, is_file: &bool) -> NodeKey {
        NodeKey { volume: 0, number: 1 + u64::from(*is_file), generation: 0 }
    }
    fn attr(&self, is_file: &bool, _: Option<&()>) -> Result<Attr> {
        Ok(match is_file {
            true => plain_attr(2, FileKind::Regular, 0o666, SIZE),
            false => plain_attr(1, FileKind::Directory, 0o777, 0),
        })
    }
    fn lookup(&self, _: &bool, name: Name<'_>) -> Result<(bool, Attr)> {
        if name.as_bytes() == b"f" { Ok((true, self.attr(&true, None)?)) } else { Err(Errno::ENOENT.into()) }
    }
    fn open_dir(&self, _: &bool) -> Result<()> {
        Ok(())
    }
    fn read_dir(&self, _: &(), cookie: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        list([(&b"f"[..], 2, FileKind::Regular)], cookie, emit);
        Ok(())
    }
    fn open(&self, caller: &Caller, _: &bool, _: OpenFlags) -> Result<Opened<()>> {
        self.0.callers.lock().unwrap().push(caller.clone());
        Ok(Opened { file: (), cache: self.1, size: 0 })
    }
    fn read(&self, _: &(), _: u64, size: usize, sink: &mut dyn DataSink) -> Result<usize> {
        self.0.read.fetch_max(size, Ordering::Relaxed);
        sink.put(&vec![0; size])?;
        Ok(size)
    }
    fn write(&self, _: &(), _: u64, source: &mut dyn DataSource, _: WriteFlags) -> Result<usize> {
        self.0.written.fetch_max(source.remaining(), Ordering::Relaxed);
        Ok(source.remaining())
    }
    fn flush(&self, _: &()) -> Result<()> {
        self.0.flushes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn run(cache: FileCache, serve: &str) -> Arc<Largest> {
    let largest = Arc::new(Largest::default());
    let fs = Noting(largest.clone(), cache);
    let mounted = Mounted::with(serve, |_| Bridge::new(fs, BridgeOptions::default()).unwrap());
    let file = OpenOptions::new().read(true).open(mounted.path("f")).unwrap();
    file.read_exact_at(&mut vec![1; SIZE as usize], 0).unwrap();
    drop(file);
    let flushes = largest.flushes.swap(0, Ordering::Relaxed);
    assert!(flushes == 0 || serve.contains("native,flush_on_close"), "{serve}: {flushes} FLUSH for a file that was only read");
    let file = OpenOptions::new().write(true).open(mounted.path("f")).unwrap();
    file.write_all_at(&vec![1; SIZE as usize], 0).unwrap();
    drop(file);
    assert_eq!(largest.flushes.load(Ordering::Relaxed), usize::from(serve.contains("flush_on_close")));
    mounted.end();
    // The kernel gives the thread's number.
    let thread = rustix::thread::gettid().as_raw_pid() as u32;
    let callers = largest.callers.lock().unwrap().clone();
    assert!(callers.iter().all(|caller| caller.pid == thread && caller.uid == GuestUid(0)), "{callers:?}");
    largest
}

#[test]
fn transfers_are_a_mebibyte() {
    if !can_mount() {
        return;
    }
    let ways = ["transport=native", "transport=fuser", "transport=native,flush_on_close", "transport=fuser,flush_on_close", "uring=on"];
    for serve in ways.into_iter().filter(|way| can_serve(way)) {
        for cache in [FileCache::Bypass, FileCache::Keep] {
            let largest = run(cache, serve);
            assert_eq!(largest.read.load(Ordering::Relaxed), 1 << 20, "{serve} {cache:?}");
            assert_eq!(largest.written.load(Ordering::Relaxed), 1 << 20, "{serve} {cache:?}");
        }
    }
}
