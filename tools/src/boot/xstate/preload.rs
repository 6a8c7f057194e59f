//! The library that User Mode Linux is started with: ptrace(2) as the C library
//! has it, except that a processor's state that is too short is filled up.
//! Why is said in `xstate.rs`. Built by `build.rs` on its own, without `std`.
#![no_std]

use core::arch::asm;
use core::arch::x86_64::__cpuid_count;
use core::ffi::{c_int, c_long, c_void};
use core::sync::atomic::{AtomicUsize, Ordering};

/// Number of ptrace(2) on x86-64.
const SYS_PTRACE: c_long = 101;
/// The requests that read a word: the system call has it behind a pointer, the
/// function of the C library returns it.
const PEEKS: core::ops::RangeInclusive<c_int> = 1..=3;
const PTRACE_SETREGSET: c_int = 0x4205;
const NT_X86_XSTATE: usize = 0x202;
/// CPUID leaf of the extended state.
const XSTATE_LEAF: u32 = 0xd;
/// Where the header of the extended state is (Intel SDM, volume 1, 13.4.2); its
/// first word says which components follow.
const HEADER_AT: usize = 512;
const HEADER_LEN: usize = 64;
/// Longer than what any processor has.
const LEN_MAX: usize = 64 << 10;

#[repr(C, align(64))]
struct Whole([u8; LEN_MAX]);

/// The kernel's stacks are too small for it. Only the one thread that is the
/// guest's processor sets registers, and no signal of it does.
static mut WHOLE: Whole = Whole([0; LEN_MAX]);

/// Bytes of the whole state of this processor; 0 for not asked yet. A hypervisor
/// traps the question, so it is asked once.
static FULL_LEN: AtomicUsize = AtomicUsize::new(0);
/// Components that are whole in what the kernel keeps, of [`MASK_LEN`] bytes.
static MASK: AtomicUsize = AtomicUsize::new(0);
static MASK_LEN: AtomicUsize = AtomicUsize::new(0);

#[repr(C)]
struct Iovec {
    base: *mut u8,
    len: usize,
}

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
}

/// ptrace(2). The C library declares it with variable arguments, which in this
/// convention are passed as these are.
///
/// # Safety
/// As ptrace(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptrace(request: c_int, pid: c_int, address: *mut c_void, data: *mut c_void) -> c_long {
    let mut word: c_long = 0;
    if PEEKS.contains(&request) {
        let answer = unsafe { system_call(request, pid, address, (&raw mut word).cast()) };
        if answer < 0 {
            return answer;
        }
        unsafe { *__errno_location() = 0 };
        return word;
    }
    if request == PTRACE_SETREGSET && address.addr() == NT_X86_XSTATE && !data.is_null() {
        let given = unsafe { &*data.cast::<Iovec>() };
        let full = full_len();
        if (HEADER_AT + HEADER_LEN..full).contains(&given.len) && full <= LEN_MAX {
            return unsafe { set_whole(request, pid, address, given, full) };
        }
    }
    unsafe { system_call(request, pid, address, data) }
}

/// Sets the state `given` with everything beyond it as it is at the start.
unsafe fn set_whole(request: c_int, pid: c_int, address: *mut c_void, given: &Iovec, full: usize) -> c_long {
    let whole = (&raw mut WHOLE).cast::<u8>();
    unsafe {
        copy(given.base, whole, given.len);
        clear(whole.add(given.len), full - given.len);
        let present = whole.add(HEADER_AT).cast::<u64>();
        *present &= whole_components(given.len) as u64;
        let mut all = Iovec { base: whole, len: full };
        system_call(request, pid, address, (&raw mut all).cast())
    }
}

/// As memcpy(3), which is not called: that the C library chooses among several of
/// its own when it is loaded, and this library may be before it.
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    unsafe {
        asm!("rep movsb", inout("rcx") len => _, inout("rsi") from => _, inout("rdi") to => _, options(nostack, preserves_flags));
    }
}

/// As memset(3) with 0.
unsafe fn clear(at: *mut u8, len: usize) {
    unsafe {
        asm!("rep stosb", inout("rcx") len => _, inout("rdi") at => _, in("al") 0_u8, options(nostack, preserves_flags));
    }
}

fn full_len() -> usize {
    match FULL_LEN.load(Ordering::Relaxed) {
        0 => {
            // EBX is for what is switched on, as the kernel's register sets are.
            let len = cpuid(0).0;
            FULL_LEN.store(len, Ordering::Relaxed);
            len
        }
        len => len,
    }
}

/// The bits of those components that end within `len`.
fn whole_components(len: usize) -> usize {
    if MASK_LEN.load(Ordering::Relaxed) != len {
        // x87 and SSE are before the header.
        let mut mask = 0b11;
        for component in 2..63 {
            let (offset, size) = cpuid(component);
            if size > 0 && offset + size <= len {
                mask |= 1 << component;
            }
        }
        MASK.store(mask, Ordering::Relaxed);
        MASK_LEN.store(len, Ordering::Relaxed);
    }
    MASK.load(Ordering::Relaxed)
}

/// EBX and EAX of a leaf about a component: where it is and its size.
fn cpuid(component: u32) -> (usize, usize) {
    #[allow(unused_unsafe, reason = "safe in newer compilers")]
    let leaf = unsafe { __cpuid_count(XSTATE_LEAF, component) };
    (leaf.ebx as usize, leaf.eax as usize)
}

unsafe fn system_call(request: c_int, pid: c_int, address: *mut c_void, data: *mut c_void) -> c_long {
    let answer: c_long;
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") SYS_PTRACE => answer,
            in("rdi") c_long::from(request),
            in("rsi") c_long::from(pid),
            in("rdx") address,
            in("r10") data,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
        if (-4095..0).contains(&answer) {
            *__errno_location() = -answer as c_int;
            return -1;
        }
    }
    answer
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
