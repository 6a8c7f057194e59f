//! [`check`]: looks at every object, every record and every part of a tree,
//! says what is not as it should be, and repairs what can be repaired safely.
//!
//! # What it promises
//! * Without `repair` nothing is changed. No writer can begin meanwhile; with
//!   one at work a check is refused, unless it is wanted `live`: then changes
//!   under way may look like problems.
//! * The tree is hostile. Links are not followed, FIFOs not opened, depth and
//!   names are no matter, and memory does not depend on what files hold.
//! * A repair is one of those of [`Mend`], and each is told. None takes data
//!   away, gives anybody more than he had, or touches what another user of the
//!   host owns: that may be a second name of something which is none of ours.
//!   Killed in the middle, it can be run again; the next mount counts anew.
//! * A repair begins with what every writer begins with: recovery.
//!
//! # How it goes
//! Parts of the tree and left-overs first; then the walk, in which only modes
//! of the host are repaired, since directories below them are to be read; then
//! the other repairs, those that move something last and from below, so that
//! nothing is taken along that is still to be repaired; then the counters.

mod finding;
mod links;
mod objects;
mod parts;
mod repair;
mod report;
mod sanity;

pub use finding::{Finding, Mend, Outcome, Problem};
pub use report::Report;

pub(crate) use finding::{kind, shown};
pub(crate) use objects::reason;
pub(crate) use sanity::nonsense;

use crate::host::{self, fault};
use crate::options::Adopt;
use crate::store::MetaStore;
use crate::tree::{Access, Tree, lock_when_free};
use crate::walk::{Ground, walk};
use externfs::{ExternFs, UsageError};
use hostfs::{HostFs, Inode};
use objects::{Found, Survey};
use parts::Counters;
use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno as Host;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How a check goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CheckOptions {
    /// Repair what can be repaired safely.
    pub repair: bool,
    /// Look also while a writer is at work.
    pub live: bool,
    /// What becomes of files without a record, as in `-o adopt=`; None for what
    /// the tree's settings say.
    pub adopt: Option<Adopt>,
}

/// How far a check is, for whoever asks from another thread.
#[derive(Debug, Default)]
pub struct Progress {
    seen: AtomicU64,
    expected: AtomicU64,
}

impl Progress {
    /// Names that were looked at.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    /// How many there were when the tree was last counted; 0 for unknown.
    #[must_use]
    pub fn expected(&self) -> u64 {
        self.expected.load(Ordering::Relaxed)
    }

    fn step(&self) {
        self.seen.fetch_add(1, Ordering::Relaxed);
    }
}

/// Checks the tree at `path`. See the [module](self).
///
/// # Errors
/// One clear line, for a tree that cannot be checked at all.
pub fn check(path: &Path, options: &CheckOptions, progress: &Progress) -> Result<Report, UsageError> {
    if options.repair { repair::run(path, options, progress) } else { look(path, options, progress) }
}

/// A tree with what is needed to look at it.
struct Scene {
    tree: Tree,
    base: HostFs,
    root: Arc<Inode>,
}

impl Scene {
    fn new(tree: Tree, is_alone: bool) -> externfs::Result<Scene> {
        let data = rustix::io::fcntl_dupfd_cloexec(tree.data(), 0).map_err(fault("opening data/"))?;
        let base = HostFs::layer(data, !is_alone)?;
        let root = base.root()?;
        Ok(Scene { tree, base, root })
    }

    fn ground<'a>(&'a self, store: &'a dyn MetaStore) -> Ground<'a> {
        Ground::new(&self.base, store, self.root.clone())
    }
}

fn look(path: &Path, options: &CheckOptions, progress: &Progress) -> Result<Report, UsageError> {
    let tree = Tree::open_exposed(path, Access::Read)?;
    let (_held, beside_writer) = hold_still(&tree, options.live)?;
    // A writer that was waited for has changed the superblock meanwhile.
    let tree = Tree::open_exposed(path, Access::Read)?;
    look_at(tree, options, progress, beside_writer, Vec::new())
}

/// Looks at `tree` and changes nothing. `found`: what is known already.
fn look_at(tree: Tree, options: &CheckOptions, progress: &Progress, beside_writer: bool, found: Vec<Found>) -> Result<Report, UsageError> {
    let shown = tree.path().display().to_string();
    let failed = |error: externfs::Error| UsageError(format!("'{shown}': {}", reason(&error)));
    let options = CheckOptions { repair: false, ..*options };
    let scene = Scene::new(tree, !beside_writer).map_err(failed)?;
    let (tree, counters) = (&scene.tree, Counters::read(&scene.tree));
    let survey = Survey::new(tree, &options, progress, found);
    survey.take(parts::privacy(tree, false));
    if let Some(finding) = parts::unfinished(tree) {
        survey.only_take(finding);
        return Ok(survey.report(&scene.tree, beside_writer));
    }
    if !beside_writer {
        survey.take(parts::leftovers(tree));
        survey.take(counters.findings());
    }
    survey.take(parts::settings(tree));
    match tree.store().map(|store| (pending(&*store, beside_writer), store)) {
        Ok((Some(finding), _)) => survey.only_take(finding),
        Ok((None, store)) => survey.walk(&scene.ground(&*store), counters.said.map_or(0, |said| said.inodes)),
        Err(error) => survey.only_take(Finding::of_part(".", Problem::FormatFlaw(error.0.into()), None)),
    }
    if let Some(said) = counters.said.filter(|_| !beside_writer && !survey.is_partial()) {
        survey.compare(said);
    }
    Ok(survey.report(&scene.tree, beside_writer))
}

