//! The command's standard streams, inside the guest.
//!
//! Each is what it is on the host: a terminal where that is one, else a pipe.
//! A relay thread stands between each and the control share, so bytes pass
//! unchanged, the end of the input arrives, a closed output is a broken pipe,
//! and a command that does not read holds up nobody but itself.

use super::frames::{Frame, PAYLOAD_MAX};
use super::guest::Control;
use super::orders::{Orders, Report};
use crate::process::{exit_code, lead_session};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};

/// The init's ends of the streams.
struct Ends {
    /// Where input goes; None once it has ended.
    input: Option<File>,
    /// The terminal, if any stream is one.
    terminal: Option<File>,
    /// What the command writes, and the host's end of it.
    outputs: Vec<(File, File)>,
}

/// A command that has ended.
pub(crate) struct Ended {
    /// As a shell would say it.
    pub(crate) code: u8,
    /// Still reading, until the host says farewell.
    input: Option<JoinHandle<()>>,
}

impl Ended {
    /// Waits until nothing is asked of the host any more.
    pub(crate) fn wait_for_farewell(self) {
        if let Some(input) = self.input {
            let _ = input.join();
        }
    }
}

/// Runs the command of `orders` to its end.
pub(crate) fn run_command(control: &mut Control, orders: &Orders) -> Result<Ended, String> {
    let mut command = Command::new(orders.command.first().ok_or("no command")?);
    command.args(orders.command.iter().skip(1)).env_clear();
    for variable in &orders.environment {
        if let Some(at) = variable.as_bytes().iter().position(|b| *b == b'=') {
            let (name, value) = variable.as_bytes().split_at(at);
            command.env(std::ffi::OsStr::from_bytes(name), std::ffi::OsStr::from_bytes(&value[1..]));
        }
    }
    let ends = connect(&mut command, control, orders).map_err(|e| format!("cannot set up the command's streams: {e}"))?;
    control.tell(&Report::Started).map_err(|e| format!("cannot reach the host: {e}"))?;
    let spawned = command.spawn();
    // Ours of the command's ends must go, or its output would never end.
    drop(command);
    let child = match spawned {
        Ok(child) => Pid::from_raw(child.id() as i32),
        Err(error) => {
            let name = orders.command.first().map(|name| name.display().to_string()).unwrap_or_default();
            let _ = control.tell(&Report::Warning(format!("{name}: {}", crate::failure::phrase(&error))));
            let code = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
            return Ok(Ended { code, input: None });
        }
    };
    let (input, outputs) = start_relays(control, ends, child).map_err(|e| format!("cannot start a thread: {e}"))?;
    let code = wait_for(child);
    // Nobody outlives the command, so that its output has an end.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    while !matches!(waitpid(None, None), Err(Errno::ECHILD)) {}
    for output in outputs {
        let _ = output.join();
    }
    Ok(Ended { code, input: Some(input) })
}

/// Reaps whoever ends, as the first process must, until `child` does.
fn wait_for(child: Pid) -> u8 {
    loop {
        match waitpid(None, None) {
            Ok(status) if status.pid() == Some(child) => {
                if let Some(code) = exit_code(status) {
                    return code as u8;
                }
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return 1,
        }
    }
}

/// Gives `command` its streams and keeps our ends of them.
fn connect(command: &mut Command, control: &Control, orders: &Orders) -> std::io::Result<Ends> {
    let mut ends = Ends { input: None, terminal: None, outputs: Vec::new() };
    let mut slave = None;
    if orders.terminals.contains(&true) {
        let (rows, columns) = orders.window;
        let window = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = nix::pty::openpty(Some(&window), None)?;
        let master = File::from(pty.master);
        ends.outputs.push((master.try_clone()?, control.terminal.try_clone()?));
        ends.terminal = Some(master);
        slave = Some(pty.slave);
    }
    let terminal = |wanted: bool| -> std::io::Result<Option<OwnedFd>> {
        if wanted { slave.as_ref().map(OwnedFd::try_clone).transpose() } else { Ok(None) }
    };
    let [input, output, error] = orders.terminals;
    if let Some(slave) = terminal(input)? {
        command.stdin(slave);
        ends.input = ends.terminal.as_ref().map(File::try_clone).transpose()?;
    } else {
        let (reader, writer) = std::io::pipe()?;
        command.stdin(reader);
        ends.input = Some(File::from(OwnedFd::from(writer)));
    }
    let mut output_stream = |wanted: bool, sink: &File| -> std::io::Result<Stdio> {
        if let Some(slave) = terminal(wanted)? {
            return Ok(slave.into());
        }
        let (reader, writer) = std::io::pipe()?;
        ends.outputs.push((File::from(OwnedFd::from(reader)), sink.try_clone()?));
        Ok(writer.into())
    };
    let stdout = output_stream(output, &control.stdout)?;
    let stderr = output_stream(error, &control.stderr)?;
    command.stdout(stdout).stderr(stderr);
    lead_session(command, orders.terminals.iter().position(|terminal| *terminal).map(|number| number as i32));
    Ok(ends)
}

/// Starts the threads: the input's, which ends at the host's farewell, and the
/// outputs', which end when nobody can write to them any more.
fn start_relays(control: &Control, ends: Ends, child: Pid) -> std::io::Result<(JoinHandle<()>, Vec<JoinHandle<()>>)> {
    let Ends { input, terminal, outputs } = ends;
    let frames = control.input.try_clone()?;
    let named = |name: &str| thread::Builder::new().name(name.into());
    let reading = named("input").spawn(move || relay_input(frames, input, terminal.as_ref(), child))?;
    let writing = outputs.into_iter().map(|(source, sink)| named("output").spawn(move || relay_output(source, sink)));
    Ok((reading, writing.collect::<std::io::Result<_>>()?))
}

/// Host to command, until the host says farewell.
fn relay_input(frames: File, mut input: Option<File>, terminal: Option<&File>, child: Pid) {
    let mut frames = BufReader::with_capacity(PAYLOAD_MAX + 16, frames);
    while let Ok(Some(frame)) = Frame::read(&mut frames) {
        match frame {
            Frame::Data(bytes) => {
                // A command that has closed its input has no use for more.
                if input.as_mut().is_some_and(|input| input.write_all(&bytes).is_err()) {
                    input = None;
                }
            }
            Frame::End => input = None,
            Frame::Farewell => return,
            Frame::Window(rows, columns) => {
                if let Some(terminal) = terminal {
                    let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
                    let _ = rustix::termios::tcsetwinsize(terminal, size);
                }
            }
            Frame::Signal(number) => {
                if let Ok(signal) = Signal::try_from(i32::from(number)) {
                    // It leads a process group of its own.
                    let _ = kill(Pid::from_raw(-child.as_raw()), signal);
                }
            }
        }
    }
}

/// Command to host, until the command's end is closed. When the host's end is
/// closed, ours closes too, and the command gets its SIGPIPE.
fn relay_output(mut source: File, mut sink: File) {
    let mut buffer = vec![0; PAYLOAD_MAX];
    loop {
        match source.read(&mut buffer) {
            // EIO: nobody has the terminal open any more.
            Ok(0) => return,
            Ok(length) => {
                if sink.write_all(buffer.get(..length).unwrap_or_default()).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
