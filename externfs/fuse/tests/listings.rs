//! Listings of names that cannot be looked up, and of names without a type.

#![allow(clippy::unwrap_used)] // A test that cannot set its stage ends.

mod support;

use externfs::helper::plain_attr;
use externfs::*;
use std::fs;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::time::Duration;
use support::{Mounted, can_mount, can_serve};

const NAMES: [&str; 6] = ["a", "b", "closed", "d", "secret", "untyped"];

/// A directory of [`NAMES`]; `closed` and `secret` are listed but cannot be
/// looked up, and the type of `untyped` is not told. `a` and `closed` are one
/// object.
///
/// With `plus` attributes may be remembered, so that the kernel asks for them
/// with the listing.
struct Closed {
    plus: bool,
}

fn number(name: &str) -> u64 {
    if name == "closed" { number("a") } else { 100 + u64::from(name.as_bytes()[0]) }
}

impl ExternFs for Closed {
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
        let name = NAMES.iter().find(|known| known.as_bytes() == name.as_bytes()).ok_or(Errno::ENOENT)?;
        if matches!(*name, "closed" | "secret") {
            return Err(Errno::EACCES.into());
        }
        Ok((number(name), self.attr(&number(name), None)?))
    }
    fn open_dir(&self, _: &u64) -> Result<()> {
        Ok(())
    }
    fn read_dir(&self, _: &(), cookie: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        for (name, next) in NAMES.iter().zip(1u64..).skip(cookie as usize) {
            let kind = (*name != "untyped").then_some(FileKind::Regular);
            if !emit(&DirEntry { name: name.as_bytes(), ino: number(name), kind, next }) {
                return Ok(());
            }
        }
        Ok(())
    }
    fn open(&self, _: &Caller, _: &u64, _: OpenFlags) -> Result<Opened<()>> {
        Err(Errno::EACCES.into())
    }
    fn read(&self, _: &(), _: u64, _: usize, _: &mut dyn DataSink) -> Result<usize> {
        Ok(0)
    }
    fn cache_policy(&self) -> CachePolicy {
        let long = if self.plus { Duration::from_secs(1000) } else { Duration::ZERO };
        CachePolicy { attr: long, entry: long, ..CachePolicy::NONE }
    }
}

#[test]
fn names_that_cannot_be_looked_up_are_listed_and_cost_nobody_a_lookup() {
    if !can_mount() {
        return;
    }
    let ways = ["transport=fuser", "transport=native", "uring=on"];
    for (serve, plus) in ways.into_iter().filter(|way| can_serve(way)).flat_map(|way| [(way, true), (way, false)]) {
        let mounted = Mounted::with(serve, |_| Bridge::new(Closed { plus }, BridgeOptions::default()).unwrap());
        for round in 0..4 {
            let mut entries: Vec<_> = fs::read_dir(&mounted.point).unwrap().map(std::result::Result::unwrap).collect();
            entries.sort_by_key(fs::DirEntry::file_name);
            let names: Vec<_> = entries.iter().map(|entry| entry.file_name().into_string().unwrap()).collect();
            assert_eq!(names, NAMES, "{serve} {plus} {round}");
            for entry in &entries {
                assert_eq!(entry.ino(), number(entry.file_name().to_str().unwrap()));
                assert!(entry.file_type().unwrap().is_file());
            }
            // The phantom's FORGET of `closed` must not have taken `a` away.
            assert_eq!(fs::metadata(mounted.path("a")).unwrap().ino(), number("a"));
            assert_eq!(fs::metadata(mounted.path("secret")).unwrap_err().raw_os_error(), Some(libc::EACCES));
            assert!(mounted.holds().0 >= 2, "{serve} {plus} {round}: {:?}", mounted.holds());
        }
        for _ in 0..50 {
            fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
            if mounted.holds() == (1, 0) {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(mounted.holds(), (1, 0), "{serve} {plus}");
        mounted.end();
    }
}
