//! Death at each stage of each change, and crashes of the host.

use super::*;
use rusqlite::Connection;

/// One change, in its two halves: what is planned, and the host's step.
struct Case {
    name: &'static str,
    plan: fn(&World, &mut Session, &Site) -> Result<Change>,
    host: fn(&World),
}

pub(super) fn start() -> World {
    let world = World::new();
    let made = [("d", directory(1)), ("d/f", file(2)), ("a", file(3)), ("b", file(4)), ("e", directory(5)), ("l1", file(6))];
    for (path, record) in made {
        world.create(path, &record).unwrap();
    }
    world.link("l1", "d/l2").unwrap();
    // All that is in the log from now on is the case's.
    world.again()
}

pub(super) fn plan_rename(world: &World, session: &mut Session, site: &Site, (from, to): (&str, &str), exchange: bool) -> Result<Change> {
    let how = world.renaming(from, to, exchange);
    world.with(from, |from| world.with(to, |to| plan::rename(session, site, (from, to), &how)))
}

fn plan_create(world: &World, session: &mut Session, site: &Site, path: &str, record: &Record) -> Result<Change> {
    world.with(path, |at| plan::create(session, site, at, record).map(|(_, change)| change))
}

pub(super) fn plan_remove(world: &World, session: &mut Session, site: &Site, path: &str) -> Result<Change> {
    let victim = world.facts(path).unwrap();
    world.with(path, |at| plan::remove(session, site, at, victim))
}

pub(super) fn host_rename(world: &World, from: &str, to: &str, flags: RenameFlags) {
    world.with(from, |from| world.with(to, |to| rustix::fs::renameat_with(from.dir, from.name, to.dir, to.name, flags))).unwrap();
}

const CASES: &[Case] = &[
    Case {
        name: "create",
        plan: |world, session, site| {
            plan_create(world, session, site, "d/new", &Record { xattrs: [("user.a", "b")].into_iter().collect(), ..file(9) })
        },
        host: |world| std::fs::write(world.host("d/new"), "").unwrap(),
    },
    Case {
        name: "mkdir",
        plan: |world, session, site| plan_create(world, session, site, "new", &directory(9)),
        host: |world| std::fs::create_dir(world.host("new")).unwrap(),
    },
    Case {
        name: "symlink",
        plan: |world, session, site| plan_create(world, session, site, "new", &record(FileKind::Symlink, 0o777, 9, 9)),
        host: |world| std::os::unix::fs::symlink("x", world.host("new")).unwrap(),
    },
    Case {
        name: "link",
        plan: |world, session, site| world.object("a", |object| world.with("d/new", |to| plan::link(session, site, object, to, &file(3)))),
        host: |world| std::fs::hard_link(world.host("a"), world.host("d/new")).unwrap(),
    },
    Case {
        name: "unlink",
        plan: |world, session, site| plan_remove(world, session, site, "d/f"),
        host: |world| std::fs::remove_file(world.host("d/f")).unwrap(),
    },
    Case {
        name: "unlink of one of two names",
        plan: |world, session, site| plan_remove(world, session, site, "d/l2"),
        host: |world| std::fs::remove_file(world.host("d/l2")).unwrap(),
    },
    Case {
        name: "rmdir",
        plan: |world, session, site| plan_remove(world, session, site, "e"),
        host: |world| std::fs::remove_dir(world.host("e")).unwrap(),
    },
    Case {
        name: "rename",
        plan: |world, session, site| plan_rename(world, session, site, ("a", "d/new"), false),
        host: |world| host_rename(world, "a", "d/new", RenameFlags::empty()),
    },
    Case {
        name: "rename over a file",
        plan: |world, session, site| plan_rename(world, session, site, ("a", "b"), false),
        host: |world| host_rename(world, "a", "b", RenameFlags::empty()),
    },
    Case {
        name: "rename over one of two names",
        plan: |world, session, site| plan_rename(world, session, site, ("a", "l1"), false),
        host: |world| host_rename(world, "a", "l1", RenameFlags::empty()),
    },
    Case {
        name: "rename of a directory over one",
        plan: |world, session, site| plan_rename(world, session, site, ("d", "e"), false),
        host: |world| host_rename(world, "d", "e", RenameFlags::empty()),
    },
    Case {
        name: "exchange of a file and a directory",
        plan: |world, session, site| plan_rename(world, session, site, ("a", "d"), true),
        host: |world| host_rename(world, "a", "d", RenameFlags::EXCHANGE),
    },
    Case {
        name: "exchange of two names that share a directory",
        plan: |world, session, site| plan_rename(world, session, site, ("a", "b"), true),
        host: |world| host_rename(world, "a", "b", RenameFlags::EXCHANGE),
    },
];

