//! What the documents tell people to type is what the program understands:
//! each command line of README.md and of the helps is parsed; those that can
//! run here are run.

use externfs_tests::fixture;
use externfs_tests::harness::{self, skip};
use std::ffi::OsString;
use std::process::Command;

fn main() -> std::process::ExitCode {
    harness::main(externfs_tests::cases![
        the_commands_of_the_readme_parse,
        the_examples_of_the_helps_parse,
        the_options_of_the_readme_are_the_plugins,
        the_readme_names_what_there_is,
        the_scripts_are_sound,
    ])
}

fn read(name: &str) -> String {
    std::fs::read_to_string(fixture::workspace().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The command lines of a text that begin with `externfs`, without comments.
fn commands(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim).filter(|line| line.starts_with("externfs ") || line.contains("| externfs "));
    lines.map(|line| line.rsplit("| externfs ").next().unwrap_or(line).split("  #").next().unwrap_or(line)).map(str::to_owned).collect()
}

/// As a shell splits it; the shell itself does it.
fn words(line: &str) -> Vec<OsString> {
    let line = line.strip_prefix("externfs ").unwrap_or(line);
    let said = fixture::succeed(Command::new("sh").args(["-c", &format!("printf '%s\\n' externfs {line}")]));
    said.lines().map(OsString::from).collect()
}

fn check(line: &str) {
    // A pipe in the example ends the command; so does "in quotes".
    let line = line.split(" | ").next().unwrap_or(line);
    let parsed = externfs_tools::cli::command().try_get_matches_from(words(line));
    if let Err(error) = parsed {
        panic!("{line:?} is not understood: {error}");
    }
}

fn the_commands_of_the_readme_parse() {
    let readme = read("README.md");
    let fenced: Vec<&str> = readme.split("```").skip(1).step_by(2).filter(|block| block.starts_with("sh")).collect();
    let found = commands(&fenced.join("\n"));
    assert!(found.len() >= 7, "where have the examples gone? {found:?}");
    found.iter().for_each(|line| check(line));
}

fn the_examples_of_the_helps_parse() {
    let mut command = externfs_tools::cli::command();
    let mut count = 0;
    for sub in command.get_subcommands_mut() {
        for line in commands(&sub.render_long_help().to_string()) {
            // Usage lines are no examples.
            if !line.contains('[') && !line.contains('<') {
                check(&line);
                count += 1;
            }
        }
    }
    assert!(count >= 8, "only {count} examples in the helps");
}

/// What README lists in backticks under "Options of hostfs".
fn the_options_of_the_readme_are_the_plugins() {
    let readme = read("README.md");
    let Some((_, part)) = readme.split_once("### Options of hostfs") else { panic!("README.md has no options of hostfs") };
    let part = part.split("###").next().unwrap_or_default();
    let named: Vec<&str> = part.split('`').skip(1).step_by(2).map(|option| option.split('=').next().unwrap_or(option)).collect();
    let plugins = externfs_tools::plugins::registry();
    let known = plugins.get("hostfs").expect("hostfs").options();
    let known: Vec<&str> = known.iter().map(|(key, _)| key.split('=').next().unwrap_or(key)).collect();
    assert!(named.len() > 8, "{named:?}");
    for option in named {
        assert!(known.contains(&option), "README.md names the option {option}; hostfs has {known:?}");
    }
}

fn the_readme_names_what_there_is() {
    let readme = read("README.md");
    assert!(readme.contains("./try") && readme.contains("./test"), "README.md names both commands");
    for link in readme.split("](").skip(1).filter_map(|rest| rest.split(')').next()).filter(|link| !link.contains("://")) {
        assert!(fixture::workspace().join(link).exists(), "README.md links to {link}, which is not there");
    }
    assert!(read(".ci/run").contains("/test"), ".ci/run runs ./test");
}

fn the_scripts_are_sound() {
    let scripts = ["test", "try", ".ci/run", "tests/scripts/common.sh", "tests/guest/fetch-kernel"];
    for script in scripts {
        let path = fixture::workspace().join(script);
        let shell = if read(script).starts_with("#!/bin/sh") { "sh" } else { "bash" };
        fixture::succeed(Command::new(shell).arg("-n").arg(path));
    }
    let refused = fixture::output(Command::new(fixture::workspace().join("test")).arg("no-such-stage"));
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("no-such-stage") && said.contains("suites"), "{said}");
    if !fixture::output(Command::new("sh").args(["-c", "command -v shellcheck"])).status.success() {
        skip("the scripts parse; shellcheck is not installed: apt-get install shellcheck");
    }
    for script in scripts {
        fixture::succeed(Command::new("shellcheck").args(["-S", "warning", "-e", "SC1090,SC1091"]).arg(fixture::workspace().join(script)));
    }
}
