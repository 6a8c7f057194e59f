//! Trees that are ours alone, whose kernel opens nothing (FUSE's zero-message
//! opens): what a program has open it goes on using, whatever becomes of its names,
//! and although the server keeps few files open on its behalf.

use externfs_tests::fixture::{self, Mount, limit_descriptors};
use externfs_tests::harness;
use externfs_tests::humtree::{HumTree, TOTAL};
use externfs_tests::ordinary;
use externfs_tests::requests::Requests;
use humfs::store::Format;
use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, RawDir};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn main() -> std::process::ExitCode {
    ordinary::in_own_mounts(|| {
        harness::main(externfs_tests::cases![
            opens_are_not_told,
            an_open_file_outlives_its_names,
            it_does_so_with_few_descriptors,
            files_are_written_and_read_while_they_are_renamed,
            names_come_and_go_without_end,
            a_file_without_a_name_gets_one,
            a_directory_is_listed_while_it_changes,
            what_is_copied_within_is_whole,
        ])
    })
}

/// More than the server keeps open on a kernel's behalf.
const MANY: usize = 150;

/// Runs `case` on each kind of tree whose kernel opens nothing.
fn on_each(adjust: impl Fn(&mut Command) + Copy, case: impl Fn(&Path)) {
    fixture::need_root();
    for format in [Format::Xattr, Format::Sqlite, Format::ShadowFs] {
        let tree = HumTree::new(format, TOTAL);
        let mount = Mount::humfs_with(&tree.path(), "allow_other", adjust);
        case(mount.path());
        mount.finish();
        fixture::succeed(Command::new(fixture::binary()).arg("check").arg(tree.path()));
    }
    let source = fixture::temp_dir();
    let mount = Mount::with(source.path(), "allow_other,exclusive,passthrough=off", adjust);
    case(mount.path());
    mount.finish();
    if let Some(reason) = tells_opens() {
        harness::skip(reason);
    }
}

/// Why this kernel is asked to tell of each open, if it is.
fn tells_opens() -> Option<String> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let numbers: Vec<u32> = release.split(|c: char| !c.is_ascii_digit()).take(3).map(|number| number.parse().unwrap_or(0)).collect();
    let may = numbers >= vec![6, 19] || numbers >= vec![6, 18, 10];
    (!may).then(|| format!("Linux {release} may not be left to read without opening; the cases ran with opens"))
}

fn open(path: &Path, flags: OFlags) -> File {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o644)).unwrap().into()
}

fn text(file: &File) -> String {
    let mut bytes = vec![0; 1 << 16];
    let count = file.read_at(&mut bytes, 0).unwrap();
    String::from_utf8(bytes[..count].to_vec()).unwrap()
}

/// Uses so many other files that what was open on our behalf closes.
fn use_others(dir: &Path) {
    for number in 0..MANY {
        let path = dir.join(format!("other-{number}"));
        fs::write(&path, number.to_string()).unwrap();
        // What was cached is not read.
        let file = File::open(&path).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        assert_eq!(text(&file), number.to_string());
    }
}

