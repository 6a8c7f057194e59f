//! A load whose power is cut: every object's name says what it must be, so
//! that whatever is found afterwards can be judged; what had been synced must
//! be there whole.
//!
//! The host's file system is stopped by `FS_IOC_SHUTDOWN` in the middle of the
//! load and mounted anew: its device then holds what it held at that moment.
//! The load is told another boot id than everybody else, so that whoever opens
//! the tree next believes that the host was started in between.

mod script;

use crate::beside::{self, THREADS, dir_of};
use crate::export_driver::MemorySource;
use crate::fixture::LoopFs;
use crate::guest::{BOTH, Guest, name};
use crate::picture::{Picture, Sight};
use crate::realm::Realm;
use crate::victim::{self, Victim};
use externfs::*;
use script::{Fate, Step, Thing, View, fates, script};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The first argument of a process that is the load.
pub const LOAD: &str = "power-load";

type Answer = std::result::Result<(), Errno>;

fn done<T>(answer: externfs::Result<T>) -> Answer {
    answer.map(drop).map_err(|error| error.errno())
}

/// The load's side: `REALM TREE SEED`. Goes on until it is killed.
///
/// # Errors
/// What went wrong before it could begin.
pub fn run(words: &[String]) -> std::result::Result<(), String> {
    let [realm, tree, seed] = words else { return Err("REALM TREE SEED".into()) };
    let realm = Realm::named(realm).ok_or("no such realm")?;
    let seed: u64 = seed.parse().map_err(|_| "no such seed")?;
    let connect = realm.open(Path::new(tree), &[])?;
    let guest = Guest::new(connect.as_ref());
    let dirs = beside::furnish(&guest)?;
    done(guest.export.sync()).map_err(|errno| format!("syncfs: {errno}"))?;
    victim::ready();
    std::thread::scope(|scope| {
        for (thread, dir) in dirs.into_iter().enumerate() {
            let worker = Worker { export: guest.export.as_ref(), thread, dir };
            scope.spawn(move || {
                for (index, step) in script(seed, thread).iter().enumerate() {
                    if worker.perform(*step).is_err() {
                        break;
                    }
                    victim::report(thread, index);
                }
                // Whoever waits for this kills it.
                std::thread::park();
            });
        }
    });
    Ok(())
}

struct Worker<'a> {
    export: &'a dyn Export,
    thread: usize,
    dir: NodeId,
}

