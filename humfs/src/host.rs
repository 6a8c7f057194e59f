//! The host's calls as the stores need them: single components, relative to a
//! descriptor, links never followed.

use externfs::{Errno, Error, Timestamp};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno as Host;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

/// The result of a bare system call.
pub(crate) type Fault<T> = std::result::Result<T, Host>;

/// Files of ours on the host: their owner may read and write them and nobody
/// else may. The floor lets the server in whatever mode the guest has given;
/// the ceiling keeps the guest's setuid and write bits off the host.
pub(crate) const FILE_MODE: Mode = Mode::from_raw_mode(0o600);

/// As [`FILE_MODE`], for directories.
pub(crate) const DIR_MODE: Mode = Mode::from_raw_mode(0o700);

/// Words `what` for the log if the errno is one that no honest request causes.
pub(crate) fn fault(what: &'static str) -> impl Fn(Host) -> Error {
    move |host| match host {
        // To a kernel ENOSYS means "never ask again".
        Host::NOSYS => Error::new(Errno::EOPNOTSUPP),
        Host::IO | Host::MFILE | Host::NFILE | Host::NOMEM | Host::BADF | Host::FAULT | Host::ACCESS | Host::PERM => {
            // A refusal of the host is not the guest's doing: the guest's own
            // kernel has allowed this.
            let errno = if matches!(host, Host::ACCESS | Host::PERM) { Errno::EIO } else { Errno::from_raw(host.raw_os_error()) };
            Error::because(errno, format!("{what}: {host}"))
        }
        _ => Error::new(Errno::from_raw(host.raw_os_error())),
    }
}

/// An error that says that the tree is not as it should be: EIO for the guest.
pub(crate) fn damaged(reason: impl Into<String>) -> Error {
    Error::because(Errno::EIO, reason.into())
}

/// The boot id of the running kernel, which says whether the host was started
/// anew since; None where it is hidden. The first look counts: a server's
/// sandbox leaves it no /proc/sys.
pub(crate) fn boot_id() -> Option<&'static str> {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    let read = || {
        let text = read_file(rustix::fs::CWD, c"/proc/sys/kernel/random/boot_id", 64).ok()?;
        String::from_utf8(text).ok().map(|text| text.trim().to_owned())
    };
    BOOT.get_or_init(read).as_deref()
}

