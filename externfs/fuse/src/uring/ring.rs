//! [`Ring`]: an io_uring that can do nothing but talk to one /dev/fuse.
//!
//! An io_uring is a second way into the kernel, past any seccomp filter. So
//! each is made before the sandbox, with its only file registered, and is
//! restricted for good (`IORING_REGISTER_RESTRICTIONS`): commands to a
//! registered file are all that it takes, and nothing can be registered any
//! more. It is made disabled; the thread that is to use it enables it, and is
//! from then on the only one that may (`IORING_SETUP_SINGLE_ISSUER`, which
//! `IORING_SETUP_DEFER_TASKRUN` needs: requests are copied while that thread
//! waits for one, and at no other time).
#![allow(unsafe_code)]

use super::entry::Entry;
use io_uring::register::Restriction;
use io_uring::squeue::{Entry128, Flags};
use io_uring::types::Fixed;
use io_uring::{EnterFlags, IoUring, cqueue, opcode};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// `FUSE_IO_URING_CMD_REGISTER`.
const REGISTER: u32 = 1;
/// `FUSE_IO_URING_CMD_COMMIT_AND_FETCH`.
const COMMIT_AND_FETCH: u32 = 2;
/// How often, and after how long, a command is submitted again.
const SUBMISSIONS: usize = 500;
const SUBMIT_AGAIN: Duration = Duration::from_millis(10);
/// Where `len` lies in `struct io_uring_sqe`.
const SQE_LEN_AT: usize = 24;
/// A queue that no machine has.
const NO_QUEUE: u16 = u16::MAX;

/// Has at most one command under way.
pub(super) struct Ring {
    ring: IoUring<Entry128, cqueue::Entry>,
    flags: EnterFlags,
}

impl Ring {
    /// For this device, and disabled.
    pub(super) fn new(device: &impl AsFd) -> io::Result<Ring> {
        let mut builder = IoUring::<Entry128, cqueue::Entry>::builder();
        builder.dontfork().setup_r_disabled().setup_single_issuer().setup_defer_taskrun();
        let ring = builder.build(1)?;
        let submitter = ring.submitter();
        submitter.register_files(&[device.as_fd().as_raw_fd()])?;
        let command = Restriction::sqe_op(opcode::UringCmd80::CODE);
        let registered = Restriction::sqe_flags_required(Flags::FIXED_FILE.bits());
        submitter.register_restrictions(&mut [command, registered])?;
        // Who waits for a request does not wait for a disk, and shall not look so.
        let mut flags = EnterFlags::GETEVENTS;
        flags.set(EnterFlags::NO_IOWAIT, ring.params().is_feature_no_iowait());
        Ok(Ring { ring, flags })
    }

    /// Makes it the calling thread's.
    pub(super) fn enable(&self) -> io::Result<()> {
        self.ring.submitter().register_enable_rings()
    }

    /// Gives `entry` to the kernel, to put a request of `queue` into. What
    /// [`Ring::wait`] says next is whether there is one.
    pub(super) fn register(&mut self, queue: u16, entry: &mut Entry) -> io::Result<()> {
        let mut command = command(REGISTER, queue, 0, Some(entry.vectors()));
        // SAFETY: an Entry128 is, repr(C), a `struct io_uring_sqe` and 64 more
        // bytes. `len` is a u32 in it, which the builder of these commands has
        // no word for; the pointer is that of a live local and aligned for it.
        unsafe { (&raw mut command).byte_add(SQE_LEN_AT).cast::<u32>().write(Entry::VECTORS) };
        entry.lend();
        // SAFETY: the command points to the vectors and by them to the memory
        // of `entry`, which stays mapped for as long as it is lent.
        unsafe { self.push(&command) }
    }

    /// Answers the request `id` and gives its entry back to the kernel. This is
    /// a call of its own, and the wait another: whoever gets the answer on this
    /// processor goes on at once, and when the wait begins there is the next
    /// request already. In one call this thread would sleep and have to be
    /// woken (measured: two wake-ups a request instead of one, a tenth of the
    /// time of open, read and close).
    pub(super) fn commit(&mut self, queue: u16, id: u64, entry: &mut Entry) -> io::Result<()> {
        entry.lend();
        // SAFETY: the kernel knows the memory of `entry` by its registration,
        // and it stays mapped for as long as it is lent.
        unsafe { self.push(&command(COMMIT_AND_FETCH, queue, id, None)) }
    }

