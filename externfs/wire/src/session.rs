//! [`Session`]: one kernel's conversation with one export.
//!
//! # Locks
//! ```text
//! LogGate::state      a few instructions
//! Habit::state        a look at four directories
//! Waiting::state      a few instructions; nothing is called under it
//! Core::negotiated    written by INIT and DESTROY only; nothing is called under it
//! ```

use crate::abi::{self, InitFlags};
use crate::answer::{Answer, Body};
use crate::gate::LogGate;
use crate::habit::Habit;
use crate::init::{self, Config, InitRequest, Negotiated, Ours};
use crate::opcode::{Counters, Counts, Opcode};
use crate::ops::{self, Call};
use crate::passthrough::Passthrough;
use crate::reply;
use crate::request::{self, Header, Operation};
use crate::transport::{Outcome, Reply};
use crate::waiting::Waiting;
use externfs::{Caller, DataSource, Errno, Error, Export, HandleId, Lock, NodeId, Result};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Longest extension block: one group takes 16 bytes, and nothing else is asked for.
const EXTENSION_MAX: usize = 4096;

/// Set in [`Core::terms`] once INIT has agreed; no flag of the protocol's.
const AGREED: u64 = 1 << 63;

/// What a session and the operations that outlast a call of it share.
struct Core {
    export: Arc<dyn Export>,
    config: Config,
    passthrough: Option<Arc<dyn Passthrough>>,
    /// [`InitFlags`] and [`AGREED`]; 0 before INIT.
    terms: AtomicU64,
    negotiated: Mutex<Option<Negotiated>>,
    waiting: Arc<Waiting>,
    counters: Counters,
    gate: Arc<LogGate>,
    habit: Habit,
}

/// One kernel's conversation with one export: decodes its requests, calls the
/// export, encodes the answers. [`Session::handle`] is called from as many
/// threads as the transport has.
///
/// Dropping it ends every wait ([`Outcome::Later`]) with EINTR and takes back
/// whatever the kernel held.
pub struct Session {
    core: Arc<Core>,
}

impl Session {
    /// A conversation that is yet to begin with INIT.
    #[must_use]
    pub fn new(export: Arc<dyn Export>, config: Config) -> Session {
        Session::make(export, config, None, Arc::default())
    }

    /// As [`Session::new`], with the allowance of log lines that others have as
    /// well: for a transport whose peer begins a new conversation at will.
    #[must_use]
    pub fn with_gate(export: Arc<dyn Export>, config: Config, gate: Arc<LogGate>) -> Session {
        Session::make(export, config, None, gate)
    }

    /// As [`Session::new`], for a transport that can have the kernel serve
    /// open files from the host's.
    #[must_use]
    pub fn with_passthrough(export: Arc<dyn Export>, config: Config, passthrough: Arc<dyn Passthrough>) -> Session {
        Session::make(export, config, Some(passthrough), Arc::default())
    }

    fn make(export: Arc<dyn Export>, config: Config, passthrough: Option<Arc<dyn Passthrough>>, gate: Arc<LogGate>) -> Session {
        Session {
            core: Arc::new(Core {
                export,
                config,
                passthrough,
                terms: AtomicU64::new(0),
                negotiated: Mutex::new(None),
                waiting: Arc::default(),
                counters: Counters::new(),
                gate,
                habit: Habit::default(),
            }),
        }
    }

    /// The export at the other end.
    #[must_use]
    pub fn export(&self) -> &Arc<dyn Export> {
        &self.core.export
    }

    /// What INIT came to; None before it and after DESTROY.
    #[must_use]
    pub fn negotiated(&self) -> Option<Negotiated> {
        *self.core.negotiated.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests so far, by kind.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.core.counters.snapshot()
    }

    /// Operations that wait for something at the moment.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.core.waiting.len()
    }

    /// Ends every wait. One that did not get its lock by then has no answer: with
    /// EINTR the guest's kernel would look for a signal that is not there, and the
    /// program would see errno 512. A transport that goes on afterwards hands the
    /// request in once more.
    pub fn interrupt_all(&self) {
        self.core.waiting.put_off_all();
    }

    /// Serves one request. `request` holds the whole message and nothing else;
    /// `reply` has as much room as the kernel gave.
    pub fn handle(&self, request: &mut dyn DataSource, reply: &mut dyn Reply) -> Outcome {
        let header = match read_header(request) {
            Ok(header) => header,
            Err(reason) => return Outcome::Broken(reason),
        };
        let opcode = Opcode::from_raw(header.opcode);
        self.core.counters.add(opcode);
        let Some(opcode) = opcode else {
            tracing::debug!(opcode = header.opcode, "unknown request, answered ENOSYS");
            self.core.refuse(&header, reply, &Errno::ENOSYS.into());
            return Outcome::Replied;
        };
        let room = reply.room();
        let result = match self.core.serve(&header, opcode, request, reply) {
            Ok(Done::Wait { handle, lock }) => return self.core.wait(header, handle, lock, reply),
            Ok(Done::Answer(answer)) => Ok(answer),
            Err(error) => Err(error),
        };
        if opcode.is_silent() {
            result.err().into_iter().for_each(|error| self.core.log(&header, &error));
            return Outcome::Silent;
        }
        self.core.finish(&header, room, reply, result);
        Outcome::Replied
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.core.waiting.end_all(true);
        // A wait that is just ending still holds the export.
        self.core.export.reset();
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("negotiated", &self.negotiated()).finish_non_exhaustive()
    }
}

