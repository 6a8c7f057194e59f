//! [`Ground`]: what is asked about, with the engine that answers.

use super::made::{Made, Sight};
use super::scan::Scan;
use crate::cli::Query;
use crate::failure::{Failure, Result};
use crate::offline::source_of;
use crate::progress::Progress;
use crate::{hostuser, plugins};
use externfs_catalog::{DATABASE, DIRECTORY, Freshness, LABEL, barrier};
use humfs::Label;
use sqlfs::query::{self, Allowed, Engine, Limits, Source};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long whoever serves a tree may take to say how it stands.
const PATIENCE: Duration = Duration::from_secs(35);

/// How often one who makes a catalog is asked how far it is.
const STEP: Duration = Duration::from_millis(200);

/// See the [module](self).
pub(super) struct Ground {
    engine: Engine,
    origin: Origin,
}

enum Origin {
    /// A humfs tree; true while it has been brought up to date for a query that is
    /// still to come.
    Tree(PathBuf, bool),
    /// A catalog in a temporary place.
    Made(Box<Made>),
}

impl Ground {
    /// Finds out what is meant, and makes ready to ask.
    pub(super) fn open(asked: &Query, limits: Limits) -> Result<Ground> {
        let registry = plugins::registry();
        let (plugin, path) = source_of(&registry, &asked.tree);
        let path = path.canonicalize().map_err(|error| Failure::io(format!("cannot open '{}'", path.display()), &error))?;
        if asked.all_filesystems && plugin != "hostfs" {
            return Err(Failure::usage("--all-filesystems goes with hostfs:DIR: a tree is one file system"));
        }
        match plugin {
            "humfs" => Ground::of_tree(path, limits),
            "hostfs" => Ground::of_sight(Sight::Directory(Scan::of(&path, asked.all_filesystems)?), limits),
            _ => Err(Failure::usage(format!("query asks a humfs tree or hostfs:DIR, not {plugin}"))),
        }
    }

    fn of_tree(tree: PathBuf, limits: Limits) -> Result<Ground> {
        let shown = tree.display();
        let superblock = tree.join("superblock").metadata();
        // A tree is its owner's alone: to another, nothing can be said of what it is.
        if let Err(error) = &superblock
            && error.kind() == std::io::ErrorKind::PermissionDenied
        {
            return Err(Failure::io(format!("cannot look into '{shown}'"), error));
        }
        if !superblock.is_ok_and(|there| there.is_file()) {
            return Err(Failure::new(format!(
                "'{shown}' is no humfs tree: it has no superblock; say hostfs:{shown} for a plain directory"
            )));
        }
        if is_sealed(&tree) {
            return Ground::of_sight(Sight::Tree(tree.into()), limits);
        }
        bring_up_to_date(&tree)?;
        let database = tree.join(DIRECTORY).join(DATABASE);
        let facts = externfs_catalog::facts(&database);
        let facts = facts.map_err(|error| Failure::new(format!("cannot read '{}': {error}", database.display())))?;
        let facts = facts.ok_or_else(|| Failure::new(format!("'{}' is no catalog of this version: remove it", database.display())))?;
        let engine = engine(database, &facts.label, limits)?;
        Ok(Ground { engine, origin: Origin::Tree(tree, true) })
    }

    /// Of what has no catalog of its own.
    fn of_sight(sight: Sight, limits: Limits) -> Result<Ground> {
        let made = Made::of(sight)?;
        // It forks: before there are threads, and before signals are caught.
        let engine = engine(made.database(), LABEL, limits)?;
        made.remove_when_told_to_end()?;
        Ok(Ground { engine, origin: Origin::Made(Box::new(made)) })
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Before a query: what has been done until now is to be in the catalog. A
    /// directory is looked at once.
    pub(super) fn renew(&mut self) -> Result<()> {
        match &mut self.origin {
            Origin::Tree(tree, is_fresh) => {
                if std::mem::take(is_fresh) {
                    return Ok(());
                }
                bring_up_to_date(tree)
            }
            Origin::Made(made) => made.renew(),
        }
    }

    /// Looks at a directory anew, with the next query.
    pub(super) fn forget(&mut self) {
        if let Origin::Made(made) = &mut self.origin {
            made.forget();
        }
    }
}

/// Whether nobody serves `tree` and nothing can be written in it, not even the index
/// that reading its catalog takes.
fn is_sealed(tree: &Path) -> bool {
    let places = [tree.join(DIRECTORY), tree.join("humfs"), tree.to_owned()];
    let place = places.iter().find(|place| place.is_dir()).map_or(tree, PathBuf::as_path);
    let is_served = barrier::flush(&tree.join(DIRECTORY), PATIENCE).is_ok_and(|standing| standing.is_some());
    !is_served && rustix::fs::access(place, rustix::fs::Access::WRITE_OK).is_err()
}

fn engine(path: PathBuf, label: &str, limits: Limits) -> Result<Engine> {
    let allowed = Allowed::Only(externfs_catalog::tables(label));
    let source = Source { path, catalog: Some(query::Catalog { label: label.to_owned(), dir: None }), beside: Vec::new() };
    Engine::new(source, allowed, limits).map_err(|error| Failure::io("cannot start what runs queries", &error))
}

/// Waits until the catalog of `tree` has caught up, and makes it if nobody does.
fn bring_up_to_date(tree: &Path) -> Result<()> {
    let mut progress = None;
    let found = loop {
        match Freshness::seek(&tree.join(DIRECTORY), PATIENCE) {
            Freshness::Building(seen, expected) => {
                let progress = progress.get_or_insert_with(|| Progress::of_items((expected > 0).then_some(expected)));
                progress.reach(seen, (expected > 0).then(|| expected.max(seen)));
                std::thread::sleep(STEP);
            }
            found => break found,
        }
    };
    if let Some(progress) = progress {
        progress.finish();
    }
    match found {
        Freshness::Abandoned | Freshness::Missing => rebuild(tree),
        Freshness::Behind(_) => {
            tracing::warn!("'{}': the catalog {found}", tree.display());
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Makes the catalog of `tree`, which nobody serves, as whoever owns it.
fn rebuild(tree: &Path) -> Result<()> {
    let label = externfs_catalog::facts(&tree.join(DIRECTORY).join(DATABASE)).ok().flatten().map(|facts| facts.label);
    let label = label.map_or_else(|| Ok(Label::default()), |label| Label::parse(&label))?;
    hostuser::act_as_owner_of(tree)?;
    let progress = Mutex::new(Progress::of_items(None));
    let done = humfs::catalog::rebuild(tree, &label, &|seen, expected| {
        let expected = (expected > 0).then(|| expected.max(seen));
        progress.lock().unwrap_or_else(PoisonError::into_inner).reach(seen, expected);
    });
    drop(progress);
    done.map_err(|error| match is_held(tree) {
        true => Failure::new(format!("{}; a tree that is mounted with catalog=off cannot be asked: mount it without", error.0)),
        false => error.into(),
    })
}

/// Whether there is a writer of `tree` in this moment.
fn is_held(tree: &Path) -> bool {
    let Ok(lock) = std::fs::File::open(tree.join("humfs/lock")) else { return false };
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
}
