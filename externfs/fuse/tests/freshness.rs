//! What the kernel may remember: attributes of files that are written past it,
//! data that the host changed, listings without attributes.

#![allow(clippy::unwrap_used)] // A test that cannot set its stage ends.

mod support;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, Instant};
use support::{Mounted, can_mount, can_serve, map_and_write};

/// Reads what the host wrote after the file was opened, with everything cached
/// for a day: only a backed file shows it.
fn sees_the_host(serve: &str, len: usize) -> bool {
    let m = Mounted::hostfs("cache=always", serve);
    fs::write(m.path("f"), [b"old".to_vec(), vec![0; len - 3]].concat()).unwrap();
    let file = File::open(m.path("f")).unwrap();
    let mut text = [0; 3];
    file.read_exact_at(&mut text, 0).unwrap();
    OpenOptions::new().write(true).open(m.host.join("f")).unwrap().write_all_at(b"new", 0).unwrap();
    file.read_exact_at(&mut text, 0).unwrap();
    text == *b"new"
}

#[test]
fn passthrough_is_on_when_asked_for_and_off_when_not() {
    if !can_mount() {
        return;
    }
    for transport in ["native", "fuser"] {
        assert!(!sees_the_host(&format!("transport={transport},passthrough=off"), 1 << 20));
        if kernel_has_passthrough() {
            assert!(sees_the_host(&format!("transport={transport},passthrough=on"), 3));
            assert!(sees_the_host(&format!("transport={transport},passthrough=auto"), 1 << 20));
            assert!(!sees_the_host(&format!("transport={transport},passthrough=auto"), 3), "a small file is not worth it");
        }
    }
}

fn kernel_has_passthrough() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (6, 9) {
        eprintln!("SKIPPED: passthrough needs Linux 6.9, this is {release}");
    }
    version >= (6, 9)
}

fn times(path: &std::path::Path) -> (i64, i64, i64, i64) {
    let about = fs::metadata(path).unwrap();
    (about.mtime(), about.mtime_nsec(), about.ctime(), about.ctime_nsec())
}

/// xfstests 080 and 215: a mapped write moves mtime and ctime, although the
/// attributes could be remembered for a day.
#[test]
fn a_mapped_write_shows_in_the_times() {
    if !can_mount() {
        return;
    }
    for serve in ["transport=fuser,passthrough=auto", "transport=native,passthrough=auto", "passthrough=off"] {
        let m = Mounted::hostfs("cache=always", serve);
        fs::write(m.path("f"), vec![0; 8192]).unwrap();
        for round in 0..20 {
            let before = times(&m.path("f"));
            let file = OpenOptions::new().read(true).write(true).open(m.path("f")).unwrap();
            std::thread::sleep(Duration::from_millis(12));
            map_and_write(&file, 5000, b'a' + round);
            let during = times(&m.path("f"));
            assert!(during.0 >= before.0 && during != before, "{serve} {round}: {before:?} {during:?}");
            drop(file);
            assert_eq!(times(&m.path("f")), times(&m.host.join("f")), "{serve} {round}");
        }
        m.end();
    }
}

/// As above for a file that has just been made: its attributes travel with the
/// answer that opens it.
#[test]
fn a_mapped_write_to_a_new_file_shows() {
    if !can_mount() {
        return;
    }
    let ways = ["transport=fuser,passthrough=auto", "transport=native,passthrough=auto", "uring=on,passthrough=auto"];
    for serve in ways.into_iter().filter(|way| can_serve(way)) {
        let m = Mounted::hostfs("cache=always", serve);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(m.path("f")).unwrap();
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 4096).unwrap();
        let before = times(&m.path("f"));
        std::thread::sleep(Duration::from_millis(12));
        map_and_write(&file, 7, b'x');
        assert_ne!(times(&m.path("f")), before, "{serve}");
        drop(file);
        assert_eq!(times(&m.path("f")), times(&m.host.join("f")), "{serve}");
    }
}

/// Open for reading (attributes cached), written by mapping through another
/// open, closed: the times are the host's in the end.
#[test]
fn readers_and_writers_of_one_file_agree() {
    if !can_mount() {
        return;
    }
    ["transport=native", "transport=fuser", "uring=on"].into_iter().filter(|way| can_serve(way)).for_each(readers_and_writers);
}

fn readers_and_writers(serve: &str) {
    let m = Mounted::hostfs("cache=always", serve);
    fs::write(m.path("f"), vec![b'0'; 4096]).unwrap();
    let reader = File::open(m.path("f")).unwrap();
    let writer = OpenOptions::new().read(true).write(true).open(m.path("f")).unwrap();
    let direct = OpenOptions::new().read(true).open(m.path("f")).unwrap();
    writer.write_all_at(b"1", 0).unwrap();
    map_and_write(&writer, 1, b'2');
    let mut text = [0; 3];
    for file in [&reader, &direct, &writer] {
        file.read_exact_at(&mut text, 0).unwrap();
        assert_eq!(&text, b"120");
    }
    drop(writer);
    reader.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"120");
    assert_eq!(times(&m.path("f")), times(&m.host.join("f")));
    fs::write(m.path("f"), "other").unwrap();
    assert_eq!(fs::metadata(m.path("f")).unwrap().len(), 5);
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// With `watch`, and everything remembered for a day, the host's changes show.
#[test]
fn the_hosts_changes_are_noticed() {
    if !can_mount() {
        return;
    }
    let ways = ["transport=native,passthrough=off", "transport=fuser,passthrough=off", "uring=on,passthrough=off"];
    ways.into_iter().filter(|way| can_serve(way)).for_each(host_changes);
}

fn host_changes(serve: &str) {
    let m = Mounted::hostfs("cache=always,watch", serve);
    fs::create_dir(m.path("d")).unwrap();
    fs::write(m.path("d/f"), "old").unwrap();
    let listed = || fs::read_dir(m.path("d")).unwrap().count();
    assert_eq!((fs::read(m.path("d/f")).unwrap(), listed()), (b"old".to_vec(), 1));
    assert!(!m.path("d/g").exists());
    // At once: changes right after our own of the same names are no echoes.
    fs::remove_file(m.host.join("d/f")).unwrap();
    until("a name that we made and the host removed", || !m.path("d/f").exists());
    fs::write(m.path("d/f"), "old").unwrap();
    assert_eq!((fs::read(m.path("d/f")).unwrap(), listed()), (b"old".to_vec(), 1));
    fs::write(m.host.join("d/f"), "newer").unwrap();
    until("contents", || fs::read(m.path("d/f")).unwrap() == b"newer");
    fs::write(m.host.join("d/g"), "").unwrap();
    until("a new name", || m.path("d/g").exists());
    until("a longer listing", || listed() == 2);
    fs::remove_file(m.host.join("d/f")).unwrap();
    until("a name that is gone", || !m.path("d/f").exists());
    until("a shorter listing", || listed() == 1);
    m.end();
}