/// What became of an operation; see [`Body`] for its size.
#[allow(clippy::large_enum_variant)]
enum Done {
    Answer(Answer),
    Wait { handle: HandleId, lock: Lock },
}

/// The bytes behind the header: most requests' fit in place.
struct Args {
    small: [u8; 256],
    large: Vec<u8>,
    len: usize,
}

impl Args {
    /// Takes exactly `len` bytes. The caller has bounded `len`.
    fn take(source: &mut dyn DataSource, len: usize) -> Result<Args> {
        let mut args = Args { small: [0; 256], large: Vec::new(), len };
        let space = match args.small.get_mut(..len) {
            Some(space) => space,
            None => {
                args.large.resize(len, 0);
                &mut args.large
            }
        };
        if source.take(space)? < len { Err(Errno::EINVAL.into()) } else { Ok(args) }
    }

    fn bytes(&self) -> &[u8] {
        if self.large.is_empty() { self.small.get(..self.len).unwrap_or_default() } else { &self.large }
    }
}

/// Err: no answer can be addressed.
fn read_header(request: &mut dyn DataSource) -> std::result::Result<Header, String> {
    let total = request.remaining();
    let mut bytes = [0; abi::REQUEST_HEADER_LEN];
    let taken = request.take(&mut bytes).map_err(|error| format!("a request cannot be read: {error}"))?;
    if taken < bytes.len() {
        return Err(format!("a request of {taken} bytes is shorter than its header"));
    }
    let header = Header::parse(&bytes).map_err(|_| "a header cannot be parsed".to_owned())?;
    if header.len as usize != total {
        let Header { len, opcode, .. } = header;
        return Err(format!("request {opcode} says that it has {len} bytes, but has {total}"));
    }
    Ok(header)
}

impl Core {
    /// What INIT agreed upon; None before it.
    fn terms(&self) -> Option<InitFlags> {
        let bits = self.terms.load(Ordering::Acquire);
        (bits & AGREED != 0).then(|| InitFlags::from_bits_retain(bits & !AGREED))
    }

    fn set_negotiated(&self, negotiated: Option<Negotiated>) {
        *self.negotiated.lock().unwrap_or_else(PoisonError::into_inner) = negotiated;
        self.terms.store(negotiated.map_or(0, |agreed| agreed.flags.bits() | AGREED), Ordering::Release);
    }

    fn serve(&self, header: &Header, opcode: Opcode, request: &mut dyn DataSource, reply: &mut dyn Reply) -> Result<Done> {
        let terms = match self.terms() {
            Some(terms) => terms,
            None if opcode == Opcode::Init => InitFlags::empty(),
            None => return Err(malformed(header, Errno::EIO, "it came before INIT")),
        };
        // A guest can name the same memory again and again in one message, and what
        // takes long is not over when the guest is.
        if header.len as usize > init::longest_request(&self.config) {
            return Err(malformed(header, Errno::EINVAL, "no kernel needs so many"));
        }
        let streams = matches!(opcode, Opcode::Write | Opcode::BatchForget);
        let args_len = match request.remaining().checked_sub(header.extension_len) {
            Some(len) if header.extension_len <= EXTENSION_MAX && streams => len.min(opcode.args_limit()),
            Some(len) if header.extension_len <= EXTENSION_MAX => len,
            _ => return Err(malformed(header, Errno::EINVAL, "its extensions are longer than it is, or than 4 KiB")),
        };
        if streams && header.extension_len > 0 {
            return Err(malformed(header, Errno::EINVAL, "it has extensions"));
        }
        if args_len > opcode.args_limit() {
            return Err(opcode.too_long().into());
        }
        let args = Args::take(request, args_len)?;
        let operation = Operation::parse(opcode, terms, args.bytes());
        let operation = operation.map_err(|errno| match errno {
            Errno::EINVAL => malformed(header, errno, "its arguments are not what they should be"),
            _ => errno.into(),
        })?;
        let mut caller = header.caller();
        if self.config.callers_are_root {
            caller = Caller { pid: caller.pid, ..Caller::root() };
        }
        if header.extension_len > 0 {
            let extensions = Args::take(request, header.extension_len)?;
            caller.supplementary_group = request::supplementary_group(extensions.bytes())?;
        }
        let passthrough = self.passthrough.as_deref().filter(|_| terms.contains(InitFlags::PASSTHROUGH));
        let passthrough = passthrough.map(|passthrough| (passthrough, passthrough.mark()));
        let node = NodeId(header.node);
        let operation = if terms.contains(init::UNOPENED) { operation.unopened(node) } else { operation };
        let call = Call { export: &*self.export, config: &self.config, terms, habit: &self.habit, passthrough, node, caller };
        self.run(&call, operation, request, reply)
    }

