//! How nodes are found again: pins, renames, reuse, the budget of descriptors.

use crate::testing::*;
use externfs::*;
use std::os::fd::AsFd;

#[test]
fn a_removed_file_goes_on_for_who_knows_it() {
    let export = Tree::new("");
    let created = export.create(&Caller::root(), "f", 0o600).unwrap();
    drop(created.opened);
    let node = created.node;
    export.remove("f", Some(&node)).unwrap();
    assert_eq!(export.fs.attr(&node, None).unwrap().nlink, 0);
    assert_eq!(errno(export.try_node("f")), Errno::ENOENT);
    let change = SetAttr { mode: Some(Mode::new(0o640)), size: Some(3), ..SetAttr::default() };
    let attr = export.fs.set_attr(&Caller::root(), &node, None, &change).unwrap();
    assert_eq!((attr.mode, attr.size), (Mode::new(0o640), 3));
    let file = export.open(&node);
    assert_eq!(export.read(&file), [0; 3]);
    assert_eq!(export.fs.pins.count(), 1);
    drop((file, node));
    assert_eq!(export.fs.pins.count(), 0, "forgotten");
}

#[test]
fn a_removed_directory_goes_on_for_who_knows_it() {
    let export = Tree::new("");
    std::fs::create_dir(export.host("d")).unwrap();
    let node = export.node("d");
    export.fs.open_dir(&node).unwrap();
    export.remove("d", Some(&node)).unwrap();
    assert_eq!(export.fs.attr(&node, None).unwrap().nlink, 0);
    let made = export.fs.make(&Caller::root(), &node, name("x"), &NewNode::Directory, Mode::new(0o755));
    assert_eq!(errno(made), Errno::ENOENT);
    assert_eq!(errno(export.fs.parent(&node)), Errno::ESTALE);
}

#[test]
fn a_failed_removal_leaves_no_pin() {
    let export = Tree::new("");
    std::fs::create_dir(export.host("d")).unwrap();
    std::fs::write(export.host("d/child"), "").unwrap();
    let node = export.node("d");
    assert_eq!(errno(export.remove("d", Some(&node))), Errno::ENOTEMPTY);
    assert_eq!(export.fs.pins.count(), 0);
    assert!(export.fs.attr(&node, None).is_ok());
}

#[test]
fn a_hard_link_survives_its_other_name() {
    let export = Tree::new("");
    std::fs::write(export.host("one"), "data").unwrap();
    std::fs::hard_link(export.host("one"), export.host("two")).unwrap();
    let (one, two) = (export.node("one"), export.node("two"));
    assert_eq!(export.fs.key(&one), export.fs.key(&two));
    export.remove("one", Some(&one)).unwrap();
    assert_eq!(export.fs.attr(&one, None).unwrap().nlink, 1);
    export.fs.found_again(&one, two);
    assert_eq!(export.fs.pins.count(), 0, "it has a name again");
    assert_eq!(export.fs.attr(&one, None).unwrap().nlink, 1);
    // The name that it is not remembered by needs no pin.
    std::fs::hard_link(export.host("two"), export.host("three")).unwrap();
    export.remove("three", Some(&one)).unwrap();
    assert_eq!(export.fs.pins.count(), 0);
}

#[test]
fn an_overtaken_look_up_does_not_undo_a_rename_or_a_removal() {
    let export = Tree::new("");
    std::fs::write(export.host("old"), "").unwrap();
    let known = export.node("old");
    let overtaken = export.node("old");
    export.rename_known(("old", Some(&known)), ("new", None), RenameFlags::empty()).unwrap();
    export.fs.found_again(&known, overtaken);
    assert!(export.fs.attr(&known, None).is_ok(), "still known as new");
    let overtaken = export.node("new");
    export.remove("new", Some(&known)).unwrap();
    export.fs.found_again(&known, overtaken);
    assert_eq!(export.fs.attr(&known, None).unwrap().nlink, 0, "still pinned");
    // What the host renames is taken over.
    std::fs::write(export.host("a"), "").unwrap();
    let known = export.node("a");
    std::fs::rename(export.host("a"), export.host("b")).unwrap();
    assert_eq!(errno(export.fs.attr(&known, None)), Errno::ESTALE);
    export.fs.found_again(&known, export.node("b"));
    assert!(export.fs.attr(&known, None).is_ok());
}

#[test]
fn renames_are_followed() {
    let export = Tree::new("");
    std::fs::create_dir(export.host("a")).unwrap();
    std::fs::create_dir(export.host("b")).unwrap();
    std::fs::write(export.host("a/file"), "file").unwrap();
    let (a, b) = (export.node("a"), export.node("b"));
    let file = export.fs.lookup(&a, name("file")).unwrap().0;
    export.rename_known(("a", Some(&a)), ("c", None), RenameFlags::empty()).unwrap();
    assert_eq!(export.fs.attr(&file, None).unwrap().size, 4);
    export.rename_known(("c", Some(&a)), ("b", Some(&b)), RenameFlags::EXCHANGE).unwrap();
    assert_eq!(export.fs.key(&export.node("b")), export.fs.key(&a));
    for node in [&a, &b, &file] {
        export.fs.dirs.clear();
        assert!(export.fs.attr(node, None).is_ok());
    }
    assert_eq!(export.fs.pins.count(), 0);
}

