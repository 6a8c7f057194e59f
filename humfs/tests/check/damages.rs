//! The table: each damage, what is found, what a repair leaves.

use crate::sample::{Sample, formats, serve};
use externfs::{Caller, ExternFs, FileKind, GuestGid, GuestUid, Mode, NewNode};
use humfs::record::{Record, Target};
use humfs::store::Format;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

/// What a repair can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum After {
    /// All is well again: exit code 1, then 0.
    Clean,
    /// Nothing safe can be done.
    Left,
}

struct Damage {
    called: &'static str,
    /// None: all formats.
    only: Option<Format>,
    make: fn(&Sample),
    /// Where, and which problem.
    found: &'static [(&'static str, &'static str)],
    after: After,
    /// Paths whose looks may have changed after the repair.
    changed: &'static [&'static str],
}

fn write(path: impl AsRef<Path>, text: impl AsRef<[u8]>) {
    std::fs::write(path, text).unwrap();
}

fn chmod(path: impl AsRef<Path>, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

fn fifo(path: impl AsRef<Path>) {
    rustix::fs::mknodat(rustix::fs::CWD, path.as_ref(), rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0).unwrap();
}

fn set_block(path: impl AsRef<Path>, block: &[u8]) {
    rustix::fs::setxattr(path.as_ref(), "user.humfs", block, rustix::fs::XattrFlags::empty()).unwrap();
}

fn set_record(path: impl AsRef<Path>, change: impl FnOnce(&mut Record)) {
    let mut record = Record::new(FileKind::Regular, Mode::new(0o644), GuestUid(0), GuestGid(0));
    change(&mut record);
    set_block(path, &record.to_block(Target::Block));
}

const fn damage(called: &'static str, make: fn(&Sample), found: &'static [(&'static str, &'static str)], after: After) -> Damage {
    Damage { called, only: None, make, found, after, changed: &[] }
}

const fn xattr(
    called: &'static str,
    make: fn(&Sample),
    found: &'static [(&'static str, &'static str)],
    after: After,
    changed: &'static [&'static str],
) -> Damage {
    Damage { called, only: Some(Format::Xattr), make, found, after, changed }
}

use After::{Clean, Left};

const ON_EVERY_FORMAT: &[Damage] = &[
    damage("a file of the host's", |s| write(s.data("etc/new"), "x"), &[("/etc/new", "orphan-data")], Clean),
    damage("a directory of the host's", |s| std::fs::create_dir(s.data("etc/d")).unwrap(), &[("/etc/d", "orphan-data")], Clean),
    damage("a link of the host's", |s| symlink("../x y", s.data("etc/ln")).unwrap(), &[("/etc/ln", "orphan-data")], Clean),
    damage("a FIFO of the host's", |s| fifo(s.data("dev/fifo")), &[("/dev/fifo", "orphan-data")], Clean),
    damage("setuid on the host", |s| chmod(s.data("bin/su"), 0o4755), &[("/bin/su", "host-mode-too-wide")], Clean),
    damage("a directory for everybody", |s| chmod(s.data("etc"), 0o777), &[("/etc", "host-mode-too-wide")], Clean),
    damage("a root for everybody", |s| chmod(s.data(""), 0o1777), &[("/", "host-mode-too-wide")], Clean),
    damage("a file that nobody can open", |s| chmod(s.data("etc/passwd"), 0o400), &[("/etc/passwd", "host-mode-too-narrow")], Clean),
    damage("a directory that nobody can enter", |s| chmod(s.data("etc"), 0), &[("/etc", "host-mode-too-narrow")], Clean),
    damage(
        "a counter",
        |s| patch(s, "humfs/state", 32, &9u64.to_le_bytes()),
        &[("humfs/state", "wrong-counters"), ("superblock", "wrong-used")],
        Clean,
    ),
    damage("the number of objects", |s| patch(s, "humfs/state", 40, &999u64.to_le_bytes()), &[("humfs/state", "wrong-counters")], Clean),
    damage("used", edit_used, &[("superblock", "wrong-used")], Clean),
    damage("a state of nonsense", |s| write(s.tree.join("humfs/state"), "humfs?"), &[("humfs/state", "format-flaw")], Clean),
    damage("a change under way", leave_in_flight, &[("humfs/state", "cut-change")], Clean),
    damage("a half-written superblock", |s| write(s.tree.join("superblock.new"), "vers"), &[("superblock.new", "cut-change")], Clean),
    damage("half-written settings", |s| write(s.tree.join("humfs/settings.new"), ""), &[("humfs/settings.new", "cut-change")], Clean),
    damage(
        "a staged directory",
        |s| std::fs::create_dir_all(s.tree.join("humfs/stage/7")).unwrap(),
        &[("humfs/stage/7", "cut-change")],
        Clean,
    ),
    damage("half an intent", |s| symlink("half", s.tree.join("humfs/changes/7.1")).unwrap(), &[("humfs/changes/7.1", "cut-change")], Clean),
    damage(
        "an intent of nonsense",
        |s| symlink("what", s.tree.join("humfs/changes/7")).unwrap(),
        &[("humfs/changes/7", "cut-change")],
        Left,
    ),
    damage("a control directory for everybody", |s| chmod(s.tree.join("humfs"), 0o777), &[("humfs", "open-to-others")], Clean),
    damage(
        "settings of nonsense",
        |s| write(s.tree.join("humfs/settings"), "inodes many\n"),
        &[("humfs/settings", "invalid-setting")],
        Left,
    ),
    damage("a conversion", |s| std::fs::create_dir(s.tree.join("humfs/convert")).unwrap(), &[("humfs/convert", "cut-change")], Left),
    damage(
        "a name elsewhere",
        |s| std::fs::hard_link(s.data("bin/su"), s.tree.join("out")).unwrap(),
        &[("/bin/su", "name-elsewhere")],
        Left,
    ),
    damage("another user's file", |s| chown(s.data("etc/passwd")), &[("/etc/passwd", "foreign-owner")], Left),
    damage("another user's part", |s| chown(s.tree.join("humfs/state")), &[("humfs/state", "foreign-owner")], Left),
];

