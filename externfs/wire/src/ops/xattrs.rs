//! Extended attributes: GETXATTR, LISTXATTR, SETXATTR, REMOVEXATTR.

use super::Call;
use crate::answer::Answer;
use crate::reply;
use externfs::*;

/// `XATTR_SIZE_MAX` and `XATTR_LIST_MAX`, in bytes: what the VFS hands on.
const VALUE_MAX: usize = 65536;

/// A value, or its size when the kernel gave no room (`size` 0).
fn sized(value: Vec<u8>, size: usize) -> Result<Answer> {
    if value.len() > VALUE_MAX {
        return Err(Error::because(Errno::E2BIG, format!("{} bytes of extended attributes", value.len())));
    }
    match size {
        0 => Ok(reply::xattr_size(value.len() as u32).into()),
        _ if value.len() > size => Err(Errno::ERANGE.into()),
        _ => Ok(value.into()),
    }
}

pub(crate) fn get_xattr(call: &Call<'_>, name: &[u8], size: usize) -> Result<Answer> {
    sized(call.export.get_xattr(call.node, name)?, size)
}

pub(crate) fn list_xattr(call: &Call<'_>, size: usize) -> Result<Answer> {
    sized(call.export.list_xattr(call.node)?, size)
}

pub(crate) fn set_xattr(call: &Call<'_>, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<Answer> {
    call.export.set_xattr(&call.caller, call.node, name, value, flags)?;
    Ok(Answer::empty())
}

pub(crate) fn remove_xattr(call: &Call<'_>, name: &[u8]) -> Result<Answer> {
    call.export.remove_xattr(&call.caller, call.node, name)?;
    Ok(Answer::empty())
}
