//! [`SqlFsPlugin`]: sqlfs as the registry knows it.

use crate::fs::SqlFs;
use crate::options::{OPTIONS, Options};
use crate::query::{Allowed, Engine, Source as Database};
use crate::tree;
use externfs::{Bridge, BridgeOptions, Connect, Plugin, Source, UsageError};
use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// `sqlfs`: one SQLite database, or the catalogs of humfs trees.
#[derive(Clone, Copy, Debug, Default)]
pub struct SqlFsPlugin;

/// What the file begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

impl Plugin for SqlFsPlugin {
    fn name(&self) -> &'static str {
        "sqlfs"
    }

    fn summary(&self) -> &'static str {
        "an SQLite database or the catalog of a humfs tree, where a query is a file name"
    }

    fn options(&self) -> &'static [(&'static str, &'static str)] {
        OPTIONS
    }

    /// The keeper's children do.
    fn opens_files(&self) -> bool {
        false
    }

    fn open(&self, source: &Source) -> Result<Arc<dyn Connect>, UsageError> {
        let options = Options::parse(&source.options)?;
        let path = std::path::absolute(&source.path).unwrap_or_else(|_| source.path.clone());
        let (database, allowed) = if tree::is_tree(&path)? {
            let (mut catalog, mut allowed) = tree::catalog_of(&path, options.writes)?;
            tree::put_beside(&mut catalog, &mut allowed, &options.also)?;
            (catalog, allowed)
        } else if !options.also.is_empty() {
            return Err(UsageError(format!("'also' is for humfs trees, and '{}' is none", path.display())));
        } else {
            check(&path)?;
            (Database::plain(path.clone()), Allowed::Everything)
        };
        let queries = options.queries.as_deref().map(saved_in).transpose()?.unwrap_or_default();
        let read_only = options.read_only;
        let engine = Engine::new(database, allowed, options.limits)
            .map_err(|error| UsageError(format!("cannot serve '{}': {error}", path.display())))?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let fs = SqlFs::new(engine, name, options);
        for (name, sql) in queries {
            fs.save(&name, &sql).map_err(|error| UsageError(format!("queries={name}: {error}")))?;
        }
        let bridge = Bridge::new(fs, BridgeOptions { read_only });
        Ok(bridge.map_err(|error| UsageError(format!("cannot export '{}': {error}", path.display())))?)
    }
}

/// That it is no database is to be known now, not at the first query.
fn check(path: &Path) -> Result<(), UsageError> {
    let cannot = |error: std::io::Error| {
        UsageError(format!("cannot read '{}': {error}: sqlfs needs an SQLite database or a humfs tree", path.display()))
    };
    let kind = fs::metadata(path).map_err(cannot)?;
    if !kind.is_file() {
        return Err(UsageError(format!("'{}' is no file and no humfs tree: sqlfs needs an SQLite database or a tree", path.display())));
    }
    // SQLite's databases may be empty files.
    let mut magic = Vec::new();
    fs::File::open(path).and_then(|file| file.take(16).read_to_end(&mut magic)).map_err(cannot)?;
    if magic.is_empty() || magic == MAGIC {
        return Ok(());
    }
    Err(UsageError(format!("'{}' is no SQLite database: it does not begin as one", path.display())))
}

fn saved_in(dir: &Path) -> Result<Vec<(String, Vec<u8>)>, UsageError> {
    let cannot = |error: std::io::Error| UsageError(format!("queries={}: {error}", dir.display()));
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        if path.extension().is_some_and(|extension| extension == "sql")
            && let Some(name) = path.file_name().and_then(|name| name.to_str())
        {
            found.push((name.to_owned(), fs::read(&path).map_err(cannot)?));
        }
    }
    Ok(found)
}
