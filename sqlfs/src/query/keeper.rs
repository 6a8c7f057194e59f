//! [`Keeper`]: the process that starts workers and kills them. A server may
//! do neither once it is confined; and workers must not come from a process
//! that has threads, or answers to guests.

use super::channel::retry;
use super::process;
use super::renewal;
use super::worker::{self, Errand};
use rustix::io::{IoSlice, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use std::collections::HashSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Questions: what to do, and a process id. Answers: a number, and a process id.
const START_READER: u8 = b'r';
const START_WRITER: u8 = b'w';
const START_MESSENGER: u8 = b'm';
const END: u8 = b'k';

/// What a child of the keeper is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// Queries.
    Reader,
    /// Changes of rows.
    Writer,
    /// Brings a catalog up to date.
    Messenger,
}

impl Role {
    const ALL: [(u8, Role); 3] = [(START_READER, Role::Reader), (START_WRITER, Role::Writer), (START_MESSENGER, Role::Messenger)];

    fn of(word: u8) -> Option<Role> {
        Role::ALL.iter().find(|(known, _)| *known == word).map(|(_, role)| *role)
    }

    fn word(self) -> u8 {
        Role::ALL.iter().find(|(_, role)| *role == self).map_or(START_READER, |(word, _)| *word)
    }
}

/// The end of it that the server has.
#[derive(Debug)]
pub(crate) struct Keeper {
    control: Mutex<OwnedFd>,
}

/// A worker that has just been started.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: i32,
    pub(crate) stream: UnixStream,
}

impl Keeper {
    /// Forks it.
    ///
    /// # Errors
    /// The process has several threads; out of descriptors or processes.
    pub(crate) fn start(errand: &Errand) -> io::Result<Keeper> {
        let (ours, its) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        process::fork(|| {
            keep(its.as_fd(), errand);
            0
        })?;
        Ok(Keeper { control: Mutex::new(ours) })
    }

    fn control(&self) -> MutexGuard<'_, OwnedFd> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new worker or messenger.
    ///
    /// # Errors
    /// The keeper is gone, or cannot start one.
    pub(crate) fn start_child(&self, role: Role) -> io::Result<Started> {
        let control = self.control();
        say(control.as_fd(), role.word(), 0, None)?;
        match hear(control.as_fd())? {
            Some((0, pid, Some(stream))) => Ok(Started { pid, stream: UnixStream::from(stream) }),
            Some(_) => Err(io::Error::other("no process can be started")),
            None => Err(gone()),
        }
    }

    /// Ends a worker, whatever it does. Returns the signal that had killed it before.
    ///
    /// # Errors
    /// The keeper is gone.
    pub(crate) fn end(&self, pid: i32) -> io::Result<Option<i32>> {
        let control = self.control();
        say(control.as_fd(), END, pid, None)?;
        let (signal, ..) = hear(control.as_fd())?.ok_or_else(gone)?;
        Ok(Some(i32::from(signal)).filter(|signal| *signal != 0))
    }
}

fn gone() -> io::Error {
    io::Error::other("the process that starts workers is gone: mount again")
}

fn say(control: BorrowedFd<'_>, word: u8, pid: i32, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut message = [word; 5];
    message[1..].copy_from_slice(&pid.to_le_bytes());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let files = file.map(|file| [file]);
    if let Some(files) = &files {
        ancillary.push(SendAncillaryMessage::ScmRights(files));
    }
    retry(|| sendmsg(control, &[IoSlice::new(&message)], &mut ancillary, SendFlags::NOSIGNAL))?;
    Ok(())
}

fn hear(control: BorrowedFd<'_>) -> io::Result<Option<(u8, i32, Option<OwnedFd>)>> {
    let mut message = [0; 5];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = retry(|| recvmsg(control, &mut [IoSliceMut::new(&mut message)], &mut ancillary, RecvFlags::CMSG_CLOEXEC))?;
    let mut file = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(files) = message {
            file = files.last();
        }
    }
    let [word, pid @ ..] = message;
    Ok((got.bytes == 5).then_some((word, i32::from_le_bytes(pid), file)))
}

/// What the keeper does until nobody holds the other end.
fn keep(control: BorrowedFd<'_>, errand: &Errand) {
    leave_everything(control);
    let mut workers = HashSet::new();
    while let Ok(Some((word, pid, _))) = hear(control) {
        let answered = match Role::of(word).map(|role| start(errand, role)) {
            Some(Ok((pid, stream))) => {
                workers.insert(pid);
                say(control, 0, pid, Some(stream.as_fd()))
            }
            Some(Err(_)) => say(control, 1, 0, None),
            // Only a child of ours, and one that is not waited for yet: its
            // number can be nobody else's.
            None if word == END && workers.remove(&pid) => say(control, end(pid), pid, None),
            None => say(control, 0, pid, None),
        };
        if answered.is_err() {
            break;
        }
    }
    for pid in workers {
        end(pid);
    }
}

/// The terminal, whoever waits for the end of our output, the current directory.
fn leave_everything(control: BorrowedFd<'_>) {
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir("/");
    if let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
    process::close_all_but(control);
}

fn start(errand: &Errand, role: Role) -> io::Result<(i32, UnixStream)> {
    let (ours, its) = UnixStream::pair()?;
    let keeper = rustix::process::getpid();
    let pid = process::fork(|| {
        // A worker does not outlive the keeper.
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
        if rustix::process::getppid() != Some(keeper) {
            return 1;
        }
        process::close_all_but(its.as_fd());
        match role {
            Role::Reader => worker::work(&its, errand, false),
            Role::Writer => worker::work(&its, errand, true),
            Role::Messenger => renewal::carry(&its, errand),
        }
    })?;
    Ok((pid.as_raw_nonzero().get(), ours))
}

/// Kills a worker; the signal that it had died of already, or 0.
fn end(pid: i32) -> u8 {
    let Some(pid) = Pid::from_raw(pid) else { return 0 };
    // One that has died by itself is a zombie, which a signal does nothing to.
    let already = retry(|| waitpid(Some(pid), WaitOptions::NOHANG)).ok().flatten();
    let status = match already {
        Some((_, status)) => status,
        None => {
            let _ = kill_process(pid, Signal::KILL);
            let _ = retry(|| waitpid(Some(pid), WaitOptions::empty()));
            return 0;
        }
    };
    status.terminating_signal().and_then(|signal| u8::try_from(signal).ok()).unwrap_or(0)
}
