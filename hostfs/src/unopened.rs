//! Kernels that open nothing ([`ExternFs::begin_unopened`](externfs::ExternFs::begin_unopened)):
//! where they may, and what that takes. A file of theirs is opened when it is used,
//! as often as there is need, so it must be possible at any time:
//!
//! * its name leads to it, or it is held ([`crate::pins`], [`crate::still`]);
//! * no permission bits keep us from it: a program may read and write a file that it
//!   has open although they say no by now;
//! * what is held by `O_PATH` stays in being, and a listing can be taken up again at
//!   a cookie. File systems that are known for both are listed here.

use crate::HostFs;
use rustix::thread::CapabilitySet;

/// `statfs(2)`'s numbers of ext2 to ext4, XFS, btrfs, F2FS and tmpfs.
const KNOWN: [i64; 5] = [libc::EXT4_SUPER_MAGIC, libc::XFS_SUPER_MAGIC, libc::BTRFS_SUPER_MAGIC, libc::F2FS_SUPER_MAGIC, libc::TMPFS_MAGIC];

impl HostFs {
    /// See [`externfs::ExternFs::begin_unopened`].
    pub(crate) fn begin_without_opens(&self) -> bool {
        let options = &self.options;
        // What looks at each open has to see it.
        let can = options.is_exclusive() && !options.append && !options.direct_io && self.opens_all && self.is_on_a_known_file_system();
        if can {
            // What guests would have open; each of these is in the place of one.
            self.pins.keep_files(self.handles_max);
        }
        can
    }

    fn is_on_a_known_file_system(&self) -> bool {
        let Ok(there) = rustix::fs::fstatfs(self.jail.root()) else { return false };
        // Before Linux 6.6 a cookie of tmpfs is a position, which moves when others go.
        let has_cookies = there.f_type != libc::TMPFS_MAGIC || release() >= (6, 6);
        KNOWN.contains(&there.f_type) && has_cookies
    }
}

/// Whether no permission bits of any file keep it from this process.
pub(crate) fn opens_all() -> bool {
    let is_privileged = rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::DAC_OVERRIDE));
    // In a user namespace that holds for the users only that it maps.
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    is_privileged && map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// The first two numbers of the running kernel's version.
fn release() -> (u32, u32) {
    let text = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
