//! `externfs check` and `explain`, as people and scripts run them.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use support::{Place, Running, can_mount, eventually, externfs, fails, is_root, needs, run, succeeds, text};

const FORMATS: [&str; 4] = ["xattr", "sqlite", "shadow_fs", "shadow_link"];

fn tree(place: &Place, format: &str, more: &[&str]) -> PathBuf {
    let tree = place.path().join(format);
    succeeds(externfs(["create", "--size", "1G", "--metadata", format]).args(more).arg(&tree));
    tree
}

/// Exit code and standard output; nothing else is said.
fn check(tree: &Path, options: &[&str]) -> (i32, String) {
    let output = run(externfs(["check"]).args(options).arg(tree));
    assert_eq!(text(&output.stderr), "", "{options:?}");
    (output.status.code().expect("ends"), text(&output.stdout))
}

#[test]
fn exit_codes_say_how_it_stands() {
    for format in FORMATS {
        let place = Place::new();
        let tree = tree(&place, format, &["--from", place.source().to_str().expect("utf-8")]);
        let (code, said) = check(&tree, &[]);
        assert!(code == 0 && said.lines().count() == 1 && said.contains(": clean: 2 objects"), "{format}: {code} {said}");
        fs::write(tree.join("data/dropped"), "by the host").expect("write");
        let (code, said) = check(&tree, &[]);
        assert!(code == 4 && said.starts_with("/dropped: orphan-data: ") && said.contains("--repair would"), "{format}: {code} {said}");
        let (code, said) = check(&tree, &["--json"]);
        let document: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!((code, &document["exit"], &document["format"]), (4, &4.into(), &format.into()));
        assert_eq!(document["findings"][0]["kind"], "orphan-data");
        let (code, said) = check(&tree, &["--repair"]);
        assert!(code == 1 && said.contains("repaired: recorded as 0:0"), "{format}: {code} {said}");
        assert_eq!(check(&tree, &[]).0, 0, "{format}");
        let explained = succeeds(externfs(["explain"]).arg(&tree).args(["/dropped", "/"]));
        assert!(explained.contains("/dropped:\n") && explained.contains("data/dropped"), "{explained}");
        // However a path is written, it is what the other commands take it for.
        let explained = |path: &str| succeeds(externfs(["explain"]).arg(&tree).arg(path));
        assert_eq!(explained("."), explained("/"));
        // Times are for people, as stat tells them.
        let stat = succeeds(externfs(["stat"]).arg(&tree).arg("/dropped"));
        let modified = stat.lines().find_map(|line| line.trim().strip_prefix("modified: ")).expect("a time");
        assert!(explained("/dropped").contains(modified), "{modified}\n{}", explained("/dropped"));
        assert_eq!(explained("./dropped"), explained("/dropped"));
    }
}

/// Whoever makes a tree says what becomes of files that the host drops there;
/// every command keeps to it, unless it is told otherwise.
#[test]
fn a_tree_has_a_policy_of_its_own() {
    let place = Place::new();
    let me = fs::metadata(place.path()).expect("stat").uid();
    for (policy, owner) in [("refuse", None), ("owner-map", Some(me)), ("root", Some(0))] {
        let tree = place.path().join(policy);
        succeeds(externfs(["create", "--size", "1G", "--inodes", "100", "--adopt", policy]).arg(&tree));
        fs::write(tree.join("data/dropped"), "by the host").expect("write");
        let (code, said) = check(&tree, &[]);
        assert!(code == 4 && said.contains(&format!("adopt={policy}")), "{said}");
        let mut stat = externfs(["stat"]);
        stat.arg(&tree).arg("/dropped");
        match owner {
            Some(owner) => assert!(succeeds(&mut stat).contains(&owner.to_string())),
            None => fails(&mut stat, 1, &["/dropped"]),
        }
        let explained = succeeds(externfs(["explain"]).arg(&tree).arg("/dropped"));
        assert!(explained.contains(&format!("adopt={policy}")), "{explained}");
        let asked = succeeds(externfs(["explain", "--adopt", "root"]).arg(&tree).arg("/dropped"));
        assert!(asked.contains("adopt=root"), "{asked}");
    }
    // What cannot be read is not taken for a laxer one, and is told.
    let tree = place.path().join("owner-map");
    fs::write(tree.join("humfs/settings"), "adopt everybody\n").expect("write");
    let (code, said) = check(&tree, &[]);
    assert!(code == 4 && said.contains("adopt everybody") && said.contains("adopt=refuse"), "{said}");
    fails(externfs(["stat"]).arg(&tree).arg("/dropped"), 1, &["/dropped"]);
    assert_eq!(run(externfs(["create", "--size", "1G", "--adopt", "all"]).arg(place.path().join("new"))).status.code(), Some(2));
}

