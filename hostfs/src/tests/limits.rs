//! The budget of descriptors, and what happens at its end.

use crate::testing::*;
use externfs::*;
use std::process::Command;

/// Set for the child process of [`a_small_budget_serves_a_large_tree`].
const CHILD: &str = "HOSTFS_TEST_SMALL_BUDGET";

#[test]
fn a_small_budget_serves_a_large_tree() {
    let exe = std::env::current_exe().unwrap();
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 64 && exec \"$0\" --exact tests::limits::under_64_descriptors --nocapture"])
        .arg(exe)
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("served 900 names"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

/// Runs in a process of its own, since a limit holds for all threads.
#[test]
fn under_64_descriptors() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let export = Tree::new("");
    let mut nodes = Vec::new();
    for number in 0..300 {
        let text = format!("d{number}");
        let made = export.fs.make(&Caller::root(), &export.root(), name(&text), &NewNode::Directory, Mode::new(0o755));
        let node = made.unwrap().0;
        for file in ["one", "two"] {
            let made = export.fs.make(&Caller::root(), &node, name(file), &NewNode::Regular, Mode::new(0o644));
            nodes.push(made.unwrap().0);
        }
        nodes.push(node);
    }
    for node in &nodes {
        export.fs.attr(node, None).unwrap();
    }
    // Removed but remembered: the oldest pins give way.
    for (number, node) in nodes.iter().step_by(3).enumerate().take(40) {
        let parent = node.parent().unwrap();
        export.fs.remove(&Caller::root(), &parent, Child { name: name("one"), node: Some(node) }, false).unwrap();
        assert!(export.fs.attr(node, None).is_ok(), "{number}");
    }
    assert_eq!(export.fs.pins.count(), 8);
    assert_eq!(errno(export.fs.attr(&nodes[0], None)), Errno::ESTALE, "its pin went");
    // All that is left goes to open files, and listing still works then.
    let mut open = Vec::new();
    let refused = loop {
        match export.fs.open(&Caller::root(), &nodes[1], READ_WRITE) {
            Ok(opened) => open.push(opened.file),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.errno(), Errno::EMFILE);
    assert!(refused.reason().is_some(), "the operator hears of it");
    assert!(open.len() > 30, "the caches gave theirs: {}", open.len());
    assert!(export.fs.lookup(&export.root(), name("d7")).is_ok(), "looking up takes none");
    open.truncate(20);
    for node in &nodes[200..] {
        export.fs.attr(node, None).unwrap();
    }
    println!("served {} names", nodes.len());
}

#[test]
fn no_descriptor_is_left_to_child_processes() {
    let export = Tree::new("locks=host,watch");
    export.fs.watch(std::sync::Arc::new(|_| ())).unwrap();
    std::fs::create_dir(export.host("d")).unwrap();
    let (dir, root) = (export.node("d"), Caller::root());
    let created = export.create(&root, "f", 0o600).unwrap();
    let lock = Lock { family: LockFamily::Flock, kind: LockKind::Read, owner: 1, start: 0, end: u64::MAX, pid: 0 };
    export.fs.set_lock(&created.opened.file, &lock, None).unwrap();
    let _listing = export.fs.open_dir(&dir).unwrap();
    let _again = export.open(&created.node);
    export.remove("f", Some(&created.node)).unwrap();
    export.remove("d", Some(&dir)).unwrap();
    let flags = CreateFlags { mode: Mode::new(0o600), exclusive: false, open: READ_WRITE };
    let _nameless = export.fs.create_unnamed(&root, &export.root(), flags).unwrap();
    let mut seen = 0;
    for link in std::fs::read_dir("/proc/self/fd").unwrap() {
        let path = link.unwrap().path();
        let is_ours = std::fs::read_link(&path).is_ok_and(|target| target.starts_with(export.host("").components().as_path()));
        if !is_ours {
            continue;
        }
        let number = path.file_name().unwrap().to_str().unwrap();
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        let flags = i32::from_str_radix(flags, 8).unwrap();
        assert!(flags & libc::O_CLOEXEC != 0, "{number} is {:?}", std::fs::read_link(&path));
        seen += 1;
    }
    assert!(seen >= 8, "{seen}");
}
