//! `externfs create`: a new tree, empty or filled.

mod owner;
mod room;

use crate::archive::{Counter, decompressed};
use crate::cli::Create;
use crate::failure::{Failure, Result};
use crate::offline::{Offline, TreePath};
use crate::progress::Progress;
use crate::transfer::{Ahead, HostTree, Keep, Planter, Unpack};
use crate::{hostuser, process};
use externfs::{Mode, SetAttr};
use humfs::make::{self, Plan};
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::Path;

/// Of the guest's root, unless the source says something else.
const ROOT_MODE: u32 = 0o755;

/// Makes the tree. One that is filled cannot be opened before it is whole: an
/// attempt that was cut short is started over by the next.
///
/// # Errors
/// The tree cannot be made, the source not be read.
pub fn run(asked: &Create) -> Result<()> {
    let plan = Plan { format: asked.metadata, total: asked.size, inodes: asked.inodes, adopt: asked.adopt };
    let owner = asked.owner.as_deref().map(owner::Owner::find).transpose()?;
    process::raise_file_limit();
    // What cannot be read is found out before anything is made.
    let source = asked.from.as_deref().map(Source::open).transpose()?;
    if let Some(Source::Directory(directory)) = &source {
        refuse_itself(directory, &asked.tree)?;
    }
    let given = become_owner(owner, &asked.tree)?;
    let filling = make::lay_to_fill(&asked.tree, &plan)?;
    let opened = filling.open()?;
    if let Some(given) = given {
        given.check(opened.fs().tree().root(), &asked.tree)?;
    }
    let tree = Offline::new(opened)?;
    let why = |error| Failure::new(format!("{}: {}", asked.tree.display(), crate::offline::why(&error)));
    let root = SetAttr { mode: Some(Mode::new(ROOT_MODE)), ..SetAttr::default() };
    tree.root().and_then(|mut node| node.set_attr(&root).map(drop)).map_err(why)?;
    if let Some(source) = source {
        source.pour(&tree, &asked.tree).map_err(|failure| room::explained(failure, &tree, &asked.tree))?;
    }
    tree.sync().map_err(why)?;
    tree.close()?;
    Ok(filling.finish()?)
}

/// A tree below `directory` would be filled with itself. That is found while it is
/// filled, too, whatever its path looks like, but then it has been made.
fn refuse_itself(directory: &Path, tree: &Path) -> Result<()> {
    // What is there may be a link; what is not is made in the directory above.
    let place = tree.canonicalize().ok().or_else(|| {
        let tree = std::path::absolute(tree).ok()?;
        tree.parent()?.canonicalize().ok()
    });
    match (place, directory.canonicalize()) {
        (Some(place), Ok(directory)) if place.starts_with(&directory) => {
            Err(Failure::new(format!("{} is the tree itself, which cannot be filled from a directory that it is in", tree.display())))
        }
        _ => Ok(()),
    }
}

/// Whoever owns TREE, or is to own it, makes it.
fn become_owner(owner: Option<owner::Owner>, tree: &Path) -> Result<Option<owner::Given>> {
    match owner {
        Some(owner) => owner.take_over(tree).map(Some),
        None => hostuser::act_as_owner_of(tree).map(|()| None),
    }
}

/// What a tree is filled with.
enum Source<'a> {
    Directory(&'a Path),
    /// Its name, its bytes, and how many they are if that is known.
    Archive(String, Box<dyn Read + Send>, Option<u64>),
}

impl Source<'_> {
    fn open(from: &Path) -> Result<Source<'_>> {
        if from.as_os_str() == "-" {
            let input = std::io::stdin();
            if input.is_terminal() {
                return Err(Failure::usage("--from - reads an archive from standard input, which is a terminal"));
            }
            return Ok(Source::Archive("standard input".into(), Box::new(input), None));
        }
        let cannot = |error| Failure::io(from.display(), &error);
        let there = from.metadata().map_err(cannot)?;
        if there.is_dir() {
            return Ok(Source::Directory(from));
        }
        let file = File::open(from).map_err(cannot)?;
        Ok(Source::Archive(from.display().to_string(), Box::new(file), there.is_file().then_some(there.len())))
    }

    /// Fills `tree`, which lies at `place`.
    fn pour(self, tree: &Offline, place: &Path) -> Result<()> {
        match self {
            Source::Directory(directory) => {
                let mut origin = HostTree::new(directory, Keep::All, true, true)?;
                origin.avoid(place)?;
                pour(tree, Ahead::new(origin)?, Progress::of_directory(directory.to_owned()))
            }
            Source::Archive(name, bytes, length) => {
                let (bytes, counted) = Counter::new(bytes);
                let bytes = decompressed(bytes).map_err(|error| Failure::io(&name, &error))?;
                pour(tree, Ahead::new(Unpack::new(bytes, name))?, Progress::of_bytes(length, counted))
            }
        }
    }
}

fn pour(tree: &Offline, mut origin: Ahead, mut progress: Progress) -> Result<()> {
    let mut planter = Planter::new(tree, TreePath::default(), false)?;
    planter.plant(&mut origin, &mut |bytes| progress.told(bytes))?;
    let left_out = planter.finish()?;
    progress.finish();
    left_out.tell();
    Ok(())
}
