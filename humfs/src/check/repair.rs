//! The repairs.

use super::finding::{Finding, Mend, Outcome, Problem};
use super::objects::{Found, Spot, Survey, hold, reason};
use super::parts::{self, Counters};
use super::{CheckOptions, Progress, Report, Scene, look_at, pending};
use crate::account::{Entry, EntryKind, Outcome as Settled, Usage};
use crate::fs::HumFs;
use crate::host::{self, damaged, fault, stat_at};
use crate::names::facts;
use crate::options::Options;
use crate::record::Record;
use crate::store::xattr::ATTRIBUTE;
use crate::store::{At, Format, Hold, MetaStore, Object, Place, Renaming};
use crate::tree::{Access, Tree};
use externfs::{Attr, Error, ExternFs, FileKind, GuestGid, GuestUid, Mode, Result, UsageError};
use hostfs::{HostFs, Inode};
use rustix::fs::{AtFlags, Timespec, Timestamps};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

/// Where in the guest's root things go that nobody owns.
const LOST: &CStr = c"lost+found";

/// Checks the tree at `path` and repairs it.
pub(super) fn run(path: &Path, options: &CheckOptions, progress: &Progress) -> std::result::Result<Report, UsageError> {
    let tree = Tree::open_exposed(path, Access::Write)?;
    let shown = path.display();
    let failed = |error: Error| UsageError(format!("'{shown}': {}", reason(&error)));
    if parts::unfinished(&tree).is_some() {
        return look_at(tree, options, progress, false, Vec::new());
    }
    let counters = Counters::read(&tree);
    let mut before: Vec<Finding> = parts::privacy(&tree, true);
    before.extend(parts::leftovers(&tree));
    before.extend(counters.findings());
    before.extend(parts::settings(&tree));
    let tree = tree.without_conversion()?;
    let scene = Scene::new(tree, true).map_err(failed)?;
    before.extend(begin(&scene));
    let Scene { tree, base, root } = scene;
    drop((base, root));
    let fs = match HumFs::new(tree, Options { adopt: options.adopt, ..Options::default() }) {
        Ok(fs) => fs,
        Err(error) => {
            before.push(Finding::of_part("humfs", Problem::RecoveryFailed(reason(&error).into()), None));
            let found = before.into_iter().filter(|finding| !is_looked_at_again(finding)).map(Found::from).collect();
            return look_at(Tree::open_exposed(path, Access::Write)?, options, progress, false, found);
        }
    };
    settle_leftovers(&fs.tree, &mut before);
    let survey = Survey::new(&fs.tree, options, progress, before.into_iter().map(Found::from).collect());
    let ground = fs.ground().map_err(failed)?;
    survey.walk(&ground, counters.said.map_or(0, |said| said.inodes));
    if !survey.is_partial() {
        survey.compare(counters.said.unwrap_or_else(|| fs.account.used()));
    }
    Bench { fs: &fs, survey: &survey, homes: RefCell::default() }.mend_all().map_err(failed)?;
    fs.leave_in_order().map_err(failed)?;
    Ok(survey.report(&fs.tree, false))
}

/// What a second look finds again.
fn is_looked_at_again(finding: &Finding) -> bool {
    finding.outcome == Outcome::Left && !matches!(finding.problem, Problem::RecoveryFailed(_))
}

/// What comes before a tree can be served. Failures show when that is tried.
fn begin(scene: &Scene) -> Vec<Finding> {
    let Ok(store) = scene.tree.store() else { return Vec::new() };
    let pending = pending(&*store, false);
    let Ok(recovered) = store.recover(&scene.root) else { return Vec::new() };
    let how = format!("{} changes completed, {} taken back", recovered.completed, recovered.undone);
    let settled = pending.map(|finding| Finding { outcome: Outcome::Repaired(how.into()), ..finding });
    settled.into_iter().chain(mend_root(scene, &*store)).collect()
}

