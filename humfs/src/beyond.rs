//! [`Beyond`]: blocks past the end of a file, which some hosts add on their own.
//!
//! A file that grows on xfs is given more than was asked for, past its end: a few
//! blocks at first, as much again as it has later. What is not used is taken back
//! when it is closed, or minutes later, or when room is short. All of it is in
//! `st_blocks`. Nobody asked for it, nobody can read it, and a count with it in it is
//! another a moment later; so the account leaves it out. FIEMAP tells how much it is.
//!
//! Four things follow where this happens:
//! * Whoever moves the end of a file past such blocks without writing over them
//!   takes them over: they are announced as what is written is.
//! * Blocks past the end that were asked for look the same, so nobody may have any:
//!   fallocate(2) past the end with FALLOC_FL_KEEP_SIZE is refused.
//! * For a block that two files share and one of them writes over, the host holds many
//!   ready, which `st_blocks` has and FIEMAP has not: so copies share none.
//! * Size, blocks and extents are three answers, and somebody may write in between:
//!   they are asked for until they fit each other. If they never do, everything
//!   counts; whoever is writing counts once more when he is done.

use crate::extents::allocated;
use crate::host;
use externfs::{Attr, FileKind};
use rustix::fs::OFlags;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

/// `XFS_SUPER_MAGIC`.
const XFS: u64 = 0x5846_5342;

/// Looks at a file that others write to.
const LOOKS: usize = 8;

/// See the [module](self).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Beyond {
    /// Bytes of a block of the host's; None where it adds nothing.
    block: Option<u64>,
}

impl Beyond {
    /// What the host of `root` does.
    pub(crate) fn of(root: BorrowedFd<'_>) -> Beyond {
        let told = rustix::fs::fstatfs(root).ok().filter(|told| told.f_type as u64 == XFS);
        Beyond { block: told.map(|told| (told.f_bsize as u64).max(1)) }
    }

    /// Whether it adds any.
    pub(crate) fn happens(self) -> bool {
        self.block.is_some()
    }

    /// Whether an object of which the host says `host` may have some.
    pub(crate) fn may_be(self, host: &Attr) -> bool {
        self.happens() && host.kind == FileKind::Regular && host.blocks > 0
    }

    /// Where the blocks of a file of so many bytes end.
    fn end(self, size: u64) -> u64 {
        self.block.and_then(|block| size.checked_next_multiple_of(block)).unwrap_or(size)
    }

    /// `host`, which is `file`, with those blocks only that count.
    pub(crate) fn without(self, host: &Attr, file: BorrowedFd<'_>) -> Attr {
        if !self.may_be(host) {
            return *host;
        }
        let mut seen = (host.size, host.blocks);
        for _ in 0..LOOKS {
            let end = self.end(seen.0);
            let past = allocated(file, end, u64::MAX - end);
            let Ok(stat) = rustix::fs::fstat(file) else { break };
            let now = (stat.st_size as u64, stat.st_blocks as u64);
            if stat.st_ino != host.ino {
                break;
            }
            if now == seen {
                return Attr { blocks: seen.1.saturating_sub(past / 512), ..*host };
            }
            seen = now;
        }
        Attr { blocks: host.blocks.max(seen.1), ..*host }
    }

    /// The same for what is called `name` in `dir`. What cannot be opened counts
    /// with all of its blocks.
    pub(crate) fn without_at(self, host: &Attr, dir: BorrowedFd<'_>, name: &CStr) -> Attr {
        if !self.may_be(host) {
            return *host;
        }
        host::open_file(dir, name, OFlags::RDONLY).map_or(*host, |file| self.without(host, file.as_fd()))
    }

    /// Bytes between the end of `file` and `offset` that it has already, and that
    /// count once its end is there.
    pub(crate) fn taken_over(self, file: BorrowedFd<'_>, offset: u64) -> u64 {
        let end = self.end_of(file);
        if offset > end { allocated(file, end, offset - end) } else { 0 }
    }

    /// Bytes of `length` from `start` on that are allocated in `file` and count.
    pub(crate) fn allocated(self, file: BorrowedFd<'_>, start: u64, length: u64) -> u64 {
        let inside = self.end_of(file).saturating_sub(start).min(length);
        if inside == 0 { 0 } else { allocated(file, start, inside) }
    }

    /// Where what counts of `file` ends; nowhere if all of it counts.
    pub(crate) fn end_of(self, file: BorrowedFd<'_>) -> u64 {
        if !self.happens() {
            return u64::MAX;
        }
        rustix::fs::fstat(file).map_or(u64::MAX, |stat| self.end(stat.st_size as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    /// There may be no xfs here. Any host's fallocate(2) leaves the same.
    #[test]
    fn what_is_past_the_end_does_not_count() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let path = dir.path().join("file");
        let file = std::fs::File::create(&path).unwrap();
        file.write_all_at(&[1; 10_000], 0).unwrap();
        file.sync_all().unwrap();
        let fd = file.as_fd();
        let look = || {
            let place = std::fs::File::open(dir.path()).unwrap();
            host::stat_at(place.as_fd(), c"file").unwrap()
        };
        let blocks = look().blocks;
        let beyond = Beyond { block: Some(4096) };
        assert_eq!(beyond.without(&look(), fd), look());
        if rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, 65536).is_err() {
            eprintln!("skipped: no fallocate here");
            return;
        }
        file.sync_all().unwrap();
        if allocated(fd, 0, 65536) == 0 {
            eprintln!("skipped: no FIEMAP here");
            return;
        }
        assert!(look().blocks >= 65536 / 512);
        assert_eq!(beyond.without(&look(), fd).blocks, blocks);
        assert_eq!(Beyond::default().without(&look(), fd), look());
        let stale = Attr { size: 5000, blocks: 1, ..look() };
        assert_eq!(beyond.without(&stale, fd).blocks, blocks, "it is looked at again");
        let other = Attr { ino: look().ino + 1, ..look() };
        assert_eq!(beyond.without(&other, fd), other);
        assert_eq!(beyond.taken_over(fd, 12_288), 0);
        assert_eq!(beyond.taken_over(fd, 1 << 30), 65536 - 12_288);
        assert_eq!(beyond.allocated(fd, 8192, 65536), 4096);
        assert_eq!(beyond.allocated(fd, 20_000, 65536), 0);
        assert_eq!(Beyond::default().allocated(fd, 8192, 65536), 65536 - 8192);
        assert_eq!(file.metadata().unwrap().size(), 10_000);
    }
}
