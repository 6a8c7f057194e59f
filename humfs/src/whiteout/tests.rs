//! Renames with a whiteout that fail half-way, in every format.

use super::*;
use crate::make::{Plan, lay};
use crate::node::HumFile;
use crate::options::Options;
use crate::record::Note;
use crate::store::{Facts, Format, Loaded, MetaStore, Object, Recovered};
use crate::tree::{Access, Tree};
use externfs::{Child, CreateFlags, Created, ExternFs, GuestUid, Name, NewNode, OpenFlags, RenameFlags, SetAttr};
use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// A store that refuses what it is told to.
struct Refusing {
    inner: Arc<dyn MetaStore>,
    create: AtomicBool,
    remove: AtomicBool,
    /// The next rename but one.
    second_rename: AtomicBool,
    has_renamed: AtomicBool,
}

fn refuse(whether: &AtomicBool) -> Result<()> {
    if whether.load(Ordering::Relaxed) { Err(Errno::ENOSPC.into()) } else { Ok(()) }
}

impl MetaStore for Refusing {
    fn format(&self) -> Format {
        self.inner.format()
    }

    fn load(&self, at: &At<'_>, host: &Attr) -> Result<Loaded> {
        self.inner.load(at, host)
    }

    fn load_root(&self, root: BorrowedFd<'_>, host: &Attr) -> Result<Loaded> {
        self.inner.load_root(root, host)
    }

    fn save(&self, object: &Object<'_>, record: &Record) -> Result<Note> {
        self.inner.save(object, record)
    }

    fn keeps_times(&self) -> bool {
        self.inner.keeps_times()
    }

    fn create(&self, at: &At<'_>, record: &Record) -> Result<(OwnedFd, Note)> {
        refuse(&self.create)?;
        self.inner.create(at, record)
    }

    fn create_unnamed(&self, dir: BorrowedFd<'_>, record: &Record) -> Result<OwnedFd> {
        self.inner.create_unnamed(dir, record)
    }

    fn link(&self, object: &Object<'_>, to: &At<'_>, record: &Record) -> Result<()> {
        self.inner.link(object, to, record)
    }

    fn remove(&self, at: &At<'_>, victim: Facts) -> Result<()> {
        refuse(&self.remove)?;
        self.inner.remove(at, victim)
    }

    fn rename(&self, from: &At<'_>, to: &At<'_>, how: &Renaming) -> Result<()> {
        if self.has_renamed.swap(true, Ordering::Relaxed) {
            refuse(&self.second_rename)?;
        }
        self.inner.rename(from, to, how)
    }

    fn sync_record(&self, object: &Object<'_>) -> Result<()> {
        self.inner.sync_record(object)
    }

    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }

    fn close(&self) -> Result<()> {
        self.inner.close()
    }

    fn recover(&self, root: &Arc<Inode>) -> Result<Recovered> {
        self.inner.recover(root)
    }

    fn recorded_names(&self, dir: &Arc<Inode>, emit: &mut dyn FnMut(&CStr)) -> Result<()> {
        self.inner.recorded_names(dir, emit)
    }

    fn discard(&self, at: &At<'_>) -> Result<()> {
        self.inner.discard(at)
    }
}

/// A tree with the files `from` of user 5 and `to` of user 6.
struct Rig {
    dir: tempfile::TempDir,
    fs: HumFs,
    store: Arc<Refusing>,
    /// They are open.
    files: Vec<HumFile>,
}

fn name(text: &str) -> Name<'_> {
    Name::new(text.as_bytes()).unwrap()
}

fn open(tree: &Path) -> HumFs {
    HumFs::new(Tree::open(tree, Access::Write).unwrap(), Options::default()).unwrap()
}

