//! [`Machine`]: a real guest, User Mode Linux or QEMU, that runs what a test
//! asks for and does not outlive it.
//!
//! Both boot an initramfs whose first process is the suite's own program
//! (`tests/guest`). It listens on a serial line ([`talk`]), so a test needs no
//! file system in the guest to ask for the first mount. The kernel's console
//! goes to a file that is shown when a test fails.

pub mod exhibit;
pub mod kernel;
pub mod noise;
mod pack;
pub mod processes;
pub mod root;
pub mod scenario;
pub mod talk;

use crate::fixture::{need_program, temp_dir};
use externfs_tools::boot::xstate::Preload;
use kernel::Kernel;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use talk::{Answer, Ask};
use tempfile::TempDir;

/// Longest that a boot may take: emulation on a busy host is slow, and a reboot
/// slower (see `qemu`).
const BOOT_PATIENCE: Duration = Duration::from_secs(240);
/// What a script may take unless a test says otherwise.
const SCRIPT_PATIENCE: Duration = Duration::from_secs(60);

/// What to boot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// QEMU, emulating the processor.
    Qemu,
    /// User Mode Linux.
    Uml,
}

/// A guest's hardware and what it finds in its first root.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which.
    pub kind: Kind,
    /// A vhost-user socket and the tag of each file system device; QEMU takes
    /// the tag from here, User Mode Linux asks the server.
    pub shares: Vec<(PathBuf, String)>,
    /// Request queues of each device, for QEMU.
    pub queues: u32,
    /// Programs of the host for the guest's `/bin`, packed with their libraries.
    pub programs: Vec<PathBuf>,
    /// Files: path in the guest, contents.
    pub files: Vec<(PathBuf, Vec<u8>)>,
}

impl Plan {
    /// One request queue, nothing besides the suite's own program and busybox.
    #[must_use]
    pub fn new(kind: Kind, shares: &[(&Path, &str)]) -> Plan {
        let shares = shares.iter().map(|(socket, tag)| (socket.to_path_buf(), (*tag).to_owned())).collect();
        Plan { kind, shares, queues: 1, programs: Vec::new(), files: Vec::new() }
    }
}

/// How a script in the guest ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ran {
    /// 128+n for signal n, 124 if it was ended for taking too long.
    pub code: i32,
    /// Standard output and error together.
    pub output: String,
}

/// A guest that runs.
pub struct Machine {
    child: Child,
    asks: Option<ChildStdin>,
    answers: Receiver<Answer>,
    listener: Option<JoinHandle<()>>,
    number: u64,
    dir: TempDir,
}

impl Machine {
    /// Boots, and returns once the guest listens. `program` is the suite's own,
    /// the first process: `env!("CARGO_BIN_EXE_externfs-guest-check")`.
    ///
    /// # Panics
    /// With the guest's last words when it does not come up.
    #[must_use]
    pub fn boot(plan: &Plan, program: &Path) -> Machine {
        let kernel = Kernel::find(plan.kind);
        let dir = temp_dir();
        let initramfs = dir.path().join("initramfs");
        let packed = pack::initramfs(plan, &kernel, program).unwrap_or_else(|why| panic!("packing the initramfs: {why}"));
        std::fs::write(&initramfs, packed).expect("writing the initramfs");
        let mut command = match plan.kind {
            Kind::Qemu => qemu(plan, &kernel, dir.path()),
            Kind::Uml => uml(plan, &kernel, dir.path()),
        };
        let errors = File::create(dir.path().join("stderr")).expect("log");
        // A group of its own: User Mode Linux has a process for each of the guest's.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).process_group(0);
        let _library = match plan.kind {
            Kind::Qemu => None,
            Kind::Uml => Preload::into(&mut command),
        };
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let asks = child.stdin.take();
        let heard = BufReader::new(child.stdout.take().expect("piped"));
        let (send, answers) = channel();
        let listener = std::thread::spawn(move || {
            for line in heard.split(b'\n').map_while(Result::ok) {
                if let Some(answer) = Answer::hear(&line)
                    && send.send(answer).is_err()
                {
                    return;
                }
            }
        });
        let mut machine = Machine { child, asks, answers, listener: Some(listener), number: 0, dir };
        machine.wait_until_ready();
        machine
    }