const ON_XATTR: &[Damage] = &[
    xattr("a tree for everybody", |s| chmod(&s.tree, 0o755), &[(".", "open-to-others")], Clean, &[]),
    xattr("a record of nonsense", |s| set_block(s.data("bin/su"), b"x"), &[("/bin/su", "unreadable-record")], Clean, &["/bin/su"]),
    xattr("an empty record", |s| set_block(s.data("etc/other"), b""), &[("/etc/other", "unreadable-record")], Clean, &["/etc/other"]),
    xattr(
        "a record of the future",
        |s| set_block(s.data("etc/other"), &[9; 40]),
        &[("/etc/other", "unreadable-record")],
        Clean,
        &["/etc/other"],
    ),
    xattr("a directory's record", |s| set_block(s.data("etc"), b"x"), &[("/etc", "unreadable-record")], Clean, &["/etc"]),
    xattr("the root's record", |s| set_block(s.data(""), b"x"), &[("/", "unreadable-record")], Clean, &[]),
    xattr(
        "records above each other",
        |s| {
            set_block(s.data("etc"), b"x");
            set_block(s.data("etc/passwd"), b"y");
        },
        &[("/etc", "unreadable-record"), ("/etc/passwd", "unreadable-record")],
        Clean,
        &["/etc"],
    ),
    xattr("a record for several names", |s| set_block(s.data("one"), b"x"), &[("/one", "unreadable-record")], Clean, &["/etc/two", "/one"]),
    xattr("a record of another type", |s| set_record(s.data("etc"), |_| {}), &[("/etc", "wrong-type")], Clean, &["/etc"]),
    xattr("no owner", |s| set_record(s.data("one"), |r| r.uid = GuestUid(u32::MAX)), &[("/one", "invalid-record")], Left, &["/etc/two"]),
    xattr("a link to nowhere", |s| set_record(s.data("link"), |r| r.kind = FileKind::Symlink), &[("/link", "invalid-record")], Left, &[]),
    xattr("a lost record", |s| unset(s.data("bin/su")), &[("/bin/su", "orphan-data")], Clean, &["/bin/su"]),
    xattr(
        "a lost record where there is no place for it",
        |s| {
            set_block(s.data("bin/su"), b"x");
            write(s.data("lost+found"), "");
            set_record(s.data("lost+found"), |_| {});
            chmod(s.data("lost+found"), 0o600);
            recount(s);
        },
        &[("/bin/su", "unreadable-record")],
        Left,
        &[],
    ),
];

/// Lets a writer count what was put there by hand.
fn recount(sample: &Sample) {
    std::fs::remove_file(sample.tree.join("humfs/state")).unwrap();
    serve(&sample.tree).close().unwrap();
}

fn unset(path: impl AsRef<Path>) {
    rustix::fs::removexattr(path.as_ref(), "user.humfs").unwrap();
}

fn chown(path: impl AsRef<Path>) {
    std::os::unix::fs::chown(path, Some(12_345), None).unwrap();
}

fn edit_used(sample: &Sample) {
    let path = sample.tree.join("superblock");
    let text = std::fs::read_to_string(&path).unwrap();
    let lines = text.lines().map(|line| if line.starts_with("used") { "used 77" } else { line });
    write(path, lines.map(|line| format!("{line}\n")).collect::<String>());
}

/// As if the server had been killed while it made a file.
fn leave_in_flight(sample: &Sample) {
    patch(sample, "humfs/state", 8, &[0; 8]);
    patch(sample, "humfs/state", 64, &entry(b"gone"));
}

/// An entry of `humfs/state`: a file was to be made at `path`.
fn entry(path: &[u8]) -> Vec<u8> {
    let mut entry = vec![0; 256];
    (entry[0], entry[1]) = (1, path.len() as u8);
    entry[24..24 + path.len()].copy_from_slice(path);
    entry
}

fn patch(sample: &Sample, part: &str, offset: u64, bytes: &[u8]) {
    let file = std::fs::OpenOptions::new().write(true).open(sample.tree.join(part)).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

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
    assert_eq!(sample.fingerprint(), before, "{what}: looking changed something");
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
    for format in formats() {
        for damage in ON_EVERY_FORMAT.iter().chain(ON_XATTR).filter(|damage| damage.only.is_none_or(|only| only == format)) {
            try_out(damage, format);
        }
    }
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
            let report = sample.check(CheckOptions { repair: true, adopt, ..CheckOptions::default() });
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
        assert!(live.beside_writer && live.exit_code() == 0, "{live}");
        fs.close().unwrap();
        drop(fs);
        assert_eq!(sample.look().exit_code(), 0);
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
