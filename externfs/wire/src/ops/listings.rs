//! Listings: OPENDIR, READDIR, READDIRPLUS, RELEASEDIR, FSYNCDIR.

use super::Call;
use crate::abi::InitFlags;
use crate::answer::{Answer, Held};
use crate::codec::Payload;
use crate::habit::Bring;
use crate::listing::Dirents;
use crate::reply;
use crate::request::ReadArgs;
use externfs::*;

/// The largest listing of one reply. Kernels ask for a page to 1 MiB.
const LISTING_MAX: usize = 1 << 20;

pub(crate) fn open_dir(call: &Call<'_>) -> Result<Answer> {
    let handle = call.export.open_dir(call.node)?;
    let payload = reply::put_open(Payload::new(), &handle, reply::dir_flags(&handle), 0);
    Ok(Answer::from(payload).holding(Held::Listing(handle.id)))
}

pub(crate) fn read_dir(call: &Call<'_>, args: &ReadArgs, plus: bool, room: usize) -> Result<Answer> {
    let limit = args.size.min(room).min(LISTING_MAX);
    let bring = plus.then(|| {
        if call.terms.contains(InitFlags::READDIRPLUS_AUTO) {
            // A kernel with a rule of its own asks for attributes where it wants them.
            Bring::All
        } else if call.policy().entry.is_zero() {
            // It would look each name up again.
            Bring::Names
        } else {
            call.habit.of(call.node, args.offset)
        }
    });
    // Most listings are short: room for more comes as they grow.
    let expected = if args.offset == 0 { limit.min(4096) } else { limit.min(32 << 10) };
    let mut listing = Dirents::new(call, limit, expected, bring);
    let read = match bring {
        Some(Bring::All | Bring::AllButOne) => call.export.read_dir_plus(args.handle, args.offset, &mut listing),
        Some(Bring::Names) | None => call.export.read_dir(args.handle, args.offset, &mut listing),
    };
    if listing.is_empty() {
        read?;
        if listing.is_too_small() {
            // As getdents(2) says it.
            return Err(Errno::EINVAL.into());
        }
    } else if let Err(error) = read {
        // What is there is right and its lookups are counted; the error comes
        // out when the kernel goes on from the last entry.
        tracing::debug!(%error, "a listing ended early");
    }
    let (bytes, taken, given) = listing.finish();
    call.habit.gave(call.node, given);
    Ok(Answer::from(bytes).holding(Held::Nodes(taken)))
}

pub(crate) fn release_dir(call: &Call<'_>, handle: HandleId) -> Result<Answer> {
    call.export.release_dir(handle);
    Ok(Answer::empty())
}

pub(crate) fn fsync_dir(call: &Call<'_>, handle: HandleId, data_only: bool) -> Result<Answer> {
    call.export.fsync_dir(handle, data_only)?;
    Ok(Answer::empty())
}
