//! The limit of a humfs tree: never passed, by whatever means, and counted so
//! that counting anew gives the same, also after `kill -9`.

use externfs::{Caller, Connect, NewNode, NodeId};
use externfs_tests::fixture::{self, DiskFormat, Mount, shell};
use externfs_tests::guest::name;
use externfs_tests::harness::{self, Case};
use externfs_tests::humtree::{HumTree, attribute_bytes};
use externfs_tests::ordinary;
use humfs::store::Format;
use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const MEBI: u64 = 1 << 20;
const BLOCK: u64 = 4096;
/// What an object costs besides its blocks.
const INODE: u64 = 512;

fn main() -> std::process::ExitCode {
    ordinary::in_own_mounts(|| {
        let mut cases = Vec::new();
        for format in Format::ALL {
            let mut case = |name: &str, run: fn(Format)| {
                cases.push(Case::new(format!("{name}_{}", format.name()), move || run(format)));
            };
            case("eight_writers_fill_it_and_never_pass_it", eight_writers_fill_it_and_never_pass_it);
            case("eight_writers_fill_it_and_never_pass_it_on_xfs", eight_writers_fill_it_and_never_pass_it_on_xfs);
            case("scattered_blocks_do_not_pass_it", scattered_blocks_do_not_pass_it);
            case("scattered_blocks_do_not_pass_it_one_by_one", scattered_blocks_do_not_pass_it_one_by_one);
            case("what_is_written_again_takes_no_room", what_is_written_again_takes_no_room);
            case("room_for_the_host_is_not_in_the_way_of_names", room_for_the_host_is_not_in_the_way_of_names);
            case("many_files_in_pieces_leave_a_true_account", many_files_in_pieces_leave_a_true_account);
            case("every_object_costs_what_it_should", every_object_costs_what_it_should);
            case("what_is_sparse_costs_what_is_in_it", what_is_sparse_costs_what_is_in_it);
            case("promised_space_can_be_written_at_the_limit", promised_space_can_be_written_at_the_limit);
            case("every_way_of_writing_ends_at_the_limit", every_way_of_writing_ends_at_the_limit);
            case("pages_that_fit_in_part_are_no_success", pages_that_fit_in_part_are_no_success);
            case("two_kernels_take_the_last_two_names", two_kernels_take_the_last_two_names);
            case("objects_are_limited_too", objects_are_limited_too);
            case("what_has_no_name_counts_until_it_is_closed", what_has_no_name_counts_until_it_is_closed);
            case("a_busy_hour_leaves_a_true_account", a_busy_hour_leaves_a_true_account);
            case("a_killed_server_leaves_a_true_account", a_killed_server_leaves_a_true_account);
            case("what_is_removed_makes_room_to_shrink", what_is_removed_makes_room_to_shrink);
            case("a_total_that_is_edited_counts", a_total_that_is_edited_counts);
        }
        cases.push(Case::new("large_attributes_do_not_pass_it_on_xfs", large_attributes_do_not_pass_it_on_xfs));
        cases.push(Case::new("ends_that_move_count_what_they_pass_on_xfs", ends_that_move_count_what_they_pass_on_xfs));
        harness::main(cases)
    })
}

/// What statfs(2) says is used: bytes, of which it tells whole blocks, and objects.
fn told(mount: &Path) -> (u64, u64) {
    let told = rustix::fs::statvfs(mount).unwrap();
    assert!(told.f_bfree <= told.f_blocks && told.f_bavail <= told.f_bfree && told.f_ffree <= told.f_files);
    ((told.f_blocks - told.f_bfree) * told.f_frsize, told.f_files - told.f_ffree)
}

/// Unmounts, and checks that what the superblock says is what there is, and
/// that the next mount says it too. Returns the bytes.
fn true_account(tree: &HumTree, mount: Mount) -> u64 {
    let attributes = attribute_bytes(mount.path());
    mount.finish();
    let (bytes, objects) = tree.counted(&attributes);
    if tree.forget_files() {
        assert_eq!(tree.counted(&attributes), (bytes, objects), "after the host has forgotten the files");
    }
    let noted = tree.superblock().used;
    let mount = tree.mount("ro");
    let (told_bytes, told_objects) = told(mount.path());
    mount.finish();
    assert_eq!((noted, told_objects), (bytes, objects), "the superblock and statfs (left), and a recount (right)");
    assert_eq!(told_bytes.div_ceil(BLOCK), bytes.div_ceil(BLOCK), "statfs (left) and a recount (right)");
    bytes
}

/// Appends to `path` until there is no room. Returns the bytes that fitted.
fn fill(path: &Path, piece: usize) -> u64 {
    let file = File::options().create(true).append(true).open(path).unwrap();
    let data = vec![0x5a; piece];
    let mut written = 0;
    loop {
        match rustix::io::write(&file, &data) {
            Ok(count) => written += count as u64,
            Err(Errno::NOSPC) => return written,
            Err(other) => panic!("{}: {other}", path.display()),
        }
    }
}

