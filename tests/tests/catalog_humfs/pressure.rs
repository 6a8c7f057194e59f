//! Changes while the tree is scanned for the first time, a reader who does not
//! end, a host without room.

use crate::compare;
use crate::load;
use externfs_catalog::barrier::Standing;
use externfs_tests::fixture::{temp_dir, wait_for};
use externfs_tests::humtree::{HumTree, TOTAL};
use externfs_tests::{cases, ordinary, random};
use humfs::store::Format;
use rusqlite::Connection;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Directories at the top of the tree that is scanned, directories in each.
const WIDTHS: (usize, usize) = (20, 15);

/// Files in each of these: up to 30,000 in all, by `EXTERNFS_TEST_CASES`.
fn files() -> usize {
    cases(12).min(100) as usize
}

/// Bytes that the log of a catalog never has.
const LOG_MOST: u64 = 64 << 20;

/// Files that are changed beside a reader who does not end, four times each: up
/// to 200,000 changes, by `EXTERNFS_TEST_CASES`.
fn many() -> usize {
    cases(15_000).min(50_000) as usize
}

/// In each name, so that the rows take room.
const PADDING: usize = 180;

/// Longer than the scan takes, whatever moves meanwhile.
const SCAN_TIME: Duration = Duration::from_secs(60);

/// Longer than any change may take meanwhile.
const LONG: Duration = Duration::from_secs(5);

fn build(root: &Path) {
    for outer in 0..WIDTHS.0 {
        for inner in 0..WIDTHS.1 {
            let dir = root.join(format!("t{outer}/s{inner}"));
            fs::create_dir_all(&dir).expect("mkdir");
            for file in 0..files() {
                fs::File::create(dir.join(format!("f{file}"))).expect("a file");
            }
        }
    }
}

/// Moves directories from what may have been scanned to what has not been, and
/// back; removes some of these, makes others under old names.
fn stir(mount: &Path, is_scanned: &AtomicBool) -> usize {
    let mut rounds = 0;
    let mut random = random::seed();
    let mut below = |bound: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % bound
    };
    while !is_scanned.load(Ordering::Acquire) || rounds < 50 {
        let (one, other, inner) = (below(WIDTHS.0), below(WIDTHS.0), below(WIDTHS.1));
        let at = |outer: usize, name: String| mount.join(format!("t{outer}")).join(name);
        // What is not there any more is not moved.
        let _ = fs::rename(at(one, format!("s{inner}")), at(other, format!("moved{rounds}")));
        if rounds % 3 == 0 {
            let _ = fs::remove_dir_all(at(other, format!("moved{rounds}")));
        }
        if rounds % 4 == 1 {
            let _ = fs::create_dir(at(one, format!("s{inner}")));
            let _ = fs::write(at(one, format!("s{inner}/f0")), "new");
        }
        if rounds % 5 == 2 {
            let _ = fs::rename(mount.join(format!("t{one}")), mount.join(format!("t{other}/below{rounds}")));
        }
        if rounds % 7 == 3 {
            let _ = fs::remove_file(at(one, format!("s{inner}/f{}", below(files()))));
            let _ = fs::write(at(one, format!("s{inner}/late{rounds}")), "late");
        }
        if rounds % 11 == 4 {
            let _ = rustix::fs::renameat_with(
                rustix::fs::CWD,
                at(one, format!("s{inner}")),
                rustix::fs::CWD,
                mount.join(format!("t{other}")),
                rustix::fs::RenameFlags::EXCHANGE,
            );
        }
        rounds += 1;
        std::thread::sleep(Duration::from_micros(500));
    }
    rounds
}

/// A scan does not see what moves past it; the catalog does.
pub(crate) fn what_moves_during_the_scan_is_not_missed(format: Format) {
    let source = temp_dir();
    build(source.path());
    let tree = HumTree::filled(format, source.path());
    let mount = tree.mount("");
    let is_scanned = AtomicBool::new(false);
    let (rounds, first) = std::thread::scope(|scope| {
        let stirring = scope.spawn(|| stir(mount.path(), &is_scanned));
        let begun = Instant::now();
        let first = compare::standing(&tree);
        let end = begun + SCAN_TIME;
        let mut last = first.clone();
        while last != Standing::Current && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
            last = compare::standing(&tree);
        }
        is_scanned.store(true, Ordering::Release);
        println!("    scanned within {:?}", begun.elapsed());
        let rounds = stirring.join().expect("a thread");
        assert_eq!(last, Standing::Current, "the scan does not end while directories move");
        (rounds, first)
    });
    assert!(matches!(first, Standing::Building(..)), "the scan was over before anything changed: {first:?}");
    let names = compare::check(&tree, mount.path(), &format!("EXTERNFS_TEST_SEED: {rounds} rounds beside a scan"));
    println!("    {rounds} rounds beside the scan, {names} names compared");
    mount.finish();
}

