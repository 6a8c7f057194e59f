//! Recovery of a change that was cut short after each of its steps, also if
//! recovery is cut short. The steps are done here by hand, as the contract in
//! shadow.rs gives them; the crash suite kills a process that does them.

use super::super::moves::Intended;
use super::rig::*;
use crate::record::Record;
use std::os::unix::fs::{MetadataExt, symlink};

/// A step, or one of another step's halves.
type Step = Box<dyn Fn(&Rig)>;

fn swap(tree: &'static str, from: &'static str, to: &'static str) -> Step {
    Box::new(move |rig| {
        let (from, to) = (rig.host(format!("{tree}/{from}")), rig.host(format!("{tree}/{to}")));
        let exists = |path: &std::path::Path| path.symlink_metadata().is_ok();
        match (exists(&from), exists(&to)) {
            (true, true) => rename(&from, &to, rustix::fs::RenameFlags::EXCHANGE),
            (true, false) => std::fs::rename(&from, &to).unwrap(),
            (false, true) => std::fs::rename(&to, &from).unwrap(),
            (false, false) => {}
        }
    })
}

fn rename(from: &std::path::Path, to: &std::path::Path, flags: rustix::fs::RenameFlags) {
    rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, flags).unwrap();
}

fn purge(path: &'static str) -> Step {
    Box::new(move |rig| {
        let path = rig.host(path);
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        } else {
            let _ = std::fs::remove_file(path);
        }
    })
}

const TREES: [&str; 4] = ["file_metadata", "dir_metadata", "file_attributes", "dir_attributes"];

fn number(rig: &Rig, tree: &str, name: &str) -> u64 {
    let found = rig.host(format!("{tree}/{name}")).symlink_metadata();
    let kept = found.ok().filter(|found| tree.starts_with("file") || found.is_dir());
    kept.map_or(0, |found| found.ino())
}

/// Writes down that `from` goes to `to`, as the store does.
fn intend(exchange: bool, from: &'static str, to: &'static str) -> Step {
    Box::new(move |rig| {
        let intended = Intended {
            exchange,
            moved: rig.facts(from).unwrap().ino,
            from: from.into(),
            to: to.into(),
            numbers: TREES.iter().map(|tree| (number(rig, tree, from), number(rig, tree, to))).collect(),
        };
        assert_eq!(Intended::parse(&intended.to_text()), Some(intended.clone()));
        symlink(String::from_utf8(intended.to_text()).unwrap(), rig.host("humfs/intents/1")).unwrap();
    })
}

/// The steps of a rename by intent, and how many of them come before the
/// point of no return.
fn steps(exchange: bool, from: &'static str, to: &'static str) -> (Vec<Step>, usize) {
    let mut steps = vec![intend(exchange, from, to)];
    steps.extend(TREES.map(|tree| swap(tree, from, to)));
    let no_return = steps.len();
    steps.push(Box::new(move |rig| {
        let (from, to) = (rig.host(format!("data/{from}")), rig.host(format!("data/{to}")));
        rename(&from, &to, if exchange { rustix::fs::RenameFlags::EXCHANGE } else { rustix::fs::RenameFlags::empty() });
    }));
    if !exchange && from == "a" {
        steps.extend([purge("file_metadata/a"), purge("dir_metadata/a"), purge("file_attributes/a"), purge("dir_attributes/a")]);
    }
    (steps, no_return)
}

/// What a guest sees of the names that the tests use.
fn seen(rig: &Rig) -> Vec<(String, Option<Record>)> {
    ["a", "a/f", "a/d", "a/d/f", "b", "b/f", "b/d", "b/d/f", "c", "c/a", "c/a/f"]
        .iter()
        .filter(|path| rig.host(format!("data/{path}")).symlink_metadata().is_ok())
        .map(|path| ((*path).to_owned(), rig.load(path).unwrap()))
        .collect()
}

/// Does each number of the steps of a rename, recovers twice, and compares
/// with the state before and with what the store makes of it.
fn cut_everywhere(exchange: bool, from: &'static str, to: &'static str, lay: fn(&Rig)) {
    for format in BOTH {
        let whole = Rig::new(format);
        lay(&whole);
        let before = (seen(&whole), whole.metadata());
        if exchange { whole.exchange(from, to) } else { whole.rename(from, to) }.unwrap();
        let after = (seen(&whole), whole.metadata());
        assert_ne!(before.0, after.0);
        let (all, no_return) = steps(exchange, from, to);
        for count in 1..=all.len() {
            let rig = Rig::new(format);
            lay(&rig);
            all[..count].iter().for_each(|step| step(&rig));
            // It dies again in recovery: what is left of the intent is as it was.
            let intent = std::fs::read_link(rig.host("humfs/intents/1")).unwrap();
            let (rig, first) = rig.again();
            let (wanted, completed) = if count > no_return { (&after, 1) } else { (&before, 0) };
            assert_eq!((first.completed, first.undone), (completed, 1 - completed), "step {count}");
            assert_eq!(&(seen(&rig), rig.metadata()), wanted, "{format:?}: step {count}");
            assert!(rig.is_quiet());
            symlink(intent, rig.host("humfs/intents/1")).unwrap();
            let (rig, _) = rig.again();
            assert_eq!(&(seen(&rig), rig.metadata()), wanted, "{format:?}: again after step {count}");
            let (_, third) = rig.again();
            assert_eq!((third.completed, third.undone), (0, 0));
        }
    }
}

