//! The command line: one definition for parsing, `--help`, the man pages and
//! the shell completions.

mod check;
mod known;
mod query;
mod trees;

pub use check::{Check, Explain};
pub use query::Query;
pub(crate) use query::parse_format as parse_answer_format;
pub use trees::{Chmod, Chown, Convert, CpIn, CpOut, Create, Export, Ln, Ls, Mknod, Resize, Stat, parse_size};

use crate::mount::GENERAL_OPTIONS;
use crate::plugins;
use crate::sandbox::Mode;
use crate::serve::parse_poll;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueHint};
use clap_complete::Shell;
use externfs_virtio::Poll;
use std::ffi::OsString;
use std::path::PathBuf;

/// Host data as a file system: for Linux guests over virtio-fs, for the host over FUSE
#[derive(Parser, Clone, Debug)]
#[command(name = "externfs", version, propagate_version = true)]
pub struct Cli {
    /// Say more: notices, decisions (-vv), each request (-vvv); RUST_LOG says which
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,

    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Mount on a directory of the host
    Mount(Mount),
    /// Unmount what 'externfs mount' mounted
    Umount(Umount),
    /// Serve guests over virtio-fs, on vhost-user sockets
    Serve(Serve),
    /// Boot a User Mode Linux guest, run a command in it, and clean up
    Boot(Boot),
    /// Make a humfs tree, empty or from a directory or tar archive; no root needed
    Create(Create),
    /// Write a tree into a tar archive, without loss
    Export(Export),
    /// Change how much a tree may hold
    Resize(Resize),
    /// Move the records of a tree into another format
    Convert(Convert),
    /// Look for what is not as it should be in a tree, and repair it
    Check(Check),
    /// Tell where each attribute of files in a tree comes from
    Explain(Explain),
    /// Ask a tree, or any directory, in SQL: what is setuid, who fills the disk
    Query(Query),
    /// List what is in a tree, without mounting it
    Ls(Ls),
    /// Show all about files in a tree
    Stat(Stat),
    /// Change the owner of files in a tree
    Chown(Chown),
    /// Change the mode of files in a tree
    Chmod(Chmod),
    /// Make a device node, FIFO or socket in a tree
    Mknod(Mknod),
    /// Make a link in a tree
    Ln(Ln),
    /// Copy files of the host into a tree
    CpIn(CpIn),
    /// Copy files out of a tree
    CpOut(CpOut),
    /// List the plugins and their options
    Plugins,
    /// Write the man pages into a directory
    Man(Man),
    /// Print a shell's completions
    Completions(Completions),
    /// Enter the sandbox of a server and report what it refuses
    #[command(hide = true)]
    SandboxProbe(SandboxProbe),
}

/// Arguments of `mount`.
#[derive(Args, Clone, Debug)]
pub struct Mount {
    /// How SRC is understood: see 'externfs plugins'
    #[arg(value_name = "PLUGIN", value_parser = known::PLUGINS)]
    pub plugin: String,
    /// What to show: for hostfs, a directory
    #[arg(value_name = "SRC", value_hint = ValueHint::AnyPath)]
    pub source: PathBuf,
    /// The directory to mount on
    #[arg(value_name = "MNT", value_hint = ValueHint::DirPath)]
    pub point: PathBuf,
    /// Options, separated by commas; listed below
    #[arg(short = 'o', long = "options", value_name = "OPT[,OPT=VALUE...]", action = ArgAction::Append)]
    pub options: Vec<String>,
    /// Stay in the foreground; unmount on Ctrl-C
    #[arg(short, long)]
    pub foreground: bool,
    /// Where a server in the background logs to, instead of the system's log
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub log_file: Option<PathBuf>,
    /// What the server gives up before it serves
    #[arg(long, value_enum, default_value_t, value_name = "MODE")]
    pub sandbox: Mode,
}

/// Arguments of `umount`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  externfs umount /mnt/data\n  externfs umount --lazy /mnt/data")]
pub struct Umount {
    /// The mount point
    #[arg(value_name = "MNT", value_hint = ValueHint::DirPath)]
    pub point: PathBuf,
    /// Take it out of sight now, though it is in use; it goes when its last user does
    #[arg(short, long)]
    pub lazy: bool,
}

