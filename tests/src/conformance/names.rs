//! Making, removing and renaming.

use super::Subject;
use crate::guest::{Guest, name};
use externfs::*;

const ROOT: NodeId = NodeId::ROOT;

pub(super) fn a_new_file_is_empty_and_the_callers(subject: &Subject, guest: &Guest) {
    let mut somebody = Guest::new(subject.connect.as_ref());
    if subject.can.owners {
        somebody.caller = Caller { uid: GuestUid(1234), gid: GuestGid(5678), ..Caller::root() };
        let open = guest.set(ROOT, SetAttr { mode: Some(Mode::new(0o777)), ..SetAttr::default() }).expect("chmod");
        assert_eq!(open.mode.bits(), 0o777);
    }
    let (uid, gid) = (somebody.caller.uid, somebody.caller.gid);
    let (entry, _) = somebody.create(ROOT, "f", true).expect("create");
    assert_eq!((entry.attr.kind, entry.attr.size, entry.attr.nlink), (FileKind::Regular, 0, 1));
    assert_eq!(entry.attr.mode.bits(), 0o644);
    assert_eq!(entry.attr.ino, guest.lookup(ROOT, "f").expect("lookup").attr.ino);
    if subject.can.owners {
        assert_eq!((entry.attr.uid, entry.attr.gid), (uid, gid), "create");
        for (text, new) in [("d", NewNode::Directory), ("l", NewNode::Symlink(b"x")), ("p", NewNode::Fifo), ("r", NewNode::Regular)] {
            let made = somebody.make(ROOT, text, &new, 0o700).expect(text);
            assert_eq!((made.attr.uid, made.attr.gid), (uid, gid), "{new:?}");
        }
    }
    somebody.finish();
}

pub(super) fn exclusive_creation_happens_once(_: &Subject, guest: &Guest) {
    let wins = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| guest.create(ROOT, "once", true))).collect();
        threads.into_iter().map(|t| t.join().expect("no panic")).collect::<Vec<_>>()
    });
    assert_eq!(wins.iter().filter(|w| w.is_ok()).count(), 1, "exactly one exclusive create succeeds");
    assert!(wins.iter().all(|w| w.as_ref().err().is_none_or(|&e| e == Errno::EEXIST)), "{wins:?}");
    let again = guest.create(ROOT, "once", false).err();
    assert_eq!(again, Some(Errno::ESTALE), "whether the caller may open what is there, nobody has looked");
    for new in [NewNode::Directory, NewNode::Symlink(b"x"), NewNode::Fifo, NewNode::Regular] {
        assert_eq!(guest.make(ROOT, "once", &new, 0o700).err(), Some(Errno::EEXIST), "{new:?}");
    }
}

pub(super) fn names_are_bytes(_: &Subject, guest: &Guest) {
    let odd: [&[u8]; 8] = [b"\xff\xfe\x80", b"new\nline", b" ", b"...", b"-rf", b"\x01\x7f", "n\u{303}".as_bytes(), b"..a"];
    for bytes in odd {
        let odd = Name::new(bytes).expect("a component");
        let made = guest.keep(guest.export.make(&guest.caller, ROOT, odd, &NewNode::Regular, Mode::new(0o600)));
        let found = guest.keep(guest.export.lookup(&guest.caller, ROOT, odd));
        assert_eq!(made.map(|e| e.id), found.map(|e| e.id), "{odd}");
    }
    let dir = guest.open_dir(ROOT).expect("opendir");
    let listed = guest.some_names(dir, 0, 0, false).expect("readdir");
    for bytes in odd {
        assert!(listed.entries.iter().any(|(n, _, _)| n == bytes), "{} is not listed", bytes.escape_ascii());
    }
    // Names that differ in case or in Unicode form are two names.
    assert_eq!(guest.lookup(ROOT, "\u{f1}").err(), Some(Errno::ENOENT));
}

