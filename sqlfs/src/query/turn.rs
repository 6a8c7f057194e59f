//! How a worker shares the processor.
#![allow(unsafe_code)]

/// What a worker may compute before somebody else's turn, in nanoseconds: as long
/// as Linux lets one be.
const SLICE: u64 = 100_000_000;

/// Asks for long turns. It computes as much as before, and since Linux 6.12
/// whoever wakes up and asks for shorter ones, as everybody does who does not say
/// otherwise, need not wait for the end of one: a query that takes all that it may
/// get is not in the way of the files, nor of those who use them. Older kernels
/// leave it as it is.
pub(crate) fn give_way() {
    let wish = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: 0,
        sched_nice: rustix::process::getpriority_process(None).unwrap_or_default(),
        sched_priority: 0,
        sched_runtime: SLICE,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads `size` bytes of a structure that is ours; 0 is this thread.
    let _ = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wish, 0) };
}