/// Arguments of `serve`.
#[derive(Args, Clone, Debug)]
pub struct Serve {
    /// How SRC is understood: see 'externfs plugins'
    #[arg(value_name = "PLUGIN", value_parser = known::PLUGINS)]
    pub plugin: String,
    /// What to serve: for hostfs, a directory
    #[arg(value_name = "SRC", value_hint = ValueHint::AnyPath)]
    pub source: PathBuf,
    /// The socket for a guest; once for each guest that runs at the same time. With
    /// more than one, or with --mount, guests remember nothing (unless cache=always)
    #[arg(long = "socket", value_name = "PATH", required = true, action = ArgAction::Append, value_hint = ValueHint::FilePath)]
    pub sockets: Vec<PathBuf>,
    /// What guests mount by
    #[arg(long, value_name = "TAG", default_value = "externfs")]
    pub tag: String,
    /// Options, separated by commas; listed below
    #[arg(short = 'o', long = "options", value_name = "OPT[,OPT=VALUE...]", action = ArgAction::Append)]
    pub options: Vec<String>,
    /// Mount the same export on the host too, coherent with the guests
    #[arg(long, value_name = "MNT", value_hint = ValueHint::DirPath)]
    pub mount: Option<PathBuf>,
    /// Request queues (UML; QEMU has num-request-queues=)
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub queues: u32,
    /// Watch a queue actively after a request: adaptive, off, or up to so many microseconds
    #[arg(long, value_name = "adaptive|off|US", default_value = "adaptive", value_parser = parse_poll)]
    pub poll: Poll,
    /// What the server gives up before it serves
    #[arg(long, value_enum, default_value_t, value_name = "MODE")]
    pub sandbox: Mode,
}

/// Arguments of `boot`.
#[derive(Args, Clone, Debug)]
#[command(after_help = BOOT_HELP)]
pub struct Boot {
    /// The command to run, as guest root; a shell if there is none
    #[arg(value_name = "CMD", trailing_var_arg = true, allow_hyphen_values = true, value_hint = ValueHint::CommandWithArguments)]
    pub command: Vec<OsString>,
    /// Mount SRC on /mnt/TAG in the guest; SRC may be PLUGIN:SRC
    #[arg(long = "share", value_name = "TAG=SRC[,OPT...]", action = ArgAction::Append)]
    pub shares: Vec<String>,
    /// The guest's root, writable [default: the host's own, read-only]
    #[arg(long, value_name = "DIR[,OPT...]", value_hint = ValueHint::DirPath)]
    pub root: Option<String>,
    /// The User Mode Linux kernel
    #[arg(long, value_name = "FILE", default_value = "linux.uml", value_hint = ValueHint::FilePath)]
    pub kernel: PathBuf,
    /// Its modules [default: /usr/lib/uml/modules/VERSION]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub modules: Option<PathBuf>,
    /// The guest's memory
    #[arg(long = "mem", value_name = "SIZE", default_value = "512M", value_parser = parse_memory)]
    pub memory: String,
    /// A variable for the command; without a value, the host's
    #[arg(short, long = "env", value_name = "NAME[=VALUE]", action = ArgAction::Append)]
    pub environment: Vec<OsString>,
    /// What the servers of the shares give up
    #[arg(long, value_enum, default_value_t, value_name = "MODE")]
    pub sandbox: Mode,
}

const BOOT_HELP: &str = "\
The exit status is the command's; 128+N if signal N ended it, 126 if it cannot be run, 127 if it was not found, 1 if the guest did not boot. The \
guest reads all of standard input, as ssh does: in a loop that reads from it write </dev/null. Without --root, /tmp, /run \
and /mnt are empty and writable, and everything that the server's user can read on the host can be read in the guest.

Examples:
  externfs boot -- uname -a
  externfs boot --share src=$HOME/src --share docs=/usr/share/doc,ro -- ls /mnt/src /mnt/docs
  externfs boot --root /srv/debian --mem 1G -- apt-get install hello
  tar c . | externfs boot -- tar t | sort";

