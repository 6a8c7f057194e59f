//! `externfs mount`: a plugin on a directory of the host.
//!
//! Three processes, of which two stay. The one that was called opens the
//! source, its log and whatever else has a path, and then mounts, since that takes
//! rights; it waits for the server's word and ends. The supervisor does nothing but wait: it unmounts when it is told
//! to, or when the server is dead. The server gives up what it does not need
//! ([`crate::sandbox`]) and answers the kernel; it dies with its supervisor.

use crate::daemon::{self, Background, Ready};
use crate::failure::{Failure, Result};
use crate::hostuser::HostUser;
use crate::sandbox::{self, Grounds, Mode, Needs};
use crate::{options, plugins, process};
use externfs::{Connect, MountOption, Plugin, Source};
use externfs_fuse::{FuseMount, MountError, MountOptions, PassthroughChoice, ServeOptions, StopHandle, Unmounter, UringChoice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is to be mounted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Request {
    /// The plugin's name.
    pub plugin: String,
    /// What it is to export.
    pub source: PathBuf,
    /// The mount point.
    pub point: PathBuf,
    /// `-o`, parsed.
    pub options: Vec<MountOption>,
    /// Stay, and log to standard error.
    pub foreground: bool,
    /// Where a server in the background logs to.
    pub log_file: Option<PathBuf>,
    /// What the server gives up.
    pub sandbox: Mode,
}

/// Options that are neither the kernel's nor a frontend's nor a plugin's.
pub const GENERAL_OPTIONS: &[(&str, &str)] = &[
    ("fsname=NAME", "shown as the source by findmnt(8) and df(1) (default: SRC; what fstab says, by mount(8))"),
    ("sandbox=auto|require|none", "what the server gives up (see --sandbox)"),
    ("log_file=FILE", "where a server in the background logs to (see --log-file)"),
    ("trusted", "keep CAP_SYS_ADMIN, which trusted.* attributes take (root only)"),
];

/// A server that gave up its rights cannot be given options anew; the kernel's own
/// flags can be changed without it.
const NO_REMOUNT: &str = "remount does not reach the server: 'mount -i -o remount,ro MNT' changes what the kernel keeps \
                          (ro, noexec, ...); for everything else unmount, and mount again";

/// `-o`, sorted by who is meant.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sorted {
    /// The kernel.
    pub mount: MountOptions,
    /// The FUSE frontend.
    pub serve: ServeOptions,
    /// The plugin.
    pub plugin: Vec<MountOption>,
    /// `fsname`.
    pub shown_as: Option<String>,
    /// `sandbox`.
    pub sandbox: Option<Mode>,
    /// `log_file`.
    pub log_file: Option<PathBuf>,
    /// `trusted`.
    pub trusted: bool,
    /// What the plugin writes to even with `ro`.
    pub own_dir: Option<&'static str>,
    /// The plugin opens no file once it serves.
    pub opens_nothing: bool,
    /// The kernel may be given files to serve.
    pub lends_files: bool,
    /// Whom root becomes to serve it.
    pub serves_as: Option<HostUser>,
}

/// Opens `source` by `plugin`, as whoever is to serve it, and what of it the
/// server may go on opening.
///
/// # Errors
/// The plugin's line.
pub fn open(plugin: &dyn Plugin, source: &Path, sorted: &mut Sorted) -> Result<(Arc<dyn Connect>, Grounds)> {
    let source = Source { path: source.to_owned(), options: sorted.plugin.clone() };
    sorted.serves_as = plugin.serves_as(&source).map(|(uid, gid)| HostUser { uid: Uid::from_raw(uid), gid: Gid::from_raw(gid) });
    let own_dir = sorted.own_dir;
    let both = || -> Result<_> { Ok((plugin.open(&source)?, Grounds::open(&source.path, own_dir))) };
    match sorted.serves_as {
        Some(user) => user.lend(both)?,
        None => both(),
    }
}

