//! Kernels that open nothing: a file that they remember can be opened at any time,
//! whatever becomes of its names.

use super::still::while_guests_swap;
use crate::pins::Pins;
use crate::testing::*;
use externfs::*;
use std::os::unix::fs::MetadataExt;

/// An exclusive tree for such a kernel, with room for few of other pins.
fn tree() -> Tree {
    let mut export = Tree::new("exclusive");
    export.fs.pins = Pins::new(2);
    assert!(export.fs.begin_unopened());
    export
}

fn files(export: &Tree, count: usize) -> Vec<(String, Node)> {
    let names = (0..count).map(|number| format!("f{number}"));
    let file = |text: String| {
        std::fs::write(export.host(&text), &text).unwrap();
        let node = export.node(&text);
        (text, node)
    };
    names.map(file).collect()
}

/// The contents, by a descriptor that is opened now.
fn contents(export: &Tree, node: &Node) -> String {
    let open = export.open(node);
    let mut bytes = [0; 64];
    let count = rustix::io::pread(&open.fd, &mut bytes, 0).unwrap();
    String::from_utf8(bytes[..count].to_vec()).unwrap()
}

#[test]
fn what_lost_its_name_is_opened_until_it_is_forgotten() {
    let export = tree();
    let mut files = files(&export, 100);
    for (text, node) in &files {
        export.remove(text, Some(node)).unwrap();
    }
    for (text, node) in &files {
        assert_eq!(contents(&export, node), *text);
    }
    assert_eq!(export.fs.pins.count(), 100);
    files.truncate(1);
    assert_eq!((export.fs.pins.count(), export.fds_below()), (1, 1));
}

#[test]
fn what_is_replaced_is_opened_as_well() {
    let export = tree();
    let files = files(&export, 20);
    let [(_, new), old @ ..] = &files[..] else { panic!("files") };
    let mut from = "f0".to_owned();
    for (text, node) in old {
        export.rename_known((&from, Some(new)), (text, Some(node)), RenameFlags::empty()).unwrap();
        from.clone_from(text);
    }
    for (text, node) in &files {
        assert_eq!(contents(&export, node), *text);
    }
}

/// Of two names that it has the one that goes is not the one that is noted.
#[test]
fn what_goes_by_another_name_needs_no_descriptor() {
    let export = tree();
    std::fs::write(export.host("a"), "a").unwrap();
    std::fs::hard_link(export.host("a"), export.host("b")).unwrap();
    let node = export.node("a");
    export.remove("b", Some(&node)).unwrap();
    assert_eq!(export.fs.pins.count(), 0);
    assert_eq!(contents(&export, &node), "a");
    export.remove("a", Some(&node)).unwrap();
    assert_eq!((export.fs.pins.count(), contents(&export, &node)), (1, "a".into()));
}

/// As mail is delivered, git writes its objects, and snapshots are made and dropped.
#[test]
fn a_name_that_was_linked_takes_over() {
    let export = tree();
    let link = |node: &Node, text: &str| export.fs.link(&Caller::root(), node, &export.root(), name(text)).unwrap();
    let mut nodes = Vec::new();
    for number in 0..20 {
        let [new, last] = ["tmp", "final"].map(|text| format!("{text}{number}"));
        std::fs::write(export.host(&new), &last).unwrap();
        let node = export.node(&new);
        link(&node, &last);
        // Moved meanwhile, and found once more.
        let moved = format!("moved{number}");
        export.rename_known((&last, Some(&node)), (&moved, None), RenameFlags::empty()).unwrap();
        link(&node, &last);
        export.remove(&moved, Some(&node)).unwrap();
        assert_eq!(export.node(&last).key(), node.key());
        // Of the two that are left either may go first.
        export.remove(if number % 2 == 0 { &new } else { &last }, Some(&node)).unwrap();
        assert_eq!(contents(&export, &node), last);
        nodes.push((node, if number % 2 == 0 { last } else { new }));
    }
    assert_eq!(export.fs.pins.count(), 0);
    for (node, left) in &nodes {
        export.remove(left, Some(node)).unwrap();
    }
    assert_eq!(export.fs.pins.count(), 20);
}

/// What the host refuses to remove is held as well as before.
#[test]
fn a_removal_that_fails_takes_nothing_away() {
    let export = tree();
    std::fs::create_dir(export.host("d")).unwrap();
    std::fs::write(export.host("d/a"), "a").unwrap();
    let dir = export.node("d");
    let node = export.fs.lookup(&dir, name("a")).unwrap().0;
    // A second name that nobody was told of, so that the file is held.
    std::fs::hard_link(export.host("d/a"), export.host("d/b")).unwrap();
    let remove = |text: &str| export.fs.remove(&Caller::root(), &dir, Child { name: name(text), node: Some(&node) }, false);
    remove("a").unwrap();
    assert_eq!((export.fs.pins.count(), contents(&export, &node)), (1, "a".into()));
    let flags = export.fs.inode_flags(&dir, None).unwrap();
    export.fs.set_inode_flags(&Caller::root(), &dir, None, flags | InodeFlags::IMMUTABLE).unwrap();
    let refused = remove("b");
    export.fs.set_inode_flags(&Caller::root(), &dir, None, flags).unwrap();
    assert_eq!(errno(refused), Errno::EPERM);
    assert_eq!(contents(&export, &node), "a");
    remove("b").unwrap();
    assert_eq!(contents(&export, &node), "a");
}

