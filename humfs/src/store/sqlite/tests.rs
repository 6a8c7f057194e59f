//! The store on a real tree.

mod crash;
mod damage;
mod flight;
mod kill;
mod power;

use super::*;
use crate::superblock::Superblock;
use externfs::{DeviceNumber, Errno, ExternFs, GuestGid, GuestUid, Mode};
use hostfs::HostFs;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// What a test sees of a tree: all names with their records.
type View = BTreeMap<Vec<u8>, Loaded>;

/// An empty tree, opened.
struct World {
    dir: TempDir,
    fs: HostFs,
    store: SqliteStore,
    /// Holds the lock.
    _tree: Tree,
}

fn lay(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir(dir.join("data")).unwrap();
    std::fs::set_permissions(dir, PermissionsExt::from_mode(0o700)).unwrap();
    let superblock = Superblock { version: 2, format: Format::Sqlite, used: 1, total: 1 << 30 };
    std::fs::write(dir.join("superblock"), superblock.to_text()).unwrap();
}

/// Another test that starts a process shares the lock with it for a moment,
/// until that executes its program.
fn open_tree(dir: &Path, access: Access) -> Tree {
    for _ in 0..200 {
        match Tree::open(dir, access) {
            Err(error) if error.0.contains("in use") => std::thread::sleep(std::time::Duration::from_millis(10)),
            opened => return opened.unwrap(),
        }
    }
    panic!("{} is still in use", dir.display());
}

fn record(kind: FileKind, mode: u32, uid: u32, gid: u32) -> Record {
    Record::new(kind, Mode::new(mode), GuestUid(uid), GuestGid(gid))
}

fn file(uid: u32) -> Record {
    record(FileKind::Regular, 0o4755, uid, 7)
}

fn directory(uid: u32) -> Record {
    record(FileKind::Directory, 0o1777, uid, 8)
}

impl World {
    fn new() -> World {
        let dir = tempfile::Builder::new().prefix("humfs sqlite %").tempdir().unwrap();
        lay(dir.path());
        World::open(dir)
    }

    fn open(dir: TempDir) -> World {
        World::try_open(dir, Access::Write).unwrap()
    }

    fn try_open(dir: TempDir, access: Access) -> Result<World> {
        let tree = open_tree(dir.path(), access);
        let fs = HostFs::layer(host::open_listing(tree.data()).unwrap(), false).unwrap();
        let store = SqliteStore::open(&tree)?;
        if access == Access::Write {
            store.recover(&fs.root().unwrap())?;
        }
        Ok(World { dir, fs, store, _tree: tree })
    }

    /// A second look at the same tree.
    fn reader(&self) -> (HostFs, SqliteStore) {
        let tree = open_tree(self.dir.path(), Access::Read);
        let fs = HostFs::layer(host::open_listing(tree.data()).unwrap(), true).unwrap();
        (fs, SqliteStore::open(&tree).unwrap())
    }

    /// Ends as it should.
    fn close(self) -> TempDir {
        self.dir
    }

    /// Closed as it should be, and opened again.
    fn again(self) -> World {
        World::open(self.close())
    }

    /// Ends as with `kill -9`: nothing more is written.
    fn die(self) -> TempDir {
        let World { dir, store, .. } = self;
        store.shared.lock().session = None;
        dir
    }

    fn host(&self, path: &str) -> PathBuf {
        self.dir.path().join("data").join(path)
    }