/// Clears the mount point `point` of what a dead server left there, and sees to
/// it that `plugin` will find its `source` again.
///
/// # Errors
/// What is wrong with the mount point; that one is inside the other, and the
/// plugin goes by paths.
pub fn make_room(plugin: &dyn Plugin, source: &Path, point: &Path) -> Result<()> {
    // First of all: a mount over its own source is to be gone before that is opened.
    let place = externfs_fuse::clear(point).map_err(refused)?;
    let is_in_the_way = || is_within(source, &place) || is_within(&place, source);
    if plugin.goes_by_path() && is_in_the_way() {
        return Err(Failure::new(format!(
            "mount point {} and '{}' are one within the other: {} goes by paths, which would lead into the mount: choose another mount point",
            point.display(),
            source.display(),
            plugin.name()
        )));
    }
    Ok(())
}

/// Whether `path` is `above` or below it, also where the same directory has
/// several paths.
fn is_within(path: &Path, above: &Path) -> bool {
    let Ok(top) = std::fs::metadata(above) else { return false };
    let Ok(path) = std::fs::canonicalize(path) else { return false };
    let same = |at: &Path| std::fs::metadata(at).is_ok_and(|there| (there.dev(), there.ino()) == (top.dev(), top.ino()));
    path.ancestors().any(same)
}

/// Sorts `list` for a mount of `plugin`.
///
/// # Errors
/// An option that nobody knows, or a value that is wrong.
pub fn sort(plugin: &dyn Plugin, list: &[MountOption]) -> Result<Sorted> {
    let mount = MountOptions { owner_is_root: plugin.owner_is_root(), ..MountOptions::default() };
    let mut sorted = Sorted { mount, own_dir: plugin.own_dir(), opens_nothing: !plugin.opens_files(), ..Sorted::default() };
    for option in list {
        let (key, value) = (option.key.as_str(), option.value.as_deref());
        match key {
            "fsname" => sorted.shown_as = Some(options::value(option)?.to_owned()),
            "sandbox" => sorted.sandbox = Some(Mode::parse(options::value(option)?)?),
            "log_file" => sorted.log_file = Some(options::value(option)?.into()),
            "trusted" => sorted.trusted = options::switch(option)?,
            "remount" => return Err(Failure::usage(NO_REMOUNT)),
            // What others write into the same list for themselves.
            "subtype" | "comment" | "owner" | "group" | "noowner" | "nogroup" | "nousers" | "loop" => {}
            _ if key.starts_with("x-") || key.starts_with("X-") => {}
            _ if sorted.mount.accept(key, value).map_err(refused)? => share(plugin, option, &mut sorted.plugin),
            _ if sorted.serve.accept(key, value).map_err(refused)? => {}
            _ => sorted.plugin.push(option.clone()),
        }
    }
    options::check_for_plugin(plugin, &sorted.plugin)?;
    if sorted.trusted && !Uid::effective().is_root() {
        return Err(Failure::usage("trusted is for root, whose right the server would keep: leave it out"));
    }
    sorted.lends_files = plugin.lends_files(&sorted.plugin);
    Ok(sorted)
}

/// Lets the plugin know of an option of the mount, if it has one of that name. The
/// kernel keeps it for those who come through the mount; what is promised of the
/// files (`ro`, `nodev`, `nosuid`) holds for guests too, and for what is made on
/// the host. Only what was written counts: the kernel's mount is `nodev,nosuid`
/// without a word, which says nothing about the files.
fn share(plugin: &dyn Plugin, option: &MountOption, plugins: &mut Vec<MountOption>) {
    let undone = match option.key.as_str() {
        "rw" => "ro",
        "dev" => "nodev",
        "suid" => "nosuid",
        "async" => "sync",
        _ => "",
    };
    plugins.retain(|earlier| earlier.key != undone);
    if options::is_known_to(plugin, &option.key) {
        plugins.push(option.clone());
    }
}

/// A mount that failed, as a line; wrong options are a wrong question.
fn refused(error: MountError) -> Failure {
    match error {
        MountError::BadOption(line) => Failure::usage(line),
        other => Failure::new(other.to_string()),
    }
}

