//! [`Ground`]: what is asked about, with the engine that answers.

use super::scan::{self, Scan};
use crate::cli::Query;
use crate::failure::{Failure, Result};
use crate::offline::source_of;
use crate::progress::Progress;
use crate::{plugins, process};
use externfs_catalog::{Accounts, Catalog, DATABASE, DIRECTORY, Freshness, LABEL};
use nix::sys::signal::Signal;
use sqlfs::query::{self, Allowed, Engine, Limits, Source};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

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
    /// A humfs tree.
    Tree(PathBuf),
    /// A directory, of which a catalog is made.
    Directory(Box<Made>),
}

struct Made {
    scan: Scan,
    is_made: bool,
    temporary: TempDir,
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
            "hostfs" => Ground::of_directory(path, asked.all_filesystems, limits),
            _ => Err(Failure::usage(format!("query asks a humfs tree or hostfs:DIR, not {plugin}"))),
        }
    }

    fn of_tree(tree: PathBuf, limits: Limits) -> Result<Ground> {
        if !tree.join("superblock").is_file() {
            let shown = tree.display();
            return Err(Failure::new(format!(
                "'{shown}' is no humfs tree: it has no superblock; say hostfs:{shown} for a plain directory"
            )));
        }
        bring_up_to_date(&tree)?;
        let database = tree.join(DIRECTORY).join(DATABASE);
        let facts = externfs_catalog::facts(&database);
        let facts = facts.map_err(|error| Failure::new(format!("cannot read '{}': {error}", database.display())))?;
        let facts = facts.ok_or_else(|| Failure::new(format!("'{}' is no catalog of this version: remove it", database.display())))?;
        let engine = engine(database, &facts.label, limits)?;
        Ok(Ground { engine, origin: Origin::Tree(tree) })
    }

    fn of_directory(directory: PathBuf, all_filesystems: bool, limits: Limits) -> Result<Ground> {
        let scan = Scan::of(&directory, all_filesystems)?;
        let temporary = tempfile::Builder::new().prefix("externfs-query-").tempdir();
        let temporary = temporary
            .map_err(|error| Failure::io(format!("cannot make a directory in '{}': set TMPDIR", std::env::temp_dir().display()), &error))?;
        // It forks: before there are threads, and before signals are caught.
        let engine = engine(temporary.path().join(DATABASE), LABEL, limits)?;
        remove_when_told_to_end(temporary.path().to_owned())?;
        let made = Made { scan, is_made: false, temporary };
        Ok(Ground { engine, origin: Origin::Directory(Box::new(made)) })
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Before a query: what has been done until now is to be in the catalog. A
    /// directory is looked at once.
    pub(super) fn renew(&mut self) -> Result<()> {
        match &mut self.origin {
            Origin::Tree(tree) => bring_up_to_date(tree),
            Origin::Directory(made) if made.is_made => Ok(()),
            Origin::Directory(made) => made.make(),
        }
    }

    /// Looks at a directory anew, with the next query.
    pub(super) fn forget(&mut self) {
        if let Origin::Directory(made) = &mut self.origin {
            made.is_made = false;
        }
    }
}

fn engine(path: PathBuf, label: &str, limits: Limits) -> Result<Engine> {
    let allowed = Allowed::Only(externfs_catalog::tables(label));
    let source = Source { path, catalog: Some(query::Catalog { label: label.to_owned(), dir: None }) };
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

/// Makes the catalog of `tree`, which nobody serves.
fn rebuild(tree: &Path) -> Result<()> {
    Err(Failure::new(format!("'{}' has no catalog that is up to date: mount it once", tree.display())))
}

impl Made {
    fn make(&mut self) -> Result<()> {
        let failed = |error: externfs_catalog::Error| Failure::new(format!("the catalog of the directory cannot be made: {error}"));
        let mut progress = Progress::of_items(None);
        let mut catalog = Catalog::create(&self.temporary.path().join(DATABASE), LABEL, self.scan.root()).map_err(failed)?;
        let unread = self.scan.run(self.temporary.path(), &mut |batch, items| {
            progress.reach(items, None);
            catalog.apply(batch)?;
            catalog.tidy_log().map(drop)
        });
        progress.finish();
        let unread = unread.map_err(failed)?;
        let read = |path: &str| std::fs::read(path).unwrap_or_default();
        catalog.name_accounts(&Accounts { passwd: read("/etc/passwd"), group: read("/etc/group") }).map_err(failed)?;
        catalog.complete().map_err(failed)?;
        scan::tell(&unread);
        self.is_made = true;
        Ok(())
    }
}

/// ^C and its like end the process; the temporary catalog goes first.
fn remove_when_told_to_end(directory: PathBuf) -> Result<()> {
    let signals = process::catch_signals(&[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP])?;
    let wait = move || {
        let mut poll = [nix::poll::PollFd::new(signals.as_fd(), nix::poll::PollFlags::POLLIN)];
        loop {
            let _ = nix::poll::poll(&mut poll, nix::poll::PollTimeout::NONE);
            if let Some(signal) = process::next_signal(&signals) {
                let _ = std::fs::remove_dir_all(&directory);
                std::process::exit(128 + signal as i32);
            }
        }
    };
    let thread = std::thread::Builder::new().name("signals".into()).spawn(wait);
    thread.map(drop).map_err(|error| Failure::io("cannot start a thread", &error))
}
