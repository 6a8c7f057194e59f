//! Inode flags: chattr(1) and lsattr(1), by ioctl_iflags(2) or by the flags of
//! `FS_IOC_FSGETXATTR`. The kernel turns both into these requests and has
//! checked who may (`vfs_fileattr_set`).

use super::Adapter;
use externfs::{Caller, Errno, HandleId, InodeFlags, NodeId, Result};
use fuser::IoctlFlags;

/// `_IOR('f', 1, long)`; what travels is an int all the same.
const FS_IOC_GETFLAGS: u32 = 0x8008_6601;
/// `_IOW('f', 2, long)`.
const FS_IOC_SETFLAGS: u32 = 0x4008_6602;
/// `_IOR('X', 31, struct fsxattr)`.
const FS_IOC_FSGETXATTR: u32 = 0x801c_581f;
/// `_IOW('X', 32, struct fsxattr)`.
const FS_IOC_FSSETXATTR: u32 = 0x401c_5820;
/// Bytes of a `struct fsxattr`: five u32 and padding.
const FSXATTR_LEN: usize = 28;

/// `FS_XFLAG_*` of include/uapi/linux/fs.h and the inode flag of each.
const XFLAGS: [(u32, InodeFlags); 5] = [
    (0x08, InodeFlags::IMMUTABLE),
    (0x10, InodeFlags::APPEND),
    (0x20, InodeFlags::SYNC),
    (0x40, InodeFlags::NOATIME),
    (0x80, InodeFlags::NODUMP),
];

/// An IOCTL request.
pub(super) struct Request<'a> {
    pub(super) id: NodeId,
    /// Of a file, or of a listing.
    pub(super) handle: HandleId,
    pub(super) flags: IoctlFlags,
    pub(super) command: u32,
    pub(super) input: &'a [u8],
    /// Bytes that the answer may have.
    pub(super) room: u32,
}

impl Request<'_> {
    fn file(&self) -> Option<HandleId> {
        if self.flags.contains(IoctlFlags::FUSE_IOCTL_DIR) { None } else { Some(self.handle) }
    }
}

fn first_word(input: &[u8]) -> Result<u32> {
    input.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)).ok_or_else(|| Errno::EINVAL.into())
}

/// A `struct fsxattr` that has flags and nothing else.
fn to_fsxattr(flags: InodeFlags) -> Vec<u8> {
    let bits = XFLAGS.iter().filter(|(_, flag)| flags.contains(*flag)).fold(0, |bits, (bit, _)| bits | bit);
    let mut bytes = u32::to_ne_bytes(bits).to_vec();
    bytes.resize(FSXATTR_LEN, 0);
    bytes
}

/// What a `struct fsxattr` sets, on top of the flags that it cannot express.
fn from_fsxattr(input: &[u8], now: InodeFlags) -> Result<InodeFlags> {
    let bits = first_word(input)?;
    let known = XFLAGS.iter().fold(0, |known, (bit, _)| known | bit);
    // Extent sizes and project ids have no place here: do not drop them silently.
    if bits & !known != 0 || input.iter().skip(4).any(|&byte| byte != 0) {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let mut flags = now;
    for (bit, flag) in XFLAGS {
        flags.set(flag, bits & bit != 0);
    }
    Ok(flags)
}

impl Adapter {
    pub(super) fn control(&self, caller: &Caller, request: &Request<'_>) -> Result<Vec<u8>> {
        let get = || self.export.inode_flags(request.id, request.file());
        let set = |flags| self.export.set_inode_flags(caller, request.id, request.file(), flags).map(|()| Vec::new());
        let output = match request.command {
            FS_IOC_GETFLAGS => get()?.bits().to_ne_bytes().to_vec(),
            FS_IOC_FSGETXATTR => to_fsxattr(get()?),
            FS_IOC_SETFLAGS => set(InodeFlags::from_bits_retain(first_word(request.input)?))?,
            FS_IOC_FSSETXATTR => set(from_fsxattr(request.input, get()?)?)?,
            _ => return Err(Errno::ENOTTY.into()),
        };
        if output.len() > request.room as usize { Err(Errno::EINVAL.into()) } else { Ok(output) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fsxattr_carries_the_five_flags_both_ways() {
        let flags = InodeFlags::IMMUTABLE | InodeFlags::NODUMP;
        let bytes = to_fsxattr(flags);
        assert_eq!(bytes.len(), FSXATTR_LEN);
        assert_eq!(from_fsxattr(&bytes, InodeFlags::APPEND).unwrap(), flags);
        // A flag that it cannot express stays: FS_COMPR_FL.
        let compressed = InodeFlags::from_bits_retain(4);
        assert_eq!(from_fsxattr(&bytes, compressed).unwrap(), flags | compressed);
    }

    #[test]
    fn what_has_no_place_is_refused() {
        let mut bytes = to_fsxattr(InodeFlags::empty());
        bytes[12] = 1;
        assert_eq!(from_fsxattr(&bytes, InodeFlags::empty()), Err(Errno::EOPNOTSUPP.into()));
        assert_eq!(from_fsxattr(&[1, 0], InodeFlags::empty()), Err(Errno::EINVAL.into()));
        assert_eq!(from_fsxattr(&0x8000_0000u32.to_ne_bytes(), InodeFlags::empty()), Err(Errno::EOPNOTSUPP.into()));
    }
}