/// The plugin called `name`.
///
/// # Errors
/// A line that names those there are.
pub fn known<'r>(registry: &'r externfs::Registry, name: &str) -> Result<&'r dyn Plugin> {
    registry.get(name).map_err(|error| Failure::usage(error.0))
}

/// Mounts, and returns when the mount can be used; in the foreground, when it
/// is gone.
///
/// # Errors
/// One line.
pub fn run(request: &Request) -> Result<()> {
    let registry = plugins::registry();
    let plugin = known(&registry, &request.plugin)?;
    let mut sorted = sort(plugin, &request.options)?;
    // The server's directory will be another one.
    let source = std::path::absolute(&request.source).unwrap_or_else(|_| request.source.clone());
    let log_file = sorted.log_file.as_ref().or(request.log_file.as_ref());
    let log_file = log_file.map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone()));
    process::raise_file_limit();
    make_room(plugin, &source, &request.point)?;
    let (connect, grounds) = open(plugin, &source, &mut sorted)?;
    // One for the supervisor and one for the server. Opened after the mount, a file
    // whose path leads through it would wait for the server for ever.
    let in_background = !request.foreground;
    let log = || Background::open(log_file.as_deref());
    let silences = in_background.then(|| Ok::<_, Failure>((log()?, log()?))).transpose()?;
    let shown_as = sorted.shown_as.as_ref().map_or(source.as_os_str(), AsRef::as_ref);
    let mount = FuseMount::mount(shown_as, &request.point, &sorted.mount).map_err(refused)?;
    let job = Job { source, sorted, sandbox: request.sandbox, grounds, connect };
    let Some(silences) = silences else { return supervise(mount, &job, None) };
    let unmounter = mount.unmounter();
    let mut parts = Some((mount, silences));
    let started = daemon::start(|ready| {
        let Some((mount, silences)) = parts.take() else { return 1 };
        match go_to_background(mount, &job, ready, silences) {
            Ok(()) => 0,
            Err(failure) => {
                if !failure.line.is_empty() {
                    tracing::error!("{failure}");
                }
                i32::from(failure.code)
            }
        }
    });
    // From here on the mount is the supervisor's.
    drop(parts.take().map(|(mount, _)| mount.into_unmounter()));
    if started.is_err() {
        let _ = unmounter.unmount_now();
    }
    started.map(drop)
}

/// What the process in the background does: it supervises.
fn go_to_background(mount: FuseMount, job: &Job, ready: Ready, (own, servers): (Background, Background)) -> Result<()> {
    match daemon::detach() {
        Ok(()) => supervise(mount, job, Some((ready, own, servers))),
        Err(failure) => {
            ready.tell(Err(&failure));
            // The command that waits says it.
            Err(Failure { line: String::new(), ..failure })
        }
    }
}

/// What a server needs to know.
struct Job {
    source: PathBuf,
    sorted: Sorted,
    sandbox: Mode,
    grounds: Grounds,
    connect: Arc<dyn Connect>,
}

/// How to fall silent: the supervisor, and the server once it is ready.
type InBackground = (Ready, Background, Background);

/// Starts the server and stays with it to its end.
fn supervise(mount: FuseMount, job: &Job, background: Option<InBackground>) -> Result<()> {
    let signals = process::catch_signals(&[Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT])?;
    let supervisor = nix::unistd::getpid();
    let mut parts = Some((mount, background));
    let server = process::fork(|| {
        process::die_with(supervisor);
        let Some((mount, background)) = parts.take() else { return 1 };
        serve(mount, job, background.map(|(ready, _, silence)| (ready, silence)))
    })?;
    let Some((mount, background)) = parts.take() else { return Ok(()) };
    let unmounter = mount.into_unmounter();
    // Only the server may say that it is ready.
    if let Some((ready, silence, _)) = background {
        drop(ready);
        silence.enter();
    }
    let ended = wait_for(server, &signals, &unmounter).and_then(process::exit_code);
    // A server that ends well does so because the mount is gone. To look again
    // would be a mistake: the next mount may be in its place by now, with the
    // device number that this one had.
    if ended != Some(0)
        && let Err(error) = unmounter.unmount_now()
    {
        tracing::warn!("{error}");
    }
    match ended {
        Some(0) => Ok(()),
        // The server has said why.
        Some(code) if code < 128 => Err(Failure { line: String::new(), code: code as u8 }),
        Some(code) => {
            Err(Failure::new(format!("the server was killed by signal {}: unmounted {}", code - 128, unmounter.point().display())))
        }
        None => Err(Failure::new("the server got lost")),
    }
}

