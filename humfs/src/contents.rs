//! Opening files and what is in them, within the limit.

use crate::account::{Announced, BLOCK, Entry, Limits, Outcome, Usage};
use crate::extents::{Settled, begin_writing, settled};
use crate::fs::HumFs;
use crate::host::fault;
use crate::late::Data;
use crate::node::{HumFile, HumNode};
use crate::store::{Hold, Object, Place};
use crate::unsettled::{Written, lists};
use externfs::{
    Attr, Caller, DataSource, Errno, ExternFs, FallocateFlags, FileKind, OpenFlags, Opened, Result, SetAttr, StatFs, WriteFlags, WritePlace,
};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What must be kept free for blocks that the host may still add, in bytes,
/// before it is worth the wait to find out which it does.
const WORTH_SETTLING: u64 = 64 << 10;

/// A limit that somebody has changed holds after so long, whatever is done.
const LIMIT_LOOK: Duration = Duration::from_secs(1);

/// When the limit was last looked at.
#[derive(Debug)]
pub(crate) struct LimitLook {
    begun: Instant,
    /// Milliseconds after that.
    last: AtomicU64,
}

impl LimitLook {
    pub(crate) fn new() -> LimitLook {
        LimitLook { begun: Instant::now(), last: AtomicU64::new(0) }
    }

    /// Whether it is time again; to one who asks at a time.
    fn is_due(&self) -> bool {
        let (now, last) = (self.begun.elapsed().as_millis() as u64, self.last.load(Ordering::Relaxed));
        now.saturating_sub(last) >= LIMIT_LOOK.as_millis() as u64
            && self.last.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl HumFs {
    /// See [`externfs::ExternFs::open`].
    pub(crate) fn open_file(&self, caller: &Caller, node: &Arc<HumNode>, flags: OpenFlags) -> Result<Opened<HumFile>> {
        let kind = node.state().record.kind;
        match kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Errno::EISDIR.into()),
            FileKind::Symlink => return Err(Errno::ELOOP.into()),
            // The guest's kernel has drivers of its own for these.
            _ => return Err(Errno::ENXIO.into()),
        }
        if self.is_read_only() && (flags.write || flags.truncate) {
            return Err(Errno::EROFS.into());
        }
        if flags.truncate {
            let change = SetAttr { size: Some(0), kill_suid_sgid: flags.kill_suid_sgid, ..SetAttr::default() };
            self.change_attr(node, None, &change)?;
        }
        if let Some(opened) = self.open_late(node, flags) {
            return Ok(opened);
        }
        let opened = self.in_place(node, || self.base.open(caller, &node.inner, OpenFlags { truncate: false, ..flags }))?;
        let file = HumFile { data: Data::Open(opened.file), node: node.clone() };
        Ok(Opened { file, cache: opened.cache, size: opened.size })
    }