fn fill_by_eight(mount: &Path) -> Vec<u64> {
    let start = &std::sync::Barrier::new(8);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|number| {
                let path = mount.join(format!("w{number}"));
                // Sizes that fit blocks and sizes that do not.
                scope.spawn(move || {
                    start.wait();
                    fill(&path, [4096, 1000, 65536, 5000, 131_072, 12_288, 1 << 20, 777][number])
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    })
}

const EIGHT: u64 = 100 * MEBI;

fn eight_writers_fill_it_and_never_pass_it(format: Format) {
    eight_writers(&HumTree::new(format, EIGHT));
}

/// Which gives a file that grows more than it is written.
fn eight_writers_fill_it_and_never_pass_it_on_xfs(format: Format) {
    eight_writers(&HumTree::on(DiskFormat::Xfs, format, EIGHT));
}

fn eight_writers(tree: &HumTree) {
    const TOTAL: u64 = EIGHT;
    let mount = tree.mount("");
    let mut room = TOTAL;
    for round in 0..2 {
        let stop = AtomicBool::new(false);
        let written = std::thread::scope(|scope| {
            // Files only grow meanwhile, so a count that takes time is never too high.
            let watcher = scope.spawn(|| {
                let mut looks = 0;
                while !stop.load(Ordering::Relaxed) || looks == 0 {
                    let (bytes, _) = tree.counted(&HashMap::new());
                    assert!(bytes <= TOTAL, "round {round}: {bytes} of {TOTAL} bytes are used");
                    assert!(told(mount.path()).0 <= TOTAL);
                    looks += 1;
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
            let written = fill_by_eight(mount.path());
            stop.store(true, Ordering::Relaxed);
            watcher.join().unwrap();
            written
        });
        let sum: u64 = written.iter().sum();
        println!("    round {round}: {sum} bytes fitted");
        // The little room of the second round may be gone before all have begun.
        assert!(round > 0 || written.iter().all(|&bytes| bytes > 0), "{written:?}");
        assert!(sum > room - MEBI, "room for {room}: {written:?}");
        let (bytes, _) = tree.counted(&HashMap::new());
        assert!(bytes <= TOTAL, "round {round}: {bytes} of {TOTAL} bytes are used in the end");
        // Nothing has room now, but everything else works.
        assert_eq!(
            File::create(mount.path().join("one-more")).and_then(|f| f.write_all_at(&[1; 8192], 0)).map_err(errno),
            Err(Errno::NOSPC)
        );
        fs::rename(mount.path().join("w0"), mount.path().join("moved")).unwrap();
        fs::read(mount.path().join("moved")).unwrap();
        let _ = fs::remove_file(mount.path().join("one-more"));
        if round == 0 {
            let gone = ["moved", "w3", "w6"].map(|name| mount.path().join(name));
            room = gone.iter().map(|path| fs::metadata(path).unwrap().len()).sum();
            gone.iter().for_each(|path| fs::remove_file(path).unwrap());
        }
    }
    let bytes = true_account(tree, mount);
    assert!(bytes <= TOTAL, "{bytes} of {TOTAL}");
}

/// In the `xattr` format they are in the record, and xfs has blocks for a large one:
/// they count as what they are and as what they take.
fn large_attributes_do_not_pass_it_on_xfs() {
    const TOTAL: u64 = 4 * MEBI;
    let tree = HumTree::on(DiskFormat::Xfs, Format::Xattr, TOTAL);
    let mount = tree.mount("");
    let files: Vec<_> = (0..8).map(|n| File::create(mount.path().join(n.to_string())).unwrap()).collect();
    let room = || (TOTAL - told(mount.path()).0) as usize;
    // Three of the largest fit, and a fourth as what it is, but not with its blocks.
    let filler = vec![1; room() - 3 * 126_000 - 90_000];
    File::create(mount.path().join("filler")).unwrap().write_all_at(&filler, 0).unwrap();
    let mut sizes = vec![60_000, 40_000, 3500];
    let mut set = 0;
    while let Some(&size) = sizes.first() {
        match rustix::fs::fsetxattr(&files[set % 8], format!("user.{}", set / 8), &vec![7; size], XattrFlags::empty()) {
            Ok(()) => set += 1,
            Err(Errno::NOSPC) => drop(sizes.remove(0)),
            Err(other) => panic!("{other}"),
        }
        assert!(set < 100, "attributes are not limited");
    }
    println!("    {set} attributes, {} bytes are free", room());
    assert!(set > 3);
    drop(files);
    let bytes = true_account(&tree, mount);
    assert!(bytes <= TOTAL, "{bytes} of {TOTAL}");
}

/// What the host has put past the end of a file counts from the moment on at which
/// the end is behind it, however it gets there.
fn ends_that_move_count_what_they_pass_on_xfs() {
    const TOTAL: u64 = 18 * MEBI;
    let tree = HumTree::on(DiskFormat::Xfs, Format::Xattr, TOTAL);
    let mount = tree.mount("");
    let at = |name: &str| mount.path().join(name);
    let used = |what: &str| {
        let (bytes, _) = tree.counted(&HashMap::new());
        assert!(bytes <= TOTAL, "{what}: {bytes} of {TOTAL}");
        // Which has what is kept free for the host's lists of extents.
        let told = told(mount.path()).0;
        assert!(told + BLOCK > bytes && told < bytes + MEBI / 2, "{what}: {told} and not {bytes}");
        bytes
    };
    let grown = |name: &str, kibi: usize| {
        let file = File::options().create_new(true).read(true).write(true).open(at(name)).unwrap();
        (0..kibi / 4).for_each(|n| file.write_all_at(&[1; BLOCK as usize], n as u64 * BLOCK).unwrap());
        file
    };
    let before = used("nothing");
    let files = ["cut", "written", "promised", "copied"].map(|name| grown(name, 1024));
    assert_eq!(used("four of a mebibyte"), before + 4 * (INODE + MEBI));
    files[0].set_len(9 * MEBI).unwrap();
    files[1].write_all_at(&[1], 9 * MEBI).unwrap();
    rustix::fs::fallocate(&files[2], FallocateFlags::empty(), 9 * MEBI, BLOCK).unwrap();
    let copy = |from, to, length| rustix::fs::copy_file_range(&files[0], Some(&mut { from }), &files[3], Some(&mut { to }), length);
    assert_eq!(copy(0, 9 * MEBI, BLOCK as usize), Ok(BLOCK as usize));
    let moved = used("ends that have moved");
    assert!(moved > before + 4 * (INODE + MEBI) + 3 * BLOCK, "the host has added nothing: this tests nothing");
    // What was asked for looks like what was not.
    let keep = |flags, offset, length| rustix::fs::fallocate(&files[1], FallocateFlags::KEEP_SIZE | flags, offset, length);
    assert_eq!(keep(FallocateFlags::empty(), 0, 10 * MEBI), Err(Errno::OPNOTSUPP));
    assert_eq!(keep(FallocateFlags::ZERO_RANGE, 9 * MEBI, MEBI), Err(Errno::OPNOTSUPP));
    keep(FallocateFlags::empty(), 2 * MEBI, MEBI).unwrap();
    keep(FallocateFlags::PUNCH_HOLE, 2 * MEBI, 10 * MEBI).unwrap();
    used("promised and punched");
    // A copy that shares blocks would take more when it is written over.
    assert_eq!(copy(0, 10 * MEBI, MEBI as usize), Ok(MEBI as usize));
    let before = used("copied");
    (0..8).for_each(|n| files[3].write_all_at(&[2; BLOCK as usize], 10 * MEBI + n * MEBI / 8).unwrap());
    assert_eq!(used("written over"), before);
    // To the last block, leaving gaps.
    let scattered = grown("scattered", 64);
    let mut blocks = 16;
    while scattered.write_all_at(&[7; BLOCK as usize], blocks * 2 * BLOCK).is_ok() {
        blocks += 1;
    }
    assert!(used("scattered") > TOTAL - MEBI, "{blocks} blocks");
    for file in &files {
        while file.set_len(file.metadata().unwrap().len() + 7 * BLOCK).is_ok() && file.metadata().unwrap().len() < 10 * MEBI {}
    }
    used("at the limit");
    drop((files, scattered));
    true_account(&tree, mount);
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap()
}

/// Each block is an extent of its own, and the host needs blocks to list them.
fn scattered_blocks_do_not_pass_it(format: Format) {
    const TOTAL: u64 = 24 * MEBI;
    let tree = HumTree::new(format, TOTAL);
    let mount = tree.mount("");
    let file = File::create(mount.path().join("scattered")).unwrap();
    let mut blocks: u64 = 0;
    while file.write_all_at(&[7; BLOCK as usize], blocks * 2 * BLOCK).is_ok() {
        blocks += 1;
    }
    assert!(blocks * BLOCK > TOTAL - MEBI, "only {blocks} blocks fitted");
    file.sync_all().unwrap();
    let (bytes, _) = tree.counted(&HashMap::new());
    println!("    {blocks} blocks, {bytes} bytes in all");
    assert!(bytes <= TOTAL, "{bytes} of {TOTAL}");
    drop(file);
    true_account(&tree, mount);
}

/// Each on the disk, with what lists it, before there is the next.
fn scattered_blocks_do_not_pass_it_one_by_one(format: Format) {
    const TOTAL: u64 = 6 * MEBI;
    let tree = HumTree::new(format, TOTAL);
    let mount = tree.mount("");
    let at = |name: &str| mount.path().join(name);
    // So many that the lists get a second level, and the end comes in between.
    let files = ["one", "two"].map(|name| File::create(at(name)).unwrap());
    let mut ends = 0;
    for block in 0.. {
        for file in &files {
            match file.write_all_at(&[7; BLOCK as usize], block * 2 * BLOCK) {
                Ok(()) => file.sync_data().unwrap(),
                Err(error) => {
                    assert_eq!(errno(error), Errno::NOSPC);
                    ends += 1;
                }
            }
        }
        if block % 16 == 0 || ends > 0 {
            let (bytes, _) = tree.counted(&HashMap::new());
            assert!(bytes <= TOTAL, "{bytes} of {TOTAL} after {block} blocks");
        }
        if ends > 8 {
            assert!(2 * block * BLOCK > TOTAL - MEBI, "only {block} blocks fitted");
            break;
        }
    }
    drop(files);
    true_account(&tree, mount);
}

/// As by a database, which writes its blocks again and again, wherever they are.
fn what_is_written_again_takes_no_room(format: Format) {
    let tree = HumTree::new(format, 64 * MEBI);
    let mount = tree.mount("");
    let file = File::create(mount.path().join("database")).unwrap();
    file.write_all_at(&vec![1; 256 << 10], 0).unwrap();
    file.sync_all().unwrap();
    let before = told(mount.path()).0;
    let write = |times: u64| {
        for number in 0..times {
            file.write_all_at(&[2; BLOCK as usize], number * 7 % 64 * BLOCK).unwrap();
        }
        told(mount.path()).0.saturating_sub(before)
    };
    // A block for each list, and as if each block were an extent.
    assert!(write(1000) <= 2 * BLOCK, "{}", write(0));
    assert!(write(1000) <= 2 * BLOCK, "{}", write(0));
    file.sync_data().unwrap();
    // What is on the disk needs none of that.
    assert_eq!(told(mount.path()).0, before);
    drop(file);
    true_account(&tree, mount);
}

/// What is done, and how.
type Change<'a> = (&'a str, &'a dyn Fn(&Path));

/// A block is kept for each file that was written and not written out; whoever
/// needs room for something else gets what was not taken.
fn room_for_the_host_is_not_in_the_way_of_names(format: Format) {
    const FILES: usize = 300;
    let tree = HumTree::new(format, 64 * MEBI);
    let mount = tree.mount("");
    let at = |name: &str| mount.path().join(name);
    let edit = |total: u64| {
        let text = fs::read_to_string(tree.at("superblock")).unwrap();
        let kept: String = text.lines().filter(|line| !line.starts_with("total ")).map(|line| format!("{line}\n")).collect();
        fs::write(tree.at("superblock"), format!("{kept}total {total}\n")).unwrap();
    };
    let fill = || {
        edit(64 * MEBI);
        (0..FILES).for_each(|number| fs::write(at(&number.to_string()), [1; 20 << 10]).unwrap());
        edit(told(mount.path()).0 + 100);
        assert_eq!(rustix::fs::statvfs(mount.path()).unwrap().f_bfree, 0);
    };
    let note = |path: &Path| rustix::fs::setxattr(path, "user.note", &[1; 3000], XattrFlags::empty()).unwrap();
    let changes: [Change; 6] = [
        ("mkdir", &|path| fs::create_dir(path).unwrap()),
        ("symlink", &|path| symlink("target", path).unwrap()),
        ("create", &|path| drop(File::create(path).unwrap())),
        ("tmpfile", &|_| drop(unnamed(mount.path()).map_err(|error| assert_eq!(error, Errno::OPNOTSUPP)))),
        ("setxattr", &|_| note(&at("1"))),
        ("whiteout", &|path| rustix::fs::renameat_with(CWD, at("2"), CWD, path, rustix::fs::RenameFlags::WHITEOUT).unwrap()),
    ];
    for (what, change) in changes {
        fill();
        println!("    {what}");
        change(&at(what));
        let total = tree.superblock().total;
        let (bytes, _) = tree.counted(&HashMap::new());
        assert!(bytes <= total, "{what}: {bytes} of {total}");
        let _ = fs::remove_file(at("2"));
    }
    true_account(&tree, mount);
}

/// More files than are remembered without a look at them, each in more pieces
/// than the host's inode lists: the blocks that list them come when the data is
/// written out. So also for what was written before it had a name.
fn many_files_in_pieces_leave_a_true_account(format: Format) {
    const FILES: usize = 1500;
    let tree = HumTree::new(format, 256 * MEBI);
    let mount = tree.mount("");
    let in_pieces = |file: &File| {
        for piece in 0..8 {
            file.write_all_at(&[7; BLOCK as usize], piece * 2 * BLOCK).unwrap();
        }
    };
    for number in 0..FILES {
        in_pieces(&File::create(mount.path().join(number.to_string())).unwrap());
    }
    if let Ok(file) = unnamed(mount.path()) {
        in_pieces(&file);
        let by_number = format!("/proc/self/fd/{}", file.as_raw_fd());
        rustix::fs::linkat(CWD, by_number, CWD, mount.path().join("named"), AtFlags::SYMLINK_FOLLOW).unwrap();
    }
    true_account(&tree, mount);
}

/// What one step costs, to the block that statfs(2) counts in.
struct Costs<'m> {
    mount: &'m Path,
    before: (u64, u64),
}

impl Costs<'_> {
    fn step(&mut self, what: &str, bytes: i64, objects: i64) {
        let change = || {
            let now = told(self.mount);
            (now.0 as i64 - self.before.0 as i64, now.1 as i64 - self.before.1 as i64)
        };
        // Each of the two was rounded.
        let fits = |change: (i64, i64)| (change.0 - bytes).abs() < 2 * BLOCK as i64 && change.1 == objects;
        // The kernel forgets what is removed a moment later.
        let end = Instant::now() + Duration::from_secs(2);
        while !fits(change()) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(fits(change()), "{what}: {:?} and not {bytes} bytes, {objects} objects", change());
        self.before = told(self.mount);
    }
}

fn every_object_costs_what_it_should(format: Format) {
    let tree = HumTree::new(format, 64 * MEBI);
    let mount = tree.mount("");
    let at = |name: &str| mount.path().join(name);
    let mut costs = Costs { mount: mount.path(), before: told(mount.path()) };
    assert!(costs.before.0 <= 2 * BLOCK && costs.before.1 == 1, "an empty tree: {:?}", costs.before);
    (0..100).for_each(|n| drop(File::create(at(&format!("f{n}"))).unwrap()));
    costs.step("100 empty files", 100 * INODE as i64, 100);
    (0..50).for_each(|n| fs::create_dir(at(&format!("d{n}"))).unwrap());
    costs.step("50 directories", 50 * (INODE + 4096) as i64, 50);
    for n in 0..16 {
        rustix::fs::mknodat(CWD, at(&format!("n{n}")), rustix::fs::FileType::CharacterDevice, Mode::from_raw_mode(0o600), 1 << 8).unwrap();
        rustix::fs::mkfifoat(CWD, at(&format!("p{n}")), Mode::from_raw_mode(0o600)).unwrap();
    }
    costs.step("32 special files", 32 * INODE as i64, 32);
    let long = "t".repeat(2000);
    (0..16).for_each(|n| symlink(if n % 2 == 0 { "short" } else { &long }, at(&format!("l{n}"))).unwrap());
    // Where the host has the target: in the inode, in a block of it, or in the record.
    let links = told(mount.path()).0 as i64 - costs.before.0 as i64;
    let least = 16 * INODE as i64 - BLOCK as i64;
    assert!((least..=16 * INODE as i64 + 9 * BLOCK as i64).contains(&links), "16 links: {links}");
    costs.step("16 links", links, 16);
    (1..100).for_each(|n| fs::hard_link(at("f0"), at(&format!("h{n}"))).unwrap());
    costs.step("99 further names", 0, 0);
    fs::write(at("f0"), vec![1; 1 << 20]).unwrap();
    costs.step("a mebibyte in a file of 100 names", MEBI as i64 + BLOCK as i64, 0);
    (1..100).for_each(|n| fs::remove_file(at(&format!("h{n}"))).unwrap());
    costs.step("names that go", 0, 0);
    let value = vec![b'v'; 1500];
    for n in 1..100 {
        rustix::fs::setxattr(at(&format!("f{n}")), "user.note", &value, XattrFlags::empty()).unwrap();
    }
    let attributes = told(mount.path()).0 as i64 - costs.before.0 as i64;
    // The host may keep a record that has grown in a block beside the inode.
    assert!((99 * 1536 - BLOCK as i64..=99 * (1536 + BLOCK as i64) + BLOCK as i64).contains(&attributes), "99 attributes: {attributes}");
    costs.step("99 attributes", attributes, 0);
    for n in 1..100 {
        rustix::fs::removexattr(at(&format!("f{n}")), "user.note").unwrap();
        fs::remove_file(at(&format!("f{n}"))).unwrap();
    }
    costs.step("99 files that go", -attributes - 99 * INODE as i64, -99);
    fs::remove_file(at("f0")).unwrap();
    costs.step("the last", -((MEBI + INODE) as i64), -1);
    shell(&format!("cd '{}'; rm -rf d* n* p* l*", mount.path().display()));
    fixture::wait_for("an emptied tree costs nothing", || told(mount.path()).0 <= 2 * BLOCK && told(mount.path()).1 == 1);
    true_account(&tree, mount);
}

fn what_is_sparse_costs_what_is_in_it(format: Format) {
    let tree = HumTree::new(format, 16 * MEBI);
    let mount = tree.mount("");
    let mut costs = Costs { mount: mount.path(), before: told(mount.path()) };
    let file = File::create(mount.path().join("sparse")).unwrap();
    file.set_len(1 << 40).unwrap();
    costs.step("a tebibyte of nothing", INODE as i64, 1);
    for n in 0..10 {
        file.write_all_at(&[1], n << 35).unwrap();
    }
    // Block by block, and what the host needs for a list of so many extents.
    costs.step("ten blocks in it", 10 * BLOCK as i64 + 2 * BLOCK as i64, 0);
    rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE, 0, 1 << 39).unwrap();
    file.set_len(1).unwrap();
    file.set_len(1 << 40).unwrap();
    let (bytes, _) = told(mount.path());
    assert!(bytes < 8 * BLOCK, "punched and cut off: {bytes}");
    drop(file);
    true_account(&tree, mount);
}

fn promised_space_can_be_written_at_the_limit(format: Format) {
    const TOTAL: u64 = 16 * MEBI;
    let tree = HumTree::new(format, TOTAL);
    let mount = tree.mount("");
    let promised = File::create(mount.path().join("promised")).unwrap();
    rustix::fs::fallocate(&promised, FallocateFlags::empty(), 0, 4 * MEBI).unwrap();
    let kept = File::create(mount.path().join("kept")).unwrap();
    rustix::fs::fallocate(&kept, FallocateFlags::KEEP_SIZE, 0, 4 * MEBI).unwrap();
    let old = mount.path().join("old");
    fs::write(&old, vec![1; 1 << 20]).unwrap();
    let before = told(mount.path()).0;
    assert_eq!(rustix::fs::fallocate(&promised, FallocateFlags::empty(), 4 * MEBI, 8 * MEBI), Err(Errno::NOSPC));
    assert_eq!(told(mount.path()).0, before, "a promise that was refused costs nothing");
    fill(&mount.path().join("filler"), 10_000);
    // Also when only single bytes are left to be had.
    let filler = File::create(mount.path().join("filler2"));
    filler.map(|file| while file.write_all_at(&[1], file.metadata().unwrap().len()).is_ok() {}).unwrap_or_default();
    for (file, what) in [(&promised, "promised"), (&kept, "kept")] {
        for piece in 0..64 {
            file.write_all_at(&[9; 65536], piece * 65536).unwrap_or_else(|e| panic!("{what} space, piece {piece}: {e}"));
        }
        file.sync_all().unwrap();
    }
    File::options().write(true).open(&old).unwrap().write_all_at(&[2; 1 << 20], 0).expect("overwriting");
    drop((promised, kept));
    let bytes = true_account(&tree, mount);
    assert!(bytes <= TOTAL, "{bytes} of {TOTAL}");
}

fn every_way_of_writing_ends_at_the_limit(format: Format) {
    const TOTAL: u64 = 16 * MEBI;
    let tree = HumTree::new(format, TOTAL);
    let mount = tree.mount("");
    let at = |name: &str| mount.path().join(name);
    fs::write(at("old"), vec![3; 1 << 20]).unwrap();
    let sparse = File::options().create_new(true).read(true).write(true).open(at("sparse")).unwrap();
    sparse.set_len(32 * MEBI).unwrap();
    fill(&at("filler"), 1 << 20);
    assert_eq!(File::options().append(true).open(at("old")).unwrap().write_all(&[1; 65536]).map_err(errno), Err(Errno::NOSPC), "append");
    let source = File::open(at("filler")).unwrap();
    let copied = rustix::fs::copy_file_range(&source, Some(&mut 0), &sparse, Some(&mut 0), 8 << 20);
    assert!(matches!(copied, Err(Errno::NOSPC)) || copied.is_ok_and(|count| count < 1 << 20), "copy_file_range: {copied:?}");
    assert_eq!(rustix::fs::fallocate(&sparse, FallocateFlags::ZERO_RANGE, 0, 8 * MEBI), Err(Errno::NOSPC));
    let big = vec![1; 60_000];
    let mut notes = 0;
    while rustix::fs::setxattr(at("old"), format!("user.note{notes}"), &big[..2000], XattrFlags::empty()).is_ok() {
        notes += 1;
        assert!(notes < 100, "attributes are not limited");
    }
    let mut made = 0;
    while fs::create_dir(at(&format!("d{made}"))).is_ok() {
        made += 1;
        assert!(made < 1000, "directories are not limited");
    }
    assert_eq!(fs::create_dir(at("one-more")).map_err(errno), Err(Errno::NOSPC));
    // A shared mapping learns of it when it is written back.
    let script = "import mmap,os,sys\nf=os.open(sys.argv[1],os.O_RDWR)\nm=mmap.mmap(f,8<<20,offset=16<<20)\n\
                  try:\n    m[:]=b'm'*(8<<20); m.flush(); os.fsync(f)\nexcept OSError as e:\n    sys.exit(e.errno)\nsys.exit(0)";
    let mut mapped = std::process::Command::new(fixture::need_program("python3", "python3"));
    let mapped = fixture::output(mapped.args(["-c", script]).arg(at("sparse")));
    assert_eq!(mapped.status.code(), Some(libc::ENOSPC), "{mapped:?}");
    drop((source, sparse));
    // Making room takes none.
    fs::rename(at("old"), at("young")).unwrap();
    shell(&format!("cd '{}'; chmod 4755 young; chown 7:8 young; touch -d @1 young; rm -rf filler d*", mount.path().display()));
    fs::write(at("again"), vec![1; 4 << 20]).unwrap();
    let bytes = true_account(&tree, mount);
    assert!(bytes <= TOTAL, "{bytes} of {TOTAL}");
}

/// Pages that are written back come many at a time, and their kernel only looks
/// at whether that failed.
fn pages_that_fit_in_part_are_no_success(format: Format) {
    const TOTAL: u64 = 16 * MEBI;
    let tree = HumTree::new(format, TOTAL);
    let mount = tree.mount("");
    let at = |name: &str| mount.path().join(name);
    let sparse = File::create(at("sparse")).unwrap();
    sparse.set_len(MEBI).unwrap();
    fill(&at("filler"), 65536);
    let room = File::options().write(true).open(at("filler")).unwrap();
    let length = room.metadata().unwrap().len();
    room.set_len(length - MEBI / 2).unwrap();
    drop((room, sparse));
    let script = "import mmap,os,sys\nf=os.open(sys.argv[1],os.O_RDWR)\nm=mmap.mmap(f,1<<20)\nm[:]=b'm'*(1<<20)\n\
                  try:\n    m.flush(); os.fsync(f)\nexcept OSError as e:\n    sys.exit(e.errno)\nsys.exit(0)";
    let mut mapped = std::process::Command::new(fixture::need_program("python3", "python3"));
    let mapped = fixture::output(mapped.args(["-c", script]).arg(at("sparse")));
    assert_eq!(mapped.status.code(), Some(libc::ENOSPC), "{mapped:?}");
    true_account(&tree, mount);
}

/// Each from its own directory, at the same time: then the file is gone.
fn two_kernels_take_the_last_two_names(format: Format) {
    let tree = HumTree::new(format, 16 * MEBI);
    let bridge = humfs::open(&tree.path(), &humfs::Options::default()).unwrap();
    let kernels = [0, 1].map(|_| bridge.connect().unwrap());
    let root = Caller::root();
    let dirs = ["one", "two"].map(|dir| {
        kernels[0].make(&root, NodeId::ROOT, name(dir), &NewNode::Directory, externfs::Mode::new(0o755)).unwrap();
        [0, 1].map(|kernel| kernels[kernel].lookup(&root, NodeId::ROOT, name(dir)).unwrap().id)
    });
    for round in 0..400 {
        let file = kernels[0].make(&root, dirs[0][0], name("a"), &NewNode::Regular, externfs::Mode::new(0o644)).unwrap();
        kernels[0].link(&root, file.id, dirs[1][0], name("b")).unwrap();
        let start = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            for (kernel, what) in ["a", "b"].into_iter().enumerate() {
                let (kernels, dirs, start, root) = (&kernels, &dirs, &start, &root);
                scope.spawn(move || {
                    start.wait();
                    kernels[kernel].unlink(root, dirs[kernel][kernel], name(what)).unwrap_or_else(|e| panic!("round {round}, {what}: {e}"));
                });
            }
        });
        kernels[0].forget(file.id, 2);
    }
    let told = kernels[0].statfs(NodeId::ROOT).unwrap();
    assert_eq!(told.inodes - told.inodes_free, 3, "the root and two directories");
    drop(kernels);
    bridge.close().unwrap();
}