fn two_dirs(rig: &Rig) {
    rig.create("a", &with_xattr(directory(1), "a")).unwrap();
    rig.create("a/f", &with_xattr(file(2), "af")).unwrap();
    rig.create("a/d", &directory(3)).unwrap();
    rig.create("a/d/f", &file(4)).unwrap();
    rig.create("c", &directory(9)).unwrap();
}

#[test]
fn a_directory_that_moves() {
    cut_everywhere(false, "a", "b", two_dirs);
    cut_everywhere(false, "a", "c/a", |rig| {
        two_dirs(rig);
        // Plans make mirrors: they are not part of the change.
        std::fs::create_dir_all(rig.host("file_attributes/c")).unwrap();
        std::fs::create_dir_all(rig.host("dir_attributes/c")).unwrap();
    });
}

#[test]
fn a_directory_over_an_empty_one() {
    cut_everywhere(false, "a", "b", |rig| {
        two_dirs(rig);
        rig.create("b", &with_xattr(directory(5), "b")).unwrap();
    });
    cut_everywhere(false, "a", "b", |rig| {
        two_dirs(rig);
        std::fs::create_dir(rig.host("data/b")).unwrap();
    });
}

#[test]
fn a_file_over_another_one() {
    cut_everywhere(false, "a", "b", |rig| {
        rig.create("a", &with_xattr(file(1), "a")).unwrap();
        rig.create("b", &with_xattr(file(2), "b")).unwrap();
    });
    cut_everywhere(false, "a", "b", |rig| {
        rig.create("a", &file(1)).unwrap();
        rig.create("b", &with_xattr(file(2), "b")).unwrap();
    });
    // A stranger over one of ours, whose record must go.
    cut_everywhere(false, "a", "b", |rig| {
        std::fs::write(rig.host("data/a"), "").unwrap();
        rig.create("b", &with_xattr(file(2), "b")).unwrap();
    });
}

#[test]
fn an_exchange() {
    cut_everywhere(true, "a", "b", |rig| {
        two_dirs(rig);
        rig.create("b", &with_xattr(directory(5), "b")).unwrap();
        rig.create("b/f", &file(6)).unwrap();
    });
    cut_everywhere(true, "a", "b", |rig| {
        two_dirs(rig);
        rig.create("b", &with_xattr(file(5), "b")).unwrap();
    });
    cut_everywhere(true, "b", "c/a", |rig| {
        rig.create("b", &with_xattr(file(5), "b")).unwrap();
        rig.create("c", &directory(6)).unwrap();
        rig.create("c/a", &with_xattr(directory(7), "x")).unwrap();
        rig.create("c/a/f", &with_xattr(file(8), "x")).unwrap();
    });
}

/// These need no intent: what is left over is seen by nobody, and in nobody's way.
#[test]
fn what_is_made_in_steps_is_whole_or_unseen() {
    for format in BOTH {
        let rig = Rig::new(format);
        rig.create("dir", &directory(1)).unwrap();
        // A mkdir that got as far as its records, and a create.
        std::fs::create_dir(rig.host("file_metadata/a")).unwrap();
        std::fs::create_dir(rig.host("dir_metadata/a")).unwrap();
        std::fs::write(rig.host("dir_metadata/a/metadata"), "511 9 9\n").unwrap();
        std::fs::write(rig.host("file_metadata/b"), "511 9 9\n").unwrap();
        // A rename that got as far as the second name of the record.
        rig.create("c", &file(2)).unwrap();
        std::fs::hard_link(rig.host("file_metadata/c"), rig.host("file_metadata/e")).unwrap();
        // One that did not get to removing the first.
        rig.create("g", &file(3)).unwrap();
        std::fs::hard_link(rig.host("file_metadata/g"), rig.host("file_metadata/h")).unwrap();
        std::fs::rename(rig.host("data/g"), rig.host("data/h")).unwrap();
        // Something that was being written.
        std::fs::write(rig.host("humfs/stage/r0"), "493 0").unwrap();
        let (rig, recovered) = rig.again();
        assert_eq!((recovered.completed, recovered.undone), (0, 1));
        assert_eq!((rig.owner("c"), rig.owner("h")), (Some(2), Some(3)));
        assert!(["a", "b", "e", "g"].iter().all(|name| rig.attr(name).is_none()));
        // Each name can be used, and the records that shared with it stay.
        rig.create("a", &file(10)).unwrap();
        rig.create("b", &directory(11)).unwrap();
        rig.create("e", &file(12)).unwrap();
        rig.create("g", &directory(13)).unwrap();
        let owners = ["a", "b", "e", "g", "c", "h"].map(|name| rig.owner(name).unwrap());
        assert_eq!(owners, [10, 11, 12, 13, 2, 3]);
        rig.save("e", &file(14)).unwrap();
        assert_eq!(rig.owner("c"), Some(2));
    }
}

#[test]
fn an_intent_that_nobody_knows_stops_the_mount() {
    let rig = Rig::new(BOTH[0]);
    symlink("transmute//1//a//b", rig.host("humfs/intents/7")).unwrap();
    let root = externfs::ExternFs::root(&rig.fs).unwrap();
    let error = crate::store::MetaStore::recover(&rig.store, &root).unwrap_err();
    assert!(error.to_string().contains("transmute"), "{error}");
}

proptest::proptest! {
    #[test]
    fn no_text_of_an_intent_is_a_panic(text: Vec<u8>) {
        let _ = Intended::parse(&text);
    }
}
