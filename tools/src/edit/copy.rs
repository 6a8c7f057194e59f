//! `externfs cp-in` and `externfs cp-out`.
//!
//! They do as cp(1) does where that can be told from the words: a link is
//! followed unless a tree is copied, a device or FIFO is read unless it is to be
//! copied itself, and of several files with one name the first gets it. One that
//! cannot be copied keeps no other from it; each that is missing in the end has a
//! line of its own.

use crate::cli::{CpIn, CpOut};
use crate::failure::{Failure, Result};
use crate::offline::{self, Offline, TreePath};
use crate::progress::Progress;
use crate::shown;
use crate::transfer::{Body, Gather, HostTree, HostWriter, Item, Keep, LeftOut, Origin, Planter};
use externfs::{FileKind, Mode, Name};
use std::collections::HashMap;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Stands for standard input and output.
const DASH: &str = "-";

/// Copies files of the host into a tree.
///
/// # Errors
/// A file that is not there or cannot be read, a path that cannot be made: after
/// the others are copied.
pub fn inward(asked: &CpIn) -> Result<()> {
    let target = TreePath::from_argument(&asked.target)?;
    let tree = offline::open(&asked.tree, true)?;
    let into = is_directory_of(&tree, &target)?;
    if !into && let Some(why) = must_be_directory(asked.target.as_bytes(), asked.sources.len()) {
        return Err(Failure::new(format!("{}: it is no directory in the tree{why}", shown::path(target.as_bytes()))));
    }
    if into && asked.sources.iter().any(|source| source.as_os_str() == DASH) {
        return Err(Failure::usage("standard input has no name: give the path of a file in the tree"));
    }
    let (mut names, mut failed) = (Names::default(), Vec::new());
    let (mut left_out, mut progress) = (LeftOut::default(), Progress::of_items(None));
    for source in &asked.sources {
        match put_in_or_into(&tree, (&target, into), source, asked, &mut names, &mut progress) {
            Ok(more) => left_out.add(&more),
            Err(failure) => failed.push(failure),
        }
    }
    progress.finish();
    left_out.tell();
    tree.close()?;
    conclude(failed, names)
}

/// Why `target` has to be a directory, after the words that it is none.
fn must_be_directory(target: &[u8], sources: usize) -> Option<&'static str> {
    if sources > 1 { Some(": several files go into one") } else { target.ends_with(b"/").then_some("") }
}

/// What did not work, each in a line of its own, as by cp(1).
fn conclude<S: PartialEq>(mut failed: Vec<Failure>, names: Names<S>) -> Result<()> {
    failed.extend(names.finish().err());
    let Some(last) = failed.pop() else { return Ok(()) };
    failed.iter().for_each(|failure| eprintln!("externfs: {failure}"));
    Err(last)
}

/// One of the sources, as the target or by its own name in it.
fn put_in_or_into<'a>(
    tree: &Offline,
    (target, into): (&TreePath, bool),
    source: &'a Path,
    asked: &CpIn,
    names: &mut Names<&'a Path>,
    progress: &mut Progress,
) -> Result<LeftOut> {
    if !into {
        return put_in(tree, target.clone(), source, asked, progress);
    }
    let name = last_name(source)?;
    let at = target.child(name.as_name()?);
    if !names.admit(&name.0, source, || shown::text(source.as_os_str().as_bytes())) {
        return Ok(LeftOut::default());
    }
    put_in(tree, at, source, asked, progress).inspect_err(|_| {
        // A tree may have been copied in part.
        if !asked.recursive || source.symlink_metadata().is_err() {
            names.give_back(&name.0);
        }
    })
}

/// One of the sources, as `at`.
fn put_in(tree: &Offline, at: TreePath, source: &Path, asked: &CpIn, progress: &mut Progress) -> Result<LeftOut> {
    if source.as_os_str() == DASH {
        return plant(tree, at, &mut Stream::standard_input(), progress);
    }
    if !asked.recursive
        && !asked.preserve
        && let Some(mut stream) = Stream::of(source)?
    {
        return plant(tree, at, &mut stream, progress);
    }
    let keep = if asked.preserve { Keep::All } else { Keep::Little };
    // As cp(1): a link is followed unless a tree is copied.
    let source = if asked.recursive { source.to_owned() } else { canonical(source)? };
    let mut origin = HostTree::new(&source, keep, asked.recursive, false)?;
    // A tree that lies in what is copied into it would never end.
    origin.avoid(offline::source_of(&crate::plugins::registry(), &asked.tree).1)?;
    plant(tree, at, &mut origin, progress)
}

/// Names that were given in one directory, each to one source.
struct Names<S> {
    given: HashMap<Vec<u8>, S>,
    /// The sources that came too late, for people.
    refused: Vec<String>,
}

impl<S> Default for Names<S> {
    fn default() -> Names<S> {
        Names { given: HashMap::new(), refused: Vec::new() }
    }
}

