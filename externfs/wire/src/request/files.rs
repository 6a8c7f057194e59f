//! Arguments of the operations on open files and listings.

use super::*;

/// Flags of open(2) as the server's architecture numbers them; a guest has
/// the same.
pub(super) fn open_flags(bits: u32, open_flags: u32, terms: InitFlags) -> OpenFlags {
    let has = |flag: i32| bits & flag as u32 != 0;
    let mode = bits as i32 & libc::O_ACCMODE;
    let write = mode == libc::O_WRONLY || mode == libc::O_RDWR;
    // A write-back cache reads what surrounds a partial page, and appends by itself.
    let writeback = terms.contains(InitFlags::WRITEBACK_CACHE);
    OpenFlags {
        // 3, "neither", is opened to read: the kernel lets nobody read through it.
        read: mode != libc::O_WRONLY || writeback,
        write,
        append: has(libc::O_APPEND) && !writeback,
        truncate: has(libc::O_TRUNC),
        sync: has(libc::O_SYNC) || has(libc::O_DSYNC),
        direct: has(libc::O_DIRECT),
        noatime: has(libc::O_NOATIME),
        exec: bits & abi::OPEN_EXEC != 0,
        kill_suid_sgid: open_flags & abi::OPEN_KILL_SUIDGID != 0,
    }
}

pub(super) fn open<'a>(fields: &mut Fields<'a>, terms: InitFlags) -> Result<Operation<'a>, Errno> {
    let flags = fields.u32()?;
    Ok(Operation::Open(open_flags(flags, fields.u32()?, terms)))
}

pub(super) fn read_args(fields: &mut Fields<'_>) -> Result<ReadArgs, Errno> {
    let args = ReadArgs { handle: handle(fields)?, offset: fields.u64()?, size: fields.u32()? as usize };
    fields.skip(20)?;
    Ok(args)
}

pub(super) fn write_args(fields: &mut Fields<'_>) -> Result<WriteArgs, Errno> {
    let handle = handle(fields)?;
    let offset = fields.u64()?;
    let size = fields.u32()? as usize;
    let write_flags = fields.u32()?;
    fields.skip(8)?;
    let open_flags = fields.u32()?;
    fields.skip(4)?;
    let cached = write_flags & abi::WRITE_CACHE != 0;
    let flags = WriteFlags {
        // Pages that are written back know their place.
        append: open_flags & libc::O_APPEND as u32 != 0 && !cached,
        sync: open_flags & (libc::O_SYNC | libc::O_DSYNC) as u32 != 0,
        cached,
        kill_suid_sgid: write_flags & abi::WRITE_KILL_SUIDGID != 0,
    };
    Ok(WriteArgs { handle, offset, size, flags })
}

pub(super) fn release(fields: &mut Fields<'_>) -> Result<ReleaseArgs, Errno> {
    let handle = handle(fields)?;
    fields.skip(4)?;
    let flags = fields.u32()?;
    Ok(ReleaseArgs {
        handle,
        lock_owner: fields.u64()?,
        flush: flags & abi::RELEASE_FLUSH != 0,
        flock_unlock: flags & abi::RELEASE_FLOCK_UNLOCK != 0,
    })
}

pub(super) fn fsync(fields: &mut Fields<'_>) -> Result<(HandleId, bool), Errno> {
    let handle = handle(fields)?;
    let flags = fields.u32()?;
    fields.skip(4)?;
    Ok((handle, flags & abi::FSYNC_DATA_ONLY != 0))
}

pub(super) fn flush<'a>(fields: &mut Fields<'a>) -> Result<Operation<'a>, Errno> {
    let handle = handle(fields)?;
    fields.skip(8)?;
    Ok(Operation::Flush { handle, lock_owner: fields.u64()? })
}

pub(super) fn fallocate<'a>(fields: &mut Fields<'a>) -> Result<Operation<'a>, Errno> {
    let (handle, offset, length) = (handle(fields)?, fields.u64()?, fields.u64()?);
    // A mode from the future is not supported here, which fallocate(2) has an errno for.
    let flags = FallocateFlags::from_bits(fields.u32()? as i32).ok_or(Errno::EOPNOTSUPP)?;
    fields.skip(4)?;
    Ok(Operation::FAllocate { handle, offset, length, flags })
}

pub(super) fn seek<'a>(fields: &mut Fields<'a>) -> Result<Operation<'a>, Errno> {
    let (handle, offset) = (handle(fields)?, fields.u64()?);
    // The kernel does SEEK_SET, SEEK_CUR and SEEK_END without us.
    let what = match fields.u32()? as i32 {
        libc::SEEK_DATA => SeekFor::Data,
        libc::SEEK_HOLE => SeekFor::Hole,
        _ => return Err(Errno::EINVAL),
    };
    fields.skip(4)?;
    Ok(Operation::Seek { handle, offset, what })
}

pub(super) fn copy(fields: &mut Fields<'_>) -> Result<CopyArgs, Errno> {
    let from = (handle(fields)?, fields.u64()?);
    let to_node = NodeId(fields.u64()?);
    let to = (handle(fields)?, fields.u64()?);
    let length = fields.u64()?;
    // copy_file_range(2) knows no flags yet.
    if fields.u64()? != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(CopyArgs { from, to_node, to, length })
}

pub(super) fn lock(fields: &mut Fields<'_>) -> Result<(HandleId, Lock), Errno> {
    let (handle, owner, start, end) = (handle(fields)?, fields.u64()?, fields.u64()?, fields.u64()?);
    let kind = match fields.u32()? as i32 {
        libc::F_RDLCK => LockKind::Read,
        libc::F_WRLCK => LockKind::Write,
        libc::F_UNLCK => LockKind::Unlock,
        _ => return Err(Errno::EINVAL),
    };
    let pid = fields.u32()?;
    let family = if fields.u32()? & abi::LK_FLOCK != 0 { LockFamily::Flock } else { LockFamily::Posix };
    fields.skip(4)?;
    if start > end {
        return Err(Errno::EINVAL);
    }
    Ok((handle, Lock { family, kind, owner, start, end, pid }))
}