impl World {
    /// Dies with `case` in the log, and perhaps done on the host.
    fn cut(self, case: &Case, is_done: bool) -> TempDir {
        let mut state = self.store.shared.lock();
        let site = &self.store.shared.site;
        let session = state.session(site).unwrap();
        let change = (case.plan)(&self, session, site).unwrap();
        session.write_down(&change).unwrap();
        drop(state);
        if is_done {
            (case.host)(&self);
        }
        self.die()
    }

    /// The whole of `case`.
    fn run(&self, case: &Case) {
        let host = || {
            (case.host)(self);
            let new = ["new", "d/new"].into_iter().find_map(|path| std::fs::symlink_metadata(self.host(path)).ok());
            Ok(((), Outcome { hino: new.map_or(0, |new| std::os::unix::fs::MetadataExt::ino(&new)), ..Outcome::default() }))
        };
        self.store.change(|session, site| (case.plan)(self, session, site), host).unwrap();
    }
}

#[test]
fn a_change_that_was_cut_short_is_done_or_never_was() {
    for case in CASES {
        let world = start();
        let old = world.view();
        world.run(case);
        let new = world.view();
        assert_ne!(old, new, "{}", case.name);
        for (is_done, expected) in [(false, &old), (true, &new)] {
            let world = World::open(start().cut(case, is_done));
            assert_eq!(world.view(), *expected, "{}, host's step done: {is_done}", case.name);
            world.check_rows();
            // And once more, from the log alone.
            let world = World::open(world.die());
            assert_eq!(world.view(), *expected, "{}, host's step done: {is_done}", case.name);
        }
    }
}

#[test]
fn what_recovery_did_is_told_once() {
    for is_done in [false, true] {
        let dir = start().cut(&CASES[0], is_done);
        let tree = open_tree(dir.path(), Access::Write);
        let fs = HostFs::layer(host::open_listing(tree.data()).unwrap(), false).unwrap();
        let store = SqliteStore::open(&tree).unwrap();
        let root = fs.root().unwrap();
        let expected = Recovered { completed: is_done.into(), undone: (!is_done).into() };
        assert_eq!(store.recover(&root), Ok(expected));
        assert_eq!(store.recover(&root), Ok(Recovered::default()));
    }
}

#[test]
fn recovery_that_is_cut_short_itself_is_done_again_with_the_same_end() {
    for is_done in [false, true] {
        let world = start();
        let dir = world.cut(&CASES[0], is_done);
        // Decides, and dies before it commits.
        let tree = open_tree(dir.path(), Access::Write);
        let store = SqliteStore::open(&tree).unwrap();
        store.shared.lock().session(&store.shared.site).unwrap();
        store.shared.lock().session = None;
        drop((store, tree));
        // What the data tree says is another thing by now.
        let path = dir.path().join("data/d/new");
        if is_done {
            std::fs::remove_file(path).unwrap()
        } else {
            std::fs::write(path, "").unwrap()
        }
        let world = World::open(dir);
        let has_row = world.count("SELECT count(*) FROM dentry WHERE CAST(name AS TEXT)='new'") == 1;
        assert_eq!(has_row, is_done);
    }
}

#[test]
fn all_that_was_answered_survives_death_at_any_time() {
    let mut world = World::new();
    for round in 0..60u32 {
        let path = format!("f{}", round % 7);
        match world.facts(&path) {
            None => drop(world.create(&path, &file(round)).unwrap()),
            Some(_) if round % 3 == 0 => world.remove(&path).unwrap(),
            Some(_) => {
                world.save(&path, &file(round));
            }
        }
        if round % 5 == 0 && world.facts("f1").is_some() {
            world.rename("f1", "g", false).unwrap();
        }
        let expected = world.view();
        if round % 4 == 0 {
            world.store.sync().unwrap();
        }
        world = World::open(world.die());
        assert_eq!(world.view(), expected, "round {round}");
        world.check_rows();
    }
}

#[test]
fn a_database_that_fails_is_opened_again_and_nothing_is_lost() {
    let world = World::new();
    world.create("a", &file(1)).unwrap();
    // While a change is under way.
    let break_down = |world: &World| {
        let state = world.store.shared.lock();
        state.session.as_ref().unwrap().conn().execute_batch("ROLLBACK; DROP TABLE hostref").unwrap();
    };
    let told = world.store.change(
        |session, site| world.with("b", |at| plan::create(session, site, at, &file(2)).map(|(_, change)| change)),
        || {
            break_down(&world);
            std::fs::write(world.host("b"), "").unwrap();
            Ok(((), Outcome::default()))
        },
    );
    assert_eq!(told.unwrap_err().errno(), Errno::EIO);
    // From then on nothing is begun that could not be ended.
    assert_eq!(world.create("c", &file(3)).unwrap_err().errno(), Errno::EIO);
    assert!(!world.host("c").exists());
    let dir = world.die();
    let conn = Connection::open(dir.path().join("humfs/metadata.db")).unwrap();
    conn.execute_batch("CREATE TABLE hostref(ino INTEGER PRIMARY KEY, hino INTEGER NOT NULL) STRICT").unwrap();
    drop(conn);
    let world = World::open(dir);
    assert_eq!((world.load("a"), world.load("b")), (Loaded::Record(file(1)), Loaded::Record(file(2))));
}

