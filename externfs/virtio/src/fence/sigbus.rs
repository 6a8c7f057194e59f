//! What happens when a guest's memory is taken away under our hands.
//!
//! Guest memory is a file of the guest's monitor, mapped here. If the monitor
//! truncates it, our next touch raises SIGBUS, whose default ends the process
//! and with it every other guest. Requiring sealed memory (F_SEAL_SHRINK)
//! would rule out User Mode Linux, whose memory is an ordinary file in
//! /dev/shm, and QEMU, which does not seal. Copying through system calls would
//! cost one for each ring access. So a handler puts anonymous memory in place
//! of the lost mapping, marks it as lost, and lets the access go on: it reads
//! zeroes, and the connection ends at the next look at [`Guard::is_lost`].
//!
//! The handler runs between any two instructions, so it takes no lock and
//! allocates nothing: it walks a list that only grows, whose entries are
//! reused but never freed.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

struct Slot {
    /// Taken by a guard.
    taken: AtomicBool,
    /// First byte; 0 while the slot watches nothing.
    start: AtomicUsize,
    /// Length in bytes.
    len: AtomicUsize,
    /// The mapping has been replaced.
    lost: AtomicBool,
    /// Never changes once the slot is in the list.
    next: AtomicPtr<Slot>,
}

static SLOTS: AtomicPtr<Slot> = AtomicPtr::new(ptr::null_mut());
/// The handler that was there before, never freed.
static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());

impl Slot {
    /// Start and length of the watched range, if `address` lies in it. Looks at
    /// the start twice: the slot of another guest may change meanwhile.
    fn range_around(&self, address: usize) -> Option<(usize, usize)> {
        let start = self.start.load(Ordering::Acquire);
        let len = self.len.load(Ordering::Acquire);
        let steady = start != 0 && self.start.load(Ordering::Acquire) == start;
        (steady && address.wrapping_sub(start) < len).then_some((start, len))
    }
}

fn slots() -> impl Iterator<Item = &'static Slot> {
    let mut at = SLOTS.load(Ordering::Acquire);
    std::iter::from_fn(move || {
        // SAFETY: slots are leaked boxes, put in the list when complete.
        let slot = unsafe { at.as_ref() }?;
        at = slot.next.load(Ordering::Acquire);
        Some(slot)
    })
}

/// Watches a mapping for the time of its life.
pub(crate) struct Guard {
    slot: &'static Slot,
}

impl Guard {
    /// Watches `len` bytes at `start`, which the caller has mapped and keeps
    /// mapped until the guard is dropped.
    pub(crate) fn new(start: *mut u8, len: usize) -> Guard {
        let free = slots().find(|slot| slot.taken.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok());
        let slot = free.unwrap_or_else(add_slot);
        slot.lost.store(false, Ordering::Relaxed);
        slot.len.store(len, Ordering::Release);
        slot.start.store(start as usize, Ordering::Release);
        Guard { slot }
    }

    /// Whether the mapping was taken away and replaced.
    pub(crate) fn is_lost(&self) -> bool {
        self.slot.lost.load(Ordering::Acquire)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.slot.start.store(0, Ordering::Release);
        self.slot.taken.store(false, Ordering::Release);
    }
}

fn add_slot() -> &'static Slot {
    let slot: &'static Slot = Box::leak(Box::new(Slot {
        taken: AtomicBool::new(true),
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        lost: AtomicBool::new(false),
        next: AtomicPtr::new(ptr::null_mut()),
    }));
    let mut head = SLOTS.load(Ordering::Acquire);
    loop {
        slot.next.store(head, Ordering::Relaxed);
        let mine = ptr::from_ref(slot).cast_mut();
        match SLOTS.compare_exchange_weak(head, mine, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return slot,
            Err(other) => head = other,
        }
    }
}

/// Installs the handler, once for the process.
pub(super) fn install() -> io::Result<()> {
    static DONE: OnceLock<Result<(), i32>> = OnceLock::new();
    let set = || {
        let mut previous = Box::new(MaybeUninit::<libc::sigaction>::zeroed());
        // SAFETY: both structures are valid for the calls; all-zero bytes are
        // a valid sigaction; the previous one is published before ours can run.
        unsafe {
            if libc::sigaction(libc::SIGBUS, ptr::null(), previous.as_mut_ptr()) != 0 {
                return Err(last_errno());
            }
            PREVIOUS.store(Box::into_raw(previous).cast(), Ordering::Release);
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            action.sa_sigaction = handle as extern "C" fn(_, _, _) as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
            libc::sigemptyset(&raw mut action.sa_mask);
            match libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) {
                0 => Ok(()),
                _ => Err(last_errno()),
            }
        }
    };
    DONE.get_or_init(set).map_err(io::Error::from_raw_os_error)
}

fn last_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo; for SIGBUS it has an address.
    let address = unsafe { (*info).si_addr() } as usize;
    let hit = slots().find_map(|slot| slot.range_around(address).map(|range| (slot, range)));
    let saved = {
        // SAFETY: errno is the thread's own.
        unsafe { *libc::__errno_location() }
    };
    if !hit.is_some_and(|(slot, range)| replace(slot, range)) {
        pass_on(signal, info, context);
    }
    // SAFETY: as above; the interrupted code must find its errno unchanged.
    unsafe { *libc::__errno_location() = saved };
}

/// Puts anonymous memory in place of the mapping; false if that fails.
fn replace(slot: &Slot, (start, len): (usize, usize)) -> bool {
    slot.lost.store(true, Ordering::Release);
    // SAFETY: the range belongs to a live guard, so it is a mapping of guest
    // memory and nothing else; nobody relies on what it contains.
    let result = unsafe {
        libc::mmap(
            start as *mut libc::c_void,
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    result != libc::MAP_FAILED
}

/// A SIGBUS that is none of ours goes to whoever was there before, or has its
/// default effect when the access is repeated.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let previous = PREVIOUS.load(Ordering::Acquire);
    // SAFETY: published by `install`, never freed; its handler field is a
    // function of the type that its flags say.
    unsafe {
        let Some(previous) = previous.as_ref() else { return };
        match previous.sa_sigaction {
            libc::SIG_DFL | libc::SIG_IGN => {
                libc::signal(signal, libc::SIG_DFL);
            }
            handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
                let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = std::mem::transmute(handler);
                handler(signal, info, context);
            }
            handler => {
                let handler: extern "C" fn(libc::c_int) = std::mem::transmute(handler);
                handler(signal);
            }
        }
    }
}
