//! `externfs serve`: one export for any number of guests, and for a mount on
//! the host. All share one bridge, so each sees at once what another does.

use crate::boot::uml;
use crate::failure::{Failure, Result};
use crate::mount::{self, Sorted};
use crate::sandbox::{Grounds, Mode};
use crate::{plugins, process};
use externfs::{Connect, Export, MountOption};
use externfs_fuse::{FuseMount, ServeOptions, StopHandle, Unmounter};
use externfs_virtio::{Options, Poll, Server, Stop};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;

/// What is to be served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// The plugin's name.
    pub plugin: String,
    /// What it is to export.
    pub source: PathBuf,
    /// A socket for each guest.
    pub sockets: Vec<PathBuf>,
    /// What guests mount by.
    pub tag: String,
    /// `-o`, parsed.
    pub options: Vec<MountOption>,
    /// A mount point on the host.
    pub mount: Option<PathBuf>,
    /// Request queues.
    pub queues: u32,
    /// Active watching.
    pub poll: Poll,
    /// What the server gives up.
    pub sandbox: Mode,
}

/// Reads `--poll`.
///
/// # Errors
/// It is none of adaptive, off or a number of microseconds.
pub fn parse_poll(text: &str) -> std::result::Result<Poll, String> {
    match text {
        "adaptive" => Ok(Poll::Adaptive),
        "off" => Ok(Poll::Off),
        _ => match text.parse() {
            Ok(limit) if limit <= 10_000 => Ok(Poll::Max(limit)),
            _ => Err("adaptive, off, or a number of microseconds up to 10000".into()),
        },
    }
}

/// Serves until a signal ends it.
///
/// # Errors
/// One line.
pub fn run(request: &Request) -> Result<()> {
    let registry = plugins::registry();
    let plugin = mount::known(&registry, &request.plugin)?;
    let mut sorted = mount::sort(plugin, &request.options)?;
    process::raise_file_limit();
    plugins::warn_of_tree(&request.plugin, &request.source);
    if request.mount.is_some() {
        plugins::warn_who_mounts(&request.plugin, &request.source, &sorted.plugin);
    }
    let source = std::path::absolute(&request.source).unwrap_or_else(|_| request.source.clone());
    if let Some(point) = &request.mount {
        mount::make_room(plugin, &source, point)?;
    }
    let (connect, grounds) = mount::open(plugin, &source, &mut sorted)?;
    let servers = bind(request, &connect)?;
    let fuse = match &request.mount {
        Some(point) => {
            let shown_as = sorted.shown_as.as_ref().map_or(source.as_os_str(), AsRef::as_ref);
            Some(FuseMount::mount(shown_as, point, &sorted.mount).map_err(|error| Failure::new(error.to_string()))?)
        }
        None => None,
    };
    if std::io::stderr().is_terminal() {
        explain(request);
    }
    let job = Job { source, sorted, sandbox: request.sandbox, grounds, connect, servers };
    supervise(&job, fuse)
}

fn bind(request: &Request, connect: &Arc<dyn Connect>) -> Result<Vec<Server>> {
    let presented = || Options { request_queues: request.queues, poll: request.poll, ..Options::new(&request.tag) };
    let bound = request.sockets.iter().map(|path| {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        Server::bind(&path, presented(), Arc::clone(connect)).map_err(Failure::from)
    });
    bound.collect()
}

/// What a person at the terminal types next.
fn explain(request: &Request) {
    for socket in &request.sockets {
        let shown = std::path::absolute(socket).unwrap_or_else(|_| socket.clone());
        eprintln!("serving {} on {}", request.source.display(), shown.display());
        eprintln!("  UML:   {}", uml::device_argument(&shown, 1));
        eprintln!(
            "  QEMU:  -object memory-backend-memfd,id=mem,size=1G,share=on -numa node,memdev=mem -m 1G \\\n         -chardev socket,id=fs,path={} -device vhost-user-fs-pci,chardev=fs,tag={}",
            shown.display(),
            request.tag
        );
    }
    eprintln!("  guest: mount -t virtiofs {} /mnt", request.tag);
}

