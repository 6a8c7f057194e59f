//! Who reads a file while another appends to it sees what was written and
//! nothing else: no zeros where a page was read in meanwhile.

#![allow(clippy::unwrap_used)] // A test that cannot set its stage ends.

mod support;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use support::{Mounted, can_mount, can_serve};

const PIECE: usize = 100;
const PIECES: usize = 400;

/// Never zero: that is what a page has past the end of its file.
fn byte(at: usize) -> u8 {
    (at % 251) as u8 + 1
}

/// The length up to the end that `file` has.
fn check(file: &File, how: &str) -> usize {
    let mut bytes = vec![0; PIECE * PIECES + 1];
    let len = file.read_at(&mut bytes, 0).unwrap();
    let wrong = bytes[..len].iter().enumerate().find(|(at, got)| **got != byte(*at));
    assert!(wrong.is_none(), "{how}: {wrong:?} of {len} bytes");
    len
}

/// Appends piece by piece while others read, by a file that stays open and by
/// one that is opened each time. Whose file is open first matters.
fn append_beside_readers(path: &Path, writer_first: bool) {
    let begin = || OpenOptions::new().append(true).create(true).open(path).unwrap();
    drop(begin());
    let (mut writer, reader) = if writer_first {
        (begin(), File::open(path).unwrap())
    } else {
        let reader = File::open(path).unwrap();
        (begin(), reader)
    };
    let done = AtomicBool::new(false);
    let until_done = |look: &dyn Fn() -> usize| {
        while !done.load(Ordering::SeqCst) {
            look();
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| until_done(&|| check(&reader, "kept open")));
        scope.spawn(|| until_done(&|| check(&File::open(path).unwrap(), "opened anew")));
        for piece in 0..PIECES {
            let bytes: Vec<u8> = (piece * PIECE..(piece + 1) * PIECE).map(byte).collect();
            writer.write_all(&bytes).unwrap();
        }
        done.store(true, Ordering::SeqCst);
    });
    drop(writer);
    assert_eq!(check(&reader, "kept open until the end"), PIECE * PIECES);
    assert_eq!(check(&File::open(path).unwrap(), "opened afterwards"), PIECE * PIECES);
}

/// Not over io_uring where others may change the tree: there the kernel drops
/// pages as their times move, while a write of them may wait in another
/// processor's queue.
const WAYS: [(&str, &str); 4] = [
    ("cache=always", "passthrough=off"),
    ("cache=always", "passthrough=off,uring=on"),
    ("cache=auto", "passthrough=off"),
    ("cache=auto", "passthrough=auto"),
];

#[test]
fn readers_see_what_is_appended() {
    if !can_mount() {
        return;
    }
    for (plugin, serve) in WAYS.into_iter().filter(|(_, serve)| can_serve(serve)) {
        let m = Mounted::hostfs(plugin, serve);
        let start = Instant::now();
        let mut round = 0;
        while start.elapsed() < Duration::from_secs(1) {
            append_beside_readers(&m.path(&format!("f{round}")), round % 2 == 0);
            round += 1;
        }
        eprintln!("{plugin},{serve}: {round} files");
        m.end();
    }
}
