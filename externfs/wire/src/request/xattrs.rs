//! Arguments of the operations on extended attributes.

use super::*;

pub(super) fn xattr_name<'a>(fields: &mut Fields<'a>) -> Result<&'a [u8], Errno> {
    let name = fields.text()?;
    // xattr(7): setxattr(2) and its kin answer ERANGE for both.
    if name.is_empty() || name.len() > 255 { Err(Errno::ERANGE) } else { Ok(name) }
}

pub(super) fn size_field(fields: &mut Fields<'_>) -> Result<usize, Errno> {
    let size = fields.u32()? as usize;
    fields.skip(4)?;
    Ok(size)
}

pub(super) fn get_xattr<'a>(fields: &mut Fields<'a>) -> Result<Operation<'a>, Errno> {
    let size = size_field(fields)?;
    Ok(Operation::GetXattr { name: xattr_name(fields)?, size })
}

pub(super) fn set_xattr<'a>(fields: &mut Fields<'a>, terms: InitFlags) -> Result<Operation<'a>, Errno> {
    let size = fields.u32()? as usize;
    let bits = fields.u32()? as i32;
    let mut flags = XattrFlags::from_bits(bits & !XattrFlags::KILL_SGID.bits()).ok_or(Errno::EINVAL)?;
    if terms.contains(InitFlags::SETXATTR_EXT) {
        if fields.u32()? & abi::SETXATTR_ACL_KILL_SGID != 0 {
            flags |= XattrFlags::KILL_SGID;
        }
        fields.skip(4)?;
    }
    let name = xattr_name(fields)?;
    if size > XATTR_VALUE {
        return Err(Errno::E2BIG);
    }
    Ok(Operation::SetXattr { name, value: fields.bytes(size)?, flags })
}
