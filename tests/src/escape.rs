//! What a guest tries to get out of its tree: every operation on a name, and
//! every name that might lead somewhere.

use crate::guest::{BOTH, Guest, READ, name};
use crate::wire_client::{WireClient, WireOutcome};
use externfs::*;
use externfs_wire::Opcode;

/// What is outside, and must not be read.
pub const SECRET: &[u8] = b"SECRET of the host";

/// Tries every operation on `text` in `parent`, and returns how many worked.
/// Whatever is read must not be the secret.
///
/// # Panics
/// When it is.
pub fn try_everything(guest: &Guest, parent: NodeId, text: &str) -> usize {
    let mut done = 0;
    let mut count = |ok: bool| done += usize::from(ok);
    if let Ok(entry) = guest.lookup(parent, text) {
        count(try_node(guest, entry.id));
        count(guest.lookup(entry.id, "secret").is_ok_and(|child| try_node(guest, child.id)));
        count(guest.create(entry.id, "made", false).is_ok());
        count(guest.mkdir(entry.id, "made-dir").is_ok());
        count(guest.rmdir(entry.id, "made-dir").is_ok());
        count(guest.make(entry.id, "made-link", &NewNode::Symlink(b"x"), 0o777).is_ok());
        count(guest.unlink(entry.id, "made-link").is_ok());
        count(guest.keep(guest.export.link(&guest.caller, entry.id, parent, name("hard"))).is_ok());
        count(guest.unlink(parent, "hard").is_ok());
        count(guest.rename(entry.id, "made", "moved", RenameFlags::empty()).is_ok());
        count(guest.unlink(entry.id, "moved").is_ok());
        count(guest.names(entry.id).is_ok());
    }
    done
}

/// Reads, writes and changes the node `id`; whether it could be read.
///
/// # Panics
/// When what it read was the secret.
pub fn try_node(guest: &Guest, id: NodeId) -> bool {
    let readable = guest.open(id, READ);
    if let Ok(handle) = readable {
        let data = guest.read(handle, 0, 100).unwrap_or_default();
        assert_ne!(data, SECRET, "a file from outside was read");
        guest.close(handle);
    }
    if let Ok(handle) = guest.open(id, BOTH) {
        let _ = guest.write(handle, 0, b"harmful!");
        guest.close(handle);
    }
    let changes = [
        SetAttr { mode: Some(Mode::new(0o700)), ..SetAttr::default() },
        SetAttr { uid: Some(GuestUid(0)), gid: Some(GuestGid(0)), ..SetAttr::default() },
        SetAttr { mtime: Some(SetTime::At(Timestamp { seconds: 5, nanoseconds: 5 })), ..SetAttr::default() },
        SetAttr { size: Some(8), ..SetAttr::default() },
    ];
    for change in changes {
        let _ = guest.set(id, change);
    }
    let _ = guest.export.set_xattr(&guest.caller, id, b"user.jail", b"1", XattrFlags::empty());
    let _ = guest.export.remove_xattr(&guest.caller, id, b"user.jail");
    let _ = guest.export.list_xattr(id);
    if let Ok(parent) = guest.export.lookup_parent(id) {
        guest.export.forget(parent.id, 1);
    }
    readable.is_ok()
}

/// Each operation that carries names: how its arguments look around them.
#[must_use]
pub fn requests_with(text: &[u8]) -> Vec<(Opcode, Vec<u8>)> {
    let zeroes = |count: usize| vec![0u8; count];
    let with = |before: Vec<u8>, parts: &[&[u8]]| {
        let mut bytes = before;
        for part in parts {
            bytes.extend_from_slice(part);
            bytes.push(0);
        }
        bytes
    };
    let root_then = |count: usize| {
        let mut bytes = 1u64.to_le_bytes().to_vec();
        bytes.extend(zeroes(count));
        bytes
    };
    let mode = |count: usize| {
        let mut bytes = 0o100_644_u32.to_le_bytes().to_vec();
        bytes.extend(zeroes(count - 4));
        bytes
    };
    let create = [2u32 | 0o100, 0o100_644, 0, 0].iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>();
    vec![
        (Opcode::Lookup, with(Vec::new(), &[text])),
        (Opcode::MkNod, with(mode(16), &[text])),
        (Opcode::MkDir, with(mode(8), &[text])),
        (Opcode::Symlink, with(Vec::new(), &[text, b"target"])),
        (Opcode::Unlink, with(Vec::new(), &[text])),
        (Opcode::RmDir, with(Vec::new(), &[text])),
        (Opcode::Rename, with(root_then(0), &[text, b"renamed"])),
        (Opcode::Rename, with(root_then(0), &[b"file", text])),
        (Opcode::Rename2, with(root_then(8), &[text, b"renamed"])),
        (Opcode::Rename2, with(root_then(8), &[b"file", text])),
        (Opcode::Link, with(root_then(0), &[text])),
        (Opcode::Create, with(create.clone(), &[text])),
        (Opcode::Create, [create, text.to_vec()].concat()),
        (Opcode::Lookup, text.to_vec()),
        (Opcode::Unlink, text.to_vec()),
    ]
}

/// Names that are none.
#[must_use]
pub fn hostile_names() -> Vec<Vec<u8>> {
    let short: [&[u8]; 13] = [
        b"..",
        b".",
        b"",
        b"/",
        b"../outside/secret",
        b"dir/secret",
        b"dir/../../outside",
        b"/etc/passwd",
        b"file\0../x",
        b"a\0b",
        b"./..",
        b"//",
        b"dir/",
    ];
    let long = [vec![b'x'; 300], vec![b'x'; 1025]];
    short.iter().map(|name| name.to_vec()).chain(long).collect()
}

/// Sends a request that carries `text`, which must come to nothing.
///
/// # Panics
/// When it succeeds, or is not answered.
pub fn check_refused(client: &mut WireClient, opcode: Opcode, text: &[u8], args: &[u8], what: &str) {
    match client.request(opcode as u32, 1, args) {
        WireOutcome::Broken(_) => {}
        // Export over NFS asks for these two: both are the root.
        WireOutcome::Answer(a) if a.errno == 0 && opcode == Opcode::Lookup && (text == b"." || text == b"..") => {
            assert_eq!(a.payload.get(..8), Some(&1u64.to_le_bytes()[..]), "{what} is not the root");
        }
        WireOutcome::Answer(answer) => assert_ne!(answer.errno, 0, "{what} succeeded"),
        WireOutcome::Silent => panic!("{what} was not answered"),
    }
}
