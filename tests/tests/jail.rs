//! Nothing outside the exported directory can be reached, whatever is sent and
//! whatever races on the host: each row on both resolvers.

use externfs::*;
use externfs_tests::driver::TreeView;
use externfs_tests::escape::{SECRET, check_refused, hostile_names, requests_with, try_everything, try_node};
use externfs_tests::fixture::{self, Mount};
use externfs_tests::guest::{BOTH, Guest, READ};
use externfs_tests::wire_client::WireClient;
use externfs_tests::{harness, host_driver};
use rustix::fs::{CWD, OFlags, ResolveFlags};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const ROOT: NodeId = NodeId::ROOT;
const RESOLVERS: [&str; 2] = ["openat2", "manual"];

fn main() -> std::process::ExitCode {
    harness::main(externfs_tests::cases![
        links_lead_nowhere,
        a_swapped_place_is_not_followed,
        races_do_not_let_anything_out,
        races_through_a_mount_do_not_let_anything_out,
        hostile_names_are_refused_in_every_field,
        a_directory_moved_out_shows_nothing_above,
        special_files_are_never_opened,
        special_files_on_a_mount_are_the_clients_own,
        a_subdirectory_cannot_be_left,
    ])
}

/// `inside` is exported; `outside` beside it is the canary.
struct Scene {
    dir: TempDir,
    before: TreeView,
}

impl Scene {
    fn new() -> Scene {
        let dir = fixture::temp_dir();
        let at = |name: &str| dir.path().join(name);
        for sub in ["inside", "inside/dir", "outside", "outside/dir"] {
            std::fs::create_dir(at(sub)).unwrap();
        }
        for file in ["outside/secret", "outside/dir/secret"] {
            std::fs::write(at(file), SECRET).unwrap();
        }
        for file in ["inside/file", "inside/dir/secret", "inside/dir/file"] {
            std::fs::write(at(file), "harmless").unwrap();
        }
        let mut scene = Scene { dir, before: TreeView::new() };
        scene.before = scene.canary();
        scene
    }

    fn inside(&self, name: &str) -> PathBuf {
        self.dir.path().join("inside").join(name)
    }

    fn outside(&self, name: &str) -> PathBuf {
        self.dir.path().join("outside").join(name)
    }

    /// All of the outside, times included; looking at it moves access times.
    fn canary(&self) -> TreeView {
        let mut view = host_driver::tree_view(&self.dir.path().join("outside")).unwrap();
        view.values_mut().for_each(|node| node.times[0] = Timestamp::default());
        view
    }

    fn check(&self, what: &str) {
        assert!(self.canary() == self.before, "{what}: the outside has changed");
        let mut names: Vec<_> = std::fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert!(names.iter().all(|n| n == "inside" || n == "outside"), "{what}: something was made outside: {names:?}");
    }

    fn connect(&self, resolver: &str, more: &[(&str, &str)]) -> Arc<dyn Connect> {
        let option = |key: &str, value: &str| MountOption { key: key.into(), value: Some(value.into()) };
        let mut options = vec![option("resolver", resolver)];
        options.extend(more.iter().map(|(key, value)| option(key, value)));
        let source = Source { path: self.dir.path().join("inside"), options };
        hostfs::HostFsPlugin.open(&source).unwrap_or_else(|e| panic!("{e}"))
    }

    fn guest(&self, resolver: &str) -> Guest {
        Guest::new(self.connect(resolver, &[]).as_ref())
    }
}

fn links_lead_nowhere() {
    for resolver in RESOLVERS {
        let scene = Scene::new();
        let absolute = scene.outside("").into_os_string().into_string().unwrap();
        let targets = [
            ("absolute", absolute.clone()),
            ("absolute-file", format!("{absolute}secret")),
            ("relative", "../outside".to_owned()),
            ("relative-file", "../outside/secret".to_owned()),
            ("climbing", "../../../../../../../../etc".to_owned()),
            ("loop", "loop".to_owned()),
            ("chain", "absolute".to_owned()),
            ("magic-root", "/proc/self/root".to_owned()),
            ("magic-cwd", "/proc/self/cwd".to_owned()),
            ("magic-fd", "/proc/self/fd/0".to_owned()),
            ("inside", "dir".to_owned()),
            ("dot-dot", "..".to_owned()),
        ];
        for (link, target) in &targets {
            symlink(target, scene.inside(link)).unwrap();
        }
        let guest = scene.guest(resolver);
        for (link, target) in &targets {
            let what = format!("{resolver}: {link} -> {target}");
            let entry = guest.lookup(ROOT, link).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(entry.attr.kind, FileKind::Symlink, "{what}");
            assert_eq!(guest.export.read_link(entry.id).unwrap(), target.as_bytes(), "{what}");
            assert_eq!(guest.lookup(entry.id, "secret").err(), Some(Errno::ENOTDIR), "{what}");
            try_everything(&guest, ROOT, link);
            assert!(guest.create(ROOT, link, false).is_err(), "{what}: creating opened through the link");
            assert!(guest.mkdir(ROOT, link).is_err(), "{what}");
            scene.check(&what);
            // A rename or removal of the link moves the link.
            guest.rename(ROOT, link, "elsewhere", RenameFlags::empty()).unwrap_or_else(|e| panic!("{what}: {e}"));
            guest.unlink(ROOT, "elsewhere").unwrap_or_else(|e| panic!("{what}: {e}"));
            scene.check(&what);
        }
        guest.finish();
    }
}

