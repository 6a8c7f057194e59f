//! IOCTL: the inode flags of ioctl_iflags(2) in both of their forms.
//!
//! chattr(1) and lsattr(1) use the first. A kernel from 5.13 on reads the
//! second before it sets the first, so neither goes without the other. Every
//! other command answers ENOTTY.

use super::Call;
use crate::abi::{IOCTL_DIR, IOCTL_UNRESTRICTED};
use crate::answer::Answer;
use crate::codec::{Fields, Payload};
use crate::reply;
use crate::request::IoctlArgs;
use externfs::*;

// include/uapi/linux/fs.h, for callers of 64 bits and of 32.
const GETFLAGS: [u32; 2] = [0x8008_6601, 0x8004_6601];
const SETFLAGS: [u32; 2] = [0x4008_6602, 0x4004_6602];
const FSGETXATTR: u32 = 0x801c_581f;
const FSSETXATTR: u32 = 0x401c_5820;
/// Bytes of `struct fsxattr`.
const FSXATTR_LEN: usize = 28;

/// `FS_*_FL` beside the `FS_XFLAG_*` that means the same.
const SAME: [(u32, u32); 7] = [
    (0x0000_0008, 0x0000_0020), // SYNC
    (0x0000_0010, 0x0000_0008), // IMMUTABLE
    (0x0000_0020, 0x0000_0010), // APPEND
    (0x0000_0040, 0x0000_0080), // NODUMP
    (0x0000_0080, 0x0000_0040), // NOATIME
    (0x0200_0000, 0x0000_8000), // DAX
    (0x2000_0000, 0x0000_0200), // PROJINHERIT
];

fn to_xflags(flags: u32) -> u32 {
    SAME.iter().filter(|(flag, _)| flags & flag != 0).fold(0, |bits, (_, xflag)| bits | xflag)
}

/// `old` with the flags that `struct fsxattr` knows taken from `xflags`.
fn with_xflags(old: u32, xflags: u32) -> u32 {
    SAME.iter().fold(old, |bits, (flag, xflag)| if xflags & xflag != 0 { bits | flag } else { bits & !flag })
}

/// The flags that FSSETXATTR asks for: what else it can carry (extent sizes,
/// project ids) is not supported, and must not be dropped in silence.
fn wanted_xflags(data: &[u8]) -> Result<u32> {
    let mut fields = Fields::new(data.get(..FSXATTR_LEN).ok_or(Errno::EINVAL)?);
    let xflags = fields.u32()?;
    let known = SAME.iter().fold(0, |bits, (_, xflag)| bits | xflag);
    let extent_size = fields.u32()?;
    fields.skip(4)?;
    let (project, cow_extent_size) = (fields.u32()?, fields.u32()?);
    if xflags & !known != 0 || (extent_size, project, cow_extent_size) != (0, 0, 0) {
        return Err(Errno::EOPNOTSUPP.into());
    }
    Ok(xflags)
}

pub(crate) fn ioctl(call: &Call<'_>, args: &IoctlArgs<'_>) -> Result<Answer> {
    // A directory's handle is a listing's, which says nothing of its flags;
    // unrestricted commands are CUSE's, whose memory the server would read itself.
    let handle = (args.flags & IOCTL_DIR == 0).then_some(args.handle);
    if args.flags & IOCTL_UNRESTRICTED != 0 {
        return Err(Errno::ENOTTY.into());
    }
    let command = args.command;
    if GETFLAGS.contains(&command) {
        let flags = call.export.inode_flags(call.node, handle)?;
        // The kernel asks for the four bytes of an int, or the eight of the
        // long that the command's number is made of.
        let room = match args.out_size {
            4 => 4,
            8 => 8,
            _ => return Err(Errno::EINVAL.into()),
        };
        let bits = u64::from(flags.bits());
        let wide = Payload::of(|payload| payload.u64(bits));
        let narrow = Payload::of(|payload| payload.u32(flags.bits()));
        return Ok(reply::ioctl(if room == 8 { wide.as_bytes() } else { narrow.as_bytes() }).into());
    }
    if SETFLAGS.contains(&command) {
        let flags = InodeFlags::from_bits_retain(Fields::new(args.data).u32()?);
        call.export.set_inode_flags(&call.caller, call.node, handle, flags)?;
        return Ok(reply::ioctl(&[]).into());
    }
    match command {
        FSGETXATTR if args.out_size as usize == FSXATTR_LEN => {
            let flags = call.export.inode_flags(call.node, handle)?;
            let xattr = Payload::of(|payload| payload.u32(to_xflags(flags.bits())).pad_to(FSXATTR_LEN));
            Ok(reply::ioctl(xattr.as_bytes()).into())
        }
        FSSETXATTR => {
            let xflags = wanted_xflags(args.data)?;
            let old = call.export.inode_flags(call.node, handle)?;
            let new = InodeFlags::from_bits_retain(with_xflags(old.bits(), xflags));
            call.export.set_inode_flags(&call.caller, call.node, handle, new)?;
            Ok(reply::ioctl(&[]).into())
        }
        _ => Err(Errno::ENOTTY.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_name_the_same_flags() {
        for (flag, xflag) in SAME {
            assert_eq!(to_xflags(flag), xflag);
            assert_eq!(with_xflags(0, xflag), flag);
            assert_eq!(with_xflags(!0, 0) & flag, 0);
        }
        // EXTENTS_FL has no other form and stays.
        assert_eq!(with_xflags(0x8_0000, 0x8), 0x8_0010);
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let mut data = [0; FSXATTR_LEN];
        data[0] = 0x8;
        assert_eq!(wanted_xflags(&data).unwrap(), 0x8);
        assert!(wanted_xflags(&data[..27]).is_err());
        data[12] = 1;
        assert_eq!(wanted_xflags(&data).unwrap_err().errno(), Errno::EOPNOTSUPP, "a project id");
    }
}
