//! Open files: OPEN, CREATE, TMPFILE, READ, WRITE, FLUSH, RELEASE, FSYNC,
//! FALLOCATE, LSEEK, COPY_FILE_RANGE.

use super::Call;
use crate::abi::{InitFlags, OpenReply};
use crate::answer::{Answer, Held};
use crate::codec::Payload;
use crate::init;
use crate::passthrough::{NewlyOpen, Serving};
use crate::reply;
use crate::request::{CopyArgs, Making, ReadArgs, ReleaseArgs, WriteArgs};
use crate::transport::Reply;
use externfs::*;

/// The largest READ: 256 pages of 64 KiB, more than any kernel asks for. It
/// keeps a hostile size from a plugin that makes a buffer of it.
const READ_MAX: usize = 16 << 20;

/// How the kernel is told to serve a file that was opened with these flags: its
/// `open_flags`, and the number of its backing file.
fn serve_as(call: &Call<'_>, (node, created): (NodeId, bool), handle: &Handle, open: OpenFlags) -> (OpenReply, u32) {
    let mut flags = reply::file_flags(handle.cache);
    // With a page cache of its own a kernel must tell us when it is to be
    // written; with locks of ours, whose they are. Else FLUSH has no meaning:
    // pages written through mmap(2) go out when the mapping does.
    let flush_matters = call.config.flush_on_close || call.terms.intersects(InitFlags::WRITEBACK_CACHE | InitFlags::POSIX_LOCKS);
    let no_flush = if flush_matters { OpenReply::empty() } else { OpenReply::NOFLUSH };
    if open.direct {
        flags |= OpenReply::PARALLEL_DIRECT_WRITES;
    }
    let serving = call.passthrough.map_or(Serving::Plain, |(passthrough, _)| {
        let maps = open.read && open.write;
        let file = NewlyOpen { node, handle: handle.id, maps, created, size: handle.size, cache: handle.cache };
        passthrough.opened(call.export, file)
    });
    let (flags, backing) = match serving {
        Serving::Plain => (flags, 0),
        Serving::Direct => (reply::file_flags(FileCache::Bypass), 0),
        // No other flag goes with it (FOPEN_PASSTHROUGH_MASK of fs/fuse/iomode.c).
        Serving::Backed(id) => (OpenReply::PASSTHROUGH, id),
    };
    (flags | no_flush, backing)
}

pub(crate) fn open(call: &Call<'_>, flags: OpenFlags) -> Result<Answer> {
    let handle = call.export.open(&call.caller, call.node, flags)?;
    let (flags, backing) = serve_as(call, (call.node, false), &handle, flags);
    let payload = reply::put_open(Payload::new(), &handle, flags, backing);
    Ok(Answer::from(payload).holding(Held::File(handle.id)))
}

fn created(call: &Call<'_>, (entry, handle): (Entry, Handle), flags: OpenFlags) -> Result<Answer> {
    if call.terms.contains(init::UNOPENED) {
        return created_unopened(call, &entry, handle);
    }
    let held = Held::NewFile(entry.id, handle.id);
    // First: attributes of a file that is backed from now on do not live.
    let (flags, backing) = serve_as(call, (entry.id, true), &handle, flags);
    match reply::entry(&call.told(&entry)) {
        Ok(payload) => Ok(Answer::from(reply::put_open(payload, &handle, flags, backing)).holding(held)),
        Err(errno) => {
            call.give_back(held);
            Err(errno.into())
        }
    }
}

/// The handle stays ours: a kernel that opens nothing releases nothing.
fn created_unopened(call: &Call<'_>, entry: &Entry, handle: Handle) -> Result<Answer> {
    call.export.leave_unopened(handle.id);
    match reply::entry(&call.told(entry)) {
        Ok(payload) => {
            let handle = Handle { id: HandleId(0), cache: FileCache::Keep, ..handle };
            let flags = reply::file_flags(handle.cache) | OpenReply::NOFLUSH;
            Ok(Answer::from(reply::put_open(payload, &handle, flags, 0)).holding(Held::Node(entry.id)))
        }
        Err(errno) => {
            call.give_back(Held::Node(entry.id));
            Err(errno.into())
        }
    }
}

