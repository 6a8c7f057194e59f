//! `externfs export`: a tree as a tar archive.

use crate::cli::Export;
use crate::failure::{Failure, Result};
use crate::offline::{self, Offline, TreePath};
use crate::process;
use crate::progress::Progress;
use crate::transfer::{Gather, pack};
use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use tempfile::NamedTempFile;

/// Writes the archive.
///
/// # Errors
/// The tree cannot be read, the archive not be written.
pub fn run(asked: &Export) -> Result<()> {
    if asked.tar.as_os_str() == "-" {
        let out = std::io::stdout();
        if out.is_terminal() {
            return Err(Failure::usage("an archive is not for a terminal: --tar FILE, or a pipe"));
        }
        let tree = offline::open(&asked.tree, false)?;
        return export(&tree, out.lock(), "standard output").map(drop);
    }
    let tree = offline::open(&asked.tree, false)?;
    let shown = asked.tar.display().to_string();
    let cannot = |error: std::io::Error| Failure::io(&shown, &error);
    // A pipe or device with a name is written to; a file appears when it is whole.
    if asked.tar.metadata().is_ok_and(|there| !there.is_file()) {
        let file = File::options().write(true).open(&asked.tar).map_err(cannot)?;
        // Where others may write it may have become one meanwhile.
        if file.metadata().map_err(cannot)?.is_file() {
            return Err(Failure::new(format!("{shown}: it was exchanged for a file meanwhile")));
        }
        return export(&tree, file, &shown).map(drop);
    }
    let unfinished = beside(&asked.tar).map_err(cannot)?;
    let path = unfinished.path().to_owned();
    process::when_told_to_end(move || drop(std::fs::remove_file(&path)))?;
    export(&tree, unfinished.as_file(), &shown)?.sync_all().map_err(cannot)?;
    unfinished.persist(&asked.tar).map(drop).map_err(|error| cannot(error.error))
}

/// A new file beside `path`, with the mode that any new file has. Others may write
/// in that directory too, as in /tmp: its name cannot be guessed, and nothing that
/// is there already is opened. Dropping it removes it.
fn beside(path: &Path) -> std::io::Result<NamedTempFile> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Made by us, an error does not come with a name that nobody has given.
    let make = |path: &Path| File::options().read(true).write(true).create_new(true).mode(0o666).open(path);
    tempfile::Builder::new().prefix(".externfs-").suffix(".part").make_in(dir, make)
}

fn export<W: Write>(tree: &Offline, target: W, shown: &str) -> Result<W> {
    // The inodes in use are about as many as there are names.
    let total = tree.statfs().ok().map(|there| there.inodes.saturating_sub(there.inodes_free)).filter(|count| *count > 0);
    let mut progress = Progress::of_items(total);
    let mut origin = Gather::new(tree, &TreePath::default(), true)?;
    let target = BufWriter::with_capacity(512 << 10, target);
    let target = pack(&mut origin, target, shown, &mut |bytes| progress.told(bytes))?;
    progress.finish();
    target.into_inner().map_err(|error| Failure::io(shown, error.error()))
}