fn objects_are_limited_too(format: Format) {
    let tree = HumTree::limited(format, 64 * MEBI, Some(50));
    let mount = tree.mount("");
    let at = |name: &str| mount.path().join(name);
    assert_eq!(rustix::fs::statvfs(mount.path()).unwrap().f_files, 50);
    for n in 0..49 {
        File::create(at(&format!("f{n}"))).unwrap_or_else(|e| panic!("object {n}: {e}"));
    }
    assert_eq!(rustix::fs::statvfs(mount.path()).unwrap().f_ffree, 0);
    assert_eq!(File::create(at("x")).map(drop).map_err(errno), Err(Errno::NOSPC));
    assert_eq!(fs::create_dir(at("x")).map_err(errno), Err(Errno::NOSPC));
    assert_eq!(symlink("x", at("x")).map_err(errno), Err(Errno::NOSPC));
    assert_eq!(rustix::fs::mkfifoat(CWD, at("x"), Mode::from_raw_mode(0o600)), Err(Errno::NOSPC));
    assert_eq!(unnamed(mount.path()).map(drop), Err(Errno::NOSPC));
    let whiteout = rustix::fs::renameat_with(CWD, at("f1"), CWD, at("x"), rustix::fs::RenameFlags::WHITEOUT);
    assert_eq!(whiteout, Err(Errno::NOSPC));
    assert!(!at("x").exists() && at("f1").exists());
    // These make no object.
    fs::hard_link(at("f0"), at("second")).unwrap();
    fs::write(at("f0"), "data").unwrap();
    fs::rename(at("f2"), at("f3")).unwrap();
    fs::create_dir(at("room")).unwrap();
    assert_eq!(told(mount.path()).1, 50);
    let kept = File::open(at("f4")).unwrap();
    fs::remove_file(at("f4")).unwrap();
    assert_eq!(File::create(at("x")).map(drop).map_err(errno), Err(Errno::NOSPC), "it is open still");
    drop(kept);
    fixture::wait_for("a removed file is given back", || File::create(at("x")).is_ok());
    true_account(&tree, mount);
}

