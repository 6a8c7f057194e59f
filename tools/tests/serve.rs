//! `externfs serve`: sockets and a mount from one process.

mod support;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use support::{Place, Running, can_mount, eventually, externfs, processes_with, succeeds};

/// Serves `place` on two sockets and its mount point.
fn serve(place: &Place) -> (Running, [PathBuf; 2]) {
    serve_with(place, "rw")
}

fn serve_with(place: &Place, options: &str) -> (Running, [PathBuf; 2]) {
    let (source, point) = (place.source(), place.point());
    let sockets = ["a", "b"].map(|name| place.path().join(name));
    let [a, b] = &sockets;
    let words: [&OsStr; 11] = ["serve", "hostfs", "", "--socket", "", "--socket", "", "--mount", "", "-o", options].map(OsStr::new);
    let mut words = words;
    (words[2], words[4], words[6], words[8]) = (source.as_os_str(), a.as_os_str(), b.as_os_str(), point.as_os_str());
    let running = Running::start(&words);
    eventually("the mount", || place.is_mounted() && point.join("hello").exists());
    (running, sockets)
}

#[test]
fn a_signal_ends_all_of_it() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let (mut running, sockets) = serve(&place);
    fs::write(place.point().join("new"), "through the mount").expect("write");
    assert_eq!(fs::read_to_string(place.source().join("new")).expect("read"), "through the mount");
    for socket in &sockets {
        let mode = fs::metadata(socket).expect("socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "for its owner only");
        UnixStream::connect(socket).expect("it listens");
    }
    running.signal("TERM");
    assert_eq!(running.ends(), Some(0));
    assert!(!place.is_mounted() && sockets.iter().all(|socket| !socket.exists()));
}

#[test]
fn a_server_that_dies_takes_mount_and_sockets_along() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let (mut running, sockets) = serve(&place);
    let supervisor = running.0.id();
    let server = processes_with(&place.path().display().to_string()).into_iter().find(|pid| *pid != supervisor).expect("a server");
    assert!(std::process::Command::new("kill").args(["-9", &server.to_string()]).status().expect("kill").success());
    assert_eq!(running.ends(), Some(1));
    assert!(!place.is_mounted() && sockets.iter().all(|socket| !socket.exists()));
}

/// The mount is one more client of the export that guests have.
#[test]
fn nodev_and_nosuid_hold_with_a_mount_beside_the_guests() {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let (mut running, _) = serve_with(&place, "nodev,nosuid");
    let made = mknod(&place.point().join("device"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o600), makedev(1, 3));
    assert_eq!(made, Err(nix::Error::EPERM));
    let set = fs::set_permissions(place.point().join("hello"), fs::Permissions::from_mode(0o4755)).expect_err("refused");
    assert_eq!(set.raw_os_error(), Some(libc::EPERM));
    running.signal("TERM");
    assert_eq!(running.ends(), Some(0));
}

#[test]
fn guests_are_served_when_the_mount_is_gone() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let (mut running, sockets) = serve(&place);
    support::succeeds(&mut place.umount());
    assert!(running.0.try_wait().expect("wait").is_none(), "it goes on");
    UnixStream::connect(&sockets[0]).expect("it listens");
    running.signal("INT");
    assert_eq!(running.ends(), Some(0));
}

#[test]
fn what_is_changed_after_the_signal_is_in_the_catalog() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let (tree, socket) = (place.path().join("tree"), place.path().join("a"));
    succeeds(externfs(["create", "--size", "64M"]).arg(&tree));
    let words: [&OsStr; 7] = ["serve", "humfs", "", "--socket", "", "--mount", ""].map(OsStr::new);
    let (mut words, point) = (words, place.point());
    (words[2], words[4], words[6]) = (tree.as_os_str(), socket.as_os_str(), point.as_os_str());
    let mut running = Running::start(&words);
    eventually("the mount", || place.is_mounted() && fs::write(point.join("early"), "").is_ok());
    // It sits in a mount that nobody finds any more, and goes on.
    let mut sitting = Command::new("sh");
    sitting.args(["-c", "read go && sleep 1 && echo x > late"]).current_dir(&point).stdin(Stdio::piped());
    let mut sitting = Running(sitting.spawn().expect("starts"));
    running.signal("TERM");
    eventually("it to be unmounted", || !place.is_mounted());
    let mut input = sitting.0.stdin.take().expect("its input");
    std::io::Write::write_all(&mut input, b"go\n").expect("it listens");
    assert_eq!((sitting.ends(), running.ends()), (Some(0), Some(0)));
    // The server has left the tree in order: nothing is looked at anew.
    assert!(tree.join("humfs/catalog/current").exists());
    let names = succeeds(externfs(["query"]).arg(&tree).arg("select name from root_fs order by 1"));
    assert_eq!(names, "/early\n/late\n");
}