#[test]
fn what_cannot_be_checked_is_none_of_these() {
    let place = Place::new();
    fails(externfs(["check"]).arg(place.path().join("none")), 8, &["does not exist"]);
    fails(externfs(["check"]).arg(place.source()), 8, &["is no humfs tree"]);
    assert_eq!(run(externfs(["check", "--live", "--repair"]).arg(place.source())).status.code(), Some(2));
    let tree = tree(&place, "xattr", &[]);
    fails(externfs(["explain"]).arg(&tree).arg("/none"), 1, &["/none: there is no such file"]);
}

#[test]
fn root_repairs_a_users_tree_as_that_user() {
    if !needs(is_root(), "root") {
        return;
    }
    for format in FORMATS {
        let place = Place::new();
        let tree = tree(&place, format, &["--owner", "65534:65534"]);
        let dropped = tree.join("data/dropped");
        fs::write(&dropped, "").expect("write");
        std::os::unix::fs::chown(&dropped, Some(65_534), Some(65_534)).expect("chown");
        fs::set_permissions(&dropped, PermissionsExt::from_mode(0o600)).expect("chmod");
        let (code, said) = check(&tree, &["--repair", "--adopt", "refuse"]);
        assert!(code == 1 && said.contains("repaired: moved to /lost+found/"), "{format}: {code} {said}");
        let mut ahead = vec![tree.clone()];
        while let Some(path) = ahead.pop() {
            let stat = path.symlink_metadata().expect("stat");
            assert_eq!(stat.uid(), 65_534, "{}", path.display());
            if stat.is_dir() {
                ahead.extend(fs::read_dir(&path).expect("list").map(|entry| entry.expect("entry").path()));
            }
        }
        // What is another user's may be a second name of anything.
        fs::write(tree.join("data/roots"), "").expect("write");
        fs::set_permissions(tree.join("data/roots"), PermissionsExt::from_mode(0o4777)).expect("chmod");
        let (code, said) = check(&tree, &["--repair"]);
        assert!(code == 4 && said.contains("/roots: foreign-owner: "), "{format}: {code} {said}");
        assert_eq!(tree.join("data/roots").symlink_metadata().expect("stat").mode() & 0o7777, 0o4777, "{format}");
    }
}

#[test]
fn a_mounted_tree_is_left_alone_and_a_killed_one_repaired() {
    if !can_mount() {
        return;
    }
    for format in FORMATS {
        let place = Place::new();
        let tree = tree(&place, format, &[]);
        let point = place.point();
        let arguments = ["mount".as_ref(), "-f".as_ref(), "humfs".as_ref(), tree.as_os_str(), point.as_os_str()];
        let mut server = Running::start(&arguments);
        eventually("the mount", || place.is_mounted());
        for number in 0..300 {
            fs::write(point.join(format!("file-{number}")), vec![b'x'; number * 40]).expect("write");
        }
        fs::create_dir(point.join("dir")).expect("mkdir");
        for number in 0..100 {
            fs::rename(point.join(format!("file-{number}")), point.join(format!("dir/file-{number}"))).expect("rename");
            fs::remove_file(point.join(format!("file-{}", number + 100))).expect("unlink");
        }
        fails(externfs(["check"]).arg(&tree), 8, &["in use by a writer", "--live"]);
        fails(externfs(["check", "--repair"]).arg(&tree), 8, &["in use by another writer"]);
        let (_, said) = check(&tree, &["--live"]);
        assert!(said.contains("a writer was at work"), "{format}: {said}");
        server.signal("KILL");
        server.ends();
        succeeds(externfs(["umount", "--lazy"]).arg(&point));
        let (code, said) = check(&tree, &[]);
        assert!(matches!(code, 0 | 4), "{format}: {code}\n{said}");
        // The server has known, in its sandbox too, which boot of the host it was.
        assert!(!said.contains("the host went down"), "{format}: {said}");
        let state = fs::read(tree.join("humfs/state")).expect("state");
        assert_ne!(state[16..32], [0; 16], "{format}");
        let (code, said) = check(&tree, &["--repair"]);
        assert!(matches!(code, 0 | 1), "{format}: what a kill leaves can be repaired: {code}\n{said}");
        let (code, said) = check(&tree, &[]);
        assert!(code == 0 && said.contains(": clean: 202 objects"), "{format}: {code}\n{said}");
    }
}
