//! The `externfs` command, as a library: each subcommand is a module that the
//! programs in `src/bin` call with what [`cli`] has parsed.

pub mod archive;
pub mod boot;
pub mod check;
pub mod cli;
pub mod convert;
pub mod create;
pub mod daemon;
pub mod documents;
pub mod edit;
pub mod export;
mod failure;
pub mod helper;
pub mod hostuser;
pub mod humfsify;
pub mod logging;
pub mod mount;
pub mod offline;
pub mod options;
pub mod plugins;
pub mod probe;
pub mod process;
pub mod progress;
pub mod query;
pub mod resize;
pub mod sandbox;
pub mod serve;
pub mod shown;
pub mod transfer;
pub mod umount;

pub use failure::{Failure, Result};

use cli::Command;
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the command line `arguments`, the program's name first.
///
/// # Errors
/// One line for people.
pub fn run(arguments: &[OsString]) -> Result<u8> {
    if let Some((program, after_name)) = arguments.split_first()
        && helper::is_call(program, after_name)
    {
        logging::start(0);
        return helper::run(after_name).map(|()| 0);
    }
    let asked = cli::parse(arguments);
    logging::start(asked.verbose);
    let done = match asked.command {
        Command::Mount(asked) => run_mount(asked),
        Command::Umount(asked) => umount::run(&asked.point, asked.lazy),
        Command::Serve(asked) => serve::run(&serve::Request {
            options: options::parse(&asked.options)?,
            plugin: asked.plugin,
            source: asked.source,
            sockets: asked.sockets,
            tag: asked.tag,
            mount: asked.mount,
            queues: asked.queues,
            poll: asked.poll,
            sandbox: asked.sandbox,
        }),
        Command::Boot(wanted) => return boot::run(&boot::plan::Plan::new(&wanted, asked.verbose)?).map(|code| code as u8),
        Command::Create(asked) => create::run(&asked),
        Command::Export(asked) => export::run(&asked),
        Command::Resize(asked) => resize::run(&asked),
        Command::Convert(asked) => convert::run(&asked),
        Command::Check(asked) => return check::run(&asked),
        Command::Explain(asked) => check::explain(&asked),
        Command::Query(asked) => return query::run(&asked),
        Command::Ls(asked) => edit::list::run(&asked),
        Command::Stat(asked) => edit::status::run(&asked),
        Command::Chown(asked) => edit::owner::run(&asked),
        Command::Chmod(asked) => edit::mode::run(&asked),
        Command::Mknod(asked) => edit::make::node(&asked),
        Command::Ln(asked) => edit::make::link(&asked),
        Command::CpIn(asked) => edit::copy::inward(&asked),
        Command::CpOut(asked) => edit::copy::outward(&asked),
        Command::Plugins => documents::plugins(),
        Command::Man(asked) => documents::man_pages(&asked.directory),
        Command::Completions(asked) => documents::completions(asked.shell),
        Command::SandboxProbe(asked) => probe::run(&asked),
    };
    done.map(|()| 0)
}

fn run_mount(asked: cli::Mount) -> Result<()> {
    let options = options::parse(&asked.options)?;
    plugins::warn_who_mounts(&asked.plugin, &asked.source, &options);
    plugins::warn_of_tree(&asked.plugin, &asked.source);
    mount::run(&mount::Request {
        options,
        plugin: asked.plugin,
        source: asked.source,
        point: asked.point,
        foreground: asked.foreground,
        log_file: asked.log_file,
        sandbox: asked.sandbox,
    })
}

/// The exit code that `outcome` means, after telling people why.
#[must_use]
pub fn report(outcome: Result<u8>) -> ExitCode {
    report_as("externfs", outcome)
}

/// As [`report`], for the program called `name`.
#[must_use]
pub fn report_as(name: &str, outcome: Result<u8>) -> ExitCode {
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if !failure.line.is_empty() {
                eprintln!("{name}: {failure}");
            }
            ExitCode::from(failure.code)
        }
    }
}
