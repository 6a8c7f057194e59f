//! How many requests an operation costs, counted by the kernel. It decides how
//! fast a mount is: each is two changes of processes, whatever the server does.
//!
//! Three are the kernel's own, and no server can spare them while the kernel
//! checks permissions (`default_permissions`): the GETATTR of a directory after each
//! change in it, the GETXATTR (`security.capability`) before a new file's first
//! write and each chown, and the LOOKUP of a name that is about to appear.

use externfs_tests::fixture::{self, Mount};
use externfs_tests::harness;
use externfs_tests::humtree::{HumTree, TOTAL};
use externfs_tests::ordinary;
use externfs_tests::requests::Requests;
use humfs::store::Format;
use rustix::fs::{Advice, CWD, Mode, OFlags};
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::path::Path;

fn main() -> std::process::ExitCode {
    ordinary::in_own_mounts(|| {
        harness::main(externfs_tests::cases![
            hostfs_as_root,
            hostfs_that_is_exclusive,
            humfs_of_an_ordinary_user,
            a_listing_brings_what_is_looked_at_next,
        ])
    })
}

/// A name, an operation on the file of this number, what it asks for.
type Row = (&'static str, fn(&Path), &'static str);

fn open(path: &Path, flags: OFlags) -> fs::File {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o644)).unwrap().into()
}

fn new_file(path: &Path, bytes: &[u8]) {
    let file = open(path, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY);
    if !bytes.is_empty() {
        file.write_all_at(bytes, 0).unwrap();
    }
}

const MIB: usize = 1 << 20;

/// What is there before the first of them.
const THERE: [&str; 4] = ["", "old", "goes", "data"];

/// In this order. `WRITE?` stands for what passthrough spares, `OPEN?` and `RELEASE?`
/// for what a kernel spares that opens nothing, `*` for whatever it may be.
const ROWS: [Row; 16] = [
    ("mkdir", |dir| fs::create_dir(dir.join("d")).unwrap(), "LOOKUP MKDIR"),
    ("create an empty file", |dir| new_file(&dir.join("e"), b""), "LOOKUP CREATE RELEASE?"),
    ("create, write 4 KiB, close", |dir| new_file(&dir.join("f"), &[7; 4096]), "LOOKUP CREATE GETXATTR WRITE? RELEASE?"),
    (
        "create two",
        |dir| ["g", "h"].iter().for_each(|name| new_file(&dir.join(name), b"")),
        "LOOKUP CREATE RELEASE? GETATTR LOOKUP CREATE RELEASE?",
    ),
    ("stat", |dir| assert_eq!(rustix::fs::stat(dir.join("old")).unwrap().st_size, 4096), ""),
    ("a name that is not there", |dir| assert!(fs::metadata(dir.join("none")).is_err()), "LOOKUP"),
    ("the same again", |dir| assert!(fs::metadata(dir.join("none")).is_err()), ""),
    ("chmod", |dir| fs::set_permissions(dir.join("old"), PermissionsExt::from_mode(0o600)).unwrap(), "SETATTR"),
    ("chown", |dir| chown(dir.join("old"), Some(3), Some(4)).unwrap(), "GETXATTR SETATTR"),
    ("setxattr", |dir| rustix::fs::setxattr(dir.join("old"), "user.x", b"y", rustix::fs::XattrFlags::empty()).unwrap(), "SETXATTR"),
    ("getxattr", |dir| assert_eq!(rustix::fs::getxattr(dir.join("old"), "user.x", &mut [0; 8][..]), Ok(1)), "GETXATTR"),
    ("append and close, twice", append_twice, "OPEN? GETXATTR WRITE RELEASE? OPEN? WRITE RELEASE?"),
    ("rename", |dir| fs::rename(dir.join("old"), dir.join("new")).unwrap(), "LOOKUP RENAME"),
    ("unlink", |dir| fs::remove_file(dir.join("goes")).unwrap(), "UNLINK"),
    ("open, read, close", read_cached, "*"),
    ("the same again, cached", read_cached, "OPEN? RELEASE?"),
];

fn append_twice(dir: &Path) {
    for _ in 0..2 {
        open(&dir.join("data"), OFlags::WRONLY | OFlags::APPEND).write_all_at(b"more", 4096).unwrap();
    }
}

fn read_cached(dir: &Path) {
    let mut bytes = [0; 4096];
    open(&dir.join("data"), OFlags::RDONLY).read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, [7; 4096]);
}

fn requests(mount: &Mount, name: &str) -> Requests {
    Requests::of(mount.path(), name).unwrap_or_else(|error| harness::skip(format!("no trace of FUSE: {error}")))
}

/// What a mount does without.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    /// Its data goes past the server.
    Data,
    /// Its kernel opens nothing.
    Opens,
}

