//! One table of escapes, run on both resolvers.

use super::*;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;

const RESOLVERS: [Resolver; 2] = [Resolver::Openat2, Resolver::Manual];

/// `jail/` is exported, `outside/` must never be seen.
struct Tree {
    _top: TempDir,
    jail: PathBuf,
    outside: PathBuf,
}

impl Tree {
    fn new() -> Tree {
        let top = tempfile::tempdir().unwrap();
        let (jail, outside) = (top.path().join("jail"), top.path().join("outside"));
        std::fs::create_dir_all(jail.join("dir/deep")).unwrap();
        std::fs::create_dir_all(outside.join("deep")).unwrap();
        std::fs::write(outside.join("canary"), "canary").unwrap();
        std::fs::write(jail.join("file"), "file").unwrap();
        Tree { _top: top, jail, outside }
    }

    fn open(&self, resolver: Resolver, one_file_system: bool) -> Jail {
        let root = Jail::open_root(&self.jail).unwrap();
        let jail = Jail::new(root, Some(resolver), one_file_system).unwrap();
        assert_eq!(jail.resolver(), resolver);
        jail
    }
}

fn c(text: &str) -> CString {
    CString::new(text).unwrap()
}

fn ino(fd: &OwnedFd) -> u64 {
    rustix::fs::fstat(fd).unwrap().st_ino
}

fn ino_of(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(path).unwrap().ino()
}

#[test]
fn links_are_found_and_never_followed() {
    let tree = Tree::new();
    let targets: [(&str, &str); 8] = [
        ("absolute", tree.outside.to_str().unwrap()),
        ("relative", "../outside"),
        ("up", ".."),
        ("inside", "dir"),
        ("to-file", "file"),
        ("chain", "absolute"),
        ("self", "self"),
        ("proc", "/proc/self/root"),
    ];
    for (name, target) in targets {
        symlink(target, tree.jail.join(name)).unwrap();
    }
    for resolver in RESOLVERS {
        let jail = tree.open(resolver, false);
        for (name, _) in targets {
            let link = jail.child(jail.root(), &c(name)).unwrap();
            assert_eq!(ino(&link), ino_of(&tree.jail.join(name)), "{resolver:?} {name}: the link itself");
            let refused = jail.child_dir(jail.root(), &c(name)).unwrap_err();
            assert!(matches!(refused, Errno::LOOP | Errno::NOTDIR), "{resolver:?} {name}: {refused}");
            for path in [name.to_owned(), format!("{name}/deep"), format!("dir/../{name}")] {
                assert!(jail.walk(path.as_bytes()).is_err(), "{resolver:?} {path}");
            }
            let refused = jail.create_new(jail.root(), &c(name), OFlags::WRONLY, Mode::RWXU).unwrap_err();
            assert_eq!(refused, Errno::EXIST, "{resolver:?} {name}");
        }
    }
    assert_eq!(std::fs::read(tree.outside.join("canary")).unwrap(), b"canary");
    assert_eq!(std::fs::read_dir(&tree.outside).unwrap().count(), 2, "nothing was made outside");
}

#[test]
fn a_component_is_one_component() {
    let tree = Tree::new();
    for resolver in RESOLVERS {
        let jail = tree.open(resolver, false);
        for name in ["", ".", "..", "/", "/etc", "dir/deep", "../outside", "dir/..", "/proc/self/root"] {
            let name = c(name);
            assert_eq!(jail.child(jail.root(), &name).unwrap_err(), Errno::INVAL, "{resolver:?} {name:?}");
            assert_eq!(jail.child_dir(jail.root(), &name).unwrap_err(), Errno::INVAL, "{resolver:?} {name:?}");
            let made = jail.create_new(jail.root(), &name, OFlags::WRONLY, Mode::RWXU);
            assert_eq!(made.unwrap_err(), Errno::INVAL, "{resolver:?} {name:?}");
            let file = jail.child(jail.root(), c"file").unwrap();
            assert_eq!(jail.link(file.as_fd(), jail.root(), &name).unwrap_err(), Errno::INVAL, "{resolver:?} {name:?}");
        }
        let long = c(&"x".repeat(256));
        assert_eq!(jail.child(jail.root(), &long).unwrap_err(), Errno::NAMETOOLONG);
        assert_eq!(jail.child(jail.root(), c"missing").unwrap_err(), Errno::NOENT);
    }
}

