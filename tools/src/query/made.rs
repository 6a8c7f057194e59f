//! [`Made`]: a catalog in a temporary place, of what has none of its own.

use super::scan::{self, Scan};
use super::survey;
use crate::failure::{Failure, Result};
use crate::offline::{self, accounts};
use crate::process;
use crate::progress::Progress;
use externfs_catalog::{Accounts, Batch, Catalog, DATABASE, LABEL};
use std::ffi::OsString;
use std::path::PathBuf;
use tempfile::TempDir;

/// What a catalog is made of.
pub(super) enum Sight {
    /// A directory of the host.
    Directory(Scan),
    /// A humfs tree that cannot be written.
    Tree(OsString),
}

/// See the [module](self).
pub(super) struct Made {
    sight: Sight,
    is_made: bool,
    temporary: TempDir,
}

impl Made {
    /// Nothing is looked at yet.
    ///
    /// # Errors
    /// There is no place for it.
    pub(super) fn of(sight: Sight) -> Result<Made> {
        // Whoever opens a catalog follows no link in its path.
        let place = std::env::temp_dir().canonicalize();
        let temporary = place.and_then(|place| tempfile::Builder::new().prefix("externfs-query-").tempdir_in(place));
        let temporary = temporary
            .map_err(|error| Failure::io(format!("cannot make a directory in '{}': set TMPDIR", std::env::temp_dir().display()), &error))?;
        Ok(Made { sight, is_made: false, temporary })
    }

    /// Where it is to be.
    pub(super) fn database(&self) -> PathBuf {
        self.temporary.path().join(DATABASE)
    }

    /// The next one who asks is to have a new look.
    pub(super) fn forget(&mut self) {
        self.is_made = false;
    }

    /// Makes it, if that has not been done.
    ///
    /// # Errors
    /// What cannot be read, or not be written.
    pub(super) fn renew(&mut self) -> Result<()> {
        if !self.is_made {
            match &self.sight {
                Sight::Directory(scan) => self.scan(scan)?,
                Sight::Tree(tree) => self.survey(tree)?,
            }
            self.is_made = true;
        }
        Ok(())
    }

    fn scan(&self, scan: &Scan) -> Result<()> {
        let mut making = Making::begin(self.database(), scan.root())?;
        let unread = scan.run(self.temporary.path(), &mut |batch, count| making.take(batch, count))?;
        let read = |path: &str| std::fs::read(path).unwrap_or_default();
        making.end(&Accounts { passwd: read("/etc/passwd"), group: read("/etc/group") })?;
        scan::tell(&unread);
        Ok(())
    }

    fn survey(&self, tree: &OsString) -> Result<()> {
        let tree = offline::open(tree, false)?;
        let root = tree.root().map_err(|error| offline::failed("", &error))?.attr().ino;
        let mut making = Making::begin(self.database(), root)?;
        survey::run(&tree, &mut |batch, count| making.take(batch, count))?;
        making.end(&Accounts { passwd: accounts::read(&tree, b"etc/passwd"), group: accounts::read(&tree, b"etc/group") })
    }

    /// ^C and its like end the process; the temporary catalog goes first.
    ///
    /// # Errors
    /// What the host says.
    pub(super) fn remove_when_told_to_end(&self) -> Result<()> {
        let directory = self.temporary.path().to_owned();
        process::when_told_to_end(move || drop(std::fs::remove_dir_all(&directory)))
    }
}

/// A catalog while it is made.
struct Making {
    catalog: Catalog,
    progress: Progress,
}

fn failed(error: externfs_catalog::Error) -> Failure {
    Failure::new(format!("the temporary catalog cannot be made: {error}"))
}

impl Making {
    fn begin(database: PathBuf, root: u64) -> Result<Making> {
        let catalog = Catalog::create(&database, LABEL, root).map_err(failed)?;
        Ok(Making { catalog, progress: Progress::of_items(None) })
    }

    fn take(&mut self, batch: &Batch, count: u64) -> Result<()> {
        self.progress.reach(count, None);
        self.catalog.apply(batch).and_then(|()| self.catalog.tidy_log()).map(drop).map_err(failed)
    }

    fn end(mut self, accounts: &Accounts) -> Result<()> {
        self.progress.finish();
        self.catalog.name_accounts(accounts).and_then(|()| self.catalog.complete()).map_err(failed)
    }
}