fn unnamed(dir: &Path) -> Result<File, Errno> {
    rustix::fs::open(dir, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::from_raw_mode(0o600)).map(File::from)
}

fn what_has_no_name_counts_until_it_is_closed(format: Format) {
    const TOTAL: u64 = 16 * MEBI;
    let tree = HumTree::new(format, TOTAL);
    let mount = tree.mount("");
    let mut removed = File::options().create_new(true).read(true).write(true).open(mount.path().join("removed")).unwrap();
    removed.write_all(&vec![1; 6 << 20]).unwrap();
    fs::remove_file(mount.path().join("removed")).unwrap();
    let mut temporary = unnamed(mount.path()).unwrap();
    temporary.write_all(&vec![2; 6 << 20]).unwrap();
    let (bytes, objects) = told(mount.path());
    assert!(bytes >= 12 * MEBI && objects == 3, "{bytes} bytes, {objects} objects");
    // Growing counts too.
    assert_eq!(removed.write_all(&vec![1; 6 << 20]).map_err(errno), Err(Errno::NOSPC));
    removed.set_len(6 << 20).unwrap();
    assert!(fill(&mount.path().join("filler"), 65536) < 4 * MEBI);
    drop((removed, temporary));
    fixture::wait_for("closed files are given back", || told(mount.path()).0 < 5 * MEBI);
    assert!(fill(&mount.path().join("filler"), 65536) > 11 * MEBI);
    true_account(&tree, mount);
}