pub(super) fn a_name_can_be_as_long_as_promised(_: &Subject, guest: &Guest) {
    let most = guest.export.limits().name_max;
    let (fits, too_long) = ("x".repeat(most), "x".repeat(most + 1));
    guest.file(ROOT, &fits, b"1").expect("the longest name");
    assert_eq!(guest.names(ROOT).expect("names"), [fits.as_str()]);
    assert_eq!(guest.lookup(ROOT, &too_long).err(), Some(Errno::ENAMETOOLONG), "lookup");
    assert_eq!(guest.create(ROOT, &too_long, true).err(), Some(Errno::ENAMETOOLONG), "create");
    assert_eq!(guest.mkdir(ROOT, &too_long).err(), Some(Errno::ENAMETOOLONG), "mkdir");
    assert_eq!(guest.rename(ROOT, &fits, &too_long, RenameFlags::empty()), Err(Errno::ENAMETOOLONG), "rename");
    assert_eq!(guest.unlink(ROOT, &too_long), Err(Errno::ENAMETOOLONG), "unlink");
    guest.unlink(ROOT, &fits).expect("unlink");
}

pub(super) fn only_the_right_kind_is_removed(_: &Subject, guest: &Guest) {
    guest.file(ROOT, "f", b"").expect("file");
    let dir = guest.mkdir(ROOT, "d").expect("mkdir");
    guest.file(dir.id, "inside", b"").expect("file");
    assert_eq!(guest.unlink(ROOT, "d"), Err(Errno::EISDIR));
    assert_eq!(guest.rmdir(ROOT, "f"), Err(Errno::ENOTDIR));
    assert_eq!(guest.rmdir(ROOT, "d"), Err(Errno::ENOTEMPTY));
    assert_eq!(guest.unlink(ROOT, "absent"), Err(Errno::ENOENT));
    assert_eq!(guest.rmdir(ROOT, "absent"), Err(Errno::ENOENT));
    guest.unlink(dir.id, "inside").expect("unlink");
    guest.rmdir(ROOT, "d").expect("rmdir");
    guest.unlink(ROOT, "f").expect("unlink");
    assert!(guest.names(ROOT).expect("names").is_empty());
    assert_eq!(guest.create(dir.id, "late", true).err(), Some(Errno::ENOENT), "nothing is made in a removed directory");
}

pub(super) fn rename_replaces_or_refuses(subject: &Subject, guest: &Guest) {
    guest.file(ROOT, "a", b"A").expect("file");
    guest.file(ROOT, "b", b"B").expect("file");
    guest.rename(ROOT, "a", "b", RenameFlags::empty()).expect("rename");
    let b = guest.lookup(ROOT, "b").expect("lookup");
    assert_eq!(guest.contents(b.id), Ok(b"A".to_vec()));
    assert_eq!(guest.lookup(ROOT, "a").err(), Some(Errno::ENOENT));
    assert_eq!(guest.rename(ROOT, "a", "c", RenameFlags::empty()), Err(Errno::ENOENT));
    let dir = guest.mkdir(ROOT, "d").expect("mkdir");
    assert_eq!(guest.rename(ROOT, "b", "d", RenameFlags::empty()), Err(Errno::EISDIR));
    assert_eq!(guest.rename(ROOT, "d", "b", RenameFlags::empty()), Err(Errno::ENOTDIR));
    guest.mkdir(ROOT, "empty").expect("mkdir");
    guest.file(dir.id, "x", b"").expect("file");
    assert_eq!(guest.rename(ROOT, "empty", "d", RenameFlags::empty()), Err(Errno::ENOTEMPTY));
    guest.rename(ROOT, "d", "empty", RenameFlags::empty()).expect("a directory replaces an empty one");
    assert_eq!(guest.lookup(ROOT, "empty").expect("lookup").id, dir.id);
    if subject.can.rename_flags {
        guest.file(ROOT, "n", b"N").expect("file");
        assert_eq!(guest.rename(ROOT, "n", "b", RenameFlags::NOREPLACE), Err(Errno::EEXIST));
        assert_eq!(guest.rename(ROOT, "n", "absent", RenameFlags::EXCHANGE), Err(Errno::ENOENT));
        guest.rename(ROOT, "n", "empty", RenameFlags::EXCHANGE).expect("a file and a directory change places");
        assert_eq!(guest.lookup(ROOT, "n").expect("lookup").id, dir.id);
        let both = RenameFlags::NOREPLACE | RenameFlags::EXCHANGE;
        assert_eq!(guest.rename(ROOT, "n", "empty", both), Err(Errno::EINVAL), "flags that contradict each other");
    }
}

