//! Guests: the same rows, run by this same program as the first process of a
//! guest. Both contenders are mounted in one boot, so that rounds interleave
//! and kernel, processor and load are the same for both.

pub(crate) mod init;
mod machine;
mod plan;

use crate::clock::ServerClock;
use crate::fault::{Fault, Naming, Result, fault};
use crate::host::server::Server;
use crate::record::{Column, Line, Pass, Report, Role, load};
use crate::rounds::{lines, note};
use crate::sizes::Sizes;
use crate::work::{Cost, Meter, Row, Sample, fixture};
use externfs_tests::fixture::{binary, cache_dir, find_program};
use externfs_tests::machine as guests;
use externfs_tests::machine::kernel::Kernel;
use externfs_tests::machine::root::Root;
use machine::Machine;
use plan::{Plan, Share, Told};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// What the user chose.
pub(crate) struct Choice {
    pub(crate) rounds: u32,
    pub(crate) sizes: Sizes,
    pub(crate) rows: Vec<&'static Row>,
    /// Where virtiofsd is, unless it is in a usual place.
    pub(crate) virtiofsd: Option<PathBuf>,
    /// QEMU's kernel, unless Debian's will do.
    pub(crate) kernel: Option<PathBuf>,
}

/// What boots.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Emulated; the peer is virtiofsd.
    Qemu,
    /// The peer is the kernel's own hostfs.
    Uml,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Qemu => "qemu",
            Kind::Uml => "uml",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Kind::Qemu => "QEMU, TCG, 1 CPU; `cold` means the guest's caches, the host's stay warm",
            Kind::Uml => "User Mode Linux, 1 CPU; `cold` means the guest's caches, the host's stay warm",
        }
    }
}

/// A contender: a tree on the host, perhaps a server, and how the guest mounts it.
struct Contender {
    column: Column,
    share: Share,
    clock: ServerClock,
    socket: Option<PathBuf>,
    _server: Option<Server>,
}

/// What to boot; `given` holds a kernel for QEMU.
fn kernel(kind: Kind, given: Option<&Path>) -> Result<Kernel> {
    let found = match (kind, given) {
        (Kind::Qemu, Some(dir)) => Kernel::kept_in(dir),
        (Kind::Qemu, None) => Kernel::locate(guests::Kind::Qemu),
        (Kind::Uml, _) => Kernel::locate(guests::Kind::Uml),
    };
    found.map_err(Fault)
}

/// Boots one guest and measures in it.
pub(crate) fn run(kind: Kind, choice: &Choice) -> Result<Report> {
    let room = tempfile::Builder::new().prefix("externfs-bench-").tempdir().naming("a temporary directory")?;
    let archive = room.path().join("tree.tar");
    fixture::pack_tree(&archive, room.path(), choice.sizes.tree)?;
    let kernel = kernel(kind, choice.kernel.as_deref())?;
    let contenders = contenders(kind, choice, &room, &archive)?;
    let plan = Plan {
        modules: kernel.module_names(),
        shares: contenders.iter().map(|c| c.share.clone()).collect(),
        rows: choice.rows.iter().map(|row| row.name.to_owned()).collect(),
        rounds: choice.rounds,
        sizes: choice.sizes,
    };
    let initramfs = room.path().join("initramfs");
    fs::write(&initramfs, pack(&plan, &kernel, &archive)?).naming(initramfs.display())?;
    let sockets: Vec<&Path> = contenders.iter().filter_map(|c| c.socket.as_deref()).collect();
    let mut report = Report::new(format!("host {}", std::env::temp_dir().display()), choice.rounds, choice.sizes);
    report.columns = contenders.iter().map(|c| c.column.clone()).collect();
    let machine = Machine::boot(kind, &kernel, &initramfs, &sockets)?;
    let mut pass = Pass { name: kind.name().into(), scheduling: kind.words().into(), lines: lines(&choice.rows) };
    listen(machine, &contenders, &mut pass.lines)?;
    report.passes.push(pass);
    report.load.push(load());
    Ok(report)
}

/// Follows the guest's report until it says that it is done.
fn listen(mut machine: Machine, contenders: &[Contender], lines: &mut [Line]) -> Result<()> {
    let clocks: BTreeMap<&str, &ServerClock> = contenders.iter().map(|c| (c.column.name.as_str(), &c.clock)).collect();
    let served = |name: &str| contenders.iter().any(|c| c.column.name == name && c.socket.is_some());
    let mut cost = Cost::default();
    while let Some(told) = machine.next()? {
        match told {
            Told::Begin { share } => {
                if let Some(clock) = clocks.get(share.as_str()) {
                    clock.begin();
                }
            }
            Told::End { share } => cost = clocks.get(share.as_str()).map_or(Cost::default(), |clock| clock.end()),
            Told::Row { row, share, ops, nanos } => {
                note(lines, &row, &share, served(&share), &Ok(Sample { ops, nanos, cost }));
            }
            Told::Failed { row, share, why } => note(lines, &row, &share, served(&share), &Err(Fault(why))),
            Told::Round { round } => eprintln!("guest: round {}, load {}", round + 1, load()),
            Told::Stuck { why } => return fault(format!("in the guest: {why}")),
            Told::Done => return Ok(()),
        }
    }
    fault(format!("the guest ended early; its last words: {}", machine.said()))
}