/// A directory below `dir`, as an `O_PATH` descriptor.
pub(crate) fn child_dir(dir: BorrowedFd<'_>, name: &CStr) -> Fault<OwnedFd> {
    rustix::fs::openat(dir, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// As [`child_dir`], made if it is not there.
pub(crate) fn ensure_dir(dir: BorrowedFd<'_>, name: &CStr) -> Fault<OwnedFd> {
    match child_dir(dir, name) {
        Err(Host::NOENT) => {}
        answer => return answer,
    }
    match rustix::fs::mkdirat(dir, name, DIR_MODE) {
        Ok(()) | Err(Host::EXIST) => child_dir(dir, name),
        Err(other) => Err(other),
    }
}

/// What is called `name`, as an `O_PATH` descriptor: a link's is the link itself.
pub(crate) fn child(dir: BorrowedFd<'_>, name: &CStr) -> Fault<OwnedFd> {
    rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Opens the regular file `name`. `O_NONBLOCK` keeps a FIFO that somebody put
/// in its place from holding us up.
pub(crate) fn open_file(dir: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Fault<OwnedFd> {
    rustix::fs::openat(dir, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY, FILE_MODE)
}

/// Opens a directory for reading its names.
pub(crate) fn open_listing(dir: BorrowedFd<'_>) -> Fault<OwnedFd> {
    rustix::fs::openat(dir, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// A file without a name.
pub(crate) fn unnamed(dir: BorrowedFd<'_>) -> Fault<OwnedFd> {
    rustix::fs::openat(dir, c".", OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, FILE_MODE)
}

/// Gives what `fd` stands for the name `name` in `dir`.
pub(crate) fn link_fd(fd: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &CStr) -> Fault<()> {
    // AT_EMPTY_PATH would need CAP_DAC_READ_SEARCH; the magic link does not.
    rustix::fs::linkat(rustix::fs::CWD, proc_path(fd), dir, name, AtFlags::SYMLINK_FOLLOW)
}

/// The path of a descriptor in /proc, for calls that take nothing else.
pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// renameat2(2) that replaces nothing.
pub(crate) fn rename_new(from: BorrowedFd<'_>, old: &CStr, to: BorrowedFd<'_>, new: &CStr) -> Fault<()> {
    rustix::fs::renameat_with(from, old, to, new, RenameFlags::NOREPLACE)
}

/// What the host says of `name`, links not followed.
pub(crate) fn stat_at(dir: BorrowedFd<'_>, name: &CStr) -> Fault<externfs::Attr> {
    hostfs::layer::status(dir, name)
}

/// Removes a file; that there is none is fine.
pub(crate) fn remove_file(dir: BorrowedFd<'_>, name: &CStr) -> Fault<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Host::NOENT) => Ok(()),
        answer => answer,
    }
}

/// Removes `name` and all below it; that there is nothing is fine. Goes down
/// with one descriptor a level, so only for trees that we made.
pub(crate) fn remove_tree(dir: BorrowedFd<'_>, name: &CStr) -> Fault<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Host::ISDIR | Host::PERM) => {}
        Err(Host::NOENT) => return Ok(()),
        answer => return answer,
    }
    let below = child_dir(dir, name)?;
    for (name, _) in names(below.as_fd())? {
        remove_tree(below.as_fd(), &name)?;
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Err(Host::NOENT) => Ok(()),
        answer => answer,
    }
}

/// As [`remove_tree`], for a tree of any depth: what is below is moved up
/// first, so that neither descriptors nor stack run out. Cut short, it can be
/// called again.
pub(crate) fn remove_deep(dir: BorrowedFd<'_>, name: &CStr) -> Fault<()> {
    remove_deep_after(dir, name, &mut |_, _| Ok(()))
}

/// What is done with a name in a directory.
pub(crate) type Act<'a> = &'a mut dyn FnMut(BorrowedFd<'_>, &CStr) -> Fault<()>;

/// As [`remove_deep`], with each name below shown to `before` first.
pub(crate) fn remove_deep_after(dir: BorrowedFd<'_>, name: &CStr, before: Act<'_>) -> Fault<()> {
    let top = match child_dir(dir, name) {
        Err(Host::NOENT) => return Ok(()),
        Err(Host::NOTDIR | Host::LOOP) => return remove_file(dir, name),
        answer => answer?,
    };
    let mut fresh = 0u64;
    loop {
        let entries = names(top.as_fd())?;
        if entries.is_empty() {
            break;
        }
        for (entry, _) in entries {
            before(top.as_fd(), &entry)?;
            match rustix::fs::unlinkat(&top, &entry, AtFlags::empty()) {
                Err(Host::ISDIR | Host::PERM) => flatten(&top, &entry, &mut fresh, before)?,
                answer => answer?,
            }
        }
    }
    rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
}

/// Moves the directories in `name` up into `top` and removes the rest of it.
fn flatten(top: &OwnedFd, name: &CStr, fresh: &mut u64, before: Act<'_>) -> Fault<()> {
    let below = child_dir(top.as_fd(), name)?;
    for (entry, _) in names(below.as_fd())? {
        before(below.as_fd(), &entry)?;
        match rustix::fs::unlinkat(&below, &entry, AtFlags::empty()) {
            Err(Host::ISDIR | Host::PERM) => {}
            answer => {
                answer?;
                continue;
            }
        }
        loop {
            *fresh += 1;
            let moved = rustix::fs::renameat_with(&below, &entry, top, format!("{fresh}"), RenameFlags::NOREPLACE);
            match moved {
                Err(Host::EXIST) => {}
                answer => break answer?,
            }
        }
    }
    rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR)
}

/// Takes `attribute` from `name`, links not followed. That it has none, or can
/// have none, is fine, and so is that it is somebody else's.
pub(crate) fn remove_attribute(dir: BorrowedFd<'_>, name: &CStr, attribute: &CStr) -> Fault<()> {
    let place = [proc_path(dir).as_bytes(), b"/", name.to_bytes()].concat();
    match rustix::fs::lremovexattr(&place[..], attribute) {
        Ok(()) | Err(Host::NODATA | Host::OPNOTSUPP | Host::PERM | Host::ACCESS) => Ok(()),
        Err(other) => Err(other),
    }
}

/// All names in a directory, without the dots, with the type that the host says.
pub(crate) fn names(dir: BorrowedFd<'_>) -> Fault<Vec<(CString, FileType)>> {
    let listing = rustix::fs::Dir::new(open_listing(dir)?)?;
    let mut names = Vec::new();
    for entry in listing {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            names.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    Ok(names)
}

/// The present as the host's file systems see it when they give times, and as they
/// saw it before that.
pub(crate) fn last_ticks() -> (Timestamp, Timestamp) {
    use rustix::time::{ClockId, clock_getres, clock_gettime};
    static TICK: OnceLock<i64> = OnceLock::new();
    let tick = *TICK.get_or_init(|| clock_getres(ClockId::RealtimeCoarse).tv_nsec.clamp(1, NANOSECONDS - 1));
    let now = clock_gettime(ClockId::RealtimeCoarse);
    let (seconds, nanoseconds) = if now.tv_nsec >= tick { (0, now.tv_nsec - tick) } else { (1, now.tv_nsec + NANOSECONDS - tick) };
    let last = Timestamp { seconds: now.tv_sec, nanoseconds: now.tv_nsec as u32 };
    (last, Timestamp { seconds: now.tv_sec.saturating_sub(seconds), nanoseconds: nanoseconds as u32 })
}

/// A nanosecond later than `time`.
pub(crate) fn just_after(time: Timestamp) -> Timestamp {
    if i64::from(time.nanoseconds) < NANOSECONDS - 1 {
        return Timestamp { nanoseconds: time.nanoseconds + 1, ..time };
    }
    Timestamp { seconds: time.seconds.saturating_add(1), nanoseconds: 0 }
}

/// In a second.
const NANOSECONDS: i64 = 1_000_000_000;

/// Moves the ctime of what `fd` stands for to now and changes nothing else: a
/// chown(2) that names neither owner nor group.
pub(crate) fn touch_ctime(fd: BorrowedFd<'_>) -> Fault<()> {
    rustix::fs::chownat(fd, c"", None, None, AtFlags::EMPTY_PATH)
}

/// Writes `contents` to the file `name`, so that a reader finds the old or the
/// new whole, also after a power failure.
pub(crate) fn replace_file(dir: BorrowedFd<'_>, name: &CStr, contents: &[u8]) -> Fault<()> {
    let mut fresh = name.to_bytes().to_vec();
    fresh.extend(b".new");
    let fresh = CString::new(fresh).map_err(|_| Host::INVAL)?;
    let fd = open_file(dir, &fresh, OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY)?;
    write_all(fd.as_fd(), contents)?;
    rustix::fs::fsync(&fd)?;
    rustix::fs::renameat(dir, &fresh, dir, name)
}

/// All of `bytes`, from the start of the file.
pub(crate) fn write_all(fd: BorrowedFd<'_>, bytes: &[u8]) -> Fault<()> {
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::pwrite(fd, bytes.get(done..).unwrap_or_default(), done as u64) {
            Ok(0) => return Err(Host::IO),
            Ok(count) => done += count,
            Err(Host::INTR) => {}
            Err(other) => return Err(other),
        }
    }
    Ok(())
}

/// The first `most` bytes of a regular file.
pub(crate) fn read_file(dir: BorrowedFd<'_>, name: &CStr, most: usize) -> Fault<Vec<u8>> {
    read_fd(open_file(dir, name, OFlags::RDONLY)?.as_fd(), most)
}

/// The first `most` bytes of an open file.
pub(crate) fn read_fd(fd: BorrowedFd<'_>, most: usize) -> Fault<Vec<u8>> {
    let mut bytes = vec![0; most];
    let mut done = 0;
    while done < most {
        match rustix::io::pread(fd, bytes.get_mut(done..).unwrap_or_default(), done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(Host::INTR) => {}
            Err(other) => return Err(other),
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}