    fn with<T>(&self, path: impl AsRef<[u8]>, act: impl FnOnce(&At<'_>) -> T) -> T {
        at(&self.fs, path.as_ref(), act)
    }

    fn create(&self, path: impl AsRef<[u8]>, record: &Record) -> Result<OwnedFd> {
        self.with(path, |at| self.store.create(at, record).map(|(fd, _)| fd))
    }

    /// Calls `act` with what is at `path`.
    fn object<T>(&self, path: impl AsRef<[u8]>, act: impl FnOnce(&Object<'_>) -> T) -> T {
        self.with(path, |at| {
            let (_, host) = self.fs.enroll(at.parent, at.name).unwrap();
            let fd = host::child(at.dir, at.name).unwrap();
            act(&Object { hold: crate::store::Hold::Path(fd.as_fd()), place: Place::Named(*at), host: &host, known: None })
        })
    }

    fn facts(&self, path: impl AsRef<[u8]>) -> Option<Facts> {
        self.with(path, |at| {
            let (_, host) = self.fs.enroll(at.parent, at.name).ok()?;
            Some(Facts { ino: host.ino, kind: host.kind, nlink: host.nlink })
        })
    }

    /// As somebody who remembers the record that it had.
    fn save(&self, path: impl AsRef<[u8]>, record: &Record) -> Note {
        let known = match self.load(path.as_ref()) {
            Loaded::Record(known) => Some(known),
            Loaded::Absent => None,
        };
        self.object(path, |object| self.store.save(&Object { known: known.as_ref(), ..*object }, record)).unwrap()
    }

    /// As somebody who does not.
    fn save_anew(&self, path: impl AsRef<[u8]>, record: &Record) -> Note {
        self.object(path, |object| self.store.save(object, record)).unwrap()
    }

    fn load(&self, path: impl AsRef<[u8]>) -> Loaded {
        load(&self.fs, &self.store, path.as_ref()).unwrap()
    }

    fn link(&self, path: &str, to: &str) -> Result<()> {
        let Loaded::Record(record) = self.load(path) else { panic!("{path} has no record") };
        self.object(path, |object| self.with(to, |to| self.store.link(object, to, &record)))
    }

    fn remove(&self, path: impl AsRef<[u8]>) -> Result<()> {
        let victim = self.facts(path.as_ref()).unwrap();
        self.with(path, |at| self.store.remove(at, victim))
    }

    fn renaming(&self, from: &str, to: &str, exchange: bool) -> Renaming {
        Renaming { exchange, no_replace: false, moved: self.facts(from).unwrap(), replaced: self.facts(to) }
    }

    fn rename(&self, from: &str, to: &str, exchange: bool) -> Result<()> {
        let how = self.renaming(from, to, exchange);
        self.with(from, |from| self.with(to, |to| self.store.rename(from, to, &how)))
    }

    fn view(&self) -> View {
        view(&self.fs, &self.store)
    }

    /// The only number that `sql` gives.
    fn count(&self, sql: &str) -> i64 {
        let mut state = self.store.shared.lock();
        state.session(&self.store.shared.site).unwrap().conn().query_row(sql, (), |row| row.get(0)).unwrap()
    }

    /// There are no rows but those of what there is.
    fn check_rows(&self) {
        let view = self.view();
        let recorded = view.values().filter(|loaded| **loaded != Loaded::Absent).count() as i64;
        assert_eq!(self.count("SELECT count(*) FROM dentry"), recorded, "names: {view:?}");
        // Inodes without a name wait for the disk.
        assert_eq!(self.count("SELECT count(*) FROM inode WHERE nlink<>0"), self.count("SELECT count(DISTINCT ino) FROM dentry"));
        assert_eq!(self.count("SELECT count(*) FROM hostref"), self.count("SELECT count(*) FROM inode"));
        assert_eq!(self.count("SELECT count(*) FROM xattr WHERE ino NOT IN (SELECT ino FROM inode)"), 0);
        let wrong = "SELECT count(*) FROM inode i WHERE mode>>12<>4 AND nlink<>(SELECT count(*) FROM dentry d WHERE d.ino=i.ino)";
        assert_eq!(self.count(wrong), 0);
    }
}

fn at<T>(fs: &HostFs, path: &[u8], act: impl FnOnce(&At<'_>) -> T) -> T {
    let parts: Vec<&[u8]> = path.split(|&b| b == b'/').collect();
    let (last, dirs) = parts.split_last().unwrap();
    let mut parent = fs.root().unwrap();
    for dir in dirs {
        parent = fs.enroll(&parent, &CString::new(*dir).unwrap()).unwrap().0;
    }
    let dir = fs.dir_fd(&parent).unwrap();
    act(&At { parent: &parent, dir: (*dir).as_fd(), name: &CString::new(*last).unwrap() })
}

fn load(fs: &HostFs, store: &SqliteStore, path: &[u8]) -> Result<Loaded> {
    at(fs, path, |at| {
        let (_, host) = fs.enroll(at.parent, at.name).unwrap();
        store.load(at, &host)
    })
}

fn view(fs: &HostFs, store: &SqliteStore) -> View {
    let (mut view, mut ahead) = (View::new(), vec![Vec::new()]);
    let top = std::fs::read_link(host::proc_path(fs.root_fd())).unwrap();
    while let Some(dir) = ahead.pop() {
        for entry in std::fs::read_dir(top.join(std::ffi::OsStr::from_bytes(&dir))).unwrap() {
            let entry = entry.unwrap();
            let mut path = dir.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend(entry.file_name().as_bytes());
            if entry.file_type().unwrap().is_dir() {
                ahead.push(path.clone());
            }
            let loaded = load(fs, store, &path).unwrap();
            view.insert(path, loaded);
        }
    }
    view
}

#[test]
fn each_kind_comes_back_as_it_was_made_also_after_closing() {
    let world = World::new();
    let device = DeviceNumber { major: u32::MAX, minor: 70_000 };
    let mut records = vec![
        file(u32::MAX),
        directory(0),
        record(FileKind::Symlink, 0o777, 5, 6),
        record(FileKind::Fifo, 0o600, 1, 2),
        record(FileKind::Socket, 0o7777, 1, 2),
        Record { device, ..record(FileKind::BlockDevice, 0o660, 0, 6) },
        Record { device: DeviceNumber::default(), ..record(FileKind::CharDevice, 0, 0, 0) },
    ];
    records[0].xattrs.set(b"security.capability", &[0, 1, 2, 255]);
    records[0].xattrs.set(b"user.\xff", b"");
    let name = |record: &Record| format!("{:?}", record.kind);
    for made in &records {
        let target = (made.kind == FileKind::Symlink).then(|| b"/else\xffwhere".as_slice().into());
        let fd = world.create(name(made), &Record { target, ..made.clone() }).unwrap();
        let is_open = rustix::io::read(&fd, &mut [0u8; 1]).is_ok();
        assert_eq!(is_open, made.kind == FileKind::Regular, "{:?}", made.kind);
    }
    assert_eq!(std::fs::read_link(world.host("Symlink")).unwrap().as_os_str().as_bytes(), b"/else\xffwhere");
    let check = |world: &World| {
        for made in &records {
            assert_eq!(world.load(name(made)), Loaded::Record(made.clone()));
        }
        world.check_rows();
    };
    check(&world);
    check(&world.again());
}

#[test]
fn a_name_that_is_taken_is_refused_and_nothing_changes() {
    let world = World::new();
    for made in [file(1), directory(1)] {
        let path = format!("{:?}", made.kind);
        world.create(&path, &made).unwrap();
        for other in [file(2), directory(2), record(FileKind::Fifo, 0, 2, 2)] {
            assert_eq!(world.create(&path, &other).unwrap_err().errno(), Errno::EEXIST);
        }
        assert_eq!(world.load(&path), Loaded::Record(made));
    }
    world.check_rows();
}

#[test]
fn saving_replaces_all_of_a_record_and_moves_ctime() {
    let world = World::new();
    let mut made = file(1);
    made.xattrs.set(b"user.goes", b"1");
    made.xattrs.set(b"user.changes", b"2");
    world.create("f", &made).unwrap();
    let mut other = record(FileKind::Regular, 0o640, 3, 4);
    other.xattrs.set(b"user.changes", &vec![9; 64 << 10]);
    other.xattrs.set(b"user.comes", b"");
    world.save("f", &other);
    assert_eq!(world.load("f"), Loaded::Record(other.clone()));
    let world = world.again();
    assert_eq!(world.load("f"), Loaded::Record(other));
    world.save("f", &file(2));
    assert_eq!(world.load("f"), Loaded::Record(file(2)));
    assert_eq!(world.count("SELECT count(*) FROM xattr"), 0);
}

/// What the store notes down of `path`, as it says when it is asked.
fn note(world: &World, path: &str) -> Note {
    let Loaded::Record(record) = world.load(path) else { panic!("{path} has no record") };
    record.note
}

#[test]
fn the_time_of_a_change_is_kept_and_moves_each_time() {
    let world = World::new();
    world.create("f", &file(1)).unwrap();
    world.create("d", &directory(1)).unwrap();
    let host = |path: &str| world.object(path, |object| *object.host);
    for path in ["f", "d"] {
        let before = host(path);
        let record = |uid| Record { uid: GuestUid(uid), ..if path == "f" { file(0) } else { directory(0) } };
        let mut last = before.ctime;
        for round in 0..20 {
            // The same again is a change, too.
            let told = world.save(path, &record(round / 2));
            assert!(told.changed > last, "{path} {round}: {last:?} {told:?}");
            assert_eq!(note(&world, path).changed, told.changed);
            last = told.changed;
        }
        assert_eq!(host(path), before, "nothing of it on the host");
        let told = world.save_anew(path, &record(99));
        assert_eq!(told.row, note(&world, path).row);
    }
    let (f, d) = (note(&world, "f"), note(&world, "d"));
    let world = World::open(world.die());
    assert_eq!((note(&world, "f").changed, note(&world, "d").changed), (f.changed, d.changed));
}

/// On hosts whose own times do so, too.
#[test]
fn the_hosts_next_change_is_later_than_one_that_is_kept() {
    let world = World::new();
    world.create("f", &file(1)).unwrap();
    let path = world.host("f");
    let look = |world: &World| {
        let Loaded::Record(record) = world.load("f") else { panic!() };
        crate::fs::merged(&world.object("f", |object| *object.host), &record).ctime
    };
    let touch = || std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut last = look(&world);
    let host_moves = (0..50).all(|_| {
        touch();
        let now = look(&world);
        std::mem::replace(&mut last, now) < now
    });
    if !host_moves {
        println!("skipped: two changes in one tick have the same time here");
        return;
    }
    for round in 0..300 {
        let mut last = look(&world);
        for step in 0..1 + round % 3 {
            let told = world.save("f", &file(round));
            let now = look(&world);
            assert!(now > last && now == told.changed, "{round} {step}: {last:?} {now:?}");
            last = now;
        }
        touch();
        let now = look(&world);
        assert!(now > last, "{round}: {last:?} {now:?}");
    }
}

#[test]
fn a_row_that_is_remembered_and_gone_is_made_again() {
    for (path, mut with) in [("f", file(1)), ("g", file(1))] {
        let world = World::new();
        world.create(path, &file(1)).unwrap();
        let Loaded::Record(known) = world.load(path) else { panic!() };
        assert_ne!(known.note.row, 0);
        // The database has one name of two, and gives the row up with it.
        std::fs::hard_link(world.host(path), world.host("other")).unwrap();
        world.remove(path).unwrap();
        if path == "g" {
            with.xattrs.set(b"user.a", b"b");
        }
        with.uid = GuestUid(7);
        let told = world.object("other", |object| world.store.save(&Object { known: Some(&known), ..*object }, &with)).unwrap();
        assert_ne!(told.row, known.note.row);
        assert_eq!(world.load("other"), Loaded::Record(with.clone()));
        world.check_rows();
        assert_eq!(World::open(world.die()).load("other"), Loaded::Record(with));
    }
}

#[test]
fn of_a_copy_a_row_is_looked_for_until_it_knows_its_object() {
    let world = World::new();
    world.create("f", &file(1)).unwrap();
    assert_ne!(note(&world, "f").row, 0);
    std::fs::rename(world.host("f"), world.host("old")).unwrap();
    std::fs::write(world.host("f"), "copied").unwrap();
    assert_eq!(note(&world, "f").row, 0, "another object");
    let told = world.save("f", &file(2));
    assert_eq!((told.row, note(&world, "f").row), (note(&world, "f").row, told.row));
    assert_ne!(told.row, 0);
    assert_eq!(world.load("f"), Loaded::Record(file(2)));
}

#[test]
fn a_time_that_is_none_does_no_harm() {
    let world = World::new();
    world.create("f", &file(1)).unwrap();
    world.store.sync().unwrap();
    let conn = rusqlite::Connection::open(world.dir.path().join("humfs/metadata.db")).unwrap();
    for (time, ns, expected) in [(5, -1i64, 0i64), (5, 1_000_000_000, 0), (i64::MAX, 999_999_999, i64::MAX), (i64::MIN, 1 << 40, 0)] {
        conn.execute("UPDATE inode SET ctime=?1, ctime_ns=?2 WHERE mode=35309", (time, ns)).unwrap();
        let Loaded::Record(record) = world.load("f") else { panic!() };
        assert_eq!(record.note.changed.seconds, expected);
        // What is yet to come is not shown, and the next change takes it away.
        let host = world.object("f", |object| *object.host);
        assert_eq!(crate::fs::merged(&host, &record).ctime, host.ctime);
        let (before, told) = (Timestamp::now(), world.save("f", &file(3)));
        world.store.sync().unwrap();
        let seconds = |time: Timestamp| time.seconds;
        assert!((seconds(before) - 1..=seconds(Timestamp::now())).contains(&seconds(told.changed)), "{told:?}");
    }
}

#[test]
fn the_root_has_a_record() {
    let world = World::new();
    let root = world.fs.root().unwrap();
    let host = world.fs.attr(&root, None).unwrap();
    assert_eq!(world.store.load_root(world.fs.root_fd(), &host), Ok(Loaded::Absent));
    let object = Object { hold: crate::store::Hold::Open(world.fs.root_fd()), place: Place::Root, host: &host, known: None };
    world.store.save(&object, &directory(3)).unwrap();
    let world = world.again();
    assert_eq!(world.store.load_root(world.fs.root_fd(), &host), Ok(Loaded::Record(directory(3))));
}

#[test]
fn hard_links_share_a_record_that_goes_with_the_last() {
    let world = World::new();
    world.create("d", &directory(0)).unwrap();
    world.create("a", &file(1)).unwrap();
    world.link("a", "d/b").unwrap();
    assert_eq!(world.link("a", "d/b").unwrap_err().errno(), Errno::EEXIST);
    world.save("d/b", &file(2));
    assert_eq!(world.load("a"), Loaded::Record(file(2)));
    world.check_rows();
    world.remove("a").unwrap();
    assert_eq!(world.load("d/b"), Loaded::Record(file(2)));
    world.check_rows();
    world.remove("d/b").unwrap();
    world.remove("d").unwrap();
    assert_eq!(world.count("SELECT count(*) FROM inode WHERE nlink<>0"), 0);
}

#[test]
fn a_link_that_the_host_made_has_the_record_of_its_file() {
    let world = World::new();
    world.create("a", &file(1)).unwrap();
    std::fs::hard_link(world.host("a"), world.host("b")).unwrap();
    assert_eq!(world.load("b"), Loaded::Record(file(1)));
    world.save("b", &file(2));
    assert_eq!(world.load("a"), Loaded::Record(file(2)));
    world.check_rows();
    std::fs::hard_link(world.host("a"), world.host("e")).unwrap();
    world.link("e", "f").unwrap();
    world.save("f", &file(3));
    assert_eq!(world.load("a"), Loaded::Record(file(3)));
    // Another file is another file.
    std::fs::write(world.host("c"), "").unwrap();
    std::fs::hard_link(world.host("c"), world.host("d")).unwrap();
    assert_eq!(world.load("d"), Loaded::Absent);
}

#[test]
fn a_file_without_a_name_gets_its_record_with_the_first() {
    let world = World::new();
    let fd = world.with("x", |at| world.store.create_unnamed(at.dir, &file(1))).unwrap();
    let stat = rustix::fs::fstat(&fd).unwrap();
    let root = world.fs.root().unwrap();
    let host = Attr { ino: stat.st_ino, kind: FileKind::Regular, nlink: 0, ..world.fs.attr(&root, None).unwrap() };
    let object = Object { hold: crate::store::Hold::Open(fd.as_fd()), place: Place::Nameless, host: &host, known: None };
    world.store.save(&object, &file(2)).unwrap();
    world.with("x", |at| world.store.link(&object, at, &file(2))).unwrap();
    assert_eq!(world.load("x"), Loaded::Record(file(2)));
    world.check_rows();
}

#[test]
fn renames_take_the_records_along() {
    let world = World::new();
    for (path, record) in [("a", directory(1)), ("a/f", file(2)), ("b", directory(3)), ("c", file(4)), ("d", file(5))] {
        world.create(path, &record).unwrap();
    }
    // Remembered under its old place.
    assert_eq!(world.load("a/f"), Loaded::Record(file(2)));
    world.rename("a", "b/a", false).unwrap();
    assert_eq!(world.load("b/a/f"), Loaded::Record(file(2)));
    world.rename("c", "d", false).unwrap();
    assert_eq!(world.load("d"), Loaded::Record(file(4)));
    // A file and a directory with something in it change places.
    world.rename("d", "b/a", true).unwrap();
    assert_eq!((world.load("b/a"), world.load("d")), (Loaded::Record(file(4)), Loaded::Record(directory(1))));
    assert_eq!(world.load("d/f"), Loaded::Record(file(2)));
    world.check_rows();
    // Over an empty directory, then over one that is not.
    world.create("e", &directory(6)).unwrap();
    world.rename("d", "e", false).unwrap();
    assert_eq!(world.rename("b", "e", false).unwrap_err().errno(), Errno::ENOTEMPTY);
    assert_eq!((world.load("b"), world.load("e")), (Loaded::Record(directory(3)), Loaded::Record(directory(1))));
    assert_eq!(world.load("e/f"), Loaded::Record(file(2)));
    world.check_rows();
    world.again().check_rows();
}

#[test]
fn two_names_of_a_file_renamed_onto_each_other_stay() {
    let world = World::new();
    world.create("a", &file(1)).unwrap();
    world.link("a", "b").unwrap();
    for exchange in [false, true] {
        world.rename("a", "b", exchange).unwrap();
        assert_eq!((world.load("a"), world.load("b")), (Loaded::Record(file(1)), Loaded::Record(file(1))));
        world.check_rows();
    }
}

#[test]
fn removals_that_the_host_refuses_change_nothing() {
    let world = World::new();
    world.create("d", &directory(1)).unwrap();
    world.create("d/f", &file(2)).unwrap();
    assert_eq!(world.remove("d").unwrap_err().errno(), Errno::ENOTEMPTY);
    assert_eq!((world.load("d"), world.load("d/f")), (Loaded::Record(directory(1)), Loaded::Record(file(2))));
    world.again().check_rows();
}

#[test]
fn names_are_bytes() {
    let world = World::new();
    let long = [0xff; 255];
    let names: [&[u8]; 5] = [&long, b"new\nline", b"\x01\xfe'\"%", b"metadata", b"~"];
    for (uid, name) in names.iter().enumerate() {
        world.create(name, &file(uid as u32)).unwrap();
    }
    let world = world.again();
    for (uid, name) in names.iter().enumerate() {
        assert_eq!(world.load(name), Loaded::Record(file(uid as u32)));
        world.remove(name).unwrap();
    }
    assert_eq!(world.count("SELECT count(*) FROM dentry"), 0);
}

#[test]
fn what_the_host_made_has_no_record_and_can_get_one() {
    let world = World::new();
    std::fs::create_dir_all(world.host("x/y")).unwrap();
    std::fs::write(world.host("x/y/old"), "").unwrap();
    assert_eq!(world.load("x/y/old"), Loaded::Absent);
    world.create("x/y/new", &file(1)).unwrap();
    world.save("x/y/old", &file(2));
    let world = world.again();
    assert_eq!(world.load("x"), Loaded::Absent);
    assert_eq!((world.load("x/y/new"), world.load("x/y/old")), (Loaded::Record(file(1)), Loaded::Record(file(2))));
    world.save("x", &directory(3));
    assert_eq!(world.load("x/y/old"), Loaded::Record(file(2)));
    // Moves of what has no record at all, to where a record is and back.
    std::fs::write(world.host("stranger"), "").unwrap();
    world.rename("stranger", "x/y/new", true).unwrap();
    assert_eq!((world.load("stranger"), world.load("x/y/new")), (Loaded::Record(file(1)), Loaded::Absent));
    world.rename("x/y/new", "stranger", false).unwrap();
    assert_eq!(world.load("stranger"), Loaded::Absent);
    world.remove("stranger").unwrap();
}

#[test]
fn what_the_host_removed_leaves_nothing_behind_for_others() {
    let world = World::new();
    for (path, record) in [("d", directory(1)), ("d/e", directory(1)), ("d/e/setuid", file(0)), ("f", file(0)), ("d/g", file(1))] {
        world.create(path, &record).unwrap();
    }
    world.link("d/g", "g").unwrap();
    std::fs::remove_dir_all(world.host("d/e")).unwrap();
    let mut left = Vec::new();
    world.with("d/x", |at| world.store.recorded_names(at.parent, &mut |name| left.push(name.to_bytes().to_vec()))).unwrap();
    assert_eq!(left, [b"e", b"g"]);
    world.with("d/e", |at| world.store.discard(at)).unwrap();
    assert_eq!(world.with("d/e", |at| world.store.discard(at)).unwrap_err().errno(), Errno::ENOENT);
    world.check_rows();
    // One of another type is not taken for it.
    std::fs::remove_file(world.host("f")).unwrap();
    std::fs::create_dir(world.host("f")).unwrap();
    assert_eq!(world.load("f"), Loaded::Absent);
    // A new one at a stale name.
    std::fs::remove_dir(world.host("f")).unwrap();
    world.create("f", &file(3)).unwrap();
    assert_eq!(world.load("f"), Loaded::Record(file(3)));
    // A directory that the host has emptied goes with what was recorded in it.
    std::fs::remove_file(world.host("d/g")).unwrap();
    world.remove("d").unwrap();
    assert_eq!(world.load("g"), Loaded::Record(file(1)));
    world.check_rows();
}

#[test]
fn a_copy_of_the_tree_has_the_same_records() {
    let world = World::new();
    for (path, record) in [("d", directory(1)), ("d/f", file(2)), ("g", file(3))] {
        world.create(path, &record).unwrap();
    }
    world.link("g", "d/g").unwrap();
    let expected = world.view();
    let parent = tempfile::tempdir().unwrap();
    let copy = parent.path().join("copy");
    // Once from a tree that is closed and once from one that is in use.
    let world = world.again();
    for live in [false, true] {
        if live {
            world.store.sync().unwrap();
        }
        let copied = std::process::Command::new("cp").arg("-a").arg(world.dir.path()).arg(&copy).status().unwrap();
        assert!(copied.success());
        let tree = open_tree(&copy, Access::Write);
        let fs = HostFs::layer(host::open_listing(tree.data()).unwrap(), false).unwrap();
        let store = SqliteStore::open(&tree).unwrap();
        store.recover(&fs.root().unwrap()).unwrap();
        assert_eq!(view(&fs, &store), expected);
        drop((store, fs, tree));
        std::fs::remove_dir_all(&copy).unwrap();
    }
}

#[test]
fn threads_do_not_disturb_each_other() {
    let world = World::new();
    for thread in 0..4 {
        world.create(format!("d{thread}"), &directory(thread)).unwrap();
    }
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let world = &world;
            scope.spawn(move || {
                for round in 0..300u32 {
                    let path = format!("d{thread}/f{round}");
                    world.create(&path, &file(round)).unwrap();
                    world.save(&path, &file(round + thread));
                    if round % 3 == 0 {
                        world.remove(&path).unwrap();
                    }
                }
            });
        }
    });
    let world = World::open(world.die());
    world.check_rows();
    assert_eq!(world.view().len(), 4 + 4 * 200);
    assert_eq!(world.load("d3/f298"), Loaded::Record(file(301)));
}