#[test]
fn a_batch_that_sqlite_has_rolled_back_is_written_again() {
    let world = World::new();
    world.create("a", &file(1)).unwrap();
    world.store.shared.lock().session.as_ref().unwrap().conn().execute_batch("ROLLBACK").unwrap();
    world.create("b", &file(2)).unwrap();
    assert_eq!((world.load("a"), world.load("b")), (Loaded::Record(file(1)), Loaded::Record(file(2))));
    world.again().check_rows();
}

#[test]
fn a_database_that_is_full_loses_nothing() {
    let world = World::new();
    for number in 0..400u32 {
        if number % 100 == 50 {
            // Until it is opened the next time.
            let mut state = world.store.shared.lock();
            let conn = state.session(&world.store.shared.site).unwrap().conn();
            conn.query_row("PRAGMA max_page_count=1", (), |_| Ok(())).unwrap();
        }
        let path = format!("file with a rather long name, so that there are many pages: {number}");
        world.create(&path, &file(number)).unwrap();
    }
    assert!(world.count("PRAGMA max_page_count") > 1 << 20, "the limit was never reached");
    world.check_rows();
    let expected = world.view();
    assert_eq!(expected.len(), 400);
    assert_eq!(World::open(world.die()).view(), expected);
}

/// As after a crash of the host.
fn reboot(world: World) -> World {
    world.store.sync().unwrap();
    next_boot(world.die())
}

/// As [`reboot`], of what a process has left that was killed.
pub(super) fn next_boot(dir: TempDir) -> World {
    let conn = Connection::open(dir.path().join("humfs/metadata.db")).unwrap();
    conn.execute("UPDATE super SET v='another boot' WHERE k='boot_id'", ()).unwrap();
    drop(conn);
    World::open(dir)
}

#[test]
fn after_a_crash_of_the_host_names_lead_to_the_records_of_their_objects() {
    let world = start();
    // In use; then the data tree goes on without records.
    world.create("in use", &file(1)).unwrap();
    world.remove("in use").unwrap();
    world.save("a", &file(33));
    let data = |path: &str| world.host(path);
    std::fs::rename(data("d"), data("moved")).unwrap();
    std::fs::rename(data("a"), data("e/a")).unwrap();
    std::fs::remove_file(data("b")).unwrap();
    // The host may give this one the number of the one that is gone.
    std::fs::write(data("b"), "").unwrap();
    std::fs::create_dir(data("d")).unwrap();
    std::fs::write(data("d/f"), "").unwrap();
    let world = reboot(world);
    let expected: Vec<(&str, Loaded)> = vec![
        ("b", Loaded::Absent),
        ("d", Loaded::Absent),
        ("d/f", Loaded::Absent),
        ("e", Loaded::Record(directory(5))),
        ("e/a", Loaded::Record(file(33))),
        ("l1", Loaded::Record(file(6))),
        ("moved", Loaded::Record(directory(1))),
        ("moved/f", Loaded::Record(file(2))),
        ("moved/l2", Loaded::Record(file(6))),
    ];
    let view: Vec<_> = world.view().into_iter().map(|(path, loaded)| (String::from_utf8(path).unwrap(), loaded)).collect();
    assert_eq!(view, expected.into_iter().map(|(path, loaded)| (path.to_owned(), loaded)).collect::<Vec<_>>());
    assert_eq!(world.count("SELECT count(*) FROM inode"), 5);
    assert_eq!(world.count("SELECT nlink FROM inode WHERE uid=6"), 2);
}

/// `dir` as another file system would have it.
fn copied(dir: &TempDir) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    let status = std::process::Command::new("cp").arg("-aT").arg(dir.path()).arg(copy.path()).status().unwrap();
    assert!(status.success());
    copy
}

/// A tree with records in the database, and some that are in the log alone.
fn left_in_a_hurry() -> (View, TempDir) {
    let world = start();
    world.create("d/e", &directory(4)).unwrap();
    world.create("d/e/g", &file(5)).unwrap();
    world.store.sync().unwrap();
    world.create("late", &directory(6)).unwrap();
    world.create("late/f", &file(7)).unwrap();
    world.save_anew("d/e", &directory(8));
    (world.view(), world.die())
}

