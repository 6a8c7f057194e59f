//! A humfs tree as a source: its catalog.

use crate::query::{Allowed, Catalog, Source};
use externfs::UsageError;
use externfs_catalog::{DATABASE, DIRECTORY, Facts, LABEL};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a server that has just begun may take until there is a catalog that
/// can be asked.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked for.
const STEP: Duration = Duration::from_millis(50);

/// Whether `path` is a humfs tree.
pub(crate) fn is_tree(path: &Path) -> bool {
    path.join("superblock").is_file()
}

/// The catalog of the tree at `path`, and what of it queries may read. One that
/// is not there yet will have the usual label.
///
/// # Errors
/// It is to be written, or the tree is not there.
pub(crate) fn catalog_of(path: &Path, writes: bool) -> Result<(Source, Allowed), UsageError> {
    let shown = path.display();
    if writes {
        return Err(UsageError(format!("the catalog of '{shown}' is never written through SQL: leave out 'rw'")));
    }
    // A link in the way would be one that SQLite refuses.
    let path = path.canonicalize().map_err(|error| UsageError(format!("cannot open '{shown}': {error}")))?;
    let dir = path.join(DIRECTORY);
    let label = match await_facts(&dir) {
        Ok(facts) => facts.label,
        Err(why) => {
            // Whoever is to keep it may begin after us, as the server of a guest's root.
            tracing::warn!("'{shown}' has no catalog{why}: queries fail until it is mounted; 'externfs query {shown}' makes one, too");
            LABEL.to_owned()
        }
    };
    let allowed = Allowed::Only(externfs_catalog::tables(&label));
    let catalog = Catalog { label, dir: Some(dir.clone()) };
    Ok((Source { path: dir.join(DATABASE), catalog: Some(catalog) }, allowed))
}

/// What the catalog in `dir` says of itself. One that is being made is waited
/// for until it has tables.
fn await_facts(dir: &Path) -> Result<Facts, String> {
    let begun = Instant::now();
    loop {
        let found = externfs_catalog::facts(&dir.join(DATABASE));
        if let Ok(Some(facts)) = found {
            return Ok(facts);
        }
        let is_served = matches!(externfs_catalog::barrier::flush(dir, STEP), Ok(Some(_)) | Err(_)) && dir.is_dir();
        if !is_served || begun.elapsed() > PATIENCE {
            return Err(found.err().map_or_else(String::new, |error| format!(" ({error})")));
        }
        std::thread::sleep(STEP);
    }
}
