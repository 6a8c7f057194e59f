//! The mount driven by our own protocol code, the one that serves guests too:
//! a loop that reads a request, hands it to [`externfs_wire::Session`] and
//! writes the answer. It carries what fuser cannot: O_TMPFILE, syncfs, birth
//! times, supplementary groups, setuid dropped by us, locks that the host sees
//! and a signal can interrupt.

use crate::crew::Crew;
use crate::device::{Backing, Device};
use crate::kernel;
use crate::options::ServeOptions;
use crate::order::{Order, Place};
use crate::passthrough::{Asked, Backings, Claim, PassthroughChoice, is_permitted};
use crate::serve::{NATIVE_THREADS, ServeError};
use crate::uring::{self, Queues, Rings, UringChoice};
use crate::watch::Notify;
use externfs::{Export, FileCache, HandleId, NodeId};
use externfs_wire::abi::InitFlags;
use externfs_wire::buffer::{SliceSource, VecReply, request_len};
use externfs_wire::notify::{self, Forgetting};
use externfs_wire::{Config, Later, NewlyOpen, Outcome, Passthrough, Serving, Session, TransportKind};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Bytes that an answer of an operation that waited may have: a lock's has none.
const LATE_REPLY_MAX: usize = 4096;

/// One mount's session, after INIT.
pub(crate) struct Native {
    device: Arc<Device>,
    session: Arc<Session>,
    config: Config,
    /// Where most requests come from, if the kernel agreed to it.
    queues: Option<Arc<Queues>>,
}

/// Registers backing files with the kernel.
struct Registrar {
    device: Arc<Device>,
    backings: Backings<Backing>,
    choice: PassthroughChoice,
    /// The kernel remembers attributes at all.
    remembers: bool,
}

impl Passthrough for Registrar {
    fn opened(&self, export: &dyn Export, file: NewlyOpen) -> Serving {
        let asked = Asked { maps: file.maps, bypass: file.cache == FileCache::Bypass, pays: self.choice.pays(file.created, file.size) };
        let register = |descriptor: OwnedFd| Backing::open(&self.device, descriptor.as_fd());
        match self.backings.claim((file.node, file.handle), asked, || export.backing(file.handle), register) {
            Claim::Plain => Serving::Plain,
            Claim::Direct => Serving::Direct,
            Claim::Backed { backing, withdraw_attributes } => {
                if withdraw_attributes && self.remembers {
                    // Safe while OPEN is unanswered, unlike other notifications:
                    // it touches no pages, and the open in progress keeps the
                    // inode alive. ENOENT: it is being created.
                    let _ = self.device.write(&notify::inval_inode(file.node, None));
                }
                Serving::Backed(backing.id())
            }
        }
    }

    fn released(&self, handle: HandleId) {
        self.backings.release(handle);
    }

    fn mark(&self) -> u64 {
        self.backings.mark()
    }

    fn attr_ttl(&self, mark: u64, node: NodeId, ttl: Duration) -> Duration {
        self.backings.attr_ttl(mark, node, ttl)
    }
}

impl Native {
    /// Answers the kernel's INIT. `rings`: what [`crate::FuseMount::prepare`] came to.
    pub(crate) fn begin(
        device: OwnedFd,
        export: Arc<dyn Export>,
        options: &ServeOptions,
        rings: Option<io::Result<Rings>>,
    ) -> Result<Native, ServeError> {
        let device = Arc::new(Device::new(device));
        let policy = export.cache_policy();
        let queues = muster(rings, &device, &*export, options)?;
        let config = Config {
            flush_on_close: options.flush_on_close,
            may_not_open: kernel::may_not_open(),
            callers_are_root: options.callers_are_root,
            uring: queues.is_some(),
            ..Config::new(TransportKind::DevFuse)
        };
        let choice = options.passthrough;
        let session = if choice != PassthroughChoice::Off && is_permitted() {
            let registrar = Registrar { device: device.clone(), backings: Backings::new(), choice, remembers: !policy.attr.is_zero() };
            registrar.backings.enable();
            Session::with_passthrough(export, config, Arc::new(registrar))
        } else {
            Session::new(export, config)
        };
        let mut native = Native { device, session: Arc::new(session), config, queues };
        let agreed = native.agree(options, policy.writeback);
        if !matches!(agreed, Ok(flags) if flags.contains(InitFlags::OVER_IO_URING))
            && let Some(queues) = native.queues.take()
        {
            tracing::debug!("no FUSE over io_uring: the kernel did not agree to it");
            queues.dismiss();
        }
        agreed.map(|_| native)
    }