/// Names and contents come and go in `dir` until the server is gone, or
/// nothing is left of `steps`.
fn churn(dir: &Path, seed: usize, mut steps: usize) {
    let (mut number, seed) = (seed, seed % 3);
    let step = |number: usize| -> std::io::Result<()> {
        let at = |what: usize| dir.join(format!("{seed}-{}", what % 40));
        match number % 7 {
            0 | 1 => fs::write(at(number), vec![1; number * 37 % 200_000])?,
            2 => drop(fs::remove_file(at(number / 3))),
            3 => drop(fs::rename(at(number / 2), at(number / 5))),
            4 => drop(fs::hard_link(at(number / 2), at(number / 7))),
            5 => {
                let _ = fs::create_dir(dir.join(format!("{seed}-dir{}", number % 5)));
                let _ = fs::remove_dir(dir.join(format!("{seed}-dir{}", number / 2 % 5)));
            }
            _ => {
                let mut held = unnamed(dir)?;
                held.write_all(&vec![1; number * 11 % 50_000])?;
                let file = File::options().create(true).truncate(false).write(true).open(at(number / 4))?;
                file.set_len(number as u64 * 91 % 100_000)?;
                rustix::fs::fsetxattr(&file, "user.n", &vec![1; number % 1000], XattrFlags::empty())?;
            }
        }
        fs::metadata(dir).map(drop)
    };
    let mounted = fs::metadata(dir).map(|here| here.dev());
    // Not in the directory below, once the mount is gone.
    let is_there = || matches!((&mounted, fs::metadata(dir)), (Ok(then), Ok(now)) if *then == now.dev());
    while steps > 0 && is_there() && step(number).is_ok() {
        number += 13;
        steps -= 1;
    }
}

