//! A large tree under a small limit of descriptors: everything is found, the
//! server's memory stays in bounds and comes back.
//!
//! `EXTERNFS_TEST_ENTRIES=1000000` runs it at the size that users have.

use externfs_tests::fixture::{self, Mount};
use externfs_tests::harness::{self, Case};
use std::path::Path;
use std::time::Instant;

fn main() -> std::process::ExitCode {
    harness::main(vec![Case::new("find_walks_a_large_tree_with_few_descriptors", find_walks_a_large_tree_with_few_descriptors).limit(1800)])
}

/// Bytes of the server's memory for each inode that the kernel remembers.
const BYTES_PER_INODE: f64 = 220.0;
/// What a server takes before it remembers any: a constant.
const CONSTANT: u64 = 4 << 20;

fn entries() -> usize {
    std::env::var("EXTERNFS_TEST_ENTRIES").ok().and_then(|text| text.parse().ok()).unwrap_or(40_000)
}

fn make_tree(root: &Path, count: usize) {
    let per_directory = 1000;
    let mut made = 0;
    for directory in 0.. {
        if made >= count {
            return;
        }
        let dir = root.join(format!("part{}/dir{directory}", directory % 10));
        std::fs::create_dir_all(&dir).unwrap();
        for file in 0..per_directory.min(count - made) {
            std::fs::File::create(dir.join(format!("file-{file:04}"))).unwrap();
        }
        made += per_directory;
    }
}

fn server(mount: &Mount) -> u32 {
    let parent = mount.server.id();
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    children.split_whitespace().next().and_then(|child| child.parse().ok()).unwrap_or(parent)
}

fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

/// Asks the kernel to; false where that is not allowed.
fn forget_all() -> bool {
    std::fs::write("/proc/sys/vm/drop_caches", "2").is_ok()
}

fn find_walks_a_large_tree_with_few_descriptors() {
    fixture::need_root();
    let source = fixture::temp_dir();
    make_tree(source.path(), entries());
    let native = fixture::shell(&format!("find {} | wc -l", source.path().display()));
    let options = "cache=always";
    let mount = Mount::with(source.path(), options, |command| fixture::limit_descriptors(command, 1024));
    let pid = server(&mount);
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let limit = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert!(limit.split_whitespace().nth(4) == Some("1024"), "the server has raised its limit: {limit}");
    // Its code and its threads' stacks are there once it has served something.
    let part = mount.path().join("part0/dir0");
    fixture::shell(&format!("ls -la {0} && cp {0}/file-0000 /dev/null", part.display()));
    let before = resident(pid);
    let begun = Instant::now();
    let list = format!("find {} -ls | wc -l", mount.path().display());
    let seen = fixture::shell(&list);
    let seconds = begun.elapsed().as_secs_f64();
    assert_eq!(seen.trim(), native.trim(), "find sees another number of objects");
    let count: f64 = seen.trim().parse().unwrap();
    let after = resident(pid);
    let each = after.saturating_sub(before) as f64 / count;
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    println!(
        "    {count} objects in {seconds:.1} s; server {} KiB before, {} KiB after: {each:.0} bytes an inode; {descriptors} descriptors",
        before >> 10,
        after >> 10
    );
    assert!(after < before + CONSTANT + (BYTES_PER_INODE * count) as u64, "{each:.0} bytes an inode");
    assert!(descriptors < 1024);
    assert!(mount.server.log().is_empty() || !mount.server.log().contains("too many open files"), "{}", mount.server.log());
    // Once more while everything is remembered, then after it was forgotten:
    // rounds cost nothing that stays.
    assert_eq!(fixture::shell(&list).trim(), native.trim());
    // Of the objects' memory, a fiftieth may stay with the allocator.
    let given_back = before + CONSTANT + after.saturating_sub(before) / 50;
    let mut rounds = Vec::new();
    while rounds.len() < 3 && forget_all() {
        // The kernel says what it forgets in its own time, a million times here:
        // whoever looks again before has the old and the new at once.
        fixture::wait_for("what was forgotten is given back", || resident(pid) < given_back);
        assert_eq!(fixture::shell(&list).trim(), native.trim());
        rounds.push(resident(pid));
    }
    println!("    after the kernel forgot all and looked again: {:?} KiB", rounds.iter().map(|bytes| bytes >> 10).collect::<Vec<_>>());
    if let Some(last) = rounds.last() {
        assert!(*last < after + CONSTANT, "memory grows with each round: {after}, {rounds:?}");
        assert!(forget_all());
        fixture::wait_for("what was forgotten is given back", || resident(pid) < given_back);
        println!("    after the kernel forgot all: {} KiB", resident(pid) >> 10);
    }
    mount.finish();
}