struct Job {
    source: PathBuf,
    sorted: Sorted,
    sandbox: Mode,
    grounds: Grounds,
    connect: Arc<dyn Connect>,
    servers: Vec<Server>,
}

/// How long a server may take to put its things in order; it loses nothing
/// when it does not come to an end.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// As for a mount: a process that only waits, and one that serves.
fn supervise(job: &Job, fuse: Option<FuseMount>) -> Result<()> {
    let signals = process::catch_signals(&[Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT])?;
    let supervisor = nix::unistd::getpid();
    let mut fuse = Some(fuse);
    let server = process::fork(|| {
        process::die_with(supervisor);
        match serve(job, fuse.take().flatten()) {
            Ok(()) => 0,
            Err(failure) => {
                eprintln!("externfs: {failure}");
                i32::from(failure.code)
            }
        }
    })?;
    let unmounter = fuse.take().flatten().map(FuseMount::into_unmounter);
    let unmount = |unmounter: &Unmounter| {
        if let Err(error) = unmounter.unmount_now() {
            tracing::warn!("{error}");
        }
    };
    loop {
        let status = waitpid(server, Some(WaitPidFlag::WNOHANG)).unwrap_or(WaitStatus::StillAlive);
        if let Some(code) = process::exit_code(status) {
            unmounter.iter().for_each(unmount);
            // The server has said why.
            return if code == 0 { Ok(()) } else { Err(ended_with(code)) };
        }
        let _ = poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
        while let Some(signal) = process::next_signal(&signals) {
            if signal != Signal::SIGCHLD {
                unmounter.iter().for_each(unmount);
                process::end_gently(server, PATIENCE);
                return Ok(());
            }
        }
    }
}

fn ended_with(code: i32) -> Failure {
    match code {
        code if code > 128 => Failure::new(format!("the server was killed by signal {}", code - 128)),
        code => Failure { line: String::new(), code: code as u8 },
    }
}

fn serve(job: &Job, mut fuse: Option<FuseMount>) -> Result<()> {
    fuse.iter_mut().for_each(|fuse| fuse.prepare(&job.sorted.serve));
    mount::enter_sandbox(job.sandbox, &job.sorted, &job.grounds, fuse.is_some())?;
    process::keep_memory_small();
    let signals = process::catch_signals(&[Signal::SIGTERM])?;
    if let Some(about) = fuse.as_mut().and_then(FuseMount::take_about) {
        job.connect.mounted(Some(about));
    }
    let mounted = with_export(fuse, &*job.connect).map_err(|e| Failure::new(format!("cannot open {}: {e}", job.source.display())))?;
    let options: ServeOptions = job.sorted.serve;
    let stop = Stop::new().map_err(|e| Failure::io("cannot make an event", &e))?;
    let ended = std::thread::scope(|scope| {
        // Hung up when the mount can be used, or never will be.
        let (busy, usable) = channel::<()>();
        if let Some((fuse, export)) = mounted {
            let stop = &stop;
            let body = move || match fuse.serve(export, &options, &StopHandle::new(), || drop(busy)) {
                Ok(_) => {
                    job.connect.mounted(None);
                    tracing::info!("the mount on the host is gone; guests go on being served");
                }
                Err(error) => {
                    tracing::error!("{error}");
                    stop.raise();
                }
            };
            std::thread::Builder::new()
                .name("fuse".into())
                .spawn_scoped(scope, body)
                .map_err(|e| Failure::io("cannot start a thread", &e))?;
            // What its kernel may remember is agreed before it can be told of changes:
            // with guests about, it would be treated as one of them.
            let _ = usable.recv();
        }
        // A guest alone is promised what nobody can take back when another comes.
        job.connect.expect(job.servers.len());
        run_until_told(&job.servers, &stop, &signals)
    });
    // The mount has ended with the scope. Who has a file or a directory in it
    // keeps it that long; past PATIENCE the tree is left as by any other death.
    leave(&*job.connect);
    ended
}

/// The host's mount and what it serves. Without one the source is tried all the
/// same: what is wrong with it is to be said now and not to the first guest. But
/// nothing is kept then, or each guest would seem to be one of two kernels, which
/// may remember nothing.
fn with_export<M>(mount: Option<M>, connect: &dyn Connect) -> externfs::Result<Option<(M, Arc<dyn Export>)>> {
    let export = connect.connect()?;
    Ok(mount.map(|mount| (mount, export)))
}