impl Worker<'_> {
    fn perform(&self, step: Step) -> Answer {
        let root = Caller::root();
        match step {
            Step::Make(id) => self.make(id),
            Step::Chmod(id, view) => self.with(id, view, |entry| {
                let mode = Mode::new(Thing::of(self.thread, id).modes[1]);
                done(self.export.set_attr(&root, entry.id, None, &SetAttr { mode: Some(mode), ..SetAttr::default() }))
            }),
            Step::Move(id, view) => {
                let (old, new) = (Thing::name(id, view), Thing::name(id, View { moved: true, ..view }));
                done(self.export.rename(&root, (self.dir, name(&old)), (self.dir, name(&new)), RenameFlags::NOREPLACE))
            }
            Step::Remove(id, view) => {
                let called = Thing::name(id, view);
                done(match Thing::of(self.thread, id).kind {
                    FileKind::Directory => self.export.rmdir(&root, self.dir, name(&called)),
                    _ => self.export.unlink(&root, self.dir, name(&called)),
                })
            }
            Step::Sync(id, view) => self.with(id, view, |entry| self.sync(entry)).and_then(|()| self.probe()),
            Step::SyncAll => done(self.export.sync()).and_then(|()| self.probe()),
        }
    }

    fn make(&self, id: u32) -> Answer {
        let thing = Thing::of(self.thread, id);
        let caller = Caller { uid: GuestUid(thing.owner.0), gid: GuestGid(thing.owner.1), ..Caller::root() };
        let (called, mode) = (Thing::name(id, View::default()), Mode::new(thing.modes[0]));
        let device = DeviceNumber { major: id, minor: self.thread as u32 };
        let new = match thing.kind {
            FileKind::Directory => NewNode::Directory,
            FileKind::Symlink => NewNode::Symlink(&thing.content),
            FileKind::CharDevice => NewNode::CharDevice(device),
            FileKind::Fifo => NewNode::Fifo,
            _ => return self.make_file(&caller, &called, &thing),
        };
        let entry = self.export.make(&caller, self.dir, name(&called), &new, mode).map_err(|error| error.errno())?;
        self.set_xattr(&entry, &thing)?;
        self.export.forget(entry.id, 1);
        Ok(())
    }

    fn make_file(&self, caller: &Caller, called: &str, thing: &Thing) -> Answer {
        let flags = CreateFlags { mode: Mode::new(thing.modes[0]), exclusive: true, open: BOTH };
        let (entry, handle) = self.export.create(caller, self.dir, name(called), flags).map_err(|error| error.errno())?;
        done(self.export.write(handle.id, 0, &mut MemorySource(&thing.content), WriteFlags::default()))?;
        self.set_xattr(&entry, thing)?;
        self.export.release(handle.id, None);
        self.export.forget(entry.id, 1);
        Ok(())
    }

    fn set_xattr(&self, entry: &Entry, thing: &Thing) -> Answer {
        let Some(value) = &thing.xattr else { return Ok(()) };
        done(self.export.set_xattr(&Caller::root(), entry.id, XATTR.as_bytes(), value, XattrFlags::empty()))
    }

    fn with(&self, id: u32, view: View, act: impl FnOnce(&Entry) -> Answer) -> Answer {
        let called = Thing::name(id, view);
        let entry = self.export.lookup(&Caller::root(), self.dir, name(&called)).map_err(|error| error.errno())?;
        act(&entry)?;
        self.export.forget(entry.id, 1);
        Ok(())
    }

    fn sync(&self, entry: &Entry) -> Answer {
        match entry.attr.kind {
            FileKind::Regular => {
                let handle = self.export.open(&Caller::root(), entry.id, BOTH).map_err(|error| error.errno())?;
                done(self.export.fsync(handle.id, false))?;
                self.export.release(handle.id, None);
            }
            FileKind::Directory => {
                let handle = self.export.open_dir(entry.id).map_err(|error| error.errno())?;
                done(self.export.fsync_dir(handle.id, false))?;
                self.export.release_dir(handle.id);
            }
            // Nobody can open these to sync them.
            _ => done(self.export.sync())?,
        }
        Ok(())
    }

    /// A file system that was stopped may have said yes to a sync without
    /// having written anything, but refuses every change since.
    fn probe(&self) -> Answer {
        let now = SetAttr { mtime: Some(SetTime::Now), ..SetAttr::default() };
        done(self.export.set_attr(&Caller::root(), self.dir, None, &now))
    }
}

const XATTR: &str = "user.says";

/// What a cut came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Survey {
    /// Steps that the load had reported.
    pub reported: usize,
    /// Things that it had made, not synced, and that are gone: without any it
    /// was no power cut.
    pub lost: usize,
}

/// A tree on a file system whose power is cut.
#[derive(Clone, Copy)]
pub struct PowerCut<'a> {
    /// How it is served.
    pub realm: Realm,
    /// The host's file system.
    pub disk: &'a LoopFs,
    /// What the threads do.
    pub seed: u64,
}