fn a_busy_hour_leaves_a_true_account(format: Format) {
    let tree = HumTree::new(format, 64 * MEBI);
    for round in 0..8 {
        let mount = tree.mount("");
        std::thread::scope(|scope| {
            for seed in [0, 1, 2].map(|seed| seed + round * 999) {
                let path = mount.path();
                scope.spawn(move || churn(path, seed, 400));
            }
        });
        let bytes = true_account(&tree, mount);
        println!("    round {round}: {bytes} bytes");
    }
}

fn a_killed_server_leaves_a_true_account(format: Format) {
    let tree = HumTree::new(format, 64 * MEBI);
    for round in 0..6 {
        let mount = tree.mount("");
        std::thread::scope(|scope| {
            let path = mount.path().to_path_buf();
            for seed in 0..3 {
                let path = path.clone();
                scope.spawn(move || churn(&path, seed, usize::MAX));
            }
            std::thread::sleep(Duration::from_millis(150 + 70 * round));
            mount.kill();
        });
        let mount = tree.mount("");
        let said = mount.server.log();
        assert!(!said.contains("WARN"), "{said}");
        let bytes = true_account(&tree, mount);
        println!("    round {round}: {bytes} bytes");
    }
}

/// A mounted tree is made smaller right after something has gone, and no other
/// change since.
fn what_is_removed_makes_room_to_shrink(format: Format) {
    let tree = HumTree::new(format, 16 * MEBI);
    let mount = tree.mount("");
    let file = mount.path().join("file");
    fs::write(&file, vec![1; 8 * MEBI as usize]).unwrap();
    let resize = || fixture::output(std::process::Command::new(fixture::binary()).arg("resize").arg(tree.path()).arg("2M"));
    let refused = resize();
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("uses 8"), "{refused:?}");
    fs::remove_file(&file).unwrap();
    fixture::wait_for("room", || resize().status.success());
    // Its server has looked at the limit a second later.
    std::thread::sleep(Duration::from_millis(1100));
    assert!(fill(&file, 65536) < 2 * MEBI);
    true_account(&tree, mount);
}

