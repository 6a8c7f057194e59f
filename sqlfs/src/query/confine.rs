//! What a worker gives up once it has opened the database: everything but
//! computing, reading what is open, and answering.

use super::process;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Is, SeccompCondition as Condition, SeccompFilter, SeccompRule,
    apply_filter,
};
use std::collections::BTreeMap;
use std::path::Path;

/// Seconds of processor time in a worker's life, where one query may not take as
/// long. It ends by itself at half of that; this is for one that has been taken over.
pub(crate) const LIFE_SECONDS: u64 = 120;

/// What one worker needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs<'p> {
    /// Seconds of processor time.
    pub(crate) seconds: u64,
    /// Bytes of memory beyond what it has now.
    pub(crate) memory: u64,
    /// Bytes of the largest file it writes, which is its answer; a writer's is
    /// the database.
    pub(crate) file: Option<u64>,
    /// The directory of the database, for one that changes it: a journal is made there.
    pub(crate) directory: Option<&'p Path>,
    /// Whose the database is: root's worker becomes him, who can see whether it is
    /// still there, which may be in a directory that is his alone.
    pub(crate) owner: Option<(u32, u32)>,
}

/// Shuts this process in, for good. Landlock is the second wall where seccomp
/// already refuses to open anything, so an older kernel may lack it; a writer
/// opens files, and needs it.
///
/// # Errors
/// What the kernel refuses.
pub(crate) fn enter(needs: &Needs<'_>) -> Result<(), String> {
    let failed = |what: &'static str| move |error: rustix::io::Errno| format!("{what}: {error}");
    process::give_way();
    limit(Resource::Core, 0)?;
    limit(Resource::Cpu, needs.seconds)?;
    limit(Resource::Nofile, 64)?;
    limit(Resource::As, memory_now() + needs.memory)?;
    if let Some(bytes) = needs.file {
        limit(Resource::Fsize, bytes)?;
    }
    rustix::thread::set_no_new_privs(true).map_err(failed("no_new_privs"))?;
    if let Err(reason) = landlock(needs.directory)
        && needs.directory.is_some()
    {
        return Err(format!("Landlock: {reason}"));
    }
    if let Some((uid, gid)) = needs.owner.filter(|(uid, _)| *uid != 0 && rustix::process::geteuid().is_root()) {
        // Root in a container may not, and is no worse off as root without a right.
        let _ = become_user(uid, gid);
    }
    drop_capabilities(needs.directory.is_some())?;
    seccomp(needs.directory.is_some())
}

fn limit(resource: Resource, most: u64) -> Result<(), String> {
    let hard = getrlimit(resource).maximum.map_or(most, |hard| hard.min(most));
    setrlimit(resource, Rlimit { current: Some(hard), maximum: Some(hard) }).map_err(|error| format!("{resource:?}: {error}"))
}

fn become_user(uid: u32, gid: u32) -> rustix::io::Result<()> {
    let (uid, gid) = (rustix::process::Uid::from_raw(uid), rustix::process::Gid::from_raw(gid));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    // A change of users makes the kernel forget it.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
}

/// Bytes of address space.
fn memory_now() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok().and_then(|text| text.split(' ').next()?.parse().ok());
    pages.unwrap_or(1u64 << 18) * rustix::param::page_size() as u64
}

/// The database may be somebody else's than its writer's, and so is its journal.
const WRITERS: [caps::Capability; 3] = [caps::Capability::CAP_DAC_OVERRIDE, caps::Capability::CAP_CHOWN, caps::Capability::CAP_FOWNER];

fn drop_capabilities(writes: bool) -> Result<(), String> {
    use caps::CapSet::{Ambient, Effective, Inheritable, Permitted};
    let text = |error: caps::errors::CapsError| error.to_string();
    // Ambient ones are newer than some kernels, and are lost with the others.
    let _ = caps::clear(None, Ambient);
    caps::clear(None, Inheritable).map_err(text)?;
    let held = caps::read(None, Permitted).map_err(text)?;
    let kept = held.into_iter().filter(|capability| writes && WRITERS.contains(capability)).collect();
    caps::set(None, Effective, &kept).map_err(text)?;
    caps::set(None, Permitted, &kept).map_err(text)
}

fn landlock(directory: Option<&Path>) -> Result<(), String> {
    use landlock::{
        ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
        RulesetStatus, Scope,
    };
    const KNOWN: ABI = ABI::V6;
    let restrict = || -> Result<RulesetStatus, Box<dyn std::error::Error>> {
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(KNOWN))?
            .handle_access(AccessNet::from_all(KNOWN))?
            .scope(Scope::from_all(KNOWN))?
            .create()?;
        if let Some(directory) = directory {
            let access = AccessFs::ReadFile
                | AccessFs::ReadDir
                | AccessFs::WriteFile
                | AccessFs::MakeReg
                | AccessFs::RemoveFile
                | AccessFs::Truncate;
            ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(directory)?, access))?;
        }
        Ok(ruleset.restrict_self()?.ruleset)
    };
    match restrict() {
        Ok(RulesetStatus::NotEnforced) => Err("this kernel has none".into()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Computing, and what is open already.
const ALLOWED: &[i64] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fcntl,
    libc::SYS_ftruncate,
    libc::SYS_memfd_create,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_ppoll,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrandom,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
];

/// The same, in older spellings.
#[cfg(target_arch = "x86_64")]
const OLD: &[i64] = &[libc::SYS_poll, libc::SYS_access, libc::SYS_stat, libc::SYS_lstat, libc::SYS_time];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[i64] = &[];

/// What it takes to make and remove a journal.
const WRITING: &[i64] = &[
    libc::SYS_openat,
    libc::SYS_unlinkat,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    libc::SYS_fchown,
    libc::SYS_readlinkat,
    libc::SYS_getcwd,
];
#[cfg(target_arch = "x86_64")]
const OLD_WRITING: &[i64] = &[libc::SYS_open, libc::SYS_unlink, libc::SYS_readlink];
#[cfg(not(target_arch = "x86_64"))]
const OLD_WRITING: &[i64] = &[];

fn seccomp(writes: bool) -> Result<(), String> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().chain(OLD).map(|call| (*call, Vec::new())).collect();
    if writes {
        rules.extend(WRITING.iter().chain(OLD_WRITING).map(|call| (*call, Vec::new())));
    }
    let rule = |argument, length, is, value| -> Result<Vec<SeccompRule>, String> {
        let condition = Condition::new(argument, length, is, value).map_err(|error| error.to_string())?;
        Ok(vec![SeccompRule::new(vec![condition]).map_err(|error| error.to_string())?])
    };
    // No memory becomes code.
    rules.insert(libc::SYS_mmap, rule(2, Length::Qword, Is::MaskedEq(libc::PROT_EXEC as u64), 0)?);
    rules.insert(libc::SYS_mprotect, rule(2, Length::Qword, Is::MaskedEq(libc::PROT_EXEC as u64), 0)?);
    // Signals to itself, for abort(3).
    rules.insert(libc::SYS_tgkill, rule(0, Length::Dword, Is::Eq, u64::from(std::process::id()))?);
    let machine = std::env::consts::ARCH.try_into().map_err(|_| format!("no filter for {}", std::env::consts::ARCH))?;
    // ENOSYS, so that the C library tries its older way.
    let filter = SeccompFilter::new(rules, SeccompAction::Errno(libc::ENOSYS as u32), SeccompAction::Allow, machine);
    let program: BpfProgram = filter.and_then(TryInto::try_into).map_err(|error| error.to_string())?;
    apply_filter(&program).map_err(|error| error.to_string())
}