impl Rig {
    fn new(format: Format, replaced: bool) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        lay(dir.path(), &Plan { format, total: 1 << 30, inodes: None, adopt: None }).unwrap();
        let mut fs = open(dir.path());
        let no = || AtomicBool::new(false);
        let store = Arc::new(Refusing { inner: fs.store.clone(), create: no(), remove: no(), second_rename: no(), has_renamed: no() });
        fs.store = store.clone();
        let mut rig = Rig { dir, fs, store, files: Vec::new() };
        rig.make("from", 5);
        if replaced {
            rig.make("to", 6);
        }
        rig
    }

    fn make(&mut self, called: &str, uid: u32) {
        let flags =
            CreateFlags { open: OpenFlags { read: true, write: true, ..OpenFlags::default() }, exclusive: true, mode: Mode::new(0o644) };
        let root = self.fs.root().unwrap();
        let Created { node, opened, .. } = self.fs.create(&Caller::root(), &root, name(called), flags).unwrap();
        let owner = SetAttr { uid: Some(GuestUid(uid)), ..SetAttr::default() };
        self.fs.set_attr(&Caller::root(), &node, None, &owner).unwrap();
        self.files.push(opened.file);
    }

    fn rename(&self) -> Option<Errno> {
        let root = self.fs.root().unwrap();
        let to = self.fs.lookup(&root, name("to")).ok().map(|(node, _)| node);
        let from = Child { name: name("from"), node: Some(&self.files[0].node) };
        let to = Child { name: name("to"), node: to.as_ref() };
        self.store.has_renamed.store(false, Ordering::Relaxed);
        self.fs.rename(&Caller::root(), (&root, from), (&root, to), RenameFlags::WHITEOUT).err().map(|error| error.errno())
    }

    /// Owner and mode of what is called so; None for nothing.
    fn owner(&self, called: &str) -> Option<(u32, u32)> {
        let root = self.fs.root().unwrap();
        self.fs.lookup(&root, name(called)).ok().map(|(_, attr)| (attr.uid.0, attr.mode.bits()))
    }

    fn owners(&self) -> [Option<(u32, u32)>; 2] {
        ["from", "to"].map(|called| self.owner(called))
    }

    /// As through the descriptor that somebody has.
    fn fchmod(&self, file: usize, mode: u32) -> Option<Errno> {
        let file = &self.files[file];
        let change = SetAttr { mode: Some(Mode::new(mode)), ..SetAttr::default() };
        self.fs.set_attr(&Caller::root(), &file.node, Some(file), &change).err().map(|error| error.errno())
    }

    fn intents(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("humfs/changes")).unwrap().count()
    }

    /// What is counted is what is there, when nobody has anything open.
    fn check_account(&mut self) {
        self.files.clear();
        assert_eq!(self.fs.account.used(), self.fs.recount().unwrap());
    }

    /// As a server leaves it that is killed, and its successor finds it.
    fn remount(self) -> Rig {
        let Rig { dir, fs, store, files } = self;
        drop((files, fs));
        let fs = open(dir.path());
        Rig { dir, fs, store, files: Vec::new() }
    }
}

const FROM: Option<(u32, u32)> = Some((5, 0o644));
const TO: Option<(u32, u32)> = Some((6, 0o644));
const LEFT: Option<(u32, u32)> = Some((0, 0));

#[test]
fn what_fails_is_taken_back_and_never_carried_out() {
    for format in Format::ALL {
        for replaced in [true, false] {
            let rig = Rig::new(format, replaced);
            let to = TO.filter(|_| replaced);
            let refused = if replaced { &rig.store.remove } else { &rig.store.create };
            refused.store(true, Ordering::Relaxed);
            assert_eq!(rig.rename(), Some(Errno::ENOSPC));
            refused.store(false, Ordering::Relaxed);
            assert_eq!((rig.owners(), rig.intents()), ([FROM, to], 0), "{format:?}");
            // Each knows where it is.
            assert_eq!((rig.fchmod(0, 0o600), rig.owners()), (None, [Some((5, 0o600)), to]));
            // Guests go on.
            let root = rig.fs.root().unwrap();
            let child = Child { name: name("from"), node: Some(&rig.files[0].node) };
            rig.fs.remove(&Caller::root(), &root, child, false).unwrap();
            if replaced {
                assert_eq!((rig.fchmod(1, 0o604), rig.owners()), (None, [None, Some((6, 0o604))]));
                let from = Child { name: name("to"), node: Some(&rig.files[1].node) };
                let to = Child { name: name("from"), node: None };
                rig.fs.rename(&Caller::root(), (&root, from), (&root, to), RenameFlags::empty()).unwrap();
            }
            drop(root);
            let mut rig = rig.remount();
            assert_eq!(rig.owners(), [Some((6, 0o604)).filter(|_| replaced), None], "{format:?}");
            rig.check_account();
        }
    }
}

