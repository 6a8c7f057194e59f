//! Arguments of the operations on attributes, IOCTL included.

use super::*;

pub(super) fn handle_if_flagged(fields: &mut Fields<'_>) -> Result<Option<HandleId>, Errno> {
    let flags = fields.u32()?;
    fields.skip(4)?;
    let handle = handle(fields)?;
    Ok((flags & abi::GETATTR_FH != 0).then_some(handle))
}

pub(super) fn statx<'a>(fields: &mut Fields<'a>) -> Result<Operation<'a>, Errno> {
    let handle = handle_if_flagged(fields)?;
    fields.skip(8)?;
    Ok(Operation::StatX(handle))
}

pub(super) fn set_attr<'a>(fields: &mut Fields<'a>) -> Result<Operation<'a>, Errno> {
    let valid = SetAttrValid::from_bits_retain(fields.u32()?);
    fields.skip(4)?;
    let handle = handle(fields)?;
    let new_size = fields.u64()?;
    fields.skip(8)?;
    let seconds = [fields.u64()?, fields.u64()?, fields.u64()?];
    let nanoseconds = [fields.u32()?, fields.u32()?, fields.u32()?];
    let mode = fields.u32()?;
    fields.skip(4)?;
    let uid = fields.u32()?;
    let gid = fields.u32()?;
    fields.skip(4)?;
    let [[atime_s, mtime_s, ctime_s], [atime_ns, mtime_ns, ctime_ns]] = [seconds, nanoseconds.map(u64::from)];
    let set_time = |given, now, seconds, nanoseconds| match (valid.contains(given), valid.contains(now)) {
        (false, _) => Ok(None),
        (true, true) => Ok(Some(SetTime::Now)),
        (true, false) => time(seconds, nanoseconds as u32).map(|at| Some(SetTime::At(at))),
    };
    let change = SetAttr {
        mode: valid.contains(SetAttrValid::MODE).then(|| Mode::new(mode)),
        uid: valid.contains(SetAttrValid::UID).then_some(GuestUid(uid)),
        gid: valid.contains(SetAttrValid::GID).then_some(GuestGid(gid)),
        size: valid.contains(SetAttrValid::SIZE).then_some(new_size),
        atime: set_time(SetAttrValid::ATIME, SetAttrValid::ATIME_NOW, atime_s, atime_ns)?,
        mtime: set_time(SetAttrValid::MTIME, SetAttrValid::MTIME_NOW, mtime_s, mtime_ns)?,
        ctime: if valid.contains(SetAttrValid::CTIME) { Some(time(ctime_s, ctime_ns as u32)?) } else { None },
        kill_suid_sgid: valid.contains(SetAttrValid::KILL_SUIDGID),
    };
    if change.size.is_some_and(|size| size > i64::MAX as u64) {
        return Err(Errno::EFBIG);
    }
    Ok(Operation::SetAttr(valid.contains(SetAttrValid::FH).then_some(handle), change))
}

pub(super) fn access<'a>(fields: &mut Fields<'a>) -> Result<Operation<'a>, Errno> {
    let wanted = Access::from_bits(fields.u32()?).ok_or(Errno::EINVAL)?;
    fields.skip(4)?;
    Ok(Operation::Access(wanted))
}

pub(super) fn ioctl<'a>(fields: &mut Fields<'a>) -> Result<Operation<'a>, Errno> {
    let handle = handle(fields)?;
    let flags = fields.u32()?;
    let command = fields.u32()?;
    fields.skip(8)?;
    let in_size = fields.u32()? as usize;
    let out_size = fields.u32()?;
    let data = fields.bytes(in_size)?;
    Ok(Operation::Ioctl(IoctlArgs { handle, flags, command, data, out_size }))
}