#[test]
fn a_path_to_a_subdirectory_stays_below() {
    let tree = Tree::new();
    for resolver in RESOLVERS {
        let jail = tree.open(resolver, false);
        for good in ["dir/deep", "./dir//deep/", "dir/./deep"] {
            assert_eq!(ino(&jail.walk(good.as_bytes()).unwrap()), ino_of(&tree.jail.join("dir/deep")), "{good}");
        }
        for (bad, errno) in [
            ("..", Errno::XDEV),
            ("dir/../..", Errno::XDEV),
            ("dir/..", Errno::XDEV),
            ("/", Errno::XDEV),
            ("/etc", Errno::XDEV),
            ("file", Errno::NOTDIR),
            ("file/x", Errno::NOTDIR),
            ("dir/missing", Errno::NOENT),
            ("dir\0", Errno::INVAL),
        ] {
            assert_eq!(jail.walk(bad.as_bytes()).unwrap_err(), errno, "{resolver:?} {bad:?}");
        }
    }
}

#[test]
fn magic_links_lead_nowhere() {
    // Exporting /proc is allowed, if strange; its magic links are still not
    // followed.
    for resolver in RESOLVERS {
        let jail = Jail::new(Jail::open_root(Path::new("/proc/self")).unwrap(), Some(resolver), false).unwrap();
        for name in [c"root", c"cwd", c"exe"] {
            assert!(jail.child_dir(jail.root(), name).is_err(), "{resolver:?} {name:?}");
            let link = jail.child(jail.root(), name).unwrap();
            assert_eq!(rustix::fs::fstat(&link).unwrap().st_mode & libc::S_IFMT, libc::S_IFLNK, "{resolver:?}");
        }
        assert!(jail.walk(b"fd/0").is_err());
        assert!(jail.walk(b"root/etc").is_err());
    }
}

#[test]
fn one_file_system_ends_at_a_mount() {
    // /proc is a mount below the root directory on every Linux.
    for resolver in RESOLVERS {
        let root = || Jail::open_root(Path::new("/")).unwrap();
        let confined = Jail::new(root(), Some(resolver), true).unwrap();
        assert_eq!(confined.child_dir(confined.root(), c"proc").unwrap_err(), Errno::XDEV, "{resolver:?}");
        assert_eq!(confined.child(confined.root(), c"proc").unwrap_err(), Errno::XDEV, "{resolver:?}");
        let free = Jail::new(root(), Some(resolver), false).unwrap();
        assert!(free.child_dir(free.root(), c"proc").is_ok(), "{resolver:?}");
    }
}

#[test]
fn what_is_not_a_file_is_reached_without_opening_it() {
    let tree = Tree::new();
    let fifo = tree.jail.join("fifo");
    rustix::fs::mknodat(CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
    for resolver in RESOLVERS {
        let jail = tree.open(resolver, false);
        let fd = jail.child(jail.root(), c"fifo").unwrap();
        // A writer that does not wait finds no reader: nobody has opened it.
        let writer = rustix::fs::openat(CWD, &fifo, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty());
        assert_eq!(writer.unwrap_err(), Errno::NXIO, "{resolver:?}");
        drop(fd);
    }
}

#[test]
fn containment_is_found_by_climbing() {
    let tree = Tree::new();
    let jail = tree.open(Resolver::Openat2, false);
    let deep = jail.walk(b"dir/deep").unwrap();
    assert!(jail.contains(deep.as_fd()).unwrap());
    assert!(jail.contains(jail.root()).unwrap());
    std::fs::rename(tree.jail.join("dir/deep"), tree.jail.join("moved")).unwrap();
    assert!(jail.contains(deep.as_fd()).unwrap(), "moved within the jail");
    std::fs::rename(tree.jail.join("moved"), tree.outside.join("moved")).unwrap();
    assert!(!jail.contains(deep.as_fd()).unwrap(), "moved out of it");
}

/// Runs `f` again and again on another thread until it is dropped.
struct Racer {
    stop: std::sync::Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Racer {
    fn start(mut f: impl FnMut() + Send + 'static) -> Racer {
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                f();
            }
        });
        Racer { stop, thread: Some(thread) }
    }
}

