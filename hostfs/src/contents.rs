//! Opening files, and what is in them.

use crate::HostFs;
use crate::attr::Stat;
use crate::fault::fault;
use crate::node::{Inode, OpenFile};
use crate::options::Cache;
use crate::reach::Spot;
use externfs::{DataSource, Errno, Error, FallocateFlags, FileCache, FileKind, OpenFlags, Opened, Result, StatFs, WriteFlags, WritePlace};
use rustix::fs::OFlags;
use rustix::io::Errno as Host;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The host's flags. `O_APPEND`, `O_DIRECT` and `O_SYNC` are left out: each
/// write says again whether it appends and syncs, and a guest's buffers know
/// nothing of the host's alignment.
pub(crate) fn open_flags(flags: OpenFlags) -> OFlags {
    let access = match (flags.read, flags.write) {
        (true, true) => OFlags::RDWR,
        (false, true) => OFlags::WRONLY,
        (_, false) => OFlags::RDONLY,
    };
    let mut host = access;
    host.set(OFlags::TRUNC, flags.truncate);
    host.set(OFlags::NOATIME, flags.noatime);
    host
}

impl HostFs {
    /// See [`externfs::ExternFs::open`].
    pub(crate) fn open_file(&self, node: &Arc<Inode>, flags: OpenFlags) -> Result<Opened<Arc<OpenFile>>> {
        check_openable(node.kind())?;
        if self.options.read_only && (flags.write || flags.truncate) {
            return Err(Errno::EROFS.into());
        }
        self.when_still(|| self.open_once(node, flags))
    }

    fn open_once(&self, node: &Arc<Inode>, flags: OpenFlags) -> Result<Opened<Arc<OpenFile>>> {
        if !flags.truncate
            && let Some((fd, size)) = self.open_by_name(node, flags)?
        {
            let cache = if self.bypasses(flags) { FileCache::Bypass } else { FileCache::Keep };
            return Ok(Opened { file: OpenFile::register(fd, node.clone(), flags.write, &self.locks), cache, size });
        }
        let (held, stat) = self.reach_with_stat(node)?;
        let mut how = open_flags(flags);
        if flags.truncate {
            if self.options.append {
                if stat.size() > 0 {
                    return Err(Errno::EPERM.into());
                }
                // It is empty, and stays as it is should another append now.
                how -= OFlags::TRUNC;
            }
            self.own_change(node);
            if flags.kill_suid_sgid {
                self.strip_setid(held.as_fd(), !held.is_open())?;
            }
        }
        let fd = match self.open_for_real(held.as_fd(), how) {
            // One that takes appends only (chattr +a) wants to hear so.
            Err(error) if error.errno() == Errno::EPERM && flags.write && flags.append && !flags.truncate => {
                self.open_for_real(held.as_fd(), how | OFlags::APPEND)?
            }
            answer => answer?,
        };
        let cache = match self.options.cache {
            _ if self.bypasses(flags) => FileCache::Bypass,
            Cache::Always => FileCache::Keep,
            // What the kernel has is what the host has, as far as times tell.
            Cache::Auto if node.was_told(stat.stamp()) && !flags.truncate => FileCache::Keep,
            Cache::Auto | Cache::None => FileCache::Drop,
        };
        let size = if flags.truncate { 0 } else { stat.size() };
        Ok(Opened { file: OpenFile::register(fd, node.clone(), flags.write, &self.locks), cache, size })
    }