/// What the host puts where a guest remembers something else.
fn swap_in(scene: &Scene, at: &str, replacement: &str) {
    let (place, aside) = (scene.inside(at), scene.dir.path().join("inside/aside"));
    std::fs::rename(&place, aside).unwrap();
    match replacement {
        "link to a directory" => symlink(scene.outside("dir"), place).unwrap(),
        "link to a file" => symlink(scene.outside("dir/secret"), place).unwrap(),
        "relative link" => symlink("../outside/dir", place).unwrap(),
        "fifo" => make_fifo(&place),
        "nothing" => {}
        other => panic!("{other}"),
    }
}

fn make_fifo(path: &Path) {
    rustix::fs::mknodat(CWD, path, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_bits_truncate(0o666), 0).unwrap();
}

fn a_swapped_place_is_not_followed() {
    for resolver in RESOLVERS {
        for at in ["dir", "dir/file", "file", "dir/deep", "dir/deep/er"] {
            for replacement in ["link to a directory", "link to a file", "relative link", "fifo", "nothing"] {
                let scene = Scene::new();
                std::fs::create_dir_all(scene.inside("dir/deep/er")).unwrap();
                std::fs::write(scene.inside("dir/deep/secret"), "harmless").unwrap();
                let guest = scene.guest(resolver);
                let dir = guest.lookup(ROOT, "dir").unwrap();
                let deep = guest.lookup(dir.id, "deep").unwrap();
                let known = [
                    guest.lookup(ROOT, "file").unwrap().id,
                    guest.lookup(dir.id, "file").unwrap().id,
                    guest.lookup(deep.id, "er").unwrap().id,
                    dir.id,
                    deep.id,
                ];
                swap_in(&scene, at, replacement);
                for id in known {
                    try_node(&guest, id);
                    let _ = guest.lookup(id, "secret").map(|child| try_node(&guest, child.id));
                }
                for (parent, text) in
                    [(ROOT, "dir"), (ROOT, "file"), (dir.id, "file"), (dir.id, "deep"), (deep.id, "er"), (deep.id, "secret")]
                {
                    try_everything(&guest, parent, text);
                }
                scene.check(&format!("{resolver}: {at} became {replacement}"));
                guest.finish();
            }
        }
    }
}