/// Nothing can be served while the root's record cannot be read; it is
/// replaced where it is.
fn mend_root(scene: &Scene, store: &dyn MetaStore) -> Option<Finding> {
    let host = scene.base.attr(&scene.root, None).ok()?;
    let error = store.load_root(scene.base.root_fd(), &host).err()?;
    let mut finding = Finding::of_object(b"", Problem::UnreadableRecord(reason(&error).into()), Some(Mend::Lose));
    if host.uid.0 == parts::owner(&scene.tree) {
        let object = Object { hold: Hold::Path(scene.base.root_fd()), place: Place::Root, host: &host, known: None };
        finding.settle(store.reset(&object, &unowned(host.kind)).map(|()| "the root has a record again: 0:0, closed to others".into()));
    }
    Some(finding)
}

/// What recovery has dealt with.
fn settle_leftovers(tree: &Tree, before: &mut [Finding]) {
    let left: Vec<Box<[u8]>> = parts::leftovers(tree).into_iter().map(|finding| finding.path).collect();
    for finding in before.iter_mut().filter(|finding| finding.outcome == Outcome::Left) {
        match finding.mend {
            Some(Mend::Recover) if !left.contains(&finding.path) => {
                finding.outcome = Outcome::Repaired("completed or taken back".into());
            }
            // Not every format sweeps what another one staged.
            Some(Mend::Recover) if finding.path.starts_with(parts::STAGE) => {
                finding.settle(parts::unstage(tree, &finding.path.clone()).map(|()| "removed".into()));
            }
            Some(Mend::Sweep) => finding.settle(parts::sweep(tree, &finding.path.clone()).map(|()| "removed".into())),
            _ => {}
        }
    }
}

/// The record of what nobody owns.
fn unowned(kind: FileKind) -> Record {
    let mode = if kind == FileKind::Directory { 0o700 } else { 0o600 };
    Record::new(kind, Mode::new(mode), GuestUid(0), GuestGid(0))
}

impl Finding {
    /// Takes note of what became of a repair.
    pub(super) fn settle<E: std::fmt::Display>(&mut self, done: std::result::Result<String, E>) {
        self.outcome = match done {
            Ok(how) => Outcome::Repaired(how.into()),
            Err(error) => Outcome::Failed(error.to_string().into()),
        };
    }
}

/// Where repairs are made.
struct Bench<'a> {
    fs: &'a HumFs,
    survey: &'a Survey<'a>,
    /// Objects with several names of which one has got a record: by the number that
    /// was seen, the number that it has now, and that name's place.
    homes: RefCell<HashMap<u64, Home>>,
}

type Home = (u64, Arc<Inode>, CString);