    /// Announces that up to `length` bytes at `offset` of `file` will take room.
    /// Near the limit what is allocated there already is not counted again.
    fn announce_data(&self, file: &HumFile, offset: u64, length: u64) -> Result<Announced<'_>> {
        let first = offset / BLOCK * BLOCK;
        let span = offset.saturating_add(length).next_multiple_of(BLOCK).saturating_sub(first);
        let taken_over = match length {
            0 => 0,
            _ if !self.beyond.happens() => 0,
            _ => self.beyond.taken_over(self.data(file)?.data_fd(), first),
        };
        match self.announce_room(file, span.saturating_add(taken_over)) {
            Err(error) if error.errno() == Errno::ENOSPC => {
                if self.account.slack() > WORTH_SETTLING {
                    self.settle_all()?;
                    if let Ok(announced) = self.announce_room(file, span.saturating_add(taken_over)) {
                        return Ok(announced);
                    }
                }
                let there = self.beyond.allocated(self.data(file)?.data_fd(), first, span);
                let missing = span.saturating_sub(there).saturating_add(taken_over);
                // Where all of it is there, not even a block of the host's own
                // book-keeping can be added.
                if missing == 0 { self.announce_need(file, 0) } else { self.announce_room(file, missing) }
            }
            answer => answer,
        }
    }

    /// Announces that blocks of `span` bytes may be taken, and what the host's
    /// book-keeping may take for these.
    fn announce_room(&self, file: &HumFile, span: u64) -> Result<Announced<'_>> {
        let lists = lists(file.node.state().cost.saturating_add(span));
        self.announce_need(file, span.saturating_add(lists))
    }

    fn announce_need(&self, file: &HumFile, bytes: u64) -> Result<Announced<'_>> {
        let path = file.node.inner.whereabouts().and_then(|(parent, name)| {
            let at = crate::store::At { parent: &parent, dir: self.base.root_fd(), name: &name };
            self.path_of(&at)
        });
        let state = file.node.state();
        let entry = self.changing(&file.node, &state, path.as_deref());
        self.announce(&[entry], Usage { bytes, inodes: 0 })
    }

    /// The change of `length` bytes at `offset`, or at the end, has been made;
    /// what did it come to?
    fn conclude(&self, announced: Announced<'_>, file: &HumFile, offset: Option<u64>, length: u64) -> Result<(Attr, Outcome)> {
        let (host, outcome) = {
            let mut state = file.node.state();
            let host = self.host_attr(&file.node, Some(file))?;
            let outcome = self.recosted(&mut state, &self.counted(&host, &file.node, Some(file)));
            announced.end(&outcome);
            (host, outcome)
        };
        if let Some(feed) = self.feed() {
            feed.written(&file.node);
        }
        let offset = offset.unwrap_or_else(|| host.size.saturating_sub(length));
        self.note_written(&file.node, &host, offset..offset.saturating_add(length));
        Ok((host, outcome))
    }

    /// The host may still add blocks to `node`, which was written in `range`.
    pub(crate) fn note_written(&self, node: &Arc<HumNode>, host: &Attr, range: Range<u64>) {
        let (oldest, crowded) = {
            let mut unsettled = self.unsettled();
            // What has no name is to be gone when nobody holds it any more.
            if node.state().orphan {
                return;
            }
            let allocated = (host.blocks.saturating_mul(512), u64::from(host.block_size).min(BLOCK));
            let more = unsettled.written(node, allocated, range);
            self.account.keep_slack(|slack| slack + more);
            (unsettled.take_oldest(), unsettled.is_crowded())
        };
        for old in oldest {
            let is_on_disk = self.is_written_out(&old.node, crowded);
            self.settle(old, is_on_disk);
        }
    }

    /// Counts what was taken out once more, if it is on the disk now.
    fn settle(&self, written: Written, is_on_disk: bool) {
        if !is_on_disk {
            return self.put_back(written);
        }
        self.count_again(&written.node);
        self.account.keep_slack(|slack| slack.saturating_sub(written.kept));
    }

    fn put_back(&self, written: Written) {
        let mut unsettled = self.unsettled();
        let is_orphan = written.node.state().orphan;
        let less = if is_orphan { written.kept } else { unsettled.put_back(written) };
        self.account.keep_slack(|slack| slack.saturating_sub(less));
    }

    /// Whether the host will add nothing more to it by itself; `push` has it do
    /// what there is to do: begin to write, and, since what was promised to a file
    /// and what was written there look the same, end with it.
    fn is_written_out(&self, node: &HumNode, push: bool) -> bool {
        let look = |fd: BorrowedFd<'_>| match settled(fd, self.beyond.end_of(fd)) {
            Settled::Wholly => true,
            Settled::Promised => push && rustix::fs::fdatasync(fd).is_ok(),
            Settled::Partly => {
                if push {
                    begin_writing(fd);
                }
                false
            }
        };
        // One that is gone has nothing added to it.
        self.with_data(node, look).unwrap_or_else(|error| matches!(error.errno(), Errno::ESTALE | Errno::ENOENT))
    }

    /// Counts its blocks as they are now.
    fn count_again(&self, node: &HumNode) {
        let mut state = node.state();
        if let Ok(host) = self.host_attr(node, None) {
            let outcome = self.recosted(&mut state, &self.counted(&host, node, None));
            self.account.settle_object(node.key().number, &outcome);
        }
    }

    /// See [`externfs::ExternFs::write`]. What does not fit is left out: the
    /// guest is told how much was written, and ENOSPC at the next attempt.
    pub(crate) fn write_file(&self, file: &HumFile, offset: u64, source: &mut dyn DataSource, flags: WriteFlags) -> Result<usize> {
        self.drop_privileges(&file.node, flags.kill_suid_sgid)?;
        let plain = WriteFlags { kill_suid_sgid: false, ..flags };
        if let Some(written) = self.overwrite(file, offset, source, plain) {
            if let Some(feed) = self.feed() {
                feed.written(&file.node);
            }
            if flags.sync {
                self.sync_record(&file.node)?;
            }
            return written;
        }
        let length = source.remaining() as u64;
        // Where the end is matters only when room is short.
        let anywhere = || self.announce_room(file, length.saturating_add(BLOCK).next_multiple_of(BLOCK));
        let (offset, announced, fits) = match flags.append.then(anywhere) {
            Some(Ok(announced)) => (None, announced, length),
            Some(Err(error)) if error.errno() != Errno::ENOSPC => return Err(error),
            not_so_simple => {
                let offset = if not_so_simple.is_some() { self.host_attr(&file.node, Some(file))?.size } else { offset };
                let (announced, fits) = self.announce_fitting(file, offset, length)?;
                (Some(offset), announced, fits)
            }
        };
        let written = if fits == length {
            self.base.write(self.data(file)?, offset.unwrap_or(0), source, plain)
        } else {
            let place = match offset {
                Some(offset) if !flags.append => WritePlace::At(offset),
                _ => WritePlace::End,
            };
            source.drain_to(self.data(file)?.data_fd(), place, fits as usize, flags.sync).map_err(Into::into)
        };
        let (host, outcome) = self.conclude(announced, file, offset, fits)?;
        if let Some(offset) = offset {
            self.learn_dense(file, &host, offset.saturating_add(fits), &outcome);
        }
        if flags.sync {
            self.sync_record(&file.node)?;
        }
        written
    }

    /// Announces a write, or as much of it as fits, and says how much that is.
    fn announce_fitting(&self, file: &HumFile, offset: u64, length: u64) -> Result<(Announced<'_>, u64)> {
        match self.announce_data(file, offset, length) {
            Err(error) if error.errno() == Errno::ENOSPC => self.announce_part(file, offset, length),
            answer => answer.map(|announced| (announced, length)),
        }
    }

    /// Finds by halves how much of a write fits, in whole blocks.
    fn announce_part(&self, file: &HumFile, offset: u64, length: u64) -> Result<(Announced<'_>, u64)> {
        let to_boundary = BLOCK - offset % BLOCK;
        let mut fits = length;
        while fits > to_boundary {
            fits = if fits <= to_boundary + BLOCK { to_boundary } else { (fits / 2 / BLOCK * BLOCK).max(to_boundary) };
            match self.announce_data(file, offset, fits) {
                Err(error) if error.errno() == Errno::ENOSPC => {}
                answer => return answer.map(|announced| (announced, fits)),
            }
        }
        Err(Errno::ENOSPC.into())
    }

    /// See [`externfs::ExternFs::fallocate`].
    pub(crate) fn allocate(&self, file: &HumFile, offset: u64, length: u64, flags: FallocateFlags) -> Result<()> {
        // Who asks is not said here, so the bits go for everybody.
        self.drop_privileges(&file.node, true)?;
        let frees = FallocateFlags::PUNCH_HOLE | FallocateFlags::COLLAPSE_RANGE;
        let needed = if flags.intersects(frees) { 0 } else { length };
        let announced = self.announce_data(file, offset, needed)?;
        let data = self.data(file)?;
        let done = {
            // So that nobody cuts it off meanwhile.
            let _held = self.beyond.happens().then(|| file.node.state());
            let keeps = flags.contains(FallocateFlags::KEEP_SIZE) && !flags.contains(FallocateFlags::PUNCH_HOLE);
            if keeps && offset.saturating_add(length) > self.beyond.end_of(data.data_fd()) {
                return Err(Errno::EOPNOTSUPP.into());
            }
            let _holes = self.dense.forget(&file.node);
            self.base.fallocate(data, offset, length, flags)
        };
        self.conclude(announced, file, Some(offset), length)?;
        done
    }

    /// See [`externfs::ExternFs::copy_range`].
    pub(crate) fn copy_between(&self, from: (&HumFile, u64), to: (&HumFile, u64), length: u64) -> Result<u64> {
        if self.beyond.happens() {
            // The kernel then copies with writes. The host would have both files share
            // blocks, and give what is written over one of them many more for a while.
            return Err(Errno::EOPNOTSUPP.into());
        }
        self.drop_privileges(&to.0.node, true)?;
        let announced = self.announce_data(to.0, to.1, length)?;
        let (source, target) = (self.data(from.0)?, self.data(to.0)?);
        let done = {
            // What is copied may be holes.
            let _holes = self.dense.forget(&to.0.node);
            self.base.copy_range((source, from.1), (target, to.1), length)
        };
        self.conclude(announced, to.0, Some(to.1), length)?;
        done
    }

    /// See [`externfs::ExternFs::fsync`].
    pub(crate) fn sync_file(&self, file: &HumFile) -> Result<()> {
        let data = self.data(file)?;
        // First: what is written meanwhile is none of this.
        let written = self.unsettled().remove(file.node.key());
        let synced = self.base.fsync(data, false);
        if let Some(written) = written {
            self.settle(written, synced.is_ok());
        }
        synced?;
        self.sync_record(&file.node)
    }

    /// Makes what is kept of it beside its data durable.
    pub(crate) fn sync_record(&self, node: &HumNode) -> Result<()> {
        self.with_place(node, |at| {
            let (held, is_open, host) = self.base.hold(&node.inner)?;
            let place = match at {
                _ if self.is_root(&node.inner) => Place::Root,
                Some(at) => Place::Named(at),
                None => Place::Nameless,
            };
            self.store.sync_record(&Object { hold: Hold::by(held.as_fd(), is_open), place, host: &host, known: None })
        })
    }

    /// It has lost its last name.
    pub(crate) fn forget_unsettled(&self, node: &HumNode) {
        let kept = self.unsettled().forget(node.key());
        self.account.keep_slack(|slack| slack.saturating_sub(kept));
    }

    /// Writes everything out, after which the host's block counts stay, and
    /// counts what was written once more.
    fn settle_all(&self) -> Result<()> {
        let all = self.unsettled().take();
        let synced = self.base.sync();
        for written in all {
            self.settle(written, synced.is_ok());
        }
        synced
    }

    /// Makes a change for which there may be no room because that is kept for the
    /// host: then that is settled, and the change is tried once more. Who makes it
    /// holds nothing outside it, since settling looks at objects.
    pub(crate) fn with_room<T>(&self, change: impl Fn() -> Result<T>) -> Result<T> {
        let before = self.account.squeezed();
        match change() {
            Err(error) if error.errno() == Errno::ENOSPC && self.account.squeezed() != before => {
                self.settle_all()?;
                change()
            }
            answer => answer,
        }
    }

    /// See [`externfs::ExternFs::sync`].
    pub(crate) fn sync_all(&self) -> Result<()> {
        if self.is_read_only() {
            return Ok(());
        }
        self.store.sync()?;
        self.settle_all()?;
        self.write_used()
    }

    /// See [`externfs::ExternFs::close`].
    pub(crate) fn leave_in_order(&self) -> Result<()> {
        if self.is_read_only() {
            return Ok(());
        }
        self.tree.announce_closing();
        self.sync_all()?;
        if let Some(book) = self.book() {
            book.close();
        }
        // A server ends without dropping anything, so this is to be said.
        self.store.close()?;
        self.account.mark_clean(true).map_err(fault("writing humfs/state"))
    }

    fn write_used(&self) -> Result<()> {
        let used = self.account.used().bytes;
        // A limit that was edited meanwhile stays.
        self.tree.edit_superblock(|superblock| superblock.used = used).map_err(fault("writing the superblock"))
    }

    /// Takes over a limit that was changed in the superblock; whether it was.
    fn limit_has_changed(&self) -> bool {
        let limits = self.account.limits();
        match self.tree.total_now() {
            Some(total) if total != limits.bytes => {
                self.account.set_limits(Limits { bytes: total, ..limits });
                true
            }
            _ => false,
        }
    }

    /// [`Account::announce`](crate::account::Account::announce), after another
    /// look at the limit where there is no room, or the last one was long ago:
    /// somebody may have made it smaller.
    pub(crate) fn announce(&self, entries: &[Entry<'_>], need: Usage) -> Result<Announced<'_>> {
        if self.limit_look.is_due() {
            self.limit_has_changed();
        }
        match self.account.announce(entries, need) {
            Err(error) if error.errno() == Errno::ENOSPC && self.limit_has_changed() => self.account.announce(entries, need),
            answer => answer,
        }
    }

    /// See [`externfs::ExternFs::statfs`]: the tree's limit, or what the host
    /// has left if that is less.
    pub(crate) fn told_size(&self) -> Result<StatFs> {
        self.limit_has_changed();
        let root = self.root()?;
        let host = self.base.statfs(&root.inner)?;
        let (free, limits) = (self.account.free(), self.account.limits());
        let host_free = host.blocks_available.saturating_mul(host.block_size.into());
        let free_bytes = free.bytes.min(host_free);
        let inodes_free = free.inodes.min(host.inodes_free);
        Ok(StatFs {
            block_size: BLOCK as u32,
            blocks: limits.bytes / BLOCK,
            blocks_free: free_bytes / BLOCK,
            blocks_available: free_bytes / BLOCK,
            inodes: self.account.used().inodes.saturating_add(inodes_free),
            inodes_free,
            name_max: host.name_max,
        })
    }
}
