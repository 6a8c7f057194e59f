//! What a server's sandbox refuses, seen from inside.

mod support;

use std::fs;
use support::{Place, externfs, run, text};

/// What `sandbox-probe` says of each attempt; None where this kernel lacks a
/// piece and the sandbox said so.
fn probe(place: &Place, arguments: &[&str], path: &std::path::Path) -> Option<String> {
    let output = run(externfs(["sandbox-probe"]).args(arguments).arg(place.source()).arg(path));
    let errors = text(&output.stderr);
    if errors.contains("sandbox=require") {
        eprintln!("SKIPPED: {errors}");
        return None;
    }
    assert!(output.status.success(), "{errors}");
    Some(text(&output.stdout))
}

#[test]
fn nothing_outside_the_tree_can_be_opened() {
    let place = Place::new();
    let secret = place.path().join("secret");
    fs::write(&secret, "outside").expect("write");
    let Some(said) = probe(&place, &["--sandbox", "require"], &secret) else { return };
    assert!(said.contains("read: permission denied"), "{said}");
    assert!(said.contains("create: allowed"), "{said}");
    // The same file, without the sandbox: it was the sandbox that refused.
    let said = probe(&place, &["--sandbox", "none"], &secret).expect("no sandbox");
    assert!(said.contains("read: allowed"), "{said}");
}

#[test]
fn a_tree_that_is_only_read_cannot_be_written() {
    let place = Place::new();
    let Some(said) = probe(&place, &["--sandbox", "require", "--read-only"], &place.source().join("hello")) else { return };
    assert!(said.contains("read: allowed"), "{said}");
    assert!(said.contains("create: permission denied"), "{said}");
}

#[test]
fn no_program_can_be_run_and_nobody_called() {
    let place = Place::new();
    let Some(said) = probe(&place, &["--sandbox", "require"], &place.source().join("hello")) else { return };
    for attempt in ["connect", "listen", "execute"] {
        assert!(said.contains(&format!("{attempt}: operation not permitted")), "{said}");
    }
    assert!(said.contains("thread: allowed"), "{said}");
    let said = probe(&place, &["--sandbox", "none"], &place.source().join("hello")).expect("no sandbox");
    assert!(said.contains("execute: allowed") && said.contains("listen: allowed"), "{said}");
}
