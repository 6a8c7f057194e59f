//! Help, man pages and completions come from one definition.

mod support;

use support::{Place, externfs, run, succeeds, text};

#[test]
fn help_lists_every_option_with_examples() {
    let help = succeeds(&mut externfs(["mount", "--help"]));
    for part in ["allow_other", "threads=N", "passthrough=", "squash=UID:GID", "Examples:", "externfs mount hostfs", "/etc/fstab"] {
        assert!(help.contains(part), "{part}");
    }
    for command in [
        "umount", "serve", "boot", "create", "export", "resize", "convert", "ls", "stat", "chown", "chmod", "mknod", "ln", "cp-in",
        "cp-out",
    ] {
        assert!(succeeds(&mut externfs([command, "--help"])).contains("Examples:"), "{command}");
    }
    assert!(succeeds(&mut externfs(["plugins"])).contains("hostfs: "));
}

#[test]
fn wrong_usage_is_code_2() {
    for arguments in [&["mount"][..], &["nonsense"], &["boot", "--mem", "lots"], &["serve", "hostfs", "/tmp"], &[]] {
        assert_eq!(run(&mut externfs(arguments)).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn every_subcommand_has_a_page() {
    let place = Place::new();
    let directory = place.path().join("man");
    succeeds(externfs(["man"]).arg(&directory));
    for page in [
        "externfs",
        "externfs-mount",
        "externfs-umount",
        "externfs-serve",
        "externfs-boot",
        "externfs-create",
        "externfs-cp-in",
        "humfsify",
    ] {
        let text = std::fs::read_to_string(directory.join(format!("{page}.1"))).expect(page);
        assert!(text.contains(".TH"), "{page}");
    }
}

#[test]
fn completions_know_the_subcommands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&mut externfs(["completions", shell]));
        assert!(output.status.success() && text(&output.stdout).contains("umount"), "{shell}");
    }
}