    /// Opens `node` by its name, which is half of the system calls, and tells its
    /// size. Only where nobody else can put a device in its place. None if it has
    /// to be done the long way.
    fn open_by_name(&self, node: &Arc<Inode>, flags: OpenFlags) -> Result<Option<(OwnedFd, u64)>> {
        let open = |dir: BorrowedFd<'_>, name: &CStr| {
            let Ok(fd) = self.jail.open_unchecked(dir, name, open_flags(flags)) else { return Ok(None) };
            let stat = Stat::of_open(fd.as_fd())?;
            Ok(self.verify(node, &stat).is_ok().then_some((fd, stat.size())))
        };
        if !self.options.is_layers {
            // A guest may make devices, so it is looked at before, while it holds
            // still; and after, should somebody else have changed it all the same.
            return self.by_name(node, |dir, name, _| open(dir, name));
        }
        // The layer makes none in a data tree, so one look afterwards will do.
        let Spot::Named { dir, name, .. } = self.spot(node)? else { return Ok(None) };
        open(dir.as_fd(), &name)
    }

    /// A regular file, known to be one, opened for I/O.
    pub(crate) fn open_for_real(&self, fd: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd> {
        let opened = match self.with_spare_fds(|| self.jail.reopen_unchecked(fd, flags)) {
            // `O_NOATIME` is for owners; a guest's owner need not be the host's.
            Err(Host::PERM) if flags.contains(OFlags::NOATIME) => {
                self.with_spare_fds(|| self.jail.reopen_unchecked(fd, flags - OFlags::NOATIME))
            }
            answer => answer,
        };
        opened.map_err(fault("opening a file"))
    }

    /// What may be cached of a file that is brand-new: what is written to it.
    pub(crate) fn cache_for_new(&self, flags: OpenFlags) -> FileCache {
        if self.bypasses(flags) { FileCache::Bypass } else { FileCache::Drop }
    }

    /// With `append`, writes come to us one by one: a kernel that caches would
    /// believe that they landed where it thought the end was.
    fn bypasses(&self, flags: OpenFlags) -> bool {
        self.options.direct_io || (self.options.append && flags.write)
    }

    /// See [`externfs::ExternFs::write`].
    pub(crate) fn write_file(&self, file: &OpenFile, offset: u64, source: &mut dyn DataSource, flags: WriteFlags) -> Result<usize> {
        let place = self.write_place(file, offset, flags)?;
        if flags.kill_suid_sgid {
            self.strip_setid(file.fd.as_fd(), false)?;
        }
        self.own_change(&file.node);
        let sync = flags.sync || self.options.sync;
        let mut written = 0;
        while source.remaining() > 0 {
            let place = match place {
                WritePlace::At(offset) => WritePlace::At(offset + written as u64),
                WritePlace::End => WritePlace::End,
            };
            let want = source.remaining();
            match source.drain_to(file.fd.as_fd(), place, want, sync) {
                Ok(0) => break,
                Ok(count) => written += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // The guest hears of it with its next write.
                Err(_) if written > 0 => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(written)
    }

    /// Where a write lands.
    ///
    /// # Errors
    /// EPERM with `append` for one that would not land at the end. A page
    /// written back from a mapping says nothing of what in it is new.
    fn write_place(&self, file: &OpenFile, offset: u64, flags: WriteFlags) -> Result<WritePlace> {
        if !self.options.append {
            return Ok(if flags.append { WritePlace::End } else { WritePlace::At(offset) });
        }
        let at_end = flags.append || offset == Stat::of_open(file.fd.as_fd())?.size();
        if flags.cached || !at_end {
            return Err(Errno::EPERM.into());
        }
        // Should another have appended since, both are kept.
        Ok(WritePlace::End)
    }

    /// See [`externfs::ExternFs::flush`]. Closing a duplicate makes a network
    /// file system of the host say what it has to say.
    pub(crate) fn flush_file(&self, file: &OpenFile) -> Result<()> {
        if !file.writable {
            return Ok(());
        }
        match self.with_spare_fds(|| rustix::io::fcntl_dupfd_cloexec(&file.fd, 0)) {
            Ok(copy) => crate::sys::close(copy).map_err(fault("closing a file")),
            // No reason to fail a close.
            Err(_) => Ok(()),
        }
    }

    /// See [`externfs::ExternFs::fallocate`].
    pub(crate) fn allocate(&self, file: &OpenFile, offset: u64, length: u64, flags: FallocateFlags) -> Result<()> {
        let harmless = FallocateFlags::KEEP_SIZE | FallocateFlags::UNSHARE_RANGE;
        if self.options.append && !harmless.contains(flags) {
            return Err(Errno::EPERM.into());
        }
        // A kernel that leaves dropping setuid to us (HANDLE_KILLPRIV_V2) says
        // nothing of who asks here, so it goes for everybody, root included.
        self.strip_setid(file.fd.as_fd(), false)?;
        self.own_change(&file.node);
        let mode = rustix::fs::FallocateFlags::from_bits_retain(flags.bits() as u32);
        rustix::fs::fallocate(&file.fd, mode, offset, length).map_err(fault("fallocate"))?;
        self.sync_file(file)
    }

    /// See [`externfs::ExternFs::copy_range`].
    pub(crate) fn copy_between(&self, from: (&Arc<OpenFile>, u64), to: (&Arc<OpenFile>, u64), length: u64) -> Result<u64> {
        if self.options.append {
            // copy_file_range(2) cannot append; the kernel then copies with
            // writes, and those are looked at.
            return Err(Errno::EOPNOTSUPP.into());
        }
        self.strip_setid(to.0.fd.as_fd(), false)?;
        self.own_change(&to.0.node);
        let (mut read_at, mut write_at) = (from.1, to.1);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let copied = rustix::fs::copy_file_range(&from.0.fd, Some(&mut read_at), &to.0.fd, Some(&mut write_at), length);
        let copied = copied.map_err(fault("copy_file_range"))?;
        self.sync_file(to.0)?;
        Ok(copied as u64)
    }

    /// With `sync`, makes what was just changed durable.
    pub(crate) fn sync_file(&self, file: &OpenFile) -> Result<()> {
        if self.options.sync { rustix::fs::fsync(&file.fd).map_err(fault("fsync")) } else { Ok(()) }
    }

    /// Takes setuid away, and setgid where the group may execute. The host
    /// does that for ordinary users but not for us if we are root. (File
    /// capabilities it drops on every write, whoever writes.)
    pub(crate) fn strip_setid(&self, fd: BorrowedFd<'_>, is_path: bool) -> Result<()> {
        let stat = Stat::of_open(fd)?;
        let mode = stat.mode().bits();
        let mut gone = mode & 0o4000;
        if mode & 0o010 != 0 {
            gone |= mode & 0o2000;
        }
        if gone == 0 || stat.kind()? != FileKind::Regular {
            return Ok(());
        }
        match self.chmod(fd, is_path, mode & !gone) {
            // Not ours: then we are no root, and the host does it.
            Err(Host::PERM) => Ok(()),
            answer => answer.map_err(fault("chmod")),
        }
    }

    /// See [`externfs::ExternFs::statfs`].
    pub(crate) fn statfs_at(&self, node: &Arc<Inode>) -> Result<StatFs> {
        let held = self.reach(node)?;
        let host = rustix::fs::fstatvfs(held.as_fd()).map_err(fault("statfs"))?;
        Ok(StatFs {
            block_size: u32::try_from(host.f_frsize).unwrap_or(4096),
            blocks: host.f_blocks,
            blocks_free: host.f_bfree,
            blocks_available: host.f_bavail,
            inodes: host.f_files,
            inodes_free: host.f_ffree,
            name_max: u32::try_from(host.f_namemax).unwrap_or(255),
        })
    }
}

/// Only regular files are opened on a guest's behalf; the rest is the guest
/// kernel's own business, and these are its errnos for it.
fn check_openable(kind: FileKind) -> Result<()> {
    match kind {
        FileKind::Regular => Ok(()),
        FileKind::Directory => Err(Errno::EISDIR.into()),
        FileKind::Symlink => Err(Errno::ELOOP.into()),
        _ => Err(Error::because(Errno::ENXIO, format!("a guest asked to open a {kind:?} of the host"))),
    }
}