/// Arguments of `man`.
#[derive(Args, Clone, Debug)]
pub struct Man {
    /// The directory, made if need be
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub directory: PathBuf,
}

/// Arguments of `completions`.
#[derive(Args, Clone, Debug)]
pub struct Completions {
    /// The shell
    pub shell: Shell,
}

/// Arguments of `sandbox-probe`.
#[derive(Args, Clone, Debug)]
pub struct SandboxProbe {
    /// The tree that a server would export
    pub source: PathBuf,
    /// A file to read, as the server
    pub path: PathBuf,
    /// The tree is only read
    #[arg(long)]
    pub read_only: bool,
    /// As for 'mount'
    #[arg(long, value_enum, default_value_t)]
    pub sandbox: Mode,
}

/// A guest needs some 50 MiB before it runs anything.
const MEMORY_MIN_KIB: u64 = 64 << 10;

fn parse_memory(text: &str) -> Result<String, String> {
    match crate::boot::memory::kib(text) {
        None => Err("a number with K, M or G, as in 512M".into()),
        Some(..MEMORY_MIN_KIB) => Err("a guest needs at least 64M".into()),
        Some(_) => Ok(text.to_owned()),
    }
}

/// The whole command with what depends on the plugins in its help.
#[must_use]
pub fn command() -> clap::Command {
    let mount_examples = "\
Examples:
  externfs mount hostfs /srv/data /mnt/data
  externfs mount hostfs /srv/data /mnt/data -o ro,allow_other
  externfs mount hostfs . /tmp/view -f -o cache=none,squash=1000:1000
In /etc/fstab, with mount.externfs installed as /sbin/mount.fuse.externfs:
  hostfs:/srv/data  /mnt/data  fuse.externfs  ro,allow_other,nofail  0  0";
    let serve_examples = "\
Examples:
  externfs serve hostfs /srv/data --socket /run/data.sock --tag data
  externfs serve hostfs /srv/data --socket a.sock --socket b.sock --mount /mnt/data
The last serves two guests and the host from one process: each sees at once what another writes.";
    let (mount, serve) = (format!("{}\n{mount_examples}", options_help(true)), format!("{}\n{serve_examples}", options_help(false)));
    Cli::command().mut_subcommand("mount", |sub| sub.after_help(mount)).mut_subcommand("serve", |sub| sub.after_help(serve))
}

/// Every option of `-o`, by who understands it.
fn options_help(mount: bool) -> String {
    let mut text = String::new();
    let mut section = |title: &str, options: &mut dyn Iterator<Item = &(&str, &str)>| {
        text.push_str(title);
        text.push('\n');
        for (key, help) in options {
            text.push_str(&format!("  {key:<29} {help}\n"));
        }
    };
    let title = if mount { "Options of the mount:" } else { "Options of the mount (with --mount):" };
    let all = [externfs_fuse::MOUNT_OPTIONS, externfs_fuse::SERVE_OPTIONS, GENERAL_OPTIONS];
    section(title, &mut all.into_iter().flatten());
    for plugin in plugins::registry().iter() {
        section(&format!("Options of {}:", plugin.name()), &mut plugin.options().iter());
    }
    text
}

/// Parses `arguments`, the program's name first. Ends the process with a
/// message and code 2 when they are wrong.
#[must_use]
pub fn parse(arguments: &[OsString]) -> Cli {
    let matches = command().get_matches_from(arguments);
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn the_help_of_mount_lists_every_option() {
        let help = command().find_subcommand_mut("mount").expect("mount").render_help().to_string();
        for word in ["allow_other", "threads=N", "passthrough=", "fsname=", "squash=", "cache=", "externfs mount hostfs"] {
            assert!(help.contains(word), "{word}");
        }
    }

    #[test]
    fn memory_is_a_number_with_a_unit() {
        for good in ["512M", "64m", "2G", "300000K"] {
            assert!(parse_memory(good).is_ok(), "{good}");
        }
        for bad in ["", "M", "512", "0M", "-1M", "1.5G", "512MB", "x", "63M", "512Mé"] {
            assert!(parse_memory(bad).is_err(), "{bad}");
        }
    }
}
