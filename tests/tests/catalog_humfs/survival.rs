//! What becomes of a catalog between two mounts: by a kill, by an unmount, and by
//! whoever is at the tree meanwhile.

use crate::compare;
use crate::load;
use externfs_catalog::barrier::Standing;
use externfs_tests::fixture::{Mount, binary, succeed, wait_for};
use externfs_tests::humtree::{HumTree, TOTAL, paths_below};
use externfs_tests::{cases, ordinary, random};
use humfs::store::Format;
use rusqlite::Connection;
use rustix::fs::{CWD, FileType, Mode};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A size that no file here has.
const FALSE_SIZE: i64 = 123_456_789;

/// Changes of one thread before something happens.
const SOME: usize = 150;

fn marker(tree: &HumTree) -> PathBuf {
    tree.at("humfs/catalog/current")
}

fn random_tree(format: Format) -> (HumTree, Mount) {
    let tree = HumTree::new(format, TOTAL);
    let mount = tree.mount("");
    let counts = load::run(mount.path(), random::seed(), 2, SOME);
    assert!(counts.values().sum::<usize>() > SOME / 2, "hardly anything succeeded: {counts:?}");
    (tree, mount)
}

/// Killed in the middle of changes, served again, compared.
pub(crate) fn a_kill_costs_a_scan_and_no_more(format: Format) {
    let tree = HumTree::new(format, TOTAL);
    let seed = random::seed();
    for kill in 0..cases(3) {
        let seed = seed.wrapping_add(u64::from(kill));
        let mount = tree.mount("");
        std::thread::scope(|scope| {
            let root = mount.path().to_path_buf();
            scope.spawn(move || load::run(&root, seed, 3, 400));
            std::thread::sleep(Duration::from_millis(50 + seed % 400));
            // A batch may be on its way, or just be over.
            if seed.is_multiple_of(2) {
                compare::standing(&tree);
            }
            assert!(!marker(&tree).exists(), "the catalog is said to be right while the tree changes");
            mount.kill();
        });
        let mount = tree.mount("");
        compare::check(&tree, mount.path(), &format!("EXTERNFS_TEST_SEED={seed}, after a kill"));
        mount.finish();
    }
}

/// The catalog as it was left is the catalog that goes on: a false row stays
/// until something is said of its object.
pub(crate) fn an_unmount_costs_no_scan(format: Format) {
    let (tree, mount) = random_tree(format);
    fs::write(mount.path().join("false"), "x").expect("a file");
    mount.finish();
    assert!(marker(&tree).is_file(), "the catalog is not said to be right");
    plant(&tree, &format!("UPDATE inode SET size={FALSE_SIZE} WHERE ino=(SELECT ino FROM dentry WHERE name=x'66616c7365')"));
    let mount = tree.mount("");
    let told = |tree: &HumTree| {
        let sql = "SELECT size FROM root_fs WHERE name='/false'";
        compare::open(tree).query_row(sql, [], |row| row.get::<_, i64>(0)).expect("the file")
    };
    assert_eq!(compare::standing(&tree), Standing::Current, "it is not there at once");
    assert_eq!(told(&tree), FALSE_SIZE, "the tree was scanned");
    assert!(!marker(&tree).exists(), "the catalog is said to be right while the tree is served");
    fs::write(mount.path().join("false"), "true").expect("a file");
    compare::check(&tree, mount.path(), "after the false row's file was written");
    mount.finish();
}

/// As a hand with the sqlite3 shell would.
fn plant(tree: &HumTree, sql: &str) {
    let conn = Connection::open(compare::database(tree)).expect("the catalog opens");
    conn.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    conn.close().expect("the catalog closes");
    hand_over(tree);
}

/// Gives what was put there to the tree's user. The ctime of what the guest
/// sees must not move.
fn hand_over(tree: &HumTree) {
    paths_below(&tree.at("humfs")).iter().for_each(|path| ordinary::give(path));
}

/// Something that is done to a tree that nobody serves.
struct Meddling {
    what: &'static str,
    act: fn(&HumTree),
    /// A catalog is kept afterwards; else the server says why not.
    is_kept: bool,
}

const fn spoilt(what: &'static str, act: fn(&HumTree)) -> Meddling {
    Meddling { what, act, is_kept: true }
}