    fn agree(&self, options: &ServeOptions, writeback: bool) -> Result<InitFlags, ServeError> {
        self.worker(self.device.clone()).serve_one().map_err(ServeError::Handshake)?;
        let Some(agreed) = self.session.negotiated() else {
            return Err(ServeError::Handshake(io::Error::from_raw_os_error(libc::EPROTO)));
        };
        if options.passthrough == PassthroughChoice::On && !agreed.flags.contains(InitFlags::PASSTHROUGH) {
            return Err(ServeError::Refused(obstacle(agreed.offered, writeback).to_owned()));
        }
        let has_rings = agreed.flags.contains(InitFlags::OVER_IO_URING);
        if options.uring == UringChoice::On && !has_rings {
            return Err(ServeError::Refused(uring::obstacle("the kernel does not offer it")));
        }
        if let Some(queues) = self.queues.as_ref().filter(|_| has_rings) {
            queues.serve(self.session.clone(), uring::payload_len(&agreed));
        }
        Ok(agreed.flags)
    }

    /// For telling the kernel of changes.
    pub(crate) fn notifier(&self) -> NativeNotifier {
        let agreed = self.session.negotiated().is_some_and(|agreed| agreed.flags.contains(InitFlags::HAS_EXPIRE_ONLY));
        NativeNotifier { device: self.device.clone(), forgetting: if agreed { Forgetting::Expire } else { Forgetting::Drop } }
    }

    fn worker(&self, device: Arc<Device>) -> Worker {
        let answers = device.clone();
        Worker {
            device,
            session: self.session.clone(),
            request: vec![0; request_len(self.config.max_write)],
            reply: VecReply::new(self.config.max_write as usize, Box::new(move |bytes| answers.write(bytes))),
        }
    }

    /// Serves until the kernel ends the connection, with up to this many
    /// threads, the calling one among them.
    pub(crate) fn run(self, threads: usize, clone_fd: bool) -> io::Result<()> {
        let (crew, order) = (Crew::new(), Order::default());
        let mut workers = vec![self.worker(self.device.clone())];
        while workers.len() < threads.max(1) {
            let device = if clone_fd { Arc::new(self.device.try_clone()?) } else { self.device.clone() };
            workers.push(self.worker(device));
        }
        let own = workers.pop();
        thread::scope(|scope| {
            let mut others = Vec::new();
            // The foreman first: without one nobody would call a second reader.
            let foreman = || thread::Builder::new().name("fuse-foreman".into()).spawn_scoped(scope, || crew.oversee());
            if let Some(Err(error)) = (!workers.is_empty()).then(foreman) {
                tracing::warn!("requests are served by one thread, since there can be no more: {error}");
                workers.clear();
            }
            for (number, mut worker) in workers.into_iter().enumerate() {
                let (named, crew, order) = (thread::Builder::new().name(format!("fuse-{}", number + 1)), &crew, &order);
                match named.spawn_scoped(scope, move || worker.serve(crew, order)) {
                    Ok(worker) => others.push(worker),
                    Err(error) => tracing::warn!("fewer threads serve requests than were wanted: {error}"),
                }
            }
            let mut result = own.map_or(Ok(()), |mut worker| worker.serve(&crew, &order));
            for other in others {
                // A worker catches panics; one that died all the same is an error.
                result = result.and(other.join().unwrap_or_else(|_| Err(io::Error::other("a worker died"))));
            }
            // Whoever waits for a lock holds on to the session.
            self.session.interrupt_all();
            // After an error the connection lives until somebody unmounts.
            if let (Ok(()), Some(queues)) = (&result, &self.queues) {
                queues.end();
            }
            result
        })
    }
}

/// Gets the threads for `rings` together, where rings are wanted and can be had.
fn muster(
    rings: Option<io::Result<Rings>>,
    device: &Arc<Device>,
    export: &dyn Export,
    options: &ServeOptions,
) -> Result<Option<Arc<Queues>>, ServeError> {
    let Some(rings) = rings else { return Ok(None) };
    let most = options.threads.unwrap_or(NATIVE_THREADS);
    let mustered = match rings {
        // A wait takes a ring, of which there is a stock; /dev/fuse has no such limit.
        Ok(_) if options.uring == UringChoice::Auto && export.features().locks => {
            Err(io::Error::new(io::ErrorKind::Unsupported, "the plugin keeps locks"))
        }
        // Queues have no order among them; see [`Order`] for what that is needed.
        Ok(_) if options.uring == UringChoice::Auto && !export.cache_policy().exclusive => {
            Err(io::Error::new(io::ErrorKind::Unsupported, "others may change the tree"))
        }
        Ok(rings) => Queues::muster(rings, device.clone(), most),
        Err(error) => Err(error),
    };
    match mustered {
        Ok(queues) => Ok(Some(queues)),
        Err(error) if options.uring == UringChoice::On => Err(ServeError::Refused(uring::obstacle(&error.to_string()))),
        Err(error) => {
            tracing::debug!("no FUSE over io_uring: {error}");
            Ok(None)
        }
    }
}

/// What stands in the way of passthrough, of which there is something.
pub(crate) fn obstacle(offered: InitFlags, writeback: bool) -> &'static str {
    if !offered.contains(InitFlags::PASSTHROUGH) {
        "passthrough=on: this kernel has no FUSE passthrough (Linux 6.9 with CONFIG_FUSE_PASSTHROUGH has); use passthrough=auto"
    } else if writeback {
        "passthrough=on: the kernel does not combine it with a writeback cache; drop one of the two"
    } else {
        "passthrough=on: it needs CAP_SYS_ADMIN; run as root, or use passthrough=auto"
    }
}

