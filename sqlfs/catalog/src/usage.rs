//! Who uses how much: kept with every change, so that it need not be summed up.

use rusqlite::{Connection, Result};
use std::collections::HashMap;

/// What an object adds: its owner, its group, bytes on the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Share {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) bytes: i64,
}

/// Differences that have not been written yet.
#[derive(Debug, Default)]
pub(crate) struct Differences(HashMap<(u8, u32), (i64, i64)>);

impl Differences {
    /// An object was `before` and is `after`; None for not there.
    pub(crate) fn note(&mut self, before: Option<Share>, after: Option<Share>) {
        if before == after {
            return;
        }
        for (share, sign) in [(before, -1), (after, 1)] {
            let Some(share) = share else { continue };
            for key in [(0, share.uid), (1, share.gid), (2, 0)] {
                let sum = self.0.entry(key).or_default();
                sum.0 += sign;
                sum.1 += sign * share.bytes;
            }
        }
    }

    /// Writes them.
    pub(crate) fn settle(self, conn: &Connection) -> Result<()> {
        for ((kind, id), (inodes, bytes)) in self.0 {
            if (inodes, bytes) == (0, 0) {
                continue;
            }
            conn.prepare_cached(
                "INSERT INTO usage VALUES(?1, ?2, ?3, ?4) ON CONFLICT(kind, id) DO UPDATE SET inodes=inodes+?3, bytes=bytes+?4",
            )?
            .execute((kind, id, inodes, bytes))?;
            conn.prepare_cached("DELETE FROM usage WHERE kind=?1 AND id=?2 AND inodes=0")?.execute((kind, id))?;
        }
        Ok(())
    }
}