/// What is served as nobody else's to change, as a guest's own tree is. The
/// kernel's own hostfs never looks whether a file that it has cached has changed.
const ALWAYS: &str = "ours-always";
const EXCLUSIVE: [&str; 2] = ["-o", "exclusive"];

fn contenders(kind: Kind, choice: &Choice, room: &TempDir, archive: &Path) -> Result<Vec<Contender>> {
    let tree = |name: &str| {
        let tree = room.path().join(name);
        fs::create_dir(&tree).naming(tree.display())?;
        fixture::make(&tree, &choice.sizes, archive)?;
        Ok::<_, Fault>(tree)
    };
    let ours = |name: &str, options: &[&str]| {
        let tree = tree(name)?;
        let socket = room.path().join(format!("{name}.sock"));
        let mut command = Command::new(binary());
        command.args(["serve", "hostfs"]).arg(&tree).arg("--socket").arg(&socket).args(["--tag", name]).args(options);
        contender(name, Role::Ours, command, socket)
    };
    match kind {
        Kind::Qemu => {
            let peer = |name: &str, cache: &str| {
                let program = virtiofsd(choice.virtiofsd.as_deref())?;
                let (tree, socket) = (tree(name)?, room.path().join(format!("{name}.sock")));
                let mut command = Command::new(program);
                // The features that ours has: without xattrs its guest never asks for security.capability.
                command.arg("--shared-dir").arg(&tree).arg("--socket-path").arg(&socket).args(["--cache", cache, "--xattr"]);
                contender(name, Role::Peer, command, socket)
            };
            all([peer("virtiofsd", "auto"), peer("virtiofsd-always", "always"), ours("ours", &[]), ours(ALWAYS, &EXCLUSIVE)])
        }
        Kind::Uml => {
            let tree = tree("hostfs")?;
            let share = Share { name: "hostfs".into(), kind: "hostfs".into(), source: "none".into(), data: tree.display().to_string() };
            let column = Column { name: "hostfs".into(), role: Role::Peer, how: "the guest kernel's own, no server".into() };
            let native = Contender { column, share, clock: ServerClock::new(None), socket: None, _server: None };
            all([Ok(native), ours("ours", &[]), ours(ALWAYS, &EXCLUSIVE)])
        }
    }
}

/// Those that came up; the others are left out, aloud.
fn all<const N: usize>(results: [Result<Contender>; N]) -> Result<Vec<Contender>> {
    let up: Vec<Contender> = results.into_iter().filter_map(|result| result.map_err(|why| eprintln!("left out: {why}")).ok()).collect();
    if up.is_empty() { fault("nothing came up") } else { Ok(up) }
}

fn contender(name: &str, role: Role, mut command: Command, socket: PathBuf) -> Result<Contender> {
    let how = command.get_args().map(|word| word.to_string_lossy()).filter(|word| !word.starts_with('/')).collect::<Vec<_>>().join(" ");
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let server = Server::start(&mut command, socket.with_extension("log"), || socket.exists())?;
    Ok(Contender {
        column: Column { name: name.into(), role, how: format!("{program} {how}") },
        share: Share { name: name.into(), kind: "virtiofs".into(), source: name.into(), data: String::new() },
        clock: ServerClock::new(Some(server.pid())),
        socket: Some(socket),
        _server: Some(server),
    })
}

/// The peer, where it may be.
fn virtiofsd(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(given) = given {
        return if given.is_file() { Ok(given.to_owned()) } else { fault(format!("--virtiofsd {} is no file", given.display())) };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let tools = cache_dir();
    let places = std::env::split_paths(&path).chain([tools.join("bin"), tools, "/usr/libexec".into(), "/usr/lib/qemu".into()]);
    places.map(|dir| dir.join("virtiofsd")).find(|file| file.is_file()).map_or_else(
        || {
            let remedy = format!("cargo install virtiofsd --root {}, or give --virtiofsd PATH", cache_dir().display());
            fault(format!("virtiofsd is not installed: {remedy}"))
        },
        Ok,
    )
}

/// The guest's first root: this program, what it runs, the modules, the plan.
fn pack(plan: &Plan, kernel: &Kernel, tree: &Path) -> Result<Vec<u8>> {
    let packed = || {
        let mut root = Root::new(kernel, &["/share"])?;
        let own = std::env::current_exe().map_err(|error| format!("own path: {error}"))?;
        root.program(&own, Path::new("/init"))?;
        for name in ["tar", "find", "grep", "rm"] {
            let path = find_program(name).ok_or_else(|| format!("{name} is not installed"))?;
            root.program(&path, &Path::new("/bin").join(name))?;
        }
        root.copy(tree, Path::new(plan::TREE))?;
        Ok(root)
    };
    let mut root: Root = packed().map_err(Fault)?;
    root.file(Path::new(plan::PATH), plan.encode()?.as_bytes());
    Ok(root.finish())
}