/// Host processes that exchange names as fast as they can.
struct Swappers {
    stop: Arc<AtomicBool>,
    swaps: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Swappers {
    fn start(scene: &Scene, pairs: &[(&str, &str)]) -> Swappers {
        let (stop, swaps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let spawn = |(a, b): &(&str, &str)| {
            let (a, b, stop, swaps) = (scene.inside(a), scene.inside(b), stop.clone(), swaps.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // A guest may have renamed or removed one of the two.
                    if rustix::fs::renameat_with(CWD, &a, CWD, &b, rustix::fs::RenameFlags::EXCHANGE).is_ok() {
                        swaps.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        };
        let threads = pairs.iter().map(spawn).collect();
        Swappers { stop, swaps, threads }
    }
}

impl Drop for Swappers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn trap(scene: &Scene) -> [(&'static str, &'static str); 3] {
    symlink(scene.outside("dir"), scene.inside("dir-trap")).unwrap();
    symlink(scene.outside("secret"), scene.inside("file-trap")).unwrap();
    std::fs::create_dir_all(scene.inside("deep/dir")).unwrap();
    std::fs::write(scene.inside("deep/dir/secret"), "harmless").unwrap();
    symlink("../../outside/dir", scene.inside("deep/trap")).unwrap();
    [("dir", "dir-trap"), ("file", "file-trap"), ("deep/dir", "deep/trap")]
}

fn races_do_not_let_anything_out() {
    for resolver in RESOLVERS {
        let scene = Scene::new();
        let pairs = trap(&scene);
        let guest = scene.guest(resolver);
        let deep = guest.lookup(ROOT, "deep").unwrap();
        let swappers = Swappers::start(&scene, &pairs);
        let end = Instant::now() + Duration::from_secs(3);
        let worked = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while Instant::now() < end {
                        for (parent, text) in
                            [(ROOT, "dir"), (ROOT, "dir-trap"), (ROOT, "file"), (ROOT, "file-trap"), (deep.id, "dir"), (deep.id, "trap")]
                        {
                            worked.fetch_add(try_everything(&guest, parent, text) as u64, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        let swaps = swappers.swaps.load(Ordering::Relaxed);
        drop(swappers);
        let worked = worked.load(Ordering::Relaxed);
        println!("    {resolver}: {worked} operations worked during {swaps} swaps");
        assert!(swaps > 100 && worked > 100, "hardly a race: {swaps} swaps, {worked} operations");
        scene.check(&format!("{resolver}: races"));
        guest.finish();
    }
}

/// The kernel follows links for its client; one that follows none reaches only
/// what the server gives it.
fn races_through_a_mount_do_not_let_anything_out() {
    fixture::need_root();
    for resolver in RESOLVERS {
        let scene = Scene::new();
        let pairs = trap(&scene);
        let mount = Mount::new(&scene.dir.path().join("inside"), &format!("resolver={resolver},cache=none"));
        let swappers = Swappers::start(&scene, &pairs);
        let root = rustix::fs::open(mount.path(), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, rustix::fs::Mode::empty()).unwrap();
        let end = Instant::now() + Duration::from_secs(2);
        let no_links = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        let (mut opened, mut made) = (0, 0);
        while Instant::now() < end {
            for path in ["dir/secret", "file", "dir-trap/secret", "file-trap", "deep/dir/secret", "deep/trap/secret"] {
                let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
                let Ok(fd) = rustix::fs::openat2(&root, path, flags, rustix::fs::Mode::empty(), no_links) else { continue };
                let mut data = [0; 32];
                let count = rustix::io::pread(&fd, &mut data, 0).unwrap_or(0);
                assert_ne!(&data[..count], SECRET, "{path} led outside");
                let _ = rustix::io::pwrite(&fd, b"harmful!", 0);
                opened += 1;
            }
            for path in ["dir/made", "dir-trap/made", "deep/dir/made", "deep/trap/made"] {
                let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
                let mode = rustix::fs::Mode::from_bits_truncate(0o600);
                made += usize::from(rustix::fs::openat2(&root, path, flags, mode, no_links).is_ok());
            }
        }
        drop((swappers, root));
        println!("    {resolver}: opened {opened} and made {made} files in the race");
        assert!(opened > 20 && made > 20, "hardly a race: {opened} opened, {made} made");
        scene.check(&format!("{resolver}: races through a mount"));
        mount.finish();
    }
}

fn hostile_names_are_refused_in_every_field() {
    for resolver in RESOLVERS {
        let scene = Scene::new();
        let inside = |scene: &Scene| host_driver::tree_view(&scene.dir.path().join("inside")).unwrap().into_keys().collect::<Vec<_>>();
        let before = inside(&scene);
        let export = scene.connect(resolver, &[]).connect().unwrap();
        let mut client = WireClient::new(export);
        for text in &hostile_names() {
            for (opcode, args) in requests_with(text) {
                let what = format!("{resolver}: {opcode:?} of {:?}", text.escape_ascii().to_string());
                check_refused(&mut client, opcode, text, &args, &what);
                scene.check(&what);
                assert_eq!(inside(&scene), before, "{what}");
            }
        }
    }
}

fn a_directory_moved_out_shows_nothing_above() {
    for resolver in RESOLVERS {
        let scene = Scene::new();
        let guest = scene.guest(resolver);
        let dir = guest.lookup(ROOT, "dir").unwrap();
        let file = guest.lookup(dir.id, "file").unwrap();
        let parking = fixture::temp_dir();
        std::fs::write(parking.path().join("secret"), SECRET).unwrap();
        std::fs::rename(scene.inside("dir"), parking.path().join("moved")).unwrap();
        match guest.keep(guest.export.lookup_parent(dir.id)) {
            Ok(parent) => assert_eq!(parent.id, ROOT, "{resolver}: .. of a moved directory leads out"),
            Err(errno) => assert!(errno == Errno::ESTALE || errno == Errno::ENOENT || errno == Errno::EXDEV, "{resolver}: {errno}"),
        }
        try_node(&guest, file.id);
        try_everything(&guest, dir.id, "file");
        assert_eq!(std::fs::read(parking.path().join("secret")).unwrap(), SECRET);
        let mut names: Vec<_> = std::fs::read_dir(parking.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["moved", "secret"], "{resolver}: something was made beside the moved directory");
        assert_eq!(guest.lookup(ROOT, "dir").err(), Some(Errno::ENOENT), "{resolver}: its old name is gone");
        scene.check(resolver);
        guest.finish();
    }
}

/// A FIFO without a peer blocks whoever opens it: the time limit of this case
/// is half of the test. The other half is that no descriptor of one appears.
fn special_files_are_never_opened() {
    fixture::need_root();
    for resolver in RESOLVERS {
        let scene = Scene::new();
        let mode = rustix::fs::Mode::from_bits_truncate(0o666);
        for (text, kind, device) in [
            ("fifo", rustix::fs::FileType::Fifo, 0),
            ("sock", rustix::fs::FileType::Socket, 0),
            // A driver that is surely there, and one that surely is not.
            ("null", rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
            ("gone", rustix::fs::FileType::BlockDevice, rustix::fs::makedev(4000, 77)),
        ] {
            rustix::fs::mknodat(CWD, scene.inside(text), kind, mode, device).unwrap();
        }
        let guest = scene.guest(resolver);
        for text in ["fifo", "sock", "null", "gone"] {
            let entry = guest.lookup(ROOT, text).unwrap();
            let every =
                [READ, BOTH, OpenFlags { read: false, ..BOTH }, OpenFlags { truncate: true, ..BOTH }, OpenFlags { exec: true, ..READ }];
            for flags in every {
                assert!(guest.open(entry.id, flags).is_err(), "{resolver}: {text} was opened with {flags:?}");
            }
            assert!(guest.create(ROOT, text, false).is_err(), "{resolver}: {text} was opened by creating it");
            assert!(guest.open_dir(entry.id).is_err());
            assert!(guest.set(entry.id, SetAttr { size: Some(0), ..SetAttr::default() }).is_err(), "{resolver}: {text} was truncated");
            try_node(&guest, entry.id);
            let open: Vec<_> =
                std::fs::read_dir("/proc/self/fd").unwrap().flatten().filter_map(|e| std::fs::read_link(e.path()).ok()).collect();
            assert!(
                !open.iter().any(|p| p.ends_with(text) && p.starts_with(scene.dir.path())),
                "{resolver}: a descriptor of {text} is left: {open:?}"
            );
            guest.unlink(ROOT, text).unwrap();
        }
        guest.finish();
    }
}

fn special_files_on_a_mount_are_the_clients_own() {
    fixture::need_root();
    let scene = Scene::new();
    make_fifo(&scene.inside("fifo"));
    let mount = Mount::new(&scene.dir.path().join("inside"), "");
    // Two clients of one mount meet in the FIFO; the server plays no part.
    let (reader_path, writer_path) = (mount.path().join("fifo"), mount.path().join("fifo"));
    let reader = std::thread::spawn(move || std::fs::read(reader_path).unwrap());
    std::fs::write(writer_path, "through the pipe").unwrap();
    assert_eq!(reader.join().unwrap(), b"through the pipe");
    assert!(!mount.server.descriptors().iter().any(|p| p.ends_with("fifo")), "the server holds the FIFO");
    mount.finish();
}

fn a_subdirectory_cannot_be_left() {
    for resolver in RESOLVERS {
        let scene = Scene::new();
        symlink("../outside", scene.inside("way-out")).unwrap();
        let open = |subdir: &str| {
            let option = |key: &str, value: &str| MountOption { key: key.into(), value: Some(value.into()) };
            let options = vec![option("resolver", resolver), option("subdir", subdir)];
            hostfs::HostFsPlugin.open(&Source { path: scene.dir.path().join("inside"), options }).map(drop)
        };
        for bad in ["..", "../outside", "dir/../../outside", "way-out", "way-out/dir", "/etc", "file", "absent"] {
            let told = open(bad);
            assert!(told.is_err(), "{resolver}: subdir={bad} was accepted");
        }
        let connect = scene.connect(resolver, &[("subdir", "dir")]);
        let guest = Guest::new(connect.as_ref());
        assert_eq!(guest.names(ROOT).unwrap(), ["file", "secret"]);
        let top = guest.keep(guest.export.lookup_parent(ROOT)).unwrap();
        assert_eq!(top.id, ROOT);
        guest.finish();
    }
}
