//! What a server tells the kernel unasked, as whole messages to be written to
//! /dev/fuse. (virtio-fs has no such messages: its kernels know time-outs only.)
//!
//! The kernel answers with the result of the write: ENOENT when it remembers
//! no such node or name, which is no error. It may take locks of the directory
//! or of pages for these, so none may be sent from within the handling of a
//! request that holds the same: send them from a thread of their own.

use crate::abi::notify;
use crate::codec::Payload;
use crate::transport::REPLY_HEADER_LEN;
use externfs::{Change, NodeId};

/// What becomes of a name that the kernel remembers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forgetting {
    /// It is dropped at once, and with it what is mounted below.
    Drop,
    /// It is looked up again at its next use (`FUSE_EXPIRE_ONLY`; agreed upon
    /// as [`crate::abi::InitFlags::HAS_EXPIRE_ONLY`]).
    Expire,
}

/// A message: a `fuse_out_header` with the code in place of the error and no
/// request's number, the fixed part, the rest.
fn message(code: i32, fixed: Payload, rest: &[u8], terminated: bool) -> Vec<u8> {
    let len = REPLY_HEADER_LEN + fixed.as_bytes().len() + rest.len() + usize::from(terminated);
    let header = Payload::of(|payload| payload.u32(u32::try_from(len).unwrap_or(u32::MAX)).i32(code).u64(0));
    let mut bytes = Vec::with_capacity(len);
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(fixed.as_bytes());
    bytes.extend_from_slice(rest);
    bytes.resize(len, 0);
    bytes
}

/// A node's attributes are not to be relied upon any more; with `data`, its
/// pages from `data.0` on for `data.1` bytes (0: to the end) go too.
#[must_use]
pub fn inval_inode(node: NodeId, data: Option<(u64, u64)>) -> Vec<u8> {
    // A negative offset means attributes alone.
    let (offset, len) = data.map_or((-1, 0), |(offset, len)| (offset as i64, len as i64));
    message(notify::INVAL_INODE, Payload::of(|payload| payload.u64(node.0).i64(offset).i64(len)), &[], false)
}

/// `name` in `parent` may lead elsewhere now.
#[must_use]
pub fn inval_entry(parent: NodeId, name: &[u8], forgetting: Forgetting) -> Vec<u8> {
    let flags = if forgetting == Forgetting::Expire { notify::EXPIRE_ONLY } else { 0 };
    message(notify::INVAL_ENTRY, Payload::of(|payload| payload.u64(parent.0).u32(name.len() as u32).u32(flags)), name, true)
}

/// `name` in `parent`, which led to `child`, is gone: watchers in the kernel
/// (inotify) hear of it, which [`inval_entry`] does not do.
#[must_use]
pub fn delete(parent: NodeId, child: NodeId, name: &[u8]) -> Vec<u8> {
    let fixed = Payload::of(|payload| payload.u64(parent.0).u64(child.0).u32(name.len() as u32).u32(0));
    message(notify::DELETE, fixed, name, true)
}

/// These bytes go into the node's page cache.
#[must_use]
pub fn store(node: NodeId, offset: u64, data: &[u8]) -> Vec<u8> {
    message(notify::STORE, Payload::of(|payload| payload.u64(node.0).u64(offset).u32(data.len() as u32).u32(0)), data, false)
}

/// No bytes of a regular file are to be sent back: the kernel makes a request
/// of it (NOTIFY_REPLY, numbered `unique`), whose only purpose is to come.
#[must_use]
pub fn retrieve_nothing(node: NodeId, unique: u64) -> Vec<u8> {
    message(notify::RETRIEVE, Payload::of(|payload| payload.u64(unique).u64(node.0).u64(0).u32(0).u32(0)), &[], false)
}

/// Requests that were read and not answered are to be sent again (7.40), as
/// after a change of servers.
#[must_use]
pub fn resend() -> Vec<u8> {
    message(notify::RESEND, Payload::new(), &[], false)
}

/// Every remembered name is to be looked up again (7.44).
#[must_use]
pub fn inc_epoch() -> Vec<u8> {
    message(notify::INC_EPOCH, Payload::new(), &[], false)
}

/// Nodes that the kernel is asked to forget, if nobody uses them (7.45).
#[must_use]
pub fn prune(nodes: &[NodeId]) -> Vec<u8> {
    let rest: Vec<u8> = nodes.iter().flat_map(|node| node.0.to_ne_bytes()).collect();
    message(notify::PRUNE, Payload::of(|payload| payload.u32(nodes.len() as u32).u32(0).u64(0)), &rest, false)
}

/// The message that tells of `change`. A name that may be a mount point or
/// somebody's working directory is not torn out of the tree, where the kernel
/// knows how to expire it.
#[must_use]
pub fn change(change: &Change<NodeId>, can_expire: bool) -> Vec<u8> {
    match change {
        Change::Node { node, data } => inval_inode(*node, data.then_some((0, 0))),
        Change::Entry { parent, name } => inval_entry(*parent, name, if can_expire { Forgetting::Expire } else { Forgetting::Drop }),
        Change::Everything => inc_epoch(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn messages_are_what_the_kernel_reads() {
        let header = |len: &str, code: &str| format!("{len}000000{code}0000000000000000000000");
        let node = NodeId(0x1122);
        assert_eq!(hex(&inval_inode(node, None)), header("28", "02") + "2211000000000000" + "ffffffffffffffff" + "0000000000000000");
        assert_eq!(hex(&inval_inode(node, Some((0, 0)))), header("28", "02") + "2211000000000000" + &"00".repeat(16));
        assert_eq!(
            hex(&inval_entry(node, b"ab", Forgetting::Drop)),
            header("23", "03") + "2211000000000000" + "02000000" + "00000000" + "616200"
        );
        assert_eq!(
            hex(&inval_entry(node, b"a", Forgetting::Expire)),
            header("22", "03") + "2211000000000000" + "01000000" + "01000000" + "6100"
        );
        assert_eq!(
            hex(&delete(node, NodeId(3), b"a")),
            header("2a", "06") + "2211000000000000" + "0300000000000000" + "01000000" + "00000000" + "6100"
        );
        assert_eq!(
            hex(&store(node, 5, b"xy")),
            header("2a", "04") + "2211000000000000" + "0500000000000000" + "02000000" + "00000000" + "7879"
        );
        let nothing = "0700000000000000".to_owned() + "2211000000000000" + &"00".repeat(16);
        assert_eq!(hex(&retrieve_nothing(node, 7)), header("30", "05") + &nothing);
        assert_eq!(hex(&resend()), header("10", "07"));
        assert_eq!(hex(&inc_epoch()), header("10", "08"));
        assert_eq!(hex(&prune(&[node])), header("28", "09") + "01000000" + "00000000" + "0000000000000000" + "2211000000000000");
    }

    #[test]
    fn a_change_becomes_its_message() {
        let entry = Change::Entry { parent: NodeId(2), name: b"x".to_vec() };
        assert_eq!(change(&entry, true), inval_entry(NodeId(2), b"x", Forgetting::Expire));
        assert_eq!(change(&entry, false), inval_entry(NodeId(2), b"x", Forgetting::Drop));
        assert_eq!(change(&Change::Node { node: NodeId(2), data: false }, true), inval_inode(NodeId(2), None));
        assert_eq!(change(&Change::Node { node: NodeId(2), data: true }, true), inval_inode(NodeId(2), Some((0, 0))));
    }
}
