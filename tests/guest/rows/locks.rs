//! Locks, between processes of one guest.

use crate::helper;
use crate::place::{Place, Verdict, done, failed, refused, same};
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

fn open(path: &Path) -> Verdict<File> {
    done("open", File::options().read(true).write(true).open(path))
}

type Lock = fn(&File, FlockOperation) -> rustix::io::Result<()>;

fn contend(place: &Place, kind: &str, lock: Lock) -> Verdict {
    let path = place.file("locked", "")?;
    let text = path.to_string_lossy();
    let file = open(&path)?;
    let (exclusive, shared) = (FlockOperation::NonBlockingLockExclusive, FlockOperation::NonBlockingLockShared);
    let holder = helper::start_ready(&["hold", kind, "exclusive", &text])?;
    refused("exclusive against exclusive", lock(&file, exclusive), Errno::WOULDBLOCK)?;
    refused("shared against exclusive", lock(&file, shared), Errno::WOULDBLOCK)?;
    // Killed, not asked: the kernel has to clean up.
    drop(holder);
    done("exclusive after the holder's death", lock(&file, exclusive))?;
    done("unlock", lock(&file, FlockOperation::Unlock))?;
    let holder = helper::start_ready(&["hold", kind, "shared", &text])?;
    done("shared with shared", lock(&file, shared))?;
    refused("exclusive against shared", lock(&file, exclusive), Errno::WOULDBLOCK)?;
    drop(holder);
    done("upgrade", lock(&file, exclusive))?;
    drop(file);
    let file = open(&path)?;
    done("after close", lock(&file, exclusive))
}

pub(super) fn flock(place: &Place) -> Verdict {
    contend(place, "flock", |file, operation| rustix::fs::flock(file, operation))?;
    // Two descriptions of one process exclude each other too.
    let path = place.at("locked");
    let (one, two) = (open(&path)?, open(&path)?);
    done("lock", rustix::fs::flock(&one, FlockOperation::LockExclusive))?;
    refused("the second", rustix::fs::flock(&two, FlockOperation::NonBlockingLockExclusive), Errno::WOULDBLOCK)
}

pub(super) fn record(place: &Place) -> Verdict {
    // fcntl(2) may answer EACCES or EAGAIN; Linux answers EAGAIN.
    contend(place, "record", |file, operation| fcntl_lock(file, operation))
}

pub(super) fn waiting_is_interruptible(place: &Place) -> Verdict {
    let path = place.file("locked", "")?;
    let text = path.to_string_lossy();
    for kind in ["flock", "record"] {
        let holder = helper::start_ready(&["hold", kind, "exclusive", &text])?;
        let mut waiter = helper::start(&["hold", kind, "exclusive", &text])?;
        std::thread::sleep(Duration::from_millis(300));
        same("the waiter has ended", done("wait", waiter.try_wait())?.is_some(), false)?;
        let Some(pid) = Pid::from_raw(waiter.id() as i32) else { return failed("no process id") };
        done("kill", rustix::process::kill_process(pid, Signal::TERM))?;
        let end = Instant::now() + Duration::from_secs(5);
        while done("wait", waiter.try_wait())?.is_none() {
            if Instant::now() > end {
                return failed(format_args!("a process that waits for a lock ({kind}) cannot be ended"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(holder);
    }
    Ok(())
}
