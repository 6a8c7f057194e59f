//! Nothing outside a humfs tree can be reached, whatever a guest sends and
//! whatever the host's user has planted in any part of the tree: a server that
//! root runs must not be led out by it either. Each row on every format.

use externfs::*;
use externfs_tests::driver::TreeView;
use externfs_tests::escape::{SECRET, check_refused, hostile_names, requests_with, try_everything, try_node};
use externfs_tests::guest::Guest;
use externfs_tests::harness::{self, Case};
use externfs_tests::humtree::paths_below;
use externfs_tests::wire_client::WireClient;
use externfs_tests::{fixture, host_driver};
use humfs::check::{CheckOptions, Progress};
use humfs::make::Plan;
use humfs::store::Format;
use rustix::fs::{CWD, FileType, Mode as Bits, RenameFlags as Flags, mknodat};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const ROOT: NodeId = NodeId::ROOT;

type Attack = fn(Format);

const CASES: &[(&str, Attack)] = &[
    ("hostile_names_are_refused_in_every_field", hostile_names_are_refused_in_every_field),
    ("links_in_the_data_lead_nowhere", links_in_the_data_lead_nowhere),
    ("links_anywhere_lead_nowhere", links_anywhere_lead_nowhere),
    ("special_files_anywhere_are_never_opened", special_files_anywhere_are_never_opened),
    ("links_for_what_is_yet_to_come_lead_nowhere", links_for_what_is_yet_to_come_lead_nowhere),
    ("races_do_not_let_anything_out", races_do_not_let_anything_out),
];

fn main() -> std::process::ExitCode {
    let formats = Format::ALL.into_iter();
    let cases = formats.flat_map(|format| {
        let named = move |(name, run): &(&str, fn(Format))| {
            let run = *run;
            Case::new(format!("{name}_{}", format.name()), move || run(format))
        };
        CASES.iter().map(named)
    });
    harness::main(cases)
}

/// `tree` is served; `outside` beside it is the canary.
struct Scene {
    dir: TempDir,
    before: TreeView,
}

impl Scene {
    fn new(format: Format) -> Scene {
        let dir = fixture::temp_dir();
        for sub in ["outside", "outside/dir"] {
            fs::create_dir(dir.path().join(sub)).unwrap();
        }
        for file in ["secret", "metadata", "state", "dir/secret", "dir/metadata", "dir/1"] {
            fs::write(dir.path().join("outside").join(file), SECRET).unwrap();
        }
        let plan = Plan { format, total: 1 << 30, inodes: None, adopt: None };
        humfs::make::lay(&dir.path().join("tree"), &plan).unwrap();
        let mut scene = Scene { dir, before: TreeView::new() };
        scene.before = scene.canary();
        scene.populate();
        scene
    }

    /// Objects with records of every sort.
    fn populate(&self) {
        let guest = self.guest().unwrap();
        let sub = guest.mkdir(ROOT, "dir").unwrap();
        let deep = guest.mkdir(sub.id, "deep").unwrap();
        for (parent, text) in [(ROOT, "file"), (sub.id, "file"), (sub.id, "secret"), (deep.id, "secret")] {
            let entry = guest.file(parent, text, b"harmless").unwrap();
            let owner = SetAttr { uid: Some(GuestUid(5)), gid: Some(GuestGid(6)), mode: Some(Mode::new(0o4711)), ..SetAttr::default() };
            guest.set(entry.id, owner).unwrap();
            guest.export.set_xattr(&guest.caller, entry.id, b"user.note", b"1", XattrFlags::empty()).unwrap();
        }
        guest.export.set_xattr(&guest.caller, sub.id, b"user.note", b"1", XattrFlags::empty()).unwrap();
        let linked = guest.lookup(ROOT, "file").unwrap();
        guest.keep(guest.export.link(&guest.caller, linked.id, ROOT, Name::new(b"linked").unwrap())).unwrap();
        self.leave(guest);
    }

    fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    /// A guest on the tree, if it can be opened.
    fn guest(&self) -> std::result::Result<Guest, String> {
        let options = humfs::Options::default();
        let bridge = humfs::open(&self.tree(), &options).map_err(|error| error.0)?;
        Ok(Guest::new(bridge.as_ref()))
    }

    /// The guest goes, and the tree is left in order, if it can be.
    fn leave(&self, guest: Guest) {
        let _ = guest.export.sync();
        guest.finish();
    }

    fn canary(&self) -> TreeView {
        let mut view = host_driver::tree_view(&self.dir.path().join("outside")).unwrap();
        view.values_mut().for_each(|node| node.times[0] = Timestamp::default());
        view
    }