#[test]
fn a_copy_of_a_tree_that_was_left_in_a_hurry_has_all_records() {
    let (expected, dir) = left_in_a_hurry();
    let copy = copied(&dir);
    assert_eq!(World::open(copied(&dir)).view(), expected, "on the same machine");
    let world = next_boot(copy);
    assert_eq!(world.view(), expected, "on another one");
    assert_eq!(reboot(world).view(), expected, "which goes down as well");
}

#[test]
fn a_copy_whose_root_got_the_same_number_is_a_copy() {
    let (expected, dir) = left_in_a_hurry();
    let copy = copied(&dir);
    use std::os::unix::fs::MetadataExt;
    let root = std::fs::metadata(copy.path().join("data")).unwrap().ino();
    let conn = Connection::open(copy.path().join("humfs/metadata.db")).unwrap();
    let born: Option<String> = conn.query_row("SELECT v FROM super WHERE k='root_btime'", (), |row| row.get(0)).ok();
    if born.is_none() {
        println!("skipped: the temporary directory's file system knows no time of birth");
        return;
    }
    conn.execute("UPDATE super SET v=?1 WHERE k='root_ino'", [root as i64]).unwrap();
    drop(conn);
    assert_eq!(next_boot(copy).view(), expected);
}

#[test]
fn a_database_of_before_learns_when_its_root_was_made() {
    let world = start();
    let expected = world.view();
    let dir = world.close();
    let ask = |dir: &TempDir| {
        let conn = Connection::open(dir.path().join("humfs/metadata.db")).unwrap();
        let asked: Option<String> = conn.query_row("SELECT v FROM super WHERE k='root_btime'", (), |row| row.get(0)).ok();
        conn.execute("DELETE FROM super WHERE k='root_btime'", ()).unwrap();
        asked
    };
    let first = ask(&dir);
    let world = World::open(dir);
    assert_eq!(world.view(), expected);
    assert!(world.count("SELECT count(*) FROM hostref") > 0, "it is no copy");
    world.save("a", &file(9));
    let dir = world.close();
    assert_eq!(ask(&dir), first);
}

#[test]
fn a_crash_of_the_host_changes_nothing_where_both_sides_agree() {
    let world = start();
    world.rename("a", "z", false).unwrap();
    let expected = world.view();
    let world = reboot(world);
    assert_eq!(world.view(), expected);
    world.check_rows();
    // Left in order, nobody has to look.
    let dir = world.close();
    std::fs::rename(dir.path().join("data/z"), dir.path().join("data/y")).unwrap();
    let world = World::open(dir);
    assert_eq!(world.load("y"), Loaded::Absent);
}

#[test]
fn the_first_change_of_a_name_is_announced_before_it_is_done() {
    let world = World::new().again();
    let is_clean = |world: &World| world.count("SELECT v FROM super WHERE k='clean'") == 1;
    assert!(is_clean(&world));
    let told = world.store.change(
        |session, site| world.with("f", |at| plan::create(session, site, at, &file(1)).map(|(_, change)| change)),
        || {
            // What somebody sees who looks at the file itself.
            let conn = Connection::open(world.dir.path().join("humfs/metadata.db")).unwrap();
            let clean: i64 = conn.query_row("SELECT v FROM super WHERE k='clean'", (), |row| row.get(0)).unwrap();
            std::fs::write(world.host("f"), "").unwrap();
            Ok((clean, Outcome::default()))
        },
    );
    assert_eq!(told, Ok(0));
    // A change of a record alone is no reason to look at all names.
    let world = world.again();
    world.save("f", &file(2));
    world.store.sync().unwrap();
    assert!(is_clean(&world));
}

#[test]
fn a_very_deep_tree_is_walked_with_one_descriptor() {
    let world = World::new();
    world.save_chain(1500);
    let dirs = world.count("SELECT count(*) FROM dentry");
    let world = reboot(world);
    assert_eq!(world.count("SELECT count(*) FROM dentry"), dirs);
}

impl World {
    /// Directories in each other, `depth` levels of them.
    fn save_chain(&self, depth: usize) {
        let mut parent = self.fs.root().unwrap();
        for level in 0..depth {
            let dir = self.fs.dir_fd(&parent).unwrap();
            let at = At { parent: &parent, dir: (*dir).as_fd(), name: c"d" };
            self.store.create(&at, &directory(level as u32)).unwrap();
            drop(dir);
            parent = self.fs.enroll(&parent, c"d").unwrap().0;
        }
    }
}
