//! Help, man pages and completions come from one definition.

mod support;

use support::{Place, externfs, needs, run, succeeds, text};

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
    assert_eq!(succeeds(&mut externfs(["help", "cp-in"])), succeeds(&mut externfs(["cp-in", "--help"])));
    assert!(succeeds(&mut externfs(["help"])).contains("Boot a User Mode Linux guest"));
    let help = succeeds(&mut externfs(["boot", "--help"]));
    assert!(help.contains("126 if") && help.contains("</dev/null"), "{help}");
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
    assert!(!directory.join("externfs-help.1").exists());
    let text = std::fs::read_to_string(directory.join("externfs-create.1")).expect("a page").replace("\\fR", "");
    let synopsis = text.split(".SH ").find(|part| part.starts_with("SYNOPSIS")).expect("a synopsis");
    assert!(synopsis.contains("<SIZE>") && synopsis.contains("<TREE>"), "{synopsis}");
}

#[test]
fn completions_know_the_subcommands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&mut externfs(["completions", shell]));
        assert!(output.status.success() && text(&output.stdout).contains("umount"), "{shell}");
    }
}

/// Bash asks for them by the words before the cursor.
#[test]
fn completions_know_words_of_which_there_is_a_list() {
    if !needs(std::process::Command::new("bash").arg("--version").output().is_ok(), "bash") {
        return;
    }
    let script = format!(
        "{}\n{}",
        succeeds(&mut externfs(["completions", "bash"])),
        r#"
        offer() { COMP_WORDS=("$@" ""); COMP_CWORD=$#; COMPREPLY=(); _externfs externfs "" "${@: -1}"; echo "${COMPREPLY[*]}"; }
        offer externfs mount; offer externfs serve; offer externfs create --metadata; offer externfs query --format; offer externfs check --adopt"#
    );
    let output = run(std::process::Command::new("bash").args(["-c", &script]));
    let offered: Vec<String> = text(&output.stdout).lines().map(str::to_owned).collect();
    assert_eq!(offered.len(), 5, "{offered:?} {}", text(&output.stderr));
    for (line, words) in offered.iter().zip([
        &["hostfs", "humfs", "sqlfs"][..],
        &["hostfs", "humfs", "sqlfs"],
        &["xattr", "sqlite", "shadow_fs", "shadow_link"],
        &["table", "jsonl", "text"],
        &["root", "owner-map", "refuse"],
    ]) {
        assert!(words.iter().all(|word| line.split(' ').any(|offer| offer == *word)), "{words:?} are not in {line}");
    }
}
