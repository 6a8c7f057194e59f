//! A humfs tree as a source: its catalog.

use crate::query::{Allowed, BESIDE_MAX, Beside, Catalog, Source};
use externfs::UsageError;
use externfs_catalog::barrier::SOCKET;
use externfs_catalog::{DATABASE, DIRECTORY, LABEL};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a server that has just begun may take until there is a catalog that
/// can be asked.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked for.
const STEP: Duration = Duration::from_millis(50);

/// Whether `path` is a humfs tree.
///
/// # Errors
/// Who asks may not know: trees are their owners' alone.
pub(crate) fn is_tree(path: &Path) -> Result<bool, UsageError> {
    match path.join("superblock").metadata() {
        Ok(there) => Ok(there.is_file()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Err(UsageError(format!("cannot look into '{}': {error}", path.display())))
        }
        Err(_) => Ok(false),
    }
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
    let label = await_label(&dir).unwrap_or_else(|why| {
        // Whoever is to keep it may begin after us, as the server of a guest's root.
        tracing::warn!("'{shown}' has no catalog{why}: queries fail until it is mounted; 'externfs query {shown}' makes one, too");
        LABEL.to_owned()
    });
    let allowed = Allowed::Only(externfs_catalog::tables(&label));
    let catalog = Catalog { label, dir: Some(dir.clone()) };
    Ok((Source { path: dir.join(DATABASE), catalog: Some(catalog), beside: Vec::new() }, allowed))
}

/// Puts the catalogs of `trees` beside that of another, each with views by its
/// own label.
///
/// # Errors
/// Which one is no tree, has a label that is taken, or is one too many.
pub(crate) fn put_beside(source: &mut Source, allowed: &mut Allowed, trees: &[PathBuf]) -> Result<(), UsageError> {
    if trees.len() > BESIDE_MAX {
        return Err(UsageError(format!("also={}: {BESIDE_MAX} trees at most can be beside one", joined(trees))));
    }
    for tree in trees {
        let shown = tree.display();
        if !is_tree(tree)? {
            return Err(UsageError(format!("also={shown}: that is no humfs tree: it has no superblock")));
        }
        let (other, tables) = catalog_of(tree, false)?;
        let (path, Some(catalog)) = (other.path, other.catalog) else { continue };
        let label = &catalog.label;
        if source.catalogs().any(|known| known.label.eq_ignore_ascii_case(label)) {
            return Err(UsageError(format!(
                "also={shown}: there is a tree with the label '{label}' already, so both would have a view {label}_fs: mount one with '-o label=NAME' (one that has no catalog yet is taken for '{LABEL}')"
            )));
        }
        if let (Allowed::Only(all), Allowed::Only(more)) = (&mut *allowed, tables) {
            all.extend(more);
        }
        source.beside.push(Beside { path, catalog });
    }
    Ok(())
}

fn joined(trees: &[PathBuf]) -> String {
    trees.iter().map(|tree| tree.display().to_string()).collect::<Vec<_>>().join(":")
}

/// What the catalog in `dir` is called by. One that is being made is waited for
/// until it has tables. Of a server that has its socket and does not run yet, as when a
/// guest's root and its catalog are shared by one command, nothing can be known:
/// it is taken to use the usual label.
fn await_label(dir: &Path) -> Result<String, String> {
    let begun = Instant::now();
    loop {
        let found = externfs_catalog::facts(&dir.join(DATABASE));
        if let Ok(Some(facts)) = found {
            return Ok(facts.label);
        }
        let patience = match externfs_catalog::barrier::flush(dir, STEP) {
            Ok(Some(_)) => PATIENCE,
            Err(_) if dir.join(SOCKET).exists() => STEP * 4,
            Ok(None) | Err(_) => return Err(found.err().map_or_else(String::new, |error| format!(" ({error})"))),
        };
        if begun.elapsed() > patience {
            return Ok(LABEL.to_owned());
        }
        std::thread::sleep(STEP);
    }
}