/// Runs all servers until they end or SIGTERM arrives at `signals`.
///
/// # Errors
/// The first that breaks, once all have ended.
pub fn run_until_told(servers: &[Server], stop: &Stop, signals: &SignalFd) -> Result<()> {
    std::thread::scope(|scope| {
        let told = || {
            let _ = poll(
                &mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)],
                PollTimeout::NONE,
            );
            stop.raise();
        };
        let waiter = std::thread::Builder::new().name("signals".into()).spawn_scoped(scope, told);
        let ended = waiter.map_err(|e| Failure::io("cannot start a thread", &e)).and_then(|_| run_servers(servers, stop));
        stop.raise();
        ended
    })
}

/// Closes what was served. Nobody may be served from it any more: what changes
/// after that is neither counted nor in a catalog.
pub fn leave(connect: &dyn Connect) {
    if let Err(error) = connect.close() {
        tracing::warn!("not left in order: {error}");
    }
}

/// Runs all servers, one of them on this thread.
///
/// # Errors
/// The first that breaks, once all have ended.
pub fn run_servers(servers: &[Server], stop: &Stop) -> Result<()> {
    let failed = |what: &dyn std::fmt::Display, error: &std::io::Error| Failure::io(format!("serving {what} broke off"), error);
    let Some((first, others)) = servers.split_first() else { return Ok(()) };
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for server in others {
            let body = move || server.run(stop).map_err(|error| failed(server, &error));
            let thread = std::thread::Builder::new().name("accept".into()).spawn_scoped(scope, body);
            threads.push(thread.map_err(|e| Failure::io("cannot start a thread", &e))?);
        }
        let mine = first.run(stop).map_err(|error| failed(first, &error));
        threads.into_iter().fold(mine, |so_far, thread| so_far.and(thread.join().unwrap_or(Ok(()))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use externfs::{Name, Plugin, Source};
    use std::time::Duration;

    /// How long a guest may remember what a look at `file` told.
    fn remembered(connect: &dyn Connect) -> Duration {
        let export = connect.connect().expect("connects");
        let name = Name::new(b"file").expect("a name");
        export.lookup(&externfs::Caller::root(), externfs::NodeId::ROOT, name).expect("there");
        export.cache_policy().attr
    }

    #[test]
    fn a_guest_that_others_may_join_remembers_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let (plain, tree) = (dir.path().join("plain"), dir.path().join("tree"));
        std::fs::create_dir(&plain).expect("a directory");
        let plan = humfs::make::Plan { format: humfs::store::Format::ShadowFs, total: 1 << 30, inodes: None, adopt: None };
        humfs::make::lay(&tree, &plan).expect("a tree");
        for path in [plain.join("file"), tree.join("data/file")] {
            std::fs::write(path, "").expect("a file");
        }
        // What a tree says of itself is asked where it is served, before and after it is opened.
        for opened_before in [false, true] {
            for (plugin, path) in [(&hostfs::HostFsPlugin as &dyn Plugin, &plain), (&humfs::HumFsPlugin, &tree)] {
                let connect = plugin.open(&Source { path: path.clone(), options: Vec::new() }).expect("opens");
                if opened_before {
                    assert!(remembered(&*connect) > Duration::ZERO);
                }
                connect.expect(2);
                assert_eq!(remembered(&*connect), Duration::ZERO, "{}", plugin.name());
                connect.expect(1);
                assert!(remembered(&*connect) > Duration::ZERO);
            }
        }
    }

    #[test]
    fn a_guest_alone_may_remember() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("file"), "").expect("a file");
        let source = Source { path: dir.path().to_owned(), options: Vec::new() };
        let connect = hostfs::HostFsPlugin.open(&source).expect("opens");
        let none = with_export(None::<()>, &*connect).expect("connects");
        assert!(none.is_none() && remembered(&*connect) > Duration::ZERO);
        // Beside a mount of the host's it is one of two.
        let mounted = with_export(Some(()), &*connect).expect("connects");
        assert!(mounted.is_some() && remembered(&*connect) == Duration::ZERO);
    }
}