pub(crate) fn create(call: &Call<'_>, making: &Making<'_>, flags: CreateFlags) -> Result<Answer> {
    let made = call.export.create(&call.maker(making.umask), call.node, making.name, flags)?;
    created(call, made, flags.open)
}

pub(crate) fn tmp_file(call: &Call<'_>, umask: u32, flags: CreateFlags) -> Result<Answer> {
    let made = call.export.create_unnamed(&call.maker(umask), call.node, flags)?;
    created(call, made, flags.open)
}

pub(crate) fn read(call: &Call<'_>, args: &ReadArgs, reply: &mut dyn Reply) -> Result<Answer> {
    // Fewer bytes than asked for would mean the end of the file.
    if args.size > reply.room().min(READ_MAX) {
        return Err(Error::because(Errno::EINVAL, format!("READ of {} bytes into a reply with room for {}", args.size, reply.room())));
    }
    call.export.read(args.handle, args.offset, args.size, reply)?;
    Ok(Answer::in_reply())
}

pub(crate) fn write(call: &Call<'_>, args: &WriteArgs, source: &mut dyn DataSource) -> Result<Answer> {
    if args.size != source.remaining() {
        return Err(Error::because(Errno::EINVAL, format!("WRITE of {} bytes with {} bytes of data", args.size, source.remaining())));
    }
    let most = init::max_write(call.config, call.terms);
    if args.size > most as usize {
        return Err(Error::because(Errno::EINVAL, format!("WRITE of {} bytes, where {most} were agreed upon", args.size)));
    }
    let written = call.export.write(args.handle, args.offset, source, args.flags)?;
    // Ours to guarantee, not the plugin's: the kernel takes more for a broken server.
    Ok(reply::written(written.min(args.size) as u32).into())
}

pub(crate) fn flush(call: &Call<'_>, handle: HandleId, lock_owner: u64) -> Result<Answer> {
    call.export.flush(handle, lock_owner)?;
    Ok(Answer::empty())
}

pub(crate) fn release(call: &Call<'_>, args: &ReleaseArgs) -> Result<Answer> {
    // The file is closed whatever FLUSH says; nobody is left to hear of it.
    let flushed = if args.flush { call.export.flush(args.handle, args.lock_owner) } else { Ok(()) };
    call.export.release(args.handle, args.flock_unlock.then_some(args.lock_owner));
    if let Some((passthrough, _)) = call.passthrough {
        passthrough.released(args.handle);
    }
    flushed.map(|()| Answer::empty())
}

pub(crate) fn fsync(call: &Call<'_>, handle: HandleId, data_only: bool) -> Result<Answer> {
    call.export.fsync(handle, data_only)?;
    Ok(Answer::empty())
}

pub(crate) fn fallocate(call: &Call<'_>, handle: HandleId, range: (u64, u64), flags: FallocateFlags) -> Result<Answer> {
    call.export.fallocate(handle, range.0, range.1, flags)?;
    Ok(Answer::empty())
}

pub(crate) fn seek(call: &Call<'_>, handle: HandleId, offset: u64, what: SeekFor) -> Result<Answer> {
    match call.export.seek(handle, offset, what) {
        Ok(found) => Ok(reply::offset(found).into()),
        // The kernel then treats every file as all data, which is always true.
        Err(error) if error.errno() == Errno::EOPNOTSUPP => Err(Errno::ENOSYS.into()),
        Err(error) => Err(error),
    }
}

/// The largest copy that the 32 bits of `fuse_write_out` can tell, in whole pages.
const COPY_MAX_NARROW: u64 = 0xffff_f000;

pub(crate) fn copy(call: &Call<'_>, args: &CopyArgs, wide: bool) -> Result<Answer> {
    let length = if wide { args.length } else { args.length.min(COPY_MAX_NARROW) };
    let copied = call.export.copy_range(args.from, args.to, length)?.min(length);
    Ok(if wide { reply::offset(copied) } else { reply::written(copied as u32) }.into())
}
