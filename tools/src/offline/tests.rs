use super::*;
use externfs::{DeviceNumber, GuestGid, GuestUid, Mode, Name, NewNode, Plugin, SetAttr, Source};

fn tree(dir: &std::path::Path) -> Offline {
    let connect = hostfs::HostFsPlugin.open(&Source { path: dir.to_owned(), options: Vec::new() }).expect("opens");
    Offline::new(connect).expect("connects")
}

fn path(text: &str) -> TreePath {
    TreePath::parse(text.as_bytes()).expect("a path")
}

#[test]
fn what_is_held_is_given_back() {
    let dir = tempfile::tempdir().expect("tempdir");
    std::fs::create_dir(dir.path().join("a")).expect("mkdir");
    std::os::unix::fs::symlink("a", dir.path().join("link")).expect("symlink");
    let tree = tree(dir.path());
    let (parent, name) = (tree.resolve(&path("a")).expect("resolves"), Name::new(b"f").expect("a name"));
    let (mut node, file) = parent.create(name, Mode::new(0o640)).expect("creates");
    file.write_all(0, b"hello").expect("writes");
    file.write_all(5, &[b'x'; 300_000]).expect("writes");
    let mut middle = [0; 4];
    assert_eq!(file.read(3, &mut middle), Ok(4));
    assert_eq!(&middle, b"loxx");
    assert_eq!(file.read_all(10).map_err(|error| error.errno()), Err(Errno::EFBIG));
    assert_eq!(node.refresh().map(|attr| attr.size), Ok(300_005));
    let again = parent.link(&node, Name::new(b"g").expect("a name")).expect("links");
    assert_eq!(again.attr().nlink, 2);
    node.set_attr(&SetAttr { mode: Some(Mode::new(0o600)), ..SetAttr::default() }).expect("chmod");
    assert_eq!(parent.names(), Ok(vec![b"f".to_vec(), b"g".to_vec()]));
    parent.rename(name, Name::new(b"h").expect("a name")).expect("renames");
    parent.unlink(Name::new(b"g").expect("a name")).expect("unlinks");
    drop((node, file, again, parent));
    let held = tree.statistics();
    assert_eq!((held.nodes, held.handles), (1, 0), "{held:?}");
}

#[test]
fn a_path_stops_at_links_and_files() {
    let dir = tempfile::tempdir().expect("tempdir");
    std::fs::create_dir(dir.path().join("a")).expect("mkdir");
    std::fs::write(dir.path().join("a/f"), "x").expect("write");
    std::os::unix::fs::symlink("a", dir.path().join("link")).expect("symlink");
    let tree = tree(dir.path());
    for (text, parts) in [
        ("link/f", &["/link:", "symbolic link", "leads to, a"][..]),
        ("a/f/x", &["/a/f: not a directory"]),
        ("a/none/x", &["/a/none: no such file"]),
    ] {
        let failure = tree.resolve(&path(text)).err().expect(text);
        parts.iter().for_each(|part| assert!(failure.line.contains(part), "{failure}"));
    }
    assert_eq!(tree.resolve(&path("link")).map(|node| node.attr().kind), Ok(FileKind::Symlink));
    assert!(tree.resolve_parent(&path("/")).is_err());
    assert!(tree.resolve_parent(&path("link/x")).is_err());
    assert_eq!(tree.statistics().nodes, 1);
}

#[test]
fn everything_can_be_made() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED: needs root, for a device node");
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let tree = tree(dir.path());
    let root = tree.root().expect("root");
    let device = DeviceNumber { major: 1, minor: 3 };
    for (name, new) in [("d", NewNode::Directory), ("l", NewNode::Symlink(b"t")), ("p", NewNode::Fifo), ("c", NewNode::CharDevice(device))]
    {
        let mut node = root.make(Name::new(name.as_bytes()).expect("a name"), &new, Mode::new(0o700)).expect(name);
        let change = SetAttr { uid: Some(GuestUid(5)), gid: Some(GuestGid(6)), ..SetAttr::default() };
        let attr = node.set_attr(&change).expect("chown");
        assert_eq!((attr.uid.0, attr.gid.0), (5, 6), "{name}");
    }
    assert_eq!(root.names().expect("lists").len(), 4);
    let link = root.lookup(Name::new(b"l").expect("a name")).expect("finds");
    assert_eq!(link.read_link(), Ok(b"t".to_vec()));
}