fn drop_pages(file: &File) {
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

fn opens_are_not_told() {
    on_each(
        |_| (),
        |dir| {
            let requests = Requests::of(dir, "unopened").unwrap_or_else(|error| harness::skip(format!("no trace of FUSE: {error}")));
            fs::create_dir(dir.join("d")).unwrap();
            fs::write(dir.join("d/file"), "text").unwrap();
            // Not `fs::read`, which asks for birth times: these are never cached.
            let read = || text(&File::open(dir.join("d/file")).unwrap());
            // What was read has another time of access, which is asked for once more.
            let _ = [0, 1].map(|_| (read(), fs::read_dir(dir.join("d")).unwrap().count()));
            let _ = requests.take().unwrap();
            assert_eq!(read(), "text");
            assert_eq!(fs::read_dir(dir.join("d")).unwrap().count(), 1);
            let asked = requests.take().unwrap();
            if tells_opens().is_none() {
                assert!(asked.is_empty(), "what is cached was asked for: {asked:?}");
            }
            fs::write(dir.join("d/file"), "longer").unwrap();
            let asked = requests.take().unwrap();
            assert!(tells_opens().is_some() || !asked.iter().any(|name| name == "OPEN" || name == "FLUSH"), "{asked:?}");
        },
    );
}

/// Removed, replaced, and opened with rights that its mode takes away.
fn outlives(dir: &Path) {
    let written = open(&dir.join("written"), OFlags::CREATE | OFlags::RDWR);
    rustix::fs::fchmod(&written, Mode::from_raw_mode(0)).unwrap();
    written.write_all_at(b"before", 0).unwrap();
    fs::write(dir.join("read"), "read").unwrap();
    fs::write(dir.join("replaced"), "replaced").unwrap();
    let [read, replaced] = ["read", "replaced"].map(|name| File::open(dir.join(name)).unwrap());
    fs::remove_file(dir.join("written")).unwrap();
    fs::remove_file(dir.join("read")).unwrap();
    fs::write(dir.join("new"), "new").unwrap();
    fs::rename(dir.join("new"), dir.join("replaced")).unwrap();
    use_others(dir);
    for file in [&written, &read, &replaced] {
        drop_pages(file);
    }
    written.write_all_at(b" and after", 6).unwrap();
    assert_eq!((text(&read), text(&replaced)), ("read".into(), "replaced".into()));
    assert_eq!(fs::read(dir.join("replaced")).unwrap(), b"new");
    use_others(dir);
    drop_pages(&written);
    assert_eq!(text(&written), "before and after");
    let there = written.metadata().unwrap();
    assert_eq!((there.nlink(), there.size()), (0, 16));
    written.set_len(6).unwrap();
    written.sync_all().unwrap();
    rustix::fs::fallocate(&written, FallocateFlags::empty(), 0, 8192).unwrap();
    drop_pages(&written);
    assert_eq!(text(&written).trim_end_matches('\0'), "before");
    assert_eq!(written.metadata().unwrap().size(), 8192);
}

fn an_open_file_outlives_its_names() {
    on_each(|_| (), outlives);
}

fn it_does_so_with_few_descriptors() {
    on_each(|command| limit_descriptors(command, 128), outlives);
}

fn files_are_written_and_read_while_they_are_renamed() {
    on_each(
        |_| (),
        |dir| {
            for name in ["one", "two"] {
                fs::create_dir(dir.join(name)).unwrap();
            }
            let path = |place: usize| dir.join(["one", "two"][place]).join("file");
            let file = open(&path(0), OFlags::CREATE | OFlags::RDWR);
            let other = open(&dir.join("one/beside"), OFlags::CREATE | OFlags::RDWR);
            use_others(dir);
            let ends = Instant::now() + Duration::from_millis(1500);
            let done = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for round in 0.. {
                        fs::rename(path(round % 2), path(1 - round % 2)).unwrap();
                        // The directories above move as well.
                        fs::rename(dir.join("one"), dir.join("three")).unwrap();
                        fs::rename(dir.join("three"), dir.join("one")).unwrap();
                        if done.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                });
                let mut rounds = 0u64;
                while Instant::now() < ends {
                    for file in [&file, &other] {
                        file.write_all_at(&rounds.to_ne_bytes(), 0).unwrap();
                        drop_pages(file);
                        let mut bytes = [0; 8];
                        file.read_exact_at(&mut bytes, 0).unwrap();
                        assert_eq!(u64::from_ne_bytes(bytes), rounds);
                        assert_eq!(file.metadata().unwrap().size(), 8);
                    }
                    // What is open on our behalf closes now and then.
                    if rounds.is_multiple_of(200) {
                        use_others(dir);
                    }
                    rounds += 1;
                }
                done.store(true, Ordering::Relaxed);
                assert!(rounds > 10, "{rounds}");
            });
        },
    );
}