    fn run(&self, call: &Call<'_>, operation: Operation<'_>, request: &mut dyn DataSource, reply: &mut dyn Reply) -> Result<Done> {
        let answer = match operation {
            Operation::Init(init) => self.init(&init)?,
            Operation::Destroy => {
                self.end_conversation();
                Answer::empty()
            }
            Operation::Interrupt(unique) => {
                self.waiting.interrupt(unique);
                Answer::empty()
            }
            Operation::SetLock { handle, lock, wait } => match ops::locks::try_lock(call, handle, &lock, wait)? {
                Some(answer) => answer,
                None => return Ok(Done::Wait { handle, lock }),
            },
            operation => dispatch(call, operation, request, reply)?,
        };
        Ok(Done::Answer(answer))
    }

    /// Agrees with the kernel. A second INIT is that of a guest that rebooted:
    /// what it held before it holds no more.
    fn init(&self, request: &InitRequest) -> Result<Answer> {
        if self.terms().is_some() {
            self.end_conversation();
        }
        let ours = Ours {
            config: &self.config,
            features: self.export.features(),
            policy: self.export.cache_policy(),
            passthrough: self.passthrough.is_some(),
            unopened: &|| self.export.begin_unopened(),
        };
        let agreed = init::negotiate(&ours, request)?;
        let Some(agreed) = agreed else { return Ok(init::encode_other_major().into()) };
        tracing::debug!(minor = request.minor, offered = ?agreed.offered, agreed = ?agreed.flags, "INIT");
        self.set_negotiated(Some(agreed));
        Ok(init::encode(&agreed).into())
    }

    fn end_conversation(&self) {
        self.set_negotiated(None);
        self.waiting.end_all(false);
        self.habit.reset();
        self.export.reset();
    }

    /// Hands a lock request that has to wait to a thread that may.
    fn wait(self: &Arc<Core>, header: Header, handle: HandleId, lock: Lock, reply: &mut dyn Reply) -> Outcome {
        let ticket = match self.waiting.enter(header.unique) {
            Ok(ticket) => ticket,
            Err(errno) => {
                self.refuse(&header, reply, &errno.into());
                return Outcome::Replied;
            }
        };
        let core = self.clone();
        Outcome::Later(Box::new(move |reply| {
            let room = reply.room();
            let result = ops::locks::wait_for_lock(&*core.export, handle, &lock, ticket.interrupt());
            let is_put_off = ticket.is_put_off() && result.as_ref().is_err_and(|error| error.errno() == Errno::EINTR);
            drop(ticket);
            if is_put_off {
                return;
            }
            core.finish(&header, room, reply, result);
        }))
    }

    /// Sends what the operation came to. `room` is what `reply` had before it.
    fn finish(&self, header: &Header, room: usize, reply: &mut dyn Reply, result: Result<Answer>) {
        let Answer { body, held } = match result {
            Ok(answer) => answer,
            Err(error) => return self.refuse(header, reply, &error),
        };
        let put = match &body {
            Body::Empty | Body::InReply => Ok(()),
            Body::Fixed(payload) => reply.put(payload.as_bytes()),
            Body::Bytes(bytes) => reply.put(bytes),
        };
        if let Err(error) = put {
            held.give_back(&*self.export, self.passthrough.as_deref());
            let error = Error::because(Errno::EIO, format!("no room for the answer: {error}"));
            return self.refuse(header, reply, &error);
        }
        let len = room.saturating_sub(reply.room());
        tracing::trace!(opcode = word(header), unique = header.unique, node = header.node, len, "answered");
        if let Err(error) = reply.finish(reply::header(header.unique, None, len)) {
            tracing::debug!(opcode = word(header), node = header.node, %error, "an answer could not be delivered");
            held.give_back(&*self.export, self.passthrough.as_deref());
        }
    }

