//! Deeds that make, move and remove names.

use super::*;

const ROOT: NodeId = NodeId::ROOT;
const PLAIN: RenameFlags = RenameFlags::empty();

const fn device(major: u32, minor: u32) -> DeviceNumber {
    DeviceNumber { major, minor }
}

fn make(new: NewNode<'static>, mode: u32) -> std::result::Result<Act, Errno> {
    act(move |g| g.keep(g.export.make(&somebody(), ROOT, name("new"), &new, Mode::new(mode))).map(drop))
}

fn one_file(g: &Guest) -> Answer {
    file(g, ROOT, "old", 0o4755, b"the contents of the old one").map(drop)
}

fn two_files(g: &Guest) -> Answer {
    one_file(g)?;
    let other = file(g, ROOT, "other", 0o2640, b"those of the other")?;
    own(g, other, 0o2640, 42, 43)?;
    xattr(g, other, b"user.of", b"the other")
}

fn linked_file(g: &Guest) -> Answer {
    one_file(g)?;
    link(g, find(g, "old")?, ROOT, "second")
}

/// What has a record that a new object of this name must not inherit.
fn stale(g: &Guest) -> Answer {
    let old = file(g, ROOT, "new", 0o600, b"of somebody else")?;
    own(g, old, 0o6777, 4242, 4243)?;
    xattr(g, old, b"security.capability", &[1; 20])
}

fn stale_dir(g: &Guest) -> Answer {
    let old = directory(g, ROOT, "new", 0o2777)?;
    let within = file(g, old, "within", 0o600, b"of somebody else")?;
    own(g, within, 0o6777, 4242, 4243)
}

/// `from`, with things in it, and `into`, which is empty.
fn two_dirs(g: &Guest) -> Answer {
    let from = directory(g, ROOT, "from", 0o755)?;
    own(g, from, 0o2711, 9, 10)?;
    file(g, from, "within", 0o4700, b"within")?;
    let below = directory(g, from, "below", 0o700)?;
    g.make(below, "link", &NewNode::Symlink(b"nowhere"), 0o777)?;
    directory(g, ROOT, "into", 0o1777).map(drop)
}

fn file_and_dir(g: &Guest) -> Answer {
    one_file(g)?;
    two_dirs(g)
}

fn symlink(g: &Guest) -> Answer {
    let made = g.make(ROOT, "old", &NewNode::Symlink(b"a/target"), 0o777)?.id;
    g.set(made, SetAttr { uid: Some(GuestUid(77)), gid: Some(GuestGid(78)), ..SetAttr::default() }).map(drop)
}

fn block_device(g: &Guest) -> Answer {
    g.make(ROOT, "old", &NewNode::BlockDevice(device(259, 70_000)), 0o660).map(drop)
}

/// A directory whose name is that of the records' own files in the shadow formats.
fn dir_called_metadata(g: &Guest) -> Answer {
    let dir = directory(g, ROOT, "metadata", 0o701)?;
    file(g, dir, "metadata", 0o600, b"metadata in metadata").map(drop)
}

/// So deep that the names of a move fill more than one page.
const DEEP: usize = 14;

fn deep_name(level: usize) -> String {
    format!("{level:02}{}", "d".repeat(248))
}

fn deep_dirs(g: &Guest) -> Answer {
    let bottom = (0..DEEP).try_fold(ROOT, |at, level| directory(g, at, &deep_name(level), 0o755))?;
    let moved = directory(g, bottom, "old", 0o4711)?;
    file(g, moved, "within", 0o600, b"deep").map(drop)
}

fn deepest(g: &Guest) -> std::result::Result<NodeId, Errno> {
    (0..DEEP).try_fold(ROOT, |at, level| g.lookup(at, &deep_name(level)).map(|entry| entry.id))
}

fn rename_in_root(from: &'static str, to: &'static str, flags: RenameFlags) -> std::result::Result<Act, Errno> {
    act(move |g| rename(g, (ROOT, from), (ROOT, to), flags))
}

/// A rename by a kernel that knows both files.
fn known_rename(g: &Guest, from: &'static str, to: &'static str, flags: RenameFlags) -> std::result::Result<Act, Errno> {
    find(g, from)?;
    find(g, to)?;
    rename_in_root(from, to, flags)
}

fn rename_dir(g: &Guest, to: &'static str) -> std::result::Result<Act, Errno> {
    let into = find(g, "into")?;
    find(g, "from/below")?;
    act(move |g| rename(g, (ROOT, "from"), (into, to), PLAIN))
}

fn unlink(text: &'static str) -> std::result::Result<Act, Errno> {
    act(move |g| g.unlink(ROOT, text))
}

fn unlink_open(g: &Guest, text: &'static str) -> std::result::Result<Act, Errno> {
    let handle = g.open(find(g, text)?, BOTH)?;
    act(move |g| {
        g.unlink(ROOT, text)?;
        g.read(handle, 0, 10).map(drop)
    })
}

fn unnamed(g: &Guest) -> std::result::Result<(NodeId, HandleId), Errno> {
    let made = g.export.create_unnamed(&somebody(), ROOT, creation(0o640, false)).map_err(|error| error.errno())?;
    let id = g.keep(Ok(made.0))?.id;
    g.write(made.1.id, 0, b"no name yet")?;
    Ok((id, made.1.id))
}