pub(super) fn a_directory_cannot_move_into_itself(_: &Subject, guest: &Guest) {
    let a = guest.mkdir(ROOT, "a").expect("mkdir");
    let b = guest.mkdir(a.id, "b").expect("mkdir");
    let rename = |from, to| guest.export.rename(&guest.caller, from, to, RenameFlags::empty()).map_err(|e| e.errno());
    assert_eq!(rename((ROOT, name("a")), (a.id, name("c"))), Err(Errno::EINVAL));
    assert_eq!(rename((ROOT, name("a")), (b.id, name("c"))), Err(Errno::EINVAL));
    assert_eq!(rename((a.id, name("b")), (ROOT, name("a"))), Err(Errno::ENOTEMPTY));
}

pub(super) fn links_are_kept_as_written(_: &Subject, guest: &Guest) {
    let long = vec![b't'; 1023];
    let targets: [&[u8]; 6] = [b"a", b"../../../../etc/passwd", b"/etc/passwd", b"/proc/self/root", b"\xff\n", &long];
    for (index, target) in targets.into_iter().enumerate() {
        let text = format!("l{index}");
        let link = guest.make(ROOT, &text, &NewNode::Symlink(target), 0o777).expect("symlink");
        assert_eq!((link.attr.kind, link.attr.size), (FileKind::Symlink, target.len() as u64));
        assert_eq!(guest.export.read_link(link.id).expect("readlink"), target);
        assert_eq!(guest.lookup(ROOT, &text).expect("lookup").attr.kind, FileKind::Symlink, "lookup must not follow");
        assert_eq!(guest.lookup(link.id, "passwd").err(), Some(Errno::ENOTDIR), "no walking through a link");
        let through = guest.create(ROOT, &text, false);
        assert!(through.is_err(), "opening {} through a link went somewhere", target.escape_ascii());
    }
    let file = guest.file(ROOT, "f", b"").expect("file");
    assert_eq!(guest.export.read_link(file.id).map_err(|e| e.errno()), Err(Errno::EINVAL));
}

pub(super) fn special_files_are_only_names(subject: &Subject, guest: &Guest) {
    let mut wanted = vec![("fifo", NewNode::Fifo), ("sock", NewNode::Socket)];
    if subject.can.devices {
        wanted.push(("null", NewNode::CharDevice(DeviceNumber { major: 1, minor: 3 })));
        // 0:0 is overlayfs's whiteout, and an ordinary device for everybody else.
        wanted.push(("zero", NewNode::CharDevice(DeviceNumber { major: 0, minor: 0 })));
        wanted.push(("disk", NewNode::BlockDevice(DeviceNumber { major: 259, minor: 70_000 })));
    }
    for (text, new) in wanted {
        let made = guest.make(ROOT, text, &new, 0o640).expect(text);
        let expected = match new {
            NewNode::CharDevice(device) => (FileKind::CharDevice, device),
            NewNode::BlockDevice(device) => (FileKind::BlockDevice, device),
            NewNode::Socket => (FileKind::Socket, DeviceNumber::default()),
            _ => (FileKind::Fifo, DeviceNumber::default()),
        };
        assert_eq!((made.attr.kind, made.attr.device), expected, "{text}");
        assert_eq!(made.attr.mode.bits(), 0o640, "{text}");
        assert!(guest.open(made.id, crate::guest::BOTH).is_err(), "{text} must not be opened on the host");
        let changed = guest.set(made.id, SetAttr { mode: Some(Mode::new(0o600)), ..SetAttr::default() }).expect(text);
        assert_eq!(changed.mode.bits(), 0o600, "{text}");
        guest.unlink(ROOT, text).expect(text);
    }
}
