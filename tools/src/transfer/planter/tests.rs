use super::super::{Gather, pack};
use super::*;
use externfs::{DeviceNumber, Timestamp};
use humfs::make::{Plan, lay};
use humfs::store::Format;

/// Items without contents.
struct Listed(std::vec::IntoIter<Item>);

impl Origin for Listed {
    fn next_item(&mut self) -> Result<Option<Item>> {
        Ok(self.0.next())
    }

    fn data(&mut self, _: &mut [u8]) -> Result<Option<(u64, usize)>> {
        Ok(None)
    }
}

/// An ACL as the kernel takes it, with an entry for a user.
fn acl(uid: u32) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in [(1u16, 7u16, u32::MAX), (2, 7, uid), (4, 5, u32::MAX), (0x10, 7, u32::MAX), (0x20, 1, u32::MAX)] {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn item(path: &str, body: Body, mode: u32, xattrs: &[(&str, Vec<u8>)]) -> Item {
    let at = |seconds| Some(Timestamp { seconds, nanoseconds: 5 });
    let xattrs = xattrs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.clone())).collect();
    let path = TreePath::parse(path.as_bytes()).expect("a path");
    let owner = Some((GuestUid(path.as_bytes().len() as u32 + 500), GuestGid(600)));
    Item { mtime: at(path.as_bytes().len() as i64 * 1000), atime: at(77), path, body, mode: Mode::new(mode), owner, xattrs }
}

/// Directories that hand down what they have, and what is made in them.
fn items() -> Vec<Item> {
    const DEFAULT: &str = "system.posix_acl_default";
    const ACCESS: &str = "system.posix_acl_access";
    let fifo = Body::Special(FileKind::Fifo, DeviceNumber::default());
    vec![
        item("", Body::Directory, 0o2775, &[(DEFAULT, acl(1))]),
        item("d", Body::Directory, 0o2770, &[(ACCESS, acl(2)), (DEFAULT, acl(3)), ("user.a", b"a".to_vec())]),
        item("d/file", Body::Regular(0), 0o640, &[]),
        item("d/own", Body::Regular(0), 0o670, &[(ACCESS, acl(4))]),
        item("d/fifo", fifo, 0o604, &[]),
        item("d/link", Body::Symlink(b"to".to_vec()), 0o777, &[]),
        item("d/plain", Body::Directory, 0o755, &[]),
        item("d/plain/file", Body::Regular(0), 0o4755, &[("security.a", vec![0])]),
        item("d/again", Body::HardLink(TreePath::parse(b"d/own").expect("a path")), 0, &[]),
        // An archive may leave directories out, and tell of them twice.
        item("d/implied/file", Body::Regular(0), 0o600, &[]),
        item("d/implied", Body::Directory, 0o711, &[]),
        item("d", Body::Directory, 0o1777, &[("user.b", vec![b'b'; 100])]),
        item("d/late", Body::Regular(0), 0o666, &[]),
    ]
}

/// What becomes of them in a tree, as an archive.
fn planted(format: Format, staged: bool, pending_max: usize) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("tree");
    lay(&path, &Plan { format, total: 1 << 30, inodes: None, adopt: None }).expect("a tree");
    let tree = Offline::new(humfs::open(&path, &humfs::Options::default()).expect("opens")).expect("connects");
    let planter = Planter::new(&tree, TreePath::default(), staged).expect("begins");
    let mut planter = Planter { pending_max, ..planter };
    planter.plant(&mut Listed(items().into_iter()), &mut |_| {}).expect("plants");
    let waiting: usize = planter.later.iter().flat_map(|later| &later.xattrs).map(|(_, value)| value.len()).sum();
    assert!(waiting <= pending_max, "{waiting} bytes wait, {pending_max} may");
    assert_eq!(planter.inherits(), pending_max == 0);
    let _ = planter.finish().expect("finishes");
    let mut origin = Gather::new(&tree, &TreePath::default(), true).expect("begins");
    pack(&mut origin, Vec::new(), "memory", &mut |_| {}).expect("packs")
}

#[test]
fn attributes_that_may_not_wait_are_the_same() {
    for format in Format::ALL {
        for staged in [false, true] {
            let usual = planted(format, staged, PENDING_MAX);
            assert!(planted(format, staged, 0) == usual, "{}, staged: {staged}", format.name());
        }
    }
}