    /// Answers with an error; its reason is for the log alone.
    fn refuse(&self, header: &Header, reply: &mut dyn Reply, error: &Error) {
        let errno = error.errno();
        self.log(header, error);
        tracing::trace!(opcode = word(header), unique = header.unique, node = header.node, errno = errno.symbol(), "refused");
        reply.rewind();
        if let Err(error) = reply.finish(reply::header(header.unique, Some(errno), 0)) {
            tracing::debug!(opcode = word(header), node = header.node, %error, "an answer could not be delivered");
        }
    }

    fn log(&self, header: &Header, error: &Error) {
        let Some(reason) = error.reason() else { return };
        self.gate.pass(|| tracing::warn!(opcode = word(header), node = header.node, errno = error.errno().symbol(), "{reason}"));
    }
}

/// A kernel sends no such request; the reason says what is wrong with it.
fn malformed(header: &Header, errno: Errno, reason: &str) -> Error {
    Error::because(errno, format!("malformed request of {} bytes: {reason}", header.len))
}

/// The operation's name for the log.
fn word(header: &Header) -> String {
    Opcode::from_raw(header.opcode).map_or_else(|| header.opcode.to_string(), |opcode| opcode.to_string())
}

/// What needs the export alone.
fn dispatch(call: &Call<'_>, operation: Operation<'_>, request: &mut dyn DataSource, reply: &mut dyn Reply) -> Result<Answer> {
    use ops::{attrs, files, ioctl, listings, locks, names, xattrs};
    match operation {
        Operation::Lookup(component) => names::lookup(call, component),
        Operation::Forget(count) => {
            call.export.forget(call.node, count);
            Ok(Answer::empty())
        }
        Operation::BatchForget(count) => names::batch_forget(call, count, request),
        Operation::GetAttr(handle) => attrs::get_attr(call, handle),
        Operation::StatX(handle) => attrs::statx(call, handle),
        Operation::SetAttr(handle, change) => attrs::set_attr(call, handle, &change),
        Operation::ReadLink => attrs::read_link(call),
        Operation::Make(making, new) => names::make(call, &making, &new),
        Operation::Unlink(name) => names::unlink(call, name),
        Operation::RmDir(name) => names::rmdir(call, name),
        Operation::Rename { from, to_parent, to, flags } => names::rename(call, from, (to_parent, to), flags),
        Operation::Link { node, name } => names::link(call, node, name),
        Operation::Open(flags) => files::open(call, flags),
        Operation::Create(making, flags) => files::create(call, &making, flags),
        Operation::TmpFile { umask, flags } => files::tmp_file(call, umask, flags),
        Operation::Read(args) => files::read(call, &args, reply),
        Operation::Write(args) => files::write(call, &args, request),
        Operation::StatFs => attrs::statfs(call),
        Operation::Release(args) => files::release(call, &args),
        Operation::FSync { handle, data_only } => files::fsync(call, handle, data_only),
        Operation::Flush { handle, lock_owner } => files::flush(call, handle, lock_owner),
        Operation::SetXattr { name, value, flags } => xattrs::set_xattr(call, name, value, flags),
        Operation::GetXattr { name, size } => xattrs::get_xattr(call, name, size),
        Operation::ListXattr { size } => xattrs::list_xattr(call, size),
        Operation::RemoveXattr { name } => xattrs::remove_xattr(call, name),
        Operation::OpenDir => listings::open_dir(call),
        Operation::ReadDir { args, plus } => listings::read_dir(call, &args, plus, reply.room()),
        Operation::ReleaseDir(handle) => listings::release_dir(call, handle),
        Operation::FSyncDir { handle, data_only } => listings::fsync_dir(call, handle, data_only),
        Operation::GetLock(handle, wanted) => locks::get_lock(call, handle, &wanted),
        Operation::Access(wanted) => attrs::access(call, wanted),
        Operation::Ioctl(args) => ioctl::ioctl(call, &args),
        Operation::FAllocate { handle, offset, length, flags } => files::fallocate(call, handle, (offset, length), flags),
        Operation::Seek { handle, offset, what } => files::seek(call, handle, offset, what),
        Operation::Copy { args, wide } => files::copy(call, &args, wide),
        Operation::SyncFs => call.export.sync().map(|()| Answer::empty()),
        Operation::NotifyReply => Ok(Answer::empty()),
        // The session's own; see `Core::run`.
        Operation::Init(_) | Operation::Destroy | Operation::Interrupt(_) | Operation::SetLock { .. } => Err(Errno::EIO.into()),
        Operation::Never => Err(Errno::ENOSYS.into()),
    }
}
