//! What is said to a user who may not do, or need not do, what root may.

mod support;

use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use support::{PROGRAM, Place, Running, eventually, externfs, is_root, needs, run, succeeds, text};

const NOBODY: u32 = 65_534;

/// A place of that user's, with a copy of the program: the build directory may be
/// closed to others.
struct Nobodys {
    place: Place,
    program: PathBuf,
}

impl Nobodys {
    fn new() -> Option<Nobodys> {
        if !needs(is_root(), "root, to become somebody else") {
            return None;
        }
        let place = Place::new();
        let program = place.path().join("externfs");
        std::fs::copy(PROGRAM, &program).expect("copy");
        std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
        chown(place.path(), Some(NOBODY), Some(NOBODY)).expect("chown");
        Some(Nobodys { place, program })
    }

    /// The program as that user, in the place of whoever runs it.
    fn runs(&self, arguments: &[&str]) -> Command {
        let id = NOBODY.to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]).arg(&self.program).args(arguments);
        command.current_dir(self.place.path()).stdin(Stdio::null());
        command
    }
}

#[test]
fn a_tree_that_may_not_be_read_is_no_other_thing() {
    let Some(nobody) = Nobodys::new() else { return };
    let tree = nobody.place.path().join("tree");
    succeeds(externfs(["create"]).arg(&tree).args(["--size", "1G"]));
    for arguments in [
        &["ls", "tree"][..],
        &["query", "tree", "select 1"],
        &["mount", "sqlfs", "tree", "point"],
        &["serve", "sqlfs", "tree", "--socket", "socket"],
        &["boot", "--share", "sql=sqlfs:tree", "--", "true"],
    ] {
        let output = run(&mut nobody.runs(arguments));
        let said = text(&output.stderr).to_lowercase();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        // Without User Mode Linux nothing is booted.
        let is_missing = arguments[0] == "boot" && said.contains("user-mode-linux");
        let part = if is_missing { "kernel" } else { "permission denied" };
        assert!(said.contains(part) && !said.contains("is no") && !said.contains("hostfs:"), "{arguments:?}: {said}");
    }
    // What is there and is none is still told apart.
    let output = run(&mut nobody.runs(&["query", "point", "select 1"]));
    assert!(text(&output.stderr).contains("is no humfs tree"), "{}", text(&output.stderr));
}

#[test]
fn who_may_query_is_told_to_those_who_mount() {
    const WARNING: &str = "only root may query";
    let Some(nobody) = Nobodys::new() else { return };
    // An empty file is a database.
    let database = nobody.place.path().join("database");
    std::fs::write(&database, "").expect("write");
    std::fs::set_permissions(&database, PermissionsExt::from_mode(0o644)).expect("chmod");
    let said = |arguments: &[&str]| text(&run(&mut nobody.runs(arguments)).stderr);
    assert!(said(&["mount", "sqlfs", "database", "none"]).contains(WARNING));
    assert!(said(&["serve", "sqlfs", "database", "--socket", "socket", "--mount", "none"]).contains(WARNING));
    assert!(!said(&["mount", "sqlfs", "database", "none", "-o", "uid=65534"]).contains(WARNING));
    assert_eq!(said(&["ls", "sqlfs:database"]), "");
    // In a guest, its root asks.
    let socket = nobody.place.path().join("guest");
    let mut serving = nobody.runs(&["serve", "sqlfs", "database", "--socket", "guest"]);
    let mut serving = Running(serving.stderr(Stdio::piped()).spawn().expect("starts"));
    eventually("the socket", || socket.exists());
    serving.signal("TERM");
    assert_eq!(serving.ends(), Some(0));
    let mut rest = String::new();
    serving.0.stderr.take().expect("piped").read_to_string(&mut rest).expect("text");
    assert!(!rest.contains(WARNING), "{rest}");
}