impl PowerCut<'_> {
    /// Makes the tree, cuts the power after `delay`, and looks.
    ///
    /// # Errors
    /// What is there and should not be, or the other way round.
    pub fn run(&self, delay: Duration) -> std::result::Result<Survey, String> {
        let tree = self.disk.path().join("tree");
        self.realm.make(&tree);
        let victim = Victim::start(&mut self.command(&tree))?;
        std::thread::sleep(delay);
        crate::shutdown::cut_power(&self.disk.path());
        let reported = victim.kill(THREADS)?;
        self.disk.replay();
        let seen = self.realm.look_after_power_cut(&tree)?;
        let mut survey = Survey { reported: reported.iter().sum(), lost: 0 };
        for (thread, &count) in reported.iter().enumerate() {
            let wrong = |why: String| format!("thread {thread}, which has reported {count} steps: {why}");
            survey.lost += self.judge(thread, count, &seen).map_err(wrong)?;
        }
        beside::check(self.realm, seen, &self.disk.path().join("untouched"))?;
        std::fs::remove_dir_all(&tree).map_err(|error| error.to_string())?;
        Ok(survey)
    }

    /// The load, which is told that the host was started at another time.
    fn command(&self, tree: &Path) -> Command {
        let boot_id = self.disk.path().join("boot_id");
        std::fs::write(&boot_id, "00000000-0000-4000-8000-000000000000\n").expect("a boot id");
        let own = std::env::current_exe().expect("own path");
        let script = r#"mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@""#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(boot_id).arg(own);
        command.args([LOAD, self.realm.name()]).arg(tree).arg(self.seed.to_string());
        command
    }

    /// Returns how many things are gone.
    fn judge(&self, thread: usize, reported: usize, seen: &Picture) -> std::result::Result<usize, String> {
        let mut lost = 0;
        let above = format!("/{}/", dir_of(thread));
        let mut strangers: BTreeSet<&str> = seen.nodes.keys().filter_map(|path| path.strip_prefix(&above)).collect();
        for (id, fate) in fates(&script(self.seed, thread), reported) {
            let mut found = Vec::new();
            for moved in [false, true] {
                let called = Thing::name(id, View { moved, ..View::default() });
                if strangers.remove(called.as_str()) {
                    found.push((moved, &seen.nodes[&format!("{above}{called}")]));
                }
            }
            lost += usize::from(found.is_empty() && fate.views.last() != Some(&None));
            let adopted = self.realm.may_lose_records() && !fate.whole && matches!(found.as_slice(), [(_, sight)] if is_adopted(sight));
            judge_thing(&Thing::of(thread, id), &fate, &found, adopted).map_err(|why| format!("thing {id}, {fate:?}: {why}: {found:?}"))?;
        }
        if strangers.is_empty() { Ok(lost) } else { Err(format!("{strangers:?} are there")) }
    }
}

/// Whether it is seen as what has no record is seen.
fn is_adopted(sight: &Sight) -> bool {
    let mode = match sight.kind {
        FileKind::Directory => 0o700,
        FileKind::Symlink => 0o777,
        _ => 0o600,
    };
    sight.owner == (0, 0) && sight.mode == mode
}

/// Whether a thing that is found by these names may be so. One that was
/// adopted has lost its record and nothing else.
fn judge_thing(thing: &Thing, fate: &Fate, found: &[(bool, &Sight)], adopted: bool) -> std::result::Result<(), String> {
    let (moved, sight) = match found {
        [] if fate.views.contains(&None) => return Ok(()),
        [] => return Err("it is gone".into()),
        [one] => *one,
        _ => return Err("it has two names".into()),
    };
    let views: Vec<View> = fate.views.iter().flatten().copied().collect();
    if views.is_empty() {
        return Err("it is back".into());
    }
    // The two are not one change: either may have come down without the other.
    if !views.iter().any(|view| view.moved == moved) {
        return Err("it has another name".into());
    }
    if !adopted {
        judge_record(thing, &views, sight)?;
    }
    let xattr = sight.xattrs.get(XATTR);
    let strange = xattr.is_some() && xattr != thing.xattr.as_ref() || sight.xattrs.len() > usize::from(xattr.is_some());
    if strange || fate.whole && xattr != thing.xattr.as_ref() {
        return Err("its attributes are not its own".into());
    }
    // What was not synced may be short or have holes, but is nobody else's.
    let own = |(index, &byte): (usize, &u8)| byte == 0 || thing.content.get(index) == Some(&byte);
    let short = !fate.whole && thing.kind == FileKind::Regular && sight.content.len() <= thing.content.len();
    if sight.content == thing.content || short && sight.content.iter().enumerate().all(own) {
        return Ok(());
    }
    Err(format!("its contents should be {} bytes", thing.content.len()))
}

fn judge_record(thing: &Thing, views: &[View], sight: &Sight) -> std::result::Result<(), String> {
    if !views.iter().any(|view| thing.modes[usize::from(view.chmodded)] == sight.mode) {
        return Err(format!("its mode should be one of {:04o} and {:04o}", thing.modes[0], thing.modes[1]));
    }
    if sight.kind != thing.kind || sight.owner != thing.owner {
        return Err(format!("it should be {:?} {:?}", thing.kind, thing.owner));
    }
    Ok(())
}