    fn wait_until_ready(&mut self) {
        match self.next_answer(Instant::now() + BOOT_PATIENCE) {
            Ok(Answer::Ready) => {}
            Ok(other) => panic!("a guest that boots says {other:?}"),
            Err(why) => panic!("the guest does not boot: {why}; {}", self.state()),
        }
    }

    fn next_answer(&mut self, end: Instant) -> Result<Answer, String> {
        loop {
            match self.answers.recv_timeout(Duration::from_millis(500)) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
                    return Err(format!("it has ended, {status}"));
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() > end => return Err("it takes too long".into()),
                Err(RecvTimeoutError::Timeout) if self.said().contains("Kernel panic") => return Err("its kernel panics".into()),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Runs a script in the guest's shell.
    ///
    /// # Panics
    /// When the guest does not answer in time.
    pub fn run(&mut self, script: &str) -> Ran {
        self.run_within(script, SCRIPT_PATIENCE)
    }

    /// Runs a script that may take so long.
    ///
    /// # Panics
    /// When the guest does not answer in time.
    pub fn run_within(&mut self, script: &str, limit: Duration) -> Ran {
        self.number += 1;
        let number = self.number;
        self.ask(&Ask { number, script: script.to_owned(), limit_ms: limit.as_millis() as u64 });
        // Whatever hangs in the guest so that even a kill does not end it.
        let end = Instant::now() + limit + Duration::from_secs(20);
        loop {
            match self.next_answer(end) {
                Ok(Answer::Ended { number: ended, code, output }) if ended == number => return Ran { code, output },
                Ok(Answer::Ready) => panic!("the guest has booted again instead of running {script:?}; {}", self.state()),
                Ok(_) => {}
                Err(why) => panic!("{script:?} in the guest: {why}; {}", self.state()),
            }
        }
    }

    /// Runs a script that must succeed, and returns what it said.
    ///
    /// # Panics
    /// When it fails.
    pub fn check(&mut self, script: &str) -> String {
        let ran = self.run(script);
        assert!(ran.code == 0, "{script:?} in the guest ended with {}: {}", ran.code, ran.output);
        ran.output
    }

    fn ask(&mut self, ask: &Ask) {
        let asks = self.asks.as_mut().expect("the guest has not been ended");
        asks.write_all(ask.encode().as_bytes()).and_then(|()| asks.flush()).expect("the guest listens");
    }

    /// Mounts the share `tag` on `/mnt/TAG`.
    ///
    /// # Panics
    /// When the guest cannot mount it.
    pub fn mount(&mut self, tag: &str) {
        self.check(&format!("mkdir -p /mnt/{tag} && mount -t virtiofs {tag} /mnt/{tag}"));
    }

    /// Reboots without giving anything back first, and waits for the guest.
    ///
    /// # Panics
    /// When it does not come up again.
    pub fn reboot(&mut self) {
        self.number += 1;
        self.ask(&Ask { number: self.number, script: "reboot -f -n".to_owned(), limit_ms: 10_000 });
        self.wait_until_ready();
    }

    /// Powers off, as a person would, and waits for the end.
    ///
    /// # Panics
    /// When it stays on.
    pub fn power_off(mut self) {
        self.number += 1;
        self.ask(&Ask { number: self.number, script: "poweroff -f".to_owned(), limit_ms: 10_000 });
        let end = Instant::now() + Duration::from_secs(30);
        while self.child.try_wait().expect("wait").is_none() {
            assert!(Instant::now() < end, "the guest does not power off; {}", self.state());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it as a host's kernel does that has run out of memory.
    pub fn kill(self) {
        drop(self);
    }

    /// Ends the one process that is the guest and leaves its helpers, which
    /// hold on to the same sockets, until this is dropped.
    pub fn kill_leader(&self) {
        if let Some(leader) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(leader, Signal::KILL);
        }
    }

    /// Gives QEMU's monitor a command (QMP) and waits until it has been done.
    ///
    /// # Panics
    /// When it is not.
    pub fn monitor(&self, command: &str) {
        let mut asks = UnixStream::connect(self.dir.path().join(MONITOR)).expect("a monitor");
        let mut answers = BufReader::new(asks.try_clone().expect("a duplicate")).lines();
        for command in ["qmp_capabilities", command] {
            writeln!(asks, "{{\"execute\": \"{command}\"}}").expect("the monitor listens");
            let mut answer = || answers.next().expect("the monitor goes on").expect("a line");
            // Its greeting and events come in between.
            while !answer().contains("\"return\"") {}
        }
    }

    /// Process id of the program that is the guest.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it said, and what this test's processes are about: whether a guest
    /// that stands still waits for its server, or burns time by itself.
    #[must_use]
    pub fn state(&self) -> String {
        format!("{}{}", self.said(), processes::describe(std::process::id()))
    }

    /// The end of what its kernel and its program said.
    #[must_use]
    pub fn said(&self) -> String {
        let tail = |name: &str| {
            let bytes = std::fs::read(self.dir.path().join(name)).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
            lines.iter().skip(lines.len().saturating_sub(25)).map(|line| format!("\n  {name}: {line}")).collect::<String>()
        };
        format!("it said:{}{}", tail("console"), tail("stderr"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // Gone already when the guest has powered off.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
        self.asks = None;
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
        if std::thread::panicking() {
            eprintln!("--- the guest: {}\n---", self.said());
        }
    }
}

/// QEMU's monitor, among the guest's files.
const MONITOR: &str = "monitor";

/// Always emulated: a /dev/kvm that is there but does not work would hang, and
/// a guest that is the same everywhere is worth more than a fast one. So its
/// kernel lies at the same address each time, too: a reboot takes QEMU longer
/// the more of the old kernel, whose translation it keeps, is overwritten by
/// the new one. At random places that was anything from 3 seconds on, without
/// end in sight; at the same place it is always 7.
fn qemu(plan: &Plan, kernel: &Kernel, dir: &Path) -> Command {
    let mut command = Command::new(need_program("qemu-system-x86_64", "qemu-system-x86"));
    command.args(["-accel", "tcg", "-M", "q35", "-m", "768M", "-display", "none", "-nic", "none"]);
    command.args(["-monitor", "none", "-qmp"]).arg(format!("unix:{},server=on,wait=off", dir.join(MONITOR).display()));
    command.args(["-object", "memory-backend-memfd,id=mem,size=768M,share=on", "-numa", "node,memdev=mem", "-smp", "2"]);
    command.arg("-serial").arg(format!("file:{}", dir.join("console").display()));
    command.args(["-chardev", "stdio,id=agent,signal=off", "-serial", "chardev:agent"]);
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(dir.join("initramfs"));
    command.args(["-append", "console=ttyS0 nokaslr agent=/dev/ttyS1"]);
    for (index, (socket, tag)) in plan.shares.iter().enumerate() {
        command.arg("-chardev").arg(format!("socket,id=c{index},path={}", socket.display()));
        // The property is there from QEMU 6.1 on; the default is one queue.
        let queues = if plan.queues > 1 { format!(",num-request-queues={}", plan.queues) } else { String::new() };
        command.arg("-device").arg(format!("vhost-user-fs-pci,queue-size=1024,chardev=c{index},tag={tag}{queues}"));
    }
    command
}

fn uml(plan: &Plan, kernel: &Kernel, dir: &Path) -> Command {
    let mut command = Command::new(&kernel.image);
    command.arg("mem=512M").arg(format!("initrd={}", dir.join("initramfs").display()));
    command.arg(format!("uml_dir={}", dir.display())).args(["umid=guest", "quiet", "agent=/dev/ttyS0"]);
    // The kernel's console on standard error, the serial line on the two others.
    command.args(["con=null", "con0=null,fd:2", "ssl=null", "ssl0=fd:0,fd:1"]);
    for (index, (socket, _)) in plan.shares.iter().enumerate() {
        command.arg(format!("virtio_uml.device={}:26:{}", socket.display(), index + 1));
    }
    command.env_remove("TMPDIR").env("HOME", dir).current_dir(dir);
    command
}
