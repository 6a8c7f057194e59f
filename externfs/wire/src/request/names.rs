//! Arguments of the operations on names.

use super::files::open_flags;
use super::*;

pub(super) fn symlink<'a>(fields: &mut Fields<'a>) -> Result<Operation<'a>, Errno> {
    let name = name(fields)?;
    let target = fields.text()?;
    match target.len() {
        0 => Err(Errno::ENOENT),
        1..4096 => {
            // A link has no permissions of its own; the umask spares it.
            Ok(Operation::Make(Making { name, mode: Mode::new(0o777), umask: 0 }, NewNode::Symlink(target)))
        }
        _ => Err(Errno::ENAMETOOLONG),
    }
}

/// `new_encode_dev` of the kernel's include/linux/kdev_t.h, backwards.
pub(super) fn device(bits: u32) -> DeviceNumber {
    DeviceNumber { major: (bits & 0xfff00) >> 8, minor: (bits & 0xff) | ((bits >> 12) & 0xfff00) }
}

pub(super) fn make_node<'a>(fields: &mut Fields<'a>, terms: InitFlags) -> Result<Operation<'a>, Errno> {
    let bits = fields.u32()?;
    let device = device(fields.u32()?);
    let umask = umask(fields, terms)?;
    fields.skip(4)?;
    let making = Making { name: name(fields)?, mode: Mode::new(bits), umask };
    // mknod(2): a type of zero means a regular file.
    let kind = if bits & libc::S_IFMT == 0 { Some(FileKind::Regular) } else { FileKind::from_mode(bits) };
    let new = match kind.ok_or(Errno::EINVAL)? {
        FileKind::Regular => NewNode::Regular,
        FileKind::Fifo => NewNode::Fifo,
        FileKind::Socket => NewNode::Socket,
        FileKind::BlockDevice => NewNode::BlockDevice(device),
        FileKind::CharDevice => NewNode::CharDevice(device),
        FileKind::Directory => return Err(Errno::EPERM),
        FileKind::Symlink => return Err(Errno::EINVAL),
    };
    Ok(Operation::Make(making, new))
}

pub(super) fn make_dir<'a>(fields: &mut Fields<'a>, terms: InitFlags) -> Result<Operation<'a>, Errno> {
    let mode = Mode::new(fields.u32()?);
    let umask = umask(fields, terms)?;
    Ok(Operation::Make(Making { name: name(fields)?, mode, umask }, NewNode::Directory))
}

pub(super) fn rename<'a>(fields: &mut Fields<'a>, with_flags: bool) -> Result<Operation<'a>, Errno> {
    let to_parent = NodeId(fields.u64()?);
    let mut flags = RenameFlags::empty();
    if with_flags {
        flags = RenameFlags::from_bits(fields.u32()?).ok_or(Errno::EINVAL)?;
        fields.skip(4)?;
    }
    Ok(Operation::Rename { from: name(fields)?, to_parent, to: name(fields)?, flags })
}

pub(super) fn link<'a>(fields: &mut Fields<'a>) -> Result<Operation<'a>, Errno> {
    Ok(Operation::Link { node: NodeId(fields.u64()?), name: name(fields)? })
}

/// `fuse_create_in`: what CREATE and TMPFILE have in common.
pub(super) fn create_flags(fields: &mut Fields<'_>, terms: InitFlags) -> Result<(u32, CreateFlags), Errno> {
    let flags = fields.u32()?;
    let mode = Mode::new(fields.u32()?);
    let umask = umask(fields, terms)?;
    let open = open_flags(flags, fields.u32()?, terms);
    Ok((umask, CreateFlags { mode, exclusive: flags & libc::O_EXCL as u32 != 0, open }))
}

pub(super) fn create<'a>(fields: &mut Fields<'a>, terms: InitFlags) -> Result<Operation<'a>, Errno> {
    let (umask, flags) = create_flags(fields, terms)?;
    Ok(Operation::Create(Making { name: name(fields)?, mode: flags.mode, umask }, flags))
}

pub(super) fn tmp_file<'a>(fields: &mut Fields<'a>, terms: InitFlags) -> Result<Operation<'a>, Errno> {
    let (umask, flags) = create_flags(fields, terms)?;
    // The kernel sends its name for the nameless dentry ("/"): no use.
    fields.text()?;
    Ok(Operation::TmpFile { umask, flags })
}
