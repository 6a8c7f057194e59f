//! `externfs ls`.

use crate::cli::Ls;
use crate::failure::Result;
use crate::offline::{self, Accounts, Node, Offline, TreePath, failed};
use crate::shown;
use externfs::{Attr, FileKind, Name};
use std::io::IsTerminal;

/// How things are shown.
struct Style {
    long: bool,
    /// None for numbers.
    accounts: Option<Accounts>,
    /// Names are for people, not for a program.
    escape: bool,
}

/// Lists.
///
/// # Errors
/// A path that is not there.
pub fn run(asked: &Ls) -> Result<()> {
    let mut paths = super::paths(&asked.paths)?;
    if paths.is_empty() {
        paths.push(TreePath::default());
    }
    let tree = offline::open(&asked.tree, false)?;
    let accounts = (asked.long && !asked.numeric).then(|| Accounts::of(&tree));
    let style = Style { long: asked.long, accounts, escape: std::io::stdout().is_terminal() };
    list(&tree, &paths, asked, &style)
}

fn list(tree: &Offline, paths: &[TreePath], asked: &Ls, style: &Style) -> Result<()> {
    let mut directories = Vec::new();
    let mut rows = Rows::default();
    for path in paths {
        let node = tree.resolve(path)?;
        if node.attr().kind == FileKind::Directory && !asked.directory {
            directories.push(path.clone());
        } else {
            rows.add(style, &[b"/", path.as_bytes()].concat(), &node);
        }
    }
    let mut first = rows.is_empty();
    super::print(&rows.text())?;
    let titled = asked.recursive || paths.len() > 1;
    directories.reverse();
    while let Some(path) = directories.pop() {
        if titled {
            let title = format!("{}{}:\n", if first { "" } else { "\n" }, shown::path(path.as_bytes()));
            super::print(title.as_bytes())?;
        }
        first = false;
        let below = directory(tree, &path, style)?;
        if asked.recursive {
            directories.extend(below.into_iter().rev());
        }
    }
    Ok(())
}

/// Prints what is in `path` and returns the directories among that.
fn directory(tree: &Offline, path: &TreePath, style: &Style) -> Result<Vec<TreePath>> {
    let node = tree.resolve(path)?;
    let names = node.names().map_err(|error| failed(path.as_bytes(), &error))?;
    let (mut rows, mut below) = (Rows::default(), Vec::new());
    for bytes in names {
        let name = Name::new(&bytes).map_err(|errno| failed(path.as_bytes(), &errno.into()))?;
        let child = path.child(name);
        let Some(node) = node.find(name).map_err(|error| failed(child.as_bytes(), &error))? else { continue };
        if node.attr().kind == FileKind::Directory {
            below.push(child);
        }
        rows.add(style, &bytes, &node);
    }
    super::print(&rows.text())?;
    Ok(below)
}

/// Lines of a listing, whose columns are as wide as they must be.
#[derive(Default)]
struct Rows(Vec<(Vec<String>, Vec<u8>)>);

impl Rows {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add(&mut self, style: &Style, name: &[u8], node: &Node) {
        let show = |bytes: &[u8]| if style.escape { shown::text(bytes).into_bytes() } else { bytes.to_vec() };
        let mut line = show(name);
        if style.long && node.attr().kind == FileKind::Symlink {
            line.extend(b" -> ");
            line.extend(show(&node.read_link().unwrap_or_default()));
        }
        let columns = if style.long { columns(node.attr(), style.accounts.as_ref()) } else { Vec::new() };
        self.0.push((columns, line));
    }

    fn text(&self) -> Vec<u8> {
        let mut widths = [0; 6];
        for (columns, _) in &self.0 {
            for (width, column) in widths.iter_mut().zip(columns) {
                *width = column.chars().count().max(*width);
            }
        }
        let mut text = Vec::new();
        for (columns, name) in &self.0 {
            for (index, (width, column)) in widths.iter().zip(columns).enumerate() {
                // Owner and group stand to the left, numbers to the right.
                let cell = if matches!(index, 2 | 3) { format!("{column:<width$} ") } else { format!("{column:>width$} ") };
                text.extend(cell.as_bytes());
            }
            text.extend(name);
            text.push(b'\n');
        }
        text
    }
}

fn columns(attr: &Attr, accounts: Option<&Accounts>) -> Vec<String> {
    let user = accounts.and_then(|known| known.user(attr.uid)).map_or_else(|| attr.uid.0.to_string(), |name| shown::text(name.as_bytes()));
    let group =
        accounts.and_then(|known| known.group(attr.gid)).map_or_else(|| attr.gid.0.to_string(), |name| shown::text(name.as_bytes()));
    let size = if attr.kind.is_device() { format!("{}, {}", attr.device.major, attr.device.minor) } else { attr.size.to_string() };
    vec![shown::mode(attr.kind, attr.mode), attr.nlink.to_string(), user, group, size, shown::time(attr.mtime)]
}