#[test]
fn what_is_gone_cannot_be_taken_back() {
    for format in Format::ALL {
        let mut rig = Rig::new(format, true);
        rig.store.create.store(true, Ordering::Relaxed);
        assert_eq!(rig.rename(), Some(Errno::EIO));
        rig.store.create.store(false, Ordering::Relaxed);
        assert_eq!((rig.owners(), rig.intents()), ([None, FROM], 0), "{format:?}");
        assert_eq!((rig.fchmod(0, 0o600), rig.fchmod(1, 0o604)), (None, None));
        assert_eq!(rig.owners(), [None, Some((5, 0o600))]);
        rig.check_account();
        assert_eq!(rig.remount().owners(), [None, Some((5, 0o600))]);
    }
}

#[test]
fn nothing_changes_names_beside_an_intent_that_sticks() {
    for format in Format::ALL {
        let rig = Rig::new(format, true);
        rig.store.remove.store(true, Ordering::Relaxed);
        rig.store.second_rename.store(true, Ordering::Relaxed);
        assert_eq!(rig.rename(), Some(Errno::EIO));
        rig.store.remove.store(false, Ordering::Relaxed);
        rig.store.second_rename.store(false, Ordering::Relaxed);
        assert_eq!((rig.owners(), rig.intents()), ([TO, FROM], 1), "{format:?}");
        let root = rig.fs.root().unwrap();
        let made = rig.fs.make(&Caller::root(), &root, name("new"), &NewNode::Regular, Mode::new(0o600));
        assert_eq!(made.err().map(|error| error.errno()), Some(Errno::EIO));
        // Their records are theirs, wherever they are.
        assert_eq!((rig.fchmod(0, 0o600), rig.fchmod(1, 0o604)), (None, None), "{format:?}");
        assert_eq!(rig.owners(), [Some((6, 0o604)), Some((5, 0o600))]);
        drop(root);
        let mut rig = rig.remount();
        assert_eq!((rig.owners(), rig.intents()), ([LEFT, Some((5, 0o600))], 0), "{format:?}");
        rig.check_account();
    }
}

/// An intent that stayed where guests went on, from before.
#[test]
fn only_the_very_object_is_removed() {
    let rig = Rig::new(Format::Xattr, true);
    let who = |called: &str| Who::of(&stat_at(rig.fs.base.root_fd(), &std::ffi::CString::new(called).unwrap()).unwrap());
    let (from, to) = (who("from"), who("to"));
    let changes = rig.dir.path().join("humfs/changes/9");
    let note = |moved: Who, replaced: Who| {
        let owner = (GuestUid(0), externfs::GuestGid(0));
        let intended = Intended { moved, replaced: Some(replaced), owner, old: b"to".to_vec(), new: b"from".to_vec() };
        let text = String::from_utf8(intended.to_text()).unwrap();
        std::os::unix::fs::symlink(text, &changes).unwrap();
    };
    // The number is the same.
    let other = |who: Who| who.born_at(1);
    note(from, other(to));
    let rig = rig.remount();
    assert_eq!(rig.owners(), [FROM, TO]);
    note(other(from), to);
    let rig = rig.remount();
    assert_eq!(rig.owners(), [FROM, TO]);
    note(from, to);
    assert_eq!(rig.remount().owners(), [FROM, LEFT]);
}

/// Whoever changes names behind our back does not get our records.
#[test]
fn a_record_is_not_saved_by_a_name_that_leads_elsewhere() {
    for format in Format::ALL {
        let rig = Rig::new(format, true);
        let data = rig.dir.path().join("data");
        std::fs::rename(data.join("from"), data.join("away")).unwrap();
        std::fs::rename(data.join("to"), data.join("from")).unwrap();
        // There the record goes with the object.
        let (told, named) = if format == Format::Xattr { (None, TO) } else { (Some(Errno::ESTALE), FROM) };
        assert_eq!(rig.fchmod(0, 0o600), told, "{format:?}");
        let root = rig.fs.root().unwrap();
        let linked = rig.fs.link(&Caller::root(), &rig.files[0].node, &root, name("new")).err().map(|error| error.errno());
        assert_eq!(linked, told, "{format:?}");
        drop(root);
        assert_eq!(rig.remount().owner("from"), named, "{format:?}");
    }
}
