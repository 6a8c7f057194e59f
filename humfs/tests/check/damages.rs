//! Each damage of the table, on every format.

use crate::sample::{Sample, formats, serve};
use crate::table::After::{Clean, Left};
use crate::table::{Damage, ON_EVERY_FORMAT, ON_OTHERS, ON_SHADOW, ON_SQLITE, ON_XATTR, chmod, write};
use externfs::{Caller, ExternFs, Mode, NewNode};
use humfs::store::Format;
use rustix::fs::{AtFlags, CWD, FileType};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn try_out(damage: &Damage, format: Format) {
    let what = format!("{} ({})", damage.called, format.name());
    if damage.found.iter().any(|(_, kind)| *kind == "foreign-owner") && !is_root() {
        eprintln!("skipped, only root can give files away: {what}");
        return;
    }
    let sample = Sample::new(format);
    assert_eq!(sample.look().to_string().lines().count(), 1, "{what}: clean before\n{}", sample.look());
    let view = sample.view();
    (damage.make)(&sample);
    let before = sample.fingerprint();
    let looked = sample.look();
    let changed: Vec<_> = sample.fingerprint().into_iter().filter(|(path, print)| before.get(path) != Some(print)).collect();
    assert!(changed.is_empty(), "{what}: looking changed {changed:?}");
    let found: Vec<(&str, &str)> = looked.findings.iter().map(|f| (first_name(&f.path), f.problem.name())).collect();
    assert_eq!(without_counters(&found, damage), damage.found, "{what}\n{looked}");
    assert_eq!(looked.exit_code(), 4, "{what}");

    let repaired = sample.repair();
    match damage.after {
        Clean => {
            assert_eq!(repaired.exit_code(), 1, "{what}\n{repaired}");
            let again = sample.look();
            assert_eq!((again.exit_code(), again.findings.len()), (0, 0), "{what}: after the repair\n{repaired}\n{again}");
        }
        Left => {
            assert_eq!(repaired.exit_code(), 4, "{what}\n{repaired}");
            assert_eq!(sample.look().exit_code(), 4, "{what}");
        }
    }
    let touched = |path: &[u8]| {
        damage.changed.iter().chain(damage.found.iter().map(|(path, _)| path)).any(|changed| {
            path == changed.as_bytes() || (damage.changed.contains(changed) && path.starts_with(format!("{changed}/").as_bytes()))
        })
    };
    if damage.found.iter().any(|(path, kind)| *path == "." || *kind == "unfinished") && damage.after == Left {
        // It cannot be served.
        return;
    }
    let after = sample.view();
    for (path, looks) in view.iter().filter(|(path, _)| !touched(path)) {
        assert_eq!(after.get(path), Some(looks), "{what}: {}", path.escape_ascii());
    }
    for (path, looks) in &after {
        let is_new = !view.contains_key(path);
        let mode = looks.split(' ').nth(1).unwrap_or_default();
        assert!(!is_new || !mode.starts_with(['2', '4', '6']), "{what}: setuid from nowhere at {}: {looks}", path.escape_ascii());
        if damage.after == Clean {
            assert_ne!(looks, "EIO", "{what}: {}", path.escape_ascii());
        }
    }
}

/// Which of an object's names is told is left to chance; here it is the first.
fn first_name(path: &[u8]) -> &str {
    match std::str::from_utf8(path).unwrap() {
        "/etc/two" => "/one",
        other => other,
    }
}

/// What is added or cannot be read is not counted either: that follows from
/// the damage and is not told in the table.
fn without_counters<'a>(found: &[(&'a str, &'a str)], damage: &Damage) -> Vec<(&'a str, &'a str)> {
    let follows = |(path, kind): &(&str, &str)| {
        *path == "humfs/state" && *kind == "wrong-counters" && damage.found.iter().all(|(p, _)| *p != "humfs/state")
    };
    found.iter().filter(|pair| !follows(pair)).copied().collect()
}