/// As git and mail do it: far more often than there may be descriptors.
fn names_come_and_go_without_end() {
    on_each(
        |command| limit_descriptors(command, 256),
        |dir| {
            let path = |name: &str, number: usize| dir.join(format!("{name}-{number}"));
            for number in 0..600 {
                fs::write(path("tmp", number), number.to_string()).unwrap();
                fs::hard_link(path("tmp", number), path("final", number)).unwrap();
                fs::remove_file(path("tmp", number)).unwrap();
            }
            for number in 0..600 {
                assert_eq!(fs::read_to_string(path("final", number)).unwrap(), number.to_string());
                fs::remove_file(path("final", number)).unwrap();
            }
        },
    );
}

fn a_file_without_a_name_gets_one() {
    on_each(
        |_| (),
        |dir| {
            let file = open(dir, OFlags::TMPFILE | OFlags::RDWR);
            file.write_all_at(b"no name", 0).unwrap();
            use_others(dir);
            file.write_all_at(b" yet", 7).unwrap();
            let own = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)));
            rustix::fs::linkat(CWD, &own, CWD, dir.join("named"), AtFlags::SYMLINK_FOLLOW).unwrap();
            use_others(dir);
            file.write_all_at(b"now", 8).unwrap();
            assert_eq!(fs::read(dir.join("named")).unwrap(), b"no name now");
        },
    );
}

/// Names from `dir` on, a few at a time.
fn list(dir: &File, count: usize) -> Vec<String> {
    let mut buffer = Vec::with_capacity(512);
    let mut names = Vec::new();
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        names.push(entry.unwrap().file_name().to_string_lossy().into_owned());
        if names.len() >= count {
            break;
        }
    }
    names
}

fn a_directory_is_listed_while_it_changes() {
    on_each(
        |_| (),
        |dir| {
            let many = dir.join("many");
            fs::create_dir(&many).unwrap();
            for number in 0..1000 {
                fs::write(many.join(format!("file-{number:04}")), "").unwrap();
            }
            // Two who read, each at its own pace, while others are listed and names go.
            let [first, second] = [0, 1].map(|_| File::open(&many).unwrap());
            let mut seen = [list(&first, 1), list(&second, 100)];
            for number in 0..40 {
                let other = dir.join(format!("dir-{number}"));
                fs::create_dir(&other).unwrap();
                assert_eq!(fs::read_dir(&other).unwrap().count(), 0);
            }
            fs::remove_file(many.join("file-0500")).unwrap();
            seen[0].extend(list(&first, usize::MAX));
            seen[1].extend(list(&second, usize::MAX));
            for names in &mut seen {
                names.sort();
                names.dedup();
                let stayed = names.iter().filter(|name| name.starts_with("file-") && *name != "file-0500").count();
                // What the kernel had of a piece that was given up is not told again.
                assert!(stayed > 900, "{stayed} names");
            }
            let left = fs::read_dir(&many).unwrap().map(|entry| fs::remove_file(entry.unwrap().path()).unwrap()).count();
            assert_eq!(left, 999);
            fs::remove_dir(&many).unwrap();
        },
    );
}

fn what_is_copied_within_is_whole() {
    on_each(
        |_| (),
        |dir| {
            let bytes: Vec<u8> = (0..200_000u32).flat_map(u32::to_ne_bytes).collect();
            fs::write(dir.join("from"), &bytes).unwrap();
            let (from, to) = (File::open(dir.join("from")).unwrap(), open(&dir.join("to"), OFlags::CREATE | OFlags::WRONLY));
            fs::remove_file(dir.join("from")).unwrap();
            use_others(dir);
            let (mut read_at, mut write_at) = (0, 0);
            while write_at < bytes.len() as u64 {
                let count = rustix::fs::copy_file_range(&from, Some(&mut read_at), &to, Some(&mut write_at), 1 << 18).unwrap();
                assert!(count > 0);
            }
            assert!(fs::read(dir.join("to")).unwrap() == bytes);
        },
    );
}
