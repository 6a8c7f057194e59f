//! [`Machine`]: a guest that runs, and what it says; it ends with its guard.

use super::Kind;
use super::plan::Told;
use crate::fault::{Naming, Result};
use externfs_tests::machine::kernel::Kernel;
use externfs_tools::boot::xstate::Preload;
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

/// Lines kept for when something goes wrong.
const LAST_WORDS: usize = 12;

/// The child leads a process group: User Mode Linux leaves helpers behind.
pub(super) struct Machine {
    child: Child,
    console: BufReader<ChildStdout>,
    last: VecDeque<String>,
}

impl Machine {
    /// Boots.
    pub(super) fn boot(kind: Kind, kernel: &Kernel, initramfs: &Path, sockets: &[&Path]) -> Result<Machine> {
        let mut command = match kind {
            Kind::Qemu => qemu(kernel, initramfs, sockets),
            Kind::Uml => uml(kernel, initramfs, sockets),
        };
        let log = initramfs.with_extension("stderr");
        let errors = File::create(&log).naming(log.display())?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).process_group(0);
        let _library = match kind {
            Kind::Qemu => None,
            Kind::Uml => Preload::into(&mut command),
        };
        let mut child = command.spawn().naming(command.get_program().display())?;
        let console = child.stdout.take().ok_or_else(|| crate::fault::Fault("no console".into()))?;
        Ok(Machine { child, console: BufReader::new(console), last: VecDeque::new() })
    }

    /// The next thing that it says to us; none at its end.
    pub(super) fn next(&mut self) -> Result<Option<Told>> {
        loop {
            let mut bytes = Vec::new();
            if self.console.read_until(b'\n', &mut bytes).naming("the guest's console")? == 0 {
                return Ok(None);
            }
            let line = String::from_utf8_lossy(&bytes);
            if let Some(told) = Told::hear(&line) {
                return Ok(Some(told));
            }
            if self.last.len() == LAST_WORDS {
                self.last.pop_front();
            }
            self.last.push_back(line.trim().to_owned());
        }
    }

    /// What the kernel said last.
    pub(super) fn said(&self) -> String {
        self.last.iter().map(String::as_str).collect::<Vec<_>>().join(" | ")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // Gone already when the guest powered off.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

fn qemu(kernel: &Kernel, initramfs: &Path, sockets: &[&Path]) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-accel", "tcg", "-M", "q35", "-m", "1G", "-nographic", "-no-reboot", "-nic", "none"]);
    command.args(["-object", "memory-backend-memfd,id=mem,size=1G,share=on", "-numa", "node,memdev=mem"]);
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initramfs);
    command.args(["-append", "console=ttyS0 quiet panic=-1 rdinit=/init"]);
    for (index, socket) in sockets.iter().enumerate() {
        let tag = socket.file_stem().unwrap_or_default().to_string_lossy();
        command.arg("-chardev").arg(format!("socket,id=c{index},path={}", socket.display()));
        command.arg("-device").arg(format!("vhost-user-fs-pci,queue-size=1024,chardev=c{index},tag={tag}"));
    }
    command
}

fn uml(kernel: &Kernel, initramfs: &Path, sockets: &[&Path]) -> Command {
    let mut command = Command::new(&kernel.image);
    command.arg("mem=1G").arg(format!("initrd={}", initramfs.display()));
    for (index, socket) in sockets.iter().enumerate() {
        command.arg(format!("virtio_uml.device={}:26:{}", socket.display(), index + 1));
    }
    command.args(["con0=fd:0,fd:1", "con=null", "quiet", "panic=-1", "rdinit=/init"]);
    command
}