#[test]
fn every_damage_is_found_and_repaired_or_told() {
    let all = ON_EVERY_FORMAT.iter().chain(ON_OTHERS).chain(ON_XATTR).chain(ON_SHADOW).chain(ON_SQLITE);
    let mut failed = Vec::new();
    for format in formats() {
        for damage in all.clone().filter(|damage| damage.only.contains(&format)) {
            // The others are worth knowing too.
            if std::panic::catch_unwind(|| try_out(damage, format)).is_err() {
                failed.push(format!("{} ({})", damage.called, format.name()));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn a_clean_tree_is_told_in_one_line() {
    for format in formats() {
        for sample in [Sample::new(format), Sample::empty(format)] {
            let report = sample.look();
            assert_eq!(report.exit_code(), 0, "{report}");
            let text = report.to_string();
            assert!(text.ends_with(" bytes\n") && text.contains(": clean: ") && text.lines().count() == 1, "{text}");
            assert_eq!(sample.repair().exit_code(), 0);
        }
    }
}

#[test]
fn a_file_without_a_record_becomes_what_the_policy_says() {
    use humfs::Adopt;
    use humfs::check::CheckOptions;
    if !is_root() {
        eprintln!("skipped: only root can give files away");
        return;
    }
    for format in formats() {
        for (adopt, looks) in
            [(Adopt::Root, Some("Regular 0644 0:0 ")), (Adopt::OwnerMap, Some("Regular 0644 12345:12345 ")), (Adopt::Refuse, None)]
        {
            let sample = Sample::empty(format);
            std::os::unix::fs::chown(sample.data(""), Some(12_345), Some(12_345)).unwrap();
            write(sample.data("new"), "x");
            chmod(sample.data("new"), 0o4666);
            std::os::unix::fs::chown(sample.data("new"), Some(12_345), Some(12_345)).unwrap();
            chmod(sample.data("new"), 0o644);
            let report = sample.check(CheckOptions { repair: true, adopt: Some(adopt), ..CheckOptions::default() });
            assert_eq!(report.exit_code(), 1, "{report}");
            let view = sample.view();
            assert_eq!(view.get(b"/new".as_slice()).map(String::as_str), looks, "{report}");
            if adopt == Adopt::Refuse {
                let lost: Vec<_> = view.iter().filter(|(path, _)| path.starts_with(b"/lost+found/")).collect();
                assert_eq!(lost.len(), 1);
                assert_eq!(lost[0].1, "Regular 0600 0:0 ");
            }
        }
    }
}

/// In no format may a stranger keep a repair from coming to an end, also none
/// that cannot carry a record as it is.
#[test]
fn refused_links_and_special_files_are_kept_as_what_they_are() {
    use humfs::Adopt;
    use humfs::check::CheckOptions;
    let refuse = |repair| CheckOptions { repair, adopt: Some(Adopt::Refuse), ..CheckOptions::default() };
    let long = "t".repeat(2000);
    for format in formats() {
        let sample = Sample::new(format);
        symlink("../x y", sample.data("etc/ln")).unwrap();
        symlink(&long, sample.data("etc/long")).unwrap();
        // One where an earlier repair has put it.
        std::fs::create_dir(sample.data("lost+found")).unwrap();
        symlink("lost", sample.data("lost+found/7")).unwrap();
        let mut special = vec![(FileType::Fifo, 0, "Fifo 0600 0:0 "), (FileType::Socket, 0, "Socket 0600 0:0 ")];
        if is_root() {
            special.push((FileType::CharacterDevice, rustix::fs::makedev(1, 3), "CharDevice 0600 0:0 "));
        }
        for (kind, device, _) in &special {
            let path = sample.data(&format!("dev/{kind:?}"));
            rustix::fs::mknodat(CWD, path, *kind, rustix::fs::Mode::from_raw_mode(0o600), *device).unwrap();
        }
        let repaired = sample.check(refuse(true));
        assert_eq!(repaired.exit_code(), 1, "{format:?}: {repaired}");
        let again = sample.check(refuse(false));
        assert_eq!((again.exit_code(), again.findings.len()), (0, 0), "{format:?}: {repaired}{again}");
        let view = sample.view();
        let lost = view.iter().filter(|(path, _)| path.starts_with(b"/lost+found/"));
        let mut lost: Vec<&str> = lost.map(|(_, looks)| looks.as_str()).collect();
        lost.sort_unstable();
        let mut expected: Vec<String> = special.iter().map(|(_, _, looks)| (*looks).to_owned()).collect();
        expected.extend(["../x y", &long, "lost"].map(|target| format!("Symlink 0600 0:0 {target}")));
        expected.sort_unstable();
        assert_eq!(lost, expected, "{format:?}: {repaired}");
        assert!(!view.contains_key(&b"/etc/ln"[..]) && !view.contains_key(&b"/dev/Fifo"[..]));
    }
}

/// What the guest sees as one file is one afterwards.
#[test]
fn names_of_a_link_that_is_replaced_stay_together() {
    use std::os::unix::fs::MetadataExt;
    let sample = Sample::new(Format::Xattr);
    symlink("twice", sample.data("etc/ln")).unwrap();
    for name in ["bin/ln", "ln"] {
        rustix::fs::linkat(CWD, sample.data("etc/ln"), CWD, sample.data(name), AtFlags::empty()).unwrap();
    }
    assert_eq!(sample.repair().exit_code(), 1);
    assert_eq!(sample.look().exit_code(), 0, "{}", sample.look());
    let stat = ["etc/ln", "bin/ln", "ln"].map(|name| sample.data(name).symlink_metadata().unwrap());
    assert!(stat.iter().all(|one| one.ino() == stat[0].ino() && one.nlink() == 3), "{stat:?}");
    assert!(sample.view().values().filter(|looks| *looks == "Symlink 0777 0:0 twice").count() == 3, "{:?}", sample.view());
}

/// Names of a file that the host made are names of one file afterwards, whichever
/// of them is found first.
#[test]
fn names_of_a_stranger_stay_together() {
    use humfs::Adopt;
    use humfs::check::CheckOptions;
    use std::os::unix::fs::MetadataExt;
    for format in formats() {
        for adopt in [Adopt::Root, Adopt::Refuse] {
            let sample = Sample::new(format);
            write(sample.data("etc/new"), "x");
            chmod(sample.data("etc/new"), 0o644);
            for name in ["bin/new", "new"] {
                std::fs::hard_link(sample.data("etc/new"), sample.data(name)).unwrap();
            }
            let repaired = sample.check(CheckOptions { repair: true, adopt: Some(adopt), ..CheckOptions::default() });
            assert_eq!(repaired.exit_code(), 1, "{format:?}: {repaired}");
            let again = sample.look();
            assert_eq!((again.exit_code(), again.findings.len()), (0, 0), "{format:?} {adopt:?}: {repaired}{again}");
            let looks = if adopt == Adopt::Root { "Regular 0644 0:0 " } else { "Regular 0600 0:0 " };
            let view = sample.view();
            let is_one = |path: &[u8]| path.ends_with(b"/new") || path.starts_with(b"/lost+found/");
            let names: Vec<&Vec<u8>> = view.iter().filter(|(path, found)| is_one(path) && *found == looks).map(|(path, _)| path).collect();
            assert_eq!(names.len(), 3, "{format:?} {adopt:?}: {repaired}{view:?}");
            let file = sample.data(std::str::from_utf8(&names[0][1..]).unwrap());
            assert_eq!(file.metadata().unwrap().nlink(), 3, "{format:?} {adopt:?}: {repaired}");
            assert_eq!(std::fs::read(file).unwrap(), b"x");
        }
    }
}

/// `/lost+found` is no place to make something while something else is there.
#[test]
fn a_link_called_lost_and_found_is_replaced_where_it_is() {
    use humfs::Adopt;
    use humfs::check::CheckOptions;
    let sample = Sample::new(Format::Xattr);
    symlink("away", sample.data("lost+found")).unwrap();
    let repaired = sample.check(CheckOptions { repair: true, adopt: Some(Adopt::Refuse), ..CheckOptions::default() });
    assert_eq!(repaired.exit_code(), 1, "{repaired}");
    assert_eq!(sample.look().exit_code(), 0, "{}", sample.look());
    assert_eq!(sample.view().get(&b"/lost+found"[..]).map(String::as_str), Some("Symlink 0600 0:0 away"));
}

#[test]
fn a_writer_is_not_disturbed() {
    use humfs::check::{CheckOptions, Progress, check};
    for format in formats() {
        let sample = Sample::new(format);
        let fs = serve(&sample.tree);
        let error = check(&sample.tree, &CheckOptions::default(), &Progress::default()).unwrap_err();
        assert!(error.0.contains("in use by a writer") && error.0.contains("--live"), "{}", error.0);
        let error =
            check(&sample.tree, &CheckOptions { repair: true, live: true, ..CheckOptions::default() }, &Progress::default()).unwrap_err();
        assert!(error.0.contains("in use by another writer"), "{}", error.0);
        let root = fs.root().unwrap();
        fs.make(&Caller::root(), &root, crate::sample::name(b"fresh"), &NewNode::Directory, Mode::new(0o755)).unwrap();
        let live = sample.check(CheckOptions { live: true, ..CheckOptions::default() });
        assert!(live.beside_writer, "{live}");
        // Readers of a database see what was written a second ago.
        let may_be_new = |path: &[u8]| format == Format::Sqlite && path == b"/fresh";
        assert!(live.findings.iter().all(|finding| may_be_new(&finding.path)), "{live}");
        fs.close().unwrap();
        drop(fs);
        assert_eq!(sample.look().exit_code(), 0);
    }
}

/// TREE is a directory of the user's, who may keep something beside the tree's parts.
#[test]
fn what_only_looks_half_written_is_left_alone() {
    use humfs::check::CheckOptions;
    let sample = Sample::new(Format::Sqlite);
    let own = ["notes.new", "superblock.old.new", "settings.new", "humfs/notes.new", "humfs/superblock.new", "humfs/metadata.db.new.new"];
    for name in own {
        write(sample.tree.join(name), "mine");
    }
    let half_written = ["superblock.new", "humfs/settings.new", "humfs/state.new", "humfs/switching.new", "humfs/metadata.db.new"];
    for name in half_written {
        write(sample.tree.join(name), "");
    }
    let repaired = sample.check(CheckOptions { repair: true, ..CheckOptions::default() });
    assert_eq!(repaired.findings.len(), half_written.len(), "{repaired}");
    assert_eq!(sample.look().exit_code(), 0, "{}", sample.look());
    for name in own {
        assert_eq!(std::fs::read(sample.tree.join(name)).unwrap(), b"mine", "{name}");
    }
    for name in half_written {
        assert!(!sample.tree.join(name).exists(), "{name}");
    }
}

#[test]
fn nobody_begins_to_write_while_a_check_goes_on() {
    let sample = Sample::new(Format::Xattr);
    let lock = std::fs::File::open(sample.tree.join("humfs/lock")).unwrap();
    // What a check holds.
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockShared).unwrap();
    assert!(humfs::tree::Tree::open(&sample.tree, humfs::tree::Access::Write).is_err());
    assert_eq!(sample.look().exit_code(), 0, "two checks go together");
}

#[test]
fn programs_get_one_document() {
    let sample = Sample::new(Format::Xattr);
    let odd = CString::new(b"b\xff\n".as_slice()).unwrap();
    write(sample.tree.join("data").join(std::ffi::OsStr::from_bytes(odd.as_bytes())), "");
    write(sample.data("plain\nname"), "");
    let document: serde_json::Value = serde_json::from_str(&serde_json::to_string(&sample.look()).unwrap()).unwrap();
    assert_eq!((&document["exit"], &document["left"], &document["format"]), (&4.into(), &3.into(), &"xattr".into()));
    assert_eq!(document["counts"]["orphan-data"], 2);
    let findings = document["findings"].as_array().unwrap();
    let odd = findings.iter().find(|f| f["path"] == "/b\\xff\\n").unwrap();
    assert_eq!((&odd["path_hex"], &odd["kind"], &odd["state"]), (&"2f62ff0a".into(), &"orphan-data".into(), &"left".into()));
    let plain = findings.iter().find(|f| f["path"] == "/plain\nname").unwrap();
    assert!(plain.get("path_hex").is_none() && plain["repair"].as_str().unwrap().contains("record"));
    // And people a line each, whatever the names.
    assert_eq!(sample.look().to_string().lines().count(), 4);
}
