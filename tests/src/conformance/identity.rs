//! Which object is which, and for how long.

use super::Subject;
use crate::guest::{BOTH, Guest, name};
use externfs::*;

const ROOT: NodeId = NodeId::ROOT;

pub(super) fn hard_links_are_one_node(_: &Subject, guest: &Guest) {
    let first = guest.file(ROOT, "a", b"1").expect("file");
    let dir = guest.mkdir(ROOT, "d").expect("mkdir");
    let second = guest.keep(guest.export.link(&guest.caller, first.id, dir.id, name("b"))).expect("link");
    assert_eq!((first.id, first.attr.ino), (second.id, second.attr.ino));
    assert_eq!(second.attr.nlink, 2);
    assert_eq!(guest.lookup(dir.id, "b").expect("lookup").id, first.id);
    guest.unlink(ROOT, "a").expect("unlink");
    assert_eq!(guest.attr(first.id).expect("attr").nlink, 1, "the other name's count is told at once");
    assert_eq!(guest.contents(first.id), Ok(b"1".to_vec()));
    guest.set(first.id, SetAttr { mode: Some(Mode::new(0o600)), ..SetAttr::default() }).expect("chmod through the id");
    assert_eq!(guest.lookup(dir.id, "b").expect("lookup").attr.mode.bits(), 0o600);
    let link = guest.export.link(&guest.caller, dir.id, ROOT, name("dd")).map_err(|e| e.errno());
    assert_eq!(link.err(), Some(Errno::EPERM), "a directory has one name");
}

pub(super) fn a_number_stays_while_it_is_remembered(_: &Subject, guest: &Guest) {
    let file = guest.file(ROOT, "f", b"x").expect("file");
    let dir = guest.mkdir(ROOT, "d").expect("mkdir");
    guest.export.rename(&guest.caller, (ROOT, name("f")), (dir.id, name("g")), RenameFlags::empty()).expect("rename into the directory");
    assert_eq!(guest.contents(file.id), Ok(b"x".to_vec()), "an id outlives a rename");
    assert_eq!(guest.lookup(dir.id, "g").expect("lookup").id, file.id);
    guest.rename(ROOT, "d", "e", RenameFlags::empty()).expect("rename its directory");
    assert_eq!(guest.contents(file.id), Ok(b"x".to_vec()), "and one of its directory");
    assert_eq!(guest.lookup(dir.id, "g").expect("lookup").id, file.id);
}

pub(super) fn a_removed_file_works_while_open(_: &Subject, guest: &Guest) {
    let (entry, handle) = guest.create(ROOT, "f", true).expect("create");
    guest.write(handle, 0, b"before").expect("write");
    guest.unlink(ROOT, "f").expect("unlink");
    guest.write(handle, 6, b" and after").expect("write");
    assert_eq!(guest.read(handle, 0, 100), Ok(b"before and after".to_vec()));
    let attr = guest.export.get_attr(entry.id, Some(handle)).expect("attr through the handle").0;
    assert_eq!((attr.nlink, attr.size), (0, 16));
    let change = SetAttr { size: Some(3), ..SetAttr::default() };
    guest.export.set_attr(&guest.caller, entry.id, Some(handle), &change).expect("truncate through the handle");
    assert_eq!(guest.read(handle, 0, 100), Ok(b"bef".to_vec()));
    guest.file(ROOT, "f", b"successor").expect("the name is free again");
    assert_eq!(guest.read(handle, 0, 100), Ok(b"bef".to_vec()), "the old file is still the old file");
}

pub(super) fn a_successor_is_another_node(_: &Subject, guest: &Guest) {
    // Inode numbers are reused at once by some hosts: identity must not be.
    let mut seen = std::collections::HashSet::new();
    for round in 0..50 {
        let entry = guest.file(ROOT, "f", b"").expect("file");
        assert!(seen.insert((entry.id, entry.generation)), "round {round}: a new file took over the old one's number");
        guest.unlink(ROOT, "f").expect("unlink");
        let stale = guest.open(entry.id, BOTH);
        assert!(stale.is_err() || guest.attr(entry.id).is_ok_and(|a| a.nlink == 0), "a removed file is either gone or nameless");
    }
}

pub(super) fn two_kernels_see_each_others_changes(subject: &Subject, guest: &Guest) {
    let other = Guest::new(subject.connect.as_ref());
    let made = guest.file(ROOT, "f", b"one").expect("file");
    let seen = other.lookup(ROOT, "f").expect("the other kernel finds it");
    assert_eq!(seen.attr.ino, made.attr.ino);
    let handle = other.open(seen.id, BOTH).expect("open");
    other.write(handle, 0, b"two").expect("write");
    assert_eq!(guest.contents(made.id), Ok(b"two".to_vec()));
    other.unlink(ROOT, "f").expect("unlink");
    assert_eq!(guest.lookup(ROOT, "f").err(), Some(Errno::ENOENT));
    // One kernel's ids and handles are nothing to another.
    let (_, private) = guest.create(ROOT, "g", true).expect("create");
    let fresh = Guest::new(subject.connect.as_ref());
    assert!(fresh.read(private, 0, 1).is_err(), "a handle of another kernel was honoured");
    assert!(fresh.attr(made.id).is_err(), "an id that this kernel never looked up was honoured");
    fresh.finish();
    other.finish();
}
