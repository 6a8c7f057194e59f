//! `externfs cp-in` and `externfs cp-out`.

use crate::cli::{CpIn, CpOut};
use crate::failure::{Failure, Result};
use crate::offline::{self, Offline, TreePath};
use crate::progress::Progress;
use crate::shown;
use crate::transfer::{Body, Gather, HostTree, HostWriter, Item, Keep, Origin, Planter};
use externfs::{FileKind, Mode, Name};
use std::io::{IsTerminal, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Stands for standard input and output.
const DASH: &str = "-";

/// Copies files of the host into a tree.
///
/// # Errors
/// A file that is not there or cannot be read, a path that cannot be made.
pub fn inward(asked: &CpIn) -> Result<()> {
    let target = TreePath::from_argument(&asked.target)?;
    let tree = offline::open(&asked.tree, true)?;
    let into = is_directory_of(&tree, &target)?;
    let must = asked.target.as_bytes().ends_with(b"/") || asked.sources.len() > 1;
    if must && !into {
        return Err(Failure::new(format!("{}: it is no directory in the tree: several files go into one", shown::path(target.as_bytes()))));
    }
    let mut progress = Progress::of_items(None);
    for source in &asked.sources {
        if source.as_os_str() == DASH {
            if into {
                return Err(Failure::usage("standard input has no name: give the path of a file in the tree"));
            }
            plant(&tree, target.clone(), &mut StandardInput::default(), &mut progress)?;
            continue;
        }
        let at = if into { target.child(last_name(source)?.as_name()?) } else { target.clone() };
        let keep = if asked.preserve { Keep::All } else { Keep::Little };
        // As cp(1): a link is followed unless a tree is copied.
        let source = if asked.recursive { source.clone() } else { canonical(source)? };
        let mut origin = HostTree::new(&source, keep, asked.recursive, false)?;
        // A tree that lies in what is copied into it would never end.
        origin.avoid(offline::source_of(&crate::plugins::registry(), &asked.tree).1)?;
        plant(&tree, at, &mut origin, &mut progress)?;
    }
    progress.finish();
    tree.close()
}

fn plant(tree: &Offline, at: TreePath, origin: &mut dyn Origin, progress: &mut Progress) -> Result<()> {
    let mut planter = Planter::new(tree, at, true)?;
    planter.plant(origin, &mut |bytes| progress.told(bytes))?;
    planter.finish()
}

fn is_directory_of(tree: &Offline, path: &TreePath) -> Result<bool> {
    if path.is_root() {
        return Ok(true);
    }
    let (parent, name) = tree.resolve_parent(path)?;
    let found = parent.find(name).map_err(|error| offline::failed(path.as_bytes(), &error))?;
    Ok(found.is_some_and(|node| node.attr().kind == FileKind::Directory))
}

fn canonical(source: &Path) -> Result<PathBuf> {
    source.canonicalize().map_err(|error| Failure::io(source.display(), &error))
}

/// The last component of a host path, whatever it looks like (`.`, `a/..`).
fn last_name(source: &Path) -> Result<LastName> {
    let bytes = match source.file_name() {
        Some(name) => name.as_bytes().to_vec(),
        None => canonical(source)?.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default(),
    };
    Ok(LastName(bytes, source.to_owned()))
}

struct LastName(Vec<u8>, PathBuf);

impl LastName {
    fn as_name(&self) -> Result<Name<'_>> {
        Name::new(&self.0).map_err(|_| Failure::new(format!("{} has no name to go by: give the path in the tree", self.1.display())))
    }
}

/// One file, from standard input.
#[derive(Default)]
struct StandardInput {
    told: bool,
    at: u64,
}

impl Origin for StandardInput {
    fn next_item(&mut self) -> Result<Option<Item>> {
        if std::mem::replace(&mut self.told, true) {
            return Ok(None);
        }
        let mode = Mode::new(0o644);
        Ok(Some(Item {
            path: TreePath::default(),
            body: Body::Regular(0),
            mode,
            owner: None,
            mtime: None,
            atime: None,
            xattrs: Vec::new(),
        }))
    }

    fn data(&mut self, buffer: &mut [u8]) -> Result<Option<(u64, usize)>> {
        let count = std::io::stdin().lock().read(buffer).map_err(|error| Failure::io("standard input", &error))?;
        let at = self.at;
        self.at += count as u64;
        Ok((count > 0).then_some((at, count)))
    }
}

/// Copies files out of a tree.
///
/// # Errors
/// A path that is not there, a file that cannot be made.
pub fn outward(asked: &CpOut) -> Result<()> {
    let paths = super::paths(&asked.paths)?;
    let tree = offline::open(&asked.tree, false)?;
    if asked.target.as_os_str() == DASH {
        return paths.iter().try_for_each(|path| to_standard_output(&tree, path));
    }
    let into = asked.target.is_dir();
    let must = asked.target.as_os_str().as_bytes().ends_with(b"/") || paths.len() > 1;
    if must && !into {
        return Err(Failure::new(format!("{}: it is no directory: several files go into one", asked.target.display())));
    }
    let mut progress = Progress::of_items(None);
    for path in &paths {
        let node = tree.resolve(path)?;
        if node.attr().kind == FileKind::Directory && !asked.recursive {
            return Err(Failure::new(format!("{} is a directory: -r copies it", shown::path(path.as_bytes()))));
        }
        let name = path.split_last().map(|(_, name)| name.as_os_str().to_owned());
        let target = if into { name.map_or_else(|| asked.target.clone(), |name| asked.target.join(name)) } else { asked.target.clone() };
        let target = std::path::absolute(&target).unwrap_or(target);
        let mut origin = Gather::new(&tree, path, asked.recursive)?;
        HostWriter::new(&target, asked.preserve)?.write(&mut origin, &mut |bytes| progress.told(bytes))?;
    }
    progress.finish();
    Ok(())
}

fn to_standard_output(tree: &Offline, path: &TreePath) -> Result<()> {
    let node = tree.resolve(path)?;
    if node.attr().kind != FileKind::Regular {
        return Err(Failure::new(format!("{}: only a regular file can go to standard output", shown::path(path.as_bytes()))));
    }
    let is_terminal = std::io::stdout().is_terminal();
    let file = node.open_to_read().map_err(|error| offline::failed(path.as_bytes(), &error))?;
    let (mut buffer, mut at) = (vec![0; 256 << 10], 0);
    loop {
        let count = file.read(at, &mut buffer).map_err(|error| offline::failed(path.as_bytes(), &error))?;
        let bytes = buffer.get(..count).unwrap_or_default();
        if is_terminal && bytes.contains(&0) {
            return Err(Failure::new(format!("{}: it is no text: name a file to write it to", shown::path(path.as_bytes()))));
        }
        match std::io::stdout().write_all(bytes) {
            Ok(()) if count > 0 => at += count as u64,
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(Failure::io("cannot write to standard output", &error)),
        }
    }
}
