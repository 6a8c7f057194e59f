//! seccomp: the system calls that serving files is made of.
//!
//! Two filters. The first lets the listed calls through and answers ENOSYS to
//! all others, so that a C library tries its older way and an overlooked call
//! is an error, not a crash. The second answers EPERM to what an intruder
//! would reach for, so that it shows as refused.

use super::Needs;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Is, SeccompCondition as Condition, SeccompFilter, SeccompRule,
    apply_filter,
};
use std::collections::BTreeMap;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Calls that are harmless whatever their arguments.
const ALLOWED: &[i64] = &[
    // Data.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_fallocate,
    libc::SYS_ftruncate,
    libc::SYS_truncate,
    libc::SYS_fadvise64,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_syncfs,
    libc::SYS_sync_file_range,
    // Names and attributes.
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_fstat,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getcwd,
    libc::SYS_flock,
    libc::SYS_fcntl,
    libc::SYS_umask,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    // Extended attributes.
    libc::SYS_getxattr,
    libc::SYS_lgetxattr,
    libc::SYS_fgetxattr,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
    libc::SYS_flistxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    // Who acts. The ids of files, and capabilities within those permitted.
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getppid,
    // Sockets and descriptors that are there already.
    libc::SYS_accept4,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_shutdown,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    libc::SYS_eventfd2,
    libc::SYS_signalfd4,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_ppoll,
    libc::SYS_pidfd_open,
    // Memory, threads, time: what a language's run time needs.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_membarrier,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // It can only take more away.
    libc::SYS_seccomp,
    // Newer than the oldest libc crate's table: fchmodat2, and the xattr calls
    // that take a directory and a name.
    452,
    463,
    464,
    465,
    466,
];

/// Older spellings that C libraries still use where the machine has them.
#[cfg(target_arch = "x86_64")]
const OLD: &[i64] = &[
    libc::SYS_poll,
    libc::SYS_dup2,
    libc::SYS_epoll_wait,
    libc::SYS_readlink,
    libc::SYS_access,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_open,
    libc::SYS_renameat,
    libc::SYS_time,
    libc::SYS_unlink,
    libc::SYS_rmdir,
    libc::SYS_mkdir,
    libc::SYS_rename,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[i64] = &[];

/// What an intruder would reach for.
const REFUSED: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kill,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_io_uring_setup,
    libc::SYS_open_by_handle_at,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_userfaultfd,
];

/// ioctl(2) requests: those of FUSE's device, of files, and the harmless
/// questions that run-time libraries ask of a log that may be a terminal.
const IOCTLS: &[u64] = &[
    0x8004_e500, // FUSE_DEV_IOC_CLONE
    0x4010_e501, // FUSE_DEV_IOC_BACKING_OPEN
    0x4004_e502, // FUSE_DEV_IOC_BACKING_CLOSE
    0x8008_6601, // FS_IOC_GETFLAGS
    0x4008_6602, // FS_IOC_SETFLAGS
    0x8008_7601, // FS_IOC_GETVERSION
    0x801c_581f, // FS_IOC_FSGETXATTR
    0x401c_5820, // FS_IOC_FSSETXATTR
    0xc020_660b, // FS_IOC_FIEMAP
    0x4004_9409, // FICLONE
    0x4020_940d, // FICLONERANGE
    0x5401,      // TCGETS
    0x5413,      // TIOCGWINSZ
    0x541b,      // FIONREAD
    0x5421,      // FIONBIO
];

/// prctl(2) options: naming a thread or a mapping, reading a capability set,
/// and no_new_privs, which applying the second filter sets again.
const PRCTLS: &[u64] = &[15, 16, 23, 38, 39, 0x5356_4d41];

/// `IORING_REGISTER_ENABLE_RINGS`.
const REGISTER_ENABLE_RINGS: u64 = 12;

/// Installs both filters for this thread and those it will start.
pub(super) fn install(needs: &Needs<'_>) -> Result<(), String> {
    let allow = filter(allowed(needs)?, SeccompAction::Errno(libc::ENOSYS as u32), SeccompAction::Allow)?;
    let refused = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let refuse = filter(refused, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32))?;
    // Of two filters that both refuse, the one installed last names the errno.
    apply_filter(&allow).and_then(|()| apply_filter(&refuse)).map_err(|e| e.to_string())
}

fn filter(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> Result<BpfProgram, String> {
    let machine = std::env::consts::ARCH.try_into().map_err(|_| format!("no filter for {}", std::env::consts::ARCH))?;
    let filter = SeccompFilter::new(rules, otherwise, matched, machine).map_err(|e| e.to_string())?;
    filter.try_into().map_err(|e: seccompiler::BackendError| e.to_string())
}

fn rule(argument: u8, length: Length, is: Is, value: u64) -> Result<SeccompRule, String> {
    let condition = Condition::new(argument, length, is, value).map_err(|e| e.to_string())?;
    SeccompRule::new(vec![condition]).map_err(|e| e.to_string())
}

fn allowed(needs: &Needs<'_>) -> Result<Rules, String> {
    let mut rules: Rules = ALLOWED.iter().chain(OLD).map(|call| (*call, Vec::new())).collect();
    let one_of = |argument, values: &[u64]| -> Result<Vec<SeccompRule>, String> {
        values.iter().map(|value| rule(argument, Length::Dword, Is::Eq, *value)).collect()
    };
    rules.insert(libc::SYS_ioctl, one_of(1, IOCTLS)?);
    rules.insert(libc::SYS_prctl, one_of(0, PRCTLS)?);
    // No memory becomes code any more.
    let executable = libc::PROT_EXEC as u64;
    let no_code = || rule(2, Length::Qword, Is::MaskedEq(executable), 0).map(|rule| vec![rule]);
    rules.insert(libc::SYS_mmap, no_code()?);
    rules.insert(libc::SYS_mprotect, no_code()?);
    // Threads, no processes. clone3 hides its flags from us, and C libraries
    // take its ENOSYS as a hint to use clone.
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(libc::SYS_clone, vec![rule(0, Length::Qword, Is::MaskedEq(thread), thread)?]);
    // A umask of a thread's own, and no namespace.
    rules.insert(libc::SYS_unshare, vec![rule(0, Length::Qword, Is::Eq, libc::CLONE_FS as u64)?]);
    if needs.rings {
        // Rings that are there already, each restricted to one /dev/fuse when
        // it was made. None can be set up or given anything; the thread that is
        // to use one enables it, and goes to its processor.
        rules.insert(libc::SYS_io_uring_enter, Vec::new());
        rules.insert(libc::SYS_io_uring_register, vec![rule(1, Length::Dword, Is::Eq, REGISTER_ENABLE_RINGS)?]);
        rules.insert(libc::SYS_sched_setaffinity, vec![rule(0, Length::Dword, Is::Eq, 0)?]);
    }
    // Signals to our own threads; limits are read, never set.
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, vec![rule(0, Length::Dword, Is::Eq, own)?]);
    rules.insert(libc::SYS_prlimit64, vec![rule(2, Length::Qword, Is::Eq, 0)?]);
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_are_entered_by_those_who_have_some() {
        let without = allowed(&Needs::default()).expect("rules");
        assert!(!without.contains_key(&libc::SYS_io_uring_enter) && !without.contains_key(&libc::SYS_io_uring_register));
    }

    #[test]
    fn nothing_is_both_allowed_and_refused() {
        let allowed = allowed(&Needs { rings: true, ..Needs::default() }).expect("rules");
        for call in REFUSED {
            assert!(!allowed.contains_key(call), "system call {call}");
        }
    }
}
