//! `externfs export`: a tree as a tar archive.

use crate::cli::Export;
use crate::failure::{Failure, Result};
use crate::offline::{self, Offline, TreePath};
use crate::progress::Progress;
use crate::transfer::{Gather, pack};
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

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
        return export(&tree, file, &shown).map(drop);
    }
    let unfinished = beside(&asked.tar);
    let file = File::create(&unfinished).map_err(cannot)?;
    let exported = export(&tree, file, &shown).and_then(|file| {
        file.sync_all().map_err(cannot)?;
        std::fs::rename(&unfinished, &asked.tar).map_err(cannot)
    });
    if exported.is_err() {
        let _ = std::fs::remove_file(&unfinished);
    }
    exported
}

fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".part");
    name.into()
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
