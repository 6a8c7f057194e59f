//! `externfs stat`.

use crate::cli::Stat;
use crate::failure::Result;
use crate::offline::{self, Accounts, Node, TreePath, failed};
use crate::shown;
use externfs::{FileKind, Timestamp};

/// Shows everything about each path.
///
/// # Errors
/// A path that is not there.
pub fn run(asked: &Stat) -> Result<()> {
    let paths = super::paths(&asked.paths)?;
    let tree = offline::open(&asked.tree, false)?;
    let accounts = Accounts::of(&tree);
    for (index, path) in paths.iter().enumerate() {
        let node = tree.resolve(path)?;
        let text = describe(path, &node, &accounts)?;
        super::print(format!("{}{text}", if index > 0 { "\n" } else { "" }).as_bytes())?;
    }
    Ok(())
}

fn describe(path: &TreePath, node: &Node, accounts: &Accounts) -> Result<String> {
    let attr = node.attr();
    let named =
        |id: u32, name: Option<&str>| name.map_or_else(|| id.to_string(), |name| format!("{id} ({})", shown::text(name.as_bytes())));
    let mut lines = vec![("path", shown::path(path.as_bytes())), ("type", shown::kind(attr.kind).to_owned())];
    if attr.kind == FileKind::Symlink {
        lines.push(("target", shown::text(&node.read_link().map_err(|error| failed(path.as_bytes(), &error))?)));
    }
    if attr.kind.is_device() {
        lines.push(("device", format!("{}:{}", attr.device.major, attr.device.minor)));
    }
    lines.push(("mode", format!("{:04o} ({})", attr.mode.bits(), shown::mode(attr.kind, attr.mode))));
    lines.push(("owner", named(attr.uid.0, accounts.user(attr.uid))));
    lines.push(("group", named(attr.gid.0, accounts.group(attr.gid))));
    lines.push(("size", format!("{} bytes, {} blocks of 512", attr.size, attr.blocks)));
    lines.push(("inode", attr.ino.to_string()));
    lines.push(("links", attr.nlink.to_string()));
    lines.push(("accessed", time(attr.atime)));
    lines.push(("modified", time(attr.mtime)));
    lines.push(("changed", time(attr.ctime)));
    lines.extend(attr.btime.map(|btime| ("born", time(btime))));
    let mut text: String = lines.into_iter().map(|(key, value)| format!("{key:>9}: {value}\n")).collect();
    for (name, value) in node.xattrs().map_err(|error| failed(path.as_bytes(), &error))? {
        text.push_str(&format!("{:>9}: {} = {}\n", "attribute", shown::text(&name), shown::text(&value)));
    }
    Ok(text)
}

fn time(at: Timestamp) -> String {
    format!("{}.{:09} UTC", shown::time(at), at.nanoseconds)
}
