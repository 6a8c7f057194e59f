//! Man pages and shell completions, from the definition of the command line.

use crate::cli;
use crate::failure::{Failure, Result};
use clap_complete::Shell;
use std::io::Write;
use std::path::Path;

/// Writes `externfs.1`, a page for each subcommand, and `humfsify.1` into
/// `directory`.
///
/// # Errors
/// The directory or a page cannot be written.
pub fn man_pages(directory: &Path) -> Result<()> {
    let failed = |error: std::io::Error| Failure::io(format!("cannot write man pages to {}", directory.display()), &error);
    std::fs::create_dir_all(directory).map_err(failed)?;
    clap_mangen::generate_to(with_synopsis(cli::command()), directory).map_err(failed)?;
    clap_mangen::generate_to(with_synopsis(crate::humfsify::command()), directory).map_err(failed)
}

/// As `--help` writes it: of its own, a page has options there without their values.
fn with_synopsis(command: clap::Command) -> clap::Command {
    // It needs no page.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let written = |mut command: clap::Command| {
        let usage = command.render_usage().to_string();
        command.override_usage(usage.trim_start_matches("Usage: ").to_owned())
    };
    written(command.mut_subcommands(written))
}

/// Prints the completions of `shell`.
///
/// # Errors
/// Standard output is closed.
pub fn completions(shell: Shell) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut cli::command(), "externfs", &mut text);
    std::io::stdout().write_all(&text).map_err(|e| Failure::io("cannot write the completions", &e))
}

/// Prints the plugins and their options.
///
/// # Errors
/// Standard output is closed.
pub fn plugins() -> Result<()> {
    let mut text = String::new();
    for plugin in crate::plugins::registry().iter() {
        text.push_str(&format!("{}: {}\n", plugin.name(), plugin.summary()));
        for (key, help) in plugin.options() {
            text.push_str(&format!("  {key:<29} {help}\n"));
        }
    }
    std::io::stdout().write_all(text.as_bytes()).map_err(|e| Failure::io("cannot write the list", &e))
}