    fn check(&self, what: &str) {
        assert!(self.canary() == self.before, "{what}: the outside has changed");
        let mut names: Vec<_> = fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["outside", "tree"], "{what}: something was made outside");
    }

    /// Serves the tree as it is, and tries everything in it.
    fn attack(&self, what: &str) {
        if let Ok(guest) = self.guest() {
            try_tree(&guest);
            let _ = guest.export.sync();
            // What it holds may be in no order that anybody can leave it in.
            drop(guest);
        }
        self.check(what);
        for repair in [false, true] {
            let options = CheckOptions { repair, ..CheckOptions::default() };
            let _ = humfs::check::check(&self.tree(), &options, &Progress::default());
            self.check(&format!("{what}, checked"));
        }
    }
}

fn try_tree(guest: &Guest) {
    let _ = guest.names(ROOT);
    for text in ["file", "linked", "dir", "trap", "metadata"] {
        try_everything(guest, ROOT, text);
    }
    if let Ok(sub) = guest.lookup(ROOT, "dir") {
        let _ = guest.names(sub.id);
        for text in ["file", "secret", "deep", "trap", "metadata"] {
            try_everything(guest, sub.id, text);
        }
        let _ = guest.lookup(sub.id, "deep").and_then(|deep| guest.lookup(deep.id, "secret")).map(|entry| try_node(guest, entry.id));
        let _ = guest.file(sub.id, "fresh", b"new").map(|entry| try_node(guest, entry.id));
        let _ = guest.rename(sub.id, "fresh", "file", RenameFlags::EXCHANGE);
        let _ = guest.rename(sub.id, "file", "moved", RenameFlags::WHITEOUT);
    }
    let _ = guest.rename(ROOT, "dir", "elsewhere", RenameFlags::empty());
    let _ = guest.rename(ROOT, "elsewhere", "dir", RenameFlags::empty());
}

fn hostile_names_are_refused_in_every_field(format: Format) {
    let scene = Scene::new(format);
    let bridge = humfs::open(&scene.tree(), &humfs::Options::default()).unwrap();
    let inside = || -> Vec<PathBuf> {
        let mut paths = paths_below(&scene.tree());
        // Directories of the store's own may be made when they are first needed.
        paths.retain(|path| path.starts_with(scene.tree().join("data")));
        paths.sort();
        paths
    };
    let before = inside();
    let mut client = WireClient::new(bridge.connect().unwrap());
    for text in &hostile_names() {
        for (opcode, args) in requests_with(text) {
            let what = format!("{opcode:?} of {:?}", text.escape_ascii().to_string());
            check_refused(&mut client, opcode, text, &args, &what);
            scene.check(&what);
            assert_eq!(inside(), before, "{what}");
        }
    }
}

fn links_in_the_data_lead_nowhere(format: Format) {
    let scene = Scene::new(format);
    let absolute = scene.dir.path().join("outside").display().to_string();
    let targets = [
        ("absolute", absolute.clone()),
        ("absolute-file", format!("{absolute}/secret")),
        ("relative", "../../outside".to_owned()),
        ("dot-dot", "..".to_owned()),
        ("superblock", "../superblock".to_owned()),
        ("loop", "loop".to_owned()),
        ("magic-root", "/proc/self/root".to_owned()),
        ("magic-fd", "/proc/self/fd/0".to_owned()),
        ("inside", "dir".to_owned()),
    ];
    for (link, target) in &targets {
        symlink(target, scene.tree().join("data").join(link)).unwrap();
    }
    let guest = scene.guest().unwrap();
    for (link, target) in &targets {
        let what = format!("{link} -> {target}");
        let entry = guest.lookup(ROOT, link).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(entry.attr.kind, FileKind::Symlink, "{what}");
        assert_eq!(guest.export.read_link(entry.id).unwrap(), target.as_bytes(), "{what}");
        assert_eq!(guest.lookup(entry.id, "secret").err(), Some(Errno::ENOTDIR), "{what}");
        try_everything(&guest, ROOT, link);
        assert!(guest.create(ROOT, link, false).is_err(), "{what}: creating opened through the link");
        assert!(guest.mkdir(ROOT, link).is_err(), "{what}");
        scene.check(&what);
        guest.rename(ROOT, link, "elsewhere", RenameFlags::empty()).unwrap_or_else(|e| panic!("{what}: {e}"));
        guest.unlink(ROOT, "elsewhere").unwrap_or_else(|e| panic!("{what}: {e}"));
        scene.check(&what);
    }
    scene.leave(guest);
}

/// All that is in the tree but the tree itself, deepest last.
fn parts(scene: &Scene) -> Vec<PathBuf> {
    let mut parts = paths_below(&scene.tree()).split_off(1);
    // The same in each tree made so.
    parts.sort();
    parts
}

/// Puts something in the place of `part`, which goes aside or away.
fn replace(part: &Path, plant: impl Fn(&Path)) {
    if part.symlink_metadata().unwrap().is_dir() {
        fs::remove_dir_all(part).unwrap();
    } else {
        fs::remove_file(part).unwrap();
    }
    plant(part);
}

