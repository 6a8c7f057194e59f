//! One guest, from its connection to its end.

use crate::endpoint::{Answer, Endpoint};
use crate::fence::peer_process;
use crate::later::Laters;
use crate::message::{Message, MessageReader, ReadError, send_reply};
use crate::server::Shared;
use crate::stop::Stop;
use crate::worker::Guest;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};

/// Why a connection ended.
pub(crate) enum End {
    /// The guest closed it.
    Closed,
    /// We are to stop.
    Stopped,
    /// Anything else: the reason for the log.
    Because(String),
}

/// Serves the guest at the other end of `socket` until it goes. Others who
/// call at `listener` meanwhile are turned away, so that their user sees an
/// error instead of a boot that hangs.
pub(crate) fn serve(socket: &UnixStream, listener: &UnixListener, shared: &Shared, stop: &Stop) -> End {
    match Connection::new(socket, shared) {
        Ok(mut connection) => connection.run(listener, stop),
        Err(reason) => End::Because(reason),
    }
}

/// The process at the other end. User Mode Linux leaves helper processes that
/// hold its socket when it is killed, so that the end of the stream never
/// comes: the end of the process that connected counts too.
struct Peer {
    process: i32,
    alive: OwnedFd,
}

impl Peer {
    /// None where the process is out of sight, or the kernel lacks pidfds.
    fn of(socket: &UnixStream) -> Option<Peer> {
        let process = peer_process(socket)?;
        let alive = pidfd_open(Pid::from_raw(process)?, PidfdFlags::empty()).ok()?;
        Some(Peer { process, alive })
    }
}

struct Connection<'a> {
    socket: &'a UnixStream,
    peer: Option<Peer>,
    reader: MessageReader,
    endpoint: Endpoint,
    guest: Arc<Guest>,
}

impl<'a> Connection<'a> {
    fn new(socket: &'a UnixStream, shared: &Shared) -> Result<Connection<'a>, String> {
        let guest = Arc::new(Guest {
            handler: (shared.handlers)().map_err(|error| error.to_string())?,
            counters: Arc::clone(&shared.counters),
            laters: Arc::new(Laters::default()),
            spin_limit: shared.options.poll.limit(),
            end: Stop::new().map_err(|error| format!("eventfd: {error}"))?,
            reason: Mutex::new(None),
        });
        let endpoint = Endpoint::new(&shared.options.tag, shared.options.request_queues, Arc::clone(&guest));
        Ok(Connection { socket, peer: Peer::of(socket), reader: MessageReader::default(), endpoint, guest })
    }

    fn run(&mut self, listener: &UnixListener, stop: &Stop) -> End {
        loop {
            let mut fds = vec![
                PollFd::new(stop, PollFlags::IN),
                PollFd::new(&self.guest.end, PollFlags::IN),
                PollFd::new(self.socket, PollFlags::IN),
                PollFd::new(listener, PollFlags::IN),
            ];
            fds.extend(self.peer.as_ref().map(|peer| PollFd::new(&peer.alive, PollFlags::IN)));
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return End::Because(format!("poll: {error}")),
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            let is_ready = |index: usize| ready.get(index).copied().unwrap_or(false);
            if is_ready(0) {
                return End::Stopped;
            }
            if is_ready(1) {
                let reason = self.guest.reason.lock().unwrap_or_else(PoisonError::into_inner).take();
                return End::Because(reason.unwrap_or_else(|| "it was given up".into()));
            }
            if is_ready(2)
                && let Err(end) = self.read()
            {
                return end;
            }
            match &self.peer {
                Some(peer) if is_ready(4) => return End::Because(format!("its process {} ended", peer.process)),
                _ if is_ready(3) => self.turn_away(listener),
                _ => {}
            }
        }
    }

    fn turn_away(&self, listener: &UnixListener) {
        let Ok((other, _)) = listener.accept() else { return };
        let who = |process: Option<i32>| process.map_or("another process".into(), |pid| format!("process {pid}"));
        let served = who(self.peer.as_ref().map(|peer| peer.process));
        let other = who(peer_process(&other));
        tracing::warn!("{other} is turned away: this socket serves {served}; each guest needs a socket of its own");
    }

    fn read(&mut self) -> Result<(), End> {
        loop {
            match self.reader.read(self.socket) {
                Ok(Some(message)) => self.answer(message).map_err(End::Because)?,
                Ok(None) => return Ok(()),
                Err(ReadError::Closed) => return Err(End::Closed),
                Err(ReadError::Broken(reason)) => return Err(End::Because(reason)),
            }
        }
    }

    /// Does what a message says and answers it exactly once, or not at all if
    /// no answer is due.
    fn answer(&mut self, mut message: Message) -> Result<(), String> {
        let name = message.request().map_or_else(|| format!("message {}", message.code), |request| format!("{request:?}"));
        let acknowledge = |number: u64| number.to_le_bytes().to_vec();
        let payload = match self.endpoint.handle(&mut message) {
            Ok(Answer::Payload(payload)) => Some(payload),
            Ok(Answer::Done) => message.need_reply.then(|| acknowledge(0)),
            // A frontend that asks to be told decides by itself; one that
            // does not would go on as if all were well.
            Err(reason) if message.need_reply && !message.expects_payload() => {
                tracing::warn!("{name} is refused: {reason}");
                Some(acknowledge(1))
            }
            Err(reason) => return Err(format!("{name}: {reason}")),
        };
        tracing::debug!("{name}: {} bytes, {} answered", message.payload.len(), payload.as_ref().map_or(0, Vec::len));
        payload.map_or(Ok(()), |payload| {
            send_reply(self.socket.as_fd(), message.code, &payload).map_err(|error| format!("its socket: {error}"))
        })
    }
}
