//! Attributes: GETATTR, STATX, SETATTR, READLINK, ACCESS, STATFS.

use super::Call;
use crate::answer::Answer;
use crate::reply;
use externfs::*;

pub(crate) fn get_attr(call: &Call<'_>, handle: Option<HandleId>) -> Result<Answer> {
    let (attr, ttl) = call.export.get_attr(call.node, handle)?;
    Ok(reply::attr(&attr, call.attr_ttl(call.node, ttl))?.into())
}

pub(crate) fn statx(call: &Call<'_>, handle: Option<HandleId>) -> Result<Answer> {
    let (attr, ttl) = call.export.get_attr(call.node, handle)?;
    Ok(reply::statx(&attr, call.attr_ttl(call.node, ttl)).into())
}

pub(crate) fn set_attr(call: &Call<'_>, handle: Option<HandleId>, change: &SetAttr) -> Result<Answer> {
    let (attr, ttl) = call.export.set_attr(&call.caller, call.node, handle, change)?;
    Ok(reply::attr(&attr, call.attr_ttl(call.node, ttl))?.into())
}

/// Longest target that the kernel takes: a page less its NUL.
const TARGET_MAX: usize = 4095;

pub(crate) fn read_link(call: &Call<'_>) -> Result<Answer> {
    let target = call.export.read_link(call.node)?;
    if target.len() > TARGET_MAX {
        return Err(Error::because(Errno::ENAMETOOLONG, format!("a link's target of {} bytes", target.len())));
    }
    Ok(target.into())
}

pub(crate) fn access(call: &Call<'_>, wanted: Access) -> Result<Answer> {
    call.export.access(&call.caller, call.node, wanted)?;
    Ok(Answer::empty())
}

pub(crate) fn statfs(call: &Call<'_>) -> Result<Answer> {
    Ok(reply::statfs(&call.export.statfs(call.node)?).into())
}
