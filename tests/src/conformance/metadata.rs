//! Attributes, owners, times and extended attributes.

use super::Subject;
use crate::guest::Guest;
use externfs::*;

const ROOT: NodeId = NodeId::ROOT;

pub(super) fn each_attribute_can_be_set_alone(subject: &Subject, guest: &Guest) {
    let file = guest.file(ROOT, "f", b"12345").expect("file");
    let mut expected = guest.attr(file.id).expect("attr");
    let mut changes = vec![
        SetAttr { mode: Some(Mode::new(0o4711)), ..SetAttr::default() },
        SetAttr { size: Some(3), ..SetAttr::default() },
        SetAttr { atime: Some(SetTime::At(Timestamp { seconds: 1, nanoseconds: 2 })), ..SetAttr::default() },
        SetAttr { mtime: Some(SetTime::At(Timestamp { seconds: -3, nanoseconds: 4 })), ..SetAttr::default() },
        SetAttr { mode: Some(Mode::new(0o600)), size: Some(10), ..SetAttr::default() },
    ];
    if subject.can.owners {
        changes.push(SetAttr { uid: Some(GuestUid(11)), ..SetAttr::default() });
        changes.push(SetAttr { gid: Some(GuestGid(22)), ..SetAttr::default() });
        changes.push(SetAttr {
            uid: Some(GuestUid(4_000_000_000)),
            gid: Some(GuestGid(65_534)),
            mode: Some(Mode::new(0o6755)),
            ..SetAttr::default()
        });
    }
    for change in changes {
        let got = guest.set(file.id, change).unwrap_or_else(|e| panic!("{change:?}: {e}"));
        expected.mode = change.mode.unwrap_or(expected.mode);
        expected.uid = change.uid.unwrap_or(expected.uid);
        expected.gid = change.gid.unwrap_or(expected.gid);
        expected.size = change.size.unwrap_or(expected.size);
        if let Some(SetTime::At(time)) = change.atime {
            expected.atime = time;
        }
        match change.mtime {
            Some(SetTime::At(time)) => expected.mtime = time,
            _ if change.size.is_some() => expected.mtime = got.mtime,
            _ => {}
        }
        assert!(got.ctime >= expected.ctime, "ctime never goes back: {change:?}");
        expected.ctime = got.ctime;
        expected.blocks = got.blocks;
        assert_eq!(got, expected, "{change:?}");
        assert_eq!(guest.attr(file.id), Ok(got), "what was answered is what is there: {change:?}");
    }
}

pub(super) fn times_keep_their_nanoseconds(_: &Subject, guest: &Guest) {
    let file = guest.file(ROOT, "f", b"").expect("file");
    let link = guest.make(ROOT, "l", &NewNode::Symlink(b"f"), 0o777).expect("symlink");
    let times = [(0, 0), (1, 999_999_999), (-1, 1), (2_147_483_648, 123_456_789), (4_294_967_297, 5), (-2_000_000_000, 500_000_000)];
    for (seconds, nanoseconds) in times {
        let time = Timestamp { seconds, nanoseconds };
        for id in [file.id, link.id] {
            let got = guest
                .set(id, SetAttr { atime: Some(SetTime::At(time)), mtime: Some(SetTime::At(time)), ..SetAttr::default() })
                .expect("utimens");
            assert_eq!((got.atime, got.mtime), (time, time));
        }
    }
    let before = Timestamp::now();
    let got = guest.set(file.id, SetAttr { mtime: Some(SetTime::Now), ..SetAttr::default() }).expect("utimens now");
    assert!(got.mtime.seconds >= before.seconds - 1 && got.mtime.seconds <= Timestamp::now().seconds, "{:?}", got.mtime);
    assert_eq!(got.atime, Timestamp { seconds: -2_000_000_000, nanoseconds: 500_000_000 }, "the other one stays");
}

pub(super) fn the_umask_counts(subject: &Subject, _: &Guest) {
    let mut guest = Guest::new(subject.connect.as_ref());
    guest.caller.umask = 0o027;
    let (file, _) = guest.create(ROOT, "f", true).expect("create");
    assert_eq!(file.attr.mode.bits(), 0o640);
    let dir = guest.make(ROOT, "d", &NewNode::Directory, 0o777).expect("mkdir");
    assert_eq!(dir.attr.mode.bits(), 0o750);
    let fifo = guest.make(ROOT, "p", &NewNode::Fifo, 0o666).expect("mkfifo");
    assert_eq!(fifo.attr.mode.bits(), 0o640);
    guest.finish();
}