/// In place of each part of a tree, one after the other: data, records, the
/// database, counters, locks, intents, the superblock.
fn links_anywhere_lead_nowhere(format: Format) {
    let count = parts(&Scene::new(format)).len();
    for number in 0..count {
        for target in ["outside/dir", "outside/secret", "outside/none"] {
            let scene = Scene::new(format);
            let Some(part) = parts(&scene).get(number).cloned() else { continue };
            replace(&part, |part| symlink(scene.dir.path().join(target), part).unwrap());
            let part = part.strip_prefix(scene.tree()).unwrap();
            scene.attack(&format!("{} -> {target}", part.display()));
        }
    }
    println!("    {count} parts");
}

/// Whoever opens a FIFO hangs, and the time limit of the case says so.
fn special_files_anywhere_are_never_opened(format: Format) {
    fixture::need_root();
    let count = parts(&Scene::new(format)).len();
    for number in 0..count {
        for (kind, device) in [(FileType::Fifo, 0), (FileType::Socket, 0), (FileType::CharacterDevice, rustix::fs::makedev(1, 5))] {
            let scene = Scene::new(format);
            let Some(part) = parts(&scene).get(number).cloned() else { continue };
            replace(&part, |part| mknodat(CWD, part, kind, Bits::from_raw_mode(0o600), device).unwrap());
            let part = part.strip_prefix(scene.tree()).unwrap();
            scene.attack(&format!("{} is a {kind:?}", part.display()));
        }
    }
}

/// Where humfs will make something.
fn links_for_what_is_yet_to_come_lead_nowhere(format: Format) {
    let places = [
        "superblock.new",
        "data/trap",
        "data/dir/trap",
        "data/dir/made",
        "file_metadata/trap",
        "file_metadata/dir/made",
        "file_metadata/dir/fresh",
        "dir_metadata/dir/made-dir",
        "dir_metadata/dir/deep/metadata",
        "file_attributes",
        "file_attributes/dir/fresh",
        "dir_attributes",
        "humfs/1",
        "humfs/stage/0",
        "humfs/stage/1",
        "humfs/intents/1",
        "humfs/changes/1",
        "humfs/settings",
        "humfs/superblock.lock",
        "humfs/metadata.db-wal",
        "humfs/metadata.db-shm",
        "humfs/metadata.db.new",
        "humfs/metadata.log",
        "humfs/convert",
        "humfs/switching",
    ];
    for place in places {
        for target in ["outside/dir", "outside/secret", "outside/none"] {
            let scene = Scene::new(format);
            let path = scene.tree().join(place);
            if !path.parent().is_some_and(Path::is_dir) {
                continue;
            }
            if path.symlink_metadata().is_ok() {
                replace(&path, |_| {});
            }
            symlink(scene.dir.path().join(target), &path).unwrap();
            scene.attack(&format!("{place} -> {target}"));
        }
    }
}

/// Host processes exchange parts of the tree with links that lead out, while a
/// guest works in it.
fn races_do_not_let_anything_out(format: Format) {
    let scene = Scene::new(format);
    let tree = scene.tree();
    let mut pairs = Vec::new();
    for place in
        ["data/dir", "data/file", "file_metadata/dir", "file_metadata/file", "dir_metadata/dir", "file_attributes/dir", "humfs/stage"]
    {
        let part = tree.join(place);
        if part.symlink_metadata().is_ok() {
            // Beside the parts, where no guest looks.
            let trap = tree.join(format!("trap-{}", place.replace('/', "-")));
            symlink(scene.dir.path().join("outside/dir"), &trap).unwrap();
            pairs.push((part, trap));
        }
    }
    let guest = scene.guest().unwrap();
    let (stop, swaps, worked) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let end = Instant::now() + Duration::from_secs(3);
    std::thread::scope(|scope| {
        for (part, trap) in &pairs {
            let (stop, swaps) = (&stop, &swaps);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if rustix::fs::renameat_with(CWD, part, CWD, trap, Flags::EXCHANGE).is_ok() {
                        swaps.fetch_add(1, Ordering::Relaxed);
                    }
                    std::thread::yield_now();
                }
            });
        }
        let workers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    while Instant::now() < end {
                        for text in ["file", "dir", "linked"] {
                            worked.fetch_add(try_everything(&guest, ROOT, text) as u64, Ordering::Relaxed);
                        }
                        let _ = guest.lookup(ROOT, "dir").map(|sub| try_everything(&guest, sub.id, "secret"));
                        let _ = guest.file(ROOT, "fresh", b"x").and_then(|_| guest.unlink(ROOT, "fresh"));
                        let _ = guest.mkdir(ROOT, "fresh-dir").and_then(|_| guest.rmdir(ROOT, "fresh-dir"));
                    }
                })
            })
            .collect();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        stop.store(true, Ordering::Relaxed);
    });
    let (swaps, worked) = (swaps.into_inner(), worked.into_inner());
    println!("    {worked} operations worked during {swaps} swaps of {} parts", pairs.len());
    assert!(swaps > 100 && worked > 20, "hardly a race: {swaps} swaps, {worked} operations");
    drop(guest);
    scene.check("races");
}
