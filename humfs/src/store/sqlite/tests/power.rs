//! What a power failure takes back on the host was not yet forgotten.

use super::crash::{host_rename, next_boot, plan_remove, plan_rename, start};
use super::*;

/// Removals, with what the host's journal loses: what lost its name is kept
/// elsewhere and put back, so that it is the same object.
struct Case {
    name: &'static str,
    /// Each in one change of its own.
    changes: &'static [Lost],
}

enum Lost {
    Removal(&'static str),
    Replacement(&'static str, &'static str),
}

const CASES: &[Case] = &[
    Case { name: "unlink", changes: &[Lost::Removal("b")] },
    Case { name: "unlink of both names", changes: &[Lost::Removal("l1"), Lost::Removal("d/l2")] },
    Case { name: "rmdir", changes: &[Lost::Removal("e")] },
    Case { name: "rm -r", changes: &[Lost::Removal("d/f"), Lost::Removal("d/l2"), Lost::Removal("d")] },
    Case { name: "rename over a file", changes: &[Lost::Replacement("a", "b")] },
    Case { name: "rename over a directory", changes: &[Lost::Replacement("d", "e")] },
    Case { name: "several", changes: &[Lost::Replacement("a", "b"), Lost::Removal("b"), Lost::Replacement("l1", "d/f")] },
];

impl World {
    fn kept(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("kept {number}"))
    }

    fn lose(&self, number: usize, lost: &Lost) {
        let keep = |path: &str| std::fs::rename(self.host(path), self.kept(number)).unwrap();
        let store = &self.store;
        let done = match *lost {
            Lost::Removal(path) => {
                let host = || {
                    nothing_made({
                        keep(path);
                        Ok(())
                    })
                };
                store.change(|session, site| plan_remove(self, session, site, path), host)
            }
            Lost::Replacement(from, to) => {
                let host = || {
                    keep(to);
                    host_rename(self, from, to, RenameFlags::empty());
                    nothing_made(Ok(()))
                };
                store.change(|session, site| plan_rename(self, session, site, (from, to), false), host)
            }
        };
        done.unwrap();
    }
}

/// What the host has after its start: none of `changes`.
fn take_back(dir: &Path, changes: &[Lost]) {
    let host = |path: &str| dir.join("data").join(path);
    for (number, lost) in changes.iter().enumerate().rev() {
        let (Lost::Removal(path) | Lost::Replacement(_, path)) = *lost;
        if let Lost::Replacement(from, to) = *lost {
            std::fs::rename(host(to), host(from)).unwrap();
        }
        std::fs::rename(dir.join(format!("kept {number}")), host(path)).unwrap();
    }
}

#[test]
fn a_removal_that_the_host_has_lost_leaves_the_record() {
    for case in CASES {
        // From the log, and from the database.
        for is_committed in [false, true] {
            let world = start();
            world.store.flusher.stop();
            let expected = world.view();
            for (number, lost) in case.changes.iter().enumerate() {
                world.lose(number, lost);
            }
            if is_committed {
                world.store.sync().unwrap();
            }
            let dir = world.die();
            take_back(dir.path(), case.changes);
            let world = next_boot(dir);
            assert_eq!(world.view(), expected, "{}, committed: {is_committed}", case.name);
            world.check_rows();
            // Nor does it go later.
            world.store.shared.flush(&mut None);
            assert_eq!(world.again().view(), expected, "{}, committed: {is_committed}", case.name);
        }
    }
}

/// Inodes without a name.
const ABANDONED: &str = "SELECT count(*) FROM inode WHERE ino<>1 AND ino NOT IN (SELECT ino FROM dentry)";

fn flaws(world: &World) -> Vec<String> {
    let mut flaws = Vec::new();
    world.store.verify(&mut |flaw, _| flaws.push(flaw)).unwrap();
    flaws
}

#[test]
fn a_record_goes_when_the_removal_is_on_the_disk() {
    let world = start();
    world.store.flusher.stop();
    world.remove("b").unwrap();
    world.rename("a", "l1", false).unwrap();
    world.rename("d", "e", false).unwrap();
    world.store.sync().unwrap();
    assert_eq!((world.count(ABANDONED), flaws(&world)), (2, Vec::new()));
    world.store.shared.flush(&mut None);
    assert_eq!((world.count(ABANDONED), flaws(&world)), (0, Vec::new()));
    world.check_rows();
    // Also of many, and of those that come with leaving in order.
    for number in 0..1500 {
        world.create(format!("{number}"), &file(number)).unwrap();
        world.remove(format!("{number}")).unwrap();
    }
    assert_eq!(world.count(ABANDONED), 1500);
    world.store.shared.flush(&mut None);
    assert_eq!(world.count(ABANDONED), 0);
    world.remove("e/f").unwrap();
    assert_eq!(world.again().count(ABANDONED), 0);
}

#[test]
fn records_without_a_name_that_a_dead_writer_left_go() {
    for is_closed in [false, true] {
        let world = start();
        world.store.flusher.stop();
        world.remove("b").unwrap();
        world.store.sync().unwrap();
        world.remove("a").unwrap();
        let world = World::open(world.die());
        world.store.flusher.stop();
        assert_eq!((world.count(ABANDONED), flaws(&world)), (2, Vec::new()));
        let world = if is_closed { world.again() } else { world };
        world.store.shared.flush(&mut None);
        assert_eq!(world.count(ABANDONED), 0);
        world.check_rows();
    }
}

#[test]
fn a_record_that_has_lost_its_name_is_not_given_to_another_name() {
    let world = World::new();
    world.store.flusher.stop();
    world.create("a", &file(1)).unwrap();
    for name in ["b", "c"] {
        std::fs::hard_link(world.host("a"), world.host(name)).unwrap();
    }
    assert_eq!(world.load("b"), Loaded::Record(file(1)));
    world.remove("a").unwrap();
    assert_eq!(world.load("b"), Loaded::Absent);
    world.save("b", &file(2));
    world.store.shared.flush(&mut None);
    assert_eq!((world.load("b"), world.load("c")), (Loaded::Record(file(2)), Loaded::Record(file(2))));
    assert_eq!(world.count(ABANDONED), 0);
}