/// What must be settled before records can be judged. Beside a writer that is
/// never so, and is what was asked for.
fn pending(store: &dyn MetaStore, beside_writer: bool) -> Option<Finding> {
    let what = store.pending().ok().flatten().filter(|_| !beside_writer)?;
    Some(Finding::of_part("humfs", Problem::CutChange(what), Some(Mend::Recover)))
}

/// Keeps writers from beginning for as long as the lock is held. True: one is
/// at work already.
fn hold_still(tree: &Tree, live: bool) -> Result<(Option<OwnedFd>, bool), UsageError> {
    let shown = tree.path().display();
    let Some(control) = tree.control() else { return Ok((None, false)) };
    let lock = match host::open_file(control, c"lock", OFlags::RDONLY) {
        Ok(lock) => lock,
        // Nobody has ever written.
        Err(Host::NOENT) => return Ok((None, false)),
        Err(error) => return Err(UsageError(format!("'{shown}/humfs/lock': {error}"))),
    };
    let operation = FlockOperation::NonBlockingLockShared;
    let taken = match live {
        true => match rustix::fs::flock(&lock, operation) {
            Err(Host::WOULDBLOCK) => Ok(false),
            answer => answer.map(|()| true),
        },
        false => lock_when_free(&lock, operation),
    };
    match taken {
        Ok(true) => Ok((Some(lock), false)),
        Ok(false) if live => Ok((None, true)),
        Ok(false) => Err(UsageError(format!(
            "'{shown}' is in use by a writer: unmount it first, or say --live and take changes under way into account"
        ))),
        Err(error) => Err(UsageError(format!("'{shown}/humfs/lock': {error}"))),
    }
}

impl<'a> Survey<'a> {
    fn new(tree: &Tree, options: &CheckOptions, progress: &'a Progress, found: Vec<Found>) -> Survey<'a> {
        Survey {
            options: *options,
            adopt: tree.adopt(options.adopt),
            format: tree.superblock().format,
            owner: parts::owner(tree),
            progress,
            sum: Default::default(),
            links: Default::default(),
            found: found.into(),
            is_partial: false.into(),
        }
    }

    fn take(&self, findings: Vec<Finding>) {
        self.found().extend(findings.into_iter().map(Found::from));
    }

    fn is_partial(&self) -> bool {
        self.is_partial.load(Ordering::Relaxed)
    }

    /// Looks at everything in `ground`, of which `expected` objects are known.
    fn walk(&self, ground: &Ground<'_>, expected: u64) {
        self.progress.expected.store(expected, Ordering::Relaxed);
        if let Err(error) = ground.store.read_ahead().and_then(|()| walk(ground, self)) {
            self.is_partial.store(true, Ordering::Relaxed);
            self.take(vec![Finding::of_object(b"", Problem::UnreadableDirectory(reason(&error).into()), None)]);
        }
        let told = ground.store.verify(&mut |why, tidies| {
            let mend = tidies.then_some(Mend::Sweep);
            self.take(vec![Finding::of_part("humfs", Problem::FormatFlaw(why.into()), mend)]);
        });
        if let Err(error) = told {
            self.take(vec![Finding::of_part("humfs", Problem::FormatFlaw(reason(&error).into()), None)]);
        }
    }

    /// Of what keeps us from looking at objects.
    fn only_take(&self, finding: Finding) {
        self.is_partial.store(true, Ordering::Relaxed);
        self.take(vec![finding]);
    }

    /// Whether what was counted is what the counters say.
    fn compare(&self, said: crate::account::Usage) {
        let counted = self.sum.total();
        if counted != said {
            self.take(vec![Finding::of_part("humfs/state", Problem::WrongCounters { said, counted }, Some(Mend::Count))]);
        }
    }

    fn report(self, tree: &Tree, beside_writer: bool) -> Report {
        // Beside a writer a name may have come or gone since the other was
        // seen; a conversion gives files second names on purpose.
        if !beside_writer && !self.is_partial() && !parts::is_converting(tree) {
            let elsewhere = self.links().elsewhere().collect();
            self.take(elsewhere);
        }
        let counted = self.sum.total();
        let found = self.found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut findings: Vec<Finding> = found.into_iter().map(|found| found.finding).collect();
        findings.sort_by(|one, other| one.path.cmp(&other.path).then(one.problem.name().cmp(other.problem.name())));
        Report { tree: tree.path().to_owned(), format: self.format, beside_writer, counted, findings }
    }
}