fn a_total_that_is_edited_counts(format: Format) {
    let tree = HumTree::new(format, 8 * MEBI);
    let edit = |total: u64| {
        let text = fs::read_to_string(tree.at("superblock")).unwrap();
        let kept: String = text.lines().filter(|line| !line.starts_with("total ")).map(|line| format!("{line}\n")).collect();
        fs::write(tree.at("superblock"), format!("{kept}total {total}\n")).unwrap();
    };
    let mount = tree.mount("");
    assert!(fill(&mount.path().join("one"), 65536) < 8 * MEBI);
    mount.finish();
    edit(20 * MEBI);
    let mount = tree.mount("");
    assert_eq!(rustix::fs::statvfs(mount.path()).unwrap().f_blocks, 20 * MEBI / BLOCK);
    assert!(fill(&mount.path().join("two"), 65536) > 11 * MEBI);
    // While it is mounted, it counts too, and is not undone.
    edit(4 * MEBI);
    assert_eq!(rustix::fs::statvfs(mount.path()).unwrap().f_blocks, 4 * MEBI / BLOCK);
    assert_eq!(fs::write(mount.path().join("three"), [1; 65536]).map_err(errno), Err(Errno::NOSPC));
    mount.finish();
    assert_eq!(tree.superblock().total, 4 * MEBI);
    let mount = tree.mount("");
    assert_eq!(File::create(mount.path().join("four")).map(drop).map_err(errno), Err(Errno::NOSPC), "there is less than is used");
    assert_eq!(rustix::fs::statvfs(mount.path()).unwrap().f_bfree, 0);
    assert_eq!(fs::metadata(mount.path().join("two")).unwrap().size(), fs::read(mount.path().join("two")).unwrap().len() as u64);
    for name in ["one", "two"] {
        fs::remove_file(mount.path().join(name)).unwrap();
    }
    assert!(fill(&mount.path().join("three"), 65536) > 3 * MEBI);
    true_account(&tree, mount);
}
