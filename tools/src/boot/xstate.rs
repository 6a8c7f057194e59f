//! Processors whose state is longer than what User Mode Linux keeps.
//!
//! A kernel of User Mode Linux before 6.13 has room for 2,696 bytes of
//! floating-point and vector registers of a guest's process, up to AVX-512 and
//! PKRU. Where the processor has more (AMX: 11,008 bytes) the host refuses to set
//! a state of that length (EFAULT), and the guest panics at its first process.
//! So the kernel is started with a library that fills the state up
//! (`xstate/preload.rs`): what is beyond AVX-512 no process of a guest can use,
//! since the host grants AMX to those only that ask, and a guest's system calls
//! never come to the host.

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use std::io::{Error, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;

/// What `build.rs` made of it; empty where it is not needed.
const LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/xstate.so"));

/// What such a kernel has room for, in bytes.
#[cfg(target_arch = "x86_64")]
const KERNELS_LEN: u32 = 2696;

/// Whether this processor's state is longer than that.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, unused_unsafe, reason = "safe in newer compilers")]
fn is_needed() -> bool {
    // SAFETY: every x86-64 processor has CPUID.
    let leaves = unsafe { std::arch::x86_64::__cpuid(0) }.eax;
    // SAFETY: the same. EBX is the length of what is switched on (Intel SDM, volume 2A, CPUID).
    leaves >= 0xd && unsafe { std::arch::x86_64::__cpuid_count(0xd, 0) }.ebx > KERNELS_LEN
}

#[cfg(not(target_arch = "x86_64"))]
fn is_needed() -> bool {
    false
}

/// The library as a kernel that is about to be started finds it. To be kept until it is.
#[derive(Debug)]
pub struct Preload {
    _library: OwnedFd,
}

impl Preload {
    /// Has `kernel` start with the library where the processor needs it. If that
    /// does not work the log says so: newer kernels do without. One that is linked
    /// statically takes no notice.
    pub fn into(kernel: &mut Command) -> Option<Preload> {
        if !is_needed() {
            return None;
        }
        let added = Preload::add(kernel);
        added.inspect_err(|error| tracing::warn!("a kernel before 6.13 will not run on this processor: no library in memory: {error}")).ok()
    }

    /// # Errors
    /// What memfd_create(2) and write(2) say.
    fn add(kernel: &mut Command) -> Result<Preload, Error> {
        // In memory: a directory for temporary files may be mounted noexec. Not
        // closed by execve(2), of which User Mode Linux does a second.
        let library = match memfd_create(c"externfs-xstate", MemfdFlags::NOEXEC_SEAL) {
            // Before Linux 6.3.
            Err(Errno::INVAL) => memfd_create(c"externfs-xstate", MemfdFlags::empty())?,
            library => library?,
        };
        let mut file = std::fs::File::from(library);
        file.write_all(LIBRARY)?;
        kernel.env("LD_PRELOAD", format!("/proc/self/fd/{}", file.as_raw_fd()));
        Ok(Preload { _library: file.into() })
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use std::process::Stdio;

    /// Set for the test when it runs once more, with the library.
    const INSIDE: &str = "EXTERNFS_TEST_XSTATE";

    #[test]
    fn a_short_state_can_be_set() {
        if std::env::var_os(INSIDE).is_some() {
            return trace().unwrap();
        }
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "boot::xstate::tests::a_short_state_can_be_set"]).env(INSIDE, "");
        let _library = Preload::add(&mut command).unwrap();
        let done = command.output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && said.contains("1 passed") && !said.contains("cannot be preloaded"), "{said}");
    }

    /// Reads and sets as much of a process's state as a kernel does that knows AVX.
    #[allow(unsafe_code, reason = "the library is called as the C library is")]
    fn trace() -> std::result::Result<(), Box<dyn std::error::Error>> {
        use nix::sys::ptrace;
        const NT_X86_XSTATE: usize = 0x202;
        const AVX_LEN: usize = 832;
        let mut child = Command::new("sleep").arg("60").stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        ptrace::seize(pid, ptrace::Options::PTRACE_O_EXITKILL)?;
        ptrace::interrupt(pid)?;
        nix::sys::wait::waitpid(pid, None)?;
        let mut state = [0_u8; AVX_LEN];
        let mut state_at = libc::iovec { iov_base: state.as_mut_ptr().cast(), iov_len: AVX_LEN };
        for request in [libc::PTRACE_GETREGSET, libc::PTRACE_SETREGSET] {
            // SAFETY: the vector describes the buffer, which outlives the call.
            let answer = unsafe { libc::ptrace(request as _, pid.as_raw(), NT_X86_XSTATE, &raw mut state_at) };
            assert_eq!(answer, 0, "request {request:x}: {}", Error::last_os_error());
        }
        // What is returned by the function, not by the call.
        let at = ptrace::getregs(pid)?.rsp;
        let word = ptrace::read(pid, at as ptrace::AddressType)?;
        ptrace::write(pid, at as ptrace::AddressType, word)?;
        let refused = ptrace::read(pid, std::ptr::null_mut());
        child.kill()?;
        child.wait()?;
        assert_eq!(refused, Err(nix::errno::Errno::EIO));
        Ok(())
    }
}
