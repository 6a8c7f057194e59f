//! What others do while the host's step of a change is under way.

use super::*;

impl World {
    /// A rename that is in the log and under way in another thread.
    fn begin_rename(&self, from: &str, to: &str) {
        let how = self.renaming(from, to, false);
        let plan =
            |session: &mut Session, site: &Site| self.with(from, |from| self.with(to, |to| plan::rename(session, site, (from, to), &how)));
        let mut state = self.store.shared.lock();
        let (_, ticket) = state.write_down(&self.store.shared.site, plan).unwrap();
        state.in_flight.insert(ticket.unwrap().seq);
    }

    /// A file is made, and `meanwhile` happens when the log knows of it.
    fn create_while(&self, path: &str, record: &Record, meanwhile: impl FnOnce()) -> Result<OwnedFd> {
        let host = |at: &At<'_>| {
            meanwhile();
            make(at, record)
        };
        self.with(path, |at| {
            self.store.change(|session, site| plan::create(session, site, at, record).map(|(_, change)| change), || host(at))
        })
    }

    /// As the flusher and full batches do.
    fn commit(&self) {
        assert!(self.store.shared.lock().commit().is_some());
    }

    fn has_lost_rows(&self) -> bool {
        self.store.shared.lock().session.as_ref().unwrap().has_lost_rows()
    }
}

#[test]
fn a_batch_may_end_while_changes_are_under_way() {
    let world = World::new();
    world.create("a", &file(1)).unwrap();
    world.create_while("b", &file(2), || world.commit()).unwrap();
    assert!(!world.has_lost_rows());
    world.store.sync().unwrap();
    let view = world.view();
    let dir = world.close();
    let conn = rusqlite::Connection::open(dir.path().join("humfs/metadata.db")).unwrap();
    assert_eq!(conn.query_row("SELECT v FROM super WHERE k='clean'", (), |row| row.get(0)), Ok(1));
    drop(conn);
    assert_eq!(World::open(dir).view(), view);
}

#[test]
fn a_change_under_way_is_not_judged_when_the_database_is_opened_again() {
    let world = World::new();
    for (path, uid) in [("a", 1), ("b", 2)] {
        world.create(path, &file(uid)).unwrap();
    }
    world.begin_rename("a", "c");
    // SQLite gives up, and whoever comes next opens the database again.
    world.store.shared.lock().session.as_ref().unwrap().conn().execute_batch("ROLLBACK").unwrap();
    assert_eq!(world.load("b"), Loaded::Record(file(2)));
    // The new number is not given twice.
    world.create("d", &file(4)).unwrap();
    std::fs::rename(world.host("a"), world.host("c")).unwrap();
    let world = World::open(world.die());
    let expected = [("b", 2), ("c", 1), ("d", 4)].map(|(path, uid)| (path.into(), Loaded::Record(file(uid))));
    assert_eq!(world.view(), View::from(expected));
    world.check_rows();
}

#[test]
fn a_change_that_failed_while_the_database_was_closed_never_was() {
    let world = World::new();
    world.create("a", &file(1)).unwrap();
    // Somebody else's, and made behind our back: it is there, and not ours.
    let told = world.create_while("b", &file(2), || {
        std::fs::write(world.host("b"), "").unwrap();
        world.store.shared.lock().session = None;
    });
    assert_eq!(told.unwrap_err().errno(), Errno::EEXIST);
    assert_eq!(world.load("b"), Loaded::Absent);
    assert_eq!(World::open(world.die()).load("b"), Loaded::Absent);
}

#[test]
fn the_log_is_not_begun_anew_beyond_what_the_database_says() {
    let world = World::new();
    world.create("a", &file(0)).unwrap();
    // The file of the log is so long that it is begun anew after one more of these.
    let large = |number| Record { xattrs: [("user.large", [number; 63 << 10])].into_iter().collect(), ..file(1) };
    for number in 0..16 {
        world.save("a", &large(number));
    }
    std::fs::write(world.host("b"), "").unwrap();
    let flush = || world.store.shared.flush(&mut None);
    assert_eq!(world.create_while("b", &large(16), flush).unwrap_err().errno(), Errno::EEXIST);
    // Nothing has come since, and the record of what failed is not in the database.
    flush();
    world.save("a", &file(3));
    assert!(World::open(world.die()).load("a") == Loaded::Record(file(3)), "a change that was answered is lost");
}
