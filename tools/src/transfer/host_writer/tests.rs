use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

/// One file; what is being written becomes a link while its contents come.
struct Exchanged(PathBuf, PathBuf, Option<Item>);

impl Origin for Exchanged {
    fn next_item(&mut self) -> Result<Option<Item>> {
        Ok(self.2.take())
    }

    fn data(&mut self, _: &mut [u8]) -> Result<Option<(u64, usize)>> {
        let Exchanged(name, outside, _) = self;
        let written = hidden(name).pop().expect("a file that is being written");
        std::fs::rename(&written, name.with_extension("aside")).expect("rename");
        symlink(outside, written).expect("a link");
        Ok(None)
    }
}

/// One file, which has no name while its contents come.
struct Unseen(PathBuf, Option<Item>);

impl Origin for Unseen {
    fn next_item(&mut self) -> Result<Option<Item>> {
        Ok(self.1.take())
    }

    fn data(&mut self, _: &mut [u8]) -> Result<Option<(u64, usize)>> {
        assert_eq!(hidden(&self.0), Vec::<PathBuf>::new());
        Ok(None)
    }
}

/// One file that cannot be read.
struct Unreadable(Option<Item>);

impl Origin for Unreadable {
    fn next_item(&mut self) -> Result<Option<Item>> {
        Ok(self.0.take())
    }

    fn data(&mut self, _: &mut [u8]) -> Result<Option<(u64, usize)>> {
        Err(Failure::new("it cannot be read"))
    }
}

/// What is not quite there yet, beside `name`.
fn hidden(name: &Path) -> Vec<PathBuf> {
    let listed = name.parent().expect("a directory").read_dir().expect("a listing");
    listed.flatten().filter(|entry| entry.file_name().as_bytes().starts_with(b".externfs-")).map(|entry| entry.path()).collect()
}

fn item(mode: u32, owner: Option<(externfs::GuestUid, externfs::GuestGid)>) -> Item {
    let path = TreePath::default();
    Item { path, body: Body::Regular(5), mode: Mode::new(mode), owner, mtime: None, atime: None, xattrs: Vec::new() }
}

#[test]
fn what_is_there_stays_until_the_new_is_complete() {
    let place = tempfile::tempdir().expect("a directory");
    let name = place.path().join("f");
    std::fs::write(&name, "precious").expect("a file");
    for nameless in [true, false] {
        let writer = HostWriter { nameless, ..HostWriter::new(&name, false).expect("a directory") };
        let failure = writer.write(&mut Unreadable(Some(item(0o644, None))), &mut |_| {}).expect_err("unreadable");
        assert!(failure.line.contains("cannot be read"), "{}", failure.line);
        assert_eq!(std::fs::read(&name).expect("read"), b"precious");
        assert!(hidden(&name).is_empty());
        let writer = HostWriter { nameless, ..HostWriter::new(&name, false).expect("a directory") };
        writer.write(&mut Single(Some(item(0o640, None))), &mut |_| {}).expect("written");
        assert_eq!(std::fs::read(&name).expect("read"), [0; 5]);
        assert_eq!((name.metadata().expect("stat").nlink(), hidden(&name).len()), (1, 0));
        std::fs::write(&name, "precious").expect("a file");
    }
}

#[test]
fn what_is_not_whole_is_in_nobodys_way() {
    let place = tempfile::tempdir().expect("a directory");
    let name = place.path().join("f");
    let writer = HostWriter::new(&name, false).expect("a directory");
    if writer.nameless(writer.dir.as_fd()).is_none() {
        eprintln!("SKIPPED: needs O_TMPFILE in {}", place.path().display());
        return;
    }
    // New, and over what is there.
    for _ in 0..2 {
        let writer = HostWriter::new(&name, false).expect("a directory");
        writer.write(&mut Unseen(name.clone(), Some(item(0o640, None))), &mut |_| {}).expect("written");
        assert_eq!(std::fs::read(&name).expect("read"), [0; 5]);
        assert_eq!((name.metadata().expect("stat").nlink(), hidden(&name).len()), (1, 0));
    }
}

/// One item without contents.
struct Single(Option<Item>);

impl Origin for Single {
    fn next_item(&mut self) -> Result<Option<Item>> {
        Ok(self.0.take())
    }

    fn data(&mut self, _: &mut [u8]) -> Result<Option<(u64, usize)>> {
        Ok(None)
    }
}

fn put(body: Body, path: TreePath, target: &Path) -> Result<()> {
    let item = Item { path, body, ..item(0o644, None) };
    HostWriter::new(target, false)?.write(&mut Single(Some(item)), &mut |_| {})
}

#[test]
fn links_and_nodes_replace_what_is_there_once_they_are_made() {
    let place = tempfile::tempdir().expect("a directory");
    let path = |name: &str| TreePath::parse(name.as_bytes()).expect("a path");
    let name = place.path().join("f");
    std::fs::write(&name, "precious").expect("a file");
    // None of these can be made: a link to nothing, a second name of what is
    // not there, a directory as a node.
    for body in
        [Body::Symlink(Vec::new()), Body::HardLink(path("gone")), Body::Special(FileKind::Directory, externfs::DeviceNumber::default())]
    {
        let failure = put(body.clone(), path("f"), place.path()).expect_err("cannot be made");
        assert!(failure.line.contains("/f: "), "{body:?}: {}", failure.line);
        assert_eq!(std::fs::read(&name).expect("read"), b"precious", "{body:?}");
    }
    put(Body::Symlink(b"to".to_vec()), path("f"), place.path()).expect("a link");
    assert_eq!(name.read_link().expect("a link"), Path::new("to"));
    put(Body::Special(FileKind::Fifo, externfs::DeviceNumber::default()), path("f"), place.path()).expect("a FIFO");
    assert_eq!(FileKind::from_mode(name.symlink_metadata().expect("stat").mode()), Some(FileKind::Fifo));
    std::fs::write(place.path().join("g"), "g").expect("a file");
    // The second time it has that name already.
    for _ in 0..2 {
        put(Body::HardLink(path("g")), path("f"), place.path()).expect("a second name");
        assert_eq!(name.metadata().expect("stat").nlink(), 2);
    }
    let failure = put(Body::Symlink(b"to".to_vec()), TreePath::default(), place.path()).expect_err("a directory is in the way");
    assert!(failure.line.contains("directory"), "{}", failure.line);
    assert!(hidden(&name).is_empty() && hidden(place.path()).is_empty());
}

#[test]
fn a_link_put_in_its_place_is_not_followed() {
    let place = tempfile::tempdir().expect("a directory");
    let (name, outside) = (place.path().join("f"), place.path().join("outside"));
    std::fs::write(&outside, "").expect("a file");
    std::fs::set_permissions(&outside, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let owner = outside.metadata().map(|stat| (externfs::GuestUid(stat.uid()), externfs::GuestGid(stat.gid()))).expect("stat");
    let writer = HostWriter { nameless: false, ..HostWriter::new(&name, true).expect("a directory") };
    let mut exchanged = Exchanged(name.clone(), outside.clone(), Some(item(0o4755, Some(owner))));
    writer.write(&mut exchanged, &mut |_| {}).expect("written");
    let mode = |path: &Path| path.symlink_metadata().expect("stat").mode() & 0o7777;
    assert_eq!((mode(&outside), mode(&name.with_extension("aside"))), (0o600, 0o4755));
}
