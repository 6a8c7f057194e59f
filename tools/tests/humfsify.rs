//! The program `humfsify`: what it refuses, and that none of the old one's
//! faults is left. That it makes the same trees is tested where the old one is
//! at hand, that it survives being killed where that is done at each step.

mod support;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use support::{Place, externfs, is_root, needs, run, succeeds, text};

fn humfsify(tree: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "60", env!("CARGO_BIN_EXE_humfsify"), "-C"]).arg(tree).args(arguments);
    command
}

/// Asserts that it fails with one line.
fn refuses(command: &mut Command, code: i32, parts: &[&str]) {
    let output = run(command);
    let line = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{command:?}: {line}");
    for part in parts {
        assert!(line.contains(part), "{command:?}: {part:?} is not in {line:?}");
    }
    if code == 1 {
        assert!(line.starts_with("humfsify: ") && line.lines().count() == 1, "{line:?}");
    }
}

/// A tree to convert, and what the host says of everything in it.
fn tree(place: &Place) -> std::path::PathBuf {
    let tree = place.path().join("tree");
    std::fs::create_dir(&tree).expect("mkdir");
    let script = "
        umask 022; mkdir -p data/dev data/metadata 'data/a b'; cd data
        touch '; touch broken' '$(touch broken)' \"new
line\" 'a b/f'; printf s > su; chown 0:42 su; chmod 4755 su; chmod 1777 'a b'
        mknod dev/null c 1 3; mknod dev/big b 300 70000; mkfifo dev/p; chmod 700 dev";
    assert!(Command::new("sh").args(["-euc", script]).current_dir(&tree).status().expect("sh").success());
    tree
}

fn view(tree: &Path) -> String {
    let show = "find data -printf '%p %y %m %U:%G %n %l %T@ %s\\n' | sort; stat -c '%n %t %T' data/dev/*";
    succeeds(Command::new("sh").args(["-euc", show]).current_dir(tree))
}

#[test]
fn there_and_back() {
    if !needs(is_root(), "root, to give files away") {
        return;
    }
    let place = Place::new();
    let tree = tree(&place);
    let (before, mode) = (view(&tree), tree.metadata().expect("stat").mode());
    for size in ["5G", "5368709120"] {
        succeeds(&mut humfsify(&tree, &["nobody", "65534", size]));
        let superblock = std::fs::read_to_string(tree.join("superblock")).expect("read");
        let lines: Vec<&str> = superblock.lines().collect();
        assert!(
            matches!(lines.as_slice(), ["version 2", "metadata shadow_fs", used, "total 5368709120"] if used.starts_with("used ")),
            "{superblock}"
        );
        for (record, line) in [
            ("file_metadata/su", "2541 0 42\n"),
            ("file_metadata/dev/null", "420 0 0 c 1 3\n"),
            ("file_metadata/dev/big", "420 0 0 b 300 70000\n"),
            ("file_metadata/dev/p", "420 0 0 p 0 0\n"),
            ("dir_metadata/a b/metadata", "1023 0 0\n"),
            ("dir_metadata/dev/metadata", "448 0 0\n"),
            ("dir_metadata/metadata.1", "493 0 0\n"),
            ("dir_metadata/metadata/metadata", "493 0 0\n"),
        ] {
            assert_eq!(std::fs::read_to_string(tree.join(record)).expect(record), line, "{record}");
        }
        // Nothing of the guest's is left on the host.
        for line in view(&tree).lines().filter(|line| line.contains(":65534 ")) {
            assert!(
                !line.contains(" c 6") && !line.contains(" b 6") && !line.contains(" 4755 ") && line.contains(" 65534:65534 "),
                "{line}"
            );
        }
        assert!(!tree.join("broken").exists() && !tree.join("data/broken").exists(), "a name has reached a shell");
        let listed = succeeds(externfs(["ls", "-ln"]).arg(&tree).args(["/su", "/dev"]));
        assert!(listed.contains("-rwsr-xr-x 1 0 42") && listed.contains("300, 70000"), "{listed}");
        refuses(&mut humfsify(&tree, &["nobody", "65534", size]), 1, &["already", "humfsify -r"]);
        succeeds(&mut humfsify(&tree, &["-r"]));
        assert_eq!(view(&tree), before);
        assert_eq!(std::fs::read_dir(&tree).expect("readdir").count(), 1, "only data/ is left");
        assert_eq!(tree.metadata().expect("stat").mode(), mode);
    }
}

#[test]
fn what_it_refuses() {
    if !needs(is_root(), "root, to give files away") {
        return;
    }
    let place = Place::new();
    let tree = tree(&place);
    let before = view(&tree);
    for (arguments, code, parts) in [
        (&[][..], 2, &["USER"][..]),
        (&["nobody", "nogroup"], 2, &["SIZE"]),
        (&["nobody", "nogroup", "1X"], 2, &["1X", "20G"]),
        (&["-r", "nobody"], 2, &["-r"]),
        (&["no such user", "0", "1G"], 1, &["'no such user'"]),
        (&["0", "no such group", "1G"], 1, &["'no such group'"]),
        (&["0", "0", "4K"], 1, &["takes", "larger"]),
        (&["-r"], 1, &["no superblock"]),
    ] {
        refuses(&mut humfsify(&tree, arguments), code, parts);
        assert_eq!(view(&tree), before, "{arguments:?}");
    }
    assert_eq!(std::fs::read_dir(&tree).expect("readdir").count(), 1, "nothing was made");
    refuses(&mut humfsify(&place.source(), &["0", "0", "1G"]), 1, &["no directory 'data'"]);
    refuses(&mut humfsify(Path::new("/no/such/tree"), &["0", "0", "1G"]), 1, &["/no/such/tree"]);
    // What the old one left that died in the middle.
    std::fs::create_dir(tree.join("file_metadata")).expect("mkdir");
    std::fs::write(tree.join("superblock"), "").expect("write");
    refuses(&mut humfsify(&tree, &["0", "0", "1G"]), 1, &["file_metadata", "cut short"]);
    assert_eq!(view(&tree), before);
}

#[test]
fn an_ordinary_user_converts_what_is_their_own() {
    if !needs(is_root(), "root, to become somebody else") {
        return;
    }
    let place = Place::new();
    let program = place.path().join("humfsify");
    std::fs::copy(env!("CARGO_BIN_EXE_humfsify"), &program).expect("copy");
    let script = "chmod 755 .; mkdir -p t/data/d; echo x > t/data/d/f; chown -R 65534:65534 t; chmod 4711 t/data/d/f";
    assert!(Command::new("sh").args(["-euc", script]).current_dir(place.path()).status().expect("sh").success());
    let go = |words: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(&program)
            .arg("-C")
            .arg(place.path().join("t"))
            .args(words);
        command
    };
    succeeds(&mut go(&["65534", "65534", "1G"]));
    assert_eq!(std::fs::read_to_string(place.path().join("t/file_metadata/d/f")).expect("read"), "2505 65534 65534\n");
    succeeds(&mut go(&["-r"]));
    refuses(&mut go(&["0", "0", "1G"]), 1, &["takes root"]);
}