impl Drop for Racer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn a_directory_swapped_for_a_link_does_not_leak() {
    let tree = Tree::new();
    symlink(&tree.outside, tree.jail.join("trap")).unwrap();
    let (dir, trap) = (tree.jail.join("dir"), tree.jail.join("trap"));
    let outside = ino_of(&tree.outside.join("deep"));
    let inside = ino_of(&tree.jail.join("dir/deep"));
    for resolver in RESOLVERS {
        let jail = tree.open(resolver, false);
        let (a, b) = (dir.clone(), trap.clone());
        let _racer = Racer::start(move || {
            rustix::fs::renameat_with(CWD, &a, CWD, &b, rustix::fs::RenameFlags::EXCHANGE).unwrap();
        });
        let (mut found, mut refused) = (0, 0);
        let began = std::time::Instant::now();
        while (found < 50 || refused < 50) && began.elapsed() < std::time::Duration::from_secs(20) {
            match jail.walk(b"dir/deep") {
                Ok(fd) => {
                    assert_ne!(ino(&fd), outside, "{resolver:?} has left the jail");
                    assert_eq!(ino(&fd), inside);
                    found += 1;
                }
                Err(Errno::LOOP | Errno::NOTDIR) => refused += 1,
                Err(other) => panic!("{resolver:?}: {other}"),
            }
        }
        assert!(found > 0 && refused > 0, "the race was run: {found} {refused}");
    }
}

/// The numbers in the parent's `/proc/self/fd` are the parent's.
#[test]
fn a_forked_process_reopens_its_own_descriptors() {
    let tree = Tree::new();
    for resolver in RESOLVERS {
        let jail = tree.open(resolver, false);
        let same = |name: &CStr| {
            let found = jail.child(jail.root(), name).unwrap();
            let opened = jail.reopen_unchecked(found.as_fd(), OFlags::RDONLY);
            opened.is_ok_and(|opened| ino(&opened) == ino(&found))
        };
        assert!(same(c"file"));
        // The child's next descriptor stands for another file in the parent.
        assert!(sys::in_child(|| {
            let in_the_way = rustix::fs::openat(jail.root(), c"file", OFlags::RDONLY, Mode::empty());
            in_the_way.is_ok() && same(c"file") && same(c"dir")
        }));
        assert!(same(c"file"), "the parent goes on as before");
    }
}

/// A file system that is mounted anyway plays our own mount's part.
#[test]
fn our_own_mount_is_not_entered() {
    let proc = Stat::of_name(rustix::fs::CWD, c"/proc").unwrap().volume() as u32;
    for resolver in RESOLVERS {
        for (one_file_system, answer) in [(false, Errno::LOOP), (true, Errno::XDEV)] {
            let jail = Jail::new(Jail::open_root(Path::new("/")).unwrap(), Some(resolver), one_file_system).unwrap();
            let inside = Jail::open_root(Path::new("/proc/self")).unwrap();
            assert!(jail.contains(inside.as_fd()).unwrap());
            jail.keep_out_of(HostMount { major: proc >> 20, minor: proc & 0xf_ffff, covered: None }).unwrap();
            assert_eq!(jail.child(jail.root(), c"proc").unwrap_err(), answer, "{resolver:?}");
            assert_eq!(jail.child_dir(jail.root(), c"proc").unwrap_err(), answer, "{resolver:?}");
            assert_eq!(jail.stat(jail.root(), c"proc").err(), Some(answer), "{resolver:?}");
            assert!(jail.stat(jail.root(), c"usr").is_ok() && jail.child(jail.root(), c"usr").is_ok());
            // What lies over the way up hides what is above.
            assert!(!jail.contains(inside.as_fd()).unwrap());
        }
    }
}

/// Runs `test` in a mount namespace of its own; not where that takes a right that
/// we have not got.
fn with_own_mounts(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let body = || {
            // SAFETY: this thread shares nothing that it takes away from others.
            #[allow(unsafe_code)]
            let is_apart = unsafe { libc::unshare(libc::CLONE_NEWNS) } == 0;
            if !is_apart {
                println!("skipped: no mount namespace may be made here");
                return;
            }
            run("mount", &["--make-rprivate", "/"]);
            test();
        };
        scope.spawn(body).join().unwrap();
    });
}

fn run(program: &str, args: &[&str]) {
    let status = std::process::Command::new(program).args(args).status().unwrap();
    assert!(status.success(), "{program} {args:?}");
}