impl Bench<'_> {
    fn base(&self) -> &HostFs {
        &self.fs.base
    }

    fn store(&self) -> &dyn MetaStore {
        &*self.fs.store
    }

    fn mend_all(&self) -> Result<()> {
        let mut found = std::mem::take(&mut *self.survey.found());
        let changes = found.iter().any(|found| found.spot.is_some());
        // Should we die in here, the next writer counts anew.
        let somewhere = Entry { kind: EntryKind::Change, ino: 0, before: 0, path: None };
        let announced = self.fs.account.announce(&[somewhere], Usage::default())?;
        // Before records go, whose names must be counted rightly.
        if found.iter().any(is_untidy) {
            let tidied = self.store().tidy().map(|()| "removed".to_owned()).map_err(|error| reason(&error));
            found.iter_mut().filter(|found| is_untidy(found)).for_each(|found| found.finding.settle(tidied.clone()));
        }
        let mend = |found: &mut Found| {
            if let Some(spot) = &found.spot {
                let done = self.mend(&found.finding, spot);
                found.finding.settle(done.map_err(|error| reason(&error)));
            }
        };
        // A directory was found before what is in it; so what is moved, is
        // moved after all that was to be done below it.
        let moves = |found: &&mut Found| found.finding.mend == Some(Mend::Lose);
        found.iter_mut().filter(|found| !moves(found)).for_each(mend);
        found.iter_mut().rev().filter(moves).for_each(mend);
        let wrong = found.iter().any(|found| found.finding.mend == Some(Mend::Count));
        if (changes || wrong) && !self.survey.is_partial() {
            let used = if changes { self.fs.recount()? } else { self.survey.sum.total() };
            self.fs.account.recounted(used).map_err(fault("writing humfs/state"))?;
            for found in found.iter_mut().filter(|found| found.finding.mend == Some(Mend::Count)) {
                found.finding.outcome = Outcome::Repaired(format!("{} objects and {} bytes", used.inodes, used.bytes).into());
            }
        }
        announced.end(&Settled::default());
        *self.survey.found() = found;
        Ok(())
    }

    fn mend(&self, finding: &Finding, spot: &Spot) -> Result<String> {
        let inode = &spot.folder.inode;
        let dir = self.base().dir_fd(inode)?;
        let at = spot.name.as_ref().map(|name| At { parent: inode, dir: (*dir).as_fd(), name });
        match (finding.mend, at) {
            (Some(Mend::Discard), Some(at)) => self.store().discard(&at).map(|()| "removed".into()),
            (Some(Mend::Adopt), at) => self.adopt(spot, at.as_ref(), finding.problem == Problem::UnwrittenRecord),
            (Some(Mend::Lose), Some(at)) => self.lose(spot, &at, matches!(finding.problem, Problem::OrphanData { .. })),
            (Some(Mend::Strip), at) => self.strip(spot, at.as_ref()),
            _ => Err(damaged("nothing is known that would mend it")),
        }
    }

    /// What is there now, if it is what was seen.
    fn still(&self, spot: &Spot, at: &At<'_>) -> Result<(Attr, OwnedFd)> {
        let host = stat_at(at.dir, at.name).map_err(fault("looking up a name"))?;
        if host.ino != spot.ino || host.uid.0 != self.survey.owner {
            return Err(damaged("it is another object by now"));
        }
        let held = hold(at, &host)?;
        Ok((host, held))
    }

    /// Takes the attribute off that would be another format's record.
    fn strip(&self, spot: &Spot, at: Option<&At<'_>>) -> Result<String> {
        let held = at.map(|at| self.still(spot, at)).transpose()?;
        let fd = held.as_ref().map_or_else(|| self.base().root_fd(), |(_, held)| held.as_fd());
        rustix::fs::removexattr(host::proc_path(fd), ATTRIBUTE).map_err(fault("removing an attribute"))?;
        Ok("removed".into())
    }

    /// Gives an object its record. `has_record`: over one that is empty, which
    /// its names share as they should.
    fn adopt(&self, spot: &Spot, at: Option<&At<'_>>, has_record: bool) -> Result<String> {
        let record = spot.adopted.as_deref().ok_or_else(|| damaged("it has no owner"))?;
        let owner = format!("{}:{} {:04o}", record.uid.0, record.gid.0, record.mode.bits());
        let Some(at) = at else {
            let root = self.fs.root()?;
            let host = self.fs.host_attr(&root, None)?;
            let object = Object { hold: Hold::Path(self.base().root_fd()), place: Place::Root, host: &host, known: None };
            return self.store().save(&object, record).map(|_| format!("recorded as {owner}"));
        };
        let (host, held) = self.still(spot, at)?;
        if !has_record {
            self.must_be_alone(spot, &host)?;
        }
        if self.needs_stand_in(&host) {
            return self.stand_in(at, &host, record).map(|()| format!("replaced by a file that stands for it, recorded as {owner}"));
        }
        if !has_record && self.join(at, &host, record)? {
            return Ok(format!("recorded as {owner}, with its other names"));
        }
        let object = Object { hold: Hold::Path(held.as_fd()), place: Place::Named(*at), host: &host, known: None };
        self.store().save(&object, record)?;
        self.remember(&host, host.ino, at);
        Ok(format!("recorded as {owner}"))
    }

    /// Where records are kept by name, names of one object must share one;
    /// whose is right, nobody can tell.
    fn must_be_alone(&self, spot: &Spot, host: &Attr) -> Result<()> {
        let key = (spot.folder.inode.host_key().volume, host.ino);
        let shares = host.nlink > 1 && host.kind != FileKind::Directory && self.store().format() != Format::Xattr;
        if shares && self.survey.links().has_record(key) {
            return Err(damaged("another name of it has a record: remove this name and link it again"));
        }
        Ok(())
    }

    /// Where the record is an attribute, links and special files cannot have one.
    fn needs_stand_in(&self, host: &Attr) -> bool {
        self.store().format() == Format::Xattr && !matches!(host.kind, FileKind::Regular | FileKind::Directory)
    }

    /// Puts a regular file in the place of `at`, as which `host` is, that stands
    /// for it as the format has it: made whole beside, then renamed over it. For
    /// another name of what has been replaced it is the same file.
    fn stand_in(&self, at: &At<'_>, host: &Attr, record: &Record) -> Result<()> {
        let lost = if self.is_lost(at) { None } else { Some(self.lost()?) };
        let (room, dir) = lost.as_ref().map_or((at.parent, at.dir), |(inode, dir)| (inode, dir.as_fd()));
        let name = self.free_name(dir, host.ino)?;
        let made_at = At { parent: room, dir, name: &name };
        if !self.link_to_home(&made_at, host, record)? {
            self.make_stand_in(&made_at, at, host, record)?;
        }
        let moved = stat_at(made_at.dir, made_at.name).map_err(fault("looking up a name"))?;
        let how = Renaming { exchange: false, no_replace: false, moved: facts(&moved), replaced: Some(facts(host)) };
        self.store().rename(&made_at, at, &how)?;
        self.remember(host, moved.ino, at);
        Ok(())
    }

    /// What was `host` has a record by the name `at`, and the number `ino` now.
    fn remember(&self, host: &Attr, ino: u64, at: &At<'_>) {
        if host.nlink > 1 && host.kind != FileKind::Directory {
            self.homes.borrow_mut().insert(host.ino, (ino, at.parent.clone(), at.name.to_owned()));
        }
    }

    /// Where records are kept by name: makes `at` a name of what has got its record by
    /// another one, so that both share it. False if none has. The old name is moved
    /// aside meanwhile: a cut leaves a name too many.
    fn join(&self, at: &At<'_>, host: &Attr, record: &Record) -> Result<bool> {
        if self.store().format() == Format::Xattr || !self.homes.borrow().contains_key(&host.ino) {
            return Ok(false);
        }
        let (lost, lost_dir) = self.lost()?;
        let name = self.free_name(lost_dir.as_fd(), host.ino)?;
        let aside = At { parent: &lost, dir: lost_dir.as_fd(), name: &name };
        let how = Renaming { exchange: false, no_replace: true, moved: facts(host), replaced: None };
        self.store().rename(at, &aside, &how)?;
        match self.link_to_home(at, host, record) {
            Ok(true) => self.store().remove(&aside, facts(host)).map(|()| true),
            other => self.store().rename(&aside, at, &how).and(other),
        }
    }

    /// Makes `made_at` to stand for `at`.
    fn make_stand_in(&self, made_at: &At<'_>, at: &At<'_>, host: &Attr, record: &Record) -> Result<()> {
        let mut record = record.clone();
        if host.kind == FileKind::Symlink {
            let target = rustix::fs::readlinkat(at.dir, at.name, Vec::new()).map_err(fault("reading a link"))?;
            record.target = Some(target.into_bytes().into());
        }
        let (made, _) = self.store().create(made_at, &record)?;
        let times = Timestamps { last_access: timespec(host.atime), last_modification: timespec(host.mtime) };
        rustix::fs::utimensat(rustix::fs::CWD, host::proc_path(made.as_fd()), &times, AtFlags::empty()).map_err(fault("setting times"))
    }

    /// Gives what was `host`, and has a record by another name, the name `made_at`
    /// too; false if there is none.
    fn link_to_home(&self, made_at: &At<'_>, host: &Attr, record: &Record) -> Result<bool> {
        let known = self.homes.borrow().get(&host.ino).cloned();
        let Some((ino, parent, name)) = known else { return Ok(false) };
        let dir = self.base().dir_fd(&parent)?;
        let at = At { parent: &parent, dir: (*dir).as_fd(), name: &name };
        let there = match stat_at(at.dir, at.name) {
            Ok(there) if there.ino == ino => there,
            _ => return Ok(false),
        };
        let held = hold(&at, &there)?;
        let object = Object { hold: Hold::Path(held.as_fd()), place: Place::Named(at), host: &there, known: None };
        self.store().link(&object, made_at, record).map(|()| true)
    }

    /// Moves an object to lost+found and makes it nobody's. `had_none`: no record was
    /// there that another name could share.
    fn lose(&self, spot: &Spot, at: &At<'_>, had_none: bool) -> Result<String> {
        let (host, held) = self.still(spot, at)?;
        let has_names = host.nlink > 1 && host.kind != FileKind::Directory;
        if has_names && !had_none && self.store().load(at, &host).is_ok_and(|loaded| matches!(loaded, crate::store::Loaded::Record(_))) {
            return Ok("its record was that of another name, which has been repaired".into());
        }
        self.must_be_alone(spot, &host)?;
        if self.is_lost(at) {
            self.reset(held.as_fd(), at, &host)?;
            return Ok("closed to others where it is".into());
        }
        let (lost, lost_dir) = self.lost()?;
        if lost.host_key() == at.parent.host_key() {
            self.reset(held.as_fd(), at, &host)?;
            return Ok("0:0 and closed to others where it is".into());
        }
        let name = self.free_name(lost_dir.as_fd(), host.ino)?;
        let to = At { parent: &lost, dir: lost_dir.as_fd(), name: &name };
        let how = Renaming { exchange: false, no_replace: true, moved: facts(&host), replaced: None };
        self.store().rename(at, &to, &how)?;
        let host = stat_at(to.dir, to.name).map_err(fault("looking up a name"))?;
        self.reset(held.as_fd(), &to, &host)?;
        Ok(format!("moved to /lost+found/{}", name.to_string_lossy()))
    }

    /// Makes it nobody's, whatever its record says.
    fn reset(&self, held: std::os::fd::BorrowedFd<'_>, at: &At<'_>, host: &Attr) -> Result<()> {
        let mut record = unowned(host.kind);
        if host.kind.is_device() {
            record.device = host.device;
        }
        if self.needs_stand_in(host) {
            return self.stand_in(at, host, &record);
        }
        if self.join(at, host, &record)? {
            return Ok(());
        }
        let object = Object { hold: Hold::Path(held), place: Place::Named(*at), host, known: None };
        self.store().reset(&object, &record)?;
        self.remember(host, host.ino, at);
        Ok(())
    }

    /// `/lost+found` itself, or what is in its place.
    fn is_lost(&self, at: &At<'_>) -> bool {
        at.name == LOST && self.fs.is_root(at.parent)
    }

    /// `/lost+found`, made if need be.
    fn lost(&self) -> Result<(Arc<Inode>, OwnedFd)> {
        let root = self.fs.root()?.inner.clone();
        let at = At { parent: &root, dir: self.base().root_fd(), name: LOST };
        match stat_at(at.dir, at.name) {
            Err(rustix::io::Errno::NOENT) => drop(self.store().create(&at, &unowned(FileKind::Directory))?),
            Ok(host) if host.kind == FileKind::Directory => {
                if self.store().load(&at, &host).is_err() {
                    let held = hold(&at, &host)?;
                    self.reset(held.as_fd(), &at, &host)?;
                }
            }
            Ok(_) => return Err(damaged("/lost+found is no directory: rename it")),
            Err(other) => return Err(fault("looking up /lost+found")(other)),
        }
        let (inode, _) = self.base().enroll(&root, LOST)?;
        let dir = host::child_dir(at.dir, LOST).map_err(fault("opening /lost+found"))?;
        Ok((inode, dir))
    }

    /// A name in lost+found for the object with the number `ino`.
    fn free_name(&self, lost: std::os::fd::BorrowedFd<'_>, ino: u64) -> Result<CString> {
        for number in 0..1000 {
            let name = if number == 0 { ino.to_string() } else { format!("{ino}.{number}") };
            let name = CString::new(name).map_err(|_| externfs::Errno::EINVAL)?;
            if stat_at(lost, &name).is_err() {
                return Ok(name);
            }
        }
        Err(damaged("/lost+found has no free name"))
    }
}

/// What the store can take away by itself.
fn is_untidy(found: &Found) -> bool {
    matches!((&found.finding.problem, found.finding.mend), (Problem::FormatFlaw(_), Some(Mend::Sweep)))
}

fn timespec(time: externfs::Timestamp) -> Timespec {
    Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() }
}