#[test]
fn a_file_without_a_name_is_held_and_gets_one() {
    let export = tree();
    let flags = CreateFlags { mode: Mode::new(0o600), exclusive: false, open: READ_WRITE };
    let created = export.fs.create_unnamed(&Caller::root(), &export.root(), flags).unwrap();
    rustix::io::pwrite(&created.opened.file.fd, b"unnamed", 0).unwrap();
    drop(created.opened);
    assert_eq!(contents(&export, &created.node), "unnamed");
    export.fs.link(&Caller::root(), &created.node, &export.root(), name("named")).unwrap();
    assert_eq!(std::fs::read(export.host("named")).unwrap(), b"unnamed");
    assert_eq!(export.fs.pins.count(), 0, "its name leads to it");
}

#[test]
fn where_it_cannot_be_held_the_name_stays() {
    let export = tree();
    export.fs.pins.keep_files(3);
    let mut files = files(&export, 5);
    for (text, node) in &files[..3] {
        export.remove(text, Some(node)).unwrap();
    }
    let (text, node) = &files[3];
    assert_eq!(errno(export.remove(text, Some(node))), Errno::ENFILE);
    let (other, replacing) = &files[4];
    let replace = || export.rename_known((other, Some(replacing)), (text, Some(node)), RenameFlags::empty());
    assert_eq!(errno(replace()), Errno::ENFILE);
    let flags = CreateFlags { mode: Mode::new(0o600), exclusive: false, open: READ_WRITE };
    assert_eq!(errno(export.fs.create_unnamed(&Caller::root(), &export.root(), flags)), Errno::ENFILE);
    assert_eq!(std::fs::read_to_string(export.host(text)).unwrap(), *text);
    assert_eq!(contents(&export, node), *text);
    assert_eq!(export.fs.pins.count(), 3);
    // What nobody remembers is nobody's to hold, and room comes with what is forgotten.
    std::fs::write(export.host("unknown"), "").unwrap();
    export.remove("unknown", None).unwrap();
    files.remove(0);
    export.remove("f3", Some(&files[2].1)).unwrap();
}

#[test]
fn directories_give_way_as_ever() {
    let export = tree();
    let make = |text: &str| export.fs.make(&Caller::root(), &export.root(), name(text), &NewNode::Directory, Mode::new(0o755)).unwrap().0;
    let dirs: Vec<_> = ["a", "b", "c"].into_iter().map(|text| (text, make(text))).collect();
    for (text, node) in &dirs {
        export.fs.remove(&Caller::root(), &export.root(), Child { name: name(text), node: Some(node) }, true).unwrap();
    }
    assert_eq!(export.fs.pins.count(), 2);
}

/// The kernel looks again when an open is ESTALE; it does not when a read is.
#[test]
fn names_that_move_do_not_keep_a_file_from_being_opened() {
    let export = tree();
    let files = files(&export, 2);
    std::fs::rename(export.host("f0"), export.host("a")).unwrap();
    std::fs::rename(export.host("f1"), export.host("b")).unwrap();
    let (a, b) = (export.node("a"), export.node("b"));
    drop(files);
    let mut opened = 0;
    while_guests_swap(&export, (&a, &b), || {
        let open = export.fs.open(&Caller::root(), &a, READ_WRITE).unwrap().file;
        assert_eq!(rustix::fs::fstat(&open.fd).unwrap().st_ino, a.key().number);
        drop(open);
        assert_eq!(export.fs.attr(&a, None).unwrap().ino, a.key().number);
        opened += 1;
    });
    assert!(opened > 100, "{opened}");
}

#[test]
fn nor_do_those_of_directories_above() {
    let export = tree();
    for dir in ["a", "b"] {
        std::fs::create_dir(export.host(dir)).unwrap();
    }
    std::fs::write(export.host("a/file"), "").unwrap();
    let (a, b) = (export.node("a"), export.node("b"));
    let file = export.fs.lookup(&a, name("file")).unwrap().0;
    let number = export.host("a/file").metadata().unwrap().ino();
    while_guests_swap(&export, (&a, &b), || {
        // As if others had taken the places of its descriptors.
        export.fs.dirs.clear();
        let open = export.fs.open(&Caller::root(), &file, READ_WRITE).unwrap().file;
        assert_eq!(rustix::fs::fstat(&open.fd).unwrap().st_ino, number);
    });
}

#[test]
fn it_takes_a_tree_that_is_ours_alone_and_the_right_to_open_all() {
    for (options, can) in [("exclusive", true), ("exclusive,ro", true), ("", false), ("exclusive,watch", false)] {
        assert_eq!(Tree::new(options).fs.begin_unopened(), can, "{options}");
    }
    // What looks at each open has to see it.
    for options in ["exclusive,append", "exclusive,direct-io"] {
        assert!(!Tree::new(options).fs.begin_unopened(), "{options}");
    }
    let ordinary = std::thread::spawn(|| {
        let mut sets = rustix::thread::capabilities(None).unwrap();
        sets.effective -= rustix::thread::CapabilitySet::DAC_OVERRIDE;
        rustix::thread::set_capabilities(None, sets).unwrap();
        Tree::new("exclusive").fs.begin_unopened()
    });
    assert!(!ordinary.join().unwrap(), "a file that its owner may not read can be read while it is open");
}
