//! Locks: GETLK, SETLK, SETLKW.

use super::Call;
use crate::answer::{Answer, Held};
use crate::reply;
use externfs::*;

pub(crate) fn get_lock(call: &Call<'_>, handle: HandleId, wanted: &Lock) -> Result<Answer> {
    let found = call.export.get_lock(handle, wanted)?;
    Ok(reply::lock(found.as_ref(), wanted).into())
}

/// Takes or releases a lock without waiting. None: it is taken, and the
/// caller wants to wait for it.
pub(crate) fn try_lock(call: &Call<'_>, handle: HandleId, lock: &Lock, wait: bool) -> Result<Option<Answer>> {
    match call.export.set_lock(handle, lock, None) {
        Ok(()) => Ok(Some(Answer::empty())),
        Err(error) if wait && error.errno() == Errno::EAGAIN => Ok(None),
        Err(error) => Err(error),
    }
}

/// Waits for a lock, on a thread that may block.
pub(crate) fn wait_for_lock(export: &dyn Export, handle: HandleId, lock: &Lock, interrupt: &Interrupt) -> Result<Answer> {
    export.set_lock(handle, lock, Some(interrupt))?;
    Ok(Answer::empty().holding(Held::Lock(handle, *lock)))
}