/// Says all that is not as it should be.
fn check(mount: &Mount, name: &str, without: Without) {
    let passthrough = without == Without::Data;
    let requests = requests(mount, name);
    let dir = mount.path().join("in");
    fs::create_dir(&dir).unwrap();
    THERE[1..].iter().for_each(|name| new_file(&dir.join(name), &[7; 4096]));
    // With the first it learns that it need not.
    drop(open(&dir.join("old"), OFlags::RDONLY));
    let mut wrong = Vec::new();
    for (what, act, wanted) in ROWS {
        // What a kernel remembers for a second only, it is told once more.
        for name in THERE {
            let _ = rustix::fs::stat(dir.join(name));
        }
        let _ = requests.take().unwrap();
        act(&dir);
        let asked = requests.take().unwrap();
        let wanted = wanted.replace("WRITE?", if passthrough { "" } else { "WRITE" });
        let wanted = match without {
            Without::Opens => wanted.replace("OPEN?", "").replace("RELEASE?", ""),
            _ => wanted.replace('?', ""),
        };
        let wanted: Vec<&str> = wanted.split_whitespace().collect();
        if wanted != ["*"] && asked != wanted {
            wrong.push(format!("{what}: {asked:?}, and not {wanted:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    mebibytes(mount, &requests, passthrough);
}

/// A MiB at a time is one request, or none.
fn mebibytes(mount: &Mount, requests: &Requests, passthrough: bool) {
    const COUNT: usize = 8;
    let path = mount.path().join("large");
    let file = open(&path, OFlags::CREATE | OFlags::RDWR);
    let piece = vec![5; MIB];
    file.write_all_at(&piece, 0).unwrap();
    let _ = requests.take().unwrap();
    for number in 0..COUNT {
        file.write_all_at(&piece, (number * MIB) as u64).unwrap();
    }
    let asked = requests.take().unwrap();
    let most = if passthrough { 0 } else { COUNT };
    let writes = asked.iter().filter(|name| *name == "WRITE").count();
    assert!(writes <= most, "{COUNT} MiB in {writes} WRITEs: {asked:?}");
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    let _ = requests.take().unwrap();
    let mut read = vec![0; MIB];
    for number in 0..COUNT {
        file.read_exact_at(&mut read, (number * MIB) as u64).unwrap();
    }
    let asked = requests.take().unwrap();
    let reads = asked.iter().filter(|name| *name == "READ").count();
    // A kernel that reads ahead asks for less at a time at first.
    assert!(reads <= if passthrough { 0 } else { COUNT * 8 + 8 }, "{COUNT} MiB in {reads} READs: {asked:?}");
    drop(file);
    rustix::fs::unlinkat(CWD, &path, rustix::fs::AtFlags::empty()).unwrap();
}

fn hostfs(options: &str, name: &str, without: Without) {
    fixture::need_root();
    let source = fixture::temp_dir();
    let mount = Mount::new(source.path(), options);
    check(&mount, name, without);
    mount.finish();
}

/// In a tree that is ours alone.
fn where_opens_need_not_be_told() -> Without {
    // From there on a file that is read ahead is held without an open (`kernel.rs` of externfs-fuse).
    if release() >= vec![6, 18, 10] { Without::Opens } else { Without::Nothing }
}

fn release() -> Vec<u32> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    release.split(|c: char| !c.is_ascii_digit()).take(3).map(|number| number.parse().unwrap_or(0)).collect()
}

fn hostfs_as_root() {
    hostfs("allow_other,default_permissions", "hostfs", Without::Data);
}

fn hostfs_that_is_exclusive() {
    hostfs("allow_other,default_permissions,exclusive", "exclusive", Without::Data);
    hostfs("allow_other,default_permissions,exclusive,passthrough=off", "plain", where_opens_need_not_be_told());
}

fn humfs_of_an_ordinary_user() {
    let tree = HumTree::new(Format::Xattr, TOTAL);
    let mount = tree.mount("");
    check(&mount, "humfs", where_opens_need_not_be_told());
    mount.finish();
}

/// What find, du and tar do: read a directory to its end, then look at each
/// name. All but the first 200 were looked up one by one.
fn a_listing_brings_what_is_looked_at_next() {
    const COUNT: u64 = 3000;
    fixture::need_root();
    if release() < vec![6, 18] {
        harness::skip(format!("Linux {:?} asks for a page of names at a time, and decides itself what they bring", release()));
    }
    let source = fixture::temp_dir();
    let dirs = ["one", "two", "three", "four", "five", "six"];
    for dir in dirs {
        fs::create_dir(source.path().join(dir)).unwrap();
        (0..COUNT).for_each(|number| drop(fs::write(source.path().join(dir).join(format!("file-{number:04}")), "x")));
    }
    let mount = Mount::new(source.path(), "allow_other,default_permissions");
    let requests = requests(&mount, "listing");
    // Not `fs::metadata`, which asks for birth times: these are never cached.
    let size = |path: &std::path::PathBuf| rustix::fs::lstat(path).unwrap().st_size;
    let names = |dir: &str| -> Vec<_> { fs::read_dir(mount.path().join(dir)).unwrap().map(|entry| entry.unwrap().path()).collect() };
    let mut in_time = 0;
    for dir in dirs {
        let (before, begun) = (requests.so_far(), std::time::Instant::now());
        let found = names(dir);
        assert_eq!(found.len() as u64, COUNT);
        found.iter().for_each(|path| assert_eq!(size(path), 1));
        let (asked, took) = (requests.so_far() - before, begun.elapsed());
        // What the kernel was told it believes for a second, from its first piece on.
        if took < std::time::Duration::from_millis(700) {
            assert!(asked < COUNT / 40, "{COUNT} names were listed and looked at with {asked} requests");
            in_time += 1;
        }
    }
    assert!(in_time > 0, "to look at {COUNT} names always took longer than a second");
    // Who is content with names soon gets no more than these: what is looked at
    // all of a sudden is looked up.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    (0..10).for_each(|_| assert_eq!(names("one").len() as u64, COUNT));
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let before = requests.so_far();
    assert!(names("one").iter().all(|path| size(path) == 1));
    let asked = requests.so_far() - before;
    assert!(asked > COUNT / 2, "{COUNT} names had attributes that nobody had wanted: {asked} requests");
    mount.finish();
}