/// Waits for the server, unmounting when a signal asks for it; a second one
/// does not wait for those who still use the mount.
fn wait_for(server: Pid, signals: &nix::sys::signalfd::SignalFd, unmounter: &Unmounter) -> Option<WaitStatus> {
    let mut asked = false;
    loop {
        match waitpid(server, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(nix::Error::EINTR) => {}
            Ok(status) if process::exit_code(status).is_some() => return Some(status),
            Ok(_) => {}
            Err(_) => return None,
        }
        let _ = poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
        while let Some(signal) = process::next_signal(signals) {
            if signal == Signal::SIGCHLD {
                continue;
            }
            if asked {
                let _ = kill(server, Signal::SIGKILL);
            } else if let Err(error) = unmounter.unmount_now() {
                tracing::warn!("{error}");
                let _ = kill(server, Signal::SIGKILL);
            }
            asked = true;
        }
    }
}

/// The server itself. Returns its exit code.
fn serve(mount: FuseMount, job: &Job, background: Option<(Ready, Background)>) -> i32 {
    let mut background = background;
    match serve_mount(mount, job, &mut background) {
        Ok(()) => 0,
        Err(failure) => {
            match background.take() {
                Some((ready, _)) => ready.tell(Err(&failure)),
                None => tracing::error!("{failure}"),
            }
            i32::from(failure.code)
        }
    }
}

fn serve_mount(mut mount: FuseMount, job: &Job, background: &mut Option<(Ready, Background)>) -> Result<()> {
    let sorted = &job.sorted;
    mount.prepare(&sorted.serve);
    enter_sandbox(job.sandbox, sorted, &job.grounds, true)?;
    process::keep_memory_small();
    if let Some(about) = mount.take_about() {
        job.connect.mounted(Some(about));
    }
    let export = job.connect.connect().map_err(|e| Failure::new(format!("cannot open {}: {e}", job.source.display())))?;
    let point = mount.unmounter().point().to_owned();
    let usable = || {
        if let Some((ready, silence)) = background.take() {
            silence.enter();
            tracing::info!("serving {} on {}", job.source.display(), point.display());
            ready.tell(Ok(()));
        }
    };
    let ended = mount.serve(export, &sorted.serve, &StopHandle::new(), usable);
    if let Err(error) = job.connect.close() {
        tracing::warn!("{}: not left in order: {error}", job.source.display());
    }
    ended.map(drop).map_err(|error| Failure::new(error.to_string()))
}

/// Gives up what serving a tree by FUSE, guests or both does not need, first of
/// all to be root where somebody else is to serve it.
///
/// # Errors
/// With `require`, what the kernel lacks.
pub fn enter_sandbox(mode: Mode, sorted: &Sorted, grounds: &Grounds, fuse: bool) -> Result<()> {
    let passthrough = fuse && sorted.lends_files && sorted.serve.passthrough != PassthroughChoice::Off;
    let needs = Needs {
        tree: (!sorted.opens_nothing).then_some(grounds),
        read_only: sorted.plugin.iter().any(|option| option.key == "ro"),
        fuse_device: fuse && sorted.serve.clone_fd,
        administration: sorted.trusted || passthrough,
        rings: fuse && sorted.serve.uring != UringChoice::Off,
    };
    if let Some(user) = sorted.serves_as {
        user.enter_to_serve(needs.administration)?;
    }
    sandbox::enter(sorted.sandbox.unwrap_or(mode), &needs)
}
