//! Trees made by the original: Debian's own `humfsify` converts a directory,
//! and what it made is mounted, with every owner and mode right.

use externfs_tests::fixture::{self, Mount, cache_dir, temp_dir};
use externfs_tests::harness::{self, Case, skip};
use externfs_tests::ordinary;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    ordinary::in_own_mounts(|| {
        harness::main(vec![
            Case::new("a_tree_of_debians_humfsify_is_what_it_was", a_tree_of_debians_humfsify_is_what_it_was),
            Case::new("our_humfsify_makes_the_same_of_it", our_humfsify_makes_the_same_of_it),
        ])
    })
}

/// Debian's program, out of its package, which is not installed for it: that
/// would start daemons.
fn debians() -> PathBuf {
    let dir = cache_dir().join("uml-utilities");
    let program = dir.join("usr/bin/humfsify");
    if !program.is_file() {
        std::fs::create_dir_all(&dir).expect("a directory");
        let fetch = format!("cd {} && apt-get download -q uml-utilities && dpkg-deb -x uml-utilities*.deb .", dir.display());
        let fetched = fixture::output(Command::new("sh").args(["-c", &fetch]));
        if !fetched.status.success() {
            skip("apt-get has no package uml-utilities to fetch");
        }
    }
    program
}

/// A directory `tree` with `data` in it: what the original can take. It is
/// confused by spaces in names, and forgets setuid.
fn directory() -> tempfile::TempDir {
    fixture::need_root();
    ordinary::need();
    let dir = temp_dir();
    let script = "\
mkdir -p tree/data/dir/sub; cd tree/data
echo hello >file; chown 1:2 file; chmod 640 file; ln file dir/other
ln -s file link; chown -h 7:8 link
mkfifo pipe; chmod 600 pipe; chown 4294967294:3 pipe
mknod disk b 8 17; chmod 660 disk; chown 0:6 disk
mknod null c 1 3; chmod 666 null
chown 5:6 dir; chmod 750 dir; chmod 1777 dir/sub
touch -d @1000000000.5 file dir";
    fixture::succeed(Command::new("sh").args(["-euc", script]).current_dir(dir.path()));
    dir
}

/// Path, type, permission bits, owner, device, target, contents.
fn picture(root: &Path) -> Vec<String> {
    let listing = "find . -mindepth 1 -printf '%p %y %U:%G %l %n ' -exec stat -c '%a %t:%T %s %Y' {} \\; | sort; cat file dir/other";
    fixture::succeed(Command::new("sh").args(["-euc", listing]).current_dir(root)).lines().map(str::to_owned).collect()
}

/// As the original keeps it: without setuid, setgid and sticky.
fn remembered(picture: &[String]) -> Vec<String> {
    picture.iter().map(|line| line.replace(" 1777 ", " 777 ")).collect()
}

fn a_tree_of_debians_humfsify_is_what_it_was() {
    let program = debians();
    let dir = directory();
    let tree = dir.path().join("tree");
    let before = picture(&tree.join("data"));
    let user = ordinary::USER.to_string();
    fixture::succeed(Command::new("perl").arg(program).args([&user, &user, "100M"]).current_dir(&tree));
    // The user who serves it keeps things of his own beside the data.
    ordinary::give(&tree);
    let mount = Mount::humfs(&tree, "allow_other");
    assert_eq!(picture(mount.path()), remembered(&before));
    assert_eq!(mount.path().metadata().expect("the root").uid(), 0);
    // Its real nodes are never opened, and can be removed like any other.
    assert!(mount.path().join("null").symlink_metadata().expect("null").file_type().is_char_device());
    std::fs::remove_file(mount.path().join("null")).expect("removed");
    std::fs::write(mount.path().join("new"), "data").expect("written");
    mount.finish();
    let record = std::fs::read_to_string(tree.join("file_metadata/new")).expect("the record");
    assert_eq!(record, "420 0 0\n");
    assert!(!tree.join("file_metadata/null").exists());
}

fn our_humfsify_makes_the_same_of_it() {
    let dir = directory();
    let tree = dir.path().join("tree");
    let before = picture(&tree.join("data"));
    let ours = fixture::binary().with_file_name("humfsify");
    let ours = if ours.is_file() { ours } else { built() };
    let user = ordinary::USER.to_string();
    fixture::succeed(Command::new(&ours).args([&user, &user, "100M"]).current_dir(&tree));
    let text = std::fs::read_to_string(tree.join("superblock")).expect("superblock");
    assert!(text.starts_with("version 2\nmetadata shadow_fs\nused ") && text.ends_with("total 104857600\n"), "{text}");
    ordinary::give(&tree);
    let mount = Mount::humfs(&tree, "allow_other");
    // All twelve bits, this time.
    assert_eq!(picture(mount.path()), before);
    mount.finish();
    // And back to where it was.
    fixture::succeed(Command::new(&ours).arg("-r").current_dir(&tree));
    assert_eq!(picture(&tree.join("data")), before);
    assert!(!tree.join("superblock").exists() && !tree.join("file_metadata").exists());
}

/// The program beside the one under test may have been left where it was built.
fn built() -> PathBuf {
    let own = std::env::current_exe().expect("own path");
    let profile = own.ancestors().find(|dir| dir.ends_with("debug") || dir.ends_with("release")).expect("cargo's directory");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "-p", "externfs-tools", "--bin", "humfsify"]).current_dir(fixture::workspace());
    assert!(build.status().expect("cargo").success(), "humfsify does not build");
    profile.join("humfsify")
}