pub(super) const DEEDS: &[Deed] = &[
    Deed::new("create", nothing, |_| act(|g| create(g, ROOT, "new", creation(0o644, false)))),
    Deed::new("create-exclusive", nothing, |_| act(|g| create(g, ROOT, "new", creation(0o4755, true)))),
    Deed::new("create-over-stale", stale, |_| act(|g| create(g, ROOT, "new", creation(0o644, false)))).without("new"),
    Deed::new("create-over-stale-dir", stale_dir, |_| act(|g| create(g, ROOT, "new", creation(0o644, false)))).without("new"),
    Deed::new("mkdir-over-stale", stale, |_| make(NewNode::Directory, 0o1755)).without("new"),
    Deed::new("mkdir-over-stale-dir", stale_dir, |_| make(NewNode::Directory, 0o1755)).without("new"),
    Deed::new("symlink-over-stale", stale, |_| make(NewNode::Symlink(b"../some/target"), 0o777)).without("new"),
    Deed::new(
        "rename-over-stale",
        |g| {
            one_file(g)?;
            stale(g)
        },
        |_| rename_in_root("old", "new", PLAIN),
    )
    .without("new"),
    Deed::new(
        "rename-dir-over-stale",
        |g| {
            two_dirs(g)?;
            stale_dir(g)
        },
        |_| rename_in_root("from", "new", PLAIN),
    )
    .without("new"),
    Deed::new(
        "link-over-stale",
        |g| {
            one_file(g)?;
            stale(g)
        },
        |g| {
            let old = find(g, "old")?;
            act(move |g| link(g, old, ROOT, "new"))
        },
    )
    .without("new"),
    Deed::new("create-existing", one_file, |_| act(|g| refused(create(g, ROOT, "old", creation(0o600, false)), Errno::ESTALE))),
    Deed::new("create-exclusive-existing", one_file, |_| act(|g| refused(create(g, ROOT, "old", creation(0o600, true)), Errno::EEXIST))),
    Deed::new("mkdir-existing", one_file, |_| act(|g| refused(g.make(ROOT, "old", &NewNode::Directory, 0o700).map(drop), Errno::EEXIST))),
    Deed::new("link-existing", one_file, |g| {
        let old = find(g, "old")?;
        act(move |g| refused(link(g, old, ROOT, "kept"), Errno::EEXIST))
    }),
    Deed::new("rmdir-full", two_dirs, |_| act(|g| refused(g.rmdir(ROOT, "from"), Errno::ENOTEMPTY))),
    Deed::new("rename-over-full", two_dirs, |g| {
        find(g, "from")?;
        act(|g| refused(rename(g, (ROOT, "into"), (ROOT, "from"), PLAIN), Errno::ENOTEMPTY))
    }),
    Deed::new("rename-existing", two_files, |_| {
        act(|g| refused(rename(g, (ROOT, "old"), (ROOT, "other"), RenameFlags::NOREPLACE), Errno::EEXIST))
    }),
    Deed::new("create-in-setgid-dir", nothing, |g| {
        let attic = find(g, "attic")?;
        act(move |g| create(g, attic, "new", creation(0o664, true)))
    }),
    Deed::new("create-metadata", nothing, |_| act(|g| create(g, ROOT, "metadata", creation(0o644, true)))),
    Deed::new("mkdir", nothing, |_| make(NewNode::Directory, 0o1755)),
    Deed::new("mkdir-metadata", nothing, |_| act(|g| g.make(ROOT, "metadata", &NewNode::Directory, 0o751).map(drop))),
    Deed::new("mkdir-in-metadata", dir_called_metadata, |g| {
        let dir = find(g, "metadata")?;
        act(move |g| g.make(dir, "new", &NewNode::Directory, 0o751).map(drop))
    }),
    Deed::new("symlink", nothing, |_| make(NewNode::Symlink(b"../some/target"), 0o777)),
    Deed::new("symlink-long", nothing, |_| make(NewNode::Symlink(&[b't'; 3000]), 0o777)),
    Deed::new("mknod-regular", nothing, |_| make(NewNode::Regular, 0o640)),
    Deed::new("mknod-block", nothing, |_| make(NewNode::BlockDevice(device(259, 70_000)), 0o660)),
    Deed::new("mknod-char", nothing, |_| make(NewNode::CharDevice(device(5, 1)), 0o622)),
    Deed::new("mknod-fifo", nothing, |_| make(NewNode::Fifo, 0o644)),
    Deed::new("mknod-socket", nothing, |_| make(NewNode::Socket, 0o755)),
    Deed::new("whiteout", nothing, |_| make(NewNode::CharDevice(device(0, 0)), 0)),
    Deed::new("link", one_file, |g| {
        let old = find(g, "old")?;
        act(move |g| link(g, old, ROOT, "new"))
    }),
    Deed::new("link-elsewhere", linked_file, |g| {
        let (second, attic) = (find(g, "second")?, find(g, "attic")?);
        act(move |g| link(g, second, attic, "third"))
    }),
    Deed::new("link-symlink", symlink, |g| {
        let old = find(g, "old")?;
        act(move |g| link(g, old, ROOT, "new"))
    }),
    Deed::new("link-device", block_device, |g| {
        let old = find(g, "old")?;
        act(move |g| link(g, old, ROOT, "new"))
    }),
    Deed::new("unlink", one_file, |_| unlink("old")),
    Deed::new("unlink-one-of-two", linked_file, |_| unlink("old")),
    Deed::new("unlink-open", one_file, |g| unlink_open(g, "old")),
    Deed::new("unlink-one-of-two-open", linked_file, |g| unlink_open(g, "second")),
    Deed::new("unlink-symlink", symlink, |_| unlink("old")),
    Deed::new("unlink-device", block_device, |_| unlink("old")),
    Deed::new("rmdir", two_dirs, |g| {
        find(g, "into")?;
        act(|g| g.rmdir(ROOT, "into"))
    }),
    Deed::new("rmdir-metadata", |g| directory(g, ROOT, "metadata", 0o711).map(drop), |_| act(|g| g.rmdir(ROOT, "metadata"))),
    Deed::new("rename", one_file, |_| rename_in_root("old", "new", PLAIN)),
    Deed::new("rename-noreplace", one_file, |_| rename_in_root("old", "new", RenameFlags::NOREPLACE)),
    Deed::new("rename-elsewhere", one_file, |g| {
        let attic = find(g, "attic")?;
        act(move |g| rename(g, (ROOT, "old"), (attic, "new"), PLAIN))
    }),
    Deed::new("rename-over-file", two_files, |g| known_rename(g, "old", "other", PLAIN)),
    Deed::new("rename-over-unknown", two_files, |_| rename_in_root("old", "other", PLAIN)),
    Deed::new("rename-over-open", two_files, |g| {
        let handle = g.open(find(g, "other")?, BOTH)?;
        act(move |g| {
            rename(g, (ROOT, "old"), (ROOT, "other"), PLAIN)?;
            g.read(handle, 0, 10).map(drop)
        })
    }),
    Deed::new(
        "rename-over-one-of-two",
        |g| {
            linked_file(g)?;
            file(g, ROOT, "other", 0o600, b"other").map(drop)
        },
        |g| known_rename(g, "other", "old", PLAIN),
    ),
    Deed::new("rename-one-of-two", linked_file, |g| known_rename(g, "old", "kept", PLAIN)),
    Deed::new("rename-onto-own-link", linked_file, |g| known_rename(g, "old", "second", PLAIN)),
    Deed::new("rename-symlink", symlink, |_| rename_in_root("old", "new", PLAIN)),
    Deed::new("rename-symlink-over-file", symlink, |g| known_rename(g, "old", "kept", PLAIN)),
    Deed::new("rename-device", block_device, |_| rename_in_root("old", "new", PLAIN)),
    Deed::new("rename-dir", two_dirs, |_| rename_in_root("from", "new", PLAIN)),
    Deed::new("rename-dir-over-empty", two_dirs, |g| known_rename(g, "from", "into", PLAIN)),
    Deed::new("rename-dir-elsewhere", two_dirs, |g| rename_dir(g, "new")),
    Deed::new("rename-dir-to-metadata", two_dirs, |g| rename_dir(g, "metadata")),
    Deed::new("rename-metadata-dir", dir_called_metadata, |_| rename_in_root("metadata", "new", PLAIN)),
    Deed::new("rename-deep", deep_dirs, |g| {
        let bottom = deepest(g)?;
        act(move |g| rename(g, (bottom, "old"), (bottom, "new"), PLAIN))
    }),
    Deed::new("exchange-files", two_files, |g| known_rename(g, "old", "other", RenameFlags::EXCHANGE)),
    Deed::new("exchange-linked", linked_file, |g| known_rename(g, "second", "kept", RenameFlags::EXCHANGE)),
    Deed::new("exchange-file-and-dir", file_and_dir, |g| known_rename(g, "old", "from", RenameFlags::EXCHANGE)),
    Deed::new("exchange-dirs", two_dirs, |g| known_rename(g, "from", "into", RenameFlags::EXCHANGE)),
    Deed::new("exchange-symlink-and-file", symlink, |g| known_rename(g, "old", "kept", RenameFlags::EXCHANGE)),
    Deed::new(
        "exchange-metadata",
        |g| {
            two_dirs(g)?;
            dir_called_metadata(g)
        },
        |g| known_rename(g, "from", "metadata", RenameFlags::EXCHANGE),
    ),
    Deed::new("rename-leaving-whiteout", one_file, |_| rename_in_root("old", "new", RenameFlags::WHITEOUT)),
    Deed::new("rename-over-leaving-whiteout", two_files, |g| known_rename(g, "old", "other", RenameFlags::WHITEOUT)),
    Deed::new("tmpfile", nothing, |_| act(|g| unnamed(g).map(drop))),
    Deed::new("tmpfile-link", nothing, |g| {
        let (id, _) = unnamed(g)?;
        act(move |g| link(g, id, ROOT, "new"))
    }),
];
