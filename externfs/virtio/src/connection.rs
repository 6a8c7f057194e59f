//! One guest, from its connection to its end.

use crate::endpoint::{Answer, Endpoint};
use crate::fence::peer_process;
use crate::foreign::Undertaker;
use crate::later::Laters;
use crate::message::{Message, MessageReader, ReadError, send_reply};
use crate::server::Shared;
use crate::stop::Stop;
use crate::worker::Guest;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// After so many messages in a row there is a look at what else happens.
const MESSAGES_A_TURN: usize = 64;
/// How long somebody who calls while a guest is served waits for it to go.
const CALLER_WAITS: Duration = Duration::from_secs(3);

/// Why a connection ended.
pub(crate) enum End {
    /// The guest closed it.
    Closed,
    /// The process that had connected is no more.
    Died(i32),
    /// We are to stop.
    Stopped,
    /// Anything else: the reason for the log.
    Because(String),
}

/// Serves the guest at the other end of `socket` until it goes. Others who
/// call at `listener` meanwhile are turned away after a while, so that their
/// user sees an error instead of a boot that hangs.
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

/// What a connection waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Event {
    Stop,
    GivenUp,
    Message,
    PeerDied,
    Caller,
}

/// Somebody else who wants to connect. A guest that was killed takes a while
/// to die, and whoever restarted it calls meanwhile: not to be turned away.
#[derive(Default)]
struct Caller {
    since: Option<Instant>,
}

impl Caller {
    /// How long it still has to wait; None if nobody calls.
    fn time_left(&self) -> Option<Duration> {
        self.since.map(|since| CALLER_WAITS.saturating_sub(since.elapsed()))
    }

    /// Takes down that somebody calls. True when that was long ago.
    fn has_waited_enough(&mut self, calls: bool) -> bool {
        if calls {
            self.since.get_or_insert_with(Instant::now);
        }
        self.time_left() == Some(Duration::ZERO)
    }
}

struct Connection<'a> {
    socket: &'a UnixStream,
    peer: Option<Peer>,
    reader: MessageReader,
    endpoint: Endpoint,
    guest: Arc<Guest>,
    undertaker: Arc<Undertaker>,
}

impl<'a> Connection<'a> {
    fn new(socket: &'a UnixStream, shared: &Shared) -> Result<Connection<'a>, String> {
        let undertaker = &shared.undertaker;
        if undertaker.is_full() {
            return Err("file descriptors that came from here cannot be closed yet; end the process that serves their files".into());
        }
        let guest = Arc::new(Guest {
            handler: (shared.handlers)().map_err(|error| error.to_string())?,
            counters: Arc::clone(&shared.counters),
            laters: Arc::new(Laters::default()),
            spin_limit: shared.options.poll.limit(),
            gate: Arc::clone(&shared.gate),
            stuck: Arc::default(),
            end: Stop::new().map_err(|error| format!("eventfd: {error}"))?,
            reason: Mutex::new(None),
        });
        let endpoint = Endpoint::new(&shared.options.tag, shared.options.request_queues, Arc::clone(&guest));
        Ok(Connection {
            socket,
            peer: Peer::of(socket),
            reader: MessageReader::new(undertaker),
            endpoint,
            guest,
            undertaker: Arc::clone(undertaker),
        })
    }

    fn run(&mut self, listener: &UnixListener, stop: &Stop) -> End {
        let mut caller = Caller::default();
        loop {
            let ready = match self.wait(listener, stop, &caller) {
                Ok(ready) => ready,
                Err(Errno::INTR) => continue,
                Err(error) => return End::Because(format!("poll: {error}")),
            };
            if ready.contains(&Event::Stop) {
                return End::Stopped;
            }
            if ready.contains(&Event::GivenUp) {
                let reason = self.guest.reason.lock().unwrap_or_else(PoisonError::into_inner).take();
                return End::Because(reason.unwrap_or_else(|| "it was given up".into()));
            }
            if ready.contains(&Event::Message)
                && let Err(end) = self.read()
            {
                return end;
            }
            if let Some(peer) = self.peer.as_ref().filter(|_| ready.contains(&Event::PeerDied)) {
                return End::Died(peer.process);
            }
            if caller.has_waited_enough(ready.contains(&Event::Caller)) {
                self.turn_away(listener);
                caller = Caller::default();
            }
        }
    }

    /// Waits until something happens: what.
    fn wait(&self, listener: &UnixListener, stop: &Stop, caller: &Caller) -> Result<Vec<Event>, Errno> {
        let mut sources = vec![(Event::Stop, stop.as_fd()), (Event::GivenUp, self.guest.end.as_fd())];
        sources.push((Event::Message, self.socket.as_fd()));
        sources.extend(self.peer.as_ref().map(|peer| (Event::PeerDied, peer.alive.as_fd())));
        let limit = caller.time_left();
        if limit.is_none() {
            sources.push((Event::Caller, listener.as_fd()));
        }
        let mut fds: Vec<_> = sources.iter().map(|(_, fd)| PollFd::new(fd, PollFlags::IN)).collect();
        let limit = limit.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
        poll(&mut fds, limit.as_ref())?;
        let ready = sources.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|((event, _), _)| *event).collect())
    }

    fn turn_away(&self, listener: &UnixListener) {
        let Ok((other, _)) = listener.accept() else { return };
        let who = |process: Option<i32>| process.map_or("another process".into(), |pid| format!("process {pid}"));
        let served = who(self.peer.as_ref().map(|peer| peer.process));
        let other = who(peer_process(&other));
        tracing::warn!("{other} is turned away: this socket serves {served}; each guest needs a socket of its own");
    }

    fn read(&mut self) -> Result<(), End> {
        // Who has always more to say shall not keep anybody from stopping it.
        for _ in 0..MESSAGES_A_TURN {
            match self.reader.read(self.socket) {
                Ok(Some(message)) => self.answer(message).map_err(End::Because)?,
                Ok(None) => break,
                Err(ReadError::Closed) => return Err(End::Closed),
                Err(ReadError::Broken(reason)) => return Err(End::Because(reason)),
            }
        }
        Ok(())
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
                self.guest.gate.pass(|| tracing::warn!("{name} is refused: {reason}"));
                Some(acknowledge(1))
            }
            Err(reason) => return Err(format!("{name}: {reason}")),
        };
        tracing::debug!("{name}: {} bytes, {} answered", message.payload.len(), payload.as_ref().map_or(0, Vec::len));
        let code = message.code;
        drop(message);
        if self.undertaker.is_full() {
            return Err("it sent file descriptors that cannot be closed".into());
        }
        payload.map_or(Ok(()), |payload| send_reply(self.socket.as_fd(), code, &payload).map_err(|error| format!("its socket: {error}")))
    }
}
