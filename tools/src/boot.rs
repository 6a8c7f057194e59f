//! `externfs boot`: a guest for one command.
//!
//! ```text
//! externfs boot ─┬─ watchdog        cleans up should the rest be killed
//!                ├─ control server  orders, input, output (sandboxed, no files)
//!                ├─ share servers   one for each share and the root (sandboxed)
//!                └─ UML, in a process group of its own
//!                     └─ /init = this executable: mounts, runs the command
//! ```
//! The process that was called opens the shares and binds the sockets, so that
//! a mistake is told before anything runs, and then only waits.

pub mod control;
pub mod elf;
pub mod frames;
pub mod guest;
pub mod initramfs;
pub(crate) mod memory;
pub mod orders;
pub mod plan;
mod streams;
mod terminal;
pub mod uml;
mod vigil;
mod watchdog;
pub mod xstate;

use crate::failure::{Failure, Result};
use crate::sandbox::{self, Needs};
use crate::{mount, process, serve};
use control::{ControlFs, HostEnds, INPUT_TAG, OUTPUT_TAG};
use externfs::{Bridge, BridgeOptions, Connect};
use externfs_virtio::{Options, Server, Stop};
use initramfs::Initramfs;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use plan::Plan;
use std::fs::File;
use std::io::{PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use vigil::{Outcome, Vigil};
use watchdog::Watchdog;
use xstate::Preload;

/// Boots the guest that `plan` describes and returns the command's exit code.
///
/// # Errors
/// One line: what kept the command from running, or the guest from reporting.
pub fn run(plan: &Plan) -> Result<i32> {
    memory::check(&plan.memory)?;
    let kernel = uml::find(&plan.kernel, plan.modules.as_deref())?;
    let shares = plan.open_shares()?;
    let directory = temporary_directory()?;
    let image = directory.path().join("initramfs");
    process::raise_file_limit();
    let signals = process::catch_signals(&vigil::SIGNALS)?;
    let _ = nix::sys::prctl::set_child_subreaper(true);
    let saved = terminal::Saved::of_input();
    let watchdog = Watchdog::start(directory.path(), saved.as_ref())?;
    std::fs::write(&image, build_initramfs(&kernel.modules)?).map_err(|e| Failure::io("cannot write the initramfs", &e))?;

    let mut servers = Servers::default();
    for (number, share) in shares.iter().enumerate() {
        let socket = directory.path().join(format!("{number}"));
        let server = Server::bind(&socket, Options::new(&share.tag), Arc::clone(&share.connect))?;
        servers.start(format!("share {}", share.tag), vec![(server, socket)], Some(&*share.connect), || {
            mount::enter_sandbox(plan.sandbox, &share.sorted, &share.grounds, false)
        })?;
    }
    let (reports, commands) = start_control(plan, directory.path(), &mut servers)?;

    let (log, log_writer) = pipe()?;
    let log_copy = log_writer.try_clone().map_err(|e| Failure::io("cannot duplicate a pipe", &e))?;
    let machine = uml::Machine {
        image: &kernel.image,
        memory: &plan.memory,
        initramfs: &image,
        directory: directory.path(),
        sockets: &servers.sockets,
    };
    let mut command = uml::command(&machine, Stdio::from(log_writer), Stdio::from(log_copy));
    watchdog.guard(&mut command)?;
    let library = Preload::into(&mut command);
    let started = command.spawn();
    // It holds the ends of pipes that are the guest's now.
    drop((command, library));
    let guest = match started {
        Ok(child) => Pid::from_raw(child.id() as i32),
        Err(error) => {
            servers.stop();
            watchdog.dismiss();
            return Err(Failure::io(format!("cannot start {}", kernel.image.display()), &error));
        }
    };
    let vigil =
        Vigil { guest, servers: &servers.running, signals, log, reports, commands, terminal: saved.as_ref(), verbose: plan.verbose };
    let outcome = vigil.keep();
    servers.stop();
    // Its contents first: a watchdog that is dismissed removes nothing.
    drop(directory);
    watchdog.dismiss();
    conclude(outcome)
}

fn conclude(outcome: Outcome) -> Result<i32> {
    match outcome {
        Outcome::Ended(code) => Ok(code),
        Outcome::Failed(reason) => Err(Failure::new(format!("the guest gave up: {reason}"))),
        Outcome::Interrupted(signal) => Ok(128 + signal as i32),
        Outcome::ServerLost(name) => Err(Failure::new(format!("the server of {name} ended, so the guest was ended too"))),
        Outcome::Silent(log) => {
            for line in &log {
                eprintln!("  guest: {line}");
            }
            Err(Failure::new("the guest ended without a word: its last lines are above, -v shows all of them"))
        }
    }
}

fn pipe() -> Result<(PipeReader, PipeWriter)> {
    std::io::pipe().map_err(|e| Failure::io("cannot make a pipe", &e))
}

/// A private directory with a path so short that sockets fit below it.
fn temporary_directory() -> Result<tempfile::TempDir> {
    const LONGEST: usize = 60;
    let preferred = [std::env::var_os("XDG_RUNTIME_DIR"), std::env::var_os("TMPDIR")];
    let candidates = preferred.into_iter().flatten().map(PathBuf::from).chain(["/tmp".into(), "/var/tmp".into()]);
    let mut last = None;
    for base in candidates.filter(|base| base.is_absolute() && base.as_os_str().len() <= LONGEST) {
        match tempfile::Builder::new().prefix("externfs-").tempdir_in(&base) {
            Ok(directory) => return Ok(directory),
            Err(error) => last = Some(Failure::io(format!("cannot make a directory in {}", base.display()), &error)),
        }
    }
    Err(last.unwrap_or_else(|| Failure::new("there is no directory for temporary files")))
}

fn build_initramfs(modules: &[(String, Vec<u8>)]) -> Result<Vec<u8>> {
    let (program, libraries) = elf::this_program()?;
    let mut archive = Initramfs::new();
    for directory in ["/proc", "/sys", "/dev", guest::CONTROL_IN, guest::CONTROL_OUT, guest::NEW_ROOT] {
        archive.directory(directory);
    }
    // The kernel opens it before anything is mounted.
    archive.character_device("/dev/console", 5, 1);
    for (number, (name, contents)) in modules.iter().enumerate() {
        archive.file(Path::new(guest::MODULES).join(format!("{number:02}-{name}")), contents);
    }
    for library in &libraries {
        archive.file(&library.path, &library.contents);
    }
    archive.file("/init", &program);
    Ok(archive.finish())
}

/// The servers, each a process.
#[derive(Default)]
struct Servers {
    running: Vec<(Pid, String)>,
    /// Which of them have something to put in order in the end.
    gentle: Vec<bool>,
    sockets: Vec<PathBuf>,
    /// Ours of what they serve on: dropping one removes its socket.
    bound: Vec<Vec<Server>>,
}

impl Servers {
    /// Starts a process that calls `confine` and then serves `servers`, which
    /// are bound to `sockets`; with `connect`, closes that in the end.
    fn start(
        &mut self,
        name: String,
        servers: Vec<(Server, PathBuf)>,
        connect: Option<&dyn Connect>,
        confine: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let (servers, sockets): (Vec<_>, Vec<_>) = servers.into_iter().unzip();
        let parent = nix::unistd::getpid();
        let pid = process::fork(|| {
            process::die_with(parent);
            let serve = || {
                confine()?;
                process::keep_memory_small();
                let stop = Stop::new().map_err(|e| Failure::io("cannot make an event", &e))?;
                let Some(connect) = connect else { return serve::run_servers(&servers, &stop) };
                let signals = process::catch_signals(&[Signal::SIGTERM])?;
                let ended = serve::run_until_told(&servers, &stop, &signals);
                serve::leave(connect);
                ended
            };
            match serve() {
                Ok(()) => 0,
                Err(failure) => {
                    tracing::error!("{failure}");
                    1
                }
            }
        });
        self.bound.push(servers);
        self.sockets.extend(sockets);
        self.running.push((pid?, name));
        self.gentle.push(connect.is_some());
        Ok(())
    }

    /// Whatever the guests wrote has arrived on the host; a server that ends
    /// when it is told leaves its books in order besides.
    fn stop(&mut self) {
        for ((pid, _), gentle) in self.running.drain(..).zip(self.gentle.drain(..)) {
            process::end_gently(pid, if gentle { serve::PATIENCE } else { std::time::Duration::ZERO });
        }
        self.bound.clear();
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Starts the server of [`ControlFs`]. Returns where its reports come from and
/// where frames for the guest go.
fn start_control(plan: &Plan, directory: &Path, servers: &mut Servers) -> Result<(PipeReader, PipeWriter)> {
    let (reports, report_writer) = pipe()?;
    let (command_reader, commands) = pipe()?;
    let terminal = terminal::open();
    let window = terminal.as_ref().map_or((24, 80), terminal::window);
    let duplicate = |stream: &dyn AsFd| {
        stream.as_fd().try_clone_to_owned().map(File::from).map_err(|e| Failure::io("cannot duplicate a standard stream", &e))
    };
    let ends = HostEnds {
        orders: plan.orders(terminal::streams(), window).encode(),
        stdin: duplicate(&std::io::stdin())?,
        stdout: duplicate(&std::io::stdout())?,
        stderr: duplicate(&std::io::stderr())?,
        terminal,
        commands: File::from(OwnedFd::from(command_reader)),
        reports: File::from(OwnedFd::from(report_writer)),
    };
    let bridge = Bridge::new(ControlFs::new(ends), BridgeOptions::default());
    let bridge: Arc<dyn Connect> = bridge.map_err(|e| Failure::new(format!("cannot serve the guest's streams: {e}")))?;
    let mut bound = Vec::new();
    for tag in [INPUT_TAG, OUTPUT_TAG] {
        let socket = directory.join(tag);
        bound.push((Server::bind(&socket, Options::new(tag), Arc::clone(&bridge))?, socket));
    }
    servers.start("the guest's streams".into(), bound, None, || sandbox::enter(plan.sandbox, &Needs::default()))?;
    Ok((reports, commands))
}