/// A log that cannot be written back does not grow for ever; the file system
/// does not wait for the reader, and the catalog is right when he ends.
pub(crate) fn a_reader_who_does_not_end_is_no_harm(format: Format) {
    let tree = HumTree::new(format, TOTAL);
    let mount = tree.mount("");
    fs::create_dir(mount.path().join("dir")).expect("mkdir");
    compare::settle(&tree);
    let reader = compare::open(&tree);
    reader.execute_batch("BEGIN").expect("BEGIN");
    let count = |reader: &Connection| reader.query_row("SELECT count(*) FROM root_fs", [], |row| row.get::<_, i64>(0)).expect("a count");
    let before = count(&reader);
    let (mut longest, mut largest) = (Duration::ZERO, 0);
    let log = tree.at("humfs/catalog/catalog.db-wal");
    for number in 0..many() {
        let begun = Instant::now();
        // Spread over the database.
        let name = format!("{}{}", number * 7919 % 20_000, "-".repeat(PADDING));
        let (path, new) = (mount.path().join(format!("dir/f{name}")), mount.path().join(format!("dir/{name}")));
        // Four changes.
        fs::write(&path, "x").expect("a file");
        fs::rename(&path, &new).expect("rename");
        if number % 3 == 0 {
            fs::remove_file(&new).expect("rm");
        } else {
            fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o4711)).expect("chmod");
        }
        longest = longest.max(begun.elapsed());
        if number % 500 == 0 {
            largest = largest.max(fs::metadata(&log).map_or(0, |log| log.len()));
        }
    }
    assert_eq!(count(&reader), before, "the reader's view has moved");
    assert!(largest < LOG_MOST, "the log has {largest} bytes");
    assert!(longest < LONG, "a change took {longest:?}");
    drop(reader);
    let names = compare::check(&tree, mount.path(), "after the reader's end");
    let last = fs::metadata(&log).map_or(0, |log| log.len()).max(largest);
    assert!(last < LOG_MOST, "the log has {last} bytes");
    println!("    log at most {} KiB, four changes at most {longest:?}, {names} names compared", last >> 10);
    mount.finish();
}

/// The host's file system fills up while the catalog is kept.
pub(crate) fn a_full_host_does_not_stop_the_tree(format: Format) {
    let tree = HumTree::confined(format, 48);
    let ballast = tree.path().with_file_name("ballast");
    let mut mount = tree.mount("");
    load::run(mount.path(), random::seed(), 2, 100);
    compare::check(&tree, mount.path(), "with room");
    fill(&ballast);
    for number in 0..2000 {
        // Some of these fail, for want of room.
        let path = mount.path().join(format!("long-{}-{number}", "n".repeat(150)));
        let _ = fs::File::create(&path);
        let _ = fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o4700));
    }
    let standing = compare::standing(&tree);
    println!("    on a full host: {standing:?}");
    if let Standing::Failed(why) = &standing {
        assert!(why.contains("full"), "the reason is not told: {why}");
    }
    fs::metadata(mount.path()).expect("the tree is served");
    fs::remove_file(&ballast).expect("rm");
    fs::write(mount.path().join("served"), "again").expect("the tree is served");
    assert!(!mount.server.has_ended(), "{}", mount.server.log());
    // One that could not be kept is made anew.
    wait_for("the catalog", || compare::standing(&tree) == Standing::Current);
    compare::check(&tree, mount.path(), "after there was no room");
    mount.finish();
    let mount = tree.mount("");
    compare::check(&tree, mount.path(), "mounted anew");
    mount.finish();
}

/// Takes all the room that an ordinary user has.
fn fill(ballast: &Path) {
    let dir = ballast.parent().expect("a directory");
    let mut part = 1_u64 << 20;
    let file = fs::File::create(ballast).expect("a file");
    ordinary::give(ballast);
    let mut length = 0;
    while part >= 1024 {
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), length, part) {
            Ok(()) => length += part,
            Err(_) => part /= 2,
        }
    }
    wait_for("the host is full", || rustix::fs::statvfs(dir).expect("statvfs").f_bavail < 16);
}