/// A mount of something else, at `point`, as if it were ours.
fn mount_at(point: &Path) -> HostMount {
    let covered = Jail::open_root(point).unwrap();
    let name = CString::new(point.file_name().unwrap().as_encoded_bytes()).unwrap();
    run("mount", &["-t", "tmpfs", "none", point.to_str().unwrap()]);
    let volume = Stat::of_fd(Jail::open_root(point).unwrap().as_fd()).unwrap().volume() as u32;
    HostMount { major: volume >> 20, minor: volume & 0xf_ffff, covered: Some((covered, name)) }
}

#[test]
fn what_a_mount_covers_is_shown_where_it_is_and_nowhere_else() {
    with_own_mounts(|| {
        let tree = Tree::new();
        for resolver in RESOLVERS {
            let jail = tree.open(resolver, false);
            let key = |fd: BorrowedFd<'_>| Stat::of_fd(fd).unwrap().key();
            let (above, root) = (jail.walk(b"dir").unwrap(), jail.root());
            let (dir, deep) = (key(above.as_fd()), key(jail.walk(b"dir/deep").unwrap().as_fd()));
            let point = tree.jail.join("dir/deep");
            jail.keep_out_of(mount_at(&point)).unwrap();
            let found = |at, name: &CStr| jail.covered(deep, at, name).map(|fd| key(fd.unwrap().as_fd()));
            let here = (above.as_fd(), dir);
            assert_eq!(found(here, c"deep"), Some(deep));
            assert_eq!(key(jail.child(above.as_fd(), c"deep").unwrap().as_fd()), deep);
            assert_eq!(jail.stat(above.as_fd(), c"deep").unwrap().key(), deep);
            assert_eq!(found((root, key(root)), c"deep"), None);
            assert_eq!(found(here, c"dir"), None);
            // Without the mount the name leads to whatever has it.
            run("umount", &[point.to_str().unwrap()]);
            assert_eq!(found(here, c"deep"), None);
            // And what is not where it was is no longer shown, whoever is there.
            std::fs::rename(&point, tree.outside.join("moved")).unwrap();
            std::fs::create_dir(&point).unwrap();
            let again = mount_at(&point);
            assert_eq!(found(here, c"deep"), None);
            // The new mount may have got the old one's number, or another one.
            let child = jail.child(above.as_fd(), c"deep");
            assert!(child.as_ref().is_err_and(|errno| *errno == Errno::LOOP) || child.is_ok_and(|fd| key(fd.as_fd()) != deep));
            drop(again);
            run("umount", &[point.to_str().unwrap()]);
            jail.forget_own();
            assert!(jail.child(above.as_fd(), c"deep").is_ok());
            std::fs::remove_dir(&point).unwrap();
            std::fs::rename(tree.outside.join("moved"), &point).unwrap();
        }
    });
}

#[test]
fn what_is_covered_elsewhere_is_not_shown() {
    with_own_mounts(|| {
        let tree = Tree::new();
        for resolver in RESOLVERS {
            // Outside, and the root itself.
            for other in [&tree.outside, &tree.jail] {
                let jail = tree.open(resolver, false);
                let covered = Stat::of_fd(Jail::open_root(other).unwrap().as_fd()).unwrap().key();
                let above = Jail::open_root(other.parent().unwrap()).unwrap();
                let name = CString::new(other.file_name().unwrap().as_encoded_bytes()).unwrap();
                jail.keep_out_of(mount_at(other)).unwrap();
                let at = (above.as_fd(), Stat::of_fd(above.as_fd()).unwrap().key());
                assert!(jail.covered(covered, at, &name).is_none());
                run("umount", &[other.to_str().unwrap()]);
            }
            // The root is a bind of the tree, in which nobody may write.
            let bind = tempfile::tempdir().unwrap();
            let (from, to) = (tree.jail.to_str().unwrap(), bind.path().to_str().unwrap());
            run("mount", &["--bind", from, to]);
            run("mount", &["-o", "remount,bind,ro", to]);
            let jail = Jail::new(Jail::open_root(bind.path()).unwrap(), Some(resolver), false).unwrap();
            let above = jail.walk(b"dir").unwrap();
            let at = (above.as_fd(), Stat::of_fd(above.as_fd()).unwrap().key());
            let deep = Stat::of_fd(jail.walk(b"dir/deep").unwrap().as_fd()).unwrap().key();
            let point = tree.jail.join("dir/deep");
            jail.keep_out_of(mount_at(&point)).unwrap();
            assert!(jail.covered(deep, at, c"deep").is_none());
            run("umount", &[point.to_str().unwrap()]);
            drop((jail, above));
            run("umount", &[to]);
        }
    });
}