#[test]
fn what_a_rename_replaces_goes_on_for_who_knows_it() {
    let export = Tree::new("");
    std::fs::write(export.host("old"), "old!").unwrap();
    std::fs::write(export.host("new"), "new").unwrap();
    let (old, new) = (export.node("old"), export.node("new"));
    export.rename_known(("new", Some(&new)), ("old", Some(&old)), RenameFlags::empty()).unwrap();
    assert_eq!(export.read(&export.open(&old)), b"old!");
    assert_eq!(export.fs.attr(&old, None).unwrap().nlink, 0);
    assert_eq!(export.read(&export.open(&new)), b"new");
    let failed = export.rename_known(("gone", None), ("old", Some(&new)), RenameFlags::empty());
    assert_eq!(errno(failed), Errno::ENOENT);
    assert_eq!(export.fs.pins.count(), 1, "only what was replaced");
}

#[test]
fn renaming_a_file_onto_its_other_name_changes_nothing() {
    let export = Tree::new("");
    std::fs::write(export.host("one"), "").unwrap();
    std::fs::hard_link(export.host("one"), export.host("two")).unwrap();
    let node = export.node("one");
    export.rename_known(("one", Some(&node)), ("two", Some(&node)), RenameFlags::empty()).unwrap();
    assert_eq!(export.fs.attr(&node, None).unwrap().nlink, 2);
    assert_eq!(export.fs.pins.count(), 0);
}

#[test]
fn a_name_that_leads_elsewhere_is_stale() {
    let export = Tree::new("");
    std::fs::write(export.host("f"), "first").unwrap();
    let node = export.node("f");
    std::fs::write(export.host("g"), "second").unwrap();
    std::fs::rename(export.host("g"), export.host("f")).unwrap();
    assert_eq!(errno(export.fs.attr(&node, None)), Errno::ESTALE);
    assert_eq!(errno(export.fs.open(&Caller::root(), &node, READ_WRITE)), Errno::ESTALE);
    let change = SetAttr { mode: Some(Mode::new(0)), ..SetAttr::default() };
    assert_eq!(errno(export.fs.set_attr(&Caller::root(), &node, None, &change)), Errno::ESTALE);
    // Removing the name is right, but the node is not what goes.
    export.remove("f", Some(&node)).unwrap();
    assert_eq!(export.fs.pins.count(), 0);
}

#[test]
fn an_open_file_is_reached_whatever_became_of_its_name() {
    let export = Tree::new("");
    std::fs::write(export.host("f"), "data").unwrap();
    let node = export.node("f");
    let file = export.open(&node);
    std::fs::remove_file(export.host("f")).unwrap();
    assert_eq!(export.fs.attr(&node, None).unwrap().nlink, 0);
    let again = export.open(&node);
    assert_eq!(export.read(&again), b"data");
    drop((file, again));
    assert_eq!(errno(export.fs.attr(&node, None)), Errno::ESTALE);
}

