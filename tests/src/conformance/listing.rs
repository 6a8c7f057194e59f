//! Directories read in pieces.

use super::Subject;
use crate::guest::Guest;
use externfs::*;
use std::collections::{BTreeMap, BTreeSet};

const ROOT: NodeId = NodeId::ROOT;

fn fill(guest: &Guest, count: usize) -> BTreeSet<Vec<u8>> {
    (0..count)
        .map(|i| {
            let text = format!("file-with-a-name-{i:05}");
            guest.make(ROOT, &text, &NewNode::Regular, 0o600).expect("make");
            text.into_bytes()
        })
        .collect()
}

pub(super) fn a_listing_resumes_anywhere(_: &Subject, guest: &Guest) {
    let names = fill(guest, 700);
    let dir = guest.open_dir(ROOT).expect("opendir");
    let whole = guest.some_names(dir, 0, 0, false).expect("readdir").entries;
    let seen: BTreeSet<_> = whole.iter().map(|(n, _, _)| n.clone()).filter(|n| n != b"." && n != b"..").collect();
    assert_eq!(seen, names);
    assert_eq!(whole.len(), names.len() + 2, "each once, and both dots");
    let cookies: BTreeSet<_> = whole.iter().map(|(_, next, _)| *next).collect();
    assert_eq!(cookies.len(), whole.len(), "each name has a cookie of its own");
    assert!(!cookies.contains(&0), "0 is the start");
    for room in [1, 2, 7, 100] {
        let mut cookie = 0;
        for window in whole.chunks(room).take(40) {
            let got = guest.some_names(dir, cookie, room, false).expect("readdir").entries;
            let texts = |entries: &[(Vec<u8>, u64, Option<Entry>)]| entries.iter().map(|e| e.0.clone()).collect::<Vec<_>>();
            assert_eq!(texts(&got), texts(window), "{room} at a time, from cookie {cookie}");
            cookie = got.last().expect("not empty").1;
        }
    }
    // Backwards and into the middle, as seekdir(3) does.
    for index in [650, 3, 400, 0] {
        let got = guest.some_names(dir, whole[index].1, 1, false).expect("readdir").entries;
        assert_eq!(got.first().map(|e| e.0.clone()), whole.get(index + 1).map(|e| e.0.clone()), "after entry {index}");
    }
    let end = guest.some_names(dir, whole.last().expect("not empty").1, 0, false).expect("readdir at the end");
    assert!(end.entries.is_empty());
}

pub(super) fn a_listing_survives_changes(_: &Subject, guest: &Guest) {
    let names = fill(guest, 600);
    let dir = guest.open_dir(ROOT).expect("opendir");
    let (mut cookie, mut round) = (0, 0);
    let mut counts: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    loop {
        let got = guest.some_names(dir, cookie, 10, false).expect("readdir").entries;
        let Some(last) = got.last() else { break };
        cookie = last.1;
        for (name, _, _) in got {
            *counts.entry(name).or_default() += 1;
        }
        // Others come and go all the while.
        guest.file(ROOT, &format!("other-{round}"), b"").expect("create");
        if round % 2 == 0 {
            guest.unlink(ROOT, &format!("other-{round}")).expect("unlink");
        }
        round += 1;
        assert!(round < 2000, "the listing does not end");
    }
    for name in names {
        assert_eq!(counts.get(&name), Some(&1), "{} existed all the while", name.escape_ascii());
    }
}

pub(super) fn a_listing_with_attributes_counts_lookups(subject: &Subject, maker: &Guest) {
    let names = fill(maker, 60);
    let sub = maker.mkdir(ROOT, "sub").expect("mkdir");
    // To a kernel that was told of a name a moment ago a listing need not tell
    // it again; this one was not.
    let guest = Guest::new(subject.connect.as_ref());
    let dir = guest.open_dir(ROOT).expect("opendir");
    let mut cookie = 0;
    let mut seen = 0;
    loop {
        let got = guest.some_names(dir, cookie, 7, true).expect("readdirplus").entries;
        let Some(last) = got.last() else { break };
        cookie = last.1;
        for (text, _, known) in got {
            if text == b"." || text == b".." {
                assert!(known.is_none(), "the dots are not looked up");
                continue;
            }
            seen += 1;
            let known = known.expect("attributes of each name");
            let again = guest.keep(guest.export.lookup(&guest.caller, ROOT, Name::new(&text).expect("a name"))).expect("lookup");
            assert_eq!((known.id, known.attr.ino, known.attr.kind), (again.id, again.attr.ino, again.attr.kind));
        }
    }
    assert_eq!(seen, names.len() + 1);
    assert_eq!(guest.export.statistics().nodes, names.len() + 2, "each of them is remembered, and the root");
    assert_eq!(guest.lookup(ROOT, "sub").expect("lookup").id, sub.id);
    guest.finish();
}

pub(super) fn the_dots_lead_where_they_should(_: &Subject, guest: &Guest) {
    let outer = guest.mkdir(ROOT, "outer").expect("mkdir");
    let inner = guest.mkdir(outer.id, "inner").expect("mkdir");
    let again = guest.keep(guest.export.lookup_self(inner.id)).expect("lookup of .");
    assert_eq!(again.id, inner.id);
    let parent = guest.keep(guest.export.lookup_parent(inner.id)).expect("lookup of ..");
    assert_eq!(parent.id, outer.id);
    let top = guest.keep(guest.export.lookup_parent(outer.id)).expect("lookup of ..");
    assert_eq!(top.id, ROOT);
    let over = guest.keep(guest.export.lookup_parent(ROOT)).expect("lookup of .. of the root");
    assert_eq!(over.id, ROOT, "nothing lies above the root");
    for bad in [&b"."[..], b"..", b"", b"a/b", b"a\0"] {
        assert!(Name::new(bad).is_err(), "{}", bad.escape_ascii());
    }
}
