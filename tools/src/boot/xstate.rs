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
use std::io::{Error, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;

/// What `build.rs` made of it; empty where it is not needed.
const LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/xstate.so"));

/// The library as a kernel that is about to be started finds it. To be kept until it is.
#[derive(Debug)]
pub struct Preload {
    _library: OwnedFd,
}

impl Preload {
    /// Has `kernel` start with the library. None where processors are such that
    /// it is not needed. A kernel that is linked statically takes no notice.
    ///
    /// # Errors
    /// What memfd_create(2) and write(2) say.
    pub fn into(kernel: &mut Command) -> Result<Option<Preload>, Error> {
        if LIBRARY.is_empty() {
            return Ok(None);
        }
        // In memory: a directory for temporary files may be mounted noexec. Not
        // closed by execve(2), of which User Mode Linux does a second.
        let library = memfd_create(c"externfs-xstate", MemfdFlags::empty())?;
        let mut file = std::fs::File::from(library);
        file.write_all(LIBRARY)?;
        kernel.env("LD_PRELOAD", format!("/proc/self/fd/{}", file.as_raw_fd()));
        Ok(Some(Preload { _library: file.into() }))
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
        let _library = Preload::into(&mut command).unwrap().expect("x86-64 has one");
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
