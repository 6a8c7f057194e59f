//! A mount and its source that lie one over or within the other.
//!
//! What is wrong here hangs, and nothing but SIGKILL ends it: the mounts are
//! touched by other processes only, each with a time limit, and what is left is
//! killed and detached.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{can_mount, eventually, externfs, fails, processes_with, run, succeeds, text};

/// A directory in /tmp; whatever is mounted in it goes with it.
struct Ground(tempfile::TempDir);

impl Ground {
    fn new(directories: &[&str]) -> Ground {
        let ground = Ground(tempfile::Builder::new().prefix("tools-overlap-").tempdir_in("/tmp").expect("tempdir"));
        directories.iter().for_each(|name| fs::create_dir_all(ground.at(name)).expect("mkdir"));
        ground
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn name(&self) -> String {
        self.0.path().display().to_string()
    }

    fn mounts(&self) -> Vec<String> {
        let all = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        all.lines().filter_map(|line| line.split(' ').nth(4)).filter(|point| point.starts_with(&self.name())).map(String::from).collect()
    }

    fn mount(&self, plugin: &str, source: &str, point: &str, options: &[&str]) -> Command {
        let mut command = externfs(["mount", plugin]);
        command.arg(self.at(source)).arg(self.at(point)).args(options);
        command
    }

    /// Without `--lazy`: nobody may have it in use.
    fn unmount(&self, point: &str) {
        succeeds(externfs(["umount"]).arg(self.at(point)));
        assert!(!self.mounts().contains(&self.at(point).display().to_string()));
        eventually("both processes to end", || processes_with(&self.name()).is_empty());
    }

    /// What `script` says, run here by a shell.
    fn sh(&self, script: &str) -> String {
        let mut command = Command::new("timeout");
        succeeds(command.args(["-s", "KILL", "20", "sh", "-ec", script]).current_dir(self.0.path()))
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for pid in processes_with(&self.name()) {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
        for point in self.mounts().iter().rev() {
            let _ = Command::new("umount").args(["-l", point]).status();
        }
    }
}

/// Options of the ways to talk to the kernel that there are here.
fn ways() -> Vec<&'static str> {
    let offered = fs::read("/sys/module/fuse/parameters/enable_uring").is_ok_and(|word| word.starts_with(b"Y"));
    if support::needs(offered, "fuse.enable_uring") { vec!["uring=off", "uring=on"] } else { vec!["uring=off"] }
}

#[test]
fn a_directory_is_mounted_over_itself() {
    if !can_mount() {
        return;
    }
    for way in ways() {
        let ground = Ground::new(&["source/dir"]);
        let log = ground.at("source/log").display().to_string();
        succeeds(ground.mount("hostfs", "source", "source", &["-o", way, "--log-file", &log]).env("RUST_LOG", "info"));
        assert_eq!(ground.sh("ls source; echo made > source/dir/made; cat source/dir/made"), "dir\nlog\nmade\n");
        ground.unmount("source");
        assert_eq!(fs::read_to_string(ground.at("source/dir/made")).expect("read"), "made\n");
        assert!(fs::read_to_string(&log).expect("log").contains("serving"));
    }
}

#[test]
fn a_directory_is_mounted_over_the_one_above_it() {
    if !can_mount() {
        return;
    }
    for way in ways() {
        let ground = Ground::new(&["above/source/dir"]);
        succeeds(&mut ground.mount("hostfs", "above/source", "above", &["-o", way]));
        assert_eq!(ground.sh("ls above; echo made > above/dir/made; cat above/dir/made"), "dir\nmade\n");
        ground.unmount("above");
        assert_eq!(fs::read_to_string(ground.at("above/source/dir/made")).expect("read"), "made\n");
    }
}

#[test]
fn a_dead_mount_over_its_source_is_no_obstacle() {
    if !can_mount() {
        return;
    }
    let ground = Ground::new(&["source/dir"]);
    succeeds(&mut ground.mount("hostfs", "source", "source", &[]));
    for pid in processes_with(&ground.name()) {
        // The server may go with its supervisor first.
        let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
    }
    eventually("both processes to end", || processes_with(&ground.name()).is_empty());
    succeeds(&mut ground.mount("hostfs", "source", "source", &[]));
    assert_eq!(ground.sh("ls source"), "dir\n");
    ground.unmount("source");
}

#[test]
fn a_mount_in_its_source_shows_what_it_covers_and_can_be_unmounted() {
    if !can_mount() {
        return;
    }
    let mut lists: Vec<String> = ["resolver=manual", "exclusive", "watch", "cache=none,threads=1"].map(String::from).into();
    lists.extend(ways().iter().map(|way| format!("cache=none,{way}")));
    for list in lists {
        let ground = Ground::new(&["home/view/below", "home/dir"]);
        succeeds(&mut ground.mount("hostfs", "home", "home/view", &["-o", &list]));
        assert_eq!(ground.sh("ls -la home/view/view > /dev/null; ls home/view/view"), "below\n", "{list}");
        ground.sh("echo made > home/view/view/below/made; chmod 700 home/view/view; ! getfattr -n user.x home/view/view 2> /dev/null");
        assert_eq!(ground.sh("cd home/view; find . | sort; stat -c %a view"), ".\n./dir\n./view\n./view/below\n./view/below/made\n700\n");
        assert_eq!(ground.sh("rmdir home/view/view 2>&1 || true; ls home/view").lines().count(), 3, "refused");
        // Past the time for which a directory is believed to be where it was.
        ground.sh("sleep 1.2; test -e home/view/view/below/made; touch home/view/view");
        ground.unmount("home/view");
        assert_eq!(fs::read_to_string(ground.at("home/view/below/made")).expect("read"), "made\n");
    }
}

#[test]
fn a_mount_that_is_bound_into_its_source_is_not_entered() {
    if !can_mount() {
        return;
    }
    for way in ways() {
        let ground = Ground::new(&["home/view", "home/bound", "home/other"]);
        succeeds(&mut ground.mount("hostfs", "home", "home/view", &["-o", &format!("cache=none,threads=2,{way}")]));
        ground.sh("mount --bind home/view home/bound; mount -t tmpfs none home/other; touch home/other/seen");
        let said = ground.sh("LC_ALL=C; export LC_ALL; ls home/view/bound 2>&1 || true; ls home/view/other");
        assert!(said.contains("Too many levels of symbolic links") && said.ends_with("seen\n"), "{said}");
        // Twice as many askers as there are threads, two levels down.
        let ask = "for i in 1 2 3 4 5 6 7 8; do (for j in 1 2 3 4 5 6 7 8; do \
                   stat home/view/view home/bound/bound/view home/bound/view/view home/bound/bound > /dev/null 2>&1 || true; done) & done; wait";
        ground.sh(ask);
        ground.sh("umount home/bound");
        ground.unmount("home/view");
        // The server had directories of it in its cache, as of any other.
        ground.sh("umount home/other");
    }
}

#[test]
fn with_one_file_system_the_mount_in_its_source_is_another_one() {
    if !can_mount() {
        return;
    }
    let ground = Ground::new(&["home/view/below"]);
    succeeds(&mut ground.mount("hostfs", "home", "home/view", &["-o", "one-file-system"]));
    assert!(ground.sh("LC_ALL=C ls home/view/view 2>&1 || true").contains("Invalid cross-device link"));
    ground.unmount("home/view");
}

#[test]
fn served_to_guests_too_it_is_the_same() {
    if !can_mount() {
        return;
    }
    let ground = Ground::new(&["home/view/below"]);
    let (home, socket, view) = (ground.at("home"), ground.at("socket"), ground.at("home/view"));
    let words: [&Path; 7] = ["serve".as_ref(), "hostfs".as_ref(), &home, "--socket".as_ref(), &socket, "--mount".as_ref(), &view];
    let mut running = support::Running::start(&words.map(Path::as_os_str));
    eventually("the mount", || !ground.mounts().is_empty());
    assert_eq!(ground.sh("ls -la home/view/view > /dev/null; ls home/view/view"), "below\n");
    succeeds(externfs(["umount"]).arg(&view));
    running.signal("TERM");
    assert_eq!(running.ends(), Some(0));
}

#[test]
fn an_ordinary_users_mounts_may_overlap_too() {
    if !can_mount() || !support::needs(Path::new("/usr/bin/fusermount3").exists(), "fusermount3 (package fuse3)") {
        return;
    }
    let ground = Ground::new(&["home/view/below", "source/dir", "above/source/dir"]);
    fs::copy(support::PROGRAM, ground.at("externfs")).expect("copy");
    // A /dev/fuse for everybody, as distributions have it, that only we see.
    let script = "mount -t tmpfs none /dev\nmknod -m 666 /dev/null c 1 3\nmknod -m 666 /dev/fuse c 10 229\n\
                  chmod 755 $D; chown -R 65534:65534 $D\ncd $D\n\
                  U='timeout -s KILL 20 setpriv --reuid 65534 --regid 65534 --clear-groups'\n\
                  mounted() { echo $2; $U $D/externfs mount hostfs $D/$1 $D/$2; $U ls $2; $U sh -c \"ls -la $2 $2/*\" > /dev/null; \
                  $U $D/externfs umount $D/$2; }\n\
                  mounted home home/view\nmounted source source\nmounted above/source above";
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "90", "unshare", "-m", "sh", "-ec", script]).env("D", ground.0.path());
    assert_eq!(succeeds(&mut command), "home/view\nview\nsource\ndir\nabove\ndir\n");
    eventually("all processes to end", || processes_with(&ground.name()).is_empty());
}

#[test]
fn what_goes_by_paths_is_refused_before_it_is_mounted() {
    if !can_mount() {
        return;
    }
    let ground = Ground::new(&["above/view", "alias"]);
    succeeds(externfs(["create", "--size", "100M", "--metadata", "sqlite"]).arg(ground.at("above/tree")));
    let parts = &["humfs goes by paths", "choose another mount point"];
    for point in ["above/tree", "above", "above/tree/data"] {
        fails(&mut ground.mount("humfs", "above/tree", point, &[]), 1, parts);
        assert!(ground.mounts().is_empty());
    }
    ground.sh("mount --bind above alias");
    fails(&mut ground.mount("humfs", "above/tree", "alias", &[]), 1, parts);
    ground.sh("umount alias");
    fails(&mut ground.mount("sqlfs", "above/tree", "above", &[]), 1, &["sqlfs goes by paths"]);
    // Beside one another they are in nobody's way.
    let output = run(&mut ground.mount("humfs", "above/tree", "above/view", &[]));
    assert!(output.status.success(), "{}", text(&output.stderr));
    ground.sh("touch above/view/made");
    ground.unmount("above/view");
}