    /// Lets the kernel know that there will be no rings after all: it waits for
    /// them until a registration fails, and goes on with /dev/fuse then.
    pub(super) fn renounce(&mut self) -> io::Result<()> {
        // SAFETY: the command points to no memory.
        unsafe { self.push(&command(REGISTER, NO_QUEUE, 0, None)) }?;
        self.wait().map(drop)
    }

    /// Waits until the command under way is over.
    /// Returns what came of it: 0, or an errno.
    pub(super) fn wait(&mut self) -> io::Result<Result<(), Errno>> {
        loop {
            if let Some(done) = self.ring.completion().next() {
                return Ok(if done.result() < 0 { Err(Errno::from_raw_os_error(-done.result())) } else { Ok(()) });
            }
            // SAFETY: no argument is passed. The flags are those of a wait.
            match unsafe { self.ring.submitter().enter::<libc::sigset_t>(0, 1, self.flags.bits(), None) } {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Submits it.
    ///
    /// # Safety
    /// What `command` points to must live until the command is over.
    unsafe fn push(&mut self, command: &Entry128) -> io::Result<()> {
        // SAFETY: by the contract of this function.
        unsafe { self.ring.submission().push(command) }.map_err(|_| io::Error::other("a ring has two commands"))?;
        for _ in 0..SUBMISSIONS {
            match self.ring.submit() {
                // A request that is not answered waits for ever, and without an
                // entry so does all of a queue: short of memory is no end.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM | libc::EINTR)) => {
                    std::thread::sleep(SUBMIT_AGAIN);
                }
                answer => return answer.map(drop),
            }
        }
        self.ring.submit().map(drop)
    }
}

/// `struct fuse_uring_cmd_req` in a command to the only registered file.
fn command(code: u32, queue: u16, commit: u64, vectors: Option<u64>) -> Entry128 {
    let mut request = [0; 80];
    request[8..16].copy_from_slice(&commit.to_ne_bytes());
    request[16..18].copy_from_slice(&queue.to_ne_bytes());
    opcode::UringCmd80::new(Fixed(0), code).cmd(request).addr(vectors).build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use io_uring::types::Fd;

    /// What comes of `act` on a ring for a device of no mount.
    fn on_ring<T>(act: impl FnOnce(&mut Ring, &std::fs::File) -> T) -> Option<T> {
        let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
        let made = device.and_then(|device| Ok((Ring::new(&device)?, device)));
        match made {
            Ok((mut ring, device)) => Some(act(&mut ring, &device)),
            Err(error) => {
                eprintln!("SKIPPED: no ring here: {error}");
                None
            }
        }
    }

    #[test]
    fn nothing_passes_but_commands_to_the_device() {
        on_ring(|ring, device| {
            ring.enable().unwrap();
            let mut result = |command: Entry128| {
                // SAFETY: none of the commands points to memory.
                unsafe { ring.push(&command) }.unwrap();
                ring.wait().unwrap().unwrap_err()
            };
            assert_eq!(result(opcode::Nop::new().build().into()), Errno::ACCESS);
            assert_eq!(result(opcode::Socket::new(2, 1, 0).build().into()), Errno::ACCESS);
            let direct = opcode::UringCmd80::new(Fd(device.as_raw_fd()), REGISTER).build();
            assert_eq!(result(direct), Errno::ACCESS, "not the registered file");
            assert_ne!(result(command(REGISTER, 0, 0, None)), Errno::ACCESS, "it gets as far as the device");
            assert!(ring.ring.submitter().register_files(&[device.as_raw_fd()]).is_err());
            assert!(ring.ring.submitter().unregister_files().is_err());
        });
    }

    #[test]
    fn one_thread_uses_it() {
        on_ring(|ring, _| {
            ring.enable().unwrap();
            let elsewhere =
                std::thread::scope(|scope| scope.spawn(|| ring.renounce().map_err(|error| error.raw_os_error())).join().unwrap());
            assert_eq!(elsewhere, Err(Some(libc::EEXIST)));
        });
    }
}