impl<S: PartialEq> Names<S> {
    /// Whether `source` is to be copied as `name`: not over another that was just
    /// copied, and not twice.
    fn admit(&mut self, name: &[u8], source: S, shown: impl FnOnce() -> String) -> bool {
        match self.given.get(name) {
            Some(earlier) => {
                if *earlier != source {
                    self.refused.push(shown());
                }
                false
            }
            None => {
                self.given.insert(name.to_vec(), source);
                true
            }
        }
    }

    /// What was to be called `name` is not copied after all.
    fn give_back(&mut self, name: &[u8]) {
        self.given.remove(name);
    }

    /// When everything else is copied.
    fn finish(self) -> Result<()> {
        let (refused, is) = match &self.refused[..] {
            [] => return Ok(()),
            [one] => (one.clone(), "is"),
            several => (several.join(", "), "are"),
        };
        Err(Failure::new(format!("{refused} {is} not copied over what was just copied under the same name: choose another name")))
    }
}

fn plant(tree: &Offline, at: TreePath, origin: &mut dyn Origin, progress: &mut Progress) -> Result<LeftOut> {
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

/// One file, of what is read until it ends.
struct Stream {
    name: String,
    source: Box<dyn Read>,
    mode: Mode,
    told: bool,
    at: u64,
}

impl Stream {
    fn standard_input() -> Stream {
        Stream { name: "standard input".into(), source: Box::new(std::io::stdin()), mode: Mode::new(0o644), told: false, at: 0 }
    }

    /// Of a device or FIFO; None for what is a file or directory.
    fn of(source: &Path) -> Result<Option<Stream>> {
        let cannot = |error| Failure::io(source.display(), &error);
        let there = source.metadata().map_err(cannot)?;
        let kind = there.file_type();
        if kind.is_file() || kind.is_dir() {
            return Ok(None);
        }
        let name = source.display().to_string();
        if kind.is_socket() {
            return Err(Failure::new(format!("{name} is a socket, which cannot be read: -r copies the socket itself")));
        }
        let no_terminal = rustix::fs::OFlags::NOCTTY.bits().cast_signed();
        let file = std::fs::File::options().read(true).custom_flags(no_terminal).open(source).map_err(cannot)?;
        // Who may use a device tells little of whose its contents are to be.
        let mode = Mode::new(there.mode() & 0o644);
        Ok(Some(Stream { name, source: Box::new(file), mode, told: false, at: 0 }))
    }
}

impl Origin for Stream {
    fn next_item(&mut self) -> Result<Option<Item>> {
        if std::mem::replace(&mut self.told, true) {
            return Ok(None);
        }
        Ok(Some(Item {
            path: TreePath::default(),
            body: Body::Regular(0),
            mode: self.mode,
            owner: None,
            mtime: None,
            atime: None,
            xattrs: Vec::new(),
        }))
    }

    fn data(&mut self, buffer: &mut [u8]) -> Result<Option<(u64, usize)>> {
        let count = self.source.read(buffer).map_err(|error| Failure::io(&self.name, &error))?;
        let at = self.at;
        self.at += count as u64;
        Ok((count > 0).then_some((at, count)))
    }
}

/// Copies files out of a tree.
///
/// # Errors
/// A path that is not there, a file that cannot be made: after the others are copied.
pub fn outward(asked: &CpOut) -> Result<()> {
    let paths = super::paths(&asked.paths)?;
    let tree = offline::open(&asked.tree, false)?;
    if asked.target.as_os_str() == DASH {
        return paths.iter().try_for_each(|path| to_standard_output(&tree, path));
    }
    let into = asked.target.is_dir();
    if !into && let Some(why) = must_be_directory(asked.target.as_os_str().as_bytes(), paths.len()) {
        return Err(Failure::new(format!("{}: it is no directory{why}", asked.target.display())));
    }
    let (mut names, mut failed, mut progress) = (Names::default(), Vec::new(), Progress::of_items(None));
    for path in &paths {
        if let Err(failure) = take_out(&tree, path, into, asked, &mut names, &mut progress) {
            failed.push(failure);
        }
    }
    progress.finish();
    conclude(failed, names)
}

/// One of the paths, as the target or by its own name in it.
fn take_out<'a>(
    tree: &Offline,
    path: &'a TreePath,
    into: bool,
    asked: &CpOut,
    names: &mut Names<&'a TreePath>,
    progress: &mut Progress,
) -> Result<()> {
    let node = tree.resolve(path)?;
    if node.attr().kind == FileKind::Directory && !asked.recursive {
        return Err(Failure::new(format!("{} is a directory: -r copies it", shown::path(path.as_bytes()))));
    }
    let name = path.split_last().map(|(_, name)| name.as_os_str().to_owned());
    let given = name.as_deref().unwrap_or_default().as_bytes();
    if !names.admit(given, path, || shown::path(path.as_bytes())) {
        return Ok(());
    }
    let target = match &name {
        Some(name) if into => asked.target.join(name),
        _ => asked.target.clone(),
    };
    let target = std::path::absolute(&target).unwrap_or(target);
    let mut origin = Gather::new(tree, path, asked.recursive)?;
    let copied = HostWriter::new(&target, asked.preserve)?.write(&mut origin, &mut |bytes| progress.told(bytes));
    if copied.is_err() && !asked.recursive {
        names.give_back(given);
    }
    copied
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