const MEDDLINGS: &[Meddling] = &[
    spoilt("nothing", |_| {}),
    spoilt("a mount without a catalog", |tree| {
        let mount = tree.mount("catalog=off");
        load::run(mount.path(), random::seed(), 2, SOME);
        mount.finish();
    }),
    spoilt("a reader's mount", |tree| tree.mount("ro").finish()),
    spoilt("a change of owners", |tree| {
        let mut chown = Command::new(binary());
        chown.args(["chown", "-R"]).arg(tree.path()).args(["77:78", "/"]);
        ordinary::act(&mut chown);
        succeed(&mut chown);
    }),
    spoilt("another label", |tree| tree.mount("label=other").finish()),
    spoilt("no database", |tree| fs::remove_file(compare::database(tree)).expect("rm")),
    spoilt("half a database", |tree| cut(tree, |length| length / 2)),
    spoilt("a page too few", |tree| cut(tree, |length| length - 4096)),
    spoilt("an empty database", |tree| cut(tree, |_| 0)),
    spoilt("no database but noise", |tree| fs::write(compare::database(tree), vec![0xa5; 40_960]).expect("noise")),
    spoilt("somebody's trigger", |tree| {
        plant(tree, "CREATE TRIGGER theirs AFTER INSERT ON inode BEGIN UPDATE inode SET uid=0; END");
    }),
    spoilt("somebody's view", |tree| plant(tree, "DROP VIEW root_usage; CREATE VIEW root_usage AS SELECT 1")),
    spoilt("somebody's table", |tree| plant(tree, "CREATE TABLE theirs(x)")),
    spoilt("another version", |tree| plant(tree, "PRAGMA user_version=77")),
    spoilt("half a scan", |tree| plant(tree, "UPDATE state SET v=0 WHERE k='complete'; DELETE FROM dentry")),
    spoilt("a link for the database", |tree| instead(&compare::database(tree), |path| link_out(tree, path))),
    spoilt("a link for its log", |tree| link_out(tree, &tree.at("humfs/catalog/catalog.db-wal"))),
    spoilt("a link for its memory", |tree| link_out(tree, &tree.at("humfs/catalog/catalog.db-shm"))),
    spoilt("a link for its journal", |tree| link_out(tree, &tree.at("humfs/catalog/catalog.db-journal"))),
    spoilt("a FIFO for the database", |tree| instead(&compare::database(tree), make_fifo)),
    spoilt("a FIFO for its log", |tree| make_fifo(&tree.at("humfs/catalog/catalog.db-wal"))),
    spoilt("a link for the socket", |tree| instead(&tree.at("humfs/catalog/socket"), |path| link_out(tree, path))),
    Meddling {
        what: "a directory for the database",
        act: |tree| instead(&compare::database(tree), |path| fs::create_dir(path).expect("mkdir")),
        is_kept: false,
    },
    Meddling { what: "a FIFO for the marker", act: |tree| instead(&marker(tree), make_fifo), is_kept: true },
    Meddling { what: "a link for the directory", act: |tree| instead_of_dir(tree, |path| link_out(tree, path)), is_kept: false },
    Meddling { what: "a FIFO for the directory", act: |tree| instead_of_dir(tree, make_fifo), is_kept: false },
    Meddling {
        what: "a file for the directory",
        act: |tree| instead_of_dir(tree, |path| fs::write(path, "").expect("a file")),
        is_kept: false,
    },
    spoilt("no directory", |tree| instead_of_dir(tree, |_| {})),
];

fn cut(tree: &HumTree, to: impl Fn(u64) -> u64) {
    let file = fs::File::options().write(true).open(compare::database(tree)).expect("the database");
    let length = file.metadata().expect("fstat").len();
    file.set_len(to(length)).expect("ftruncate");
}

fn instead(path: &Path, make: impl FnOnce(&Path)) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{path:?}: {error}"),
        _ => make(path),
    }
}

fn instead_of_dir(tree: &HumTree, make: impl FnOnce(&Path)) {
    let path = tree.at("humfs/catalog");
    fs::remove_dir_all(&path).expect("rm -r");
    make(&path);
}

fn make_fifo(path: &Path) {
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("mkfifo");
}

/// What nobody may touch.
fn outside(tree: &HumTree) -> PathBuf {
    tree.path().with_extension("outside")
}

fn link_out(tree: &HumTree, path: &Path) {
    symlink(outside(tree), path).expect("symlink");
}

const PRECIOUS: &str = "precious";

/// Whatever was done: the tree is served, and the catalog right or given up aloud.
pub(crate) fn what_is_done_meanwhile_is_noticed(format: Format) {
    let (tree, mount) = random_tree(format);
    mount.finish();
    fs::write(outside(&tree), PRECIOUS).expect("a file");
    ordinary::give(&outside(&tree));
    for (number, meddling) in MEDDLINGS.iter().enumerate() {
        (meddling.act)(&tree);
        hand_over(&tree);
        let mut mount = tree.mount("");
        let what = meddling.what;
        load::run(mount.path(), random::seed().wrapping_add(number as u64), 2, 30);
        if meddling.is_kept {
            compare::check(&tree, mount.path(), what);
        } else {
            let refusal = || mount.server.log().contains("catalog");
            wait_for(&format!("{what}: the server says that it keeps no catalog"), refusal);
        }
        fs::write(mount.path().join("served"), "x").unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(!mount.server.has_ended(), "{what}: {}", mount.server.log());
        mount.finish();
        assert_eq!(fs::read_to_string(outside(&tree)).expect("the file outside"), PRECIOUS, "{what}: a link was followed");
        repair(&tree);
    }
}

/// Takes away what the server rightly leaves where it is.
fn repair(tree: &HumTree) {
    let dir = tree.at("humfs/catalog");
    if !dir.symlink_metadata().is_ok_and(|there| there.is_dir()) {
        let _ = fs::remove_file(&dir);
    }
    let _ = fs::remove_dir(compare::database(tree));
    if marker(tree).symlink_metadata().is_ok_and(|there| !there.is_file()) {
        fs::remove_file(marker(tree)).expect("rm");
    }
    let mount = tree.mount("");
    compare::settle(tree);
    mount.finish();
    assert!(marker(tree).is_file(), "the catalog is not said to be right");
}