pub(super) fn a_setgid_directory_gives_its_group_on(subject: &Subject, root: &Guest) {
    if !subject.can.owners {
        crate::harness::skip("this plugin has no owners");
    }
    let dir = root.mkdir(ROOT, "d").expect("mkdir");
    let change = SetAttr { gid: Some(GuestGid(777)), mode: Some(Mode::new(0o2777)), ..SetAttr::default() };
    assert_eq!(root.set(dir.id, change).expect("chmod").mode.bits(), 0o2777);
    let mut guest = Guest::new(subject.connect.as_ref());
    guest.caller = Caller { uid: GuestUid(1234), gid: GuestGid(1234), ..Caller::root() };
    let dir = guest.lookup(ROOT, "d").expect("lookup");
    let (file, _) = guest.create(dir.id, "f", true).expect("create");
    assert_eq!((file.attr.uid, file.attr.gid), (GuestUid(1234), GuestGid(777)));
    let sub = guest.mkdir(dir.id, "sub").expect("mkdir");
    assert_eq!((sub.attr.gid, sub.attr.mode.bits() & 0o2000), (GuestGid(777), 0o2000), "directories pass the bit on");
    for (text, new) in [("l", NewNode::Symlink(b"x")), ("p", NewNode::Fifo), ("s", NewNode::Socket)] {
        assert_eq!(guest.make(dir.id, text, &new, 0o666).expect(text).attr.gid, GuestGid(777), "{text}");
    }
    guest.finish();
}

pub(super) fn extended_attributes_obey_their_flags(subject: &Subject, guest: &Guest) {
    if !subject.can.xattrs {
        crate::harness::skip("this plugin has no extended attributes");
    }
    let file = guest.file(ROOT, "f", b"").expect("file");
    let set = |key: &str, value: &[u8], flags| {
        guest.export.set_xattr(&guest.caller, file.id, key.as_bytes(), value, flags).map_err(|e| e.errno())
    };
    let get = |key: &str| guest.export.get_xattr(file.id, key.as_bytes()).map_err(|e| e.errno());
    assert_eq!(get("user.a"), Err(Errno::ENODATA));
    assert_eq!(set("user.a", b"1", XattrFlags::REPLACE), Err(Errno::ENODATA));
    set("user.a", b"1", XattrFlags::CREATE).expect("create");
    assert_eq!(set("user.a", b"2", XattrFlags::CREATE), Err(Errno::EEXIST));
    set("user.a", b"with\0nul", XattrFlags::REPLACE).expect("replace");
    set("user.empty", b"", XattrFlags::empty()).expect("an empty value");
    assert_eq!(get("user.a"), Ok(b"with\0nul".to_vec()));
    assert_eq!(get("user.empty"), Ok(Vec::new()));
    let list = guest.export.list_xattr(file.id).expect("list");
    let mut names: Vec<_> = list.split(|&b| b == 0).filter(|n| n.starts_with(b"user.")).collect();
    names.sort();
    assert_eq!(names, [&b"user.a"[..], b"user.empty"]);
    assert!(list.ends_with(b"\0"), "each name ends with a NUL");
    guest.export.remove_xattr(&guest.caller, file.id, b"user.a").expect("remove");
    let again = guest.export.remove_xattr(&guest.caller, file.id, b"user.a").map_err(|e| e.errno());
    assert_eq!(again, Err(Errno::ENODATA));
    let long = format!("user.{}", "x".repeat(251));
    assert!(
        matches!(set(&long, b"", XattrFlags::empty()), Err(e) if e == Errno::ERANGE || e == Errno::ENAMETOOLONG),
        "a name of 256 bytes"
    );
    for bad in ["", "noprefix", "user.", "unknown.x"] {
        assert!(set(bad, b"", XattrFlags::empty()).is_err(), "{bad:?} is no attribute's name");
    }
    assert!(set("user.big", &vec![0; 70_000], XattrFlags::empty()).is_err(), "values end at 64 KiB");
}

pub(super) fn the_file_system_tells_its_size(_: &Subject, guest: &Guest) {
    let told = guest.export.statfs(ROOT).expect("statfs");
    assert!(told.block_size >= 512 && told.blocks >= told.blocks_free && told.blocks_free >= told.blocks_available, "{told:?}");
    assert!(told.name_max as usize >= 200, "{told:?}");
}