#[test]
fn a_reused_inode_number_is_another_node() {
    let export = Tree::new("");
    let mut seen = std::collections::HashMap::new();
    for round in 0..200 {
        std::fs::write(export.host("f"), "").unwrap();
        let key = export.fs.key(&export.node("f"));
        if let Some(before) = seen.insert(key.number, key) {
            assert_ne!(before, key, "round {round}: the birth time tells them apart");
            return;
        }
        std::fs::remove_file(export.host("f")).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    println!("skipped: this file system does not reuse inode numbers");
}

#[test]
fn a_nameless_file_can_be_given_a_name() {
    let export = Tree::new("");
    let flags = CreateFlags { mode: Mode::new(0o600), exclusive: false, open: READ_WRITE };
    let created = export.fs.create_unnamed(&Caller::root(), &export.root(), flags).unwrap();
    assert_eq!(created.attr.nlink, 0);
    export.write(&created.opened.file, 0, b"tmp", WriteFlags::default()).unwrap();
    let attr = export.fs.link(&Caller::root(), &created.node, &export.root(), name("named")).unwrap();
    assert_eq!(attr.nlink, 1);
    drop(created.opened);
    assert_eq!(export.fs.attr(&created.node, None).unwrap().size, 3, "found by its name now");
    let flags = CreateFlags { exclusive: true, ..flags };
    let sealed = export.fs.create_unnamed(&Caller::root(), &export.root(), flags).unwrap();
    assert_eq!(errno(export.fs.link(&Caller::root(), &sealed.node, &export.root(), name("no"))), Errno::ENOENT);
}

#[test]
fn a_directory_moved_within_the_jail_goes_on_and_one_moved_out_is_lost() {
    let export = Tree::new("");
    std::fs::create_dir_all(export.host("a/b")).unwrap();
    std::fs::write(export.host("a/b/file"), "").unwrap();
    let (b, file) = (export.node("a/b"), export.node("a/b/file"));
    let distrust = || export.fs.dirs.get(b.key()).unwrap().distrust();
    std::fs::rename(export.host("a/b"), export.host("moved")).unwrap();
    distrust();
    assert!(export.fs.attr(&file, None).is_ok());
    assert!(export.fs.attr(&b, None).is_ok());
    std::fs::rename(export.host("moved"), export.outside("moved")).unwrap();
    distrust();
    assert_eq!(errno(export.fs.attr(&file, None)), Errno::ESTALE);
    assert_eq!(errno(export.fs.attr(&b, None)), Errno::ESTALE);
    let made = export.fs.make(&Caller::root(), &b, name("x"), &NewNode::Directory, Mode::new(0o755));
    assert_eq!(errno(made), Errno::ESTALE);
    assert!(!export.outside("moved/x").exists());
}

#[test]
fn a_tree_deeper_than_any_path_works() {
    let export = Tree::new("");
    let mut node = export.root();
    for level in 0..3000 {
        let made = export.fs.make(&Caller::root(), &node, name("d"), &NewNode::Directory, Mode::new(0o755));
        node = made.unwrap_or_else(|error| panic!("level {level}: {error}")).0;
    }
    export.fs.dirs.clear();
    assert_eq!(export.fs.attr(&node, None).unwrap().nlink, 2);
    let parent = export.fs.parent(&node).unwrap();
    let above = export.fs.attr(&parent, None).unwrap();
    assert_eq!(above.ino, parent.key().number);
    drop(parent);
    // Gone from the inside out: rm cannot be trusted with such a path.
    while let Ok(parent) = export.fs.parent(&node) {
        if parent.key() == node.key() {
            break;
        }
        export.fs.remove(&Caller::root(), &parent, Child { name: name("d"), node: None }, true).unwrap();
        node = parent;
    }
    assert_eq!(std::fs::read_dir(export.host("")).unwrap().count(), 0);
}

#[test]
fn remembering_many_costs_few_descriptors() {
    let export = Tree::new("");
    let mut nodes = Vec::new();
    for number in 0..1500 {
        let dir = format!("d{number}");
        let made = export.fs.make(&Caller::root(), &export.root(), name(&dir), &NewNode::Directory, Mode::new(0o755));
        let (node, _) = made.unwrap();
        let (child, _) = export.fs.make(&Caller::root(), &node, name("file"), &NewNode::Regular, Mode::new(0o644)).unwrap();
        nodes.push((node, child));
    }
    assert!(export.fds_below() > 100, "the cache is used");
    export.fs.dirs.clear();
    assert_eq!(export.fds_below(), 0, "nodes hold none");
    for (node, child) in &nodes {
        assert!(export.fs.attr(child, None).is_ok());
        assert!(export.fs.attr(node, None).is_ok());
    }
}

#[test]
fn names_that_lead_into_a_ring_do_not_hang() {
    let export = Tree::new("");
    std::fs::create_dir_all(export.host("a/b")).unwrap();
    let (a, b) = (export.node("a"), export.node("a/b"));
    let b_in_a = b.parent().unwrap();
    assert_eq!(b_in_a.key(), a.key());
    // The host turns the two around, and an overtaken look-up says that `a` is
    // still above itself.
    export.fs.settle(&b_in_a, b.clone(), c"x");
    assert!(export.fs.attr(&b, None).is_ok(), "the claim was not believed");
    assert!(export.fs.jail.contains(export.fs.dir(&b).unwrap().as_fd()).unwrap());
}

/// A layer's books go by paths, also of what was looked up before its directory
/// was forgotten.
#[test]
fn a_layer_knows_each_directory_once() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("t/s")).unwrap();
    std::fs::write(dir.path().join("t/s/c"), "").unwrap();
    let fs = crate::HostFs::layer(std::fs::File::open(dir.path()).unwrap().into(), false).unwrap();
    let root = fs.root().unwrap();
    let at = |parent: &std::sync::Arc<crate::Inode>, called: &str| fs.lookup(parent, name(called)).unwrap().0;
    let c = at(&at(&at(&root, "t"), "s"), "c");
    // The kernel has forgotten both directories, and looks one of them up again.
    let t = at(&root, "t");
    let child = |node, called| Child { name: name(called), node };
    let names = (&root, child(Some(&t), "t"));
    fs.rename(&Caller::root(), names, (&root, child(None, "t2")), RenameFlags::empty()).unwrap();
    let way_up = |node: &std::sync::Arc<crate::Inode>| {
        let mut path = Vec::new();
        let mut place = node.whereabouts();
        while let Some((parent, called)) = place {
            path.push(called.into_string().unwrap());
            place = parent.whereabouts();
        }
        path.reverse();
        path.join("/")
    };
    assert_eq!(way_up(&c), "t2/s/c");
    // As a walk of the tree finds it, and after the host has moved it.
    std::fs::rename(dir.path().join("t2/s"), dir.path().join("s")).unwrap();
    fs.enroll(&root, c"s").unwrap();
    assert_eq!(way_up(&c), "s/c");
}