type Send = Box<dyn FnMut(&[u8]) -> io::Result<()> + std::marker::Send>;

/// One thread's buffers.
struct Worker {
    device: Arc<Device>,
    session: Arc<Session>,
    request: Vec<u8>,
    reply: VecReply<Send>,
}

impl Worker {
    /// Serves until the kernel ends the connection, and then ends the crew.
    fn serve(&mut self, crew: &Crew, order: &Order) -> io::Result<()> {
        let result = self.serve_in(crew, order);
        crew.end();
        result
    }

    fn serve_in(&mut self, crew: &Crew, order: &Order) -> io::Result<()> {
        while crew.stand_by() {
            let len = self.device.read(&mut self.request);
            let request = len.as_ref().ok().and_then(|len| self.request.get(..*len));
            let place = request.map_or(Place::Anywhere, |request| order.place(request));
            crew.working();
            let len = len?;
            if len == 0 {
                return Ok(());
            }
            place.await_turn();
            self.answer(len);
        }
        Ok(())
    }

    /// Before there is a crew: the handshake.
    fn serve_one(&mut self) -> io::Result<()> {
        let len = self.device.read(&mut self.request)?;
        if len > 0 {
            self.answer(len);
        }
        Ok(())
    }

    /// Answers the request of `len` bytes that was just read.
    fn answer(&mut self, len: usize) {
        let bytes = self.request.get(..len).unwrap_or_default();
        self.reply.reuse();
        let outcome = catch_unwind(AssertUnwindSafe(|| self.session.handle(&mut SliceSource::new(bytes), &mut self.reply)));
        match outcome {
            Ok(Outcome::Replied | Outcome::Silent) => {}
            Ok(Outcome::Later(job)) => self.run_later(job),
            // The kernel does not send such; if it does, one request is lost.
            Ok(Outcome::Broken(reason)) => tracing::error!("a request that cannot be answered: {reason}"),
            // The panic has been reported; whoever waits shall not wait for ever.
            Err(_) => self.fail(unique(bytes)),
        }
    }

    /// EIO for a request that a plugin died of. If it had been answered, the
    /// kernel knows none of this number.
    fn fail(&self, unique: [u8; 8]) {
        let mut answer = [0; externfs_wire::REPLY_HEADER_LEN];
        answer[..4].copy_from_slice(&(externfs_wire::REPLY_HEADER_LEN as u32).to_ne_bytes());
        answer[4..8].copy_from_slice(&(-libc::EIO).to_ne_bytes());
        answer[8..].copy_from_slice(&unique);
        let _ = self.device.write(&answer);
    }

    /// On a thread of its own, which may block.
    fn run_later(&self, job: Later) {
        let device = self.device.clone();
        // Shared, since a thread that cannot be started drops what it was given.
        let job = Arc::new(Mutex::new(Some(job)));
        let theirs = job.clone();
        let run = move |job: &Mutex<Option<Later>>| {
            if let Some(job) = job.lock().unwrap_or_else(PoisonError::into_inner).take() {
                job(&mut VecReply::new(LATE_REPLY_MAX, |bytes: &[u8]| device.write(bytes)));
            }
        };
        let here = run.clone();
        if thread::Builder::new().name("fuse-lock".into()).spawn(move || run(&theirs)).is_err() {
            // Out of threads: better this worker waits than the caller for ever.
            here(&job);
        }
    }
}

/// Where a request has its number.
fn unique(request: &[u8]) -> [u8; 8] {
    request.get(8..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default()
}

/// Tells the kernel of changes.
pub(crate) struct NativeNotifier {
    device: Arc<Device>,
    forgetting: Forgetting,
}

impl Notify for NativeNotifier {
    fn inval_inode(&self, node: u64, data: bool) -> io::Result<()> {
        self.device.write(&notify::inval_inode(NodeId(node), data.then_some((0, 0))))
    }

    fn inval_entry(&self, parent: u64, name: &[u8]) -> io::Result<()> {
        self.device.write(&notify::inval_entry(NodeId(parent), name, self.forgetting))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requests_number_is_found() {
        let mut bytes = vec![0; 40];
        bytes[8] = 7;
        assert_eq!(u64::from_ne_bytes(unique(&bytes)), u64::from_ne_bytes([7, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(unique(&[1, 2, 3]), [0; 8]);
    }

    #[test]
    fn each_obstacle_has_its_line() {
        assert!(obstacle(InitFlags::empty(), false).contains("Linux 6.9"));
        assert!(obstacle(InitFlags::PASSTHROUGH, true).contains("writeback"));
        assert!(obstacle(InitFlags::PASSTHROUGH, false).contains("CAP_SYS_ADMIN"));
    }
}
